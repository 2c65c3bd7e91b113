"""What is read of wallets, and rows as messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.wallet.v1 import wallet_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import bindparam

from chassis.db import Prepared, prepare, prepared_once, time_type, uuid_type
from chassis.errors import not_found
from chassis.money import money
from chassis.rows import projector
from chassis.unit import Absent, Unit
from services.wallet.domain import Parts, Wallet, status_at
from services.wallet.models import authorizations, charges, payments, policies, top_ups
from services.wallet.statements import named

MOST_STATEMENT_ENTRIES = 5000
DEFAULT_ORDER = "proportional"
FIRST_VERSION = 1

_CHAIN = bindparam("chain_id", type_=uuid_type())
_ID = bindparam("id", type_=uuid_type())

# Holds whose time has come count as free, although nobody has written it down yet.
WALLET = named("""
select c.id is not null as known, w.currency, w.principal, w.gift,
  w.principal_held - coalesce(e.principal, 0)::bigint as principal_held,
  w.gift_held - coalesce(e.gift, 0)::bigint as gift_held
from (select) as always
left join customers c on c.chain_id = :chain_id::uuid and c.id = :customer_id::uuid
left join wallets w on w.chain_id = :chain_id::uuid and w.customer_id = :customer_id::uuid
left join lateral (
  select sum(a.principal) as principal, sum(a.gift) as gift from authorizations a
  where w.holds_expire_at <= :now::timestamptz and a.chain_id = w.chain_id and a.customer_id = w.customer_id
    and a.status = 'authorized' and a.expires_at <= :now::timestamptz
) e on true
""")

_ENTRY = """
select p.id, p.account as kind, p.amount as amount_amount, p.balance as balance_amount, p.number, t.currency,
  case when p.account = 'gift' and t.reason = 'top_up' then 'gift' else t.reason end as reason,
  t.description, t.id as source_id, t.booking_id, t.branch_id, t.occurred_at, t.created_at
from postings p join transactions t on t.chain_id = p.chain_id and t.id = p.transaction_id
where p.chain_id = :chain_id::uuid and p.owner_id = :customer_id::uuid and p.number is not null
"""

ENTRIES = named(_ENTRY + "and p.number < :before::bigint order by p.number desc limit :limit::bigint")

PERIOD = named(
    _ENTRY
    + """
  and t.occurred_at >= coalesce(:starts_from::timestamptz, '-infinity') and t.occurred_at < :ends_before::timestamptz
order by p.number limit :limit::bigint
"""
)

BALANCES_BEFORE = named("""
select coalesce(sum(p.amount) filter (where p.account = 'principal'), 0)::bigint as principal,
  coalesce(sum(p.amount) filter (where p.account = 'gift'), 0)::bigint as gift
from postings p join transactions t on t.chain_id = p.chain_id and t.id = p.transaction_id
where p.chain_id = :chain_id::uuid and p.owner_id = :customer_id::uuid and p.number is not null
  and t.occurred_at < :ends_before::timestamptz
""")

CUSTOMER_KNOWN = named("select true from customers where chain_id = :chain_id::uuid and id = :id::uuid")
BRANCH_ZONE = named("select time_zone from branches where chain_id = :chain_id::uuid and id = :id::uuid")
POLICY = prepare(
    sa.select(policies.c.deduction_order, policies.c.charge_on_completion, policies.c.version).where(
        policies.c.chain_id == _CHAIN
    )
)


def _by_id(table: sa.Table) -> Prepared:
    return prepare(sa.select(table).where(table.c.chain_id == _CHAIN, table.c.id == _ID))


TOP_UP = _by_id(top_ups)
CHARGE_ROW = _by_id(charges)
AUTHORIZATION = _by_id(authorizations)
PAYMENT = _by_id(payments)
PAYMENT_BY_EXTERNAL_ID = prepare(
    sa.select(payments).where(payments.c.chain_id == _CHAIN, payments.c.external_id == bindparam("external_id"))
)


@prepared_once
def payments_page(filters: tuple[str, ...], after: bool) -> Prepared:
    """A page of payments, newest first; `filters` are branch_id, customer_id, branch_ids (the caller's)."""
    query = sa.select(payments).where(payments.c.chain_id == _CHAIN)
    for name in filters:
        if name == "branch_ids":
            query = query.where(payments.c.branch_id == sa.any_(bindparam(name, type_=sa.ARRAY(uuid_type()))))
        else:
            query = query.where(payments.c[name] == bindparam(name, type_=uuid_type()))
    key = sa.tuple_(payments.c.occurred_at, payments.c.id)
    if after:
        query = query.where(
            key < sa.tuple_(bindparam("after_time", type_=time_type()), bindparam("after_id", type_=uuid_type()))
        )
    order = (payments.c.occurred_at.desc(), payments.c.id.desc())
    return prepare(query.order_by(*order).limit(bindparam("limit", type_=sa.BigInteger)))


# --- messages -------------------------------------------------------------------------------------


def moment(time: datetime) -> Timestamp:
    """A time as a message."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def balances(parts: Parts, currency: str) -> pb.Balances:
    """Amounts by kind as a message."""
    return pb.Balances(principal=money(parts.principal, currency), gift=money(parts.gift, currency))


def wallet_of(customer_id: str, row: asyncpg.Record) -> Wallet:
    """A customer's balances from a row with the columns of `wallets`."""
    return Wallet(
        customer_id,
        row["currency"],
        Parts(row["principal"], row["gift"]),
        Parts(row["principal_held"], row["gift_held"]),
        row.get("holds_expire_at"),
    )


def to_wallet(wallet: Wallet) -> pb.CustomerWallet:
    """A customer's balances as a message."""
    return pb.CustomerWallet(
        customer_id=wallet.customer_id,
        currency=wallet.currency,
        balances=balances(wallet.posted, wallet.currency),
        held=balances(wallet.held, wallet.currency),
        available=balances(wallet.available, wallet.currency),
        total=money(wallet.posted.total, wallet.currency),
    )


def _total(row: asyncpg.Record) -> Any:
    return money(row["principal"] + row["gift"], row["currency"])


def _money(column: str) -> Any:
    return lambda row: None if row[column] is None else money(row[column], row["currency"])


to_entry = projector(pb.Entry)
to_payment = projector(pb.Payment, amount=_money("amount"), tax=_money("tax"))
to_charge = projector(
    pb.Charge,
    amount=_total,
    principal=_money("principal"),
    gift=_money("gift"),
    refunded=lambda row: money(row["principal_refunded"] + row["gift_refunded"], row["currency"]),
)
_to_authorization = projector(
    pb.Authorization, amount=_total, principal=_money("principal"), gift=_money("gift"), captured=_money("captured")
)
_to_top_up = projector(pb.TopUpReceipt, amount=_money("amount"), gift=_money("gift"))


def to_authorization(row: asyncpg.Record, now: datetime) -> pb.Authorization:
    """An authorization as it is at a time."""
    found = _to_authorization(row)
    if status_at(row["status"], row["expires_at"], now) == "expired":
        found.status = pb.AUTHORIZATION_STATUS_EXPIRED
    return found


def to_top_up(row: asyncpg.Record, payment_url: str | None) -> pb.TopUpReceipt:
    """A top-up, with the page where the customer pays."""
    found = _to_top_up(row)
    if payment_url is not None:
        found.payment_url = payment_url
    return found


# --- reading --------------------------------------------------------------------------------------


async def read(unit: Unit, statement: Prepared, id: str, kind: str, permission: str) -> asyncpg.Record:  # noqa: A002
    """A row by its id. Refuses NOT_FOUND, and PERMISSION_DENIED when the caller's permission ends before its branch."""
    row = await unit.one(statement, id=id)
    if row is None:
        raise not_found(kind, "id")
    if row["branch_id"] is not None:
        unit.check_branch(row["branch_id"], permission)
    return row


async def read_wallet(unit: Unit, customer_id: str) -> Wallet:
    """A customer's balances now; zeros for a customer without movements. Raises Absent for an unknown customer."""
    row = await unit.one(WALLET, customer_id=customer_id, now=unit.now)
    assert row is not None
    if row["currency"] is not None:
        return wallet_of(customer_id, row)
    if not row["known"]:
        raise Absent("customer", customer_id, field="customer_id")
    return Wallet(customer_id, unit.caller.currency, Parts(0, 0), Parts(0, 0))


async def require_customer(unit: Unit, customer_id: str) -> None:
    """Raise Absent unless the customer is known here."""
    if not await unit.value(CUSTOMER_KNOWN, id=customer_id):
        raise Absent("customer", customer_id, field="customer_id")


async def require_branch(unit: Unit, branch_id: str) -> None:
    """Raise Absent unless the branch is known here."""
    if await unit.value(BRANCH_ZONE, id=branch_id) is None:
        raise Absent("branch", branch_id, field="branch_id")


async def read_policy(unit: Unit) -> pb.WalletPolicy:
    """How the chain's wallets work; the defaults when nobody has said."""
    row = await unit.one(POLICY)
    if row is None:
        return pb.WalletPolicy(deduction_order=pb.DEDUCTION_ORDER_PROPORTIONAL, version=FIRST_VERSION)
    return to_policy(row)


to_policy = projector(pb.WalletPolicy)
