"""Lists by name: the same for resource types, units and stock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import sqlalchemy as sa

from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.pages import page_limit, split_page, wrong_token
from chassis.unit import Unit
from services.bookings.common import after_key
from services.bookings.resources.models import stock_items


@prepared_once
def _statement(table: sa.Table, filters: frozenset[str]) -> Prepared:
    query = sa.select(table).where(table.c.chain_id == sa.bindparam("chain_id"))
    for name in ("branch_id", "resource_type_id", "active"):
        if name in filters:
            query = query.where(table.c[name] == sa.bindparam(name))
    if "low" in filters:
        low = sa.and_(stock_items.c.active, stock_items.c.quantity <= stock_items.c.low_at)
        query = query.where(low == sa.bindparam("low", type_=sa.Boolean()))
    if "allowed" in filters:
        allowed = sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))
        query = query.where(table.c.branch_id == sa.any_(allowed))
    if "after_id" in filters:
        key = sa.tuple_(sa.bindparam("after_name", type_=sa.Text()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(table.c.name, table.c.id) > key)
    return prepare(query.order_by(table.c.name, table.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


def filters_of(request: Any, *names: str) -> dict[str, Any]:
    """The filters a request gives, by name."""
    return {name: getattr(request, name) for name in names if request.HasField(name)}


async def page_by_name(
    unit: Unit, table: sa.Table, request: Any, filters: dict[str, Any]
) -> tuple[Sequence[asyncpg.Record], str | None]:
    """The rows of a page by name, and the token of the next one. Raises Refusal INVALID_REQUEST for a wrong token."""
    limit = page_limit(request.page_size)
    after = after_key(request.page_token)
    parameters = dict(filters)
    if after is not None:
        parameters["after_name"], parameters["after_id"] = after
    statement = _statement(table, frozenset(parameters))
    rows = await unit.all(statement, **parameters, limit=limit + 1)
    return split_page(rows, limit, lambda row: (row["name"], row["id"]))


def scoped(unit: Unit, filters: dict[str, Any], permission: str) -> dict[str, Any]:
    """Filters within the branches of a caller's permission; a branch that is named was checked by the chassis."""
    allowed = unit.allowed_branches(permission)
    return filters if allowed is None or "branch_id" in filters else {**filters, "allowed": allowed}


def after_moment(token: str) -> tuple[datetime, str] | None:
    """The (moment, id) after which a page begins; None for the first page. Raises Refusal INVALID_REQUEST."""
    after = after_key(token)
    if after is None:
        return None
    try:
        moment = datetime.fromisoformat(after[0])
    except ValueError:
        raise wrong_token() from None
    if moment.tzinfo is None:
        raise wrong_token()
    return moment, after[1]
