"""From the rows of the outbox to the bus: at the relay's own pace, in order for each thing, nothing lost.

Rows fall into PARTITIONS by a hash of what they are about. An advisory lock gives each partition one owner among all
replicas; the owner works on the connection that holds the lock, so that losing one is losing the other. The number the
bus answers stays on the row: what the stream loses, with its store or with its last seconds, is found by it and sent
again.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from chassis import logs, metrics
from chassis.bus import STREAM_AGE_SECONDS, Bus, BusError, Event, NotConnected, PubAck, StreamState

if TYPE_CHECKING:
    from chassis.db import Connection, Pool

PARTITIONS = 4
LOCK_CLASS = 7301
BATCH_PER_PARTITION = 250
POLL_LEAST_SECONDS = 0.05
POLL_MOST_SECONDS = 0.25
ROUND_SECONDS = 0.25
CLAIM_SECONDS = 1.0
CHECK_SECONDS = 5.0
RETRY_SECONDS = 0.5
REPAIR_BATCH = 5000
REPAIR_BATCHES = 10_000
SEARCH_STEPS = 40
MOST_COUNTED = 10_000
ACQUIRE_TIMEOUT_SECONDS = 5.0
CLOSE_TIMEOUT_SECONDS = 2.0

# A mark that is lost in a crash means a double, which the bus and the inbox drop: not worth a disk sync. A lock must
# not be held by a machine that is gone. Plans made while the table is small must not read all of it when it is large.
SESSION = """
set synchronous_commit = off; set enable_seqscan = off; set enable_bitmapscan = off;
set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3
"""
CLAIM = """
select p from generate_series(0, $2::int - 1) as p where p <> all($1::int[]) and pg_try_advisory_lock($3, p)
"""
UNSENT = """
select o.* from unnest($1::smallint[]) as owned(partition) cross join lateral (
  select chain_id, sequence, id, subject, aggregate_id, recorded_at, occurred_at, body, traceparent
  from outbox where published_at is null and partition = owned.partition order by sequence limit $2
) o order by o.sequence
"""
MARK = """
update outbox o set published_at = now(), stream_sequence = sent.number, stream_created_at = $4
from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as sent(chain_id, sequence, number)
where o.chain_id = sent.chain_id and o.sequence = sent.sequence
"""
# Rows that an earlier (or, after a restore, later) stream held; those it would have dropped by now stay as they are.
TAKE_BACK_OTHER_STREAM = """
with lost as (
  select chain_id, sequence, recorded_at > now() - $3::interval as wanted from outbox
  where stream_sequence is not null and stream_created_at {other} $2 and partition = any($1::smallint[])
  order by stream_created_at, stream_sequence limit $4
)
update outbox o set published_at = case when lost.wanted then null else o.published_at end,
  stream_sequence = null, stream_created_at = null
from lost where o.chain_id = lost.chain_id and o.sequence = lost.sequence
"""
TAKE_BACK_END = """
with lost as (
  select chain_id, sequence from outbox
  where stream_sequence > $3 and stream_created_at = $2 and partition = any($1::smallint[])
  order by stream_sequence limit $4
)
update outbox o set published_at = null, stream_sequence = null, stream_created_at = null
from lost where o.chain_id = lost.chain_id and o.sequence = lost.sequence
"""
NEWEST_SENT = """
select id, stream_sequence from outbox
where stream_created_at = $2 and stream_sequence is not null and partition = any($1::smallint[])
order by stream_sequence desc offset $3 limit 1
"""
BACKLOG = """
select count(*) as unsent, coalesce(extract(epoch from now() - min(recorded_at)), 0)::float8 as oldest,
  (select count(*) from (select 1 from dead_letters where handled_at is null limit $1) open) as dead
from (select recorded_at from outbox where published_at is null limit $1) waiting
"""

OLDEST_SECONDS = metrics.gauge("foyer_outbox_oldest_seconds", "Age of the oldest event not yet sent.", ("service",))
UNSENT_EVENTS = metrics.gauge(
    "foyer_outbox_unsent", f"Events not yet sent; counted to {MOST_COUNTED} at most.", ("service",)
)
DEAD_LETTERS = metrics.gauge(
    "foyer_dead_letters", f"Events nobody could handle yet; counted to {MOST_COUNTED} at most.", ("service",)
)
PUBLISHED = metrics.counter("foyer_outbox_published_total", "Events sent to the bus.", ("service",))
# Every service's relay sees the same stream: take the largest.
STREAM_MESSAGES = metrics.gauge("foyer_bus_stream_messages", "Events the bus keeps, as last seen by this process.")
STREAM_BYTES = metrics.gauge("foyer_bus_stream_bytes", "Bytes of what the bus keeps, as last seen by this process.")
REPUBLISHED = metrics.counter("foyer_outbox_republished_total", "Events the stream had lost.", ("service",))
DATABASE_PROBLEMS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

log = logs.logger(__name__)


def partition_of(aggregate_id: str) -> int:
    """Partition of a thing's events, the same for ever."""
    return zlib.crc32(aggregate_id.encode()) % PARTITIONS


@asynccontextmanager
async def dedicated(pool: Pool) -> AsyncIterator[Connection]:
    """A connection of its own for session locks; it is closed afterwards, which gives them up."""
    connection: Any = await pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS)
    try:
        await connection.execute(SESSION)
        yield connection
    finally:
        # A connection that was cut off has gone back to the pool by itself, and says so by an InterfaceError.
        try:
            with suppress(*DATABASE_PROBLEMS):
                await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)
        finally:
            with suppress(*DATABASE_PROBLEMS):
                connection.terminate()
            with suppress(*DATABASE_PROBLEMS):
                await pool.release(connection)


class Relay:
    """Sends what is unsent in a service's outbox, whoever wrote it. Any number of replicas may run one each."""

    def __init__(self, pool: Pool, bus: Bus, source: str) -> None:
        """`pool` connects as the system role; `source` is the service's name."""
        self._pool = pool
        self._bus = bus
        self._source = source
        self._written = asyncio.Event()
        self._owned: list[int] = []
        self._stream: datetime | None = None
        self._checked_connection = 0
        self._next_check = 0.0
        self._problem = ""
        self._published = PUBLISHED.labels(source)
        self._republished = REPUBLISHED.labels(source)

    @property
    def owned(self) -> list[int]:
        """The partitions this relay has now."""
        return list(self._owned)

    def wake(self) -> None:
        """Rows were committed in this process: do not wait for the next poll."""
        self._written.set()

    async def run(self) -> None:
        """Relay until cancelled; troubles of database and bus are waited out."""
        while True:
            try:
                async with dedicated(self._pool) as connection:
                    await self._work(connection)
            except DATABASE_PROBLEMS as problem:
                log.warning("outbox: the database does not answer", source=self._source, reason=repr(problem))
            finally:
                self._owned = []
                self._stream = None
            await asyncio.sleep(RETRY_SECONDS)

    async def _work(self, connection: Connection) -> None:
        """Claim partitions and send their rows, on one connection."""
        loop = asyncio.get_running_loop()
        next_claim = next_measure = 0.0
        pause = POLL_LEAST_SECONDS
        while True:
            self._written.clear()
            now = loop.time()
            if now >= next_claim and len(self._owned) < PARTITIONS:
                next_claim = now + CLAIM_SECONDS
                await self._claim(connection)
            if now >= next_measure:
                next_measure = now + CHECK_SECONDS
                await self._measure(connection)
            found = await self._try_round(connection) if self._owned else 0
            if found >= BATCH_PER_PARTITION:
                continue
            pause = POLL_LEAST_SECONDS if found else min(pause * 2, POLL_MOST_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._written.wait()

    async def _claim(self, connection: Connection) -> None:
        gained = [row["p"] for row in await connection.fetch(CLAIM, self._owned, PARTITIONS, LOCK_CLASS)]
        if gained:
            self._owned = sorted([*self._owned, *gained])
            self._stream = None
            log.info("outbox: owns partitions", source=self._source, partitions=self._owned)

    async def _measure(self, connection: Connection) -> None:
        row = await connection.fetchrow(BACKLOG, MOST_COUNTED)
        if row is not None:
            UNSENT_EVENTS.labels(self._source).set(row["unsent"])
            OLDEST_SECONDS.labels(self._source).set(max(row["oldest"], 0.0))
            DEAD_LETTERS.labels(self._source).set(row["dead"])

    async def _try_round(self, connection: Connection) -> int:
        """One round; answers how many rows were sent, 0 when the bus has trouble."""
        try:
            await self._check_stream(connection)
            sent = await self._round(connection)
        except BusError as problem:
            self._tell(str(problem))
            await asyncio.sleep(POLL_LEAST_SECONDS)
            return 0
        return sent

    async def _round(self, connection: Connection) -> int:
        rows = await connection.fetch(UNSENT, self._owned, BATCH_PER_PARTITION)
        if not rows:
            return 0
        sent, problem = await self._publish(rows)
        if sent:
            chains = [row["chain_id"] for row, _ in sent]
            sequences = [row["sequence"] for row, _ in sent]
            numbers = [ack.stream_sequence for _, ack in sent]
            await connection.execute(MARK, chains, sequences, numbers, self._stream)
            self._published.inc(len(sent))
        self._tell(str(problem) if problem is not None else "")
        return len(sent)

    async def _publish(
        self, rows: Iterable[asyncpg.Record]
    ) -> tuple[list[tuple[asyncpg.Record, PubAck]], BusError | None]:
        """Send rows in waves of one event a thing: what fails keeps back only what comes after it on the same thing."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ROUND_SECONDS
        things: dict[tuple[str, str], deque[asyncpg.Record]] = {}
        for row in rows:
            things.setdefault((row["chain_id"], row["aggregate_id"]), deque()).append(row)
        sent: list[tuple[asyncpg.Record, PubAck]] = []
        problem: BusError | None = None
        while things and loop.time() < until:
            wave = [(thing, waiting.popleft()) for thing, waiting in things.items()]
            answers = await self._bus.publish_many([self._event(row) for _, row in wave])
            for (thing, row), answer in zip(wave, answers, strict=True):
                if isinstance(answer, PubAck):
                    sent.append((row, answer))
                else:
                    problem = answer
                if not things[thing] or not isinstance(answer, PubAck):
                    del things[thing]
            if isinstance(problem, NotConnected):
                break
        return sent, problem

    def _event(self, row: asyncpg.Record) -> Event:
        return Event(
            id=row["id"],
            type=row["subject"],
            chain_id=row["chain_id"],
            aggregate_id=row["aggregate_id"],
            source=self._source,
            time=row["recorded_at"],
            occurred_at=row["occurred_at"],
            body=row["body"],
            traceparent=row["traceparent"],
        )

    async def _check_stream(self, connection: Connection) -> None:
        """Take back what the stream has lost, before anything newer is sent. Raises BusError when it cannot be known.

        Done at the start, after each connection, and every CHECK_SECONDS.
        """
        now = asyncio.get_running_loop().time()
        connections = self._bus.connections
        if self._stream is not None and connections == self._checked_connection and now < self._next_check:
            return
        self._stream = None
        state = await self._bus.stream_state()
        STREAM_MESSAGES.set(state.messages)
        STREAM_BYTES.set(state.size_bytes)
        taken = 0
        for other in ("<", ">"):
            statement = TAKE_BACK_OTHER_STREAM.format(other=other)
            kept = timedelta(seconds=STREAM_AGE_SECONDS)
            taken += await _in_batches(connection, statement, self._owned, state.created_at, kept)
        kept_until = await self._kept_until(connection, state)
        if kept_until is not None:
            taken += await _in_batches(connection, TAKE_BACK_END, self._owned, state.created_at, kept_until)
        if taken:
            self._republished.inc(taken)
            log.warning("outbox: the stream has lost events, they are sent again", source=self._source, events=taken)
        self._stream = state.created_at
        self._checked_connection = connections
        self._next_check = now + CHECK_SECONDS

    async def _kept_until(self, connection: Connection, state: StreamState) -> int | None:
        """Number of an event of ours that the stream still has although it lost later ones; None: it lost none.

        Others may have published since, so that its last number says nothing: the id of the event with our number does.
        """
        offset = 0
        for _ in range(SEARCH_STEPS):
            row = await connection.fetchrow(NEWEST_SENT, self._owned, state.created_at, offset)
            if row is None:
                return 0 if offset else None
            number: int = row["stream_sequence"]
            # What is older than the stream's first was dropped for its age.
            if number < state.first_sequence or await self._bus.event_id_at(number) == row["id"]:
                return number if offset else None
            offset = offset * 2 + 1
        return 0

    def _tell(self, problem: str) -> None:
        """Log a trouble of the bus when it begins and when it ends, not each time."""
        if bool(problem) != bool(self._problem):
            if problem:
                log.warning("outbox: cannot send", source=self._source, reason=problem)
            else:
                log.info("outbox: sends again", source=self._source)
        self._problem = problem


async def _in_batches(connection: Connection, statement: str, *arguments: object) -> int:
    """Run a change with a limit until it finds nothing more; answers how many rows it touched."""
    total = 0
    for _ in range(REPAIR_BATCHES):
        status: str = await connection.execute(statement, *arguments, REPAIR_BATCH)
        count = int(status.rpartition(" ")[2])
        total += count
        if count < REPAIR_BATCH:
            break
    return total
