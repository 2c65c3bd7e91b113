"""What a roster is made from, as plain values: the same for the solver's process, the checker and the figures.

Moments are steps of five minutes since 1970, so that a shift over a clock change is as long as it is; days are local
days of the branch, counted since 1970. It imports nothing but the standard library, for the solver's process is small.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

STEP_MINUTES = 5
WEEK_DAYS = 7
FOREVER_DAY = 1_000_000

Stretch = tuple[int, int]
"""From a first step to before a last one."""


@dataclass(frozen=True, slots=True)
class Shift:
    """What somebody works on a day."""

    day: int
    stretches: tuple[Stretch, ...]
    minutes: int
    """What counts as worked: unpaid breaks are not in it."""
    template_id: str | None = None
    is_late: bool = False

    @property
    def first(self) -> int:
        """The step it begins with."""
        return self.stretches[0][0]

    @property
    def last(self) -> int:
        """The step after its end."""
        return self.stretches[-1][1]

    def covers(self, first: int, last: int) -> bool:
        """Whether all of a stretch lies in it."""
        return any(begin <= first and last <= end for begin, end in self.stretches)

    def meets(self, stretches: Iterable[Stretch]) -> bool:
        """Whether it shares a moment with one of the stretches."""
        return any(begin < last and first < end for begin, end in self.stretches for first, last in stretches)


@dataclass(frozen=True, slots=True)
class Contract:
    """What somebody may work. Weeks are blocks of seven days from the first day of the roster."""

    min_week_minutes: int = 0
    max_week_minutes: int = 2640
    max_week_days: int = 6
    min_rest_minutes: int = 660
    max_consecutive_days: int = 6
    template_ids: tuple[str, ...] = ()
    """Shifts they may work; none: all."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody to be planned, and all that is settled about them already."""

    id: str
    contract: Contract = Contract()
    skills: Mapping[str, int] = field(default_factory=dict)
    """Skill → the last day it holds."""
    away: tuple[Stretch, ...] = ()
    """Approved leave."""
    booked: tuple[Stretch, ...] = ()
    """What customers have booked with them at this branch."""
    known: tuple[Shift, ...] = ()
    """Work that is not planned here: at other branches, and at this one in the days before and after."""
    by_hand: Mapping[int, Shift | None] = field(default_factory=dict)
    """Days that were settled by hand; None: they do not work."""
    past_weekends: int = 0
    past_lates: int = 0
    past_minutes: int = 0

    def can(self, skill: str, day: int) -> bool:
        """Whether they have a skill on a day; everybody has the empty one."""
        return not skill or self.skills.get(skill, -1) >= day


@dataclass(frozen=True, slots=True)
class Slot:
    """People wanted in a stretch of a day. The empty skill: anybody."""

    day: int
    first: int
    last: int
    skill: str
    wanted: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody would like. Without a template it is about the whole day."""

    id: str
    staff_id: str
    kind: str
    """`wants`, `avoids`, or `unavailable`, which is no wish but a rule."""
    days: tuple[int, ...]
    template_id: str | None = None
    weight: int = 3
    is_dated: bool = True
    """It names a day or a weekday: wanting it means to work then."""

    def is_about(self, shift: Shift) -> bool:
        """Whether it speaks of this shift."""
        return shift.day in self.days and self.template_id in (None, shift.template_id)


@dataclass(frozen=True, slots=True)
class Weights:
    """How much parts of the aim count, in percent of the ordinary."""

    wishes: int = 100
    fairness: int = 100
    thrift: int = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """A roster to be made."""

    first_day: int
    days: int
    people: tuple[Person, ...]
    offered: Mapping[int, tuple[Shift, ...]]
    """Day → the branch's shifts laid on it."""
    bounds: Mapping[int, Stretch]
    """Day → its first step, and the first one of the next day."""
    slots: tuple[Slot, ...] = ()
    wishes: tuple[Wish, ...] = ()
    closed: frozenset[int] = frozenset()
    """Days on which the branch is closed."""
    weekend: frozenset[int] = frozenset()
    weights: Weights = Weights()

    @property
    def last_day(self) -> int:
        """The day after the last one."""
        return self.first_day + self.days

    def weeks(self) -> list[range]:
        """The days of each week."""
        starts = range(self.first_day, self.last_day, WEEK_DAYS)
        return [range(start, min(start + WEEK_DAYS, self.last_day)) for start in starts]

    def local_day(self, step: int) -> int:
        """The day a step lies in; the first or last day for one outside."""
        found = [day for day, (first, last) in self.bounds.items() if first <= step < last]
        return found[0] if found else (self.first_day if step < self.bounds[self.first_day][0] else self.last_day - 1)


Plan = Mapping[tuple[str, int], Shift]
"""(person, day) → what they work; who is not in it has the day off."""


def dump(problem: Problem) -> str:
    """A problem as JSON, for the solver's process."""
    content = dataclasses.asdict(problem)
    content["closed"], content["weekend"] = sorted(problem.closed), sorted(problem.weekend)
    return json.dumps(content, separators=(",", ":"))


def load(text: str) -> Problem:
    """The problem that `dump` wrote."""
    content = json.loads(text)
    return Problem(
        first_day=content["first_day"],
        days=content["days"],
        people=tuple(_person(each) for each in content["people"]),
        offered={int(day): tuple(shift_of(each) for each in shifts) for day, shifts in content["offered"].items()},
        bounds={int(day): (bounds[0], bounds[1]) for day, bounds in content["bounds"].items()},
        slots=tuple(Slot(**each) for each in content["slots"]),
        wishes=tuple(Wish(**{**each, "days": tuple(each["days"])}) for each in content["wishes"]),
        closed=frozenset(content["closed"]),
        weekend=frozenset(content["weekend"]),
        weights=Weights(**content["weights"]),
    )


def shift_of(content: Mapping[str, Any]) -> Shift:
    """A shift from JSON."""
    stretches = tuple((first, last) for first, last in content["stretches"])
    return Shift(content["day"], stretches, content["minutes"], content["template_id"], content["is_late"])


def dump_plan(plan: Plan) -> list[list[Any]]:
    """A roster as JSON values."""
    return [[staff_id, dataclasses.asdict(shift)] for (staff_id, _), shift in sorted(plan.items())]


def load_plan(content: Iterable[Any]) -> dict[tuple[str, int], Shift]:
    """The roster that `dump_plan` wrote."""
    shifts = ((staff_id, shift_of(shift)) for staff_id, shift in content)
    return {(staff_id, shift.day): shift for staff_id, shift in shifts}


def _person(content: dict[str, Any]) -> Person:
    by_hand = {int(day): None if shift is None else shift_of(shift) for day, shift in content.pop("by_hand").items()}
    contract = content.pop("contract")
    return Person(
        contract=Contract(**{**contract, "template_ids": tuple(contract["template_ids"])}),
        away=tuple((first, last) for first, last in content.pop("away")),
        booked=tuple((first, last) for first, last in content.pop("booked")),
        known=tuple(shift_of(shift) for shift in content.pop("known")),
        by_hand=by_hand,
        **content,
    )
