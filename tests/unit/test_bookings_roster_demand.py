"""How many people are needed when: rules, weekdays that are swapped, clocks that jump, and the past."""

from __future__ import annotations

from datetime import UTC, datetime

from foyer.bookings.v1 import rosters_pb2 as pb

from services.bookings import calendar
from services.bookings.rosters import demand, telling
from services.bookings.rosters.demand import Period
from services.bookings.rosters.inputs import of_week
from services.bookings.rosters.problem import Shift

MONDAY = 20577  # 2026-05-04
TUESDAY = MONDAY + 1


def period(days: int = 7, first_day: int = MONDAY, zone: str = "Asia/Shanghai", **more: object) -> Period:
    weekdays = {day: calendar.date_of(day).isoweekday() for day in range(first_day, first_day + days)}
    values: dict[str, object] = {"weekdays": weekdays, "holidays": frozenset(), "slot_minutes": 60, **more}
    return Period(first_day, days, zone, **values)  # type: ignore[arg-type]


def rule(start: str, end: str, wanted: int, *weekdays: int, **more: str) -> pb.DemandRule:
    return pb.DemandRule(start_time=start, end_time=end, wanted=wanted, weekdays=weekdays, **more)  # type: ignore[arg-type]


def test_of_rules_over_one_moment_the_largest_holds() -> None:
    found = demand.given(
        [rule("09:00", "12:00", 1), rule("10:30", "11:00", 3, 1), rule("10:00", "11:00", 2, 1)], period()
    )
    assert [found[MONDAY, hour * 60, ""] for hour in (9, 10, 11)] == [1, 3, 1]
    assert found[TUESDAY, 600, ""] == 1
    assert len(found) == 21


def test_dates_come_before_weekdays_and_open_a_closed_day() -> None:
    dated = {"from_date": "2026-05-05", "until_date": "2026-05-06"}
    rules = [rule("09:00", "11:00", 1), rule("14:00", "15:00", 2, 2, **dated)]
    found = demand.given(rules, period(holidays=frozenset({MONDAY, TUESDAY})))
    assert {key for key in found if key[0] <= TUESDAY + 1} == {
        (TUESDAY, 840, ""),
        (TUESDAY + 1, 540, ""),
        (TUESDAY + 1, 600, ""),
    }


def test_a_swapped_day_follows_its_weekday() -> None:
    found = demand.given([rule("09:00", "10:00", 1, 1)], period(weekdays={MONDAY: 1, TUESDAY: 1}))
    assert set(found) == {(MONDAY, 540, ""), (TUESDAY, 540, "")}


def test_a_night_belongs_to_two_days() -> None:
    found = demand.given([rule("23:00", "01:00", 1, 1)], period())
    assert set(found) == {(MONDAY, 1380, ""), (TUESDAY, 0, "")}


def test_slots_are_real_time_whatever_the_clocks_do() -> None:
    jump = (datetime(2026, 3, 29, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
    needs = demand.given([rule("00:00", "05:00", 1)], period(1, jump, "Europe/Berlin"))
    slots = demand.slots(needs, period(1, jump, "Europe/Berlin"))
    assert [calendar.moment_of(slot.first).hour for slot in slots] == [23, 0, 1, 2], "one of the five does not exist"
    assert sum(slot.last - slot.first for slot in slots) == 4 * 12
    # A shift over the jump is shorter, and reads the same afterwards.
    shift = of_week("Europe/Berlin", "7 00:00-05:00", jump)
    assert shift is not None
    assert shift.minutes == 240
    assert telling.week_of("Europe/Berlin", shift, None) == "7 00:00-05:00"
    assert telling.week_of("Asia/Shanghai", Shift(MONDAY, ((MONDAY * 288, MONDAY * 288 + 16 * 12),), 0), None) == (
        "1 08:00-24:00"
    )


def history(weekday: int, start: int, length: int, bookings: int, service: str = "s") -> dict[str, object]:
    return {
        "service_id": service,
        "weekday": weekday,
        "start_minutes": start,
        "length_minutes": length,
        "bookings": bookings,
    }


def test_the_past_is_averaged_over_the_days_that_were_open() -> None:
    skills = {"s": [("cut",)], "pair": [("massage",), ("massage",)]}
    rows = [history(1, 600, 90, 4), history(1, 630, 30, 2, "pair"), history(7, 1410, 60, 4)]
    minutes = demand.busy_minutes(rows, skills, 60)
    assert minutes[1, 600, "cut"] == 240
    assert minutes[1, 660, "cut"] == 120
    assert minutes[1, 600, "massage"] == 120, "two people each"
    assert minutes[1, 600, ""] == 360
    assert minutes[1, 0, "cut"] == 120, "a Sunday night reaches into Monday"
    weeks = dict.fromkeys(range(1, 8), 2)
    needs = demand.expected(minutes, weeks, period(), 100)
    assert needs[MONDAY, 600, ""] == 3
    assert needs[MONDAY, 660, "cut"] == 1
    assert demand.expected(minutes, weeks, period(), 50)[MONDAY, 600, ""] == 6
    assert not demand.expected(minutes, dict.fromkeys(range(1, 8), 0), period(), 100)
    closed = demand.expected(minutes, weeks, period(holidays=frozenset({MONDAY})), 100)
    assert {day for day, _, _ in closed} == {MONDAY + 6}
    assert demand.larger({(1, 0, ""): 2}, {(1, 0, ""): 1, (2, 0, ""): 1}) == {(1, 0, ""): 2, (2, 0, ""): 1}


def test_a_tenth_of_a_person_is_nobody() -> None:
    minutes = demand.busy_minutes([history(1, 600, 60, 21)], {"s": [()]}, 60)
    assert demand.expected(minutes, dict.fromkeys(range(1, 8), 10), period(), 100)[MONDAY, 600, ""] == 2
