"""`make bench`: CPU per request of gateway, service and database, beside the same SQL by bare asyncpg in the same run.

The machine may be busy with other things: CPU time a request and ratios are what counts, not requests a second.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

from bench import events
from bench.cpu import Meter, cpu_seconds
from bench.load import send
from bench.operations import OPERATIONS, Operation
from bench.shop import Shop, open_shop
from chassis.db import open_pool
from tools import running

CONNECTIONS = 8
WARM_UP = 200


async def measure(shop: Shop, operation: Operation, count: int) -> bool:
    """Measure an operation and its floor; False when it costs more than promised."""
    admin = await shop.admin(operation.service)
    try:
        meter = Meter(shop.platform, operation.service, admin)
        port = shop.platform.port_base
        await send(port, operation.requests(shop, range(1, WARM_UP + 1)), CONNECTIONS)
        await asyncio.sleep(1)
        pids = await meter.backends()
        before = await meter.read(pids)
        result = await send(port, operation.requests(shop, range(WARM_UP + 1, WARM_UP + count + 1)), CONNECTIONS)
        after = await meter.read(pids)
        assert set(result.statuses) == {operation.status}, f"{operation.name}: {dict(result.statuses)}"
        parts = [1000 * (a - b) / count for a, b in zip(_parts(after), _parts(before), strict=True)]
        total = sum(parts)
        floor_client, floor_database = await measure_floor(shop, operation, count)
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


async def measure_floor(shop: Shop, operation: Operation, count: int) -> tuple[float, float]:
    """CPU a transaction in milliseconds, of a bare client and of PostgreSQL."""
    pool = await open_pool(shop.settings.database_url_of(operation.service), CONNECTIONS, "bench-floor")
    connections = [await pool.acquire() for _ in range(CONNECTIONS)]
    try:
        pids = [connection.get_server_pid() for connection in connections]
        numbers = iter(range(WARM_UP + count))

        async def work(connection: object, until: int) -> None:
            for number in numbers:
                await operation.floor(connection, shop, number)
                if number >= until:
                    return

        await asyncio.gather(*(work(connection, WARM_UP - CONNECTIONS) for connection in connections))
        client, database = time.process_time(), sum(cpu_seconds(pid) for pid in pids)
        done = next(numbers)
        await asyncio.gather(*(work(connection, WARM_UP + count) for connection in connections))
        number = WARM_UP + count - done
        return (
            1000 * (time.process_time() - client) / number,
            1000 * (sum(cpu_seconds(pid) for pid in pids) - database) / number,
        )
    finally:
        for connection in connections:
            await pool.release(connection)
        await pool.close()


async def main(names: list[str], count: int) -> int:
    """Measure everything, or what is named; answers a process exit code."""
    platform = running.start()
    try:
        memory = platform.memory_bytes() / 2**20
        print(
            f"idle memory of all processes (PSS)   {memory:6.0f} MB, promised 1024 {'ok' if memory <= 1024 else 'OVER'}"
        )
        shop = await open_shop(platform)
        steps: dict[str, Callable[[], Awaitable[bool]]] = {
            operation.name: lambda operation=operation: measure(shop, operation, count)  # type: ignore[misc]
            for operation in OPERATIONS
        }
        steps["events"] = lambda: events.measure(shop)
        ok = memory <= 1024
        for name, step in steps.items():
            if not names or any(word in name for word in names):
                ok &= await step()
        return 0 if ok else 1
    finally:
        platform.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of what to measure; everything when none")
    parser.add_argument("--count", type=int, default=3000, help="requests an operation")
    options = parser.parse_args()
    raise SystemExit(asyncio.run(main(options.names, min(options.count, 20_000))))
