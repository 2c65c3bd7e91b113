"""Series against real PostgreSQL: all dates or none, whoever books beside them and whatever the clocks do."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import series_pb2
from foyer.common.v1.common_pb2 import WEEKDAY_THURSDAY as THURSDAY
from foyer.common.v1.common_pb2 import WEEKDAY_TUESDAY as TUESDAY
from foyer.common.v1.common_pb2 import WEEKDAY_WEDNESDAY as WEDNESDAY

from chassis.clock import FrozenClock
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.bookings_series_shop import (
    ALL,
    BOOKED,
    CONFLICT,
    DAILY,
    FREE,
    MOVED,
    NEAREST,
    SKIP,
    SKIPPED,
    WEEKLY,
    attempt,
    daily,
    listed,
    make,
    request,
    starts,
    subjects,
    weekly,
)
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp
from tools.servers import Servers

# Generous: the machine is shared. What it takes alone is printed.
MOST_SECONDS = 8.0


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_series") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()


# --- making ------------------------------------------------------------------------------------------


async def test_every_date_is_booked(shop: Shop) -> None:
    series = await make(shop, at(1, 10), weekly(3), note="standing appointment", source="phone")
    assert [each.outcome for each in series.occurrences] == [BOOKED] * 3
    bookings = await listed(shop, series)
    assert bookings == [each.booking for each in series.occurrences]
    assert starts(bookings) == ["05-05 10:00", "05-12 10:00", "05-19 10:00"]
    assert {(booking.series_id, booking.note, booking.source) for booking in bookings} == {
        (series.id, "standing appointment", "phone")
    }
    for booking in bookings:
        assert await shop.told(booking.id) == ["BookingConfirmed"]
    assert await subjects(shop, series.id) == ["created"]
    read = await shop.call("GetBookingSeries", series_pb2.GetBookingSeriesRequest(id=series.id))
    assert not read.occurrences
    assert (read.rule, read.time_zone, read.on_conflict, read.version) == (
        weekly(3),
        "Asia/Shanghai",
        series_pb2.ON_CONFLICT_REFUSE,
        1,
    )


async def test_a_date_that_is_taken_refuses_all_with_alternatives(shop: Shop) -> None:
    await shop.book(at(8, 10, 30))
    refused = await shop.refused("CreateSeries", request(shop, at(1, 10), weekly(3)))
    assert (refused.code, refused.parameters["conflicts"], refused.parameters["total"]) == ("SERIES_CONFLICT", "1", "3")
    first, second, third = refused.members["occurrences"]
    assert [each["outcome"] for each in (first, second, third)] == ["free", "conflict", "free"]
    assert second["reason"] == "taken"
    near = [slot["starts_at"] for slot in second["alternatives"]]
    assert near == ["2026-05-12T03:30:00Z", "2026-05-12T03:45:00Z", "2026-05-12T04:00:00Z"]
    assert await shop.check_time() == 1
    # What is proposed can be had.
    await shop.book(datetime.fromisoformat(near[0]))


async def test_a_preview_books_nothing(shop: Shop) -> None:
    await shop.book(at(8, 10))
    for on_conflict, outcome in ((0, CONFLICT), (SKIP, SKIPPED), (NEAREST, MOVED)):
        series = await make(shop, at(1, 10), weekly(2), preview=True, on_conflict=on_conflict)
        assert not series.HasField("id")
        assert [each.outcome for each in series.occurrences] == [FREE, outcome]
        assert len(series.occurrences[1].alternatives) == 3
    assert series.occurrences[1].moved_to == stamp(at(8, 11))
    assert await shop.check_time() == 1


async def test_skipping_and_moving(shop: Shop) -> None:
    await shop.book(at(2, 10))
    skipping = await make(shop, at(1, 10), daily(3), on_conflict=SKIP)
    assert [each.outcome for each in skipping.occurrences] == [BOOKED, SKIPPED, BOOKED]
    assert starts(await listed(shop, skipping)) == ["05-05 10:00", "05-07 10:00"]
    moving = await make(shop, at(1, 10), daily(2), on_conflict=NEAREST, nearest_within_minutes=60)
    assert [each.outcome for each in moving.occurrences] == [MOVED, MOVED]
    assert starts(await listed(shop, moving)) == ["05-05 11:00", "05-06 11:00"]
    assert moving.occurrences[0].moved_to == moving.occurrences[0].booking.starts_at
    # Nothing within the distance: nothing at all.
    near = request(shop, at(1, 10), daily(2), on_conflict=NEAREST, nearest_within_minutes=30)
    assert (await shop.refused("CreateSeries", near)).code == "SERIES_CONFLICT"
    far = await make(shop, at(1, 17), daily(1), on_conflict=NEAREST)
    assert [each.outcome for each in far.occurrences] == [BOOKED]
    none = request(shop, at(1, 10), daily(1), on_conflict=SKIP)
    assert (await shop.refused("CreateSeries", none)).code == "SERIES_CONFLICT"


async def test_the_nearest_may_be_days_away(shop: Shop) -> None:
    for hour in range(10, 18):
        await shop.book(at(1, hour))
    series = await make(shop, at(1, 10), daily(1), on_conflict=NEAREST, nearest_within_minutes=3 * 1440)
    assert starts(await listed(shop, series)) == ["05-04 17:00"]
    refused = await shop.refused("CreateSeries", request(shop, at(1, 10), daily(1)))
    (only,) = refused.members["occurrences"]
    # Nothing that day: the days around it.
    assert [slot["starts_at"] for slot in only["alternatives"]] == [
        "2026-05-04T08:00:00Z",
        "2026-05-04T07:45:00Z",
        "2026-05-04T07:30:00Z",
    ]


async def test_reasons(shop: Shop) -> None:
    customer = shop.customer
    shop.staff.append(await shop.new_staff())
    await shop.book(at(1, 10), staff=1, customer_id=customer)
    await shop.keep_branch(2, holidays=["2026-05-12"])
    asked = request(shop, at(1, 10), weekly(3), customer_id=customer, preview=True)
    series = await shop.call("CreateSeries", asked)
    assert [each.reason for each in series.occurrences] == ["customer_busy", "closed", ""]
    asked = request(shop, at(397, 10), weekly(2), preview=True)
    series = await shop.call("CreateSeries", asked)
    assert [each.reason for each in series.occurrences] == ["", "too_far"]
    assert not series.occurrences[1].alternatives
    for wanted, code in (
        (request(shop, at(-1, 10), weekly(2)), "NOT_BOOKABLE"),
        (request(shop, datetime(9999, 12, 31, 23, 55, tzinfo=UTC), weekly(2)), "NOT_BOOKABLE"),
        (request(shop, at(1, 10), weekly(2), staff_id=new_id()), "NOT_FOUND"),
        (request(shop, at(1, 10), weekly(2), service_id=new_id()), "NOT_FOUND"),
        (request(shop, at(1, 10), series_pb2.SeriesRule(frequency=DAILY)), "INVALID_REQUEST"),
        (request(shop, at(1, 10), weekly(105)), "INVALID_REQUEST"),
        (request(shop, at(1, 10) + timedelta(minutes=1), weekly(2)), "INVALID_REQUEST"),
        (request(shop, at(1, 10), weekly(2), service_id=""), "INVALID_REQUEST"),
    ):
        assert (await shop.refused("CreateSeries", wanted)).code == code
    ended = await shop.new_service(name="Ended")
    await shop.call("UpdateService", pb.UpdateServiceRequest(id=ended, active=False))
    refused = await shop.refused("CreateSeries", request(shop, at(1, 10), weekly(2), service_id=ended))
    assert (refused.code, refused.parameters["reason"]) == ("NOT_BOOKABLE", "the service is no longer offered")


async def test_a_series_of_visits_of_two(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    friend = shop.crowd[-1]
    lines = [
        pb.LineRequest(service_id=shop.service),
        pb.LineRequest(service_id=shop.service, customer_id=friend, together=True),
    ]
    series = await make(shop, at(1, 10), weekly(2), service_id="", lines=lines, customer_id=shop.customer)
    bookings = await listed(shop, series)
    assert [len(booking.lines) for booking in bookings] == [2, 2]
    assert (await shop.refused("CreateBooking", shop.request(at(8, 10, 30), customer_id=friend))).code == "SLOT_TAKEN"


async def test_days_that_touch_share_people_fairly_within_a_series(shop: Shop) -> None:
    """Dates see those before them: a visit over midnight and the next day's do not overlap."""
    await shop.keep_branch(2, hours=None)
    shop.staff = [await shop.new_staff("00:00", "24:00")]
    long = await shop.new_service(name="Retreat", duration_minutes=1440, buffer_after_minutes=60)
    refused = await shop.refused(
        "CreateSeries", request(shop, at(1, 10), daily(3), service_id=long, staff_id=shop.staff[0])
    )
    assert [each["outcome"] for each in refused.members["occurrences"]] == ["free", "conflict", "free"]


async def test_a_key_answers_the_same(shop: Shop) -> None:
    asked = request(shop, at(1, 10), weekly(3))
    first = await shop.call("CreateSeries", asked, key="s1")
    assert await shop.call("CreateSeries", asked, key="s1") == first
    assert await shop.check_time() == 3


@pytest.mark.parametrize(
    ("zone", "first", "expected"),
    [
        # The clocks go forward on 29 March 2026 at 02:00, and back on 25 October at 03:00.
        ("Europe/Berlin", (2026, 10, 18, 10, 0), ["10-18 10:00", "10-25 10:00", "11-01 10:00"]),
        ("Europe/Berlin", (2027, 3, 21, 2, 30), ["03-21 02:30", "03-28 03:00", "04-04 02:30"]),
        ("America/Toronto", (2026, 10, 25, 1, 30), ["10-25 01:30", "11-01 01:30", "11-08 01:30"]),
        ("Australia/Lord_Howe", (2026, 9, 27, 2, 15), ["09-27 02:15", "10-04 02:30", "10-11 02:15"]),
        ("Asia/Kathmandu", (2026, 9, 27, 10, 15), ["09-27 10:15", "10-04 10:15", "10-11 10:15"]),
    ],
)
async def test_local_time_stays(
    alone: tuple[Platform, FrozenClock], zone: str, first: tuple[int, ...], expected: list[str]
) -> None:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    shop = await Shop(platform, clock, zone).open(0)
    await shop.keep_branch(2, hours=None)
    shop.staff.append(await shop.new_staff("00:00", "24:00"))
    starts_at = datetime(*first, tzinfo=ZoneInfo(zone)).astimezone(UTC)  # type: ignore[arg-type,misc]
    series = await make(shop, starts_at, weekly(3))
    bookings = await listed(shop, series)
    assert starts(bookings, zone) == expected
    asked = series_pb2.RescheduleSeriesRequest(id=series.id, booking_id=bookings[0].id, scope=ALL, local_time="12:00")
    moved = await shop.call("RescheduleSeries", asked)
    assert starts(list(moved.bookings), zone) == [f"{text[:5]} 12:00" for text in expected]
    await shop.check_time()


# --- races -------------------------------------------------------------------------------------------


async def test_series_and_single_bookings_race(shop: Shop) -> None:
    """Several series over the same dates, and bookings of single ones: all of a series, or nothing of it."""
    single = [shop.request(at(day, 10, 30)) for day in range(1, 13) for _ in range(2)]
    answers = await asyncio.gather(
        *(attempt(shop, "CreateSeries", request(shop, at(1, 10), daily(12))) for _ in range(4)),
        *(attempt(shop, "CreateBooking", asked) for asked in single),
        *(attempt(shop, "CreateSeries", request(shop, at(3, 11), daily(6))) for _ in range(4)),
    )
    codes = Counter(answer for answer in answers if isinstance(answer, str))
    assert set(codes) <= {"SERIES_CONFLICT", "SLOT_TAKEN"}
    made = [answer for answer in answers if isinstance(answer, series_pb2.BookingSeries)]
    for series in made:
        assert {each.outcome for each in series.occurrences} == {BOOKED}
    booked = sum(isinstance(answer, pb.Booking) for answer in answers)
    assert await shop.check_time() == booked + sum(len(series.occurrences) for series in made)


async def test_as_many_series_win_as_there_are_people(shop: Shop) -> None:
    for _ in range(2):
        shop.staff.append(await shop.new_staff())
    answers = await asyncio.gather(
        *(attempt(shop, "CreateSeries", request(shop, at(1, 10), daily(10))) for _ in range(6))
    )
    assert Counter(answer if isinstance(answer, str) else "made" for answer in answers) == {
        "made": 3,
        "SERIES_CONFLICT": 3,
    }


async def test_series_that_skip_share_the_dates(shop: Shop) -> None:
    answers = await asyncio.gather(
        *(attempt(shop, "CreateSeries", request(shop, at(1, 10), daily(8), on_conflict=SKIP)) for _ in range(5)),
        *(attempt(shop, "CreateBooking", shop.request(at(day, 10))) for day in range(1, 9)),
    )
    assert {answer for answer in answers if isinstance(answer, str)} <= {"SERIES_CONFLICT", "SLOT_TAKEN"}
    assert await shop.check_time() == 8


async def test_a_hold_that_ran_out_makes_room(shop: Shop) -> None:
    held = await shop.book(at(8, 10), hold=True)
    shop.clock.advance(timedelta(minutes=10))
    series = await make(shop, at(1, 10), weekly(2))
    assert len(await listed(shop, series)) == 2
    assert await shop.told(held.id) == ["BookingHeld", "BookingExpired"]


async def test_104_dates(shop: Shop) -> None:
    for _ in range(9):
        shop.staff.append(await shop.new_staff())
    rule = series_pb2.SeriesRule(frequency=WEEKLY, weekdays=[TUESDAY, THURSDAY], count=104)
    series, seconds = await timed(make(shop, at(1, 10), rule))
    assert len(series.occurrences) == 104
    again, skipping = await timed(make(shop, at(1, 10), rule, on_conflict=SKIP))
    assert {each.outcome for each in again.occurrences} == {BOOKED}
    asked = series_pb2.RescheduleSeriesRequest(
        id=series.id, booking_id=series.occurrences[0].booking.id, scope=ALL, local_time="14:00", weekday=WEDNESDAY
    )
    moved, moving = await timed(shop.call("RescheduleSeries", asked))
    assert len(moved.bookings) == 104
    cancelled, cancelling = await timed(
        shop.call("CancelSeries", series_pb2.CancelSeriesRequest(id=series.id, scope=ALL))
    )
    assert len(cancelled.bookings) == 104
    print(f"104 dates: make {seconds:.2f} s, again {skipping:.2f} s, move {moving:.2f} s, cancel {cancelling:.2f} s")
    assert max(seconds, skipping, moving, cancelling) < MOST_SECONDS


async def timed(work: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    return await work, time.perf_counter() - started
