"""Somebody else does it, and who is able to: reassigned bookings, grades and expiry of skills, people of suppliers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import people_pb2
from foyer.bookings.v1.catalogue_pb2 import Qualification, Qualifications, Role, ServicePlan, StaffTerms

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from services.bookings.people.qualifications import tell_expiring
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone
from tests.service.people_shop import another_branch, approve, ask_leave, fields, reassign, set_day, told, with_rights
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_takeover") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open(3)
    yield opened
    await opened.check_time()


async def refused(shop: Shop, booking: pb.Booking, staff_id: str, **more: Any) -> Refusal:
    request = people_pb2.ReassignBookingRequest(id=booking.id, staff_id=staff_id, **more)
    return await shop.refused("ReassignBooking", request)


def given(booking: pb.Booking) -> list[list[tuple[str, str]]]:
    """Who does what, line by line."""
    return [[(each.need, each.id) for each in line.assignments] for line in booking.lines]


# --- somebody else does it -------------------------------------------------------------------------------


async def test_a_booking_goes_to_somebody_else_at_the_same_time(shop: Shop) -> None:
    booking = await shop.book(at(1, 11), 0)
    moved = await reassign(shop, booking, 1)
    assert (moved.staff_id, moved.version) == (shop.staff[1], booking.version + 1)
    assert (moved.starts_at, moved.ends_at, moved.price) == (booking.starts_at, booking.ends_at, booking.price)
    (part,) = moved.lines[0].assignments
    assert (part.id, part.chosen, part.strategy, part.considered) == (shop.staff[1], True, "chosen", 2)
    assert moved.change_count == 0
    events = await shop.events(booking.id)
    event = events[-1][0]
    assert isinstance(event, people_pb2.BookingReassigned)
    assert (event.booking, event.previous_staff_id, event.staff_id) == (moved, *shop.staff[:2])
    # The time of the one is free, that of the other is taken.
    await shop.book(at(1, 11), 0)
    assert (await shop.refused("CreateBooking", shop.request(at(1, 11), 1))).code == "SLOT_TAKEN"


async def test_it_is_kept_when_it_cannot_be(shop: Shop) -> None:
    booking = await shop.book(at(1, 11), 0)
    await shop.book(at(1, 11, 30), 1)
    refusal = await refused(shop, booking, shop.staff[1])
    assert (refusal.code, bool(refusal.members["nearest"])) == ("SLOT_TAKEN", True)
    assert (await refused(shop, booking, new_id())).code == "NOT_FOUND"
    assert fields(await refused(shop, booking, shop.staff[0])) == ["staff_id"]
    await set_day(shop, "2026-05-05", "14:00-18:00", staff=2)
    elsewhere = await shop.new_staff("10:00", "10:00", branch_ids=[await another_branch(shop)])
    left = await shop.new_staff()
    await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=left, active=False))
    for staff_id, reason in (
        (shop.staff[2], "does not work at that time"),
        (elsewhere, "does not work at this branch"),
        (left, "no longer works here"),
    ):
        refusal = await refused(shop, booking, staff_id)
        assert refusal.code == "NOT_BOOKABLE"
        assert reason in refusal.parameters["reason"]
    assert (await refused(shop, booking, shop.staff[2], need="nobody")).code == "NOT_FOUND"
    assert (await refused(shop, booking, shop.staff[2], previous_staff_id=new_id())).code == "NOT_FOUND"
    assert await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id)) == booking


async def test_what_states_allow(shop: Shop) -> None:
    held = await shop.book(at(1, 11), 0, hold=True)
    moved = await reassign(shop, held, 1)
    assert (moved.status, moved.expires_at) == (pb.BOOKING_STATUS_HELD, held.expires_at)
    await shop.call("ConfirmBooking", pb.ConfirmBookingRequest(id=held.id))
    await shop.call("CheckInBooking", pb.CheckInBookingRequest(id=held.id))
    assert (await reassign(shop, held, 2)).status == pb.BOOKING_STATUS_CHECKED_IN
    await shop.call("StartBooking", pb.StartBookingRequest(id=held.id))
    assert (await refused(shop, held, shop.staff[0])).code == "WRONG_STATE"
    cancelled = await shop.book(at(1, 15), 0)
    await shop.call("CancelBooking", pb.CancelBookingRequest(id=cancelled.id))
    assert (await refused(shop, cancelled, shop.staff[1])).code == "WRONG_STATE"
    forgotten = await shop.book(at(0, 10), 0)
    shop.clock.advance(timedelta(hours=8))
    refusal = await refused(shop, forgotten, shop.staff[1])
    assert (refusal.code, refusal.parameters["reason"]) == ("NOT_BOOKABLE", "it is in the past")
    stale = people_pb2.ReassignBookingRequest(id=held.id, staff_id=shop.staff[1])
    assert (await shop.refused("ReassignBooking", stale, if_match=1)).code == "PRECONDITION_FAILED"


async def test_a_hold_that_ran_out_is_not_in_the_way(shop: Shop) -> None:
    held = await shop.book(at(1, 11), 1, hold=True)
    booking = await shop.book(at(1, 11), 0)
    shop.clock.advance(timedelta(minutes=11))
    assert (await reassign(shop, booking, 1)).staff_id == shop.staff[1]
    assert await shop.told(held.id) == ["BookingHeld", "BookingExpired"]


async def test_of_many_who_go_to_one_person_one_wins(shop: Shop) -> None:
    shop.staff += [await shop.new_staff() for _ in range(6)]
    bookings = [await shop.book(at(1, 11, 5 * n), n) for n in range(8)]

    async def attempt(booking: pb.Booking) -> str:
        try:
            await reassign(shop, booking, 8)
        except Refusal as refusal:
            return refusal.code
        return "done"

    answers = await asyncio.gather(*(attempt(booking) for booking in bookings))
    assert sorted(answers) == ["SLOT_TAKEN"] * 7 + ["done"]
    # Two who swap at the same time: each finds the other still there, or goes where nobody is.
    one, other = await shop.book(at(2, 11), 0), await shop.book(at(2, 11), 1)
    both = await asyncio.gather(
        *(
            shop.refused("ReassignBooking", people_pb2.ReassignBookingRequest(id=each.id, staff_id=to))
            for each, to in (
                (one, shop.staff[1]),
                (other, shop.staff[0]),
            )
        )
    )
    assert [refusal.code for refusal in both] == ["SLOT_TAKEN"] * 2


async def test_all_that_somebody_does_or_one_role_of_it(shop: Shop) -> None:
    """Make-up with an assistant, then a cut: two lines, three parts."""
    roles = [Role(name="artist", count=1), Role(name="assistant", count=1)]
    make_up = await shop.new_service(name="Make-up", plan=ServicePlan(roles=roles))
    lin, bo, cai = shop.staff
    lines = [
        pb.LineRequest(service_id=make_up, staff_id=lin, choices=[pb.Choice(need="assistant", id=bo)]),
        pb.LineRequest(service_id=shop.service, staff_id=lin),
    ]
    request = shop.request(at(1, 10))
    request.ClearField("service_id")
    request.lines.extend(lines)
    booking = await shop.call("CreateBooking", request)
    assert given(booking) == [[("artist", lin), ("assistant", bo)], [("staff", lin)]]
    moved = await reassign(shop, booking, 2, need="assistant")
    assert given(moved) == [[("artist", lin), ("assistant", cai)], [("staff", lin)]]
    assert moved.staff_id == lin
    # Nobody does two things at once; one after the other is fine.
    assert (await refused(shop, booking, cai)).code == "SLOT_TAKEN"
    moved = await reassign(shop, booking, 2, need="staff")
    assert given(moved) == [[("artist", lin), ("assistant", cai)], [("staff", cai)]]
    moved = await reassign(shop, booking, 1, previous_staff_id=cai)
    assert given(moved) == [[("artist", lin), ("assistant", bo)], [("staff", bo)]]
    await shop.book(at(1, 10), 2)  # all of Cai is free again
    shop.staff.append(await shop.new_staff())
    moved = await reassign(shop, booking, 3)
    assert (moved.staff_id, given(moved)[0]) == (shop.staff[3], [("artist", shop.staff[3]), ("assistant", bo)])
    leave = await ask_leave(shop, at(1, 10), at(1, 14), staff=1)
    (hit,) = leave.hits
    assert list(hit.staff_ids) == [lin]  # only Lin has time for both parts of Bo
    await approve(shop, leave, accept_conflicts=True)
    assert given(await reassign(shop, booking, 0, previous_staff_id=bo))[1] == [("staff", lin)]


async def test_a_role_of_several_needs_to_say_who(shop: Shop) -> None:
    pair = await shop.new_service(name="Four hands", plan=ServicePlan(roles=[Role(name="therapist", count=2)]))
    booking = await shop.book(at(1, 10), service_id=pair)
    doing = {staff_id for _, staff_id in given(booking)[0]}
    third = next(number for number, staff_id in enumerate(shop.staff) if staff_id not in doing)
    refusal = await refused(shop, booking, shop.staff[third], need="therapist")
    assert fields(refusal) == ["previous_staff_id"]
    other = given(booking)[0][1][1]
    moved = await reassign(shop, booking, third, need="therapist", previous_staff_id=other)
    assert (moved.staff_id, given(moved)[0][1][1]) == (booking.staff_id, shop.staff[third])


async def test_a_booking_is_reassigned_where_one_may(shop: Shop) -> None:
    booking = await shop.book(at(1, 11), 0)
    request = people_pb2.ReassignBookingRequest(id=booking.id, staff_id=shop.staff[1])
    manager = with_rights(shop, "bookings.write", branches=[await another_branch(shop)])
    assert (await shop.refused("ReassignBooking", request, caller=manager)).code == "PERMISSION_DENIED"
    reader = with_rights(shop, "bookings.read")
    assert (await shop.refused("ReassignBooking", request, caller=reader)).code == "PERMISSION_DENIED"
    assert (await shop.refused("ReassignBooking", request, caller=shop.platform.owner())).code == "NOT_FOUND"


# --- who is able -----------------------------------------------------------------------------------------


def proven(skill: str, grade: int = 0, expires_on: str | None = None) -> Qualification:
    return Qualification(skill=skill, grade=grade, expires_on=expires_on)


async def test_who_has_too_low_a_grade_cannot_be_booked(shop: Shop) -> None:
    roles = [Role(name="therapist", skills=["laser"], min_grade=3)]
    laser = await shop.new_service(name="Laser", plan=ServicePlan(roles=roles))
    shop.staff = [
        await shop.new_staff(skills=["laser"]),
        await shop.new_staff(skills=["laser"], qualifications=[proven("laser", 2)]),
        await shop.new_staff(skills=["laser"], qualifications=[proven("laser", 3)]),
    ]
    slots = await shop.offers(at(1, 0), at(1, 24), service_id=laser)
    assert {tuple(slot.staff_ids) for slot in slots} == {(shop.staff[2],)}
    for staff in (0, 1):
        refusal = await shop.refused("CreateBooking", shop.request(at(1, 11), staff, service_id=laser))
        assert (refusal.code, refusal.parameters["reason"]) == ("NOT_BOOKABLE", "this person does not do this service")
    booking = await shop.book(at(1, 11), service_id=laser)
    assert booking.staff_id == shop.staff[2]
    assert "does not do" in (await refused(shop, booking, shop.staff[1])).parameters["reason"]


async def test_the_last_day_of_a_qualification_is_a_whole_local_day(shop: Shop) -> None:
    service = await shop.new_service(name="Filler", required_skills=["filler"])
    qualifications = [proven("filler", 1, "2026-05-05")]
    person = await shop.new_staff("06:00", "21:00", skills=["filler"], qualifications=qualifications)
    await shop.keep_branch(2, hours=None)
    slots = await shop.offers(at(0, 12), at(4, 0), service_id=service)
    assert slots[-1].ends_at.ToDatetime() == at(1, 21).replace(tzinfo=None)
    shop.staff = [person]
    await shop.book(at(1, 20), 0, service_id=service)
    assert (await shop.refused("CreateBooking", shop.request(at(2, 6), 0, service_id=service))).code == "NOT_BOOKABLE"
    # With a new proof it goes on.
    proof = Qualifications(qualifications=[proven("filler", 1, "2027-05-05")])
    await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=person, qualifications=proof))
    booking = await shop.book(at(2, 6), 0, service_id=service)
    late = await shop.new_staff("06:00", "21:00", skills=["filler"], qualifications=qualifications)
    assert "does not do" in (await refused(shop, booking, late)).parameters["reason"]


async def test_what_is_wrong_with_qualifications_and_terms(shop: Shop) -> None:
    wrong = [proven("a"), proven("a"), proven("b"), proven("c", 1, "2026-02-30")]
    request = pb.CreateStaffRequest(name="Lin", skills=["a", "c"], qualifications=wrong)
    assert fields(await shop.refused("CreateStaff", request)) == [
        "qualifications[1].skill",
        "qualifications[2].skill",
        "qualifications[3].expires_on",
    ]
    unknown = pb.CreateStaffRequest(name="Lin", terms=[StaffTerms(service_id=new_id(), duration_minutes=30)])
    refusal = await shop.refused("CreateStaff", unknown)
    assert (refusal.code, fields(refusal)) == ("NOT_FOUND", ["terms[0].service_id"])
    person = await shop.new_staff(skills=["a", "c"], qualifications=[proven("a", 2), proven("c", 4, "2027-01-01")])
    change = pb.UpdateStaffRequest(id=person, qualifications=Qualifications(qualifications=[proven("b")]))
    assert fields(await shop.refused("UpdateStaff", change)) == ["qualifications.qualifications[0].skill"]
    # The proof of a skill goes with the skill; what is not sent stays.
    changed = await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=person, skills=pb.Texts(values=["c", "d"])))
    assert list(changed.qualifications) == [proven("c", 4, "2027-01-01")]
    changed = await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=person, grade=7, supplier="Agency"))
    assert (changed.grade, changed.supplier, list(changed.qualifications)) == (
        7,
        "Agency",
        [proven("c", 4, "2027-01-01")],
    )


async def test_people_of_suppliers_are_booked_like_others(shop: Shop) -> None:
    sent = await shop.new_staff(supplier="Golden Hands", skills=["nails"])
    shop.staff.append(sent)
    assert (await shop.book(at(1, 11), 3)).staff_id == sent
    assert (await shop.refused("CreateBooking", shop.request(at(1, 11), 3))).code == "SLOT_TAKEN"

    async def ids(**filters: Any) -> set[str]:
        answer = await shop.call("ListStaff", pb.ListStaffRequest(**filters))
        return {person.id for person in answer.staff}

    assert await ids(external=True) == await ids(skill="nails") == await ids(skill="nails", external=True) == {sent}
    assert await ids(external=False, branch_id=shop.branch, active=True) == set(shop.staff[:3])
    assert await ids(skill="nails", external=False) == await ids(skill="hair") == set()
    # Nobody's any more: of the house.
    await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=sent, supplier=""))
    assert await ids(external=True) == set()


async def test_a_qualification_that_expires_is_told_once_in_time(shop: Shop) -> None:
    context = shop.platform["bookings"].context
    soon, later, over = "2026-06-03", "2026-06-10", "2026-05-03"
    qualifications = [proven("a", 1, soon), proven("b", 1, later), proven("c", 1, over), proven("d")]
    person = await shop.new_staff(name="Lin Bo", skills=["a", "b", "c", "d"], qualifications=qualifications)
    gone = await shop.new_staff(skills=["a"], qualifications=[proven("a", 1, soon)])
    await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=gone, active=False))

    async def expiring() -> list[tuple[str, str, str]]:
        await asyncio.gather(*(tell_expiring(context) for _ in range(3)))
        events = await told(shop, people_pb2.StaffQualificationExpiring)
        assert all((event.name, list(event.branch_ids)) == ("Lin Bo", [shop.branch]) for event in events)
        return [(event.staff_id, event.skill, event.expires_on) for event in events]

    first = [(person, "a", soon)]
    assert await expiring() == first
    # A change that leaves it as it is tells nothing again; another expiry does.
    await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=person, grade=2))
    assert await expiring() == first
    shop.clock.advance(timedelta(days=7))
    assert await expiring() == [*first, (person, "b", later)]
    proof = Qualifications(qualifications=[proven("a", 1, "2026-06-05")])
    await shop.call("UpdateStaff", pb.UpdateStaffRequest(id=person, qualifications=proof))
    assert (await expiring())[2:] == [(person, "a", "2026-06-05")]
