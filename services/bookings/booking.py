"""Bookings: made, confirmed, moved and ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from google.protobuf.message import Message

from chassis import metrics
from chassis.db import prepare
from chassis.errors import not_found
from chassis.ids import new_id
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import allocator, availability, calendar, domain, times
from services.bookings.allocator import Taken
from services.bookings.availability import HORIZON_DAYS, ONE_DAY, Window
from services.bookings.common import refuse_if
from services.bookings.models import bookings
from services.bookings.times import Question, Times

READ, WRITE = "bookings.read", "bookings.write"
MOST_CANDIDATES = 50

BOOKINGS = metrics.counter("foyer_bookings_total", "Bookings that came into a state.", ("status",))

_one = sa.and_(bookings.c.chain_id == sa.bindparam("chain_id"), bookings.c.id == sa.bindparam("id"))
CHANGED = (
    "status",
    "staff_id",
    "starts_at",
    "ends_at",
    "buffer_before_minutes",
    "buffer_after_minutes",
    "expires_at",
    "cancel_reason",
    "cancelled_at",
    "version",
)
SELECT = prepare(sa.select(bookings).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(bookings).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(bookings)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=bookings.c[name].type) for name in CHANGED})
    .returning(bookings)
)

project_booking = projector(pb.Booking)


def to_booking(row: asyncpg.Record, now: datetime) -> pb.Booking:
    """A row as a message, with the state as it is to be told at `now`."""
    booking = project_booking(row)
    if domain.effective_status(row["status"], row["expires_at"], now) == "expired":
        booking.status = pb.BOOKING_STATUS_EXPIRED
    return booking


def count(unit: Unit, status: str) -> None:
    """Count a booking that came into a state, once that is committed."""
    unit.after_commit(lambda: BOOKINGS.labels(status).inc())


def moment_of(message: Any) -> datetime:
    """A Timestamp as a datetime in UTC."""
    moment: datetime = message.ToDatetime(tzinfo=UTC)
    return moment


# --- making ---


async def create(request: pb.CreateBookingRequest, unit: Unit) -> pb.Booking:
    """Book a time, or hold it. Raises Refusal SLOT_TAKEN, NOT_BOOKABLE, NOT_FOUND."""
    starts_at = moment_of(request.starts_at)
    if not calendar.is_on_step(starts_at):
        refuse_if([domain.off_step_error("starts_at")])
    question = Question(
        request.branch_id.lower(),
        request.service_id.lower(),
        request.staff_id.lower() if request.HasField("staff_id") else None,
        request.customer_id.lower(),
    )
    found = await times.read(unit, question, _window(starts_at, unit.now))
    candidates = await _candidates(unit, question, found, starts_at)
    step = calendar.last_step(starts_at)
    for staff_id in candidates[:MOST_CANDIDATES]:
        await expire_in_the_way(unit, found, Taken(staff_id, *found.need.occupied(step)))
        values = _new(request, unit, found, starts_at, staff_id)
        if await allocator.claim(unit, values):
            return _made(unit, values)
    raise domain.slot_taken(await times.nearest(unit, question, starts_at))


def _window(starts_at: datetime, now: datetime) -> Window:
    """Days to look at for one start: its local day, wherever that is, and all the service may take."""
    anchor = min(max(starts_at, now), now + timedelta(days=HORIZON_DAYS))
    return Window.around(anchor - ONE_DAY, anchor + availability.MOST_DURATION)


async def _candidates(
    unit: Unit, question: Question, found: Times, starts_at: datetime, own: Taken | None = None
) -> list[str]:
    """Who could begin at a moment, the fairest choice first. Raises Refusal NOT_BOOKABLE or SLOT_TAKEN for nobody."""
    reason = found.reason
    if reason is None and starts_at < unit.now:
        reason = "past"
    if reason is None and starts_at > unit.now + timedelta(days=HORIZON_DAYS):
        reason = "too_far"
    step = calendar.last_step(starts_at)
    window = found.window
    if reason is None and own is not None:
        for person in found.people:
            if person.id == own.staff_id:
                person.busy &= ~window.span(own.first, own.last)
    if reason is None:
        starts = found.starts(window.span(step, step + 1))
        if starts:
            day = calendar.local_day_bitmap(found.row["time_zone"], step, window.first_day, window.days)
            free = [person for person in found.people if person.id in starts]
            return [person.id for person in availability.fairest_first(free, day)]
        reason = _reason_of_time(question, found, step)
    slots = await times.nearest(unit, question, starts_at)
    raise domain.not_bookable(reason, slots) if reason is not None else domain.slot_taken(slots)


def _reason_of_time(question: Question, found: Times, step: int) -> str | None:
    """Why a service cannot begin at a step even when everybody were free; None when it could."""
    window, need = found.window, found.need
    service = window.span(step, step + need.duration)
    if found.open & service != service:
        return "closed"
    occupied = window.span(*need.occupied(step))
    if any(person.works & occupied == occupied for person in found.people):
        return None
    return "nobody" if question.staff_id is None else "off_shift"


async def expire_in_the_way(unit: Unit, found: Times, wanted: Taken) -> None:
    """Let go of holds that ran out and still stand in a time that somebody else wants now."""
    ids = [
        booking_id
        for booking_id, taken in found.holds
        if taken.staff_id == wanted.staff_id and taken.first < wanted.last and wanted.first < taken.last
    ]
    if ids:
        await expire(unit, sorted(ids))


async def expire(unit: Unit, ids: list[str]) -> int:
    """Expire those of these bookings whose hold ran out; answers how many that were."""
    rows = await allocator.expire(unit, ids)
    for row in rows:
        unit.emit(pb.BookingExpired(booking_id=row["id"], booking=project_booking(row)), row["expires_at"])
        count(unit, "expired")
    return len(rows)


def _new(
    request: pb.CreateBookingRequest, unit: Unit, found: Times, starts_at: datetime, staff_id: str
) -> dict[str, Any]:
    row = found.row
    return {
        "id": new_id(),
        "branch_id": row["branch_id"],
        "service_id": row["service_id"],
        "customer_id": row["customer_id"],
        "staff_id": staff_id,
        "status": "held" if request.hold else "confirmed",
        "starts_at": starts_at,
        "ends_at": starts_at + timedelta(minutes=row["duration_minutes"]),
        "buffer_before_minutes": row["buffer_before_minutes"],
        "buffer_after_minutes": row["buffer_after_minutes"],
        "price_amount": row["price_amount"],
        "currency": row["currency"],
        "service_name": row["service_name"],
        "time_zone": row["time_zone"],
        "expires_at": unit.now + domain.HOLD if request.hold else None,
        "source": request.source or None,
        "note": request.note or None,
        "version": 1,
        "created_at": unit.now,
    }


def _made(unit: Unit, values: Mapping[str, Any]) -> pb.Booking:
    booking = project_booking(values)  # type: ignore[arg-type]
    event = pb.BookingHeld if values["status"] == "held" else pb.BookingConfirmed
    unit.emit(event(booking_id=booking.id, booking=booking))
    count(unit, values["status"])
    return booking


# --- reading ---


async def get(request: pb.GetBookingRequest, unit: Unit) -> pb.Booking:
    """Read a booking. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("booking", "id")
    unit.check_branch(row["branch_id"], READ)
    return to_booking(row, unit.now)


# --- steps ---


async def _locked(unit: Unit, identifier: str, step: str) -> tuple[asyncpg.Record, str]:
    """A booking that is to take a step, and the state that leads to."""
    row = await unit.one(SELECT_FOR_UPDATE, id=identifier)
    if row is None:
        raise not_found("booking", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    status = domain.effective_status(row["status"], row["expires_at"], unit.now)
    return row, domain.next_status(step, status)


async def _write(unit: Unit, row: asyncpg.Record, **changes: Any) -> asyncpg.Record:
    values = {name: row[name] for name in CHANGED} | changes
    values["version"] = row["version"] + 1
    changed = await unit.one(UPDATE, id=row["id"], **{f"new_{name}": values[name] for name in CHANGED})
    assert changed is not None
    return changed


def _told(
    unit: Unit, row: asyncpg.Record, event: Callable[..., Message], occurred_at: datetime | None = None, **details: Any
) -> pb.Booking:
    booking = project_booking(row)
    unit.emit(event(booking_id=booking.id, booking=booking, **details), occurred_at)
    return booking


async def confirm(request: pb.ConfirmBookingRequest, unit: Unit) -> pb.Booking:
    """Confirm a held booking. Raises Refusal HOLD_EXPIRED when its hold ran out, even if nobody else took the time."""
    row, status = await _locked(unit, request.id, "confirm")
    changed = await _write(unit, row, status=status, expires_at=None)
    await allocator.keep(unit, row["id"])
    count(unit, status)
    return _told(unit, changed, pb.BookingConfirmed)


async def cancel(request: pb.CancelBookingRequest, unit: Unit) -> pb.Booking:
    """Cancel a held or confirmed booking and free its time."""
    row, status = await _locked(unit, request.id, "cancel")
    changed = await _write(
        unit, row, status=status, expires_at=None, cancel_reason=request.reason or None, cancelled_at=unit.now
    )
    await allocator.release(unit, {row["id"]: Taken.by(row)})
    count(unit, status)
    return _told(
        unit,
        changed,
        pb.BookingCancelled,
        was_held=row["status"] == "held",
        notice_minutes=domain.notice_minutes(unit.now, row["starts_at"]),
    )


async def reschedule(request: pb.RescheduleBookingRequest, unit: Unit) -> pb.Booking:
    """Move a booking to another time, person, or both; it keeps what it has when that is taken."""
    starts_at = moment_of(request.starts_at)
    if not calendar.is_on_step(starts_at):
        refuse_if([domain.off_step_error("starts_at")])
    row, status = await _locked(unit, request.id, "reschedule")
    staff_id = request.staff_id.lower() if request.HasField("staff_id") else row["staff_id"]
    question = Question(row["branch_id"], row["service_id"], staff_id)
    found = await times.read(unit, question, _window(starts_at, unit.now))
    # How long it takes is what was sold, not what the catalogue says now.
    found.need = availability.Need.of_minutes(
        row["buffer_before_minutes"],
        (row["ends_at"] - row["starts_at"]) // timedelta(minutes=1),
        row["buffer_after_minutes"],
    )
    old = Taken.by(row)
    await _candidates(unit, question, found, starts_at, old)
    new = Taken(staff_id, *found.need.occupied(calendar.last_step(starts_at)))
    await expire_in_the_way(unit, found, new)
    if not await allocator.move(unit, row["id"], old, new, row["expires_at"]):
        raise domain.slot_taken(await times.nearest(unit, question, starts_at))
    ends_at = starts_at + (row["ends_at"] - row["starts_at"])
    changed = await _write(unit, row, status=status, staff_id=staff_id, starts_at=starts_at, ends_at=ends_at)
    return _told(
        unit,
        changed,
        pb.BookingRescheduled,
        previous_starts_at=row["starts_at"],
        previous_staff_id=row["staff_id"],
    )


async def check_in(request: pb.CheckInBookingRequest, unit: Unit) -> pb.Booking:
    """The customer is there."""
    row, status = await _locked(unit, request.id, "check_in")
    changed = await _write(unit, row, status=status)
    count(unit, status)
    return _told(unit, changed, pb.BookingCheckedIn)


async def start(request: pb.StartBookingRequest, unit: Unit) -> pb.Booking:
    """The service begins."""
    row, status = await _locked(unit, request.id, "start")
    changed = await _write(unit, row, status=status)
    count(unit, status)
    return _told(unit, changed, pb.BookingStarted)


async def complete(request: pb.CompleteBookingRequest, unit: Unit) -> pb.Booking:
    """The service is done; what is left of its time is free again. It counts on the day of the appointment."""
    row, status = await _locked(unit, request.id, "complete")
    changed = await _write(unit, row, status=status)
    await _free_the_rest(unit, row)
    count(unit, status)
    return _told(unit, changed, pb.BookingCompleted, min(row["starts_at"], unit.now))


async def mark_no_show(request: pb.MarkNoShowRequest, unit: Unit) -> pb.Booking:
    """The customer did not come. It counts on the day of the appointment, or today when that is still to come."""
    row, status = await _locked(unit, request.id, "mark_no_show")
    changed = await _write(unit, row, status=status)
    await allocator.release(unit, {row["id"]: Taken.by(row)})
    count(unit, status)
    return _told(unit, changed, pb.BookingMissed, min(row["starts_at"], unit.now))


async def _free_the_rest(unit: Unit, row: asyncpg.Record) -> None:
    """Give back what a service that ended early did not need: the person still has the time after it to clean up."""
    taken = Taken.by(row)
    if row["starts_at"] >= unit.now:
        last = taken.first
    else:
        last = calendar.first_step(unit.now + timedelta(minutes=row["buffer_after_minutes"]))
    await allocator.shorten(unit, row["id"], taken, last)
