"""Twenty writers, relays and NATS killed all the while: nothing is lost, and nothing is out of order.

Relays run as processes of their own, so that they can be killed as a machine kills them. What the stream delivers is
kept by a consumer of this process, which is cut off now and then as well.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from foyer.bookings.v1.bookings_pb2 import BookingCancelled

from chassis.inbox import Consumer, EventMeta, Subscriptions
from chassis.jetstream import JetStreamBus
from chassis.unit import Unit
from tests.eventing import SERVICE, Database, cancelled, keep, new_chain, open_database, running, until
from tools import nats
from tools import servers as test_servers

WRITERS = 20
THINGS_OF_EACH = 6
RELAYS = 3
SEED = 4711
RELAY = """
import asyncio, sys
from chassis.db import open_pool
from chassis.jetstream import JetStreamBus
from chassis.outbox import Relay

async def main(database_url, nats_url):
    bus = JetStreamBus(nats_url)
    await bus.connect()
    await Relay(await open_pool(database_url, 2, "relay"), bus, "bookings").run()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def event_servers() -> Iterator[test_servers.Servers]:
    started = test_servers.start(services=())
    try:
        yield started
    finally:
        started.stop()


class Relays:
    """Relay processes, killed and started again at random."""

    def __init__(self, database: Database, nats_url: str) -> None:
        url = database.environ["FOYER_SYSTEM_DATABASE_URL"].replace("{service}", SERVICE)
        self.command = [sys.executable, "-c", RELAY, url, nats_url]
        self.processes: list[asyncio.subprocess.Process] = []
        self.kills = 0

    async def start(self) -> None:
        self.processes.append(await asyncio.create_subprocess_exec(*self.command, cwd=Path(__file__).parents[2]))

    async def kill_one(self, chance: random.Random) -> None:
        process = self.processes.pop(chance.randrange(len(self.processes)))
        process.send_signal(signal.SIGKILL)
        await process.wait()
        self.kills += 1

    async def stop(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def write(database: Database, chain_id: str, writer: int, seconds: float) -> dict[str, int]:
    """Change some things again and again; answers the last version of each that was committed."""
    chance = random.Random(SEED + writer)
    loop = asyncio.get_running_loop()
    until_time = loop.time() + seconds
    versions: dict[str, int] = {}
    while loop.time() < until_time:
        events = []
        for thing in chance.sample(range(THINGS_OF_EACH), 2):
            name = f"{writer}-{thing}"
            versions[name] = versions.get(name, 0) + 1
            events.append(cancelled(name, versions[name]))
        await database.emit(chain_id, events)
        await asyncio.sleep(chance.random() * 0.04)
    return versions


def restart_nats(servers: test_servers.Servers, *, empty: bool) -> None:
    """Kill NATS as a machine does and start it again, its store deleted or not."""
    old = servers.nats
    os.kill(old.process.pid, signal.SIGKILL)
    old.process.wait()
    if empty:
        shutil.rmtree(old.directory / "store")
    servers.nats = nats.start(old.directory, old.port, old.monitor_port, old.password)


@pytest.mark.timeout(600)
async def test_no_event_is_lost_or_out_of_order(event_servers: test_servers.Servers, long_run: bool) -> None:
    seconds = 120.0 if long_run else 8.0
    chance = random.Random(SEED)
    on = Subscriptions()

    @on(BookingCancelled)
    async def keep_one(event: BookingCancelled, meta: EventMeta, unit: Unit) -> None:
        await keep(event, meta.id, unit)

    chain_id = new_chain()
    async with open_database(event_servers) as database:
        bus = JetStreamBus(event_servers.nats.url)
        assert await bus.connect()
        relays = Relays(database, event_servers.nats.url)
        consumer = Consumer(SERVICE, on, bus, database, database.projections)
        try:
            async with running(consumer.run):
                for _ in range(RELAYS):
                    await relays.start()
                writing = asyncio.gather(*(write(database, chain_id, n, seconds) for n in range(WRITERS)))
                rounds = 0
                while not writing.done():
                    await asyncio.wait([writing], timeout=1.3)
                    await relays.kill_one(chance)
                    await relays.start()
                    rounds += 1
                    if rounds % 3 == 2:
                        # PDEATHSIG: the server must be started from the thread that lives on, which is this one.
                        restart_nats(event_servers, empty=rounds % 2 == 1)
                versions: dict[str, int] = {}
                for found in await writing:
                    versions |= found
                wanted = {name: list(range(1, last + 1)) for name, last in versions.items()}
                count = sum(map(len, wanted.values()))

                async def all_there() -> bool:
                    # Counted there, and not too often: this process has the consumer to run as well.
                    await asyncio.sleep(0.2)
                    return await database.effect_count(chain_id) >= count

                await until(all_there, 240 if long_run else 60)
        finally:
            await relays.stop()
            await bus.close()
        kept: dict[str, list[int]] = {}
        for name, version in await database.effects(chain_id):
            kept.setdefault(name, []).append(version)
        assert relays.kills >= 4
        assert kept == wanted
        assert not await database.system_pool.fetchval("select count(*) from dead_letters")
