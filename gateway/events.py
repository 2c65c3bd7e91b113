"""Events for partners: a chain's events as CloudEvents in JSON, followed from any event on.

The place in the stream is an event's own id, not a number of the bus, whose stream may be made anew at any time: the
time in the id says where to begin to look. What cannot be found there is given again: each event at least once.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
import nats.js.errors
from foyer import options_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from nats.js.client import JetStreamContext

from chassis import codec, logs, metrics
from chassis.access import Caller
from chassis.bus import SPEC_VERSION, SUBJECT_PREFIX, BusError, Event, time_text
from chassis.errors import Refusal
from chassis.ids import new_id, time_of
from chassis.jetstream import JetStreamBus
from chassis.pull import NANOSECONDS, STREAM
from gateway import contract

PERMISSION = "events.read"
MARGIN = timedelta(seconds=60)
BATCH = 64
SCAN_BATCH = 500
MOST_SCANNED = 50_000
FORGOTTEN_AFTER_SECONDS = 60
FETCH_SECONDS = 5.0
PAUSE_SECONDS = 1.0
MOST_STREAMS = 200
MOST_STREAMS_OF_A_CREDENTIAL = 5
RETRY_AFTER_SECONDS = 10
OPEN_STREAMS = metrics.gauge("foyer_event_streams", "Event streams that are open.")
BRANCH_FIELD = "branch_id"
TROUBLE = (BusError, nats.errors.Error, nats.js.errors.Error, OSError)

log = logs.logger(__name__)

Place = dict[str, Any]
"""Where a consumer of the stream begins, in JetStream's words."""


class Streams:
    """The streams that are open; they end by themselves when the process is asked to."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self._open: Counter[str] = Counter()

    def enter(self, credential_id: str) -> None:
        """Take a place. Raises Refusal RATE_LIMITED when there is none."""
        if self._open.total() >= MOST_STREAMS or self._open[credential_id] >= MOST_STREAMS_OF_A_CREDENTIAL:
            raise Refusal("RATE_LIMITED", retry_after_seconds=RETRY_AFTER_SECONDS)
        self._open[credential_id] += 1
        OPEN_STREAMS.set(self._open.total())

    def leave(self, credential_id: str) -> None:
        """Give the place back."""
        self._open[credential_id] -= 1
        if self._open[credential_id] <= 0:
            del self._open[credential_id]
        OPEN_STREAMS.set(self._open.total())

    def stop(self) -> None:
        """End all streams."""
        self.stopping.set()


# --- what a caller may see of an event ---


@functools.cache
def _sensitive(descriptor: Descriptor) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, Descriptor, bool], ...]]:
    """Sensitive fields of a message with the permission each needs, and the fields whose messages may hold some."""
    own: list[tuple[str, str]] = []
    inner: list[tuple[str, Descriptor, bool]] = []
    for field in descriptor.fields:
        permission = field.GetOptions().Extensions[options_pb2.sensitive].permission
        if permission:
            own.append((field.name, permission))
        elif field.message_type is not None and not codec.is_map(field) and not codec.is_timestamp(field):
            inner.append((field.name, field.message_type, field.is_repeated))
    return tuple(own), tuple(inner)


def mask(message: Message, may: Callable[[str], bool]) -> None:
    """Take out the sensitive fields whose permission the caller does not have."""
    own, inner = _sensitive(codec.descriptor_of(message))
    for name, permission in own:
        if not may(permission):
            message.ClearField(name)
    for name, _, is_repeated in inner:
        if is_repeated:
            for each in getattr(message, name):
                mask(each, may)
        elif message.HasField(name):
            mask(getattr(message, name), may)


def branch_of(message: Message) -> str:
    """Branch an event happened at: its own field, or that of the thing it tells of; empty when it names none."""
    descriptor = codec.descriptor_of(message)
    if BRANCH_FIELD in descriptor.fields_by_name:
        return str(getattr(message, BRANCH_FIELD))
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and not field.is_repeated and BRANCH_FIELD in inner.fields_by_name:
            return str(getattr(getattr(message, field.name), BRANCH_FIELD))
    return ""


def cloud_event(event: Event, caller: Caller) -> dict[str, Any] | None:
    """An event as CloudEvents JSON, as far as the caller may see it; None when they may not."""
    descriptor = contract.events().get(event.type)
    if descriptor is None:
        return None
    message = message_factory.GetMessageClass(descriptor).FromString(event.body)
    branches = caller.branches(PERMISSION)
    if branches is not None and branch_of(message) not in branches:
        return None
    mask(message, caller.may)
    document: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.aggregate_id,
        "time": time_text(event.time),
        "occurredat": time_text(event.occurred_at),
        "datacontenttype": "application/json",
        "data": codec.to_json(message),
    }
    if event.traceparent:
        document["traceparent"] = event.traceparent
    return document


# --- following the stream ---


async def place(bus: JetStreamBus, chain_id: str, last_id: str | None) -> Place:
    """Where a stream begins: after the event with `last_id`, or with what comes now. Raises one of TROUBLE."""
    if last_id is not None:
        return await _after(bus, chain_id, last_id)
    state = await bus.stream_state()
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": state.last_sequence + 1}


async def follow(
    bus: JetStreamBus, chain_id: str, types: Sequence[str], start: Place, last_id: str | None
) -> AsyncGenerator[Event | None, None]:
    """Events of a chain, of all types or of these, from a place on, without end. None: nothing happens just now.

    What the bus forgot is asked for again, after the last event that was given out.
    """
    subjects = [f"{SUBJECT_PREFIX}.{chain_id}.{name}" for name in types or [">"]]
    begun_at = datetime.now(UTC)
    while True:
        try:
            async with _consumer(bus, {**start, "filter_subjects": subjects}) as fetch:
                while True:
                    messages = await fetch(BATCH)
                    for _, event in messages:
                        last_id = event.id
                        yield event
                    if not messages:
                        yield None
        except TROUBLE as problem:
            log.info("event stream begins again", reason=repr(problem))
        yield None
        await asyncio.sleep(PAUSE_SECONDS)
        with suppress(*TROUBLE):
            start = _from_time(begun_at) if last_id is None else await _after(bus, chain_id, last_id)


def _from_time(time: datetime) -> Place:
    return {"deliver_policy": "by_start_time", "opt_start_time": time_text(time - MARGIN)}


async def _after(bus: JetStreamBus, chain_id: str, last_id: str) -> Place:
    """Where to begin so that what follows an event is delivered: behind it, or before it when it is not found."""
    start = _from_time(time_of(last_id))
    looked_at = 0
    subjects = [f"{SUBJECT_PREFIX}.{chain_id}.>"]
    async with _consumer(bus, {**start, "filter_subjects": subjects, "headers_only": True}) as fetch:
        while looked_at < MOST_SCANNED:
            messages = await fetch(SCAN_BATCH)
            for number, event in messages:
                if event.id == last_id:
                    return {"deliver_policy": "by_start_sequence", "opt_start_seq": number + 1}
            looked_at += len(messages)
            if not messages or fetch.pending == 0:
                break
    return start


class _Fetch:
    """Fetches from a consumer of our own."""

    def __init__(self, pull: JetStreamContext.PullSubscription) -> None:
        self._pull = pull
        self.pending: int | None = None

    async def __call__(self, batch: int) -> list[tuple[int, Event]]:
        """Numbers and events, as soon as there are some; none after a while. Raises one of TROUBLE."""
        try:
            messages = await self._pull.fetch(batch, timeout=FETCH_SECONDS)
        except nats.errors.TimeoutError:
            await self._pull.consumer_info()  # raises when the bus forgot the consumer
            return []
        found: list[tuple[int, Event]] = []
        for message in messages:
            self.pending = message.metadata.num_pending
            with suppress(KeyError, ValueError):  # no event of ours
                event = Event.parse(message.subject, message.headers or {}, message.data)
                found.append((message.metadata.sequence.stream, event))
        return found


@asynccontextmanager
async def _consumer(bus: JetStreamBus, config: dict[str, Any]) -> AsyncIterator[_Fetch]:
    """A consumer that lives as long as the block, or a minute longer should we die."""
    name = f"stream-{new_id()}"
    own = {
        "name": name,
        "ack_policy": "none",
        "inactive_threshold": FORGOTTEN_AFTER_SECONDS * NANOSECONDS,
        "mem_storage": True,
        "num_replicas": 1,
    }
    request = {"stream_name": STREAM, "config": {**own, **config}, "action": "create"}
    await bus.request(f"CONSUMER.CREATE.{STREAM}.{name}", request)
    pull = await bus.client().jetstream().pull_subscribe_bind(consumer=name, stream=STREAM)
    try:
        yield _Fetch(pull)
    finally:
        with suppress(*TROUBLE):
            await pull.unsubscribe()
        with suppress(*TROUBLE):
            await bus.request(f"CONSUMER.DELETE.{STREAM}.{name}")
