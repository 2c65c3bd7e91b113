"""Resource types: what services ask for, and how many units of it there are."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import resources_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.db import prepare
from chassis.errors import FieldError, not_found
from chassis.ids import new_id
from chassis.rows import enum_name, projector
from chassis.unit import Unit
from services.bookings import calendar
from services.bookings.availability import WINDOW_DAYS
from services.bookings.board import Board
from services.bookings.common import already_exists, check_scope, refuse_if
from services.bookings.models import resource_types, resources
from services.bookings.resources import domain, use
from services.bookings.resources.listing import filters_of, page_by_name
from services.bookings.resources.use import Use
from services.bookings.rows import moment_of

READ, WRITE = "resources.read", "resources.write"
MOST_UNITS_OF_TYPE = 10_000

to_resource_type = projector(pb.ResourceType)

_one = sa.and_(resource_types.c.chain_id == sa.bindparam("chain_id"), resource_types.c.id == sa.bindparam("id"))
CHANGED = ("name", "name_en", "code", "active", "version")
INSERT = prepare(sa.insert(resource_types).returning(resource_types))
SELECT = prepare(sa.select(resource_types).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(resource_types).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(resource_types)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=resource_types.c[name].type) for name in CHANGED})
    .returning(resource_types)
)
SELECT_UNITS = prepare(
    sa.select(resources.c.id)
    .where(
        resources.c.chain_id == sa.bindparam("chain_id"),
        resources.c.resource_type_id == sa.bindparam("id"),
        resources.c.active,
    )
    .limit(MOST_UNITS_OF_TYPE)
)


async def create(request: pb.CreateResourceTypeRequest, unit: Unit) -> pb.ResourceType:
    """Make a resource type. It belongs to the chain, so the permission must hold everywhere."""
    check_scope(unit, [], WRITE)
    try:
        row = await unit.one(
            INSERT,
            id=new_id(),
            name=request.name,
            name_en=request.name_en or None,
            code=request.code or None,
            kind=enum_name(pb.CreateResourceTypeRequest, "kind", request.kind),
            active=True,
            version=1,
            created_at=unit.now,
        )
    except asyncpg.UniqueViolationError:
        raise already_exists("resource type") from None
    assert row is not None
    made = to_resource_type(row)
    unit.emit(pb.ResourceTypeCreated(resource_type_id=made.id, resource_type=made))
    return made


async def find(request: pb.ListResourceTypesRequest, unit: Unit) -> pb.ListResourceTypesResponse:
    """A page of resource types, by name."""
    page, token = await page_by_name(unit, resource_types, request, filters_of(request, "active"))
    return pb.ListResourceTypesResponse(resource_types=[to_resource_type(row) for row in page], next_page_token=token)


async def get(request: pb.GetResourceTypeRequest, unit: Unit) -> pb.ResourceType:
    """Read a resource type. Raises Refusal NOT_FOUND."""
    return to_resource_type(await read(unit, request.id, "id"))


async def read(unit: Unit, identifier: str, field: str) -> asyncpg.Record:
    """The row of a resource type that `field` of a request names. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT, id=identifier)
    if row is None:
        raise not_found("resource_type", field)
    return row


async def update(request: pb.UpdateResourceTypeRequest, unit: Unit) -> pb.ResourceType:
    """Change a resource type; who has its units when it becomes inactive is told and keeps them."""
    row = await unit.one(SELECT_FOR_UPDATE, id=request.id)
    if row is None:
        raise not_found("resource_type", "id")
    check_scope(unit, [], WRITE)
    unit.check_version(row["version"])
    changes: dict[str, Any] = filters_of(request, "name", "active")
    changes |= {name: value or None for name, value in filters_of(request, "name_en", "code").items()}
    values = {name: row[name] for name in CHANGED} | changes | {"version": row["version"] + 1}
    try:
        changed = await unit.one(UPDATE, id=request.id, **{f"new_{name}": values[name] for name in CHANGED})
    except asyncpg.UniqueViolationError:
        raise already_exists("resource type") from None
    assert changed is not None
    told = to_resource_type(changed)
    unit.emit(pb.ResourceTypeUpdated(resource_type_id=told.id, resource_type=told))
    if row["active"] and not changed["active"]:
        ids = [each["id"] for each in await unit.all(SELECT_UNITS, id=request.id)]
        told.conflicts.extend(await use.conflicts(unit, ids, unit.now, unit.now + use.FOR_EVER))
    return told


async def count(request: pb.CountResourcesRequest, unit: Unit) -> pb.ResourceCounts:
    """How many units of a type a branch has, now and at the tightest moment of a window."""
    await read(unit, request.id, "id")
    starts_at, ends_at = moment_of(request.starts_from), moment_of(request.ends_by)
    _check_window(ends_at - starts_at)
    type_id = request.id.lower()

    def active(known: Board) -> list[str]:
        return [thing.id for thing in known.things.values() if thing.active and thing.type_id == type_id]

    now = await use.read(unit, request.branch_id.lower(), active, unit.now, use.soon(unit.now))
    bit = now.window.span(calendar.last_step(unit.now), calendar.last_step(unit.now) + 1)
    then = await use.read(unit, request.branch_id.lower(), active, starts_at, ends_at)
    lowest, tightest_at = _tightest(then, starts_at, ends_at)
    first_at = Timestamp()
    first_at.FromDatetime(tightest_at)
    return pb.ResourceCounts(
        resource_type_id=type_id,
        branch_id=request.branch_id.lower(),
        total=len(now.ids),
        in_service=sum(bool(now.usable(identifier) & bit) for identifier in now.ids),
        taken=sum(bool(now.busy.get(identifier, 0) & bit) for identifier in now.ids),
        free=sum(bool(now.free(identifier) & bit) for identifier in now.ids),
        least_free=lowest,
        least_free_at=first_at,
    )


def _tightest(found: Use, starts_at: datetime, ends_at: datetime) -> tuple[int, datetime]:
    """The fewest units that are free at once in a window, and the first moment at which no more are."""
    within = found.window.span(calendar.last_step(starts_at), calendar.first_step(ends_at))
    fewest, where = domain.least(domain.count_all(found.free(identifier) for identifier in found.ids), within)
    first = (where & -where).bit_length() - 1
    return fewest, max(calendar.moment_of(found.window.first_step + first), starts_at)


def _check_window(length: timedelta) -> None:
    if length <= timedelta(0):
        refuse_if([FieldError("to", "order", "must be after `from`", "应晚于 from")])
    if length > timedelta(days=WINDOW_DAYS):
        message = f"must be at most {WINDOW_DAYS} days after `from`"
        refuse_if([FieldError("to", "range", message, f"最多晚于 from {WINDOW_DAYS} 天")])
