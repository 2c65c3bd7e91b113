"""What notify listens to: what customers are told of, and what it keeps of customers, chains, branches and staff."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foyer.access.v1 import access_pb2, access_pb2_grpc
from foyer.access.v1.access_pb2 import BranchCreated, BranchUpdated, ChainCreated, ChainUpdated
from foyer.bookings.v1 import bookings_pb2, bookings_pb2_grpc
from foyer.bookings.v1.assignments_pb2 import BookingExtended
from foyer.bookings.v1.bookings_pb2 import (
    BookingCancelled,
    BookingCompleted,
    BookingConfirmed,
    BookingMissed,
    BookingRescheduled,
    StaffCreated,
    StaffUpdated,
)
from foyer.bookings.v1.people_pb2 import BookingReassigned
from foyer.bookings.v1.waiting_list_pb2 import WaitingListOffered
from foyer.customers.v1 import customers_pb2, customers_pb2_grpc
from foyer.customers.v1.customers_pb2 import CustomerCreated, CustomerUpdated
from foyer.wallet.v1.wallet_pb2 import ChargeRefunded, TopUpCredited, WalletCharged
from google.protobuf.message import Message

from chassis.access import Caller
from chassis.inbox import EventMeta, Subscriptions
from chassis.projections import Keep
from chassis.unit import Unit
from services.notify import statements
from services.notify.domain import is_history, notice_of
from services.notify.writing import Occasion, write_messages

if TYPE_CHECKING:
    from chassis.app import Context

on = Subscriptions()


@on.batch(
    BookingConfirmed,
    BookingRescheduled,
    BookingReassigned,
    BookingExtended,
    WaitingListOffered,
    BookingCancelled,
    BookingMissed,
    BookingCompleted,
    TopUpCredited,
    WalletCharged,
    ChargeRefunded,
)
async def tell(batch: Sequence[tuple[Message, EventMeta]], unit: Unit) -> None:
    """Tell customers what happened, unless it happened long ago."""
    occasions = []
    for event, meta in batch:
        notice = None if is_history(meta.time, meta.occurred_at) else notice_of(event)
        if notice is not None:
            occasions.append(Occasion(meta.id, meta.type, notice))
    if occasions:
        await write_messages(unit, occasions)


@on(CustomerCreated)
async def customer_created(event: CustomerCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Keep how a customer is reached."""
    await _keep_customer(unit, event.customer_id, event.card)


@on(CustomerUpdated)
async def customer_updated(event: CustomerUpdated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Keep how a customer is reached now."""
    await _keep_customer(unit, event.customer_id, event.card)


@on(ChainCreated)
async def chain_created(event: ChainCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Keep what a chain is called."""
    await _keep_name(unit, "chain", event.chain)


@on(ChainUpdated)
async def chain_updated(event: ChainUpdated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Keep what a chain is called now."""
    await _keep_name(unit, "chain", event.chain)


@on(BranchCreated)
async def branch_created(event: BranchCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Keep what a branch is called and where it is."""
    await _keep_name(unit, "branch", event.branch)


@on(BranchUpdated)
async def branch_updated(event: BranchUpdated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Keep what a branch is called and where it is now."""
    await _keep_name(unit, "branch", event.branch)


@on(StaffCreated)
async def staff_created(event: StaffCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Keep what somebody who works is called."""
    await _keep_name(unit, "staff", event.staff)


@on(StaffUpdated)
async def staff_updated(event: StaffUpdated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Keep what somebody who works is called now."""
    await _keep_name(unit, "staff", event.staff)


async def _keep_customer(
    unit: Unit, customer_id: str, card: customers_pb2.CustomerCard | customers_pb2.Customer
) -> None:
    email = card.email or None
    await unit.run(
        statements.KEEP_CUSTOMER,
        id=customer_id,
        name=card.name,
        language=card.language,
        email=email,
        version=card.version,
    )


async def _keep_name(unit: Unit, kind: str, thing: access_pb2.Chain | access_pb2.Branch | bookings_pb2.Staff) -> None:
    address, phone = (thing.address, thing.phone) if isinstance(thing, access_pb2.Branch) else ("", "")
    await unit.run(
        statements.KEEP_NAME,
        kind=kind,
        id=thing.id,
        name=thing.name,
        address=address,
        phone=phone,
        version=thing.version,
    )


async def fetch_customer(context: Context, caller: Caller, customer_id: str) -> Keep:
    """Read a customer from customers; answers what keeps it. Raises Refusal NOT_FOUND."""
    request = customers_pb2.GetCustomerRequest(id=customer_id)
    customer: customers_pb2.Customer = await context.clients.read(
        "customers", customers_pb2_grpc.CustomersStub, "GetCustomer", request, caller=caller
    )

    async def keep(unit: Unit) -> None:
        await _keep_customer(unit, customer.id, customer)

    return keep


async def fetch_chain(context: Context, caller: Caller, chain_id: str) -> Keep:  # noqa: ARG001
    """Read the caller's chain from access; answers what keeps its name. Raises Refusal NOT_FOUND."""
    request = access_pb2.GetChainRequest()
    chain: access_pb2.Chain = await context.clients.read(
        "access", access_pb2_grpc.AccessStub, "GetChain", request, caller=caller
    )

    async def keep(unit: Unit) -> None:
        await _keep_name(unit, "chain", chain)

    return keep


async def fetch_branch(context: Context, caller: Caller, branch_id: str) -> Keep:
    """Read a branch from access; answers what keeps its name. Raises Refusal NOT_FOUND."""
    request = access_pb2.GetBranchRequest(id=branch_id)
    branch: access_pb2.Branch = await context.clients.read(
        "access", access_pb2_grpc.AccessStub, "GetBranch", request, caller=caller
    )

    async def keep(unit: Unit) -> None:
        await _keep_name(unit, "branch", branch)

    return keep


async def fetch_staff(context: Context, caller: Caller, staff_id: str) -> Keep:
    """Read somebody who works from bookings; answers what keeps their name. Raises Refusal NOT_FOUND."""
    request = bookings_pb2.GetStaffRequest(id=staff_id)
    staff: bookings_pb2.Staff = await context.clients.read(
        "bookings", bookings_pb2_grpc.BookingsStub, "GetStaff", request, caller=caller
    )

    async def keep(unit: Unit) -> None:
        await _keep_name(unit, "staff", staff)

    return keep


FETCHERS = {"customer": fetch_customer, "chain": fetch_chain, "branch": fetch_branch, "staff": fetch_staff}
