"""The bus in memory: the twin of JetStream for tests and simulations, with a seed for the trouble it makes."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from chassis.bus import (
    ACK_WAIT_SECONDS,
    DUPLICATE_WINDOW_SECONDS,
    LARGEST_BODY_BYTES,
    BusError,
    Delivery,
    Event,
    NotConnected,
    PubAck,
    Refused,
    StreamState,
)

MOST_EVENTS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """How often (0 to 1) a publish gets no answer, a delivery comes twice, and batches are mixed.

    An unanswered publish is kept by the stream or not, half and half. Mixing keeps the order of each thing's events,
    which is all a bus promises.
    """

    drop: float = 0.0
    double: float = 0.0
    reorder: float = 0.0


@dataclass(slots=True)
class _Consumer:
    """A durable consumer's place in the stream."""

    types: frozenset[str]
    next: int = 1
    floor: int = 0
    attempts: dict[int, int] = field(default_factory=dict)
    due: list[tuple[float, int]] = field(default_factory=list)
    ack_wait_seconds: float = ACK_WAIT_SECONDS

    def rewind(self) -> None:
        """Begin again behind the floor, as a new connection does."""
        self.next = self.floor + 1
        self.attempts.clear()
        self.due.clear()

    def finish(self, sequence: int) -> None:
        """A delivery is settled: move the floor as far as all before is."""
        self.attempts.pop(sequence, None)
        self.floor = max(self.floor, min(self.attempts, default=self.next) - 1)


class MemoryBus:
    """A stream in memory; see chassis.bus.Bus. One object is the server and the connection of all who hold it."""

    def __init__(self, seed: int = 0, trouble: Trouble | None = None) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable trouble, not a secret
        self.trouble = trouble or Trouble()
        self._connected = False
        self._connections = 0
        self._created_at = datetime.now(UTC)
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._last = 0
        self._known: OrderedDict[str, tuple[int, datetime]] = OrderedDict()
        self._consumers: dict[str, _Consumer] = {}
        self._arrived: set[asyncio.Event] = set()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connected

    @property
    def connections(self) -> int:
        """How often a connection was made."""
        return self._connections

    async def connect(self, timeout_seconds: float = 5.0) -> bool:  # noqa: ARG002
        """Connect; works at once."""
        if not self._connected:
            self._connected = True
            self._connections += 1
            for consumer in self._consumers.values():
                consumer.rewind()
        return True

    async def close(self) -> None:
        """Disconnect: from now on everything raises NotConnected."""
        self._connected = False
        self._wake()

    def recreate(self) -> None:
        """Lose the store: the stream and its consumers are new and empty."""
        self._created_at = max(datetime.now(UTC), self._created_at + timedelta(microseconds=1))
        self._last = 0
        self._events.clear()
        self._known.clear()
        self._consumers.clear()
        self._wake()

    def lose_after(self, sequence: int) -> None:
        """Lose the end of the stream, as a power failure does."""
        while self._last > max(sequence, self._first - 1):
            event = self._events.pop()
            self._known.pop(event.id, None)
            self._last -= 1
        for consumer in self._consumers.values():
            consumer.floor = min(consumer.floor, self._last)
            consumer.rewind()

    async def publish_many(self, events: Sequence[Event]) -> list[PubAck | BusError]:
        """Publish all; an answer for each, in their order."""
        await asyncio.sleep(0)
        return [self._publish(event) for event in events]

    def _publish(self, event: Event) -> PubAck | BusError:
        if not self._connected:
            return NotConnected("the memory bus is disconnected")
        if len(event.body) > LARGEST_BODY_BYTES:
            return Refused(f"{event.type} {event.id} has {len(event.body)} bytes")
        unanswered = self.random.random() < self.trouble.drop
        if unanswered and self.random.random() < 0.5:
            return BusError("no answer in time")
        ack = self._store(event)
        return BusError("no answer in time") if unanswered else ack

    def _store(self, event: Event) -> PubAck:
        now = datetime.now(UTC)
        while self._known:
            oldest = next(iter(self._known))
            if now - self._known[oldest][1] < timedelta(seconds=DUPLICATE_WINDOW_SECONDS):
                break
            del self._known[oldest]
        known = self._known.get(event.id)
        if known is not None:
            return PubAck(known[0], duplicate=True)
        self._last += 1
        self._events.append(event)
        self._known[event.id] = (self._last, now)
        self._wake()
        return PubAck(self._last)

    async def subscribe(
        self, durable: str, types: Sequence[str], *, ack_wait_seconds: float = ACK_WAIT_SECONDS
    ) -> MemorySubscription:
        """The durable consumer of this name for these types of all chains."""
        subscription = MemorySubscription(self, durable, frozenset(types), ack_wait_seconds)
        subscription.consumer().rewind()
        return subscription

    async def stream_state(self) -> StreamState:
        """The state of the stream."""
        self.check()
        return StreamState(self._created_at, self._first, self._last)

    async def event_id_at(self, sequence: int) -> str | None:
        """Id of the event with this number in the stream; None when it is not there (any more)."""
        self.check()
        event = self.event_at(sequence)
        return event.id if event is not None else None

    # --- for subscriptions ---

    @property
    def _first(self) -> int:
        return self._last - len(self._events) + 1

    def check(self) -> None:
        """Raise NotConnected unless there is a connection."""
        if not self._connected:
            raise NotConnected("the memory bus is disconnected")

    def event_at(self, sequence: int) -> Event | None:
        """The event with this number."""
        return self._events[sequence - self._first] if self._first <= sequence <= self._last else None

    def consumer(self, durable: str, types: frozenset[str], ack_wait_seconds: float) -> _Consumer:
        """The consumer of this name, made when it is missing."""
        found = self._consumers.setdefault(durable, _Consumer(types))
        found.types = types
        found.ack_wait_seconds = ack_wait_seconds
        return found

    def next_of(self, consumer: _Consumer) -> int | None:
        """Number of the consumer's next new event, which it has then been given; None at the end."""
        consumer.next = max(consumer.next, self._first)
        while consumer.next <= self._last:
            sequence = consumer.next
            consumer.next += 1
            event = self.event_at(sequence)
            if event is not None and event.type in consumer.types:
                return sequence
        if not consumer.attempts:
            consumer.floor = max(consumer.floor, consumer.next - 1)
        return None

    def listen(self, arrived: asyncio.Event) -> None:
        """Set the event whenever something happens."""
        self._arrived.add(arrived)

    def unlisten(self, arrived: asyncio.Event) -> None:
        """No longer."""
        self._arrived.discard(arrived)

    def _wake(self) -> None:
        for arrived in self._arrived:
            arrived.set()


class MemorySubscription:
    """A durable consumer in memory; see chassis.bus.Subscription."""

    def __init__(self, bus: MemoryBus, durable: str, types: frozenset[str], ack_wait_seconds: float) -> None:
        self._bus = bus
        self._durable = durable
        self._types = types
        self._ack_wait_seconds = ack_wait_seconds

    def consumer(self) -> _Consumer:
        """The consumer's place."""
        return self._bus.consumer(self._durable, self._types, self._ack_wait_seconds)

    async def fetch(self, batch: int, timeout_seconds: float) -> list[Delivery]:
        """Up to `batch` deliveries in the stream's order, as soon as there is one; none after the time-out."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_seconds
        arrived = asyncio.Event()
        self._bus.listen(arrived)
        try:
            while True:
                self._bus.check()
                arrived.clear()
                found = self._collect(batch, loop.time())
                if found or loop.time() >= until:
                    return self._disturb(found)
                due = self.consumer().due
                wake_at = min(until, due[0][0]) if due else until
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(wake_at - loop.time(), 0.001)):
                        await arrived.wait()
        finally:
            self._bus.unlisten(arrived)

    def _collect(self, batch: int, now: float) -> list[Delivery]:
        consumer = self.consumer()
        found: list[Delivery] = []
        while len(found) < batch:
            if consumer.due and consumer.due[0][0] <= now:
                sequence: int | None = heapq.heappop(consumer.due)[1]
                # Settled meanwhile.
                if sequence not in consumer.attempts:
                    continue
            else:
                sequence = self._bus.next_of(consumer)
            event = self._bus.event_at(sequence) if sequence is not None else None
            if sequence is None or event is None:
                break
            consumer.attempts[sequence] = attempt = consumer.attempts.get(sequence, 0) + 1
            heapq.heappush(consumer.due, (now + consumer.ack_wait_seconds, sequence))
            found.append(Delivery(event, attempt, sequence, str(sequence)))
        return sorted(found, key=lambda delivery: delivery.stream_sequence)

    def _disturb(self, found: list[Delivery]) -> list[Delivery]:
        trouble, chance = self._bus.trouble, self._bus.random
        if found and chance.random() < trouble.reorder:
            found = self._mix(found)
        if trouble.double:
            found = [copy for one in found for copy in ([one, one] if chance.random() < trouble.double else [one])]
        return found

    def _mix(self, found: list[Delivery]) -> list[Delivery]:
        """Another order across things, the same order within each."""
        things: dict[tuple[str, str], deque[Delivery]] = {}
        for delivery in found:
            things.setdefault((delivery.event.chain_id, delivery.event.aggregate_id), deque()).append(delivery)
        turns = [key for key, deliveries in things.items() for _ in deliveries]
        self._bus.random.shuffle(turns)
        return [things[key].popleft() for key in turns]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are done."""
        if self._bus.connected:
            for delivery in deliveries:
                self.consumer().finish(delivery.stream_sequence)

    async def nak(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        """Deliver it again after a delay."""
        consumer = self.consumer()
        if self._bus.connected and delivery.stream_sequence in consumer.attempts:
            consumer.due = [entry for entry in consumer.due if entry[1] != delivery.stream_sequence]
            heapq.heapify(consumer.due)
            due = asyncio.get_running_loop().time() + delay_seconds
            heapq.heappush(consumer.due, (due, delivery.stream_sequence))

    async def term(self, delivery: Delivery) -> None:
        """Never deliver it again."""
        await self.ack([delivery])

    async def close(self) -> None:
        """Stop receiving; the consumer keeps its place."""
