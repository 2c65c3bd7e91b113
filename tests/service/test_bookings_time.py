"""The guard of time under load, and the plans its speed rests on."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.clock import FrozenClock
from chassis.db import CHAIN_SETTING, Prepared
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from services.bookings import anywhere, statements
from services.bookings.jobs import expire_holds
from services.bookings.records import list_statement
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp
from tools.servers import Servers

ROUNDS, LONG_ROUNDS = 25, 400
AT_ONCE = 40
EXPECTED = {"SLOT_TAKEN", "NOT_BOOKABLE", "WRONG_STATE", "HOLD_EXPIRED", "CUSTOMER_BUSY"}


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_time") as started:
        yield started


async def outcome(shop: Shop, method: str, request: Any) -> str:
    try:
        await shop.call(method, request)
    except Refusal as refusal:
        return refusal.code
    return "done"


def step(shop: Shop, dice: random.Random, ids: list[str]) -> tuple[str, Any]:
    """Something that somebody might do."""
    starts_at = at(1, 10) + timedelta(minutes=5 * dice.randrange(84), days=dice.randrange(2))
    kind = dice.choice(["book", "book", "hold", "confirm", "cancel", "move", "move"])
    if kind in ("book", "hold") or not ids:
        staff = dice.choice([None, *range(len(shop.staff))])
        return "CreateBooking", shop.request(starts_at, staff, hold=kind == "hold")
    booking_id = dice.choice(ids)
    if kind == "confirm":
        return "ConfirmBooking", pb.ConfirmBookingRequest(id=booking_id)
    if kind == "cancel":
        return "CancelBooking", pb.CancelBookingRequest(id=booking_id)
    moved = pb.RescheduleBookingRequest(id=booking_id, starts_at=stamp(starts_at), staff_id=dice.choice(shop.staff))
    return "RescheduleBooking", moved


@pytest.mark.timeout(600)
async def test_a_storm_leaves_time_in_order(alone: tuple[Platform, FrozenClock], long_run: bool) -> None:
    """Bookings, holds that run out, moves, cancellations at once: bits and allocations stay equal, nothing overlaps."""
    platform, clock = alone
    shop = await Shop(platform, clock).open(3, buffer_after_minutes=5, duration_minutes=30)
    dice = random.Random(11)
    seen: Counter[str] = Counter()
    for number in range(LONG_ROUNDS if long_run else ROUNDS):
        listed = await shop.call("ListBookings", pb.ListBookingsRequest(page_size=200, status=[1, 2]))  # type: ignore[list-item]
        steps = [step(shop, dice, [booking.id for booking in listed.bookings]) for _ in range(AT_ONCE)]
        jobs = [expire_holds(platform["bookings"].context)] if number % 5 == 0 else []
        found, *_ = await asyncio.gather(asyncio.gather(*(outcome(shop, *one) for one in steps)), *jobs)
        seen.update(found)
        assert await shop.check_time() > 0
        clock.advance(timedelta(minutes=dice.choice((0, 4, 6))) if clock.now() < at(0, 20) else timedelta(0))
    assert set(seen) <= {*EXPECTED, "done"}
    assert seen["done"] > AT_ONCE
    assert seen["SLOT_TAKEN"] > AT_ONCE
    assert clock.now() > NOW


# --- plans ---------------------------------------------------------------------------------------------


MANY_BOOKINGS = """
insert into bookings (chain_id, id, branch_id, service_id, customer_id, staff_id, status, starts_at, ends_at,
  buffer_before_minutes, buffer_after_minutes, price_amount, currency, service_name, time_zone, version, created_at)
select $1::uuid, gen_random_uuid(), md5('b' || n % 10)::uuid, md5('v' || n % 7)::uuid, md5('c' || n % 900)::uuid,
  md5('s' || n % 60)::uuid, 'confirmed', '2026-01-01'::timestamptz + n * interval '7 minutes',
  '2026-01-01'::timestamptz + n * interval '8 minutes', 0, 0, 100, 'CNY', 'Cut', 'UTC', 1, now()
from generate_series(1, 8000) as n
"""


MANY_LEAVES = """
insert into leaves (chain_id, id, staff_id, kind, status, starts_at, ends_at, requested_by, version, created_at)
select $1::uuid, gen_random_uuid(), md5('s' || n % 60)::uuid, 'annual', 'approved',
  '2020-01-01'::timestamptz + n * interval '1 day', '2020-01-02'::timestamptz + n * interval '1 day', 'x', 1, now()
from generate_series(1, 3000) as n
"""


@pytest.fixture(scope="module")
async def connection(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Any]:
    """The application role on a table of some thousand bookings, with a planner that takes every index it may."""
    settings = alone[0]["bookings"].settings
    opened = await asyncpg.connect(settings.database_url_of("bookings"))
    for name, value in (
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        (CHAIN_SETTING, new_id()),
    ):
        await opened.execute("select set_config($1, $2, false)", name, value)
    chain_id = await opened.fetchval("select current_setting($1)", CHAIN_SETTING)
    await opened.execute(MANY_BOOKINGS, chain_id)
    await opened.execute(MANY_LEAVES, chain_id)
    owner = await asyncpg.connect(settings.owner_database_url.replace("{service}", "bookings"))
    await owner.execute("analyze bookings, leaves")
    await owner.close()
    yield opened
    await opened.close()


async def plan(connection: Any, statement: Prepared) -> str:
    """How a statement runs whose values are not known."""
    await connection.execute(f"prepare wanted as {statement.sql}")
    try:
        nulls = ", ".join(["null"] * len(statement.names))
        rows = await connection.fetch(f"explain (costs off) execute wanted({nulls})")
    finally:
        await connection.execute("deallocate wanted")
    return "\n".join(row[0].strip() for row in rows)


# What of each statement must be a condition of an index. Row-level security takes the index from operators that are
# not leakproof.
CONDITIONS: dict[Prepared, list[tuple[str, ...]]] = {
    statements.READ_BUSY: [
        ("resource_id = ANY", "day >= $5", "day <= $6"),
        ("expires_at <= $7",),
        ("id = ANY ($3)",),
        ("branch_id = $2",),
    ],
    statements.READ_BUSY_TO_TAKE: [
        ("resource_id = ANY", "day >= $5", "day <= $6"),
        ("expires_at <= $7",),
        ("id = ANY ($3)",),
        ("branch_id = $2",),
    ],
    anywhere.READ_BUSY: [
        ("branch_id = ANY ($2)",),
        ("resource_id = ANY", "day >= $5", "day <= $6"),
        ("expires_at <= $7",),
        ("id = ANY ($3)",),
    ],
    anywhere.READ_BRANCHES: [()],
    statements.READ_VERSIONS: [("branch_id = $2",), ("branch_id = '0000",)],
    statements.READ_BRANCH: [("id = $2",)],
    statements.READ_SERVICES: [()],
    statements.READ_PEOPLE: [(), ("branch_id = $2",)],
    statements.READ_SHIFTS: [("branch_id = $2",)],
    statements.READ_DATED: [("branch_id = $2", "day >= $3")],
    statements.READ_LEAVES: [("staff_id = ANY", "ends_at > ")],
    statements.READ_THINGS: [("branch_id = $2",)],
    statements.READ_TYPES: [()],
    statements.READ_BLOCKS: [("branch_id = $2", "ends_at > ")],
}


@pytest.mark.parametrize("statement", CONDITIONS, ids=lambda statement: statement.name)
async def test_what_decides_about_time_is_read_from_indexes(connection: Any, statement: Prepared) -> None:
    text = await plan(connection, statement)
    assert "Seq Scan" not in text
    conditions = [line for line in text.splitlines() if line.startswith("Index Cond")]
    assert all("chain_id = " in line for line in conditions)
    for parts in CONDITIONS[statement]:
        assert any(all(part in line for part in parts) for line in conditions), (parts, conditions)


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"from", "to"}, "bookings_by_start"),
        ({"status", "after"}, "bookings_by_start"),
        ({"status", "one_status", "from"}, "bookings_by_status"),
        ({"allowed", "from", "after"}, "bookings_by_start"),
        ({"branch_id", "from", "to", "status"}, "bookings_of_branch"),
        ({"staff_id", "from", "to"}, "bookings_of_staff"),
        ({"customer_id", "after"}, "bookings_of_customer"),
    ],
)
async def test_a_page_of_bookings_is_read_in_the_order_of_an_index(
    connection: Any, filters: set[str], index: str
) -> None:
    text = await plan(connection, list_statement(frozenset(filters)))
    assert f"Index Scan using {index}" in text
    assert "Sort" not in text
    condition = next(line for line in text.splitlines() if line.startswith("Index Cond"))
    assert all(f"{name} = " in condition for name in filters & {"branch_id", "staff_id", "customer_id"})
    assert ("from" in filters) == ("starts_at >= " in condition)
    assert ("after" in filters) == ("ROW(starts_at, id) > " in condition)
