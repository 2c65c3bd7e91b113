"""The relay: from rows to the bus, in order for each thing, and again when the stream loses them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import asyncpg
import pytest

from chassis import metrics
from chassis.bus import LARGEST_BODY_BYTES, Delivery, Event, PubAck
from chassis.deadletters import READ_LOG, READ_LOG_OF_CHAIN
from chassis.ids import new_id
from chassis.jetstream import JetStreamBus
from chassis.memory_bus import MemoryBus, Trouble
from chassis.outbox import NEWEST_SENT, PARTITIONS, UNSENT, Relay, dedicated, partition_of
from chassis.unit import system_caller
from tests.eventing import SERVICE, TYPE, Database, cancelled, new_chain, open_database, running, until
from tools import servers as test_servers


@pytest.fixture(scope="module")
def event_servers() -> Iterator[test_servers.Servers]:
    started = test_servers.start(services=())
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
async def database(event_servers: test_servers.Servers) -> AsyncIterator[Database]:
    async with open_database(event_servers) as opened:
        yield opened


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    memory = MemoryBus()
    await memory.connect()
    yield memory
    await memory.close()


async def unsent(database: Database) -> int:
    count: int = await database.system_pool.fetchval("select count(*) from outbox where published_at is null")
    return count


async def all_sent(database: Database, seconds: float = 15) -> None:
    async def none_left() -> bool:
        return await unsent(database) == 0

    await until(none_left, seconds)


async def stream(bus: MemoryBus | JetStreamBus, durable: str = "test") -> list[Delivery]:
    subscription = await bus.subscribe(durable, [TYPE])
    found: list[Delivery] = []
    while batch := await subscription.fetch(500, 0.3):
        await subscription.ack(batch)
        found += batch
    await subscription.close()
    return found


def test_a_thing_is_always_in_the_same_partition() -> None:
    assert [partition_of(str(number)) for number in range(6)] == [1, 3, 1, 3, 0, 2]
    assert {partition_of(new_id()) for _ in range(200)} == set(range(PARTITIONS))


async def test_what_is_committed_is_sent_as_it_is_and_the_answer_kept(database: Database, bus: MemoryBus) -> None:
    chain_id = new_chain()
    occurred_at = datetime(2018, 1, 2, 3, 4, 5, tzinfo=UTC)
    async with database.store.unit(system_caller(SERVICE, chain_id)) as unit:
        event_id = unit.emit(cancelled("a", 7), occurred_at)
        now = unit.now
    relay = Relay(database.system_pool, bus, SERVICE)
    async with running(relay.run):
        await all_sent(database)
    (delivery,) = await stream(bus)
    assert delivery.event == Event(
        id=event_id,
        type=TYPE,
        chain_id=chain_id,
        aggregate_id="a",
        source=SERVICE,
        time=now,
        occurred_at=occurred_at,
        body=cancelled("a", 7).SerializeToString(),
        traceparent=delivery.event.traceparent,
    )
    row = await database.system_pool.fetchrow("select * from outbox")
    assert row is not None
    assert (row["stream_sequence"], row["stream_created_at"]) == (1, (await bus.stream_state()).created_at)


async def test_what_is_undone_is_not_sent(database: Database, bus: MemoryBus) -> None:
    async def fail() -> None:
        async with database.store.unit(system_caller(SERVICE, new_chain())) as unit:
            unit.emit(cancelled("a", 1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with running(Relay(database.system_pool, bus, SERVICE).run):
        await asyncio.sleep(0.3)
    assert await stream(bus) == []


async def test_a_commit_in_this_process_is_sent_at_once(event_servers: test_servers.Servers, bus: MemoryBus) -> None:
    async with open_database(event_servers) as database:
        relay = Relay(database.system_pool, bus, SERVICE)
        database.store.on_events = relay.wake
        async with running(relay.run):
            await until(lambda: len(relay.owned) == PARTITIONS)
            await asyncio.sleep(1)
            subscription = await bus.subscribe("quick", [TYPE])
            started = time.perf_counter()
            await database.emit(new_chain(), [cancelled("a", 1)])
            assert await subscription.fetch(1, 5)
            assert time.perf_counter() - started < 0.15


async def test_each_partition_has_one_owner_and_another_when_that_one_is_cut_off(
    database: Database, bus: MemoryBus
) -> None:
    first, second = (Relay(database.system_pool, bus, SERVICE) for _ in range(2))
    async with running(first.run, second.run):
        await until(lambda: len(first.owned) + len(second.owned) == PARTITIONS)
        owner, other = (first, second) if first.owned else (second, first)
        await asyncio.sleep(0.2)
        assert len(owner.owned) == PARTITIONS
        assert not other.owned
        killed = await _admin(database, "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
        assert killed
        await until(lambda: not owner.owned or bool(other.owned))
        chain_id = new_chain()
        await database.emit(chain_id, [cancelled(str(number), 1) for number in range(20)])
        await all_sent(database)
    assert len({delivery.event.id for delivery in await stream(bus)}) == 20


async def _admin(database: Database, statement: str) -> list[asyncpg.Record]:
    """Run something as the system role, which may end its own sessions."""
    async with database.system_pool.acquire() as connection:
        return await connection.fetch(statement)


async def test_what_cannot_be_sent_keeps_back_only_its_own_thing(database: Database, bus: MemoryBus) -> None:
    chain_id = new_chain()
    with pytest.raises(ValueError, match="larger than the bus takes"):
        await database.emit(chain_id, [cancelled("stuck", 1, note="x" * (LARGEST_BODY_BYTES + 1))])
    events = [cancelled("free", 1), cancelled("stuck", 1), cancelled("stuck", 2), cancelled("free", 2)]
    ids = await database.emit(chain_id, events)
    # A row from a time when the bus took more than it does now.
    grow = "update outbox set body = convert_to(repeat('x', $2), 'utf8') where id = $1"
    await database.system_pool.execute(grow, ids[1], LARGEST_BODY_BYTES + 1)
    async with running(Relay(database.system_pool, bus, SERVICE).run):

        async def two_left() -> bool:
            return await unsent(database) == 2

        await until(two_left)
        await database.emit(chain_id, [cancelled("free", 3)])
        await asyncio.sleep(0.1)
        await until(two_left)
    assert [delivery.event.aggregate_id for delivery in await stream(bus)] == ["free"] * 3


async def test_order_holds_although_every_third_answer_is_missing(database: Database) -> None:
    bus = MemoryBus(11, Trouble(drop=0.3))
    await bus.connect()
    chain_id = new_chain()
    for version in range(1, 31):
        await database.emit(chain_id, [cancelled(str(thing), version) for thing in range(7)])
    async with running(Relay(database.system_pool, bus, SERVICE).run):
        await all_sent(database, 30)
    versions: dict[str, list[int]] = {}
    for delivery in await stream(bus):
        event = cancelled("", 0)
        event.ParseFromString(delivery.event.body)
        versions.setdefault(event.booking_id, []).append(event.notice_minutes)
    assert versions == {str(thing): list(range(1, 31)) for thing in range(7)}


async def test_without_a_bus_it_waits_and_tells_how_long(database: Database) -> None:
    bus = MemoryBus()
    relay = Relay(database.system_pool, bus, SERVICE)
    chain_id = new_chain()
    async with running(relay.run):
        await database.emit(chain_id, [cancelled("a", 1)])
        await asyncio.sleep(0.5)
        assert await unsent(database) == 1
        async with dedicated(database.system_pool) as connection:
            await relay._measure(connection)
        assert metrics.REGISTRY.get_sample_value("foyer_outbox_unsent", {"service": SERVICE}) == 1
        assert (metrics.REGISTRY.get_sample_value("foyer_outbox_oldest_seconds", {"service": SERVICE}) or 0) >= 0.4
        await bus.connect()
        await all_sent(database)
    assert len(await stream(bus)) == 1


async def test_a_stream_made_anew_gets_everything_again_in_order(database: Database, bus: MemoryBus) -> None:
    chain_id = new_chain()
    await database.emit(chain_id, [cancelled(str(number % 3), number) for number in range(40)])
    async with running(Relay(database.system_pool, bus, SERVICE).run):
        await all_sent(database)
        before = await stream(bus)
        bus.recreate()
        await bus.close()
        await bus.connect()
        await database.emit(chain_id, [cancelled("0", 40)])
        await until(lambda: bus._last >= 41)
        await all_sent(database)
    after = await stream(bus)
    assert {delivery.event.id for delivery in before} < {delivery.event.id for delivery in after}
    assert len(after) == 41
    numbers: dict[str, list[int]] = {}
    for delivery in after:
        event = cancelled("", 0)
        event.ParseFromString(delivery.event.body)
        numbers.setdefault(event.booking_id, []).append(event.notice_minutes)
    assert all(found == sorted(found) for found in numbers.values())


async def test_a_lost_end_is_found_although_others_have_published_since(database: Database, bus: MemoryBus) -> None:
    chain_id = new_chain()
    async with running(Relay(database.system_pool, bus, SERVICE).run):
        for number in range(30):
            await database.emit(chain_id, [cancelled(str(number), 1)])
        await all_sent(database)
    sent = {row["id"] for row in await database.system_pool.fetch("select id from outbox")}
    bus.lose_after(12)
    now = datetime.now(UTC)
    foreign = [
        Event(
            id=new_id(),
            type=TYPE,
            chain_id=chain_id,
            aggregate_id="x",
            source="others",
            time=now,
            occurred_at=now,
            body=b"",
        )
        for _ in range(50)
    ]
    assert all(isinstance(answer, PubAck) for answer in await bus.publish_many(foreign))
    async with running(Relay(database.system_pool, bus, SERVICE).run):
        await until(lambda: bus._last >= 12 + 50 + 18)
        await all_sent(database)
    found = [delivery.event.id for delivery in await stream(bus) if delivery.event.source == SERVICE]
    assert set(found) == sent
    # What the stream still had was dropped as a double.
    assert len(found) == len(sent)


async def test_what_the_stream_would_have_dropped_by_now_is_not_sent_again(database: Database, bus: MemoryBus) -> None:
    chain_id = new_chain()
    await database.emit(chain_id, [cancelled("old", 1), cancelled("new", 1)])
    async with running(Relay(database.system_pool, bus, SERVICE).run):
        await all_sent(database)
    await database.system_pool.execute(
        "update outbox set recorded_at = now() - interval '8 days' where aggregate_id = 'old'"
    )
    bus.recreate()
    async with running(Relay(database.system_pool, bus, SERVICE).run):
        await until(lambda: bus._last == 1)
        await all_sent(database)
    assert [delivery.event.aggregate_id for delivery in await stream(bus)] == ["new"]


async def test_the_roles_may_do_no_more_than_they_need(database: Database) -> None:
    mine, other = new_chain(), new_chain()
    await database.emit(mine, [cancelled("a", 1)])
    await database.emit(other, [cancelled("b", 1)])
    async with database.pool.acquire() as connection, connection.transaction():
        assert await connection.fetchval("select count(*) from outbox") == 0
        await connection.execute("select set_config('foyer.chain_id', $1, true)", mine)
        assert [row["aggregate_id"] for row in await connection.fetch("select * from outbox")] == ["a"]
    assert await database.system_pool.fetchval("select count(*) from outbox") == 2
    for statement in ("delete from outbox", "truncate outbox"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.system_pool.execute(statement)


async def test_a_large_log_is_never_read_as_a_whole(database: Database) -> None:
    async with dedicated(database.system_pool) as connection:
        plans = [await _plan(connection, statement, *arguments) for statement, arguments in STATEMENTS.values()]
    for name, plan in zip(STATEMENTS, plans, strict=True):
        assert f"using {name}" in plan, plan
        assert "Seq Scan on outbox" not in plan, plan


STATEMENTS: dict[str, tuple[str, tuple[object, ...]]] = {
    "outbox_unsent": (UNSENT, ([0, 1, 2, 3], 250)),
    "outbox_sent": (NEWEST_SENT, ([0, 1, 2, 3], datetime(2026, 1, 1, tzinfo=UTC), 0)),
    "outbox_log": (READ_LOG.sql, (0, 10_000, 100)),
    "outbox_pkey": (READ_LOG_OF_CHAIN.sql, (new_chain(), 0, 10_000, 100)),
}


async def _plan(connection: asyncpg.Connection[asyncpg.Record], statement: str, *arguments: object) -> str:
    """The plan of a statement as it is chosen for a table that was never analysed."""
    rows = await connection.fetch(f"explain {statement}", *arguments)
    return "\n".join(row[0] for row in rows)


async def test_a_deleted_jetstream_is_filled_again(database: Database, event_servers: test_servers.Servers) -> None:
    bus = JetStreamBus(event_servers.nats.url)
    assert await bus.connect()
    chain_id = new_chain()
    relay = Relay(database.system_pool, bus, SERVICE)
    async with running(relay.run):
        await database.emit(chain_id, [cancelled(str(number), 1) for number in range(300)])
        await all_sent(database)
        await bus.request("STREAM.DELETE.EV")
        relay._next_check = 0.0
        await database.emit(chain_id, [cancelled("late", 1)])

        async def full() -> bool:
            return (await bus.stream_state()).last_sequence == 301

        await until(full)
        await all_sent(database)
    assert len({delivery.event.id for delivery in await stream(bus)}) == 301
    await bus.close()
