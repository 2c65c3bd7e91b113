"""The platform in one process, for tests: real database and bus, every service a task of this event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from foyer import options_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from chassis.access import CALLER_METADATA, EVERYWHERE, Caller
from chassis.app import Application, Service
from chassis.bus import Bus
from chassis.clock import Clock
from chassis.errors import from_call
from chassis.ids import new_id
from chassis.rpc import IF_MATCH_METADATA, KEY_METADATA, LANGUAGE_METADATA
from chassis.settings import Settings

CALL_SECONDS = 20.0
SETTLE_SECONDS = 20.0


def permissions_of(descriptors: Iterable[ServiceDescriptor]) -> list[str]:
    """Every permission that RPCs ask for."""
    found = {method.GetOptions().Extensions[options_pb2.rpc].permission for d in descriptors for method in d.methods}
    return sorted(found - {""})


class Platform:
    """Services that run in this process, and calls to them as the gateway makes them."""

    def __init__(self, applications: Sequence[Application]) -> None:
        self.applications = {application.service.name: application for application in applications}
        self._channels: dict[str, grpc.aio.Channel] = {}

    @classmethod
    @asynccontextmanager
    async def start(
        cls, settings: Settings, services: Iterable[Service], *, bus: Bus | None = None, clock: Clock | None = None
    ) -> AsyncIterator[Platform]:
        """Run services until the block ends; `bus` and `clock` replace the real ones for all of them."""
        applications = [Application(service, settings, bus=bus, clock=clock) for service in services]
        platform = cls(applications)
        try:
            await asyncio.gather(*(application.start() for application in applications))
            yield platform
        finally:
            for channel in platform._channels.values():
                await channel.close()
            await asyncio.gather(*(application.stop() for application in applications), return_exceptions=True)

    def __getitem__(self, service: str) -> Application:
        return self.applications[service]

    def owner(self, chain_id: str | None = None, **changes: Any) -> Caller:
        """A caller that may do everything in a chain; a new chain when none is named."""
        grants = dict.fromkeys(self.all_permissions(), EVERYWHERE)
        details: dict[str, Any] = {
            "time_zone": "Asia/Shanghai",
            "currency": "CNY",
            "language": "en",
            "roles": ("owner",),
            "grants": grants,
        }
        return Caller(new_id(), "account", "Owner", chain_id or new_id(), **{**details, **changes})

    def all_permissions(self) -> list[str]:
        """Every permission of the services that run, and those of records from before."""
        names = permissions_of(
            descriptor for application in self.applications.values() for descriptor, _ in application.service.servicers
        )
        return sorted({*names, "customers.read_contact", "records.import", "branches.read", "customers.read"})

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        caller: Caller | None = None,
        *,
        key: str | None = None,
        if_match: int | None = None,
        language: str = "en",
    ) -> Any:
        """Call a service. Raises the Refusal it answers."""
        application = self.applications[service]
        channel = self._channels.get(service)
        if channel is None:
            address = application.settings.service_address_of(service)
            channel = self._channels[service] = grpc.aio.insecure_channel(address)
        descriptor = next(
            descriptor for descriptor, _ in application.service.servicers if method in descriptor.methods_by_name
        )
        output = message_factory.GetMessageClass(descriptor.methods_by_name[method].output_type)
        rpc = channel.unary_unary(
            f"/{descriptor.full_name}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=output.FromString,
        )
        metadata = [(LANGUAGE_METADATA, language)]
        if caller is not None:
            metadata.append((CALLER_METADATA, application.context.caller_tokens.mint(caller)))
        if key is not None:
            metadata.append((KEY_METADATA, key))
        if if_match is not None:
            metadata.append((IF_MATCH_METADATA, str(if_match)))
        try:
            return await rpc(request, timeout=CALL_SECONDS, metadata=tuple(metadata))
        except grpc.aio.AioRpcError as error:
            raise from_call(error) from None

    async def settle(self, chain_id: str, timeout_seconds: float = SETTLE_SECONDS) -> None:
        """Wait until every event of a chain has been handled by everybody who listens. Raises TimeoutError."""
        ends_at = asyncio.get_running_loop().time() + timeout_seconds
        while left := await self._unhandled(chain_id):
            if asyncio.get_running_loop().time() > ends_at:
                raise TimeoutError(f"{len(left)} events of the chain were not handled")
            await asyncio.sleep(0.02)

    async def _unhandled(self, chain_id: str) -> set[str]:
        events: list[tuple[str, str]] = []
        for application in self.applications.values():
            async with application.context.system_store.pool.acquire() as connection:
                rows = await connection.fetch("select id, subject from outbox where chain_id = $1", chain_id)
                events += [(row["id"], row["subject"]) for row in rows]
        missing: set[str] = set()
        for application in self.applications.values():
            subjects = set(application.service.subscriptions.subjects)
            async with application.context.system_store.pool.acquire() as connection:
                rows = await connection.fetch(
                    "select event_id from inbox where chain_id = $1"
                    " union select event_id from dead_letters where chain_id = $1",
                    chain_id,
                )
                seen = {row["event_id"] for row in rows}
            missing |= {event_id for event_id, subject in events if subject in subjects and event_id not in seen}
        return missing
