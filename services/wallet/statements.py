"""Statements that move money. They are SQL, for each is several writes in one round trip.

Whatever changes a customer's money holds the row of the customer's wallet first: CHARGE by itself, all others through
LOCK. So the money of one customer moves in one order, and the numbers and running balances of the entries follow it.
Postings of one transaction are written by one statement (the trigger that checks their sum relies on it).
Row-level security guards the chain; the statements name it all the same.
"""

from __future__ import annotations

import re

from chassis.db import Prepared, prepare_sql

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")


def named(sql: str, **fragments: str) -> Prepared:
    """Prepare SQL that names its parameters `:name`, and fragments of SQL that it shares with others `<name>`."""
    names: list[str] = []
    for name, fragment in fragments.items():
        sql = sql.replace(f"<{name}>", fragment)

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return prepare_sql(_PARAMETER.sub(number, sql), *names)


# What a movement is credited to: as the caller says, else as the booking it is for. `missing` names the kind of the
# first thing that is not known here yet, so that no question of its own is needed to find out whether all is known.
_ABOUT = """
about as materialized (
  select
    coalesce(:branch_id::uuid, b.branch_id) as branch_id,
    coalesce(:staff_id::uuid, b.staff_id) as staff_id,
    coalesce(:service_id::uuid, b.service_id) as service_id,
    coalesce(z.time_zone,
      (select home.time_zone from customers c
       join branches home on home.chain_id = c.chain_id and home.id = c.home_branch_id
       where c.chain_id = :chain_id::uuid and c.id = :customer_id::uuid),
      :time_zone::text) as time_zone,
    case
      when :customer_id::uuid is not null and not exists (
        select from customers c where c.chain_id = :chain_id::uuid and c.id = :customer_id::uuid) then 'customer'
      when :booking_id::uuid is not null and b.id is null then 'booking'
      when z.id is null and coalesce(:branch_id::uuid, b.branch_id) is not null then 'branch'
      when :staff_id::uuid is not null and not exists (
        select from catalogue k
        where k.chain_id = :chain_id::uuid and k.kind = 'staff' and k.id = :staff_id::uuid) then 'staff'
      when :service_id::uuid is not null and not exists (
        select from catalogue k
        where k.chain_id = :chain_id::uuid and k.kind = 'service' and k.id = :service_id::uuid) then 'service'
    end as missing
  from (select) as always
  left join bookings b on b.chain_id = :chain_id::uuid and b.id = :booking_id::uuid
  left join branches z on z.chain_id = :chain_id::uuid and z.id = coalesce(:branch_id::uuid, b.branch_id)
)"""

_WALLET = """
wallet as materialized (
  select currency, principal, principal_held, gift, gift_held, last_entry, holds_expire_at
  from wallets where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid for update
)"""

ABOUT = named("with <about> select * from about", about=_ABOUT)

LOCK = named("with <wallet> select * from wallet", wallet=_WALLET)

OPEN = named("""
insert into wallets (chain_id, customer_id, currency, opened_at)
values (:chain_id::uuid, :customer_id::uuid, :currency::text, :now::timestamptz) on conflict do nothing
""")

# The whole of a charge: lock, check, split, post. Answers one row, also when nothing was charged: then `principal_part`
# is null and the other columns say why. The split is domain.split in SQL; numeric, as amount times balance exceeds
# 64 bits. The update writes what was held as well, though it does not change: a statement that had to wait for the lock
# first tries its update on the row as it was when the statement began, and the checks on the row would be made on a
# mixture of balances from now and holds from then.
CHARGE = named(
    """
with <wallet>, <about>,
parts as materialized (
  select w.*, a.branch_id, a.staff_id, a.service_id, a.time_zone, share.principal_part,
    :amount::bigint - share.principal_part as gift_part
  from wallet w cross join about a cross join lateral (
    select case coalesce((select deduction_order from policies where chain_id = :chain_id::uuid), 'proportional')
      when 'principal_first' then least(:amount::bigint, w.principal - w.principal_held)
      when 'gift_first' then :amount::bigint - least(:amount::bigint, w.gift - w.gift_held)
      else div(
        :amount::numeric * 2 * (w.principal - w.principal_held)
          + (w.principal - w.principal_held + w.gift - w.gift_held),
        2 * greatest(w.principal - w.principal_held + w.gift - w.gift_held, 1))::bigint
    end as principal_part
  ) share
  where a.missing is null and w.currency = :currency::text
    and (w.holds_expire_at is null or w.holds_expire_at > :now::timestamptz)
    and w.principal - w.principal_held + w.gift - w.gift_held >= :amount::bigint
),
moved as (
  update wallets set principal = parts.principal - parts.principal_part, gift = parts.gift - parts.gift_part,
    principal_held = parts.principal_held, gift_held = parts.gift_held,
    last_entry = parts.last_entry + (parts.principal_part > 0)::int + (parts.gift_part > 0)::int
  from parts where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid
),
entered as (
  insert into transactions
    (chain_id, id, reason, customer_id, currency, description, booking_id, branch_id, occurred_at, created_at)
  select :chain_id::uuid, :id::uuid, 'charge', :customer_id::uuid, :currency::text, :reason::text, :booking_id::uuid,
    branch_id, :now::timestamptz, :now::timestamptz
  from parts
),
charged as (
  insert into charges (chain_id, id, customer_id, currency, principal, gift, reason, booking_id, branch_id, staff_id,
    service_id, time_zone, automatic, created_at)
  select :chain_id::uuid, :id::uuid, :customer_id::uuid, :currency::text, principal_part, gift_part, :reason::text,
    :booking_id::uuid, branch_id, staff_id, service_id, time_zone, :automatic::boolean, :now::timestamptz
  from parts
),
posted as (
  insert into postings (chain_id, id, transaction_id, account, owner_id, amount, balance, number)
  select :chain_id::uuid, line.id, :id::uuid, line.account, line.owner_id, line.amount, line.balance, line.number
  from parts p cross join lateral (values
    (:principal_entry_id::uuid, 'principal', :customer_id::uuid, -p.principal_part, p.principal - p.principal_part,
      p.last_entry + 1),
    (:gift_entry_id::uuid, 'gift', :customer_id::uuid, -p.gift_part, p.gift - p.gift_part,
      p.last_entry + 1 + (p.principal_part > 0)::int),
    (:revenue_entry_id::uuid, 'revenue', coalesce(p.branch_id, :chain_id::uuid), :amount::bigint, null, null)
  ) as line(id, account, owner_id, amount, balance, number)
  where line.amount <> 0
)
select a.missing, a.branch_id, a.staff_id, a.service_id, a.time_zone, w.currency, w.holds_expire_at,
  w.principal - w.principal_held as principal_available, w.gift - w.gift_held as gift_available,
  p.principal_part, p.gift_part
from about a left join wallet w on true left join parts p on true
""",
    wallet=_WALLET,
    about=_ABOUT,
)

# Every other movement in a wallet. The customer's lines come first; each changes one balance.
MOVE = named("""
with moved as (
  update wallets set principal = principal + :principal::bigint, gift = gift + :gift::bigint,
    principal_held = principal_held + :principal_held::bigint, gift_held = gift_held + :gift_held::bigint,
    last_entry = last_entry + :entries::bigint
  where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid
  returning currency, principal, principal_held, gift, gift_held, last_entry, holds_expire_at
),
entered as (
  insert into transactions
    (chain_id, id, reason, customer_id, currency, description, booking_id, branch_id, occurred_at, created_at)
  select :chain_id::uuid, :id::uuid, :reason::text, :customer_id::uuid, currency, :description::text, :booking_id::uuid,
    :branch_id::uuid, :now::timestamptz, :now::timestamptz
  from moved
),
posted as (
  insert into postings (chain_id, id, transaction_id, account, owner_id, amount, balance, number)
  select :chain_id::uuid, line.id, :id::uuid, line.account, line.owner_id, line.amount,
    case line.account when 'principal' then moved.principal when 'gift' then moved.gift end,
    case when line.place <= :entries::bigint then moved.last_entry - :entries::bigint + line.place end
  from moved cross join unnest(:ids::uuid[], :accounts::text[], :owners::uuid[], :amounts::bigint[])
    with ordinality as line(id, account, owner_id, amount, place)
)
select * from moved
""")

# `holds_expire_at` only ever needs to be early enough: letting go leaves it, EXPIRE sets it right.
HOLD = named("""
with moved as (
  update wallets set principal_held = principal_held + :principal::bigint, gift_held = gift_held + :gift::bigint,
    holds_expire_at = least(holds_expire_at, :expires_at::timestamptz)
  where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid
)
insert into authorizations (chain_id, id, customer_id, status, currency, principal, gift, reason, booking_id, branch_id,
  staff_id, service_id, time_zone, expires_at, created_at)
values (:chain_id::uuid, :id::uuid, :customer_id::uuid, 'authorized', :currency::text, :principal::bigint,
  :gift::bigint, :reason::text, :booking_id::uuid, :branch_id::uuid, :staff_id::uuid, :service_id::uuid,
  :time_zone::text, :expires_at::timestamptz, :now::timestamptz)
""")

LET_GO = named("""
with moved as (
  update wallets set principal_held = principal_held - :principal::bigint, gift_held = gift_held - :gift::bigint
  where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid
)
update authorizations set status = 'voided' where chain_id = :chain_id::uuid and id = :id::uuid
""")

CAPTURE = named("""
with captured as (
  update authorizations
  set status = 'captured', captured = :principal::bigint + :gift::bigint, charge_id = :charge_id::uuid
  where chain_id = :chain_id::uuid and id = :id::uuid
  returning customer_id, currency, reason, booking_id, branch_id, staff_id, service_id, time_zone
)
insert into charges (chain_id, id, customer_id, currency, principal, gift, reason, booking_id, authorization_id,
  branch_id, staff_id, service_id, time_zone, created_at)
select :chain_id::uuid, :charge_id::uuid, customer_id, currency, :principal::bigint, :gift::bigint, reason, booking_id,
  :id::uuid, branch_id, staff_id, service_id, time_zone, :now::timestamptz
from captured
""")

# Lets go of a customer's holds whose time has come; one row at least, with the wallet as it is afterwards.
EXPIRE = named("""
with expired as (
  update authorizations set status = 'expired'
  where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid and status = 'authorized'
    and expires_at <= :now::timestamptz
  returning id, principal, gift, currency, booking_id
),
freed as (
  update wallets set
    principal_held = principal_held - coalesce((select sum(e.principal) from expired e), 0)::bigint,
    gift_held = gift_held - coalesce((select sum(e.gift) from expired e), 0)::bigint,
    holds_expire_at = (
      select min(expires_at) from authorizations
      where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid and status = 'authorized'
        and expires_at > :now::timestamptz)
  where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid
  returning currency, principal, principal_held, gift, gift_held, holds_expire_at
)
select freed.*, e.id, e.principal + e.gift as released, e.booking_id from freed left join expired e on true
""")

REFUND = named("""
with counted as (
  update charges set principal_refunded = principal_refunded + :principal::bigint,
    gift_refunded = gift_refunded + :gift::bigint
  where chain_id = :chain_id::uuid and id = :charge_id::uuid
  returning customer_id, currency
)
insert into refunds (chain_id, id, charge_id, customer_id, currency, principal, gift, reason, created_at)
select :chain_id::uuid, :id::uuid, :charge_id::uuid, customer_id, currency, :principal::bigint, :gift::bigint,
  :reason::text, :now::timestamptz
from counted
""")

INSERT_TOP_UP = named("""
with pending as (
  insert into payments_at_providers (chain_id, provider, payment_id, top_up_id, due_at)
  select :chain_id::uuid, :method::text, :payment_id::text, :id::uuid, :due_at::timestamptz
  where :payment_id::text is not null
)
insert into top_ups (chain_id, id, customer_id, status, currency, amount, gift, method, payment_id, branch_id, staff_id,
  description, time_zone, created_at, credited_at)
values (:chain_id::uuid, :id::uuid, :customer_id::uuid, :status::text, :currency::text, :amount::bigint, :gift::bigint,
  :method::text, :payment_id::text, :branch_id::uuid, :staff_id::uuid, :description::text, :time_zone::text,
  :now::timestamptz, :credited_at::timestamptz)
""")

SETTLE_TOP_UP = named("""
with settled as (
  update payments_at_providers set due_at = null
  where chain_id = :chain_id::uuid and provider = :provider::text and payment_id = :payment_id::text
)
update top_ups set status = :status::text, credited_at = :credited_at::timestamptz
where chain_id = :chain_id::uuid and id = :id::uuid
""")

# A record that is there already (`external_id`) is left as it is, and nothing is posted: no row comes back.
RECORD_PAYMENT = named("""
with recorded as (
  insert into payments (chain_id, id, kind, currency, amount, tax, method, branch_id, customer_id, staff_id, service_id,
    description, occurred_at, external_id, booking_id, created_at)
  values (:chain_id::uuid, :id::uuid, :kind::text, :currency::text, :amount::bigint, :tax::bigint, :method::text,
    :branch_id::uuid, :customer_id::uuid, :staff_id::uuid, :service_id::uuid, :description::text,
    :occurred_at::timestamptz, :external_id::text, :booking_id::uuid, :now::timestamptz)
  on conflict (chain_id, external_id) where external_id is not null do nothing
  returning id
),
entered as (
  insert into transactions
    (chain_id, id, reason, customer_id, currency, description, booking_id, branch_id, occurred_at, created_at)
  select :chain_id::uuid, id, :reason::text, :customer_id::uuid, :currency::text, :description::text, :booking_id::uuid,
    :branch_id::uuid, :occurred_at::timestamptz, :now::timestamptz
  from recorded
),
posted as (
  insert into postings (chain_id, id, transaction_id, account, owner_id, amount)
  select :chain_id::uuid, line.id, recorded.id, line.account, line.owner_id, line.amount
  from recorded cross join unnest(:ids::uuid[], :accounts::text[], :owners::uuid[], :amounts::bigint[])
    as line(id, account, owner_id, amount)
)
select id from recorded
""")
