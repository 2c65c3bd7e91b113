"""The consumer: each event once, in order for each thing, and what cannot be handled put aside, listed and replayed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime

import asyncpg
import pytest
from foyer.bookings.v1.bookings_pb2 import BookingCancelled
from foyer.common.v1 import common_pb2 as pb
from google.protobuf.message import Message

from chassis import inbox
from chassis.access import Caller
from chassis.bus import Event, PubAck
from chassis.deadletters import DeadLetters
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.inbox import Consumer, EventMeta, Subscriptions
from chassis.memory_bus import MemoryBus, Trouble
from chassis.outbox import Relay
from chassis.projections import Keep, Projections
from chassis.rpc import Call, Runner
from chassis.unit import Absent, Unit, system_caller
from tests.eventing import (
    KEEP_EFFECTS,
    SERVICE,
    TYPE,
    Database,
    cancelled,
    keep,
    new_chain,
    open_database,
    running,
    until,
)
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


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "RETRY_DELAYS_SECONDS", (0.05,) * 4)
    monkeypatch.setattr(inbox, "AWAY_SECONDS", 0.1)
    monkeypatch.setattr(inbox, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(inbox, "CLAIM_SECONDS", 0.1)


def make(chain_id: str, aggregate_id: str, version: int, body: bytes | None = None) -> Event:
    now = datetime.now(UTC)
    return Event(
        id=new_id(),
        type=TYPE,
        chain_id=chain_id,
        aggregate_id=aggregate_id,
        source="bookings",
        time=now,
        occurred_at=now,
        body=cancelled(aggregate_id, version).SerializeToString() if body is None else body,
    )


async def publish(bus: MemoryBus, events: Sequence[Event]) -> None:
    assert all(isinstance(answer, PubAck) for answer in await bus.publish_many(events))


def keeping() -> Subscriptions:
    on = Subscriptions()

    @on(BookingCancelled)
    async def keep_one(event: BookingCancelled, meta: EventMeta, unit: Unit) -> None:
        await keep(event, meta.id, unit)

    return on


def consumer_of(database: Database, bus: MemoryBus, on: Subscriptions) -> Consumer:
    return Consumer(SERVICE, on, bus, database, database.projections)


async def has_effects(database: Database, chain_id: str, count: int, seconds: float = 15) -> None:
    async def enough() -> bool:
        return len(await database.effects(chain_id)) >= count

    await until(enough, seconds)


async def dead(database: Database) -> list[asyncpg.Record]:
    return await database.system_pool.fetch("select * from dead_letters order by dead_at")


def by_thing(effects: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for thing, version in effects:
        found.setdefault(thing, []).append(version)
    return found


def test_subscriptions_read_as_a_table() -> None:
    on = keeping()
    assert on.subjects == [TYPE]
    with pytest.raises(TypeError):
        on(pb.Money)


async def test_each_event_takes_effect_once_however_often_it_comes(database: Database) -> None:
    bus = MemoryBus(3, Trouble(double=0.5, reorder=0.5))
    await bus.connect()
    chains = [new_chain() for _ in range(3)]
    consumer = consumer_of(database, bus, keeping())
    async with running(consumer.run):
        for version in range(1, 21):
            await publish(bus, [make(chain, str(thing), version) for chain in chains for thing in range(5)])
        for chain in chains:
            await has_effects(database, chain, 100)
        # The stream from the beginning once more changes nothing.
        await bus.close()
        await bus.connect()
        bus._consumers[SERVICE].floor = 0
        bus._consumers[SERVICE].rewind()
        await asyncio.sleep(1)
    for chain in chains:
        assert by_thing(await database.effects(chain)) == {str(thing): list(range(1, 21)) for thing in range(5)}
    assert not await dead(database)


async def test_a_batch_handler_gets_all_of_a_chain_at_once_in_order(database: Database, bus: MemoryBus) -> None:
    on = Subscriptions()
    sizes: list[int] = []

    @on.batch(BookingCancelled)
    async def keep_all(batch: Sequence[tuple[Message, EventMeta]], unit: Unit) -> None:
        sizes.append(len(batch))
        events = [event for event, _ in batch if isinstance(event, BookingCancelled)]
        await unit.run(
            KEEP_EFFECTS,
            event_ids=[meta.id for _, meta in batch],
            aggregate_ids=[event.booking_id for event in events],
            versions=[event.notice_minutes for event in events],
        )

    chain_id, other = new_chain(), new_chain()
    await publish(bus, [make(chain, "a", version) for version in range(1, 201) for chain in (chain_id, other)])
    async with running(consumer_of(database, bus, on).run):
        await has_effects(database, chain_id, 200)
        await has_effects(database, other, 200)
    assert await database.effects(chain_id) == [("a", version) for version in range(1, 201)]
    assert sizes == [200, 200]


@pytest.mark.usefixtures("quick_retries")
async def test_what_fails_is_tried_again_and_only_what_follows_on_it_waits(database: Database, bus: MemoryBus) -> None:
    on, tries = Subscriptions(), Counter[str]()

    @on(BookingCancelled)
    async def fail_twice(event: BookingCancelled, meta: EventMeta, unit: Unit) -> None:
        await keep(event, meta.id, unit)
        if event.booking_id == "bad" and event.notice_minutes == 1:
            tries[meta.id] += 1
            if tries[meta.id] < 4:
                raise ValueError("not yet")

    chain_id = new_chain()
    await publish(bus, [make(chain_id, thing, version) for version in range(1, 4) for thing in ("bad", "good")])
    async with running(consumer_of(database, bus, on).run):
        await has_effects(database, chain_id, 6)
    effects = await database.effects(chain_id)
    assert by_thing(effects) == {"bad": [1, 2, 3], "good": [1, 2, 3]}
    assert effects[:3] == [("good", version) for version in (1, 2, 3)]
    assert not await dead(database)


@pytest.mark.usefixtures("quick_retries")
async def test_poison_becomes_a_dead_letter_and_the_others_flow(database: Database, bus: MemoryBus) -> None:
    on, tries = Subscriptions(), Counter[str]()

    @on(BookingCancelled)
    async def refuse_poison(event: BookingCancelled, meta: EventMeta, unit: Unit) -> None:
        tries[event.booking_id] += 1
        await keep(event, meta.id, unit)
        if event.booking_id == "poison" and event.notice_minutes == 1:
            raise ValueError("cannot digest anna@example.com")

    chain_id = new_chain()
    events = [make(chain_id, str(number % 20), number) for number in range(1000)]
    poison = [make(chain_id, "poison", 1), make(chain_id, "poison", 2), make(chain_id, "garbled", 1, b"\xff\xff")]
    await publish(bus, [*events[:500], *poison, *events[500:]])
    async with running(consumer_of(database, bus, on).run):

        async def two_dead() -> bool:
            return len(await dead(database)) == 2

        await until(two_dead)
        await has_effects(database, chain_id, 1001)
    letters = {row["event_id"]: row for row in await dead(database)}
    assert set(letters) == {poison[0].id, poison[2].id}
    letter = letters[poison[0].id]
    assert (letter["attempts"], letter["type"], letter["consumer"]) == (inbox.MOST_ATTEMPTS, TYPE, SERVICE)
    assert letter["reason"] == "ValueError: cannot digest [redacted]"
    assert (letter["aggregate_id"], letter["body"]) == ("poison", poison[0].body)
    found = by_thing(await database.effects(chain_id))
    assert found.pop("poison") == [2]
    assert found == {str(thing): list(range(thing, 1000, 20)) for thing in range(20)}
    assert not await database.system_pool.fetchval("select count(*) from inbox where event_id = $1", poison[0].id)


@pytest.mark.usefixtures("quick_retries")
async def test_dead_letters_are_listed_and_replayed(database: Database, bus: MemoryBus) -> None:
    on, cured = Subscriptions(), asyncio.Event()

    @on(BookingCancelled)
    async def refuse(event: BookingCancelled, meta: EventMeta, unit: Unit) -> None:
        await keep(event, meta.id, unit)
        if not cured.is_set():
            raise ValueError(f"version {event.notice_minutes}")

    chain_id, other = new_chain(), new_chain()
    events = [make(chain_id, str(number), number) for number in range(5)]
    await publish(bus, [*events, make(other, "a", 1)])
    consumer = consumer_of(database, bus, on)
    async with running(consumer.run):

        async def all_dead() -> bool:
            return len(await dead(database)) == 6

        await until(all_dead)
    operations = Operator(database, consumer, chain_id)
    listed = await operations.pages(2)
    assert [letter.attempts for letter in listed] == [5] * 5
    assert {letter.id for letter in listed} == {event.id for event in events}
    assert all(
        letter.type == TYPE and letter.dead_at.seconds and not letter.HasField("handled_at") for letter in listed
    )
    still = await operations.replay(events[3].id)
    assert (still.attempts, still.reason, still.HasField("handled_at")) == (6, "ValueError: version 3", False)
    cured.set()
    handled = await operations.replay(events[3].id)
    assert handled.HasField("handled_at")
    assert (await operations.replay(events[3].id)).handled_at == handled.handled_at
    assert await database.effects(chain_id) == [("3", 3)]
    with pytest.raises(Refusal, match="NOT_FOUND"):
        await operations.replay(new_id())
    with pytest.raises(Refusal, match="NOT_FOUND"):
        await Operator(database, consumer, other).replay(events[0].id)
    with pytest.raises(Refusal, match="INVALID_REQUEST"):
        await operations.service.list_dead_letters(
            pb.ListDeadLettersRequest(page_token="WzEsMl0"), database.store.open(operations.caller)
        )


class Operator:
    """Somebody of a chain who looks after its dead letters, and a service that reads the log."""

    def __init__(self, database: Database, consumer: Consumer, chain_id: str) -> None:
        self.database = database
        self.service = DeadLetters(database, consumer)
        self.caller = Caller(new_id(), "account", "Operator", chain_id)
        runner = Runner(SERVICE, database.store, database.projections)
        self.call = Call(self.caller, database.store, "en", runner, lambda _: None, None)

    async def pages(self, page_size: int) -> list[pb.DeadLetter]:
        found: list[pb.DeadLetter] = []
        token = ""
        while True:
            request = pb.ListDeadLettersRequest(service=SERVICE, page_size=page_size, page_token=token)
            async with self.database.store.unit(self.caller, read_only=True) as unit:
                page = await self.service.list_dead_letters(request, unit)
            assert len(page.dead_letters) <= page_size
            found += page.dead_letters
            if not page.HasField("next_page_token"):
                return found
            token = page.next_page_token

    async def replay(self, event_id: str) -> pb.DeadLetter:
        return await self.service.replay_dead_letter(
            pb.ReplayDeadLetterRequest(service=SERVICE, id=event_id), self.call
        )

    async def read(self, after: int, limit: int, chain_id: str | None = None) -> list[pb.LoggedEvent]:
        request = pb.ReadEventsRequest(after_sequence=after, limit=limit, chain_id=chain_id)
        return list((await self.service.read_events(request, self.call)).events)


async def test_the_log_is_read_in_order_and_never_past_what_may_still_appear(
    database: Database, bus: MemoryBus
) -> None:
    chain_id, other = new_chain(), new_chain()
    operator = Operator(database, consumer_of(database, bus, keeping()), chain_id)
    ids = await database.emit(chain_id, [cancelled("a", 1), cancelled("a", 2)])
    await database.emit(other, [cancelled("b", 1)])
    everything = await operator.read(0, 10)
    assert [(event.sequence, event.type) for event in everything] == [(1, TYPE), (2, TYPE), (3, TYPE)]
    assert [event.id for event in await operator.read(0, 10, chain_id)] == ids
    assert [event.sequence for event in await operator.read(1, 1)] == [2]
    assert everything[0].body == cancelled("a", 1).SerializeToString()
    assert everything[0].time.ToDatetime(UTC) == everything[0].occurred_at.ToDatetime(UTC)
    slow = await database.pool.acquire()
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("select set_config('foyer.chain_id', $1, true)", chain_id)
    await slow.execute(
        "insert into outbox (chain_id, id, partition, subject, aggregate_id, recorded_at, occurred_at, body)"
        " values ($1, $2, 0, 'booking.cancelled', 'slow', now(), now(), '')",
        *(chain_id, new_id()),
    )
    await database.emit(chain_id, [cancelled("fast", 1)])
    reading = asyncio.create_task(operator.read(3, 10))
    await asyncio.sleep(0.3)
    assert not reading.done()
    await transaction.commit()
    await database.pool.release(slow)
    assert [event.sequence for event in await reading] == [4, 5]


async def test_a_missing_projection_is_fetched_and_the_event_handled(database: Database, bus: MemoryBus) -> None:
    on = Subscriptions()
    fetched: list[str] = []
    known: set[str] = set()

    @on(BookingCancelled)
    async def needs_customer(event: BookingCancelled, meta: EventMeta, unit: Unit) -> None:
        if event.booking_id not in known:
            raise Absent("customer", event.booking_id, "customer_id")
        await keep(event, meta.id, unit)

    async def fetch(context: object, caller: Caller, customer_id: str) -> Keep:
        fetched.append(customer_id)
        if len(fetched) == 1:
            raise Refusal("UNAVAILABLE")

        async def store(unit: Unit) -> None:
            known.add(customer_id)

        return store

    projections = Projections(SERVICE, database.store, {"customer": fetch})
    projections.context = database  # type: ignore[assignment]
    consumer = Consumer(SERVICE, on, bus, database, projections)
    chain_id = new_chain()
    await publish(bus, [make(chain_id, str(number % 5), number) for number in range(10)])
    async with running(consumer.run):
        await has_effects(database, chain_id, 10)
    assert by_thing(await database.effects(chain_id)) == {str(n): [n, n + 5] for n in range(5)}
    assert sorted(set(fetched)) == ["0", "1", "2", "3", "4"]
    assert not await dead(database)


@pytest.mark.usefixtures("quick_retries")
async def test_a_service_that_is_away_counts_for_no_event(database: Database, bus: MemoryBus) -> None:
    on = Subscriptions()
    known: set[str] = set()
    back = asyncio.Event()

    @on(BookingCancelled)
    async def needs_customer(event: BookingCancelled, meta: EventMeta, unit: Unit) -> None:
        if event.booking_id == "absent" and "absent" not in known:
            raise Absent("customer", "absent")
        await keep(event, meta.id, unit)

    async def fetch(context: object, caller: Caller, customer_id: str) -> Keep:
        if not back.is_set():
            raise Refusal("UNAVAILABLE")

        async def store(unit: Unit) -> None:
            known.add(customer_id)

        return store

    projections = Projections(SERVICE, database.store, {"customer": fetch})
    projections.context = database  # type: ignore[assignment]
    chain_id = new_chain()
    await publish(bus, [make(chain_id, thing, version) for version in (1, 2) for thing in ("absent", "there")])
    async with running(Consumer(SERVICE, on, bus, database, projections).run):
        await has_effects(database, chain_id, 2)
        await asyncio.sleep(1.5)
        assert by_thing(await database.effects(chain_id)) == {"there": [1, 2]}
        back.set()
        await has_effects(database, chain_id, 4)
    assert by_thing(await database.effects(chain_id)) == {"there": [1, 2], "absent": [1, 2]}
    assert not await dead(database)


@pytest.mark.usefixtures("quick_retries")
async def test_sessions_cut_off_in_the_middle_cost_nothing(database: Database, bus: MemoryBus) -> None:
    chain_id = new_chain()
    consumer = consumer_of(database, bus, keeping())
    async with running(consumer.run):
        for version in range(1, 101):
            await publish(bus, [make(chain_id, str(thing), version) for thing in range(8)])
            if version % 25 == 0:
                await _cut_off(database)
            await asyncio.sleep(0.005)
        await has_effects(database, chain_id, 800, 30)
    assert by_thing(await database.effects(chain_id)) == {str(thing): list(range(1, 101)) for thing in range(8)}
    assert not await dead(database)


async def _cut_off(database: Database) -> None:
    """End every session of both roles but the one that does it."""
    for pool in (database.pool, database.system_pool):
        await pool.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            " and usename = current_user and datname = current_database()"
        )


@pytest.mark.usefixtures("quick_retries")
async def test_one_replica_consumes_and_another_takes_over_what_it_left(database: Database, bus: MemoryBus) -> None:
    on, stuck = Subscriptions(), asyncio.Event()

    @on(BookingCancelled)
    async def hang_at_ten(event: BookingCancelled, meta: EventMeta, unit: Unit) -> None:
        await keep(event, meta.id, unit)
        if event.notice_minutes == 10 and not stuck.is_set():
            stuck.set()
            await asyncio.sleep(3600)

    first, second = consumer_of(database, bus, on), consumer_of(database, bus, keeping())
    chain_id = new_chain()
    tasks = [asyncio.create_task(first.run())]
    await until(lambda: first.owns)
    tasks.append(asyncio.create_task(second.run()))
    for version in range(1, 21):
        await publish(bus, [make(chain_id, "a", version)])
        await asyncio.sleep(0.01)
    await stuck.wait()
    assert [first.owns, second.owns] == [True, False]
    tasks[0].cancel()
    await publish(bus, [make(chain_id, "a", 21)])
    await has_effects(database, chain_id, 21)
    assert await database.effects(chain_id) == [("a", version) for version in range(1, 22)]
    assert [first.owns, second.owns] == [False, True]
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_from_commit_to_effect(database: Database, bus: MemoryBus) -> None:
    relay = Relay(database.system_pool, bus, SERVICE)
    database.store.on_events = relay.wake
    chain_id = new_chain()
    async with running(relay.run, consumer_of(database, bus, keeping()).run):
        for version in range(1, 51):
            await database.emit(chain_id, [cancelled(str(thing), version) for thing in range(4)])
        await has_effects(database, chain_id, 200)
    assert by_thing(await database.effects(chain_id)) == {str(thing): list(range(1, 51)) for thing in range(4)}


async def test_an_effect_that_emits_continues_the_trace(database: Database, bus: MemoryBus) -> None:
    on = Subscriptions()

    @on(BookingCancelled)
    async def pass_on(event: BookingCancelled, meta: EventMeta, unit: Unit) -> None:
        if event.notice_minutes == 1:
            unit.emit(cancelled("next", 2))

    chain_id = new_chain()
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    event = make(chain_id, "a", 1)
    consumer = consumer_of(database, bus, on)
    async with database.store.unit(system_caller(SERVICE, chain_id)):
        pass
    async with running(consumer.run):
        await publish(
            bus, [Event(**{**{name: getattr(event, name) for name in Event.__slots__}, "traceparent": trace})]
        )

        async def written() -> bool:
            return bool(await database.system_pool.fetchval("select count(*) from outbox"))

        await until(written)
    assert "a" * 32 in await database.system_pool.fetchval("select traceparent from outbox")
