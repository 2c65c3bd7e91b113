"""The operations of bookings that are promised to be fast, each with the same SQL by bare asyncpg as its floor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from bench.load import Connection, request
from bench.shop import CUSTOMERS, ROOMS, Shop, booking
from bench.transaction import Transaction
from chassis.ids import new_id
from services.bookings import allocator, calendar, statements
from services.bookings.allocator import Taken

MONTH_DAYS = 31
# Bookings with a room are made far from those of one person, so that none is in the way of the other.
EQUIPPED_DAYS_AHEAD, CONFIRMED_DAYS_AHEAD, FLOOR_DAYS_AHEAD = 100, 180, 300
MOST_AT_ONCE = 8


def availability(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    return [_availability(shop, shop.service_id, number) for number in numbers]


def pair_availability(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    return [_availability(shop, shop.pair_id, number) for number in numbers]


def _availability(shop: Shop, service_id: str, number: int) -> bytes:
    day = shop.midnight + timedelta(days=2 + number % 5)
    query = {
        "branch_id": shop.branch_id,
        "service_id": service_id,
        "from": day.isoformat(),
        "to": (day + timedelta(days=1)).isoformat(),
    }
    return request("GET", f"/v1/availability?{urlencode(query)}", shop.key)


def month(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    found = []
    for number in numbers:
        day = shop.midnight.date() + timedelta(days=2 + number % 5)
        query = {
            "branch_id": shop.branch_id,
            "service_id": shop.service_id,
            "from_date": day.isoformat(),
            "until_date": (day + timedelta(days=MONTH_DAYS - 1)).isoformat(),
        }
        found.append(request("GET", f"/v1/availability/days?{urlencode(query)}", shop.key))
    return found


async def availability_floor(connection: Any, shop: Shop, number: int) -> None:
    await _read(connection, shop, shop.staff_ids, shop.midnight + timedelta(days=2 + number % 5), 1)


async def pair_floor(connection: Any, shop: Shop, number: int) -> None:
    ids = [*shop.staff_ids, *shop.thing_ids[:ROOMS]]
    await _read(connection, shop, ids, shop.midnight + timedelta(days=2 + number % 5), 1)


async def month_floor(connection: Any, shop: Shop, number: int) -> None:
    await _read(connection, shop, shop.staff_ids, shop.midnight + timedelta(days=2 + number % 5), MONTH_DAYS)


async def _read(connection: Any, shop: Shop, ids: Sequence[str], day: datetime, days: int) -> None:
    async with Transaction(connection, shop) as transaction:
        await transaction.run(statements.READ_BUSY, **_busy(shop, ids, day, days))


def _busy(shop: Shop, ids: Sequence[str], day: datetime, days: int) -> dict[str, Any]:
    return {
        "branch_id": shop.branch_id,
        "customer_ids": [],
        "ids": list(ids),
        "first_day": day.date(),
        "last_day": (day + timedelta(days=days - 1)).date(),
        "now": datetime.now(UTC),
    }


# --- taking time ---


def hold(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    return [_post(shop, "/v1/bookings", booking(shop, n, hold=True), f"h-{n}") for n in numbers]


def equipped(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    return [_post(shop, "/v1/bookings", _equipped(shop, n, EQUIPPED_DAYS_AHEAD), f"e-{n}") for n in numbers]


def _post(shop: Shop, path: str, body: dict[str, Any], key: str) -> bytes:
    return request("POST", path, shop.key, json.dumps(body).encode(), idempotency_key=key)


def _equipped(shop: Shop, number: int, days_ahead: int, *, held: bool = False) -> dict[str, Any]:
    """The body that books the nth time of which there are five at once: as many as there are rooms."""
    return {
        "branch_id": shop.branch_id,
        "service_id": shop.equipped_id,
        "customer_id": shop.customer_ids[number % CUSTOMERS],
        "starts_at": _start(shop, number, days_ahead).isoformat(),
        "hold": held,
    }


def _start(shop: Shop, number: int, days_ahead: int) -> datetime:
    # Those that are asked for one after the other lie at different hours: what is measured is not the fight.
    day, hour = number // (12 * ROOMS), number % 12
    return shop.midnight + timedelta(days=days_ahead + day, hours=9 + hour)


async def hold_all(shop: Shop, numbers: Sequence[int]) -> None:
    """Hold what is to be confirmed."""
    waiting = iter(numbers)

    async def work() -> None:
        connection = await Connection.open(shop.platform.port_base)
        try:
            for number in waiting:
                body = _equipped(shop, number, CONFIRMED_DAYS_AHEAD, held=True)
                status, answer = await connection.send(_post(shop, "/v1/bookings", body, f"k-{number}"))
                assert status == 201, answer
                shop.held_ids[number] = json.loads(answer)["id"]
        finally:
            connection.close()

    await asyncio.gather(*(work() for _ in range(MOST_AT_ONCE)))


def confirm(shop: Shop, numbers: Sequence[int]) -> list[bytes]:
    return [_post(shop, f"/v1/bookings/{shop.held_ids[n]}:confirm", {}, f"c-{n}") for n in numbers]


async def hold_floor(connection: Any, shop: Shop, number: int) -> None:
    staff_id, starts_at = shop.slot(number)
    await _claim(connection, shop, number, [staff_id], starts_at + timedelta(days=FLOOR_DAYS_AHEAD))


async def equipped_floor(connection: Any, shop: Shop, number: int) -> None:
    turn = number % ROOMS
    ids = [shop.staff_ids[turn], shop.thing_ids[turn], shop.thing_ids[ROOMS + turn]]
    # Nights, so that it is in nobody's way.
    starts_at = _start(shop, number, EQUIPPED_DAYS_AHEAD) + timedelta(hours=12)
    await _claim(connection, shop, number, ids, starts_at)


async def _claim(connection: Any, shop: Shop, number: int, ids: list[str], starts_at: datetime) -> None:
    identifier, now = new_id(), datetime.now(UTC)
    customer_id = shop.customer_ids[number % CUSTOMERS]
    values = dict.fromkeys(statements.NEW_BOOKING) | {
        "id": identifier,
        "branch_id": shop.branch_id,
        "service_id": shop.service_id,
        "customer_id": customer_id,
        "staff_id": ids[0],
        "status": "confirmed",
        "starts_at": starts_at,
        "ends_at": starts_at + timedelta(hours=1),
        "buffer_before_minutes": 0,
        "buffer_after_minutes": 0,
        "lines": b"x" * 300,
        "deposit_status": "none",
        "price_amount": 12800,
        "currency": "CNY",
        "service_name": "Cut",
        "time_zone": "UTC",
        "overlap_allowed": False,
        "version": 1,
        "created_at": now,
    }
    first = calendar.last_step(starts_at)
    taken = [Taken(resource_id, first, first + 12) for resource_id in sorted([*ids, customer_id])]
    async with Transaction(connection, shop) as transaction:
        await transaction.claim(f"f-{identifier}")
        await transaction.run(statements.READ_BUSY, **_busy(shop, shop.staff_ids, starts_at, 1))
        await transaction.run(statements.CLAIM, **values, **allocator.arguments(taken), versions=None)
        await transaction.finish(f"f-{identifier}", "bench.floor", identifier)


async def confirm_floor(connection: Any, shop: Shop, number: int) -> None:
    """What confirming writes besides reading the booking: the row, its allocations, an event."""
    identifier = shop.held_ids[number]
    async with Transaction(connection, shop) as transaction:
        await transaction.claim(f"cf-{identifier}-{new_id()}")
        await transaction.run(allocator.KEEP, id=identifier, expiry=None)
        await transaction.finish(f"cf-{identifier}", "bench.floor", identifier)
