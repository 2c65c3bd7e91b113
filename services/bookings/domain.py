"""Decisions of bookings: what a state allows, why a time cannot be booked, what makes sense in a request.

Values in, values or a refusal out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from foyer.common.v1.common_pb2 import Money

from chassis.errors import FieldError, Refusal

STEP_MINUTES = 5
EARLIEST_DATE, LATEST_DATE = date(1970, 1, 1), date(2999, 12, 31)

# Step → the states it is possible in, and the state it leads to (None: the same).
STEPS: Mapping[str, tuple[frozenset[str], str | None]] = {
    "confirm": (frozenset({"held"}), "confirmed"),
    "renew": (frozenset({"held"}), None),
    "cancel": (frozenset({"held", "confirmed"}), "cancelled"),
    "reschedule": (frozenset({"held", "confirmed"}), None),
    "reassign": (frozenset({"held", "confirmed", "checked_in"}), None),
    "extend": (frozenset({"confirmed", "checked_in", "in_service"}), None),
    "check_in": (frozenset({"confirmed"}), "checked_in"),
    "start": (frozenset({"confirmed", "checked_in"}), "in_service"),
    # A front desk that is busy may forget the steps in between.
    "complete": (frozenset({"confirmed", "checked_in", "in_service"}), "completed"),
    "mark_no_show": (frozenset({"confirmed"}), "no_show"),
}

# Why a time cannot be booked: English and Chinese.
REASONS: Mapping[str, tuple[str, str]] = {
    "past": ("it is in the past", "时间已过"),
    "too_far": ("it is further ahead than can be booked", "超过可提前预约的期限"),
    "lead_time": ("it begins too soon to be booked", "距开始时间过近，已不可预约"),
    "off_grid": ("it does not begin at one of the offered times", "不是可预约的开始时间"),
    "orphan_gap": ("it would leave a gap that nobody can use", "会留下无法利用的空档"),
    "channel_closed": ("it is not offered through this channel", "该渠道不提供此服务"),
    "any_staff_only": ("through this channel nobody can be chosen", "该渠道不能指定员工"),
    "add_on_alone": ("it is only sold together with another service", "该项目只能随其他服务一起购买"),
    "add_on_elsewhere": ("this add-on does not go with this service", "该附加项目不适用于此服务"),
    "resource_none": ("there are not enough of the rooms or things it needs", "所需房间或物品数量不足"),
    "branch_closed_down": ("the branch is closed for good", "门店已停业"),
    "service_inactive": ("the service is no longer offered", "该服务已下架"),
    "service_elsewhere": ("the service is not offered at this branch", "该门店不提供此服务"),
    "package_inactive": ("the package is no longer offered", "该套餐已下架"),
    "package_elsewhere": ("the package is not offered at this branch", "该门店不提供此套餐"),
    "in_class": ("it is a seat in a class, which is led by whom the class has", "这是团课名额，授课人由团课决定"),
    "staff_left": ("this person no longer works here", "该员工已离职"),
    "staff_elsewhere": ("this person does not work at this branch", "该员工不在此门店"),
    "staff_unable": ("this person does not do this service", "该员工不提供此服务"),
    "closed": ("the branch is not open for the whole of it", "不在门店营业时间内"),
    "off_shift": ("this person does not work at that time", "该员工此时不上班"),
    "nobody": ("nobody who does this service works at that time", "此时没有可提供该服务的员工上班"),
}


def effective_status(status: str, expires_at: datetime | None, now: datetime) -> str:
    """The state as it is to be told: a hold that ran out has expired, whether or not somebody has tidied it up."""
    if status == "held" and expires_at is not None and expires_at <= now:
        return "expired"
    return status


def next_status(step: str, status: str) -> str:
    """The state a step leads to. Raises Refusal WRONG_STATE when it is not possible, or HOLD_EXPIRED."""
    allowed, leads_to = STEPS[step]
    if status not in allowed:
        if step in ("confirm", "renew") and status == "expired":
            raise Refusal("HOLD_EXPIRED")
        raise Refusal("WRONG_STATE", status=status)
    return leads_to or status


def notice_minutes(cancelled_at: datetime, starts_at: datetime) -> int:
    """Whole minutes between a cancellation and the start; negative when it was after."""
    return int((starts_at - cancelled_at) // timedelta(minutes=1))


def not_bookable(reason: str, nearest: Sequence[Any]) -> Refusal:
    """The refusal for a time that cannot be booked at all."""
    english, chinese = REASONS[reason]
    return Refusal("NOT_BOOKABLE", members={"nearest": list(nearest)}, reason=english, reason_zh=chinese)


def slot_taken(nearest: Sequence[Any]) -> Refusal:
    """The refusal for a time that somebody else has."""
    return Refusal("SLOT_TAKEN", members={"nearest": list(nearest)})


# --- fields ---


def step_errors(values: Iterable[tuple[str, int]]) -> list[FieldError]:
    """Minutes that are no multiple of five."""
    return [
        FieldError(field, "step", "must be in steps of 5 minutes", "应以 5 分钟为单位")
        for field, minutes in values
        if minutes % STEP_MINUTES
    ]


def money_errors(field: str, money: Money, currency: str) -> list[FieldError]:
    """What is wrong with a price: below zero, or in another currency than the chain's."""
    errors = []
    if money.amount < 0:
        errors.append(FieldError(f"{field}.amount", "range", "must be 0 or more", "应不小于 0"))
    if money.currency != currency:
        message = f"must be {currency}, the currency of the chain"
        errors.append(FieldError(f"{field}.currency", "currency", message, f"应为本连锁的币种 {currency}"))
    return errors


def repeated_errors(field: str, values: Sequence[str]) -> list[FieldError]:
    """Entries of a list that were there before."""
    seen: set[str] = set()
    errors = []
    for index, value in enumerate(values):
        if value in seen:
            errors.append(FieldError(f"{field}[{index}]", "repeated", "was named before", "重复"))
        seen.add(value)
    return errors


def off_step_error(field: str) -> FieldError:
    """A start that is not on a step."""
    return FieldError(field, "step", "must be on a step of 5 minutes", "应为 5 分钟的整数倍时刻")


def parse_date(field: str, text: str) -> date:
    """The day of YYYY-MM-DD. Raises Refusal INVALID_REQUEST for a day that no calendar has, or a far-off one."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise Refusal(
            "INVALID_REQUEST", errors=[FieldError(field, "date", "is not a day of the calendar", "不是有效日期")]
        ) from None
    if not EARLIEST_DATE <= day <= LATEST_DATE:
        raise Refusal(
            "INVALID_REQUEST",
            errors=[FieldError(field, "range", "must be from 1970 to 2999", "应在 1970 至 2999 年之间")],
        )
    return day
