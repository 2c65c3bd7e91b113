"""What a service costs: at a branch, on a day, with a person; and what part of a package's price is whose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from foyer.bookings.v1 import catalogue_pb2

from chassis.money import split_in_proportion
from services.bookings import calendar
from services.bookings.board import Board, Offered, Person


def price_amount(
    board: Board, service: Offered, add_ons: Iterable[Offered], lead: Person | None, starts_at: datetime
) -> int:
    """The price of a service with its add-ons, in minor units.

    The price the leading person has of their own, else that of the first rule that fits, else the branch's. `starts_at`
    is taken in the branch's local time. Add-ons cost by their own rules.
    """
    return _own(board, service, lead, starts_at) + sum(_own(board, add_on, lead, starts_at) for add_on in add_ons)


def _own(board: Board, service: Offered, lead: Person | None, starts_at: datetime) -> int:
    terms = lead.terms.get(service.id) if lead is not None else None
    if terms is not None and terms.HasField("price"):
        return terms.price.amount
    base = service.branch_price_amount
    if service.price_rules:
        local = starts_at.astimezone(calendar.zone_of(board.time_zone))
        for rule in service.price_rules:
            if _fits_place(rule, board, lead) and _fits_time(rule, local):
                return rule.price.amount if rule.HasField("price") else percent_of(base, rule.percent)
    return base


def percent_of(amount: int, percent: int) -> int:
    """Percent of an amount in minor units, rounded half up."""
    return (amount * percent * 2 + 100) // 200


def _fits_place(rule: catalogue_pb2.PriceRule, board: Board, lead: Person | None) -> bool:
    grade = lead.grade if lead is not None else 0
    return grade >= rule.min_grade and (not rule.branch_ids or board.branch_id in rule.branch_ids)


def _fits_time(rule: catalogue_pb2.PriceRule, local: datetime) -> bool:
    """Whether a rule holds at a local time; its texts (ISO days, HH:MM) compare as they sort."""
    day, time = local.date().isoformat(), local.strftime("%H:%M")
    return not (
        (rule.from_date and day < rule.from_date)
        or (rule.until_date and day > rule.until_date)
        or (rule.weekdays and local.isoweekday() not in rule.weekdays)
        or (rule.from_time and time < rule.from_time)
        or (rule.until_time and time >= rule.until_time)
    )


def depends_on_time(board: Board, service: Offered, lead: Person | None, today: str) -> bool:
    """Whether the price of a service with a person is not the same at all times from `today` (YYYY-MM-DD) on."""
    terms = lead.terms.get(service.id) if lead is not None else None
    if terms is not None and terms.HasField("price"):
        return False
    for rule in service.price_rules:
        is_over = bool(rule.until_date) and rule.until_date < today
        if is_over or not _fits_place(rule, board, lead):
            continue
        has_begun = not rule.from_date or rule.from_date <= today
        is_limited = rule.until_date or rule.weekdays or rule.from_time or rule.until_time
        return bool(is_limited) or not has_begun
    return False


def deposit_amount(service: Offered, price: int) -> int:
    """The deposit a service asks for at a price, in minor units; 0 for none. Percent round half up."""
    if service.deposit_percent is not None:
        return percent_of(price, service.deposit_percent)
    return min(service.deposit_amount or 0, price)


def divide(price: int, alone: Sequence[int]) -> list[int]:
    """A package's price over its parts by what each costs alone, exact to the minor unit.

    What rounding leaves goes to the largest remainders, the earlier first. Parts that cost nothing alone share evenly.
    """
    return split_in_proportion(price, list(alone) if any(alone) else [1] * len(alone))
