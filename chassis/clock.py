"""Time as the database tells it: processes whose own clocks differ agree all the same."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import asyncpg

MOST_TRUSTED_ROUND_TRIP_SECONDS = 1.0


class Clock:
    """The time that passes in the process, set by the database's: setting the machine's own clock changes nothing."""

    def __init__(self) -> None:
        self._offset_seconds = time.time() - time.monotonic()

    def now(self) -> datetime:
        """The time now, in UTC, with microseconds. It costs no round trip."""
        return datetime.fromtimestamp(time.monotonic() + self._offset_seconds, UTC)

    async def synchronise(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Take over the database's time; an answer that took too long is not believed."""
        before = time.monotonic()
        there: datetime = await connection.fetchval("select clock_timestamp()")
        after = time.monotonic()
        if after - before <= MOST_TRUSTED_ROUND_TRIP_SECONDS:
            self._offset_seconds = there.timestamp() - (before + after) / 2


class FrozenClock(Clock):
    """A clock that stands still until it is told to move; for tests and simulations."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self._now = now

    def now(self) -> datetime:
        """The time it was set to."""
        return self._now

    async def synchronise(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Stand still: nobody else's clock counts."""

    def advance(self, by: timedelta) -> None:
        """Move on."""
        self._now += by
