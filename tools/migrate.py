"""Brings every service's database to the newest migration, as the owner of the schemas: `python -m tools.migrate`."""

from __future__ import annotations

import os
import sys
import time

from chassis.db import migrate
from chassis.settings import SERVICES, Settings, SettingsError


def migrate_all(owner_url: str, services: tuple[str, ...] = SERVICES) -> None:
    """Migrate the databases of these services; `owner_url` holds `{service}` where their names differ."""
    for service in services:
        migrate(owner_url.replace("{service}", service), service)


def main() -> int:
    """Migrate what FOYER_OWNER_DATABASE_URL names; answers a process exit code."""
    try:
        settings = Settings.from_environment(os.environ, needs=("owner_database_url",))
    except SettingsError as problem:
        print(problem, file=sys.stderr)
        return 2
    started = time.monotonic()
    migrate_all(settings.owner_database_url)
    print(f"migrations: {len(SERVICES)} databases are current after {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
