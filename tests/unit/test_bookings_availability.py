"""The bitmaps against a reference that looks at every moment by itself."""

from __future__ import annotations

import functools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from services.bookings import availability, calendar
from services.bookings.availability import Need, Person, Window

FIVE = timedelta(minutes=5)
ZONES = ("Asia/Shanghai", "America/Toronto", "Asia/Kathmandu", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Cairo")
DAYS = {  # around changes of the clocks where there are any
    "America/Toronto": (date(2026, 3, 8), date(2026, 11, 1)),
    "Australia/Lord_Howe": (date(2026, 4, 5), date(2026, 10, 4)),
    "Africa/Cairo": (date(2026, 4, 24), date(2026, 10, 29)),  # at midnight
}
Times = tuple[int, str, str]

clock = st.integers(0, 287).map(lambda step: f"{step // 12:02d}:{step % 12 * 5:02d}")
interval = st.tuples(st.integers(1, 7), clock, st.one_of(clock, st.just("24:00")))
week = st.lists(interval, max_size=10)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    zone = draw(st.sampled_from(ZONES))
    day = draw(st.sampled_from(DAYS.get(zone, (date(2026, 6, 10),)))) + timedelta(days=draw(st.integers(-1, 1)))
    return {
        "zone": zone,
        "day": day,
        "opening": draw(st.one_of(st.none(), week.filter(bool))),
        "holidays": draw(st.lists(st.integers(-1, 1).map(lambda days: day + timedelta(days=days)), max_size=1)),
        "need": (draw(st.integers(0, 6)), draw(st.integers(1, 40)), draw(st.integers(0, 6))),
        "weeks": draw(st.lists(st.tuples(week, st.integers(-3, 1)), min_size=1, max_size=3)),
        "busy": draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 575), st.integers(1, 30)), max_size=6)),
    }


@functools.lru_cache(100_000)
def latest_shown(moment: datetime, zone: str) -> datetime:
    """The latest local time that the clock shows at a moment or has shown before: it may have been set back."""
    return max((moment - back * FIVE).astimezone(ZoneInfo(zone)).replace(tzinfo=None) for back in range(30))


def shows(moment: datetime, day: date, minutes: int, zone: str) -> bool:
    """Whether the local clock shows this time, or a later one, at a moment or has shown it before."""
    wanted = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)  # noqa: DTZ001
    return latest_shown(moment, zone) >= wanted


def holds(times: list[Times], moment: datetime, zone: str, since: date, holidays: list[date]) -> bool:
    """Whether a moment lies in an interval of a week."""
    local = moment.astimezone(ZoneInfo(zone)).date()
    for day in (local - timedelta(days=1), local, local + timedelta(days=1)):
        if day in holidays or day < since:
            continue
        for weekday, start_text, end_text in times:
            start, end = calendar.parse_time(start_text), calendar.parse_time(end_text)
            end += 0 if end > start else 1440
            inside = shows(moment, day, start, zone) and not shows(moment, day, end, zone)
            if weekday == day.isoweekday() and inside:
                return True
    return False


@settings(max_examples=60, deadline=None)
@given(cases())
def test_as_the_reference_says(case: dict[str, object]) -> None:
    zone, day, opening, holidays, need_steps, weeks, busy = case.values()
    assert isinstance(zone, str)
    assert isinstance(day, date)
    need = Need(*need_steps)  # type: ignore[misc]
    base = datetime(day.year, day.month, day.day, tzinfo=UTC)
    window = Window(calendar.day_number(base), 2)
    opening_week = None if opening is None else calendar.format_week(opening)  # type: ignore[arg-type]
    text = ",".join(holiday.isoformat() for holiday in holidays)  # type: ignore[attr-defined]
    open_ = calendar.opening_bitmap(opening_week, text, zone, window.first_day, window.days)
    people = []
    for index, (times, since) in enumerate(weeks):  # type: ignore[arg-type, var-annotated]
        from_day = window.first_day + since
        works = calendar.week_bitmap(calendar.format_week(times), zone, from_day, 10**6, window.first_day, 2)
        taken = 0
        for person, first, length in busy:  # type: ignore[attr-defined]
            if person == index:
                taken |= window.span(window.first_step + first, window.first_step + first + length)
        people.append(Person(f"p{index}", works, taken))
    allowed = window.span(window.first_step, window.first_step + 576)
    found = availability.starts_of(people, need, open_, allowed)

    moments = [base + step * FIVE for step in range(576)]
    always = [(weekday, "00:00", "24:00") for weekday in range(1, 8)]
    is_open = [holds(opening or always, moment, zone, date.min, holidays) for moment in moments]  # type: ignore[arg-type]
    for index, (times, since) in enumerate(weeks):  # type: ignore[arg-type]
        works_at = [holds(times, moment, zone, day + timedelta(days=since), []) for moment in moments]
        taken_at = [people[index].busy >> step & 1 for step in range(576)]
        expected = []
        for start in range(576):
            occupied = range(start - need.before, start + need.duration + need.after)
            if occupied[0] < 0 or occupied[-1] >= 576:
                continue
            open_throughout = all(is_open[step] for step in range(start, start + need.duration))
            if open_throughout and all(works_at[step] and not taken_at[step] for step in occupied):
                expected.append(start)
        assert availability.steps_of(found.get(f"p{index}", 0)) == expected


@given(st.integers(0, 2**300), st.integers(1, 60))
def test_runs_of_free_steps(free: int, length: int) -> None:
    expected = sum(1 << step for step in range(300) if free >> step & ((1 << length) - 1) == (1 << length) - 1)
    assert availability.runs(free, length) & ((1 << 300) - 1) == expected


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 2**64), max_size=4), st.integers(1, 70))
def test_slots_name_everybody_who_could(starts: dict[str, int], limit: int) -> None:
    expected = []
    for step in range(65):
        names = [name for name, bitmap in starts.items() if bitmap >> step & 1]
        if names:
            expected.append((step, names))
    assert availability.by_step(starts, limit) == expected[:limit]


def test_the_fairest_choice_is_the_least_busy_then_the_first() -> None:
    people = [Person("b", 0, 0b111), Person("c", 0, 0b1), Person("a", 0, 0b10)]
    assert [person.id for person in availability.fairest_first(people, 0b11)] == ["a", "c", "b"]


def test_the_nearest_come_first() -> None:
    slots: list[tuple[int, list[str]]] = [(step, ["a"]) for step in (1, 4, 6, 10)]
    assert [step for step, _ in availability.nearest_first(slots, 5, 3)] == [4, 6, 1]


def test_a_window_covers_all_that_buffers_reach() -> None:
    start = datetime(2026, 5, 1, 1, tzinfo=UTC)
    window = Window.around(start, start + timedelta(hours=20))
    assert (calendar.date_of(window.first_day), window.days) == (date(2026, 4, 30), 3)
