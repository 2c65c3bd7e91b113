"""Who wants to know, within the same transaction, what became of a hold or of time. The waiting list does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum

import asyncpg

from chassis.unit import Unit


class How(Enum):
    """What became of a booking."""

    OVER = "over"
    """It was called off, or its hold ran out: its time is free."""
    MOVED = "moved"
    """It has another time: the one before is free."""
    TAKEN = "taken"
    """Its hold ran out, and who found that takes the time."""
    AGREED = "agreed"
    """It is confirmed."""


Listener = Callable[[Unit, asyncpg.Record, How], Awaitable[None]]
"""Is given a booking as it was before."""

_listeners: list[Listener] = []


def listen(listener: Listener) -> Listener:
    """Call a function whenever a booking changes so. For modules to register at import."""
    _listeners.append(listener)
    return listener


async def tell(unit: Unit, before: asyncpg.Record, how: How) -> None:
    """Say what became of a booking."""
    for listener in _listeners:
        await listener(unit, before, how)
