"""The chain's rules, and what changing a booking costs by those it was sold under."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import policies_pb2
from foyer.bookings.v1.policies_pb2 import ChangePolicy, ChannelRule, ChannelRules, Fee, NoticeTier

from chassis.access import Caller
from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp, yuan
from tools.servers import Servers

PRICE = 20000
CHANGE = ChangePolicy(
    cancellation=[NoticeTier(notice_minutes=1440), NoticeTier(notice_minutes=120, fee=Fee(percent=25))],
    late_fee=Fee(percent=50),
    no_show_fee=Fee(amount=yuan(8000)),
    rescheduling=[NoticeTier(notice_minutes=720)],
    late_rescheduling_fee=Fee(amount=yuan(1500)),
)


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_changes") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open(2, price=yuan(PRICE))
    opened.caller = dataclasses.replace(opened.caller, grants={**opened.caller.grants, "bookings.override": "*"})
    yield opened
    await opened.check_time()


def update(**changes: Any) -> policies_pb2.UpdateBookingPolicyRequest:
    return policies_pb2.UpdateBookingPolicyRequest(**changes)


async def policy_of(shop: Shop) -> policies_pb2.BookingPolicy:
    policy: policies_pb2.BookingPolicy = await shop.call("GetBookingPolicy", policies_pb2.GetBookingPolicyRequest())
    return policy


async def terms_of(shop: Shop, booking: pb.Booking) -> policies_pb2.ChangeTerms:
    request = policies_pb2.GetChangeTermsRequest(id=booking.id)
    terms: policies_pb2.ChangeTerms = await shop.call("GetChangeTerms", request)
    return terms


def clerk(shop: Shop, **more: Any) -> Caller:
    """Somebody at the desk who may not override."""
    grants = dict.fromkeys(("bookings.read", "bookings.write"), "*")
    return shop.platform.owner(shop.caller.chain_id, grants={**grants, **more})


def cancel(booking: pb.Booking, fee: int | None = None, **more: Any) -> pb.CancelBookingRequest:
    accepted = None if fee is None else yuan(fee)
    return pb.CancelBookingRequest(id=booking.id, accepted_fee=accepted, **more)


# --- the rules ---


async def test_the_rules_that_come_with_the_product_hold_until_they_are_changed(shop: Shop) -> None:
    first = await policy_of(shop)
    assert (first.slot_step_minutes, first.hold_minutes, first.horizon_days, first.version) == (15, 10, 400, 0)
    changed = await shop.call("UpdateBookingPolicy", update(hold_minutes=3, change=CHANGE), if_match=0)
    assert (changed.hold_minutes, changed.slot_step_minutes, changed.version) == (3, 15, 1)
    assert await policy_of(shop) == changed
    again = await shop.call("UpdateBookingPolicy", update(slot_step_minutes=30))
    assert (again.hold_minutes, again.slot_step_minutes, again.change, again.version) == (3, 30, CHANGE, 2)
    held = await shop.book(at(1, 10), hold=True)
    assert held.expires_at.ToDatetime() == (NOW + timedelta(minutes=3)).replace(tzinfo=None)
    assert (await shop.starts(1))[:2] == ["10:00", "10:30"]


async def test_two_who_change_the_rules_at_once_do_not_overwrite_each_other(shop: Shop) -> None:
    await asyncio.gather(
        shop.call("UpdateBookingPolicy", update(hold_minutes=7)),
        shop.call("UpdateBookingPolicy", update(lead_minutes=30)),
        shop.call("UpdateBookingPolicy", update(channels=ChannelRules(rules=[ChannelRule(channel="web")]))),
    )
    policy = await policy_of(shop)
    assert (policy.hold_minutes, policy.lead_minutes, policy.version) == (7, 30, 3)
    assert [rule.channel for rule in policy.channels] == ["web"]
    refusal = await shop.refused("UpdateBookingPolicy", update(hold_minutes=8), if_match=2)
    assert (refusal.code, refusal.parameters["version"]) == ("PRECONDITION_FAILED", "3")
    emptied = await shop.call("UpdateBookingPolicy", update(channels=ChannelRules(), change=ChangePolicy()))
    assert not emptied.channels
    assert emptied.change == ChangePolicy()


async def test_all_that_is_wrong_in_the_rules_is_told_at_once(shop: Shop) -> None:
    wrong = update(
        slot_step_minutes=17,
        shortest_gap_minutes=3,
        channels=ChannelRules(rules=[ChannelRule(channel="web", slot_step_minutes=7), ChannelRule(channel="web")]),
        change=ChangePolicy(
            cancellation=[
                NoticeTier(notice_minutes=60, fee=Fee()),
                NoticeTier(notice_minutes=60, fee=Fee(percent=10, amount=yuan(1))),
            ],
            late_fee=Fee(amount=yuan(5, "USD")),
            no_show_fee=Fee(amount=yuan(-1)),
            rescheduling=[NoticeTier(notice_minutes=10), NoticeTier(notice_minutes=20)],
        ),
    )
    refusal = await shop.refused("UpdateBookingPolicy", wrong)
    assert [error.field for error in refusal.errors] == [
        "slot_step_minutes",
        "shortest_gap_minutes",
        "channels.rules[0].slot_step_minutes",
        "channels.rules[1].channel",
        "change.cancellation[0].fee",
        "change.cancellation[1].notice_minutes",
        "change.cancellation[1].fee",
        "change.rescheduling[1].notice_minutes",
        "change.late_fee.amount.currency",
        "change.no_show_fee.amount.amount",
    ]
    assert all(error.message_zh for error in refusal.errors)


async def test_only_who_may_configure_everywhere_changes_the_rules(shop: Shop) -> None:
    for grants in ({"bookings.write": "*"}, {"bookings.configure": [shop.branch]}):
        caller = shop.platform.owner(shop.caller.chain_id, grants=grants)
        refusal = await shop.refused("UpdateBookingPolicy", update(hold_minutes=3), caller=caller)
        assert refusal.code == "PERMISSION_DENIED"
    other = shop.platform.owner()
    await shop.call("UpdateBookingPolicy", update(hold_minutes=55), other)
    assert (await policy_of(shop)).hold_minutes == 10


# --- fees ---


async def test_without_rules_nothing_costs_anything(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    terms = await terms_of(shop, booking)
    assert (terms.can_cancel, terms.can_move, terms.customer_can_move) == (True, True, True)
    assert (terms.cancel_fee, terms.move_fee, terms.no_show_fee) == (yuan(0), yuan(0), yuan(0))
    cancelled = await shop.call("CancelBooking", cancel(booking))
    assert not cancelled.HasField("fee")


async def test_a_fee_that_is_due_must_be_accepted_as_it_is(shop: Shop) -> None:
    await shop.call("UpdateBookingPolicy", update(change=CHANGE))
    booking = await shop.book(at(2, 10))
    assert (await terms_of(shop, booking)).cancel_fee == yuan(0)
    shop.clock.advance(at(2, 0) - shop.clock.now())
    terms = await terms_of(shop, booking)
    assert [(step.until.seconds, step.fee.amount) for step in terms.cancellation] == [
        (int(at(2, 8).timestamp()), PRICE // 4),
        (0, PRICE // 2),
    ]
    for wrong in (cancel(booking), cancel(booking, 0), cancel(booking, PRICE // 2)):
        refusal = await shop.refused("CancelBooking", wrong)
        assert refusal.code == "FEE_DUE"
        assert refusal.members["terms"]["cancel_fee"] == {"amount": PRICE // 4, "currency": "CNY"}
        assert refusal.members["terms"]["booking_id"] == booking.id
    dollars = pb.CancelBookingRequest(id=booking.id, accepted_fee=yuan(PRICE // 4, "USD"))
    assert (await shop.refused("CancelBooking", dollars)).code == "FEE_DUE"
    cancelled = await shop.call("CancelBooking", cancel(booking, PRICE // 4), clerk(shop))
    assert cancelled.fee == yuan(PRICE // 4)
    event = (await shop.events(booking.id))[-1][0]
    assert (event.fee, event.HasField("waived_fee")) == (yuan(PRICE // 4), False)


async def test_the_terms_of_the_day_it_was_sold_hold(shop: Shop) -> None:
    before = await shop.book(at(1, 10))
    await shop.call("UpdateBookingPolicy", update(change=ChangePolicy(late_fee=Fee(percent=100))))
    after = await shop.book(at(1, 12))
    assert (await terms_of(shop, before)).cancel_fee == yuan(0)
    assert (await terms_of(shop, after)).cancel_fee == yuan(PRICE)
    await shop.call("UpdateBookingPolicy", update(change=ChangePolicy()))
    assert (await shop.refused("CancelBooking", cancel(after))).code == "FEE_DUE"
    await shop.call("CancelBooking", cancel(before))
    # A hold was never agreed.
    await shop.call("UpdateBookingPolicy", update(change=CHANGE))
    held = await shop.book(at(0, 14), hold=True)
    await shop.call("CancelBooking", cancel(held))


async def test_who_may_override_waives_a_fee_and_that_is_written_down(shop: Shop) -> None:
    await shop.call("UpdateBookingPolicy", update(change=CHANGE))
    booking = await shop.book(at(0, 14))
    waived = cancel(booking, waive_fee_reason="she is ill")
    assert (await shop.refused("CancelBooking", waived, caller=clerk(shop))).code == "PERMISSION_DENIED"
    elsewhere = clerk(shop, **{"bookings.override": [new_id()]})
    assert (await shop.refused("CancelBooking", waived, caller=elsewhere)).code == "PERMISSION_DENIED"
    cancelled = await shop.call("CancelBooking", waived)
    assert (cancelled.fee_waived_reason, cancelled.HasField("fee")) == ("she is ill", False)
    event = (await shop.events(booking.id))[-1][0]
    assert (event.waived_fee, event.fee_waived_reason) == (yuan(PRICE // 4), "she is ill")


async def test_not_coming_costs_and_may_be_waived(shop: Shop) -> None:
    await shop.call("UpdateBookingPolicy", update(change=CHANGE))
    missed, forgiven = await shop.book(at(0, 10), 0), await shop.book(at(0, 10), 1)
    shop.clock.advance(timedelta(hours=3))
    told = await shop.call("MarkNoShow", pb.MarkNoShowRequest(id=missed.id), clerk(shop))
    assert told.fee == yuan(8000)
    assert (await shop.events(missed.id))[-1][0].fee == yuan(8000)
    waive = pb.MarkNoShowRequest(id=forgiven.id, waive_fee_reason="the train stood still")
    assert (await shop.refused("MarkNoShow", waive, caller=clerk(shop))).code == "PERMISSION_DENIED"
    told = await shop.call("MarkNoShow", waive)
    assert (told.HasField("fee"), told.fee_waived_reason) == (False, "the train stood still")


async def test_moving_late_costs_and_fees_add_up(shop: Shop) -> None:
    await shop.call("UpdateBookingPolicy", update(change=CHANGE))
    booking = await shop.book(at(0, 14))
    move = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(0, 15)))
    refusal = await shop.refused("RescheduleBooking", move)
    assert (refusal.code, refusal.members["terms"]["move_fee"]["amount"]) == ("FEE_DUE", 1500)
    move.accepted_fee.CopyFrom(yuan(1500))
    moved = await shop.call("RescheduleBooking", move)
    assert (moved.fee, moved.change_count) == (yuan(1500), 1)
    assert (await shop.events(booking.id))[-1][0].fee == yuan(1500)
    assert (await terms_of(shop, moved)).fee == yuan(1500)
    cancelled = await shop.call("CancelBooking", cancel(booking, PRICE // 4))
    assert cancelled.fee == yuan(1500 + PRICE // 4)


async def test_staff_are_not_bound_by_what_customers_are(shop: Shop) -> None:
    await shop.call("UpdateBookingPolicy", update(change=ChangePolicy(most_changes=0, change_notice_minutes=10000)))
    booking = await shop.book(at(1, 10))
    terms = await terms_of(shop, booking)
    assert (terms.can_move, terms.customer_can_move, terms.moves_left) == (True, False, 0)
    await shop.call("RescheduleBooking", pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 12))))


async def test_terms_belong_to_the_chain_and_the_branch(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    request = policies_pb2.GetChangeTermsRequest(id=booking.id)
    assert (await shop.refused("GetChangeTerms", request, caller=shop.platform.owner())).code == "NOT_FOUND"
    away = shop.platform.owner(shop.caller.chain_id, grants={"bookings.read": [new_id()]})
    assert (await shop.refused("GetChangeTerms", request, caller=away)).code == "PERMISSION_DENIED"


async def test_one_of_two_who_cancel_at_once_pays(shop: Shop) -> None:
    await shop.call("UpdateBookingPolicy", update(change=CHANGE))
    booking = await shop.book(at(0, 14))
    answers = await asyncio.gather(
        *(shop.call("CancelBooking", cancel(booking, PRICE // 4)) for _ in range(4)), return_exceptions=True
    )
    assert sum(not isinstance(answer, Refusal) for answer in answers) == 1
    assert (await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id))).fee == yuan(PRICE // 4)
