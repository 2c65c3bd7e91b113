"""What is wrong with what a service, a package or a person's terms say. Values in, errors out, all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date

from foyer.bookings.v1 import catalogue_pb2, packages_pb2
from foyer.common.v1.common_pb2 import Money

from chassis.errors import FieldError
from services.bookings import domain

DEFAULT_NEED = "staff"
"""The one need of a plan that names none."""


def plan_errors(
    plan: catalogue_pb2.ServicePlan,
    duration_minutes: int,
    *,
    field: str = "plan",
    duration_field: str = "plan.segments",
) -> list[FieldError]:
    """What is wrong with a plan; `duration_field` names what is to blame when its parts do not fill the service."""
    errors = _need_errors(plan, field)
    names = need_names(plan)
    used: set[str] = set()
    for index, segment in enumerate(plan.segments):
        path = f"{field}.segments[{index}]"
        errors += domain.step_errors([(f"{path}.duration_minutes", segment.duration_minutes)])
        errors += domain.repeated_errors(f"{path}.uses", segment.uses)
        errors += [
            FieldError(
                f"{path}.uses[{position}]", "unknown", "is not a role or resource of the plan", "方案中没有此角色或资源"
            )
            for position, name in enumerate(segment.uses)
            if name not in names
        ]
        used |= set(segment.uses) if segment.uses or segment.idle else set(names)
    if plan.segments:
        errors += [
            FieldError(path, "unused", "is used by no segment", "没有任何环节使用")
            for name, path in _paths(plan, field).items()
            if name not in used
        ]
        total = sum(segment.duration_minutes for segment in plan.segments)
        if total != duration_minutes:
            message = f"must sum to the length of the service, {duration_minutes} minutes, not {total}"
            zh = f"各环节时长合计应等于服务时长 {duration_minutes} 分钟，现为 {total} 分钟"
            errors.append(FieldError(duration_field, "sum", message, zh))
    errors += domain.repeated_errors(
        f"{field}.materials", [material.stock_item_id.lower() for material in plan.materials]
    )
    return errors


def need_names(plan: catalogue_pb2.ServicePlan) -> list[str]:
    """Names of the roles, then the resources of a plan."""
    return [role.name for role in plan.roles] + [need.name for need in plan.resources] or [DEFAULT_NEED]


def _paths(plan: catalogue_pb2.ServicePlan, field: str) -> dict[str, str]:
    """Each need with the field that names it."""
    paths = {need.name: f"{field}.resources[{index}].name" for index, need in enumerate(plan.resources)}
    paths |= {role.name: f"{field}.roles[{index}].name" for index, role in enumerate(plan.roles)}
    return paths or {DEFAULT_NEED: f"{field}.segments"}


def _need_errors(plan: catalogue_pb2.ServicePlan, field: str) -> list[FieldError]:
    errors = []
    seen: set[str] = set()
    lists = (("roles", [role.name for role in plan.roles]), ("resources", [need.name for need in plan.resources]))
    for kind, names in lists:
        for index, name in enumerate(names):
            if name in seen:
                message = "another role or resource has this name"
                errors.append(FieldError(f"{field}.{kind}[{index}].name", "repeated", message, "与其他角色或资源重名"))
            seen.add(name)
    for index, role in enumerate(plan.roles):
        errors += domain.repeated_errors(f"{field}.roles[{index}].skills", role.skills)
    for index, need in enumerate(plan.resources):
        path = f"{field}.resources[{index}]"
        errors += domain.step_errors(
            [
                (f"{path}.buffer_before_minutes", need.buffer_before_minutes),
                (f"{path}.buffer_after_minutes", need.buffer_after_minutes),
            ]
        )
    return errors


def price_rule_errors(rules: catalogue_pb2.PriceRules, currency: str, field: str = "price_rules") -> list[FieldError]:
    """What is wrong with price rules, for a chain of a currency."""
    errors: list[FieldError] = []
    for index, rule in enumerate(rules.rules):
        path = f"{field}.rules[{index}]"
        if rule.HasField("price") == rule.HasField("percent"):
            message = "must say a price or a percentage, not both"
            errors.append(FieldError(f"{path}.price", "one_of", message, "价格与百分比应填写且只填写一项"))
        if rule.HasField("price"):
            errors += domain.money_errors(f"{path}.price", rule.price, currency)
        errors += domain.repeated_errors(f"{path}.branch_ids", [branch.lower() for branch in rule.branch_ids])
        errors += _date_errors(rule, path)
        if rule.from_time and rule.until_time and rule.from_time >= rule.until_time:
            message = "must be after `from_time`: use two rules for a night"
            errors.append(FieldError(f"{path}.until_time", "order", message, "应晚于 from_time；跨夜请分成两条规则"))
    return errors


def _date_errors(rule: catalogue_pb2.PriceRule, path: str) -> list[FieldError]:
    errors = []
    days: dict[str, date] = {}
    for name, text in (("from_date", rule.from_date), ("until_date", rule.until_date)):
        if not text:
            continue
        try:
            days[name] = date.fromisoformat(text)
        except ValueError:
            errors.append(FieldError(f"{path}.{name}", "date", "is not a day of the calendar", "不是有效日期"))
    if days.get("from_date", date.min) > days.get("until_date", date.max):
        errors.append(FieldError(f"{path}.until_date", "order", "must not be before `from_date`", "不应早于 from_date"))
    return errors


def offer_errors(offer: catalogue_pb2.OfferRules, field: str = "offer") -> list[FieldError]:
    """What is wrong with how a service is offered."""
    return [
        *domain.repeated_errors(f"{field}.channels", offer.channels),
        *domain.repeated_errors(f"{field}.start_times", offer.start_times),
    ]


def add_on_errors(add_on: catalogue_pb2.AddOnRules, field: str = "add_on") -> list[FieldError]:
    """What is wrong with what an add-on goes with."""
    return domain.repeated_errors(f"{field}.service_ids", [identifier.lower() for identifier in add_on.service_ids])


def term_errors(terms: Sequence[catalogue_pb2.StaffTerms], currency: str, field: str = "terms") -> list[FieldError]:
    """What is wrong with a person's terms, for a chain of a currency."""
    errors = [
        FieldError(f"{error.field}.service_id", error.code, error.message, error.message_zh)
        for error in domain.repeated_errors(field, [each.service_id.lower() for each in terms])
    ]
    for index, each in enumerate(terms):
        errors += domain.step_errors([(f"{field}[{index}].duration_minutes", each.duration_minutes)])
        if each.HasField("price"):
            errors += domain.money_errors(f"{field}[{index}].price", each.price, currency)
        if not each.HasField("price") and not each.HasField("duration_minutes"):
            message = "must say another time, another price, or both"
            errors.append(FieldError(f"{field}[{index}]", "empty", message, "应填写时长或价格"))
    return errors


def branch_price_errors(prices: Iterable[tuple[str, Money]], field: str, currency: str) -> list[FieldError]:
    """What is wrong with prices at branches."""
    listed = list(prices)
    errors: list[FieldError] = []
    for index, (_, price) in enumerate(listed):
        errors += domain.money_errors(f"{field}[{index}].price", price, currency)
    errors += [
        FieldError(f"{error.field}.branch_id", error.code, error.message, error.message_zh)
        for error in domain.repeated_errors(field, [branch_id.lower() for branch_id, _ in listed])
    ]
    return errors


def combination_errors(
    field: str, part: packages_pb2.PackageService, rules: Mapping[str, catalogue_pb2.AddOnRules | None]
) -> list[FieldError]:
    """What is wrong with a service of a package and its add-ons, by the add-on rules of all of them."""
    errors = []
    service_id = part.service_id.lower()
    own = rules[service_id]
    if own is not None and own.only_with:
        message = "is only sold together with another service"
        errors.append(FieldError(f"{field}.service_id", "alone", message, "该项目只能随其他服务一起购买"))
    for index, identifier in enumerate(part.add_on_ids):
        rule = rules[identifier.lower()]
        if rule is None or (rule.service_ids and service_id not in rule.service_ids):
            message = "does not go with this service"
            errors.append(FieldError(f"{field}.add_on_ids[{index}]", "elsewhere", message, "不适用于此服务"))
    return errors
