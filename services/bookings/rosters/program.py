"""A roster as a mixed-integer program: one yes or no for each person, day and shift; what is missing costs points.

Rules hold by themselves, except where what is settled already (customers' bookings, days settled by hand) may break
them: there they cost so much that they are only broken when there is no other way. One missing hour of one person is
100 points, and all else is measured by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.bookings.rosters import rules
from services.bookings.rosters.problem import STEP_MINUTES, Person, Plan, Problem, Shift, Wish
from services.bookings.rosters.rules import Choices

MISSING_HOUR = 100.0
MISSING_MORE_HOUR = 150.0
"""Beyond half of what is wanted: gaps are spread rather than left in one place."""
BROKEN_RULE = 5000.0
OVERTIME_HOUR = 1200.0
UNDERTIME_HOUR = 200.0
WORKED_HOUR = 5.0
"""So that nobody is called in whom nobody needs."""
WISH = 20.0
"""For each step of a wish's weight."""
WEEKEND = 6.0
LATE = 3.0
"""For each one somebody has more than those who have the fewest, growing with every one."""
UNEVEN_HOUR = 2.0
VERY_UNEVEN_HOUR = 6.0
EVEN_HOURS_PER_WEEK = 4
MOST_STEPS = 16
MOST_AHEAD = 4
PAST_SHARE = 0.5
FOREVER = float("inf")


@dataclass(slots=True)
class Program:
    """Columns and rows, as a solver takes them."""

    costs: list[float] = field(default_factory=list)
    uppers: list[float] = field(default_factory=list)
    integer: list[int] = field(default_factory=list)
    row_lowers: list[float] = field(default_factory=list)
    row_uppers: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    shifts: dict[int, tuple[str, Shift]] = field(default_factory=dict)
    """Column → whose shift it stands for."""
    settled: set[tuple[str, int]] = field(default_factory=set)
    """(person, day) on which they work whatever is decided here: rules may be impossible to keep around them."""

    def column(self, cost: float, upper: float = FOREVER, integer: bool = False) -> int:
        """A new unknown from 0 to `upper`."""
        self.costs.append(cost)
        self.uppers.append(upper)
        if integer:
            self.integer.append(len(self.costs) - 1)
        return len(self.costs) - 1

    def row(self, terms: Iterable[tuple[int, float]], lower: float = -FOREVER, upper: float = FOREVER) -> None:
        """A new condition on a sum of unknowns."""
        self.starts.append(len(self.indices))
        for index, value in terms:
            self.indices.append(index)
            self.values.append(value)
        self.row_lowers.append(lower)
        self.row_uppers.append(upper)

    def plan(self, solution: Sequence[float]) -> dict[tuple[str, int], Shift]:
        """The roster that a solution stands for."""
        chosen = (self.shifts[column] for column in self.shifts if solution[column] > 0.5)
        return {(staff_id, shift.day): shift for staff_id, shift in chosen}

    def solution(self, plan: Plan) -> tuple[list[int], list[float]]:
        """The yes and no of a roster, by column."""
        columns = list(self.shifts)
        return columns, [
            1.0 if plan.get((staff_id, shift.day)) == shift else 0.0 for staff_id, shift in self.shifts.values()
        ]


Columns = Mapping[tuple[str, int], Sequence[int]]
"""(person, day) → the columns of the shifts they may get."""


def build(problem: Problem) -> Program:
    """The program of a problem."""
    program = Program()
    columns: dict[tuple[str, int], list[int]] = {}
    program.settled |= {(person.id, work.day) for person in problem.people for work in person.known}
    for key, choice in rules.choices(problem).items():
        columns[key] = []
        if choice.must_work:
            program.settled.add(key)
        for shift in choice.shifts:
            column = program.column(_hours(shift.minutes) * WORKED_HOUR * problem.weights.thrift / 100, 1, integer=True)
            program.shifts[column] = (key[0], shift)
            columns[key].append(column)
        _one_a_day(program, columns[key], choice)
    for person in problem.people:
        _rest(program, problem, person, columns)
        _weeks(program, problem, person, columns)
        _in_a_row(program, problem, person, columns)
    _cover(program, problem, columns)
    _wishes(program, problem, columns)
    _fairness(program, problem, columns)
    return program


def least(problem: Problem) -> dict[tuple[str, int], Shift]:
    """The roster in which only those work who have to: a beginning that always holds."""
    return {key: choice.shifts[0] for key, choice in rules.choices(problem).items() if choice.must_work}


def _hours(minutes: float) -> float:
    return minutes / 60


def _one_a_day(program: Program, columns: Sequence[int], choice: Choices) -> None:
    if columns and (choice.must_work or len(columns) > 1):
        program.row([(column, 1) for column in columns], 1 if choice.must_work else 0, 1)


def _slack(program: Program, person: Person, days: range, cost: float) -> list[tuple[int, float]]:
    """A way out of a rule, at a price, where something that is settled may make it impossible to keep."""
    settled = any((person.id, day) in program.settled for day in days)
    return [(program.column(cost), -1)] if settled else []


def _rest(program: Program, problem: Problem, person: Person, columns: Columns) -> None:
    """Of two shifts without enough rest between them only one: a condition for each end, over all that it excludes."""
    rest_steps = person.contract.min_rest_minutes // STEP_MINUTES
    for day in range(problem.first_day, problem.last_day - 1):
        today = columns[person.id, day]
        later = [c for d in (day + 1, day + 2) for c in columns.get((person.id, d), ())]
        seen: set[frozenset[int]] = set()
        for end in sorted({program.shifts[column][1].last for column in today}):
            excluded = [column for column in later if program.shifts[column][1].first < end + rest_steps]
            ending = [column for column in today if program.shifts[column][1].last >= end]
            if not excluded or frozenset(excluded) in seen:
                continue
            seen.add(frozenset(excluded))
            slack = _slack(program, person, range(day - 1, day + 3), BROKEN_RULE)
            program.row([*((column, 1.0) for column in (*ending, *excluded)), *slack], upper=1)


def _weeks(program: Program, problem: Problem, person: Person, columns: Columns) -> None:
    contract = person.contract
    for days in problem.weeks():
        terms = [
            (column, _hours(program.shifts[column][1].minutes)) for day in days for column in columns[person.id, day]
        ]
        if not terms:
            continue
        known = rules.known_minutes(person, days)
        slack = _slack(program, person, days, OVERTIME_HOUR)
        most = _hours(contract.max_week_minutes - known)
        program.row([*terms, *slack], upper=most if slack else max(most, 0))
        least = rules.least_minutes(problem, person, days) - known
        if least > 0:
            program.row([*terms, (program.column(UNDERTIME_HOUR), 1)], lower=_hours(least))
        known_days = len({work.day for work in person.known if work.day in days})
        slack = _slack(program, person, days, BROKEN_RULE)
        most = contract.max_week_days - known_days
        program.row([*((column, 1.0) for column, _ in terms), *slack], upper=most if slack else max(most, 0))


def _in_a_row(program: Program, problem: Problem, person: Person, columns: Columns) -> None:
    most = person.contract.max_consecutive_days
    known = {work.day for work in person.known}
    for first in range(problem.first_day - most, problem.last_day):
        days = range(first, first + most + 1)
        settled = sum(1 for day in days if day in known and not columns.get((person.id, day)))
        terms = [(column, 1.0) for day in days for column in columns.get((person.id, day), ())]
        might = sum(1 for day in days if columns.get((person.id, day)))
        if terms and settled + might > most:
            slack = _slack(program, person, days, BROKEN_RULE)
            program.row([*terms, *slack], upper=most - settled if slack else max(most - settled, 0))


def _cover(program: Program, problem: Problem, columns: Columns) -> None:
    """What is wanted in each stretch of a day; stretches with the same shifts over them are one condition."""
    together: dict[tuple[int, str, int, frozenset[int]], float] = {}
    for slot in problem.slots:
        able = [person for person in problem.people if person.can(slot.skill, slot.day)]
        covering = frozenset(
            column
            for person in able
            for day in (slot.day - 1, slot.day)
            for column in columns.get((person.id, day), ())
            if program.shifts[column][1].covers(slot.first, slot.last)
        )
        key = (slot.day, slot.skill, slot.wanted, covering)
        together[key] = together.get(key, 0) + _hours((slot.last - slot.first) * STEP_MINUTES)
    for (_, _, wanted, covering), hours in together.items():
        few = program.column(MISSING_HOUR * hours, (wanted + 1) // 2)
        more = program.column(MISSING_MORE_HOUR * hours, wanted)
        program.row([*((column, 1.0) for column in sorted(covering)), (few, 1), (more, 1)], lower=wanted)


def _wishes(program: Program, problem: Problem, columns: Columns) -> None:
    for wish in problem.wishes:
        cost = WISH * wish.weight * problem.weights.wishes / 100
        for day in wish.days:
            for column in columns.get((wish.staff_id, day), ()):
                program.costs[column] += cost * displeasure(wish, program.shifts[column][1])


def displeasure(wish: Wish, shift: Shift) -> int:
    """1 when a shift is against a wish, -1 when it is what they want, 0 when the wish does not speak of it."""
    if wish.kind == "avoids":
        return 1 if wish.is_about(shift) else 0
    if wish.kind == "wants":
        if wish.is_dated:
            return -1 if wish.is_about(shift) else 0
        # A shift liked best in general: it is better than others, but not better than a day off.
        return 0 if wish.is_about(shift) else 1
    return 0


def _fairness(program: Program, problem: Problem, columns: Columns) -> None:
    share = problem.weights.fairness / 100
    if share == 0 or len(problem.people) < 2:
        return
    before = ahead(problem)
    targets = even_minutes(problem)
    for person in problem.people:
        mine = [column for day in range(problem.first_day, problem.last_day) for column in columns[person.id, day]]
        weekends = [column for column in mine if program.shifts[column][1].day in problem.weekend]
        _growing(program, weekends, WEEKEND * share, before[person.id][0])
        lates = [column for column in mine if program.shifts[column][1].is_late]
        _growing(program, lates, LATE * share, before[person.id][1])
        terms = [(column, _hours(program.shifts[column][1].minutes)) for column in mine]
        if terms:
            band = EVEN_HOURS_PER_WEEK * len(problem.weeks())
            ways = [(program.column(UNEVEN_HOUR * share, band), sign) for sign in (1.0, -1.0)] + [
                (program.column(VERY_UNEVEN_HOUR * share), sign) for sign in (1.0, -1.0)
            ]
            target = _hours(targets[person.id])
            program.row([*terms, *ways], lower=target, upper=target)


def _growing(program: Program, counted: Sequence[int], cost: float, before: int) -> None:
    """Each one more costs more than the one before: so they are spread, and who had many gets fewer."""
    if not counted:
        return
    steps = [(program.column(cost * (before + number), 1), -1.0) for number in range(MOST_STEPS)]
    steps.append((program.column(cost * (before + MOST_STEPS)), -1.0))
    program.row([*((column, 1.0) for column in counted), *steps], upper=0)


def even_minutes(problem: Problem) -> dict[str, float]:
    """What everybody would work if the work were spread evenly, by what their contracts and leave allow.

    Who worked more than their share before gets less now, and the other way round.
    """
    wanted = needed_minutes(problem)
    most = {
        person.id: sum(
            person.contract.max_week_minutes
            * sum(1 for day in days if not rules.on_leave(problem, person, day) and day not in problem.closed)
            / 7
            for days in problem.weeks()
        )
        for person in problem.people
    }
    # Who is new has no past to make up for.
    old = [person for person in problem.people if person.past_minutes]
    past = sum(person.past_minutes for person in old) / (sum(most[person.id] for person in old) or 1.0)
    share = min(wanted / (sum(most.values()) or 1.0), 1.0)
    targets = {}
    for person in problem.people:
        before = person.past_minutes - past * most[person.id] if person.past_minutes else 0.0
        targets[person.id] = min(max(most[person.id] * share - before * PAST_SHARE, 0.0), most[person.id])
    return targets


def ahead(problem: Problem) -> dict[str, tuple[int, int]]:
    """Weekends and late shifts everybody had more than those who had the fewest.

    Within reason: nobody who is new pays for years of others.
    """
    weekends = min((person.past_weekends for person in problem.people), default=0)
    lates = min((person.past_lates for person in problem.people), default=0)
    return {
        person.id: (min(person.past_weekends - weekends, MOST_AHEAD), min(person.past_lates - lates, MOST_AHEAD))
        for person in problem.people
    }


def needed_minutes(problem: Problem) -> float:
    """Minutes of work that are wanted, at the least: of each stretch of time the largest of its needs."""
    largest: dict[tuple[int, int], int] = {}
    for slot in problem.slots:
        key = (slot.first, slot.last)
        largest[key] = max(largest.get(key, 0), slot.wanted)
    return float(sum((last - first) * STEP_MINUTES * wanted for (first, last), wanted in largest.items()))
