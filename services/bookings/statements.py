"""Statements of the hot paths, as SQL: one round trip each for what Core cannot say in one."""

from __future__ import annotations

from chassis.db import prepare_sql

# All that decides about a service's time at a branch: branch, service, customer, the person named, everybody who could
# do it with their shifts, their busy days, and holds that ran out but still stand in those days. Always one row.
# Ranges are compared as plain dates and moments: operators on ranges would lose their index under row-level security.
READ_TIMES = prepare_sql(
    """
select b.id as branch_id, b.time_zone, b.opening_hours, b.holidays, b.active as branch_active,
  s.id as service_id, s.name as service_name, s.duration_minutes, s.buffer_before_minutes, s.buffer_after_minutes,
  s.active as service_active, s.currency,
  coalesce((
    select p.amount from unnest(s.price_branch_ids, s.price_branch_amounts) as p(branch_id, amount)
    where p.branch_id = $2::uuid
  ), s.price_amount) as price_amount,
  cardinality(s.branch_ids) = 0 or $2::uuid = any(s.branch_ids) as offered,
  c.id as customer_id,
  n.id as staff_id, n.active as staff_active, $2::uuid = any(n.branch_ids) as staff_here,
  n.skills @> s.required_skills as staff_able,
  w.staff_ids, w.from_days, w.until_days, w.weeks,
  d.busy_staff_ids, d.busy_days, d.busy,
  h.held_ids, h.held_staff_ids, h.held_from, h.held_until
from (values (1)) as one
left join branches b on b.chain_id = $1::uuid and b.id = $2::uuid
left join services s on s.chain_id = $1::uuid and s.id = $3::uuid
left join staff n on n.chain_id = $1::uuid and n.id = $4::uuid
left join customers c on c.chain_id = $1::uuid and c.id = $5::uuid
cross join lateral (
  select array_agg(w.staff_id) as ids, array_agg(w.staff_id::text) as staff_ids,
    array_agg(w.from_date - date '1970-01-01') as from_days,
    array_agg(w.until_date - date '1970-01-01') as until_days, array_agg(w.week) as weeks
  from shifts w join staff p on p.chain_id = w.chain_id and p.id = w.staff_id
  where w.chain_id = $1::uuid and w.branch_id = $2::uuid and ($4::uuid is null or w.staff_id = $4::uuid)
    and w.from_date <= $7::date and (w.until_date is null or w.until_date >= $6::date)
    and p.active and $2::uuid = any(p.branch_ids) and p.skills @> s.required_skills
) w
cross join lateral (
  select array_agg(d.staff_id::text) as busy_staff_ids, array_agg(d.day - date '1970-01-01') as busy_days,
    array_agg(d.busy) as busy
  from staff_days d
  where d.chain_id = $1::uuid and d.staff_id = any(w.ids) and d.day >= $8::date and d.day <= $9::date
) d
cross join lateral (
  select array_agg(a.booking_id::text) as held_ids, array_agg(a.staff_id::text) as held_staff_ids,
    array_agg(a.starts_at) as held_from, array_agg(a.ends_at) as held_until
  from allocations a
  where a.chain_id = $1::uuid and a.expires_at <= $10::timestamptz and a.staff_id = any(w.ids)
    and a.starts_at < ($9::date + 1) and a.ends_at > $8::date
) h
""",
    "chain_id",
    "branch_id",
    "service_id",
    "staff_id",
    "customer_id",
    "first_date",
    "last_date",
    "first_day",
    "last_day",
    "now",
)

NEW_BOOKING = (
    "id",
    "branch_id",
    "service_id",
    "customer_id",
    "staff_id",
    "status",
    "starts_at",
    "ends_at",
    "buffer_before_minutes",
    "buffer_after_minutes",
    "price_amount",
    "currency",
    "service_name",
    "time_zone",
    "expires_at",
    "source",
    "note",
    "version",
    "created_at",
)

# Take the bits, and only when all of them were free write down whose they are and the booking. It answers the days
# whose bits were taken: when days are missing, somebody else was faster, and the caller gives back what it got. Rows
# are taken in the order of days, as everywhere.
CLAIM = prepare_sql(
    """
with claimed as (
  insert into staff_days (chain_id, staff_id, day, busy)
  select $1::uuid, $6::uuid, w.day, w.mask from unnest($21::date[], $22::bit(288)[]) as w(day, mask) order by w.day
  on conflict (chain_id, staff_id, day) do update set busy = staff_days.busy | excluded.busy
  where staff_days.busy & excluded.busy = 0::bit(288)
  returning day
), complete as (
  select 1 from claimed having count(*) = cardinality($21::date[])
), allocated as (
  insert into allocations (chain_id, booking_id, staff_id, starts_at, ends_at, expires_at)
  select $1::uuid, $2::uuid, $6::uuid, $23::timestamptz, $24::timestamptz, $16::timestamptz from complete
), booked as (
  insert into bookings (chain_id, id, branch_id, service_id, customer_id, staff_id, status, starts_at, ends_at,
    buffer_before_minutes, buffer_after_minutes, price_amount, currency, service_name, time_zone, expires_at, source,
    note, version, created_at)
  select $1::uuid, $2::uuid, $3::uuid, $4::uuid, $5::uuid, $6::uuid, $7::text, $8::timestamptz, $9::timestamptz,
    $10::integer, $11::integer, $12::bigint, $13::text, $14::text, $15::text, $16::timestamptz, $17::text, $18::text,
    $19::bigint, $20::timestamptz
  from complete
)
select array_agg(day) as days from claimed
""",
    "chain_id",
    *NEW_BOOKING,
    "days",
    "masks",
    "occupied_from",
    "occupied_until",
)

# Days that a move needs, made where they are missing, then locked in one order for everybody.
ENSURE_DAYS = prepare_sql(
    """
insert into staff_days (chain_id, staff_id, day, busy)
select $1::uuid, w.staff_id, w.day, 0::bit(288) from unnest($2::uuid[], $3::date[]) as w(staff_id, day)
order by w.staff_id, w.day
on conflict do nothing
""",
    "chain_id",
    "staff_ids",
    "days",
)
LOCK_DAYS = prepare_sql(
    """
select d.staff_id::text as staff_id, d.day, d.busy
from staff_days d join unnest($2::uuid[], $3::date[]) as w(staff_id, day) on d.staff_id = w.staff_id and d.day = w.day
where d.chain_id = $1::uuid
order by d.staff_id, d.day
for update of d
""",
    "chain_id",
    "staff_ids",
    "days",
)
# The mask's bits out first, then the other mask's bits in.
CHANGE_DAYS = prepare_sql(
    """
with wanted as (
  select d.staff_id, d.day, w.mask_out, w.mask_into
  from staff_days d
  join unnest($2::uuid[], $3::date[], $4::bit(288)[], $5::bit(288)[]) as w(staff_id, day, mask_out, mask_into)
    on d.staff_id = w.staff_id and d.day = w.day
  where d.chain_id = $1::uuid
  order by d.staff_id, d.day
  for update of d
)
update staff_days d set busy = (d.busy & ~w.mask_out) | w.mask_into
from wanted w where d.chain_id = $1::uuid and d.staff_id = w.staff_id and d.day = w.day
""",
    "chain_id",
    "staff_ids",
    "days",
    "masks_out",
    "masks_into",
)

EXPIRE_BOOKINGS = prepare_sql(
    """
with due as (
  select id from bookings
  where chain_id = $1::uuid and id = any($2::uuid[]) and status = 'held' and expires_at <= $3::timestamptz
  order by id for update
)
update bookings b set status = 'expired', version = b.version + 1
from due where b.chain_id = $1::uuid and b.id = due.id
returning b.*
""",
    "chain_id",
    "ids",
    "now",
)
