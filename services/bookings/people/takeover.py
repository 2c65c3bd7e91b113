"""Who could take over what somebody does in a booking, and having them do it: the time stays, the person changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from foyer.bookings.v1 import bookings_pb2, people_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import FieldError, invalid, not_found
from chassis.unit import Unit
from services.bookings import (
    allocator,
    assignment,
    availability,
    board,
    booking,
    calendar,
    domain,
    freed,
    rows,
    times,
)
from services.bookings import plan as plans
from services.bookings.allocator import Taken
from services.bookings.availability import Need
from services.bookings.board import Board
from services.bookings.common import refuse_if
from services.bookings.freed import How
from services.bookings.plan import Plan
from services.bookings.times import Times

MOST_PROPOSED = 5
MOST_OTHER_TIMES = 3
# How far other times are looked for: days before and after the time in which the person is away.
OTHER_DAYS_BEFORE, OTHER_DAYS_AFTER = 7, 14

Lines = Sequence[bookings_pb2.BookingLine]


@dataclass(frozen=True, slots=True)
class Part:
    """What somebody does in a booking."""

    staff_id: str
    keys: frozenset[str]
    """The needs they serve: line and name, as in plans."""
    plan: Plan
    """The visit with one need only: somebody else who can do all of it."""

    @property
    def need(self) -> Need:
        """That need."""
        return self.plan.needs[0]


def part_of(known: Board, row: asyncpg.Record, lines: Lines, staff_id: str, name: str | None = None) -> Part | None:
    """What somebody does in a booking, or as the need of this name only; None: nothing."""
    sold = plans.of_booking(known, booking.question_of(row, lines), lines)
    mine = [
        need
        for need in sold.needs
        if need.kind == plans.STAFF
        and name in (None, need.name)
        and any(each.need == need.name and each.id == staff_id for each in lines[need.line].assignments)
    ]
    if not mine:
        return None
    pool = [each for each in mine[0].pool if each != staff_id and all(each in need.pool for need in mine)]
    skills = dict.fromkeys(skill for need in mine for skill in need.skills)
    pattern = plans.merged(stretch for need in mine for stretch in need.pattern)
    whole = Need(mine[0].key, plans.STAFF, tuple(pool), 1, pattern, (), tuple(skills))
    return Part(staff_id, frozenset(need.key for need in mine), replace(sold, needs=(whole,), lead=0))


def _could_begin(free: int, part: Part, step: int) -> bool:
    return bool(availability.possible_starts(free, part.need.pattern) >> step & 1)


# --- proposals ---


async def propose(
    unit: Unit, row: asyncpg.Record, staff_id: str, away: tuple[datetime, datetime]
) -> tuple[list[str], list[bookings_pb2.Slot]]:
    """Who could take over a booking of somebody who is away, best first; when nobody can, other times with them."""
    lines = rows.stored_lines(row)
    known = await board.of_branch(unit, row["branch_id"])
    part = part_of(known, row, lines, staff_id)
    if part is None:
        return [], []
    question = booking.question_of(row, lines)
    found = await times.read(unit, question, row["starts_at"], plan=part.plan)
    step = calendar.last_step(row["starts_at"]) - found.window.first_step
    able = [each for each in part.need.pool if _could_begin(found.free(part.need, each), part, step)]
    if able:
        ranking = await assignment.rank(unit, found, part.need, able, step)
        return ranking.ids[:MOST_PROPOSED], []
    return [], await _other_times(unit, row, lines, part, away)


async def _other_times(
    unit: Unit, row: asyncpg.Record, lines: Lines, part: Part, away: tuple[datetime, datetime]
) -> list[bookings_pb2.Slot]:
    """The nearest times outside of `away` at which the whole booking could be with the same person."""
    question = booking.question_of(row, lines)
    sold = plans.of_booking(await board.of_branch(unit, row["branch_id"]), question, lines)
    needs = tuple(
        replace(need, chosen=(part.staff_id,) if need.key in part.keys else need.chosen) for need in sold.needs
    )
    same = replace(sold, needs=needs)
    starts_at, ends_at = away
    windows = (
        (max(starts_at - timedelta(days=OTHER_DAYS_BEFORE), unit.now), starts_at),
        (max(ends_at, unit.now), ends_at + timedelta(days=OTHER_DAYS_AFTER)),
    )
    horizon = unit.now + timedelta(days=availability.HORIZON_DAYS)
    offers = []
    for earliest, latest in windows:
        if earliest < min(latest, horizon):
            found = await times.read(unit, question, earliest, latest, plan=same)
            offers += found.offers(earliest, latest, unit.now)
    wanted = calendar.last_step(row["starts_at"])
    offers.sort(key=lambda offer: (abs(offer[0] - wanted), offer[0]))
    return times.slot_messages([(step, length, [part.staff_id]) for step, length, _ in offers[:MOST_OTHER_TIMES]])


# --- doing it ---


async def reassign(request: people_pb2.ReassignBookingRequest, unit: Unit) -> bookings_pb2.Booking:
    """Have somebody else do a booking, or a part of it, at the same time.

    Raises Refusal NOT_FOUND, WRONG_STATE, NOT_BOOKABLE, SLOT_TAKEN, INVALID_REQUEST, PRECONDITION_FAILED.
    """
    row, status = await rows.locked(unit, request.id, "reassign")
    if row["class_session_id"] is not None:
        raise domain.not_bookable("in_class", [])
    staff_id = request.staff_id.lower()
    previous_id = _previous(request, row, rows.stored_lines(row))
    if staff_id == previous_id:
        refuse_if([FieldError("staff_id", "same", "does it already", "该员工已负责此预约")])
    field = "previous_staff_id" if request.previous_staff_id else "need"
    return await hand_over(unit, row, status, previous_id, staff_id, request.need or None, field)


async def hand_over(
    unit: Unit,
    row: asyncpg.Record,
    status: str,
    previous_id: str,
    staff_id: str,
    need: str | None = None,
    field: str = "staff_id",
) -> bookings_pb2.Booking:
    """Have somebody else do what one does in a locked booking, or in one need of it; `field` named what is not there.

    Raises Refusal NOT_FOUND, NOT_BOOKABLE, SLOT_TAKEN.
    """
    lines = rows.stored_lines(row)
    known = await board.of_branch(unit, row["branch_id"])
    part = part_of(known, row, lines, previous_id, need)
    if part is None:
        raise not_found("part of the booking", field)
    leads = row["staff_id"] == previous_id
    question = booking.question_of(row, lines, staff_id if leads else None)
    found = await times.read(unit, question, row["starts_at"], plan=part.plan)
    await _check(unit, row, found, part, staff_id)
    moved = _handed_over(lines, part, staff_id, _considered(found, part, row))
    old = await allocator.of_booking(unit, row["id"])
    new = _taken(old, moved, (previous_id, staff_id))
    await board.hold(unit, found.board)
    await booking.expire_in_the_way(unit, found, [each for each in new if each.resource_id == staff_id])
    if await allocator.move(unit, row["id"], old, new, row["expires_at"]):
        raise domain.slot_taken(await times.nearest(unit, question, row["starts_at"]))
    changed = await rows.write(
        unit,
        row,
        status=status,
        staff_id=next((each.id for each in moved[0].assignments if each.is_staff), row["staff_id"]),
        lines=bookings_pb2.BookingLines(lines=moved).SerializeToString(),
    )
    await freed.tell(unit, row, How.MOVED)
    return rows.told(unit, changed, people_pb2.BookingReassigned, previous_staff_id=previous_id, staff_id=staff_id)


def _previous(request: people_pb2.ReassignBookingRequest, row: asyncpg.Record, lines: Lines) -> str:
    """From whom somebody takes over: who is named, who alone has the role, or who leads."""
    if request.HasField("previous_staff_id"):
        return request.previous_staff_id.lower()
    if request.HasField("need"):
        having = {each.id for line in lines for each in line.assignments if each.is_staff and each.need == request.need}
        if not having:
            raise not_found("need", "need")
        if len(having) == 1:
            return next(iter(having))
    elif row["staff_id"] is not None:
        staff_id: str = row["staff_id"]
        return staff_id
    message = "is required: several people could be meant, or nobody leads"
    raise invalid(FieldError("previous_staff_id", "required", message, "必填：无法确定由谁转出"))


async def _check(unit: Unit, row: asyncpg.Record, found: Times, part: Part, staff_id: str) -> None:
    """Refuse what cannot be: NOT_FOUND, NOT_BOOKABLE, SLOT_TAKEN."""
    person = found.board.people.get(staff_id)
    step = calendar.last_step(row["starts_at"]) - found.window.first_step
    reason: str | None = None
    if row["ends_at"] <= unit.now:
        reason = "past"
    elif person is None or not person.here:
        if person is None and not await unit.value(booking.KNOWN_STAFF, id=staff_id):
            raise not_found("staff", "staff_id")
        reason = "staff_elsewhere"
    elif not person.active:
        reason = "staff_left"
    elif staff_id not in part.need.pool or _has_expired(found, part, staff_id, row["starts_at"]):
        reason = "staff_unable"
    elif not _could_begin(found.there(part.need, staff_id), part, step):
        reason = "off_shift"
    nearest: list[Any] = []
    if reason in ("off_shift", None):
        if reason is None and _could_begin(found.free(part.need, staff_id), part, step):
            return
        nearest = await times.nearest(unit, found.question, row["starts_at"])
    raise domain.slot_taken(nearest) if reason is None else domain.not_bookable(reason, nearest)


def _has_expired(found: Times, part: Part, staff_id: str, starts_at: datetime) -> bool:
    day = calendar.local_today(starts_at, found.board.time_zone)
    return found.board.people[staff_id].able_until(part.need.skills) < (day - calendar.EPOCH).days


def _considered(found: Times, part: Part, row: asyncpg.Record) -> int:
    """How many could have taken over."""
    step = calendar.last_step(row["starts_at"]) - found.window.first_step
    return sum(_could_begin(found.free(part.need, each), part, step) for each in part.need.pool)


def _handed_over(lines: Lines, part: Part, staff_id: str, considered: int) -> list[bookings_pb2.BookingLine]:
    """The lines with another person in a part of them."""
    found = []
    for index, line in enumerate(lines):
        moved = bookings_pb2.BookingLine()
        moved.CopyFrom(line)
        for each in moved.assignments:
            if each.id == part.staff_id and f"{index}.{each.need}" in part.keys:
                each.id = staff_id
                each.chosen = True
                each.strategy = assignment.CHOSEN
                each.ClearField("score")
                each.considered = considered
        found.append(moved)
    return found


def _taken(old: Sequence[Taken], lines: Lines, changed: tuple[str, ...]) -> list[Taken]:
    """The time of a booking: as it was, for those who changed as the lines say now."""
    found = [each for each in old if each.resource_id not in changed]
    for identifier in changed:
        guarded = all(each.guarded for each in old if each.resource_id == identifier)
        stretches = plans.merged(
            (_step(stretch.starts_at), _step(stretch.ends_at))
            for line in lines
            for each in line.assignments
            if each.id == identifier
            for stretch in each.taken
        )
        found += [Taken(identifier, first, last, guarded) for first, last in stretches]
    return found


def _step(stamp: Timestamp) -> int:
    return calendar.last_step(stamp.ToDatetime(tzinfo=UTC))
