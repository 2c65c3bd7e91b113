"""What wallet hears: customers, branches, staff, services and bookings as they change, and bookings that are done."""

from __future__ import annotations

from foyer.access.v1.access_pb2 import BranchCreated, BranchUpdated
from foyer.bookings.v1.bookings_pb2 import (
    Booking,
    BookingCompleted,
    BookingConfirmed,
    BookingHeld,
    BookingRescheduled,
    ServiceCreated,
    StaffCreated,
)
from foyer.bookings.v1.people_pb2 import BookingReassigned
from foyer.bookings.v1.policies_pb2 import BookingDepositKept, BookingDepositReleased, BookingDepositRequested
from foyer.customers.v1.customers_pb2 import CustomerCreated, CustomerUpdated

from chassis import logs, metrics
from chassis.errors import Refusal
from chassis.inbox import EventMeta, Subscriptions
from chassis.money import money
from chassis.unit import Unit
from services.wallet import deposit_requests, domain
from services.wallet.movements import charge, lock
from services.wallet.projections import keep_booking, keep_branch, keep_customer, keep_known
from services.wallet.reads import POLICY
from services.wallet.statements import named

AUTO_CHARGES = metrics.counter(
    "foyer_wallet_auto_charges_total", "Completed bookings that were to be charged by themselves.", ("outcome",)
)
PAID_FOR = named("""
select case
  when exists (select from charges
    where chain_id = :chain_id::uuid and booking_id = :booking_id::uuid
      and (:deposit_id::uuid is null or authorization_id is distinct from :deposit_id::uuid)) then 'charged_before'
  when exists (select from authorizations where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid
    and status = 'authorized' and expires_at > :now::timestamptz and booking_id = :booking_id::uuid) then 'authorized'
  when exists (select from payments where chain_id = :chain_id::uuid and customer_id = :customer_id::uuid
    and booking_id = :booking_id::uuid and kind = 'sale') then 'paid_at_till'
end
""")

on = Subscriptions()
log = logs.logger(__name__)


@on(CustomerCreated)
async def customer_created(event: CustomerCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know the customer."""
    await keep_customer(unit, event.customer_id, event.card.home_branch_id, event.card.version)


@on(CustomerUpdated)
async def customer_updated(event: CustomerUpdated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know where the customer belongs now."""
    await keep_customer(unit, event.customer_id, event.card.home_branch_id, event.card.version)


@on(BranchCreated)
async def branch_created(event: BranchCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know the branch and its zone."""
    await keep_branch(unit, event.branch)


@on(BranchUpdated)
async def branch_updated(event: BranchUpdated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know the branch's zone as it is now."""
    await keep_branch(unit, event.branch)


@on(StaffCreated)
async def staff_created(event: StaffCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know that there is such a staff member."""
    await keep_known(unit, "staff", event.staff_id)


@on(ServiceCreated)
async def service_created(event: ServiceCreated, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know that there is such a service."""
    await keep_known(unit, "service", event.service_id)


@on(BookingHeld)
async def booking_held(event: BookingHeld, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know whom the booking is with, and where: a charge for it is credited so."""
    await keep_booking(unit, event.booking)


@on(BookingConfirmed)
async def booking_confirmed(event: BookingConfirmed, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know whom the booking is with, and where."""
    await keep_booking(unit, event.booking)


@on(BookingRescheduled)
async def booking_rescheduled(event: BookingRescheduled, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know whom the booking is with now."""
    await keep_booking(unit, event.booking)
    await deposit_requests.rescheduled(event.booking, unit)


@on(BookingReassigned)
async def booking_reassigned(event: BookingReassigned, meta: EventMeta, unit: Unit) -> None:  # noqa: ARG001
    """Know whom the booking is with now."""
    await keep_booking(unit, event.booking)


on(BookingDepositRequested)(deposit_requests.requested)
on(BookingDepositReleased)(deposit_requests.released)
on(BookingDepositKept)(deposit_requests.kept)


@on(BookingCompleted)
async def booking_completed(event: BookingCompleted, meta: EventMeta, unit: Unit) -> None:
    """Charge the booking's deposit, and the rest of its price where the chain's policy says so."""
    await keep_booking(unit, event.booking)
    deposit_id, by_deposit = await deposit_requests.completed(event.booking, unit)
    policy = await unit.one(POLICY)
    if policy is None or not policy["charge_on_completion"]:
        return
    recorded_afterwards = meta.time - meta.occurred_at > domain.AUTOMATIC_CHARGE_WITHIN
    outcome = (
        "recorded_afterwards"
        if recorded_afterwards
        else await charge_booking(unit, event.booking, deposit_id, by_deposit)
    )
    if outcome != "charged":
        log.info("completed booking not charged", booking_id=event.booking_id, outcome=outcome)
    unit.after_commit(AUTO_CHARGES.labels(outcome).inc)


async def charge_booking(unit: Unit, booking: Booking, deposit_id: str | None = None, by_deposit: int = 0) -> str:
    """Charge a booking's price unless it was paid for; answers `charged`, or why it was not.

    `by_deposit` of it, in minor units, was paid by the deposit that was set aside as the authorization `deposit_id`.
    """
    price = money(booking.price.amount - by_deposit, booking.price.currency)
    if price.amount <= 0:
        return "paid_by_deposit" if by_deposit else "free"
    # Under the lock of the wallet, so that a charge for this booking made at this moment is seen.
    wallet = await lock(unit, booking.customer_id)
    paid = await unit.value(
        PAID_FOR, booking_id=booking.id, customer_id=booking.customer_id, deposit_id=deposit_id, now=unit.now
    )
    if paid is not None:
        return str(paid)
    if wallet.available.total < price.amount:
        return "insufficient"
    subject = {
        "customer_id": booking.customer_id,
        "booking_id": booking.id,
        "branch_id": None,
        "staff_id": None,
        "service_id": None,
        "time_zone": booking.time_zone,
    }
    reason = booking.service_name or booking.id
    try:
        await charge(unit, subject, price, reason, automatic=True)
    except Refusal as refusal:
        return refusal.code.lower()
    return "charged"
