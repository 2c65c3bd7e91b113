"""The dates a rule stands for, and their moments: values in, values out."""

from __future__ import annotations

import calendar as months
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

from foyer.bookings.v1 import series_pb2
from foyer.bookings.v1.series_pb2 import SeriesRule

from chassis.errors import FieldError
from services.bookings import calendar, domain

MOST_DATES = 104
FIFTH = 5


def rule_errors(rule: SeriesRule, first: date) -> list[FieldError]:
    """What contradicts itself in a rule whose first date is `first`. Raises Refusal INVALID_REQUEST for no date."""
    errors = []
    if not rule.HasField("count") and not rule.HasField("until_date"):
        errors.append(FieldError("rule.count", "required", "is required, or until_date is", "必填，或填写 until_date"))
    if rule.weekdays and rule.frequency != series_pb2.FREQUENCY_WEEKLY:
        errors.append(FieldError("rule.weekdays", "conflict", "is for weekly ones only", "仅适用于每周重复"))
    elif rule.weekdays and first.isoweekday() not in rule.weekdays:
        message = "must hold the weekday of starts_at"
        errors.append(FieldError("rule.weekdays", "start", message, "应包含 starts_at 当天的星期"))
    if rule.HasField("until_date"):
        last = domain.parse_date("rule.until_date", rule.until_date)
        if last < first:
            message = "must not be before the day of starts_at"
            errors.append(FieldError("rule.until_date", "order", message, "不应早于 starts_at 当天"))
        elif not errors and len(dates_of(rule, first)) > MOST_DATES:
            message = f"makes more than {MOST_DATES} dates"
            errors.append(FieldError("rule.until_date", "range", message, f"日期不应超过 {MOST_DATES} 个"))
    return errors


def dates_of(rule: SeriesRule, first: date) -> list[date]:
    """The local dates of a rule, in order; one more than there may be when there are too many."""
    most = rule.count if rule.HasField("count") else MOST_DATES + 1
    last = date.fromisoformat(rule.until_date) if rule.HasField("until_date") else domain.LATEST_DATE
    found: list[date] = []
    for day in _days(rule, first):
        if day > last or len(found) == most:
            break
        found.append(day)
    return found


def _days(rule: SeriesRule, first: date) -> Iterator[date]:
    interval = rule.interval or 1
    if rule.frequency == series_pb2.FREQUENCY_DAILY:
        yield from _every(first, interval)
    elif rule.frequency == series_pb2.FREQUENCY_WEEKLY:
        monday = first - timedelta(days=first.isoweekday() - 1)
        weekdays = sorted(rule.weekdays or [first.isoweekday()])
        for week in _every(monday, 7 * interval):
            for weekday in weekdays:
                day = week + timedelta(days=weekday - 1)
                if day >= first:
                    yield day
    else:
        by_date = rule.frequency == series_pb2.FREQUENCY_MONTHLY_BY_DATE
        for year, month in _months(first, interval):
            yield _same_date(year, month, first) if by_date else _same_weekday(year, month, first)


def _every(first: date, days: int) -> Iterator[date]:
    day = first
    while day <= domain.LATEST_DATE:
        yield day
        day += timedelta(days=days)


def _months(first: date, interval: int) -> Iterator[tuple[int, int]]:
    number = first.year * 12 + first.month - 1
    while number // 12 <= domain.LATEST_DATE.year:
        yield number // 12, number % 12 + 1
        number += interval


def _same_date(year: int, month: int, first: date) -> date:
    return date(year, month, min(first.day, months.monthrange(year, month)[1]))


def _same_weekday(year: int, month: int, first: date) -> date:
    """The first to fourth of a weekday in a month; a fifth one is the last, which every month has."""
    nth = (first.day - 1) // 7 + 1
    weekday_of_first, length = months.monthrange(year, month)
    day = 1 + (first.weekday() - weekday_of_first) % 7 + 7 * (nth - 1)
    if nth == FIFTH and day > length:
        day -= 7
    return date(year, month, day)


def starts_of(rule: SeriesRule, starts_at: datetime, zone_name: str) -> list[datetime]:
    """The moments (UTC) of a rule: each day at the local time of the first, whatever the clocks do.

    A time that the clocks skip is the moment they jump, of one they show twice it is the first; the first start stays
    as it was given.
    """
    zone = calendar.zone_of(zone_name)
    local = starts_at.astimezone(zone)
    minutes = local.hour * 60 + local.minute
    days = dates_of(rule, local.date())
    return [starts_at, *(calendar.local_moment(day, minutes, zone) for day in days[1:])]


def shifted(moments: Sequence[datetime], days: int, minutes: int | None, zone_name: str) -> list[datetime]:
    """Moments moved by local days, and to another local time in minutes after midnight where one is given."""
    zone = calendar.zone_of(zone_name)
    found = []
    for moment in moments:
        local = moment.astimezone(zone)
        own = local.hour * 60 + local.minute
        if days == 0 and minutes in (None, own):
            found.append(moment)
        else:
            wanted = own if minutes is None else minutes
            found.append(calendar.local_moment(local.date() + timedelta(days=days), wanted, zone))
    return found
