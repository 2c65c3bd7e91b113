"""Prices against a reference that reads the rules like a person would, and packages to the cent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

from foyer.bookings.v1 import catalogue_pb2
from foyer.common.v1.common_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from services.bookings import pricing
from services.bookings.board import Board, Offered, Person, policy_of

BRANCH, OTHER = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"
SERVICE = Offered(
    id="service",
    name="Cut",
    version=1,
    duration_minutes=60,
    buffer_before_minutes=0,
    buffer_after_minutes=0,
    price_amount=10000,
    currency="CNY",
    branch_price_amount=10000,
    required_skills=(),
    deposit_amount=None,
    deposit_percent=None,
    offered_here=True,
    active=True,
    plan=catalogue_pb2.ServicePlan(),
    price_rules=(),
    offer=catalogue_pb2.OfferRules(),
    add_on=None,
)
FIRST_DAY = date(2026, 5, 4)


def board(zone: str = "Asia/Shanghai") -> Board:
    return Board(
        versions=(1, 1),
        day=0,
        branch_id=BRANCH,
        time_zone=zone,
        active=True,
        opening_hours=None,
        holidays="",
        swapped=(),
        services={},
        people={},
        things={},
        type_names={},
        policy=policy_of(None, None),
    )


def person(grade: int = 0, price: int | None = None) -> Person:
    terms = {}
    if price is not None:
        terms[SERVICE.id] = catalogue_pb2.StaffTerms(service_id=SERVICE.id, price=Money(amount=price, currency="CNY"))
    return Person(
        id="lin", name="Lin", grade=grade, active=True, here=True, skills={}, terms=terms, periods=(), dated=(), away=()
    )


days = st.integers(-3, 9).map(lambda number: (FIRST_DAY + timedelta(days=number)).isoformat())
clock = st.integers(0, 287).map(lambda step: f"{step // 12:02d}:{step % 12 * 5:02d}")


@st.composite
def rules(draw: st.DrawFn) -> catalogue_pb2.PriceRule:
    rule = catalogue_pb2.PriceRule()
    rule.branch_ids.extend(draw(st.sampled_from([[], [], [BRANCH], [OTHER], [OTHER, BRANCH]])))
    rule.weekdays.extend(draw(st.lists(st.integers(1, 7), max_size=6, unique=True)))  # type: ignore[arg-type]
    rule.min_grade = draw(st.integers(0, 3))
    for name, values in (("from_date", days), ("until_date", days), ("from_time", clock), ("until_time", clock)):
        value = draw(st.none() | values)
        if value is not None:
            setattr(rule, name, value)
    if draw(st.booleans()):
        rule.price.amount = draw(st.integers(0, 30000))
        rule.price.currency = "CNY"
    else:
        rule.percent = draw(st.integers(0, 300))
    return rule


moments = st.integers(0, 7 * 288 - 1).map(lambda step: datetime(2026, 5, 4, tzinfo=UTC) + timedelta(minutes=5 * step))
zones = st.sampled_from(["Asia/Shanghai", "America/Toronto", "Asia/Kathmandu", "Pacific/Auckland"])


def expected(service: Offered, zone: str, lead: Person | None, starts_at: datetime) -> int:
    """The price as the comments in the contract say it."""
    if lead is not None and service.id in lead.terms:
        return lead.terms[service.id].price.amount
    local = starts_at.astimezone(ZoneInfo(zone))
    for rule in service.price_rules:
        if rule.branch_ids and BRANCH not in rule.branch_ids:
            continue
        if rule.HasField("from_date") and local.date() < date.fromisoformat(rule.from_date):
            continue
        if rule.HasField("until_date") and local.date() > date.fromisoformat(rule.until_date):
            continue
        if rule.weekdays and local.isoweekday() not in list(rule.weekdays):
            continue
        if (lead.grade if lead is not None else 0) < rule.min_grade:
            continue
        if rule.HasField("from_time") and local.time() < time.fromisoformat(rule.from_time):
            continue
        if rule.HasField("until_time") and local.time() >= time.fromisoformat(rule.until_time):
            continue
        if rule.HasField("price"):
            return rule.price.amount
        share = Decimal(service.branch_price_amount) * rule.percent / 100
        return int(share.quantize(Decimal(1), rounding=ROUND_HALF_UP))
    return service.branch_price_amount


people = st.none() | st.builds(person, st.integers(0, 3), st.none() | st.integers(0, 30000))


@given(st.lists(rules(), max_size=5), st.integers(0, 30000), people, moments, zones)
def test_a_price_is_what_the_rules_say(
    found: list[catalogue_pb2.PriceRule], price: int, lead: Person | None, starts_at: datetime, zone: str
) -> None:
    service = replace(SERVICE, branch_price_amount=price, price_rules=tuple(found))
    assert pricing.price_amount(board(zone), service, [], lead, starts_at) == expected(service, zone, lead, starts_at)


@given(st.lists(rules(), max_size=4), people, moments, moments, zones)
def test_what_does_not_depend_on_the_time_costs_the_same_at_all_times(
    found: list[catalogue_pb2.PriceRule], lead: Person | None, now: datetime, later: datetime, zone: str
) -> None:
    now, later = sorted((now, later))
    service = replace(SERVICE, price_rules=tuple(found))
    today = now.astimezone(ZoneInfo(zone)).date().isoformat()
    if not pricing.depends_on_time(board(zone), service, lead, today):
        prices = {pricing.price_amount(board(zone), service, [], lead, moment) for moment in (now, later)}
        assert len(prices) == 1


def test_a_season_that_is_over_and_one_that_has_begun_for_good_do_not_matter() -> None:
    over = catalogue_pb2.PriceRule(until_date="2026-05-03", percent=50)
    begun = catalogue_pb2.PriceRule(from_date="2026-05-04", percent=120)
    for found, depends in (([over], False), ([over, begun], False), ([begun, over], False)):
        service = replace(SERVICE, price_rules=tuple(found))
        assert pricing.depends_on_time(board(), service, None, "2026-05-04") is depends
    to_come = catalogue_pb2.PriceRule(from_date="2026-05-05", percent=120)
    assert pricing.depends_on_time(board(), replace(SERVICE, price_rules=(to_come,)), None, "2026-05-04")
    for_masters = catalogue_pb2.PriceRule(weekdays=[6, 7], min_grade=3, percent=120)  # type: ignore[list-item]
    service = replace(SERVICE, price_rules=(for_masters,))
    assert not pricing.depends_on_time(board(), service, person(2), "2026-05-04")
    assert pricing.depends_on_time(board(), service, person(3), "2026-05-04")


def test_add_ons_cost_by_their_own_rules() -> None:
    mask = replace(SERVICE, id="mask", branch_price_amount=3333, price_rules=(catalogue_pb2.PriceRule(percent=50),))
    at = datetime(2026, 5, 4, tzinfo=UTC)
    assert pricing.price_amount(board(), SERVICE, [mask, mask], person(price=9000), at) == 9000 + 2 * 1667


@given(st.integers(0, 10**9), st.integers(0, 1000))
def test_percent_is_rounded_half_up(amount: int, percent: int) -> None:
    exact = Decimal(amount) * percent / 100
    assert pricing.percent_of(amount, percent) == int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def test_half_a_cent_goes_up() -> None:
    assert [pricing.percent_of(amount, 50) for amount in (1, 2, 3, 5)] == [1, 1, 2, 3]
    assert [pricing.percent_of(amount, 15) for amount in (9, 10, 3333)] == [1, 2, 500]


def test_a_deposit_is_a_share_or_a_sum_that_is_never_more_than_the_price() -> None:
    assert pricing.deposit_amount(SERVICE, 5000) == 0
    assert pricing.deposit_amount(replace(SERVICE, deposit_amount=3000), 5000) == 3000
    assert pricing.deposit_amount(replace(SERVICE, deposit_amount=3000), 2000) == 2000
    assert pricing.deposit_amount(replace(SERVICE, deposit_percent=30), 12345) == 3704


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**7), min_size=1, max_size=12))
def test_a_package_is_divided_to_the_cent(price: int, alone: list[int]) -> None:
    parts = pricing.divide(price, alone)
    assert sum(parts) == price
    assert all(part >= 0 for part in parts)
    weights = alone if any(alone) else [1] * len(alone)
    exact = [Fraction(price * weight, sum(weights)) for weight in weights]
    # Nobody is off by a whole cent, and who was rounded up had a remainder no smaller than who was not.
    assert all(abs(part - share) < 1 for part, share in zip(parts, exact, strict=True))
    up = [share - int(share) for part, share in zip(parts, exact, strict=True) if part > share]
    down = [share - int(share) for part, share in zip(parts, exact, strict=True) if part < share]
    assert not up or not down or min(up) >= max(down)


def test_a_package_that_costs_as_much_as_its_parts_leaves_them_as_they_are() -> None:
    assert pricing.divide(600, [100, 200, 300]) == [100, 200, 300]
    assert pricing.divide(100, [1, 1, 1]) == [34, 33, 33]
    assert pricing.divide(100, [0, 0, 0]) == [34, 33, 33]
    assert pricing.divide(100, [0, 5]) == [0, 100]
