"""Class sessions: planned, moved and called off. Their time goes through the allocator, with their id as its owner."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import classes_pb2

from chassis.db import prepare, time_type
from chassis.errors import Refusal, not_found
from chassis.ids import new_id
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import allocator, board, calendar, choice, domain, sale, times
from services.bookings.booking import MOST_ATTEMPTS, anchor_of, check_time, expire_in_the_way
from services.bookings.choice import Given
from services.bookings.classes.models import class_sessions
from services.bookings.common import refuse_if
from services.bookings.models import bookings
from services.bookings.plan import Line, Question
from services.bookings.rows import READ, moment_of
from services.bookings.times import Times

PLAN = "classes.write"
_one = sa.and_(class_sessions.c.chain_id == sa.bindparam("chain_id"), class_sessions.c.id == sa.bindparam("id"))
# Seats of holds that ran out: they count as taken until somebody wants them, and are free all the same.
overdue = sa.and_(
    bookings.c.chain_id == sa.bindparam("chain_id"),
    bookings.c.status == "held",
    bookings.c.expires_at <= sa.bindparam("now", type_=time_type()),
)
due_seats = (
    sa.select(sa.func.coalesce(sa.func.sum(bookings.c.seats), 0))
    .where(overdue, bookings.c.class_session_id == class_sessions.c.id)
    .correlate(class_sessions)
    .scalar_subquery()
)
CHANGED = ("name", "seats", "status", "staff_id", "starts_at", "ends_at", "line", "cancel_reason", "cancelled_at")
INSERT = prepare(sa.insert(class_sessions).returning(class_sessions))
SELECT = prepare(sa.select(class_sessions, due_seats.label("due")).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(class_sessions).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(class_sessions)
    .where(_one)
    .values(
        version=class_sessions.c.version + 1,
        **{name: sa.bindparam(f"new_{name}", type_=class_sessions.c[name].type) for name in CHANGED},
    )
    .returning(class_sessions)
)


def line_of(row: asyncpg.Record) -> pb.BookingLine:
    """The service as it is sold to each, with who and what the session got."""
    return pb.BookingLine.FromString(row["line"])


def free_seats(row: asyncpg.Record) -> int:
    """Seats that can be had: those of holds that ran out among them, where the row counts these."""
    free: int = row["seats"] - row["taken"] + row.get("due", 0)
    return free


to_session = projector(
    classes_pb2.ClassSession,
    assignments=lambda row: line_of(row).assignments,
    free_seats=free_seats,
)


async def create(request: classes_pb2.CreateClassSessionRequest, unit: Unit) -> classes_pb2.ClassSession:
    """Plan a session. Raises Refusal SLOT_TAKEN, NOT_BOOKABLE, NOT_FOUND."""
    starts_at = moment_of(request.starts_at)
    check_step(starts_at)
    line = Line(
        request.service_id.lower(),
        staff_id=request.staff_id.lower() if request.HasField("staff_id") else None,
        choices=tuple((wanted.need, wanted.id.lower()) for wanted in request.choices),
    )
    found = await times.read(unit, Question(request.branch_id.lower(), (line,)), anchor_of(unit, starts_at))
    await check_time(unit, found, starts_at)
    identifier = new_id()
    given = await _take(unit, found, starts_at, identifier)
    sold = sale.sell(found.board, given, "")
    service = given.plan.lines[0].service
    row = await unit.one(
        INSERT,
        id=identifier,
        branch_id=found.board.branch_id,
        service_id=service.id,
        name=request.name or service.name,
        staff_id=given.staff_id,
        status="scheduled",
        starts_at=given.starts_at,
        ends_at=given.ends_at,
        seats=request.seats,
        taken=0,
        line=sold.lines[0].SerializeToString(),
        price_amount=sold.amounts.total,
        currency=service.currency,
        deposit_amount=sold.amounts.deposit or None,
        time_zone=found.board.time_zone,
        cancel_reason=None,
        cancelled_at=None,
        version=1,
        created_at=unit.now,
    )
    assert row is not None
    session = to_session(row)
    unit.emit(classes_pb2.ClassSessionCreated(class_session_id=session.id, class_session=session))
    return session


def check_step(starts_at: datetime) -> None:
    """Raise Refusal INVALID_REQUEST for a start that is not on a step."""
    if not calendar.is_on_step(starts_at):
        refuse_if([domain.off_step_error("starts_at")])


async def _take(unit: Unit, found: Times, starts_at: datetime, owner_id: str) -> Given:
    """Take what a new session needs. Raises Refusal SLOT_TAKEN."""
    step = calendar.last_step(starts_at) - found.window.first_step
    await board.hold(unit, found.board)
    for _ in range(MOST_ATTEMPTS):
        given = await choice.choose(unit, found, step)
        if given is None:
            break
        taken = given.taken()
        await expire_in_the_way(unit, found, taken)
        lost = await allocator.move(unit, owner_id, (), taken, None)
        if not lost:
            return given
        for each in taken:
            if each.resource_id in lost:
                busy = found.busy.get(each.resource_id, 0)
                found.busy[each.resource_id] = busy | found.window.span(each.first, each.last)
    raise domain.slot_taken(await times.nearest(unit, found.question, starts_at))


async def get(request: classes_pb2.GetClassSessionRequest, unit: Unit) -> classes_pb2.ClassSession:
    """Read a session. Raises Refusal NOT_FOUND."""
    return to_session(await read(unit, request.id))


async def read(unit: Unit, identifier: str) -> asyncpg.Record:
    """The row of a session, with the seats of holds that ran out. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row = await unit.one(SELECT, id=identifier, now=unit.now)
    if row is None:
        raise not_found("class session", "id")
    unit.check_branch(row["branch_id"], READ)
    return row


async def locked(unit: Unit, identifier: str) -> asyncpg.Record:
    """A session that is to change, locked. Raises Refusal NOT_FOUND, PRECONDITION_FAILED, WRONG_STATE."""
    row = await unit.one(SELECT_FOR_UPDATE, id=identifier)
    if row is None:
        raise not_found("class session", "id")
    unit.check_branch(row["branch_id"], PLAN)
    unit.check_version(row["version"])
    check_scheduled(row)
    if row["ends_at"] <= unit.now:
        raise Refusal("WRONG_STATE", status="over")
    return row


def check_scheduled(row: asyncpg.Record) -> None:
    """Raise Refusal WRONG_STATE for a session that was called off."""
    if row["status"] != "scheduled":
        raise Refusal("WRONG_STATE", status=row["status"])


def seats_taken(row: asyncpg.Record) -> Refusal:
    """The refusal for seats that are not there."""
    total, free = row["seats"], free_seats(row)
    return Refusal("SEATS_TAKEN", members={"seats": {"total": total, "free": free}}, total=total, free=free)


async def write(unit: Unit, row: asyncpg.Record, **changes: Any) -> asyncpg.Record:
    """Change columns of a session that is locked, its version with them; answers it as it is then."""
    values = {name: row[name] for name in CHANGED} | changes
    changed = await unit.one(UPDATE, id=row["id"], **{f"new_{name}": values[name] for name in CHANGED})
    assert changed is not None
    return changed


async def update(request: classes_pb2.UpdateClassSessionRequest, unit: Unit) -> classes_pb2.ClassSession:
    """Change the name or the seats. Raises Refusal SEATS_TAKEN when more are taken than there are to be."""
    row = await locked(unit, request.id)
    seats = request.seats if request.HasField("seats") else row["seats"]
    if seats < row["taken"]:
        raise seats_taken(row)
    changed = await write(unit, row, seats=seats, name=request.name if request.HasField("name") else row["name"])
    session = to_session(changed)
    unit.emit(classes_pb2.ClassSessionUpdated(class_session_id=session.id, class_session=session))
    return session
