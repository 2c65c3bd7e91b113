"""What the wallet answers: a deposit is there and the booking is confirmed, or it is not and the time is free.

An answer may come late, twice, or for a booking that is gone. Whatever it finds, it leaves one of two: a booking that
is confirmed with its deposit set aside, or one that is not, with nothing set aside for it.
"""

from __future__ import annotations

import asyncpg
from foyer.wallet.v1.wallet_pb2 import DepositAuthorized, DepositCaptured, DepositRefused, DepositReleased

from chassis import logs
from chassis.inbox import EventMeta
from chassis.unit import Unit
from services.bookings import booking, deposits, domain
from services.bookings.changes import Cost
from services.bookings.events import on
from services.bookings.rows import SELECT_FOR_UPDATE, write

log = logs.logger(__name__)
REFUSED = "deposit refused: {reason}"


@on(DepositAuthorized)
async def deposit_authorized(event: DepositAuthorized, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Confirm the booking whose deposit is there, or have it let go when the booking is gone."""
    row = await _asked(unit, event.booking_id)
    if row is None:
        return
    if row["status"] == "held":
        await booking.agree(unit, row, deposit_status="authorized", deposit_authorization_id=event.authorization_id)
        return
    log.info("a deposit came too late", booking_id=event.booking_id, status=row["status"])
    changed = await write(unit, row, deposit_status="released", deposit_authorization_id=event.authorization_id)
    deposits.release(unit, changed)


@on(DepositRefused)
async def deposit_refused(event: DepositRefused, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Cancel the booking whose deposit is not to be had."""
    row = await _asked(unit, event.booking_id)
    if row is None:
        return
    if row["status"] == "held":
        cost = Cost({"deposit_status": "refused"}, {})
        await booking.call_off(unit, row, REFUSED.format(reason=event.reason), cost)
    else:
        await write(unit, row, deposit_status="refused")


async def _asked(unit: Unit, booking_id: str) -> asyncpg.Record | None:
    """A booking that waits for its deposit, locked; a hold that ran out is expired first. None: it waits no more."""
    row = await unit.one(SELECT_FOR_UPDATE, id=booking_id)
    if row is None or row["deposit_status"] != "pending":
        return None
    if domain.effective_status(row["status"], row["expires_at"], unit.now) == "expired" and row["status"] == "held":
        await booking.expire(unit, [booking_id])
        row = await unit.one(SELECT_FOR_UPDATE, id=booking_id)
    return row


@on(DepositCaptured)
async def deposit_captured(event: DepositCaptured, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """The deposit was charged: for the service, or for fees."""
    row = await unit.one(SELECT_FOR_UPDATE, id=event.booking_id)
    if row is not None and row["deposit_authorization_id"] == event.authorization_id:
        await _became(unit, row, "kept" if row["status"] in ("cancelled", "no_show") else "captured")


@on(DepositReleased)
async def deposit_released(event: DepositReleased, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """The deposit is the customer's again: as bookings asked, by somebody at the desk, or since its time ran out."""
    row = await unit.one(SELECT_FOR_UPDATE, id=event.booking_id)
    if row is not None and row["deposit_authorization_id"] == event.authorization_id:
        await _became(unit, row, "released")


async def _became(unit: Unit, row: asyncpg.Record, status: str) -> None:
    if row["deposit_status"] != status:
        await write(unit, row, deposit_status=status)
