"""The RPCs of People, in the order of the contract."""

from __future__ import annotations

from foyer.bookings.v1 import bookings_pb2
from foyer.bookings.v1 import people_pb2 as pb

from chassis.app import Context
from chassis.unit import Unit
from services.bookings.people import days, leaves, takeover


class People:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def set_staff_day(self, request: pb.SetStaffDayRequest, unit: Unit) -> pb.StaffDayChange:
        """Set what somebody works on a day."""
        return await days.set_day(request, unit)

    async def delete_staff_day(self, request: pb.DeleteStaffDayRequest, unit: Unit) -> pb.StaffDayChange:
        """Go back to the week on a day."""
        return await days.delete_day(request, unit)

    async def list_staff_days(self, request: pb.ListStaffDaysRequest, unit: Unit) -> pb.ListStaffDaysResponse:
        """List somebody's days."""
        return await days.find_days(request, unit)

    async def request_leave(self, request: pb.RequestLeaveRequest, unit: Unit) -> pb.Leave:
        """Ask for leave."""
        return await leaves.request_leave(request, unit)

    async def list_leaves(self, request: pb.ListLeavesRequest, unit: Unit) -> pb.ListLeavesResponse:
        """List leave, by start."""
        return await leaves.find(request, unit)

    async def get_leave(self, request: pb.GetLeaveRequest, unit: Unit) -> pb.Leave:
        """Read a leave."""
        return await leaves.get(request, unit)

    async def approve_leave(self, request: pb.ApproveLeaveRequest, unit: Unit) -> pb.Leave:
        """Approve a leave."""
        return await leaves.approve(request, unit)

    async def refuse_leave(self, request: pb.RefuseLeaveRequest, unit: Unit) -> pb.Leave:
        """Refuse a leave."""
        return await leaves.refuse(request, unit)

    async def cancel_leave(self, request: pb.CancelLeaveRequest, unit: Unit) -> pb.Leave:
        """Cancel a leave."""
        return await leaves.cancel(request, unit)

    async def reassign_booking(self, request: pb.ReassignBookingRequest, unit: Unit) -> bookings_pb2.Booking:
        """Have somebody else do a booking."""
        return await takeover.reassign(request, unit)
