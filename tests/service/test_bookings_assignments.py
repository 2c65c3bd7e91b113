"""Who does it: strategies that explain themselves, turns, offers that exactly one claims, and more time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import assignments_pb2, catalogue_pb2, classes_pb2, policies_pb2, resources_pb2
from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.clock import FrozenClock
from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.testing import Platform
from services.bookings.assignments.claims import advance_offers
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp
from tools.servers import Servers

SET_POLICY = prepare_sql(
    "insert into booking_policies (chain_id, policy, version) values ($1::uuid, $2::bytea, 1)"
    " on conflict (chain_id) do update set policy = excluded.policy",
    "chain_id",
    "policy",
)
SPOIL = prepare_sql(
    "update claim_offers set steps = '\\xff'::bytea where chain_id = $1::uuid and id = $2::uuid", "chain_id", "id"
)
OFFERS = prepare_sql("select body from outbox where subject = $2 and chain_id = $1::uuid", "chain_id", "subject")


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "assignments") as opened:
        yield opened


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> Shop:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    return await Shop(platform, clock).open()


async def use(shop: Shop, strategy: Any, **more: Any) -> None:
    """Choose people by a strategy from now on."""
    policy = policies_pb2.BookingPolicy(
        slot_step_minutes=15, horizon_days=400, hold_minutes=10, assignment=strategy, **more
    )
    async with shop.unit() as unit:
        await unit.run(SET_POLICY, policy=policy.SerializeToString())


def choice_of(booking: pb.Booking) -> pb.Assignment:
    return booking.lines[0].assignments[0]


# --- strategies ---


async def test_a_choice_explains_itself(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    first = await shop.book(at(1, 10))
    assert (choice_of(first).strategy, choice_of(first).score, choice_of(first).considered) == ("load", 0, 2)
    second = await shop.book(at(1, 11))
    assert second.staff_id != first.staff_id
    wanted = await shop.book(at(1, 12), staff=1)
    assert (choice_of(wanted).strategy, choice_of(wanted).chosen) == ("chosen", True)
    assert not choice_of(wanted).HasField("score")


async def test_the_highest_grade_comes_first(shop: Shop) -> None:
    best = catalogue_pb2.Qualification(skill="colour", grade=7)
    shop.staff.append(await shop.new_staff(skills=["colour"], qualifications=[best]))
    shop.staff.append(await shop.new_staff(skills=["colour"]))
    service_id = await shop.new_service(name="Colour", required_skills=["colour"])
    await use(shop, policies_pb2.ASSIGNMENT_STRATEGY_GRADE)
    found = [await shop.book(at(1, 10), service_id=service_id) for _ in range(2)]
    assert [booking.staff_id for booking in found] == shop.staff[1:]
    assert [choice_of(booking).score for booking in found] == [7, 1]


async def test_fairness_looks_back_over_its_period(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    for day in range(1, 5):
        await shop.book(at(day, 10), staff=0)
    await use(shop, policies_pb2.ASSIGNMENT_STRATEGY_FAIRNESS, fairness_days=28)
    # On the day itself nobody is busy: by load it would be who joined first.
    booking = await shop.book(at(8, 10))
    assert booking.staff_id == shop.staff[1]
    assert (choice_of(booking).strategy, choice_of(booking).score) == ("fairness", 0)
    await use(shop, policies_pb2.ASSIGNMENT_STRATEGY_FAIRNESS, fairness_days=2)
    later = await shop.book(at(12, 10))
    assert later.staff_id == shop.staff[0]


async def test_the_same_person_comes_first(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    before = await shop.book(at(1, 10), staff=1, customer_id=shop.customer)
    await use(shop, policies_pb2.ASSIGNMENT_STRATEGY_SAME_PERSON)
    again = await shop.book(at(3, 10), customer_id=shop.customer)
    assert again.staff_id == before.staff_id
    assert (choice_of(again).strategy, choice_of(again).score) == ("same_person", -2)
    new = await shop.book(at(3, 12))
    assert (new.staff_id, choice_of(new).strategy) == (shop.staff[0], "load")


# --- turns ---


def rota_ids(rota: assignments_pb2.Rota) -> list[str]:
    return [turn.staff_id for turn in rota.turns]


async def sign_in(shop: Shop, staff_id: str) -> assignments_pb2.Rota:
    request = assignments_pb2.SignInToRotaRequest(branch_id=shop.branch, staff_id=staff_id)
    rota: assignments_pb2.Rota = await shop.call("SignInToRota", request)
    return rota


async def test_turns_go_round_and_who_is_asked_for_keeps_theirs(shop: Shop) -> None:
    shop.staff += [await shop.new_staff() for _ in range(2)]
    await use(shop, policies_pb2.ASSIGNMENT_STRATEGY_ROTA)
    for staff_id in reversed(shop.staff):
        rota = await sign_in(shop, staff_id)
    assert rota_ids(rota) == shop.staff[::-1]
    assert rota_ids(await sign_in(shop, shop.staff[2])) == shop.staff[::-1]
    first = await shop.book(at(0, 10))
    assert (first.staff_id, choice_of(first).strategy) == (shop.staff[2], "rota")
    await shop.book(at(0, 12), staff=1)
    second = await shop.book(at(0, 14))
    assert second.staff_id == shop.staff[1]
    rota = await shop.call("GetRota", assignments_pb2.GetRotaRequest(branch_id=shop.branch))
    assert rota_ids(rota) == [shop.staff[0], shop.staff[2], shop.staff[1]]
    assert [(turn.turn_count, turn.chosen_count) for turn in rota.turns] == [(0, 0), (1, 0), (1, 1)]
    tomorrow = await shop.book(at(1, 10))
    assert choice_of(tomorrow).strategy == "load"


async def test_the_rota_can_be_ordered_and_left(shop: Shop) -> None:
    shop.staff += [await shop.new_staff() for _ in range(2)]
    for staff_id in shop.staff:
        await sign_in(shop, staff_id)
    order = assignments_pb2.OrderRotaRequest(branch_id=shop.branch, staff_ids=[shop.staff[2]])
    assert rota_ids(await shop.call("OrderRota", order)) == [shop.staff[2], *shop.staff[:2]]
    leave = assignments_pb2.SignOutOfRotaRequest(branch_id=shop.branch, staff_id=shop.staff[2])
    assert rota_ids(await shop.call("SignOutOfRota", leave)) == shop.staff[:2]
    refusal = await shop.refused("OrderRota", order)
    assert [(error.field, error.code) for error in refusal.errors] == [("staff_ids[0]", "absent")]
    nobody = assignments_pb2.SignInToRotaRequest(branch_id=shop.branch, staff_id=shop.customer)
    assert (await shop.refused("SignInToRota", nobody)).code == "NOT_FOUND"
    assert rota_ids(await sign_in(shop, shop.staff[2])) == shop.staff


async def test_a_busy_person_shows_as_such(shop: Shop) -> None:
    await sign_in(shop, shop.staff[0])
    booking = await shop.book(at(0, 10), staff=0)
    shop.clock.advance(timedelta(hours=2))
    await shop.call("StartBooking", pb.StartBookingRequest(id=booking.id))
    rota = await shop.call("GetRota", assignments_pb2.GetRotaRequest(branch_id=shop.branch))
    assert rota.turns[0].state == assignments_pb2.TURN_STATE_BUSY
    assert rota.turns[0].free_at == booking.ends_at


# --- more time ---


async def test_time_is_added_where_everybody_is_free(shop: Shop) -> None:
    add_on = await shop.new_service(
        name="Half an hour more", duration_minutes=30, add_on=catalogue_pb2.AddOnRules(only_with=True)
    )
    booking = await shop.book(at(1, 10), staff=0)
    await shop.book(at(1, 11, 30), staff=0)
    request = assignments_pb2.ExtendBookingRequest(id=booking.id, add_on_id=add_on)
    longer = await shop.call("ExtendBooking", request)
    assert longer.ends_at.seconds - booking.ends_at.seconds == 1800
    assert longer.price.amount == 2 * booking.price.amount
    assert list(longer.lines[0].add_on_ids) == [add_on]
    assert (await shop.refused("ExtendBooking", request)).code == "SLOT_TAKEN"
    assert (await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id))) == longer
    assert await shop.told(booking.id) == ["BookingConfirmed", "BookingExtended"]
    await shop.check_time()
    plain = assignments_pb2.ExtendBookingRequest(id=booking.id, add_on_id=shop.service)
    assert (await shop.refused("ExtendBooking", plain)).code == "NOT_BOOKABLE"
    # What was added moves with it.
    moved = pb.RescheduleBookingRequest(id=booking.id, starts_at=longer.starts_at)
    moved.starts_at.seconds += 86400
    again = await shop.call("RescheduleBooking", moved)
    assert again.ends_at.seconds - again.starts_at.seconds == 5400
    await shop.check_time()


async def test_a_hold_that_ran_out_is_not_in_the_way_of_more_time(shop: Shop) -> None:
    add_on = await shop.new_service(name="More", duration_minutes=30, add_on=catalogue_pb2.AddOnRules())
    booking = await shop.book(at(1, 10), staff=0)
    held = await shop.book(at(1, 11), staff=0, hold=True)
    request = assignments_pb2.ExtendBookingRequest(id=booking.id, add_on_id=add_on)
    assert (await shop.refused("ExtendBooking", request)).code == "SLOT_TAKEN"
    shop.clock.advance(timedelta(minutes=11))
    await shop.call("ExtendBooking", request)
    assert await shop.told(held.id) == ["BookingHeld", "BookingExpired"]
    assert await shop.check_time() == 1


async def test_what_is_added_takes_its_materials_and_a_seat_in_a_class_is_not_longer(shop: Shop) -> None:
    item = await shop.call(
        "CreateStockItem", resources_pb2.CreateStockItemRequest(branch_id=shop.branch, name="Oil", unit="ml")
    )
    plan = catalogue_pb2.ServicePlan(materials=[catalogue_pb2.MaterialNeed(stock_item_id=item.id, quantity=5)])
    add_on = await shop.new_service(name="Oil", duration_minutes=5, add_on=catalogue_pb2.AddOnRules(), plan=plan)
    booking = await shop.book(at(1, 10), staff=0)
    longer = await shop.call("ExtendBooking", assignments_pb2.ExtendBookingRequest(id=booking.id, add_on_id=add_on))
    assert [(each.stock_item_id, each.quantity) for each in longer.lines[0].materials] == [(item.id, 5)]
    enrolment = await enrolled(shop)
    seat = assignments_pb2.ExtendBookingRequest(id=enrolment.id, add_on_id=add_on)
    assert (await shop.refused("ExtendBooking", seat)).code == "NOT_BOOKABLE"


async def enrolled(shop: Shop) -> pb.Booking:
    session = await shop.call(
        "CreateClassSession",
        classes_pb2.CreateClassSessionRequest(
            branch_id=shop.branch, service_id=shop.service, starts_at=stamp(at(2, 10)), seats=5
        ),
    )
    request = classes_pb2.CreateEnrolmentRequest(id=session.id, customer_id=shop.customer)
    enrolment: pb.Booking = await shop.call("CreateEnrolment", request)
    return enrolment


# --- offers ---


async def test_nobody_waits_for_a_group_of_none(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    offer = await offered(
        shop,
        assignments_pb2.OfferStep(min_grade=9, minutes=10),
        assignments_pb2.OfferStep(staff_ids=[shop.staff[1]], minutes=10),
        assignments_pb2.OfferStep(min_grade=9, minutes=10),
    )
    assert (offer.step, list(offer.candidate_ids)) == (1, [shop.staff[1]])
    shop.clock.advance(timedelta(minutes=10))
    await advance_offers(shop.platform["bookings"].context)
    now = await shop.call("GetClaimOffer", assignments_pb2.GetClaimOfferRequest(id=offer.id))
    assert now.status == assignments_pb2.CLAIM_OFFER_STATUS_ESCALATED
    none = assignments_pb2.OfferBookingRequest(
        id=offer.booking_id, steps=[assignments_pb2.OfferStep(min_grade=9, minutes=10)]
    )
    assert (await shop.refused("OfferBooking", none)).code == "NOT_BOOKABLE"
    seat = assignments_pb2.OfferBookingRequest(
        id=(await enrolled(shop)).id, steps=[assignments_pb2.OfferStep(minutes=10)]
    )
    assert (await shop.refused("OfferBooking", seat)).code == "NOT_BOOKABLE"


async def test_an_offer_that_fails_holds_up_no_other(shop: Shop) -> None:
    broken = await offered(shop, assignments_pb2.OfferStep(minutes=10))
    booking = await shop.book(at(1, 12), staff=0)
    request = assignments_pb2.OfferBookingRequest(id=booking.id, steps=[assignments_pb2.OfferStep(minutes=11)])
    sound = await shop.call("OfferBooking", request)
    async with shop.unit() as unit:
        await unit.run(SPOIL, id=broken.id)
    shop.clock.advance(timedelta(minutes=12))
    await advance_offers(shop.platform["bookings"].context)
    now = await shop.call("GetClaimOffer", assignments_pb2.GetClaimOfferRequest(id=sound.id))
    assert now.status == assignments_pb2.CLAIM_OFFER_STATUS_ESCALATED


async def test_whose_customer_is_there_already_can_still_be_claimed(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    await use(shop, policies_pb2.ASSIGNMENT_STRATEGY_LOAD, lead_minutes=60)
    offer = await offered(shop, assignments_pb2.OfferStep(minutes=10000))
    shop.clock.advance(at(1, 10, 5) - shop.clock.now())
    await shop.call("CheckInBooking", pb.CheckInBookingRequest(id=offer.booking_id))
    assert await outcome(shop, offer, shop.staff[1]) == "won"
    booking = await shop.call("GetBooking", pb.GetBookingRequest(id=offer.booking_id))
    assert (booking.staff_id, booking.status) == (shop.staff[1], pb.BOOKING_STATUS_CHECKED_IN)
    assert await shop.check_time() == 1


async def test_a_hold_that_ran_out_cannot_be_offered_or_claimed(shop: Shop) -> None:
    held = await shop.book(at(1, 10), staff=0, hold=True)
    request = assignments_pb2.OfferBookingRequest(id=held.id, steps=[assignments_pb2.OfferStep(minutes=60)])
    offer = await shop.call("OfferBooking", request)
    shop.clock.advance(timedelta(minutes=11))
    assert await outcome(shop, offer, shop.staff[0]) == "OFFER_GONE"
    assert (await shop.refused("OfferBooking", request)).code == "WRONG_STATE"


async def offered(shop: Shop, *steps: assignments_pb2.OfferStep) -> assignments_pb2.ClaimOffer:
    booking = await shop.book(at(1, 10), staff=0)
    request = assignments_pb2.OfferBookingRequest(id=booking.id, steps=steps)
    offer: assignments_pb2.ClaimOffer = await shop.call("OfferBooking", request)
    return offer


async def outcome(shop: Shop, offer: assignments_pb2.ClaimOffer, staff_id: str) -> str:
    try:
        await shop.call("ClaimBooking", assignments_pb2.ClaimBookingRequest(id=offer.id, staff_id=staff_id))
    except Refusal as refusal:
        return refusal.code
    return "won"


async def test_exactly_one_claims(shop: Shop) -> None:
    shop.staff += [await shop.new_staff() for _ in range(7)]
    offer = await offered(shop, assignments_pb2.OfferStep(minutes=10))
    assert sorted(offer.candidate_ids) == sorted(shop.staff)
    found = Counter(await asyncio.gather(*(outcome(shop, offer, staff) for staff in shop.staff * 5)))
    assert found == {"won": 1, "OFFER_GONE": 39}
    claimed = await shop.call("GetClaimOffer", assignments_pb2.GetClaimOfferRequest(id=offer.id))
    booking = await shop.call("GetBooking", pb.GetBookingRequest(id=offer.booking_id))
    assert claimed.status == assignments_pb2.CLAIM_OFFER_STATUS_CLAIMED
    assert booking.staff_id == claimed.claimed_by
    assert await shop.check_time() == 1


async def test_groups_are_asked_one_after_the_other(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff(grade=5))
    shop.staff.append(await shop.new_staff(start="18:00", end="20:00"))
    offer = await offered(
        shop,
        assignments_pb2.OfferStep(min_grade=5, minutes=10),
        assignments_pb2.OfferStep(staff_ids=[shop.staff[0], shop.staff[2]], minutes=20),
    )
    assert list(offer.candidate_ids) == [shop.staff[1]]
    assert await outcome(shop, offer, shop.staff[0]) == "NOT_OFFERED"
    context = shop.platform["bookings"].context
    await advance_offers(context)
    shop.clock.advance(timedelta(minutes=10))
    await advance_offers(context)
    now = await shop.call("GetClaimOffer", assignments_pb2.GetClaimOfferRequest(id=offer.id))
    assert (now.step, list(now.candidate_ids)) == (1, [shop.staff[0], shop.staff[2]])
    assert await outcome(shop, offer, shop.staff[1]) == "NOT_OFFERED"
    # Who does not work then cannot take it, and it stays open.
    assert await outcome(shop, offer, shop.staff[2]) == "NOT_BOOKABLE"
    shop.clock.advance(timedelta(minutes=20))
    await advance_offers(context)
    now = await shop.call("GetClaimOffer", assignments_pb2.GetClaimOfferRequest(id=offer.id))
    assert now.status == assignments_pb2.CLAIM_OFFER_STATUS_ESCALATED
    assert await outcome(shop, offer, shop.staff[0]) == "OFFER_GONE"
    booking = await shop.call("GetBooking", pb.GetBookingRequest(id=offer.booking_id))
    assert booking.staff_id == shop.staff[0]
    async with shop.unit() as unit:
        assert len(await unit.all(OFFERS, subject="claim_offer.opened")) == 2
        assert len(await unit.all(OFFERS, subject="claim_offer.escalated")) == 1


async def test_offers_of_their_own_and_rights(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    offer = await offered(shop, assignments_pb2.OfferStep(minutes=10))
    again = assignments_pb2.OfferBookingRequest(id=offer.booking_id, steps=[assignments_pb2.OfferStep(minutes=5)])
    assert (await shop.refused("OfferBooking", again)).code == "ALREADY_OFFERED"
    grants = {"bookings.claim": "*", "bookings.read": "*"}
    therapist = replace(shop.caller, grants=grants, staff_id=shop.staff[1])
    request = assignments_pb2.ClaimBookingRequest(id=offer.id, staff_id=shop.staff[0])
    assert (await shop.refused("ClaimBooking", request, caller=therapist)).code == "PERMISSION_DENIED"
    mine = assignments_pb2.ListClaimOffersRequest(staff_id=shop.staff[1])
    assert [each.id for each in (await shop.call("ListClaimOffers", mine, therapist)).offers] == [offer.id]
    won = await shop.call("ClaimBooking", assignments_pb2.ClaimBookingRequest(id=offer.id), therapist)
    assert won.claimed_by == shop.staff[1]
    assert not (await shop.call("ListClaimOffers", mine, therapist)).offers
    elsewhere = replace(shop.caller, grants={"bookings.read": [shop.customer]})
    get = assignments_pb2.GetClaimOfferRequest(id=offer.id)
    assert (await shop.refused("GetClaimOffer", get, caller=elsewhere)).code == "PERMISSION_DENIED"
    other_chain = shop.platform.owner()
    assert (await shop.refused("GetClaimOffer", get, caller=other_chain)).code == "NOT_FOUND"


async def test_an_offer_can_be_taken_back(shop: Shop) -> None:
    offer = await offered(shop, assignments_pb2.OfferStep(minutes=10))
    request = assignments_pb2.WithdrawClaimOfferRequest(id=offer.id)
    stale = assignments_pb2.ClaimBookingRequest(id=offer.id, staff_id=shop.staff[0])
    assert (await shop.refused("WithdrawClaimOffer", request, if_match=9)).code == "PRECONDITION_FAILED"
    assert (await shop.refused("ClaimBooking", stale, if_match=9)).code == "PRECONDITION_FAILED"
    taken_back = await shop.call("WithdrawClaimOffer", request, if_match=offer.version)
    assert taken_back.status == assignments_pb2.CLAIM_OFFER_STATUS_WITHDRAWN
    assert (await shop.refused("WithdrawClaimOffer", request)).code == "OFFER_GONE"
    await offered_again(shop, offer.booking_id)
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=offer.booking_id))
    shop.clock.advance(timedelta(minutes=5))
    await advance_offers(shop.platform["bookings"].context)
    listed = await shop.call("ListClaimOffers", assignments_pb2.ListClaimOffersRequest(branch_id=shop.branch))
    assert {each.status for each in listed.offers} == {assignments_pb2.CLAIM_OFFER_STATUS_WITHDRAWN}


async def offered_again(shop: Shop, booking_id: str) -> None:
    steps = [assignments_pb2.OfferStep(minutes=5)]
    await shop.call("OfferBooking", assignments_pb2.OfferBookingRequest(id=booking_id, steps=steps))
