"""Single days on which somebody works otherwise than their week says."""

from __future__ import annotations

from datetime import date
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import people_pb2 as pb
from sqlalchemy.dialects.postgresql import insert

from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import FieldError, not_found
from chassis.pages import page_limit, split_page, wrong_token
from chassis.unit import Unit
from services.bookings import board, calendar, domain, staff
from services.bookings.availability import Window
from services.bookings.board import Board
from services.bookings.common import after_key, check_branch_known, refuse_if
from services.bookings.models import dated_shifts
from services.bookings.people import duties

MOST_CONFLICTS = 200
MOST_DUTIES = 2000

_set = insert(dated_shifts)
SET = prepare(
    _set.on_conflict_do_update(
        index_elements=[
            dated_shifts.c.chain_id,
            dated_shifts.c.branch_id,
            dated_shifts.c.staff_id,
            dated_shifts.c.day,
        ],
        set_={"week": _set.excluded.week, "reason": _set.excluded.reason, "roster_id": None},
    ).returning(dated_shifts)
)
DELETE = prepare(
    sa.delete(dated_shifts).where(
        dated_shifts.c.chain_id == sa.bindparam("chain_id"),
        dated_shifts.c.branch_id == sa.bindparam("branch_id"),
        dated_shifts.c.staff_id == sa.bindparam("staff_id"),
        dated_shifts.c.day == sa.bindparam("day"),
    )
)


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    table = dated_shifts
    query = sa.select(table).where(
        table.c.chain_id == sa.bindparam("chain_id"), table.c.staff_id == sa.bindparam("staff_id")
    )
    if "branch_id" in filters:
        query = query.where(table.c.branch_id == sa.bindparam("branch_id"))
    if "from_date" in filters:
        query = query.where(table.c.day >= sa.bindparam("from_date", type_=sa.Date()))
    if "until_date" in filters:
        query = query.where(table.c.day <= sa.bindparam("until_date", type_=sa.Date()))
    if "after_day" in filters:
        key = sa.tuple_(sa.bindparam("after_day", type_=sa.Date()), sa.bindparam("after_branch_id", type_=uuid_type()))
        query = query.where(sa.tuple_(table.c.day, table.c.branch_id) > key)
    return prepare(query.order_by(table.c.day, table.c.branch_id).limit(sa.bindparam("limit", type_=sa.Integer())))


def to_day(row: asyncpg.Record) -> pb.StaffDay:
    """A row as a message."""
    return pb.StaffDay(
        staff_id=row["staff_id"],
        branch_id=row["branch_id"],
        day=row["day"].isoformat(),
        intervals=[
            pb.DayInterval(start_time=start, end_time=end) for _, start, end in calendar.split_week(row["week"])
        ],
        reason=row["reason"],
        roster_id=row["roster_id"],
    )


async def set_day(request: pb.SetStaffDayRequest, unit: Unit) -> pb.StaffDayChange:
    """Set what somebody works on a day. Raises Refusal NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED."""
    day = domain.parse_date("day", request.day)
    person = await staff.locked(unit, request.id)
    branch_id = await staff.place_of(unit, request.branch_id, person)
    staff.check_works_at(person, branch_id)
    before = _shift_of_day(await board.of_branch(unit, branch_id), person["id"], day)
    week = calendar.format_week(
        [(day.isoweekday(), interval.start_time, interval.end_time) for interval in request.intervals]
    )
    row = await unit.one(
        SET,
        branch_id=branch_id,
        staff_id=person["id"],
        day=day,
        week=week,
        reason=request.reason or None,
        roster_id=None,
    )
    assert row is not None
    found = to_day(row)
    unit.emit(pb.StaffDaySet(staff_id=found.staff_id, day=found))
    return pb.StaffDayChange(day=found, conflicts=await _conflicts(unit, branch_id, person["id"], day, before))


async def delete_day(request: pb.DeleteStaffDayRequest, unit: Unit) -> pb.StaffDayChange:
    """Go back to the week on a day. Raises Refusal NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED."""
    day = domain.parse_date("day", request.day)
    person = await staff.locked(unit, request.id)
    branch_id = await staff.place_of(unit, request.branch_id, person)
    before = _shift_of_day(await board.of_branch(unit, branch_id), person["id"], day)
    if not await unit.run(DELETE, branch_id=branch_id, staff_id=person["id"], day=day):
        raise not_found("day of its own", "day")
    unit.emit(pb.StaffDayRemoved(staff_id=person["id"], branch_id=branch_id, day=day.isoformat()))
    return pb.StaffDayChange(conflicts=await _conflicts(unit, branch_id, person["id"], day, before))


async def find_days(request: pb.ListStaffDaysRequest, unit: Unit) -> pb.ListStaffDaysResponse:
    """A page of somebody's days, by day. Raises Refusal NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED."""
    limit = page_limit(request.page_size)
    parameters: dict[str, Any] = {}
    if request.HasField("from_date"):
        parameters["from_date"] = domain.parse_date("from", request.from_date)
    if request.HasField("until_date"):
        parameters["until_date"] = domain.parse_date("to", request.until_date)
    if len(parameters) == 2 and parameters["until_date"] < parameters["from_date"]:
        refuse_if([FieldError("to", "order", "must not be before `from`", "应不早于 from")])
    if request.HasField("branch_id"):
        parameters["branch_id"] = request.branch_id
    after = after_key(request.page_token)
    if after is not None:
        parameters["after_day"], parameters["after_branch_id"] = _day_of_token(after[0]), after[1]
    await staff.readable(unit, request.id)
    statement = _list(frozenset(parameters))
    rows = await unit.all(statement, staff_id=request.id, **parameters, limit=limit + 1)
    if not rows and request.HasField("branch_id"):
        await check_branch_known(unit, request.branch_id.lower())
    page, token = split_page(rows, limit, lambda row: (row["day"], row["branch_id"]))
    return pb.ListStaffDaysResponse(days=[to_day(row) for row in page], next_page_token=token)


def _day_of_token(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise wrong_token() from None


# --- what a change means for bookings ---


def _window(day: date) -> Window:
    """A local day, wherever it is, and the night after it."""
    return Window((day - calendar.EPOCH).days - 1, 4)


def _shift_of_day(known: Board, staff_id: str, day: date) -> int:
    """What somebody works on a local day alone: a night that began the day before is not in it."""
    person = known.people.get(staff_id)
    if person is None:
        return 0
    window, number = _window(day), (day - calendar.EPOCH).days
    periods = tuple((number, number, week) for first, last, week in person.periods if first <= number <= last)
    dated = tuple(own for own in person.dated if own[0] == number)
    return calendar.shift_bitmap(periods, dated, known.swapped, known.time_zone, window.first_day, window.days)


async def _conflicts(unit: Unit, branch_id: str, staff_id: str, day: date, before: int) -> list[pb.StaffDayConflict]:
    """Bookings at the branch that touch the day, or its shifts before or after the change, and lie outside them now."""
    known = await board.of_branch(unit, branch_id)
    window, zone = _window(day), calendar.zone_of(known.time_zone)
    first = calendar.first_step(calendar.local_moment(day, 0, zone))
    last = calendar.first_step(calendar.local_moment(day, calendar.DAY_MINUTES, zone))
    touched = window.span(first, last) | before | _shift_of_day(known, staff_id, day)
    person = known.people.get(staff_id)
    works = 0 if person is None else known.works(person, window.first_day, window.days)
    earliest = calendar.moment_of(window.first_step)
    latest = calendar.moment_of(window.first_step + window.days * calendar.DAY_STEPS)
    found = []
    for duty in await duties.read(unit, staff_id, earliest, latest, MOST_DUTIES):
        bits = 0
        for stretch in duty.taken:
            bits |= window.span(*stretch)
        if duty.branch_id == branch_id and bits & touched and bits & ~works:
            found.append(pb.StaffDayConflict(**duty.fields))
    return found[:MOST_CONFLICTS]
