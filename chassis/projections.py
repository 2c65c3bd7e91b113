"""What a service keeps of other services' things, when it is not there yet.

Events keep a projection. Until the first one has come, a handler raises `Absent`; the thing is then read once from its
owner, outside any transaction, stored, and the handler runs again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from chassis.access import Caller
from chassis.errors import Refusal, not_found
from chassis.unit import Absent, Store, Unit, system_caller

if TYPE_CHECKING:
    from chassis.app import Context

MOST_FETCHES = 12

T = TypeVar("T")
Keep = Callable[[Unit], Awaitable[None]]
Fetcher = Callable[["Context", Caller, str], Awaitable[Keep]]
"""Reads a thing by id from its owner, as the given caller (the service itself); answers what stores it."""


class Projections:
    """Fetches what is absent."""

    def __init__(self, name: str, store: Store, fetchers: Mapping[str, Fetcher]) -> None:
        self._name = name
        self._store = store
        self._fetchers = fetchers
        self.context: Context | None = None

    async def fetch(self, absent: Absent, caller: Caller) -> None:
        """Read a thing from its owner and store it. Raises Refusal NOT_FOUND when the owner does not know it."""
        fetcher = self._fetchers.get(absent.kind)
        if fetcher is None or self.context is None:
            raise not_found(absent.kind, absent.field)
        own = system_caller(self._name, caller.chain_id, caller.time_zone, caller.currency)
        try:
            keep = await fetcher(self.context, own, absent.id)
        except Refusal as refusal:
            if refusal.code == "NOT_FOUND":
                raise not_found(absent.kind, absent.field) from None
            raise
        async with self._store.unit(own) as unit:
            await keep(unit)

    async def complete(self, run: Callable[[], Awaitable[T]], caller: Caller) -> T:
        """Run something that may find projections absent, until they are there. Raises Refusal NOT_FOUND."""
        fetched: set[tuple[str, str]] = set()
        for _ in range(MOST_FETCHES):
            try:
                return await run()
            except Absent as absent:
                key = (absent.kind, absent.id)
                if key in fetched:
                    raise not_found(absent.kind, absent.field) from None
                fetched.add(key)
                missing = absent
            await self.fetch(missing, caller)
        raise Refusal("UNAVAILABLE")
