"""Rosters against real PostgreSQL and the real solver: what they are made from, proposed, corrected, published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2, people_pb2
from foyer.bookings.v1 import rosters_pb2 as pb
from foyer.common.v1.common_pb2 import Weekday

from chassis.clock import FrozenClock
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp
from tests.service.people_shop import another_branch
from tests.service.roster_rota import DAYS, Rota, fields, shifts_of
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_rosters") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open(staff=3)
    yield opened
    await opened.check_time()


@pytest.fixture
async def rota(shop: Shop) -> Rota:
    return await Rota(shop).open()


# --- proposed and published --------------------------------------------------------------------------


async def test_a_roster_is_proposed_with_reasons_and_published(shop: Shop, rota: Rota) -> None:
    asked = await rota.ask()
    assert asked.status == pb.ROSTER_STATUS_SOLVING
    roster = await rota.until_done(asked.id)
    assert roster.status == pb.ROSTER_STATUS_PROPOSED
    assert roster.progress.percent == 100
    assert roster.progress.HasField("best_points")
    assert roster.missing_minutes == 0
    assert roster.wanted_minutes == 7 * 12 * 60
    assert not roster.figures.violations
    assert len(roster.figures.coverage) == 7 * 24
    assert all(slot.given >= slot.wanted == 1 for slot in roster.figures.coverage)
    assert all(shift.reasons[0].code == "cover" for shift in roster.shifts)
    assert {shift.minutes for shift in roster.shifts} == {420}
    assert sum(share.days for share in roster.figures.staff) == len(roster.shifts) == 14
    assert {part.name for part in roster.figures.points} >= {"missing", "fairness", "wishes"}
    colleague = rota.someone(shop.staff[0])
    assert (await shop.refused("GetRoster", pb.GetRosterRequest(id=roster.id), caller=colleague)).code == "NOT_FOUND"
    assert not (await shop.call("ListRosters", pb.ListRostersRequest(branch_id=shop.branch), colleague)).rosters
    listed = await shop.call("ListRosters", pb.ListRostersRequest(branch_id=shop.branch))
    assert [(each.id, len(each.shifts), each.HasField("figures")) for each in listed.rosters] == [(roster.id, 0, False)]
    published = await shop.call("PublishRoster", pb.PublishRosterRequest(id=roster.id))
    assert published.status == pb.ROSTER_STATUS_PUBLISHED
    for person in shop.staff:
        days = await rota.days_of(person)
        assert sorted(days) == DAYS, "days off are said"
        assert {day: hours[0] for day, hours in days.items() if hours} == shifts_of(roster, person)
    assert [event.roster_id for event in await rota.events(pb.RosterProposed)] == [roster.id]
    (event,) = await rota.events(pb.RosterPublished)
    assert (event.from_date, event.until_date, sorted(event.staff_ids)) == (DAYS[0], DAYS[-1], sorted(shop.staff))
    # Those who do not plan see who works when, and not why.
    seen = await shop.call("GetRoster", pb.GetRosterRequest(id=roster.id), rota.someone(shop.staff[0]))
    assert len(seen.shifts) == 14
    assert not seen.HasField("figures")
    assert not any(shift.reasons for shift in seen.shifts)
    # What can be booked follows.
    early = next(p for p in shop.staff if shifts_of(roster, p).get(DAYS[0]) == "09:00-17:00")
    assert (await shop.starts(7, staff_id=early))[-1] == "16:00"


async def test_customers_who_booked_are_served(shop: Shop, rota: Rota) -> None:
    late = await shop.book(at(8, 17), staff=0)
    await shop.book(at(9, 10), staff=0)
    roster = await rota.proposed()
    assert shifts_of(roster, shop.staff[0])[DAYS[1]] == "13:00-21:00"
    shift = next(each for each in roster.shifts if each.staff_id == shop.staff[0] and each.day == DAYS[1])
    assert (shift.reasons[0].code, shift.reasons[0].amount) == ("booked", 1)
    changed = await rota.by_hand(roster, (shop.staff[0], DAYS[1], "early"))
    assert [(each.rule, each.staff_id) for each in changed.figures.violations] == [("booked", shop.staff[0])]
    assert changed.figures.violations[0].message
    refused = await shop.refused("PublishRoster", pb.PublishRosterRequest(id=roster.id))
    assert refused.code == "ROSTER_HITS_BOOKINGS"
    assert [each["booking_id"] for each in refused.members["conflicts"]] == [late.id]
    assert await rota.days_of(shop.staff[0]) == {}, "nothing of it is left"
    request = pb.PublishRosterRequest(id=roster.id, accept_conflicts=True)
    assert (await shop.call("PublishRoster", request)).status == pb.ROSTER_STATUS_PUBLISHED
    (event,) = await rota.events(pb.RosterPublished)
    assert [each.booking_id for each in event.conflicts] == [late.id]
    kept = await shop.call("GetBooking", bookings_pb2.GetBookingRequest(id=late.id))
    assert kept == late, "bookings are never touched"


async def test_what_is_settled_stays_leave_closing_days_and_days_by_hand(shop: Shop, rota: Rota) -> None:
    first, second, _ = shop.staff
    await shop.keep_branch(version=2, holidays=[DAYS[3]])
    leave = people_pb2.RequestLeaveRequest(
        staff_id=first, kind=people_pb2.LEAVE_KIND_ANNUAL, from_date=DAYS[0], until_date=DAYS[1]
    )
    asked = await shop.call("RequestLeave", leave)
    await shop.call("ApproveLeave", people_pb2.ApproveLeaveRequest(id=asked.id))
    day = people_pb2.SetStaffDayRequest(id=second, day=DAYS[0], branch_id=shop.branch)
    day.intervals.add(start_time="08:00", end_time="12:00")
    await shop.call("SetStaffDay", day)
    roster = await rota.published()
    assert not {DAYS[0], DAYS[1]} & set(shifts_of(roster, first))
    assert shifts_of(roster, second)[DAYS[0]] == "08:00-12:00"
    assert all(shift.day != DAYS[3] for shift in roster.shifts)
    settled = next(shift for shift in roster.shifts if shift.staff_id == second and shift.day == DAYS[0])
    assert (settled.origin, settled.reasons[0].code) == (pb.SHIFT_ORIGIN_SETTLED, "settled")
    listed = (await shop.call("ListStaffDays", people_pb2.ListStaffDaysRequest(id=second))).days
    assert [each.roster_id for each in listed][:2] == ["", roster.id], "set by hand, it is nobody else's"
    other = await rota.proposed(from_date=DAYS[0])
    refused = await shop.refused(
        "UpdateRoster",
        pb.UpdateRosterRequest(id=other.id, shifts=[pb.RosterShiftChange(staff_id=second, day=DAYS[0])]),
    )
    assert fields(refused) == ["shifts[0].day"]


async def test_a_later_roster_takes_the_place_and_remembers_weekends(shop: Shop, rota: Rota) -> None:
    before = await rota.published()
    worked = {share.staff_id: share.weekend_days for share in before.figures.staff}
    after = await rota.proposed(from_date="2026-05-18")
    assert {share.staff_id: share.past_weekend_days for share in after.figures.staff} == worked
    # The same days again.
    again = await rota.published()
    assert (await rota.get(before.id)).status == pb.ROSTER_STATUS_REPLACED
    listed = (await shop.call("ListStaffDays", people_pb2.ListStaffDaysRequest(id=shop.staff[0]))).days
    assert {day.roster_id for day in listed} == {again.id}


async def test_what_cannot_be_kept_is_explained(shop: Shop, rota: Rota) -> None:
    for person in shop.staff:
        contract = pb.SetRosterContractRequest(
            staff_id=person, min_week_minutes=2400, max_week_days=1, max_week_minutes=2400
        )
        assert (await shop.call("SetRosterContract", contract)).version == 1
    roster = await rota.proposed()
    assert len(roster.shifts) == 3
    assert roster.missing_minutes > 0
    rules = {(each.rule, each.amount, each.from_date, each.until_date) for each in roster.figures.violations}
    assert rules == {("min_minutes", 1980, DAYS[0], DAYS[-1])}
    chinese = replace(shop.caller, language="zh")
    told = await shop.call("GetRoster", pb.GetRosterRequest(id=roster.id), chinese, language="zh")
    assert told.figures.violations[0].message == "低于每周最低工时 1980 分钟"


# --- by hand -----------------------------------------------------------------------------------------


async def test_corrections_are_judged_and_not_refused(shop: Shop, rota: Rota) -> None:
    roster = await rota.proposed()
    first = shop.staff[0]
    everything_off = [(person, day, None) for person in shop.staff for day in DAYS]
    assert (await rota.by_hand(roster, *everything_off)).missing_minutes == 7 * 12 * 60
    changed = await rota.by_hand(roster, (first, DAYS[0], "late"), (first, DAYS[1], "early"))
    assert shifts_of(changed, first) == {DAYS[0]: "13:00-21:00", DAYS[1]: "09:00-17:00"}
    assert {shift.origin for shift in changed.shifts} == {pb.SHIFT_ORIGIN_CHANGED}
    assert not changed.figures.violations, "twelve hours are enough"
    hours = pb.RosterShiftChange(staff_id=first, day=DAYS[0])
    hours.intervals.add(start_time="18:00", end_time="02:00")
    changed = await shop.call("UpdateRoster", pb.UpdateRosterRequest(id=roster.id, shifts=[hours]))
    (violation,) = changed.figures.violations
    assert (violation.rule, violation.amount) == ("rest", 240)
    assert violation.message == "240 minutes of rest are missing before the shift"
    stale = await shop.refused("UpdateRoster", pb.UpdateRosterRequest(id=roster.id), if_match=roster.version)
    assert stale.code == "PRECONDITION_FAILED"


async def test_wrong_corrections_are_told_all_at_once(shop: Shop, rota: Rota) -> None:
    roster = await rota.proposed(staff_ids=shop.staff[:2])
    first, second, third = shop.staff
    both = pb.RosterShiftChange(staff_id=first, day=DAYS[1], shift_template_id=rota.templates["early"])
    both.intervals.add(start_time="09:00", end_time="10:00")
    shifts = [
        pb.RosterShiftChange(staff_id=third, day=DAYS[0]),
        pb.RosterShiftChange(staff_id=first, day="2026-05-18"),
        both,
        pb.RosterShiftChange(staff_id=first, day=DAYS[2], shift_template_id=new_id()),
        pb.RosterShiftChange(staff_id=second, day=DAYS[0]),
        pb.RosterShiftChange(staff_id=second, day=DAYS[0]),
    ]
    refused = await shop.refused("UpdateRoster", pb.UpdateRosterRequest(id=roster.id, shifts=shifts))
    assert fields(refused) == [
        "shifts[0].staff_id",
        "shifts[1].day",
        "shifts[2].intervals",
        "shifts[3].shift_template_id",
        "shifts[5].day",
    ]


# --- what it is made from ----------------------------------------------------------------------------


async def test_templates_are_listed_changed_and_checked(shop: Shop, rota: Rota) -> None:
    listed = (
        await shop.call("ListShiftTemplates", pb.ListShiftTemplatesRequest(branch_id=shop.branch))
    ).shift_templates
    assert [(each.name, each.is_late) for each in listed] == [("early", False), ("late", True)]
    request = pb.UpdateShiftTemplateRequest(id=listed[0].id, start_time="08:00", active=False)
    request.weekdays.weekdays.extend([Weekday.WEEKDAY_MONDAY])
    changed = await shop.call("UpdateShiftTemplate", request)
    assert (changed.start_time, changed.active, list(changed.weekdays), changed.version) == ("08:00", False, [1], 2)
    assert await shop.call("GetShiftTemplate", pb.GetShiftTemplateRequest(id=changed.id)) == changed
    active = await shop.call("ListShiftTemplates", pb.ListShiftTemplatesRequest(active=True, page_size=1))
    assert [each.name for each in active.shift_templates] == ["late"]
    wrong = pb.UpdateShiftTemplateRequest(id=changed.id, unpaid_break_minutes=63, end_time="09:00")
    assert fields(await shop.refused("UpdateShiftTemplate", wrong)) == ["unpaid_break_minutes", "unpaid_break_minutes"]


async def test_contracts_have_a_beginning_and_limits(shop: Shop, rota: Rota) -> None:
    person = shop.staff[0]
    first = await shop.call("GetRosterContract", pb.GetRosterContractRequest(staff_id=person))
    assert (first.max_week_minutes, first.min_rest_minutes, first.version) == (2640, 660, 0)
    request = pb.SetRosterContractRequest(
        staff_id=person, max_week_minutes=600, shift_template_ids=[rota.templates["late"]]
    )
    await shop.call("SetRosterContract", request, if_match=0)
    await shop.call("SetRosterContract", request)
    assert (await shop.refused("SetRosterContract", request, if_match=1)).code == "PRECONDITION_FAILED"
    contract = await shop.call("GetRosterContract", pb.GetRosterContractRequest(staff_id=person))
    assert (contract.max_week_minutes, contract.max_week_days, contract.version) == (600, 6, 2)
    roster = await rota.proposed()
    assert set(shifts_of(roster, person).values()) <= {"13:00-21:00"}
    request.min_week_minutes = 700
    assert fields(await shop.refused("SetRosterContract", request)) == ["min_week_minutes"]
    read = pb.GetRosterContractRequest(staff_id=person)
    assert (await shop.call("GetRosterContract", read, rota.someone(person))).version == 2
    refused = await shop.refused("GetRosterContract", read, caller=rota.someone(shop.staff[1]))
    assert refused.code == "PERMISSION_DENIED"
    unknown = pb.SetRosterContractRequest(staff_id=person, shift_template_ids=[new_id()])
    assert fields(await shop.refused("SetRosterContract", unknown)) == ["shift_template_ids[0]"]


async def test_demand_by_weekday_date_and_skill(shop: Shop, rota: Rota) -> None:
    skilled = await shop.new_staff(start="x", end="x", skills=["nails"])
    rules = [
        pb.DemandRule(start_time="09:00", end_time="13:00", wanted=1, weekdays=[1]),  # type: ignore[list-item]
        pb.DemandRule(start_time="10:00", end_time="12:00", wanted=1, skill="nails", weekdays=[1]),  # type: ignore[list-item]
        pb.DemandRule(start_time="09:00", end_time="12:00", wanted=2, from_date=DAYS[2], until_date=DAYS[2]),
    ]
    await shop.call("SetRosterDemand", pb.SetRosterDemandRequest(branch_id=shop.branch, rules=rules))
    stored = await shop.call("GetRosterDemand", pb.GetRosterDemandRequest(branch_id=shop.branch))
    assert (list(stored.rules), stored.version) == (rules, 2)
    both = [
        shop.call("SetRosterDemand", pb.SetRosterDemandRequest(branch_id=shop.branch, rules=rules), if_match=2)
        for _ in range(2)
    ]
    done = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(getattr(each, "code", "set") for each in done) == ["PRECONDITION_FAILED", "set"]
    roster = await rota.proposed()
    assert set(shifts_of(roster, skilled)) >= {DAYS[0]}
    assert sorted(shift.day for shift in roster.shifts) == [DAYS[0], DAYS[2], DAYS[2]]
    wrong = [
        pb.DemandRule(start_time="09:00", end_time="12:00", wanted=1, from_date=DAYS[0]),
        pb.DemandRule(start_time="09:00", end_time="12:00", wanted=1, from_date=DAYS[1], until_date=DAYS[0]),
    ]
    refused = await shop.refused("SetRosterDemand", pb.SetRosterDemandRequest(branch_id=shop.branch, rules=wrong))
    assert fields(refused) == ["rules[0].until_date", "rules[1].until_date"]


async def test_the_past_tells_how_many_are_needed(shop: Shop, rota: Rota) -> None:
    for week in (1, 2):
        for person in shop.staff[:2]:
            start = NOW - timedelta(days=7 * week - 1) + timedelta(hours=2)  # Tuesdays, 10:00
            request = bookings_pb2.RecordBookingRequest(
                branch_id=shop.branch,
                service_id=shop.service,
                customer_id=shop.customer,
                staff_id=person,
                starts_at=stamp(start),
                status=bookings_pb2.BOOKING_STATUS_COMPLETED,
            )
            await shop.call("RecordBooking", request)
    question = pb.ForecastRosterDemandRequest(
        branch_id=shop.branch, from_date=DAYS[0], weeks=1, history_weeks=2, slot_minutes=60, productivity_percent=100
    )
    found = await shop.call("ForecastRosterDemand", question)
    assert found.bookings == 4
    assert [(slot.day, slot.starts_at.ToSeconds(), slot.wanted) for slot in found.slots] == [
        (DAYS[1], int(at(8, 10).timestamp()), 2)
    ]
    roster = await rota.proposed(demand=pb.DEMAND_SOURCE_HISTORY, history_weeks=2, productivity_percent=100)
    assert [shift.day for shift in roster.shifts] == [DAYS[1], DAYS[1]]
    both = await rota.proposed(demand=pb.DEMAND_SOURCE_LARGER, history_weeks=2, productivity_percent=100)
    assert max(slot.wanted for slot in both.figures.coverage) == 2
    assert both.wanted_minutes == 7 * 12 * 60 + 60


async def test_wishes_belong_to_people(shop: Shop, rota: Rota) -> None:
    first, second, _ = shop.staff
    own = rota.someone(first)
    wish = pb.CreateRosterWishRequest(staff_id=first, kind=pb.WISH_KIND_AVOIDS, day=DAYS[0], weight=5)
    made = await shop.call("CreateRosterWish", wish, own)
    others = pb.CreateRosterWishRequest(staff_id=second, kind=pb.WISH_KIND_WANTS, weekday=3)  # type: ignore[arg-type]
    assert (await shop.refused("CreateRosterWish", others, caller=own)).code == "PERMISSION_DENIED"
    await shop.call("CreateRosterWish", others)
    assert [each.id for each in (await shop.call("ListRosterWishes", pb.ListRosterWishesRequest(), own)).wishes] == [
        made.id
    ]
    assert len((await shop.call("ListRosterWishes", pb.ListRosterWishesRequest())).wishes) == 2
    assert not (await shop.call("ListRosterWishes", pb.ListRosterWishesRequest(), rota.someone())).wishes
    roster = await rota.proposed()
    outcomes = {each.wish_id: each for each in roster.figures.wishes}
    assert (outcomes[made.id].days_met, len(outcomes[made.id].unmet)) == (1, 0)
    assert DAYS[2] in shifts_of(roster, second)
    assert (await shop.call("DeleteRosterWish", pb.DeleteRosterWishRequest(id=made.id), own)).id == made.id
    gone = await shop.refused("DeleteRosterWish", pb.DeleteRosterWishRequest(id=made.id), caller=own)
    assert gone.code == "NOT_FOUND"
    empty = pb.CreateRosterWishRequest(staff_id=first, kind=pb.WISH_KIND_WANTS)
    assert fields(await shop.refused("CreateRosterWish", empty)) == ["day"]
    twice = pb.CreateRosterWishRequest(staff_id=first, kind=pb.WISH_KIND_WANTS, day=DAYS[0], weekday=1)  # type: ignore[arg-type]
    assert fields(await shop.refused("CreateRosterWish", twice)) == ["weekday"]


async def test_rosters_are_found_by_who_plans_them_and_when_published_by_all(shop: Shop, rota: Rota) -> None:
    proposed, published = await rota.proposed(), await rota.published()
    somewhere = rota.someone(shop.staff[0], **{"rosters.write": [new_id()]})
    planner = rota.someone(None, **{"rosters.write": [shop.branch]})

    async def found(caller: Any, **filters: Any) -> list[str]:
        return [each.id for each in (await shop.call("ListRosters", pb.ListRostersRequest(**filters), caller)).rosters]

    for caller in (rota.someone(), somewhere):
        assert await found(caller) == [published.id]
        assert await found(caller, branch_id=shop.branch, status=pb.ROSTER_STATUS_PROPOSED) == []
    assert await found(planner) == [published.id, proposed.id]
    assert await found(planner, status=pb.ROSTER_STATUS_PROPOSED) == [proposed.id]


async def test_who_plans_a_branch_finds_the_wishes_of_its_people(shop: Shop, rota: Rota) -> None:
    both = bookings_pb2.UpdateStaffRequest(id=shop.staff[1])
    both.branch_ids.ids.extend([shop.branch, await another_branch(shop)])
    await shop.call("UpdateStaff", both)
    for person in shop.staff[:2]:
        wish = pb.CreateRosterWishRequest(staff_id=person, kind=pb.WISH_KIND_WANTS, day=DAYS[0])
        await shop.call("CreateRosterWish", wish)
    planner = rota.someone(None, **{"rosters.write": [shop.branch]})
    elsewhere = rota.someone(shop.staff[0], **{"rosters.write": [new_id()]})

    async def found(caller: Any, **filters: Any) -> list[str]:
        listed = await shop.call("ListRosterWishes", pb.ListRosterWishesRequest(**filters), caller)
        return [each.staff_id for each in listed.wishes]

    assert await found(planner) == shop.staff[:2]
    assert await found(planner, staff_id=shop.staff[1]) == [shop.staff[1]]
    assert await found(elsewhere) == [shop.staff[0]], "their own"


async def test_a_roster_that_is_past_is_not_published(shop: Shop, rota: Rota) -> None:
    roster = await rota.proposed()
    shop.clock.advance(timedelta(days=14))
    request = pb.PublishRosterRequest(id=roster.id)
    assert fields(await shop.refused("PublishRoster", request)) == ["id"]


async def test_a_roster_needs_shifts_people_and_days_to_come(shop: Shop) -> None:
    values: dict[str, Any] = {"branch_id": shop.branch, "from_date": DAYS[0], "weeks": 1}
    assert (await shop.refused("CreateRoster", pb.CreateRosterRequest(**values))).code == "NO_SHIFT_TEMPLATES"
    past = pb.CreateRosterRequest(**{**values, "from_date": "2026-05-03"})
    assert fields(await shop.refused("CreateRoster", past)) == ["from_date"]
    stranger = pb.CreateRosterRequest(**values, staff_ids=[new_id()])
    assert fields(await shop.refused("CreateRoster", stranger)) == ["staff_ids[0]"]
    for person in shop.staff:
        await shop.call("UpdateStaff", bookings_pb2.UpdateStaffRequest(id=person, active=False))
    assert (await shop.refused("CreateRoster", pb.CreateRosterRequest(**values))).code == "NOBODY_TO_PLAN"
