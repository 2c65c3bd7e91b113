"""GET /v1/events: a chain's events as server-sent events, resumed with Last-Event-ID."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from chassis import codec
from chassis.bus import Event
from chassis.errors import FieldError, Refusal, invalid
from chassis.ids import time_of
from gateway import contract, events
from gateway.auth import Credential, bearer
from gateway.core import Gateway, exchange_of
from gateway.exchange import Exchange, Receive, Scope, Send
from gateway.transcode import read_query

HEARTBEAT_SECONDS = 15.0
RECONNECT_MILLISECONDS = 2000
SEND_TIMEOUT_SECONDS = 30.0
PARAMETERS = {"types": (str, True), "last_event_id": (str, False)}

router = APIRouter()


@router.get("/v1/events", include_in_schema=False)
async def stream_events(request: Request) -> Response:
    """Follow the chain's events."""
    gateway: Gateway = request.app
    exchange = exchange_of(request)
    credential = await gateway.credential(exchange)
    if not credential.caller.may(events.PERMISSION) or not credential.caller.chain_id:
        raise Refusal("PERMISSION_DENIED", permission=events.PERMISSION)
    types, last_id = _wanted(exchange)
    bus = await gateway.bus()
    try:
        # Before the answer begins: what happens after it has begun is in the stream.
        start = await events.place(bus, credential.caller.chain_id, last_id)
    except events.TROUBLE:
        raise Refusal("UNAVAILABLE") from None
    follow = events.follow(bus, credential.caller.chain_id, types, start, last_id)
    return EventStream(gateway, exchange, credential, follow)


def _wanted(exchange: Exchange) -> tuple[list[str], str | None]:
    """Types and last id that were asked for. Raises Refusal INVALID_REQUEST."""
    errors: list[FieldError] = []
    query = read_query(exchange.scope["query_string"], PARAMETERS, errors)
    types = [name.strip() for text in query.get("types", []) for name in text.split(",") if name.strip()]
    known = contract.events()
    for name in dict.fromkeys(types):
        if name not in known:
            names = ", ".join(known)
            errors.append(
                FieldError(
                    "types",
                    "enum",
                    f"{name} is not an event; known are: {names}",
                    f"未知事件 {name}；可用事件：{names}",
                )
            )
    last_id = exchange.header(b"last-event-id") or query.get("last_event_id") or None
    if last_id is not None:
        try:
            time_of(last_id)
        except ValueError:
            field = "Last-Event-ID" if exchange.header(b"last-event-id") else "last_event_id"
            errors.append(FieldError(field, "id", "must be the id of an event", "应为事件编号"))
    if errors:
        raise invalid(*errors)
    return list(dict.fromkeys(types)), last_id


class EventStream(Response):
    """An answer that goes on until the caller hangs up, may no longer see events, or the process stops."""

    def __init__(
        self,
        gateway: Gateway,
        exchange: Exchange,
        credential: Credential,
        follow: AsyncGenerator[Event | None, None],
    ) -> None:
        super().__init__()
        self._gateway = gateway
        self._exchange = exchange
        self._credential = credential
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Answer (ASGI)."""
        streams = self._gateway.streams
        streams.enter(self._credential.id)
        tasks = [
            asyncio.create_task(self._send_all(send)),
            asyncio.create_task(self._exchange.gone()),
            asyncio.create_task(streams.stopping.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            streams.leave(self._credential.id)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not tasks[1].done() or tasks[1].cancelled():
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await send({"type": "http.response.body", "body": b""})

    async def _send_all(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _send(send, f"retry: {RECONNECT_MILLISECONDS}\n\n".encode())
        loop = asyncio.get_running_loop()
        spoken_at = loop.time()
        async with aclosing(self._follow) as follow:
            async for event in follow:
                frame = _frame(event, self._credential) if event is not None else None
                if frame is not None:
                    await _send(send, frame)
                    spoken_at = loop.time()
                elif loop.time() - spoken_at >= HEARTBEAT_SECONDS:
                    await _send(send, b": still here\n\n")
                    spoken_at = loop.time()
                if not await self._may_still():
                    return

    async def _may_still(self) -> bool:
        """Whether the credential still holds: it may have expired, or been revoked, while the stream was open."""
        secret = bearer(self._exchange.header(b"authorization"))
        if secret is None:
            return False
        authenticator = self._gateway.authenticator
        try:
            self._credential = authenticator.known(secret) or await authenticator.check(secret)
        except Refusal as refusal:
            return refusal.code == "UNAVAILABLE"
        return self._credential.caller.may(events.PERMISSION)


def _frame(event: Event, credential: Credential) -> bytes | None:
    """An event as it is sent; None when the caller may not see it."""
    document: dict[str, Any] | None = events.cloud_event(event, credential.caller)
    if document is None:
        return None
    return b"id: " + event.id.encode() + b"\ndata: " + codec.dumps(document) + b"\n\n"


async def _send(send: Send, data: bytes) -> None:
    """Send; who takes nothing for too long is let go. Raises TimeoutError."""
    async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
        await send({"type": "http.response.body", "body": data, "more_body": True})


__all__ = ["EventStream", "router"]
