"""What every bus promises, run over NATS JetStream and over its twin in memory."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from chassis.bus import (
    LARGEST_BODY_BYTES,
    Bus,
    BusError,
    Delivery,
    Event,
    NotConnected,
    PubAck,
    Refused,
    Subscription,
)
from chassis.ids import new_id
from chassis.jetstream import JetStreamBus
from chassis.memory_bus import MemoryBus, Trouble
from chassis.pull import STREAM
from tools import nats
from tools.servers import free_ports, temporary_folder

CHAIN = new_id()


@dataclass
class Rig:
    """A bus, and how to take its store away and give an empty one."""

    bus: Bus
    lose_store: Callable[[], Awaitable[None]]
    reconnect: Callable[[], Awaitable[None]]


@pytest.fixture(scope="module")
def nats_server() -> Iterator[nats.NatsServer]:
    folder = temporary_folder()
    port, monitor_port = free_ports(2)
    server = nats.start(folder, port, monitor_port, "secret")
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["jetstream", "memory"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    if request.param == "memory":
        memory = MemoryBus()

        async def forget() -> None:
            memory.recreate()

        async def again() -> None:
            await memory.close()
            await memory.connect()

        await memory.connect()
        yield Rig(memory, forget, again)
        await memory.close()
        return
    server: nats.NatsServer = request.getfixturevalue("nats_server")
    jetstream = JetStreamBus(server.url)
    assert await jetstream.connect()

    async def delete() -> None:
        await jetstream.request(f"STREAM.DELETE.{STREAM}")

    async def force() -> None:
        before = jetstream.connections
        await jetstream.client().force_reconnect()
        await until(lambda: jetstream.connections > before)

    yield Rig(jetstream, delete, force)
    await delete()
    await jetstream.close()


def make(name: str = "booking.confirmed", aggregate_id: str = "a", **changes: object) -> Event:
    now = datetime.now(UTC)
    values: dict[str, object] = {
        "id": new_id(),
        "type": name,
        "chain_id": CHAIN,
        "aggregate_id": aggregate_id,
        "source": "bookings",
        "time": now,
        "occurred_at": now,
        "body": b"\x00\x01",
    }
    return Event(**(values | changes))  # type: ignore[arg-type]


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


async def publish(bus: Bus, events: Sequence[Event]) -> list[PubAck]:
    answers = await bus.publish_many(events)
    assert all(isinstance(answer, PubAck) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, PubAck)]


async def collect(subscription: Subscription, count: int, seconds: float = 10) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            found += await subscription.fetch(100, 1)
    return found


async def test_an_event_arrives_whole(rig: Rig) -> None:
    await rig.bus.stream_state()
    occurred = datetime(2018, 3, 4, 9, 30, 0, 123456, tzinfo=UTC)
    event = make(occurred_at=occurred, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", body=bytes(range(256)))
    bare = make("booking.cancelled")
    await publish(rig.bus, [event, bare])
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed", "booking.cancelled"])
    arrived = await collect(subscription, 2)
    assert [delivery.event for delivery in arrived] == [event, bare]
    assert [delivery.attempt for delivery in arrived] == [1, 1]


async def test_order_is_kept_and_numbers_ascend(rig: Rig) -> None:
    events = [make(aggregate_id=str(number % 7)) for number in range(1200)]
    await rig.bus.stream_state()
    answers = await publish(rig.bus, events)
    assert [answer.stream_sequence for answer in answers] == list(range(1, 1201))
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"])
    arrived = await collect(subscription, 1200)
    assert [delivery.event.id for delivery in arrived] == [event.id for event in events]


async def test_a_double_is_dropped_and_says_where_the_first_is(rig: Rig) -> None:
    event, other = make(), make()
    await rig.bus.stream_state()
    first = await publish(rig.bus, [event, other])
    again = await publish(rig.bus, [event])
    assert again == [PubAck(first[0].stream_sequence, duplicate=True)]
    assert (await rig.bus.stream_state()).last_sequence == 2


async def test_only_the_types_asked_for(rig: Rig) -> None:
    await rig.bus.stream_state()
    await publish(rig.bus, [make("booking.held"), make("customer.created"), make("booking.confirmed")])
    subscription = await rig.bus.subscribe("notify", ["customer.created"])
    assert [delivery.event.type for delivery in await subscription.fetch(10, 2)] == ["customer.created"]
    assert await subscription.fetch(10, 0.1) == []


async def test_fetch_answers_as_soon_as_there_is_one(rig: Rig) -> None:
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"])
    waiting = asyncio.create_task(subscription.fetch(500, 10))
    await asyncio.sleep(0.1)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await publish(rig.bus, [make()])
    assert len(await waiting) == 1
    assert loop.time() - started < 0.5


async def test_what_is_acknowledged_does_not_come_again(rig: Rig) -> None:
    await rig.bus.stream_state()
    await publish(rig.bus, [make() for _ in range(3)])
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"], ack_wait_seconds=0.2)
    arrived = await collect(subscription, 3)
    await subscription.ack(arrived)
    await asyncio.sleep(0.3)
    assert await subscription.fetch(10, 0.1) == []


async def test_what_is_not_acknowledged_comes_again(rig: Rig) -> None:
    await rig.bus.stream_state()
    await publish(rig.bus, [make() for _ in range(3)])
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"], ack_wait_seconds=0.3)
    first, second, third = await collect(subscription, 3)
    await subscription.ack([first, third])
    again = await collect(subscription, 1)
    assert [(delivery.event.id, delivery.attempt) for delivery in again] == [(second.event.id, 2)]


async def test_nak_brings_it_again_after_the_delay(rig: Rig) -> None:
    await rig.bus.stream_state()
    await publish(rig.bus, [make(), make()])
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"])
    first, second = await collect(subscription, 2)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await subscription.nak(first, 0.3)
    await subscription.ack([second])
    again = await collect(subscription, 1)
    assert 0.25 <= loop.time() - started < 3
    assert [(delivery.event.id, delivery.attempt) for delivery in again] == [(first.event.id, 2)]


async def test_term_ends_it(rig: Rig) -> None:
    await rig.bus.stream_state()
    await publish(rig.bus, [make()])
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"], ack_wait_seconds=0.2)
    await subscription.term((await collect(subscription, 1))[0])
    assert await subscription.fetch(10, 0.5) == []


async def test_the_unacknowledged_comes_first_and_at_once_when_opened_again(rig: Rig) -> None:
    events = [make(aggregate_id="one") for _ in range(6)]
    await rig.bus.stream_state()
    await publish(rig.bus, events[:5])
    crashed = await rig.bus.subscribe("reports", ["booking.confirmed"])
    arrived = await collect(crashed, 5)
    await crashed.ack(arrived[:2])
    await rig.bus.stream_state()
    await crashed.close()
    await publish(rig.bus, events[5:])
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"])
    again = await collect(subscription, 4, seconds=3)
    # What was acknowledged shortly before may come again, but nothing is skipped and nothing overtakes.
    assert [delivery.event.id for delivery in again][-4:] == [event.id for event in events[2:]] or [
        delivery.event.id for delivery in again
    ] == [event.id for event in events[: len(again)]]


async def test_nothing_overtakes_what_a_connection_lost(rig: Rig) -> None:
    events = [make(aggregate_id="one") for _ in range(20)]
    await rig.bus.stream_state()
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"])
    await publish(rig.bus, events[:10])
    await collect(subscription, 10)
    await rig.reconnect()
    await publish(rig.bus, events[10:])
    arrived = await collect(subscription, 20, seconds=5)
    assert [delivery.event.id for delivery in arrived] == [event.id for event in events]


async def test_two_consumers_each_get_everything(rig: Rig) -> None:
    await rig.bus.stream_state()
    await publish(rig.bus, [make() for _ in range(5)])
    one = await rig.bus.subscribe("reports", ["booking.confirmed"])
    other = await rig.bus.subscribe("notify", ["booking.confirmed"])
    assert len(await collect(one, 5)) == len(await collect(other, 5)) == 5


async def test_the_state_of_the_stream(rig: Rig) -> None:
    empty = await rig.bus.stream_state()
    assert empty.last_sequence == 0
    events = [make() for _ in range(3)]
    await publish(rig.bus, events)
    state = await rig.bus.stream_state()
    assert (state.created_at, state.first_sequence, state.last_sequence) == (empty.created_at, 1, 3)
    assert await rig.bus.event_id_at(2) == events[1].id
    assert await rig.bus.event_id_at(4) is None


async def test_a_lost_store_is_made_again_and_the_consumer_follows(rig: Rig) -> None:
    before = await rig.bus.stream_state()
    await publish(rig.bus, [make()])
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"])
    await subscription.ack(await collect(subscription, 1))
    await rig.lose_store()
    event = make()

    async def go_on() -> Delivery:
        while True:
            try:
                for answer in await rig.bus.publish_many([event]):
                    if isinstance(answer, BusError):
                        raise answer
                for delivery in await subscription.fetch(10, 1):
                    return delivery
            except BusError:
                await asyncio.sleep(0.05)

    assert (await asyncio.wait_for(go_on(), 10)).event.id == event.id
    after = await rig.bus.stream_state()
    assert after.created_at > before.created_at
    assert after.last_sequence == 1


async def test_a_body_that_is_too_large_is_refused_and_the_others_are_not(rig: Rig) -> None:
    await rig.bus.stream_state()
    answers = await rig.bus.publish_many([make(), make(body=bytes(LARGEST_BODY_BYTES + 1)), make()])
    assert [type(answer) for answer in answers] == [PubAck, Refused, PubAck]
    assert isinstance((await rig.bus.publish_many([make(body=bytes(LARGEST_BODY_BYTES))]))[0], PubAck)


async def test_without_a_connection_it_says_so(rig: Rig) -> None:
    subscription = await rig.bus.subscribe("reports", ["booking.confirmed"])
    await rig.bus.close()
    assert not rig.bus.connected
    assert isinstance((await rig.bus.publish_many([make()]))[0], NotConnected)
    with pytest.raises(BusError):
        await subscription.fetch(10, 0.1)
    with pytest.raises(BusError):
        await rig.bus.stream_state()
    assert await rig.bus.connect()
    assert (await rig.bus.stream_state()).last_sequence == 0


async def test_a_publish_without_a_stream_makes_it(rig: Rig) -> None:
    event = make()
    async with asyncio.timeout(5):
        for _ in range(100):
            if isinstance((await rig.bus.publish_many([event]))[0], PubAck):
                break
    assert (await rig.bus.stream_state()).last_sequence == 1


async def test_the_memory_bus_makes_trouble_from_a_seed() -> None:
    async def run(seed: int) -> list[str]:
        bus = MemoryBus(seed, Trouble(drop=0.3, double=0.3, reorder=0.5))
        await bus.connect()
        events = [make(aggregate_id=str(number % 5), id=f"{number}") for number in range(200)]
        answers = await bus.publish_many(events)
        assert any(isinstance(answer, BusError) for answer in answers)
        subscription = await bus.subscribe("reports", ["booking.confirmed"])
        arrived: list[str] = []
        while found := await subscription.fetch(50, 0):
            arrived += [delivery.event.id for delivery in found]
        by_thing: dict[int, list[int]] = {}
        for number in dict.fromkeys(map(int, arrived)):
            by_thing.setdefault(number % 5, []).append(number)
        assert all(numbers == sorted(numbers) for numbers in by_thing.values())
        assert len(arrived) > len(set(arrived))
        assert list(map(int, dict.fromkeys(arrived))) != sorted(map(int, set(arrived)))
        return arrived

    assert await run(7) == await run(7) != await run(8)


async def test_the_memory_bus_loses_its_end() -> None:
    bus = MemoryBus()
    await bus.connect()
    events = [make() for _ in range(5)]
    await publish(bus, events)
    subscription = await bus.subscribe("reports", ["booking.confirmed"])
    await subscription.ack(await collect(subscription, 5))
    bus.lose_after(3)
    assert (await bus.stream_state()).last_sequence == 3
    fresh = make()
    assert await publish(bus, [events[3], fresh]) == [PubAck(4), PubAck(5)]
    assert [delivery.event.id for delivery in await collect(subscription, 2)] == [events[3].id, fresh.id]
