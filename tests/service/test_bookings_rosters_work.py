"""Rosters against real PostgreSQL and the real solver: the work on them, swaps, and whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import psutil
import pytest
from foyer.bookings.v1 import bookings_pb2, people_pb2
from foyer.bookings.v1 import rosters_pb2 as pb
from google.protobuf.message import Message

from chassis.clock import FrozenClock
from chassis.db import prepare_sql
from chassis.ids import new_id
from chassis.testing import Platform
from services.bookings import booking
from services.bookings.rosters import jobs
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone
from tests.service.people_shop import set_day
from tests.service.roster_rota import DAYS, Rota, fields, shifts_of
from tools.servers import Servers

SOLVE_AGAIN = prepare_sql(
    "update rosters set status = 'solving', attempts = $3::integer, lease_until = $4::timestamptz"
    " where chain_id = $1::uuid and id = $2::uuid",
    "chain_id",
    "id",
    "attempts",
    "lease_until",
)


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_rosters_work") as started:
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


# --- the work on it ----------------------------------------------------------------------------------


def solver_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "services.bookings.rosters.solver" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def solver_process() -> psutil.Process:
    for _ in range(400):
        for process in solver_processes():
            return process
        await asyncio.sleep(0.01)
    raise AssertionError("no solver began")


async def big(rota: Rota) -> pb.Roster:
    """A roster that takes a while."""
    for _ in range(20):
        rota.shop.staff.append(await rota.shop.new_staff(start="x", end="x"))
    rule = pb.DemandRule(start_time="09:00", end_time="21:00", wanted=8)
    await rota.shop.call("SetRosterDemand", pb.SetRosterDemandRequest(branch_id=rota.shop.branch, rules=[rule]))
    return await rota.ask(weeks=6, time_limit_seconds=4)


async def test_a_killed_solver_is_taken_up_again(shop: Shop, rota: Rota) -> None:
    asked = await big(rota)
    (await solver_process()).kill()
    roster = await rota.until_done(asked.id)
    assert roster.status == pb.ROSTER_STATUS_PROPOSED
    assert roster.progress.attempts == 2
    assert not solver_processes()


async def test_a_roster_that_is_given_up_stops(shop: Shop, rota: Rota) -> None:
    asked = await big(rota)
    process = await solver_process()
    for _ in range(200):
        if (await rota.get(asked.id)).progress.attempts:
            break
        await asyncio.sleep(0.02)
    assert (await shop.call("DiscardRoster", pb.DiscardRosterRequest(id=asked.id))).status == pb.ROSTER_STATUS_DISCARDED
    await asyncio.to_thread(psutil.wait_procs, [process], 10)
    assert not solver_processes()
    assert (await rota.get(asked.id)).status == pb.ROSTER_STATUS_DISCARDED
    for method, request in (
        ("DiscardRoster", pb.DiscardRosterRequest(id=asked.id)),
        ("PublishRoster", pb.PublishRosterRequest(id=asked.id)),
        ("UpdateRoster", pb.UpdateRosterRequest(id=asked.id)),
    ):
        assert (await shop.refused(method, request)).code == "WRONG_STATE"


async def test_somebody_elses_lease_is_kept_until_it_runs_out(shop: Shop, rota: Rota) -> None:
    context = shop.platform["bookings"].context
    roster = await rota.proposed()
    async with shop.unit() as unit:
        lease = unit.now + timedelta(seconds=20)
        await unit.run(SOLVE_AGAIN, id=roster.id, attempts=1, lease_until=lease)
    assert not await jobs.solve_next(context, shop.caller.chain_id)
    shop.clock.advance(timedelta(seconds=21))
    await jobs.work(context)
    assert (await rota.until_done(roster.id)).progress.attempts == 2
    # Lost again and again it is given up, and that is told.
    async with shop.unit() as unit:
        await unit.run(SOLVE_AGAIN, id=roster.id, attempts=jobs.MOST_ATTEMPTS, lease_until=None)
    await jobs.work(context)
    failed = await rota.until_done(roster.id)
    assert failed.status == pb.ROSTER_STATUS_FAILED
    assert failed.failure
    assert [event.roster_id for event in await rota.events(pb.RosterFailed)] == [roster.id]


async def test_publishing_waits_for_a_booking_that_is_under_way(shop: Shop, rota: Rota) -> None:
    roster = await rota.proposed()
    await rota.by_hand(roster, (shop.staff[0], DAYS[0], None))
    async with shop.unit() as unit:
        made = await booking.create(shop.request(at(7, 11), staff=0), unit)
        request = pb.PublishRosterRequest(id=roster.id)
        publishing = asyncio.create_task(shop.refused("PublishRoster", request))
        await asyncio.sleep(0.3)
        assert not publishing.done()
    refused = await publishing
    assert refused.code == "ROSTER_HITS_BOOKINGS"
    assert [each["booking_id"] for each in refused.members["conflicts"]] == [made.id]


async def test_what_lies_outside_the_shifts_a_moment_after_publishing_is_told(shop: Shop, rota: Rota) -> None:
    await rota.plain()
    made = await shop.book(at(7, 11), staff=0)
    await set_day(shop, DAYS[0])
    context = shop.platform["bookings"].context
    await jobs.work(context)
    assert await rota.events(pb.RosterConflicted) == []
    shop.clock.advance(timedelta(minutes=1))
    for _ in range(100):
        await jobs.work(context)
        if events := await rota.events(pb.RosterConflicted):
            break
        await asyncio.sleep(0.05)
    (event,) = events
    assert [each.booking_id for each in event.conflicts] == [made.id]


# --- swaps -------------------------------------------------------------------------------------------


def swap_of(
    rota: Rota, roster: pb.Roster, day: str, to_day: str | None = None, to: int = 1
) -> pb.RequestShiftSwapRequest:
    people = rota.shop.staff
    return pb.RequestShiftSwapRequest(
        roster_id=roster.id, staff_id=people[0], day=day, to_staff_id=people[to], to_day=to_day
    )


async def test_two_swap_with_consent_and_approval(shop: Shop, rota: Rota) -> None:
    roster = await rota.plain()
    first, second, third = shop.staff
    one, other, stranger = rota.someone(first), rota.someone(second), rota.someone(third)
    asked = await shop.call("RequestShiftSwap", swap_of(rota, roster, DAYS[0], DAYS[0]), one)
    accept, approve = pb.AcceptShiftSwapRequest(id=asked.id), pb.ApproveShiftSwapRequest(id=asked.id)
    assert (await shop.refused("ApproveShiftSwap", approve)).code == "WRONG_STATE"
    assert (await shop.refused("AcceptShiftSwap", accept, caller=one)).code == "PERMISSION_DENIED"
    assert (await shop.refused("GetShiftSwap", pb.GetShiftSwapRequest(id=asked.id), caller=stranger)).code == (
        "PERMISSION_DENIED"
    )
    assert fields(await shop.refused("AcceptShiftSwap", accept)) == ["note"]
    accepted = await shop.call("AcceptShiftSwap", accept, other)
    assert accepted.status == pb.SHIFT_SWAP_STATUS_ACCEPTED
    assert (await shop.refused("ApproveShiftSwap", approve, caller=other)).code == "PERMISSION_DENIED"
    assert (await rota.days_of(first))[DAYS[0]] == ["09:00-17:00"], "nothing changes before it is approved"
    approved = await shop.call("ApproveShiftSwap", approve)
    assert approved.status == pb.SHIFT_SWAP_STATUS_APPROVED
    assert (await rota.days_of(first))[DAYS[0]] == ["13:00-21:00"]
    assert (await rota.days_of(second))[DAYS[0]] == ["09:00-17:00"]
    assert shifts_of(await rota.get(roster.id), first)[DAYS[0]] == "13:00-21:00"
    for event in (pb.ShiftSwapRequested, pb.ShiftSwapAccepted, pb.ShiftSwapApproved):
        assert [each.shift_swap_id for each in await rota.events(event)] == [asked.id]
    everything = pb.ListShiftSwapsRequest()
    planner_elsewhere = rota.someone(second, **{"rosters.write": [new_id()]})
    for caller in (other, planner_elsewhere):
        assert [each.id for each in (await shop.call("ListShiftSwaps", everything, caller)).shift_swaps] == [asked.id]
    assert not (await shop.call("ListShiftSwaps", everything, stranger)).shift_swaps
    at_branch = pb.ListShiftSwapsRequest(branch_id=shop.branch, status=pb.SHIFT_SWAP_STATUS_APPROVED)
    assert len((await shop.call("ListShiftSwaps", at_branch)).shift_swaps) == 1


async def test_why_somebody_swaps_is_between_them(shop: Shop, rota: Rota) -> None:
    roster = await rota.plain()
    request = swap_of(rota, roster, DAYS[0], DAYS[0])
    request.note = "the doctor"
    swap = await agreed(shop, request)
    assert (swap.note, swap.accept_note) == ("the doctor", "by phone")
    declined = await shop.call("DeclineShiftSwap", pb.DeclineShiftSwapRequest(id=swap.id, reason="not that day"))
    assert declined.decline_reason == "not that day"
    for event in (pb.ShiftSwapRequested, pb.ShiftSwapAccepted, pb.ShiftSwapDeclined):
        (told,) = await rota.events(event)
        assert told.shift_swap.id == swap.id
        assert not any(told.shift_swap.HasField(why) for why in ("note", "accept_note", "decline_reason"))


async def agreed(shop: Shop, request: pb.RequestShiftSwapRequest) -> pb.ShiftSwap:
    asked = await shop.call("RequestShiftSwap", request)
    swap: pb.ShiftSwap = await shop.call("AcceptShiftSwap", pb.AcceptShiftSwapRequest(id=asked.id, note="by phone"))
    return swap


async def test_a_shift_is_given_away_unless_bookings_or_rules_stand_against_it(shop: Shop, rota: Rota) -> None:
    booked = await shop.book(at(7, 11), staff=0)
    roster = await rota.plain()
    first, _, third = shop.staff
    swap = await agreed(shop, swap_of(rota, roster, DAYS[0], to=2))
    approve = pb.ApproveShiftSwapRequest(id=swap.id)
    refused = await shop.refused("ApproveShiftSwap", approve)
    assert refused.code == "ROSTER_HITS_BOOKINGS"
    assert [each["booking_id"] for each in refused.members["conflicts"]] == [booked.id]
    assert (await rota.days_of(first))[DAYS[0]] == ["09:00-17:00"]
    contract = pb.SetRosterContractRequest(staff_id=third, max_week_minutes=60)
    await shop.call("SetRosterContract", contract)
    refused = await shop.refused("ApproveShiftSwap", approve)
    assert refused.code == "SWAP_BREAKS_RULES"
    assert [(each["rule"], each["amount"]) for each in refused.members["violations"]] == [("max_minutes", 360)]
    approve.accept_violations = approve.accept_conflicts = True
    await shop.call("ApproveShiftSwap", approve)
    assert (await rota.days_of(first))[DAYS[0]] == []
    assert (await rota.days_of(third))[DAYS[0]] == ["09:00-17:00"]


async def test_a_skill_that_would_be_missing_is_told(shop: Shop, rota: Rota) -> None:
    await shop.call(
        "UpdateStaff",
        bookings_pb2.UpdateStaffRequest(id=shop.staff[0], skills=bookings_pb2.Texts(values=["nails"])),
    )
    rules = [pb.DemandRule(start_time="09:00", end_time="12:00", wanted=1, skill="nails")]
    await shop.call("SetRosterDemand", pb.SetRosterDemandRequest(branch_id=shop.branch, rules=rules))
    roster = await rota.plain()
    swap = await agreed(shop, swap_of(rota, roster, DAYS[0], to=2))
    refused = await shop.refused("ApproveShiftSwap", pb.ApproveShiftSwapRequest(id=swap.id))
    assert [(each["rule"], each["amount"]) for each in refused.members["violations"]] == [("skill", 180)]


async def test_what_cannot_be_swapped(shop: Shop, rota: Rota) -> None:
    draft = await rota.proposed()
    assert (await shop.refused("RequestShiftSwap", swap_of(rota, draft, DAYS[0]))).code == "SWAP_NOT_POSSIBLE"
    roster = await rota.plain()
    for request in (
        swap_of(rota, roster, DAYS[6]),  # a day off
        swap_of(rota, roster, DAYS[0], DAYS[6]),  # for a day off
        swap_of(rota, roster, DAYS[0]),  # to somebody who works then
        swap_of(rota, roster, DAYS[0], DAYS[0], to=0),  # with oneself
        swap_of(rota, roster, "2026-05-03"),  # past
    ):
        assert (await shop.refused("RequestShiftSwap", request)).code == "SWAP_NOT_POSSIBLE"
    others = swap_of(rota, roster, DAYS[0], to=2)
    assert (await shop.refused("RequestShiftSwap", others, caller=rota.someone(shop.staff[1]))).code == (
        "PERMISSION_DENIED"
    )
    swap = await agreed(shop, others)
    # In the meantime the day was set by hand.
    await shop.call("SetStaffDay", people_pb2.SetStaffDayRequest(id=shop.staff[2], day=DAYS[0], branch_id=shop.branch))
    refused = await shop.refused("ApproveShiftSwap", pb.ApproveShiftSwapRequest(id=swap.id))
    assert refused.code == "SWAP_NOT_POSSIBLE"
    declined = await shop.call("DeclineShiftSwap", pb.DeclineShiftSwapRequest(id=swap.id, reason="too late"))
    assert (declined.status, declined.decline_reason) == (pb.SHIFT_SWAP_STATUS_DECLINED, "too late")
    assert (await shop.refused("DeclineShiftSwap", pb.DeclineShiftSwapRequest(id=swap.id))).code == "WRONG_STATE"
    assert len(await rota.events(pb.ShiftSwapDeclined)) == 1


async def test_of_two_swaps_of_one_shift_one_is_approved(shop: Shop, rota: Rota) -> None:
    roster = await rota.plain()
    swaps = [
        await agreed(shop, swap_of(rota, roster, DAYS[0], to=2)),
        await agreed(shop, swap_of(rota, roster, DAYS[0], DAYS[0], to=1)),
    ]
    requests = [pb.ApproveShiftSwapRequest(id=swap.id, accept_violations=True) for swap in swaps]
    outcomes = await asyncio.gather(*(shop.outcome(request, "ApproveShiftSwap") for request in requests))
    worked = {person: (await rota.days_of(person))[DAYS[0]] for person in shop.staff}
    assert "done" in outcomes
    assert sorted(hours for days in worked.values() for hours in days) == ["09:00-17:00", "13:00-21:00"]


# --- whose it is -------------------------------------------------------------------------------------


async def test_other_chains_and_other_branches_find_nothing(shop: Shop, rota: Rota) -> None:
    roster = await rota.plain()
    swap = await shop.call("RequestShiftSwap", swap_of(rota, roster, DAYS[0], DAYS[0]))
    wish = pb.CreateRosterWishRequest(staff_id=shop.staff[0], kind=pb.WISH_KIND_WANTS, day=DAYS[0])
    made = await shop.call("CreateRosterWish", wish)
    requests = (
        ("GetRoster", pb.GetRosterRequest(id=roster.id)),
        ("UpdateRoster", pb.UpdateRosterRequest(id=roster.id)),
        ("PublishRoster", pb.PublishRosterRequest(id=roster.id)),
        ("DiscardRoster", pb.DiscardRosterRequest(id=roster.id)),
        ("GetShiftTemplate", pb.GetShiftTemplateRequest(id=rota.templates["early"])),
        ("UpdateShiftTemplate", pb.UpdateShiftTemplateRequest(id=rota.templates["early"])),
        ("GetShiftSwap", pb.GetShiftSwapRequest(id=swap.id)),
        ("AcceptShiftSwap", pb.AcceptShiftSwapRequest(id=swap.id)),
        ("ApproveShiftSwap", pb.ApproveShiftSwapRequest(id=swap.id)),
        ("DeclineShiftSwap", pb.DeclineShiftSwapRequest(id=swap.id)),
        ("RequestShiftSwap", swap_of(rota, roster, DAYS[0], DAYS[0])),
        ("DeleteRosterWish", pb.DeleteRosterWishRequest(id=made.id)),
        ("ListRosterWishes", pb.ListRosterWishesRequest(staff_id=shop.staff[0])),
        ("ListShiftSwaps", pb.ListShiftSwapsRequest(staff_id=shop.staff[0])),
        ("GetRosterContract", pb.GetRosterContractRequest(staff_id=shop.staff[0])),
    )
    other = shop.platform.owner()
    elsewhere = {name: [new_id()] for name in shop.platform.all_permissions()}
    neighbour = replace(shop.caller, id=new_id(), grants=elsewhere)
    for method, request in requests:
        assert (await shop.refused(method, request, caller=other)).code == "NOT_FOUND", method
        assert (await shop.refused(method, request, caller=neighbour)).code == "PERMISSION_DENIED", method
    lists: tuple[tuple[str, Message], ...] = (
        ("ListRosters", pb.ListRostersRequest()),
        ("ListShiftTemplates", pb.ListShiftTemplatesRequest()),
        ("ListShiftSwaps", pb.ListShiftSwapsRequest()),
        ("ListRosterWishes", pb.ListRosterWishesRequest()),
    )
    for method, listing in lists:
        for caller in (other, neighbour):
            assert not (await shop.call(method, listing, caller)).ListFields(), method
