"""The shifts of a branch that rosters are made of."""

from __future__ import annotations

from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import FieldError, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import calendar
from services.bookings.calendar import DAY_MINUTES
from services.bookings.common import after_key, check_branch_known, refuse_if
from services.bookings.rosters.models import shift_templates as table

READ, WRITE = "rosters.read", "rosters.write"
LATE_FROM_MINUTES = 21 * 60

to_template = projector(pb.ShiftTemplate, weekdays=lambda row: row["weekdays"])

_one = sa.and_(table.c.chain_id == sa.bindparam("chain_id"), table.c.id == sa.bindparam("id"))
CHANGED = ("name", "start_time", "end_time", "unpaid_break_minutes", "is_late", "weekdays", "active", "version")
INSERT = prepare(sa.insert(table).returning(table))
SELECT = prepare(sa.select(table).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(table).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(table)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in CHANGED})
    .returning(table)
)


@prepared_once
def _list(*, branch: bool, active: bool, allowed: bool, after: bool) -> Prepared:
    query = sa.select(table).where(table.c.chain_id == sa.bindparam("chain_id"))
    if branch:
        query = query.where(table.c.branch_id == sa.bindparam("branch_id"))
    if active:
        query = query.where(table.c.active == sa.bindparam("active"))
    if allowed:
        query = query.where(table.c.branch_id == sa.any_(sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))))
    if after:
        key = sa.tuple_(sa.bindparam("after_name", type_=sa.Text()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(table.c.name, table.c.id) > key)
    return prepare(query.order_by(table.c.name, table.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


async def create(request: pb.CreateShiftTemplateRequest, unit: Unit) -> pb.ShiftTemplate:
    """Set up a shift. Raises Refusal NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED."""
    branch_id = request.branch_id.lower()
    await check_branch_known(unit, branch_id)
    unit.check_branch(branch_id, WRITE)
    _check(request.start_time, request.end_time, request.unpaid_break_minutes)
    late = request.is_late if request.HasField("is_late") else ends_late(request.start_time, request.end_time)
    row = await unit.one(
        INSERT,
        id=new_id(),
        branch_id=branch_id,
        name=request.name,
        start_time=request.start_time,
        end_time=request.end_time,
        unpaid_break_minutes=request.unpaid_break_minutes,
        is_late=late,
        weekdays=sorted(request.weekdays),
        active=True,
        version=1,
        created_at=unit.now,
    )
    assert row is not None
    return to_template(row)


def length_minutes(start_time: str, end_time: str) -> int:
    """Minutes from one local time to the next occurrence of another."""
    start, end = calendar.parse_time(start_time), calendar.parse_time(end_time)
    return end - start if end > start else end - start + DAY_MINUTES


def ends_late(start_time: str, end_time: str) -> bool:
    """Whether a shift ends at 21:00 or later, or on the next day."""
    return calendar.parse_time(start_time) + length_minutes(start_time, end_time) >= LATE_FROM_MINUTES


def _check(start_time: str, end_time: str, unpaid_break_minutes: int) -> None:
    errors = []
    if unpaid_break_minutes % calendar.STEP_MINUTES:
        errors.append(FieldError("unpaid_break_minutes", "step", "must be in steps of 5 minutes", "应以 5 分钟为单位"))
    if unpaid_break_minutes >= length_minutes(start_time, end_time):
        errors.append(FieldError("unpaid_break_minutes", "range", "must be shorter than the shift", "应短于班次时长"))
    refuse_if(errors)


async def find(request: pb.ListShiftTemplatesRequest, unit: Unit) -> pb.ListShiftTemplatesResponse:
    """A page of shifts, by name. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    limit = page_limit(request.page_size)
    after = after_key(request.page_token)
    allowed = unit.allowed_branches(READ)
    parameters: dict[str, Any] = {"limit": limit + 1}
    if request.HasField("branch_id"):
        parameters["branch_id"] = request.branch_id
    if request.HasField("active"):
        parameters["active"] = request.active
    if allowed is not None:
        parameters["allowed"] = allowed
    if after is not None:
        parameters["after_name"], parameters["after_id"] = after
    statement = _list(
        branch=request.HasField("branch_id"),
        active=request.HasField("active"),
        allowed=allowed is not None,
        after=after is not None,
    )
    rows = await unit.all(statement, **parameters)
    if not rows and request.HasField("branch_id"):
        await check_branch_known(unit, request.branch_id.lower())
    page, token = split_page(rows, limit, lambda row: (row["name"], row["id"]))
    return pb.ListShiftTemplatesResponse(shift_templates=[to_template(row) for row in page], next_page_token=token)


async def get(request: pb.GetShiftTemplateRequest, unit: Unit) -> pb.ShiftTemplate:
    """Read a shift. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("shift_template", "id")
    unit.check_branch(row["branch_id"], READ)
    return to_template(row)


async def update(request: pb.UpdateShiftTemplateRequest, unit: Unit) -> pb.ShiftTemplate:
    """Change a shift. Raises Refusal NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED, PRECONDITION_FAILED."""
    row: asyncpg.Record | None = await unit.one(SELECT_FOR_UPDATE, id=request.id)
    if row is None:
        raise not_found("shift_template", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    values = {name: row[name] for name in CHANGED} | {"version": row["version"] + 1}
    for name in ("name", "start_time", "end_time", "unpaid_break_minutes", "is_late", "active"):
        if request.HasField(name):
            values[name] = getattr(request, name)
    if request.HasField("weekdays"):
        values["weekdays"] = sorted(request.weekdays.weekdays)
    _check(values["start_time"], values["end_time"], values["unpaid_break_minutes"])
    changed = await unit.one(UPDATE, id=request.id, **{f"new_{name}": values[name] for name in CHANGED})
    assert changed is not None
    return to_template(changed)
