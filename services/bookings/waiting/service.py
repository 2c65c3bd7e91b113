"""The RPCs of the waiting list, in the order of the contract."""

from __future__ import annotations

from foyer.bookings.v1 import waiting_list_pb2 as pb

from chassis.app import Context
from chassis.unit import Unit
from services.bookings.waiting import entries


class WaitingList:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def join_waiting_list(self, request: pb.JoinWaitingListRequest, unit: Unit) -> pb.WaitingEntry:
        """Join the waiting list."""
        return await entries.join(request, unit)

    async def list_waiting_entries(
        self, request: pb.ListWaitingEntriesRequest, unit: Unit
    ) -> pb.ListWaitingEntriesResponse:
        """List who waits."""
        return await entries.find(request, unit)

    async def get_waiting_entry(self, request: pb.GetWaitingEntryRequest, unit: Unit) -> pb.WaitingEntry:
        """Read an entry."""
        return await entries.get(request, unit)

    async def update_waiting_entry(self, request: pb.UpdateWaitingEntryRequest, unit: Unit) -> pb.WaitingEntry:
        """Change an entry."""
        return await entries.update(request, unit)

    async def accept_waiting_offer(self, request: pb.AcceptWaitingOfferRequest, unit: Unit) -> pb.WaitingEntry:
        """Take what is offered."""
        return await entries.accept(request, unit)

    async def decline_waiting_offer(self, request: pb.DeclineWaitingOfferRequest, unit: Unit) -> pb.WaitingEntry:
        """Let what is offered pass."""
        return await entries.decline(request, unit)

    async def leave_waiting_list(self, request: pb.LeaveWaitingListRequest, unit: Unit) -> pb.WaitingEntry:
        """Leave the waiting list."""
        return await entries.leave(request, unit)
