"""The database: tables and statements in SQLAlchemy Core, run by asyncpg, and the migrations that make them.

A statement is built once with `prepare` and then costs no more than its round trip (docs/decisions/0003-statements.md).
Row-level security is the second wall between chains: `protect` puts it on a table.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import asyncpg
import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.sql.compiler import SQLCompiler

from chassis.tables import chassis_tables

SCRIPTS = Path(__file__).resolve().parent / "migrations"
CHAIN_SETTING = "foyer.chain_id"
APPLICATION_ROLE = "foyer_app"
SYSTEM_ROLE = "foyer_system"
COMMAND_TIMEOUT_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 5
# Relay, consumer and every job at work hold one each, and a job needs another to work with.
SYSTEM_POOL_SIZE = 10

DIALECT = asyncpg_dialect()  # type: ignore[no-untyped-call]

_CHANGE = re.compile(
    r"\b(insert) into ([a-z_]+)|(?<!for )(?<!key )(?<!do )\b(update) (?!set\b)([a-z_]+)|\b(delete) from ([a-z_]+)"
)
_SOURCE = re.compile(r"(?<!distinct )\bfrom ([a-z_]+)\b(?! ?[.(])")
_FUNCTION = re.compile(r"\bfrom ([a-z_]+) ?\(|^select ([a-z_]+) ?\(")
_SUBQUERY = re.compile(r"\b([a-z_]+) as (?:(?:not )?materialized )?\(")

# As text: asyncpg's classes take parameters for type checkers only.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def uuid_type() -> postgresql.UUID[str]:
    """A uuid, as text in Python."""
    return postgresql.UUID(as_uuid=False)


def json_type() -> JSONB:
    """JSON, stored binary."""
    return JSONB()


def time_type() -> sa.TIMESTAMP:
    """A moment, with zone."""
    return sa.TIMESTAMP(timezone=True)


def chain_column() -> sa.Column[str]:
    """First column of every key: the chain a row belongs to."""
    return sa.Column("chain_id", uuid_type(), primary_key=True)


def id_column() -> sa.Column[str]:
    """Second column of a key: the row's own id."""
    return sa.Column("id", uuid_type(), primary_key=True)


class Prepared:
    """A statement compiled for asyncpg: SQL text, and the names of its parameters in order.

    `name` stands for it in metrics: the verb and the table, the same for all statements that do the same to a table.
    """

    __slots__ = ("defaults", "name", "names", "required", "sql")

    def __init__(
        self, sql: str, names: Iterable[str], defaults: Mapping[str, Any], required: Iterable[str], name: str = ""
    ) -> None:
        self.sql = sql
        self.name = name or name_of(sql)
        self.names = tuple(names)
        self.defaults = dict(defaults)
        self.required = frozenset(required)

    def arguments(self, given: Mapping[str, Any]) -> list[Any]:
        """Parameter values in order. Raises TypeError when one is missing or unknown."""
        defaults = self.defaults
        try:
            return [given[name] if name in given else defaults[name] for name in self.names]
        except KeyError as missing:
            raise TypeError(f"the statement needs {missing.args[0]}: {self.sql}") from None


def name_of(sql: str) -> str:
    """What a statement does to which table: `select_bookings`, `insert_outbox`; the first change in it, if any."""
    text = " ".join(sql.lower().replace('"', "").split())
    change = _CHANGE.search(text)
    if change is not None:
        return "_".join(part for part in change.groups() if part)
    tables = _SOURCE.findall(text)
    own = set(_SUBQUERY.findall(text))
    table = next((table for table in tables if table not in own), "")
    if not table and (function := _FUNCTION.search(text)):
        table = function[1] or function[2]
    return f"select_{table}" if table else "select"


def prepare(statement: sa.sql.ClauseElement) -> Prepared:
    """Compile a Core statement for asyncpg; `bindparam`s are its parameters.

    Raises ValueError for one whose text depends on its values: write `column == sa.any_(bindparam(...))`, not `in_`.
    """
    compiled = statement.compile(dialect=DIALECT)
    if not isinstance(compiled, SQLCompiler):
        raise ValueError("only queries and changes of rows can be prepared")
    sql = str(compiled)
    if "POSTCOMPILE" in sql:
        raise ValueError("in_() makes the text depend on the values; compare with any_() of an array")
    names = compiled.positiontup or []
    required = [name for name in names if compiled.binds[name].required]
    defaults = {name: compiled.binds[name].effective_value for name in names if not compiled.binds[name].required}
    return Prepared(sql, names, defaults, required)


def prepare_sql(sql: str, *names: str, name: str = "") -> Prepared:
    """A statement written as SQL with $1, $2, ...: for hot paths that Core cannot say in one round trip.

    `name`: what metrics call it, where the verb and the table do not tell enough.
    """
    return Prepared(sql, names, {}, names, name)


prepared_once = functools.cache
"""Decorates a function that builds a statement for a set of filters, so that each set is compiled once."""


async def _set_codecs(connection: Connection) -> None:
    await connection.set_type_codec("uuid", encoder=str, decoder=str, schema="pg_catalog", format="text")
    await connection.set_type_codec(
        "jsonb", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads, schema="pg_catalog"
    )


async def _no_reset(connection: Any) -> None:
    """Everything we set is local to a transaction; asking the server to reset would cost a round trip a call."""


async def open_pool(url: str, size: int, application: str) -> Pool:
    """A pool of connections with our types. Raises OSError or asyncpg.PostgresError when the server does not answer."""
    pool = asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        init=_set_codecs,
        reset=_no_reset,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        timeout=CONNECT_TIMEOUT_SECONDS,
        statement_cache_size=500,
        max_cached_statement_lifetime=0,
        max_inactive_connection_lifetime=300,
        server_settings={
            "application_name": application,
            "jit": "off",
            "timezone": "UTC",
            # Statements are few and keyed: planning the larger ones anew cost twice what running them does.
            "plan_cache_mode": "force_generic_plan",
        },
    )
    await pool
    return pool


# --- migrations ---


class Migration(Protocol):
    """What is used of `alembic.op` in a migration."""

    def execute(self, sqltext: str) -> None:
        """Run a statement."""

    def get_bind(self) -> Any:
        """The connection the migration runs on."""


def protect(op: Migration, table: str, *, system: str = "") -> None:
    """Force row-level security on a table: the application sees the chain of its transaction only.

    `system` names what the system role may do across chains, such as "select, update"; nothing when not given.
    """
    op.execute(f"alter table {table} enable row level security")
    op.execute(f"alter table {table} force row level security")
    chain = f"chain_id = nullif(current_setting('{CHAIN_SETTING}', true), '')::uuid"
    op.execute(f"create policy chain on {table} to {APPLICATION_ROLE} using ({chain}) with check ({chain})")
    op.execute(f"revoke all on {table} from {SYSTEM_ROLE}")
    if system:
        op.execute(f"grant {system} on {table} to {SYSTEM_ROLE}")
        op.execute(f"create policy everywhere on {table} to {SYSTEM_ROLE} using (true) with check (true)")


def create_tables(op: Migration, metadata: sa.MetaData, *, system: Mapping[str, str] | None = None) -> None:
    """Create all tables of a metadata and protect each; `system` maps a table to the system role's rights on it."""
    metadata.create_all(op.get_bind())
    for table in metadata.sorted_tables:
        protect(op, table.name, system=(system or {}).get(table.name, ""))


def create_chassis_tables(op: Migration) -> None:
    """Create outbox, inbox, dead letters and idempotency keys: part of every service's first migration."""
    metadata = sa.MetaData()
    chassis_tables(metadata)
    rights = {
        "outbox": "select, update",
        "inbox": "select, delete",
        "dead_letters": "select, insert, update",
        "idempotency": "select, delete",
    }
    create_tables(op, metadata, system=rights)


def append_only(op: Migration, table: str) -> None:
    """Take away the right to change or delete rows: what was written stays."""
    op.execute(f"revoke update, delete, truncate on {table} from {APPLICATION_ROLE}")


def migrations_folder(service: str) -> Path:
    """Where a service keeps its migrations."""
    return Path(__file__).resolve().parent.parent / "services" / service / "migrations"


def migrate(owner_url: str, service: str) -> None:
    """Bring a service's database to its newest migration; not from inside a running event loop.

    Raises database errors and Alembic's as they come; a migration that fails leaves the database as it was.
    """
    asyncio.run(_migrate(owner_url, service))


async def _migrate(owner_url: str, service: str) -> None:
    # Only who migrates pays for Alembic and SQLAlchemy's engine: 0.2 s and 20 MB that a service does not need.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy.ext.asyncio import create_async_engine

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("version_locations", str(migrations_folder(service) / "versions"))
    config.set_main_option("path_separator", "os")
    head = ScriptDirectory.from_config(config).get_current_head()
    url = sa.make_url(owner_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, poolclass=sa.pool.NullPool)

    def upgrade(connection: sa.Connection) -> None:
        if MigrationContext.configure(connection).get_current_revision() == head:
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    try:
        async with engine.begin() as connection:
            # Two processes that migrate at once: the second one waits, and finds nothing left to do.
            await connection.execute(sa.text("select pg_advisory_xact_lock(7311)"))
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()
