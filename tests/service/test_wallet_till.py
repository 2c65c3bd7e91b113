"""Payments at the till, and completed bookings that wallet charges by itself, against real PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1.bookings_pb2 import Booking, BookingCompleted
from foyer.wallet.v1 import wallet_pb2 as pb

from chassis.clock import FrozenClock
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.wallet_shop import BRANCH_ZONE, NOW, Shop, wallet_alone, yuan
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with wallet_alone(servers, "wallet_till") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> Shop:
    return await Shop(*alone).open()


def fields(refusal: Any) -> list[str]:
    return [error.field for error in refusal.errors]


# --- the till --------------------------------------------------------------------------------------


def payment(shop: Shop, **more: Any) -> pb.RecordPaymentRequest:
    given: dict[str, Any] = {
        "kind": pb.PAYMENT_KIND_SALE,
        "amount": yuan(1_000),
        "method": pb.PAYMENT_METHOD_CARD,
        "branch_id": shop.branch,
        "description": "Shampoo",
    }
    return pb.RecordPaymentRequest(**{**given, **more})


async def test_payments_are_recorded_posted_and_told(shop: Shop) -> None:
    sale = await shop.call("RecordPayment", payment(shop, tax=yuan(130), booking_id=shop.booking))
    assert (sale.staff_id, sale.service_id, sale.tax) == (shop.staff, shop.service, yuan(130))
    refund = await shop.call("RecordPayment", payment(shop, kind=pb.PAYMENT_KIND_REFUND, customer_id=shop.customer))
    assert await shop.call("GetPayment", pb.GetPaymentRequest(id=sale.id)) == sale
    first, second = await shop.events(pb.PaymentRecorded)
    assert (first.payment, first.time_zone, second.payment) == (sale, BRANCH_ZONE, refund)
    assert (await shop.books()).posting_count == 5
    nothing = await shop.call("RecordPayment", payment(shop, amount=yuan(0)))
    assert nothing.amount == yuan(0)
    assert (await shop.books()).posting_count == 5


async def test_an_external_number_is_recorded_once(shop: Shop) -> None:
    request = payment(shop, external_id="R-17", occurred_at=datetime(2018, 3, 17, 15, tzinfo=UTC))
    answers = await asyncio.gather(*(shop.call("RecordPayment", request) for _ in range(8)))
    assert {answer.id for answer in answers} == {answers[0].id}
    assert answers[0].occurred_at.ToDatetime(tzinfo=UTC) == datetime(2018, 3, 17, 15, tzinfo=UTC)
    assert len(await shop.events(pb.PaymentRecorded)) == 1
    assert (await shop.books()).posting_count == 2


async def test_records_from_before_need_their_own_permission(shop: Shop) -> None:
    clerk = dataclasses.replace(shop.caller, grants={"payments.write": "*", "records.import": [new_id()]})
    before = payment(shop, occurred_at=NOW - timedelta(days=400))
    refusal = await shop.refused("RecordPayment", before, clerk)
    assert (refusal.code, refusal.parameters["permission"]) == ("PERMISSION_DENIED", "records.import")
    await shop.call("RecordPayment", payment(shop), clerk)
    future = payment(shop, occurred_at=shop.clock.now() + timedelta(minutes=1))
    assert fields(await shop.refused("RecordPayment", future)) == ["occurred_at"]
    wrong = payment(shop, amount=yuan(1, "USD"), tax=yuan(1, "EUR"))
    assert fields(await shop.refused("RecordPayment", wrong)) == ["amount.currency", "tax.currency"]


async def test_payments_are_listed_newest_first_by_filters_and_scope(shop: Shop) -> None:
    made = []
    for days in (3, 1, 2):
        occurred_at = shop.clock.now() - timedelta(days=days)
        customer = shop.customer if days == 1 else None
        made.append(await shop.call("RecordPayment", payment(shop, occurred_at=occurred_at, customer_id=customer)))
    expected = [made[1].id, made[2].id, made[0].id]
    first = await shop.call("ListPayments", pb.ListPaymentsRequest(page_size=2))
    rest = await shop.call("ListPayments", pb.ListPaymentsRequest(page_token=first.next_page_token))
    assert [found.id for found in (*first.payments, *rest.payments)] == expected
    mine = await shop.call("ListPayments", pb.ListPaymentsRequest(customer_id=shop.customer, branch_id=shop.branch))
    assert [found.id for found in mine.payments] == [made[1].id]
    stranger = dataclasses.replace(shop.caller, grants={"payments.read": [new_id()]})
    assert len((await shop.call("ListPayments", pb.ListPaymentsRequest(), stranger)).payments) == 0
    for token in ("nonsense", "WyJhIiwiYiJd"):
        assert fields(await shop.refused("ListPayments", pb.ListPaymentsRequest(page_token=token))) == ["page_token"]


# --- automatic charges -----------------------------------------------------------------------------


def completed(shop: Shop, amount: int = 300, **more: Any) -> BookingCompleted:
    given: dict[str, Any] = {
        "id": shop.booking,
        "customer_id": shop.customer,
        "branch_id": shop.branch,
        "staff_id": shop.staff,
        "service_id": shop.service,
        "price": yuan(amount),
        "service_name": "Cut",
        "time_zone": BRANCH_ZONE,
        "version": 5,
    }
    booking = Booking(**{**given, **more})
    return BookingCompleted(booking_id=booking.id, booking=booking)


async def test_completed_bookings_are_charged_once_where_the_policy_says_so(shop: Shop) -> None:
    await shop.top_up(1_000)
    await shop.hears(completed(shop))
    assert await shop.events(pb.WalletCharged) == []
    await shop.call("UpdateWalletPolicy", pb.UpdateWalletPolicyRequest(charge_on_completion=True))
    await shop.hears(completed(shop), occurred_at=shop.clock.now() - timedelta(days=2))
    assert await shop.events(pb.WalletCharged) == []
    for _ in range(2):
        await shop.hears(completed(shop))
    [event] = await shop.events(pb.WalletCharged)
    assert (event.amount, event.reason, event.booking_id, event.branch_id) == (
        yuan(300),
        "Cut",
        shop.booking,
        shop.branch,
    )
    assert (event.staff_id, event.service_id, event.time_zone) == (shop.staff, shop.service, BRANCH_ZONE)
    await shop.books()


async def test_a_completed_booking_that_cannot_or_need_not_be_charged_is_left(shop: Shop) -> None:
    await shop.call("UpdateWalletPolicy", pb.UpdateWalletPolicyRequest(charge_on_completion=True))
    await shop.hears(completed(shop))
    await shop.top_up(1_000)
    paid_by_hand, set_aside, paid_at_till, free, foreign = (new_id() for _ in range(5))
    for booking in (paid_by_hand, set_aside, paid_at_till):
        await shop.hears(completed(shop, 0, id=booking))
    await shop.charge(10, booking_id=paid_by_hand)
    await shop.authorize(10, booking_id=set_aside)
    await shop.call("RecordPayment", payment(shop, booking_id=paid_at_till, customer_id=shop.customer))
    for booking in (paid_by_hand, set_aside, paid_at_till):
        await shop.hears(completed(shop, 300, id=booking, version=6))
    await shop.hears(completed(shop, 0, id=free))
    await shop.hears(completed(shop, id=foreign, price=yuan(10, "USD")))
    assert len(await shop.events(pb.WalletCharged)) == 1
    await shop.books()
