"""A service as a process: settings, database, bus, server, jobs, metrics, health, and an orderly end.

Service       what a service is made of, declared once
Context       what its methods, handlers and jobs may use
Application   a service that runs; several may share a process
run           the whole process
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import grpc
import uvloop
from foyer.common.v1 import common_pb2
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from chassis import housekeeping, logs, metrics, tracing
from chassis.access import AccessTokens, Caller, CallerTokens
from chassis.bus import Bus
from chassis.client import Clients
from chassis.clock import Clock
from chassis.db import SYSTEM_POOL_SIZE, open_pool
from chassis.deadletters import DeadLetters
from chassis.errors import register
from chassis.inbox import Consumer, Subscriptions
from chassis.jetstream import JetStreamBus
from chassis.memory import settle
from chassis.outbox import Relay
from chassis.projections import Fetcher, Projections
from chassis.rpc import Runner, generic_handler, is_unavailable
from chassis.settings import Settings, SettingsError
from chassis.unit import Store

SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
MOST_CONCURRENT_CALLS = 256
START_ATTEMPTS = 120
START_PAUSE_SECONDS = 0.5
DRAIN_SECONDS = 5.0
CLOCK_SECONDS = 10.0
# Each holds a connection of the system pool and needs another to work with: all of them at once would wait for ever.
MOST_JOBS_AT_WORK = 3
RESTART_SECONDS = (0.2, 5.0)
CLOSE_SECONDS = 3.0
CANCEL_ATTEMPTS = 5
CANCEL_SECONDS = 1.0
NEEDS = ("secret", "database_url", "system_database_url", "service_address")

log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """Work done again and again, by one replica at a time; `context.wake(name)` does it at once."""

    name: str
    run: Callable[[Context], Awaitable[None]]
    every_seconds: float


@dataclass(frozen=True, slots=True)
class Service:
    """What a service is made of."""

    name: str
    servicers: Sequence[tuple[ServiceDescriptor, Callable[[Context], object]]]
    """The gRPC services it serves, one a proto file, each with what makes its servicer."""
    subscriptions: Subscriptions
    fetchers: Mapping[str, Fetcher] = field(default_factory=dict)
    jobs: Sequence[Job] = ()


async def _forget(context: Context) -> None:
    await housekeeping.forget(context.system_store.pool)


HOUSEKEEPING = Job("forget", _forget, housekeeping.EVERY_SECONDS)


class Context:
    """What a service's methods, handlers and jobs may use."""

    def __init__(
        self, name: str, settings: Settings, clock: Clock, store: Store, system_store: Store, bus: Bus
    ) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.store = store
        """The service's database as the application role: one chain at a time."""
        self.system_store = system_store
        """The same as the system role: across chains, where a policy allows it."""
        self.bus = bus
        self.caller_tokens = CallerTokens(settings.secret)
        self.access_tokens = AccessTokens(settings.secret)
        self.clients = Clients(settings, self.caller_tokens)
        self._bells: dict[str, asyncio.Event] = {}

    def bell(self, job: str) -> asyncio.Event:
        """The event that wakes a job."""
        return self._bells.setdefault(job, asyncio.Event())

    def wake(self, job: str) -> None:
        """Have a job run at once."""
        self.bell(job).set()


class Application:
    """A service that runs in this process."""

    def __init__(
        self, service: Service, settings: Settings, *, bus: Bus | None = None, clock: Clock | None = None
    ) -> None:
        self.service = service
        self.settings = settings
        self._bus = bus or JetStreamBus(
            settings.nats_url, name=f"foyer-{service.name}", replicas=settings.nats_replicas
        )
        self._own_bus = bus is None
        self._clock = clock or Clock()
        self._tasks: list[asyncio.Task[None]] = []
        self._at_work = asyncio.Semaphore(MOST_JOBS_AT_WORK)
        self._health = health.aio.HealthServicer()
        self._database_ok = False
        self._serving = False

    async def start(self) -> None:
        """Connect, serve, relay and consume. Raises OSError or asyncpg errors when the database stays away."""
        settings, name = self.settings, self.service.name
        register(*(descriptor.file for descriptor, _ in self.service.servicers))
        self._pool = await _patiently(
            lambda: open_pool(settings.database_url_of(name), settings.database_pool_size, f"foyer-{name}")
        )
        self._system_pool = await _patiently(
            lambda: open_pool(settings.system_database_url_of(name), SYSTEM_POOL_SIZE, f"foyer-{name}-system")
        )
        metrics.watch_pool(name, "application", self._pool)
        metrics.watch_pool(name, "system", self._system_pool)
        self._database_ok = True
        await self._synchronise()
        self.relay = Relay(self._system_pool, self._bus, name)
        store = Store(self._pool, self._clock, self.relay.wake, name)
        system_store = Store(self._system_pool, self._clock, self.relay.wake, name)
        self.context = Context(name, settings, self._clock, store, system_store, self._bus)
        self.projections = Projections(name, store, self.service.fetchers)
        self.projections.context = self.context
        self.consumer = Consumer(name, self.service.subscriptions, self._bus, self.context, self.projections)
        await self._serve(Runner(name, store, self.projections))
        self._spawn("clock", self._keep_time)
        if self._own_bus:
            self._spawn("bus", self._connect_bus)
        self._spawn("relay", self.relay.run)
        if self.service.subscriptions.subjects:
            self._spawn("consumer", self.consumer.run)
        for job in (*self.service.jobs, HOUSEKEEPING):
            self._spawn(f"job {job.name}", lambda job=job: self._repeat(job))  # type: ignore[misc]
        self._serving = True
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def _serve(self, runner: Runner) -> None:
        name, context = self.service.name, self.context
        operations = common_pb2.DESCRIPTOR.services_by_name["Operations"]
        server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=MOST_CONCURRENT_CALLS)
        served = [(descriptor, make(context)) for descriptor, make in self.service.servicers]
        served.append((operations, DeadLetters(context, self.consumer)))
        server.add_generic_rpc_handlers(
            tuple(
                generic_handler(descriptor, servicer, name, runner, context.caller_tokens)
                for descriptor, servicer in served
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*(descriptor.full_name for descriptor, _ in served), health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        server.add_insecure_port(self.settings.service_address_of(name))
        await server.start()
        self.server = server

    def health(self) -> dict[str, bool]:
        """What readiness depends on."""
        return {"serving": self._serving, "database": self._database_ok, "bus": self._bus.connected}

    async def stop(self) -> None:
        """Take no more calls, finish those under way, hand over what can be handed over, and let go."""
        self._serving = False
        with suppress(AttributeError):
            await self._health.enter_graceful_shutdown()
            await self.server.stop(DRAIN_SECONDS)
        await _cancel(self._tasks)
        with suppress(TimeoutError, AttributeError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.context.clients.close()
                if self._own_bus:
                    await self._bus.close()
        for pool in (getattr(self, "_pool", None), getattr(self, "_system_pool", None)):
            if pool is not None:
                try:
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await pool.close()
                except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    pool.terminate()

    # --- tasks ---

    def _spawn(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.create_task(self._keep_running(name, run), name=f"{self.service.name}: {name}"))

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a task for as long as the process lives; what breaks it is told, and it begins again after a pause."""
        pause = RESTART_SECONDS[0]
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await run()
                return
            except asyncio.CancelledError:
                raise
            except Exception as problem:  # a task that dies silently would be worse
                if is_unavailable(problem) or isinstance(problem, TimeoutError):
                    log.warning("task interrupted", task=name, problem=repr(problem)[:300])
                else:
                    log.error("task failed", task=name, exc_info=problem)
            if asyncio.get_running_loop().time() - started > 2 * RESTART_SECONDS[1]:
                pause = RESTART_SECONDS[0]
            await asyncio.sleep(pause)
            pause = min(pause * 2, RESTART_SECONDS[1])

    async def _connect_bus(self) -> None:
        await self._bus.connect()

    async def _synchronise(self) -> None:
        async with self._system_pool.acquire(timeout=CLOSE_SECONDS) as connection:
            await self._clock.synchronise(connection)

    async def _keep_time(self) -> None:
        while True:
            try:
                await self._synchronise()
                self._database_ok = True
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                self._database_ok = False
            await asyncio.sleep(CLOCK_SECONDS if self._database_ok else START_PAUSE_SECONDS)

    async def _repeat(self, job: Job) -> None:
        bell = self.context.bell(job.name)
        while True:
            async with self._at_work, self._system_pool.acquire(timeout=CLOSE_SECONDS) as connection:
                if await connection.fetchval("select pg_try_advisory_lock(hashtext($1))", f"job:{job.name}"):
                    try:
                        with tracing.span(f"job {job.name}"):
                            await job.run(self.context)
                    finally:
                        await connection.execute("select pg_advisory_unlock(hashtext($1))", f"job:{job.name}")
            with suppress(TimeoutError):
                async with asyncio.timeout(job.every_seconds):
                    await bell.wait()
            bell.clear()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End tasks. A cancellation may be swallowed (asyncio.wait_for before Python 3.12), so it is repeated."""
    waiting = set(tasks)
    for _ in range(CANCEL_ATTEMPTS):
        if not waiting:
            return
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=CANCEL_SECONDS)


async def _patiently(connect: Callable[[], Awaitable[Any]]) -> Any:
    """Connect to a database that may be starting; gives up after a minute."""
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            return await connect()
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
            if attempt == START_ATTEMPTS:
                raise
            await asyncio.sleep(START_PAUSE_SECONDS)
    raise AssertionError("unreachable")


async def _main(service: Service, settings: Settings) -> None:
    application = Application(service, settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await metrics.serve(settings.metrics_port, application.health) if settings.metrics_port else None
    try:
        await application.start()
        settle()
        log.info("ready", address=settings.service_address_of(service.name))
        await stop.wait()
        log.info("stopping")
    finally:
        await application.stop()
        if server is not None:
            server.close()
        await asyncio.to_thread(tracing.stop_exporting)


def run(service: Service) -> None:
    """Run a service as this process, until SIGTERM or SIGINT."""
    try:
        settings = Settings.from_environment(os.environ, needs=NEEDS)
    except SettingsError as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(2) from None
    logs.configure(service.name, settings.log_level, settings.log_format)
    tracing.export_to(settings.otlp_endpoint, f"foyer-{service.name}")
    uvloop.run(_main(service, settings))


__all__ = ["Application", "Caller", "Context", "Job", "Service", "run"]
