"""Units: one room, one set, one machine, one costume each."""

from __future__ import annotations

from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import resources_pb2 as pb

from chassis.db import prepare, prepare_sql
from chassis.errors import FieldError, not_found
from chassis.ids import new_id
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings.common import already_exists, check_branch_known, refuse_if
from services.bookings.models import resources
from services.bookings.resources import domain, resource_types, use
from services.bookings.resources.listing import filters_of, page_by_name, scoped
from services.bookings.resources.resource_types import READ, WRITE

# As many as a process reads of a branch (statements.READ_THINGS).
MOST_UNITS = 5000

to_resource = projector(pb.Resource)

_one = sa.and_(resources.c.chain_id == sa.bindparam("chain_id"), resources.c.id == sa.bindparam("id"))
CHANGED = ("name", "code", "active", "version")
INSERT = prepare_sql(
    """
insert into resources (chain_id, id, branch_id, resource_type_id, name, code, active, version, created_at)
select $1::uuid, n.id, $2::uuid, $3::uuid, n.name, n.code, true, 1, $4::timestamptz
from unnest($5::uuid[], $6::text[], $7::text[]) as n(id, name, code)
returning *
""",
    "chain_id",
    "branch_id",
    "resource_type_id",
    "now",
    "ids",
    "names",
    "codes",
)
COUNT = prepare(
    sa.select(sa.func.count()).where(
        resources.c.chain_id == sa.bindparam("chain_id"), resources.c.branch_id == sa.bindparam("branch_id")
    )
)
SELECT = prepare(sa.select(resources).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(resources).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(resources)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=resources.c[name].type) for name in CHANGED})
    .returning(resources)
)


async def create(request: pb.CreateResourcesRequest, unit: Unit) -> pb.CreateResourcesResponse:
    """Put units into a branch, all or none. Raises Refusal ALREADY_EXISTS when one of their codes is taken."""
    unit.check_branch(request.branch_id.lower(), WRITE)
    await check_branch_known(unit, request.branch_id.lower())
    await resource_types.read(unit, request.resource_type_id, "resource_type_id")
    count = request.count if request.HasField("count") else None
    first = request.first_number if request.HasField("first_number") else 1
    names = domain.numbered(request.name, " ", count, first)
    codes = domain.numbered(request.code, "-", count, first) if request.HasField("code") else [None] * len(names)
    if await unit.value(COUNT, branch_id=request.branch_id) + len(names) > MOST_UNITS:
        message = f"would make more than {MOST_UNITS} at this branch"
        refuse_if([FieldError("count", "range", message, f"每个门店最多 {MOST_UNITS} 个")])
    try:
        rows = await unit.all(
            INSERT,
            branch_id=request.branch_id,
            resource_type_id=request.resource_type_id,
            now=unit.now,
            ids=[new_id() for _ in names],
            names=names,
            codes=codes,
        )
    except asyncpg.UniqueViolationError:
        raise already_exists("resource") from None
    made = [to_resource(row) for row in rows]
    for each in made:
        unit.emit(pb.ResourceCreated(resource_id=each.id, resource=each))
    return pb.CreateResourcesResponse(resources=made)


async def find(request: pb.ListResourcesRequest, unit: Unit) -> pb.ListResourcesResponse:
    """A page of units, by name."""
    filters = scoped(unit, filters_of(request, "branch_id", "resource_type_id", "active"), READ)
    page, token = await page_by_name(unit, resources, request, filters)
    if not page:
        if "branch_id" in filters:
            await check_branch_known(unit, filters["branch_id"].lower())
        if "resource_type_id" in filters:
            await resource_types.read(unit, filters["resource_type_id"], "resource_type_id")
    return pb.ListResourcesResponse(resources=[to_resource(row) for row in page], next_page_token=token)


async def get(request: pb.GetResourceRequest, unit: Unit) -> pb.Resource:
    """Read a unit. Raises Refusal NOT_FOUND."""
    return to_resource(await read(unit, request.id, READ))


async def read(unit: Unit, identifier: str, permission: str, field: str = "id") -> asyncpg.Record:
    """The row of a unit at one of the caller's branches. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row = await unit.one(SELECT, id=identifier)
    if row is None:
        raise not_found("resource", field)
    unit.check_branch(row["branch_id"], permission)
    return row


async def update(request: pb.UpdateResourceRequest, unit: Unit) -> pb.Resource:
    """Change a unit; who has it when it becomes inactive is told and keeps it."""
    row = await unit.one(SELECT_FOR_UPDATE, id=request.id)
    if row is None:
        raise not_found("resource", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    changes: dict[str, Any] = filters_of(request, "name", "active")
    changes |= {name: value or None for name, value in filters_of(request, "code").items()}
    values = {name: row[name] for name in CHANGED} | changes | {"version": row["version"] + 1}
    try:
        changed = await unit.one(UPDATE, id=request.id, **{f"new_{name}": values[name] for name in CHANGED})
    except asyncpg.UniqueViolationError:
        raise already_exists("resource") from None
    assert changed is not None
    told = to_resource(changed)
    unit.emit(pb.ResourceUpdated(resource_id=told.id, resource=told))
    if row["active"] and not changed["active"]:
        told.conflicts.extend(await use.conflicts(unit, [row["id"]], unit.now, unit.now + use.FOR_EVER))
    return told
