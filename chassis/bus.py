"""Events as they travel, and what is asked of a bus that carries them.

    Bus              publish many, subscribe as a durable consumer, ask for the state of the stream
    Subscription     fetch, then ack, nak or term
    BusError         the bus did not do it; a retry may help
      NotConnected   there is no connection at the moment
      Refused        the bus will never take this event: it is too large

`chassis.jetstream.JetStreamBus` is NATS JetStream, `chassis.memory_bus.MemoryBus` its twin in memory; both pass
tests/contract/test_bus.py. An event is a CloudEvent in binary mode: attributes as headers, protobuf as the body,
published as `ev.<chain>.<noun>.<past-verb>`. Events of one thing stay in order; each arrives at least once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, Self

SUBJECT_PREFIX = "ev"
STREAM_SUBJECTS = f"{SUBJECT_PREFIX}.>"
STREAM_AGE_SECONDS = 7 * 24 * 3600
DUPLICATE_WINDOW_SECONDS = 120
MOST_IN_FLIGHT = 500
PUBLISH_TIMEOUT_SECONDS = 2.0
ACK_WAIT_SECONDS = 30.0
LARGEST_BODY_BYTES = 900_000
SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/protobuf"
ID_HEADER = "Nats-Msg-Id"


class BusError(Exception):
    """The bus did not do what was asked; a retry may help."""


class NotConnected(BusError):
    """There is no connection to the bus at the moment."""


class Refused(BusError):
    """The bus will never take this event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as it travels. `type` is noun and past verb; times are UTC."""

    id: str
    type: str
    chain_id: str
    aggregate_id: str
    source: str
    time: datetime
    occurred_at: datetime
    body: bytes
    traceparent: str | None = None

    @property
    def subject(self) -> str:
        """Where it is published."""
        return f"{SUBJECT_PREFIX}.{self.chain_id}.{self.type}"

    def headers(self) -> dict[str, str]:
        """Its CloudEvents attributes and the id by which the bus drops doubles."""
        headers = {
            "ce-specversion": SPEC_VERSION,
            "ce-id": self.id,
            "ce-type": self.type,
            "ce-source": self.source,
            "ce-subject": self.aggregate_id,
            "ce-time": time_text(self.time),
            "ce-occurredat": time_text(self.occurred_at),
            "content-type": CONTENT_TYPE,
            ID_HEADER: self.id,
        }
        if self.traceparent:
            headers["traceparent"] = self.traceparent
        return headers

    @classmethod
    def parse(cls, subject: str, headers: Mapping[str, str], body: bytes) -> Self:
        """Read what arrived. Raises ValueError or KeyError when it is not an event of ours."""
        prefix, chain_id, _noun, _verb = subject.split(".")
        if prefix != SUBJECT_PREFIX:
            raise ValueError(f"{subject} is not a subject of events")
        return cls(
            id=headers["ce-id"],
            type=headers["ce-type"],
            chain_id=chain_id,
            aggregate_id=headers["ce-subject"],
            source=headers["ce-source"],
            time=datetime.fromisoformat(headers["ce-time"]),
            occurred_at=datetime.fromisoformat(headers["ce-occurredat"]),
            body=body,
            traceparent=headers.get("traceparent"),
        )


@dataclass(slots=True)
class Delivery:
    """An event that was fetched, how often it was delivered (this time included), and the bus's handle for it."""

    event: Event
    attempt: int
    stream_sequence: int
    handle: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class PubAck:
    """The bus keeps the event: its number in the stream, and whether it was there already."""

    stream_sequence: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class StreamState:
    """Which incarnation of the stream there is, the numbers it holds (first > last when empty), and how much."""

    created_at: datetime
    first_sequence: int
    last_sequence: int
    messages: int = 0
    size_bytes: int = 0


class Subscription(Protocol):
    """A durable consumer of the stream. One process uses it at a time; that is for the caller to see to.

    What was not acknowledged comes again, in order, when a subscription is opened or the connection comes back; also
    events that were acknowledged shortly before may come again then.
    """

    async def fetch(self, batch: int, timeout_seconds: float) -> list[Delivery]:
        """Up to `batch` deliveries in the stream's order, as soon as there is one; none after the time-out.

        Raises BusError when the bus does not answer.
        """

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are done. Not waited for: an ack that gets lost means a redelivery."""

    async def nak(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        """Deliver it again after a delay."""

    async def term(self, delivery: Delivery) -> None:
        """Never deliver it again."""

    async def close(self) -> None:
        """Stop receiving. The consumer keeps its place."""


class Bus(Protocol):
    """A stream of events."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""

    @property
    def connections(self) -> int:
        """How often a connection was made: who sees it change should check what was lost."""

    async def connect(self, timeout_seconds: float = 5.0) -> bool:
        """Begin to connect, for good; answers whether it was there within the time-out. It goes on trying meanwhile."""

    async def close(self) -> None:
        """Disconnect."""

    async def publish_many(self, events: Sequence[Event]) -> list[PubAck | BusError]:
        """Publish all at once, at most MOST_IN_FLIGHT unanswered; an answer for each, in their order.

        Events that must stay in order must not be in one call: one may fail and the next not.
        """

    async def subscribe(
        self, durable: str, types: Sequence[str], *, ack_wait_seconds: float = ACK_WAIT_SECONDS
    ) -> Subscription:
        """The durable consumer of this name for these types (`booking.confirmed`) of all chains.

        A new one begins with the oldest event of the stream. Raises BusError.
        """

    async def stream_state(self) -> StreamState:
        """The state of the stream; it is made when it is not there. Raises BusError."""

    async def event_id_at(self, sequence: int) -> str | None:
        """Id of the event with this number in the stream; None when it is not there (any more). Raises BusError."""


def time_text(time: datetime) -> str:
    """A time as RFC 3339 text in UTC."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def filters(types: Sequence[str]) -> list[str]:
    """Subjects of these types in all chains."""
    return [f"{SUBJECT_PREFIX}.*.{name}" for name in types]
