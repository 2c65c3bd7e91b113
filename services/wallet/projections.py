"""What wallet keeps of customers, branches, staff, services and bookings, and how it asks for what is not there yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from foyer.access.v1 import access_pb2, access_pb2_grpc
from foyer.bookings.v1 import bookings_pb2, bookings_pb2_grpc
from foyer.customers.v1 import customers_pb2, customers_pb2_grpc

from chassis.access import Caller
from chassis.unit import Unit
from services.wallet.statements import named

if TYPE_CHECKING:
    from chassis.app import Context

KEEP_CUSTOMER = named("""
insert into customers (chain_id, id, home_branch_id, version)
values (:chain_id::uuid, :id::uuid, :home_branch_id::uuid, :version::bigint)
on conflict (chain_id, id) do update set home_branch_id = excluded.home_branch_id, version = excluded.version
where customers.version < excluded.version
""")
KEEP_BRANCH = named("""
insert into branches (chain_id, id, time_zone, version)
values (:chain_id::uuid, :id::uuid, :time_zone::text, :version::bigint)
on conflict (chain_id, id) do update set time_zone = excluded.time_zone, version = excluded.version
where branches.version < excluded.version
""")
KEEP_BOOKING = named("""
insert into bookings (chain_id, id, branch_id, staff_id, service_id, version)
values (:chain_id::uuid, :id::uuid, :branch_id::uuid, :staff_id::uuid, :service_id::uuid, :version::bigint)
on conflict (chain_id, id) do update set branch_id = excluded.branch_id, staff_id = excluded.staff_id,
  service_id = excluded.service_id, version = excluded.version
where bookings.version < excluded.version
""")
KEEP_KNOWN = named("""
insert into catalogue (chain_id, kind, id) values (:chain_id::uuid, :kind::text, :id::uuid) on conflict do nothing
""")

Keep = Callable[[Unit], Awaitable[None]]


async def keep_customer(unit: Unit, customer_id: str, home_branch_id: str | None, version: int) -> None:
    """Take over a customer, unless a newer version is there."""
    await unit.run(KEEP_CUSTOMER, id=customer_id, home_branch_id=home_branch_id or None, version=version)


async def keep_branch(unit: Unit, branch: access_pb2.Branch) -> None:
    """Take over a branch, unless a newer version is there."""
    await unit.run(KEEP_BRANCH, id=branch.id, time_zone=branch.time_zone, version=branch.version)


async def keep_booking(unit: Unit, booking: bookings_pb2.Booking) -> None:
    """Take over whom a booking is with, where and for what, unless a newer version is there."""
    await unit.run(
        KEEP_BOOKING,
        id=booking.id,
        branch_id=booking.branch_id,
        staff_id=booking.staff_id or None,
        service_id=booking.service_id or None,
        version=booking.version,
    )


async def keep_known(unit: Unit, kind: str, id: str) -> None:  # noqa: A002
    """Remember that a staff member or a service exists; `kind` is `staff` or `service`."""
    await unit.run(KEEP_KNOWN, kind=kind, id=id)


# --- asking ---------------------------------------------------------------------------------------


async def fetch_customer(context: Context, caller: Caller, id: str) -> Keep:  # noqa: A002
    """Read a customer from their owner."""
    request = customers_pb2.GetCustomerRequest(id=id)
    found = await context.clients.read(
        "customers", customers_pb2_grpc.CustomersStub, "GetCustomer", request, caller=caller
    )
    return lambda unit: keep_customer(unit, found.id, found.home_branch_id, found.version)


async def fetch_branch(context: Context, caller: Caller, id: str) -> Keep:  # noqa: A002
    """Read a branch from its owner."""
    request = access_pb2.GetBranchRequest(id=id)
    found = await context.clients.read("access", access_pb2_grpc.AccessStub, "GetBranch", request, caller=caller)
    return lambda unit: keep_branch(unit, found)


async def fetch_booking(context: Context, caller: Caller, id: str) -> Keep:  # noqa: A002
    """Read a booking from its owner."""
    request = bookings_pb2.GetBookingRequest(id=id)
    found = await context.clients.read("bookings", bookings_pb2_grpc.BookingsStub, "GetBooking", request, caller=caller)
    return lambda unit: keep_booking(unit, found)


async def fetch_staff(context: Context, caller: Caller, id: str) -> Keep:  # noqa: A002
    """Ask bookings whether there is such a staff member."""
    request = bookings_pb2.GetStaffRequest(id=id)
    found = await context.clients.read("bookings", bookings_pb2_grpc.BookingsStub, "GetStaff", request, caller=caller)
    return lambda unit: keep_known(unit, "staff", found.id)


async def fetch_service(context: Context, caller: Caller, id: str) -> Keep:  # noqa: A002
    """Ask bookings whether there is such a service."""
    request = bookings_pb2.GetServiceRequest(id=id)
    found = await context.clients.read("bookings", bookings_pb2_grpc.BookingsStub, "GetService", request, caller=caller)
    return lambda unit: keep_known(unit, "service", found.id)


FETCHERS = {
    "customer": fetch_customer,
    "branch": fetch_branch,
    "booking": fetch_booking,
    "staff": fetch_staff,
    "service": fetch_service,
}
