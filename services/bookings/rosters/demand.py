"""How many people are needed when: from what was set for a branch, and from its bookings of the last weeks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import asyncpg
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.db import prepare_sql
from chassis.unit import Unit
from services.bookings import calendar
from services.bookings.board import Board
from services.bookings.calendar import DAY_MINUTES
from services.bookings.rosters.problem import Slot

HISTORY_WEEKS = 8
SLOT_MINUTES = 30
PRODUCTIVITY_PERCENT = 80
TOLERATED = 0.1
"""A tenth of a person more than there is does not make another one needed."""
LONGEST_MINUTES = 2 * DAY_MINUTES

# What was booked, by service, weekday and time of the day: a booking that was held only, or called off, was no work.
READ_HISTORY = prepare_sql(
    """
select service_id, extract(isodow from starts_at at time zone $3::text)::integer as weekday,
  (extract(hour from starts_at at time zone $3::text) * 60
    + extract(minute from starts_at at time zone $3::text))::integer as start_minutes,
  (extract(epoch from ends_at - starts_at) / 60)::integer as length_minutes, count(*)::integer as bookings
from bookings
where chain_id = $1::uuid and branch_id = $2::uuid and starts_at >= $4::timestamptz and starts_at < $5::timestamptz
  and status in ('confirmed', 'checked_in', 'in_service', 'completed', 'no_show')
group by 1, 2, 3, 4
limit 100000
""",
    "chain_id",
    "branch_id",
    "zone",
    "since",
    "until",
    name="select_bookings_history",
)

Needs = dict[tuple[int, int, str], int]
"""(day, minutes after midnight, skill) → how many; the empty skill is anybody."""


@dataclass(frozen=True, slots=True)
class Period:
    """The days of a roster, as a branch has them."""

    first_day: int
    days: int
    zone: str
    weekdays: Mapping[int, int]
    """Day → the weekday it follows."""
    holidays: frozenset[int]
    slot_minutes: int

    @classmethod
    def of(cls, board: Board, from_date: date, weeks: int, slot_minutes: int) -> Period:
        """The period of some weeks from a day on."""
        first_day = (from_date - calendar.EPOCH).days
        swapped = dict(board.swapped)
        days = range(first_day, first_day + weeks * 7)
        weekdays = {day: swapped.get(day, calendar.date_of(day).isoweekday()) for day in days}
        return cls(first_day, weeks * 7, board.time_zone, weekdays, holidays_of(board), slot_minutes)

    @property
    def last_day(self) -> int:
        """The day after the last one."""
        return self.first_day + self.days


def holidays_of(board: Board) -> frozenset[int]:
    """Days a branch is closed."""
    return frozenset(calendar.days_of(day) for day in board.holidays.split(",") if day)


# --- what was set ---


def given(rules: Sequence[pb.DemandRule], period: Period) -> Needs:
    """What the rules of a branch ask for; on a day it is closed only those that name dates."""
    found: Needs = {}
    for day, weekday in period.weekdays.items():
        fitting = [rule for rule in rules if _fits(rule, day, weekday)]
        dated = [rule for rule in fitting if rule.HasField("from_date")]
        for rule in dated or ([] if day in period.holidays else fitting):
            start, end = calendar.parse_time(rule.start_time), calendar.parse_time(rule.end_time)
            for minute in _grid(start, end if end > start else end + DAY_MINUTES, period.slot_minutes):
                key = (day + minute // DAY_MINUTES, minute % DAY_MINUTES, rule.skill)
                found[key] = max(found.get(key, 0), rule.wanted)
    return found


def _fits(rule: pb.DemandRule, day: int, weekday: int) -> bool:
    if rule.weekdays and weekday not in rule.weekdays:
        return False
    if not rule.HasField("from_date"):
        return True
    return calendar.days_of(rule.from_date) <= day <= calendar.days_of(rule.until_date)


def _grid(start: int, end: int, slot_minutes: int) -> range:
    """The slots that a stretch touches, by their starts."""
    return range(start // slot_minutes * slot_minutes, end, slot_minutes)


# --- what the past lets expect ---


async def history(unit: Unit, board: Board, period: Period, weeks: int, productivity_percent: int) -> tuple[Needs, int]:
    """What was booked in the last weeks, laid on the days of a period, and how many bookings that were."""
    zone = calendar.zone_of(board.time_zone)
    today = calendar.local_today(unit.now, board.time_zone)
    first = today - timedelta(weeks=weeks)
    rows = await unit.all(
        READ_HISTORY,
        branch_id=board.branch_id,
        zone=board.time_zone,
        since=calendar.local_moment(first, 0, zone),
        until=calendar.local_moment(today, 0, zone),
    )
    looked_at = range((first - calendar.EPOCH).days, (today - calendar.EPOCH).days)
    open_days = [calendar.date_of(day).isoweekday() for day in looked_at if day not in period.holidays]
    minutes = busy_minutes(rows, skills_by_service(board), period.slot_minutes)
    return (
        expected(minutes, {day: open_days.count(day) for day in range(1, 8)}, period, productivity_percent),
        sum(row["bookings"] for row in rows),
    )


def skills_by_service(board: Board) -> dict[str, list[tuple[str, ...]]]:
    """For each service the skills of everybody it takes."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for service in board.services.values():
        if service.plan.roles or service.plan.resources:
            roles = [[tuple(role.skills)] * max(role.count, 1) for role in service.plan.roles]
            found[service.id] = [skills for role in roles for skills in role]
        else:
            found[service.id] = [service.required_skills]
    return found


Minutes = dict[tuple[int, int, str], int]
"""(weekday, minutes after midnight, skill) → minutes somebody was busy in that slot."""


def busy_minutes(
    rows: Iterable[asyncpg.Record | Mapping[str, Any]],
    skills: Mapping[str, Sequence[tuple[str, ...]]],
    slot_minutes: int,
) -> Minutes:
    """Minutes that people were busy, by weekday, slot and skill; everybody counts for the empty skill too."""
    found: Minutes = {}
    for row in rows:
        people = skills.get(str(row["service_id"]), [()])
        start = row["start_minutes"]
        end = start + min(row["length_minutes"], LONGEST_MINUTES)
        for slot in _grid(start, end, slot_minutes):
            busy = (min(end, slot + slot_minutes) - max(start, slot)) * row["bookings"]
            weekday = (row["weekday"] - 1 + slot // DAY_MINUTES) % 7 + 1
            for needed in people:
                for skill in ("", *needed):
                    key = (weekday, slot % DAY_MINUTES, skill)
                    found[key] = found.get(key, 0) + busy
    return found


def expected(minutes: Minutes, open_days: Mapping[int, int], period: Period, productivity_percent: int) -> Needs:
    """How many people that takes on the days of a period, when customers fill so much of their time at best."""
    found: Needs = {}
    by_weekday: dict[int, list[tuple[int, str, int]]] = {}
    for (weekday, slot, skill), busy in minutes.items():
        if open_days[weekday]:
            people = busy / open_days[weekday] / period.slot_minutes / (productivity_percent / 100)
            by_weekday.setdefault(weekday, []).append((slot, skill, math.ceil(people - TOLERATED)))
    for day, weekday in period.weekdays.items():
        if day not in period.holidays:
            found |= {(day, slot, skill): count for slot, skill, count in by_weekday.get(weekday, ()) if count > 0}
    return found


# --- together ---


def larger(first: Needs, second: Needs) -> Needs:
    """The larger need of each slot."""
    return {key: max(first.get(key, 0), second.get(key, 0)) for key in {*first, *second}}


def slots(needs: Needs, period: Period) -> tuple[Slot, ...]:
    """Needs as stretches of real time; slots that the clocks skip are none."""
    zone = calendar.zone_of(period.zone)
    found = []
    for (day, minute, skill), wanted in sorted(needs.items()):
        if wanted > 0 and period.first_day <= day < period.last_day:
            local_day = calendar.date_of(day)
            first = calendar.first_step(calendar.local_moment(local_day, minute, zone))
            last = calendar.first_step(calendar.local_moment(local_day, minute + period.slot_minutes, zone))
            if first < last:
                found.append(Slot(day, first, last, skill, wanted))
    return tuple(found)


async def needs(
    unit: Unit, board: Board, period: Period, rules: Sequence[pb.DemandRule], request: pb.CreateRosterRequest
) -> Needs:
    """How many people a roster needs, from where its request says."""
    source = request.demand or pb.DEMAND_SOURCE_GIVEN
    wanted = given(rules, period) if source != pb.DEMAND_SOURCE_HISTORY else {}
    if source == pb.DEMAND_SOURCE_GIVEN:
        return wanted
    weeks = request.history_weeks or HISTORY_WEEKS
    before, _ = await history(unit, board, period, weeks, request.productivity_percent or PRODUCTIVITY_PERCENT)
    return larger(wanted, before)
