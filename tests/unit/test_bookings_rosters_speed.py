"""A roster of ordinary size is there in time: 12 people for 2 weeks, or 30 for 4 with --long."""

from __future__ import annotations

import random
import resource
import time

import pytest

from services.bookings.rosters import process, rules
from services.bookings.rosters.figures import figures
from services.bookings.rosters.problem import FOREVER_DAY, Contract, Person, Problem, Shift, Slot, Wish
from services.bookings.rosters.process import Progress

MONDAY = 20577
HOUR = 12
TEMPLATES = {"early": (9, 17), "middle": (11, 19), "late": (13, 21), "evening": (17, 21)}
SKILLS = ("cut", "colour", "massage", "makeup", "nails")
LIMIT_SECONDS = 27.0
"""For the solver; the process has to begin and to end as well."""


def salon(people: int, weeks: int, seed: int) -> Problem:
    """A salon that is open from 9 to 21: contracts and skills that differ, leave, bookings, wishes, a past."""
    chance = random.Random(seed)
    days = range(MONDAY, MONDAY + weeks * 7)
    wishes = [
        Wish(
            f"w{number}",
            f"p{number % people}",
            chance.choice(["avoids", "wants", "unavailable"]),
            (chance.choice(days),),
            chance.choice([None, "early", "late"]),
            chance.randint(1, 5),
        )
        for number in range(2 * people)
    ]
    return Problem(
        MONDAY,
        len(days),
        tuple(worker(chance, f"p{number}", days) for number in range(people)),
        {day: tuple(shift(day, name) for name in TEMPLATES) for day in days},
        {day: (day * 288, day * 288 + 288) for day in range(MONDAY - 1, days[-1] + 2)},
        tuple(slot for day in days for slot in wanted(day, people)),
        tuple(wishes),
        weekend=frozenset(day for day in days if (day - MONDAY) % 7 >= 5),
    )


def shift(day: int, name: str) -> Shift:
    start, end = TEMPLATES[name]
    minutes = (end - start) * 60 - (60 if end - start > 5 else 0)
    return Shift(day, ((day * 288 + start * HOUR, day * 288 + end * HOUR),), minutes, name, end >= 21)


def worker(chance: random.Random, name: str, days: range) -> Person:
    least, most = chance.choice([(0, 1440), (1200, 2400), (1800, 2640), (0, 2640)])
    booked = [day * 288 + chance.randint(9, 19) * HOUR for day in days[:7] if chance.random() < 0.3]
    leave = chance.choice(days)
    return Person(
        name,
        Contract(least, most, chance.choice([5, 6])),
        dict.fromkeys(chance.sample(SKILLS, 2), FOREVER_DAY),
        away=((leave * 288, (leave + 5) * 288),) if chance.random() < 0.2 else (),
        booked=tuple((start, start + HOUR) for start in booked),
        past_weekends=chance.randint(0, 3),
        past_lates=chance.randint(0, 6),
    )


def wanted(day: int, people: int) -> list[Slot]:
    found = []
    for half_hour in range(18, 42):
        first = day * 288 + half_hour * 6
        busy = 10 + (4 if (day - MONDAY) % 7 >= 5 else 0) + (3 if 28 <= half_hour <= 38 else 0)
        found.append(Slot(day, first, first + 6, "", busy * people // 30))
        found += [Slot(day, first, first + 6, skill, max(2 * people // 30, 1)) for skill in SKILLS]
    return found


@pytest.mark.timeout(200)
async def test_a_roster_is_there_in_time(long_run: bool) -> None:
    sizes = [(30, 4, seed) for seed in (1, 2, 3)] if long_run else [(12, 2, 1)]
    for people, weeks, seed in sizes:
        asked = salon(people, weeks, seed)
        told: list[Progress] = []

        async def report(progress: Progress, told: list[Progress] = told) -> None:
            told.append(progress)

        started = time.monotonic()
        limit = LIMIT_SECONDS if long_run else 9.0
        answer = await process.solve(asked, limit, report)
        seconds = time.monotonic() - started
        found = figures(asked, answer.plan)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        missing = 100 * found.missing_minutes / found.wanted_minutes
        print(
            f"{people} people, {weeks} weeks: {seconds:.1f} s, {answer.points:.0f} points (bound {answer.bound:.0f}),"
            f" {missing:.1f} % missing, largest process so far {memory} MB"
        )
        assert seconds < (30 if long_run else 12)
        assert told
        assert answer.is_proven or seconds > limit - 1
        settled = {key for key, choice in rules.choices(asked).items() if choice.must_work}
        for each in found.violations:
            around = range(each.first_day - 1, each.last_day + 2)
            on_leave = each.rule in ("booked", "min_minutes")
            assert on_leave or any((each.staff_id, day) in settled for day in around), each
