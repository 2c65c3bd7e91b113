"""Seats in a session. An enrolment is a booking that takes its customer's own time, and seats that are counted.

Seats are counted by one conditional statement on the session's row, so that none is sold twice; a trigger of `bookings`
gives them back when a booking comes to nothing, whichever way. A hold that ran out still counts until somebody wants
its seats, who then lets it go in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import classes_pb2

from chassis.db import prepare
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.unit import Unit
from services.bookings import allocator, calendar, deposits, domain, records, times
from services.bookings.allocator import Taken
from services.bookings.availability import Need
from services.bookings.booking import expire, expire_in_the_way, made
from services.bookings.classes import sessions
from services.bookings.classes.models import class_sessions
from services.bookings.models import bookings
from services.bookings.plan import Plan, Question
from services.bookings.rows import WRITE
from services.bookings.statements import NEW_BOOKING
from services.bookings.times import Times

MOST_ATTEMPTS = 5
TAKE_SEATS = prepare(
    sa.update(class_sessions)
    .where(
        class_sessions.c.chain_id == sa.bindparam("chain_id"),
        class_sessions.c.id == sa.bindparam("id"),
        class_sessions.c.status == "scheduled",
        class_sessions.c.taken + sa.bindparam("wanted", type_=sa.Integer()) <= class_sessions.c.seats,
    )
    .values(taken=class_sessions.c.taken + sa.bindparam("wanted", type_=sa.Integer()))
    .returning(class_sessions)
)
OVERDUE = prepare(
    sa.select(bookings.c.id).where(sessions.overdue, bookings.c.class_session_id == sa.bindparam("id")).limit(500)
)


async def enrol(request: classes_pb2.CreateEnrolmentRequest, unit: Unit) -> pb.Booking:
    """Take seats. Raises Refusal SEATS_TAKEN, WRONG_STATE, NOT_BOOKABLE, CUSTOMER_BUSY, NOT_FOUND."""
    row = await sessions.read(unit, request.id)
    unit.check_branch(row["branch_id"], WRITE)
    wanted = request.seats if request.HasField("seats") else 1
    customer_id = request.customer_id.lower()
    found = await _read_customer(unit, row, customer_id, request.source or None)
    _check_time(unit, row, found)
    row = await _take_seats(unit, row, wanted)
    # The row is locked now, and may have moved since it was read.
    taken = [Taken(customer_id, calendar.last_step(row["starts_at"]), calendar.first_step(row["ends_at"]))]
    await expire_in_the_way(unit, found, taken)
    values = _values(request, unit, row, found, wanted)
    if await allocator.claim(unit, values, taken):
        raise Refusal("CUSTOMER_BUSY")
    return made(unit, values)


async def _read_customer(unit: Unit, row: asyncpg.Record, customer_id: str, source: str | None) -> Times:
    """The customer's own time around a session, and the rules that hold. Raises Absent for an unknown customer."""
    return await times.read(
        unit,
        Question(row["branch_id"], (), customer_id, source),
        row["starts_at"],
        plan=presence_of(row, [customer_id]),
    )


def presence_of(row: asyncpg.Record, customer_ids: Iterable[str]) -> Plan:
    """A plan that only takes the time of customers, for as long as a session lasts."""
    steps = calendar.first_step(row["ends_at"]) - calendar.last_step(row["starts_at"])
    needs = tuple(
        Need(f"0.customer-{number}", "customer", (identifier,), 1, ((0, steps),), (identifier,))
        for number, identifier in enumerate(customer_ids)
    )
    return Plan((), needs, steps)


def _check_time(unit: Unit, row: asyncpg.Record, found: Times) -> None:
    """Refuse NOT_BOOKABLE a session that began, or that the channel may not book."""
    sessions.check_scheduled(row)
    board, source, reason = found.board, found.question.source, None
    service = board.services.get(row["service_id"])
    if row["starts_at"] <= unit.now:
        reason = "past"
    elif row["starts_at"] < found.earliest(unit.now):
        reason = "lead_time"
    elif row["starts_at"] > found.latest(unit.now):
        reason = "too_far"
    elif source is not None and service is not None and service.offer.channels and source not in service.offer.channels:
        reason = "channel_closed"
    if reason is not None:
        raise domain.not_bookable(reason, ())


async def _take_seats(unit: Unit, row: asyncpg.Record, wanted: int) -> asyncpg.Record:
    """Count seats as taken; answers the session, locked. Raises Refusal SEATS_TAKEN, WRONG_STATE."""
    for _ in range(MOST_ATTEMPTS):
        if row["taken"] + wanted > row["seats"] and row["due"]:
            ids = sorted([each["id"] for each in await unit.all(OVERDUE, id=row["id"], now=unit.now)])
            await expire(unit, ids)
        elif row["taken"] + wanted > row["seats"]:
            break
        counted = await unit.one(TAKE_SEATS, id=row["id"], wanted=wanted)
        if counted is not None:
            return counted
        row = await sessions.read(unit, row["id"])
        sessions.check_scheduled(row)
    raise sessions.seats_taken(row)


def line_for(line: pb.BookingLine, customer_id: str, seats: int) -> pb.BookingLine:
    """A session's line as one who is enrolled gets it: who and what is there is told, their time is the session's."""
    own = pb.BookingLine()
    own.CopyFrom(line)
    own.customer_id = customer_id
    own.price.amount = line.price.amount * seats
    for assigned in own.assignments:
        assigned.ClearField("taken")
    return own


def _values(
    request: classes_pb2.CreateEnrolmentRequest, unit: Unit, row: asyncpg.Record, found: Times, seats: int
) -> dict[str, Any]:
    customer_id = request.customer_id.lower()
    policy = found.board.policy
    deposit = (row["deposit_amount"] or 0) * seats
    deposit_status = deposits.status_at_first(policy, deposit, hold=request.hold, waived=False)
    is_held = request.hold or deposit_status == "pending"
    line = line_for(sessions.line_of(row), customer_id, seats)
    return {
        **dict.fromkeys(NEW_BOOKING),
        "id": new_id(),
        "branch_id": row["branch_id"],
        "service_id": row["service_id"],
        "customer_id": customer_id,
        "staff_id": row["staff_id"],
        "status": "held" if is_held else "confirmed",
        "starts_at": row["starts_at"],
        "ends_at": row["ends_at"],
        "buffer_before_minutes": 0,
        "buffer_after_minutes": 0,
        "lines": pb.BookingLines(lines=[line]).SerializeToString(),
        "change_policy": policy.change.SerializeToString(),
        "price_amount": row["price_amount"] * seats,
        "currency": row["currency"],
        "service_name": row["name"],
        "time_zone": row["time_zone"],
        "expires_at": unit.now + timedelta(minutes=policy.hold_minutes) if is_held else None,
        "source": request.source or None,
        "note": request.note or None,
        "deposit_amount": deposit or None,
        "deposit_status": deposit_status,
        "overlap_allowed": False,
        "class_session_id": row["id"],
        "seats": seats,
        "version": 1,
        "created_at": unit.now,
    }


async def find(request: classes_pb2.ListEnrolmentsRequest, unit: Unit) -> pb.ListBookingsResponse:
    """A page of a session's enrolments. Raises Refusal NOT_FOUND."""
    row = await sessions.read(unit, request.id)
    asked = pb.ListBookingsRequest(
        page_size=request.page_size,
        page_token=request.page_token,
        branch_id=row["branch_id"],
        class_session_id=row["id"],
        status=request.status,
    )
    return await records.find(asked, unit)
