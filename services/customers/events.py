"""What customers takes from other services: branches with their zones, and that a staff member exists."""

from __future__ import annotations

from foyer.access.v1 import access_pb2, access_pb2_grpc
from foyer.bookings.v1 import bookings_pb2, bookings_pb2_grpc

from chassis.access import Caller
from chassis.app import Context
from chassis.inbox import EventMeta, Subscriptions
from chassis.projections import Keep
from chassis.unit import Unit
from services.customers import statements

on = Subscriptions()


async def keep_branch(branch: access_pb2.Branch, unit: Unit) -> None:
    """Note a branch, unless a newer version of it is known."""
    await unit.run(statements.KEEP_BRANCH, id=branch.id, time_zone=branch.time_zone, version=branch.version)


async def keep_staff(staff: bookings_pb2.Staff, unit: Unit) -> None:
    """Note a staff member, unless a newer version of them is known."""
    await unit.run(statements.KEEP_STAFF, id=staff.id, version=staff.version)


@on(access_pb2.BranchCreated)
async def branch_created(event: access_pb2.BranchCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """A branch was opened."""
    await keep_branch(event.branch, unit)


@on(access_pb2.BranchUpdated)
async def branch_updated(event: access_pb2.BranchUpdated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """A branch changed."""
    await keep_branch(event.branch, unit)


@on(bookings_pb2.StaffCreated)
async def staff_created(event: bookings_pb2.StaffCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Somebody was taken up as staff."""
    await keep_staff(event.staff, unit)


@on(bookings_pb2.StaffUpdated)
async def staff_updated(event: bookings_pb2.StaffUpdated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """A staff member changed."""
    await keep_staff(event.staff, unit)


async def fetch_branch(context: Context, caller: Caller, branch_id: str) -> Keep:
    """Read a branch from access. Raises Refusal NOT_FOUND when access does not know it."""
    request = access_pb2.GetBranchRequest(id=branch_id)
    branch = await context.clients.read("access", access_pb2_grpc.AccessStub, "GetBranch", request, caller=caller)

    async def keep(unit: Unit) -> None:
        await keep_branch(branch, unit)

    return keep


async def fetch_staff(context: Context, caller: Caller, staff_id: str) -> Keep:
    """Read a staff member from bookings. Raises Refusal NOT_FOUND when bookings does not know them."""
    request = bookings_pb2.GetStaffRequest(id=staff_id)
    stub = bookings_pb2_grpc.BookingsStub
    staff = await context.clients.read("bookings", stub, "GetStaff", request, caller=caller)

    async def keep(unit: Unit) -> None:
        await keep_staff(staff, unit)

    return keep
