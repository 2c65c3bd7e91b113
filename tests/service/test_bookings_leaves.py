"""Leave: asked for, decided on, and what it means for bookings that are there already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import people_pb2
from foyer.bookings.v1.people_pb2 import (
    LEAVE_KIND_SICK,
    LEAVE_KIND_UNSPECIFIED,
    LEAVE_STATUS_APPROVED,
    LEAVE_STATUS_CANCELLED,
    LEAVE_STATUS_REFUSED,
    LEAVE_STATUS_REQUESTED,
)

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp
from tests.service.people_shop import (
    another_branch,
    approve,
    ask_leave,
    fields,
    get_leave,
    leave_request,
    moment,
    reassign,
    told,
    with_rights,
)
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_leaves") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()


async def refused_approval(shop: Shop, leave: people_pb2.Leave) -> Refusal:
    return await shop.refused("ApproveLeave", people_pb2.ApproveLeaveRequest(id=leave.id))


async def listed(shop: Shop, **more: Any) -> list[str]:
    answer = await shop.call("ListLeaves", people_pb2.ListLeavesRequest(**more))
    return [leave.id for leave in answer.leaves]


async def test_leave_takes_time_while_it_is_approved(shop: Shop) -> None:
    leave = await ask_leave(shop, at(1, 12), at(1, 15), reason="wedding")
    assert (leave.status, leave.version, leave.reason) == (LEAVE_STATUS_REQUESTED, 1, "wedding")
    assert leave.requested_by == shop.caller.id
    assert "12:00" in await shop.starts(1)
    approved = await approve(shop, leave)
    assert (approved.status, approved.version, approved.decided_by) == (LEAVE_STATUS_APPROVED, 2, shop.caller.id)
    assert moment(approved.decided_at) == NOW
    starts = await shop.starts(1)
    assert starts == ["10:00", "10:15", "10:30", "10:45", "11:00", *starts[5:]]
    assert starts[5] == "15:00"
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 13), 0))
    assert refusal.code == "NOT_BOOKABLE"
    cancelled = await shop.call("CancelLeave", people_pb2.CancelLeaveRequest(id=leave.id, reason="called off"))
    assert (cancelled.status, cancelled.decision_reason) == (LEAVE_STATUS_CANCELLED, "called off")
    assert "13:00" in await shop.starts(1)
    for event in (people_pb2.LeaveRequested, people_pb2.LeaveApproved, people_pb2.LeaveCancelled):
        found = (await told(shop, event))[0]
        assert (found.leave_id, found.leave.staff_id) == (leave.id, shop.staff[0])
        assert b"wedding" not in found.SerializeToString()
        assert b"called off" not in found.SerializeToString()
    assert (await told(shop, people_pb2.LeaveCancelled))[0].was_approved


async def test_a_leave_is_decided_once(shop: Shop) -> None:
    leave = await ask_leave(shop, at(1, 12), at(1, 15))
    stale = await shop.refused("RefuseLeave", people_pb2.RefuseLeaveRequest(id=leave.id), if_match=7)
    assert stale.code == "PRECONDITION_FAILED"
    request = people_pb2.RefuseLeaveRequest(id=leave.id, reason="too busy")
    refused = await shop.call("RefuseLeave", request, if_match=1)
    assert (refused.status, refused.decision_reason) == (LEAVE_STATUS_REFUSED, "too busy")
    assert (await told(shop, people_pb2.LeaveRefused))[0].leave.status == LEAVE_STATUS_REFUSED
    for method, request_type in (
        ("ApproveLeave", people_pb2.ApproveLeaveRequest),
        ("RefuseLeave", people_pb2.RefuseLeaveRequest),
        ("CancelLeave", people_pb2.CancelLeaveRequest),
    ):
        assert (await shop.refused(method, request_type(id=leave.id))).code == "WRONG_STATE"
        assert (await shop.refused(method, request_type(id=new_id()))).code == "NOT_FOUND"
    # What was refused is in nobody's way.
    again = await ask_leave(shop, at(1, 12), at(1, 15))
    answers = await asyncio.gather(*(_approval(shop, again) for _ in range(8)))
    assert sorted(answers) == ["WRONG_STATE"] * 7 + ["approved"]


async def _approval(shop: Shop, leave: people_pb2.Leave) -> str:
    try:
        await approve(shop, leave)
    except Refusal as refusal:
        return refusal.code
    return "approved"


async def test_leave_that_hits_bookings_proposes_who_takes_over(shop: Shop) -> None:
    shop.staff += [await shop.new_staff(name=name) for name in ("Bo", "Cai")]
    first, second = await shop.book(at(1, 10), 0), await shop.book(at(1, 14), 0)
    await shop.book(at(2, 10), 0)
    for hour in (16, 17):
        await shop.book(at(1, hour), 1)  # Bo is busier
    await shop.book(at(1, 14), 2)
    leave = await ask_leave(shop, at(1, 10), at(1, 18))
    assert [hit.booking_id for hit in leave.hits] == [first.id, second.id]
    hits = (await get_leave(shop, leave)).hits
    assert [list(hit.staff_ids) for hit in hits] == [shop.staff[:0:-1], [shop.staff[1]]]
    assert (hits[0].branch_id, hits[0].customer_id, hits[0].service_name) == (shop.branch, first.customer_id, "Cut")
    assert not hits[0].other_times
    refusal = await refused_approval(shop, leave)
    assert (refusal.code, refusal.parameters["count"]) == ("LEAVE_HITS_BOOKINGS", "2")
    assert [hit["booking_id"] for hit in refusal.members["hits"]] == [first.id, second.id]
    assert (await get_leave(shop, leave)).status == LEAVE_STATUS_REQUESTED
    for hit in hits:
        moved = await shop.call(
            "ReassignBooking", people_pb2.ReassignBookingRequest(id=hit.booking_id, staff_id=hit.staff_ids[0])
        )
        assert moved.staff_id == hit.staff_ids[0]
    approved = await approve(shop, leave)
    assert (approved.status, len(approved.hits)) == (LEAVE_STATUS_APPROVED, 0)


async def test_nobody_free_means_other_times_with_the_same_person(shop: Shop) -> None:
    booking = await shop.book(at(3, 11), 0)
    leave = await ask_leave(shop, from_date="2026-05-06", until_date="2026-05-08")
    (hit,) = leave.hits
    assert not hit.staff_ids
    assert [moment(slot.starts_at) for slot in hit.other_times] == [at(1, 17), at(1, 16, 45), at(1, 16, 30)]
    assert {tuple(slot.staff_ids) for slot in hit.other_times} == {(shop.staff[0],)}
    approved = await approve(shop, leave, accept_conflicts=True)
    assert [each.booking_id for each in approved.hits] == [booking.id]
    event = (await told(shop, people_pb2.LeaveApproved))[0]
    assert list(event.booking_ids) == [booking.id]
    # The booking stays as it is until somebody moves it.
    assert await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id)) == booking
    assert (await get_leave(shop, leave)).hits[0].other_times == hit.other_times
    moved = await shop.call(
        "RescheduleBooking", pb.RescheduleBookingRequest(id=booking.id, starts_at=hit.other_times[0].starts_at)
    )
    assert moved.staff_id == shop.staff[0]
    assert not (await get_leave(shop, leave)).hits


async def test_held_times_and_what_is_over(shop: Shop) -> None:
    held = await shop.book(at(1, 10), 0, hold=True)
    done, begun = await shop.book(at(0, 10), 0), await shop.book(at(0, 12), 0)
    shop.clock.advance(at(0, 12, 5) - shop.clock.now())
    await shop.call("StartBooking", pb.StartBookingRequest(id=begun.id))
    leave = await ask_leave(shop, at(0, 9), at(1, 18))
    # The hold has run out, the first booking is over; what goes on cannot be taken over.
    assert [hit.booking_id for hit in leave.hits] == [begun.id]
    assert not leave.hits[0].staff_ids
    assert not leave.hits[0].other_times
    await shop.call("CompleteBooking", pb.CompleteBookingRequest(id=begun.id))
    assert {done.id, held.id}.isdisjoint(hit.booking_id for hit in (await get_leave(shop, leave)).hits)


async def test_many_hits_fit_into_a_refusal(shop: Shop) -> None:
    shop.staff += [await shop.new_staff() for _ in range(6)]
    for day in range(1, 6):
        for hour in range(10, 14):
            await shop.book(at(day, hour), 0)
    leave = await ask_leave(shop, from_date="2026-05-05", until_date="2026-05-09")
    assert len(leave.hits) == 20
    assert {len(hit.staff_ids) for hit in leave.hits} == {5}
    refusal = await refused_approval(shop, leave)
    assert (refusal.code, len(refusal.members["hits"])) == ("LEAVE_HITS_BOOKINGS", 5)


async def test_leave_of_one_person_does_not_overlap(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    answers = await asyncio.gather(*(_asked(shop, at(1, 10 + n), at(1, 16)) for n in range(5)))
    assert sorted(answers) == ["LEAVE_OVERLAPS"] * 4 + ["asked"]
    refusal = await shop.refused("RequestLeave", leave_request(shop, at(1, 15), at(2, 10)))
    assert refusal.members["leave"]["staff_id"] == shop.staff[0]
    assert "reason" not in refusal.members["leave"]
    # End to start is no overlap, and somebody else is somebody else.
    await ask_leave(shop, at(1, 16), at(2, 10))
    await ask_leave(shop, at(1, 10), at(2, 10), staff=1)


async def _asked(shop: Shop, starts_at: datetime, ends_at: datetime) -> str:
    try:
        await ask_leave(shop, starts_at, ends_at)
    except Refusal as refusal:
        return refusal.code
    return "asked"


async def test_whole_days_are_days_wherever_somebody_works(shop: Shop) -> None:
    leave = await ask_leave(shop, from_date="2026-05-05")
    assert (leave.from_date, leave.until_date) == ("2026-05-05", "2026-05-05")
    assert (moment(leave.starts_at), moment(leave.ends_at)) == (at(1, 0), at(2, 0))
    other = await another_branch(shop, "Europe/Berlin")
    shop.staff.append(await shop.new_staff(branch_ids=[shop.branch, other]))
    # The clocks of Berlin go back on the last day.
    leave = await ask_leave(shop, staff=1, from_date="2026-10-24", until_date="2026-10-25")
    assert moment(leave.starts_at) == datetime(2026, 10, 23, 16, tzinfo=UTC)
    assert moment(leave.ends_at) == datetime(2026, 10, 25, 23, tzinfo=UTC)
    await approve(shop, leave)
    assert await shop.offers(at(173, 0), at(174, 24), staff_id=shop.staff[1]) == []


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({}, ["starts_at", "ends_at"]),
        ({"starts_at": at(1, 10)}, ["ends_at"]),
        ({"starts_at": at(1, 10), "ends_at": at(1, 10)}, ["ends_at"]),
        ({"starts_at": at(1, 10, 3), "ends_at": at(1, 12, 1)}, ["starts_at", "ends_at"]),
        ({"from_date": "2026-05-06", "until_date": "2026-05-05"}, ["until_date"]),
        ({"from_date": "2026-02-30"}, ["from_date"]),
        ({"until_date": "2026-05-05"}, ["from_date"]),
        ({"from_date": "2026-05-05", "ends_at": at(1, 10)}, ["ends_at"]),
        ({"from_date": "2026-05-05", "until_date": "2029-12-05"}, ["until_date"]),
        ({"starts_at": at(2000, 10), "ends_at": at(2001, 10)}, ["starts_at"]),
        ({"from_date": "2026-05-05", "kind": LEAVE_KIND_UNSPECIFIED}, ["kind"]),
    ],
)
async def test_what_is_wrong_with_a_leave_is_told(shop: Shop, values: dict[str, Any], wrong: list[str]) -> None:
    refusal = await shop.refused("RequestLeave", leave_request(shop, **values))
    assert (refusal.code, fields(refusal)) == ("INVALID_REQUEST", wrong)


async def test_why_somebody_is_away_is_told_to_few(shop: Shop) -> None:
    await shop.book(at(1, 12), 0)
    leave = await ask_leave(shop, at(1, 10), at(1, 18), kind=LEAVE_KIND_SICK, reason="flu")
    colleague = with_rights(shop, "staff.read")
    seen = await get_leave(shop, leave, colleague)
    assert (seen.kind, seen.reason, len(seen.hits)) == (LEAVE_KIND_UNSPECIFIED, "", 0)
    assert moment(seen.starts_at) == at(1, 10)
    (entry,) = (await shop.call("ListLeaves", people_pb2.ListLeavesRequest(), colleague)).leaves
    assert (entry.kind, entry.reason) == (LEAVE_KIND_UNSPECIFIED, "")
    (entry,) = (await shop.call("ListLeaves", people_pb2.ListLeavesRequest())).leaves
    assert (entry.kind, entry.reason, len(entry.hits)) == (LEAVE_KIND_SICK, "flu", 0)
    request = people_pb2.ApproveLeaveRequest(id=leave.id, accept_conflicts=True)
    assert (await shop.refused("ApproveLeave", request, caller=colleague)).code == "PERMISSION_DENIED"
    # Who may ask, asks for themselves.
    asking = with_rights(shop, "leaves.request", "staff.read", staff_id=await shop.new_staff())
    wanted = leave_request(shop, at(2, 10), at(2, 18))
    assert (await shop.refused("RequestLeave", wanted, caller=colleague)).code == "PERMISSION_DENIED"
    assert (await shop.refused("RequestLeave", wanted, caller=asking)).code == "PERMISSION_DENIED"


async def test_everybody_asks_for_themselves(shop: Shop) -> None:
    booking = await shop.book(at(1, 12), 0)
    me = with_rights(shop, "leaves.request", "staff.read", staff_id=shop.staff[0])
    request = leave_request(shop, at(1, 10), at(1, 18), kind=LEAVE_KIND_SICK, reason="flu")
    request.ClearField("staff_id")
    leave = await shop.call("RequestLeave", request, me)
    assert (leave.staff_id, leave.requested_by) == (shop.staff[0], me.id)
    seen = await get_leave(shop, leave, me)
    assert (seen.kind, seen.reason) == (LEAVE_KIND_SICK, "flu")
    assert [hit.booking_id for hit in seen.hits] == [booking.id]
    approval = people_pb2.ApproveLeaveRequest(id=leave.id, accept_conflicts=True)
    assert (await shop.refused("ApproveLeave", approval, caller=me)).code == "PERMISSION_DENIED"
    cancel = people_pb2.CancelLeaveRequest(id=leave.id)
    other = with_rights(shop, "leaves.request", staff_id=await shop.new_staff())
    assert (await shop.refused("CancelLeave", cancel, caller=other)).code == "PERMISSION_DENIED"
    assert (await shop.call("CancelLeave", cancel, me)).status == LEAVE_STATUS_CANCELLED
    # Once it is approved, it is for others to decide.
    again = await shop.call("RequestLeave", request, me)
    await approve(shop, again, accept_conflicts=True)
    cancel = people_pb2.CancelLeaveRequest(id=again.id)
    assert (await shop.refused("CancelLeave", cancel, caller=me)).code == "PERMISSION_DENIED"
    nobody = with_rights(shop, "leaves.request")
    assert fields(await shop.refused("RequestLeave", request, caller=nobody)) == ["staff_id"]


async def test_leave_belongs_to_the_branches_of_the_person(shop: Shop) -> None:
    other = await another_branch(shop)
    leave = await ask_leave(shop, at(1, 10), at(1, 18))
    manager = with_rights(shop, "staff.write", "staff.read", branches=[other])
    for method, request in (
        ("ApproveLeave", people_pb2.ApproveLeaveRequest(id=leave.id)),
        ("RefuseLeave", people_pb2.RefuseLeaveRequest(id=leave.id)),
        ("CancelLeave", people_pb2.CancelLeaveRequest(id=leave.id)),
        ("GetLeave", people_pb2.GetLeaveRequest(id=leave.id)),
        ("RequestLeave", leave_request(shop, at(3, 10), at(3, 18))),
    ):
        assert (await shop.refused(method, request, caller=manager)).code == "PERMISSION_DENIED"
        stranger = shop.platform.owner()
        assert (await shop.refused(method, request, caller=stranger)).code == "NOT_FOUND"
    assert not (await shop.call("ListLeaves", people_pb2.ListLeavesRequest(), manager)).leaves
    # Who works at both branches is decided on by somebody of both; each of them is seen.
    shared = await shop.new_staff(branch_ids=[shop.branch, other])
    shop.staff.append(shared)
    both = await ask_leave(shop, at(1, 10), at(1, 18), staff=1, reason="x")
    assert (await get_leave(shop, both, manager)).reason == ""
    request = people_pb2.ApproveLeaveRequest(id=both.id)
    assert (await shop.refused("ApproveLeave", request, caller=manager)).code == "PERMISSION_DENIED"


async def test_lists_of_leave(shop: Shop) -> None:
    other = await another_branch(shop)
    shop.staff.append(await shop.new_staff("10:00", "10:00", branch_ids=[other]))
    ids = [(await ask_leave(shop, at(day, 10), at(day, 12))).id for day in (3, 1, 2)]
    third, first, second = ids
    elsewhere = (await ask_leave(shop, at(1, 11), at(1, 12), staff=1)).id
    assert await listed(shop) == [first, elsewhere, second, third]
    assert await listed(shop, branch_id=other) == [elsewhere]
    assert await listed(shop, staff_id=shop.staff[0]) == [first, second, third]
    assert await listed(shop, ends_after=stamp(at(1, 12)), starts_before=stamp(at(3, 10))) == [second]
    await shop.call("RefuseLeave", people_pb2.RefuseLeaveRequest(id=first))
    assert await listed(shop, status=[LEAVE_STATUS_REFUSED]) == [first]
    assert await listed(shop, status=[LEAVE_STATUS_REFUSED, LEAVE_STATUS_REQUESTED], staff_id=shop.staff[1]) == [
        elsewhere
    ]
    found, token = [], ""
    for _ in range(4):
        page = await shop.call("ListLeaves", people_pb2.ListLeavesRequest(page_size=1, page_token=token))
        found += [leave.id for leave in page.leaves]
        token = page.next_page_token
    assert (found, token) == ([first, elsewhere, second, third], "")
    for token in ("nonsense", "WyJ4IiwgIjAxOTAwMDAwLTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMCJd"):
        refusal = await shop.refused("ListLeaves", people_pb2.ListLeavesRequest(page_token=token))
        assert fields(refusal) == ["page_token"]
    wrong = people_pb2.ListLeavesRequest(ends_after=stamp(at(1, 12)), starts_before=stamp(at(1, 12)))
    assert fields(await shop.refused("ListLeaves", wrong)) == ["to"]
    unknown = people_pb2.ListLeavesRequest(staff_id=new_id())
    assert (await shop.refused("ListLeaves", unknown)).code == "NOT_FOUND"


async def test_leave_over_a_night_takes_the_night(shop: Shop) -> None:
    await shop.keep_branch(2, hours=None)
    shop.staff = [await shop.new_staff("22:00", "06:00")]
    night = await shop.book(at(1, 23, 30), 0)
    leave = await ask_leave(shop, at(1, 22), at(2, 2))
    assert [hit.booking_id for hit in leave.hits] == [night.id]
    await approve(shop, leave, accept_conflicts=True)
    slots = await shop.offers(at(1, 20), at(2, 8), staff_id=shop.staff[0])
    assert moment(slots[0].starts_at) == at(2, 2)
    assert moment(slots[-1].ends_at) == at(2, 6)
    shop.staff.append(await shop.new_staff("22:00", "06:00"))
    moved = await reassign(shop, night, 1)
    assert moved.staff_id == shop.staff[1]
    assert moment(moved.starts_at) - moment(night.starts_at) == timedelta(0)


async def test_nobody_books_into_a_leave_while_it_is_approved(shop: Shop) -> None:
    """Either the booking is seen by who approves, or the leave by who books."""
    outcomes = set()
    for day in range(1, 15):
        leave = await ask_leave(shop, at(day, 10), at(day, 12))

        async def decide(day: int = day, identifier: str = leave.id) -> str:
            await asyncio.sleep(0.001 * (day % 5))
            return await shop.outcome(people_pb2.ApproveLeaveRequest(id=identifier), "ApproveLeave")

        attempts = [shop.outcome(shop.request(at(day, 10), 0)) for _ in range(3)]
        *booked, decided = await asyncio.gather(*attempts, decide())
        outcomes.add((booked.count("done"), decided))
    assert outcomes <= {(1, "LEAVE_HITS_BOOKINGS"), (0, "done")}
