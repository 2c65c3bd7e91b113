"""`make bench`: CPU per request of gateway, service and database, beside the same SQL by bare asyncpg in the same run.

The machine may be busy with other things: CPU time a request and ratios are what counts, not requests a second.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from bench import events
from bench.cpu import Meter, cpu_seconds
from bench.load import send
from bench.operations import GROWING, OPERATIONS, Operation
from bench.shop import BOOKINGS, FEWEST_BOOKINGS, MOST_BOOKINGS, Shop, fill, open_shop
from chassis.db import open_pool
from tools import running

CONNECTIONS = 8
WARM_UP = 200


async def measure(shop: Shop, operation: Operation, count: int, first: int = 1) -> bool:
    """Measure an operation and its floor; False when it costs more than promised. It begins with number `first`."""
    admin = await shop.admin(operation.service)
    try:
        meter = Meter(shop.platform, operation.service, admin)
        port = shop.platform.port_base
        warm_up = range(first, first + WARM_UP)
        numbers = range(first + WARM_UP, first + WARM_UP + count)
        if operation.prepare is not None:
            await operation.prepare(shop, range(first, first + WARM_UP + count))
        await send(port, operation.requests(shop, warm_up), CONNECTIONS)
        await asyncio.sleep(1)
        pids = await meter.backends()
        before = await meter.read(pids)
        result = await send(port, operation.requests(shop, numbers), CONNECTIONS)
        after = await meter.read(pids)
        assert set(result.statuses) == {operation.status}, f"{operation.name}: {dict(result.statuses)}"
        parts = [1000 * (a - b) / count for a, b in zip(_parts(after), _parts(before), strict=True)]
        total = sum(parts)
        floor_client, floor_database = await measure_floor(shop, operation, count, first)
        floor = floor_client + floor_database
        verdict = "ok" if total <= operation.promised_ms else "OVER"
        print(
            f"{operation.name:36} {total:6.2f} ms (gateway {parts[0]:.2f}, service {parts[1]:.2f}, "
            f"database {parts[2]:.2f}) promised {operation.promised_ms:.1f} {verdict:4} | floor {floor:.2f} "
            f"(client {floor_client:.2f}, database {floor_database:.2f}) ratio {total / floor:.1f} | "
            f"{count / result.elapsed_seconds:.0f}/s, p50 {result.percentile_ms(0.5):.1f} ms, "
            f"p99 {result.percentile_ms(0.99):.1f} ms",
            flush=True,
        )
        return total <= operation.promised_ms
    finally:
        await admin.close()


def _parts(spent: object) -> tuple[float, float, float]:
    return spent.gateway, spent.service, spent.database  # type: ignore[attr-defined]


async def measure_floor(shop: Shop, operation: Operation, count: int, first: int) -> tuple[float, float]:
    """CPU a transaction in milliseconds, of a bare client and of PostgreSQL."""
    pool = await open_pool(shop.settings.database_url_of(operation.service), CONNECTIONS, "bench-floor")
    connections = [await pool.acquire() for _ in range(CONNECTIONS)]
    try:
        pids = [connection.get_server_pid() for connection in connections]
        numbers = iter(range(first, first + WARM_UP + count))

        async def work(connection: object, until: int) -> None:
            for number in numbers:
                await operation.floor(connection, shop, number)
                if number >= until:
                    return

        await asyncio.gather(*(work(connection, first + WARM_UP - CONNECTIONS) for connection in connections))
        client, database = time.process_time(), sum(cpu_seconds(pid) for pid in pids)
        done = next(numbers)
        await asyncio.gather(*(work(connection, first + WARM_UP + count) for connection in connections))
        number = first + WARM_UP + count - done
        return (
            1000 * (time.process_time() - client) / number,
            1000 * (sum(cpu_seconds(pid) for pid in pids) - database) / number,
        )
    finally:
        for connection in connections:
            await pool.release(connection)
        await pool.close()


async def grow(shop: Shop, operations: list[Operation], count: int) -> bool:
    """Measure the same with 6,000, 60,000 and 600,000 bookings stored: it must cost the window, not the store."""
    ok = True
    stored = FEWEST_BOOKINGS
    for turn, wanted in enumerate((FEWEST_BOOKINGS, BOOKINGS, MOST_BOOKINGS)):
        if wanted > stored:
            await fill(shop, stored, wanted)
        stored = wanted
        print(f"--- {stored:,} bookings", flush=True)
        for operation in operations:
            ok &= await measure(shop, operation, count, 1 + turn * (count + WARM_UP))
    return ok


async def main(names: list[str], count: int, *, growth: bool = False) -> int:
    """Measure everything, or what is named; answers a process exit code."""
    platform = running.start()
    try:
        memory = platform.memory_bytes() / 2**20
        print(
            f"idle memory of all processes (PSS)   {memory:6.0f} MB, promised 1024 {'ok' if memory <= 1024 else 'OVER'}"
        )
        shop = await open_shop(platform)
        ok = memory <= 1024
        wanted = [each for each in OPERATIONS if not names or any(word in each.name for word in names)]
        if growth:
            ok &= await grow(shop, [each for each in wanted if each in GROWING], count)
        else:
            await fill(shop, FEWEST_BOOKINGS, BOOKINGS)
            for operation in wanted:
                ok &= await measure(shop, operation, count)
            if not names or "events" in names:
                ok &= await events.measure(shop)
        return 0 if ok else 1
    finally:
        platform.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of what to measure; everything when none")
    parser.add_argument("--count", type=int, default=3000, help="requests an operation")
    parser.add_argument("--growth", action="store_true", help="bookings with 6,000, 60,000 and 600,000 of them stored")
    options = parser.parse_args()
    raise SystemExit(asyncio.run(main(options.names, min(options.count, 20_000), growth=options.growth)))
