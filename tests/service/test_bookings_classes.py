"""Classes against real PostgreSQL: no seat is sold twice, seats come back once, everybody moves or nobody does."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import classes_pb2
from google.protobuf.message import Message

from chassis.clock import FrozenClock
from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from services.bookings.events import keep_customer
from services.bookings.jobs import expire_holds
from tests.service.bookings_shop import NOW, READ_EVENTS, Shop, at, bookings_alone, stamp, yuan
from tools.servers import Servers

FIRST = at(1, 10)
READ_TAKEN = prepare_sql(
    "select s.taken, (select coalesce(sum(b.seats), 0) from bookings b where b.chain_id = s.chain_id"
    " and b.class_session_id = s.id and b.status not in ('cancelled', 'expired', 'no_show')) as sold"
    " from class_sessions s where s.chain_id = $1::uuid",
    "chain_id",
)


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_classes") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()
    async with opened.unit() as unit:
        for row in await unit.all(READ_TAKEN):
            assert row["taken"] == row["sold"], "seats that are counted are those that are sold"


async def plan(shop: Shop, starts_at: datetime = FIRST, seats: int = 10, **more: Any) -> classes_pb2.ClassSession:
    values: dict[str, Any] = {"branch_id": shop.branch, "service_id": shop.service, "seats": seats, **more}
    session: classes_pb2.ClassSession = await shop.call(
        "CreateClassSession", classes_pb2.CreateClassSessionRequest(starts_at=stamp(starts_at), **values)
    )
    return session


def seat(shop: Shop, session: classes_pb2.ClassSession, **more: Any) -> classes_pb2.CreateEnrolmentRequest:
    values: dict[str, Any] = {"id": session.id, "customer_id": shop.crowd[shop.turn % len(shop.crowd)], **more}
    shop.turn += 1
    return classes_pb2.CreateEnrolmentRequest(**values)


async def enrol(shop: Shop, session: classes_pb2.ClassSession, **more: Any) -> pb.Booking:
    booking: pb.Booking = await shop.call("CreateEnrolment", seat(shop, session, **more))
    return booking


async def attempt(shop: Shop, method: str, request: Message) -> Any:
    try:
        return await shop.call(method, request)
    except Refusal as refusal:
        return refusal.code


async def free(shop: Shop, session: classes_pb2.ClassSession) -> int:
    return (await read(shop, session)).free_seats


async def read(shop: Shop, session: classes_pb2.ClassSession) -> classes_pb2.ClassSession:
    found: classes_pb2.ClassSession = await shop.call(
        "GetClassSession", classes_pb2.GetClassSessionRequest(id=session.id)
    )
    return found


async def subjects(shop: Shop, aggregate_id: str) -> list[str]:
    async with shop.unit() as unit:
        return [row["subject"].rpartition(".")[2] for row in await unit.all(READ_EVENTS, aggregate_id=aggregate_id)]


def move(
    session: classes_pb2.ClassSession, starts_at: datetime, **more: Any
) -> classes_pb2.RescheduleClassSessionRequest:
    return classes_pb2.RescheduleClassSessionRequest(id=session.id, starts_at=stamp(starts_at), **more)


# --- planning ----------------------------------------------------------------------------------------


async def test_a_session_takes_its_teacher_as_a_booking_does(shop: Shop) -> None:
    session = await plan(shop, name="Morning yoga")
    assert (session.name, session.staff_id, session.free_seats, session.version) == (
        "Morning yoga",
        shop.staff[0],
        10,
        1,
    )
    assert session.price == yuan(12800)
    assert [assigned.id for assigned in session.assignments] == shop.staff
    assert (await shop.refused("CreateBooking", shop.request(at(1, 10, 30)))).code == "SLOT_TAKEN"
    assert "10:30" not in await shop.starts(1)
    await shop.book(at(1, 11))
    request = classes_pb2.CreateClassSessionRequest(
        branch_id=shop.branch, service_id=shop.service, seats=5, starts_at=stamp(at(1, 11, 30))
    )
    refused = await shop.refused("CreateClassSession", request)
    assert refused.code == "SLOT_TAKEN"
    assert refused.members["nearest"]
    request.starts_at.CopyFrom(stamp(at(1, 3)))
    assert (await shop.refused("CreateClassSession", request)).code == "NOT_BOOKABLE"
    request.starts_at.CopyFrom(stamp(at(1, 15) + timedelta(minutes=1)))
    assert [error.field for error in (await shop.refused("CreateClassSession", request)).errors] == ["starts_at"]
    assert await subjects(shop, session.id) == ["created"]


async def test_a_session_and_bookings_race_for_a_teacher(shop: Shop) -> None:
    request = classes_pb2.CreateClassSessionRequest(
        branch_id=shop.branch, service_id=shop.service, seats=5, starts_at=stamp(at(1, 10))
    )
    answers = await asyncio.gather(
        *(attempt(shop, "CreateClassSession", request) for _ in range(8)),
        *(attempt(shop, "CreateBooking", shop.request(at(1, 10, 15))) for _ in range(8)),
    )
    assert Counter(answer for answer in answers if isinstance(answer, str)) == {"SLOT_TAKEN": 15}
    assert await shop.check_time() == 1


async def test_a_hold_that_ran_out_makes_room_for_a_session(shop: Shop) -> None:
    held = await shop.book(at(1, 10), hold=True)
    shop.clock.advance(timedelta(minutes=10))
    await plan(shop)
    assert await shop.told(held.id) == ["BookingHeld", "BookingExpired"]


# --- seats -------------------------------------------------------------------------------------------


async def test_an_enrolment_is_a_booking(shop: Shop) -> None:
    session = await plan(shop)
    booking = await enrol(shop, session, seats=3, note="friends")
    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    assert (booking.class_session_id, booking.seats, booking.price) == (session.id, 3, yuan(38400))
    assert (booking.staff_id, booking.starts_at, booking.ends_at) == (
        session.staff_id,
        session.starts_at,
        session.ends_at,
    )
    assert booking.lines[0].customer_id == booking.customer_id
    assert await free(shop, session) == 7
    listed = await shop.call("ListEnrolments", classes_pb2.ListEnrolmentsRequest(id=session.id))
    assert list(listed.bookings) == [booking]
    by_filter = await shop.call("ListBookings", pb.ListBookingsRequest(class_session_id=session.id))
    assert list(by_filter.bookings) == [booking]
    assert await shop.told(booking.id) == ["BookingConfirmed"]
    # The customer's own time is taken, nobody else's.
    again = await shop.refused("CreateEnrolment", seat(shop, session, customer_id=booking.customer_id))
    assert again.code == "CUSTOMER_BUSY"
    elsewhere = shop.request(at(1, 10), customer_id=booking.customer_id)
    assert (await shop.refused("CreateBooking", elsewhere)).code in ("CUSTOMER_BUSY", "SLOT_TAKEN")
    shop.clock.advance(at(1, 10) - NOW)
    for method, request in (
        ("CheckInBooking", pb.CheckInBookingRequest(id=booking.id)),
        ("StartBooking", pb.StartBookingRequest(id=booking.id)),
        ("CompleteBooking", pb.CompleteBookingRequest(id=booking.id)),
    ):
        await shop.call(method, request)
    assert await free(shop, session) == 7  # they were used


async def test_of_200_who_want_10_seats_10_get_one(shop: Shop) -> None:
    crowd = [new_id() for _ in range(200)]
    async with shop.unit() as unit:
        for identifier in crowd:
            await keep_customer(unit, identifier, "王小明", "zh", 1)
    session = await plan(shop)
    answers = await asyncio.gather(
        *(attempt(shop, "CreateEnrolment", seat(shop, session, customer_id=identifier)) for identifier in crowd)
    )
    assert Counter(answer for answer in answers if isinstance(answer, str)) == {"SEATS_TAKEN": 190}
    assert await free(shop, session) == 0


async def test_what_is_left_is_told(shop: Shop) -> None:
    session = await plan(shop, seats=5)
    await enrol(shop, session, seats=3)
    refused = await shop.refused("CreateEnrolment", seat(shop, session, seats=3))
    assert (refused.code, refused.members["seats"]) == ("SEATS_TAKEN", {"total": 5, "free": 2})
    await enrol(shop, session, seats=2)


@pytest.mark.parametrize("way", ["CancelBooking", "MarkNoShow"])
async def test_a_seat_comes_back_once(shop: Shop, way: str) -> None:
    session = await plan(shop, seats=4)
    booking = await enrol(shop, session, seats=2)
    request = pb.CancelBookingRequest if way == "CancelBooking" else pb.MarkNoShowRequest
    answers = await asyncio.gather(*(attempt(shop, way, request(id=booking.id)) for _ in range(5)))
    assert Counter(answer for answer in answers if isinstance(answer, str)) == {"WRONG_STATE": 4}
    assert await free(shop, session) == 4
    await enrol(shop, session, seats=4)


async def test_seats_of_holds_that_ran_out_are_had_by_who_wants_them(shop: Shop) -> None:
    session = await plan(shop, seats=3)
    held = [await enrol(shop, session, hold=True) for _ in range(3)]
    assert await free(shop, session) == 0
    assert (await shop.refused("CreateEnrolment", seat(shop, session))).code == "SEATS_TAKEN"
    confirmed = await shop.call("ConfirmBooking", pb.ConfirmBookingRequest(id=held[0].id))
    assert confirmed.status == pb.BOOKING_STATUS_CONFIRMED
    shop.clock.advance(timedelta(minutes=10))
    assert await free(shop, session) == 2
    listed = await shop.call("ListClassSessions", classes_pb2.ListClassSessionsRequest(with_free_seats=True))
    assert [found.id for found in listed.class_sessions] == [session.id]
    answers = await asyncio.gather(*(attempt(shop, "CreateEnrolment", seat(shop, session)) for _ in range(12)))
    assert Counter(answer for answer in answers if isinstance(answer, str)) == {"SEATS_TAKEN": 10}
    assert await shop.told(held[1].id) == ["BookingHeld", "BookingExpired"]
    assert await shop.told(held[0].id) == ["BookingHeld", "BookingConfirmed"]


async def test_seats_nobody_wants_are_tidied_up(shop: Shop) -> None:
    session = await plan(shop, seats=3)
    held = await enrol(shop, session, hold=True)
    shop.clock.advance(timedelta(minutes=10))
    await expire_holds(shop.platform["bookings"].context)
    assert await shop.told(held.id) == ["BookingHeld", "BookingExpired"]
    assert await free(shop, session) == 3


async def test_who_cannot_enrol(shop: Shop) -> None:
    session = await plan(shop)
    assert (await shop.refused("CreateEnrolment", seat(shop, session, seats=21))).code == "INVALID_REQUEST"
    busy = await enrol(shop, session)
    other = await plan(shop, at(1, 12))
    shop.staff.append(await shop.new_staff())
    same_time = await plan(shop, at(1, 10, 30))
    refused = await shop.refused("CreateEnrolment", seat(shop, same_time, customer_id=busy.customer_id))
    assert refused.code == "CUSTOMER_BUSY"
    assert await free(shop, same_time) == 10  # the seat it had counted is free again
    await enrol(shop, other, customer_id=busy.customer_id)
    shop.clock.advance(at(1, 10) - NOW)
    assert (await shop.refused("CreateEnrolment", seat(shop, session))).code == "NOT_BOOKABLE"
    await shop.call("CancelClassSession", classes_pb2.CancelClassSessionRequest(id=other.id))
    assert (await shop.refused("CreateEnrolment", seat(shop, other))).code == "WRONG_STATE"


async def test_a_seat_moves_with_its_session_only(shop: Shop) -> None:
    session = await plan(shop)
    booking = await enrol(shop, session)
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 14)))
    assert (await shop.refused("RescheduleBooking", request)).code == "SEAT_IN_CLASS"


# --- changes -----------------------------------------------------------------------------------------


async def test_cancelling_reaches_everybody(shop: Shop) -> None:
    session = await plan(shop)
    agreed = await enrol(shop, session, seats=2)
    held, gone, here = await enrol(shop, session, hold=True), await enrol(shop, session), await enrol(shop, session)
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=gone.id))
    await shop.call("CheckInBooking", pb.CheckInBookingRequest(id=here.id))
    request = classes_pb2.CancelClassSessionRequest(id=session.id, reason="ill")
    cancelled = await shop.call("CancelClassSession", request, if_match=1)
    assert (cancelled.status, cancelled.cancel_reason, cancelled.free_seats, cancelled.version) == (
        classes_pb2.CLASS_SESSION_STATUS_CANCELLED,
        "ill",
        10,
        2,
    )
    assert await shop.told(agreed.id) == ["BookingConfirmed", "BookingCancelled"]
    event, _ = (await shop.events(held.id))[-1]
    assert (event.was_held, event.booking.cancel_reason) == (True, "ill")
    assert (await shop.told(gone.id)) == ["BookingConfirmed", "BookingCancelled"]
    assert (await shop.told(here.id))[-1] == "BookingCancelled"
    assert await shop.check_time() == 0
    assert await subjects(shop, session.id) == ["created", "cancelled"]
    again = await shop.refused("CancelClassSession", request)
    assert (again.code, again.parameters["status"]) == ("WRONG_STATE", "cancelled")
    await shop.book(at(1, 10))


async def test_cancelling_while_many_enrol_and_leave(shop: Shop) -> None:
    session = await plan(shop, seats=20)
    early = [await enrol(shop, session) for _ in range(6)]
    answers = await asyncio.gather(
        *(attempt(shop, "CreateEnrolment", seat(shop, session)) for _ in range(10)),
        *(attempt(shop, "CancelBooking", pb.CancelBookingRequest(id=booking.id)) for booking in early),
        attempt(shop, "CancelClassSession", classes_pb2.CancelClassSessionRequest(id=session.id)),
        *(attempt(shop, "CreateEnrolment", seat(shop, session)) for _ in range(10)),
    )
    assert {answer for answer in answers if isinstance(answer, str)} <= {"WRONG_STATE"}
    assert await shop.check_time() == 0
    assert await free(shop, session) == 20


async def test_a_session_moves_with_everybody(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    session = await plan(shop, staff_id=shop.staff[0])
    first, held = await enrol(shop, session), await enrol(shop, session, hold=True, seats=2)
    # Half an hour later overlaps with its own old time only.
    moved = await shop.call("RescheduleClassSession", move(session, at(1, 10, 30)))
    assert (moved.starts_at, moved.staff_id, moved.version) == (stamp(at(1, 10, 30)), shop.staff[0], 2)
    event, _ = (await shop.events(first.id))[-1]
    assert event.previous_starts_at == stamp(at(1, 10))
    assert event.booking.lines[0].starts_at == stamp(at(1, 10, 30))
    assert [assigned.id for assigned in event.booking.lines[0].assignments] == [shop.staff[0]]
    moved = await shop.call("RescheduleClassSession", move(session, at(2, 10), staff_id=shop.staff[1]))
    assert moved.staff_id == shop.staff[1]
    booking = await shop.call("GetBooking", pb.GetBookingRequest(id=held.id))
    assert (booking.staff_id, booking.starts_at, booking.seats) == (shop.staff[1], stamp(at(2, 10)), 2)
    assert booking.expires_at == held.expires_at
    assert await shop.check_time() == 3
    assert await subjects(shop, session.id) == ["created", "rescheduled", "rescheduled"]
    # Its old time is free, for the teacher as for those enrolled.
    await shop.book(at(1, 10), staff=0, customer_id=first.customer_id)


async def test_a_session_that_cannot_move_stays(shop: Shop) -> None:
    session = await plan(shop)
    booking = await enrol(shop, session)
    await shop.book(at(1, 12))
    before = await read(shop, session)
    for starts_at, code in ((at(1, 12), "SLOT_TAKEN"), (at(1, 5), "NOT_BOOKABLE"), (at(-1, 10), "NOT_BOOKABLE")):
        assert (await shop.refused("RescheduleClassSession", move(session, starts_at))).code == code
    assert await read(shop, session) == before
    assert await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id)) == booking
    assert (await shop.refused("RescheduleClassSession", move(session, at(2, 10)), if_match=7)).code == (
        "PRECONDITION_FAILED"
    )
    shop.clock.advance(at(1, 10, 5) - NOW)
    assert (await shop.refused("RescheduleClassSession", move(session, at(2, 10)))).code == "WRONG_STATE"


async def test_who_is_busy_at_the_new_time_is_told_and_can_be_accepted(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    session = await plan(shop, staff_id=shop.staff[0])
    busy, idle = await enrol(shop, session), await enrol(shop, session)
    elsewhere = await shop.book(at(1, 14), staff=1, customer_id=busy.customer_id)
    refused = await shop.refused("RescheduleClassSession", move(session, at(1, 14)))
    assert refused.code == "CUSTOMERS_BUSY"
    assert refused.members["conflicts"] == [{"booking_id": busy.id, "customer_id": busy.customer_id}]
    assert (await read(shop, session)).starts_at == session.starts_at
    await shop.call("RescheduleClassSession", move(session, at(1, 14), accept_conflicts=True))
    assert (await shop.call("GetBooking", pb.GetBookingRequest(id=busy.id))).starts_at == stamp(at(1, 14))
    await shop.check_time()
    # When the other booking is gone the next move guards the customer's time again.
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=elsewhere.id))
    await shop.call("RescheduleClassSession", move(session, at(1, 15)))
    wanted = shop.request(at(1, 15), 1, customer_id=busy.customer_id)
    assert (await shop.refused("CreateBooking", wanted)).code == "CUSTOMER_BUSY"
    assert idle.customer_id != busy.customer_id


async def test_moving_races_with_bookings_of_those_enrolled(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    session = await plan(shop, staff_id=shop.staff[0])
    enrolled = [await enrol(shop, session) for _ in range(5)]
    answers = await asyncio.gather(
        attempt(shop, "RescheduleClassSession", move(session, at(1, 14), accept_conflicts=True)),
        *(
            attempt(shop, "CreateBooking", shop.request(at(1, 14, 30), 1, customer_id=booking.customer_id))
            for booking in enrolled
        ),
        *(attempt(shop, "CancelBooking", pb.CancelBookingRequest(id=booking.id)) for booking in enrolled[:2]),
        *(attempt(shop, "CreateEnrolment", seat(shop, session)) for _ in range(4)),
    )
    codes = Counter(answer for answer in answers if isinstance(answer, str))
    assert set(codes) <= {"SLOT_TAKEN", "CUSTOMER_BUSY"}
    listed = await shop.call("ListEnrolments", classes_pb2.ListEnrolmentsRequest(id=session.id))
    open_ = [booking for booking in listed.bookings if booking.status == pb.BOOKING_STATUS_CONFIRMED]
    assert {booking.starts_at.seconds for booking in open_} == {stamp(at(1, 14)).seconds}
    assert len(open_) == 7


async def test_seats_can_be_added_but_not_taken_from_those_who_have_them(shop: Shop) -> None:
    session = await plan(shop, seats=2)
    await enrol(shop, session, seats=2)
    changed = await shop.call(
        "UpdateClassSession", classes_pb2.UpdateClassSessionRequest(id=session.id, seats=4, name="Two more"), if_match=1
    )
    assert (changed.seats, changed.free_seats, changed.name, changed.version) == (4, 2, "Two more", 2)
    request = classes_pb2.UpdateClassSessionRequest(id=session.id, seats=1)
    assert (await shop.refused("UpdateClassSession", request)).code == "SEATS_TAKEN"
    assert await subjects(shop, session.id) == ["created", "updated"]


# --- lists, other chains, branches -------------------------------------------------------------------


async def test_lists_are_filtered_and_paged(shop: Shop) -> None:
    first, second = await plan(shop, at(1, 10), seats=1), await plan(shop, at(2, 10))
    third = await plan(shop, at(3, 10))
    await enrol(shop, first)
    await shop.call("CancelClassSession", classes_pb2.CancelClassSessionRequest(id=third.id))

    async def ids(**filters: Any) -> list[str]:
        listed = await shop.call("ListClassSessions", classes_pb2.ListClassSessionsRequest(**filters))
        return [session.id for session in listed.class_sessions]

    everything = [first.id, second.id, third.id]
    assert await ids() == everything
    assert await ids(branch_id=shop.branch, service_id=shop.service, staff_id=shop.staff[0]) == everything
    assert await ids(with_free_seats=True) == [second.id]
    assert await ids(status=classes_pb2.CLASS_SESSION_STATUS_CANCELLED) == [third.id]
    assert await ids(starts_from=stamp(at(2, 0)), starts_before=stamp(at(3, 0))) == [second.id]
    page = await shop.call("ListClassSessions", classes_pb2.ListClassSessionsRequest(page_size=2))
    assert await ids(page_token=page.next_page_token) == [third.id]
    for name in ("service_id", "staff_id"):
        wanted = classes_pb2.ListClassSessionsRequest(**{name: new_id()})  # type: ignore[arg-type]
        assert (await shop.refused("ListClassSessions", wanted)).code == "NOT_FOUND"
    wrong = classes_pb2.ListClassSessionsRequest(starts_from=stamp(at(2, 0)), starts_before=stamp(at(2, 0)))
    assert (await shop.refused("ListClassSessions", wrong)).code == "INVALID_REQUEST"


async def test_another_chain_and_another_branch_find_nothing(shop: Shop) -> None:
    session = await plan(shop)
    stranger = shop.platform.owner()
    requests: list[tuple[str, Message]] = [
        ("GetClassSession", classes_pb2.GetClassSessionRequest(id=session.id)),
        ("UpdateClassSession", classes_pb2.UpdateClassSessionRequest(id=session.id, seats=3)),
        ("RescheduleClassSession", move(session, at(2, 10))),
        ("CancelClassSession", classes_pb2.CancelClassSessionRequest(id=session.id)),
        ("CreateEnrolment", seat(shop, session)),
        ("ListEnrolments", classes_pb2.ListEnrolmentsRequest(id=session.id)),
        ("ListBookings", pb.ListBookingsRequest(class_session_id=session.id)),
    ]
    for method, request in requests:
        assert (await shop.refused(method, request, caller=stranger)).code == "NOT_FOUND", method
    # Permissions hold at branches: a caller of another one may do nothing here.
    grants = {name: [new_id()] for name in ("bookings.read", "bookings.write", "classes.write")}
    elsewhere = dataclasses.replace(shop.caller, grants=grants)
    for method, request in requests[:-1]:
        assert (await shop.refused(method, request, caller=elsewhere)).code == "PERMISSION_DENIED", method
    listed = await shop.call("ListClassSessions", classes_pb2.ListClassSessionsRequest(), elsewhere)
    assert not listed.class_sessions
    reader = dataclasses.replace(shop.caller, grants={"bookings.read": "*"})
    for method, request in requests[1:5]:
        assert (await shop.refused(method, request, caller=reader)).code == "PERMISSION_DENIED", method
