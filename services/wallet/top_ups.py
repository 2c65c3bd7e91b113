"""Putting money into wallets: at the till at once, through a provider once its callback has come."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
from foyer.wallet.v1 import wallet_pb2 as pb

from chassis.errors import FieldError, invalid, not_found
from chassis.ids import new_id
from chassis.money import money
from chassis.unit import Store, Unit, system_caller
from services.wallet import domain, ledger
from services.wallet import statements as sql
from services.wallet.domain import Parts
from services.wallet.movements import about, lock, method_name, move, subject_of
from services.wallet.providers import PaymentNotice, PaymentProvider
from services.wallet.reads import TOP_UP
from services.wallet.statements import named

PAYMENT_OWNER = named("""
select chain_id, top_up_id from payments_at_providers
where payment_id = :payment_id::text and provider = :provider::text
""")
GIVE_UP = named("""
with given_up as (
  update payments_at_providers set due_at = null
  where chain_id = :chain_id::uuid and due_at <= :now::timestamptz returning top_up_id
)
update top_ups t set status = 'failed' from given_up
where t.chain_id = :chain_id::uuid and t.id = given_up.top_up_id and t.status = 'pending'
""")


async def start_top_up(unit: Unit, request: pb.TopUpRequest, provider: PaymentProvider | None) -> str:
    """Credit money taken at the till (`provider` is None) or start a payment; answers the top-up's id.

    Refuses CURRENCY_MISMATCH; raises Absent for what is not known here.
    """
    gift = request.gift if request.HasField("gift") else None
    domain.check_currency(unit.caller.currency, amount=request.amount, gift=gift)
    subject = subject_of(request, unit)
    credited = await about(unit, subject)
    customer_id = request.customer_id.lower()
    top_up_id = new_id()
    await unit.run(
        sql.INSERT_TOP_UP,
        id=top_up_id,
        customer_id=customer_id,
        status="credited" if provider is None else "pending",
        currency=request.amount.currency,
        amount=request.amount.amount,
        gift=gift.amount if gift is not None else 0,
        method=method_name(request.method),
        payment_id=provider.payment_id(top_up_id) if provider is not None else None,
        due_at=unit.now + timedelta(hours=domain.PENDING_TOP_UP_HOURS),
        branch_id=subject["branch_id"],
        staff_id=subject["staff_id"],
        description=request.description or None,
        time_zone=credited["time_zone"],
        credited_at=unit.now if provider is None else None,
        now=unit.now,
    )
    if provider is None:
        row = await unit.one(TOP_UP, id=top_up_id)
        assert row is not None
        await _credit(unit, row)
    return top_up_id


async def _credit(unit: Unit, row: asyncpg.Record) -> None:
    """Post a top-up and tell of it."""
    customer_id, currency = row["customer_id"], row["currency"]
    await lock(unit, customer_id, currency=currency)
    paid = Parts(row["amount"], row["gift"])
    wallet = await move(
        unit,
        row["id"],
        "top_up",
        customer_id,
        ledger.top_up(paid, row["method"], customer_id, row["branch_id"], unit.chain_id),
        description=row["description"],
        branch_id=row["branch_id"],
    )
    unit.emit(
        pb.TopUpCredited(
            top_up_id=row["id"],
            customer_id=customer_id,
            amount=money(paid.principal, currency),
            gift=money(paid.gift, currency),
            method=pb.PaymentMethod.Value(f"PAYMENT_METHOD_{row['method'].upper()}"),
            branch_id=row["branch_id"],
            staff_id=row["staff_id"],
            time_zone=row["time_zone"],
            available=money(wallet.available.total, currency),
        )
    )


async def payment_owner(system_store: Store, service: str, provider: str, payment_id: str) -> tuple[str, str]:
    """Chain and top-up of a payment at a provider. Refuses NOT_FOUND."""
    async with system_store.unit(system_caller(service, ""), read_only=True) as unit:
        row = await unit.one(PAYMENT_OWNER, provider=provider, payment_id=payment_id)
    if row is None:
        raise not_found("payment", "payment_id")
    return row["chain_id"], row["top_up_id"]


async def settle(unit: Unit, top_up_id: str, provider: str, notice: PaymentNotice) -> str:
    """Do what a provider tells of a payment, once however often it tells; answers the top-up's state.

    That it was paid counts also after it had failed before: the money is there. Refuses INVALID_REQUEST for another
    amount.
    """
    row = await unit.one(TOP_UP, id=top_up_id)
    if row is None:
        raise not_found("payment", "payment_id")
    if (notice.amount.amount, notice.amount.currency) != (row["amount"], row["currency"]):
        told = f"must be what was asked for: {row['amount']} {row['currency']}"
        raise invalid(FieldError("amount", "other_amount", told, "与应付金额不符"))
    # The wallet's lock puts callbacks that come at the same time in a row; the second one sees what the first one did.
    await lock(unit, row["customer_id"], currency=row["currency"])
    row = await unit.one(TOP_UP, id=top_up_id)
    assert row is not None
    before: str = row["status"]
    after = "credited" if notice.paid or before == "credited" else "failed"
    if after == before:
        return before
    await unit.run(
        sql.SETTLE_TOP_UP,
        id=top_up_id,
        status=after,
        provider=provider,
        payment_id=notice.payment_id,
        credited_at=unit.now if after == "credited" else None,
    )
    if after == "credited":
        await _credit(unit, row)
    return after
