"""A request's head has a limit, and a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn

from gateway import protocol


async def answer(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_SECONDS", 0.5)
    config = uvicorn.Config(
        answer, host="127.0.0.1", port=0, http=protocol.BoundedProtocol, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def ask(port: int, *parts: bytes, pause_seconds: float = 0.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_seconds)
        async with asyncio.timeout(5):
            return await reader.read(4096)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_ordinary_requests_are_answered(port: int) -> None:
    head = b"GET / HTTP/1.1\r\nhost: x\r\n"
    assert (await ask(port, head + b"\r\n")).startswith(b"HTTP/1.1 200")
    assert (await ask(port, head, b"accept: */*\r\n\r\n", pause_seconds=0.2)).startswith(b"HTTP/1.1 200")
    body = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\n" + b"x" * 400_000
    assert (await ask(port, body)).startswith(b"HTTP/1.1 200")


async def test_a_connection_may_wait_between_requests(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.8)
    writer.close()


async def test_a_head_without_end_is_cut_off(port: int) -> None:
    assert await ask(port, b"GET / HTTP/1.1\r\nx: ", *([b"y" * 50_000] * 10)) == b""


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n"])
async def test_who_says_too_little_is_cut_off(port: int, start: bytes) -> None:
    assert await ask(port, start) == b""
