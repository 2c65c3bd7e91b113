"""For tests of events: a database with the tables of the chassis and one for effects."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from foyer.bookings.v1.bookings_pb2 import BookingCancelled
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.clock import Clock
from chassis.db import Pool, chain_column, create_chassis_tables, create_tables, open_pool, prepare_sql, uuid_type
from chassis.ids import new_id
from chassis.projections import Projections
from chassis.unit import Store, Unit, system_caller
from tools.servers import Servers

SERVICE = "bookings"
DATABASE = "events{number}_{{service}}"
NUMBERS = itertools.count()
TYPE = "booking.cancelled"
KEEP_EFFECT = prepare_sql(
    "insert into effects (chain_id, event_id, aggregate_id, version) values ($1::uuid, $2::uuid, $3, $4)",
    *("chain_id", "event_id", "aggregate_id", "version"),
)
KEEP_EFFECTS = prepare_sql(
    """
insert into effects (chain_id, event_id, aggregate_id, version)
select $1::uuid, e.id, e.aggregate_id, e.version
from unnest($2::uuid[], $3::text[], $4::bigint[]) as e(id, aggregate_id, version)
""",
    *("chain_id", "event_ids", "aggregate_ids", "versions"),
)


@dataclass
class Database:
    """A service's database: what the Context of a service holds of it, and the owner's and system's way in."""

    name: str
    environ: dict[str, str]
    pool: Pool
    system_pool: Pool
    store: Store
    system_store: Store
    projections: Projections

    async def emit(self, chain_id: str, events: Sequence[BookingCancelled]) -> list[str]:
        """Write events in one commit; answers their ids."""
        async with self.store.unit(system_caller(self.name, chain_id)) as unit:
            return [unit.emit(event) for event in events]

    async def effect_count(self, chain_id: str) -> int:
        """How many effects there are."""
        async with self.store.unit(system_caller(self.name, chain_id), read_only=True) as unit:
            return int(await unit.value(prepare_sql("select count(*) from effects")))

    async def effects(self, chain_id: str) -> list[tuple[str, int]]:
        """Thing and version of each effect, in the order they came about."""
        async with self.store.unit(system_caller(self.name, chain_id), read_only=True) as unit:
            rows = await unit.all(prepare_sql("select aggregate_id, version from effects order by number"))
        return [(row["aggregate_id"], row["version"]) for row in rows]


def cancelled(aggregate_id: str, version: int, **booking: str) -> BookingCancelled:
    """An event: `version` of what happened to a thing."""
    event = BookingCancelled(booking_id=aggregate_id, notice_minutes=version)
    for name, value in booking.items():
        setattr(event.booking, name, value)
    return event


async def keep(event: BookingCancelled, event_id: str, unit: Unit) -> None:
    """The effect of an event: a row."""
    await unit.run(KEEP_EFFECT, event_id=event_id, aggregate_id=event.booking_id, version=event.notice_minutes)


@asynccontextmanager
async def open_database(servers: Servers) -> AsyncIterator[Database]:
    """A new database, dropped at the end."""
    template = DATABASE.format(number=next(NUMBERS))
    environ = await asyncio.to_thread(servers.make_databases, template, [SERVICE])
    url = environ["FOYER_OWNER_DATABASE_URL"].replace("{service}", SERVICE)
    await _create_tables(url)
    pool = await open_pool(environ["FOYER_DATABASE_URL"].replace("{service}", SERVICE), 24, "test")
    system_pool = await open_pool(environ["FOYER_SYSTEM_DATABASE_URL"].replace("{service}", SERVICE), 12, "test-system")
    clock = Clock()
    store = Store(pool, clock)
    system_store = Store(system_pool, clock)
    try:
        yield Database(SERVICE, environ, pool, system_pool, store, system_store, Projections(SERVICE, store, {}))
    finally:
        pool.terminate()
        system_pool.terminate()
        await asyncio.to_thread(servers.drop_databases, template, [SERVICE])


async def _create_tables(owner_url: str) -> None:
    metadata = sa.MetaData()
    sa.Table(
        "effects",
        metadata,
        chain_column(),
        sa.Column("number", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("event_id", uuid_type(), nullable=False),
        sa.Column("aggregate_id", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )

    def create(connection: sa.Connection) -> None:
        op = Operations(MigrationContext.configure(connection))
        create_chassis_tables(op)
        create_tables(op, metadata, system={"effects": "select"})

    engine = create_async_engine(sa.make_url(owner_url).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(create)
    await engine.dispose()


async def until(holds: Callable[[], Awaitable[bool] | bool], seconds: float = 15) -> None:
    """Wait until something holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            found = holds()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*work: Callable[[], Awaitable[None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run relays and consumers until the block ends."""
    tasks = [asyncio.create_task(_finish(one)) for one in work]
    try:
        yield tasks
    finally:
        left = set(tasks)
        for _ in range(5):
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=3)
            if not left:
                break
        assert not left, left
        found = await asyncio.gather(*tasks, return_exceptions=True)
    problems = [one for one in found if isinstance(one, Exception)]
    if problems:
        pytest.fail(f"ended by itself: {problems}")


async def _finish(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def new_chain() -> str:
    """A chain of its own."""
    return new_id()
