"""The RPCs of bookings, in the order of the contract. What they do is in the module of their noun."""

from __future__ import annotations

from foyer.bookings.v1 import (
    assignments_pb2,
    calendars_pb2,
    classes_pb2,
    front_desk_pb2,
    links_pb2,
    packages_pb2,
    people_pb2,
    policies_pb2,
    quotes_pb2,
    resources_pb2,
    rosters_pb2,
    series_pb2,
    waiting_list_pb2,
)
from foyer.bookings.v1 import bookings_pb2 as pb

import services.bookings.deposit_answers  # noqa: F401 - it listens to the wallet
from chassis.app import Context, Job, Service
from chassis.unit import Unit
from services.bookings import anywhere, booking, catalogue, glance, offers, records, staff
from services.bookings.assignments.claims import advance_offers
from services.bookings.assignments.service import Assignments
from services.bookings.calendars.service import Calendars
from services.bookings.classes.service import Classes
from services.bookings.desk.clocks import watch_arrivals
from services.bookings.desk.service import FrontDesk
from services.bookings.events import fetch_branch, fetch_customer, on
from services.bookings.jobs import expire_holds
from services.bookings.links.links import BookingLinks
from services.bookings.links.self_service import SelfService
from services.bookings.packages import Packages
from services.bookings.people.qualifications import TELL_EXPIRING_SECONDS, tell_expiring
from services.bookings.people.service import People
from services.bookings.policies import Policies
from services.bookings.quotes import Quotes
from services.bookings.resources import loans
from services.bookings.resources.servicer import Resources
from services.bookings.rosters import jobs as rosters
from services.bookings.rosters.service import Rosters
from services.bookings.series.service import RecurringBookings
from services.bookings.waiting.offering import look_again
from services.bookings.waiting.service import WaitingList

EXPIRE_HOLDS_SECONDS = 5.0
ADVANCE_OFFERS_SECONDS = 5.0
LOOK_AGAIN_SECONDS = 30.0
WATCH_ARRIVALS_SECONDS = 30.0


class Bookings:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def create_service(self, request: pb.CreateServiceRequest, unit: Unit) -> pb.Service:
        """Put a service into the catalogue."""
        return await catalogue.create(request, unit)

    async def list_services(self, request: pb.ListServicesRequest, unit: Unit) -> pb.ListServicesResponse:
        """List the catalogue, by name."""
        return await catalogue.find(request, unit)

    async def get_service(self, request: pb.GetServiceRequest, unit: Unit) -> pb.Service:
        """Read a service."""
        return await catalogue.get(request, unit)

    async def update_service(self, request: pb.UpdateServiceRequest, unit: Unit) -> pb.Service:
        """Change a service."""
        return await catalogue.update(request, unit)

    async def create_staff(self, request: pb.CreateStaffRequest, unit: Unit) -> pb.Staff:
        """Take up a person who works."""
        return await staff.create(request, unit)

    async def list_staff(self, request: pb.ListStaffRequest, unit: Unit) -> pb.ListStaffResponse:
        """List the staff, by name."""
        return await staff.find(request, unit)

    async def get_staff(self, request: pb.GetStaffRequest, unit: Unit) -> pb.Staff:
        """Read a staff member."""
        return await staff.get(request, unit)

    async def update_staff(self, request: pb.UpdateStaffRequest, unit: Unit) -> pb.Staff:
        """Change a staff member."""
        return await staff.update(request, unit)

    async def set_shifts(self, request: pb.SetShiftsRequest, unit: Unit) -> pb.Shifts:
        """Set the weekly shifts of a staff member at a branch, from a day on."""
        return await staff.set_shifts(request, unit)

    async def get_shifts(self, request: pb.GetShiftsRequest, unit: Unit) -> pb.GetShiftsResponse:
        """Read the weekly shifts of a staff member."""
        return await staff.get_shifts(request, unit)

    async def find_availability(self, request: pb.FindAvailabilityRequest, unit: Unit) -> pb.Availability:
        """Find free times for a service at a branch."""
        return await offers.find(request, unit)

    async def search_availability(self, request: pb.SearchAvailabilityRequest, unit: Unit) -> pb.Availability:
        """Find free times for several services together."""
        return await offers.search(request, unit)

    async def list_available_days(self, request: pb.ListAvailableDaysRequest, unit: Unit) -> pb.AvailableDays:
        """See days at a glance."""
        return await glance.find(request, unit)

    async def find_next_availability(self, request: pb.FindNextAvailabilityRequest, unit: Unit) -> pb.NextAvailability:
        """Find the next free times over all branches."""
        return await anywhere.find(request, unit)

    async def create_booking(self, request: pb.CreateBookingRequest, unit: Unit) -> pb.Booking:
        """Book a time, or hold it."""
        return await booking.create(request, unit)

    async def record_booking(self, request: pb.RecordBookingRequest, unit: Unit) -> pb.Booking:
        """Write down a booking from before."""
        return await records.record(request, unit)

    async def list_bookings(self, request: pb.ListBookingsRequest, unit: Unit) -> pb.ListBookingsResponse:
        """List bookings, by start."""
        return await records.find(request, unit)

    async def get_booking(self, request: pb.GetBookingRequest, unit: Unit) -> pb.Booking:
        """Read a booking."""
        return await booking.get(request, unit)

    async def renew_hold(self, request: pb.RenewHoldRequest, unit: Unit) -> pb.Booking:
        """Keep a held time for longer."""
        return await booking.renew(request, unit)

    async def confirm_booking(self, request: pb.ConfirmBookingRequest, unit: Unit) -> pb.Booking:
        """Confirm a held booking."""
        return await booking.confirm(request, unit)

    async def cancel_booking(self, request: pb.CancelBookingRequest, unit: Unit) -> pb.Booking:
        """Cancel a held or confirmed booking."""
        return await booking.cancel(request, unit)

    async def reschedule_booking(self, request: pb.RescheduleBookingRequest, unit: Unit) -> pb.Booking:
        """Move a booking."""
        return await booking.reschedule(request, unit)

    async def check_in_booking(self, request: pb.CheckInBookingRequest, unit: Unit) -> pb.Booking:
        """The customer is there."""
        return await booking.check_in(request, unit)

    async def start_booking(self, request: pb.StartBookingRequest, unit: Unit) -> pb.Booking:
        """The service begins."""
        return await booking.start(request, unit)

    async def complete_booking(self, request: pb.CompleteBookingRequest, unit: Unit) -> pb.Booking:
        """The service is done."""
        return await booking.complete(request, unit)

    async def mark_no_show(self, request: pb.MarkNoShowRequest, unit: Unit) -> pb.Booking:
        """The customer did not come."""
        return await booking.mark_no_show(request, unit)


SERVICE = Service(
    name="bookings",
    servicers=[
        (pb.DESCRIPTOR.services_by_name["Bookings"], Bookings),
        (assignments_pb2.DESCRIPTOR.services_by_name["Assignments"], Assignments),
        (front_desk_pb2.DESCRIPTOR.services_by_name["FrontDesk"], FrontDesk),
        (waiting_list_pb2.DESCRIPTOR.services_by_name["WaitingList"], WaitingList),
        (policies_pb2.DESCRIPTOR.services_by_name["BookingPolicies"], Policies),
        (links_pb2.DESCRIPTOR.services_by_name["BookingLinks"], BookingLinks),
        (links_pb2.DESCRIPTOR.services_by_name["SelfService"], SelfService),
        (packages_pb2.DESCRIPTOR.services_by_name["Packages"], Packages),
        (people_pb2.DESCRIPTOR.services_by_name["People"], People),
        (quotes_pb2.DESCRIPTOR.services_by_name["Quotes"], Quotes),
        (classes_pb2.DESCRIPTOR.services_by_name["Classes"], Classes),
        (series_pb2.DESCRIPTOR.services_by_name["RecurringBookings"], RecurringBookings),
        (calendars_pb2.DESCRIPTOR.services_by_name["Calendars"], Calendars),
        (resources_pb2.DESCRIPTOR.services_by_name["Resources"], Resources),
        (rosters_pb2.DESCRIPTOR.services_by_name["Rosters"], Rosters),
    ],
    subscriptions=on,
    fetchers={"branch": fetch_branch, "customer": fetch_customer},
    jobs=[
        Job(rosters.JOB, rosters.work, rosters.EVERY_SECONDS),
        Job("expire-holds", expire_holds, EXPIRE_HOLDS_SECONDS),
        Job("watch-loans", loans.watch, loans.WATCH_SECONDS),
        Job("tell-expiring-qualifications", tell_expiring, TELL_EXPIRING_SECONDS),
        Job("advance-offers", advance_offers, ADVANCE_OFFERS_SECONDS),
        Job("watch-arrivals", watch_arrivals, WATCH_ARRIVALS_SECONDS),
        Job("look-at-waiting-list", look_again, LOOK_AGAIN_SECONDS),
    ],
)
