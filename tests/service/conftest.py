"""Every service in this process, against real PostgreSQL and NATS; each test has a chain of its own."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator

import pytest

from chassis.settings import SERVICES, Settings
from chassis.testing import Platform
from tools.servers import Servers


@pytest.fixture(scope="session")
def settings(servers: Servers) -> Settings:
    """Settings of the platform under test."""
    return Settings.from_environment(servers.environ)


@pytest.fixture(scope="session")
async def platform(settings: Settings) -> AsyncIterator[Platform]:
    """All services, running."""
    services = [importlib.import_module(f"services.{name}.service").SERVICE for name in SERVICES]
    async with Platform.start(settings, services) as started:
        yield started
