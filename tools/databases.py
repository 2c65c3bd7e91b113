"""What the platform needs inside a PostgreSQL server: three roles, and a database for each service.

`foyer_owner` owns the schemas and migrates, `foyer_app` is what services work as, `foyer_system` relays events and runs
jobs across chains. The latter two own nothing and do not bypass row-level security.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from chassis.settings import SERVICES

OWNER, APPLICATION, SYSTEM = "foyer_owner", "foyer_app", "foyer_system"
DATABASE = "foyer_{service}"
EXTENSIONS = ("btree_gist", "pg_trgm")
LIMITS = {
    OWNER: {},
    APPLICATION: {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"},
    SYSTEM: {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"},
}
# Rights on what migrations create later; a migration takes back what a table must not allow (entries are only added).
RIGHTS = f"""
revoke create on schema public from public;
grant usage on schema public to {APPLICATION}, {SYSTEM};
alter default privileges in schema public grant select, insert, update, delete on tables to {APPLICATION}, {SYSTEM};
alter default privileges in schema public grant usage, select on sequences to {APPLICATION}, {SYSTEM};
"""


class DatabaseError(Exception):
    """The server cannot be prepared; the text says why."""


def url(admin_url: str, role: str, password: str, database: str = DATABASE) -> str:
    """URL of a database on the admin's server for a role; the default name keeps its `{service}`."""
    parts = urlsplit(admin_url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, f"{role}:{quote(password, safe='')}@{host}", f"/{database}", parts.query, ""))


async def ensure_roles(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Make the roles, with these passwords by role, where they are missing."""
    async with _Session(admin_url) as connection:
        existing = {row["rolname"] for row in await connection.fetch("select rolname from pg_roles")}
        for role in (OWNER, APPLICATION, SYSTEM):
            verb = "alter" if role in existing else "create"
            # A role's password cannot be a parameter; token_urlsafe and the quoting keep it a literal.
            secret = passwords[role].replace("'", "''")
            await connection.execute(f"{verb} role {role} login nocreatedb nocreaterole password '{secret}'")
            for name, value in LIMITS[role].items():
                await connection.execute(f"alter role {role} set {name} = '{value}'")
        me = await connection.fetchrow(
            "select current_user as name, rolsuper from pg_roles where rolname = current_user"
        )
        if me is not None and not me["rolsuper"]:
            await connection.execute(f'grant {OWNER} to "{me["name"]}"')


async def ensure_databases(
    admin_url: str, passwords: Mapping[str, str], services: Iterable[str] = SERVICES, database: str = DATABASE
) -> None:
    """Make the databases that are missing, named by the template `database`, with extensions and rights."""
    async with _Session(admin_url) as connection:
        existing = {row["datname"] for row in await connection.fetch("select datname from pg_database")}
        names = [database.replace("{service}", service) for service in services]
        for name in names:
            if name not in existing:
                await connection.execute(f'create database "{name}" owner {OWNER} template template0')
                await connection.execute(f'revoke all on database "{name}" from public')
                await connection.execute(f'grant connect on database "{name}" to {APPLICATION}, {SYSTEM}')
    await asyncio.gather(*(_prepare(url(admin_url, OWNER, passwords[OWNER], name)) for name in names))


async def drop_databases(admin_url: str, services: Iterable[str] = SERVICES, database: str = DATABASE) -> None:
    """Delete databases of this template with all in them, sessions or not."""
    async with _Session(admin_url) as connection:
        for service in services:
            name = database.replace("{service}", service)
            await connection.execute(f'drop database if exists "{name}" with (force)')


async def _prepare(owner_url: str) -> None:
    """Extensions and rights of one database; the owner may create both, for the extensions are trusted ones."""
    async with _Session(owner_url) as connection:
        for extension in EXTENSIONS:
            await connection.execute(f"create extension if not exists {extension}")
        await connection.execute(RIGHTS)


class _Session:
    """A connection for the length of a block, with errors told in words."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url

    async def __aenter__(self) -> asyncpg.Connection[asyncpg.Record]:
        parts = urlsplit(self.database_url)
        place = f"{parts.hostname}:{parts.port or 5432}{parts.path} as {parts.username}"
        try:
            self.connection = await asyncpg.connect(self.database_url, timeout=10, command_timeout=60)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as problem:
            raise DatabaseError(f"cannot reach PostgreSQL at {place}: {problem}") from problem
        # Notices say that something is there already, which is what "ensure" means.
        self.connection.add_log_listener(lambda _connection, _message: None)
        return self.connection

    async def __aexit__(self, kind: object, problem: object, trace: object) -> None:
        await self.connection.close(timeout=5)
        if isinstance(problem, asyncpg.PostgresError):
            raise DatabaseError(f"preparing PostgreSQL failed: {problem}") from problem
