"""Bookings against real PostgreSQL: nobody is booked twice, holds run out, what is offered can be had."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from foyer.access.v1.access_pb2 import CreateBranchRequest, CreateChainRequest, OpeningInterval, UpdateBranchRequest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.common.v1.common_pb2 import Weekday
from foyer.customers.v1.customers_pb2 import CreateCustomerRequest

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from chassis.unit import system_caller
from services.bookings.jobs import expire_holds
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, intervals, stamp, yuan
from tools.servers import Servers

CONTENDERS = 64
WEEKDAYS = tuple(Weekday.values())[1:]


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_alone") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()


async def attempt(shop: Shop, request: pb.CreateBookingRequest) -> pb.Booking | Refusal:
    try:
        booking: pb.Booking = await shop.call("CreateBooking", request)
    except Refusal as refusal:
        return refusal
    return booking


def fields(refusal: Refusal) -> list[str]:
    return [error.field for error in refusal.errors]


# --- one slot, many who want it ----------------------------------------------------------------------


@pytest.mark.parametrize("hold", [False, True])
async def test_of_64_attempts_at_one_slot_one_wins(shop: Shop, hold: bool) -> None:
    for hour in (10, 12, 14):
        answers = await asyncio.gather(
            *(attempt(shop, shop.request(at(1, hour), hold=hold)) for _ in range(CONTENDERS))
        )
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        assert Counter(refusal.code for refusal in refusals) == {"SLOT_TAKEN": CONTENDERS - 1}
        assert all(refusal.members["nearest"] for refusal in refusals)
        assert all(set(slot) == {"starts_at", "ends_at", "staff_ids"} for slot in refusals[0].members["nearest"])
    assert await shop.check_time() == 3


async def test_as_many_win_as_there_are_people(shop: Shop) -> None:
    for _ in range(4):
        shop.staff.append(await shop.new_staff())
    await shop.book(at(1, 15), staff=3)  # somebody is busier than the others
    answers = await asyncio.gather(*(attempt(shop, shop.request(at(1, 10))) for _ in range(CONTENDERS)))
    winners = [answer for answer in answers if isinstance(answer, pb.Booking)]
    assert {booking.staff_id for booking in winners} == set(shop.staff)
    assert len(winners) == 5
    assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {"SLOT_TAKEN"}


async def test_overlapping_starts_exclude_each_other(shop: Shop) -> None:
    """Attempts at all starts of a day, in disorder: what wins does not overlap, and what is left over cannot be had."""
    requests = [shop.request(at(1, 10) + timedelta(minutes=5 * step)) for step in range(85)]
    random.Random(7).shuffle(requests)
    answers = await asyncio.gather(*(attempt(shop, request) for request in requests))
    assert all(isinstance(answer, pb.Booking) or answer.code == "SLOT_TAKEN" for answer in answers)
    assert await shop.check_time() == sum(isinstance(answer, pb.Booking) for answer in answers)
    assert await shop.starts(1) == []


async def test_a_booking_over_midnight_utc_is_taken_as_a_whole(shop: Shop) -> None:
    await shop.keep_branch(2, hours=None)
    night = await shop.new_staff("00:00", "24:00")
    shop.staff = [night]
    # 07:30 to 08:30 in Shanghai lies on both sides of midnight in UTC.
    first = shop.request(at(2, 7, 30), staff=0)
    answers = await asyncio.gather(*(attempt(shop, first) for _ in range(16)))
    assert sum(isinstance(answer, pb.Booking) for answer in answers) == 1
    refused = await shop.refused("CreateBooking", shop.request(at(2, 8, 25), staff=0))
    assert refused.code == "SLOT_TAKEN"
    # The first of two days is free, the second is not: nothing may remain of the attempt.
    await shop.book(at(3, 8), staff=0)
    before = await shop.check_time()
    assert (await shop.refused("CreateBooking", shop.request(at(3, 7, 5), staff=0))).code == "SLOT_TAKEN"
    assert await shop.check_time() == before


async def test_somebody_free_is_chosen_fairly(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    shop.staff.append(await shop.new_staff())
    chosen = [(await shop.book(at(1, hour))).staff_id for hour in (10, 11, 12, 13)]
    assert chosen == [*shop.staff, shop.staff[0]]
    assert (await shop.book(at(2, 10))).staff_id == shop.staff[0]  # another day begins anew


async def test_a_key_answers_the_same(shop: Shop) -> None:
    request = shop.request(at(1, 10))
    first = await shop.call("CreateBooking", request, key="k1")
    assert await shop.call("CreateBooking", request, key="k1") == first
    assert await shop.told(first.id) == ["BookingConfirmed"]


# --- holds -------------------------------------------------------------------------------------------


async def test_a_hold_is_kept_and_confirmed(shop: Shop) -> None:
    held = await shop.book(at(1, 10), hold=True)
    assert held.status == pb.BOOKING_STATUS_HELD
    assert held.expires_at.ToDatetime(tzinfo=UTC) == NOW + timedelta(minutes=10)
    assert "10:00" not in await shop.starts(1)
    shop.clock.advance(timedelta(minutes=9, seconds=59))
    confirmed = await shop.call("ConfirmBooking", pb.ConfirmBookingRequest(id=held.id), if_match=held.version)
    assert (confirmed.status, confirmed.HasField("expires_at")) == (pb.BOOKING_STATUS_CONFIRMED, False)
    shop.clock.advance(timedelta(hours=1))
    assert "10:00" not in await shop.starts(1)
    assert await shop.told(held.id) == ["BookingHeld", "BookingConfirmed"]


async def test_a_hold_that_ran_out_is_free_for_others(shop: Shop) -> None:
    held = await shop.book(at(1, 10), hold=True)
    shop.clock.advance(timedelta(minutes=10))
    assert "10:00" in await shop.starts(1)
    assert (await shop.call("GetBooking", pb.GetBookingRequest(id=held.id))).status == pb.BOOKING_STATUS_EXPIRED
    assert (await shop.refused("ConfirmBooking", pb.ConfirmBookingRequest(id=held.id))).code == "HOLD_EXPIRED"
    cancelling = await shop.refused("CancelBooking", pb.CancelBookingRequest(id=held.id))
    assert (cancelling.code, cancelling.parameters["status"]) == ("WRONG_STATE", "expired")
    answers = await asyncio.gather(*(attempt(shop, shop.request(at(1, 10, 30))) for _ in range(CONTENDERS)))
    assert sum(isinstance(answer, pb.Booking) for answer in answers) == 1
    assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {"SLOT_TAKEN"}
    assert await shop.told(held.id) == ["BookingHeld", "BookingExpired"]
    assert (await shop.refused("ConfirmBooking", pb.ConfirmBookingRequest(id=held.id))).code == "HOLD_EXPIRED"
    expired = await shop.call("ListBookings", pb.ListBookingsRequest(status=[pb.BOOKING_STATUS_EXPIRED]))
    assert [booking.id for booking in expired.bookings] == [held.id]


async def test_holds_are_tidied_up_when_nobody_wants_their_time(shop: Shop) -> None:
    held = await shop.book(at(1, 10), hold=True)
    kept = await shop.book(at(1, 12), hold=True)
    listed = await shop.call("ListBookings", pb.ListBookingsRequest(status=[pb.BOOKING_STATUS_HELD]))
    assert len(listed.bookings) == 2
    shop.clock.advance(timedelta(minutes=5))
    await shop.call("ConfirmBooking", pb.ConfirmBookingRequest(id=kept.id))
    shop.clock.advance(timedelta(minutes=5))
    listed = await shop.call("ListBookings", pb.ListBookingsRequest(status=[pb.BOOKING_STATUS_EXPIRED]))
    assert [booking.id for booking in listed.bookings] == [held.id]
    await expire_holds(shop.platform["bookings"].context)
    assert await shop.told(held.id) == ["BookingHeld", "BookingExpired"]
    assert await shop.check_time() == 1


async def test_confirming_and_taking_over_at_once(shop: Shop) -> None:
    """At the moment a hold runs out either its owner is late or the other one is."""
    held = await shop.book(at(1, 10), hold=True)
    shop.clock.advance(timedelta(minutes=10))
    confirming = shop.refused("ConfirmBooking", pb.ConfirmBookingRequest(id=held.id))
    refused, taken = await asyncio.gather(confirming, attempt(shop, shop.request(at(1, 10))))
    assert refused.code == "HOLD_EXPIRED"
    assert isinstance(taken, pb.Booking)


# --- steps -------------------------------------------------------------------------------------------


async def test_from_arrival_to_the_end(shop: Shop) -> None:
    booking = await shop.book(at(0, 10))
    shop.clock.advance(at(0, 10) - NOW)
    arrived = await shop.call("CheckInBooking", pb.CheckInBookingRequest(id=booking.id), if_match=1)
    assert arrived.version == 2
    stale = await shop.refused("StartBooking", pb.StartBookingRequest(id=booking.id), if_match=1)
    assert (stale.code, stale.parameters["version"]) == ("PRECONDITION_FAILED", "2")
    begun = await shop.call("StartBooking", pb.StartBookingRequest(id=booking.id))
    assert begun.status == pb.BOOKING_STATUS_IN_SERVICE
    shop.clock.advance(timedelta(minutes=22))
    assert "10:30" not in await shop.starts(0)
    done = await shop.call("CompleteBooking", pb.CompleteBookingRequest(id=booking.id))
    assert done.status == pb.BOOKING_STATUS_COMPLETED
    assert (await shop.starts(0))[0] == "10:30"  # what is left of the hour is free again
    assert await shop.told(booking.id) == ["BookingConfirmed", "BookingCheckedIn", "BookingStarted", "BookingCompleted"]
    assert (await shop.events(booking.id))[-1][1] == at(0, 10)
    again = await shop.refused("CancelBooking", pb.CancelBookingRequest(id=booking.id))
    assert (again.code, again.parameters["status"]) == ("WRONG_STATE", "completed")


async def test_who_does_not_come_and_who_cancels_gives_the_time_back(shop: Shop) -> None:
    missed, cancelled = await shop.book(at(0, 10)), await shop.book(at(0, 12))
    shop.clock.advance(at(0, 10, 20) - NOW)
    answer = await shop.call("CancelBooking", pb.CancelBookingRequest(id=cancelled.id, reason="ill"))
    assert (answer.status, answer.cancel_reason) == (pb.BOOKING_STATUS_CANCELLED, "ill")
    event, _ = (await shop.events(cancelled.id))[-1]
    assert (event.was_held, event.notice_minutes) == (False, 100)
    answer = await shop.call("MarkNoShow", pb.MarkNoShowRequest(id=missed.id))
    assert answer.status == pb.BOOKING_STATUS_NO_SHOW
    assert (await shop.events(missed.id))[-1][1] == at(0, 10)
    assert await shop.check_time() == 0
    assert {"10:30", "12:00"} <= set(await shop.starts(0))


async def test_who_says_beforehand_that_nobody_comes_has_the_time_back(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    answer = await shop.call("MarkNoShow", pb.MarkNoShowRequest(id=booking.id))
    assert answer.status == pb.BOOKING_STATUS_NO_SHOW
    assert (await shop.events(booking.id))[-1][1] == NOW
    assert await shop.check_time() == 0
    again = await shop.refused("MarkNoShow", pb.MarkNoShowRequest(id=booking.id))
    assert again.code == "WRONG_STATE"


async def test_moving_swaps_and_loses_nothing(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    booking, other = await shop.book(at(1, 10), staff=0), await shop.book(at(1, 12), staff=0)
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 11, 30)))
    taken = await shop.refused("RescheduleBooking", request)
    assert taken.code == "SLOT_TAKEN"
    assert taken.members["nearest"]
    assert (await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id))) == booking
    # Half an hour later overlaps only with itself.
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 10, 30)))
    moved = await shop.call("RescheduleBooking", request)
    assert (moved.starts_at.ToDatetime(tzinfo=UTC), moved.version) == (at(1, 10, 30), 2)
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 12)), staff_id=shop.staff[1])
    moved = await shop.call("RescheduleBooking", request)
    assert moved.staff_id == shop.staff[1]
    event, _ = (await shop.events(booking.id))[-1]
    assert (event.previous_staff_id, event.previous_starts_at.ToDatetime(tzinfo=UTC)) == (shop.staff[0], at(1, 10, 30))
    assert await shop.check_time() == 2
    assert other.staff_id == shop.staff[0]


async def test_moving_into_one_slot_from_many_sides(shop: Shop) -> None:
    bookings = [await shop.book(at(day, 10)) for day in range(1, 9)]

    async def move(booking: pb.Booking) -> str:
        try:
            request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(9, 10)))
            await shop.call("RescheduleBooking", request)
        except Refusal as refusal:
            return refusal.code
        return "moved"

    assert Counter(await asyncio.gather(*map(move, bookings))) == {"moved": 1, "SLOT_TAKEN": 7}
    assert await shop.check_time() == 8


async def test_a_step_of_another_chain_finds_nothing(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    stranger = shop.platform.owner()
    for method, request in (
        ("GetBooking", pb.GetBookingRequest(id=booking.id)),
        ("CancelBooking", pb.CancelBookingRequest(id=booking.id)),
        ("CompleteBooking", pb.CompleteBookingRequest(id=booking.id)),
        ("GetStaff", pb.GetStaffRequest(id=shop.staff[0])),
        ("GetShifts", pb.GetShiftsRequest(id=shop.staff[0])),
        ("GetService", pb.GetServiceRequest(id=shop.service)),
    ):
        assert (await shop.refused(method, request, caller=stranger)).code == "NOT_FOUND"


# --- what cannot be booked ---------------------------------------------------------------------------


async def test_times_that_cannot_be_booked_say_why(shop: Shop) -> None:
    other = await shop.new_service(name="Elsewhere", required_skills=["wax"])
    ended = await shop.new_service(name="Ended")
    await shop.call("UpdateService", pb.UpdateServiceRequest(id=ended, active=False))
    await shop.keep_branch(2, holidays=["2026-05-10"])
    cases: list[tuple[datetime, dict[str, Any], str]] = [
        (at(-1, 10), {}, "in the past"),
        (at(401, 10), {}, "further ahead"),
        (at(1, 8), {}, "not open"),
        (at(1, 20, 30), {}, "not open"),
        (at(6, 10), {}, "not open"),  # the holiday
        (at(1, 9), {}, "nobody"),
        (at(1, 9), {"staff_id": shop.staff[0]}, "does not work at that time"),
        (at(1, 17, 30), {"staff_id": shop.staff[0]}, "does not work at that time"),
        (at(1, 10), {"service_id": other, "staff_id": shop.staff[0]}, "does not do this service"),
        (at(1, 10), {"service_id": other}, "nobody"),
        (at(1, 10), {"service_id": ended}, "no longer offered"),
    ]
    for starts_at, more, reason in cases:
        refusal = await shop.refused("CreateBooking", shop.request(starts_at, **more))
        assert refusal.code == "NOT_BOOKABLE"
        assert reason in refusal.parameters["reason"]
        assert refusal.parameters["reason_zh"]
        assert bool(refusal.members["nearest"]) == ("service_id" not in more)
    await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=shop.staff[0], active=False))
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 10), staff=0))
    assert "no longer works" in refusal.parameters["reason"]
    await shop.keep_branch(3, active=False)
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 10)))
    assert "closed for good" in refusal.parameters["reason"]
    assert await shop.starts(1) == []


@pytest.mark.parametrize("field", ["service_id", "staff_id"])
async def test_what_a_booking_names_must_exist(shop: Shop, field: str) -> None:
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 10), None, **{field: new_id()}))
    assert (refusal.code, fields(refusal)) == ("NOT_FOUND", [field])


async def test_a_start_lies_on_a_step(shop: Shop) -> None:
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 10) + timedelta(minutes=2)))
    assert (refusal.code, fields(refusal)) == ("INVALID_REQUEST", ["starts_at"])
    assert (await shop.book(at(1, 10, 5))).id  # any step of five minutes will do
    far = datetime(9999, 12, 31, 23, 55, tzinfo=UTC)
    assert (await shop.refused("CreateBooking", shop.request(far))).code == "NOT_BOOKABLE"


# --- what is offered ---------------------------------------------------------------------------------


async def test_offers_follow_shifts_opening_hours_buffers_and_bookings(shop: Shop) -> None:
    starts = await shop.starts(1)
    assert (starts[0], starts[1], starts[-1], len(starts)) == ("10:00", "10:15", "17:00", 29)
    buffered = await shop.new_service(name="Dye", buffer_before_minutes=10, buffer_after_minutes=15)
    starts = await shop.starts(1, service_id=buffered)
    assert (starts[0], starts[-1]) == ("10:15", "16:45")  # a person prepares and cleans up within the shift
    await shop.book(at(1, 12), service_id=buffered)
    starts = await shop.starts(1)
    assert "10:45" in starts  # ends at 11:45, five minutes before the preparation
    assert not {"11:00", "12:00", "13:00"} & set(starts)
    assert "13:15" in starts
    await shop.keep_branch(2, hours=("11:00", "14:00"))
    assert await shop.starts(2) == [f"{hour}:{minute:02d}" for hour in (11, 12) for minute in (0, 15, 30, 45)] + [
        "13:00"
    ]
    shop.clock.advance(at(1, 13, 20) - NOW)
    assert await shop.starts(1) == []  # nothing in the past


async def test_a_window_has_bounds(shop: Shop) -> None:
    def request(days: float) -> pb.FindAvailabilityRequest:
        return pb.FindAvailabilityRequest(
            branch_id=shop.branch,
            service_id=shop.service,
            starts_from=stamp(NOW),
            ends_by=stamp(NOW + timedelta(days=days)),
        )

    assert len((await shop.call("FindAvailability", request(35))).slots) == 35 * 29
    for days in (0, -1, 35.1):
        refusal = await shop.refused("FindAvailability", request(days))
        assert (refusal.code, fields(refusal)) == ("INVALID_REQUEST", ["to"])
    far = datetime(9999, 12, 1, tzinfo=UTC)
    assert await shop.offers(far, far + timedelta(days=30)) == []
    early = datetime(1, 1, 2, tzinfo=UTC)
    assert await shop.offers(early, early + timedelta(days=30)) == []
    for field in ("service_id", "staff_id"):
        values: dict[str, Any] = {"branch_id": shop.branch, "service_id": shop.service, field: new_id()}
        wrong = pb.FindAvailabilityRequest(starts_from=stamp(NOW), ends_by=stamp(at(2, 0)), **values)
        refusal = await shop.refused("FindAvailability", wrong)
        assert (refusal.code, fields(refusal)) == ("NOT_FOUND", [field])


async def test_shifts_hold_from_a_day_on(shop: Shop) -> None:
    staff = shop.staff[0]
    later = pb.SetShiftsRequest(id=staff, from_date="2026-05-06", intervals=intervals("12:00", "14:00"))
    await shop.call("SetShifts", later)
    found = (await shop.call("GetShifts", pb.GetShiftsRequest(id=staff))).shifts
    assert [(period.from_date, period.until_date) for period in found] == [
        ("2026-01-01", "2026-05-05"),
        ("2026-05-06", ""),
    ]
    assert (await shop.starts(1))[0] == "10:00"
    assert await shop.starts(2) == ["12:00", "12:15", "12:30", "12:45", "13:00"]
    await shop.call("SetShifts", pb.SetShiftsRequest(id=staff, branch_id=shop.branch, from_date="2026-05-08"))
    assert await shop.starts(4) == []
    replaced = pb.SetShiftsRequest(id=staff, from_date="2026-05-06", intervals=intervals("10:00", "11:00"))
    await shop.call("SetShifts", replaced)
    assert await shop.starts(4) == ["10:00"]
    today = await shop.call("SetShifts", pb.SetShiftsRequest(id=staff))
    assert today.from_date == "2026-05-04"
    assert await shop.starts(1) == []


@pytest.mark.parametrize("zone", ["America/Toronto", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Cairo"])
async def test_what_is_offered_is_accepted(alone: tuple[Platform, FrozenClock], zone: str) -> None:
    """On days with changes of the clocks, nights and holds: every slot that is offered is booked in the next moment."""
    platform, clock = alone
    changes = {"America/Toronto": (2026, 11, 1), "Australia/Lord_Howe": (2026, 10, 4), "Africa/Cairo": (2026, 10, 30)}
    day = datetime(*changes.get(zone, (2026, 6, 1)), tzinfo=UTC)
    clock.advance(day - timedelta(days=2) - clock.now())
    dice = random.Random(zone)
    shop = await Shop(platform, clock, zone).open(0, buffer_after_minutes=10, duration_minutes=45)
    await shop.keep_branch(2, hours=("06:00", "03:30"))
    for start, end in (("22:00", "02:30"), ("01:30", "09:00"), ("08:00", "23:30")):
        shop.staff.append(await shop.new_staff(start, end))
    booked = 0
    for _ in range(60):
        slots = await shop.offers(day - timedelta(days=1), day + timedelta(days=2))
        if not slots:
            break
        slot = dice.choice(slots)
        staff_id = dice.choice(list(slot.staff_ids))
        booking = await shop.book(slot.starts_at.ToDatetime(tzinfo=UTC), staff_id=staff_id, hold=dice.random() < 0.4)
        assert booking.ends_at == slot.ends_at
        booked += 1
        clock.advance(timedelta(minutes=dice.choice((0, 0, 3))))
    assert booked == 60
    await shop.check_time()
    clock.advance(NOW - clock.now())


# --- what others tell --------------------------------------------------------------------------------


async def test_older_news_of_a_branch_change_nothing(shop: Shop) -> None:
    await shop.keep_branch(5, hours=("12:00", "13:00"))
    await shop.keep_branch(4, hours=("09:00", "21:00"))  # it came late
    assert await shop.starts(1) == ["12:00"]


async def test_what_was_just_made_elsewhere_can_be_booked_at_once(platform: Platform) -> None:
    """With access and customers beside it: what no event has told of yet is fetched, what nobody knows is not found."""
    chain = CreateChainRequest(
        name="New",
        time_zone="Asia/Tokyo",
        currency="CNY",
        language="en",
        owner_name="Owner",
        owner_email=f"{new_id()}@example.com",
        owner_password="long enough for this",
    )
    created = await platform.call("access", "CreateChain", chain, system_caller("tests", ""))
    caller = platform.owner(created.chain.id)
    hours = [OpeningInterval(weekday=day, start_time="09:00", end_time="20:00") for day in WEEKDAYS]
    branch = await platform.call(
        "access", "CreateBranch", CreateBranchRequest(name="New", time_zone="Asia/Tokyo", opening_hours=hours), caller
    )
    customer = await platform.call("customers", "CreateCustomer", CreateCustomerRequest(name="李雷"), caller)

    async def call(method: str, request: Any) -> Any:
        return await platform.call("bookings", method, request, caller)

    person = await call("CreateStaff", pb.CreateStaffRequest(name="Mei", branch_ids=[branch.id]))
    await call("SetShifts", pb.SetShiftsRequest(id=person.id, intervals=intervals("10:00", "18:00")))
    service = await call("CreateService", pb.CreateServiceRequest(name="Cut", duration_minutes=60, price=yuan(1)))
    start = datetime.now(UTC) + timedelta(days=2)
    search: dict[str, Any] = {"branch_id": branch.id, "service_id": service.id}
    search |= {"starts_from": stamp(start), "ends_by": stamp(start + timedelta(1))}
    slot = (await call("FindAvailability", pb.FindAvailabilityRequest(**search))).slots[0]
    wanted: dict[str, Any] = {
        "branch_id": branch.id,
        "service_id": service.id,
        "customer_id": customer.id,
        "staff_id": person.id,
        "starts_at": slot.starts_at,
    }
    booking = await call("CreateBooking", pb.CreateBookingRequest(**wanted))
    assert (booking.status, booking.time_zone) == (pb.BOOKING_STATUS_CONFIRMED, "Asia/Tokyo")
    record = {**wanted, "starts_at": datetime(2020, 1, 1, tzinfo=UTC), "status": pb.BOOKING_STATUS_COMPLETED}
    for field in ("branch_id", "customer_id", "service_id", "staff_id"):
        requests: dict[str, Any] = {
            "CreateBooking": pb.CreateBookingRequest(**{**wanted, field: new_id()}),
            "RecordBooking": pb.RecordBookingRequest(**{**record, field: new_id()}),
        }
        if field != "service_id":
            requests["ListBookings"] = pb.ListBookingsRequest(**{field: new_id()})  # type: ignore[arg-type]
        for method, request in requests.items():
            with pytest.raises(Refusal) as refused:
                await call(method, request)
            assert (refused.value.code, fields(refused.value)) == ("NOT_FOUND", [field]), method
    await platform.call("access", "UpdateBranch", UpdateBranchRequest(id=branch.id, active=False), caller)
    await platform.settle(caller.chain_id)
    assert not (await call("FindAvailability", pb.FindAvailabilityRequest(**search))).slots
