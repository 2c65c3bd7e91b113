"""The RPCs of classes, in the order of the contract."""

from __future__ import annotations

from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import classes_pb2

from chassis.app import Context
from chassis.unit import Unit
from services.bookings.classes import changes, enrolments, lists, sessions


class Classes:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def create_class_session(
        self, request: classes_pb2.CreateClassSessionRequest, unit: Unit
    ) -> classes_pb2.ClassSession:
        """Plan a class session."""
        return await sessions.create(request, unit)

    async def list_class_sessions(
        self, request: classes_pb2.ListClassSessionsRequest, unit: Unit
    ) -> classes_pb2.ListClassSessionsResponse:
        """List class sessions, by start."""
        return await lists.find(request, unit)

    async def get_class_session(
        self, request: classes_pb2.GetClassSessionRequest, unit: Unit
    ) -> classes_pb2.ClassSession:
        """Read a class session."""
        return await sessions.get(request, unit)

    async def update_class_session(
        self, request: classes_pb2.UpdateClassSessionRequest, unit: Unit
    ) -> classes_pb2.ClassSession:
        """Change the name or the seats of a class session."""
        return await sessions.update(request, unit)

    async def reschedule_class_session(
        self, request: classes_pb2.RescheduleClassSessionRequest, unit: Unit
    ) -> classes_pb2.ClassSession:
        """Move a class session and everybody in it."""
        return await changes.reschedule(request, unit)

    async def cancel_class_session(
        self, request: classes_pb2.CancelClassSessionRequest, unit: Unit
    ) -> classes_pb2.ClassSession:
        """Call a class session off."""
        return await changes.cancel(request, unit)

    async def create_enrolment(self, request: classes_pb2.CreateEnrolmentRequest, unit: Unit) -> pb.Booking:
        """Take seats in a class session."""
        return await enrolments.enrol(request, unit)

    async def list_enrolments(self, request: classes_pb2.ListEnrolmentsRequest, unit: Unit) -> pb.ListBookingsResponse:
        """List the enrolments of a class session."""
        return await enrolments.find(request, unit)
