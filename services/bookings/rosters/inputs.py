"""Reads all that a roster is made from, as it is now, into one problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.db import prepare, prepare_sql, uuid_type
from chassis.unit import Unit
from services.bookings import board as boards
from services.bookings import calendar
from services.bookings.board import Board, Person
from services.bookings.rosters import demand
from services.bookings.rosters.demand import Period
from services.bookings.rosters.models import roster_contracts, roster_demands, roster_wishes, shift_templates
from services.bookings.rosters.problem import STEP_MINUTES, Contract, Problem, Shift, Stretch, Weights, Wish
from services.bookings.rosters.problem import Person as Planned

DAYS_BEFORE = 15
"""So many days in a row can matter."""
DAYS_AFTER = 15
PAST_DAYS = 84
MOST_TAKEN = 100_000

_ids = sa.cast(sa.bindparam("ids"), sa.ARRAY(uuid_type()))
READ_TEMPLATES = prepare(
    sa.select(shift_templates)
    .where(
        shift_templates.c.chain_id == sa.bindparam("chain_id"),
        shift_templates.c.branch_id == sa.bindparam("branch_id"),
    )
    .order_by(shift_templates.c.id)
    .limit(500)
)
READ_CONTRACTS = prepare(
    sa.select(roster_contracts).where(
        roster_contracts.c.chain_id == sa.bindparam("chain_id"), roster_contracts.c.staff_id == sa.any_(_ids)
    )
)
READ_WISHES = prepare(
    sa.select(roster_wishes)
    .where(
        roster_wishes.c.chain_id == sa.bindparam("chain_id"),
        roster_wishes.c.staff_id == sa.any_(_ids),
        sa.or_(roster_wishes.c.day.is_(None), roster_wishes.c.day >= sa.bindparam("from_date", type_=sa.Date())),
    )
    .order_by(roster_wishes.c.id)
    .limit(5000)
)
READ_DEMAND = prepare(
    sa.select(roster_demands.c.demand, roster_demands.c.version).where(
        roster_demands.c.chain_id == sa.bindparam("chain_id"), roster_demands.c.branch_id == sa.bindparam("branch_id")
    )
)
# What people are taken for, by bookings and classes, and where.
READ_TAKEN = prepare_sql(
    """
select a.booking_id as id, a.resource_id as staff_id, a.starts_at, a.ends_at, c.id is not null as is_class,
  coalesce(b.branch_id, c.branch_id) as branch_id
from allocations a
left join bookings b on b.chain_id = $1::uuid and b.id = a.booking_id
left join class_sessions c on c.chain_id = $1::uuid and c.id = a.booking_id
where a.chain_id = $1::uuid and a.resource_id = any($2::uuid[])
  and a.starts_at > $3::timestamptz - interval '10 days' and a.starts_at < $4::timestamptz
  and a.ends_at > $3::timestamptz and (a.expires_at is null or a.expires_at > $5::timestamptz)
order by a.starts_at, a.booking_id, a.resource_id
limit $6::integer
""",
    "chain_id",
    "ids",
    "earliest",
    "latest",
    "now",
    "limit",
    name="select_allocations_of_staff",
)
READ_WEEKS = prepare_sql(
    """
select w.staff_id, w.branch_id, w.from_date, w.until_date, w.week, b.time_zone, b.holidays, b.swapped_days
from shifts w join branches b on b.chain_id = $1::uuid and b.id = w.branch_id
where w.chain_id = $1::uuid and w.staff_id = any($2::uuid[]) and w.from_date < $4::date
  and (w.until_date is null or w.until_date >= $3::date)
""",
    "chain_id",
    "ids",
    "first",
    "last",
)
READ_DATED = prepare_sql(
    """
select d.staff_id, d.branch_id, d.day, d.week, d.roster_id, s.minutes, s.is_late, s.shift_template_id, b.time_zone
from dated_shifts d
join branches b on b.chain_id = $1::uuid and b.id = d.branch_id
left join roster_shifts s on s.chain_id = $1::uuid and s.roster_id = d.roster_id and s.staff_id = d.staff_id
  and s.day = d.day
where d.chain_id = $1::uuid and d.staff_id = any($2::uuid[]) and d.day >= $3::date and d.day < $4::date
""",
    "chain_id",
    "ids",
    "first",
    "last",
)
READ_LEAVES = prepare_sql(
    """
select staff_id, starts_at, ends_at from leaves
where chain_id = $1::uuid and staff_id = any($2::uuid[]) and status = 'approved'
  and ends_at > $3::timestamptz and starts_at < $4::timestamptz
""",
    "chain_id",
    "ids",
    "earliest",
    "latest",
)
# What people had of published rosters at the branch.
READ_PAST = prepare_sql(
    """
select s.staff_id, count(*) filter (where extract(isodow from s.day) > 5)::integer as weekends,
  count(*) filter (where s.is_late)::integer as lates, sum(s.minutes)::integer as minutes
from roster_shifts s
join dated_shifts d on d.chain_id = $1::uuid and d.roster_id = s.roster_id and d.staff_id = s.staff_id
  and d.day = s.day and d.branch_id = $5::uuid
where s.chain_id = $1::uuid and s.staff_id = any($2::uuid[]) and s.day >= $3::date and s.day < $4::date
group by s.staff_id
""",
    "chain_id",
    "ids",
    "first",
    "last",
    "branch_id",
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A problem, and what it was read from."""

    board: Board
    problem: Problem
    templates: Mapping[str, asyncpg.Record]
    first: datetime
    """The moment the roster begins."""
    last: datetime
    """The moment after its last day."""


async def read(unit: Unit, roster: Mapping[str, Any] | asyncpg.Record) -> Inputs:
    """All that a roster is made from, as of now. Raises Absent for an unknown branch."""
    request = pb.CreateRosterRequest.FromString(roster["request"])
    board = await boards.of_branch(unit, roster["branch_id"])
    from_date, end_date = roster["from_date"], roster["end_date"]
    period = Period.of(board, from_date, roster["weeks"], request.slot_minutes or demand.SLOT_MINUTES)
    zone = calendar.zone_of(board.time_zone)
    first, last = calendar.local_moment(from_date, 0, zone), calendar.local_moment(end_date, 0, zone)
    ids = [identifier for identifier in roster["staff_ids"] if identifier in board.people]
    templates = {row["id"]: row for row in await unit.all(READ_TEMPLATES, branch_id=board.branch_id)}
    rules = await read_rules(unit, board.branch_id)
    slots = demand.slots(await demand.needs(unit, board, period, rules, request), period)
    closed = _closed(board, period, {slot.day for slot in slots})
    problem = Problem(
        first_day=period.first_day,
        days=period.days,
        people=tuple(await _people(unit, board, period, ids, first, last)),
        offered={
            day: () if day in closed else laid(board, templates.values(), day, weekday)
            for day, weekday in period.weekdays.items()
        },
        bounds={day: _bounds(board.time_zone, day) for day in range(period.first_day - 1, period.last_day + 1)},
        slots=slots,
        wishes=tuple(_wishes(await unit.all(READ_WISHES, ids=ids, from_date=from_date), period)),
        closed=closed,
        weekend=frozenset(day for day, weekday in period.weekdays.items() if weekday > 5),
        weights=_weights(request),
    )
    return Inputs(board, problem, templates, first, last)


async def read_rules(unit: Unit, branch_id: str) -> list[pb.DemandRule]:
    """What was set for a branch."""
    stored = await unit.value(READ_DEMAND, branch_id=branch_id)
    return [] if stored is None else list(pb.RosterDemand.FromString(stored).rules)


def _weights(request: pb.CreateRosterRequest) -> Weights:
    return Weights(
        request.wishes_percent if request.HasField("wishes_percent") else 100,
        request.fairness_percent if request.HasField("fairness_percent") else 100,
        request.thrift_percent if request.HasField("thrift_percent") else 100,
    )


def _closed(board: Board, period: Period, needed: set[int]) -> frozenset[int]:
    """Days without opening hours on which nobody is asked for either."""
    weekdays = None if board.opening_hours is None else {day for day, *_ in calendar.parse_week(board.opening_hours)}
    return frozenset(
        day
        for day, weekday in period.weekdays.items()
        if day not in needed and (day in period.holidays or (weekdays is not None and weekday not in weekdays))
    )


def _bounds(zone_name: str, day: int) -> Stretch:
    zone, local_day = calendar.zone_of(zone_name), calendar.date_of(day)
    return (
        calendar.first_step(calendar.local_moment(local_day, 0, zone)),
        calendar.first_step(calendar.local_moment(local_day, calendar.DAY_MINUTES, zone)),
    )


# --- shifts ---


def laid(board: Board, templates: Iterable[asyncpg.Record], day: int, weekday: int) -> tuple[Shift, ...]:
    """The branch's shifts on a day."""
    found = []
    for row in templates:
        if row["active"] and (not row["weekdays"] or weekday in row["weekdays"]):
            shift = of_template(board.time_zone, row, day)
            if shift is not None:
                found.append(shift)
    return tuple(found)


def of_template(zone_name: str, row: asyncpg.Record, day: int) -> Shift | None:
    """A shift of the branch on a day; None when the clocks skip all of it."""
    week = calendar.format_week([(1, row["start_time"], row["end_time"])])
    stretches = calendar.intervals_of_day(week, zone_name, day, 1)
    if not stretches:
        return None
    minutes = sum(last - first for first, last in stretches) * STEP_MINUTES - row["unpaid_break_minutes"]
    return Shift(day, stretches, max(minutes, 0), row["id"], row["is_late"])


def of_week(
    zone_name: str, week: str, day: int, minutes: int | None = None, *, late: bool = False, template: str | None = None
) -> Shift | None:
    """The shift a week's text says for a day, on the day's own weekday; None for none."""
    found = sorted(calendar.intervals_of_day(week, zone_name, day, calendar.date_of(day).isoweekday()))
    if not found:
        return None
    length = sum(last - first for first, last in found) * STEP_MINUTES
    return Shift(day, tuple(found), length if minutes is None else minutes, template, late)


# --- people ---


async def _people(
    unit: Unit, board: Board, period: Period, ids: Sequence[str], first: datetime, last: datetime
) -> list[Planned]:
    contracts = {row["staff_id"]: _contract(row) for row in await unit.all(READ_CONTRACTS, ids=ids)}
    away = _stretches(await unit.all(READ_LEAVES, ids=ids, earliest=first, latest=last))
    taken = await unit.all(READ_TAKEN, ids=ids, earliest=first, latest=last, now=unit.now, limit=MOST_TAKEN)
    booked = _stretches(row for row in taken if row["branch_id"] == board.branch_id and row["starts_at"] >= first)
    known, by_hand = await _settled(unit, board, period, ids)
    start = calendar.date_of(period.first_day)
    past = {
        row["staff_id"]: row
        for row in await unit.all(
            READ_PAST,
            ids=ids,
            first=calendar.date_of(period.first_day - PAST_DAYS),
            last=start,
            branch_id=board.branch_id,
        )
    }
    return [
        Planned(
            id=identifier,
            contract=contracts.get(identifier, Contract()),
            skills=_skills(board.people[identifier]),
            away=away.get(identifier, ()),
            booked=booked.get(identifier, ()),
            known=tuple(known.get(identifier, ())),
            by_hand=by_hand.get(identifier, {}),
            past_weekends=past[identifier]["weekends"] if identifier in past else 0,
            past_lates=past[identifier]["lates"] if identifier in past else 0,
            past_minutes=past[identifier]["minutes"] if identifier in past else 0,
        )
        for identifier in ids
    ]


def _skills(person: Person) -> dict[str, int]:
    return {skill: until for skill, (_, until) in person.skills.items()}


def _contract(row: asyncpg.Record) -> Contract:
    return Contract(
        row["min_week_minutes"],
        row["max_week_minutes"],
        row["max_week_days"],
        row["min_rest_minutes"],
        row["max_consecutive_days"],
        tuple(row["shift_template_ids"]),
    )


def _stretches(rows: Iterable[asyncpg.Record]) -> dict[str, tuple[Stretch, ...]]:
    found: dict[str, list[Stretch]] = {}
    for row in rows:
        stretch = (calendar.last_step(row["starts_at"]), calendar.first_step(row["ends_at"]))
        found.setdefault(row["staff_id"], []).append(stretch)
    return {identifier: tuple(stretches) for identifier, stretches in found.items()}


async def _settled(
    unit: Unit, board: Board, period: Period, ids: Sequence[str]
) -> tuple[dict[str, list[Shift]], dict[str, dict[int, Shift | None]]]:
    """Work that is not planned by the roster, and days of it that were settled by hand.

    What a day says comes before what a week says. After the roster only days count that say something of their own:
    weeks are what rosters take the place of.
    """
    first_day, last_day = period.first_day - DAYS_BEFORE, period.last_day + DAYS_AFTER
    span = {"ids": ids, "first": calendar.date_of(first_day), "last": calendar.date_of(last_day)}
    known: dict[str, list[Shift]] = {}
    by_hand: dict[str, dict[int, Shift | None]] = {}
    said: set[tuple[str, str, date]] = set()
    for row in await unit.all(READ_DATED, **span):
        said.add((row["staff_id"], row["branch_id"], row["day"]))
        day = (row["day"] - calendar.EPOCH).days
        shift = of_week(
            row["time_zone"],
            row["week"],
            day,
            row["minutes"],
            late=bool(row["is_late"]),
            template=row["shift_template_id"],
        )
        if row["branch_id"] == board.branch_id and period.first_day <= day < period.last_day:
            if row["roster_id"] is None:
                by_hand.setdefault(row["staff_id"], {})[day] = shift
        elif shift is not None:
            known.setdefault(row["staff_id"], []).append(shift)
    for row in await unit.all(READ_WEEKS, **span):
        here = row["branch_id"] == board.branch_id
        for shift in _of_weeks(row, first_day, period.first_day if here else period.last_day):
            if (row["staff_id"], row["branch_id"], calendar.date_of(shift.day)) not in said:
                known.setdefault(row["staff_id"], []).append(shift)
    return known, by_hand


def _of_weeks(row: asyncpg.Record, first_day: int, last_day: int) -> Iterable[Shift]:
    """What a weekly plan says for the days of a stretch on which its branch is not closed."""
    swapped = dict(calendar.parse_swapped(row["swapped_days"]))
    closed = row["holidays"].split(",")
    begins = max(first_day, (row["from_date"] - calendar.EPOCH).days)
    ends = last_day if row["until_date"] is None else min(last_day, (row["until_date"] - calendar.EPOCH).days + 1)
    for day in range(begins, ends):
        local_day = calendar.date_of(day)
        weekday = swapped.get(day, local_day.isoweekday())
        stretches = calendar.intervals_of_day(row["week"], row["time_zone"], day, weekday)
        if stretches and local_day.isoformat() not in closed:
            minutes = sum(last - first for first, last in stretches) * STEP_MINUTES
            yield Shift(day, tuple(sorted(stretches)), minutes)


def _wishes(rows: Iterable[asyncpg.Record], period: Period) -> Iterable[Wish]:
    """Wishes with the days of the roster they speak of; those that speak of none are left out."""
    for row in rows:
        if row["day"] is not None:
            days = [(row["day"] - calendar.EPOCH).days]
        elif row["weekday"] is not None:
            days = [day for day, weekday in period.weekdays.items() if weekday == row["weekday"]]
        else:
            days = list(period.weekdays)
        days = [day for day in days if period.first_day <= day < period.last_day]
        if days:
            dated = row["day"] is not None or row["weekday"] is not None
            template = row["shift_template_id"]
            yield Wish(row["id"], row["staff_id"], row["kind"], tuple(days), template, row["weight"], dated)
