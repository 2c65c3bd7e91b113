"""Calls to other services: a deadline always, retries for reads only, one channel each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from chassis import tracing
from chassis.access import CALLER_METADATA, Caller, CallerTokens
from chassis.errors import Refusal, from_call
from chassis.settings import Settings

DEADLINE_SECONDS = 3.0
READ_ATTEMPTS = 3
BACK_OFF_SECONDS = 0.05

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Measuring the line with pings costs more than it gains on one machine or in one data centre.
    ("grpc.http2.bdp_probe", 0),
    # Retries are ours: a policy of the channel would repeat writes.
    ("grpc.enable_retries", 0),
    # One cluster-wide answer to "which replica": by name, in turn.
    ("grpc.lb_policy_name", "round_robin"),
]

Answer = TypeVar("Answer", bound=Message)


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to a service, with the platform's options."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


class Clients:
    """Channels to the other services, opened when first needed."""

    def __init__(self, settings: Settings, tokens: CallerTokens) -> None:
        self._settings = settings
        self._tokens = tokens
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, service: str) -> grpc.aio.Channel:
        """The channel to a service."""
        channel = self._channels.get(service)
        if channel is None:
            channel = self._channels[service] = open_channel(self._settings.service_address_of(service))
        return channel

    async def read(
        self,
        service: str,
        stub: Callable[[grpc.aio.Channel], Any],
        method: str,
        request: Message,
        *,
        caller: Caller,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> Any:
        """Call a method that changes nothing; tried again while the service is away. Raises Refusal."""
        call = getattr(stub(self.channel(service)), method)
        return await read(call, request, self._metadata(caller), deadline_seconds)

    async def write(
        self,
        service: str,
        stub: Callable[[grpc.aio.Channel], Any],
        method: str,
        request: Message,
        *,
        caller: Caller,
        idempotency_key: str,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> Any:
        """Call a method that changes something, once. Raises Refusal."""
        call = getattr(stub(self.channel(service)), method)
        metadata = (*self._metadata(caller), ("foyer-idempotency-key", idempotency_key))
        try:
            return await call(request, timeout=deadline_seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_call(error) from None

    def _metadata(self, caller: Caller) -> tuple[tuple[str, str], ...]:
        metadata = [(CALLER_METADATA, self._tokens.mint(caller))]
        traceparent = tracing.traceparent()
        if traceparent:
            metadata.append(("traceparent", traceparent))
        return tuple(metadata)

    async def close(self) -> None:
        """Close all channels."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()


async def read(call: Any, request: Message, metadata: Any, deadline_seconds: float) -> Any:
    """Make a call that changes nothing, up to three times within the deadline. Raises Refusal."""
    ends_at = asyncio.get_running_loop().time() + deadline_seconds
    for attempt in range(1, READ_ATTEMPTS + 1):
        left = ends_at - asyncio.get_running_loop().time()
        try:
            return await call(request, timeout=max(left, 0.001), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            pause = BACK_OFF_SECONDS * 2**attempt * (0.5 + random.random())  # noqa: S311
            if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt == READ_ATTEMPTS or pause > left:
                raise from_call(error) from None
            await asyncio.sleep(pause)
    raise Refusal("UNAVAILABLE")
