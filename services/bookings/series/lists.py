"""Series as they are read."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from foyer.bookings.v1 import series_pb2

from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import not_found
from chassis.pages import page_limit, split_page
from chassis.unit import Absent, Unit
from services.bookings.common import after_key, check_branch_known
from services.bookings.models import customers
from services.bookings.rows import READ
from services.bookings.series.making import to_series
from services.bookings.series.models import booking_series

FILTERS = ("branch_id", "customer_id")
SELECT = prepare(
    sa.select(booking_series).where(
        booking_series.c.chain_id == sa.bindparam("chain_id"), booking_series.c.id == sa.bindparam("id")
    )
)
KNOWN_CUSTOMER = prepare(
    sa.select(customers.c.id).where(
        customers.c.chain_id == sa.bindparam("chain_id"), customers.c.id == sa.bindparam("id")
    )
)


async def get(request: series_pb2.GetBookingSeriesRequest, unit: Unit) -> series_pb2.BookingSeries:
    """Read a series. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("series", "id")
    unit.check_branch(row["branch_id"], READ)
    return to_series(row)


@prepared_once
def _statement(filters: frozenset[str]) -> Prepared:
    table = booking_series
    query = sa.select(table).where(table.c.chain_id == sa.bindparam("chain_id"))
    for name in FILTERS:
        if name in filters:
            query = query.where(table.c[name] == sa.bindparam(name))
    if "allowed" in filters:
        query = query.where(table.c.branch_id == sa.any_(sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))))
    if "before_id" in filters:
        query = query.where(table.c.id < sa.bindparam("before_id", type_=uuid_type()))
    return prepare(query.order_by(table.c.id.desc()).limit(sa.bindparam("limit", type_=sa.Integer())))


async def find(request: series_pb2.ListSeriesRequest, unit: Unit) -> series_pb2.ListSeriesResponse:
    """A page of series, the newest first: ids ascend with time."""
    limit = page_limit(request.page_size)
    parameters: dict[str, Any] = {
        name: getattr(request, name)
        for name in FILTERS
        if request.HasField(name)  # type: ignore[arg-type]
    }
    allowed = unit.allowed_branches(READ)
    if allowed is not None and "branch_id" not in parameters:
        parameters["allowed"] = allowed
    after = after_key(request.page_token)
    if after is not None:
        parameters["before_id"] = after[1]
    rows = await unit.all(_statement(frozenset(parameters)), **parameters, limit=limit + 1)
    if not rows and request.HasField("branch_id"):
        await check_branch_known(unit, request.branch_id.lower())
    if not rows and request.HasField("customer_id") and not await unit.value(KNOWN_CUSTOMER, id=request.customer_id):
        raise Absent("customer", request.customer_id.lower(), field="customer_id")
    page, token = split_page(rows, limit, lambda row: ("", row["id"]))
    return series_pb2.ListSeriesResponse(series=[to_series(row) for row in page], next_page_token=token)
