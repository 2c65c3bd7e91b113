"""What people would like to work, or not."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import enum_name, projector
from chassis.unit import Unit
from services.bookings import domain, staff
from services.bookings.common import after_id, refuse_if
from services.bookings.models import staff as staff_table
from services.bookings.rosters.models import roster_wishes as table
from services.bookings.rosters.store import WRITE, check_own, plans
from services.bookings.rosters.terms import check_templates

MOST_WISHES = 200
FIRST_WEIGHT = 3

to_wish = projector(
    pb.RosterWish,
    day=lambda row: row["day"] and row["day"].isoformat(),
    weekday=lambda row: row["weekday"],
)

_one = sa.and_(table.c.chain_id == sa.bindparam("chain_id"), table.c.id == sa.bindparam("id"))
INSERT = prepare(sa.insert(table).returning(table))
SELECT = prepare(sa.select(table).where(_one))
DELETE = prepare(sa.delete(table).where(_one))
COUNT = prepare(
    sa.select(sa.func.count())
    .select_from(table)
    .where(table.c.chain_id == sa.bindparam("chain_id"), table.c.staff_id == sa.bindparam("staff_id"))
)


@prepared_once
def _list(*, person: bool, allowed: bool, after: bool) -> Prepared:
    query = sa.select(table).where(table.c.chain_id == sa.bindparam("chain_id"))
    if person:
        query = query.where(table.c.staff_id == sa.bindparam("staff_id"))
    if allowed:
        query = query.join(
            staff_table, sa.and_(staff_table.c.chain_id == table.c.chain_id, staff_table.c.id == table.c.staff_id)
        )
        theirs = staff_table.c.branch_ids.overlap(sa.bindparam("allowed", type_=staff_table.c.branch_ids.type))
        query = query.where(sa.or_(theirs, table.c.staff_id == sa.bindparam("own_id", type_=uuid_type())))
    if after:
        query = query.where(table.c.id > sa.bindparam("after_id", type_=uuid_type()))
    return prepare(query.order_by(table.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


async def create(request: pb.CreateRosterWishRequest, unit: Unit) -> pb.RosterWish:
    """Put in a wish. Raises Refusal NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED."""
    person = await staff.locked(unit, request.staff_id, "staff_id")
    check_own(unit, person["id"], person["branch_ids"])
    has_day, has_weekday = request.HasField("day"), request.HasField("weekday")
    errors = []
    if has_day and has_weekday:
        errors.append(FieldError("weekday", "conflict", "is not for a wish about one day", "指定日期时不应填写"))
    if not (has_day or has_weekday or request.HasField("shift_template_id")):
        message = "is required, or `weekday` or `shift_template_id` is"
        errors.append(FieldError("day", "required", message, "必填，或填写 weekday、shift_template_id"))
    if await unit.value(COUNT, staff_id=person["id"]) >= MOST_WISHES:
        message = f"has {MOST_WISHES} wishes already; take some back"
        errors.append(FieldError("staff_id", "too_many", message, f"已有 {MOST_WISHES} 条意愿，请先撤回部分"))
    refuse_if(errors)
    if request.HasField("shift_template_id"):
        await check_templates(unit, [request.shift_template_id.lower()], "shift_template_id")
    row = await unit.one(
        INSERT,
        id=new_id(),
        staff_id=person["id"],
        kind=enum_name(pb.RosterWish, "kind", request.kind),
        day=domain.parse_date("day", request.day) if has_day else None,
        weekday=request.weekday if has_weekday else None,
        shift_template_id=request.shift_template_id if request.HasField("shift_template_id") else None,
        weight=request.weight if request.HasField("weight") else FIRST_WEIGHT,
        note=request.note or None,
        created_at=unit.now,
    )
    assert row is not None
    return to_wish(row)


async def find(request: pb.ListRosterWishesRequest, unit: Unit) -> pb.ListRosterWishesResponse:
    """A page of wishes, the oldest first: all of them for those who plan, their own for others."""
    limit = page_limit(request.page_size)
    parameters: dict[str, Any] = {"limit": limit + 1}
    if request.HasField("staff_id"):
        person = await staff.readable(unit, request.staff_id, "staff_id")
        # Who plans any of their branches finds their wishes in the whole list, too.
        if person["id"] != unit.caller.staff_id and not any(plans(unit, branch) for branch in person["branch_ids"]):
            raise Refusal("PERMISSION_DENIED", permission=WRITE)
        parameters["staff_id"] = person["id"]
    elif not unit.caller.may(WRITE):
        if not unit.caller.staff_id:
            return pb.ListRosterWishesResponse()
        parameters["staff_id"] = unit.caller.staff_id
    allowed = unit.allowed_branches(WRITE)
    if allowed is not None and "staff_id" not in parameters:
        parameters |= {"allowed": allowed, "own_id": unit.caller.staff_id or None}
    after = after_id(request.page_token)
    if after is not None:
        parameters["after_id"] = after
    statement = _list(person="staff_id" in parameters, allowed="allowed" in parameters, after="after_id" in parameters)
    rows = await unit.all(statement, **parameters)
    page, token = split_page(rows, limit, lambda row: (row["id"],))
    return pb.ListRosterWishesResponse(wishes=[to_wish(row) for row in page], next_page_token=token)


async def delete(request: pb.DeleteRosterWishRequest, unit: Unit) -> pb.RosterWish:
    """Take a wish back. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("roster_wish", "id")
    person = await staff.locked(unit, row["staff_id"], "id")
    check_own(unit, person["id"], person["branch_ids"])
    await unit.run(DELETE, id=request.id)
    return to_wish(row)
