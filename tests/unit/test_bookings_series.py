"""The dates of series: rules and clocks, without a database."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from foyer.bookings.v1 import series_pb2
from foyer.bookings.v1.series_pb2 import SeriesRule
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Refusal
from services.bookings.series.rule import MOST_DATES, dates_of, rule_errors, shifted, starts_of

DAILY, WEEKLY = series_pb2.FREQUENCY_DAILY, series_pb2.FREQUENCY_WEEKLY
BY_DATE, BY_WEEKDAY = series_pb2.FREQUENCY_MONTHLY_BY_DATE, series_pb2.FREQUENCY_MONTHLY_BY_WEEKDAY
MONDAY = date(2026, 5, 4)


def rule(frequency: Any, **more: Any) -> SeriesRule:
    return SeriesRule(frequency=frequency, **more)


def texts(found: list[date]) -> list[str]:
    return [day.isoformat() for day in found]


def test_days_and_weeks() -> None:
    assert texts(dates_of(rule(DAILY, count=3), MONDAY)) == ["2026-05-04", "2026-05-05", "2026-05-06"]
    assert texts(dates_of(rule(DAILY, interval=3, until_date="2026-05-11"), MONDAY)) == [
        "2026-05-04",
        "2026-05-07",
        "2026-05-10",
    ]
    assert texts(dates_of(rule(WEEKLY, interval=2, count=2), MONDAY)) == ["2026-05-04", "2026-05-18"]
    # From a Wednesday on: the Monday of that week is before the start.
    assert texts(dates_of(rule(WEEKLY, weekdays=[1, 3], count=4), date(2026, 5, 6))) == [
        "2026-05-06",
        "2026-05-11",
        "2026-05-13",
        "2026-05-18",
    ]
    assert texts(dates_of(rule(DAILY, count=9, until_date="2026-05-05"), MONDAY)) == ["2026-05-04", "2026-05-05"]


def test_months() -> None:
    assert texts(dates_of(rule(BY_DATE, count=4), date(2026, 12, 31))) == [
        "2026-12-31",
        "2027-01-31",
        "2027-02-28",
        "2027-03-31",
    ]
    assert texts(dates_of(rule(BY_DATE, interval=12, count=3), date(2024, 2, 29))) == [
        "2024-02-29",
        "2025-02-28",
        "2026-02-28",
    ]
    assert texts(dates_of(rule(BY_WEEKDAY, count=3), date(2026, 5, 12))) == ["2026-05-12", "2026-06-09", "2026-07-14"]
    # The fifth Friday; of months that have four, the last.
    assert texts(dates_of(rule(BY_WEEKDAY, count=4), date(2026, 5, 29))) == [
        "2026-05-29",
        "2026-06-26",
        "2026-07-31",
        "2026-08-28",
    ]


@given(
    frequency=st.sampled_from([DAILY, WEEKLY, BY_DATE, BY_WEEKDAY]),
    interval=st.integers(1, 12),
    count=st.integers(1, MOST_DATES),
    first=st.dates(date(1970, 1, 1), date(2100, 1, 1)),
)
def test_dates_ascend_and_keep_what_repeats(frequency: Any, interval: int, count: int, first: date) -> None:
    found = dates_of(rule(frequency, interval=interval, count=count), first)
    assert len(found) == count
    assert found[0] == first
    assert all(one < other for one, other in itertools.pairwise(found))
    if frequency in (WEEKLY, BY_WEEKDAY):
        assert {day.weekday() for day in found} == {first.weekday()}
    if frequency == BY_DATE:
        assert all(day.day == first.day or (day + timedelta(days=1)).day == 1 for day in found)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (rule(DAILY), "rule.count"),
        (rule(DAILY, count=2, weekdays=[1]), "rule.weekdays"),
        (rule(WEEKLY, count=2, weekdays=[2, 3]), "rule.weekdays"),
        (rule(DAILY, until_date="2026-05-03"), "rule.until_date"),
        (rule(DAILY, until_date="2026-08-16"), "rule.until_date"),  # one too many
    ],
)
def test_what_contradicts_itself(wrong: SeriesRule, field: str) -> None:
    assert [error.field for error in rule_errors(wrong, MONDAY)] == [field]


def test_a_day_that_no_calendar_has() -> None:
    with pytest.raises(Refusal):
        rule_errors(rule(DAILY, until_date="2026-02-30"), MONDAY)
    assert rule_errors(rule(DAILY, until_date="2026-08-15"), MONDAY) == []


def test_a_rule_ends_with_the_calendar() -> None:
    assert len(dates_of(rule(BY_DATE, interval=12, count=104), date(2998, 1, 1))) == 2
    assert len(dates_of(rule(WEEKLY, count=104), date(2999, 12, 30))) == 1


# --- clocks ---


def clock(moments: list[datetime], zone: str) -> list[str]:
    return [moment.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M %z") for moment in moments]


def local(zone: str, *parts: int, fold: int = 0) -> datetime:
    return datetime(*parts, tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)  # type: ignore[arg-type,misc]


def test_local_time_stays_when_the_clocks_change() -> None:
    zone = "Europe/Berlin"
    found = starts_of(rule(WEEKLY, count=3), local(zone, 2026, 3, 22, 10), zone)
    assert clock(found, zone) == ["03-22 10:00 +0100", "03-29 10:00 +0200", "04-05 10:00 +0200"]
    assert found[1] - found[0] == timedelta(days=7, hours=-1)


def test_a_time_that_the_clocks_skip_is_the_moment_they_jump() -> None:
    zone = "Europe/Berlin"
    found = starts_of(rule(DAILY, count=3), local(zone, 2026, 3, 28, 2, 30), zone)
    assert clock(found, zone) == ["03-28 02:30 +0100", "03-29 03:00 +0200", "03-30 02:30 +0200"]


def test_of_a_time_shown_twice_it_is_the_first_unless_the_start_is_the_second() -> None:
    zone = "America/New_York"
    found = starts_of(rule(DAILY, count=3), local(zone, 2026, 10, 31, 1, 30), zone)
    assert clock(found, zone) == ["10-31 01:30 -0400", "11-01 01:30 -0400", "11-02 01:30 -0500"]
    second = local(zone, 2026, 11, 1, 1, 30, fold=1)
    found = starts_of(rule(DAILY, count=2), second, zone)
    assert clock(found, zone) == ["11-01 01:30 -0500", "11-02 01:30 -0500"]


def test_zones_that_change_by_half_an_hour() -> None:
    zone = "Australia/Lord_Howe"
    found = starts_of(rule(DAILY, count=3), local(zone, 2026, 10, 3, 2, 15), zone)
    assert clock(found, zone) == ["10-03 02:15 +1030", "10-04 02:30 +1100", "10-05 02:15 +1100"]


def test_shifting_keeps_what_is_not_named() -> None:
    zone = "Europe/Berlin"
    starts = starts_of(rule(WEEKLY, count=3), local(zone, 2026, 3, 22, 10), zone)
    assert clock(shifted(starts, 0, 14 * 60, zone), zone) == [
        "03-22 14:00 +0100",
        "03-29 14:00 +0200",
        "04-05 14:00 +0200",
    ]
    assert clock(shifted(starts, -2, None, zone), zone) == [
        "03-20 10:00 +0100",
        "03-27 10:00 +0100",
        "04-03 10:00 +0200",
    ]
    second = local("America/New_York", 2026, 11, 1, 1, 30, fold=1)
    assert shifted([second], 0, None, "America/New_York") == [second]
