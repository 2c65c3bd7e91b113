"""Single days on which somebody works otherwise, make-up days, several branches: what can be booked follows at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from foyer.access.v1.access_pb2 import SwappedDay
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import people_pb2
from foyer.common.v1.common_pb2 import WEEKDAY_SUNDAY, WEEKDAY_TUESDAY

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, intervals
from tests.service.people_shop import another_branch, fields, moment, set_day, told, with_rights
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_days") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()


def delete_request(shop: Shop, day: str, **more: Any) -> people_pb2.DeleteStaffDayRequest:
    return people_pb2.DeleteStaffDayRequest(id=shop.staff[0], day=day, **more)


async def listed(shop: Shop, **more: Any) -> people_pb2.ListStaffDaysResponse:
    request = people_pb2.ListStaffDaysRequest(id=shop.staff[0], **more)
    answer: people_pb2.ListStaffDaysResponse = await shop.call("ListStaffDays", request)
    return answer


async def test_a_day_off_and_back(shop: Shop) -> None:
    booking = await shop.book(at(1, 11))
    kept = await shop.book(at(2, 11))
    change = await set_day(shop, "2026-05-05", reason="moving house")
    assert change.day.reason == "moving house"
    assert not change.day.intervals
    assert [conflict.booking_id for conflict in change.conflicts] == [booking.id]
    assert change.conflicts[0].customer_id == booking.customer_id
    assert (change.conflicts[0].service_name, change.conflicts[0].starts_at) == ("Cut", booking.starts_at)
    assert await shop.starts(1) == []
    assert (await shop.starts(2))[-1] == "17:00"
    assert (await shop.refused("CreateBooking", shop.request(at(1, 13), 0))).code == "NOT_BOOKABLE"
    # Said again, it means the same.
    assert (await set_day(shop, "2026-05-05")).conflicts == change.conflicts
    answer = await shop.call("DeleteStaffDay", delete_request(shop, "2026-05-05"))
    assert answer == people_pb2.StaffDayChange()
    assert (await shop.starts(1))[:2] == ["10:00", "12:00"]
    assert (await shop.refused("DeleteStaffDay", delete_request(shop, "2026-05-05"))).code == "NOT_FOUND"
    assert [event.day.day for event in await told(shop, people_pb2.StaffDaySet)] == ["2026-05-05", "2026-05-05"]
    removed = await told(shop, people_pb2.StaffDayRemoved)
    assert [(event.staff_id, event.branch_id, event.day) for event in removed] == [
        (shop.staff[0], shop.branch, "2026-05-05")
    ]
    assert await shop.told(booking.id) == await shop.told(kept.id) == ["BookingConfirmed"]


async def test_bookings_outside_a_shorter_day_are_told(shop: Shop) -> None:
    early, late, across = await shop.book(at(1, 11)), await shop.book(at(1, 16)), await shop.book(at(1, 13, 30))
    change = await set_day(shop, "2026-05-05", "10:00-14:00", "19:00-21:00")
    assert [conflict.booking_id for conflict in change.conflicts] == [across.id, late.id]
    assert await shop.starts(1) == ["10:00", "12:00", "12:15", "12:30", "19:00", "19:15", "19:30", "19:45", "20:00"]
    cancelled = await shop.call("CancelBooking", pb.CancelBookingRequest(id=late.id))
    assert cancelled.status == pb.BOOKING_STATUS_CANCELLED
    change = await set_day(shop, "2026-05-05", "10:00-12:00")
    assert [conflict.booking_id for conflict in change.conflicts] == [across.id]
    assert early.id not in {conflict.booking_id for conflict in change.conflicts}


async def test_a_night_belongs_to_the_day_it_begins(shop: Shop) -> None:
    await shop.keep_branch(2, hours=None)
    await set_day(shop, "2026-05-05", "22:00-02:00")
    assert await shop.starts(2) == ["00:00", "00:15", "00:30", "00:45", "01:00", *await shop.starts(9)]
    night = await shop.book(at(2, 0, 30))
    await shop.book(at(2, 10))
    # The day after keeps its own shift; taking the night away leaves the booking after midnight in the open.
    change = await set_day(shop, "2026-05-05", "22:00-24:00")
    assert [conflict.booking_id for conflict in change.conflicts] == [night.id]
    change = await set_day(shop, "2026-05-05", "22:00-02:00")
    assert not change.conflicts
    change = await shop.call("DeleteStaffDay", delete_request(shop, "2026-05-05"))
    assert [conflict.booking_id for conflict in change.conflicts] == [night.id]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-10-25", 4.0),  # 02:00 to 03:00 comes twice
        ("Europe/Berlin", "2027-03-28", 2.0),  # 02:00 to 03:00 does not come
        ("Australia/Lord_Howe", "2026-10-04", 2.5),  # half an hour does not come
        ("Asia/Kathmandu", "2026-10-04", 3.0),  # at :45
    ],
)
async def test_days_on_which_the_clocks_change(
    alone: tuple[Platform, FrozenClock], zone: str, day: str, hours: float
) -> None:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    shop = Shop(platform, clock, zone=zone)
    await shop.open(0)
    await shop.keep_branch(2, hours=None)
    shop.staff.append(await shop.new_staff("10:00", "11:00"))
    await set_day(shop, day, "01:00-04:00")
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    slots = await shop.offers(midnight, midnight + timedelta(hours=9))
    worked = moment(slots[-1].ends_at) - moment(slots[0].starts_at)
    assert worked == timedelta(hours=hours)
    assert moment(slots[0].starts_at) == midnight + timedelta(hours=1)
    booking = await shop.book(moment(slots[-1].starts_at))
    change = await set_day(shop, day, "10:00-11:00")
    assert [conflict.booking_id for conflict in change.conflicts] == [booking.id]


async def test_days_are_listed_in_pages(shop: Shop) -> None:
    other = await another_branch(shop)
    request = pb.UpdateStaffRequest(id=shop.staff[0], branch_ids=pb.Ids(ids=[shop.branch, other]))
    await shop.call("UpdateStaff", request)
    refusal = await shop.refused("SetStaffDay", people_pb2.SetStaffDayRequest(id=shop.staff[0], day="2026-05-05"))
    assert fields(refusal) == ["branch_id"]
    for day in ("2026-05-07", "2026-05-05", "2026-05-06"):
        for branch in (shop.branch, other):
            await set_day(shop, day, "10:00-12:00", branch_id=branch)
    everything = await listed(shop)
    assert [day.day[-1] for day in everything.days] == list("556677")
    pages: list[people_pb2.StaffDay] = []
    token = ""
    while True:
        page = await listed(shop, page_size=4, page_token=token)
        pages += page.days
        token = page.next_page_token
        if not token:
            break
    assert pages == list(everything.days)
    some = await listed(shop, from_date="2026-05-06", until_date="2026-05-06", branch_id=other)
    assert [(day.day, day.branch_id) for day in some.days] == [("2026-05-06", other)]
    wrong = people_pb2.ListStaffDaysRequest(id=shop.staff[0], from_date="2026-05-06", until_date="2026-05-05")
    assert fields(await shop.refused("ListStaffDays", wrong)) == ["to"]
    elsewhere = people_pb2.ListStaffDaysRequest(id=shop.staff[0], branch_id=new_id())
    assert (await shop.refused("ListStaffDays", elsewhere)).code == "UNAVAILABLE"  # access would be asked
    for token in ("nonsense", "WyJ4IiwieCJd", "WyJ4IiwgIjAxOTAwMDAwLTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMCJd"):
        refusal = await shop.refused(
            "ListStaffDays", people_pb2.ListStaffDaysRequest(id=shop.staff[0], page_token=token)
        )
        assert fields(refusal) == ["page_token"]


async def test_what_is_wrong_with_a_day_is_refused(shop: Shop) -> None:
    one = people_pb2.DayInterval(start_time="10:00", end_time="12:00")
    for request, wrong in (
        (people_pb2.SetStaffDayRequest(id=shop.staff[0], day="2026-02-30"), ["day"]),
        (people_pb2.SetStaffDayRequest(id=shop.staff[0], day="tomorrow"), ["day"]),
        (people_pb2.SetStaffDayRequest(id=shop.staff[0], day="2026-05-05", intervals=[one] * 11), ["intervals"]),
        (
            people_pb2.SetStaffDayRequest(
                id=shop.staff[0],
                day="2026-05-05",
                intervals=[people_pb2.DayInterval(start_time="10:03", end_time="25:00")],
            ),
            ["intervals[0].start_time", "intervals[0].end_time"],
        ),
    ):
        refusal = await shop.refused("SetStaffDay", request)
        assert (refusal.code, fields(refusal)) == ("INVALID_REQUEST", wrong)
    other = await another_branch(shop)
    request = people_pb2.SetStaffDayRequest(id=shop.staff[0], day="2026-05-05", branch_id=other)
    assert fields(await shop.refused("SetStaffDay", request)) == ["branch_id"]
    unknown = people_pb2.SetStaffDayRequest(id=new_id(), day="2026-05-05")
    assert (await shop.refused("SetStaffDay", unknown)).code == "NOT_FOUND"


async def test_days_belong_to_a_branch_and_a_chain(shop: Shop) -> None:
    other = await another_branch(shop)
    request = people_pb2.SetStaffDayRequest(id=shop.staff[0], day="2026-05-05")
    manager = with_rights(shop, "staff.write", "staff.read", branches=[other])
    assert (await shop.refused("SetStaffDay", request, caller=manager)).code == "PERMISSION_DENIED"
    deletion = delete_request(shop, "2026-05-05")
    assert (await shop.refused("DeleteStaffDay", deletion, caller=manager)).code == "PERMISSION_DENIED"
    look = people_pb2.ListStaffDaysRequest(id=shop.staff[0])
    assert (await shop.refused("ListStaffDays", look, caller=manager)).code == "PERMISSION_DENIED"
    reader = with_rights(shop, "staff.read")
    assert (await shop.refused("SetStaffDay", request, caller=reader)).code == "PERMISSION_DENIED"
    stranger = shop.platform.owner()
    for method, message in (("SetStaffDay", request), ("DeleteStaffDay", deletion), ("ListStaffDays", look)):
        assert (await shop.refused(method, message, caller=stranger)).code == "NOT_FOUND"


async def test_a_make_up_day_follows_the_plan_of_its_weekday(shop: Shop) -> None:
    """9 May 2026 is a Saturday that is worked as a Tuesday; the Tuesday before it follows Sunday's plan."""
    weekdays = intervals("10:00", "12:00", range(1, 6))
    set_shifts = pb.SetShiftsRequest(id=shop.staff[0], branch_id=shop.branch, intervals=weekdays)
    await shop.call("SetShifts", set_shifts)
    assert await shop.starts(5) == []
    swapped = [
        SwappedDay(day="2026-05-09", follows=WEEKDAY_TUESDAY),
        SwappedDay(day="2026-05-05", follows=WEEKDAY_SUNDAY),
    ]
    await shop.keep_branch(2, swapped_days=swapped)
    assert await shop.starts(5) == ["10:00", "10:15", "10:30", "10:45", "11:00"]
    assert await shop.starts(1) == []
    # What is dated comes first.
    await set_day(shop, "2026-05-09", "14:00-15:00")
    assert await shop.starts(5) == ["14:00"]


async def test_somebody_at_two_branches_is_in_one_place(shop: Shop) -> None:
    other = await another_branch(shop)
    person = await shop.new_staff(branch_ids=[shop.branch, other])
    for branch in (shop.branch, other):
        request = pb.SetShiftsRequest(
            id=person, branch_id=branch, from_date="2026-01-01", intervals=intervals("10:00", "18:00")
        )
        await shop.call("SetShifts", request)
    shop.staff = [person]

    async def attempt(branch: str, minute: int) -> pb.Booking | str:
        try:
            booking: pb.Booking = await shop.book(at(1, 11, minute), 0, branch_id=branch)
        except Refusal as refusal:
            return refusal.code
        return booking

    tries = [attempt(branch, minute) for branch in (shop.branch, other) for minute in (0, 15, 30, 45)]
    answers = await asyncio.gather(*tries)
    won = [answer for answer in answers if isinstance(answer, pb.Booking)]
    assert len(won) == 1
    assert [answer for answer in answers if isinstance(answer, str)] == ["SLOT_TAKEN"] * 7
    for branch in (shop.branch, other):
        slots = await shop.offers(at(1, 0), at(1, 24), branch_id=branch, staff_id=person)
        assert all(not _overlap(slot, won[0]) for slot in slots)
    # A day at one branch is not a day at the other.
    await set_day(shop, "2026-05-06", branch_id=other)
    assert await shop.offers(at(2, 0), at(2, 24), branch_id=other) == []
    assert await shop.offers(at(2, 0), at(2, 24), staff_id=person)


def _overlap(slot: pb.Slot, booking: pb.Booking) -> bool:
    return moment(slot.starts_at) < moment(booking.ends_at) and moment(booking.starts_at) < moment(slot.ends_at)
