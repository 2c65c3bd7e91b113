"""A service whose machine has the wrong time: holds neither expire early nor live on."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb

import chassis.clock
from chassis.clock import Clock
from chassis.db import prepare_sql
from tests.service.bookings_shop import Shop, bookings_alone, stamp
from tools.servers import Servers

RUN_OUT = prepare_sql(
    "update bookings set expires_at = clock_timestamp() + interval '300 milliseconds'"
    " where chain_id = $1::uuid and id = $2::uuid",
    "chain_id",
    "id",
)
RUN_OUT_TIME = prepare_sql(
    "update allocations set expires_at = clock_timestamp() + interval '300 milliseconds'"
    " where chain_id = $1::uuid and booking_id = $2::uuid",
    "chain_id",
    "id",
)


def wall_clock(hours: int) -> Any:
    """The machine's own clock, so many hours off; what passes, passes all the same."""
    return SimpleNamespace(time=lambda: time.time() + hours * 3600, monotonic=time.monotonic)


@pytest.mark.parametrize("hours", [-2, 2])
async def test_holds_last_as_long_as_they_should(servers: Servers, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    monkeypatch.setattr(chassis.clock, "time", wall_clock(hours))
    async with bookings_alone(servers, f"clock{hours + 2}", Clock()) as (platform, clock):
        shop = await Shop(platform, clock).open()
        starts_at = datetime.now(UTC).replace(hour=5, minute=0, second=0, microsecond=0) + timedelta(days=3)
        held = await shop.book(starts_at, hold=True)
        lasts = held.expires_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
        assert timedelta(minutes=9, seconds=50) < lasts <= timedelta(minutes=10)
        # Somebody sets the machine's clock the other way: nothing comes early, nothing late.
        monkeypatch.setattr(chassis.clock, "time", wall_clock(-2 * hours))
        assert (await shop.refused("CreateBooking", shop.request(starts_at))).code == "SLOT_TAKEN"
        async with shop.unit() as unit:
            await unit.run(RUN_OUT, id=held.id)
            await unit.run(RUN_OUT_TIME, id=held.id)
        await asyncio.sleep(0.5)
        confirm = pb.ConfirmBookingRequest(id=held.id)
        assert (await shop.refused("ConfirmBooking", confirm)).code == "HOLD_EXPIRED"
        won = await shop.book(starts_at)
        assert won.starts_at == stamp(starts_at)
        assert await shop.check_time() == 1
