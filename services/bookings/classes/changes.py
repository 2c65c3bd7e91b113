"""Changes of a session that reach everybody enrolled: it moves, or is called off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import classes_pb2

from chassis.codec import to_json
from chassis.db import prepare, prepare_sql
from chassis.errors import Refusal
from chassis.unit import Unit
from services.bookings import allocator, board, booking, choice, domain, times
from services.bookings.allocator import Move, Taken
from services.bookings.changes import free_of_charge
from services.bookings.choice import Given
from services.bookings.classes import sessions
from services.bookings.classes.enrolments import line_for, presence_of
from services.bookings.models import bookings
from services.bookings.plan import Line, Question
from services.bookings.rows import moment_of, told
from services.bookings.waiting import offering

# Enrolments are locked by id, and before their session, as everywhere.
LOCK_OPEN = prepare(
    sa.select(bookings)
    .where(
        bookings.c.chain_id == sa.bindparam("chain_id"),
        bookings.c.class_session_id == sa.bindparam("id"),
        bookings.c.status
        == sa.any_(sa.bindparam("open", ["held", "confirmed", "checked_in"], type_=sa.ARRAY(sa.Text()))),
    )
    .order_by(bookings.c.id)
    .with_for_update()
)
MOVE_ALL = prepare_sql(
    """
update bookings b set starts_at = $3::timestamptz, ends_at = $4::timestamptz, staff_id = $5::uuid, lines = w.lines,
  overlap_allowed = w.overlap_allowed, version = b.version + 1
from unnest($2::uuid[], $6::bytea[], $7::boolean[]) as w(id, lines, overlap_allowed)
where b.chain_id = $1::uuid and b.id = w.id
returning b.*
""",
    "chain_id",
    "ids",
    "starts_at",
    "ends_at",
    "staff_id",
    "lines",
    "overlaps",
)


async def _all_locked(unit: Unit, identifier: str) -> tuple[asyncpg.Record, list[asyncpg.Record]]:
    """A session and its open enrolments, all locked; those whose hold ran out are expired."""
    await unit.all(LOCK_OPEN, id=identifier)
    row = await sessions.locked(unit, identifier)
    # Who enrolled in between is seen now, and nobody can any more.
    enrolled = await unit.all(LOCK_OPEN, id=identifier)
    due = [each["id"] for each in enrolled if each["status"] == "held" and each["expires_at"] <= unit.now]
    if due:
        await booking.expire(unit, due)
    return row, [each for each in enrolled if each["id"] not in due]


async def cancel(request: classes_pb2.CancelClassSessionRequest, unit: Unit) -> classes_pb2.ClassSession:
    """Call a session off, and every enrolment that is not under way: it costs them nothing. Raises WRONG_STATE."""
    row, enrolled = await _all_locked(unit, request.id)
    reason = request.reason or None
    for each in enrolled:
        await booking.call_off(unit, each, reason, free_of_charge(each))
    await allocator.release(unit, [row["id"]])
    await sessions.write(unit, row, status="cancelled", cancel_reason=reason, cancelled_at=unit.now)
    session = sessions.to_session(await sessions.read(unit, row["id"]))  # the seats came back
    unit.emit(classes_pb2.ClassSessionCancelled(class_session_id=session.id, class_session=session))
    await offering.offer(unit, row["branch_id"], row["starts_at"], row["ends_at"])
    return session


# --- moving ---


@dataclass(slots=True)
class Moving:
    """An enrolment with the time it has and is to have."""

    row: asyncpg.Record
    old: list[Taken]
    new: Taken
    overlaps: bool
    """The customer is busy then, which was accepted."""

    @property
    def taken(self) -> list[Taken]:
        """The new time; one that overlaps takes no bits."""
        return [Taken(self.new.resource_id, self.new.first, self.new.last, not self.overlaps)]


async def reschedule(request: classes_pb2.RescheduleClassSessionRequest, unit: Unit) -> classes_pb2.ClassSession:
    """Move a session with everybody in it. Raises Refusal SLOT_TAKEN, NOT_BOOKABLE, CUSTOMERS_BUSY, WRONG_STATE."""
    starts_at = moment_of(request.starts_at)
    sessions.check_step(starts_at)
    row, enrolled = await _all_locked(unit, request.id)
    if row["starts_at"] <= unit.now:
        raise Refusal("WRONG_STATE", status="under way")
    line = sessions.line_of(row)
    staff_id = request.staff_id.lower() if request.HasField("staff_id") else row["staff_id"]
    question = Question(row["branch_id"], (Line(line.service_id, staff_id=staff_id),))
    old = await allocator.of_booking(unit, row["id"])
    found, given = await booking.find_other(unit, question, [line], old, starts_at)
    await board.hold(unit, found.board)
    await booking.expire_in_the_way(unit, found, given.taken())
    moving = await _moving(unit, row, enrolled, given)
    _check_accepted(request, moving)
    clashes = await allocator.lock(
        unit,
        [*old, *(taken for each in moving for taken in each.old)],
        [*given.taken(), *(taken for each in moving for taken in each.taken)],
    )
    if allocator.is_clashing(given.taken(), clashes):
        raise domain.slot_taken(await times.nearest(unit, question, starts_at))
    for each in moving:
        each.overlaps = each.overlaps or allocator.is_clashing(each.taken, clashes)
    _check_accepted(request, moving)
    await allocator.swap(
        unit,
        [
            Move(row["id"], old, given.taken()),
            *(Move(each.row["id"], each.old, each.taken, each.row["expires_at"]) for each in moving),
        ],
    )
    return await _moved(unit, row, moving, given)


async def _moving(unit: Unit, row: asyncpg.Record, enrolled: Sequence[asyncpg.Record], given: Given) -> list[Moving]:
    """Every enrolment with its new time, and whether its customer is busy then."""
    first, last = given.start, given.start + given.plan.duration
    had = await allocator.of_bookings(unit, [each["id"] for each in enrolled])
    customer_ids = list(dict.fromkeys(each["customer_id"] for each in enrolled))
    present = await times.read(
        unit,
        Question(row["branch_id"], ()),
        booking.anchor_of(unit, given.starts_at),
        plan=presence_of(row, customer_ids),
    )
    span = present.window.span(first, last)
    moving: list[Moving] = []
    there: set[str] = set()
    for each in enrolled:
        customer_id, old = each["customer_id"], had[each["id"]]
        mine = sum(present.window.span(taken.first, taken.last) for taken in old if taken.guarded)
        is_busy = bool(present.busy.get(customer_id, 0) & ~mine & span) or customer_id in there
        there.add(customer_id)
        moving.append(Moving(each, old, Taken(customer_id, first, last), is_busy))
    await booking.expire_in_the_way(unit, present, [each.new for each in moving if not each.overlaps])
    return moving


def _check_accepted(request: classes_pb2.RescheduleClassSessionRequest, moving: Sequence[Moving]) -> None:
    conflicts = [
        classes_pb2.EnrolmentConflict(booking_id=each.row["id"], customer_id=each.row["customer_id"])
        for each in moving
        if each.overlaps
    ]
    if conflicts and not request.accept_conflicts:
        members = {"conflicts": [to_json(conflict) for conflict in conflicts]}
        raise Refusal("CUSTOMERS_BUSY", members=members, count=len(conflicts))


async def _moved(unit: Unit, row: asyncpg.Record, moving: Sequence[Moving], given: Given) -> classes_pb2.ClassSession:
    """Write down and tell that a session moved."""
    (line,) = choice.moved_lines([sessions.line_of(row)], given)
    lines = [line_for(line, each.row["customer_id"], each.row["seats"]) for each in moving]
    changed = await unit.all(
        MOVE_ALL,
        ids=[each.row["id"] for each in moving],
        starts_at=given.starts_at,
        ends_at=given.ends_at,
        staff_id=given.staff_id,
        lines=[pb.BookingLines(lines=[own]).SerializeToString() for own in lines],
        overlaps=[each.overlaps for each in moving],
    )
    before = {"previous_starts_at": row["starts_at"], "previous_staff_id": row["staff_id"]}
    for each in sorted(changed, key=lambda enrolment: str(enrolment["id"])):
        told(unit, each, pb.BookingRescheduled, **before)
    written = await sessions.write(
        unit,
        row,
        staff_id=given.staff_id,
        starts_at=given.starts_at,
        ends_at=given.ends_at,
        line=line.SerializeToString(),
    )
    session = sessions.to_session(written)
    unit.emit(classes_pb2.ClassSessionRescheduled(class_session_id=session.id, class_session=session, **before))
    await offering.offer(unit, row["branch_id"], row["starts_at"], row["ends_at"])
    return session
