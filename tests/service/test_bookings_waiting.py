"""The waiting list: freed time goes to who waits for it, in order, each offer with a clock, never to two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import catalogue_pb2, classes_pb2, policies_pb2, waiting_list_pb2

from chassis.clock import FrozenClock
from chassis.db import prepare_sql
from chassis.testing import Platform
from services.bookings.jobs import expire_holds
from services.bookings.waiting.offering import UNLOOKED, look_again
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, intervals, stamp
from tools.servers import Servers

MORNING = (at(1, 10), at(1, 11))
SUBJECTS = prepare_sql(
    "select subject from outbox where chain_id = $1::uuid and aggregate_id = $2 order by sequence",
    "chain_id",
    "aggregate_id",
)


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "waiting") as opened:
        yield opened


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> Shop:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    return await Shop(platform, clock).open()


def window(since: datetime, until: datetime) -> waiting_list_pb2.WaitingWindow:
    return waiting_list_pb2.WaitingWindow(starts_from=stamp(since), ends_by=stamp(until))


async def join(
    shop: Shop, number: int, since: datetime = MORNING[0], until: datetime = MORNING[1], **more: Any
) -> waiting_list_pb2.WaitingEntry:
    values: dict[str, Any] = {"lines": [pb.LineRequest(service_id=shop.service)], **more}
    request = waiting_list_pb2.JoinWaitingListRequest(
        branch_id=shop.branch, customer_id=shop.crowd[-number], windows=[window(since, until)], **values
    )
    entry: waiting_list_pb2.WaitingEntry = await shop.call("JoinWaitingList", request)
    return entry


async def read(shop: Shop, entry: waiting_list_pb2.WaitingEntry) -> waiting_list_pb2.WaitingEntry:
    found: waiting_list_pb2.WaitingEntry = await shop.call(
        "GetWaitingEntry", waiting_list_pb2.GetWaitingEntryRequest(id=entry.id)
    )
    return found


async def states(shop: Shop, *entries: waiting_list_pb2.WaitingEntry) -> list[str]:
    found = [await read(shop, entry) for entry in entries]
    return [waiting_list_pb2.WaitingStatus.Name(entry.status).removeprefix("WAITING_STATUS_") for entry in found]


async def cancel(shop: Shop, booking: pb.Booking) -> None:
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=booking.id))


async def test_a_freed_time_is_held_for_the_first_who_waits(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    first, second = await join(shop, 1), await join(shop, 2)
    assert (first.place, second.place) == (1, 2)
    await cancel(shop, booking)
    assert await states(shop, first, second) == ["OFFERED", "WAITING"]
    offered = await read(shop, first)
    assert offered.offer_expires_at.seconds == stamp(NOW + timedelta(minutes=30)).seconds
    assert (await read(shop, second)).place == 1
    held = await shop.call("GetBooking", pb.GetBookingRequest(id=offered.booking_id))
    assert (held.status, held.customer_id) == (pb.BOOKING_STATUS_HELD, shop.crowd[-1])
    # Nobody else gets it meanwhile.
    assert (await shop.refused("CreateBooking", shop.request(at(1, 10)))).code == "SLOT_TAKEN"
    accepted = await shop.call("AcceptWaitingOffer", waiting_list_pb2.AcceptWaitingOfferRequest(id=first.id))
    assert accepted.status == waiting_list_pb2.WAITING_STATUS_BOOKED
    confirmed = await shop.call("GetBooking", pb.GetBookingRequest(id=offered.booking_id))
    assert confirmed.status == pb.BOOKING_STATUS_CONFIRMED
    async with shop.unit() as unit:
        rows = await unit.all(SUBJECTS, aggregate_id=first.id)
    assert [row["subject"] for row in rows] == ["waiting_list.joined", "waiting_list.offered", "waiting_list.booked"]
    assert await shop.check_time() == 1


async def test_an_offer_that_runs_out_goes_to_the_next(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    entries = [await join(shop, number) for number in (1, 2, 3)]
    await cancel(shop, booking)
    context = shop.platform["bookings"].context
    shop.clock.advance(timedelta(minutes=31))
    late = waiting_list_pb2.AcceptWaitingOfferRequest(id=entries[0].id)
    assert (await shop.refused("AcceptWaitingOffer", late)).code == "HOLD_EXPIRED"
    await expire_holds(context)
    assert await states(shop, *entries) == ["WAITING", "OFFERED", "WAITING"]
    assert (await read(shop, entries[0])).passed_count == 1
    decline = waiting_list_pb2.DeclineWaitingOfferRequest(id=entries[1].id)
    await shop.call("DeclineWaitingOffer", decline)
    assert await states(shop, *entries) == ["WAITING", "WAITING", "OFFERED"]
    assert (await shop.refused("DeclineWaitingOffer", decline)).code == "NO_OFFER"
    shop.clock.advance(timedelta(minutes=31))
    await expire_holds(context)
    # Everybody let it pass: it is free for all.
    assert await states(shop, *entries) == ["WAITING", "WAITING", "WAITING"]
    assert "10:00" in await shop.starts(1)
    assert await shop.check_time() == 0


async def test_what_is_free_already_is_offered_at_once(shop: Shop) -> None:
    entry = await join(shop, 1)
    assert entry.status == waiting_list_pb2.WAITING_STATUS_OFFERED
    assert not entry.HasField("place")


async def test_moving_frees_time_as_well_and_only_what_suits_is_offered(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    await shop.book(at(1, 15))
    morning, afternoon = await join(shop, 1), await join(shop, 2, at(1, 15), at(1, 16))
    moved = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 12)))
    await shop.call("RescheduleBooking", moved)
    assert await states(shop, morning, afternoon) == ["OFFERED", "WAITING"]
    assert await shop.check_time() == 3


async def test_priority_comes_first_where_the_policy_says_so(shop: Shop) -> None:
    request = policies_pb2.UpdateBookingPolicyRequest(waiting_order=policies_pb2.WAITING_ORDER_PRIORITY)
    await shop.call("UpdateBookingPolicy", request)
    booking = await shop.book(at(1, 10))
    plain, dear = await join(shop, 1), await join(shop, 2, priority=5)
    assert (dear.place, (await read(shop, plain)).place) == (1, 2)
    await cancel(shop, booking)
    assert await states(shop, plain, dear) == ["WAITING", "OFFERED"]
    raised = waiting_list_pb2.UpdateWaitingEntryRequest(id=plain.id, priority=9)
    assert (await shop.call("UpdateWaitingEntry", raised)).place == 1


async def test_leaving_gives_the_offer_to_the_next(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    first, second = await join(shop, 1), await join(shop, 2)
    await cancel(shop, booking)
    leave = waiting_list_pb2.LeaveWaitingListRequest(id=first.id)
    await shop.call("LeaveWaitingList", leave)
    assert await states(shop, first, second) == ["LEFT", "OFFERED"]
    assert (await shop.refused("LeaveWaitingList", leave)).code == "WRONG_STATE"
    listed = await shop.call(
        "ListWaitingEntries", waiting_list_pb2.ListWaitingEntriesRequest(branch_id=shop.branch, page_size=1)
    )
    assert [entry.id for entry in listed.entries] == [second.id]


async def test_new_shifts_are_found_by_the_job(shop: Shop) -> None:
    entry = await join(shop, 1, at(1, 19), at(1, 20, 30))
    over = await join(shop, 2, at(0, 19), at(0, 20, 30))
    assert entry.status == waiting_list_pb2.WAITING_STATUS_WAITING
    shifts = pb.SetShiftsRequest(
        id=shop.staff[0], branch_id=shop.branch, from_date="2026-05-05", intervals=intervals("10:00", "21:00")
    )
    await shop.call("SetShifts", shifts)
    shop.clock.advance(timedelta(hours=13))
    await look_again(shop.platform["bookings"].context)
    assert await states(shop, entry, over) == ["OFFERED", "OVER"]


async def test_many_freed_at_once_and_everybody_wants_them(shop: Shop) -> None:
    shop.staff += [await shop.new_staff() for _ in range(3)]
    bookings = [await shop.book(at(1, 10), staff=number) for number in range(4)]
    entries = [await join(shop, number) for number in range(1, 9)]
    await asyncio.gather(
        *(cancel(shop, booking) for booking in bookings),
        *(shop.outcome(shop.request(at(1, 10))) for _ in range(8)),
    )
    found = await states(shop, *entries)
    assert await shop.check_time() == 4
    assert found.count("OFFERED") <= 4
    claims = [waiting_list_pb2.AcceptWaitingOfferRequest(id=entry.id) for entry in entries for _ in range(3)]
    await asyncio.gather(*(shop.outcome(claim, "AcceptWaitingOffer") for claim in claims))
    assert (await states(shop, *entries)).count("BOOKED") == found.count("OFFERED")
    assert await shop.check_time() == 4


async def test_times_freed_in_the_same_moment_are_each_offered_to_somebody(shop: Shop) -> None:
    shop.staff += [await shop.new_staff() for _ in range(3)]
    bookings = [await shop.book(at(1, 10), staff=number) for number in range(4)]
    entries = [await join(shop, number) for number in range(1, 9)]
    await asyncio.gather(*(cancel(shop, booking) for booking in bookings))
    assert (await states(shop, *entries)).count("OFFERED") == 4
    # Whoever of them leaves makes room for who has none yet.
    leaves = [waiting_list_pb2.LeaveWaitingListRequest(id=entry.id) for entry in entries[:4]]
    await asyncio.gather(*(shop.outcome(leave, "LeaveWaitingList") for leave in leaves))
    assert (await states(shop, *entries[4:])).count("OFFERED") == 4
    assert await shop.check_time() == 4


async def test_who_asks_for_what_is_gone_holds_nobody_up(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    line = pb.LineRequest(service_id=shop.service, choices=[pb.Choice(need="staff", id=shop.staff[0])])
    odd = [await join(shop, 1, lines=[line]), await join(shop, 2, lines=[line])]
    plain = await join(shop, 3)
    roles = [catalogue_pb2.Role(name="stylist")]
    change = pb.UpdateServiceRequest(id=shop.service, plan=catalogue_pb2.ServicePlan(roles=roles))
    await shop.call("UpdateService", change)
    await cancel(shop, booking)
    assert await states(shop, *odd, plain) == ["WAITING", "WAITING", "OFFERED"]
    # The job looks at those that cannot be met like at all others, and they come last the next time.
    shop.clock.advance(timedelta(minutes=6))
    await look_again(shop.platform["bookings"].context)
    async with shop.unit() as unit:
        left = await unit.all(UNLOOKED, before=unit.now - timedelta(seconds=1))
    assert not left


async def test_a_class_that_is_called_off_frees_its_teacher(shop: Shop) -> None:
    request = classes_pb2.CreateClassSessionRequest(
        branch_id=shop.branch, service_id=shop.service, starts_at=stamp(at(1, 10)), seats=5
    )
    session = await shop.call("CreateClassSession", request)
    entry = await join(shop, 1)
    seat = classes_pb2.CreateEnrolmentRequest(id=session.id, customer_id=shop.customer)
    await shop.call("CreateEnrolment", seat)
    assert await states(shop, entry) == ["WAITING"]
    await shop.call("CancelClassSession", classes_pb2.CancelClassSessionRequest(id=session.id))
    assert await states(shop, entry) == ["OFFERED"]
    assert await shop.check_time() == 1


async def test_who_waited_longer_is_asked_first_whenever_a_time_turns_up(shop: Shop) -> None:
    entries = [await join(shop, number, at(1, 19), at(1, 20)) for number in (1, 2)]
    shifts = pb.SetShiftsRequest(
        id=shop.staff[0], branch_id=shop.branch, from_date="2026-05-05", intervals=intervals("10:00", "21:00")
    )
    await shop.call("SetShifts", shifts)
    late = await join(shop, 3, at(1, 19), at(1, 20))
    assert await states(shop, *entries, late) == ["OFFERED", "WAITING", "WAITING"]


async def test_a_version_named_is_that_of_the_entry(shop: Shop) -> None:
    entry = await join(shop, 1)
    request = waiting_list_pb2.AcceptWaitingOfferRequest(id=entry.id)
    stale = await shop.refused("AcceptWaitingOffer", request, if_match=entry.version - 1)
    assert stale.code == "PRECONDITION_FAILED"
    taken = await shop.call("AcceptWaitingOffer", request, if_match=entry.version)
    assert taken.status == waiting_list_pb2.WAITING_STATUS_BOOKED


async def test_what_makes_no_sense_is_refused(shop: Shop) -> None:
    request = waiting_list_pb2.JoinWaitingListRequest(
        branch_id=shop.branch,
        customer_id=shop.crowd[0],
        lines=[pb.LineRequest(service_id=shop.service)],
        windows=[window(at(1, 11), at(1, 10)), window(at(-2, 10), at(-1, 10)), window(at(1, 10), at(60, 10))],
    )
    refusal = await shop.refused("JoinWaitingList", request)
    assert [(error.field, error.code) for error in refusal.errors] == [
        ("windows[0].to", "order"),
        ("windows[1].to", "past"),
        ("windows[2].to", "range"),
    ]
    entry = await join(shop, 1, at(1, 20), at(1, 21))
    get = waiting_list_pb2.GetWaitingEntryRequest(id=entry.id)
    assert (await shop.refused("GetWaitingEntry", get, caller=shop.platform.owner())).code == "NOT_FOUND"
    elsewhere = replace(shop.caller, grants={"bookings.read": [shop.customer]})
    assert (await shop.refused("GetWaitingEntry", get, caller=elsewhere)).code == "PERMISSION_DENIED"
    unable = [pb.LineRequest(service_id=shop.service, staff_id=shop.customer)]
    del request.windows[1:], request.lines[:]
    request.windows[0].CopyFrom(window(at(1, 10), at(1, 11)))
    request.lines.extend(unable)
    assert (await shop.refused("JoinWaitingList", request)).code == "NOT_FOUND"
