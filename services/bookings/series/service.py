"""The RPCs of series, in the order of the contract."""

from __future__ import annotations

from foyer.bookings.v1 import series_pb2

from chassis.app import Context
from chassis.unit import Unit
from services.bookings.series import changes, lists, making


class RecurringBookings:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def create_series(self, request: series_pb2.CreateSeriesRequest, unit: Unit) -> series_pb2.BookingSeries:
        """Book every date of a rule, or preview that."""
        return await making.create(request, unit)

    async def list_series(self, request: series_pb2.ListSeriesRequest, unit: Unit) -> series_pb2.ListSeriesResponse:
        """List series, the newest first."""
        return await lists.find(request, unit)

    async def get_booking_series(
        self, request: series_pb2.GetBookingSeriesRequest, unit: Unit
    ) -> series_pb2.BookingSeries:
        """Read a series."""
        return await lists.get(request, unit)

    async def cancel_series(self, request: series_pb2.CancelSeriesRequest, unit: Unit) -> series_pb2.SeriesChange:
        """Cancel bookings of a series."""
        return await changes.cancel(request, unit)

    async def reschedule_series(
        self, request: series_pb2.RescheduleSeriesRequest, unit: Unit
    ) -> series_pb2.SeriesChange:
        """Move bookings of a series."""
        return await changes.reschedule(request, unit)
