"""Bookings: made, confirmed, moved and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.db import prepare
from chassis.errors import Refusal, not_found
from chassis.ids import new_id
from chassis.unit import Unit
from services.bookings import allocator, board, calendar, changes, choice, deposits, domain, freed, sale, times
from services.bookings import plan as plans
from services.bookings.allocator import Faster, Taken
from services.bookings.asking import check_asked, question_asked
from services.bookings.assignments import rota
from services.bookings.availability import HORIZON_DAYS
from services.bookings.choice import Given
from services.bookings.common import refuse_if
from services.bookings.freed import How
from services.bookings.models import staff
from services.bookings.plan import Compiled, Line, Question
from services.bookings.resources import stock
from services.bookings.rows import (
    OVERRIDE,
    READ,
    SELECT,
    SELECT_FOR_UPDATE,
    WRITE,
    count,
    locked,
    moment_of,
    project_booking,
    stored_lines,
    to_booking,
    told,
    write,
)
from services.bookings.times import Times

# What is asked of a booking as a row is in rows.py; these are taken from here as well.
__all__ = [
    "OVERRIDE",
    "READ",
    "SELECT",
    "WRITE",
    "count",
    "locked",
    "moment_of",
    "project_booking",
    "stored_lines",
    "to_booking",
    "told",
    "write",
]

MOST_ATTEMPTS = 50
MOST_RENEWALS = 6

KNOWN_STAFF = prepare(
    sa.select(staff.c.id).where(staff.c.chain_id == sa.bindparam("chain_id"), staff.c.id == sa.bindparam("id"))
)


# --- making ---


async def create(request: pb.CreateBookingRequest, unit: Unit, **columns: Any) -> pb.Booking:
    """Book a time, or hold it; `columns` are set beside what the request says.

    Raises Refusal SLOT_TAKEN, NOT_BOOKABLE, CUSTOMER_BUSY, NOT_FOUND, PERMISSION_DENIED.
    """
    starts_at = moment_of(request.starts_at)
    check_asked(request, unit, starts_at)
    package = await sale.package_asked(unit, request)
    question = question_asked(request, package)
    found = await times.read(unit, question, anchor_of(unit, starts_at))
    await check_time(unit, found, starts_at)
    step = calendar.last_step(starts_at) - found.window.first_step
    for _ in range(MOST_ATTEMPTS):
        given = await choice.choose(unit, found, step)
        if given is None and request.HasField("overbook_reason"):
            given = await choice.overbook(unit, found, step)
        if given is None:
            break
        taken = given.taken()
        await expire_in_the_way(unit, found, taken)
        values = new_values(request, unit, found, given, package) | columns
        lost = await allocator.claim(unit, values, taken, found.board.versions)
        if not lost:
            if given.is_by_turn and given.staff_id is not None:
                await rota.take_turn(unit, found.board, given.starts_at, given.staff_id)
            return made(unit, values)
        # Somebody was faster: their time is not free any more.
        for each in taken:
            if each.resource_id in lost:
                busy = found.busy.get(each.resource_id, 0)
                found.busy[each.resource_id] = busy | found.window.span(each.first, each.last)
        if unit.is_repeatable and await choice.choose(unit, found, step) is not None:
            raise Faster("somebody else was faster")
    raise await _refusal(unit, found, starts_at)


def anchor_of(unit: Unit, starts_at: datetime) -> datetime:
    """The moment around which time is read: the start, or the closest to it that could be booked at all."""
    return min(max(starts_at, unit.now), unit.now + timedelta(days=HORIZON_DAYS))


async def check_time(unit: Unit, found: Times, starts_at: datetime, reading: times.Reading | None = None) -> None:
    """Refuse NOT_BOOKABLE what cannot be booked whoever is free."""
    if found.reason is not None and found.reason.startswith("staff_"):
        await check_staff_known(unit, found)
    reason = reason_against(found, starts_at, unit.now, offered_only=changes.is_customer(unit.caller))
    if reason is not None:
        raise domain.not_bookable(reason, await times.nearest(unit, found.question, starts_at, reading))


def reason_against(found: Times, starts_at: datetime, now: datetime, *, offered_only: bool = False) -> str | None:
    """Why a time cannot be booked whoever is free; None when it can. `offered_only`: what is not offered cannot."""
    if found.reason is not None:
        return found.reason
    if starts_at < now:
        return "past"
    if starts_at < found.earliest(now):
        return "lead_time"
    if starts_at > found.latest(now):
        return "too_far"
    step = calendar.last_step(starts_at) - found.window.first_step
    ruled = offered_only or plans.channel_rule(found.board, found.question.source) is not None
    if ruled and not any(found.grid(plan) >> step & 1 for plan in found.compiled.plans):
        return "off_grid"
    reason, _ = choice.reason_of_time(found, step)
    return "orphan_gap" if reason is None and ruled and found.leaves_gap(step) else reason


async def check_staff_known(unit: Unit, found: Times) -> None:
    """Raise Refusal NOT_FOUND for a person named who is nobody's."""
    for line in found.question.lines:
        is_unknown = line.staff_id is not None and line.staff_id not in found.board.people
        if is_unknown and not await unit.value(KNOWN_STAFF, id=line.staff_id):
            raise not_found("staff", f"{line.field}staff_id")


async def _refusal(unit: Unit, found: Times, starts_at: datetime, reading: times.Reading | None = None) -> Refusal:
    step = calendar.last_step(starts_at) - found.window.first_step
    if choice.is_only_customer_busy(found, step):
        return Refusal("CUSTOMER_BUSY")
    return domain.slot_taken(await times.nearest(unit, found.question, starts_at, reading))


async def expire_in_the_way(unit: Unit, found: Times, wanted: Sequence[Taken]) -> None:
    """Let go of holds that ran out and still stand in a time that somebody else wants now."""
    ids = {
        booking_id
        for booking_id, taken in found.holds
        if any(
            taken.resource_id == each.resource_id and taken.first < each.last and each.first < taken.last
            for each in wanted
        )
    }
    if ids:
        await expire(unit, sorted(ids), How.TAKEN)


async def expire(unit: Unit, ids: list[str], how: How = How.OVER) -> int:
    """Expire those of these bookings whose hold ran out; answers how many that were."""
    rows = await allocator.expire(unit, ids)
    for row in rows:
        unit.emit(pb.BookingExpired(booking_id=row["id"], booking=project_booking(row)), row["expires_at"])
        count(unit, "expired")
        await freed.tell(unit, row, how)
    return len(rows)


def new_values(
    request: pb.CreateBookingRequest,
    unit: Unit,
    found: Times,
    given: Given,
    package: sale.SoldPackage | None = None,
) -> dict[str, Any]:
    """The columns of a new booking, as it is sold now."""
    board = found.board
    sold = sale.sell(board, given, request.customer_id.lower(), package)
    first = given.plan.lines[0].service
    waived = request.waive_deposit_reason if request.HasField("waive_deposit_reason") else None
    deposit = deposits.status_at_first(board.policy, sold.amounts.deposit, hold=request.hold, waived=waived is not None)
    is_held = request.hold or deposit == "pending"
    return {
        "id": new_id(),
        "branch_id": board.branch_id,
        "service_id": first.id,
        "customer_id": request.customer_id.lower(),
        "staff_id": given.staff_id,
        "status": "held" if is_held else "confirmed",
        "starts_at": given.starts_at,
        "ends_at": given.ends_at,
        "buffer_before_minutes": first.buffer_before_minutes,
        "buffer_after_minutes": first.buffer_after_minutes,
        **sold.columns(),
        "change_policy": board.policy.change.SerializeToString(),
        "currency": first.currency,
        "service_name": first.name,
        "time_zone": board.time_zone,
        "expires_at": unit.now + timedelta(minutes=board.policy.hold_minutes) if is_held else None,
        "deposit_status": deposit,
        "deposit_waived_reason": waived,
        "source": request.source or None,
        "note": request.note or None,
        "overlap_allowed": request.allow_overlap,
        "overbook_reason": request.overbook_reason if given.overbooked else None,
        "version": 1,
        "created_at": unit.now,
    }


def made(unit: Unit, values: Mapping[str, Any]) -> pb.Booking:
    """Tell of a new booking that was written; answers it as a message."""
    booking = project_booking(values)  # type: ignore[arg-type]
    event = pb.BookingHeld if values["status"] == "held" else pb.BookingConfirmed
    unit.emit(event(booking_id=booking.id, booking=booking))
    if values["deposit_status"] == "pending":
        deposits.ask(unit, values)
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


async def renew(request: pb.RenewHoldRequest, unit: Unit) -> pb.Booking:
    """Keep a held time for longer, counted from now. Raises Refusal HOLD_EXPIRED, RENEWED_TOO_OFTEN."""
    row, status = await locked(unit, request.id, "renew")
    if row["renewals"] >= MOST_RENEWALS:
        raise Refusal("RENEWED_TOO_OFTEN", times=MOST_RENEWALS)
    policy = (await board.of_branch(unit, row["branch_id"])).policy
    expires_at = unit.now + timedelta(minutes=policy.hold_minutes)
    changed = await write(unit, row, status=status, expires_at=expires_at, renewals=row["renewals"] + 1)
    await allocator.keep(unit, row["id"], expires_at)
    return told(unit, changed, pb.BookingHeld)


async def confirm(request: pb.ConfirmBookingRequest, unit: Unit) -> pb.Booking:
    """Confirm a held booking, or have its deposit set aside first.

    Raises Refusal HOLD_EXPIRED when its hold ran out, even if nobody else took the time.
    """
    row, _ = await locked(unit, request.id, "confirm")
    if row["deposit_status"] == "pending":
        return project_booking(row)
    if row["deposit_status"] == "due":
        return await _ask_deposit(unit, row)
    return await agree(unit, row)


async def _ask_deposit(unit: Unit, row: asyncpg.Record) -> pb.Booking:
    """Ask for the deposit of a held booking, and keep its time for as long as a hold lasts meanwhile."""
    policy = (await board.of_branch(unit, row["branch_id"])).policy
    expires_at = unit.now + timedelta(minutes=policy.hold_minutes)
    changed = await write(unit, row, expires_at=expires_at, deposit_status="pending")
    await allocator.keep(unit, row["id"], expires_at)
    booking = told(unit, changed, pb.BookingHeld)
    deposits.ask(unit, changed)
    return booking


async def agree(unit: Unit, row: asyncpg.Record, **columns: Any) -> pb.Booking:
    """Confirm a locked booking that is held; `columns` change with it."""
    changed = await write(unit, row, status="confirmed", expires_at=None, **columns)
    await allocator.keep(unit, row["id"])
    count(unit, "confirmed")
    await freed.tell(unit, row, How.AGREED)
    return told(unit, changed, pb.BookingConfirmed)


async def cancel(request: pb.CancelBookingRequest, unit: Unit) -> pb.Booking:
    """Cancel a held or confirmed booking and free its time. Raises Refusal FEE_DUE."""
    row, _ = await locked(unit, request.id, "cancel")
    return await call_off(unit, row, request.reason or None, changes.on_cancel(unit, row, request))


async def call_off(unit: Unit, row: asyncpg.Record, reason: str | None, cost: changes.Cost) -> pb.Booking:
    """Cancel a locked booking that is held or confirmed, at a cost."""
    changed = await write(
        unit, row, status="cancelled", expires_at=None, cancel_reason=reason, cancelled_at=unit.now, **cost.columns
    )
    await allocator.release(unit, [row["id"]])
    count(unit, "cancelled")
    notice_minutes = domain.notice_minutes(unit.now, row["starts_at"])
    was_held = row["status"] == "held"
    booking = told(unit, changed, pb.BookingCancelled, was_held=was_held, notice_minutes=notice_minutes, **cost.told)
    if cost.kept_amount is not None:
        deposits.settle(unit, changed, cost.kept_amount)
    await freed.tell(unit, row, How.OVER)
    return booking


async def let_go(unit: Unit, booking_id: str) -> None:
    """Give back a hold that nobody wants any more, at no cost; nothing when it is no hold."""
    row = await unit.one(SELECT_FOR_UPDATE, id=booking_id)
    if row is None or row["status"] != "held":
        return
    if row["expires_at"] <= unit.now:
        await expire(unit, [booking_id])
    else:
        await call_off(unit, row, None, changes.free_of_charge(row))


async def reschedule(request: pb.RescheduleBookingRequest, unit: Unit) -> pb.Booking:
    """Move a booking to another time, person, or both; it keeps what it has when that is taken.

    Raises Refusal SLOT_TAKEN, NOT_BOOKABLE, CUSTOMER_BUSY, FEE_DUE.
    """
    starts_at = moment_of(request.starts_at)
    if not calendar.is_on_step(starts_at):
        refuse_if([domain.off_step_error("starts_at")])
    row, status = await locked(unit, request.id, "reschedule")
    cost = changes.on_reschedule(unit, row, request)
    wanted = request.staff_id.lower() if request.HasField("staff_id") else None
    counted = {"status": status, "change_count": row["change_count"] + 1}
    changed = await move_to(unit, row, starts_at, wanted, **counted, **cost.columns)
    return told(
        unit,
        changed,
        pb.BookingRescheduled,
        previous_starts_at=row["starts_at"],
        previous_staff_id=row["staff_id"],
        **cost.told,
    )


async def move_to(
    unit: Unit, row: asyncpg.Record, starts_at: datetime, staff_id: str | None, **changes: Any
) -> asyncpg.Record:
    """Give a booking that is locked another time, another leading person, or both; answers it as it is then.

    Everybody and everything else it has is kept where they are free. What else is changed is given by column. Raises
    Refusal SLOT_TAKEN, NOT_BOOKABLE, CUSTOMER_BUSY; the booking keeps what it has then.
    """
    if row["class_session_id"] is not None:
        raise Refusal("SEAT_IN_CLASS")
    lines = stored_lines(row)
    question = question_of(row, lines, staff_id)
    old = await allocator.of_booking(unit, row["id"])
    found, given = await find_other(unit, question, lines, old, starts_at)
    taken = given.taken()
    await board.hold(unit, found.board)
    await expire_in_the_way(unit, found, taken)
    if await allocator.move(unit, row["id"], old, taken, row["expires_at"]):
        raise domain.slot_taken(await times.nearest(unit, question, starts_at, _reading(unit, question, lines, old)))
    moved = pb.BookingLines(lines=choice.moved_lines(lines, given)).SerializeToString()
    given_to = {"staff_id": given.staff_id, "starts_at": given.starts_at, "ends_at": given.ends_at, "lines": moved}
    changed = await write(unit, row, **given_to, **changes)
    await freed.tell(unit, row, How.MOVED)
    return changed


async def find_other(
    unit: Unit, question: Question, lines: Sequence[pb.BookingLine], old: Sequence[Taken], starts_at: datetime
) -> tuple[Times, Given]:
    """Who and what those lines, as they were sold, get at another time; the old time counts as free.

    Raises Refusal SLOT_TAKEN, NOT_BOOKABLE, CUSTOMER_BUSY.
    """
    reading = _reading(unit, question, lines, old)
    found = await read_other(unit, question, lines, old, anchor_of(unit, starts_at))
    await check_time(unit, found, starts_at, reading)
    step = calendar.last_step(starts_at) - found.window.first_step
    kept = [assigned.id for line in lines for assigned in line.assignments]
    given = await choice.choose(unit, found, step, kept)
    if given is None:
        raise await _refusal(unit, found, starts_at, reading)
    return found, given


def _reading(unit: Unit, question: Question, lines: Sequence[pb.BookingLine], old: Sequence[Taken]) -> times.Reading:
    """What is offered instead is offered to those lines, too."""
    return lambda earliest, latest: read_other(unit, question, lines, old, earliest, latest)


async def read_other(
    unit: Unit,
    question: Question,
    lines: Sequence[pb.BookingLine],
    old: Sequence[Taken],
    earliest: datetime,
    latest_end: datetime | None = None,
) -> Times:
    """What is free for those lines, as they were sold, from a moment on; the old time counts as free."""
    known = await board.of_branch(unit, question.branch_id)
    plan = plans.of_booking(known, question, lines)
    found = await times.read(unit, question, earliest, latest_end, plan=plan)
    found.compiled = Compiled((plan,), choice.reason_to_stay(found.board, question))
    for each in old:
        if each.guarded and each.resource_id in found.busy:
            found.busy[each.resource_id] &= ~found.window.span(each.first, each.last)
    return found


def question_of(row: asyncpg.Record, lines: Sequence[pb.BookingLine], staff_id: str | None = None) -> Question:
    """What a booking would be asked for with now; its first line with another person, or the one it has."""
    asked = tuple(
        Line(
            service_id=line.service_id,
            customer_id=line.customer_id or None,
            staff_id=(staff_id or row["staff_id"]) if index == 0 else None,
            together=line.together,
            guest_name=line.guest_name if line.HasField("guest_name") else None,
        )
        for index, line in enumerate(lines)
    )
    return Question(row["branch_id"], asked, row["customer_id"], None, row["overlap_allowed"])


async def check_in(request: pb.CheckInBookingRequest, unit: Unit) -> pb.Booking:
    """The customer is there."""
    row, status = await locked(unit, request.id, "check_in")
    changed = await write(unit, row, status=status)
    count(unit, status)
    return told(unit, changed, pb.BookingCheckedIn)


async def start(request: pb.StartBookingRequest, unit: Unit) -> pb.Booking:
    """The service begins."""
    row, status = await locked(unit, request.id, "start")
    changed = await write(unit, row, status=status)
    count(unit, status)
    return told(unit, changed, pb.BookingStarted)


async def complete(request: pb.CompleteBookingRequest, unit: Unit) -> pb.Booking:
    """The service is done; what is left of its time is free again. It counts on the day of the appointment."""
    row, status = await locked(unit, request.id, "complete")
    changed = await write(unit, row, status=status)
    await _free_the_rest(unit, row)
    await stock.take_materials(unit, row, stored_lines(row))
    count(unit, status)
    return told(unit, changed, pb.BookingCompleted, min(row["starts_at"], unit.now))


async def mark_no_show(request: pb.MarkNoShowRequest, unit: Unit) -> pb.Booking:
    """The customer did not come. It counts on the day of the appointment, or today when that is still to come."""
    row, status = await locked(unit, request.id, "mark_no_show")
    cost = changes.on_no_show(unit, row, request)
    changed = await write(unit, row, status=status, **cost.columns)
    await allocator.release(unit, [row["id"]])
    count(unit, status)
    booking = told(unit, changed, pb.BookingMissed, min(row["starts_at"], unit.now), **cost.told)
    if cost.kept_amount is not None:
        deposits.settle(unit, changed, cost.kept_amount)
    await freed.tell(unit, row, How.OVER)
    return booking


async def _free_the_rest(unit: Unit, row: asyncpg.Record) -> None:
    """Give back what a service that ended early did not need.

    People still have the time after it to clean up, and what is lent the time to come back.
    """
    if row["starts_at"] >= unit.now:
        await allocator.release(unit, [row["id"]])
        return
    after: dict[str, int] = {}
    for line in stored_lines(row):
        for each in line.assignments:
            seconds = max((stretch.ends_at.seconds for stretch in each.taken), default=0) - line.ends_at.seconds
            after[each.id] = max(after.get(each.id, 0), seconds // calendar.STEP_SECONDS)
    await allocator.shorten(unit, row["id"], calendar.first_step(unit.now), after)
