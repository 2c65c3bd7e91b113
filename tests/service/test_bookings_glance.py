"""Days at a glance, and the next free times over all branches, against real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import people_pb2 as people
from foyer.common.v1.common_pb2 import Weekday

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from tests.service.bookings_fair import ZONES, Fair, days, fields, moment, policy
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, intervals, stamp
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_glance") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()
    clock.advance(NOW - clock.now())


# --- days at a glance ---------------------------------------------------------------------------------


async def test_days_at_a_glance(shop: Shop) -> None:
    shop.clock.advance(at(0, 12, 10) - NOW)
    await shop.keep_branch(2, holidays=["2026-05-06"])
    monday, friday = [Weekday.WEEKDAY_MONDAY], [Weekday.WEEKDAY_FRIDAY]
    week = intervals("10:00", "18:00", [*monday, 2, 3]) + intervals("10:00", "11:00", friday)
    await shop.call("SetShifts", pb.SetShiftsRequest(id=shop.staff[0], from_date="2026-05-01", intervals=week))
    await shop.book(at(4, 10))
    await policy(shop, horizon_days=14)
    answer = await days(shop, date(2026, 5, 3), date(2026, 5, 20))
    assert answer.time_zone == "Asia/Shanghai"
    assert [day.date for day in answer.days] == [f"2026-05-{number:02d}" for number in range(3, 21)]
    assert [day.reason for day in answer.days] == (
        ["past", "", "", "closed", "nobody", "full", "nobody", "nobody"]  # 3 to 10
        + ["", "", "", "nobody", "", "nobody", "nobody", ""]  # 11 to 18
        + ["too_far"] * 2
    )
    by_day = {day.date[-2:]: day for day in answer.days}
    today = by_day["04"]
    assert (today.free_starts, moment(today.first_starts_at), moment(today.last_starts_at)) == (
        20,
        at(0, 12, 15),
        at(0, 17),
    )
    assert by_day["15"].free_starts == 1
    assert by_day["18"].free_starts == 9  # up to the horizon: 10:00 to 12:00
    assert not by_day["05"].HasField("reason")
    for day in answer.days:
        start = datetime.fromisoformat(f"{day.date}T00:00:00+08:00")
        found = await shop.offers(start, start + timedelta(days=1, hours=1))
        assert day.free_starts == sum(moment(slot.starts_at) < start + timedelta(days=1) for slot in found)


@pytest.mark.parametrize("zone", ZONES)
async def test_days_count_what_is_offered(alone: tuple[Platform, FrozenClock], zone: str) -> None:
    platform, clock = alone
    day = datetime(*ZONES[zone], tzinfo=UTC)
    clock.advance(day - timedelta(days=2) - clock.now())
    shop = await Shop(platform, clock, zone).open(0)
    fair = await Fair(shop, random.Random(f"days{zone}"), day).open()
    await policy(shop, shortest_gap_minutes=20)
    first = day.date() - timedelta(days=1)
    asked: dict[str, Any] = {"service_id": fair.services[0], "customer_id": shop.customer}
    answer = await days(shop, first, first + timedelta(days=4), **asked)
    offered = await shop.offers(day - timedelta(days=3), day + timedelta(days=7), **asked)
    zone_days = Counter(_local_date(slot, zone) for slot in offered)
    assert {each.date: each.free_starts for each in answer.days} == {
        (first + timedelta(days=number)).isoformat(): zone_days[first + timedelta(days=number)] for number in range(5)
    }
    starts = {slot.starts_at.seconds for slot in offered}
    assert all(each.first_starts_at.seconds in starts for each in answer.days if each.free_starts)
    assert all(each.last_starts_at.seconds in starts for each in answer.days if each.free_starts)
    clock.advance(NOW - clock.now())


def _local_date(slot: pb.Slot, zone: str) -> date:
    return moment(slot.starts_at).astimezone(ZoneInfo(zone)).date()


async def test_days_have_bounds(shop: Shop) -> None:
    first = date(2026, 5, 10)
    assert len((await days(shop, first, first + timedelta(days=61))).days) == 62
    for last, code in ((first + timedelta(days=62), "range"), (first - timedelta(days=1), "order")):
        with pytest.raises(Refusal) as refused:
            await days(shop, first, last)
        assert [(error.field, error.code) for error in refused.value.errors] == [("until_date", code)]
    for far, reason in ((date(2999, 12, 1), "too_far"), (date(1970, 1, 1), "past")):
        answer = await days(shop, far, far + timedelta(days=20))
        assert {day.reason for day in answer.days} == {reason}
        assert len(answer.days) == 21
    for name in ("service_id", "staff_id"):
        with pytest.raises(Refusal) as refused:
            await days(shop, first, first, **{name: new_id()})
        assert (refused.value.code, fields(refused.value)) == ("NOT_FOUND", [name])
    with pytest.raises(Refusal) as refused:
        await days(shop, first, first, add_on_ids=[new_id()])
    assert fields(refused.value) == ["add_on_ids[0]"]


# --- the next free times ------------------------------------------------------------------------------


@dataclass
class Chain:
    """A shop with other branches."""

    shop: Shop
    branches: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)

    async def add(self, zone: str, start: str, end: str, **person: Any) -> str:
        first, shop = self.shop.branch, self.shop
        zone_before, shop.zone, shop.branch = shop.zone, zone, new_id()
        await shop.keep_branch(1, hours=None)
        self.branches.append(shop.branch)
        self.people.append(await shop.new_staff(start, end, **person))
        shop.zone, shop.branch = zone_before, first
        return self.branches[-1]

    async def next(self, **more: Any) -> list[tuple[datetime, str]]:
        values: dict[str, Any] = {"service_id": self.shop.service, **more}
        answer = await self.shop.call("FindNextAvailability", pb.FindNextAvailabilityRequest(**values))
        return [(moment(slot.starts_at), slot.branch_id) for slot in answer.slots]


async def test_the_next_free_times_over_all_branches(shop: Shop) -> None:
    chain = Chain(shop)
    early = await chain.add("Asia/Shanghai", "09:30", "11:00")
    tokyo = await chain.add("Asia/Tokyo", "10:15", "12:00")
    rare = await chain.add("Asia/Shanghai", "08:00", "08:00")  # no shift
    assert await chain.next() == [
        (at(0, 9, 15), tokyo),
        *sorted([(at(0, 9, 30), early), (at(0, 9, 30), tokyo)]),
        *sorted([(at(0, 9, 45), early), (at(0, 9, 45), tokyo)]),
    ]
    found = await chain.next(limit=20)
    assert found == sorted(found)
    assert len(found) == 20
    assert (at(0, 10), shop.branch) in found
    assert await chain.next(branch_ids=[rare]) == []
    assert await chain.next(branch_ids=[early], starts_from=stamp(at(0, 9, 35)), limit=4) == [
        (at(0, 9, 45), early),
        (at(0, 10), early),
        (at(1, 9, 30), early),
        (at(1, 9, 45), early),
    ]
    assert await chain.next(staff_id=chain.people[1], limit=1) == [(at(0, 9, 15), tokyo)]
    answer = await shop.call("FindNextAvailability", pb.FindNextAvailabilityRequest(service_id=shop.service, limit=1))
    slot = answer.slots[0]
    assert (slot.branch_name, slot.time_zone, list(slot.staff_ids)) == ("Jing'an", "Asia/Tokyo", [chain.people[1]])
    assert moment(slot.ends_at) == at(0, 10, 15)
    booked = await shop.book(at(0, 9, 15), branch_id=tokyo, staff_id=chain.people[1], customer_id=shop.customer)
    assert booked.id
    assert (await chain.next(limit=1))[0] == (at(0, 9, 30), early)
    assert (at(0, 9, 30), early) not in await chain.next(limit=20, customer_id=shop.customer)


async def test_the_next_free_times_are_looked_for_35_days_ahead(shop: Shop) -> None:
    chain = Chain(shop)
    later = await chain.add("Asia/Shanghai", "08:00", "08:00")
    set_day = people.SetStaffDayRequest(id=chain.people[0], branch_id=later, day="2026-06-06")
    set_day.intervals.add(start_time="13:00", end_time="14:00")
    await shop.call("SetStaffDay", set_day)
    assert await chain.next(branch_ids=[later]) == [(at(33, 13), later)]
    assert await chain.next(branch_ids=[later], starts_from=stamp(at(40, 0))) == []
    far = await chain.next(starts_from=stamp(datetime(9999, 1, 1, tzinfo=UTC)))
    assert far == []
    past = await chain.next(starts_from=stamp(datetime(1, 1, 1, tzinfo=UTC)), limit=1)
    assert past == [(at(0, 10), shop.branch)]
    assert (await chain.next(limit=1, branch_ids=[shop.branch], starts_from=stamp(at(0, 17, 5))))[0][0] == at(1, 10)


async def test_the_next_free_times_are_those_of_branches_one_may_see(shop: Shop) -> None:
    chain = Chain(shop)
    other = await chain.add("Asia/Shanghai", "09:30", "11:00")
    manager = shop.platform.owner(shop.caller.chain_id, grants={"bookings.read": [shop.branch]})

    async def asked(**more: Any) -> pb.NextAvailability:
        request = pb.FindNextAvailabilityRequest(**{"service_id": shop.service, **more})
        answer: pb.NextAvailability = await shop.call("FindNextAvailability", request, manager)
        return answer

    assert {slot.branch_id for slot in (await asked(limit=20)).slots} == {shop.branch}
    for more, code in (
        ({"branch_ids": [other]}, "PERMISSION_DENIED"),
        ({"service_id": new_id()}, "NOT_FOUND"),
        ({"staff_id": new_id()}, "NOT_FOUND"),
    ):
        with pytest.raises(Refusal) as refused:
            await asked(**more)
        assert refused.value.code == code
    stranger = shop.platform.owner()
    refusal = await shop.refused(
        "FindNextAvailability", pb.FindNextAvailabilityRequest(service_id=shop.service), caller=stranger
    )
    assert refusal.code == "NOT_FOUND"
    only = await shop.new_service(name="Only here", branch_ids=[shop.branch])
    assert {branch for _, branch in await chain.next(service_id=only, limit=20)} == {shop.branch}
    await shop.keep_branch(3, active=False)
    assert await chain.next(service_id=only) == []


async def test_many_branches_are_read_in_batches(shop: Shop) -> None:
    """30 branches, each with its first free time a quarter later: the first ones are found, in order."""
    chain = Chain(shop)
    for number in range(30):
        begin = timedelta(hours=9) + number * timedelta(minutes=10)
        text = f"{begin.seconds // 3600:02d}:{begin.seconds // 60 % 60:02d}"
        await chain.add("Asia/Shanghai", text, "23:00")
    found = await chain.next(branch_ids=chain.branches, limit=20)
    every = await asyncio.gather(*(chain.next(branch_ids=[branch], limit=20) for branch in chain.branches))
    assert found == sorted(slot for slots in every for slot in slots)[:20]
    whole: Sequence[tuple[datetime, str]] = await chain.next(limit=20)
    assert whole[0] == found[0]
