"""Deposits by events: whatever comes late, twice or out of order, in the end both are there, or neither is."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1.policies_pb2 import BookingDepositReleased, ChangePolicy, Fee, GetChangeTermsRequest
from foyer.wallet.v1 import wallet_pb2

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.inbox import EventMeta
from chassis.memory_bus import MemoryBus, Trouble
from chassis.testing import Platform
from services.bookings.jobs import expire_holds
from services.wallet import deposit_requests
from services.wallet.jobs import expire as expire_authorizations
from tests.service.bookings_shop import NOW, at, stamp, yuan
from tests.service.deposits_shop import DEPOSIT, PRICE, DepositShop, both
from tools.servers import Servers

KEEPS = ChangePolicy(late_fee=Fee(percent=10), no_show_fee=Fee(percent=50), deposit_kept_notice_minutes=120)
ROUNDS = 40


@pytest.fixture(scope="module")
async def flowing(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    """Events flow by themselves, some twice, some after a publish that was not answered."""
    bus = MemoryBus(7, Trouble(drop=0.1, double=0.3, reorder=0.5))
    await bus.connect()
    async with both(servers, "deposits_flow", bus) as started:
        yield started


@pytest.fixture(scope="module")
async def still(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    """The bus is away: events are carried by hand."""
    async with both(servers, "deposits_still", MemoryBus()) as started:
        yield started


@pytest.fixture
async def shop(flowing: tuple[Platform, FrozenClock]) -> AsyncIterator[DepositShop]:
    platform, clock = flowing
    clock.advance(NOW - clock.now())
    opened = await DepositShop(platform, clock).open()
    yield opened
    await opened.check_time()
    await opened.check_books()


@pytest.fixture
async def slow(still: tuple[Platform, FrozenClock]) -> AsyncIterator[DepositShop]:
    platform, clock = still
    clock.advance(NOW - clock.now())
    opened = await DepositShop(platform, clock).open()
    yield opened
    await opened.check_time()
    await opened.check_books()


# --- as it should go ---


async def test_a_booking_is_confirmed_once_its_deposit_is_set_aside(shop: DepositShop) -> None:
    booking = await shop.ask(at(1, 10))
    assert (booking.status, booking.deposit_status) == (pb.BOOKING_STATUS_HELD, pb.DEPOSIT_STATUS_PENDING)
    assert booking.expires_at.ToDatetime() == (shop.clock.now() + timedelta(minutes=10)).replace(tzinfo=None)
    await shop.settle()
    assert await shop.stands(booking.id) == ("confirmed", "authorized")
    assert await shop.money() == (100_000, DEPOSIT)
    assert await shop.told(booking.id) == ["BookingHeld", "BookingConfirmed"]
    assert not (await shop.read(booking.id)).HasField("expires_at")


async def test_a_hold_asks_for_it_when_it_is_confirmed(slow: DepositShop) -> None:
    shop = slow
    booking = await shop.ask(at(1, 10), hold=True)
    await shop.carry_all()
    assert await shop.stands(booking.id) == ("held", "due")
    assert await shop.money() == (100_000, 0)
    shop.clock.advance(timedelta(minutes=9))
    confirm = pb.ConfirmBookingRequest(id=booking.id)
    asked, again = await asyncio.gather(shop.call("ConfirmBooking", confirm), shop.call("ConfirmBooking", confirm))
    assert asked == again
    assert asked.status == pb.BOOKING_STATUS_HELD
    assert asked.expires_at.ToDatetime() == (shop.clock.now() + timedelta(minutes=10)).replace(tzinfo=None)
    assert [each.type for each in await shop.waiting("wallet")].count("booking.deposit_requested") == 1
    await shop.carry_all()
    assert await shop.stands(booking.id) == ("confirmed", "authorized")
    assert await shop.money() == (100_000, DEPOSIT)


async def test_without_money_the_time_is_free_again(shop: DepositShop) -> None:
    poor = shop.crowd[0]
    booking = await shop.book(at(1, 10), 0, customer_id=poor)
    await shop.settle()
    assert await shop.stands(booking.id) == ("cancelled", "refused")
    assert (await shop.read(booking.id)).cancel_reason == "deposit refused: insufficient_funds"
    await shop.top_up(poor, DEPOSIT)
    again = await shop.book(at(1, 10), 0, customer_id=poor)
    await shop.settle()
    assert await shop.stands(again.id) == ("confirmed", "authorized")


async def test_it_may_be_waived_by_who_may(shop: DepositShop) -> None:
    waived = await shop.book(at(1, 10), waive_deposit_reason="an old friend")
    assert (waived.status, waived.deposit_status) == (pb.BOOKING_STATUS_CONFIRMED, pb.DEPOSIT_STATUS_NONE)
    assert waived.deposit_waived_reason == "an old friend"
    grants = {name: "*" for name in shop.caller.grants if name != "bookings.override"}
    clerk = shop.platform.owner(shop.caller.chain_id, grants=grants)
    with pytest.raises(Refusal, match="PERMISSION_DENIED"):
        await shop.call("CreateBooking", shop.request(at(1, 11), waive_deposit_reason="a friend"), clerk)


async def test_nothing_is_asked_where_the_chain_does_not_collect(shop: DepositShop) -> None:
    await shop.set_policy(collect_deposits=False)
    booking = await shop.ask(at(1, 10))
    await shop.settle()
    assert await shop.stands(booking.id) == ("confirmed", "none")
    assert booking.deposit == yuan(DEPOSIT)
    assert await shop.money() == (100_000, 0)


async def confirmed(shop: DepositShop, hours: int = 10) -> pb.Booking:
    booking = await shop.ask(at(1, hours))
    await shop.settle()
    assert await shop.stands(booking.id) == ("confirmed", "authorized")
    return await shop.read(booking.id)


async def test_cancelling_gives_it_back(shop: DepositShop) -> None:
    booking = await confirmed(shop)
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=booking.id))
    await shop.settle()
    assert await shop.stands(booking.id) == ("cancelled", "released")
    assert await shop.money() == (100_000, 0)


async def test_a_late_fee_is_taken_from_it_and_the_rest_given_back(shop: DepositShop) -> None:
    await shop.set_policy(change=ChangePolicy(late_fee=Fee(percent=10)))
    booking = await confirmed(shop)
    cancel = pb.CancelBookingRequest(id=booking.id, accepted_fee=yuan(PRICE // 10))
    await shop.call("CancelBooking", cancel)
    await shop.settle()
    assert await shop.stands(booking.id) == ("cancelled", "kept")
    assert await shop.money() == (100_000 - PRICE // 10, 0)
    assert (await shop.read(booking.id)).fee == yuan(PRICE // 10)


async def test_a_fee_takes_no_more_than_the_deposit(shop: DepositShop) -> None:
    await shop.set_policy(change=ChangePolicy(late_fee=Fee(percent=80)))
    booking = await confirmed(shop)
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=booking.id, accepted_fee=yuan(PRICE * 8 // 10)))
    await shop.settle()
    assert await shop.money() == (100_000 - DEPOSIT, 0)
    assert (await shop.read(booking.id)).fee == yuan(PRICE * 8 // 10)


async def test_who_does_not_come_or_cancels_too_late_leaves_it(shop: DepositShop) -> None:
    await shop.set_policy(change=KEEPS)
    missed, late = await confirmed(shop, 11), await confirmed(shop, 14)
    shop.clock.advance(at(1, 13) - shop.clock.now())
    no_show = await shop.call("MarkNoShow", pb.MarkNoShowRequest(id=missed.id))
    assert (no_show.fee, no_show.deposit_status) == (yuan(PRICE // 2), pb.DEPOSIT_STATUS_KEPT)
    refusal = await shop.refused("CancelBooking", pb.CancelBookingRequest(id=late.id))
    assert (refusal.code, refusal.members["terms"]["cancel_fee"]["amount"]) == ("FEE_DUE", DEPOSIT)
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=late.id, accepted_fee=yuan(DEPOSIT)))
    await shop.settle()
    assert await shop.stands(missed.id) == ("no_show", "kept")
    assert await shop.money() == (100_000 - 2 * DEPOSIT, 0)


async def test_a_waived_fee_gives_it_back(shop: DepositShop) -> None:
    await shop.set_policy(change=KEEPS)
    booking = await confirmed(shop)
    shop.clock.advance(at(1, 9) - shop.clock.now())
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=booking.id, waive_fee_reason="we closed early"))
    await shop.settle()
    assert await shop.stands(booking.id) == ("cancelled", "released")
    assert await shop.money() == (100_000, 0)
    event = next(event for event, _ in await shop.events(booking.id) if isinstance(event, pb.BookingCancelled))
    assert (event.waived_fee, event.fee_waived_reason) == (yuan(DEPOSIT), "we closed early")
    assert not event.HasField("fee")


# --- when the service is done ---


async def complete(shop: DepositShop, booking: pb.Booking) -> None:
    shop.clock.advance(at(1, 12) - shop.clock.now())
    await shop.call("CompleteBooking", pb.CompleteBookingRequest(id=booking.id))
    await shop.settle()


async def test_it_pays_for_a_part_of_the_service_and_the_rest_is_charged(shop: DepositShop) -> None:
    await shop.wallet("UpdateWalletPolicy", wallet_pb2.UpdateWalletPolicyRequest(charge_on_completion=True))
    booking = await confirmed(shop)
    await complete(shop, booking)
    assert await shop.stands(booking.id) == ("completed", "captured")
    assert await shop.money() == (100_000 - PRICE, 0)


async def test_where_nothing_is_charged_by_itself_it_alone_is(shop: DepositShop) -> None:
    booking = await confirmed(shop)
    await complete(shop, booking)
    assert await shop.stands(booking.id) == ("completed", "captured")
    assert await shop.money() == (100_000 - DEPOSIT, 0)


@pytest.mark.parametrize(("paid", "left"), [(PRICE, 0), (PRICE - 2000, 2000), (1000, DEPOSIT)])
async def test_what_was_paid_otherwise_is_not_taken_again(shop: DepositShop, paid: int, left: int) -> None:
    await shop.wallet("UpdateWalletPolicy", wallet_pb2.UpdateWalletPolicyRequest(charge_on_completion=True))
    booking = await confirmed(shop)
    payment = wallet_pb2.RecordPaymentRequest(
        kind=wallet_pb2.PAYMENT_KIND_SALE,
        amount=yuan(paid),
        method=wallet_pb2.PAYMENT_METHOD_CASH,
        branch_id=shop.branch,
        customer_id=shop.customer,
        booking_id=booking.id,
        description="at the till",
    )
    await shop.wallet("RecordPayment", payment)
    await complete(shop, booking)
    assert await shop.stands(booking.id) == ("completed", "captured" if left else "released")
    assert await shop.money() == (100_000 - left, 0)


async def test_the_desk_may_let_it_go_by_hand_and_bookings_knows(shop: DepositShop) -> None:
    booking = await confirmed(shop)
    authorization = await authorization_of(shop, booking)
    await shop.wallet("VoidAuthorization", wallet_pb2.VoidAuthorizationRequest(id=authorization))
    await shop.settle()
    assert await shop.stands(booking.id) == ("confirmed", "released")
    await complete(shop, booking)
    assert await shop.money() == (100_000, 0)


async def authorization_of(shop: DepositShop, booking: pb.Booking) -> str:
    async with shop.platform["wallet"].context.system_store.pool.acquire() as connection:
        body = await connection.fetchval(
            "select body from outbox where chain_id = $1 and subject = 'deposit.authorized' and aggregate_id = $2",
            shop.caller.chain_id,
            booking.id,
        )
    return wallet_pb2.DepositAuthorized.FromString(body).authorization_id


async def test_it_stays_set_aside_until_long_after_the_booking_that_moved(shop: DepositShop) -> None:
    booking = await confirmed(shop)
    await shop.call("RescheduleBooking", pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(100, 10))))
    await shop.settle()
    shop.clock.advance(timedelta(days=120))
    await expire_authorizations(shop.platform["wallet"].context)
    await shop.settle()
    assert await shop.money() == (100_000, DEPOSIT)
    shop.clock.advance(timedelta(days=30))
    await expire_authorizations(shop.platform["wallet"].context)
    await shop.settle()
    assert await shop.stands(booking.id) == ("confirmed", "released")
    assert await shop.money() == (100_000, 0)


# --- as it should not go ---


async def test_the_wallet_answers_after_the_hold_ran_out(slow: DepositShop) -> None:
    booking = await slow.ask(at(1, 10), staff=0)
    await slow.carry_one("wallet", "booking.held")
    await slow.carry_one("wallet", "booking.deposit_requested")
    slow.clock.advance(timedelta(minutes=11))
    # Nobody has tidied up yet: somebody else wants the time, and gets it.
    other = await slow.book(at(1, 10), 0, waive_deposit_reason="quick")
    assert other.status == pb.BOOKING_STATUS_CONFIRMED
    assert await slow.money() == (100_000, DEPOSIT)
    await slow.carry_all()
    assert await slow.stands(booking.id) == ("expired", "released")
    assert await slow.money() == (100_000, 0)


async def test_the_answer_itself_expires_a_hold_nobody_tidied(slow: DepositShop) -> None:
    booking = await slow.ask(at(1, 10))
    await slow.carry_one("wallet", "booking.held")
    await slow.carry_one("wallet", "booking.deposit_requested")
    slow.clock.advance(timedelta(minutes=10))
    await slow.carry_all()
    assert await slow.stands(booking.id) == ("expired", "released")
    assert await slow.told(booking.id) == ["BookingHeld", "BookingExpired"]
    assert await slow.check_time() == 0


async def test_it_is_cancelled_while_the_wallet_thinks(slow: DepositShop) -> None:
    booking = await slow.ask(at(1, 10))
    await slow.carry_one("wallet", "booking.held")
    requested = await slow.carry_one("wallet", "booking.deposit_requested")
    await slow.call("CancelBooking", pb.CancelBookingRequest(id=booking.id))
    authorized = await slow.carry_one("bookings", "deposit.authorized")
    await slow.carry_all()
    # Everything once more.
    await slow.carry("bookings", authorized)
    await slow.carry("wallet", requested)
    await slow.carry_all()
    assert await slow.stands(booking.id) == ("cancelled", "released")
    assert await slow.money() == (100_000, 0)


async def test_a_request_that_comes_after_its_end_sets_nothing_aside(slow: DepositShop) -> None:
    booking = await slow.ask(at(1, 10))
    await slow.carry_one("wallet", "booking.held")
    requested = next(each for each in await slow.waiting("wallet") if each.type == "booking.deposit_requested")
    await slow.call("CancelBooking", pb.CancelBookingRequest(id=booking.id))
    async with slow.platform["wallet"].context.store.unit(slow.system("wallet")) as unit:
        event = BookingDepositReleased(booking_id=booking.id, customer_id=slow.customer)
        await deposit_requests.released(event, EventMeta("", "", "", "", NOW, NOW, None), unit)
    await slow.carry("wallet", requested)
    assert await slow.money() == (100_000, 0)
    await slow.carry_all()
    assert await slow.stands(booking.id) == ("cancelled", "refused")


async def test_a_refusal_after_the_end_changes_nothing(slow: DepositShop) -> None:
    booking = await slow.book(at(1, 10), customer_id=slow.crowd[0])
    await slow.carry_one("wallet", "booking.held")
    await slow.carry_one("wallet", "booking.deposit_requested")
    slow.clock.advance(timedelta(minutes=11))
    await expire_holds(slow.platform["bookings"].context)
    await slow.carry_all()
    assert await slow.stands(booking.id) == ("expired", "refused")


# --- at each step, in any order ---

STEPS = {
    "ConfirmBooking": pb.ConfirmBookingRequest,
    "RenewHold": pb.RenewHoldRequest,
    "CompleteBooking": pb.CompleteBookingRequest,
    "MarkNoShow": pb.MarkNoShowRequest,
}


async def disturb(shop: DepositShop, chance: random.Random, booking: str, day: int) -> None:
    """Something happens, or some event arrives at last, perhaps once more."""
    what = chance.random()
    if what < 0.55:
        to = chance.choice(("wallet", "bookings"))
        events = await shop.waiting(to)
        if events:
            await shop.carry(to, *[chance.choice(events)] * chance.choice((1, 1, 2)))
    elif what < 0.63:
        shop.clock.advance(timedelta(minutes=chance.randint(1, 12)))
    elif what < 0.66:
        shop.clock.advance(at(day, 9) - shop.clock.now())
    elif what < 0.72:
        await expire_holds(shop.platform["bookings"].context)
    elif what < 0.80:
        terms = await shop.call("GetChangeTerms", GetChangeTermsRequest(id=booking))
        await shop.step("CancelBooking", pb.CancelBookingRequest(id=booking, accepted_fee=terms.cancel_fee))
    elif what < 0.88:
        starts_at = stamp(at(day, chance.randint(10, 16)))
        await shop.step("RescheduleBooking", pb.RescheduleBookingRequest(id=booking, starts_at=starts_at))
    else:
        name = chance.choice(list(STEPS))
        await shop.step(name, STEPS[name](id=booking))


@pytest.mark.parametrize("money", [100_000, 0])
async def test_it_ends_closed_however_it_is_interrupted(still: tuple[Platform, FrozenClock], money: int) -> None:
    platform, clock = still
    clock.advance(NOW - clock.now())
    shop = await DepositShop(platform, clock).open(1, 0, change=KEEPS)
    ends: Counter[tuple[str, str]] = Counter()
    for number in range(ROUNDS):
        chance, day = random.Random(number), number + 1
        shop.customer = shop.crowd[number]
        await shop.top_up(shop.customer, money)
        clock.advance(at(day - 1, 9) - clock.now())
        booking = await shop.ask(at(day, 10), hold=chance.random() < 0.3)
        await shop.carry_one("wallet", "booking.held")
        for _ in range(chance.randint(1, 16)):
            await disturb(shop, chance, booking.id, day)
        await shop.carry_all(chance)
        clock.advance(timedelta(minutes=15))
        await expire_holds(platform["bookings"].context)
        await shop.carry_all(chance)
        ends[await check_end(shop, booking.id, money)] += 1
    assert len(ends) >= (5 if money else 3), ends
    assert await shop.check_time() == sum(count for (status, _), count in ends.items() if status == "confirmed")
    await shop.check_books()


async def check_end(shop: DepositShop, identifier: str, money: int) -> tuple[str, str]:
    """Confirmed with the deposit set aside, or not confirmed and nothing set aside; nothing was taken twice."""
    booking = await shop.read(identifier)
    status, deposit = await shop.stands(identifier)
    left, held = await shop.money()
    if status == "confirmed":
        assert (deposit, held, left) == ("authorized", DEPOSIT, money)
        return status, deposit
    assert status in ("cancelled", "expired", "completed", "no_show")
    taken = {"kept": min(DEPOSIT, booking.fee.amount), "captured": DEPOSIT}.get(deposit, 0)
    assert (held, money - left) == (0, taken), (status, deposit)
    assert deposit in ("released", "refused", "kept", "captured", "none", "due")
    return status, deposit
