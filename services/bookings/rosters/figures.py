"""What is to be known about a roster: who is missing where, what became of wishes, and what speaks for each shift.

Pure: a problem and a plan in, values out. The points are those that the solver minimises (program.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.bookings.rosters import program, rules
from services.bookings.rosters.problem import STEP_MINUTES, Person, Plan, Problem, Shift, Slot, Wish
from services.bookings.rosters.rules import Violation

MOST_COVER_REASONS = 3


@dataclass(frozen=True, slots=True)
class Covered:
    """People in a slot."""

    slot: Slot
    given: int

    @property
    def missing(self) -> int:
        """How many are not there."""
        return max(self.slot.wanted - self.given, 0)


@dataclass(frozen=True, slots=True)
class Reason:
    """What speaks for a shift."""

    code: str
    skill: str = ""
    amount: int = 0


@dataclass(slots=True)
class Outcome:
    """What became of a wish."""

    wish: Wish
    days_met: int = 0
    unmet: list[tuple[int, str]] = field(default_factory=list)
    """Day, and why."""


@dataclass(frozen=True, slots=True)
class Share:
    """What somebody has of the work."""

    person: Person
    minutes: int
    week_minutes: tuple[int, ...]
    even_minutes: int
    days: int
    weekend_days: int
    late_shifts: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is known about a roster."""

    coverage: list[Covered]
    reasons: Mapping[tuple[str, int], list[Reason]]
    wishes: list[Outcome]
    shares: list[Share]
    violations: list[Violation]
    points: Mapping[str, float]

    @property
    def wanted_minutes(self) -> int:
        """Person-minutes wanted."""
        return sum(_minutes(each.slot) * each.slot.wanted for each in self.coverage)

    @property
    def missing_minutes(self) -> int:
        """Person-minutes that nobody covers."""
        return sum(_minutes(each.slot) * each.missing for each in self.coverage)


ByDay = dict[int, list[Covered]]
"""Slots by their day."""


def _minutes(slot: Slot) -> int:
    return (slot.last - slot.first) * STEP_MINUTES


def figures(problem: Problem, plan: Plan) -> Figures:
    """All that is to be known about a roster."""
    coverage = covered(problem, plan)
    broken = rules.violations(problem, plan)
    even = program.even_minutes(problem)
    shares = [_share(problem, person, plan, round(even[person.id])) for person in problem.people]
    by_person = {person.id: person for person in problem.people}
    near: ByDay = {}
    for each in coverage:
        near.setdefault(each.slot.day, []).append(each)
    reasons = {
        (staff_id, day): _reasons(problem, by_person[staff_id], shift, plan, near)
        for (staff_id, day), shift in plan.items()
        if staff_id in by_person
    }
    wishes = [_outcome(problem, by_person[wish.staff_id], wish, plan, near) for wish in problem.wishes]
    return Figures(coverage, reasons, wishes, shares, broken, _points(problem, plan, coverage, broken, shares))


def covered(problem: Problem, plan: Plan) -> list[Covered]:
    """How many are there in each slot, by time and skill."""
    by_day: dict[int, list[tuple[Person, Shift]]] = {}
    for person in problem.people:
        for day in range(problem.first_day, problem.last_day):
            shift = plan.get((person.id, day))
            if shift is not None:
                by_day.setdefault(day, []).append((person, shift))
    found = []
    for slot in sorted(problem.slots, key=lambda each: (each.first, each.skill)):
        there = (*by_day.get(slot.day - 1, ()), *by_day.get(slot.day, ()))
        # A night shift reaches into the next day: somebody may be there twice, and counts once.
        given = {
            person.id
            for person, shift in there
            if shift.covers(slot.first, slot.last) and person.can(slot.skill, slot.day)
        }
        found.append(Covered(slot, len(given)))
    return found


def _share(problem: Problem, person: Person, plan: Plan, even_minutes: int) -> Share:
    shifts = [plan[person.id, day] for day in _days(problem) if (person.id, day) in plan]
    weeks = tuple(
        sum(shift.minutes for shift in shifts if shift.day in days) + rules.known_minutes(person, days)
        for days in problem.weeks()
    )
    return Share(
        person,
        sum(shift.minutes for shift in shifts),
        weeks,
        even_minutes,
        len(shifts),
        sum(1 for shift in shifts if shift.day in problem.weekend),
        sum(1 for shift in shifts if shift.is_late),
    )


def _days(problem: Problem) -> range:
    return range(problem.first_day, problem.last_day)


# --- reasons ---


def _reasons(problem: Problem, person: Person, shift: Shift, plan: Plan, coverage: ByDay) -> list[Reason]:
    found = []
    held = sum(1 for first, last in person.booked if shift.covers(first, last))
    if held:
        found.append(Reason("booked", amount=held))
    if shift.day in person.by_hand:
        found.append(Reason("settled"))
    found += _cover_reasons(person, shift, coverage)
    if any(w.kind == "wants" and w.staff_id == person.id and w.is_about(shift) for w in problem.wishes):
        found.append(Reason("wish"))
    if _is_below_least(problem, person, shift, plan):
        found.append(Reason("contract"))
    return found or [Reason("spread")]


def _cover_reasons(person: Person, shift: Shift, coverage: ByDay, more: int = 0) -> list[Reason]:
    """The skills that would be missing without somebody, those that would be missing most first.

    `more`: how many are there beside those that are counted.
    """
    minutes: dict[str, int] = {}
    for day in (shift.day, shift.day + 1):
        for each in coverage.get(day, ()):
            slot = each.slot
            needed = each.given + more <= slot.wanted and shift.covers(slot.first, slot.last)
            if needed and person.can(slot.skill, slot.day):
                minutes[slot.skill] = minutes.get(slot.skill, 0) + _minutes(slot)
    most = sorted(minutes.items(), key=lambda item: (-item[1], item[0]))
    return [Reason("cover", skill, amount) for skill, amount in most[:MOST_COVER_REASONS]]


def _is_below_least(problem: Problem, person: Person, shift: Shift, plan: Plan) -> bool:
    """Whether their week would be below the contract's least without a shift."""
    days = next(days for days in problem.weeks() if shift.day in days)
    minutes = sum(plan[person.id, day].minutes for day in days if (person.id, day) in plan)
    minutes += rules.known_minutes(person, days)
    return minutes - shift.minutes < rules.least_minutes(problem, person, days)


# --- wishes ---


def _outcome(problem: Problem, person: Person, wish: Wish, plan: Plan, coverage: ByDay) -> Outcome:
    outcome = Outcome(wish)
    for day in wish.days:
        shift = plan.get((wish.staff_id, day))
        if wish.kind == "wants" and not wish.is_dated and shift is None:
            continue  # it speaks of days on which they work
        met = (shift is not None and wish.is_about(shift)) == (wish.kind == "wants")
        if met:
            outcome.days_met += 1
        elif wish.kind == "wants":
            outcome.unmet.append((day, _why_not_given(problem, person, wish, day, plan, coverage)))
        else:
            assert shift is not None
            outcome.unmet.append((day, _why_given(person, shift, coverage)))
    return outcome


def _why_given(person: Person, shift: Shift, coverage: ByDay) -> str:
    """Why somebody has a shift they would rather not have."""
    if shift.day in person.by_hand:
        return "settled"
    if any(shift.covers(first, last) for first, last in person.booked):
        return "booked"
    return "cover" if _cover_reasons(person, shift, coverage) else "points"


def _why_not_given(problem: Problem, person: Person, wish: Wish, day: int, plan: Plan, coverage: ByDay) -> str:
    """Why somebody does not have a shift they want: the first rule that stands against it, or that nobody needs it."""
    if day in person.by_hand:
        return "settled"
    wanted = [shift for shift in problem.offered.get(day, ()) if wish.is_about(shift)]
    if not wanted:
        return "closed" if day in problem.closed else "not_needed"
    now = rules.violations(problem, {key: value for key, value in plan.items() if key[0] == person.id})
    reasons = []
    for shift in wanted:
        changed = {key: value for key, value in plan.items() if key[0] == person.id} | {(person.id, day): shift}
        new = [
            each.rule
            for each in rules.violations(problem, changed)
            if each.staff_id == person.id and each.rule != "min_minutes" and each not in now
        ]
        if not new:
            reasons.append("points" if _cover_reasons(person, shift, coverage, more=1) else "not_needed")
        else:
            reasons.append(new[0])
    return reasons[0]


# --- points ---


def _points(
    problem: Problem,
    plan: Plan,
    coverage: Sequence[Covered],
    broken: Sequence[Violation],
    shares: Sequence[Share],
) -> dict[str, float]:
    missing = 0.0
    for each in coverage:
        few = min(each.missing, (each.slot.wanted + 1) // 2)
        hours = _minutes(each.slot) / 60
        missing += hours * (few * program.MISSING_HOUR + (each.missing - few) * program.MISSING_MORE_HOUR)
    wishes = 0.0
    for wish in problem.wishes:
        for day in wish.days:
            shift = plan.get((wish.staff_id, day))
            if shift is not None:
                wishes += program.WISH * wish.weight * program.displeasure(wish, shift)
    weights = problem.weights
    return {
        "missing": missing,
        "rules": sum(_price(each) for each in broken if each.rule != "min_minutes"),
        "undertime": sum(each.amount / 60 * program.UNDERTIME_HOUR for each in broken if each.rule == "min_minutes"),
        "thrift": sum(each.minutes for each in shares) / 60 * program.WORKED_HOUR * weights.thrift / 100,
        "wishes": wishes * weights.wishes / 100,
        "fairness": _unfairness(problem, shares) * weights.fairness / 100,
    }


def _price(violation: Violation) -> float:
    if violation.rule == "max_minutes":
        return violation.amount / 60 * program.OVERTIME_HOUR
    if violation.rule in ("rest", "max_days", "consecutive"):
        return program.BROKEN_RULE * (1 if violation.rule == "rest" else violation.amount)
    return 0.0  # these follow from what is settled: no roster could do without


def _unfairness(problem: Problem, shares: Sequence[Share]) -> float:
    if len(problem.people) < 2:
        return 0.0
    before = program.ahead(problem)
    targets = program.even_minutes(problem)
    band = program.EVEN_HOURS_PER_WEEK * len(problem.weeks())
    points = 0.0
    for share in shares:
        person = share.person
        points += _growing(program.WEEKEND, before[person.id][0], share.weekend_days)
        points += _growing(program.LATE, before[person.id][1], share.late_shifts)
        off = abs(share.minutes - targets[person.id]) / 60
        points += min(off, band) * program.UNEVEN_HOUR + max(off - band, 0) * program.VERY_UNEVEN_HOUR
    return points


def _growing(cost: float, before: int, number: int) -> float:
    return sum(cost * (before + min(each, program.MOST_STEPS)) for each in range(number))
