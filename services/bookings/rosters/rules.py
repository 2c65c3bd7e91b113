"""The rules of a roster: which shifts somebody may get on a day, and what a finished roster breaks.

`violations` is the judge. It knows nothing of how a roster was made, by the solver or by hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.bookings.rosters.problem import STEP_MINUTES, Person, Plan, Problem, Shift, Stretch, Wish

RULES: Mapping[str, tuple[str, str]] = {
    "booked": ("customers have booked time outside the shift", "顾客预约的时间不在班次内"),
    "leave": ("works during approved leave", "在已批准的休假期间上班"),
    "elsewhere": ("works at another branch on that day", "当天在其他门店上班"),
    "by_hand": ("differs from what was settled by hand", "与手工排定的班次不同"),
    "closed": ("works although the branch is closed", "门店休息日上班"),
    "unavailable": ("works although they said they cannot", "在其声明不可上班的时间上班"),
    "shift_not_allowed": ("works a shift their contract does not allow", "合同不允许的班次"),
    "rest": ("{amount} minutes of rest are missing before the shift", "班前休息少 {amount} 分钟"),
    "max_minutes": ("{amount} minutes above the most of a week", "超出每周最长工时 {amount} 分钟"),
    "min_minutes": ("{amount} minutes below the least of a week", "低于每周最低工时 {amount} 分钟"),
    "max_days": ("{amount} days above the most of a week", "超出每周最多工作天数 {amount} 天"),
    "skill": ("{amount} person-minutes of a skill would be missing", "将缺少某项技能 {amount} 人分钟"),
    "consecutive": ("{amount} days too many in a row", "连续工作超出 {amount} 天"),
}
"""Rule → what breaking it means, in English and Chinese."""


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """A broken rule: whose, and on which days."""

    rule: str
    staff_id: str
    first_day: int
    last_day: int
    """The last of its days, included."""
    amount: int = 0
    """By how much: minutes or days; 0 where it is all or nothing."""


def violations(problem: Problem, plan: Plan) -> list[Violation]:
    """Every rule a roster breaks, by person and day."""
    unavailable = unavailable_by_person(problem)
    found: list[Violation] = []
    for person in problem.people:
        shifts = {day: shift for (staff_id, day), shift in plan.items() if staff_id == person.id}
        found += _of_days(problem, person, shifts, unavailable.get(person.id, ()))
        found += _unbooked(problem, person, shifts)
        found += _rest(person, shifts)
        found += _weeks(problem, person, shifts)
        found += _in_a_row(person, shifts)
    return sorted(found, key=lambda each: (each.staff_id, each.first_day, each.rule))


def unavailable_by_person(problem: Problem) -> dict[str, list[Wish]]:
    """What people said they cannot, by person."""
    found: dict[str, list[Wish]] = {}
    for wish in problem.wishes:
        if wish.kind == "unavailable":
            found.setdefault(wish.staff_id, []).append(wish)
    return found


def _of_days(
    problem: Problem, person: Person, shifts: Mapping[int, Shift], unavailable: Sequence[Wish]
) -> Iterable[Violation]:
    for day, settled in person.by_hand.items():
        here = shifts.get(day)
        if problem.first_day <= day < problem.last_day and stretches(here) != stretches(settled):
            yield Violation("by_hand", person.id, day, day)
    for day, shift in shifts.items():
        for rule in breaks(problem, person, shift, unavailable):
            # What was settled by hand may break these: it was meant.
            if rule in ("leave", "elsewhere") or day not in person.by_hand:
                yield Violation(rule, person.id, day, day)


def stretches(shift: Shift | None) -> tuple[Stretch, ...]:
    """When a shift is worked; never for none."""
    return () if shift is None else shift.stretches


def breaks(problem: Problem, person: Person, shift: Shift, unavailable: Sequence[Wish]) -> list[str]:
    """The rules that a shift breaks by itself, whatever is worked on other days."""
    found = []
    if shift.meets(person.away):
        found.append("leave")
    if any(work.day == shift.day or shift.meets(work.stretches) for work in person.known):
        found.append("elsewhere")
    if shift.day in problem.closed:
        found.append("closed")
    if any(wish.is_about(shift) for wish in unavailable):
        found.append("unavailable")
    allowed = person.contract.template_ids
    if allowed and shift.template_id is not None and shift.template_id not in allowed:
        found.append("shift_not_allowed")
    return found


def _unbooked(problem: Problem, person: Person, shifts: Mapping[int, Shift]) -> Iterable[Violation]:
    for first, last in person.booked:
        if not any(shift.covers(first, last) for shift in (*shifts.values(), *person.known)):
            day = problem.local_day(first)
            yield Violation("booked", person.id, day, day)


def _rest(person: Person, shifts: Mapping[int, Shift]) -> Iterable[Violation]:
    work = sorted((*shifts.values(), *person.known), key=lambda shift: shift.first)
    for before, after in itertools.pairwise(work):
        ours = shifts.get(before.day) is before or shifts.get(after.day) is after
        missing = missing_rest(person, before, after)
        if ours and missing > 0:
            yield Violation("rest", person.id, before.day, after.day, missing)


def missing_rest(person: Person, before: Shift, after: Shift) -> int:
    """Minutes of rest that lack between two shifts; 0 or less when it is enough, or when it is one day's work."""
    if before.day == after.day:
        return 0
    return person.contract.min_rest_minutes - (after.first - before.last) * STEP_MINUTES


def known_minutes(person: Person, days: range) -> int:
    """Minutes somebody works on these days that are not planned here."""
    return sum(work.minutes for work in person.known if work.day in days)


def least_minutes(problem: Problem, person: Person, days: range) -> int:
    """The least minutes of a week: the contract's share of the days that are not on leave."""
    there = sum(1 for day in days if not on_leave(problem, person, day))
    return person.contract.min_week_minutes * there // 7


def on_leave(problem: Problem, person: Person, day: int) -> bool:
    """Whether half of a day or more is leave."""
    first, last = problem.bounds[day]
    away = sum(max(0, min(end, last) - max(begin, first)) for begin, end in person.away)
    return away * 2 >= last - first


def _weeks(problem: Problem, person: Person, shifts: Mapping[int, Shift]) -> Iterable[Violation]:
    contract = person.contract
    for days in problem.weeks():
        here = [shifts[day] for day in days if day in shifts]
        minutes = sum(shift.minutes for shift in here) + known_minutes(person, days)
        worked = len({day for day in days if day in shifts} | {work.day for work in person.known if work.day in days})
        first, last = days[0], days[-1]
        if here and minutes > contract.max_week_minutes:
            yield Violation("max_minutes", person.id, first, last, minutes - contract.max_week_minutes)
        least = least_minutes(problem, person, days)
        if minutes < least:
            yield Violation("min_minutes", person.id, first, last, least - minutes)
        if here and worked > contract.max_week_days:
            yield Violation("max_days", person.id, first, last, worked - contract.max_week_days)


def _in_a_row(person: Person, shifts: Mapping[int, Shift]) -> Iterable[Violation]:
    most = person.contract.max_consecutive_days
    worked = set(shifts) | {work.day for work in person.known}
    for day in sorted(worked):
        if day - 1 in worked:
            continue
        last = day
        while last + 1 in worked:
            last += 1
        # Days beyond the most that are decided here: what lies before the roster cannot be mended any more.
        beyond = [each for each in range(day + most, last + 1) if each in shifts]
        if beyond:
            yield Violation("consecutive", person.id, day, last, len(beyond))


# --- what the solver may choose from ---


@dataclass(frozen=True, slots=True)
class Choices:
    """The shifts somebody may get on a day."""

    shifts: tuple[Shift, ...]
    must_work: bool = False
    """Customers wait for them, or it was settled by hand."""


def choices(problem: Problem) -> dict[tuple[str, int], Choices]:
    """What everybody may get on each day. It is never empty-handed: what cannot be kept is chosen and named later.

    Leave, work at other branches and what was settled by hand always hold. Where customers have booked, only shifts
    count that hold all their time; if no shift of the branch does, one is made for it.
    """
    unavailable = unavailable_by_person(problem)
    found: dict[tuple[str, int], Choices] = {}
    for person in problem.people:
        booked = booked_by_day(problem, person)
        refused = unavailable.get(person.id, ())
        for day in range(problem.first_day, problem.last_day):
            if day in person.by_hand:
                settled = person.by_hand[day]
                found[person.id, day] = Choices(() if settled is None else (settled,), settled is not None)
            elif day in booked:
                found[person.id, day] = _for_customers(problem, person, day, booked[day], refused)
            else:
                free = [each for each in problem.offered.get(day, ()) if not breaks(problem, person, each, refused)]
                rested = [each for each in free if _is_rested(person, each)]
                found[person.id, day] = Choices(tuple(rested))
    return found


def booked_by_day(problem: Problem, person: Person) -> dict[int, list[Stretch]]:
    """What customers have booked with somebody, by the day whose shift has to hold it; nothing during their leave."""
    found: dict[int, list[Stretch]] = {}
    for first, last in person.booked:
        if any(begin < last and first < end for begin, end in person.away):
            continue
        if any(work.covers(first, last) for work in person.known):
            continue
        day = problem.local_day(first)
        # A booking after midnight belongs to the night shift of the day before, when only that one holds it.
        if not _holding(problem, day, first, last) and _holding(problem, day - 1, first, last):
            day -= 1
        found.setdefault(day, []).append((first, last))
    return found


def _holding(problem: Problem, day: int, first: int, last: int) -> bool:
    return any(shift.covers(first, last) for shift in problem.offered.get(day, ()))


def _for_customers(
    problem: Problem, person: Person, day: int, booked: Sequence[Stretch], refused: Sequence[Wish]
) -> Choices:
    holding = [
        shift
        for shift in problem.offered.get(day, ())
        if all(shift.covers(first, last) for first, last in booked) and not shift.meets(person.away)
    ]
    allowed = [shift for shift in holding if not breaks(problem, person, shift, refused) and _is_rested(person, shift)]
    if not holding:
        first, last = min(first for first, _ in booked), max(last for _, last in booked)
        holding = [Shift(day, ((first, last),), (last - first) * STEP_MINUTES)]
    return Choices(tuple(allowed or holding), must_work=True)


def _is_rested(person: Person, shift: Shift) -> bool:
    """Whether rest is kept to the work that is not planned here."""
    return all(
        missing_rest(person, *sorted((work, shift), key=lambda each: each.first)) <= 0
        for work in person.known
        if abs(work.day - shift.day) <= 2
    )
