"""The catalogue: services, what they cost, how long they take."""

from __future__ import annotations

from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import FieldError, not_found
from chassis.ids import new_id
from chassis.money import money
from chassis.pages import page_limit, split_page
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import domain
from services.bookings.common import after_key, already_exists, check_branches, check_scope, lower, refuse_if
from services.bookings.models import services

READ, WRITE = "catalogue.read", "catalogue.write"

to_service = projector(
    pb.Service,
    branch_prices=lambda row: [
        pb.BranchPrice(branch_id=branch_id, price=money(amount, row["currency"]))
        for branch_id, amount in zip(row["price_branch_ids"], row["price_branch_amounts"], strict=True)
    ],
)

_one = sa.and_(services.c.chain_id == sa.bindparam("chain_id"), services.c.id == sa.bindparam("id"))
CHANGED = [column.name for column in services.c if column.name not in ("chain_id", "id", "currency", "created_at")]
INSERT = prepare(sa.insert(services).returning(services))
SELECT = prepare(sa.select(services).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(services).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(services)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=services.c[name].type) for name in CHANGED})
    .returning(services)
)


@prepared_once
def _list(*, active: bool, allowed: bool, after: bool) -> Prepared:
    query = sa.select(services).where(services.c.chain_id == sa.bindparam("chain_id"))
    if active:
        query = query.where(services.c.active == sa.bindparam("active"))
    if allowed:
        branches = sa.bindparam("allowed", type_=services.c.branch_ids.type)
        query = query.where(
            sa.or_(sa.func.cardinality(services.c.branch_ids) == 0, services.c.branch_ids.overlap(branches))
        )
    if after:
        key = sa.tuple_(sa.bindparam("after_name", type_=sa.Text()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(services.c.name, services.c.id) > key)
    return prepare(query.order_by(services.c.name, services.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


async def create(request: pb.CreateServiceRequest, unit: Unit) -> pb.Service:
    """Put a service into the catalogue."""
    values = _values(request)
    values |= {
        "id": new_id(),
        "currency": unit.caller.currency,
        "active": True,
        "version": 1,
        "created_at": unit.now,
        "deposit_amount": request.deposit.amount if request.HasField("deposit") and request.deposit.amount else None,
        "code": request.code if request.HasField("code") else None,
        "name_en": request.name_en or None,
        "category": request.category or None,
    }
    _check(request, values, request.branch_prices, "branch_prices", unit)
    check_scope(unit, values["branch_ids"], WRITE)
    await _check_places(unit, values)
    try:
        row = await unit.one(INSERT, **values)
    except asyncpg.UniqueViolationError:
        raise already_exists("service") from None
    assert row is not None
    service = to_service(row)
    unit.emit(pb.ServiceCreated(service_id=service.id, service=service))
    return service


async def find(request: pb.ListServicesRequest, unit: Unit) -> pb.ListServicesResponse:
    """A page of the catalogue, by name."""
    limit = page_limit(request.page_size)
    after = after_key(request.page_token)
    allowed = unit.allowed_branches(READ)
    parameters: dict[str, Any] = {"limit": limit + 1}
    if request.HasField("active"):
        parameters["active"] = request.active
    if allowed is not None:
        parameters["allowed"] = allowed
    if after is not None:
        parameters["after_name"], parameters["after_id"] = after
    statement = _list(active=request.HasField("active"), allowed=allowed is not None, after=after is not None)
    rows = await unit.all(statement, **parameters)
    page, token = split_page(rows, limit, lambda row: (row["name"], row["id"]))
    return pb.ListServicesResponse(services=[to_service(row) for row in page], next_page_token=token)


async def get(request: pb.GetServiceRequest, unit: Unit) -> pb.Service:
    """Read a service. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("service", "id")
    allowed = unit.allowed_branches(READ)
    if allowed is not None and row["branch_ids"] and not set(allowed) & set(row["branch_ids"]):
        check_scope(unit, row["branch_ids"], READ)
    return to_service(row)


async def update(request: pb.UpdateServiceRequest, unit: Unit) -> pb.Service:
    """Change a service. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT_FOR_UPDATE, id=request.id)
    if row is None:
        raise not_found("service", "id")
    check_scope(unit, row["branch_ids"], WRITE)
    unit.check_version(row["version"])
    values = {name: row[name] for name in CHANGED} | _changes(request)
    values["version"] = row["version"] + 1
    _check(request, values, request.branch_prices.prices, "branch_prices.prices", unit)
    check_scope(unit, values["branch_ids"], WRITE)
    await _check_places(unit, values)
    try:
        changed = await unit.one(UPDATE, id=request.id, **{f"new_{name}": values[name] for name in CHANGED})
    except asyncpg.UniqueViolationError:
        raise already_exists("service") from None
    assert changed is not None
    service = to_service(changed)
    unit.emit(pb.ServiceUpdated(service_id=service.id, service=service))
    return service


def _values(request: pb.CreateServiceRequest) -> dict[str, Any]:
    return {
        "name": request.name,
        "duration_minutes": request.duration_minutes,
        "buffer_before_minutes": request.buffer_before_minutes,
        "buffer_after_minutes": request.buffer_after_minutes,
        "price_amount": request.price.amount,
        "price_branch_ids": [price.branch_id.lower() for price in request.branch_prices],
        "price_branch_amounts": [price.price.amount for price in request.branch_prices],
        "required_skills": list(dict.fromkeys(request.required_skills)),
        "branch_ids": lower(request.branch_ids),
    }


def _changes(request: pb.UpdateServiceRequest) -> dict[str, Any]:
    """Columns that a request changes."""
    given = {field.name: value for field, value in request.ListFields()}
    texts = ("code", "name_en", "category")
    others = ("name", "duration_minutes", "buffer_before_minutes", "buffer_after_minutes", "active")
    changes = {name: given[name] or None for name in texts if name in given}
    changes |= {name: given[name] for name in others if name in given}
    if request.HasField("price"):
        changes["price_amount"] = request.price.amount
    if request.HasField("deposit"):
        changes["deposit_amount"] = request.deposit.amount or None
    if request.HasField("branch_prices"):
        changes["price_branch_ids"] = [price.branch_id.lower() for price in request.branch_prices.prices]
        changes["price_branch_amounts"] = [price.price.amount for price in request.branch_prices.prices]
    if request.HasField("required_skills"):
        changes["required_skills"] = list(dict.fromkeys(request.required_skills.values))
    if request.HasField("branch_ids"):
        changes["branch_ids"] = lower(request.branch_ids.ids)
    return changes


def _check(
    request: pb.CreateServiceRequest | pb.UpdateServiceRequest,
    values: dict[str, Any],
    prices: Any,
    path: str,
    unit: Unit,
) -> None:
    """Refuse all that is wrong with a service and that the contract's rules cannot say."""
    currency = unit.caller.currency
    minutes = ("duration_minutes", "buffer_before_minutes", "buffer_after_minutes")
    errors: list[FieldError] = domain.step_errors((name, values[name]) for name in minutes)
    if request.HasField("price"):
        errors += domain.money_errors("price", request.price, currency)
    if request.HasField("deposit"):
        errors += domain.money_errors("deposit", request.deposit, currency)
    for index, price in enumerate(prices):
        errors += domain.money_errors(f"{path}[{index}].price", price.price, currency)
    ids = [price.branch_id.lower() for price in prices]
    errors += [
        FieldError(f"{error.field}.branch_id", error.code, error.message, error.message_zh)
        for error in domain.repeated_errors(path, ids)
    ]
    refuse_if(errors)


async def _check_places(unit: Unit, values: dict[str, Any]) -> None:
    await check_branches(unit, values["branch_ids"], "branch_ids")
    await check_branches(unit, values["price_branch_ids"], "branch_prices", ".branch_id")
