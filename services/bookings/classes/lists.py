"""Lists of class sessions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from foyer.bookings.v1 import classes_pb2

from chassis.db import Prepared, prepare, prepared_once, time_type, uuid_type
from chassis.errors import FieldError, not_found
from chassis.pages import page_limit, split_page
from chassis.rows import enum_name
from chassis.unit import Unit
from services.bookings.booking import KNOWN_STAFF
from services.bookings.classes.models import class_sessions
from services.bookings.classes.sessions import due_seats, to_session
from services.bookings.common import after_key, check_branch_known, refuse_if
from services.bookings.models import services
from services.bookings.records import moment_of_token
from services.bookings.rows import READ, moment_of

FILTERS = ("branch_id", "service_id", "staff_id")
KNOWN_SERVICE = prepare(
    sa.select(services.c.id).where(services.c.chain_id == sa.bindparam("chain_id"), services.c.id == sa.bindparam("id"))
)


@prepared_once
def _statement(filters: frozenset[str]) -> Prepared:
    table = class_sessions
    query = sa.select(table, due_seats.label("due")).where(table.c.chain_id == sa.bindparam("chain_id"))
    for name in (*FILTERS, "status"):
        if name in filters:
            query = query.where(table.c[name] == sa.bindparam(name))
    if "allowed" in filters:
        query = query.where(table.c.branch_id == sa.any_(sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))))
    if "from" in filters:
        query = query.where(table.c.starts_at >= sa.bindparam("from", type_=time_type()))
    if "to" in filters:
        query = query.where(table.c.starts_at < sa.bindparam("to", type_=time_type()))
    if "free" in filters:
        query = query.where(table.c.status == "scheduled", table.c.taken - due_seats < table.c.seats)
    if "after" in filters:
        key = sa.tuple_(sa.bindparam("after_starts_at", type_=time_type()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(table.c.starts_at, table.c.id) > key)
    return prepare(query.order_by(table.c.starts_at, table.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


async def find(request: classes_pb2.ListClassSessionsRequest, unit: Unit) -> classes_pb2.ListClassSessionsResponse:
    """A page of class sessions, by start."""
    limit = page_limit(request.page_size)
    parameters = _parameters(request, unit)
    filters = set(parameters)
    if request.with_free_seats:
        filters.add("free")
    after = after_key(request.page_token)
    if after is not None:
        filters.add("after")
        parameters["after_starts_at"], parameters["after_id"] = moment_of_token(after[0]), after[1]
    rows = await unit.all(_statement(frozenset(filters)), **parameters, now=unit.now, limit=limit + 1)
    if not rows:
        await _check_known(request, unit)
    page, token = split_page(rows, limit, lambda row: (row["starts_at"], row["id"]))
    return classes_pb2.ListClassSessionsResponse(
        class_sessions=[to_session(row) for row in page], next_page_token=token
    )


def _parameters(request: classes_pb2.ListClassSessionsRequest, unit: Unit) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        name: getattr(request, name)
        for name in FILTERS
        if request.HasField(name)  # type: ignore[arg-type]
    }
    if request.HasField("status"):
        parameters["status"] = enum_name(classes_pb2.ClassSession, "status", request.status)
    if request.HasField("starts_from"):
        parameters["from"] = moment_of(request.starts_from)
    if request.HasField("starts_before"):
        parameters["to"] = moment_of(request.starts_before)
    if "from" in parameters and "to" in parameters and parameters["from"] >= parameters["to"]:
        refuse_if([FieldError("to", "order", "must be after `from`", "应晚于 from")])
    allowed = unit.allowed_branches(READ)
    if allowed is not None and "branch_id" not in parameters:
        parameters["allowed"] = allowed
    return parameters


async def _check_known(request: classes_pb2.ListClassSessionsRequest, unit: Unit) -> None:
    """Raise Absent or Refusal NOT_FOUND for what is named and does not exist."""
    if request.HasField("branch_id"):
        await check_branch_known(unit, request.branch_id.lower())
    if request.HasField("service_id") and not await unit.value(KNOWN_SERVICE, id=request.service_id):
        raise not_found("service", "service_id")
    if request.HasField("staff_id") and not await unit.value(KNOWN_STAFF, id=request.staff_id):
        raise not_found("staff", "staff_id")
