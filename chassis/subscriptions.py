"""Which events a service handles, and how: read as a table, `on = Subscriptions()` and `@on(BookingConfirmed)`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from chassis import tracing
from chassis.bus import Event
from chassis.unit import Unit, event_subject

M = TypeVar("M", bound=Message)
Handler = Callable[[M, "EventMeta", Unit], Awaitable[None]]
BatchHandler = Callable[[Any, Unit], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EventMeta:
    """What is known of an event besides its message. Times are UTC."""

    id: str
    type: str
    chain_id: str
    source: str
    time: datetime
    occurred_at: datetime
    traceparent: str | None


@dataclass(slots=True)
class _Route:
    """Where an event goes."""

    message: type[Message]
    handlers: list[Handler[Any]] = field(default_factory=list)
    batches: list[BatchHandler] = field(default_factory=list)


class Subscriptions:
    """Which events a service handles, and how."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}

    def __call__(self, event: type[M]) -> Callable[[Handler[M]], Handler[M]]:
        """Handle one event at a time. Raises TypeError for a message that is not an event."""
        handlers = self._route(event).handlers

        def add(handler: Handler[M]) -> Handler[M]:
            handlers.append(handler)
            return handler

        return add

    def batch(self, *events: type[Message]) -> Callable[[BatchHandler], BatchHandler]:
        """Handle all events of these types in a transaction at once, in their order, after the single ones.

        Raises TypeError for a message that is not an event.
        """
        routes = [self._route(event) for event in events]

        def add(handler: BatchHandler) -> BatchHandler:
            for route in routes:
                route.batches.append(handler)
            return handler

        return add

    @property
    def subjects(self) -> list[str]:
        """Types of the events that are handled: `booking.confirmed`."""
        return sorted(self._routes)

    async def apply(self, events: Iterable[Event], unit: Unit) -> None:
        """Have the handlers do their work in a unit."""
        batches: dict[BatchHandler, list[tuple[Message, EventMeta]]] = {}
        for event in events:
            route = self._routes.get(event.type)
            if route is None:
                continue
            message = route.message.FromString(event.body)
            meta = EventMeta(
                event.id, event.type, event.chain_id, event.source, event.time, event.occurred_at, event.traceparent
            )
            for handler in route.handlers:
                with tracing.span(f"handle {event.type}", kind="consumer", parent=event.traceparent):
                    await handler(message, meta, unit)
            for batch_handler in route.batches:
                batches.setdefault(batch_handler, []).append((message, meta))
        for batch_handler, batch in batches.items():
            await batch_handler(batch, unit)

    def _route(self, event: type[Message]) -> _Route:
        # The stubs know two kinds of descriptors; there is one.
        subject = event_subject(cast("Descriptor", event.DESCRIPTOR))[0]
        return self._routes.setdefault(subject, _Route(event))
