"""The bus on NATS JetStream: one stream, a durable pull consumer for each service.

PostgreSQL holds the truth and this is a cache of it that may vanish: the stream and the consumers are made again when
they are missing. Requests are raw: nats-py's own pull and publish cost a task per message.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import nats.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from chassis import logs
from chassis.bus import (
    ACK_WAIT_SECONDS,
    DUPLICATE_WINDOW_SECONDS,
    ID_HEADER,
    LARGEST_BODY_BYTES,
    MOST_IN_FLIGHT,
    PUBLISH_TIMEOUT_SECONDS,
    STREAM_AGE_SECONDS,
    STREAM_SUBJECTS,
    BusError,
    Event,
    NotConnected,
    PubAck,
    Refused,
    StreamState,
    filters,
)
from chassis.pull import (
    NANOSECONDS,
    NO_RESPONDERS,
    STREAM,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    ApiError,
    JetStreamSubscription,
)

STREAM_BYTES = 2 * 1024**3
LARGEST_MESSAGE_BYTES = LARGEST_BODY_BYTES + 64 * 1024
REQUEST_TIMEOUT_SECONDS = 2.0
RECONNECT_WAIT_SECONDS = 0.25
WATCH_SECONDS = 1.0
REPLACE_AFTER_SECONDS = 20.0
CLOSE_TRIES = 3

log = logs.logger(__name__)


class JetStreamBus:
    """A connection to NATS that comes back by itself; see chassis.bus.Bus."""

    def __init__(self, url: str, name: str = "foyer", *, replicas: int = 1) -> None:
        self._servers = url.split(",")
        self._name = name
        self._replicas = replicas
        self._client: Client | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._connections = 0
        self._acks: _Acks | None = None
        self._making_stream = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._client is not None and self._client.is_connected

    @property
    def connections(self) -> int:
        """How often a connection was made."""
        return self._connections

    async def connect(self, timeout_seconds: float = 5.0) -> bool:
        """Begin to connect, for good; answers whether it was there within the time-out."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_connected(), name="bus connection")
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._ready.wait()
        return self.connected

    async def close(self) -> None:
        """Disconnect."""
        keeper, self._keeper = self._keeper, None
        for _ in range(CLOSE_TRIES):
            if keeper is None or keeper.done():
                break
            # Until Python 3.12, wait_for may swallow a cancellation that comes together with its result.
            keeper.cancel()
            await asyncio.wait([keeper], timeout=REQUEST_TIMEOUT_SECONDS)

    async def _keep_connected(self) -> None:
        """Hold a client; one that gave up (the server refused the password for a moment) is replaced."""
        while True:
            closed = asyncio.Event()
            client = Client()
            try:
                await self._open(client, closed)
                await _until_hopeless(client, closed)
            except (nats.errors.Error, OSError, TimeoutError) as problem:
                log.warning("bus: cannot connect", reason=repr(problem))
            finally:
                self._ready.clear()
                self._client = self._acks = None
                if not client.is_closed:
                    with suppress(nats.errors.Error, OSError, TimeoutError):
                        async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                            await client.close()
            await asyncio.sleep(1.0)

    async def _open(self, client: Client, closed: asyncio.Event) -> None:
        async def on_error(problem: Exception) -> None:
            log.debug("bus: problem", reason=repr(problem))

        async def on_disconnect() -> None:
            if self._keeper is not None:
                log.warning("bus: disconnected")

        async def on_reconnect() -> None:
            self._connections += 1
            log.info("bus: connected again")

        async def on_close() -> None:
            closed.set()

        await client.connect(
            servers=self._servers,
            name=self._name,
            error_cb=on_error,
            disconnected_cb=on_disconnect,
            reconnected_cb=on_reconnect,
            closed_cb=on_close,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]
            connect_timeout=2,
            ping_interval=5,
            max_outstanding_pings=2,
            flush_timeout=PUBLISH_TIMEOUT_SECONDS,
        )
        self._acks = await _Acks.open(client)
        self._client = client
        self._connections += 1
        self._ready.set()

    def client(self) -> Client:
        """The connection. Raises NotConnected when there is none."""
        client = self._client
        if client is None or not client.is_connected:
            raise NotConnected("no connection to NATS")
        return client

    async def request(self, subject: str, payload: object = None) -> dict[str, Any]:
        """Ask JetStream's API, the stream made when it is missing. Raises BusError."""
        try:
            return await self._request_once(subject, payload)
        except ApiError as problem:
            if problem.code != STREAM_NOT_FOUND:
                raise
        await self._make_stream()
        return await self._request_once(subject, payload)

    async def _request_once(self, subject: str, payload: object = None) -> dict[str, Any]:
        body = b"" if payload is None else orjson.dumps(payload)
        try:
            message = await self.client().request(f"$JS.API.{subject}", body, timeout=REQUEST_TIMEOUT_SECONDS)
        except (nats.errors.Error, OSError, TimeoutError) as problem:
            raise BusError(f"{subject}: {problem!r}") from problem
        answer: dict[str, Any] = orjson.loads(message.data)
        if "error" in answer:
            raise ApiError(answer["error"])
        return answer

    async def _make_stream(self) -> None:
        """Make the stream, or bring an older one to our settings."""
        config = {
            "name": STREAM,
            "subjects": [STREAM_SUBJECTS],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "max_age": STREAM_AGE_SECONDS * NANOSECONDS,
            "max_bytes": STREAM_BYTES,
            "max_msg_size": LARGEST_MESSAGE_BYTES,
            "duplicate_window": DUPLICATE_WINDOW_SECONDS * NANOSECONDS,
            "num_replicas": self._replicas,
            "allow_direct": True,
        }
        async with self._making_stream:
            try:
                await self._request_once(f"STREAM.CREATE.{STREAM}", config)
                log.info("bus: the stream is there", stream=STREAM)
            except ApiError as problem:
                if problem.code != STREAM_NAME_IN_USE:
                    raise
                await self._request_once(f"STREAM.UPDATE.{STREAM}", config)

    async def stream_state(self) -> StreamState:
        """The state of the stream; it is made when it is not there. Raises BusError."""
        answer = await self.request(f"STREAM.INFO.{STREAM}")
        state = answer["state"]
        created_at = datetime.fromisoformat(answer["created"])
        return StreamState(created_at, state["first_seq"], state["last_seq"], state["messages"], state["bytes"])

    async def event_id_at(self, sequence: int) -> str | None:
        """Id of the event with this number in the stream; None when it is not there (any more)."""
        payload = orjson.dumps({"seq": sequence})
        try:
            message = await self.client().request(
                f"$JS.API.DIRECT.GET.{STREAM}", payload, timeout=REQUEST_TIMEOUT_SECONDS
            )
        except (nats.errors.Error, OSError, TimeoutError) as problem:
            raise BusError(f"reading message {sequence}: {problem!r}") from problem
        return (message.headers or {}).get(ID_HEADER)

    async def publish_many(self, events: Sequence[Event]) -> list[PubAck | BusError]:
        """Publish all at once, at most MOST_IN_FLIGHT unanswered; an answer for each, in their order."""
        answers: list[PubAck | BusError] = []
        for start in range(0, len(events), MOST_IN_FLIGHT):
            answers += await self._publish(events[start : start + MOST_IN_FLIGHT])
        if any(isinstance(answer, _NoStream) for answer in answers):
            with suppress(BusError):
                await self._make_stream()
        return answers

    async def _publish(self, events: Sequence[Event]) -> list[PubAck | BusError]:
        acks, client = self._acks, self._client
        if acks is None or client is None or not client.is_connected:
            return [NotConnected("no connection to NATS") for _ in events]
        wave = _Wave(len(events))
        with suppress(TimeoutError):
            # Handing over is bounded too: nats-py waits without end when the task that empties its queue has died.
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                await self._hand_over(events, wave, acks, client)
                await wave.done.wait()
        acks.forget(wave)
        return [answer if answer is not None else BusError("no answer in time") for answer in wave.answers]

    async def _hand_over(self, events: Sequence[Event], wave: _Wave, acks: _Acks, client: Client) -> None:
        for index, event in enumerate(events):
            if len(event.body) > LARGEST_BODY_BYTES:
                wave.answer(index, Refused(f"{event.type} {event.id} has {len(event.body)} bytes"))
                continue
            try:
                await client.publish(event.subject, event.body, acks.expect(wave, index), event.headers())
            except (nats.errors.Error, OSError) as problem:
                wave.answer(index, BusError(f"publishing: {problem!r}"))

    async def subscribe(
        self, durable: str, types: Sequence[str], *, ack_wait_seconds: float = ACK_WAIT_SECONDS
    ) -> JetStreamSubscription:
        """The durable consumer of this name for these types of all chains."""
        subscription = JetStreamSubscription(self, durable, filters(types), ack_wait_seconds, self._replicas)
        await subscription.rewind()
        return subscription


async def _until_hopeless(client: Client, closed: asyncio.Event) -> None:
    """Wait until a client has given up, or has tried to connect again for so long that a new one does better."""
    away_seconds = 0.0
    while away_seconds < REPLACE_AFTER_SECONDS and not closed.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(WATCH_SECONDS):
                await closed.wait()
        away_seconds = 0.0 if client.is_connected else away_seconds + WATCH_SECONDS


class _NoStream(BusError):
    """Nothing keeps this subject."""


class _Wave:
    """Events published together, and the answers so far."""

    __slots__ = ("answers", "done", "missing", "tokens")

    def __init__(self, size: int) -> None:
        self.answers: list[PubAck | BusError | None] = [None] * size
        self.missing = size
        self.tokens: list[str] = []
        self.done = asyncio.Event()

    def answer(self, index: int, answer: PubAck | BusError) -> None:
        self.missing -= self.answers[index] is None
        self.answers[index] = answer
        if not self.missing:
            self.done.set()


class _Acks:
    """One inbox for the answers to everything published."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._expected: dict[str, tuple[_Wave, int]] = {}
        self._numbers = itertools.count()

    @classmethod
    async def open(cls, client: Client) -> _Acks:
        acks = cls(client.new_inbox())
        await client.subscribe(f"{acks._prefix}.*", cb=acks._take)
        return acks

    def expect(self, wave: _Wave, index: int) -> str:
        reply = f"{self._prefix}.{next(self._numbers)}"
        self._expected[reply] = (wave, index)
        wave.tokens.append(reply)
        return reply

    def forget(self, wave: _Wave) -> None:
        for token in wave.tokens:
            self._expected.pop(token, None)

    async def _take(self, message: Msg) -> None:
        found = self._expected.get(message.subject)
        if found is None:
            return
        wave, index = found
        if message.headers and message.headers.get("Status") == NO_RESPONDERS:
            wave.answer(index, _NoStream("there is no stream"))
            return
        answer = orjson.loads(message.data)
        if "error" in answer:
            wave.answer(index, ApiError(answer["error"]))
        else:
            wave.answer(index, PubAck(answer["seq"], bool(answer.get("duplicate"))))
