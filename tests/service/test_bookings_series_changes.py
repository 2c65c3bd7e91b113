"""Changes of series against real PostgreSQL: this booking, the following or all; each of them or none."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import policies_pb2, series_pb2
from foyer.common.v1.common_pb2 import WEEKDAY_WEDNESDAY as WEDNESDAY
from google.protobuf.message import Message

from chassis.clock import FrozenClock
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.bookings_series_shop import (
    ALL,
    FOLLOWING,
    attempt,
    confirmed,
    daily,
    listed,
    make,
    moving,
    request,
    starts,
    subjects,
)
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp, yuan
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_series_changes") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()


# --- changes -----------------------------------------------------------------------------------------


async def test_cancelling_one_the_following_or_all(shop: Shop) -> None:
    series = await make(shop, at(1, 10), daily(5))
    bookings = await listed(shop, series)
    asked = series_pb2.CancelSeriesRequest(id=series.id, booking_id=bookings[1].id, reason="away")
    one = await shop.call("CancelSeries", asked, if_match=1)
    assert [(booking.id, booking.cancel_reason) for booking in one.bookings] == [(bookings[1].id, "away")]
    assert one.series.version == 2
    assert (await shop.refused("CancelSeries", asked)).parameters["status"] == "cancelled"
    assert (await shop.refused("CancelSeries", asked, if_match=1)).code == "PRECONDITION_FAILED"
    asked = series_pb2.CancelSeriesRequest(id=series.id, booking_id=bookings[3].id, scope=FOLLOWING)
    following = await shop.call("CancelSeries", asked)
    assert [booking.id for booking in following.bookings] == [bookings[3].id, bookings[4].id]
    assert starts(confirmed(await listed(shop, series))) == ["05-05 10:00", "05-07 10:00"]
    assert await shop.check_time() == 2
    shop.clock.advance(at(1, 10, 30) - NOW)
    # The first one has begun: it is left.
    rest = await shop.call("CancelSeries", series_pb2.CancelSeriesRequest(id=series.id, scope=ALL))
    assert [booking.id for booking in rest.bookings] == [bookings[2].id]
    assert await shop.told(bookings[2].id) == ["BookingConfirmed", "BookingCancelled"]
    over = await shop.refused("CancelSeries", series_pb2.CancelSeriesRequest(id=series.id, scope=ALL))
    assert over.code == "WRONG_STATE"
    assert await subjects(shop, series.id) == ["created", "changed", "changed", "changed"]
    wrong = await shop.refused("CancelSeries", series_pb2.CancelSeriesRequest(id=series.id))
    assert [error.field for error in wrong.errors] == ["booking_id"]
    other = await make(shop, at(20, 10), daily(1))
    wrong = await shop.refused(
        "CancelSeries", series_pb2.CancelSeriesRequest(id=series.id, booking_id=other.occurrences[0].booking.id)
    )
    assert (wrong.code, [error.field for error in wrong.errors]) == ("NOT_FOUND", ["booking_id"])


async def test_moving_by_a_day_onto_its_own_dates(shop: Shop) -> None:
    series = await make(shop, at(1, 10), daily(4))
    bookings = await listed(shop, series)
    moved = await shop.call("RescheduleSeries", moving(series, bookings[0], scope=ALL, weekday=WEDNESDAY))
    assert starts(list(moved.bookings)) == ["05-06 10:00", "05-07 10:00", "05-08 10:00", "05-09 10:00"]
    assert [booking.id for booking in moved.bookings] == [booking.id for booking in bookings]
    event, _ = (await shop.events(bookings[0].id))[-1]
    assert event.previous_starts_at == stamp(at(1, 10))
    assert await shop.check_time() == 4
    # Half an hour overlaps with nothing but itself.
    moved = await shop.call("RescheduleSeries", moving(series, bookings[2], scope=FOLLOWING, local_time="10:30"))
    assert starts(await listed(shop, series)) == ["05-06 10:00", "05-07 10:00", "05-08 10:30", "05-09 10:30"]
    one = await shop.call("RescheduleSeries", moving(series, bookings[0], local_time="15:00"))
    assert starts(list(one.bookings)) == ["05-06 15:00"]
    assert [booking.change_count for booking in await listed(shop, series)] == [2, 1, 2, 2]
    same = await shop.call("RescheduleSeries", moving(series, bookings[0], local_time="15:00"))
    assert not same.bookings
    nothing = await shop.refused("RescheduleSeries", moving(series, bookings[0], scope=ALL))
    assert nothing.code == "INVALID_REQUEST"


async def test_one_that_cannot_move_keeps_all(shop: Shop) -> None:
    series = await make(shop, at(1, 10), daily(4))
    before = await listed(shop, series)
    await shop.book(at(3, 14, 30))
    refused = await shop.refused("RescheduleSeries", moving(series, before[0], scope=ALL, local_time="14:00"))
    occurrences = refused.members["occurrences"]
    assert [each["outcome"] for each in occurrences] == ["free", "free", "conflict", "free"]
    assert occurrences[2]["booking"]["id"] == before[2].id
    assert occurrences[2]["alternatives"][0]["starts_at"] == "2026-05-07T05:30:00Z"
    assert await listed(shop, series) == before
    assert await shop.check_time() == 5


async def test_another_person_takes_over(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    series = await make(shop, at(1, 10), daily(3), staff_id=shop.staff[0])
    bookings = await listed(shop, series)
    moved = await shop.call("RescheduleSeries", moving(series, bookings[1], scope=FOLLOWING, staff_id=shop.staff[1]))
    assert [booking.staff_id for booking in moved.bookings] == [shop.staff[1]] * 2
    assert starts(list(moved.bookings)) == ["05-06 10:00", "05-07 10:00"]
    refused = await shop.refused("RescheduleSeries", moving(series, bookings[0], scope=ALL, staff_id=new_id()))
    assert refused.code == "NOT_FOUND"


async def test_what_began_or_ended_is_left(shop: Shop) -> None:
    series = await make(shop, at(1, 10), daily(3))
    bookings = await listed(shop, series)
    shop.clock.advance(at(1, 10, 5) - NOW)
    await shop.call("CheckInBooking", pb.CheckInBookingRequest(id=bookings[1].id))
    moved = await shop.call("RescheduleSeries", moving(series, bookings[2], scope=ALL, local_time="15:00"))
    assert [booking.id for booking in moved.bookings] == [bookings[2].id]


async def test_moves_race(shop: Shop) -> None:
    series = [await make(shop, at(1, hour), daily(6)) for hour in (10, 12)]
    first = [(await listed(shop, each))[0] for each in series]
    answers = await asyncio.gather(
        *(
            attempt(shop, "RescheduleSeries", moving(each, booking, scope=ALL, local_time="14:00"))
            for each, booking in zip(series, first, strict=True)
        ),
        *(attempt(shop, "CreateBooking", shop.request(at(day, 14))) for day in (2, 5)),
        attempt(shop, "CancelSeries", series_pb2.CancelSeriesRequest(id=series[0].id, scope=ALL)),
    )
    assert {answer for answer in answers if isinstance(answer, str)} <= {"SERIES_CONFLICT", "SLOT_TAKEN", "WRONG_STATE"}
    for each in series:
        found = confirmed(await listed(shop, each))
        assert len({booking.starts_at.seconds % 86400 for booking in found}) <= 1  # all of it moved, or nothing


async def test_fees_are_accepted_for_all_together(shop: Shop) -> None:
    policy = policies_pb2.ChangePolicy(late_fee=policies_pb2.Fee(percent=50))
    policy.cancellation.add(notice_minutes=36 * 60)
    await shop.call("UpdateBookingPolicy", policies_pb2.UpdateBookingPolicyRequest(change=policy))
    series = await make(shop, at(0, 10), daily(4))
    asked = series_pb2.CancelSeriesRequest(id=series.id, scope=ALL)
    refused = await shop.refused("CancelSeries", asked)
    assert (refused.code, refused.members["total_fee"]) == ("SERIES_FEE_DUE", {"amount": 12800, "currency": "CNY"})
    asked.accepted_fee.CopyFrom(yuan(12800))
    cancelled = await shop.call("CancelSeries", asked)
    assert [booking.fee.amount for booking in cancelled.bookings] == [6400, 6400, 0, 0]


# --- lists, other chains, branches -------------------------------------------------------------------


async def test_lists_and_who_may_see_them(shop: Shop) -> None:
    customer = shop.customer
    older, newer = await make(shop, at(1, 10), daily(1), customer_id=customer), await make(shop, at(2, 10), daily(1))

    async def ids(caller: Any = None, **filters: Any) -> list[str]:
        found = await shop.call("ListSeries", series_pb2.ListSeriesRequest(**filters), caller)
        return [series.id for series in found.series]

    assert await ids() == [newer.id, older.id]
    assert await ids(customer_id=customer) == [older.id]
    assert await ids(branch_id=shop.branch) == [newer.id, older.id]
    page = await shop.call("ListSeries", series_pb2.ListSeriesRequest(page_size=1))
    assert await ids(page_token=page.next_page_token) == [older.id]
    booking = older.occurrences[0].booking
    requests: list[tuple[str, Message]] = [
        ("GetBookingSeries", series_pb2.GetBookingSeriesRequest(id=older.id)),
        ("CancelSeries", series_pb2.CancelSeriesRequest(id=older.id, scope=ALL)),
        ("RescheduleSeries", moving(older, booking, local_time="12:00")),
        ("ListBookings", pb.ListBookingsRequest(series_id=older.id)),
    ]
    stranger = shop.platform.owner()
    for method, asked in requests:
        assert (await shop.refused(method, asked, caller=stranger)).code == "NOT_FOUND", method
    grants = {name: [new_id()] for name in ("bookings.read", "bookings.write")}
    elsewhere = dataclasses.replace(shop.caller, grants=grants)
    for method, asked in [*requests[:3], ("CreateSeries", request(shop, at(5, 10), daily(1)))]:
        assert (await shop.refused(method, asked, caller=elsewhere)).code == "PERMISSION_DENIED", method
    assert await ids(elsewhere) == []
