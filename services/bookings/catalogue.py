"""The catalogue: services, what they cost, how long they take."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import catalogue_pb2

from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.money import money
from chassis.pages import page_limit, split_page
from chassis.rows import projector
from chassis.unit import Absent, Unit
from services.bookings import catalogue_checks, domain
from services.bookings.common import (
    KNOWN_BRANCHES,
    after_key,
    already_exists,
    check_branch_known,
    check_branches,
    check_scope,
    lower,
    refuse_if,
    stored,
)
from services.bookings.models import resource_types, services
from services.bookings.resources.models import stock_items

READ, WRITE = "catalogue.read", "catalogue.write"

to_service = projector(
    pb.Service,
    branch_prices=lambda row: [
        pb.BranchPrice(branch_id=branch_id, price=money(amount, row["currency"]))
        for branch_id, amount in zip(row["price_branch_ids"], row["price_branch_amounts"], strict=True)
    ],
    plan=lambda row: stored(catalogue_pb2.ServicePlan, row["plan"]),
    price_rules=lambda row: stored(catalogue_pb2.PriceRules, row["price_rules"]),
    offer=lambda row: stored(catalogue_pb2.OfferRules, row["offer"]),
    add_on=lambda row: stored(catalogue_pb2.AddOnRules, row["add_on"]),
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


def _known_ids(table: sa.Table) -> Prepared:
    wanted = sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type())))
    return prepare(sa.select(table.c.id).where(table.c.chain_id == sa.bindparam("chain_id"), table.c.id == wanted))


KNOWN_SERVICES = _known_ids(services)
KNOWN_TYPES = _known_ids(resource_types)
KNOWN_STOCK = _known_ids(stock_items)
PLANS = prepare(
    sa.select(services.c.id, services.c.plan).where(
        services.c.chain_id == sa.bindparam("chain_id"),
        services.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))),
    )
)


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    query = sa.select(services).where(services.c.chain_id == sa.bindparam("chain_id"))
    everywhere = sa.func.cardinality(services.c.branch_ids) == 0
    if "active" in filters:
        query = query.where(services.c.active == sa.bindparam("active"))
    if "category" in filters:
        query = query.where(services.c.category == sa.bindparam("category"))
    if "source" in filters:
        source = sa.bindparam("source", type_=sa.Text())
        any_channel = sa.func.cardinality(services.c.channels) == 0
        query = query.where(sa.or_(any_channel, source == sa.any_(services.c.channels)))
    if "branch_id" in filters:
        branch = sa.bindparam("branch_id", type_=uuid_type())
        query = query.where(sa.or_(everywhere, branch == sa.any_(services.c.branch_ids)))
    if "allowed" in filters:
        branches = sa.bindparam("allowed", type_=services.c.branch_ids.type)
        query = query.where(sa.or_(everywhere, services.c.branch_ids.overlap(branches)))
    if "after_id" in filters:
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
        "deposit_percent": request.deposit_percent or None,
        "channels": [],
        **dict.fromkeys(MESSAGES),
        **_messages(request),
    }
    _check(request, values, request.branch_prices, "branch_prices", unit)
    check_scope(unit, values["branch_ids"], WRITE)
    await _check_known(unit, request, values)
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
    names = ("active", "source", "category", "branch_id")
    parameters: dict[str, Any] = {name: getattr(request, name) for name in names if request.HasField(name)}  # type: ignore[arg-type]
    if "branch_id" in parameters:
        await check_branch_known(unit, request.branch_id.lower())
    if allowed is not None:
        parameters["allowed"] = allowed
    if after is not None:
        parameters["after_name"], parameters["after_id"] = after
    rows = await unit.all(_list(frozenset(parameters)), **parameters, limit=limit + 1)
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
    await _check_known(unit, request, values)
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


MESSAGES = ("plan", "price_rules", "offer", "add_on")


def _messages(request: pb.CreateServiceRequest | pb.UpdateServiceRequest) -> dict[str, Any]:
    """Columns of the messages that a request gives, ids in the form the database has them; none for an empty one."""
    given: dict[str, Any] = {}
    if request.HasField("plan"):
        plan = catalogue_pb2.ServicePlan()
        plan.CopyFrom(request.plan)
        for need in plan.resources:
            need.resource_type_id = need.resource_type_id.lower()
        for material in plan.materials:
            material.stock_item_id = material.stock_item_id.lower()
        given["plan"] = plan.SerializeToString() or None
    if request.HasField("price_rules"):
        rules = catalogue_pb2.PriceRules()
        rules.CopyFrom(request.price_rules)
        for rule in rules.rules:
            rule.branch_ids[:] = [identifier.lower() for identifier in rule.branch_ids]
        given["price_rules"] = rules.SerializeToString() or None
    if request.HasField("offer"):
        given["offer"] = request.offer.SerializeToString() or None
        given["channels"] = list(request.offer.channels)
    if request.HasField("add_on"):
        # An empty one says something: it goes with everything, and is sold alone as well.
        add_on = catalogue_pb2.AddOnRules(
            only_with=request.add_on.only_with, service_ids=[each.lower() for each in request.add_on.service_ids]
        )
        given["add_on"] = add_on.SerializeToString()
    return given


def _changes(request: pb.UpdateServiceRequest) -> dict[str, Any]:
    """Columns that a request changes."""
    given = {field.name: value for field, value in request.ListFields()}
    texts = ("code", "name_en", "category")
    others = ("name", "duration_minutes", "buffer_before_minutes", "buffer_after_minutes", "active")
    changes = {name: given[name] or None for name in texts if name in given}
    changes |= {name: given[name] for name in others if name in given}
    if request.HasField("price"):
        changes["price_amount"] = request.price.amount
    # One kind of deposit takes the place of the other.
    if request.HasField("deposit_percent"):
        changes["deposit_percent"] = request.deposit_percent or None
        changes |= {"deposit_amount": None} if request.deposit_percent else {}
    if request.HasField("deposit"):
        changes["deposit_amount"] = request.deposit.amount or None
        changes |= {"deposit_percent": None} if request.deposit.amount else {}
    changes |= _messages(request)
    if request.remove_add_on:
        changes["add_on"] = None
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
    prices: Sequence[pb.BranchPrice],
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
    if request.deposit.amount and request.deposit_percent:
        message = "there can be a fixed deposit or one in percent, not both"
        errors.append(FieldError("deposit_percent", "conflict", message, "固定订金与百分比订金只能填写一项"))
    errors += catalogue_checks.branch_price_errors(((each.branch_id, each.price) for each in prices), path, currency)
    # A plan that stays must still fill the service when that becomes longer or shorter.
    blamed = "plan.segments" if request.HasField("plan") else "duration_minutes"
    plan = catalogue_pb2.ServicePlan.FromString(values["plan"] or b"")
    errors += catalogue_checks.plan_errors(plan, values["duration_minutes"], duration_field=blamed)
    errors += catalogue_checks.price_rule_errors(request.price_rules, currency)
    errors += catalogue_checks.offer_errors(request.offer)
    errors += catalogue_checks.add_on_errors(request.add_on)
    if isinstance(request, pb.UpdateServiceRequest) and request.remove_add_on and request.HasField("add_on"):
        message = "cannot be changed and taken away at once"
        errors.append(FieldError("remove_add_on", "conflict", message, "不能同时修改与取消附加项目"))
    refuse_if(errors)


async def _check_known(
    unit: Unit, request: pb.CreateServiceRequest | pb.UpdateServiceRequest, values: dict[str, Any]
) -> None:
    """Raise Absent or Refusal NOT_FOUND for what a service names and the chain does not have."""
    is_new = isinstance(request, pb.CreateServiceRequest)
    await check_branches(unit, values["branch_ids"], "branch_ids" if is_new else "branch_ids.ids")
    prices = "branch_prices" if is_new else "branch_prices.prices"
    await check_branches(unit, values["price_branch_ids"], prices, ".branch_id")
    of_rules = [
        (f"price_rules.rules[{index}].branch_ids[{position}]", identifier.lower())
        for index, rule in enumerate(request.price_rules.rules)
        for position, identifier in enumerate(rule.branch_ids)
    ]
    if of_rules:
        known = {row["id"] for row in await unit.all(KNOWN_BRANCHES, ids=[identifier for _, identifier in of_rules])}
        for field, identifier in of_rules:
            if identifier not in known:
                raise Absent("branch", identifier, field=field)
    types = [
        (f"plan.resources[{index}].resource_type_id", need.resource_type_id)
        for index, need in enumerate(request.plan.resources)
    ]
    await _check_ids(unit, KNOWN_TYPES, "resource_type", types)
    materials = [
        (f"plan.materials[{index}].stock_item_id", material.stock_item_id)
        for index, material in enumerate(request.plan.materials)
    ]
    await _check_ids(unit, KNOWN_STOCK, "stock_item", materials)
    others = [
        (f"add_on.service_ids[{index}]", identifier) for index, identifier in enumerate(request.add_on.service_ids)
    ]
    await _check_ids(unit, KNOWN_SERVICES, "service", others)


async def _check_ids(unit: Unit, statement: Prepared, kind: str, named: Sequence[tuple[str, str]]) -> None:
    if named:
        known = {row["id"] for row in await unit.all(statement, ids=[identifier.lower() for _, identifier in named])}
        refuse_unknown(kind, named, known)


def refuse_unknown(kind: str, named: Iterable[tuple[str, str]], known: Container[str]) -> None:
    """Refuse NOT_FOUND all ids of a kind that are not known, all at once; `named`: fields with their ids."""
    errors = [
        FieldError(field, "not_found", f"there is no such {kind}", "未找到该记录")
        for field, identifier in named
        if identifier.lower() not in known
    ]
    if errors:
        raise Refusal("NOT_FOUND", errors=errors, kind=kind)


async def checked_terms(
    unit: Unit, terms: Sequence[catalogue_pb2.StaffTerms], field: str
) -> catalogue_pb2.StaffTermsList:
    """A person's terms as they are kept; `field` names their list.

    Raises Refusal INVALID_REQUEST for what makes no sense, NOT_FOUND for services that are not there.
    """
    refuse_if(catalogue_checks.term_errors(terms, unit.caller.currency, field))
    found = catalogue_pb2.StaffTermsList(terms=terms)
    for each in found.terms:
        each.service_id = each.service_id.lower()
    if not found.terms:
        return found
    rows = await unit.all(PLANS, ids=[each.service_id for each in found.terms])
    segments = {row["id"]: len(catalogue_pb2.ServicePlan.FromString(row["plan"] or b"").segments) for row in rows}
    named = [(f"{field}[{index}].service_id", each.service_id) for index, each in enumerate(found.terms)]
    refuse_unknown("service", named, segments)
    message = "is only for services of one segment"
    refuse_if(
        [
            FieldError(f"{field}[{index}].duration_minutes", "segments", message, "仅适用于单一环节的服务")
            for index, each in enumerate(found.terms)
            if each.HasField("duration_minutes") and segments[each.service_id] > 1
        ]
    )
    return found
