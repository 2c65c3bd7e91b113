"""Packages: several services and products that are sold for one price. How one is booked is in sale.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as bookings
from foyer.bookings.v1 import catalogue_pb2
from foyer.bookings.v1 import packages_pb2 as pb

from chassis.app import Context
from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import FieldError, not_found
from chassis.ids import new_id
from chassis.money import money
from chassis.pages import page_limit, split_page
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import catalogue_checks, domain
from services.bookings.catalogue import READ, WRITE, refuse_unknown
from services.bookings.common import (
    after_key,
    already_exists,
    check_branch_known,
    check_branches,
    check_scope,
    lower,
    refuse_if,
)
from services.bookings.models import services
from services.bookings.packages_models import packages
from services.bookings.sale import SELECT_PACKAGE

to_package = projector(
    pb.Package,
    services=lambda row: pb.PackageServices.FromString(row["services"]).services,
    products=lambda row: pb.PackageProducts.FromString(row["products"]).products,
    branch_prices=lambda row: [
        bookings.BranchPrice(branch_id=branch_id, price=money(amount, row["currency"]))
        for branch_id, amount in zip(row["price_branch_ids"], row["price_branch_amounts"], strict=True)
    ],
)

_one = sa.and_(packages.c.chain_id == sa.bindparam("chain_id"), packages.c.id == sa.bindparam("id"))
CHANGED = [column.name for column in packages.c if column.name not in ("chain_id", "id", "currency", "created_at")]
INSERT = prepare(sa.insert(packages).returning(packages))
SELECT_FOR_UPDATE = prepare(sa.select(packages).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(packages)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=packages.c[name].type) for name in CHANGED})
    .returning(packages)
)
ADD_ONS = prepare(
    sa.select(services.c.id, services.c.add_on).where(
        services.c.chain_id == sa.bindparam("chain_id"),
        services.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))),
    )
)


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    query = sa.select(packages).where(packages.c.chain_id == sa.bindparam("chain_id"))
    everywhere = sa.func.cardinality(packages.c.branch_ids) == 0
    if "active" in filters:
        query = query.where(packages.c.active == sa.bindparam("active"))
    if "branch_id" in filters:
        branch = sa.bindparam("branch_id", type_=uuid_type())
        query = query.where(sa.or_(everywhere, branch == sa.any_(packages.c.branch_ids)))
    if "allowed" in filters:
        branches = sa.bindparam("allowed", type_=packages.c.branch_ids.type)
        query = query.where(sa.or_(everywhere, packages.c.branch_ids.overlap(branches)))
    if "after_id" in filters:
        key = sa.tuple_(sa.bindparam("after_name", type_=sa.Text()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(packages.c.name, packages.c.id) > key)
    return prepare(query.order_by(packages.c.name, packages.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


class Packages:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def create_package(self, request: pb.CreatePackageRequest, unit: Unit) -> pb.Package:
        """Put a package into the catalogue."""
        values = {
            "id": new_id(),
            "code": request.code if request.HasField("code") else None,
            "name": request.name,
            "name_en": request.name_en or None,
            "services": _services(request.services),
            "products": pb.PackageProducts(products=request.products).SerializeToString(),
            "price_amount": request.price.amount,
            "currency": unit.caller.currency,
            **_branch_prices(request.branch_prices),
            "branch_ids": lower(request.branch_ids),
            "active": True,
            "version": 1,
            "created_at": unit.now,
        }
        _check(request, request.products, request.branch_prices, ("products", "branch_prices"), unit)
        check_scope(unit, values["branch_ids"], WRITE)
        await _check_services(unit, request.services, "services")
        await _check_places(unit, values, is_new=True)
        try:
            row = await unit.one(INSERT, **values)
        except asyncpg.UniqueViolationError:
            raise already_exists("package") from None
        assert row is not None
        package = to_package(row)
        unit.emit(pb.PackageCreated(package_id=package.id, package=package))
        return package

    async def list_packages(self, request: pb.ListPackagesRequest, unit: Unit) -> pb.ListPackagesResponse:
        """List the packages, by name."""
        limit = page_limit(request.page_size)
        after = after_key(request.page_token)
        allowed = unit.allowed_branches(READ)
        parameters: dict[str, Any] = {}
        if request.HasField("active"):
            parameters["active"] = request.active
        if request.HasField("branch_id"):
            parameters["branch_id"] = request.branch_id
            await check_branch_known(unit, request.branch_id.lower())
        if allowed is not None:
            parameters["allowed"] = allowed
        if after is not None:
            parameters["after_name"], parameters["after_id"] = after
        rows = await unit.all(_list(frozenset(parameters)), **parameters, limit=limit + 1)
        page, token = split_page(rows, limit, lambda row: (row["name"], row["id"]))
        return pb.ListPackagesResponse(packages=[to_package(row) for row in page], next_page_token=token)

    async def get_package(self, request: pb.GetPackageRequest, unit: Unit) -> pb.Package:
        """Read a package. Raises Refusal NOT_FOUND."""
        row = await unit.one(SELECT_PACKAGE, id=request.id)
        if row is None:
            raise not_found("package", "id")
        allowed = unit.allowed_branches(READ)
        if allowed is not None and row["branch_ids"] and not set(allowed) & set(row["branch_ids"]):
            check_scope(unit, row["branch_ids"], READ)
        return to_package(row)

    async def update_package(self, request: pb.UpdatePackageRequest, unit: Unit) -> pb.Package:
        """Change a package. Raises Refusal NOT_FOUND."""
        row = await unit.one(SELECT_FOR_UPDATE, id=request.id)
        if row is None:
            raise not_found("package", "id")
        check_scope(unit, row["branch_ids"], WRITE)
        unit.check_version(row["version"])
        prices = request.branch_prices.prices
        _check(request, request.products.products, prices, ("products.products", "branch_prices.prices"), unit)
        values = {name: row[name] for name in CHANGED} | _changes(request)
        values["version"] = row["version"] + 1
        check_scope(unit, values["branch_ids"], WRITE)
        await _check_services(unit, request.services.services, "services.services")
        await _check_places(unit, values, is_new=False)
        try:
            changed = await unit.one(UPDATE, id=request.id, **{f"new_{name}": values[name] for name in CHANGED})
        except asyncpg.UniqueViolationError:
            raise already_exists("package") from None
        assert changed is not None
        package = to_package(changed)
        unit.emit(pb.PackageUpdated(package_id=package.id, package=package))
        return package


def _services(asked: Sequence[pb.PackageService]) -> bytes:
    """The services as a column keeps them, ids in the form the database has them."""
    parts = [
        pb.PackageService(
            service_id=part.service_id.lower(),
            add_on_ids=[identifier.lower() for identifier in part.add_on_ids],
            together=part.together,
        )
        for part in asked
    ]
    return pb.PackageServices(services=parts).SerializeToString()


def _branch_prices(prices: Sequence[bookings.BranchPrice]) -> dict[str, Any]:
    return {
        "price_branch_ids": [price.branch_id.lower() for price in prices],
        "price_branch_amounts": [price.price.amount for price in prices],
    }


def _changes(request: pb.UpdatePackageRequest) -> dict[str, Any]:
    """Columns that a request changes."""
    given = {field.name: value for field, value in request.ListFields()}
    changes: dict[str, Any] = {name: given[name] or None for name in ("code", "name_en") if name in given}
    changes |= {name: given[name] for name in ("name", "active") if name in given}
    if request.HasField("services"):
        changes["services"] = _services(request.services.services)
    if request.HasField("products"):
        changes["products"] = request.products.SerializeToString()
    if request.HasField("price"):
        changes["price_amount"] = request.price.amount
    if request.HasField("branch_prices"):
        changes |= _branch_prices(request.branch_prices.prices)
    if request.HasField("branch_ids"):
        changes["branch_ids"] = lower(request.branch_ids.ids)
    return changes


def _check(
    request: pb.CreatePackageRequest | pb.UpdatePackageRequest,
    products: Sequence[pb.PackageProduct],
    prices: Sequence[bookings.BranchPrice],
    paths: tuple[str, str],
    unit: Unit,
) -> None:
    """Refuse all that is wrong with a package and that the contract's rules cannot say."""
    currency = unit.caller.currency
    errors: list[FieldError] = []
    if request.HasField("price"):
        errors += domain.money_errors("price", request.price, currency)
    for index, product in enumerate(products):
        errors += domain.money_errors(f"{paths[0]}[{index}].unit_price", product.unit_price, currency)
    errors += catalogue_checks.branch_price_errors(
        ((each.branch_id, each.price) for each in prices), paths[1], currency
    )
    parts = request.services if isinstance(request, pb.CreatePackageRequest) else request.services.services
    field = "services" if isinstance(request, pb.CreatePackageRequest) else "services.services"
    if parts and parts[0].together:
        message = "cannot be for the first service: there is none before it"
        errors.append(FieldError(f"{field}[0].together", "first", message, "第一项之前没有其他项目"))
    for index, part in enumerate(parts):
        ids = [identifier.lower() for identifier in part.add_on_ids]
        errors += domain.repeated_errors(f"{field}[{index}].add_on_ids", ids)
    refuse_if(errors)


async def _check_services(unit: Unit, parts: Sequence[pb.PackageService], field: str) -> None:
    """Refuse services that are not there, or that could never be booked together in this way."""
    named = [(f"{field}[{index}].service_id", part.service_id.lower()) for index, part in enumerate(parts)]
    named += [
        (f"{field}[{index}].add_on_ids[{position}]", identifier.lower())
        for index, part in enumerate(parts)
        for position, identifier in enumerate(part.add_on_ids)
    ]
    if not named:
        return
    rows = await unit.all(ADD_ONS, ids=[identifier for _, identifier in named])
    rules = {
        row["id"]: None if row["add_on"] is None else catalogue_pb2.AddOnRules.FromString(row["add_on"]) for row in rows
    }
    refuse_unknown("service", named, rules)
    errors = []
    for index, part in enumerate(parts):
        errors += catalogue_checks.combination_errors(f"{field}[{index}]", part, rules)
    refuse_if(errors)


async def _check_places(unit: Unit, values: dict[str, Any], *, is_new: bool) -> None:
    await check_branches(unit, values["branch_ids"], "branch_ids" if is_new else "branch_ids.ids")
    prices = "branch_prices" if is_new else "branch_prices.prices"
    await check_branches(unit, values["price_branch_ids"], prices, ".branch_id")
