"""Visits of several services and people in one booking: all of it or nothing, and all of it moves and ends together."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import catalogue_pb2, resources_pb2

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp, yuan
from tools.servers import Servers

COUPLES = 24


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_visits") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open(2)
    yield opened
    await opened.check_time()


def line(shop: Shop, **more: Any) -> pb.LineRequest:
    return pb.LineRequest(**{"service_id": shop.service, **more})


def visit(shop: Shop, starts_at: datetime, *lines: pb.LineRequest, **more: Any) -> pb.CreateBookingRequest:
    return shop.request(starts_at, service_id="", lines=lines, **more)


async def book(shop: Shop, starts_at: datetime, *lines: pb.LineRequest, **more: Any) -> pb.Booking:
    booking: pb.Booking = await shop.call("CreateBooking", visit(shop, starts_at, *lines, **more))
    return booking


async def attempt(shop: Shop, request: pb.CreateBookingRequest) -> Any:
    try:
        return await shop.call("CreateBooking", request)
    except Refusal as refusal:
        return refusal.code


def people(booking: pb.Booking) -> list[list[str]]:
    return [[assigned.id for assigned in each.assignments if assigned.is_staff] for each in booking.lines]


def everybody(booking: pb.Booking) -> list[str]:
    return [identifier for ids in people(booking) for identifier in ids]


def clock(booking: pb.Booking) -> list[tuple[str, str]]:
    """Start and end of each line in Shanghai."""

    def text(stamp: Any) -> str:
        moment: datetime = stamp.ToDatetime(tzinfo=UTC) + timedelta(hours=8)
        return moment.strftime("%H:%M")

    return [(text(each.starts_at), text(each.ends_at)) for each in booking.lines]


async def room(shop: Shop, *names: str) -> str:
    """A type of room, with rooms of it."""
    made = await shop.call(
        "CreateResourceType",
        resources_pb2.CreateResourceTypeRequest(name="Room", kind=resources_pb2.RESOURCE_KIND_ROOM),
    )
    for name in names:
        await shop.call(
            "CreateResources",
            resources_pb2.CreateResourcesRequest(branch_id=shop.branch, resource_type_id=made.id, name=name),
        )
    identifier: str = made.id
    return identifier


def in_room(type_id: str) -> catalogue_pb2.ServicePlan:
    return catalogue_pb2.ServicePlan(
        roles=[catalogue_pb2.Role(name="therapist")],
        resources=[catalogue_pb2.ResourceNeed(name="room", resource_type_id=type_id)],
    )


# --- two at the same time ----------------------------------------------------------------------------


async def test_a_couple_comes_at_the_same_time(shop: Shop) -> None:
    me, friend = shop.crowd[0], shop.crowd[1]
    booking = await book(shop, at(1, 10), line(shop), line(shop, customer_id=friend, together=True), customer_id=me)
    assert clock(booking) == [("10:00", "11:00"), ("10:00", "11:00")]
    assert sorted(everybody(booking)) == shop.staff
    assert [each.customer_id for each in booking.lines] == [me, friend]
    assert (booking.staff_id, booking.price) == (people(booking)[0][0], yuan(25600))
    # Nobody of the four can be elsewhere.
    shop.staff.append(await shop.new_staff())
    for customer in (me, friend):
        refused = await shop.refused("CreateBooking", shop.request(at(1, 10, 30), 2, customer_id=customer))
        assert refused.code == "CUSTOMER_BUSY"
    for staff in (0, 1):
        assert (await shop.refused("CreateBooking", shop.request(at(1, 10, 30), staff))).code == "SLOT_TAKEN"


async def test_a_couple_gets_all_or_nothing(shop: Shop) -> None:
    await shop.book(at(1, 10, 30), staff=1)
    before = await shop.check_time()
    refused = await shop.refused("CreateBooking", visit(shop, at(1, 10), line(shop), line(shop, together=True)))
    assert refused.code == "SLOT_TAKEN"
    assert refused.members["nearest"]
    assert await shop.check_time() == before
    nearest = datetime.fromisoformat(refused.members["nearest"][0]["starts_at"])
    assert (await book(shop, nearest, line(shop), line(shop, together=True))).id


async def test_the_same_person_cannot_do_both_at_once(shop: Shop) -> None:
    same = [line(shop, staff_id=shop.staff[0]), line(shop, staff_id=shop.staff[0], together=True)]
    assert (await shop.refused("CreateBooking", visit(shop, at(1, 10), *same))).code == "SLOT_TAKEN"
    each = [line(shop, staff_id=shop.staff[1]), line(shop, staff_id=shop.staff[0], together=True)]
    assert people(await book(shop, at(1, 10), *each)) == [[shop.staff[1]], [shop.staff[0]]]


async def test_who_is_not_asked_for_makes_way_for_who_is(shop: Shop) -> None:
    """The first line would take the person whom the second one asks for, were they not seen together."""
    booking = await book(shop, at(1, 10), line(shop), line(shop, staff_id=shop.staff[0], together=True))
    assert people(booking) == [[shop.staff[1]], [shop.staff[0]]]


async def test_of_couples_and_singles_as_many_win_as_there_are_people(shop: Shop) -> None:
    """Of six people couples take two, others one; whatever wins, nobody is taken twice and nothing is half done."""
    for _ in range(4):
        shop.staff.append(await shop.new_staff())
    requests = [
        visit(shop, at(1, 10), line(shop), line(shop, together=True, guest_name="a friend")) for _ in range(COUPLES)
    ]
    requests += [shop.request(at(1, 10, 30)) for _ in range(COUPLES)]
    random.Random(3).shuffle(requests)
    answers = await asyncio.gather(*(attempt(shop, request) for request in requests))
    made = [answer for answer in answers if isinstance(answer, pb.Booking)]
    assert {answer for answer in answers if isinstance(answer, str)} == {"SLOT_TAKEN"}
    given = Counter(identifier for booking in made for ids in people(booking) for identifier in ids)
    assert set(given.values()) == {1}
    assert sum(given.values()) >= 5
    assert await shop.check_time() == len(made)


async def test_a_friend_who_is_elsewhere(shop: Shop) -> None:
    friend = shop.crowd[5]
    shop.staff.append(await shop.new_staff())
    await shop.book(at(1, 10), staff=2, customer_id=friend)
    couple = visit(shop, at(1, 10, 30), line(shop), line(shop, customer_id=friend, together=True))
    assert (await shop.refused("CreateBooking", couple)).code == "CUSTOMER_BUSY"
    couple.allow_overlap = True
    manager = dataclasses.replace(shop.caller, grants={**shop.caller.grants, "bookings.override": "*"})
    assert (await shop.call("CreateBooking", couple, manager)).id


async def test_a_guest_has_a_name_and_no_record(shop: Shop) -> None:
    booking = await book(shop, at(1, 10), line(shop), line(shop, together=True, guest_name="小李"))
    assert [(each.customer_id, each.guest_name) for each in booking.lines] == [
        (booking.customer_id, ""),
        ("", "小李"),
    ]
    moved = await move(shop, booking, at(1, 14))
    assert [(each.customer_id, each.guest_name) for each in moved.lines] == [
        (booking.customer_id, ""),
        ("", "小李"),
    ]


async def test_two_rooms_for_a_couple(shop: Shop) -> None:
    first = await room(shop, "One")
    alone = await shop.new_service(name="Massage", plan=in_room(first))
    lines = [line(shop, service_id=alone), line(shop, service_id=alone, together=True)]
    assert (await shop.refused("CreateBooking", visit(shop, at(1, 10), *lines))).code == "SLOT_TAKEN"
    second = await room(shop, "Two", "Three")
    both = await shop.new_service(name="Massage for two", plan=in_room(second))
    lines = [line(shop, service_id=both), line(shop, service_id=both, together=True)]
    booking = await book(shop, at(1, 10), *lines)
    rooms = [assigned.id for each in booking.lines for assigned in each.assignments if not assigned.is_staff]
    assert len(set(rooms)) == 2
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=booking.id))
    assert await shop.check_time() == 0


# --- one after the other -----------------------------------------------------------------------------


async def test_two_services_in_a_row_with_the_same_person(shop: Shop) -> None:
    short = await shop.new_service(name="Wash", duration_minutes=30, price=yuan(3000))
    lines = [line(shop, service_id=short, staff_id=shop.staff[0]), line(shop, staff_id=shop.staff[0])]
    booking = await book(shop, at(1, 10), *lines)
    assert clock(booking) == [("10:00", "10:30"), ("10:30", "11:30")]
    assert people(booking) == [[shop.staff[0]], [shop.staff[0]]]
    assert (booking.service_id, booking.starts_at, booking.ends_at) == (short, stamp(at(1, 10)), stamp(at(1, 11, 30)))
    assert booking.price == yuan(15800)
    assert (await shop.refused("CreateBooking", shop.request(at(1, 11), 0))).code == "SLOT_TAKEN"
    assert (await shop.refused("CreateBooking", shop.request(at(1, 9, 45), 0))).code == "NOT_BOOKABLE"
    await shop.book(at(1, 10), staff=1)
    await shop.book(at(1, 11, 30), staff=0)


async def test_two_services_in_a_row_with_different_people(shop: Shop) -> None:
    lines = [line(shop, staff_id=shop.staff[0]), line(shop, staff_id=shop.staff[1])]
    booking = await book(shop, at(1, 10), *lines)
    assert people(booking) == [[shop.staff[0]], [shop.staff[1]]]
    # Each is busy with their own part only.
    await shop.book(at(1, 10), staff=1)
    await shop.book(at(1, 11), staff=0)
    # The customer is there for both.
    shop.staff.append(await shop.new_staff())
    for starts_at in (at(1, 10, 30), at(1, 11, 30)):
        wanted = shop.request(starts_at, 2, customer_id=booking.customer_id)
        assert (await shop.refused("CreateBooking", wanted)).code == "CUSTOMER_BUSY"


async def test_buffers_lie_between_services(shop: Shop) -> None:
    dye = await shop.new_service(name="Dye", buffer_before_minutes=10, buffer_after_minutes=15)
    lines = [line(shop, service_id=dye, staff_id=shop.staff[0]), line(shop, service_id=dye, staff_id=shop.staff[0])]
    booking = await book(shop, at(1, 10, 10), *lines)
    assert clock(booking) == [("10:10", "11:10"), ("11:35", "12:35")]
    assert await shop.check_time() == 1
    await shop.book(at(1, 12, 50), staff=0)
    assert (await shop.refused("CreateBooking", shop.request(at(1, 12, 45), 0))).code == "SLOT_TAKEN"


async def test_one_first_then_two_together(shop: Shop) -> None:
    friend = shop.crowd[7]
    lines = [line(shop), line(shop), line(shop, customer_id=friend, together=True)]
    booking = await book(shop, at(1, 10), *lines)
    assert clock(booking) == [("10:00", "11:00"), ("11:00", "12:00"), ("11:00", "12:00")]
    assert len(set(everybody(booking)[1:])) == 2
    # The friend is free until they come.
    await shop.book(at(1, 10), customer_id=friend)


async def test_what_is_offered_for_a_visit_is_accepted(shop: Shop) -> None:
    lines = [line(shop), line(shop, together=True), line(shop, staff_id=shop.staff[1])]
    search = pb.SearchAvailabilityRequest(
        branch_id=shop.branch, lines=lines, starts_from=stamp(at(1, 0)), ends_by=stamp(at(2, 0))
    )
    dice = random.Random(5)
    booked = 0
    while True:
        slots = (await shop.call("SearchAvailability", search)).slots
        if not slots:
            break
        slot = dice.choice(slots)
        booking = await book(shop, slot.starts_at.ToDatetime(tzinfo=UTC), *lines)
        assert booking.ends_at == slot.ends_at
        booked += 1
    assert booked >= 2


# --- moving and ending -------------------------------------------------------------------------------


async def move(shop: Shop, booking: pb.Booking, starts_at: datetime, **more: Any) -> pb.Booking:
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(starts_at), **more)
    moved: pb.Booking = await shop.call("RescheduleBooking", request)
    return moved


async def test_moving_keeps_all_that_was_sold(shop: Shop) -> None:
    for _ in range(2):
        shop.staff.append(await shop.new_staff())
    oil = await shop.new_service(
        name="Oil", duration_minutes=15, price=yuan(2000), add_on=catalogue_pb2.AddOnRules(only_with=True)
    )
    friend = shop.crowd[9]
    lines = [
        line(shop, add_on_ids=[oil]),
        line(shop, customer_id=friend, staff_id=shop.staff[2], together=True),
        line(shop),
    ]
    booking = await book(shop, at(1, 10), *lines)
    # The catalogue changes; what was sold does not.
    await shop.call("UpdateService", pb.UpdateServiceRequest(id=shop.service, duration_minutes=30, price=yuan(100)))
    moved = await move(shop, booking, at(1, 13))
    assert clock(moved) == [("13:00", "14:15"), ("13:00", "14:00"), ("14:15", "15:15")]
    assert moved.price == booking.price
    assert people(moved) == people(booking)
    assert [list(each.add_on_ids) for each in moved.lines] == [[oil], [], []]
    assert [each.customer_id for each in moved.lines] == [each.customer_id for each in booking.lines]
    assert [each.together for each in moved.lines] == [False, True, False]
    # Who was asked for, and who was not, is as before.
    for before, after in zip(booking.lines, moved.lines, strict=True):
        assert [(one.chosen, one.strategy, one.score) for one in before.assignments] == [
            (one.chosen, one.strategy, one.score) for one in after.assignments
        ]
    assert await shop.check_time() == 1
    for staff in range(4):
        await shop.book(at(1, 10), staff=staff)


async def test_who_was_asked_for_in_a_later_line_is_not_replaced(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    lines = [line(shop, staff_id=shop.staff[0]), line(shop, staff_id=shop.staff[1], together=True)]
    booking = await book(shop, at(1, 10), *lines)
    await shop.book(at(1, 14), staff=1)
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 14)))
    assert (await shop.refused("RescheduleBooking", request)).code == "SLOT_TAKEN"
    # Somebody who was not asked for makes way.
    other = await book(shop, at(2, 10), line(shop, staff_id=shop.staff[0]), line(shop, together=True))
    taken = people(other)[1][0]
    await shop.book(at(2, 14), staff=shop.staff.index(taken))
    moved = await move(shop, other, at(2, 14))
    assert people(moved)[0] == [shop.staff[0]]
    assert people(moved)[1] not in ([taken], [shop.staff[0]])


async def test_who_left_does_not_hold_up_the_rest(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    lines = [line(shop, staff_id=shop.staff[0]), line(shop, staff_id=shop.staff[1], together=True)]
    booking = await book(shop, at(1, 10), *lines)
    await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=shop.staff[1], active=False))
    moved = await move(shop, booking, at(1, 14))
    assert people(moved) == [[shop.staff[0]], [shop.staff[2]]]


async def test_moving_a_couple_half_an_hour_overlaps_only_itself(shop: Shop) -> None:
    booking = await book(shop, at(1, 10), line(shop), line(shop, together=True), line(shop))
    moved = await move(shop, booking, at(1, 10, 30))
    assert people(moved) == people(booking)
    await shop.book(at(1, 14), staff=shop.staff.index(people(booking)[1][0]))
    before = await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id))
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 13, 30)))
    assert (await shop.refused("RescheduleBooking", request)).code == "SLOT_TAKEN"
    assert await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id)) == before


async def test_another_person_leads(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    lines = [line(shop, staff_id=shop.staff[0]), line(shop, staff_id=shop.staff[1], together=True)]
    booking = await book(shop, at(1, 10), *lines)
    moved = await move(shop, booking, at(1, 10), staff_id=shop.staff[2])
    assert moved.staff_id == shop.staff[2]
    assert people(moved) == [[shop.staff[2]], [shop.staff[1]]]
    assert moved.lines[0].assignments[0].chosen


@pytest.mark.parametrize("hold", [False, True])
async def test_ending_frees_everything(shop: Shop, hold: bool) -> None:
    type_id = await room(shop, "One", "Two")
    service = await shop.new_service(name="Massage", plan=in_room(type_id), buffer_after_minutes=10)
    lines = [line(shop, service_id=service), line(shop, service_id=service, together=True), line(shop)]
    booking = await book(shop, at(1, 10), *lines, hold=hold)
    assert await shop.check_time() == 1
    if hold:
        shop.clock.advance(timedelta(minutes=10))
        await book(shop, at(1, 10), *lines)  # in the way is a hold that ran out
        assert await shop.told(booking.id) == ["BookingHeld", "BookingExpired"]
        assert await shop.check_time() == 1
    else:
        await shop.call("CancelBooking", pb.CancelBookingRequest(id=booking.id))
        assert await shop.check_time() == 0
        assert (await book(shop, at(1, 10), *lines)).id


async def test_a_visit_that_ends_early_gives_back_what_is_left(shop: Shop) -> None:
    lines = [line(shop, staff_id=shop.staff[0]), line(shop, staff_id=shop.staff[1])]
    booking = await book(shop, at(0, 10), *lines)
    shop.clock.advance(at(0, 10, 40) - NOW)
    await shop.call("CompleteBooking", pb.CompleteBookingRequest(id=booking.id))
    await shop.book(at(0, 11), staff=1, customer_id=booking.customer_id)


# --- what is wrong -----------------------------------------------------------------------------------


async def test_lines_name_what_is_wrong_in_them(shop: Shop) -> None:
    cases: list[tuple[list[pb.LineRequest], str, str]] = [
        ([line(shop), line(shop, service_id=new_id())], "NOT_FOUND", "lines[1].service_id"),
        ([line(shop), line(shop, staff_id=new_id())], "NOT_FOUND", "lines[1].staff_id"),
        ([line(shop, together=True), line(shop)], "INVALID_REQUEST", "lines[0].together"),
        (
            [line(shop), line(shop, choices=[pb.Choice(need="sauna", id=new_id())])],
            "INVALID_REQUEST",
            "lines[1].choices[0].need",
        ),
        ([line(shop)] * 9, "INVALID_REQUEST", "lines"),
    ]
    for lines, code, field in cases:
        refused = await shop.refused("CreateBooking", visit(shop, at(1, 10), *lines))
        assert (refused.code, [error.field for error in refused.errors]) == (code, [field])
    both = shop.request(at(1, 10), lines=[line(shop)])
    assert [error.field for error in (await shop.refused("CreateBooking", both)).errors] == ["service_id"]
    assert await shop.check_time() == 0


async def test_eight_who_come_together(shop: Shop) -> None:
    for _ in range(6):
        shop.staff.append(await shop.new_staff())
    lines = [line(shop), *(line(shop, together=True, guest_name=f"guest {number}") for number in range(7))]
    booking = await book(shop, at(1, 10), *lines)
    assert sorted(everybody(booking)) == sorted(shop.staff)
    assert (await shop.refused("CreateBooking", shop.request(at(1, 10)))).code == "SLOT_TAKEN"


# --- what was found by trying to break it ------------------------------------------------------------


async def test_who_is_asked_for_leads_whoever_else_is_wanted(shop: Shop) -> None:
    plan = catalogue_pb2.ServicePlan(roles=[catalogue_pb2.Role(name="therapist", count=2)])
    four_hands = await shop.new_service(name="Four hands", plan=plan)
    choices = [pb.Choice(need="therapist", id=shop.staff[0])]
    booking = await shop.book(at(1, 10), 1, service_id=four_hands, choices=choices)
    assert booking.staff_id == shop.staff[1]
    assert people(booking) == [[shop.staff[1], shop.staff[0]]]


async def test_what_is_no_longer_sold_can_still_be_moved(shop: Shop) -> None:
    booking = await shop.book(at(1, 10), 0)
    await shop.call("UpdateService", pb.UpdateServiceRequest(id=shop.service, active=False))
    assert (await attempt(shop, shop.request(at(1, 14)))) == "NOT_BOOKABLE"
    moved = await move(shop, booking, at(1, 12))
    assert clock(moved) == [("12:00", "13:00")]
    # Who left cannot be kept; somebody else can.
    await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=shop.staff[0], active=False))
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 14)))
    assert (await shop.refused("RescheduleBooking", request)).code == "NOT_BOOKABLE"
    assert (await move(shop, booking, at(1, 14), staff_id=shop.staff[1])).staff_id == shop.staff[1]


async def test_times_named_instead_can_be_had_by_what_moves(shop: Shop) -> None:
    oil = await shop.new_service(
        name="Oil", duration_minutes=60, price=yuan(2000), add_on=catalogue_pb2.AddOnRules(only_with=True)
    )
    booking = await shop.book(at(1, 10), 0, add_on_ids=[oil])
    await shop.book(at(1, 12), 0)
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 11)))
    refusal = await shop.refused("RescheduleBooking", request)
    assert refusal.code == "SLOT_TAKEN"
    assert refusal.members["nearest"]
    for slot in refusal.members["nearest"]:
        moved = await move(shop, booking, datetime.fromisoformat(slot["starts_at"]))
        assert moved.ends_at.ToJsonString() == slot["ends_at"]


@pytest.mark.parametrize("step", ["cancel", "move", "complete", "expire"])
async def test_an_overbooked_visit_gets_the_time_that_is_given_back(shop: Shop, step: str) -> None:
    shop.caller = dataclasses.replace(shop.caller, grants={**shop.caller.grants, "bookings.override": "*"})
    first = await shop.book(at(1, 10), 0, hold=step == "expire")
    second = await shop.book(at(1, 10), 0, overbook_reason="a regular")
    third = await shop.book(at(1, 10), 0, overbook_reason="her sister")
    if step == "cancel":
        await shop.call("CancelBooking", pb.CancelBookingRequest(id=first.id))
    elif step == "move":
        await move(shop, first, at(1, 14))
    elif step == "complete":
        await shop.call("CompleteBooking", pb.CompleteBookingRequest(id=first.id))
    else:
        shop.clock.advance(timedelta(minutes=20))
    # Two are there still: nobody else gets in between them by chance.
    assert await attempt(shop, shop.request(at(1, 10), 0)) == "SLOT_TAKEN"
    await shop.check_time()
    for booking in (second, third):
        await shop.call("CancelBooking", pb.CancelBookingRequest(id=booking.id))
    await shop.check_time()
    assert (await shop.book(at(1, 10), 0)).staff_id == shop.staff[0]
