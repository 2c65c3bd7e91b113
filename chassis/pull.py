"""The receiving side of JetStream: a durable pull consumer, and the words of its API."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from chassis import logs
from chassis.bus import BusError, Delivery, Event

if TYPE_CHECKING:
    from chassis.jetstream import JetStreamBus

STREAM = "EV"
PULL_SECONDS = 5.0
PULL_GRACE_SECONDS = 2.0
ANSWER_SECONDS = 5.0
MOST_UNACKNOWLEDGED = 20_000
# Acks may have been lost with an unsynced disk, and numbers moved with them; doubles cost the inbox next to nothing.
REWIND_EVENTS = 1000
NANOSECONDS = 1_000_000_000
NO_RESPONDERS = "503"
STREAM_NOT_FOUND, CONSUMER_NOT_FOUND, STREAM_NAME_IN_USE = 10059, 10014, 10058
ACK, NAK, TERM = b"+ACK", b"-NAK", b"+TERM"

log = logs.logger(__name__)


class ApiError(BusError):
    """JetStream refused a request; `code` is its own error number."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.code = int(error.get("err_code", error.get("code", 0)))
        super().__init__(f"{error.get('description', '')} ({self.code})")


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
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
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
