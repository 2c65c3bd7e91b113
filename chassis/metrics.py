"""Metrics: what a process counts and measures, and the small HTTP server that shows it beside its health.

Names begin with `foyer_`, the unit last. Labels are few and bounded: never a chain, a customer or an id. Asking twice
for the same metric answers the same one, so that several services can share a process.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Protocol, TypeVar

import orjson
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST

REGISTRY = CollectorRegistry()
FAST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
QUERY_SECONDS_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0)
LAG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)

LARGEST_REQUEST_BYTES = 8 * 1024
REQUEST_TIMEOUT_SECONDS = 5.0
MOST_CONNECTIONS = 32

Metric = TypeVar("Metric", Counter, Gauge, Histogram)
_known: dict[str, Counter | Gauge | Histogram] = {}

ProcessCollector(registry=REGISTRY)


class Pool(Protocol):
    """What is measured of a pool of connections; asyncpg's has it."""

    def get_size(self) -> int:
        """Connections that are open."""

    def get_idle_size(self) -> int:
        """Connections that nobody uses."""

    def get_max_size(self) -> int:
        """Connections there may be."""


def counter(name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
    """A count that only grows; `name` ends in _total."""
    return _once(Counter, name, lambda: Counter(name, documentation, labels, registry=REGISTRY))


def gauge(name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
    """A value that goes up and down."""
    return _once(Gauge, name, lambda: Gauge(name, documentation, labels, registry=REGISTRY))


def histogram(
    name: str, documentation: str, labels: Sequence[str] = (), buckets: Sequence[float] = FAST_SECONDS
) -> Histogram:
    """A distribution, in the given upper bounds."""
    return _once(Histogram, name, lambda: Histogram(name, documentation, labels, registry=REGISTRY, buckets=buckets))


def _once(kind: type[Metric], name: str, make: Callable[[], Metric]) -> Metric:
    found = _known.get(name)
    if found is None:
        found = _known[name] = make()
    if not isinstance(found, kind):
        raise TypeError(f"{name} is a {type(found).__name__} already")
    return found


RPC_SECONDS = histogram("foyer_rpc_seconds", "Time a call took, by its outcome.", ("service", "method", "code"))
UNIT_SECONDS = histogram("foyer_unit_seconds", "Time a transaction was open, by how it ended.", ("service", "outcome"))
QUERY_SECONDS = histogram(
    "foyer_query_seconds",
    "Time a statement took, by its verb and table, from sending it to having its rows.",
    ("service", "query"),
    QUERY_SECONDS_BOUNDS,
)
RETRIES = counter("foyer_unit_retries_total", "Transactions begun again after a conflict.", ("service", "reason"))
POOL_CONNECTIONS = gauge("foyer_pool_connections", "Connections to the database.", ("service", "pool", "state"))

_rpc_children: dict[tuple[str, str, str], Histogram] = {}


def observe_rpc(service: str, method: str, code: str, seconds: float) -> None:
    """Count a call that has ended; `code` is OK or the name of the refusal."""
    key = (service, method, code)
    child = _rpc_children.get(key)
    if child is None:
        child = _rpc_children[key] = RPC_SECONDS.labels(service, method, code)
    child.observe(seconds)


class DatabaseTimes:
    """Times of a service's statements and transactions; a statement's costs less than a microsecond to keep."""

    __slots__ = ("_queries", "_service", "_units")

    def __init__(self, service: str) -> None:
        self._service = service
        self._queries: dict[str, Histogram] = {}
        self._units: dict[str, Histogram] = {}

    def query(self, name: str, started: float) -> None:
        """A statement was answered; `name` is one of a few, `started` is of time.perf_counter."""
        child = self._queries.get(name)
        if child is None:
            child = self._queries[name] = QUERY_SECONDS.labels(self._service, name)
        child.observe(time.perf_counter() - started)

    def unit(self, outcome: str, started: float) -> None:
        """A transaction has ended: `committed` or `undone`."""
        child = self._units.get(outcome)
        if child is None:
            child = self._units[outcome] = UNIT_SECONDS.labels(self._service, outcome)
        child.observe(time.perf_counter() - started)


def watch_pool(service: str, name: str, pool: Pool) -> None:
    """Show the state of a pool, read whenever somebody asks for the metrics."""
    POOL_CONNECTIONS.labels(service, name, "used").set_function(lambda: pool.get_size() - pool.get_idle_size())
    POOL_CONNECTIONS.labels(service, name, "idle").set_function(pool.get_idle_size)
    POOL_CONNECTIONS.labels(service, name, "most").set_function(pool.get_max_size)


def _collections() -> float:
    return float(sum(int(generation["collections"]) for generation in gc.get_stats()))


gauge("foyer_python_collections", "Runs of the garbage collector.").set_function(_collections)


def text() -> bytes:
    """All metrics of this process in Prometheus' text format."""
    return prometheus_client.generate_latest(REGISTRY)


Health = Callable[[], Mapping[str, bool]]
"""What readiness depends on, by name: `{"database": True, "bus": False}`."""


async def serve(port: int, health: Health, host: str = "127.0.0.1") -> asyncio.Server:
    """Answer /metrics, /healthz and /readyz on a port until the answer is closed. Raises OSError when it is taken.

    /healthz says that the process runs; /readyz answers 503 and names what is missing while not all of `health` holds.
    """
    free = asyncio.Semaphore(MOST_CONNECTIONS)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with free, asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(request, health))
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, host, port, limit=LARGEST_REQUEST_BYTES, backlog=MOST_CONNECTIONS)


def _response(request: bytes, health: Health) -> bytes:
    method, _, rest = request.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    kind = "application/json"
    status = HTTPStatus.OK
    if method not in (b"GET", b"HEAD"):
        status, body = HTTPStatus.METHOD_NOT_ALLOWED, b'{"status":"method not allowed"}'
    elif path == b"/metrics":
        kind, body = CONTENT_TYPE_LATEST, text()
    elif path == b"/healthz":
        body = b'{"status":"ok"}'
    elif path == b"/readyz":
        checks = dict(health())
        ready = all(checks.values())
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        body = orjson.dumps({"status": "ok" if ready else "not ready", "checks": checks})
    else:
        status, body = HTTPStatus.NOT_FOUND, b'{"status":"not found"}'
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        "cache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else body)
