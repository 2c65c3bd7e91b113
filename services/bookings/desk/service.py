"""The RPCs of the front desk, in the order of the contract."""

from __future__ import annotations

from foyer.bookings.v1 import bookings_pb2
from foyer.bookings.v1 import front_desk_pb2 as pb

from chassis.app import Context
from chassis.unit import Unit
from services.bookings.desk import check_in, now, sheet, walk_ins


class FrontDesk:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.codes = check_in.CheckInCodes(context.settings.secret)

    async def add_walk_in(self, request: pb.AddWalkInRequest, unit: Unit) -> pb.WalkIn:
        """Take somebody into the queue."""
        return await walk_ins.add(request, unit)

    async def get_queue(self, request: pb.GetQueueRequest, unit: Unit) -> pb.Queue:
        """Read the queue of a branch."""
        return await walk_ins.queue(request, unit)

    async def get_walk_in(self, request: pb.GetWalkInRequest, unit: Unit) -> pb.WalkIn:
        """Read somebody in the queue."""
        return await walk_ins.get(request, unit)

    async def seat_walk_in(self, request: pb.SeatWalkInRequest, unit: Unit) -> pb.WalkIn:
        """It is their turn."""
        return await walk_ins.seat(request, unit)

    async def drop_walk_in(self, request: pb.DropWalkInRequest, unit: Unit) -> pb.WalkIn:
        """They went away."""
        return await walk_ins.drop(request, unit)

    async def get_check_in_code(self, request: pb.GetCheckInCodeRequest, unit: Unit) -> pb.CheckInCode:
        """Read the code by which a customer checks in."""
        return await check_in.read_code(request, unit, self.codes)

    async def check_in_by_code(self, request: pb.CheckInByCodeRequest, unit: Unit) -> bookings_pb2.Booking:
        """Check a customer in by their code."""
        return await check_in.by_code(request, unit, self.codes)

    async def get_now(self, request: pb.GetNowRequest, unit: Unit) -> pb.Now:
        """Read what goes on at a branch right now."""
        return await now.get(request, unit)

    async def get_day_sheet(self, request: pb.GetDaySheetRequest, unit: Unit) -> pb.DaySheet:
        """Read a day sheet."""
        return await sheet.get(request, unit)
