"""`make race`: attempts of all kinds at the same few people, rooms and seats, on a platform of its own."""

from __future__ import annotations

import argparse
import asyncio
import random
import time

from tests.race.arena import open_arena
from tests.race.referee import judge
from tests.race.runners import Race
from tools import running

MOST_ATTEMPTS = 1_000_000
HOLD_MINUTES = 1


async def main(attempts: int, connections: int, seed: int) -> int:
    """Run the race and print the verdict; answers a process exit code."""
    platform = running.start()
    try:
        arena = await open_arena(platform, hold_minutes=HOLD_MINUTES)
        started = time.monotonic()

        def tell(done: int) -> None:
            if done % 10_000 == 0:
                print(f"{done:,} of {attempts:,} attempts, {done / (time.monotonic() - started):.0f}/s", flush=True)

        race = Race(arena, attempts, random.Random(seed))
        verdict = await race.run(connections, tell)
        await judge(arena, verdict)
        print(verdict.text())
        print("clean" if verdict.is_clean else "NOT CLEAN")
        return 0 if verdict.is_clean else 1
    finally:
        platform.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    raise SystemExit(asyncio.run(main(min(options.attempts, MOST_ATTEMPTS), options.connections, options.seed)))
