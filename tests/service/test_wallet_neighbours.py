"""Wallet beside the others: what was made a moment ago can be paid with, and what is not there is told by field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from foyer.access.v1 import access_pb2
from foyer.bookings.v1 import bookings_pb2
from foyer.common.v1.common_pb2 import Money
from foyer.customers.v1 import customers_pb2
from foyer.wallet.v1 import wallet_pb2 as pb

from chassis.access import Caller
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.access_calls import open_chain

PRICE = Money(amount=18_800, currency="CNY")


class Salon:
    """A chain with a branch, a staff member, a service and a customer, made through their owners a moment ago."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    async def open(self) -> Salon:
        _, self.owner = await open_chain(self.platform)
        branch = access_pb2.CreateBranchRequest(name="静安店", time_zone="Asia/Shanghai")
        self.branch = (await self.platform.call("access", "CreateBranch", branch, self.owner)).id
        service = bookings_pb2.CreateServiceRequest(name="剪发", duration_minutes=45, price=PRICE)
        self.service = (await self.platform.call("bookings", "CreateService", service, self.owner)).id
        staff = bookings_pb2.CreateStaffRequest(name="阿梅", branch_ids=[self.branch])
        self.staff = (await self.platform.call("bookings", "CreateStaff", staff, self.owner)).id
        customer = customers_pb2.CreateCustomerRequest(name="李雷", phone="13800001234", home_branch_id=self.branch)
        self.customer = (await self.platform.call("customers", "CreateCustomer", customer, self.owner)).id
        return self

    async def wallet(self, method: str, request: Any, caller: Caller | None = None) -> Any:
        return await self.platform.call("wallet", method, request, caller or self.owner)

    async def refused(self, method: str, request: Any, caller: Caller | None = None) -> tuple[str, list[str]]:
        with pytest.raises(Refusal) as told:
            await self.wallet(method, request, caller)
        return told.value.code, [error.field for error in told.value.errors]

    def charge(self, **more: Any) -> pb.ChargeWalletRequest:
        given = {"customer_id": self.customer, "amount": Money(amount=100, currency="CNY"), "reason": "剪发"}
        return pb.ChargeWalletRequest(**{**given, **more})

    async def top_up(self) -> None:
        request = pb.TopUpRequest(
            customer_id=self.customer, amount=Money(amount=50_000, currency="CNY"), method=pb.PAYMENT_METHOD_CASH
        )
        await self.wallet("TopUp", request)


@pytest.fixture
async def salon(platform: Platform) -> Salon:
    return await Salon(platform).open()


async def test_what_was_made_a_moment_ago_can_be_paid_with(salon: Salon) -> None:
    assert (await salon.wallet("GetWallet", pb.GetWalletRequest(customer_id=salon.customer))).total.amount == 0
    await salon.top_up()
    credited = {"branch_id": salon.branch, "staff_id": salon.staff, "service_id": salon.service}
    charge = await salon.wallet("ChargeWallet", salon.charge(**credited))
    assert {name: getattr(charge, name) for name in credited} == credited


async def test_what_is_not_there_is_told_by_its_field(salon: Salon) -> None:
    await salon.top_up()
    for name in ("customer_id", "branch_id", "staff_id", "service_id", "booking_id"):
        assert await salon.refused("ChargeWallet", salon.charge(**{name: new_id()})) == ("NOT_FOUND", [name])
    nobody = new_id()
    for method, request in (
        ("GetWallet", pb.GetWalletRequest(customer_id=nobody)),
        ("ListEntries", pb.ListEntriesRequest(customer_id=nobody)),
        ("GetStatement", pb.GetStatementRequest(customer_id=nobody)),
        ("ListPayments", pb.ListPaymentsRequest(customer_id=nobody)),
    ):
        assert await salon.refused(method, request) == ("NOT_FOUND", ["customer_id"])
    assert await salon.refused("ListPayments", pb.ListPaymentsRequest(branch_id=nobody)) == ("NOT_FOUND", ["branch_id"])


async def test_another_chain_cannot_use_what_is_there(platform: Platform, salon: Salon) -> None:
    stranger = await Salon(platform).open()
    await stranger.top_up()
    others = {"customer_id": salon.customer, "branch_id": salon.branch, "staff_id": salon.staff}
    for name, value in {**others, "service_id": salon.service}.items():
        assert await stranger.refused("ChargeWallet", stranger.charge(**{name: value})) == ("NOT_FOUND", [name])
    assert await stranger.refused("GetWallet", pb.GetWalletRequest(customer_id=salon.customer)) == (
        "NOT_FOUND",
        ["customer_id"],
    )


async def test_a_charge_for_a_booking_is_credited_as_the_booking_says(platform: Platform, salon: Salon) -> None:
    await salon.top_up()
    starts_at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=30)
    request = bookings_pb2.RecordBookingRequest(
        branch_id=salon.branch,
        service_id=salon.service,
        customer_id=salon.customer,
        staff_id=salon.staff,
        starts_at=starts_at,  # type: ignore[arg-type]
        price=PRICE,
        status=bookings_pb2.BOOKING_STATUS_COMPLETED,
    )
    booking = await platform.call("bookings", "RecordBooking", request, salon.owner)
    charge = await salon.wallet("ChargeWallet", salon.charge(booking_id=booking.id))
    assert (charge.branch_id, charge.staff_id, charge.service_id) == (salon.branch, salon.staff, salon.service)
    await platform.settle(salon.owner.chain_id)
    report = await salon.wallet("VerifyBooks", pb.VerifyBooksRequest())
    assert report.balanced
