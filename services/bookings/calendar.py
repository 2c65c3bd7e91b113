"""Weeks of local time as bitmaps of real time: shifts and opening hours, whatever the clocks do.

Time is counted in steps of five minutes. A bitmap is an integer whose bit n stands for the n-th step after the midnight
(UTC) of its first day. Every function here is pure: what it answers is kept by its arguments and never has to be
forgotten.

One rule settles all daylight saving: a local time means the first moment at which the local clock shows that time or a
later one. So a time that the clocks skip is the moment they jump, and of a time they show twice it is the first.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

STEP_SECONDS = 300
STEP_MINUTES = 5
DAY_STEPS = 288
DAY_MINUTES = 1440
EPOCH = date(1970, 1, 1)

Interval = tuple[int, int, int]
"""Weekday (1 is Monday), start and end in minutes after local midnight; an end above 1440 lies in the next day."""


def parse_time(text: str) -> int:
    """Minutes after midnight of HH:MM."""
    return int(text[:2]) * 60 + int(text[3:5])


def format_week(intervals: Sequence[tuple[int, str, str]]) -> str:
    """The one text form of a week of (weekday, HH:MM, HH:MM): `1 09:00-18:00, 2 22:00-06:00`; sorted, each once."""
    return ", ".join(f"{weekday} {start}-{end}" for weekday, start, end in sorted(set(intervals)))


def split_week(week: str) -> list[tuple[int, str, str]]:
    """The (weekday, HH:MM, HH:MM) of a week's text form."""
    return [(int(part[0]), part[2:7], part[8:13]) for part in week.split(", ")] if week else []


@functools.lru_cache(4096)
def parse_week(week: str) -> tuple[Interval, ...]:
    """The intervals of a week's text form. An interval that ends at or before its start ends on the next day."""
    intervals = []
    for weekday, start_text, end_text in split_week(week):
        start, end = parse_time(start_text), parse_time(end_text)
        intervals.append((weekday, start, end if end > start else end + DAY_MINUTES))
    return tuple(intervals)


@functools.lru_cache(1024)
def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises zoneinfo.ZoneInfoNotFoundError."""
    return ZoneInfo(name)


def local_moment(day: date, minutes: int, zone: ZoneInfo) -> datetime:
    """The first moment (UTC) at which clocks of the zone show `minutes` after midnight of `day`, or later."""
    wanted = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)  # noqa: DTZ001 a local time
    moment = wanted.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wanted:
        return moment
    # The clocks skip it. PEP 495: with fold=0 it comes out after the jump, with fold=1 before; the jump is in between.
    before = int(wanted.replace(tzinfo=zone, fold=1).timestamp())
    after = int(moment.timestamp())
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) >= wanted:
            after = middle
        else:
            before = middle
    return datetime.fromtimestamp(after, UTC)


def first_step(moment: datetime) -> int:
    """The first step since 1970 that begins at or after a moment."""
    return -(-_microseconds(moment) // (STEP_SECONDS * 1_000_000))


def last_step(moment: datetime) -> int:
    """The step since 1970 that a moment lies in or begins."""
    return _microseconds(moment) // (STEP_SECONDS * 1_000_000)


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def is_on_step(moment: datetime) -> bool:
    """Whether a moment lies on a step of five minutes."""
    return _microseconds(moment) % (STEP_SECONDS * 1_000_000) == 0


def day_number(moment: datetime) -> int:
    """Days since 1970 of a moment's day in UTC."""
    return _microseconds(moment) // 86_400_000_000


def date_of(day: int) -> date:
    """The date of a day since 1970."""
    return EPOCH + timedelta(days=day)


@functools.lru_cache(65536)
def intervals_of_day(week: str, zone_name: str, day: int, weekday: int) -> tuple[tuple[int, int], ...]:
    """What a week says of `weekday`, laid on a local day: first and last step (exclusive), rounded inwards."""
    local_day = date_of(day)
    zone = zone_of(zone_name)
    found = []
    for interval_weekday, start, end in parse_week(week):
        if interval_weekday == weekday:
            first = first_step(local_moment(local_day, start, zone))
            last = last_step(local_moment(local_day, end, zone))
            if first < last:
                found.append((first, last))
    return tuple(found)


def span(first: int, last: int, first_day: int, days: int) -> int:
    """The bitmap of the steps from `first` to before `last` (since 1970), cut to the days it covers."""
    base = first_day * DAY_STEPS
    start = max(first - base, 0)
    end = min(last - base, days * DAY_STEPS)
    return ((1 << (end - start)) - 1) << start if start < end else 0


ALWAYS = format_week([(weekday, "00:00", "24:00") for weekday in range(1, 8)])


@functools.lru_cache(2048)
def opening_bitmap(
    opening_hours: str | None,
    holidays: str,
    swapped: tuple[tuple[int, int], ...],
    zone_name: str,
    first_day: int,
    days: int,
) -> int:
    """When a branch is open: its week (None: always) without its holidays; a night belongs to the day it begins."""
    closed = tuple((days_of(day), "") for day in holidays.split(",")) if holidays else ()
    week = ALWAYS if opening_hours is None else opening_hours
    return shift_bitmap(((-1_000_000, 1_000_000, week),), closed, swapped, zone_name, first_day, days)


def days_of(text: str) -> int:
    """Days since 1970 of YYYY-MM-DD."""
    return (date.fromisoformat(text) - EPOCH).days


@functools.lru_cache(1024)
def parse_swapped(text: str) -> tuple[tuple[int, int], ...]:
    """The (day since 1970, weekday) of days that follow another weekday's plan, from YYYY-MM-DD:N with commas."""
    return tuple((days_of(part[:10]), int(part[11:])) for part in text.split(",")) if text else ()


def local_day(zone_name: str, moment: datetime) -> tuple[int, int]:
    """First step, and the step after the last (since 1970), of the local day that a moment lies in."""
    return _local_day(zone_name, local_today(moment, zone_name))


@functools.lru_cache(4096)
def _local_day(zone_name: str, day: date) -> tuple[int, int]:
    zone = zone_of(zone_name)
    return first_step(local_moment(day, 0, zone)), first_step(local_moment(day, DAY_MINUTES, zone))


def local_today(moment: datetime, zone_name: str) -> date:
    """The day a zone's calendars show at a moment."""
    return moment.astimezone(zone_of(zone_name)).date()


def moment_of(step: int) -> datetime:
    """The moment (UTC) a step since 1970 begins."""
    return datetime.fromtimestamp(step * STEP_SECONDS, UTC)


def day_masks(first: int, last: int) -> list[tuple[int, int]]:
    """Steps from `first` to before `last` (since 1970) as (day, bitmap of that day), in order."""
    days = range(first // DAY_STEPS, (last - 1) // DAY_STEPS + 1)
    return [(day, span(first, last, day, 1)) for day in days]


Days = tuple[tuple[int, str], ...]
"""Local days (since 1970) with the week text that holds on them instead; sorted by day."""


@functools.lru_cache(8192)
def shift_bitmap(
    periods: tuple[tuple[int, int, str], ...],
    dated: Days,
    swapped: tuple[tuple[int, int], ...],
    zone_name: str,
    first_day: int,
    days: int,
) -> int:
    """When a person works, over `days` UTC days from `first_day`.

    `periods` are weekly plans as (first day, last day, week), `dated` are single days that follow a text of their own,
    and `swapped` are (day, weekday): days that follow the plan of another weekday. What is dated comes first.
    """
    own = dict(dated)
    other = dict(swapped)
    bitmap = 0
    for day in range(first_day - 2, first_day + days + 2):
        weekday = other.get(day, date_of(day).isoweekday())
        if day in own:
            weeks, weekday = [own[day]], date_of(day).isoweekday()
        else:
            weeks = [week for from_day, until_day, week in periods if from_day <= day <= until_day]
        for week in weeks:
            for first, last in intervals_of_day(week, zone_name, day, weekday):
                bitmap |= span(first, last, first_day, days)
    return bitmap


@functools.lru_cache(1024)
def grid(step_minutes: int, zone_name: str, first_day: int, days: int) -> int:
    """Starts every `step_minutes` from local midnight on, counted in what the clock shows, over `days` UTC days.

    Of an hour that the clock shows twice both have them; where it jumps over one, the moment of the jump is one.
    """
    bitmap = times_bitmap(tuple(range(0, DAY_MINUTES, step_minutes)), zone_name, first_day, days)
    zone = zone_of(zone_name)
    for day in range(first_day - 2, first_day + days + 2):
        first, last = _local_day(zone_name, date_of(day))
        if last - first > DAY_STEPS:
            for step in range(first, last):
                local = moment_of(step).astimezone(zone)
                if (local.hour * 60 + local.minute) % step_minutes == 0:
                    bitmap |= span(step, step + 1, first_day, days)
    return bitmap


@functools.lru_cache(1024)
def times_bitmap(minutes: tuple[int, ...], zone_name: str, first_day: int, days: int) -> int:
    """The steps at which the local clock first shows each of these times (minutes after midnight), over UTC days."""
    bitmap = 0
    for day in range(first_day - 2, first_day + days + 2):
        midnight, times = _times_of_day(minutes, zone_name, day)
        shift = midnight - first_day * DAY_STEPS
        bitmap |= times << shift if shift >= 0 else times >> -shift
    return bitmap & (1 << days * DAY_STEPS) - 1


@functools.lru_cache(16384)
def _times_of_day(minutes: tuple[int, ...], zone_name: str, day: int) -> tuple[int, int]:
    """The first step of a local day, and the bitmap of times from there on."""
    local_day = date_of(day)
    first, last = _local_day(zone_name, local_day)
    if last - first == DAY_STEPS:
        return first, _plain_times(minutes)
    zone = zone_of(zone_name)
    bitmap = 0
    for minute in minutes:
        bitmap |= 1 << first_step(local_moment(local_day, minute, zone)) - first
    return first, bitmap


@functools.lru_cache(256)
def _plain_times(minutes: tuple[int, ...]) -> int:
    """Times of a day on which the clocks do not change."""
    bitmap = 0
    for minute in minutes:
        bitmap |= 1 << -(-minute // STEP_MINUTES)
    return bitmap


def local_days(zone_name: str, first: date, last: date) -> list[tuple[date, int, int]]:
    """Local days from `first` to `last`, each with its first step and the step after its last one (since 1970)."""
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return [(day, *_local_day(zone_name, day)) for day in days]
