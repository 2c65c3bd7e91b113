"""Free time as anybody would work it out with a calendar and a sheet of paper: slow, and obviously right.

Nothing here uses the bitmaps or the plans of the service. Time is a set of moments, five minutes apart, counted in
steps since 1970; who serves what is found by writing down every way to do it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

STEP_SECONDS = 300
ONE_DAY = timedelta(days=1)
MIDNIGHT = datetime(1970, 1, 1)  # noqa: DTZ001 a local time

Hours = tuple[int, str, str]
"""Weekday (1 is Monday), from and to as HH:MM; to at or before from is on the next day."""


# --- clocks ---


@functools.lru_cache(1000)
def clock(zone: str, day: date) -> list[tuple[int, datetime]]:
    """Every step around a day with the latest local time that the clock has shown until then."""
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) - 2 * ONE_DAY
    shown = []
    latest = datetime.min  # noqa: DTZ901 a local time
    for _ in range(5 * 288):
        latest = max(latest, moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None))
        shown.append((int(moment.timestamp()) // STEP_SECONDS, latest))
        moment += timedelta(seconds=STEP_SECONDS)
    return shown


@functools.lru_cache(100_000)
def first_showing(zone: str, day: date, minutes: int) -> int:
    """The first step at which the clock shows so many minutes after midnight of a day, or a later time."""
    wanted = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)  # noqa: DTZ001
    return next(step for step, latest in clock(zone, day) if latest >= wanted)


def local_date(zone: str, step: int) -> date:
    """The day the clock shows at a step."""
    return datetime.fromtimestamp(step * STEP_SECONDS, ZoneInfo(zone)).date()


def minutes_of(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def hours_of_day(zone: str, day: date, week: Iterable[Hours], weekday: int) -> set[int]:
    """The steps of what a week says of a weekday, on a day."""
    steps: set[int] = set()
    for on, start_text, end_text in week:
        if on == weekday:
            start, end = minutes_of(start_text), minutes_of(end_text)
            end += 1440 if end <= start else 0
            steps.update(range(first_showing(zone, day, start), first_showing(zone, day, end)))
    return steps


# --- a branch ---


@dataclass
class Somebody:
    """A person: weeks with the days they hold from and to, single days of their own, and all that keeps them away."""

    id: str
    skills: dict[str, tuple[int, date | None]] = field(default_factory=dict)
    weeks: list[tuple[date, date, list[Hours]]] = field(default_factory=list)
    dated: dict[date, list[Hours]] = field(default_factory=dict)
    away: list[tuple[int, int]] = field(default_factory=list)
    busy: list[tuple[int, int]] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
    """Minutes they take for a service, where it is not what others take."""
    here: bool = True


@dataclass
class Something:
    """A room or thing of a type."""

    id: str
    type: str
    blocked: list[tuple[int, int]] = field(default_factory=list)
    busy: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Wanted:
    """A need of a service: people with skills, or things of a type."""

    name: str
    count: int
    skills: list[str] = field(default_factory=list)
    min_grade: int = 0
    type: str | None = None
    before: int | None = None
    after: int | None = None


@dataclass
class Treatment:
    """A service: needs, and its parts as (minutes, what is busy with it; None: everything)."""

    id: str
    minutes: int
    before: int
    after: int
    skills: list[str] = field(default_factory=list)
    needs: list[Wanted] = field(default_factory=list)
    parts: list[tuple[int, list[str] | None]] = field(default_factory=list)


@dataclass
class Wish:
    """One service of a visit."""

    treatment: Treatment
    staff_id: str | None = None
    choices: list[tuple[str, str]] = field(default_factory=list)
    together: bool = False
    customer: str | None = None
    guest: bool = False
    more: int = 0
    """Minutes that an add-on adds at its end."""


@dataclass
class World:
    """A branch, and a visit that is asked for."""

    zone: str
    day: date
    opening: list[Hours] | None
    holidays: list[date]
    swapped: dict[date, int]
    people: list[Somebody]
    things: list[Something]
    wishes: list[Wish]
    customer: str | None = None
    customers_busy: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def days(self) -> list[date]:
        """All days that could reach into what is looked at."""
        return [self.day + timedelta(days=number) for number in range(-3, 5)]

    def open(self) -> set[int]:
        """When the branch is open: a night belongs to the day it begins."""
        always = [(weekday, "00:00", "24:00") for weekday in range(1, 8)]
        steps: set[int] = set()
        for day in self.days:
            if day not in self.holidays:
                weekday = self.swapped.get(day, day.isoweekday())
                steps |= hours_of_day(self.zone, day, always if self.opening is None else self.opening, weekday)
        return steps

    def works(self, person: Somebody) -> set[int]:
        """When somebody works, whether or not they are busy."""
        steps: set[int] = set()
        for day in self.days:
            if day in person.dated:
                steps |= hours_of_day(self.zone, day, person.dated[day], day.isoweekday())
                continue
            for first, last, week in person.weeks:
                if first <= day <= last:
                    steps |= hours_of_day(self.zone, day, week, self.swapped.get(day, day.isoweekday()))
        return steps - steps_of(person.away)


def steps_of(stretches: Iterable[tuple[int, int]]) -> set[int]:
    return {step for first, last in stretches for step in range(first, last)}


# --- what a visit takes ---


@dataclass
class Job:
    """A need of a visit, with the steps it takes from the start and everybody who may be given to it."""

    key: str
    steps: frozenset[int]
    count: int
    chosen: set[str]
    pool: list[str]
    skills: list[str]
    leads: bool = False


def able(person: Somebody, skills: Sequence[str], min_grade: int) -> bool:
    return person.here and all(skill in person.skills and person.skills[skill][0] >= min_grade for skill in skills)


def jobs_of_line(world: World, wish: Wish, number: int, length: int, start: int) -> list[Job]:
    """What one service takes when it begins so many minutes after the visit and who leads it takes `length`."""
    treatment = wish.treatment
    needs = treatment.needs or [Wanted("staff", 1)]
    parts = treatment.parts or [(treatment.minutes, None)]
    parts = [*parts[:-1], (parts[-1][0] + length + wish.more - treatment.minutes, parts[-1][1])]
    jobs = []
    leader = next((need for need in needs if need.type is None), None)
    for need in needs:
        used: list[int] = []
        minute = start
        for minutes, uses in parts:
            if uses is None or need.name in uses:
                used += range(minute, minute + minutes, 5)
            minute += minutes
        if not used:
            continue
        before = treatment.before if need.before is None else need.before
        after = treatment.after if need.after is None else need.after
        used += range(min(used) - before, min(used), 5)
        used += range(max(used) + 5, max(used) + 5 + after, 5)
        skills = list(need.skills) + (treatment.skills if need is leader else [])
        if need.type is None:
            pool = [person.id for person in world.people if able(person, skills, need.min_grade)]
        else:
            pool = [thing.id for thing in world.things if thing.type == need.type]
        if need is leader:
            own = {person.id: person.lengths.get(treatment.id, treatment.minutes) for person in world.people}
            pool = [identifier for identifier in pool if len(treatment.parts) > 1 or own[identifier] == length]
        chosen = {identifier for name, identifier in wish.choices if name == need.name}
        if need is leader and wish.staff_id is not None:
            chosen.add(wish.staff_id)
        steps = frozenset(minute // 5 for minute in used)
        jobs.append(Job(f"{number}.{need.name}", steps, need.count, chosen, pool, skills, need is leader))
    return jobs


def visits(world: World) -> Iterator[tuple[int, list[Job]]]:
    """Each way to lay the visit out, for all lengths that those who could lead take: its minutes, and its jobs."""
    lengths = []
    for wish in world.wishes:
        own = {person.lengths.get(wish.treatment.id, wish.treatment.minutes) for person in world.people}
        single = len(wish.treatment.parts) <= 1 and any(
            need.type is None for need in wish.treatment.needs or [Wanted("staff", 1)]
        )
        lengths.append(sorted(own | {wish.treatment.minutes}) if single else [wish.treatment.minutes])
    for chosen in itertools.product(*lengths):
        jobs: list[Job] = []
        placed: list[tuple[int, int, Wish]] = []
        for number, (wish, length) in enumerate(zip(world.wishes, chosen, strict=True)):
            start = placed[-1][0] if placed else 0
            if placed and not wish.together:
                start = max(end + before.treatment.after for _, end, before in placed) + wish.treatment.before
            placed.append((start, start + length + wish.more, wish))
            jobs += jobs_of_line(world, wish, number, length, start)
        for customer in dict.fromkeys(map(functools.partial(customer_of, world), world.wishes)):
            if customer is not None:
                mine = [(start, end) for start, end, wish in placed if customer_of(world, wish) == customer]
                steps = frozenset(minute // 5 for start, end in mine for minute in range(start, end, 5))
                jobs.append(Job(f"customer {customer}", steps, 1, {customer}, [customer], []))
        yield max(end for _, end, _ in placed), jobs


def customer_of(world: World, wish: Wish) -> str | None:
    if wish.customer is not None:
        return wish.customer
    return None if wish.guest else world.customer


# --- who could do it ---


def ways(jobs: Sequence[Job], ready: Sequence[Sequence[str]]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Every way to give each job its people: nobody has two jobs at one time."""
    if not jobs:
        yield ()
        return
    for ids in itertools.combinations(ready[0], jobs[0].count):
        if jobs[0].chosen <= set(ids):
            left = [
                [identifier for identifier in able if identifier not in ids or not job.steps & jobs[0].steps]
                for job, able in zip(jobs[1:], ready[1:], strict=True)
            ]
            for others in ways(jobs[1:], left):
                yield (ids, *others)


def leaders_at(jobs: Sequence[Job], ready: Sequence[Sequence[str]]) -> set[str]:
    """Everybody who could lead the visit; "" where nobody leads and it can be done."""
    lead = next((number for number, job in enumerate(jobs) if job.leads and job.key.startswith("0.")), None)
    if lead is None:
        return {""} if next(ways(jobs, ready), None) is not None else set()
    found = set()
    for identifier in ready[lead]:
        if not jobs[lead].chosen or identifier in jobs[lead].chosen:
            job = Job(**{**vars(jobs[lead]), "chosen": {*jobs[lead].chosen, identifier}})
            if next(ways([*jobs[:lead], job, *jobs[lead + 1 :]], ready), None) is not None:
                found.add(identifier)
    return found


def free_times(world: World, starts: Iterable[int]) -> set[tuple[int, int, str]]:
    """Every (start, minutes, who leads) that is possible, of these starts (steps since 1970)."""
    opening = world.open()
    there: Mapping[str, set[int]] = {person.id: world.works(person) - steps_of(person.busy) for person in world.people}
    expiry: dict[str, dict[str, date | None]] = {
        person.id: {skill: until for skill, (_, until) in person.skills.items()} for person in world.people
    }
    taken = {thing.id: steps_of([*thing.blocked, *thing.busy]) for thing in world.things}
    taken |= {customer: steps_of(busy) for customer, busy in world.customers_busy.items()}

    def serves(job: Job, identifier: str, start: int) -> bool:
        steps = {start + step for step in job.steps}
        if identifier not in there:
            return not steps & taken.get(identifier, set())
        dates = [until for skill in job.skills if (until := expiry[identifier].get(skill)) is not None]
        holds = not dates or all(local_date(world.zone, step) <= min(dates) for step in steps)
        return steps <= there[identifier] and holds

    found: set[tuple[int, int, str]] = set()
    laid_out = list(visits(world))
    known: dict[Any, set[str]] = {}
    for start in starts:
        for number, (minutes, jobs) in enumerate(laid_out):
            if all(start + step in opening for step in range(minutes // 5)):
                ready = tuple(tuple(one for one in job.pool if serves(job, one, start)) for job in jobs)
                if (number, ready) not in known:
                    known[number, ready] = leaders_at(jobs, ready)
                found |= {(start, minutes, leader) for leader in known[number, ready]}
    return found
