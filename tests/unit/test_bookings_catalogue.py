"""What a service, a package or a person's terms may not say: every mistake, where it is, all of them at once."""

from __future__ import annotations

import re
from typing import Any

import pytest
from foyer.bookings.v1 import packages_pb2
from foyer.bookings.v1.catalogue_pb2 import (
    AddOnRules,
    MaterialNeed,
    OfferRules,
    PriceRule,
    PriceRules,
    ResourceNeed,
    Role,
    Segment,
    ServicePlan,
    StaffTerms,
)
from foyer.common.v1.common_pb2 import Money

from chassis.errors import FieldError
from services.bookings import catalogue_checks

TYPE = "0198a3a0-0000-7000-8000-000000000001"
OTHER = "0198a3a0-0000-7000-8000-000000000002"


def yuan(amount: int, currency: str = "CNY") -> Money:
    return Money(amount=amount, currency=currency)


def segment(minutes: int, *uses: str, **more: Any) -> Segment:
    return Segment(duration_minutes=minutes, uses=uses, **more)


def told(errors: list[FieldError]) -> list[tuple[str, str]]:
    assert all(error.message and re.search("[一-鿿]", error.message_zh) for error in errors)
    return [(error.field, error.code) for error in errors]


COLOUR = {
    "roles": [Role(name="stylist"), Role(name="assistant", min_grade=2)],
    "resources": [ResourceNeed(name="chair", resource_type_id=TYPE)],
}
GOOD = [
    ServicePlan(),
    ServicePlan(**COLOUR),  # type: ignore[arg-type]
    ServicePlan(**COLOUR, segments=[segment(60)]),  # type: ignore[arg-type]
    ServicePlan(
        **COLOUR,  # type: ignore[arg-type]
        segments=[segment(20, "stylist", "chair"), segment(30, "chair"), segment(10, "assistant", "chair")],
    ),
    ServicePlan(segments=[segment(20), segment(20, idle=True), segment(20, "staff")]),
    ServicePlan(resources=[ResourceNeed(name="room", resource_type_id=TYPE)], segments=[segment(60, "room")]),
]


@pytest.mark.parametrize("plan", GOOD)
def test_a_good_plan_has_nothing_wrong(plan: ServicePlan) -> None:
    assert catalogue_checks.plan_errors(plan, 60) == []


WRONG_PLANS: list[tuple[ServicePlan, list[tuple[str, str]]]] = [
    (ServicePlan(roles=[Role(name="a"), Role(name="a")]), [("plan.roles[1].name", "repeated")]),
    (
        ServicePlan(roles=[Role(name="a")], resources=[ResourceNeed(name="a", resource_type_id=TYPE)]),
        [("plan.resources[0].name", "repeated")],
    ),
    (ServicePlan(roles=[Role(name="a", skills=["x", "x"])]), [("plan.roles[0].skills[1]", "repeated")]),
    (
        ServicePlan(
            resources=[ResourceNeed(name="a", resource_type_id=TYPE, buffer_before_minutes=3, buffer_after_minutes=7)]
        ),
        [("plan.resources[0].buffer_before_minutes", "step"), ("plan.resources[0].buffer_after_minutes", "step")],
    ),
    (
        ServicePlan(roles=[Role(name="a")], segments=[segment(30, "a"), segment(30, "a", "b")]),
        [("plan.segments[1].uses[1]", "unknown")],
    ),
    # "staff" is only the name of the one need of a plan that names none.
    (
        ServicePlan(roles=[Role(name="a")], segments=[segment(60, "a", "staff")]),
        [("plan.segments[0].uses[1]", "unknown")],
    ),
    (ServicePlan(segments=[segment(60, idle=True)]), [("plan.segments", "unused")]),
    (
        ServicePlan(roles=[Role(name="a"), Role(name="b")], segments=[segment(60, "a")]),
        [("plan.roles[1].name", "unused")],
    ),
    (
        ServicePlan(
            roles=[Role(name="a")],
            resources=[ResourceNeed(name="r", resource_type_id=TYPE)],
            segments=[segment(60, "a", idle=True)],
        ),
        [("plan.resources[0].name", "unused")],
    ),
    (ServicePlan(segments=[segment(30), segment(20)]), [("plan.segments", "sum")]),
    (ServicePlan(segments=[segment(60, "staff", "staff")]), [("plan.segments[0].uses[1]", "repeated")]),
    (
        ServicePlan(segments=[segment(33), segment(27)]),
        [("plan.segments[0].duration_minutes", "step"), ("plan.segments[1].duration_minutes", "step")],
    ),
    (
        ServicePlan(
            materials=[
                MaterialNeed(stock_item_id=TYPE, quantity=1),
                MaterialNeed(stock_item_id=TYPE.upper(), quantity=2),
            ]
        ),
        [("plan.materials[1]", "repeated")],
    ),
]


@pytest.mark.parametrize(("plan", "expected"), WRONG_PLANS)
def test_a_wrong_plan_says_where(plan: ServicePlan, expected: list[tuple[str, str]]) -> None:
    assert told(catalogue_checks.plan_errors(plan, 60)) == expected


def test_all_that_is_wrong_with_a_plan_is_told_at_once() -> None:
    plan = ServicePlan(
        roles=[Role(name="a"), Role(name="a"), Role(name="b")], segments=[segment(33, "x", "a"), segment(30, "a", "a")]
    )
    assert told(catalogue_checks.plan_errors(plan, 60, duration_field="duration_minutes")) == [
        ("plan.roles[1].name", "repeated"),
        ("plan.segments[0].duration_minutes", "step"),
        ("plan.segments[0].uses[0]", "unknown"),
        ("plan.segments[1].uses[1]", "repeated"),
        ("plan.roles[2].name", "unused"),
        ("duration_minutes", "sum"),
    ]


WRONG_RULES: list[tuple[PriceRule, list[tuple[str, str]]]] = [
    (PriceRule(), [("price", "one_of")]),
    (PriceRule(price=yuan(1), percent=50), [("price", "one_of")]),
    (PriceRule(price=yuan(-1)), [("price.amount", "range")]),
    (PriceRule(price=yuan(1, "USD")), [("price.currency", "currency")]),
    (PriceRule(percent=50, from_date="2026-02-30"), [("from_date", "date")]),
    (PriceRule(percent=50, until_date="2026-13-01"), [("until_date", "date")]),
    (PriceRule(percent=50, from_date="2026-05-02", until_date="2026-05-01"), [("until_date", "order")]),
    (PriceRule(percent=50, from_time="18:00", until_time="18:00"), [("until_time", "order")]),
    (PriceRule(percent=50, from_time="22:00", until_time="06:00"), [("until_time", "order")]),
    (PriceRule(percent=50, branch_ids=[TYPE, TYPE.upper()]), [("branch_ids[1]", "repeated")]),
    (PriceRule(percent=0), []),
    (PriceRule(price=yuan(0)), []),
    (PriceRule(percent=50, from_date="2026-05-01", until_date="2026-05-01"), []),
    (PriceRule(percent=50, from_date="9999-12-31"), []),
    (PriceRule(percent=50, from_time="22:00", until_time="24:00"), []),
]


@pytest.mark.parametrize(("rule", "expected"), WRONG_RULES)
def test_a_wrong_price_rule_says_where(rule: PriceRule, expected: list[tuple[str, str]]) -> None:
    rules = PriceRules(rules=[PriceRule(percent=100), rule])
    found = told(catalogue_checks.price_rule_errors(rules, "CNY"))
    assert found == [(f"price_rules.rules[1].{field}", code) for field, code in expected]


def test_channels_start_times_and_services_are_named_once() -> None:
    offer = OfferRules(channels=["web", "desk", "web"], start_times=["10:00", "12:00", "10:00"])
    assert told(catalogue_checks.offer_errors(offer)) == [
        ("offer.channels[2]", "repeated"),
        ("offer.start_times[2]", "repeated"),
    ]
    add_on = AddOnRules(service_ids=[TYPE, TYPE.upper()])
    assert told(catalogue_checks.add_on_errors(add_on)) == [("add_on.service_ids[1]", "repeated")]


def test_wrong_terms_say_where() -> None:
    terms = [
        StaffTerms(service_id=TYPE, duration_minutes=33),
        StaffTerms(service_id=TYPE.upper(), price=yuan(-1, "USD")),
        StaffTerms(service_id=OTHER),
    ]
    assert told(catalogue_checks.term_errors(terms, "CNY")) == [
        ("terms[1].service_id", "repeated"),
        ("terms[0].duration_minutes", "step"),
        ("terms[1].price.amount", "range"),
        ("terms[1].price.currency", "currency"),
        ("terms[2]", "empty"),
    ]


def test_add_ons_in_a_package_must_go_with_their_service() -> None:
    rules = {
        "cut": None,
        "mask": AddOnRules(),
        "only": AddOnRules(only_with=True),
        "dye": AddOnRules(service_ids=["colour"]),
    }
    part = packages_pb2.PackageService(service_id="cut", add_on_ids=["mask", "only"])
    assert catalogue_checks.combination_errors("services[0]", part, rules) == []
    part = packages_pb2.PackageService(service_id="only", add_on_ids=["cut", "mask", "dye"])
    assert told(catalogue_checks.combination_errors("services[0]", part, rules)) == [
        ("services[0].service_id", "alone"),
        ("services[0].add_on_ids[0]", "elsewhere"),
        ("services[0].add_on_ids[2]", "elsewhere"),
    ]
