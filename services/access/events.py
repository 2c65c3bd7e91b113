"""What access takes from other services: that a staff member exists, for accounts that belong to one."""

from __future__ import annotations

from foyer.bookings.v1 import bookings_pb2, bookings_pb2_grpc

from chassis.access import Caller
from chassis.app import Context
from chassis.inbox import EventMeta, Subscriptions
from chassis.projections import Keep
from chassis.unit import Unit
from services.access import statements

on = Subscriptions()


async def keep_staff(staff: bookings_pb2.Staff, unit: Unit) -> None:
    """Note a staff member, unless a newer version of them is known."""
    await unit.run(statements.KEEP_STAFF, id=staff.id, version=staff.version)


@on(bookings_pb2.StaffCreated)
async def staff_created(event: bookings_pb2.StaffCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Somebody was taken up as staff."""
    await keep_staff(event.staff, unit)


@on(bookings_pb2.StaffUpdated)
async def staff_updated(event: bookings_pb2.StaffUpdated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """A staff member changed."""
    await keep_staff(event.staff, unit)


async def fetch_staff(context: Context, caller: Caller, staff_id: str) -> Keep:
    """Read a staff member from bookings. Raises Refusal NOT_FOUND when bookings does not know them."""
    request = bookings_pb2.GetStaffRequest(id=staff_id)
    stub = bookings_pb2_grpc.BookingsStub
    staff = await context.clients.read("bookings", stub, "GetStaff", request, caller=caller)

    async def keep(unit: Unit) -> None:
        await keep_staff(staff, unit)

    return keep
