"""The catalogue in depth: what a service takes, what it costs, through which channels, and what of it is frozen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from foyer.access.v1.access_pb2 import Branch
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1.catalogue_pb2 import (
    AddOnRules,
    MaterialNeed,
    OfferRules,
    PriceRule,
    PriceRules,
    Qualification,
    ResourceNeed,
    Role,
    Segment,
    ServicePlan,
    StaffTerms,
    StaffTermsList,
)

from chassis.clock import FrozenClock
from chassis.db import prepare
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from services.bookings.events import keep_branch
from services.bookings.models import resource_types, resources
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, yuan
from tools.servers import Servers

# An unknown branch is asked of its owner, who is not there in these tests.
OWNER_ASKED = "UNAVAILABLE"
INSERT_TYPE = prepare(
    sa.insert(resource_types).values(
        {name: sa.bindparam(name) for name in ("chain_id", "id", "name", "kind", "active", "version", "created_at")}
    )
)
INSERT_THING = prepare(
    sa.insert(resources).values(
        {
            name: sa.bindparam(name)
            for name in ("chain_id", "id", "branch_id", "resource_type_id", "name", "active", "version", "created_at")
        }
    )
)


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_catalogue") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()


async def new_things(shop: Shop, count: int) -> tuple[str, list[str]]:
    """A type of things, and so many of them at the branch."""
    kind, things = new_id(), [new_id() for _ in range(count)]
    common = {"active": True, "version": 1, "created_at": NOW}
    async with shop.unit() as unit:
        await unit.run(INSERT_TYPE, id=kind, name="chair", kind="equipment", **common)
        for thing in things:
            values = {"branch_id": shop.branch, "resource_type_id": kind, "name": "chair"}
            await unit.run(INSERT_THING, id=thing, **values, **common)
    return kind, things


def moment(message: Any) -> datetime:
    found: datetime = message.ToDatetime(tzinfo=UTC)
    return found


def given(line: pb.BookingLine) -> dict[str, str]:
    return {assignment.need: assignment.id for assignment in line.assignments}


def errors(refusal: Refusal) -> list[tuple[str, str]]:
    assert all(error.message_zh for error in refusal.errors)
    return [(error.field, error.code) for error in refusal.errors]


async def update(shop: Shop, identifier: str, **changes: Any) -> pb.Service:
    service: pb.Service = await shop.call("UpdateService", pb.UpdateServiceRequest(id=identifier, **changes))
    return service


# --- what a service takes ---------------------------------------------------------------------------


async def test_a_stylist_does_another_customer_while_the_colour_works(shop: Shop) -> None:
    kind, chairs = await new_things(shop, 2)
    plan = ServicePlan(
        roles=[Role(name="stylist")],
        resources=[ResourceNeed(name="chair", resource_type_id=kind.upper())],
        segments=[
            Segment(name="apply", duration_minutes=30),
            Segment(name="work", duration_minutes=30, uses=["chair"]),
            Segment(name="rinse", duration_minutes=30),
        ],
    )
    colour = await shop.new_service(name="Colour", duration_minutes=90, plan=plan)
    first = await shop.book(at(1, 10), service_id=colour)
    # The stylist is free from 10:30 to 11:00, and a second chair is.
    assert (await shop.starts(1, service_id=colour))[:2] == ["10:30", "11:30"]
    second = await shop.book(at(1, 10, 30), service_id=colour)
    assert given(first.lines[0])["stylist"] == given(second.lines[0])["stylist"] == shop.staff[0]
    assert {given(first.lines[0])["chair"], given(second.lines[0])["chair"]} == set(chairs)
    stylist = next(each for each in first.lines[0].assignments if each.need == "stylist")
    assert [(moment(each.starts_at), moment(each.ends_at)) for each in stylist.taken] == [
        (at(1, 10), at(1, 10, 30)),
        (at(1, 11), at(1, 11, 30)),
    ]
    # A third finds the stylist free at no half hour, and no chair: both are taken until 11:30.
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 11), service_id=colour))
    assert refusal.code == "SLOT_TAKEN"
    assert (await shop.starts(1, service_id=colour))[0] == "12:00"


async def test_a_role_wants_its_grade(shop: Shop) -> None:
    async def person(grade: int) -> str:
        proof = [Qualification(skill="colour", grade=grade)]
        return await shop.new_staff(skills=["colour"], qualifications=proof)

    junior, senior = await person(1), await person(3)
    plan = ServicePlan(roles=[Role(name="master", skills=["colour"], min_grade=2)])
    service = await shop.new_service(plan=plan)
    assert (await shop.offers(at(1, 0), at(1, 24), service_id=service))[0].staff_ids == [senior]
    assert (await shop.book(at(1, 10), service_id=service)).staff_id == senior
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 12), service_id=service, staff_id=junior))
    assert refusal.code == "NOT_BOOKABLE"
    both = ServicePlan(roles=[Role(name="lead", skills=["colour"]), Role(name="helper", skills=["colour"])])
    pair = await shop.new_service(plan=both)
    booking = await shop.book(at(1, 14), service_id=pair, staff_id=junior)
    assert given(booking.lines[0]) == {"lead": junior, "helper": senior}


async def test_an_add_on_adds_time_and_price(shop: Shop) -> None:
    mask = await shop.new_service(name="Mask", duration_minutes=15, price=yuan(3000), add_on=AddOnRules())
    rules = AddOnRules(only_with=True, service_ids=[shop.service.upper()])
    only = await shop.new_service(name="Oil", duration_minutes=20, price=yuan(2000), add_on=rules)
    booking = await shop.book(at(1, 10), add_on_ids=[mask, only])
    assert (moment(booking.ends_at), booking.price.amount) == (at(1, 11, 35), 12800 + 3000 + 2000)
    assert list(booking.lines[0].add_on_ids) == [mask, only]
    assert (await shop.starts(1, add_on_ids=[mask]))[:1] == ["11:45"]
    other = await shop.new_service(name="Shave")
    for request in (
        shop.request(at(1, 14), service_id=only),
        shop.request(at(1, 14), service_id=other, add_on_ids=[only]),
        shop.request(at(1, 14), add_on_ids=[other]),
    ):
        assert (await shop.refused("CreateBooking", request)).code == "NOT_BOOKABLE"
    unknown = await shop.refused("CreateBooking", shop.request(at(1, 14), add_on_ids=[mask, new_id()]))
    assert (unknown.code, errors(unknown)) == ("NOT_FOUND", [("add_on_ids[1]", "not_found")])
    # An add-on that is sold alone as well.
    assert (await shop.book(at(1, 14), service_id=mask)).price.amount == 3000


async def test_a_person_has_a_time_and_a_price_of_their_own(shop: Shop) -> None:
    terms = [StaffTerms(service_id=shop.service.upper(), duration_minutes=90, price=yuan(20000))]
    shop.staff.append(await shop.new_staff(terms=terms))
    slots = await shop.offers(at(1, 10), at(1, 12))
    lengths = {tuple(slot.staff_ids): moment(slot.ends_at) - moment(slot.starts_at) for slot in slots}
    assert {ids: length.seconds // 60 for ids, length in lengths.items()} == {
        (shop.staff[0],): 60,
        (shop.staff[1],): 90,
    }
    booking = await shop.book(at(1, 10), staff=1)
    assert (moment(booking.ends_at), booking.price.amount) == (at(1, 11, 30), 20000)
    booking = await shop.book(at(1, 10), staff=0)
    assert (moment(booking.ends_at), booking.price.amount) == (at(1, 11), 12800)


# --- what it costs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "fits", "fails"),
    [
        ({"branch_ids": ["here"]}, at(1, 10), None),
        ({"from_date": "2026-05-06", "until_date": "2026-05-06"}, at(2, 10), at(3, 10)),
        ({"weekdays": [3]}, at(2, 10), at(1, 10)),
        ({"from_time": "14:00", "until_time": "16:00"}, at(1, 14), at(1, 16)),
        ({"until_time": "12:00"}, at(1, 11, 55), at(2, 12)),
    ],
)
async def test_a_rule_sets_the_price_where_it_fits(
    shop: Shop, rule: dict[str, Any], fits: datetime, fails: datetime | None
) -> None:
    if "branch_ids" in rule:
        rule = {"branch_ids": [shop.branch.upper()]}
    rules = PriceRules(rules=[PriceRule(**rule, percent=85), PriceRule(price=yuan(777))])
    service = await shop.new_service(price=yuan(12810), price_rules=rules)
    # 10888.5, rounded half up.
    assert (await shop.book(fits, service_id=service)).price.amount == 10889
    if fails is not None:
        assert (await shop.book(fails, service_id=service)).price.amount == 777


async def test_a_rule_asks_for_the_grade_of_who_leads(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff(grade=4))
    rules = PriceRules(rules=[PriceRule(min_grade=4, percent=150)])
    prices = [pb.BranchPrice(branch_id=shop.branch, price=yuan(10001))]
    service = await shop.new_service(price_rules=rules, branch_prices=prices, deposit_percent=30)
    booking = await shop.book(at(1, 10), staff=1, service_id=service)
    assert (booking.price.amount, booking.deposit.amount) == (15002, 4501)
    booking = await shop.book(at(1, 10), staff=0, service_id=service)
    assert (booking.price.amount, booking.deposit.amount) == (10001, 3000)


# --- what was sold ----------------------------------------------------------------------------------


async def test_what_was_sold_stays_as_it_was(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    changed = await update(
        shop,
        shop.service,
        name="Cut and wash",
        duration_minutes=90,
        buffer_after_minutes=15,
        price=yuan(19900),
        plan=ServicePlan(roles=[Role(name="stylist")]),
    )
    assert changed.version == 2
    again = await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id))
    assert again == booking
    request = pb.RescheduleBookingRequest(id=booking.id)
    request.starts_at.FromDatetime(at(1, 11))
    moved = await shop.call("RescheduleBooking", request)
    assert (moment(moved.starts_at), moment(moved.ends_at)) == (at(1, 11), at(1, 12))
    assert (moved.price.amount, moved.service_name, moved.lines[0].service_version) == (12800, "Cut", 1)
    taken = moved.lines[0].assignments[0].taken
    assert [(moment(each.starts_at), moment(each.ends_at)) for each in taken] == [(at(1, 11), at(1, 12))]
    # What is sold from now on is the new version.
    later = await shop.book(at(1, 12))
    assert (moment(later.ends_at), later.price.amount) == (at(1, 13, 30), 19900)
    assert (later.service_name, later.lines[0].service_version) == ("Cut and wash", 2)


# --- channels and lists -----------------------------------------------------------------------------


async def test_a_channel_books_what_it_may_and_finds_only_that(shop: Shop) -> None:
    desk = await shop.new_service(name="Long", category="hair", offer=OfferRules(channels=["desk", "phone"]))
    elsewhere = new_id()
    async with shop.unit() as unit:
        await keep_branch(Branch(id=elsewhere, name="B", time_zone=shop.zone, active=True, version=1), unit)
    nails = await shop.new_service(name="Nails", category="nails", branch_ids=[elsewhere])
    assert (await shop.book(at(1, 10), service_id=desk, source="desk")).source == "desk"
    assert (await shop.book(at(1, 11), service_id=desk)).source == ""
    refusal = await shop.refused("CreateBooking", shop.request(at(1, 12), service_id=desk, source="web"))
    assert (refusal.code, refusal.members["nearest"]) == ("NOT_BOOKABLE", [])
    assert await shop.starts(1, service_id=desk, source="web") == []
    assert await shop.starts(1, service_id=desk, source="phone") != []

    async def listed(**filters: Any) -> list[str]:
        answer = await shop.call("ListServices", pb.ListServicesRequest(**filters))
        return [service.id for service in answer.services]

    assert await listed() == [shop.service, desk, nails]
    assert await listed(source="web") == [shop.service, nails]
    assert await listed(source="desk") == [shop.service, desk, nails]
    assert await listed(category="hair") == [desk]
    assert await listed(category="feet") == []
    assert await listed(branch_id=shop.branch.upper()) == [shop.service, desk]
    assert await listed(branch_id=elsewhere, source="web", active=True) == [shop.service, nails]
    assert (await shop.refused("ListServices", pb.ListServicesRequest(branch_id=new_id()))).code == OWNER_ASKED
    first = await shop.call("ListServices", pb.ListServicesRequest(page_size=1, source="desk"))
    rest = pb.ListServicesRequest(page_size=2, source="desk", page_token=first.next_page_token)
    assert [service.id for service in (await shop.call("ListServices", rest)).services] == [desk, nails]
    # A list follows what is offered now.
    await update(shop, desk, offer=OfferRules())
    assert await listed(source="web") == [shop.service, desk, nails]
    assert not (await shop.call("GetService", pb.GetServiceRequest(id=desk))).HasField("offer")


# --- wrong input ------------------------------------------------------------------------------------


async def test_all_that_is_wrong_with_a_service_is_told_at_once(shop: Shop) -> None:
    request = pb.CreateServiceRequest(
        name="Wrong",
        duration_minutes=61,
        price=yuan(100, "USD"),
        deposit=yuan(50),
        deposit_percent=10,
        branch_prices=[pb.BranchPrice(branch_id=shop.branch, price=yuan(-1))] * 2,
        plan=ServicePlan(roles=[Role(name="a")], segments=[Segment(duration_minutes=60, uses=["a", "b"])]),
        price_rules=PriceRules(rules=[PriceRule(percent=50), PriceRule(price=yuan(1, "USD"), from_date="2026-02-30")]),
        offer=OfferRules(start_times=["10:00", "10:00"]),
        add_on=AddOnRules(service_ids=[shop.service, shop.service]),
    )
    refusal = await shop.refused("CreateService", request)
    assert refusal.code == "INVALID_REQUEST"
    assert errors(refusal) == [
        ("duration_minutes", "step"),
        ("price.currency", "currency"),
        ("deposit_percent", "conflict"),
        ("branch_prices[0].price.amount", "range"),
        ("branch_prices[1].price.amount", "range"),
        ("branch_prices[1].branch_id", "repeated"),
        ("plan.segments[0].uses[1]", "unknown"),
        ("plan.segments", "sum"),
        ("price_rules.rules[1].price.currency", "currency"),
        ("price_rules.rules[1].from_date", "date"),
        ("offer.start_times[1]", "repeated"),
        ("add_on.service_ids[1]", "repeated"),
    ]


NOBODY = "0198a3a0-0000-7000-8000-00000000dead"


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (
            {
                "plan": ServicePlan(
                    resources=[
                        ResourceNeed(name="a", resource_type_id=NOBODY),
                        ResourceNeed(name="b", resource_type_id=NOBODY),
                    ]
                )
            },
            ["plan.resources[0].resource_type_id", "plan.resources[1].resource_type_id"],
        ),
        (
            {"plan": ServicePlan(materials=[MaterialNeed(stock_item_id=NOBODY, quantity=1)])},
            ["plan.materials[0].stock_item_id"],
        ),
        ({"add_on": AddOnRules(service_ids=[NOBODY])}, ["add_on.service_ids[0]"]),
    ],
)
async def test_what_a_service_names_must_be_there(shop: Shop, changes: dict[str, Any], fields: list[str]) -> None:
    request = pb.CreateServiceRequest(name="A", duration_minutes=60, price=yuan(1), **changes)
    for method, message in (
        ("CreateService", request),
        ("UpdateService", pb.UpdateServiceRequest(id=shop.service, **changes)),
    ):
        refusal = await shop.refused(method, message)
        assert (refusal.code, errors(refusal)) == ("NOT_FOUND", [(field, "not_found") for field in fields])


async def test_a_branch_of_a_price_rule_must_be_there(shop: Shop) -> None:
    rules = PriceRules(
        rules=[PriceRule(percent=1, branch_ids=[shop.branch]), PriceRule(percent=2, branch_ids=[NOBODY])]
    )
    request = pb.CreateServiceRequest(name="A", duration_minutes=60, price=yuan(1), price_rules=rules)
    assert (await shop.refused("CreateService", request)).code == OWNER_ASKED


async def test_a_plan_stays_whole_when_its_service_changes(shop: Shop) -> None:
    plan = ServicePlan(roles=[Role(name="a")], segments=[Segment(duration_minutes=30)] * 2)
    service = await shop.new_service(plan=plan)
    longer = await shop.refused("UpdateService", pb.UpdateServiceRequest(id=service, duration_minutes=90))
    assert errors(longer) == [("duration_minutes", "sum")]
    shorter = ServicePlan(segments=[Segment(duration_minutes=30)])
    wrong = await shop.refused("UpdateService", pb.UpdateServiceRequest(id=service, plan=shorter))
    assert errors(wrong) == [("plan.segments", "sum")]
    changed = await update(shop, service, duration_minutes=30, plan=shorter)
    assert (changed.duration_minutes, len(changed.plan.segments)) == (30, 1)
    # An empty plan goes back to one person; what is not sent stays.
    changed = await update(shop, service, plan=ServicePlan())
    assert not changed.HasField("plan")
    assert (await update(shop, service, duration_minutes=45)).duration_minutes == 45


async def test_one_deposit_takes_the_place_of_the_other(shop: Shop) -> None:
    service = await shop.new_service(deposit_percent=20)
    changed = await update(shop, service, deposit=yuan(5000))
    assert changed.deposit.amount == 5000
    assert not changed.HasField("deposit_percent")
    changed = await update(shop, service, deposit_percent=30)
    assert changed.deposit_percent == 30
    assert not changed.HasField("deposit")
    both = await shop.refused("UpdateService", pb.UpdateServiceRequest(id=service, deposit=yuan(1), deposit_percent=1))
    assert errors(both) == [("deposit_percent", "conflict")]
    changed = await update(shop, service, deposit_percent=0)
    assert not changed.HasField("deposit_percent")


async def test_an_add_on_can_become_an_ordinary_service_again(shop: Shop) -> None:
    service = await shop.new_service(add_on=AddOnRules(only_with=True), price_rules=PriceRules())
    assert (await update(shop, service, name="Oil")).add_on.only_with
    changed = await update(shop, service, add_on=AddOnRules())
    assert changed.HasField("add_on")
    assert not changed.HasField("price_rules")
    assert not (await update(shop, service, remove_add_on=True)).HasField("add_on")
    request = pb.UpdateServiceRequest(id=service, remove_add_on=True, add_on=AddOnRules())
    assert errors(await shop.refused("UpdateService", request)) == [("remove_add_on", "conflict")]


async def test_terms_of_a_person_must_make_sense(shop: Shop) -> None:
    plan = ServicePlan(segments=[Segment(duration_minutes=30)] * 2)
    parts = await shop.new_service(plan=plan)
    for terms, code, expected in (
        ([StaffTerms(service_id=parts, duration_minutes=33)], "INVALID_REQUEST", [("[0].duration_minutes", "step")]),
        ([StaffTerms(service_id=parts, price=yuan(1, "USD"))], "INVALID_REQUEST", [("[0].price.currency", "currency")]),
        (
            [StaffTerms(service_id=parts, duration_minutes=30)],
            "INVALID_REQUEST",
            [("[0].duration_minutes", "segments")],
        ),
        ([StaffTerms(service_id=NOBODY, price=yuan(1))], "NOT_FOUND", [("[0].service_id", "not_found")]),
    ):
        create = pb.CreateStaffRequest(name="A", branch_ids=[shop.branch], terms=terms)
        change = pb.UpdateStaffRequest(id=shop.staff[0], terms=StaffTermsList(terms=terms))
        for method, message, path in (("CreateStaff", create, "terms"), ("UpdateStaff", change, "terms.terms")):
            refusal = await shop.refused(method, message)
            assert (refusal.code, errors(refusal)) == (code, [(path + field, error) for field, error in expected])


async def test_another_chain_finds_nothing_of_it(shop: Shop) -> None:
    stranger = shop.platform.owner()
    listed = await shop.call("ListServices", pb.ListServicesRequest(source="web"), stranger)
    assert list(listed.services) == []
    refusal = await shop.refused("ListServices", pb.ListServicesRequest(branch_id=shop.branch), caller=stranger)
    assert refusal.code == OWNER_ASKED
    rules = AddOnRules(service_ids=[shop.service])
    request = pb.CreateServiceRequest(name="A", duration_minutes=60, price=yuan(1), add_on=rules)
    assert (await shop.refused("CreateService", request, caller=stranger)).code == "NOT_FOUND"
