"""What is sold: every line at its price, a package divided over its services and products, the deposit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import packages_pb2

from chassis.db import prepare
from chassis.errors import FieldError, not_found
from chassis.money import money
from chassis.unit import Unit
from services.bookings import calendar, choice, pricing
from services.bookings.board import Board, Person
from services.bookings.choice import Given
from services.bookings.common import refuse_if
from services.bookings.packages_models import packages
from services.bookings.plan import PlannedLine

SELECT_PACKAGE = prepare(
    sa.select(packages).where(packages.c.chain_id == sa.bindparam("chain_id"), packages.c.id == sa.bindparam("id"))
)


@dataclass(frozen=True, slots=True)
class SoldPackage:
    """A package as it is sold at a branch now."""

    id: str
    name: str
    price_amount: int
    currency: str
    services: Sequence[packages_pb2.PackageService]
    products: Sequence[packages_pb2.PackageProduct]
    closed: str | None
    """Why it cannot be booked here."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A line with what its price depends on."""

    planned: PlannedLine
    lead: Person | None
    starts_at: datetime


@dataclass(frozen=True, slots=True)
class Amounts:
    """What lines and products cost, and the deposit, in minor units."""

    lines: tuple[int, ...]
    products: tuple[int, ...]
    deposit: int

    @property
    def total(self) -> int:
        """The price of all of it."""
        return sum(self.lines) + sum(self.products)


@dataclass(frozen=True, slots=True)
class Sale:
    """A visit as it is sold."""

    lines: list[pb.BookingLine]
    amounts: Amounts
    package: SoldPackage | None

    def columns(self) -> dict[str, Any]:
        """What of it is frozen on a booking."""
        package = self.package
        return {
            "lines": pb.BookingLines(lines=self.lines).SerializeToString(),
            "price_amount": self.amounts.total,
            "deposit_amount": self.amounts.deposit or None,
            "package_id": package.id if package is not None else None,
            "package_name": package.name if package is not None else None,
            "products": pb.BookedProducts(products=products_of(package, self.amounts)).SerializeToString() or None,
        }


async def package_asked(
    unit: Unit, request: pb.CreateBookingRequest | pb.SearchAvailabilityRequest
) -> SoldPackage | None:
    """The package a request names, as its branch sells it; None when it names none. Raises Refusal NOT_FOUND."""
    if not request.HasField("package_id"):
        return None
    row = await unit.one(SELECT_PACKAGE, id=request.package_id)
    if row is None:
        raise not_found("package", "package_id")
    branch_id = request.branch_id.lower()
    prices = dict(zip(row["price_branch_ids"], row["price_branch_amounts"], strict=True))
    closed = None
    if row["branch_ids"] and branch_id not in row["branch_ids"]:
        closed = "package_elsewhere"
    if not row["active"]:
        closed = "package_inactive"
    return SoldPackage(
        id=row["id"],
        name=row["name"],
        price_amount=prices.get(branch_id, row["price_amount"]),
        currency=row["currency"],
        services=packages_pb2.PackageServices.FromString(row["services"]).services,
        products=packages_pb2.PackageProducts.FromString(row["products"]).products,
        closed=closed,
    )


def lines_of_package(
    package: SoldPackage, asked: Sequence[pb.LineRequest], staff_id: str | None = None
) -> list[pb.LineRequest]:
    """The lines a package stands for, with who and what is wanted for each.

    Raises Refusal INVALID_REQUEST when other services are named than those of the package, or in another order.
    """
    if asked and [line.service_id.lower() for line in asked] != [part.service_id for part in package.services]:
        message = "must name the services of the package, each of them, in its order"
        refuse_if([FieldError("lines", "package", message, "应按套餐的顺序逐一填写其中的服务")])
    lines = []
    for index, part in enumerate(package.services):
        line = pb.LineRequest()
        if asked:
            line.CopyFrom(asked[index])
        elif index == 0 and staff_id is not None:
            line.staff_id = staff_id
        line.service_id = part.service_id
        line.together = part.together
        line.add_on_ids[:] = [*part.add_on_ids, *line.add_on_ids]
        lines.append(line)
    return lines


def amounts_of(board: Board, priced: Sequence[Priced], package: SoldPackage | None) -> Amounts:
    """What lines and products cost.

    The price of a package is divided by what each costs alone; add-ons that are not in it cost extra.
    """
    alone = [_alone(board, each, each.planned.add_ons) for each in priced]
    products: list[int] = []
    if package is not None:
        inside = [
            _alone(board, each, each.planned.add_ons[: len(part.add_on_ids)])
            for each, part in zip(priced, package.services, strict=True)
        ]
        worth = [product.quantity * product.unit_price.amount for product in package.products]
        parts = pricing.divide(package.price_amount, [*inside, *worth])
        alone = [part + whole - own for part, whole, own in zip(parts, alone, inside, strict=False)]
        products = parts[len(inside) :]
    deposit = sum(
        pricing.deposit_amount(each.planned.service, amount) for each, amount in zip(priced, alone, strict=True)
    )
    return Amounts(tuple(alone), tuple(products), deposit)


def _alone(board: Board, priced: Priced, add_ons: Sequence[Any]) -> int:
    return pricing.price_amount(board, priced.planned.service, add_ons, priced.lead, priced.starts_at)


def products_of(package: SoldPackage | None, amounts: Amounts) -> list[pb.BookedProduct]:
    """The products of a package, each with its part of the price."""
    if package is None:
        return []
    return [
        pb.BookedProduct(
            name=product.name,
            code=product.code if product.HasField("code") else None,
            quantity=product.quantity,
            price=money(amount, package.currency),
        )
        for product, amount in zip(package.products, amounts.products, strict=True)
    ]


def sell(board: Board, given: Given, customer_id: str, package: SoldPackage | None = None) -> Sale:
    """A visit at the prices of now, with who and what each need gets."""
    lines = choice.lines_of(board, given, customer_id)
    priced = [
        Priced(planned, choice.lead_of(board, given, planned), calendar.moment_of(given.start + planned.first))
        for planned in given.plan.lines
    ]
    amounts = amounts_of(board, priced, package)
    for line, amount in zip(lines, amounts.lines, strict=True):
        line.price.amount = amount
    return Sale(lines, amounts, package)
