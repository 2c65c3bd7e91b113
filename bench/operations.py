"""The operations that are promised to be fast: the requests, and the same SQL by bare asyncpg as their floor."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench import bookings
from bench.load import request
from bench.shop import CUSTOMERS, Shop
from bench.transaction import Transaction
from chassis.ids import new_id
from services.customers import statements as customers_sql
from services.wallet import statements as wallet_sql

Floor = Callable[[Any, Shop, int], Awaitable[None]]


@dataclass(frozen=True)
class Operation:
    """What is sent, what it may cost, and its floor."""

    name: str
    service: str
    promised_ms: float
    status: int
    requests: Callable[[Shop, Sequence[int]], list[bytes]]
    floor: Floor
    prepare: Callable[[Shop, Sequence[int]], Awaitable[None]] | None = None
    """What must be there before the requests can be sent."""


def read_customer(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    return [request("GET", f"/v1/customers/{shop.customer_ids[n % CUSTOMERS]}", shop.key) for n in numbers]


async def read_customer_floor(connection: Any, shop: Shop, number: int) -> None:
    async with Transaction(connection, shop) as transaction:
        await transaction.run(customers_sql.GET_CUSTOMER, id=shop.customer_ids[number % CUSTOMERS])


def charge(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    body = json.dumps({"amount": {"amount": 1, "currency": "CNY"}, "reason": "bench", "branch_id": shop.branch_id})
    return [
        request(
            "POST",
            f"/v1/wallets/{shop.customer_ids[n % CUSTOMERS]}:charge",
            shop.key,
            body.encode(),
            idempotency_key=f"c-{n}",
        )
        for n in numbers
    ]


async def charge_floor(connection: Any, shop: Shop, number: int) -> None:
    identifier = new_id()
    async with Transaction(connection, shop) as transaction:
        await transaction.claim(f"cf-{identifier}")
        await transaction.run(
            wallet_sql.CHARGE,
            customer_id=shop.customer_ids[number % CUSTOMERS],
            branch_id=shop.branch_id,
            staff_id=None,
            service_id=None,
            booking_id=None,
            time_zone="UTC",
            amount=1,
            currency="CNY",
            now=datetime.now(UTC),
            id=identifier,
            reason="bench",
            automatic=False,
            principal_entry_id=new_id(),
            gift_entry_id=new_id(),
            revenue_entry_id=new_id(),
        )
        await transaction.finish(f"cf-{identifier}", "bench.floor", identifier)


OPERATIONS = (
    Operation("read one customer", "customers", 1.5, 200, read_customer, read_customer_floor),
    Operation(
        "availability of a day, 20 staff", "bookings", 2.5, 200, bookings.availability, bookings.availability_floor
    ),
    Operation(
        "availability, 2 roles and a room", "bookings", 2.5, 200, bookings.pair_availability, bookings.pair_floor
    ),
    Operation("month at a glance, 20 staff", "bookings", 8.0, 200, bookings.month, bookings.month_floor),
    Operation("hold", "bookings", 3.0, 201, bookings.hold, bookings.hold_floor),
    Operation("book person, room and thing", "bookings", 3.0, 201, bookings.equipped, bookings.equipped_floor),
    Operation("confirm", "bookings", 3.0, 200, bookings.confirm, bookings.confirm_floor, bookings.hold_all),
    Operation("charge", "wallet", 4.0, 201, charge, charge_floor),
)
GROWING = tuple(OPERATIONS[index] for index in (1, 2, 3, 4, 5))
"""Those that must not cost more when more bookings are stored."""
