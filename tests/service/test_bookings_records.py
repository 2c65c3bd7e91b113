"""Bookings from before the platform, lists, and the catalogue, against real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.pages import cursor_encode
from chassis.testing import Platform
from tests.service.bookings_shop import Shop, at, bookings_alone, stamp, yuan
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_records") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> Shop:
    return await Shop(*alone).open()


def fields(refusal: Refusal) -> list[str]:
    return [error.field for error in refusal.errors]


# --- from before, and lists --------------------------------------------------------------------------


def record(shop: Shop, **changes: Any) -> pb.RecordBookingRequest:
    values: dict[str, Any] = {
        "branch_id": shop.branch,
        "service_id": shop.service,
        "customer_id": shop.customer,
        "staff_id": shop.staff[0],
        "starts_at": datetime(2018, 3, 5, 15, 7, tzinfo=UTC),
        "status": pb.BOOKING_STATUS_COMPLETED,
        "external_id": "R-1",
        **changes,
    }
    return pb.RecordBookingRequest(**{name: value for name, value in values.items() if value is not None})


async def test_records_count_as_of_then(shop: Shop) -> None:
    booked_at = datetime(2018, 2, 20, tzinfo=UTC)
    first = await shop.call("RecordBooking", record(shop, booked_at=booked_at, price=yuan(9900)))
    assert (first.status, first.price.amount) == (pb.BOOKING_STATUS_COMPLETED, 9900)
    (agreed, agreed_at), (done, done_at) = await shop.events(first.id)
    assert (agreed.booking.status, agreed.booking.version, agreed_at) == (pb.BOOKING_STATUS_CONFIRMED, 1, booked_at)
    assert (done.booking, done_at) == (first, first.starts_at.ToDatetime(tzinfo=UTC))
    twice = await asyncio.gather(*(shop.call("RecordBooking", record(shop)) for _ in range(5)))
    assert all(answer == first for answer in twice)
    at_once = await asyncio.gather(*(shop.call("RecordBooking", record(shop, external_id="R-2")) for _ in range(8)))
    assert len({answer.id for answer in at_once}) == 1
    assert len(await shop.told(at_once[0].id)) == 2
    cancelled_at = datetime(2018, 3, 5, 13, 7, tzinfo=UTC)
    request = record(
        shop, external_id=None, status=pb.BOOKING_STATUS_CANCELLED, cancelled_at=cancelled_at, cancel_reason="late"
    )
    event, occurred_at = (await shop.events((await shop.call("RecordBooking", request)).id))[-1]
    assert (event.notice_minutes, occurred_at) == (120, cancelled_at)
    missed = await shop.call("RecordBooking", record(shop, external_id=None, status=pb.BOOKING_STATUS_NO_SHOW))
    assert await shop.told(missed.id) == ["BookingConfirmed", "BookingMissed"]
    assert await shop.check_time() == 0  # nobody's time is taken


async def test_records_that_make_no_sense(shop: Shop) -> None:
    future = at(1, 10)
    request = record(shop, starts_at=future, booked_at=future, cancelled_at=future, price=yuan(-1, "EUR"))
    refusal = await shop.refused("RecordBooking", request)
    assert {"starts_at", "booked_at", "cancelled_at", "price.amount", "price.currency"} == set(fields(refusal))
    refusal = await shop.refused("RecordBooking", record(shop, status=pb.BOOKING_STATUS_CANCELLED))
    assert fields(refusal) == ["cancelled_at"]
    for field in ("service_id", "staff_id"):
        refusal = await shop.refused("RecordBooking", record(shop, **{field: new_id()}))
        assert (refusal.code, fields(refusal)) == ("NOT_FOUND", [field])


async def test_lists_filter_and_page(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    made = [await shop.book(at(1, hour), staff=hour % 2, customer_id=shop.customer) for hour in range(10, 17)]
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=made[0].id))

    async def listed(**filters: Any) -> list[str]:
        found: list[str] = []
        token = ""
        for _ in range(10):
            page = await shop.call("ListBookings", pb.ListBookingsRequest(page_size=3, page_token=token, **filters))
            found += [booking.id for booking in page.bookings]
            token = page.next_page_token
            if not token:
                return found
        raise AssertionError("pages do not end")

    ids = [booking.id for booking in made]
    assert await listed() == ids
    assert await listed(branch_id=shop.branch, customer_id=shop.customer) == ids
    assert await listed(staff_id=shop.staff[1]) == ids[1::2]
    assert await listed(status=[pb.BOOKING_STATUS_CANCELLED]) == ids[:1]
    assert await listed(starts_from=stamp(at(1, 11)), starts_before=stamp(at(1, 13))) == ids[1:3]
    refusal = await shop.refused("ListBookings", pb.ListBookingsRequest(staff_id=new_id()))
    assert (refusal.code, fields(refusal)) == ("NOT_FOUND", ["staff_id"])
    for token in ("x", "WyJ4IiwieSJd", "WyIyMDI2LTA1LTA0Iiwi", cursor_encode(["\0", new_id()])):
        refusal = await shop.refused("ListBookings", pb.ListBookingsRequest(page_token=token))
        assert fields(refusal) == ["page_token"]
    elsewhere = shop.platform.owner(shop.caller.chain_id, grants={"bookings.read": [new_id()]})
    assert list((await shop.call("ListBookings", pb.ListBookingsRequest(), elsewhere)).bookings) == []
    refusal = await shop.refused("GetBooking", pb.GetBookingRequest(id=ids[0]), caller=elsewhere)
    assert refusal.code == "PERMISSION_DENIED"


# --- the catalogue and the people ------------------------------------------------------------------------


async def test_a_service_is_checked_as_a_whole(shop: Shop) -> None:
    request = pb.CreateServiceRequest(
        name="Wrong",
        duration_minutes=62,
        buffer_before_minutes=3,
        buffer_after_minutes=5,
        price=yuan(-1),
        deposit=yuan(100, "EUR"),
        branch_prices=[
            pb.BranchPrice(branch_id=shop.branch, price=yuan(1, "USD")),
            pb.BranchPrice(branch_id=shop.branch, price=yuan(2)),
        ],
    )
    refusal = await shop.refused("CreateService", request)
    assert set(fields(refusal)) == {
        "duration_minutes",
        "buffer_before_minutes",
        "price.amount",
        "deposit.currency",
        "branch_prices[0].price.currency",
        "branch_prices[1].branch_id",
    }


async def test_a_service_changes_and_what_was_sold_stays(shop: Shop) -> None:
    request = pb.CreateServiceRequest(
        name="Perm",
        code="P1",
        duration_minutes=120,
        price=yuan(50_000),
        branch_prices=[pb.BranchPrice(branch_id=shop.branch, price=yuan(45_000))],
        deposit=yuan(10_000),
    )
    made = await shop.call("CreateService", request)
    assert (made.version, made.active, made.deposit.amount) == (1, True, 10_000)
    booking = await shop.book(at(1, 10), service_id=made.id)
    assert (booking.price.amount, booking.service_name) == (45_000, "Perm")
    change = pb.UpdateServiceRequest(
        id=made.id, name="Wave", branch_prices=pb.BranchPrices(), deposit=yuan(0), duration_minutes=60
    )
    changed = await shop.call("UpdateService", change, if_match=1)
    assert (changed.version, changed.name, len(changed.branch_prices)) == (2, "Wave", 0)
    assert not changed.HasField("deposit")
    assert (await shop.refused("UpdateService", change, if_match=1)).code == "PRECONDITION_FAILED"
    assert (await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id))) == booking
    moved = await shop.call("RescheduleBooking", pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 14))))
    assert moved.ends_at.ToDatetime(tzinfo=UTC) == at(1, 16)  # it takes as long as was sold
    again = await shop.refused("CreateService", request)
    assert (again.code, fields(again)) == ("ALREADY_EXISTS", ["code"])


async def test_a_person_is_unique_by_code(shop: Shop) -> None:
    request = pb.CreateStaffRequest(name="Mo", code="M1", branch_ids=[shop.branch], skills=["cut", "cut"])
    made = await shop.call("CreateStaff", request)
    assert list(made.skills) == ["cut"]
    assert (await shop.refused("CreateStaff", request)).code == "ALREADY_EXISTS"
    taken = await shop.refused("UpdateStaff", pb.UpdateStaffRequest(id=shop.staff[0], code="M1"))
    assert taken.code == "ALREADY_EXISTS"
    changed = await shop.call(
        "UpdateStaff", pb.UpdateStaffRequest(id=made.id, code="", skills=pb.Texts(values=["dye"]))
    )
    assert (changed.HasField("code"), list(changed.skills), changed.version) == (False, ["dye"], 2)
    assert (
        await shop.refused("UpdateStaff", pb.UpdateStaffRequest(id=made.id), if_match=1)
    ).code == "PRECONDITION_FAILED"
    listed = await shop.call("ListStaff", pb.ListStaffRequest(branch_id=shop.branch, active=True, page_size=1))
    assert [person.name for person in listed.staff] == ["Lin"]
    rest = await shop.call("ListStaff", pb.ListStaffRequest(page_token=listed.next_page_token))
    assert [person.name for person in rest.staff] == ["Mo"]


async def test_shifts_are_checked(shop: Shop) -> None:
    homeless = await shop.call("CreateStaff", pb.CreateStaffRequest(name="Nomad"))
    refusal = await shop.refused("SetShifts", pb.SetShiftsRequest(id=homeless.id))
    assert fields(refusal) == ["branch_id"]
    refusal = await shop.refused("SetShifts", pb.SetShiftsRequest(id=homeless.id, branch_id=shop.branch))
    assert fields(refusal) == ["branch_id"]
    refusal = await shop.refused("SetShifts", pb.SetShiftsRequest(id=shop.staff[0], from_date="2026-02-30"))
    assert fields(refusal) == ["from_date"]
    assert (await shop.refused("SetShifts", pb.SetShiftsRequest(id=new_id()))).code == "NOT_FOUND"


async def test_a_manager_of_one_branch_stays_there(shop: Shop) -> None:
    elsewhere = [new_id()]
    grants = dict.fromkeys(("staff.write", "staff.read", "catalogue.write", "catalogue.read"), elsewhere)
    manager = shop.platform.owner(shop.caller.chain_id, grants=grants)
    for method, request in (
        ("CreateStaff", pb.CreateStaffRequest(name="A", branch_ids=[shop.branch])),
        ("CreateStaff", pb.CreateStaffRequest(name="A")),
        ("UpdateStaff", pb.UpdateStaffRequest(id=shop.staff[0], name="B")),
        ("SetShifts", pb.SetShiftsRequest(id=shop.staff[0])),
        ("GetStaff", pb.GetStaffRequest(id=shop.staff[0])),
        ("CreateService", pb.CreateServiceRequest(name="A", duration_minutes=5, price=yuan(1))),
        ("UpdateService", pb.UpdateServiceRequest(id=shop.service, name="B")),
    ):
        assert (await shop.refused(method, request, caller=manager)).code == "PERMISSION_DENIED", method
    assert list((await shop.call("ListStaff", pb.ListStaffRequest(), manager)).staff) == []
    everywhere = await shop.call("ListServices", pb.ListServicesRequest(active=True), manager)
    assert [service.id for service in everywhere.services] == [shop.service]
    assert (await shop.call("GetService", pb.GetServiceRequest(id=shop.service), manager)).name == "Cut"
