"""Rosters as values: the judge of the rules, and a solver that keeps them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.bookings.rosters import problem as problems
from services.bookings.rosters import process, program, rules, solver
from services.bookings.rosters.figures import figures
from services.bookings.rosters.problem import Contract, Person, Problem, Shift, Slot, Wish
from services.bookings.rosters.process import Progress, SolverFailed

MONDAY = 20577
HOUR = 12
TEMPLATES = {"early": (9, 17), "late": (13, 21), "night": (22, 30)}
HARD = {"leave", "elsewhere", "by_hand", "closed", "unavailable", "shift_not_allowed"}


def shift(day: int, start: float, end: float, template: str | None = None) -> Shift:
    stretch = (int(day * 288 + start * HOUR), int(day * 288 + end * HOUR))
    return Shift(day, (stretch,), int((end - start) * 60), template, end >= 21)


def offered(days: int, names: tuple[str, ...] = ("early", "late")) -> dict[int, tuple[Shift, ...]]:
    return {day: tuple(shift(day, *TEMPLATES[name], name) for name in names) for day in range(MONDAY, MONDAY + days)}


def slots(days: int, wanted: int, start: int = 9, end: int = 21, skill: str = "") -> tuple[Slot, ...]:
    hours = [(day, day * 288 + hour * HOUR) for day in range(MONDAY, MONDAY + days) for hour in range(start, end)]
    return tuple(Slot(day, first, first + HOUR, skill, wanted) for day, first in hours)


def problem(*people: Person, days: int = 7, **more: object) -> Problem:
    values: dict[str, object] = {
        "offered": offered(days),
        "bounds": {day: (day * 288, day * 288 + 288) for day in range(MONDAY - 1, MONDAY + days + 1)},
        "weekend": frozenset(day for day in range(MONDAY, MONDAY + days) if (day - MONDAY) % 7 >= 5),
        **more,
    }
    return Problem(MONDAY, days, people, **values)  # type: ignore[arg-type]


def broken(asked: Problem, *shifts: Shift) -> list[tuple[str, int]]:
    plan = {(asked.people[0].id, each.day): each for each in shifts}
    return [(each.rule, each.amount) for each in rules.violations(asked, plan)]


# --- the judge ---------------------------------------------------------------------------------------


def test_a_roster_that_keeps_all_rules_breaks_none() -> None:
    week = [shift(MONDAY + day, 9, 17, "early") for day in range(5)]
    assert broken(problem(Person("a")), *week) == []


def test_rest_is_counted_between_days_and_over_the_edges_of_the_roster() -> None:
    person = Person("a", known=(shift(MONDAY - 1, 14, 24),))
    assert broken(problem(person), shift(MONDAY, 9, 17)) == [("rest", 120)]
    assert broken(problem(Person("a")), shift(MONDAY, 13, 23), shift(MONDAY + 1, 9, 17)) == [("rest", 60)]
    # Two shifts before the roster are not its business.
    person = Person("a", known=(shift(MONDAY - 2, 14, 24), shift(MONDAY - 1, 2, 8)))
    assert broken(problem(person)) == []


def test_weeks_have_a_least_and_a_most() -> None:
    contract = Contract(min_week_minutes=960, max_week_minutes=1000, max_week_days=2)
    asked = problem(Person("a", contract))
    assert broken(asked, shift(MONDAY, 9, 17)) == [("min_minutes", 480)]
    week = [shift(MONDAY + day, 9, 17) for day in range(3)]
    assert broken(asked, *week) == [("max_days", 1), ("max_minutes", 440)]
    away = Person("a", contract, away=((MONDAY * 288, (MONDAY + 7) * 288),))
    assert broken(problem(away)) == []


def test_days_in_a_row_count_with_the_days_before() -> None:
    before = tuple(shift(MONDAY - day, 9, 17) for day in (1, 2, 3, 4))
    person = Person("a", Contract(max_consecutive_days=5), known=before)
    week = [shift(MONDAY + day, 9, 17) for day in range(2)]
    assert broken(problem(person), *week) == [("consecutive", 1)]


def test_what_is_settled_is_kept() -> None:
    away = Person("a", away=((MONDAY * 288, MONDAY * 288 + 10 * HOUR),))
    assert broken(problem(away), shift(MONDAY, 9, 17)) == [("leave", 0)]
    by_hand = Person("a", by_hand={MONDAY: None, MONDAY + 1: shift(MONDAY + 1, 8, 12)})
    assert broken(problem(by_hand), shift(MONDAY, 9, 17)) == [("by_hand", 0), ("by_hand", 0)]
    elsewhere = Person("a", known=(shift(MONDAY, 9, 12),))
    assert broken(problem(elsewhere), shift(MONDAY, 14, 17)) == [("elsewhere", 0)]
    booked = Person("a", booked=((MONDAY * 288 + 16 * HOUR, MONDAY * 288 + 18 * HOUR),))
    assert broken(problem(booked), shift(MONDAY, 9, 17)) == [("booked", 0)]
    assert broken(problem(booked), shift(MONDAY, 13, 21)) == []


def test_closed_days_forbidden_shifts_and_days_they_cannot() -> None:
    person = Person("a", Contract(template_ids=("late",)))
    wish = Wish("w", "a", "unavailable", (MONDAY,), "early")
    asked = problem(person, wishes=(wish,), closed=frozenset({MONDAY}))
    assert sorted(rule for rule, _ in broken(asked, shift(MONDAY, 9, 17, "early"))) == [
        "closed",
        "shift_not_allowed",
        "unavailable",
    ]


# --- the solver --------------------------------------------------------------------------------------


def solved(asked: Problem, seconds: float = 5) -> solver.Solution:
    return solver.solve(asked, seconds)


def test_what_is_wanted_is_covered_and_nobody_comes_for_nothing() -> None:
    asked = problem(*(Person(name) for name in "abcd"), slots=slots(5, 1))
    answer = solved(asked)
    found = figures(asked, answer.plan)
    assert found.missing_minutes == 0
    assert found.violations == []
    assert len(answer.plan) == 10
    assert all(reasons[0].code == "cover" for reasons in found.reasons.values())
    assert sum(found.points.values()) == pytest.approx(answer.points)


def test_customers_come_first_and_what_that_breaks_is_named() -> None:
    late = [(MONDAY * 288 + 20 * HOUR, MONDAY * 288 + 22 * HOUR)]
    early = [((MONDAY + 1) * 288 + 7 * HOUR, (MONDAY + 1) * 288 + 8 * HOUR)]
    asked = problem(Person("a", booked=tuple(late + early)), Person("b"))
    answer = solved(asked)
    assert all(any(each.covers(*stretch) for each in answer.plan.values()) for stretch in late + early)
    found = figures(asked, answer.plan)
    assert [(each.rule, each.staff_id, each.amount) for each in found.violations] == [("rest", "a", 120)]
    assert found.reasons["a", MONDAY][0].code == "booked"


def test_skills_count_until_they_expire() -> None:
    able = Person("a", skills={"laser": MONDAY + 1})
    asked = problem(able, Person("b"), days=7, slots=slots(4, 1, 9, 17, "laser"))
    found = figures(asked, solved(asked).plan)
    assert [each.missing for each in found.coverage] == [0] * 16 + [1] * 16


def test_weekends_and_lates_go_round_with_a_memory() -> None:
    people = [Person(name, past_weekends=4 if name == "a" else 0) for name in "abc"]
    weekend = tuple(slot for slot in slots(7, 1, 9, 17) if slot.day >= MONDAY + 5)
    asked = problem(*people, slots=weekend)
    worked = {share.person.id: share.weekend_days for share in figures(asked, solved(asked).plan).shares}
    assert worked == {"a": 0, "b": 1, "c": 1}


def test_wishes_are_met_where_nobody_pays_for_it() -> None:
    wishes = (
        Wish("off", "a", "avoids", (MONDAY,)),
        Wish("on", "b", "wants", (MONDAY + 1,), "late"),
        Wish("alone", "c", "avoids", (MONDAY + 2,), weight=1),
        Wish("never", "c", "unavailable", (MONDAY, MONDAY + 1)),
    )
    lone = tuple(slot for slot in slots(7, 1, 9, 21, "nails") if slot.day == MONDAY + 2)
    people = (Person("a"), Person("b"), Person("c", skills={"nails": problems.FOREVER_DAY}))
    asked = problem(*people, slots=(*slots(2, 1, 13, 17), *lone), wishes=wishes)
    found = {each.wish.id: each for each in figures(asked, solved(asked).plan).wishes}
    assert (found["off"].days_met, found["on"].days_met, found["never"].days_met) == (1, 1, 2)
    assert found["alone"].unmet == [(MONDAY + 2, "cover")]


def test_a_night_shift_covers_the_morning_after() -> None:
    asked = problem(
        Person("a"),
        offered=offered(2, ("night",)),
        days=2,
        slots=(Slot(MONDAY + 1, (MONDAY + 1) * 288, (MONDAY + 1) * 288 + HOUR, "", 1),),
    )
    answer = solved(asked)
    assert set(answer.plan) == {("a", MONDAY)}
    assert figures(asked, answer.plan).missing_minutes == 0


def test_a_roster_of_weeks_keeps_the_rules_between_them() -> None:
    people = tuple(Person(name, Contract(max_consecutive_days=4, max_week_days=5)) for name in "abcdef")
    asked = problem(*people, days=21, offered=offered(21), slots=slots(21, 2))
    answer = solved(asked, 8)
    assert rules.violations(asked, answer.plan) == []
    assert answer.bound <= answer.points + 1e-6


def test_the_same_problem_has_the_same_answer() -> None:
    asked = problem(*(Person(name) for name in "abcde"), slots=slots(7, 2))
    assert solved(asked).plan == solved(asked).plan


def test_nobody_and_nothing_to_plan() -> None:
    assert solved(problem(Person("a"), offered={})).plan == {}
    assert solved(problem()).plan == {}


# --- made up by Hypothesis ---------------------------------------------------------------------------

minutes = st.integers(0, 46).map(lambda half_hours: half_hours * 6)


@st.composite
def stretches(draw: st.DrawFn, days: int) -> tuple[tuple[int, int], ...]:
    found = []
    for _ in range(draw(st.integers(0, 2))):
        first = (MONDAY + draw(st.integers(0, days - 1))) * 288 + draw(minutes)
        found.append((first, first + draw(st.integers(1, 8)) * 6))
    return tuple(found)


@st.composite
def persons(draw: st.DrawFn, name: str, days: int) -> Person:
    by_hand = {}
    for _ in range(draw(st.integers(0, 1))):
        day = MONDAY + draw(st.integers(0, days - 1))
        by_hand[day] = draw(st.sampled_from([None, shift(day, 8, 14), shift(day, 12, 22)]))
    known = [shift(MONDAY - number, 9, 22) for number in range(1, draw(st.integers(0, 4)) + 1)]
    known += [shift(MONDAY + day, 10, 14) for day in draw(st.sets(st.integers(0, days - 1), max_size=1))]
    return Person(
        name,
        Contract(
            draw(st.sampled_from([0, 480, 1200])),
            draw(st.sampled_from([960, 1440, 2640])),
            draw(st.integers(1, 6)),
            draw(st.sampled_from([480, 660])),
            draw(st.integers(1, 6)),
            draw(st.sampled_from([(), ("early",)])),
        ),
        skills=draw(st.dictionaries(st.sampled_from(["cut", "nails"]), st.integers(MONDAY, MONDAY + 9))),
        away=draw(stretches(days)),
        booked=draw(stretches(days)),
        known=tuple(known),
        by_hand=by_hand,
        past_weekends=draw(st.integers(0, 3)),
    )


@st.composite
def made_up(draw: st.DrawFn) -> Problem:
    days = draw(st.sampled_from([5, 7, 10]))
    people = [draw(persons(name, days)) for name in "abc"[: draw(st.integers(1, 3))]]
    wishes = tuple(
        Wish(
            f"w{number}",
            draw(st.sampled_from(people)).id,
            draw(st.sampled_from(["wants", "avoids", "unavailable"])),
            (MONDAY + draw(st.integers(0, days - 1)),),
            draw(st.sampled_from([None, "early", "late"])),
            is_dated=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 3)))
    )
    return problem(
        *people,
        days=days,
        offered=offered(days, draw(st.sampled_from([("early", "late"), ("early", "late", "night")]))),
        slots=(*slots(days, draw(st.integers(0, 2))), *slots(days, 1, 10, 15, "nails")),
        wishes=wishes,
        closed=frozenset(MONDAY + day for day in draw(st.sets(st.integers(0, days - 1), max_size=1))),
    )


@settings(max_examples=60, deadline=None)
@given(made_up())
def test_a_solved_roster_breaks_only_what_is_settled_already(asked: Problem) -> None:
    answer = solved(asked, 3)
    assert math.isfinite(answer.points), "what must be is always possible"
    plan = answer.plan
    choices = rules.choices(asked)
    forced = {key for key, choice in choices.items() if choice.must_work}
    for each in rules.violations(asked, plan):
        days = range(each.first_day - 1, each.last_day + 2)
        around = {(each.staff_id, day) for day in days} & forced
        known = [work for person in asked.people if person.id == each.staff_id for work in person.known]
        if each.rule in ("min_minutes", "booked"):
            continue  # nobody can work where there is no shift for them; what is booked is looked at below
        assert around or any(work.day in range(each.first_day - 7, each.last_day + 8) for work in known), each
    for person in asked.people:
        by_day = rules.booked_by_day(asked, person)
        for day, booked in by_day.items():
            if asked.first_day <= day < asked.last_day and day not in person.by_hand:
                assert all(plan[person.id, day].covers(*stretch) for stretch in booked)
    figures(asked, plan)


@settings(max_examples=30, deadline=None)
@given(made_up())
def test_points_are_what_the_solver_minimises(asked: Problem) -> None:
    free = tuple(replace(person, booked=(), by_hand={}, known=()) for person in asked.people)
    asked = replace(asked, people=free)
    answer = solved(asked, 3)
    found = figures(asked, answer.plan)
    points = sum(found.points.values())
    # A solution within the gap may carry more unevenness than its shifts have: never less.
    assert answer.bound - 1e-3 <= points <= answer.points + 1e-3
    assert points >= answer.points - solver.GAP * abs(answer.points) - 1e-3
    assert not {each.rule for each in found.violations} - {"min_minutes"}


@settings(max_examples=60, deadline=None)
@given(made_up())
def test_a_problem_survives_the_way_to_the_solver(asked: Problem) -> None:
    assert problems.load(problems.dump(asked)) == asked
    plan = program.least(asked)
    assert problems.load_plan(json.loads(json.dumps(problems.dump_plan(plan)))) == plan


# --- its process -------------------------------------------------------------------------------------


def test_the_service_does_not_load_the_solver() -> None:
    code = "import sys, services.bookings.service; print([m for m in ('numpy', 'highspy') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_process_ends_when_nobody_listens_any_more() -> None:
    command = [sys.executable, "-m", "services.bookings.rosters.solver"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        question = {
            "problem": problems.dump(
                problem(*(Person(str(n)) for n in range(30)), days=28, offered=offered(28), slots=slots(28, 9))
            ),
            "seconds": 60,
        }
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.close()
        assert process.wait(20) == 1


async def test_a_solver_that_fails_says_how() -> None:
    async def listen(_: Progress) -> None:
        """Nobody listens."""

    code = "import os, sys; sys.exit('out of memory; ' + str([n for n in os.environ if n.startswith('FOYER')]))"
    with pytest.raises(SolverFailed, match=r"ended with 1: out of memory; \[\]"):
        await process.solve(problem(Person("a")), 5, listen, (sys.executable, "-c", code))


async def test_who_no_longer_wants_an_answer_ends_the_solver() -> None:
    async def enough(_: Progress) -> None:
        raise KeyError("enough")

    code = 'import os, time; print(\'{"seconds": 1, "best": null, "bound": null}\', flush=True); time.sleep(60)'
    started = time.monotonic()
    with pytest.raises(KeyError):
        await process.solve(problem(Person("a")), 60, enough, (sys.executable, "-c", code))
    assert time.monotonic() - started < 20
