"""The operations that are promised to be fast: the requests, and the same SQL by bare asyncpg as their floor."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlencode

from bench.load import request
from bench.shop import CUSTOMERS, Shop, booking
from chassis import unit as chassis_unit
from chassis.db import CHAIN_SETTING, Prepared
from chassis.ids import new_id
from chassis.outbox import partition_of
from services.bookings import allocator, calendar
from services.bookings import statements as bookings_sql
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


class Transaction:
    """A transaction as the chassis makes it: BEGIN and the chain in one round trip, statements, COMMIT."""

    def __init__(self, connection: Any, shop: Shop) -> None:
        self.connection = connection
        self.shop = shop

    async def __aenter__(self) -> Self:
        await self.connection.execute(f"begin;select set_config('{CHAIN_SETTING}','{self.shop.chain_id}',true)")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.execute("commit")

    async def run(self, statement: Prepared, **parameters: Any) -> Any:
        parameters.setdefault("chain_id", self.shop.chain_id)
        return await self.connection.fetch(statement.sql, *statement.arguments(parameters))

    async def claim(self, key: str) -> None:
        now = datetime.now(UTC)
        await self.connection.fetchval(
            chassis_unit.CLAIM_KEY, self.shop.chain_id, "floor", key, "Floor", b"0" * 32, now
        )

    async def finish(self, key: str, subject: str, aggregate_id: str) -> None:
        now = datetime.now(UTC)
        await self.connection.execute(
            chassis_unit.EVENTS_AND_ANSWER,
            self.shop.chain_id,
            now,
            None,
            [new_id()],
            [partition_of(aggregate_id)],
            [subject],
            [aggregate_id],
            [now],
            [b"x" * 300],
            b"x" * 300,
            "floor",
            key,
        )


def read_customer(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    return [request("GET", f"/v1/customers/{shop.customer_ids[n % CUSTOMERS]}", shop.key) for n in numbers]


async def read_customer_floor(connection: Any, shop: Shop, number: int) -> None:
    async with Transaction(connection, shop) as transaction:
        await transaction.run(customers_sql.GET_CUSTOMER, id=shop.customer_ids[number % CUSTOMERS])


def availability(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    found = []
    for number in numbers:
        day = shop.midnight + timedelta(days=2 + number % 5)
        query = {
            "branch_id": shop.branch_id,
            "service_id": shop.service_id,
            "from": day.isoformat(),
            "to": (day + timedelta(days=1)).isoformat(),
        }
        found.append(request("GET", f"/v1/availability?{urlencode(query)}", shop.key))
    return found


async def availability_floor(connection: Any, shop: Shop, number: int) -> None:
    async with Transaction(connection, shop) as transaction:
        await transaction.run(
            bookings_sql.READ_TIMES, **times(shop, None, shop.midnight + timedelta(days=2 + number % 5))
        )


def times(shop: Shop, staff_id: str | None, day: datetime) -> dict[str, Any]:
    return {
        "branch_id": shop.branch_id,
        "service_id": shop.service_id,
        "staff_id": staff_id,
        "customer_id": None,
        "first_date": (day - timedelta(days=1)).date(),
        "last_date": (day + timedelta(days=1)).date(),
        "first_day": (day - timedelta(days=1)).date(),
        "last_day": (day + timedelta(days=1)).date(),
        "now": datetime.now(UTC),
    }


def hold(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    return [
        request(
            "POST", "/v1/bookings", shop.key, json.dumps(booking(shop, n, hold=True)).encode(), idempotency_key=f"h-{n}"
        )
        for n in numbers
    ]


async def hold_floor(connection: Any, shop: Shop, number: int) -> None:
    # Far from what the gateway is asked for: 150 days on, within what can be booked.
    staff_id, starts_at = shop.slot(number)
    starts_at += timedelta(days=150)
    identifier = new_id()
    now = datetime.now(UTC)
    row = {
        "id": identifier,
        "branch_id": shop.branch_id,
        "service_id": shop.service_id,
        "customer_id": shop.customer_ids[number % CUSTOMERS],
        "staff_id": staff_id,
        "status": "held",
        "starts_at": starts_at,
        "ends_at": starts_at + timedelta(hours=1),
        "buffer_before_minutes": 0,
        "buffer_after_minutes": 0,
        "price_amount": 12800,
        "currency": "CNY",
        "service_name": "Cut",
        "time_zone": "UTC",
        "expires_at": now + timedelta(minutes=10),
        "source": None,
        "note": None,
        "version": 1,
        "created_at": now,
    }
    taken = allocator.Taken.by(row)
    masks = taken.masks()
    async with Transaction(connection, shop) as transaction:
        await transaction.claim(f"hf-{identifier}")
        await transaction.run(bookings_sql.READ_TIMES, **times(shop, staff_id, starts_at))
        await transaction.run(
            bookings_sql.CLAIM,
            **row,
            days=[day for _, day in masks],
            masks=[allocator.bits(mask) for mask in masks.values()],
            occupied_from=calendar.moment_of(taken.first),
            occupied_until=calendar.moment_of(taken.last),
        )
        await transaction.finish(f"hf-{identifier}", "bench.floor", identifier)


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
    Operation("availability of a day, 20 staff", "bookings", 2.5, 200, availability, availability_floor),
    Operation("hold, with outbox and idempotency", "bookings", 4.0, 201, hold, hold_floor),
    Operation("charge", "wallet", 4.0, 201, charge, charge_floor),
)
