"""When a unit is out of service."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from foyer.bookings.v1 import resources_pb2 as pb

from chassis.db import Prepared, prepare, prepared_once, time_type, uuid_type
from chassis.errors import FieldError, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings.common import refuse_if
from services.bookings.models import resource_blocks as table
from services.bookings.resources import domain, units, use
from services.bookings.resources.listing import after_moment
from services.bookings.resources.resource_types import READ, WRITE
from services.bookings.rows import moment_of

MOST_DAYS = 400

to_block = projector(pb.ResourceBlock)

INSERT = prepare(sa.insert(table).returning(table))
DELETE = prepare(
    sa.delete(table)
    .where(
        table.c.chain_id == sa.bindparam("chain_id"),
        table.c.id == sa.bindparam("block_id"),
        table.c.resource_id == sa.bindparam("resource_id"),
    )
    .returning(table)
)


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    query = sa.select(table).where(
        table.c.chain_id == sa.bindparam("chain_id"), table.c.resource_id == sa.bindparam("resource_id")
    )
    if "from" in filters:
        query = query.where(table.c.ends_at > sa.bindparam("from", type_=time_type()))
    if "to" in filters:
        query = query.where(table.c.starts_at < sa.bindparam("to", type_=time_type()))
    if "after_id" in filters:
        key = sa.tuple_(sa.bindparam("after_starts_at", type_=time_type()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(table.c.starts_at, table.c.id) > key)
    return prepare(query.order_by(table.c.starts_at, table.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


async def create(request: pb.BlockResourceRequest, unit: Unit) -> pb.ResourceBlock:
    """Take a unit out of service for a time; who has it then is told and keeps it."""
    resource = await units.read(unit, request.id, WRITE)
    starts_at, ends_at = moment_of(request.starts_at), moment_of(request.ends_at)
    _check(unit, starts_at, ends_at)
    row = await unit.one(
        INSERT,
        id=new_id(),
        resource_id=resource["id"],
        branch_id=resource["branch_id"],
        starts_at=starts_at,
        ends_at=ends_at,
        reason=request.reason or None,
        created_at=unit.now,
    )
    assert row is not None
    block = to_block(row)
    block.conflicts.extend(await use.conflicts(unit, [resource["id"]], starts_at, ends_at))
    unit.emit(pb.ResourceBlocked(resource_id=block.resource_id, block=block))
    return block


def _check(unit: Unit, starts_at: datetime, ends_at: datetime) -> None:
    errors = domain.stretch_errors(starts_at, ends_at, MOST_DAYS)
    if not errors and ends_at <= unit.now:
        errors.append(FieldError("ends_at", "past", "must be in the future", "应为将来的时间"))
    refuse_if(errors)


async def find(request: pb.ListResourceBlocksRequest, unit: Unit) -> pb.ListResourceBlocksResponse:
    """A page of the times a unit is out of service, by start."""
    resource = await units.read(unit, request.id, READ)
    limit = page_limit(request.page_size)
    after = after_moment(request.page_token)
    parameters: dict[str, Any] = {}
    if request.HasField("ends_after"):
        parameters["from"] = moment_of(request.ends_after)
    if request.HasField("starts_before"):
        parameters["to"] = moment_of(request.starts_before)
    if len(parameters) == 2 and parameters["from"] >= parameters["to"]:
        refuse_if([FieldError("to", "order", "must be after `from`", "应晚于 from")])
    if after is not None:
        parameters["after_starts_at"], parameters["after_id"] = after
    statement = _list(frozenset(parameters))
    rows = await unit.all(statement, resource_id=resource["id"], limit=limit + 1, **parameters)
    page, token = split_page(rows, limit, lambda row: (row["starts_at"], row["id"]))
    return pb.ListResourceBlocksResponse(blocks=[to_block(row) for row in page], next_page_token=token)


async def delete(request: pb.UnblockResourceRequest, unit: Unit) -> pb.UnblockResourceResponse:
    """Take a time out of service back. Raises Refusal NOT_FOUND for one that is not of this unit."""
    resource = await units.read(unit, request.id, WRITE)
    row = await unit.one(DELETE, block_id=request.block_id, resource_id=resource["id"])
    if row is None:
        raise not_found("resource_block", "block_id")
    unit.emit(pb.ResourceUnblocked(resource_id=resource["id"], block=to_block(row)))
    return pb.UnblockResourceResponse()
