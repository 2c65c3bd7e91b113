"""What all tests share: real servers, started once for each test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import protos
from tools import running as running_platform
from tools import servers as test_servers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long versions of fault tests")


def pytest_configure(config: pytest.Config) -> None:
    protos.generate()


@pytest.fixture(scope="session")
def servers() -> Iterator[test_servers.Servers]:
    """PostgreSQL and NATS with the platform's roles and migrated databases."""
    from tools import migrate

    running = test_servers.start()
    try:
        migrate.migrate_all(running.environ["FOYER_OWNER_DATABASE_URL"])
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def platform() -> Iterator[running_platform.Running]:
    """The whole platform as `make up` runs it, with demo data, shared by all tests of this process."""
    started = running_platform.start()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def long_run(pytestconfig: pytest.Config) -> bool:
    """Whether the long version was asked for: `make fault`."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return protos.ROOT
