"""Who walks in: a number, an estimate of when it is their turn, and a booking when it is."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2
from foyer.bookings.v1 import front_desk_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.db import prepare, prepare_sql
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.rows import projector
from chassis.unit import Absent, Unit
from services.bookings import availability, booking, calendar, choice, domain, nights, times
from services.bookings import board as boards
from services.bookings.asking import lines_asked
from services.bookings.common import refuse_if
from services.bookings.desk.models import walk_ins
from services.bookings.plan import Question
from services.bookings.rows import READ, WRITE, moment_of
from services.bookings.times import WALK_IN, Times

LONGEST_WAIT = timedelta(hours=12)

# Numbers of a branch are given one after the other.
IN_LINE = prepare_sql("select pg_advisory_xact_lock(hashtext('walk_ins'), hashtext($1))", "branch_id")
INSERT = prepare_sql(
    """
insert into walk_ins (chain_id, id, branch_id, day, number, customer_id, name, lines, status, version, created_at)
select $1::uuid, $2::uuid, $3::uuid, $4::date, coalesce((
  select max(number) from walk_ins where chain_id = $1::uuid and branch_id = $3::uuid and day = $4::date
), 0) + 1, $5::uuid, $6::text, $7::bytea, 'waiting', 1, $8::timestamptz
returning *
""",
    "chain_id",
    "id",
    "branch_id",
    "day",
    "customer_id",
    "name",
    "lines",
    "created_at",
)
WAITING = prepare_sql(
    """
select * from walk_ins
where chain_id = $1::uuid and branch_id = $2::uuid and day = $3::date and status = 'waiting'
order by number limit 100
""",
    "chain_id",
    "branch_id",
    "day",
)
_one = sa.and_(walk_ins.c.chain_id == sa.bindparam("chain_id"), walk_ins.c.id == sa.bindparam("id"))
SELECT = prepare(sa.select(walk_ins).where(_one))
LOCK = prepare(sa.select(walk_ins).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(walk_ins)
    .where(_one)
    .values(
        status=sa.bindparam("new_status"),
        booking_id=sa.bindparam("new_booking_id"),
        customer_id=sa.bindparam("new_customer_id"),
        version=walk_ins.c.version + 1,
    )
    .returning(walk_ins)
)

to_walk_in = projector(
    pb.WalkIn, lines=lambda row: bookings_pb2.SearchAvailabilityRequest.FromString(row["lines"]).lines
)


async def add(request: pb.AddWalkInRequest, unit: Unit) -> pb.WalkIn:
    """Take somebody into the queue. Raises Refusal NOT_FOUND, INVALID_REQUEST."""
    branch_id = request.branch_id.lower()
    unit.check_branch(branch_id, WRITE)
    customer_id = request.customer_id.lower() if request.HasField("customer_id") else None
    question = Question(branch_id, lines_asked(request.lines), customer_id, WALK_IN)
    found = await times.read(unit, question, unit.now)
    if not request.HasField("customer_id") and not request.HasField("name"):
        refuse_if([FieldError("name", "required", "is required, or a customer is", "必填，或填写 customer_id")])
    if found.reason is not None:
        await booking.check_staff_known(unit, found)
        english, chinese = domain.REASONS[found.reason]
        refuse_if([FieldError("lines", found.reason, english, chinese)])
    values = {
        "id": new_id(),
        "branch_id": branch_id,
        "day": nights.today(found.board, unit.now),
        "customer_id": customer_id,
        "name": request.name if request.HasField("name") else None,
        "lines": bookings_pb2.SearchAvailabilityRequest(lines=request.lines).SerializeToString(),
        "created_at": unit.now,
    }
    await unit.run(IN_LINE, branch_id=branch_id)
    row = await unit.one(INSERT, **values)
    assert row is not None
    unit.emit(pb.WalkInAdded(walk_in_id=row["id"], branch_id=branch_id, number=row["number"]))
    return await _with_estimate(unit, row)


async def queue(request: pb.GetQueueRequest, unit: Unit) -> pb.Queue:
    """Who waits at a branch, each with an estimate."""
    branch_id = request.branch_id.lower()
    unit.check_branch(branch_id, READ)
    return pb.Queue(walk_ins=await _estimated(unit, branch_id))


async def get(request: pb.GetWalkInRequest, unit: Unit) -> pb.WalkIn:
    """Read somebody in the queue. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("walk_in", "id")
    unit.check_branch(row["branch_id"], READ)
    return await _with_estimate(unit, row)


async def _with_estimate(unit: Unit, row: asyncpg.Record) -> pb.WalkIn:
    if row["status"] == "waiting":
        for walk_in in await _estimated(unit, row["branch_id"]):
            if walk_in.id == row["id"]:
                return walk_in
    return to_walk_in(row)


async def _estimated(unit: Unit, branch_id: str) -> list[pb.WalkIn]:
    """The queue, with the time at which each can begin when those before them are given theirs."""
    board = await boards.of_branch(unit, branch_id)
    day = nights.today(board, unit.now)
    rows = await unit.all(WAITING, branch_id=branch_id, day=day)
    given_before: dict[str, list[tuple[int, int]]] = {}
    found = []
    for place, row in enumerate(rows):
        walk_in = to_walk_in(row)
        walk_in.ahead_count = place
        try:
            start = await _first_start(unit, row, given_before)
        except (Refusal, Absent):
            # What they want is not there any more: those after them can still be told when it is their turn.
            start = None
        if start is not None:
            walk_in.estimated_starts_at.FromDatetime(start)
            walk_in.estimated_wait_minutes = max(int((start - unit.now) / timedelta(minutes=1)), 0)
        found.append(walk_in)
    return found


async def _first_start(
    unit: Unit, row: asyncpg.Record, given_before: dict[str, list[tuple[int, int]]]
) -> datetime | None:
    """The first moment at which all that somebody wants is free; it is then given to them, for those who follow."""
    lines = bookings_pb2.SearchAvailabilityRequest.FromString(row["lines"]).lines
    question = Question(row["branch_id"], lines_asked(lines), row["customer_id"], WALK_IN)
    latest = unit.now + LONGEST_WAIT
    found = await times.read(unit, question, unit.now, latest)
    for identifier, stretches in given_before.items():
        for first, last in stretches:
            found.busy[identifier] = found.busy.get(identifier, 0) | found.window.span(first, last)
    step = _first_step(found, unit.now, latest)
    given = await choice.choose(unit, found, step) if step is not None else None
    if given is None:
        return None
    for taken in given.taken():
        given_before.setdefault(taken.resource_id, []).append((taken.first, taken.last))
    return given.starts_at


def _first_step(found: Times, now: datetime, latest: datetime) -> int | None:
    """The first step of the window at which any plan can begin, on any step of five minutes."""
    first = None
    for plan in found.compiled.plans:
        allowed = found.window.span(calendar.first_step(now), calendar.last_step(latest))
        together = found.starts(plan, allowed).together()
        steps = availability.steps_of(together & -together)
        if steps and (first is None or steps[0] < first):
            first = steps[0]
    return first


async def seat(request: pb.SeatWalkInRequest, unit: Unit) -> pb.WalkIn:
    """Book somebody from the queue and check them in.

    Raises Refusal WRONG_STATE, SLOT_TAKEN, NOT_BOOKABLE, CUSTOMER_BUSY, INVALID_REQUEST when nobody knows who they are.
    """
    row = await _locked(unit, request.id)
    customer_id = request.customer_id.lower() if request.HasField("customer_id") else row["customer_id"]
    if customer_id is None:
        message = "is required: say which customer they are"
        refuse_if([FieldError("customer_id", "required", message, "必填：请填写客户")])
    lines = list(bookings_pb2.SearchAvailabilityRequest.FromString(row["lines"]).lines)
    if request.HasField("staff_id"):
        lines[0].staff_id = request.staff_id.lower()
    asked = bookings_pb2.CreateBookingRequest(
        branch_id=row["branch_id"],
        customer_id=customer_id,
        starts_at=request.starts_at if request.HasField("starts_at") else _next_step(unit.now),
        lines=lines,
        source=WALK_IN,
    )
    # Who stands at the desk pays there: no deposit is set aside.
    made = await booking.create(asked, unit, status="confirmed", expires_at=None, deposit_status="none")
    await booking.check_in(bookings_pb2.CheckInBookingRequest(id=made.id), unit)
    changed = await _write(unit, row, "seated", booking_id=made.id, customer_id=customer_id)
    begins_at = moment_of(made.starts_at)
    waited = max(int((begins_at - row["created_at"]) / timedelta(minutes=1)), 0)
    unit.emit(
        pb.WalkInSeated(walk_in_id=row["id"], branch_id=row["branch_id"], booking_id=made.id, waited_minutes=waited)
    )
    return to_walk_in(changed)


def _next_step(now: datetime) -> Timestamp:
    return Timestamp(seconds=calendar.first_step(now) * calendar.STEP_SECONDS)


async def drop(request: pb.DropWalkInRequest, unit: Unit) -> pb.WalkIn:
    """Somebody went away. Raises Refusal WRONG_STATE."""
    row = await _locked(unit, request.id)
    changed = await _write(unit, row, "dropped")
    waited = int((unit.now - row["created_at"]) / timedelta(minutes=1))
    unit.emit(pb.WalkInDropped(walk_in_id=row["id"], branch_id=row["branch_id"], waited_minutes=waited))
    return to_walk_in(changed)


async def _locked(unit: Unit, identifier: str) -> asyncpg.Record:
    row = await unit.one(LOCK, id=identifier)
    if row is None:
        raise not_found("walk_in", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    if row["status"] != "waiting":
        raise Refusal("WRONG_STATE", status=row["status"])
    return row


async def _write(unit: Unit, row: asyncpg.Record, status: str, **changes: Any) -> asyncpg.Record:
    changed = await unit.one(
        UPDATE,
        id=row["id"],
        new_status=status,
        new_booking_id=changes.get("booking_id"),
        new_customer_id=changes.get("customer_id", row["customer_id"]),
    )
    assert changed is not None
    return changed
