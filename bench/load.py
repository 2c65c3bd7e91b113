"""A bounded load generator: keep-alive HTTP/1.1 connections that send ready-made requests and time the answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_REQUESTS = 100_000


@dataclass
class Result:
    """What came back: seconds a request, sorted, and how often each status."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    elapsed_seconds: float = 0.0

    def percentile_ms(self, share: float) -> float:
        return 1000 * self.seconds[min(int(len(self.seconds) * share), len(self.seconds) - 1)]


def request(method: str, path: str, key: str, body: bytes = b"", **headers: str) -> bytes:
    """A request as the bytes that are sent."""
    lines = [f"{method} {path} HTTP/1.1", "host: bench", f"authorization: Bearer {key}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection:
    """A keep-alive connection: one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, content: bytes) -> tuple[int, bytes]:
        """Send a request; answers status and body."""
        self._writer.write(content)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 : lower.index(b"\r\n", at)]) if at >= 0 else 0
        body = await self._reader.readexactly(length) if length else b""
        return int(head[9:12]), body

    def close(self) -> None:
        self._writer.close()


async def send(port: int, requests: Sequence[bytes], connections: int) -> Result:
    """Send all requests over some connections, each as soon as the one before is answered."""
    assert len(requests) <= MOST_REQUESTS
    result = Result()
    waiting = iter(requests)

    async def work() -> None:
        connection = await Connection.open(port)
        try:
            for content in waiting:
                started = time.perf_counter()
                status, _ = await connection.send(content)
                result.seconds.append(time.perf_counter() - started)
                result.statuses[status] += 1
        finally:
            connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    result.elapsed_seconds = time.perf_counter() - started
    result.seconds.sort()
    return result
