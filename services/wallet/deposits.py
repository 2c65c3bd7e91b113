"""Deposits of bookings: which authorization is one, and what became of it.

A row for each booking that asked. Whatever ends the authorization (an event of bookings, somebody at the desk, its
clock) comes by here, so that bookings is told however it came about. All of it happens under the lock of the
customer's wallet.
"""

from __future__ import annotations

import sqlalchemy as sa
from foyer.wallet.v1 import wallet_pb2 as pb

from chassis.db import chain_column, prepare, time_type, uuid_type
from chassis.money import money
from chassis.unit import Unit
from services.wallet.statements import named

# Of its own, since the first migration makes all that is in the other one.
metadata = sa.MetaData()

deposits = sa.Table(
    "deposits",
    metadata,
    chain_column(),
    sa.Column("booking_id", uuid_type(), primary_key=True),
    sa.Column("customer_id", uuid_type(), nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    # Null: nothing was ever set aside.
    sa.Column("authorization_id", uuid_type()),
    sa.Column("amount", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("captured", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
    # closed: given up before it was asked for.
    sa.CheckConstraint("status in ('authorized', 'refused', 'captured', 'released', 'closed')", name="status_known"),
)

READ = prepare(
    sa.select(deposits).where(
        deposits.c.chain_id == sa.bindparam("chain_id"), deposits.c.booking_id == sa.bindparam("booking_id")
    )
)
KEEP = named("""
insert into deposits (chain_id, booking_id, customer_id, status, authorization_id, amount, currency, created_at)
values (:chain_id::uuid, :booking_id::uuid, :customer_id::uuid, :status::text, :authorization_id::uuid,
  :amount::bigint, :currency::text, :now::timestamptz)
""")
END = named("""
update deposits set status = case when :captured::bigint > 0 then 'captured' else 'released' end,
  captured = :captured::bigint
where chain_id = :chain_id::uuid and booking_id = :booking_id::uuid and authorization_id = :authorization_id::uuid
  and status = 'authorized'
returning customer_id, currency
""")
# What was paid for a booking otherwise: charges and what the till took, less what was given back.
PAID_OTHERWISE = named("""
select (
  (select coalesce(sum(c.principal + c.gift - c.principal_refunded - c.gift_refunded), 0) from charges c
   where c.chain_id = :chain_id::uuid and c.booking_id = :booking_id::uuid
     and c.authorization_id is distinct from :authorization_id::uuid)
  + (select coalesce(sum(case p.kind when 'sale' then p.amount + p.tax else -p.amount - p.tax end), 0) from payments p
   where p.chain_id = :chain_id::uuid and p.customer_id = :customer_id::uuid and p.booking_id = :booking_id::uuid)
)::bigint
""")
POSTPONE = named("""
update authorizations set expires_at = greatest(expires_at, :expires_at::timestamptz)
where chain_id = :chain_id::uuid and id = :id::uuid and status = 'authorized'
""")


async def closed(unit: Unit, booking_id: str | None, authorization_id: str, captured: int) -> None:
    """An authorization ended, with so much of it charged: tell it, where it was a booking's deposit."""
    if booking_id is None:
        return
    row = await unit.one(END, booking_id=booking_id, authorization_id=authorization_id, captured=captured)
    if row is None:
        return
    about = {"booking_id": booking_id, "authorization_id": authorization_id, "customer_id": row["customer_id"]}
    if captured:
        unit.emit(pb.DepositCaptured(**about, amount=money(captured, row["currency"])))
    else:
        unit.emit(pb.DepositReleased(**about))
