from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.bookings import calendar

# Ordinary ones, :30 and :45, a half-hour of daylight saving, midnights that the clocks skip, and a day that never was.
ZONES = (
    "Asia/Shanghai",
    "America/Toronto",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "America/Havana",
    "Asia/Beirut",
    "Pacific/Apia",
    "America/St_Johns",
)
FIVE = timedelta(minutes=5)


def first_showing(day: date, minutes: int, zone: str) -> datetime:
    """The definition, by looking at the clock every five minutes from two days before."""
    wanted = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)  # noqa: DTZ001
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=2)
    while moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) < wanted:
        moment += FIVE
    return moment


@given(
    st.sampled_from(ZONES),
    st.dates(date(2011, 1, 1), date(2027, 12, 31)),
    st.integers(0, 288).map(lambda steps: steps * 5),
)
def test_a_local_time_is_the_first_moment_the_clock_shows_it(zone: str, day: date, minutes: int) -> None:
    assert calendar.local_moment(day, minutes, ZoneInfo(zone)) == first_showing(day, minutes, zone)


@pytest.mark.parametrize(
    ("zone", "day", "minutes", "expected"),
    [
        ("America/Toronto", date(2026, 3, 8), 150, "2026-03-08T07:00:00+00:00"),  # 02:30 is skipped: the jump at 03:00
        ("America/Toronto", date(2026, 11, 1), 90, "2026-11-01T05:30:00+00:00"),  # 01:30 comes twice: the first
        ("America/Toronto", date(2026, 11, 1), 120, "2026-11-01T07:00:00+00:00"),
        ("America/Havana", date(2026, 3, 8), 0, "2026-03-08T05:00:00+00:00"),  # no midnight that day
        ("Asia/Kathmandu", date(2026, 5, 5), 540, "2026-05-05T03:15:00+00:00"),
        ("Pacific/Apia", date(2011, 12, 30), 600, "2011-12-30T10:00:00+00:00"),  # the whole day was skipped
    ],
)
def test_days_on_which_clocks_change(zone: str, day: date, minutes: int, expected: str) -> None:
    assert calendar.local_moment(day, minutes, ZoneInfo(zone)) == datetime.fromisoformat(expected)


def test_the_grid_is_the_same_in_every_zone() -> None:
    for name in sorted(available_timezones()):
        for month in (1, 4, 7, 10):
            offset = datetime(2026, month, 15, tzinfo=ZoneInfo(name)).utcoffset()
            assert offset is not None
            assert offset % timedelta(minutes=15) == timedelta(0), name


def test_a_week_has_one_text_form() -> None:
    week = calendar.format_week([(2, "22:00", "06:00"), (1, "09:00", "18:00"), (1, "09:00", "18:00")])
    assert week == "1 09:00-18:00, 2 22:00-06:00"
    assert calendar.split_week(week) == [(1, "09:00", "18:00"), (2, "22:00", "06:00")]
    assert calendar.parse_week(week) == ((1, 540, 1080), (2, 1320, 1800))
    assert calendar.split_week("") == []


def test_bitmaps_of_days() -> None:
    first = 20_000 * 288
    assert calendar.day_masks(first + 286, first + 290) == [(20_000, 0b11 << 286), (20_001, 0b11)]
    assert calendar.span(first - 5, first + 1000, 20_000, 1) == (1 << 288) - 1
    assert calendar.span(first + 300, first + 310, 20_000, 1) == 0
    assert calendar.grid(15, "UTC", 20_000, 1).bit_count() == 96


def test_moments_and_steps() -> None:
    moment = datetime(2026, 5, 1, 10, 5, tzinfo=UTC)
    assert calendar.is_on_step(moment)
    assert not calendar.is_on_step(moment + timedelta(microseconds=1))
    assert calendar.first_step(moment + timedelta(microseconds=1)) == calendar.last_step(moment) + 1
    assert calendar.moment_of(calendar.last_step(moment)) == moment
    assert calendar.date_of(calendar.day_number(moment)) == date(2026, 5, 1)
    assert calendar.local_today(datetime(2026, 5, 1, 20, tzinfo=UTC), "Asia/Shanghai") == date(2026, 5, 2)


def test_holidays_close_the_day_a_night_begins() -> None:
    week = calendar.format_week([(weekday, "22:00", "02:00") for weekday in range(1, 8)])
    day = calendar.day_number(datetime(2026, 5, 5, tzinfo=UTC))
    bitmap = calendar.opening_bitmap(week, "2026-05-05", (), "UTC", day, 2)
    assert bitmap == calendar.span(day * 288, day * 288 + 24, day, 2) | calendar.span(
        (day + 1) * 288 + 264, (day + 2) * 288, day, 2
    )


def test_the_local_day_of_a_moment() -> None:
    moment = datetime(2026, 3, 8, 15, tzinfo=UTC)
    first, last = calendar.local_day("America/Toronto", moment)
    assert last - first == 23 * 12
    assert calendar.moment_of(first) == datetime(2026, 3, 8, 5, tzinfo=UTC)
    days = calendar.local_days("America/Toronto", date(2026, 3, 7), date(2026, 3, 9))
    assert [(day.day, last - first) for day, first, last in days] == [(7, 288), (8, 276), (9, 288)]
    assert [first for _, first, _ in days[1:]] == [last for *_, last in days[:-1]]


GRIDS = (5, 10, 15, 20, 30, 45, 50, 60, 90, 240, 1440)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ZONES), st.dates(date(2011, 1, 1), date(2027, 12, 31)), st.sampled_from(GRIDS))
def test_starts_lie_where_the_clock_shows_them(zone: str, day: date, every: int) -> None:
    """A step is on the grid when the clock shows a time of it then, or jumps over one."""
    number = calendar.days_of(day.isoformat())
    expected = []
    for step in range(3 * 288):
        moment = calendar.moment_of(number * 288 + step)
        shown, before = (at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for at in (moment, moment - FIVE))
        passed = shown
        while passed > before + FIVE and passed.minute % 5 == 0 and (passed.hour * 60 + passed.minute) % every:
            passed -= FIVE
        if (passed.hour * 60 + passed.minute) % every == 0:
            expected.append(step)
    found = calendar.grid(every, zone, number, 3)
    assert [step for step in range(3 * 288) if found >> step & 1] == expected


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(ZONES),
    st.dates(date(2011, 1, 1), date(2027, 12, 31)),
    st.lists(st.integers(0, 287).map(lambda steps: steps * 5), max_size=4),
)
def test_fixed_times_come_once_a_day(zone: str, day: date, minutes: list[int]) -> None:
    number = calendar.days_of(day.isoformat())
    found = calendar.times_bitmap(tuple(minutes), zone, number, 2)
    days = [day + timedelta(days=more) for more in range(-2, 4)]
    steps = {
        calendar.last_step(first_showing(each, minute, zone)) - number * 288 for each in days for minute in minutes
    }
    assert [step for step in range(2 * 288) if found >> step & 1] == sorted(step for step in steps if 0 <= step < 576)


def test_days_that_follow_another_weekday() -> None:
    """A Saturday on which work is made up for follows Monday's plan (调休); what is dated comes before it."""
    week = calendar.format_week([(1, "09:00", "12:00"), (6, "14:00", "15:00")])
    saturday = calendar.days_of("2026-05-09")
    periods = ((0, 10**6, week),)

    def hours(dated: calendar.Days, swapped: tuple[tuple[int, int], ...]) -> float:
        return calendar.shift_bitmap(periods, dated, swapped, "UTC", saturday, 1).bit_count() / 12

    assert hours((), ()) == 1
    assert hours((), ((saturday, 1),)) == 3
    assert hours((), ((saturday, 2),)) == 0
    assert hours(((saturday, "6 08:00-08:30"),), ((saturday, 1),)) == 0.5
    assert hours(((saturday, ""),), ()) == 0
