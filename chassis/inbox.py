"""From the bus to a service's handlers: each event once, in the transaction of its effect.

    on = Subscriptions()          the subscriptions of a service, read as a table
    @on(BookingConfirmed)         async def f(event, meta, unit): one event at a time
    @on.batch(A, B)               async def g(batch, unit): all of a transaction at once, [(event, meta), ...]

One replica of a service consumes at a time (advisory lock). What is fetched is grouped by chain; each group is one
unit: ids into the inbox, handlers for those that were not there, commit, then ack. When a group fails, its events are
handled one by one; the one that fails comes again, later and later, and the events behind it on the same thing wait for
it. After MOST_ATTEMPTS it becomes a dead letter and the others go on. That a database or another service is away counts
for no event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import asyncpg

from chassis import logs, metrics, tracing
from chassis.bus import Bus, BusError, Delivery, Event, Subscription
from chassis.db import Connection, prepare_sql
from chassis.errors import Refusal
from chassis.outbox import DATABASE_PROBLEMS, dedicated
from chassis.projections import Projections
from chassis.subscriptions import EventMeta, Subscriptions
from chassis.unit import Store, Unit, system_caller

__all__ = ["Consumer", "EventMeta", "Stores", "Subscriptions", "reason_of"]

LOCK_CLASS = 7302
BATCH = 500
CHAINS_AT_ONCE = 4
FETCH_SECONDS = 1.0
STUCK_SECONDS = 30.0
CLAIM_SECONDS = 1.0
LOCK_CHECK_SECONDS = 5.0
RETRY_SECONDS = 0.5
MOST_ATTEMPTS = 5
RETRY_DELAYS_SECONDS = (0.5, 2.0, 10.0, 30.0)
# Deliveries after which an event is given up even if this process has not seen it fail: it may end processes.
MOST_DELIVERIES = 25
DATABASE_TRIES = 20
REMOTE_TRIES = 3
TRY_SECONDS = (0.05, 5.0)
AWAY_SECONDS = 2.0
MOST_HELD = 10_000
FORGET_SECONDS = 120.0
LONGEST_REASON = 500

NOTE = prepare_sql(
    """
insert into inbox (chain_id, consumer, event_id)
select $1::uuid, $2, seen.id from unnest($3::uuid[]) as seen(id) on conflict do nothing returning event_id
""",
    "chain_id",
    "consumer",
    "event_ids",
)
BURY = prepare_sql(
    """
insert into dead_letters (chain_id, event_id, consumer, type, source, aggregate_id, body, occurred_at, time,
  traceparent, attempts, reason, dead_at)
values ($1::uuid, $2::uuid, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
on conflict (chain_id, event_id, consumer) do update set attempts = excluded.attempts, reason = excluded.reason,
  dead_at = excluded.dead_at, handled_at = null
""",
    *("chain_id", "event_id", "consumer", "type", "source", "aggregate_id", "body", "occurred_at", "time"),
    *("traceparent", "attempts", "reason", "dead_at"),
)

HANDLED = metrics.counter(
    "foyer_events_handled_total", "Events by what became of them.", ("consumer", "event", "outcome")
)
LAG_SECONDS = metrics.histogram(
    "foyer_event_lag_seconds",
    "Time from an event's commit to the commit of its effect.",
    ("consumer",),
    metrics.LAG_SECONDS,
)
AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    ConnectionError,
)

log = logs.logger(__name__)


class Stores(Protocol):
    """A service's database, as the application and as the system role."""

    store: Store
    system_store: Store


@dataclass(slots=True)
class _Head:
    """An event that failed: those behind it on the same thing wait."""

    event_id: str
    due: float


class Consumer:
    """Consumes a service's events from the bus."""

    def __init__(
        self, name: str, subscriptions: Subscriptions, bus: Bus, stores: Stores, projections: Projections
    ) -> None:
        """`name`: of the service and of its durable consumer."""
        self.name = name
        self.subscriptions = subscriptions
        self._bus = bus
        self._stores = stores
        self._projections = projections
        self._subscription: Subscription | None = None
        self._failures: dict[str, int] = {}
        self._heads: dict[tuple[str, str], _Head] = {}
        self._rewind = False
        self._problem = ""
        self._lag = LAG_SECONDS.labels(name)

    @property
    def owns(self) -> bool:
        """Whether this replica is the one that consumes."""
        return self._subscription is not None

    async def run(self) -> None:
        """Consume until cancelled; troubles of database and bus are waited out."""
        while True:
            try:
                async with dedicated(self._stores.system_store.pool) as connection:
                    await self._wait_for_lock(connection)
                    await self._consume(connection)
            except DATABASE_PROBLEMS as problem:
                log.warning("inbox: the database does not answer", consumer=self.name, reason=repr(problem))
            finally:
                await self._let_go()
            await asyncio.sleep(RETRY_SECONDS)

    async def _wait_for_lock(self, connection: Connection) -> None:
        lock = "select pg_try_advisory_lock($1, hashtext($2))"
        while not await connection.fetchval(lock, LOCK_CLASS, self.name):  # noqa: ASYNC110 - another process frees it
            await asyncio.sleep(CLAIM_SECONDS)
        log.info("inbox: consumes", consumer=self.name, events=len(self.subscriptions.subjects))

    async def _consume(self, connection: Connection) -> None:
        """Fetch and handle for as long as the connection, and with it the lock, is there."""
        loop = asyncio.get_running_loop()
        next_check = loop.time() + LOCK_CHECK_SECONDS
        while True:
            if loop.time() >= next_check:
                await connection.execute("select 1")
                next_check = loop.time() + LOCK_CHECK_SECONDS
            if connection.is_closed():
                raise ConnectionError("the connection that holds the lock is gone")
            try:
                # Whatever hangs in the client of the bus is left behind, and begun anew.
                async with asyncio.timeout(STUCK_SECONDS):
                    if self._subscription is None:
                        self._subscription = await self._bus.subscribe(self.name, self.subscriptions.subjects)
                    deliveries = await self._subscription.fetch(BATCH, FETCH_SECONDS)
            except TimeoutError:
                self._tell("the bus hangs")
                self._subscription = None
                continue
            except BusError as problem:
                self._tell(str(problem))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._tell("")
            if deliveries:
                await self.handle(deliveries)
            if self._rewind:
                await self._close()
                await asyncio.sleep(AWAY_SECONDS)

    async def _let_go(self) -> None:
        self._failures.clear()
        self._heads.clear()
        await self._close()

    async def _close(self) -> None:
        subscription, self._subscription = self._subscription, None
        self._rewind = False
        if subscription is not None:
            with suppress(BusError):
                await subscription.close()

    def _tell(self, problem: str) -> None:
        """Log a trouble of the bus when it begins and when it ends, not each time."""
        if bool(problem) != bool(self._problem):
            if problem:
                log.warning("inbox: cannot receive", consumer=self.name, reason=problem)
            else:
                log.info("inbox: receives again", consumer=self.name)
        self._problem = problem

    # --- handling ---

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Handle what was fetched and settle each delivery."""
        groups: dict[str, list[Delivery]] = {}
        again: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            chain_id = delivery.event.chain_id
            head = self._head(delivery.event)
            if head is None:
                groups.setdefault(chain_id, []).append(delivery)
            elif head.event_id == delivery.event.id:
                again.setdefault(chain_id, []).append(delivery)
            else:
                await self._wait(delivery, head)
        free = asyncio.Semaphore(CHAINS_AT_ONCE)

        async def work(chain_id: str) -> None:
            async with free:
                if chain_id in again:
                    await self._one_by_one(chain_id, again[chain_id])
                if chain_id in groups:
                    await self._together(chain_id, groups[chain_id])

        async with asyncio.TaskGroup() as tasks:
            for chain_id in groups.keys() | again.keys():
                tasks.create_task(work(chain_id))

    async def _together(self, chain_id: str, deliveries: list[Delivery]) -> None:
        """Handle a chain's events in one unit; one by one when that fails."""
        if len(deliveries) > 1:
            with tracing.span(f"consume {self.name}", kind="consumer", parent=deliveries[0].event.traceparent):
                try:
                    await self._patiently(chain_id, deliveries, REMOTE_TRIES)
                    await self._acknowledge(deliveries)
                    return
                except Exception as problem:  # whose it is will be seen
                    if _is_away(problem):
                        self._begin_again(problem)
                        return
        await self._one_by_one(chain_id, deliveries)

    async def _one_by_one(self, chain_id: str, deliveries: list[Delivery]) -> None:
        """Handle each event in a unit of its own, so that only the one that fails is kept back."""
        for delivery in deliveries:
            head = self._head(delivery.event)
            if head is not None and head.event_id != delivery.event.id:
                await self._wait(delivery, head)
                continue
            with tracing.span(f"consume {self.name}", kind="consumer", parent=delivery.event.traceparent):
                try:
                    await self._patiently(chain_id, [delivery], 1)
                    await self._acknowledge([delivery])
                except Exception as problem:
                    if _is_away(problem):
                        self._begin_again(problem)
                        return
                    await self._failed(delivery, problem)

    async def _patiently(self, chain_id: str, deliveries: list[Delivery], remote_tries: int) -> None:
        """Handle events in one unit, again after a pause while the database or another service is away."""
        pause = TRY_SECONDS[0]
        for attempt in range(1, DATABASE_TRIES + 1):
            try:
                await self._in_unit(chain_id, deliveries)
                return
            except Exception as problem:
                tries = DATABASE_TRIES if _is_away(problem) else remote_tries if _is_remote(problem) else 1
                if attempt >= tries:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, TRY_SECONDS[1])

    async def _in_unit(self, chain_id: str, deliveries: list[Delivery]) -> None:
        fresh: set[str] = set()

        async def once() -> None:
            fresh.clear()
            async with self._stores.store.unit(system_caller(self.name, chain_id)) as unit:
                fresh.update(await self.apply([delivery.event for delivery in deliveries], unit))

        await self._projections.complete(once, system_caller(self.name, chain_id))
        self._count(deliveries, fresh)

    async def apply(self, events: Sequence[Event], unit: Unit) -> set[str]:
        """Handle those of a chain's events that were not handled yet, in a unit; answers their ids."""
        try:
            rows = await unit.all(NOTE, consumer=self.name, event_ids=[event.id for event in events])
        except TimeoutError as problem:
            # No connection was free, or the database hangs: not the events' fault, as a slow handler may be.
            raise ConnectionError("the database does not answer in time") from problem
        fresh = {row["event_id"] for row in rows}
        if fresh:
            # The same event twice in a batch is handled once.
            once = {event.id: event for event in events if event.id in fresh}
            await self.subscriptions.apply(once.values(), unit)
        return fresh

    def _count(self, deliveries: list[Delivery], fresh: set[str]) -> None:
        now = self._stores.store.clock.now()
        counts: dict[tuple[str, str], int] = {}
        for delivery in deliveries:
            event = delivery.event
            outcome = "handled" if event.id in fresh else "repeated"
            counts[event.type, outcome] = counts.get((event.type, outcome), 0) + 1
            if outcome == "handled":
                self._lag.observe(max((now - event.time).total_seconds(), 0.0))
        for (name, outcome), count in counts.items():
            HANDLED.labels(self.name, name, outcome).inc(count)

    # --- settling ---

    async def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        if self._heads or self._failures:
            for delivery in deliveries:
                self._release(delivery.event)
        if self._subscription is not None:
            await self._subscription.ack(deliveries)

    def _begin_again(self, problem: Exception) -> None:
        """Fetch again, after a pause, from where nothing is settled: in order, unlike single redeliveries."""
        log.warning("inbox: the database stays away", consumer=self.name, reason=repr(problem))
        self._rewind = True

    async def _wait(self, delivery: Delivery, head: _Head) -> None:
        """Bring it again once the one before it has been tried."""
        delay = max(head.due - asyncio.get_running_loop().time(), 0.0) + 0.1
        if self._subscription is not None:
            await self._subscription.nak(delivery, delay)

    async def _failed(self, delivery: Delivery, problem: Exception) -> None:
        """Try it again later, or put it aside. What is only away does not count."""
        event = delivery.event
        if _is_remote(problem):
            log.warning("event waits", consumer=self.name, type=event.type, id=event.id, reason=repr(problem))
            await self._hold(delivery, AWAY_SECONDS)
            return
        if len(self._failures) >= MOST_HELD:
            self._failures.clear()
        attempts = self._failures.get(event.id, 0) + 1
        self._failures[event.id] = attempts
        dead = attempts >= MOST_ATTEMPTS or delivery.attempt >= MOST_DELIVERIES
        HANDLED.labels(self.name, event.type, "dead" if dead else "failed").inc()
        log.error(
            "event put aside" if dead else "event failed",
            consumer=self.name,
            type=event.type,
            id=event.id,
            chain_id=event.chain_id,
            attempts=attempts,
            exc_info=problem,
        )
        if not dead:
            await self._hold(delivery, RETRY_DELAYS_SECONDS[attempts - 1])
            return
        try:
            await self._bury(event, attempts, problem)
        except (*AWAY, TimeoutError) as trouble:
            self._begin_again(trouble)
            return
        await self._acknowledge([delivery])

    async def _bury(self, event: Event, attempts: int, problem: Exception) -> None:
        """Make a dead letter of an event, in a transaction of its own."""
        async with self._stores.store.unit(system_caller(self.name, event.chain_id)) as unit:
            await unit.run(
                BURY,
                event_id=event.id,
                consumer=self.name,
                type=event.type,
                source=event.source,
                aggregate_id=event.aggregate_id,
                body=event.body,
                occurred_at=event.occurred_at,
                time=event.time,
                traceparent=event.traceparent,
                attempts=attempts,
                reason=reason_of(problem),
                dead_at=unit.now,
            )

    async def _hold(self, delivery: Delivery, delay_seconds: float) -> None:
        due = asyncio.get_running_loop().time() + delay_seconds
        if len(self._heads) < MOST_HELD:
            self._heads[delivery.event.chain_id, delivery.event.aggregate_id] = _Head(delivery.event.id, due)
        if self._subscription is not None:
            await self._subscription.nak(delivery, delay_seconds)

    def _head(self, event: Event) -> _Head | None:
        """The failed event that an event must wait for; itself when it is the one."""
        if not self._heads:
            return None
        key = (event.chain_id, event.aggregate_id)
        head = self._heads.get(key)
        if head is not None and asyncio.get_running_loop().time() > head.due + FORGET_SECONDS:
            # It did not come again: the stream has lost it, and the outbox will bring it.
            del self._heads[key]
            self._failures.pop(head.event_id, None)
            return None
        return head

    def _release(self, event: Event) -> None:
        self._failures.pop(event.id, None)
        key = (event.chain_id, event.aggregate_id)
        head = self._heads.get(key)
        if head is not None and head.event_id == event.id:
            del self._heads[key]


def reason_of(problem: Exception) -> str:
    """Why handling failed, in short, without personal data."""
    return logs.without_personal_data(f"{type(problem).__name__}: {problem}")[:LONGEST_REASON]


def _is_away(problem: BaseException) -> bool:
    """The database is away or undid the transaction for another's sake: the same events may well succeed later."""
    # A value that does not fit a column is an InterfaceError too, and a ValueError.
    away = isinstance(problem, AWAY) and not isinstance(problem, ValueError)
    # Bare, it says that none of several addresses answered; its kinds may be a handler's own trouble.
    return away or type(problem) is OSError


def _is_remote(problem: BaseException) -> bool:
    """Another service, which a projection is read from, is away."""
    return isinstance(problem, Refusal) and problem.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
