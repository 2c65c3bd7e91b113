"""From commit to counted: events a second that outbox, bus and reports sustain, and their lag at 300 a second."""

from __future__ import annotations

import asyncio
import time

import asyncpg
from foyer.common.v1.common_pb2 import Money
from foyer.wallet.v1 import wallet_pb2

from bench.cpu import cpu_seconds
from bench.shop import Shop
from chassis.ids import new_id
from chassis.outbox import partition_of

EVENTS = 30_000
BATCH = 500
PROMISED_A_SECOND = 3000
STEADY_A_SECOND = 300
STEADY_SECONDS = 15
PROMISED_LAG_SECONDS = 1.0
WAIT_SECONDS = 120

INSERT = """
insert into outbox (chain_id, id, partition, subject, aggregate_id, recorded_at, occurred_at, body)
select $1, e.id, e.partition, 'payment.recorded', e.id::text, clock_timestamp(), clock_timestamp(), e.body
from unnest($2::uuid[], $3::smallint[], $4::bytea[]) as e(id, partition, body)
"""


def payments(shop: Shop, number: int) -> tuple[list[str], list[int], list[bytes]]:
    """Events that reports count and nobody else listens to."""
    ids = [new_id() for _ in range(number)]
    bodies = []
    for identifier in ids:
        payment = wallet_pb2.Payment(
            id=identifier,
            kind=wallet_pb2.PAYMENT_KIND_SALE,
            amount=Money(amount=100, currency="CNY"),
            branch_id=shop.branch_id,
            description="bench",
        )
        event = wallet_pb2.PaymentRecorded(payment_id=identifier, payment=payment, time_zone="UTC")
        bodies.append(event.SerializeToString())
    return ids, [partition_of(identifier) for identifier in ids], bodies


async def measure(shop: Shop) -> bool:
    """Print both figures; False when one is worse than promised."""
    wallet, reports = await shop.admin("wallet"), await shop.admin("reports")
    try:
        counted = "select count(*) from inbox where chain_id = $1"
        names = ("wallet", "reports", "nats", "postgres")
        cpu = {name: cpu_seconds(shop.platform.pid(name) or 0) for name in names}
        batches = [payments(shop, BATCH) for _ in range(EVENTS // BATCH)]
        before = await reports.fetchval(counted, shop.chain_id)
        started = time.perf_counter()
        for batch in batches:
            await wallet.execute(INSERT, shop.chain_id, *batch)
        while await reports.fetchval(counted, shop.chain_id) < before + EVENTS:
            assert time.perf_counter() < started + WAIT_SECONDS, "events were not counted in time"
            await asyncio.sleep(0.05)
        rate = EVENTS / (time.perf_counter() - started)
        each = {name: 1000 * (cpu_seconds(shop.platform.pid(name) or 0) - cpu[name]) / EVENTS for name in names[:3]}
        lag = await steady(shop, wallet, reports)
        ok = rate >= PROMISED_A_SECOND and lag < PROMISED_LAG_SECONDS
        parts = ", ".join(f"{name} {value:.3f}" for name, value in each.items())
        print(
            f"{'event from commit to counted':36} {rate:6.0f} /s, promised {PROMISED_A_SECOND} "
            f"{'ok' if rate >= PROMISED_A_SECOND else 'UNDER'} (CPU ms an event: {parts}); "
            f"p99 lag at {STEADY_A_SECOND}/s {lag:.3f} s, promised {PROMISED_LAG_SECONDS:.0f} s "
            f"{'ok' if lag < PROMISED_LAG_SECONDS else 'OVER'}",
            flush=True,
        )
        return ok
    finally:
        await wallet.close()
        await reports.close()


async def steady(
    shop: Shop, wallet: asyncpg.Connection[asyncpg.Record], reports: asyncpg.Connection[asyncpg.Record]
) -> float:
    """The 99th percentile of seconds between commit and counted at a steady rate."""
    ids: list[str] = []
    for tick in range(STEADY_SECONDS * 10):
        due = time.perf_counter() + 0.1
        batch = payments(shop, STEADY_A_SECOND // 10)
        await wallet.execute(INSERT, shop.chain_id, *batch)
        ids += batch[0]
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        assert tick < STEADY_SECONDS * 10
    await asyncio.sleep(5)
    seen = await reports.fetch("select event_id, seen_at from inbox where event_id = any($1::uuid[])", ids)
    assert len(seen) == len(ids), "events were not counted within five seconds"
    sent = await wallet.fetch("select id, recorded_at from outbox where id = any($1::uuid[])", ids)
    times = {row["id"]: row["recorded_at"] for row in sent}
    lags = sorted((row["seen_at"] - times[row["event_id"]]).total_seconds() for row in seen)
    return float(lags[int(len(lags) * 0.99)])
