"""What is offered, against real PostgreSQL: it is what booking accepts, and what is not offered says why."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import catalogue_pb2 as catalogue
from foyer.bookings.v1 import policies_pb2 as policies

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.testing import Platform
from services.bookings import domain
from tests.service.bookings_fair import ZONES, Fair, ask, days, fields, moment, policy, rooms
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp, yuan
from tools.servers import Servers

QUARTER = timedelta(minutes=15)
# What booking says of a time that is refused for a reason; other reasons are told as they are.
TAKEN = {
    "staff_busy": "SLOT_TAKEN",
    "resource_busy": "SLOT_TAKEN",
    "together": "SLOT_TAKEN",
    "customer_busy": "CUSTOMER_BUSY",
}


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_offers") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()
    clock.advance(NOW - clock.now())


# --- what is offered is accepted, and the rest is not -------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.timeout(600)
async def test_what_is_offered_is_accepted_and_the_rest_is_not(
    alone: tuple[Platform, FrozenClock], zone: str, long_run: bool
) -> None:
    platform, clock = alone
    day = datetime(*ZONES[zone], tzinfo=UTC)
    for number in range(20 if long_run else 1):
        clock.advance(day - timedelta(days=2) - clock.now())
        dice = random.Random(f"{zone}{number}")
        shop = await Shop(platform, clock, zone).open(0)
        fair = await Fair(shop, dice, day).open()
        for source in (None, "app"):
            asked: dict[str, Any] = {"service_id": dice.choice(fair.services), "customer_id": shop.customer}
            asked |= {"source": source} if source else {}
            answer = await ask(shop, day - timedelta(hours=8), day + timedelta(hours=28), why_not=True, **asked)
            for slot in dice.sample(list(answer.slots), min(len(answer.slots), 25)):
                await fair.try_out(slot, staff_id=dice.choice(list(slot.staff_ids)), **asked)
            for slot in dice.sample(list(answer.slots), min(len(answer.slots), 4)):
                await fair.try_out(slot, **asked)
                for staff_id in slot.staff_ids:
                    await fair.try_out(slot, staff_id=staff_id, **asked)
            for refused in dice.sample(list(answer.refused), min(len(answer.refused), 20)):
                refusal = await fair.attempt(moment(refused.starts_at), **asked)
                assert isinstance(refusal, Refusal), refused
                told = TAKEN.get(refused.reason) or domain.REASONS[refused.reason][0]
                assert told in (refusal.code, refusal.parameters.get("reason"))
            by_channel = {moment(slot.starts_at) for slot in answer.slots}
            assert not by_channel & {moment(refused.starts_at) for refused in answer.refused}
        await shop.check_time()
    clock.advance(NOW - clock.now())


async def test_people_who_are_offered_can_lead(shop: Shop) -> None:
    """With a person named, that person is offered and nobody else; of two roles only those who can lead are."""
    lead = await shop.new_staff(skills=["a", "b"])
    second = await shop.new_staff(skills=["b"])
    roles = [catalogue.Role(name="lead", skills=["a"]), catalogue.Role(name="second", skills=["b"])]
    pair = await shop.new_service(name="Pair", plan=catalogue.ServicePlan(roles=roles))
    assert {tuple(slot.staff_ids) for slot in await shop.offers(at(1, 0), at(2, 0), service_id=pair)} == {(lead,)}
    alone = [slot.staff_ids for slot in await shop.offers(at(1, 0), at(2, 0), staff_id=second)]
    assert alone
    assert all(list(ids) == [second] for ids in alone)


# --- why not -------------------------------------------------------------------------------------------


async def reasons(shop: Shop, day: int, **more: Any) -> dict[str, tuple[str, str]]:
    answer = await ask(shop, at(day, 0), at(day, 24), why_not=True, **more)
    return {
        (moment(slot.starts_at) + timedelta(hours=8)).strftime("%H:%M"): (slot.reason, slot.need)
        for slot in answer.refused
    }


async def test_each_time_of_the_grid_says_why_it_is_not_free(shop: Shop) -> None:
    booked = await shop.book(at(1, 12), staff=0, customer_id=shop.customer)
    found = await reasons(shop, 1)
    assert found["08:45"] == ("closed", "")
    assert found["09:00"] == ("nobody", "staff")
    assert found["11:15"] == found["12:45"] == ("staff_busy", "staff")
    assert found["17:15"] == ("nobody", "staff")
    assert found["20:15"] == ("closed", "")
    assert "23:15" not in found  # it would not end by the end of the window
    assert len(found) + len(await shop.starts(1)) == 93
    assert (await reasons(shop, 1, staff_id=shop.staff[0]))["09:00"] == ("off_shift", "staff")
    other = await shop.new_staff()
    assert "12:00" not in await reasons(shop, 1)
    assert (await reasons(shop, 1, customer_id=shop.customer))["12:00"] == ("customer_busy", "")
    assert (await reasons(shop, 1, staff_id=shop.staff[0]))["12:00"] == ("staff_busy", "staff")
    assert booked.staff_id != other
    shop.clock.advance(at(0, 11, 20) - NOW)
    await policy(shop, lead_minutes=60, horizon_days=5)
    found = await reasons(shop, 0)
    assert (found["11:15"][0], found["11:30"][0], found["12:15"][0]) == ("past", "lead_time", "lead_time")
    assert "12:30" not in found
    assert {reason for reason, _ in (await reasons(shop, 6)).values()} == {"too_far"}
    assert {reason for reason, _ in (await reasons(shop, -20)).values()} == {"past"}


async def test_rooms_and_people_together_say_what_is_missing(shop: Shop) -> None:
    room = await rooms(shop, 1)
    needs = [catalogue.ResourceNeed(name="room", resource_type_id=room)]
    roles = [catalogue.Role(name="lead"), catalogue.Role(name="second")]
    service = await shop.new_service(name="Duo", plan=catalogue.ServicePlan(roles=roles, resources=needs))
    # One person alone meets each of the roles, not both.
    assert (await reasons(shop, 1, service_id=service))["12:00"] == ("together", "")
    shop.staff.append(await shop.new_staff())
    shop.staff.append(await shop.new_staff())
    assert "12:00" not in await reasons(shop, 1, service_id=service)
    facial = catalogue.ServicePlan(roles=[catalogue.Role(name="staff")], resources=needs)
    await shop.book(at(1, 12), service_id=await shop.new_service(name="Facial", plan=facial))
    assert (await reasons(shop, 1, service_id=service))["12:00"] == ("resource_busy", "room")
    many = [catalogue.ResourceNeed(name="room", resource_type_id=room, count=2)]
    wide = await shop.new_service(name="Wide", plan=catalogue.ServicePlan(roles=roles[:1], resources=many))
    assert (await reasons(shop, 1, service_id=wide))["12:00"] == ("resource_none", "room")


async def test_what_cannot_be_booked_at_all_says_so(shop: Shop) -> None:
    cases: list[tuple[dict[str, Any], str]] = []
    ended = await shop.new_service(name="Ended")
    await shop.call("UpdateService", pb.UpdateServiceRequest(id=ended, active=False))
    cases.append(({"service_id": ended}, "service_inactive"))
    rules = catalogue.OfferRules(channels=["desk"])
    cases.append(({"service_id": await shop.new_service(offer=rules), "source": "app"}, "channel_closed"))
    wax = await shop.new_service(name="Wax", required_skills=["wax"])
    cases.append(({"service_id": wax, "staff_id": shop.staff[0]}, "staff_unable"))
    for more, code in cases:
        answer = await ask(shop, at(1, 0), at(2, 0), why_not=True, **more)
        assert (answer.reason.code, len(answer.slots), len(answer.refused)) == (code, 0, 0)
        assert (answer.reason.text, answer.reason.text_zh) == domain.REASONS[code]
        glance = await days(shop, date(2026, 5, 5), date(2026, 5, 6), **more)
        assert (glance.reason.code, len(glance.days)) == (code, 0)
    assert not (await ask(shop, at(1, 0), at(2, 0))).HasField("reason")


# --- rules ---------------------------------------------------------------------------------------------


async def test_starts_that_leave_gaps_nobody_can_use_are_hidden(shop: Shop) -> None:
    await shop.book(at(1, 12), staff=0)
    await policy(
        shop,
        shortest_gap_minutes=30,
        channels=policies.ChannelRules(rules=[policies.ChannelRule(channel="app", any_staff_only=True)]),
    )
    starts = await shop.starts(1)
    # Free are 10:00 to 12:00 and 13:00 to 18:00.
    assert starts[:3] == ["10:00", "10:30", "11:00"]
    assert starts[3:6] == ["13:00", "13:30", "13:45"]
    assert starts[-3:] == ["16:15", "16:30", "17:00"]
    assert (await reasons(shop, 1))["10:15"] == ("orphan_gap", "")
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 10, 15), source="app"))
    assert refusal.parameters["reason"] == domain.REASONS["orphan_gap"][0]
    assert (await shop.book(at(1, 10, 15))).id  # at the front desk they know what they do
    # The answer is the same whatever the window: also where a UTC day begins, at 08:00.
    await shop.keep_branch(2, hours=("07:00", "21:00"))
    early = await shop.new_staff("07:00", "11:00")
    whole = await shop.offers(at(3, 0), at(3, 24), staff_id=early)
    part = await shop.offers(at(3, 8), at(3, 24), staff_id=early)
    assert [slot for slot in whole if moment(slot.starts_at) >= at(3, 8)] == part
    assert moment(part[0].starts_at) == at(3, 8)


async def test_a_channel_has_its_own_rules(shop: Shop) -> None:
    app = policies.ChannelRule(
        channel="app", lead_minutes=120, horizon_days=2, slot_step_minutes=30, any_staff_only=True
    )
    await policy(shop, slot_step_minutes=20, channels=policies.ChannelRules(rules=[app]))
    shop.clock.advance(at(0, 10, 10) - NOW)
    assert (await shop.starts(0))[:3] == ["10:20", "10:40", "11:00"]
    assert (await shop.starts(0, source="desk"))[:1] == ["10:20"]
    assert (await shop.starts(0, source="app"))[:3] == ["12:30", "13:00", "13:30"]
    last = await shop.starts(2, source="app")
    assert (last, await shop.starts(3, source="app")) == (["10:00"], [])
    assert (await ask(shop, at(1, 0), at(2, 0), source="app", staff_id=shop.staff[0])).reason.code == "any_staff_only"
    for starts_at, staff, reason in (
        (at(0, 12), None, "lead_time"),
        (at(2, 10, 30), None, "too_far"),
        (at(1, 10, 20), None, "off_grid"),
        (at(1, 10), 0, "any_staff_only"),
    ):
        refusal = await shop.refused("CreateBooking", shop.request(starts_at, staff, source="app"))
        assert (refusal.code, refusal.parameters["reason"]) == ("NOT_BOOKABLE", domain.REASONS[reason][0])
    for starts_at in (at(0, 12, 30), at(2, 10)):
        assert (await shop.book(starts_at, source="app")).id
    assert (await shop.book(at(0, 14, 5), source="desk")).id


async def test_a_service_begins_at_its_own_times(shop: Shop) -> None:
    times = catalogue.OfferRules(start_times=["10:05", "14:00", "23:00"])
    service = await shop.new_service(name="Class", offer=times)
    assert await shop.starts(1, service_id=service) == ["10:05", "14:00"]
    found = await reasons(shop, 1, service_id=service)
    assert found == {"23:00": ("closed", "")}
    await policy(shop, channels=policies.ChannelRules(rules=[policies.ChannelRule(channel="app")]))
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 10), service_id=service, source="app"))
    assert refusal.parameters["reason"] == domain.REASONS["off_grid"][0]
    assert (await shop.book(at(1, 10, 5), service_id=service, source="app")).id


async def test_the_last_start_is_at_the_horizon(shop: Shop) -> None:
    """What begins before the horizon and ends after it is offered, as it is accepted."""
    await shop.keep_branch(2, hours=None)
    night = await shop.new_staff("00:00", "24:00")
    horizon = NOW + timedelta(days=400)
    slots = await shop.offers(horizon - timedelta(hours=1), horizon + timedelta(hours=2), staff_id=night)
    assert moment(slots[-1].starts_at) == horizon
    assert (await shop.book(horizon, staff_id=night)).id
    refusal = await shop.refused("CreateBooking", shop.request(horizon + QUARTER, staff_id=night))
    assert refusal.parameters["reason"] == domain.REASONS["too_far"][0]


async def test_an_hour_that_comes_twice_is_offered_twice(alone: tuple[Platform, FrozenClock]) -> None:
    platform, clock = alone
    clock.advance(datetime(2026, 10, 30, tzinfo=UTC) - clock.now())
    shop = await Shop(platform, clock, "America/Toronto").open(0)
    await shop.keep_branch(2, hours=None)
    await shop.new_staff("00:00", "24:00")
    night = datetime(2026, 11, 1, 4, tzinfo=UTC)  # midnight; the clocks go back from 2 to 1
    found = [moment(slot.starts_at) for slot in await shop.offers(night, night + timedelta(hours=6))]
    assert found == [night + number * QUARTER for number in range(21)]
    await policy(shop, slot_step_minutes=60)
    hourly = [moment(slot.starts_at) for slot in await shop.offers(night, night + timedelta(hours=6))]
    assert hourly == [night + timedelta(hours=number) for number in range(6)]
    clock.advance(NOW - clock.now())


async def test_the_nearest_free_times_come_first(shop: Shop) -> None:
    for hour in (12, 13):
        await shop.book(at(1, hour), staff=0)
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 12, 30)))
    nearest = [datetime.fromisoformat(slot["starts_at"]) for slot in refusal.members["nearest"]]
    assert nearest == [at(1, 11), at(1, 14), at(1, 10, 45), at(1, 14, 15), at(1, 10, 30)]


# --- bounds ---------------------------------------------------------------------------------------------


async def test_windows_that_make_no_sense(shop: Shop) -> None:
    for start, end in ((at(1, 0), at(1, 0)), (at(2, 0), at(1, 0)), (at(0, 0), at(36, 0))):
        values: dict[str, Any] = {"starts_from": stamp(start), "ends_by": stamp(end)}
        request = pb.FindAvailabilityRequest(branch_id=shop.branch, service_id=shop.service, why_not=True, **values)
        assert fields(await shop.refused("FindAvailability", request)) == ["to"]
        lines = [pb.LineRequest(service_id=shop.service)]
        search = pb.SearchAvailabilityRequest(branch_id=shop.branch, lines=lines, **values)
        assert fields(await shop.refused("SearchAvailability", search)) == ["to"]
    first = [pb.LineRequest(service_id=shop.service, together=True)]
    window: dict[str, Any] = {"starts_from": stamp(at(1, 0)), "ends_by": stamp(at(2, 0))}
    search = pb.SearchAvailabilityRequest(branch_id=shop.branch, lines=first, **window)
    assert fields(await shop.refused("SearchAvailability", search)) == ["lines[0].together"]


async def test_far_windows_are_empty(shop: Shop) -> None:
    short = await shop.new_service(name="Five", duration_minutes=5)
    await shop.keep_branch(2, hours=None)
    await shop.new_staff("00:00", "24:00")
    for start in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 11, 20, tzinfo=UTC), NOW - QUARTER):
        for end in (start + QUARTER, start + timedelta(days=35) if start != NOW - QUARTER else NOW):
            answer = await ask(shop, start, end, service_id=short, why_not=start == NOW - QUARTER)
            assert not answer.slots
            assert {slot.reason for slot in answer.refused} <= {"past"}
    soon = await ask(shop, NOW, NOW + timedelta(minutes=5), service_id=short)
    assert [moment(slot.starts_at) for slot in soon.slots] == [NOW]
    many = await ask(shop, at(1, 0), at(36, 0), service_id=short, why_not=True)
    assert (len(many.slots), len(many.refused)) == (2000, 0)
    await policy(shop, slot_step_minutes=5)
    closed = await shop.new_service(name="Wax", required_skills=["wax"])
    assert len((await ask(shop, at(1, 0), at(36, 0), service_id=closed, why_not=True)).refused) == 2000


async def test_prices_do_not_matter_to_time(shop: Shop) -> None:
    """Money and texts of a service change: what is offered stays, and is booked at the new price."""
    before = await shop.starts(1)
    await shop.call("UpdateService", pb.UpdateServiceRequest(id=shop.service, price=yuan(1)))
    assert await shop.starts(1) == before
    assert (await shop.book(at(1, 10))).price.amount == 1
