"""Packages and quotes: one price for several services and products, and what a visit would cost before it is agreed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from foyer.access.v1.access_pb2 import Branch
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import packages_pb2, quotes_pb2
from foyer.bookings.v1.catalogue_pb2 import AddOnRules, OfferRules, PriceRule, PriceRules, StaffTerms
from foyer.bookings.v1.packages_pb2 import PackageProduct, PackageService

from chassis.clock import FrozenClock
from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from services.bookings.events import keep_branch
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp, yuan
from tools.servers import Servers

SUBJECTS = prepare_sql(
    "select subject from outbox where chain_id = $1::uuid and aggregate_id = $2 order by sequence", "chain_id", "id"
)


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_packages") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open()
    yield opened
    await opened.check_time()


def moment(message: Any) -> datetime:
    found: datetime = message.ToDatetime(tzinfo=UTC)
    return found


def errors(refusal: Refusal) -> list[tuple[str, str]]:
    assert all(error.message_zh for error in refusal.errors)
    return [(error.field, error.code) for error in refusal.errors]


async def new_package(shop: Shop, *services: str | PackageService, **changes: Any) -> packages_pb2.Package:
    parts = [PackageService(service_id=each) if isinstance(each, str) else each for each in services]
    values: dict[str, Any] = {"name": "Day for two", "services": parts, "price": yuan(20000), **changes}
    package: packages_pb2.Package = await shop.call("CreatePackage", packages_pb2.CreatePackageRequest(**values))
    return package


async def update(shop: Shop, identifier: str, **changes: Any) -> packages_pb2.Package:
    request = packages_pb2.UpdatePackageRequest(id=identifier, **changes)
    package: packages_pb2.Package = await shop.call("UpdatePackage", request)
    return package


async def quote(shop: Shop, **values: Any) -> quotes_pb2.BookingQuote:
    request = quotes_pb2.QuoteBookingRequest(**{"branch_id": shop.branch, **values})
    answer: quotes_pb2.BookingQuote = await shop.call("QuoteBooking", request)
    return answer


async def unquoted(shop: Shop, **values: Any) -> Refusal:
    request = quotes_pb2.QuoteBookingRequest(**{"branch_id": shop.branch, **values})
    return await shop.refused("QuoteBooking", request)


async def searched(shop: Shop, day: int, **values: Any) -> pb.Availability:
    request = pb.SearchAvailabilityRequest(
        branch_id=shop.branch, starts_from=stamp(at(day, 0)), ends_by=stamp(at(day, 24)), **values
    )
    answer: pb.Availability = await shop.call("SearchAvailability", request)
    return answer


# --- the catalogue of packages ----------------------------------------------------------------------


async def test_packages_are_made_read_listed_and_changed(shop: Shop) -> None:
    wash = await shop.new_service(name="Wash", duration_minutes=15, price=yuan(3000), add_on=AddOnRules())
    album = PackageProduct(name="Album", code="A1", quantity=2, unit_price=yuan(5000))
    package = await new_package(
        shop,
        PackageService(service_id=shop.service.upper(), add_on_ids=[wash.upper()]),
        PackageService(service_id=shop.service, together=True),
        products=[album],
        code="P1",
        name_en="Day",
        branch_prices=[pb.BranchPrice(branch_id=shop.branch.upper(), price=yuan(19900))],
        branch_ids=[shop.branch.upper()],
    )
    assert (package.services[0].service_id, list(package.services[0].add_on_ids)) == (shop.service, [wash])
    assert (package.services[1].together, list(package.products)) == (True, [album])
    assert (package.version, package.active, list(package.branch_ids)) == (1, True, [shop.branch])
    assert await shop.call("GetPackage", packages_pb2.GetPackageRequest(id=package.id)) == package
    taken = await shop.refused(
        "CreatePackage",
        packages_pb2.CreatePackageRequest(name="B", code="P1", services=package.services, price=yuan(1)),
    )
    assert taken.code == "ALREADY_EXISTS"
    other = await new_package(shop, shop.service, name="Another")
    listed = await shop.call("ListPackages", packages_pb2.ListPackagesRequest(page_size=1))
    assert list(listed.packages) == [other]
    request = packages_pb2.ListPackagesRequest(page_token=listed.next_page_token, branch_id=shop.branch)
    assert list((await shop.call("ListPackages", request)).packages) == [package]
    change = packages_pb2.UpdatePackageRequest(
        id=package.id,
        name="Half a day",
        code="",
        services=packages_pb2.PackageServices(services=[PackageService(service_id=shop.service)]),
        products=packages_pb2.PackageProducts(),
        price=yuan(100),
        branch_prices=pb.BranchPrices(),
        branch_ids=pb.Ids(),
        active=False,
    )
    changed = await shop.call("UpdatePackage", change, if_match=1)
    assert (changed.version, changed.active, changed.code, list(changed.products)) == (2, False, "", [])
    assert (changed.price.amount, list(changed.branch_prices), list(changed.branch_ids)) == (100, [], [])
    assert (changed.name_en, len(changed.services)) == ("Day", 1)
    assert (await shop.refused("UpdatePackage", change, if_match=1)).code == "PRECONDITION_FAILED"
    listed = await shop.call("ListPackages", packages_pb2.ListPackagesRequest(active=False))
    assert [each.id for each in listed.packages] == [package.id]
    async with shop.unit() as unit:
        rows = await unit.all(SUBJECTS, id=package.id)
    assert [row["subject"] for row in rows] == ["package.created", "package.updated"]


async def test_a_wrong_package_says_all_that_is_wrong(shop: Shop) -> None:
    only = await shop.new_service(name="Oil", add_on=AddOnRules(only_with=True))
    request = packages_pb2.CreatePackageRequest(
        name="A",
        price=yuan(-1),
        services=[PackageService(service_id=shop.service, add_on_ids=[only, only], together=True)],
        products=[PackageProduct(name="x", quantity=1, unit_price=yuan(1, "USD"))],
        branch_prices=[pb.BranchPrice(branch_id=shop.branch, price=yuan(1))] * 2,
    )
    assert errors(await shop.refused("CreatePackage", request)) == [
        ("price.amount", "range"),
        ("products[0].unit_price.currency", "currency"),
        ("branch_prices[1].branch_id", "repeated"),
        ("services[0].together", "first"),
        ("services[0].add_on_ids[1]", "repeated"),
    ]
    nobody = new_id()
    parts = [
        PackageService(service_id=nobody),
        PackageService(service_id=shop.service, add_on_ids=[nobody]),
    ]
    unknown = await shop.refused(
        "CreatePackage", packages_pb2.CreatePackageRequest(name="A", price=yuan(1), services=parts)
    )
    assert unknown.code == "NOT_FOUND"
    assert [field for field, _ in errors(unknown)] == ["services[0].service_id", "services[1].add_on_ids[0]"]
    package = await new_package(shop, shop.service)
    parts = [PackageService(service_id=only, add_on_ids=[shop.service])]
    change = packages_pb2.UpdatePackageRequest(id=package.id, services=packages_pb2.PackageServices(services=parts))
    assert errors(await shop.refused("UpdatePackage", change)) == [
        ("services.services[0].service_id", "alone"),
        ("services.services[0].add_on_ids[0]", "elsewhere"),
    ]


async def test_a_manager_of_one_branch_and_a_stranger_stay_where_they_are(shop: Shop) -> None:
    elsewhere = new_id()
    async with shop.unit() as unit:
        await keep_branch(Branch(id=elsewhere, name="B", time_zone=shop.zone, active=True, version=1), unit)
    everywhere = await new_package(shop, shop.service)
    here = await new_package(shop, shop.service, branch_ids=[shop.branch])
    grants: dict[str, str | list[str]] = {name: [elsewhere] for name in shop.caller.grants}
    manager = shop.platform.owner(shop.caller.chain_id, grants=grants)
    mine = [PackageService(service_id=shop.service)]
    for method, request in (
        ("CreatePackage", packages_pb2.CreatePackageRequest(name="A", services=mine, price=yuan(1))),
        ("UpdatePackage", packages_pb2.UpdatePackageRequest(id=here.id, name="A")),
        ("UpdatePackage", packages_pb2.UpdatePackageRequest(id=everywhere.id, name="A")),
        ("GetPackage", packages_pb2.GetPackageRequest(id=here.id)),
        ("QuoteBooking", quotes_pb2.QuoteBookingRequest(branch_id=shop.branch, package_id=here.id)),
    ):
        assert (await shop.refused(method, request, caller=manager)).code == "PERMISSION_DENIED", method
    listed = await shop.call("ListPackages", packages_pb2.ListPackagesRequest(), manager)
    assert [each.id for each in listed.packages] == [everywhere.id]
    own = packages_pb2.CreatePackageRequest(name="A", services=mine, price=yuan(1), branch_ids=[elsewhere])
    assert list((await shop.call("CreatePackage", own, manager)).branch_ids) == [elsewhere]
    stranger = shop.platform.owner()
    for method, request in (
        ("GetPackage", packages_pb2.GetPackageRequest(id=everywhere.id)),
        ("UpdatePackage", packages_pb2.UpdatePackageRequest(id=everywhere.id)),
    ):
        assert (await shop.refused(method, request, caller=stranger)).code == "NOT_FOUND", method


# --- booking one ------------------------------------------------------------------------------------


async def test_a_package_is_booked_in_its_order_for_its_price(shop: Shop) -> None:
    shave = await shop.new_service(name="Shave", duration_minutes=30, price=yuan(3333), deposit_percent=50)
    package = await new_package(
        shop,
        shave,
        shop.service,
        products=[PackageProduct(name="Balm", code="B1", quantity=3, unit_price=yuan(1111))],
        price=yuan(15000),
    )
    booking = await shop.book(at(1, 10), service_id="", package_id=package.id, staff_id=shop.staff[0])
    assert (booking.package_id, booking.package_name, booking.price.amount) == (package.id, "Day for two", 15000)
    assert [line.service_id for line in booking.lines] == [shave, shop.service]
    assert [moment(line.starts_at) for line in booking.lines] == [at(1, 10), at(1, 10, 30)]
    # 3333 + 12800 + 3 x 1111 = 19466: 2568.3, 9863.4 and 2568.3 of 15000.
    assert [line.price.amount for line in booking.lines] == [2568, 9864]
    balm = pb.BookedProduct(name="Balm", code="B1", quantity=3, price=yuan(2568))
    assert list(booking.products) == [balm]
    assert booking.deposit.amount == 1284
    # What was sold stays as it was, when it moves as well.
    await update(shop, package.id, name="Other", price=yuan(1), products=packages_pb2.PackageProducts())
    assert await shop.call("GetBooking", pb.GetBookingRequest(id=booking.id)) == booking
    request = pb.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 14)))
    moved = await shop.call("RescheduleBooking", request)
    assert (moved.price.amount, moved.package_name, list(moved.products)) == (15000, "Day for two", [balm])
    assert [line.price.amount for line in moved.lines] == [2568, 9864]


async def test_two_who_come_together_and_what_they_want_besides(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    mask = await shop.new_service(name="Mask", duration_minutes=15, price=yuan(3000), add_on=AddOnRules())
    oil = await shop.new_service(name="Oil", duration_minutes=15, price=yuan(1000), add_on=AddOnRules())
    package = await new_package(
        shop,
        PackageService(service_id=shop.service, add_on_ids=[mask]),
        PackageService(service_id=shop.service, together=True),
        branch_prices=[pb.BranchPrice(branch_id=shop.branch, price=yuan(20002))],
    )
    first, second = shop.staff
    lines = [
        pb.LineRequest(service_id=shop.service.upper(), staff_id=second, add_on_ids=[oil]),
        pb.LineRequest(service_id=shop.service, staff_id=first, guest_name="Li"),
    ]
    booking = await shop.book(at(1, 10), service_id="", package_id=package.id, lines=lines)
    assert [line.assignments[0].id for line in booking.lines] == [second, first]
    assert [moment(line.starts_at) for line in booking.lines] == [at(1, 10), at(1, 10)]
    assert [moment(line.ends_at) for line in booking.lines] == [at(1, 11, 30), at(1, 11)]
    assert (booking.lines[1].guest_name, list(booking.lines[0].add_on_ids)) == ("Li", [mask, oil])
    # 15800 and 12800 of 28600 for 20002, and the oil at its own price.
    assert [line.price.amount for line in booking.lines] == [11050 + 1000, 8952]
    assert booking.price.amount == 20002 + 1000
    slots = (await searched(shop, 1, package_id=package.id, lines=lines)).slots
    assert at(1, 10) not in [moment(slot.starts_at) for slot in slots]
    answer = await quote(shop, package_id=package.id, lines=lines)
    assert [line.price.amount for line in answer.lines] == [11050 + 1000, 8952]
    assert (answer.price.amount, answer.duration_minutes) == (20002 + 1000, 90)


async def test_a_package_is_asked_for_in_one_way(shop: Shop) -> None:
    package = await new_package(shop, shop.service, shop.service)
    line = pb.LineRequest(service_id=shop.service)
    for more, expected in (
        ({"service_id": shop.service}, [("service_id", "conflict")]),
        ({"add_on_ids": [shop.service]}, [("add_on_ids", "conflict")]),
        ({"choices": [pb.Choice(need="staff", id=shop.staff[0])]}, [("choices", "conflict")]),
        ({"lines": [line, line], "staff_id": shop.staff[0]}, [("staff_id", "conflict")]),
        ({"lines": [line]}, [("lines", "package")]),
        ({"lines": [line, pb.LineRequest(service_id=new_id())]}, [("lines", "package")]),
    ):
        values: dict[str, Any] = {"service_id": "", "package_id": package.id, **more}
        refusal = await shop.refused("CreateBooking", shop.request(at(1, 10), **values))
        assert (refusal.code, errors(refusal)) == ("INVALID_REQUEST", expected)
        assert errors(await unquoted(shop, **{key: value for key, value in values.items() if value})) == expected
    nothing = await shop.refused("CreateBooking", shop.request(at(1, 10), service_id=""))
    assert errors(nothing) == [("service_id", "required")]
    request = pb.SearchAvailabilityRequest(branch_id=shop.branch, starts_from=stamp(at(1, 0)), ends_by=stamp(at(1, 24)))
    assert errors(await shop.refused("SearchAvailability", request)) == [("lines", "required")]
    for method, message in (
        ("CreateBooking", shop.request(at(1, 10), service_id="", package_id=new_id())),
        ("QuoteBooking", quotes_pb2.QuoteBookingRequest(branch_id=shop.branch, package_id=new_id())),
    ):
        refusal = await shop.refused(method, message)
        assert (refusal.code, errors(refusal)) == ("NOT_FOUND", [("package_id", "not_found")])


async def test_a_package_is_offered_where_all_of_it_is(shop: Shop) -> None:
    desk = await shop.new_service(name="Long", offer=OfferRules(channels=["desk"]))
    elsewhere = new_id()
    async with shop.unit() as unit:
        await keep_branch(Branch(id=elsewhere, name="B", time_zone=shop.zone, active=True, version=1), unit)
    over = await new_package(shop, shop.service)
    await update(shop, over.id, active=False)
    there = await new_package(shop, shop.service, branch_ids=[elsewhere])
    for package, source in ((over.id, None), (there.id, None), ((await new_package(shop, desk)).id, "web")):
        more: dict[str, Any] = {"source": source} if source else {}
        request = shop.request(at(1, 10), service_id="", package_id=package, **more)
        refusal = await shop.refused("CreateBooking", request)
        assert (refusal.code, refusal.members["nearest"]) == ("NOT_BOOKABLE", [])
        assert (await unquoted(shop, package_id=package, **more)).code == "NOT_BOOKABLE"
        answer = await searched(shop, 1, package_id=package, **more)
        assert (list(answer.slots), answer.time_zone) == ([], shop.zone)


async def test_what_is_offered_of_a_package_can_be_booked_once(shop: Shop) -> None:
    shave = await shop.new_service(name="Shave", duration_minutes=30)
    package = await new_package(shop, shave, shop.service)
    slots = (await searched(shop, 1, package_id=package.id)).slots
    assert [moment(slot.starts_at) for slot in slots[:2]] == [at(1, 10), at(1, 10, 15)]
    assert moment(slots[-1].ends_at) == at(1, 18)
    requests = [shop.request(at(1, 10), service_id="", package_id=package.id) for _ in range(16)]
    answers = await asyncio.gather(
        *(shop.call("CreateBooking", request) for request in requests), return_exceptions=True
    )
    lost = [answer for answer in answers if isinstance(answer, Refusal)]
    assert [refusal.code for refusal in lost] == ["SLOT_TAKEN"] * 15
    assert (await shop.check_time(), len(lost[0].members["nearest"])) == (1, 5)


# --- quotes -----------------------------------------------------------------------------------------


async def test_a_quote_is_what_booking_then_gives(shop: Shop) -> None:
    terms = [StaffTerms(service_id=shop.service, duration_minutes=90, price=yuan(20000))]
    shop.staff.append(await shop.new_staff(terms=terms))
    rules = PriceRules(rules=[PriceRule(from_time="14:00", percent=85)])
    shave = await shop.new_service(name="Shave", duration_minutes=30, price=yuan(3333), price_rules=rules)
    mask = await shop.new_service(name="Mask", duration_minutes=15, price=yuan(3000), add_on=AddOnRules())
    package = await new_package(
        shop, shave, shop.service, products=[PackageProduct(name="Balm", quantity=1, unit_price=yuan(1000))]
    )
    first, second = shop.staff
    asked: list[dict[str, Any]] = [
        {"service_id": shop.service, "staff_id": second, "add_on_ids": [mask]},
        {"service_id": shop.service},
        {"lines": [pb.LineRequest(service_id=shave), pb.LineRequest(service_id=shop.service, staff_id=first)]},
        {"package_id": package.id, "customer_id": shop.customer, "source": "web"},
    ]
    for day, values in enumerate(asked, start=1):
        for start in (at(day, 10), at(day, 14)):
            answer = await quote(shop, starts_at=stamp(start), **values)
            booking = await shop.book(start, **{"service_id": "", **values})
            assert answer.free
            assert (answer.price, answer.starts_at, answer.ends_at) == (
                booking.price,
                booking.starts_at,
                booking.ends_at,
            )
            assert [(line.price, line.staff_id) for line in answer.lines] == [
                (line.price, line.assignments[0].id) for line in booking.lines
            ]
            assert list(answer.products) == list(booking.products)
            assert answer.duration_minutes * 60 == booking.ends_at.seconds - booking.starts_at.seconds
            assert sum(line.price.amount for line in answer.lines) + sum(
                product.price.amount for product in answer.products
            ) == (answer.price.amount)
    assert await shop.check_time() == 8


async def test_a_quote_takes_nothing_and_says_whether_the_time_is_free(shop: Shop) -> None:
    service = await shop.new_service(deposit_percent=50)
    for _ in range(2):
        answer = await quote(shop, service_id=service, starts_at=stamp(at(1, 10)))
        assert (answer.free, answer.deposit.amount, answer.time_zone) == (True, 6400, shop.zone)
        assert answer.HasField("change_policy")
    assert await shop.check_time() == 0
    await shop.book(at(1, 10))
    answer = await quote(shop, service_id=service, starts_at=stamp(at(1, 10, 30)))
    assert (answer.free, answer.price.amount, answer.lines[0].staff_id) == (False, 12800, shop.staff[0])
    for start, code in ((at(1, 20), "NOT_BOOKABLE"), (at(-1, 10), "NOT_BOOKABLE"), (at(1, 10, 1), "INVALID_REQUEST")):
        assert (await unquoted(shop, service_id=service, starts_at=stamp(start))).code == code
    unknown = await unquoted(shop, service_id=service, staff_id=new_id())
    assert (unknown.code, errors(unknown)) == ("NOT_FOUND", [("staff_id", "not_found")])


async def test_without_a_time_or_a_person_these_must_not_matter(shop: Shop) -> None:
    answer = await quote(shop, service_id=shop.service)
    assert (answer.price.amount, answer.duration_minutes, answer.lines[0].staff_id) == (12800, 60, shop.staff[0])
    assert not answer.HasField("free")
    assert not answer.HasField("starts_at")
    shop.staff.append(await shop.new_staff())
    assert not (await quote(shop, service_id=shop.service)).lines[0].HasField("staff_id")
    # Whoever it is makes a difference: then one must be named, or a time at which somebody is chosen.
    terms = [StaffTerms(service_id=shop.service, price=yuan(20000))]
    shop.staff.append(await shop.new_staff(terms=terms))
    assert errors(await unquoted(shop, service_id=shop.service)) == [("staff_id", "required")]
    two = [pb.LineRequest(service_id=shop.service)] * 2
    fields = [field for field, _ in errors(await unquoted(shop, lines=two))]
    assert fields == ["lines[0].staff_id", "lines[1].staff_id"]
    package = await new_package(shop, shop.service, shop.service)
    refusal = await unquoted(shop, package_id=package.id, staff_id=shop.staff[0])
    assert errors(refusal) == [("lines[1].staff_id", "required")]
    assert (await quote(shop, service_id=shop.service, staff_id=shop.staff[2])).price.amount == 20000
    assert (await quote(shop, service_id=shop.service, starts_at=stamp(at(1, 10)))).free
    # So does the time, on weekends.
    rules = PriceRules(rules=[PriceRule(weekdays=[6, 7], percent=150)])  # type: ignore[list-item]
    service = await shop.new_service(price_rules=rules)
    refusal = await unquoted(shop, service_id=service, staff_id=shop.staff[0])
    assert errors(refusal) == [("starts_at", "required")]
    answer = await quote(shop, service_id=service, starts_at=stamp(at(5, 10)))
    assert answer.price.amount == 19200
