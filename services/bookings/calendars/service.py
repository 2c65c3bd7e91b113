"""The RPCs of Calendars, in the order of the contract."""

from __future__ import annotations

import asyncio

from foyer.bookings.v1 import calendars_pb2 as pb

from chassis.app import Context
from chassis.errors import not_found
from chassis.rpc import Call, outside_unit
from chassis.unit import Unit, system_caller
from services.bookings.calendars import feeds, reading
from services.bookings.calendars.feeds import Addresses
from services.bookings.calendars.tokens import FeedTokens


class Calendars:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self._name = context.name
        self._tokens = FeedTokens(context.settings.secret)
        self._addresses = Addresses(self._tokens, context.settings.public_url.rstrip("/"))
        # One calendar is written at a time: what else is asked of this process waits for half of it at most.
        self._writing = asyncio.Semaphore(1)

    async def create_calendar_feed(self, request: pb.CreateCalendarFeedRequest, unit: Unit) -> pb.CalendarFeed:
        """Make a feed."""
        return await feeds.create(request, unit, self._addresses)

    async def list_calendar_feeds(
        self, request: pb.ListCalendarFeedsRequest, unit: Unit
    ) -> pb.ListCalendarFeedsResponse:
        """List the feeds, newest first."""
        return await feeds.find(request, unit)

    async def get_calendar_feed(self, request: pb.GetCalendarFeedRequest, unit: Unit) -> pb.CalendarFeed:
        """Read a feed."""
        return await feeds.get(request, unit)

    async def rotate_calendar_feed(self, request: pb.RotateCalendarFeedRequest, unit: Unit) -> pb.CalendarFeed:
        """Give a feed a new address."""
        return await feeds.rotate(request, unit, self._addresses)

    async def revoke_calendar_feed(self, request: pb.RevokeCalendarFeedRequest, unit: Unit) -> pb.CalendarFeed:
        """Revoke a feed."""
        return await feeds.revoke(request, unit)

    @outside_unit
    async def read_calendar(self, request: pb.ReadCalendarRequest, call: Call) -> pb.CalendarDocument:
        """What stands behind an address. The address itself leads to the chain: who asks belongs to none."""
        address = self._tokens.read(request.token)
        if address is None:
            raise not_found("calendar", "token")
        async with call.store.unit(system_caller(self._name, address.chain_id), read_only=True) as unit:
            content = await reading.read(unit, address)
        async with self._writing:
            return await reading.document(content, request.if_none_match)
