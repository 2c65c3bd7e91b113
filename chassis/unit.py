"""One transaction: what a handler may touch, and nothing that could commit behind the chassis' back.

Unit     the transaction of one call or of one batch of events
Store    a service's database, which opens units and ends them
Absent   raised when a projection is not there yet: the chassis fetches it from its owner and runs the call again
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
from foyer import options_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from chassis import metrics, tracing
from chassis.access import Caller
from chassis.bus import LARGEST_BODY_BYTES
from chassis.clock import Clock
from chassis.codec import descriptor_of
from chassis.db import CHAIN_SETTING, Connection, Pool, Prepared
from chassis.errors import FieldError, Refusal
from chassis.ids import new_id
from chassis.outbox import partition_of

UUID_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ACQUIRE_TIMEOUT_SECONDS = 5

INSERT_EVENTS = """
insert into outbox (chain_id, id, partition, subject, aggregate_id, recorded_at, occurred_at, body, traceparent)
select $1::uuid, e.id, e.partition, e.subject, e.aggregate_id, $2::timestamptz, e.occurred_at, e.body, e.traceparent
from unnest($3::text[], $4::uuid[], $5::smallint[], $6::text[], $7::text[], $8::timestamptz[], $9::bytea[])
  as e(traceparent, id, partition, subject, aggregate_id, occurred_at, body)
"""
EVENTS_AND_ANSWER = (
    "with stored as (update idempotency set response = $10::bytea"  # noqa: S608 - constants only
    " where chain_id = $1::uuid and caller_id = $11::text and key = $12::text)" + INSERT_EVENTS
)
ANSWER_ONLY = "update idempotency set response = $2 where chain_id = $1::uuid and caller_id = $3 and key = $4"
CLAIM_KEY = """
insert into idempotency (chain_id, caller_id, key, method, request_hash, created_at)
values ($1::uuid, $2, $3, $4, $5, $6) on conflict do nothing returning true
"""
READ_KEY = (
    "select method, request_hash, response from idempotency where chain_id = $1::uuid and caller_id = $2 and key = $3"
)


class Absent(Exception):
    """A projection is not there yet. `field` is the field of the request that named it."""

    def __init__(self, kind: str, id: str, field: str | None = None) -> None:  # noqa: A002
        super().__init__(f"{kind} {id}")
        self.kind = kind
        self.id = id
        self.field = field


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's key for a write, the method, and the hash of the request it stands for."""

    caller_id: str
    key: str
    method: str
    request_hash: bytes


@dataclass(slots=True)
class _Event:
    id: str
    subject: str
    aggregate_id: str
    occurred_at: datetime
    body: bytes
    traceparent: str | None


_subjects: dict[Descriptor, tuple[str, str]] = {}


def event_subject(descriptor: Descriptor) -> tuple[str, str]:
    """Subject of an event message and the field that holds its key. Raises TypeError for another message."""
    known = _subjects.get(descriptor)
    if known is None:
        option = descriptor.GetOptions().Extensions[options_pb2.event]
        if not option.subject or option.key not in descriptor.fields_by_name:
            raise TypeError(f"{descriptor.full_name} is not an event")
        known = _subjects[descriptor] = (option.subject, option.key)
    return known


class Unit:
    """The transaction of one call. It begins with the first statement; the chassis alone ends it."""

    __slots__ = (
        "_callbacks",
        "_connection",
        "_events",
        "_open",
        "_pool",
        "_started",
        "_times",
        "attempt",
        "caller",
        "chain_id",
        "if_match",
        "is_repeatable",
        "now",
        "read_only",
    )

    def __init__(
        self,
        pool: Pool,
        caller: Caller,
        now: datetime,
        times: metrics.DatabaseTimes,
        *,
        if_match: int | None = None,
        read_only: bool = False,
    ) -> None:
        if caller.chain_id and not UUID_PATTERN.fullmatch(caller.chain_id):
            raise ValueError("a chain's id is a uuid in small letters")
        self._pool = pool
        self._connection: Any = None
        self._open = False
        self._started = 0.0
        self._times = times
        self._events: list[_Event] = []
        self.attempt = 1
        """How many times the work was begun, this time included: after a conflict all of it is done anew."""
        self.is_repeatable = False
        """Whether a conflict begins the work once more."""
        self._callbacks: list[Callable[[], None]] = []
        self.caller = caller
        self.chain_id = caller.chain_id
        self.now = now
        self.if_match = if_match
        self.read_only = read_only

    # --- statements ---

    async def all(self, statement: Prepared, **parameters: Any) -> list[asyncpg.Record]:
        """All rows. `chain_id` is given by the unit."""
        connection = self._connection or await self._begin()
        parameters.setdefault("chain_id", self.chain_id)
        arguments = statement.arguments(parameters)
        started = time.perf_counter()
        rows: list[asyncpg.Record] = await connection.fetch(statement.sql, *arguments)
        self._times.query(statement.name, started)
        return rows

    async def one(self, statement: Prepared, **parameters: Any) -> asyncpg.Record | None:
        """The first row, or None."""
        connection = self._connection or await self._begin()
        parameters.setdefault("chain_id", self.chain_id)
        arguments = statement.arguments(parameters)
        started = time.perf_counter()
        row: asyncpg.Record | None = await connection.fetchrow(statement.sql, *arguments)
        self._times.query(statement.name, started)
        return row

    async def value(self, statement: Prepared, **parameters: Any) -> Any:
        """The first column of the first row, or None."""
        row = await self.one(statement, **parameters)
        return None if row is None else row[0]

    async def run(self, statement: Prepared, **parameters: Any) -> int:
        """Run a change; answers how many rows it touched."""
        connection = self._connection or await self._begin()
        parameters.setdefault("chain_id", self.chain_id)
        arguments = statement.arguments(parameters)
        started = time.perf_counter()
        status: str = await connection.execute(statement.sql, *arguments)
        self._times.query(statement.name, started)
        return int(status.rpartition(" ")[2])

    # --- effects ---

    def emit(self, event: Message, occurred_at: datetime | None = None) -> str:
        """Publish an event with this commit; answers its id. `occurred_at`: when it happened, now if not given."""
        subject, key = event_subject(descriptor_of(event))
        event_id = new_id()
        aggregate_id = str(getattr(event, key))
        if not aggregate_id:
            raise ValueError(f"{subject} without {key}")
        if event.ByteSize() > LARGEST_BODY_BYTES:
            raise ValueError(f"{subject} is larger than the bus takes")
        # The trace of this moment: events handled in one transaction each have their own.
        self._events.append(
            _Event(
                event_id,
                subject,
                aggregate_id,
                occurred_at or self.now,
                event.SerializeToString(),
                tracing.traceparent(),
            )
        )
        return event_id

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Run something in this process once the commit is there: for metrics, never for effects."""
        self._callbacks.append(callback)

    # --- scope ---

    def allowed_branches(self, permission: str) -> list[str] | None:
        """Branches the caller's permission holds for; None: all."""
        return self.caller.branches(permission)

    def check_branch(self, branch_id: str, permission: str) -> None:
        """Refuse PERMISSION_DENIED when the caller's permission does not hold at the branch."""
        branches = self.caller.branches(permission)
        if branches is not None and branch_id not in branches:
            raise Refusal("PERMISSION_DENIED", permission=permission)

    def check_version(self, current: int) -> None:
        """Refuse PRECONDITION_FAILED when If-Match names another version than the current one."""
        if self.if_match is not None and self.if_match != current:
            raise Refusal("PRECONDITION_FAILED", version=current)

    # --- for the chassis ---

    async def _begin(self) -> Any:
        connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS)
        self._connection = connection
        self._started = time.perf_counter()
        mode = "begin read only" if self.read_only else "begin"
        # One simple query: two statements, one round trip. The chain's id was checked to be a uuid.
        await connection.execute(
            f"{mode}{tracing.sql_comment()};select set_config('{CHAIN_SETTING}','{self.chain_id}',true)"
        )
        self._open = True
        self._times.query("begin", self._started)
        return connection

    async def claim(self, key: IdempotencyKey) -> bytes | None:
        """Take a key for this call, or answer what the first call with it answered. Waits while that one is under way.

        Raises Refusal IDEMPOTENCY_KEY_REUSED when it stood for another request.
        """
        connection = self._connection or await self._begin()
        started = time.perf_counter()
        claimed = await connection.fetchval(
            CLAIM_KEY, self.chain_id, key.caller_id, key.key, key.method, key.request_hash, self.now
        )
        self._times.query("insert_idempotency", started)
        if claimed:
            return None
        row = await connection.fetchrow(READ_KEY, self.chain_id, key.caller_id, key.key)
        if row is None or row["method"] != key.method or row["request_hash"] != key.request_hash:
            error = FieldError("Idempotency-Key", "reused", "was used with another request", "已用于另一个请求")
            raise Refusal("IDEMPOTENCY_KEY_REUSED", errors=[error])
        response: bytes = row["response"]
        return response

    async def commit(self, answer: tuple[IdempotencyKey, bytes] | None = None) -> bool:
        """End the transaction: events and the answer to be repeated go in with it. True when events went in."""
        events = self._events
        if self._connection is None and not events and answer is None:
            self._after()
            return False
        connection = self._connection or await self._begin()
        started = time.perf_counter()
        if events:
            arguments: list[Any] = [
                self.chain_id,
                self.now,
                [event.traceparent for event in events],
                [event.id for event in events],
                [partition_of(event.aggregate_id) for event in events],
                [event.subject for event in events],
                [event.aggregate_id for event in events],
                [event.occurred_at for event in events],
                [event.body for event in events],
            ]
            if answer is None:
                await connection.execute(INSERT_EVENTS, *arguments)
            else:
                await connection.execute(EVENTS_AND_ANSWER, *arguments, answer[1], answer[0].caller_id, answer[0].key)
            self._times.query("insert_outbox", started)
        elif answer is not None:
            await connection.execute(ANSWER_ONLY, self.chain_id, answer[1], answer[0].caller_id, answer[0].key)
            self._times.query("update_idempotency", started)
        started = time.perf_counter()
        ended: str = await connection.execute("commit")
        self._open = False
        if ended != "COMMIT":
            # PostgreSQL answers ROLLBACK, and nothing else, when a statement failed and nobody let the error out.
            raise RuntimeError("the transaction was undone: an error of the database was swallowed")
        self._times.query("commit", started)
        self._times.unit("committed", self._started)
        self._after()
        return bool(events)

    def _after(self) -> None:
        for callback in self._callbacks:
            callback()

    async def close(self) -> None:
        """Give the connection back; what was not committed is undone."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._open:
            self._times.unit("undone", self._started)
        try:
            if self._open and not connection.is_closed():
                await connection.execute("rollback", timeout=ACQUIRE_TIMEOUT_SECONDS)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            with suppress(asyncpg.InterfaceError):  # it was cut off, and the first error is the one to tell
                connection.terminate()
        finally:
            self._open = False
            await self._pool.release(connection)


class Store:
    """A service's database, as the application or as the system role."""

    def __init__(self, pool: Pool, clock: Clock, on_events: Callable[[], None] = lambda: None, name: str = "") -> None:
        """`on_events` is called when events were committed; `name` is the service's, for metrics."""
        self.pool = pool
        self.clock = clock
        self.on_events = on_events
        self._times = metrics.DatabaseTimes(name)

    def open(self, caller: Caller, *, if_match: int | None = None, read_only: bool = False) -> Unit:
        """A unit that the caller of this method ends: for the chassis."""
        return Unit(self.pool, caller, self.clock.now(), self._times, if_match=if_match, read_only=read_only)

    @asynccontextmanager
    async def unit(self, caller: Caller, *, read_only: bool = False) -> AsyncIterator[Unit]:
        """A unit that commits when the block ends, and undoes everything when it raises."""
        unit = self.open(caller, read_only=read_only)
        try:
            yield unit
            if await unit.commit():
                self.on_events()
        finally:
            await unit.close()


def system_caller(service: str, chain_id: str, time_zone: str = "UTC", currency: str = "CNY") -> Caller:
    """The caller a service itself is, for a chain: for events and jobs."""
    return Caller(f"service:{service}", "service", service, chain_id, time_zone, currency)


__all__ = ["Absent", "Connection", "IdempotencyKey", "Store", "Unit", "event_subject", "system_caller"]
