"""The race suite in small, through the gateway: `make race` runs 100,000 attempts."""

from __future__ import annotations

import random

import pytest

from tests.race.arena import open_arena
from tests.race.referee import judge
from tests.race.runners import Race
from tools.running import Running

ATTEMPTS, LONG_ATTEMPTS = 1_500, 20_000
CONNECTIONS = 32
HOLD_MINUTES = 10


@pytest.mark.timeout(900)
async def test_nothing_is_sold_twice_and_nothing_is_lost(platform: Running, long_run: bool) -> None:
    arena = await open_arena(platform, hold_minutes=HOLD_MINUTES)
    race = Race(arena, LONG_ATTEMPTS if long_run else ATTEMPTS, random.Random(7))
    verdict = await race.run(CONNECTIONS)
    await judge(arena, verdict)
    assert verdict.is_clean, verdict.text()
    assert verdict.wins > ATTEMPTS // 20
    assert verdict.refusals["SLOT_TAKEN"] > 0
