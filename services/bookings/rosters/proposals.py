"""Rosters as they are asked for, listed, read, corrected by hand, and given up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import enum_name
from chassis.unit import Unit
from services.bookings import board as boards
from services.bookings import calendar, domain
from services.bookings.board import Board
from services.bookings.common import after_id, check_branch_known, lower, refuse_if
from services.bookings.rosters import inputs, store, telling
from services.bookings.rosters.figures import figures
from services.bookings.rosters.inputs import Inputs
from services.bookings.rosters.models import rosters as table
from services.bookings.rosters.problem import Shift

MOST_PEOPLE = 100
FIRST_SECONDS = 25
SHOWN = ("published", "replaced")
"""What everybody may see who works there."""


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    query = sa.select(table).where(table.c.chain_id == sa.bindparam("chain_id"))
    if "branch_id" in filters:
        query = query.where(table.c.branch_id == sa.bindparam("branch_id"))
    if "status" in filters:
        query = query.where(table.c.status == sa.bindparam("status"))
    if "allowed" in filters:
        query = query.where(table.c.branch_id == sa.any_(sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))))
    if "planned" in filters:
        planned = sa.any_(sa.bindparam("planned", type_=sa.ARRAY(uuid_type())))
        query = query.where(sa.or_(table.c.status == sa.bindparam("shown"), table.c.branch_id == planned))
    if "after_id" in filters:
        query = query.where(table.c.id < sa.bindparam("after_id", type_=uuid_type()))
    return prepare(query.order_by(table.c.id.desc()).limit(sa.bindparam("limit", type_=sa.Integer())))


# --- asking ---


async def create(request: pb.CreateRosterRequest, unit: Unit) -> pb.Roster:
    """Have a roster proposed. Raises Refusal NO_SHIFT_TEMPLATES, NOBODY_TO_PLAN, NOT_FOUND, INVALID_REQUEST."""
    branch_id = request.branch_id.lower()
    await check_branch_known(unit, branch_id)
    unit.check_branch(branch_id, store.WRITE)
    board = await boards.of_branch(unit, branch_id)
    from_date = domain.parse_date("from_date", request.from_date)
    if from_date < calendar.local_today(unit.now, board.time_zone):
        refuse_if([FieldError("from_date", "past", "must be today at the branch or later", "应不早于门店当天")])
    staff_ids = _people(request, board)
    templates = await unit.all(inputs.READ_TEMPLATES, branch_id=branch_id)
    if not any(row["active"] for row in templates):
        raise Refusal("NO_SHIFT_TEMPLATES")
    row = await unit.one(
        store.INSERT,
        id=new_id(),
        branch_id=branch_id,
        from_date=from_date,
        end_date=from_date + timedelta(days=7 * request.weeks),
        weeks=request.weeks,
        status="solving",
        staff_ids=staff_ids,
        request=request.SerializeToString(),
        lease_until=None,
        attempts=0,
        progress=None,
        figures=None,
        failure=None,
        wanted_minutes=0,
        missing_minutes=0,
        published_at=None,
        check_at=None,
        accepted_ids=[],
        version=1,
        created_at=unit.now,
    )
    assert row is not None
    return telling.to_roster(row)


def _people(request: pb.CreateRosterRequest, board: Board) -> list[str]:
    """Who is planned. Raises Refusal NOBODY_TO_PLAN, INVALID_REQUEST."""
    here = {person.id for person in board.people.values() if person.active and person.here}
    chosen = lower(request.staff_ids)
    refuse_if(
        [
            FieldError(f"staff_ids[{index}]", "elsewhere", "does not work at this branch", "该员工不在此门店")
            for index, identifier in enumerate(chosen)
            if identifier not in here
        ]
    )
    staff_ids = chosen or sorted(here)
    if not 1 <= len(staff_ids) <= MOST_PEOPLE:
        raise Refusal("NOBODY_TO_PLAN", count=len(staff_ids), most=MOST_PEOPLE)
    return staff_ids


# --- reading ---


async def find(request: pb.ListRostersRequest, unit: Unit) -> pb.ListRostersResponse:
    """A page of rosters, the latest made first. Raises Refusal NOT_FOUND, INVALID_REQUEST."""
    limit = page_limit(request.page_size)
    parameters: dict[str, Any] = {}
    if request.HasField("branch_id"):
        parameters["branch_id"] = request.branch_id
    if request.HasField("status"):
        parameters["status"] = enum_name(pb.Roster, "status", request.status)
    allowed = unit.allowed_branches(store.READ)
    if allowed is not None:
        parameters["allowed"] = allowed
    planned = unit.allowed_branches(store.WRITE)
    if planned is not None:
        # Of branches that others plan, only what everybody may see.
        asked = parameters.get("status")
        parameters |= {"planned": planned, "shown": asked if asked in SHOWN else "published"}
    after = after_id(request.page_token)
    if after is not None:
        parameters["after_id"] = after
    rows = await unit.all(_list(frozenset(parameters)), **parameters, limit=limit + 1)
    if not rows and request.HasField("branch_id"):
        await check_branch_known(unit, request.branch_id.lower())
    page, token = split_page(rows, limit, lambda row: (row["id"],))
    return pb.ListRostersResponse(rosters=[telling.to_roster(row) for row in page], next_page_token=token)


async def get(request: pb.GetRosterRequest, unit: Unit) -> pb.Roster:
    """Read a roster with its shifts and figures. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row = await unit.one(store.SELECT, id=request.id)
    if row is None:
        raise not_found("roster", "id")
    unit.check_branch(row["branch_id"], store.READ)
    if row["status"] not in SHOWN and not store.plans(unit, row["branch_id"]):
        raise not_found("roster", "id")
    return await store.told(unit, row)


# --- by hand ---


async def update(request: pb.UpdateRosterRequest, unit: Unit) -> pb.Roster:
    """Change shifts by hand. Raises Refusal WRONG_STATE, NOT_FOUND, INVALID_REQUEST, PRECONDITION_FAILED."""
    row = await store.locked(unit, request.id)
    store.check_status(row, "proposed")
    given = await inputs.read(unit, row)
    stored = await unit.all(store.READ_SHIFTS, roster_id=row["id"])
    plan = telling.plan_of(given.board.time_zone, stored)
    origins = {(each["staff_id"], (each["day"] - calendar.EPOCH).days): each["origin"] for each in stored}
    changes = _changes(request.shifts, row, given)
    for key, shift in changes.items():
        origins[key] = telling.CHANGED
        if shift is None:
            plan.pop(key, None)
        else:
            plan[key] = shift
    return await store.told(unit, await keep(unit, row, given, plan, origins))


async def keep(
    unit: Unit,
    row: asyncpg.Record,
    given: Inputs,
    plan: dict[tuple[str, int], Shift],
    origins: dict[tuple[str, int], str],
    **changes: Any,
) -> asyncpg.Record:
    """Store a roster's shifts with what is to be known about them. Days settled by hand are as they were settled."""
    for person in given.problem.people:
        for day, settled in person.by_hand.items():
            if given.problem.first_day <= day < given.problem.last_day:
                plan.pop((person.id, day), None)
                origins[person.id, day] = telling.SETTLED
                if settled is not None:
                    plan[person.id, day] = settled
    # Hundreds of milliseconds for a large roster: others are answered meanwhile.
    known = await asyncio.to_thread(figures, given.problem, plan)
    await store.replace_shifts(unit, row["id"], telling.rows_of(given, plan, known.reasons, origins))
    return await store.write(
        unit,
        row,
        figures=telling.to_figures(known).SerializeToString(),
        wanted_minutes=known.wanted_minutes,
        missing_minutes=known.missing_minutes,
        **changes,
    )


def _changes(
    shifts: Sequence[pb.RosterShiftChange], row: asyncpg.Record, given: Inputs
) -> dict[tuple[str, int], Shift | None]:
    """Days as they shall be. Raises Refusal INVALID_REQUEST with all that is wrong."""
    by_hand = {(person.id, day) for person in given.problem.people for day in person.by_hand}
    found: dict[tuple[str, int], Shift | None] = {}
    errors: list[FieldError] = []
    for index, change in enumerate(shifts):
        path = f"shifts[{index}]"
        staff_id, day = change.staff_id.lower(), domain.parse_date(f"{path}.day", change.day)
        key = (staff_id, (day - calendar.EPOCH).days)
        problem = _problem(change, row, given, key)
        if problem is None and key in by_hand:
            problem = ("day", "settled", "was set by hand; change it there", "该日已手工排定，请在员工日程中修改")
        if problem is None and key in found:
            problem = ("day", "repeated", "was named before", "重复")
        if problem is not None:
            errors.append(FieldError(f"{path}.{problem[0]}", *problem[1:]))
        found[key] = None if problem is not None else _shift(change, given, key[1])
    refuse_if(errors)
    return found


def _problem(
    change: pb.RosterShiftChange, row: asyncpg.Record, given: Inputs, key: tuple[str, int]
) -> tuple[str, str, str, str] | None:
    """What is wrong with a change: field, code, and why in English and Chinese."""
    if key[0] not in row["staff_ids"]:
        return ("staff_id", "not_planned", "is not planned by this roster", "不在此排班的员工中")
    if not given.problem.first_day <= key[1] < given.problem.last_day:
        return ("day", "range", "is not a day of this roster", "不在此排班的日期范围内")
    if change.HasField("shift_template_id"):
        if change.intervals:
            return ("intervals", "conflict", "are not for a shift of the branch", "指定班次时不应填写")
        if change.shift_template_id.lower() not in given.templates:
            return ("shift_template_id", "not_found", "is not a shift of this branch", "该门店没有该班次")
    return None


def _shift(change: pb.RosterShiftChange, given: Inputs, day: int) -> Shift | None:
    zone = given.board.time_zone
    if change.HasField("shift_template_id"):
        return inputs.of_template(zone, given.templates[change.shift_template_id.lower()], day)
    weekday = calendar.date_of(day).isoweekday()
    week = calendar.format_week([(weekday, each.start_time, each.end_time) for each in change.intervals])
    return inputs.of_week(zone, week, day)


# --- giving up ---


async def discard(request: pb.DiscardRosterRequest, unit: Unit) -> pb.Roster:
    """Give up a roster that was not published. Raises Refusal WRONG_STATE, NOT_FOUND, PRECONDITION_FAILED."""
    row = await store.locked(unit, request.id)
    store.check_status(row, "solving", "proposed", "failed")
    return await store.told(unit, await store.write(unit, row, status="discarded", lease_until=None))
