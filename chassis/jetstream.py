"""The bus on NATS JetStream: one stream, a durable pull consumer for each service.

PostgreSQL holds the truth and this is a cache of it that may vanish: the stream and the consumers are made again when
they are missing. Requests are raw: nats-py's own pull and publish cost a task per message.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import nats
import nats.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

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
    Delivery,
    Event,
    NotConnected,
    PubAck,
    Refused,
    StreamState,
    filters,
)

STREAM = "EV"
STREAM_BYTES = 2 * 1024**3
LARGEST_MESSAGE_BYTES = LARGEST_BODY_BYTES + 64 * 1024
REQUEST_TIMEOUT_SECONDS = 2.0
RECONNECT_WAIT_SECONDS = 0.25
PULL_SECONDS = 5.0
PULL_GRACE_SECONDS = 2.0
MOST_UNACKNOWLEDGED = 20_000
# Acks may have been lost with an unsynced disk, and numbers moved with them; doubles cost the inbox next to nothing.
REWIND_EVENTS = 1000
NANOSECONDS = 1_000_000_000
NO_RESPONDERS = "503"
STREAM_NOT_FOUND, CONSUMER_NOT_FOUND, MESSAGE_NOT_FOUND, STREAM_NAME_IN_USE = 10059, 10014, 10037, 10058
ACK, NAK, TERM = b"+ACK", b"-NAK", b"+TERM"

log = logs.logger(__name__)


class ApiError(BusError):
    """JetStream refused a request; `code` is its own error number."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class JetStreamBus:
    """A connection to NATS that comes back by itself; see chassis.bus.Bus."""

    def __init__(self, url: str, *, name: str = "foyer", replicas: int = 1) -> None:
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
        if keeper is not None:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def _keep_connected(self) -> None:
        """Hold a client; one that gave up (the server refused the password for a moment) is replaced."""
        while True:
            closed = asyncio.Event()
            client = Client()
            try:
                await self._open(client, closed)
                await closed.wait()
            except (nats.errors.Error, OSError, TimeoutError) as problem:
                log.warning("bus: cannot connect", reason=repr(problem))
            finally:
                self._ready.clear()
                self._client = self._acks = None
                if not client.is_closed:
                    with suppress(nats.errors.Error, OSError, TimeoutError):
                        await client.close()
            await asyncio.sleep(1.0)

    async def _open(self, client: Client, closed: asyncio.Event) -> None:
        async def on_error(problem: Exception) -> None:
            log.debug("bus: problem", reason=repr(problem))

        async def on_disconnect() -> None:
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
            raise _api_error(answer["error"])
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
        return StreamState(datetime.fromisoformat(answer["created"]), state["first_seq"], state["last_seq"])

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
        for index, event in enumerate(events):
            if len(event.body) > LARGEST_BODY_BYTES:
                wave.answer(index, Refused(f"{event.type} {event.id} has {len(event.body)} bytes"))
                continue
            try:
                await client.publish(event.subject, event.body, acks.expect(wave, index), event.headers())
            except (nats.errors.Error, OSError, TimeoutError) as problem:
                wave.answer(index, BusError(f"publishing: {problem!r}"))
        with suppress(TimeoutError):
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                await wave.done.wait()
        acks.forget(wave)
        return [answer if answer is not None else BusError("no answer in time") for answer in wave.answers]

    async def subscribe(
        self, durable: str, types: Sequence[str], *, ack_wait_seconds: float = ACK_WAIT_SECONDS
    ) -> JetStreamSubscription:
        """The durable consumer of this name for these types of all chains."""
        subscription = JetStreamSubscription(self, durable, filters(types), ack_wait_seconds, self._replicas)
        await subscription.rewind()
        return subscription


class _NoStream(BusError):  # noqa: N818
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
        if self.answers[index] is None:
            self.answers[index] = answer
            self.missing -= 1
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
            wave.answer(index, _api_error(answer["error"]))
        else:
            wave.answer(index, PubAck(answer["seq"], bool(answer.get("duplicate"))))


class JetStreamSubscription:
    """A durable pull consumer; see chassis.bus.Subscription."""

    def __init__(
        self, bus: JetStreamBus, durable: str, subjects: list[str], ack_wait_seconds: float, replicas: int
    ) -> None:
        self._bus = bus
        self._durable = durable
        self._config = {
            "durable_name": durable,
            "name": durable,
            "ack_policy": "explicit",
            "ack_wait": int(ack_wait_seconds * NANOSECONDS),
            "filter_subjects": subjects,
            "max_ack_pending": MOST_UNACKNOWLEDGED,
            "num_replicas": replicas,
        }
        self._client: Client | None = None
        self._receiver: NatsSubscription | None = None
        self._inbox = ""
        self._connection = 0
        self._buffer: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._pull = 0
        self._wanted = 0  # messages the open pull request may still bring
        self._pull_ends = 0.0
        self._lost = False
        self._problem = ""
        self._resume: tuple[datetime, int] | None = None  # place of a consumer that was deleted and not yet made again

    async def rewind(self) -> None:
        """Begin again behind what was acknowledged, so that nothing overtakes what got lost. Raises BusError.

        The server would deliver that only when its ack time-out is over, and later events of the same thing before.
        """
        client = self._bus.client()
        self._connection = self._bus.connections
        self._buffer.clear()
        self._wanted = 0
        start = await self._place()
        policy: dict[str, object] = {"deliver_policy": "all"}
        if start > 1:
            policy = {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
        request = {"stream_name": STREAM, "config": self._config | policy, "action": "create"}
        await self._bus.request(f"CONSUMER.CREATE.{STREAM}.{self._durable}", request)
        if self._receiver is not None and self._client is client:
            await self._receiver.unsubscribe()
        # An inbox of its own: what was under way to the old one is not taken for what comes now.
        self._inbox = client.new_inbox()
        self._client = client
        self._receiver = await client.subscribe(f"{self._inbox}.*", cb=self._take)
        self._buffer.clear()
        self._lost = False
        self._problem = ""
        self._resume = None

    async def _place(self) -> int:
        """Number of the stream to begin with; the consumer that kept it is deleted."""
        state = await self._bus.stream_state()
        try:
            info = await self._bus.request(f"CONSUMER.INFO.{STREAM}.{self._durable}")
        except ApiError as problem:
            if problem.code != CONSUMER_NOT_FOUND:
                raise
            kept = self._resume
            return kept[1] if kept is not None and kept[0] == state.created_at else 0
        floor = max(int(info["ack_floor"]["stream_seq"]), int(info["config"].get("opt_start_seq", 1)) - 1)
        start = min(floor, state.last_sequence) + 1 - REWIND_EVENTS
        self._resume = (state.created_at, start)
        await self._bus.request(f"CONSUMER.DELETE.{STREAM}.{self._durable}")
        return start

    async def fetch(self, batch: int, timeout_seconds: float) -> list[Delivery]:
        """Up to `batch` deliveries in the stream's order, as soon as there is one; none after the time-out."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_seconds
        while True:
            client = self._bus.client()
            if self._lost or self._connection != self._bus.connections or client is not self._client:
                await self.rewind()
            await self._ask(client, batch)
            if self._buffer:
                return [self._buffer.popleft() for _ in range(min(batch, len(self._buffer)))]
            self._arrived.clear()
            left = min(until, self._pull_ends) - loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0)):
                    await self._arrived.wait()
            if not self._buffer and loop.time() >= until:
                return []

    async def _ask(self, client: Client, batch: int) -> None:
        """Have one pull request open while there is room: the next batch travels while this one is handled."""
        now = asyncio.get_running_loop().time()
        if self._wanted > 0 and now >= self._pull_ends:
            # Even an empty request is answered when it ends: the consumer is gone, or the connection.
            self._problem = f"consumer {self._durable} does not answer"
        if self._problem:
            self._lost = True
            raise BusError(self._problem)
        if self._wanted > 0 or len(self._buffer) >= batch:
            return
        self._pull += 1
        self._wanted = batch
        self._pull_ends = now + PULL_SECONDS + PULL_GRACE_SECONDS
        request = orjson.dumps({"batch": batch, "expires": int(PULL_SECONDS * NANOSECONDS)})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{self._durable}"
        try:
            await client.publish(subject, request, f"{self._inbox}.{self._pull}")
        except (nats.errors.Error, OSError) as problem:
            raise BusError(f"pulling: {problem!r}") from problem

    async def _take(self, message: Msg) -> None:
        """A message of the stream, or a word on a pull request."""
        if message.reply.startswith("$JS.ACK."):
            self._wanted -= 1
            self._arrived.set()
            tokens = message.reply.split(".")
            attempt, sequence = (tokens[4], tokens[5]) if len(tokens) == 9 else (tokens[6], tokens[7])
            try:
                event = Event.parse(message.subject, message.headers or {}, message.data)
            except (KeyError, ValueError) as problem:
                log.error("bus: a message is no event of ours", sequence=sequence, reason=repr(problem))
                await message.term()
                return
            self._buffer.append(Delivery(event, int(attempt), int(sequence), message.reply))
            return
        inbox, _, number = message.subject.rpartition(".")
        if inbox != self._inbox or number != str(self._pull):
            return
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100":
            return
        self._wanted = 0
        # 404 and 408 end a request in peace, and so does a full batch; all else means that the consumer is not well.
        if status not in ("404", "408"):
            self._problem = f"consumer {self._durable}: {status} {headers.get('Description', '')}"
        self._arrived.set()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are done."""
        for delivery in deliveries:
            await self._answer(delivery, ACK)

    async def nak(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        """Deliver it again after a delay."""
        payload = NAK + b" " + orjson.dumps({"delay": int(delay_seconds * NANOSECONDS)}) if delay_seconds > 0 else NAK
        await self._answer(delivery, payload)

    async def term(self, delivery: Delivery) -> None:
        """Never deliver it again."""
        await self._answer(delivery, TERM)

    async def _answer(self, delivery: Delivery, payload: bytes) -> None:
        try:
            await self._bus.client().publish(delivery.handle, payload)
        except (BusError, nats.errors.Error, OSError) as problem:
            # It comes again; the inbox knows it.
            log.debug("bus: an ack was not sent", reason=repr(problem))

    async def close(self) -> None:
        """Stop receiving."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None and self._client is not None and not self._client.is_closed:
            with suppress(nats.errors.Error, OSError):
                await receiver.unsubscribe()


def _api_error(error: dict[str, Any]) -> ApiError:
    return ApiError(int(error.get("err_code", error.get("code", 0))), str(error.get("description", "")))
