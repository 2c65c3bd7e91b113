"""The day at a branch: walk-ins with an estimate, check-in by code, late and no-show clocks, boards and day sheets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import assignments_pb2, catalogue_pb2, policies_pb2, resources_pb2
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import front_desk_pb2 as desk

from chassis.clock import FrozenClock
from chassis.db import prepare_sql
from chassis.testing import Platform
from services.bookings.desk.clocks import watch_arrivals
from tests.service.bookings_shop import Shop, at, bookings_alone, intervals, stamp, yuan
from tools.servers import Servers

COUNT_EVENTS = prepare_sql(
    "select count(*) from outbox where chain_id = $1::uuid and subject = $2", "chain_id", "subject"
)


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "desk") as opened:
        yield opened


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> Shop:
    """At ten in the morning, when the first shift begins."""
    platform, clock = alone
    clock.advance(at(0, 10) - clock.now())
    return await Shop(platform, clock).open()


async def walk_in(shop: Shop, **more: Any) -> desk.WalkIn:
    values: dict[str, Any] = {"name": "Mr Li", "lines": [pb.LineRequest(service_id=shop.service)], **more}
    found: desk.WalkIn = await shop.call("AddWalkIn", desk.AddWalkInRequest(branch_id=shop.branch, **values))
    return found


async def queue(shop: Shop) -> list[tuple[int, int, int]]:
    """Number, how many are ahead, and minutes to wait."""
    found = await shop.call("GetQueue", desk.GetQueueRequest(branch_id=shop.branch))
    return [(each.number, each.ahead_count, each.estimated_wait_minutes) for each in found.walk_ins]


async def events(shop: Shop, subject: str) -> int:
    async with shop.unit() as unit:
        count: int = await unit.value(COUNT_EVENTS, subject=subject)
    return count


# --- walk-ins ---


async def test_the_estimate_follows_bookings_and_those_ahead(shop: Shop) -> None:
    await shop.book(at(0, 11, 30), staff=0)
    first = await walk_in(shop)
    assert (first.number, first.ahead_count, first.estimated_wait_minutes) == (1, 0, 0)
    await walk_in(shop)
    await walk_in(shop)
    assert await queue(shop) == [(1, 0, 0), (2, 1, 150), (3, 2, 210)]
    shop.staff.append(await shop.new_staff())
    assert await queue(shop) == [(1, 0, 0), (2, 1, 0), (3, 2, 60)]
    shop.clock.advance(timedelta(minutes=7))
    assert await queue(shop) == [(1, 0, 3), (2, 1, 3), (3, 2, 63)]
    assert await shop.check_time() == 1


async def test_it_is_their_turn(shop: Shop) -> None:
    waiting = await walk_in(shop)
    shop.clock.advance(timedelta(minutes=12))
    nobody = await shop.refused("SeatWalkIn", desk.SeatWalkInRequest(id=waiting.id))
    assert [error.field for error in nobody.errors] == ["customer_id"]
    request = desk.SeatWalkInRequest(id=waiting.id, customer_id=shop.customer)
    seated = await shop.call("SeatWalkIn", request)
    assert seated.status == desk.WALK_IN_STATUS_SEATED
    booking = await shop.call("GetBooking", pb.GetBookingRequest(id=seated.booking_id))
    assert booking.status == pb.BOOKING_STATUS_CHECKED_IN
    assert (booking.source, booking.starts_at) == ("walk_in", stamp(at(0, 10, 15)))
    assert (await shop.refused("SeatWalkIn", request)).code == "WRONG_STATE"
    assert await queue(shop) == []
    next_one = await walk_in(shop, customer_id=shop.crowd[0])
    assert next_one.number == 2
    taken = await shop.refused("SeatWalkIn", desk.SeatWalkInRequest(id=next_one.id))
    assert taken.code == "SLOT_TAKEN"
    dropped = await shop.call("DropWalkIn", desk.DropWalkInRequest(id=next_one.id))
    assert dropped.status == desk.WALK_IN_STATUS_DROPPED
    assert await events(shop, "walk_in.dropped") == 1


async def test_numbers_are_given_once_and_begin_anew_each_day(shop: Shop) -> None:
    found = await asyncio.gather(*(walk_in(shop) for _ in range(60)))
    assert sorted(each.number for each in found) == list(range(1, 61))
    shop.clock.advance(timedelta(days=1))
    assert (await walk_in(shop)).number == 1


async def test_who_wants_what_is_not_there_is_told(shop: Shop) -> None:
    request = desk.AddWalkInRequest(branch_id=shop.branch, lines=[pb.LineRequest(service_id=shop.service)])
    assert [error.field for error in (await shop.refused("AddWalkIn", request)).errors] == ["name"]
    await shop.call("UpdateService", pb.UpdateServiceRequest(id=shop.service, active=False))
    request.name = "Li"
    refusal = await shop.refused("AddWalkIn", request)
    assert [(error.field, error.code) for error in refusal.errors] == [("lines", "service_inactive")]


# --- arriving ---


async def test_a_code_checks_in_its_booking_on_its_day(shop: Shop) -> None:
    booking, tomorrow = await shop.book(at(0, 11)), await shop.book(at(1, 11))
    code = await shop.call("GetCheckInCode", desk.GetCheckInCodeRequest(id=booking.id))
    later = await shop.call("GetCheckInCode", desk.GetCheckInCodeRequest(id=tomorrow.id))
    assert len(code.code) == 6
    request = desk.CheckInByCodeRequest(branch_id=shop.branch, code=later.code)
    assert (await shop.refused("CheckInByCode", request)).code == "CODE_UNKNOWN"
    request.code = code.code
    arrived = await shop.call("CheckInByCode", request)
    assert (arrived.id, arrived.status) == (booking.id, pb.BOOKING_STATUS_CHECKED_IN)
    assert (await shop.refused("CheckInByCode", request)).code == "CODE_UNKNOWN"


async def test_late_is_told_once_and_no_show_comes_by_itself(shop: Shop) -> None:
    policy = policies_pb2.UpdateBookingPolicyRequest(late_minutes=10, no_show_minutes=30)
    await shop.call("UpdateBookingPolicy", policy)
    late, there = await shop.book(at(0, 11)), await shop.book(at(0, 12))
    context = shop.platform["bookings"].context
    shop.clock.advance(timedelta(minutes=65))
    await watch_arrivals(context)
    assert await events(shop, "booking.late") == 0
    shop.clock.advance(timedelta(minutes=5))
    for _ in range(2):
        await watch_arrivals(context)
    assert await events(shop, "booking.late") == 1
    sheet = await shop.call("GetDaySheet", desk.GetDaySheetRequest(branch_id=shop.branch))
    assert [warning.code for warning in sheet.entries[0].warnings] == ["late", "first_visit"]
    await shop.call("CheckInBooking", pb.CheckInBookingRequest(id=there.id))
    shop.clock.advance(timedelta(minutes=90))
    await watch_arrivals(context)
    states = [(await shop.call("GetBooking", pb.GetBookingRequest(id=each.id))).status for each in (late, there)]
    assert states == [pb.BOOKING_STATUS_NO_SHOW, pb.BOOKING_STATUS_CHECKED_IN]
    assert await shop.check_time() == 1


# --- what goes on ---


async def room_service(shop: Shop) -> tuple[str, list[str]]:
    """A service that needs a room, and the branch's two rooms."""
    kind = await shop.call(
        "CreateResourceType",
        resources_pb2.CreateResourceTypeRequest(name="Room", kind=resources_pb2.RESOURCE_KIND_ROOM),
    )
    made = await shop.call(
        "CreateResources",
        resources_pb2.CreateResourcesRequest(branch_id=shop.branch, resource_type_id=kind.id, name="Room", count=2),
    )
    need = catalogue_pb2.ResourceNeed(name="room", resource_type_id=kind.id)
    plan = catalogue_pb2.ServicePlan(roles=[catalogue_pb2.Role(name="therapist")], resources=[need])
    service_id = await shop.new_service(name="Massage", plan=plan)
    return service_id, [unit.id for unit in made.resources]


async def test_the_board_shows_who_and_what_is_busy(shop: Shop) -> None:
    service_id, rooms = await room_service(shop)
    shop.staff += [await shop.new_staff(), await shop.new_staff(start="14:00")]
    going = await shop.book(at(0, 10), staff=0, service_id=service_id)
    due = await shop.book(at(0, 10), staff=1)
    comes = await shop.book(at(0, 13), staff=0, service_id=service_id)
    await shop.call("StartBooking", pb.StartBookingRequest(id=going.id))
    now = await shop.call("GetNow", desk.GetNowRequest(branch_id=shop.branch))
    people = {place.id: place for place in now.staff}
    states = [people[staff].state for staff in shop.staff]
    assert states == [desk.PLACE_STATE_IN_SERVICE, desk.PLACE_STATE_RESERVED, desk.PLACE_STATE_OFF]
    first = people[shop.staff[0]]
    assert (first.booking_id, first.next_booking_id) == (going.id, comes.id)
    assert (first.busy_until, first.next_at) == (going.ends_at, comes.starts_at)
    assert people[shop.staff[1]].booking_id == due.id
    used = going.lines[0].assignments[1].id
    in_rooms = {place.id: place.state for place in now.resources}
    assert in_rooms == {room: desk.PLACE_STATE_IN_SERVICE if room == used else desk.PLACE_STATE_FREE for room in rooms}


async def test_a_day_sheet_says_what_is_needed_and_what_to_mind(shop: Shop) -> None:
    service_id, _ = await room_service(shop)
    shop.staff.append(await shop.new_staff())
    visit = await shop.book(at(1, 10), staff=0, service_id=service_id, customer_id=shop.customer, note="tea")
    held = await shop.book(at(1, 12), staff=1, hold=True)
    gone = await shop.book(at(1, 14), staff=1)
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=gone.id))
    shop.clock.advance(timedelta(minutes=5))

    def day(**more: Any) -> desk.GetDaySheetRequest:
        return desk.GetDaySheetRequest(branch_id=shop.branch, day="2026-05-05", **more)

    sheet = await shop.call("GetDaySheet", day())
    assert [entry.booking.id for entry in sheet.entries] == [visit.id, held.id]
    entry = sheet.entries[0]
    assert (entry.customer_name, entry.booking.note) == ("王小明", "tea")
    assert [(each.need, each.is_staff) for each in entry.requirements] == [("therapist", True), ("room", False)]
    assert entry.requirements[1].name.startswith("Room")
    assert [warning.code for warning in sheet.entries[1].warnings] == ["hold", "first_visit"]
    assert sheet.total.amount == 2 * visit.price.amount
    all_of_it = await shop.call("GetDaySheet", day(include_over=True))
    assert len(all_of_it.entries) == 3
    of_room = day(resource_id=entry.requirements[1].id)
    assert [each.booking.id for each in (await shop.call("GetDaySheet", of_room)).entries] == [visit.id]
    of_person = day(staff_id=shop.staff[1])
    assert [each.booking.id for each in (await shop.call("GetDaySheet", of_person)).entries] == [held.id]


async def test_a_day_sheet_warns_of_what_changed_since(shop: Shop) -> None:
    service_id, _ = await room_service(shop)
    visit = await shop.book(at(1, 10), staff=0, service_id=service_id)
    room = visit.lines[0].assignments[1].id
    shifts = pb.SetShiftsRequest(
        id=shop.staff[0], branch_id=shop.branch, from_date="2026-05-05", intervals=intervals("12:00", "18:00")
    )
    await shop.call("SetShifts", shifts)
    await shop.call("UpdateResource", resources_pb2.UpdateResourceRequest(id=room, active=False))
    request = desk.GetDaySheetRequest(branch_id=shop.branch, day="2026-05-05", staff_id=shop.staff[0])
    sheet = await shop.call("GetDaySheet", request)
    warnings = [(warning.code, warning.id) for warning in sheet.entries[0].warnings]
    assert warnings == [("first_visit", ""), ("staff_off", shop.staff[0]), ("resource_gone", room)]
    chinese = replace(shop.caller, language="zh")
    assert "不上班" in (await shop.call("GetDaySheet", request, chinese)).entries[0].warnings[1].message


async def test_who_may_see_what(shop: Shop) -> None:
    await shop.book(at(0, 12), customer_id=shop.customer)
    request = desk.GetDaySheetRequest(branch_id=shop.branch)
    limited = replace(shop.caller, grants={"bookings.read": "*"})
    sheet = await shop.call("GetDaySheet", request, limited)
    assert not sheet.entries[0].HasField("customer_name")
    elsewhere = replace(shop.caller, grants={"bookings.read": [shop.customer]})
    for method, message in (
        ("GetDaySheet", request),
        ("GetNow", desk.GetNowRequest(branch_id=shop.branch)),
        ("GetQueue", desk.GetQueueRequest(branch_id=shop.branch)),
    ):
        assert (await shop.refused(method, message, caller=elsewhere)).code == "PERMISSION_DENIED"
    unknown = desk.GetDaySheetRequest(branch_id=shop.branch, staff_id=shop.customer)
    assert (await shop.refused("GetDaySheet", unknown)).code == "NOT_FOUND"
    waiting = await walk_in(shop)
    other_chain = shop.platform.owner()
    get = desk.GetWalkInRequest(id=waiting.id)
    assert (await shop.refused("GetWalkIn", get, caller=other_chain)).code == "NOT_FOUND"


async def test_who_stands_at_the_desk_needs_no_notice_and_no_deposit(shop: Shop) -> None:
    policy = policies_pb2.UpdateBookingPolicyRequest(lead_minutes=120, collect_deposits=True)
    await shop.call("UpdateBookingPolicy", policy)
    deposit = await shop.new_service(name="Dear", deposit=yuan(5000))
    for service_id in (shop.service, deposit):
        waiting = await walk_in(shop, lines=[pb.LineRequest(service_id=service_id)], customer_id=shop.crowd[0])
        seated = await shop.call("SeatWalkIn", desk.SeatWalkInRequest(id=waiting.id))
        booking = await shop.call("GetBooking", pb.GetBookingRequest(id=seated.booking_id))
        assert booking.status == pb.BOOKING_STATUS_CHECKED_IN
        await shop.call("CompleteBooking", pb.CompleteBookingRequest(id=booking.id))
        shop.clock.advance(timedelta(hours=1))


async def test_a_queue_with_somebody_whose_service_is_gone_can_be_read(shop: Shop) -> None:
    line = pb.LineRequest(service_id=shop.service, choices=[pb.Choice(need="staff", id=shop.staff[0])])
    await walk_in(shop, lines=[line])
    await walk_in(shop)
    plan = catalogue_pb2.ServicePlan(roles=[catalogue_pb2.Role(name="stylist")])
    await shop.call("UpdateService", pb.UpdateServiceRequest(id=shop.service, plan=plan))
    found = await shop.call("GetQueue", desk.GetQueueRequest(branch_id=shop.branch))
    assert [each.HasField("estimated_starts_at") for each in found.walk_ins] == [False, True]


async def test_a_skill_ends_with_its_local_day_and_each_role_has_its_own(shop: Shop) -> None:
    last = catalogue_pb2.Qualification(skill="colour", expires_on="2026-05-05")
    shop.staff.append(await shop.new_staff(start="06:00", skills=["colour"]))
    shop.staff.append(await shop.new_staff(start="06:00"))
    await shop.keep_branch(version=2, hours=("06:00", "21:00"))
    roles = [catalogue_pb2.Role(name="lead"), catalogue_pb2.Role(name="hands")]
    service_id = await shop.new_service(
        name="Colour", required_skills=["colour"], plan=catalogue_pb2.ServicePlan(roles=roles)
    )
    await shop.book(at(2, 6), service_id=service_id)
    change = pb.UpdateStaffRequest(id=shop.staff[1], qualifications=catalogue_pb2.Qualifications(qualifications=[last]))
    await shop.call("UpdateStaff", change)
    request = desk.GetDaySheetRequest(branch_id=shop.branch, day="2026-05-06")
    sheet = await shop.call("GetDaySheet", request)
    warnings = [(each.code, each.id) for each in sheet.entries[0].warnings]
    assert warnings == [("first_visit", ""), ("skill_expired", shop.staff[1])]


async def test_what_is_lent_for_long_is_not_free(shop: Shop) -> None:
    _, rooms = await room_service(shop)
    request = resources_pb2.CreateLoanRequest(
        resource_id=rooms[0], customer_id=shop.customer, starts_at=stamp(at(0, 10)), ends_at=stamp(at(10, 10))
    )
    await shop.call("CreateLoan", request)
    shop.clock.advance(timedelta(days=5))
    now = await shop.call("GetNow", desk.GetNowRequest(branch_id=shop.branch))
    states = {place.id: place.state for place in now.resources}
    assert states[rooms[0]] != desk.PLACE_STATE_FREE


async def test_who_moved_after_being_late_can_be_late_again(shop: Shop) -> None:
    await shop.call("UpdateBookingPolicy", policies_pb2.UpdateBookingPolicyRequest(late_minutes=10))
    booking = await shop.book(at(0, 11))
    context = shop.platform["bookings"].context
    shop.clock.advance(timedelta(minutes=70))
    await watch_arrivals(context)
    move = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(0, 15)))
    await shop.call("RescheduleBooking", move)
    shop.clock.advance(at(0, 15, 10) - shop.clock.now())
    for _ in range(2):
        await watch_arrivals(context)
    assert await events(shop, "booking.late") == 2


async def test_a_night_belongs_to_the_day_it_begins(shop: Shop) -> None:
    await shop.keep_branch(version=2, hours=("18:00", "02:00"))
    shop.staff.append(await shop.new_staff(start="18:00", end="02:00"))
    shop.clock.advance(at(0, 23, 50) - shop.clock.now())
    turn = assignments_pb2.SignInToRotaRequest(branch_id=shop.branch, staff_id=shop.staff[1])
    await shop.call("SignInToRota", turn)
    visit = await shop.book(at(1, 0, 30), staff=1)
    await walk_in(shop)
    code = await shop.call("GetCheckInCode", desk.GetCheckInCodeRequest(id=visit.id))
    await shop.call("CheckInByCode", desk.CheckInByCodeRequest(branch_id=shop.branch, code=code.code))
    shop.clock.advance(timedelta(minutes=30))
    assert (await walk_in(shop)).number == 2
    assert [number for number, _, _ in await queue(shop)] == [1, 2]
    rota = await shop.call("GetRota", assignments_pb2.GetRotaRequest(branch_id=shop.branch))
    assert (rota.day, [each.staff_id for each in rota.turns]) == ("2026-05-04", [shop.staff[1]])
    shop.clock.advance(timedelta(hours=2))
    assert (await walk_in(shop)).number == 1
