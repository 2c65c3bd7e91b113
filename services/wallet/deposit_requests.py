"""What bookings asks of the wallet for a deposit, and what becomes of it when the booking moves or is done.

A request is answered once, by deposit.authorized or deposit.refused in the transaction that sets the money aside or
does not. One that was given up before it came is refused: nothing is ever set aside for a booking that is gone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
from foyer.bookings.v1.bookings_pb2 import Booking
from foyer.bookings.v1.policies_pb2 import BookingDepositKept, BookingDepositReleased, BookingDepositRequested
from foyer.wallet.v1 import wallet_pb2 as pb

from chassis import metrics
from chassis.errors import Refusal
from chassis.inbox import EventMeta
from chassis.money import money
from chassis.unit import Unit
from services.wallet import deposits, movements
from services.wallet.domain import status_at
from services.wallet.reads import AUTHORIZATION

KEPT_AFTER = timedelta(days=31)
"""How long after the booking's end a deposit stays set aside: whoever forgot to complete it has so long."""
DEPOSITS = metrics.counter("foyer_wallet_deposits_total", "Deposits that bookings asked for.", ("outcome",))


async def requested(event: BookingDepositRequested, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Set a deposit aside, or say why not."""
    before = await unit.one(deposits.READ, booking_id=event.booking_id)
    if before is not None and before["status"] != "closed":
        return
    authorization_id, reason = None, "closed"
    if before is None:
        authorization_id, reason = await _set_aside(event, unit)
        await unit.run(
            deposits.KEEP,
            booking_id=event.booking_id,
            customer_id=event.customer_id,
            status="refused" if authorization_id is None else "authorized",
            authorization_id=authorization_id,
            amount=event.amount.amount,
            currency=event.amount.currency,
            now=unit.now,
        )
    about = {"booking_id": event.booking_id, "customer_id": event.customer_id}
    if authorization_id is None:
        unit.emit(pb.DepositRefused(**about, amount=event.amount, reason=reason))
    else:
        unit.emit(pb.DepositAuthorized(**about, amount=event.amount, authorization_id=authorization_id))
    unit.after_commit(DEPOSITS.labels("authorized" if authorization_id else reason).inc)


async def _set_aside(event: BookingDepositRequested, unit: Unit) -> tuple[str | None, str]:
    """The authorization of a deposit, or None and why there is none."""
    subject: dict[str, str | None] = {
        "customer_id": event.customer_id,
        "booking_id": event.booking_id,
        "branch_id": None,
        "staff_id": None,
        "service_id": None,
        "time_zone": event.time_zone,
    }
    credited = await movements.about(unit, subject)
    wallet = await movements.lock(unit, event.customer_id)
    if wallet.available.total < event.amount.amount:
        # Also where there is no wallet yet, and so no currency to compare.
        return None, "insufficient_funds"
    expires_at = max(_moment(event.ends_at), unit.now) + KEPT_AFTER
    try:
        return await movements.set_aside(unit, subject, credited, event.amount, event.reason, expires_at), ""
    except Refusal as refusal:
        return None, refusal.code.lower()


async def released(event: BookingDepositReleased, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Let go of what is set aside for a booking."""
    deposit = await _locked(unit, event.booking_id, event.customer_id)
    if deposit is None:
        await unit.run(
            deposits.KEEP,
            booking_id=event.booking_id,
            customer_id=event.customer_id,
            status="closed",
            authorization_id=None,
            amount=0,
            currency=unit.caller.currency,
            now=unit.now,
        )
    elif await _is_open(unit, deposit):
        await movements.void(unit, deposit["authorization_id"])


async def kept(event: BookingDepositKept, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Charge what of a deposit is kept for fees; the rest is let go."""
    deposit = await _locked(unit, event.booking_id, event.customer_id)
    if deposit is not None and await _is_open(unit, deposit):
        amount = min(event.amount.amount, deposit["amount"])
        await movements.capture(unit, deposit["authorization_id"], money(amount, deposit["currency"]))


async def rescheduled(booking: Booking, unit: Unit) -> None:
    """Keep a deposit set aside for as long as the booking that moved needs it."""
    deposit = await _locked(unit, booking.id, booking.customer_id)
    if deposit is not None and await _is_open(unit, deposit):
        expires_at = _moment(booking.ends_at) + KEPT_AFTER
        await unit.run(deposits.POSTPONE, id=deposit["authorization_id"], expires_at=expires_at)


async def completed(booking: Booking, unit: Unit) -> tuple[str | None, int]:
    """Charge a completed booking's deposit, as far as the booking was not paid for otherwise, and let go of the rest.

    Answers the deposit's authorization and what of the price the deposit paid, in minor units.
    """
    deposit = await _locked(unit, booking.id, booking.customer_id)
    if deposit is None or deposit["authorization_id"] is None:
        return None, 0
    identifier: str = deposit["authorization_id"]
    if not await _is_open(unit, deposit):
        return identifier, deposit["captured"]
    paid = await unit.value(
        deposits.PAID_OTHERWISE, booking_id=booking.id, customer_id=booking.customer_id, authorization_id=identifier
    )
    due = min(deposit["amount"], booking.price.amount - paid)
    if due <= 0:
        await movements.void(unit, identifier)
        return identifier, 0
    await movements.capture(unit, identifier, money(due, deposit["currency"]))
    return identifier, due


async def _locked(unit: Unit, booking_id: str, customer_id: str) -> asyncpg.Record | None:
    """A booking's deposit, read under the lock of the customer's wallet; None when none was asked for."""
    if await unit.one(deposits.READ, booking_id=booking_id) is None:
        return None
    await movements.lock(unit, customer_id)
    return await unit.one(deposits.READ, booking_id=booking_id)


async def _is_open(unit: Unit, deposit: asyncpg.Record) -> bool:
    """Whether money is set aside for a deposit still."""
    if deposit["status"] != "authorized":
        return False
    row = await unit.one(AUTHORIZATION, id=deposit["authorization_id"])
    return row is not None and status_at(row["status"], row["expires_at"], unit.now) == "authorized"


def _moment(stamp: object) -> datetime:
    moment: datetime = stamp.ToDatetime(tzinfo=UTC)  # type: ignore[attr-defined]
    return moment
