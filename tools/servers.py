"""PostgreSQL and NATS for tests: started on free ports in a folder of their own, with roles and databases, and removed.

`running.py` starts the whole platform.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import tempfile
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from chassis.settings import PREFIX, SERVICES
from tools import databases, nats, postgres
from tools.home import ROLES

ATTEMPTS = 3


@dataclass(slots=True)
class Servers:
    """A running pair. `environ` holds the FOYER_* settings that point to it."""

    directory: Path
    postgres: postgres.PostgresServer
    nats: nats.NatsServer
    passwords: dict[str, str] = field(repr=False)
    environ: dict[str, str] = field(repr=False)

    def make_databases(self, database: str, services: Iterable[str] = SERVICES) -> dict[str, str]:
        """Make further empty databases named by a template such as `fresh_{service}`; answers an environ for them."""
        admin = self.postgres.admin_url
        _wait_for(databases.ensure_databases(admin, self.passwords, services, database))
        return {**self.environ, **_urls(admin, self.passwords, database)}

    def drop_databases(self, database: str, services: Iterable[str] = SERVICES) -> None:
        """Delete databases of a template."""
        _wait_for(databases.drop_databases(self.postgres.admin_url, services, database))

    def stop(self) -> None:
        """Stop both and delete their data."""
        self.nats.stop()
        self.postgres.remove()
        shutil.rmtree(self.directory, ignore_errors=True)


def start(*, services: Iterable[str] = SERVICES) -> Servers:
    """Start a pair with the platform's roles and empty databases, nothing synced to disk.

    Call it from the main thread: the servers end with the thread that started them. Migrations are the caller's:
    `tools.migrate.migrate_all(servers.environ["FOYER_OWNER_DATABASE_URL"])`.
    """
    directory = temporary_folder()
    passwords = {name: secrets.token_urlsafe(16) for name in ("postgres", "nats", *ROLES)}
    for attempt in range(ATTEMPTS):
        # Another program may take a free port before the server does.
        try:
            port, bus_port, monitor_port, mail_port = free_ports(4)
            database = postgres.start(directory / "postgres", port, passwords["postgres"], durable=False)
            bus = nats.start(directory / "nats", bus_port, monitor_port, passwords["nats"])
            break
        except (postgres.PostgresError, nats.NatsError):
            if attempt == ATTEMPTS - 1:
                raise
    admin = database.admin_url
    _wait_for(databases.ensure_roles(admin, passwords))
    _wait_for(databases.ensure_databases(admin, passwords, services))
    environ = {
        f"{PREFIX}HOME": str(directory),
        f"{PREFIX}SECRET": secrets.token_hex(32),
        f"{PREFIX}NATS_URL": bus.url,
        f"{PREFIX}SMTP_URL": f"smtp://127.0.0.1:{mail_port}",
        f"{PREFIX}SERVICE_ADDRESS": f"unix:{directory}/{{service}}.sock",
        **_urls(admin, passwords, databases.DATABASE),
    }
    return Servers(directory, database, bus, passwords, environ)


def temporary_folder() -> Path:
    """A new folder that the user of PostgreSQL can enter when we are root."""
    directory = Path(tempfile.mkdtemp(prefix="foyer-"))
    directory.chmod(0o711)
    return directory


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _urls(admin_url: str, passwords: dict[str, str], database: str) -> dict[str, str]:
    roles = {"DATABASE": databases.APPLICATION, "SYSTEM_DATABASE": databases.SYSTEM, "OWNER_DATABASE": databases.OWNER}
    return {
        f"{PREFIX}{name}_URL": databases.url(admin_url, role, passwords[role], database) for name, role in roles.items()
    }


def _wait_for(work: Coroutine[object, object, None]) -> None:
    """Run it in an event loop of its own, whether or not this thread has one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
