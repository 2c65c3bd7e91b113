"""Rooms and things against real PostgreSQL: pooled, chosen, out of service, counted, and never given twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2, catalogue_pb2
from foyer.bookings.v1 import resources_pb2 as pb

from chassis.clock import FrozenClock
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp
from tests.service.bookings_things import attempts, given, new_type, new_units, room_plan, subjects, told
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_resources") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()


async def other_branch(shop: Shop) -> str:
    mine, shop.branch = shop.branch, new_id()
    await shop.keep_branch()
    other, shop.branch = shop.branch, mine
    return other


# --- types and units ---------------------------------------------------------------------------------


async def test_a_type_is_made_read_changed_and_listed(shop: Shop) -> None:
    request = pb.CreateResourceTypeRequest(name="理疗室", name_en="Room", code="R", kind=pb.RESOURCE_KIND_ROOM)
    made = await shop.call("CreateResourceType", request)
    assert (made.name, made.name_en, made.code, made.kind, made.active, made.version) == (
        "理疗室", "Room", "R", pb.RESOURCE_KIND_ROOM, True, 1,
    )  # fmt: skip
    changed = await shop.call("UpdateResourceType", pb.UpdateResourceTypeRequest(id=made.id, name="大房", code=""))
    assert (changed.name, changed.name_en, changed.HasField("code"), changed.version) == ("大房", "Room", False, 2)
    assert await shop.call("GetResourceType", pb.GetResourceTypeRequest(id=made.id)) == changed
    await new_type(shop, "Bed")
    await shop.call("UpdateResourceType", pb.UpdateResourceTypeRequest(id=made.id, active=False))
    first = await shop.call("ListResourceTypes", pb.ListResourceTypesRequest(page_size=1))
    second = await shop.call(
        "ListResourceTypes", pb.ListResourceTypesRequest(page_size=1, page_token=first.next_page_token)
    )
    assert [each.name for page in (first, second) for each in page.resource_types] == ["Bed", "大房"]
    assert not second.HasField("next_page_token")
    active = await shop.call("ListResourceTypes", pb.ListResourceTypesRequest(active=True))
    assert [each.name for each in active.resource_types] == ["Bed"]
    assert await subjects(shop, made.id) == ["resource_type.created", *["resource_type.updated"] * 2]


async def test_units_are_made_at_once_with_numbers(shop: Shop) -> None:
    dress = await new_type(shop, "Dress", pb.RESOURCE_KIND_LENT)
    request = pb.CreateResourcesRequest(
        branch_id=shop.branch, resource_type_id=dress, name="Dress", code="D", count=200
    )
    made = (await shop.call("CreateResources", request)).resources
    assert [made[0].name, made[0].code, made[-1].name, made[-1].code] == ["Dress 001", "D-001", "Dress 200", "D-200"]
    assert await subjects(shop, made[7].id) == ["resource.created"]
    more = pb.CreateResourcesRequest(
        branch_id=shop.branch, resource_type_id=dress, name="Dress", code="D", count=2, first_number=200
    )
    refused = await shop.refused("CreateResources", more)
    assert (refused.code, refused.errors[0].field) == ("ALREADY_EXISTS", "code")
    one = pb.CreateResourcesRequest(branch_id=shop.branch, resource_type_id=dress, name="Veil")
    assert [each.name for each in (await shop.call("CreateResources", one)).resources] == ["Veil"]
    listed = await shop.call(
        "ListResources", pb.ListResourcesRequest(branch_id=shop.branch, resource_type_id=dress, page_size=200)
    )
    assert [len(listed.resources), listed.resources[0].name] == [200, "Dress 001"]
    rest = await shop.call("ListResources", pb.ListResourcesRequest(page_token=listed.next_page_token))
    assert [each.name for each in rest.resources] == ["Veil"]


async def test_what_makes_no_sense_is_refused(shop: Shop) -> None:
    room = await new_type(shop, code="R")
    duplicate = pb.CreateResourceTypeRequest(name="x", code="R", kind=pb.RESOURCE_KIND_SET)
    assert (await shop.refused("CreateResourceType", duplicate)).code == "ALREADY_EXISTS"
    other = await new_type(shop, code="S")
    taken = pb.UpdateResourceTypeRequest(id=other, code="R")
    assert (await shop.refused("UpdateResourceType", taken)).code == "ALREADY_EXISTS"
    assert (await shop.refused("UpdateResourceType", taken, if_match=9)).code == "PRECONDITION_FAILED"
    no_kind = await shop.refused("CreateResourceType", pb.CreateResourceTypeRequest(name=""))
    assert {error.field for error in no_kind.errors} == {"name", "kind"}
    values: dict[str, Any] = {"branch_id": shop.branch, "resource_type_id": room, "name": "Room"}
    too_many = await shop.refused("CreateResources", pb.CreateResourcesRequest(**values, count=201))
    assert [error.field for error in too_many.errors] == ["count"]
    unknown = new_id()
    for method, request in (
        ("CreateResources", pb.CreateResourcesRequest(**{**values, "resource_type_id": unknown})),
        ("ListResources", pb.ListResourcesRequest(resource_type_id=unknown)),
    ):
        refused = await shop.refused(method, request)
        assert (refused.code, refused.errors[0].field) == ("NOT_FOUND", "resource_type_id")
    first, second = await new_units(shop, room, 2, code="R")
    clash = pb.UpdateResourceRequest(id=second, code="R-1")
    assert (await shop.refused("UpdateResource", clash)).code == "ALREADY_EXISTS"
    assert (await shop.refused("UpdateResource", clash, if_match=7)).code == "PRECONDITION_FAILED"
    renamed = await shop.call("UpdateResource", pb.UpdateResourceRequest(id=first, name="Big room", code=""))
    assert (renamed.name, renamed.HasField("code"), renamed.version) == ("Big room", False, 2)
    assert await shop.call("GetResource", pb.GetResourceRequest(id=first)) == renamed


async def test_another_chain_and_another_branch_find_nothing(shop: Shop) -> None:
    room = await new_type(shop)
    (unit_id,) = await new_units(shop, room, 1)
    block = await shop.call(
        "BlockResource", pb.BlockResourceRequest(id=unit_id, starts_at=stamp(at(1, 9)), ends_at=stamp(at(1, 10)))
    )
    stranger = shop.platform.owner()
    elsewhere = {name: [new_id()] for name in ("resources.read", "resources.write")}
    visitor = replace(shop.caller, grants=elsewhere)
    window = {"starts_from": stamp(at(1, 9)), "ends_by": stamp(at(1, 10))}
    for method, request in (
        ("GetResource", pb.GetResourceRequest(id=unit_id)),
        ("UpdateResource", pb.UpdateResourceRequest(id=unit_id, name="x")),
        ("BlockResource", pb.BlockResourceRequest(id=unit_id, starts_at=block.starts_at, ends_at=block.ends_at)),
        ("ListResourceBlocks", pb.ListResourceBlocksRequest(id=unit_id)),
        ("UnblockResource", pb.UnblockResourceRequest(id=unit_id, block_id=block.id)),
        ("CountResources", pb.CountResourcesRequest(id=room, branch_id=shop.branch, **window)),
    ):
        assert (await shop.refused(method, request, caller=stranger)).code == "NOT_FOUND", method
        assert (await shop.refused(method, request, caller=visitor)).code == "PERMISSION_DENIED", method
    assert (
        await shop.refused("GetResourceType", pb.GetResourceTypeRequest(id=room), caller=stranger)
    ).code == "NOT_FOUND"
    # A type belongs to the chain: who works at one branch cannot change it.
    rename = pb.UpdateResourceTypeRequest(id=room, name="x")
    assert (await shop.refused("UpdateResourceType", rename, caller=visitor)).code == "PERMISSION_DENIED"
    assert not (await shop.call("ListResources", pb.ListResourcesRequest(), caller=visitor)).resources
    assert len((await shop.call("ListResources", pb.ListResourcesRequest())).resources) == 1


# --- given to bookings -------------------------------------------------------------------------------


async def test_of_40_bookings_on_5_rooms_5_win(shop: Shop) -> None:
    room = await new_type(shop)
    rooms = await new_units(shop, room, 5)
    service = await shop.new_service(plan=room_plan(room))
    won, refused = await attempts(
        shop, "CreateBooking", [shop.request(at(1, 10), service_id=service) for _ in range(40)]
    )
    assert Counter(refused) == {"SLOT_TAKEN": 35}
    assert {given(booking)[0] for booking in won} == set(rooms)
    assert all(not booking.staff_id for booking in won)


async def test_two_of_five_people_and_one_of_two_rooms(shop: Shop) -> None:
    for _ in range(4):
        shop.staff.append(await shop.new_staff())
    room = await new_type(shop)
    rooms = await new_units(shop, room, 2)
    service = await shop.new_service(plan=room_plan(room, people=2))
    won, refused = await attempts(
        shop, "CreateBooking", [shop.request(at(1, 11), service_id=service) for _ in range(24)]
    )
    assert len(won) == 2
    assert set(refused) == {"SLOT_TAKEN"}
    people = [person for booking in won for person in given(booking, "therapist")]
    assert len(set(people)) == 4
    assert {given(booking)[0] for booking in won} == set(rooms)
    slots = await shop.offers(at(1, 11), at(1, 12), service_id=service)
    assert not slots, "there is somebody left, but no room"


async def test_a_chosen_room_is_given_or_refused(shop: Shop) -> None:
    room = await new_type(shop)
    rooms = await new_units(shop, room, 3)
    service = await shop.new_service(plan=room_plan(room))
    wanted = [bookings_pb2.Choice(need="room", id=rooms[2])]
    booking = await shop.book(at(1, 10), service_id=service, choices=wanted)
    assert given(booking) == [rooms[2]]
    again = await shop.refused("CreateBooking", shop.request(at(1, 10), service_id=service, choices=wanted))
    assert again.code == "SLOT_TAKEN"
    await shop.book(at(1, 10), service_id=service)


async def test_a_room_of_another_branch_is_refused(shop: Shop) -> None:
    room = await new_type(shop)
    await new_units(shop, room, 1)
    (theirs,) = await new_units(shop, room, 1, branch_id=await other_branch(shop))
    service = await shop.new_service(plan=room_plan(room))
    wanted = [bookings_pb2.Choice(need="room", id=theirs)]
    refused = await shop.refused("CreateBooking", shop.request(at(1, 10), service_id=service, choices=wanted))
    assert refused.code == "NOT_BOOKABLE"
    await shop.book(at(1, 10), service_id=service)
    assert (await shop.refused("CreateBooking", shop.request(at(1, 10), service_id=service))).code == "SLOT_TAKEN"


# --- out of service ----------------------------------------------------------------------------------


async def test_a_block_keeps_a_room_free_and_names_what_it_hits(shop: Shop) -> None:
    room = await new_type(shop)
    (unit_id,) = await new_units(shop, room, 1)
    service = await shop.new_service(plan=room_plan(room))
    hit = await shop.book(at(1, 10), service_id=service)
    await shop.book(at(1, 15), service_id=service)
    request = pb.BlockResourceRequest(
        id=unit_id, starts_at=stamp(at(1, 10, 32)), ends_at=stamp(at(1, 12, 1)), reason="漏水"
    )
    block = await shop.call("BlockResource", request)
    assert [(each.booking_id, each.customer_id, each.service_name) for each in block.conflicts] == [
        (hit.id, hit.customer_id, "Cut")
    ]
    (event,) = await told(shop, unit_id, pb.ResourceBlocked)
    assert event.block == block
    assert (await shop.call("GetBooking", bookings_pb2.GetBookingRequest(id=hit.id))).version == hit.version
    # All steps that it touches are out of service, on the same board that had been read before.
    starts = await shop.starts(1, service_id=service)
    assert starts[:3] == ["09:00", "12:15", "12:30"]
    refused = await shop.refused("CreateBooking", shop.request(at(1, 11), service_id=service))
    assert refused.code == "NOT_BOOKABLE"
    listed = await shop.call("ListResourceBlocks", pb.ListResourceBlocksRequest(id=unit_id))
    assert [(each.id, each.reason, len(each.conflicts)) for each in listed.blocks] == [(block.id, "漏水", 0)]
    later = pb.ListResourceBlocksRequest(id=unit_id, ends_after=stamp(at(1, 13)))
    assert not (await shop.call("ListResourceBlocks", later)).blocks
    gone = pb.UnblockResourceRequest(id=unit_id, block_id=block.id)
    await shop.call("UnblockResource", gone)
    assert (await shop.refused("UnblockResource", gone)).errors[0].field == "block_id"
    await shop.book(at(1, 11), service_id=service)
    assert await subjects(shop, unit_id) == ["resource.created", "resource.blocked", "resource.unblocked"]


async def test_blocks_are_paged_and_wrong_ones_refused(shop: Shop) -> None:
    (unit_id,) = await new_units(shop, await new_type(shop), 1)
    for day in (3, 1, 2):
        request = pb.BlockResourceRequest(id=unit_id, starts_at=stamp(at(day, 9)), ends_at=stamp(at(day, 10)))
        await shop.call("BlockResource", request)
    days, token = [], ""
    for _ in range(3):
        page = await shop.call(
            "ListResourceBlocks", pb.ListResourceBlocksRequest(id=unit_id, page_size=1, page_token=token)
        )
        days += [block.starts_at.ToDatetime().day - NOW.day for block in page.blocks]
        token = page.next_page_token
    assert (days, token) == ([1, 2, 3], "")
    for starts_at, ends_at, code in (
        (at(1, 10), at(1, 10), "order"),
        (at(-1, 9), at(-1, 10), "past"),
        (at(1, 9), at(500, 9), "range"),
    ):
        wrong = pb.BlockResourceRequest(id=unit_id, starts_at=stamp(starts_at), ends_at=stamp(ends_at))
        assert [error.code for error in (await shop.refused("BlockResource", wrong)).errors] == [code]
    backwards = pb.ListResourceBlocksRequest(id=unit_id, ends_after=stamp(at(2, 9)), starts_before=stamp(at(1, 9)))
    assert (await shop.refused("ListResourceBlocks", backwards)).errors[0].field == "to"
    token_of_others = pb.ListResourceBlocksRequest(id=unit_id, page_token="eyJ4IjoxfQ")
    assert (await shop.refused("ListResourceBlocks", token_of_others)).code == "INVALID_REQUEST"


async def test_a_unit_or_type_given_up_names_what_has_it(shop: Shop) -> None:
    room = await new_type(shop)
    first, second = await new_units(shop, room, 2)
    service = await shop.new_service(plan=room_plan(room))
    wanted = [bookings_pb2.Choice(need="room", id=first)]
    booking = await shop.book(at(1, 10), service_id=service, choices=wanted)
    held = await shop.book(at(1, 12), service_id=service, choices=wanted, hold=True)
    cancelled = await shop.book(at(1, 14), service_id=service, choices=wanted)
    await shop.call("CancelBooking", bookings_pb2.CancelBookingRequest(id=cancelled.id))
    told_off = await shop.call("UpdateResource", pb.UpdateResourceRequest(id=first, active=False))
    assert [each.booking_id for each in told_off.conflicts] == [booking.id, held.id]
    assert not (await told(shop, first, pb.ResourceUpdated))[0].resource.conflicts
    again = await shop.call("UpdateResource", pb.UpdateResourceRequest(id=first, active=False))
    assert not again.conflicts, "it was given up before"
    assert given(await shop.book(at(1, 17), service_id=service)) == [second]
    refused = await shop.refused("CreateBooking", shop.request(at(1, 15), service_id=service, choices=wanted))
    assert refused.code == "NOT_BOOKABLE"
    given_up = await shop.call("UpdateResourceType", pb.UpdateResourceTypeRequest(id=room, active=False))
    assert [each.resource_id for each in given_up.conflicts] == [second]
    assert await shop.starts(2, service_id=service) == []
    await shop.call("UpdateResourceType", pb.UpdateResourceTypeRequest(id=room, active=True))
    assert await shop.starts(2, service_id=service)


# --- counts ------------------------------------------------------------------------------------------


async def counts(shop: Shop, type_id: str, day: int, start: int, end: int) -> pb.ResourceCounts:
    request = pb.CountResourcesRequest(
        id=type_id, branch_id=shop.branch, starts_from=stamp(at(day, start)), ends_by=stamp(at(day, end))
    )
    answer: pb.ResourceCounts = await shop.call("CountResources", request)
    return answer


async def test_units_are_counted_now_and_at_the_tightest_moment(shop: Shop) -> None:
    room = await new_type(shop)
    assert (await counts(shop, room, 1, 9, 18)).total == 0
    rooms = await new_units(shop, room, 5)
    await shop.call("UpdateResource", pb.UpdateResourceRequest(id=rooms[4], active=False))
    service = await shop.new_service(plan=room_plan(room))
    for hour in (10, 10, 13):
        await shop.book(at(1, hour), service_id=service)
    expired = await shop.book(at(1, 10), service_id=service, hold=True)
    shop.clock.advance(at(1, 9) - NOW)
    found = await counts(shop, room, 1, 9, 18)
    assert (found.total, found.in_service, found.taken, found.free) == (4, 4, 0, 4)
    assert (found.least_free, found.least_free_at) == (2, stamp(at(1, 10))), "a hold that ran out has nothing"
    assert expired.status == bookings_pb2.BOOKING_STATUS_HELD
    block = pb.BlockResourceRequest(id=rooms[3], starts_at=stamp(at(1, 9)), ends_at=stamp(at(1, 13, 30)))
    await shop.call("BlockResource", block)
    shop.clock.advance(at(1, 10, 30) - at(1, 9))
    found = await counts(shop, room, 1, 12, 18)
    assert (found.total, found.in_service, found.taken, found.free) == (4, 3, 2, 1)
    assert (found.least_free, found.least_free_at) == (2, stamp(at(1, 13)))


async def test_a_window_to_count_in_is_checked(shop: Shop) -> None:
    room = await new_type(shop)
    values: dict[str, Any] = {"id": room, "branch_id": shop.branch}
    for end, code in ((at(1, 9), "order"), (at(40, 9), "range")):
        request = pb.CountResourcesRequest(**values, starts_from=stamp(at(1, 9)), ends_by=stamp(end))
        assert [error.code for error in (await shop.refused("CountResources", request)).errors] == [code]
    unknown = pb.CountResourcesRequest(
        id=new_id(), branch_id=shop.branch, starts_from=stamp(at(1, 9)), ends_by=stamp(at(1, 10))
    )
    assert (await shop.refused("CountResources", unknown)).code == "NOT_FOUND"


# --- what is lent with a booking ---------------------------------------------------------------------


async def test_a_costume_is_not_to_be_had_until_it_is_back(shop: Shop) -> None:
    dress = await new_type(shop, "Dress", pb.RESOURCE_KIND_LENT)
    await new_units(shop, dress, 1, name="Dress")
    room = await new_type(shop)
    await new_units(shop, room, 1)
    plan = room_plan(room)
    plan.resources.append(
        catalogue_pb2.ResourceNeed(
            name="dress", resource_type_id=dress, buffer_before_minutes=60, buffer_after_minutes=2880
        )
    )
    service = await shop.new_service(plan=plan, buffer_after_minutes=15)
    booking = await shop.book(at(1, 10), service_id=service)
    assert (await shop.refused("CreateBooking", shop.request(at(2, 10), service_id=service))).code == "SLOT_TAKEN"
    assert await shop.starts(2, service_id=service) == []
    assert (await shop.starts(3, service_id=service))[0] == "12:00", "back at 11, and an hour to get it ready"
    # The service ends early: the room is free after its buffer, the dress comes back when it comes back.
    shop.clock.advance(at(1, 10, 30) - NOW)
    await shop.call("CompleteBooking", bookings_pb2.CompleteBookingRequest(id=booking.id))
    in_room = await shop.new_service(plan=room_plan(room))
    assert (await shop.starts(1, service_id=in_room))[0] == "10:45"
    assert await shop.starts(2, service_id=service) == []
    assert (await shop.starts(3, service_id=service))[0] == "11:30"
