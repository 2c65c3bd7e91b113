"""Who and what is free together, and when: the one place that decides it, for what is offered as for what is booked.

A visit is a list of needs. A need wants `count` of a pool (people who are able, rooms of a type) over a pattern of time
relative to the start of the visit, buffers included. A visit can begin at a step when every need can be given its
people or things at once, and nobody is given to two needs whose patterns overlap.

All is decided on bitmaps, for every start of a window at once: the steps at which one of the pool could serve a need
are an erosion of its free time by the pattern. Where needs compete for the same people, Hall's theorem says whether all
can be served: for every set of needs, those who could serve at least one of them must be as many as all of them want.
That holds for needs that all overlap each other; what is more tangled is settled step by step (`assign`).

Bitmaps are those of services.bookings.calendar: bit n is the n-th step of five minutes after midnight UTC of the
window's first day.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from services.bookings import calendar
from services.bookings.calendar import DAY_STEPS

HORIZON_DAYS = 400
WINDOW_DAYS = 35
MOST_SLOTS = 2000
MOST_DURATION = timedelta(hours=24)
# Choices that are tried before a tangle of needs counts as not to be solved.
MOST_TRIES = 20_000
# Demands of a crowd for which Hall's condition is checked in full: for more there are too many sets of them.
MOST_DEMANDS = 6

Pattern = tuple[tuple[int, int], ...]
"""Stretches from a first step to before a last one, relative to the start of the visit; in order, none touching."""


@dataclass(frozen=True, slots=True)
class Window:
    """Whole UTC days that bitmaps cover; `first_day` counts from 1970."""

    first_day: int
    days: int

    @property
    def first_step(self) -> int:
        """Its first step since 1970."""
        return self.first_day * DAY_STEPS

    @property
    def all(self) -> int:
        """The bitmap of all its steps."""
        return (1 << self.days * DAY_STEPS) - 1

    def span(self, first: int, last: int) -> int:
        """The bitmap of the steps from `first` to before `last` (since 1970)."""
        return calendar.span(first, last, self.first_day, self.days)


@dataclass(frozen=True, slots=True)
class Need:
    """People or things a visit wants at certain times of it."""

    key: str
    """Line and name, such as `0.therapist`: unique in the visit."""
    kind: str
    """staff, resource or customer."""
    pool: tuple[str, ...]
    """Ids of all who could serve it."""
    count: int
    pattern: Pattern
    chosen: tuple[str, ...] = ()
    """Those of the pool who must be among them."""
    skills: tuple[str, ...] = ()
    """Skills that must not have expired on the day."""

    @property
    def line(self) -> int:
        """The line of the visit it belongs to."""
        return int(self.key.partition(".")[0])

    @property
    def name(self) -> str:
        """Its name in the plan of the line's service."""
        return self.key.partition(".")[2]


# --- bitmaps ---


def runs(free: int, length: int) -> int:
    """The steps at which `length` free steps begin."""
    found = free
    covered = 1
    while covered < length:
        further = min(covered, length - covered)
        found &= found >> further
        covered += further
    return found


def possible_starts(free: int, pattern: Pattern) -> int:
    """Steps at which a visit could begin so that a pattern lies in free time. Bits may lie beyond the window."""
    found = -1
    for first, last in pattern:
        starts = runs(free, last - first)
        found &= starts >> first if first >= 0 else starts << -first
    return found


def at_least(bitmaps: Iterable[int], count: int) -> int:
    """The steps that are set in `count` of the bitmaps or more."""
    if count == 1:
        union = 0
        for bitmap in bitmaps:
            union |= bitmap
        return union
    levels = [0] * count
    for bitmap in bitmaps:
        for level in range(count - 1, 0, -1):
            levels[level] |= levels[level - 1] & bitmap
        levels[0] |= bitmap
    return levels[-1]


def overlap(one: Pattern, other: Pattern) -> bool:
    """Whether two patterns share time."""
    return any(first < end and start < last for first, last in one for start, end in other)


def steps_of(bitmap: int) -> list[int]:
    """The steps that are set, in order."""
    text = bin(bitmap)[:1:-1]
    found = []
    position = text.find("1")
    while position >= 0:
        found.append(position)
        position = text.find("1", position + 1)
    return found


def lowest(bitmap: int, count: int) -> int:
    """The first `count` of the steps that are set."""
    found = 0
    for _ in range(count):
        bit = bitmap & -bitmap
        found |= bit
        bitmap ^= bit
    return found


# --- needs together ---


@dataclass(slots=True)
class Tries:
    """How many more choices may be tried: a tangle of needs must not take for ever."""

    left: int = MOST_TRIES


@dataclass(slots=True)
class Starts:
    """For each need the steps at which each of its pool could serve it."""

    needs: Sequence[Need]
    by_need: list[dict[str, int]]
    allowed: int
    tries: Tries = field(default_factory=Tries)

    @classmethod
    def of(cls, needs: Sequence[Need], free: Callable[[Need, str], int], allowed: int) -> Starts:
        """Of the free time of people and things, of those starts that are allowed."""
        found: list[dict[str, int]] = []
        known: dict[tuple[int, Pattern], int] = {}
        for need in needs:
            mine: dict[str, int] = {}
            for identifier in need.pool:
                key = (free(need, identifier), need.pattern)
                starts = known.get(key)
                if starts is None:
                    starts = known[key] = possible_starts(*key) & allowed
                if starts:
                    mine[identifier] = starts
            found.append(mine)
        return cls(needs, found, allowed)

    def alone(self, index: int) -> int:
        """Steps at which a need could be served if there were no others."""
        need, mine = self.needs[index], self.by_need[index]
        if len(mine) < need.count:
            return 0
        found = at_least(mine.values(), need.count)
        for identifier in need.chosen:
            found &= mine.get(identifier, 0)
        return found

    def together(self) -> int:
        """Steps at which all needs can be served at once."""
        found = self.allowed
        for index in range(len(self.needs)):
            found &= self.alone(index)
            if not found:
                return 0
        for group in tangles(self.needs):
            if len(group) > 1:
                found = self._untangle(group, found)
                if not found:
                    return 0
        return found

    def only(self, indexes: Sequence[int]) -> Starts:
        """The same for some of the needs, by their positions."""
        needs, by_need = [self.needs[index] for index in indexes], [self.by_need[index] for index in indexes]
        return Starts(needs, by_need, self.allowed, self.tries)

    def _untangle(self, group: Sequence[int], allowed: int) -> int:
        """Of the allowed steps those at which a group of needs that share people can be served."""
        found = allowed
        crowds = _crowds([self.needs[index].pattern for index in group])
        is_settled = len(crowds) == 1
        for crowd in crowds:
            demands = self._demands([group[position] for position in crowd])
            found = _hall(demands, found)
            is_settled = is_settled and len(demands) <= MOST_DEMANDS
        if is_settled or not found:
            return found
        needs = [self.needs[index] for index in group]
        served = 0
        for steps, candidates in self._alike(group, found):
            if assign(needs, candidates, self.tries) is not None:
                served |= steps
        return served

    def _demands(self, crowd: Sequence[int]) -> list[tuple[int, dict[str, int]]]:
        """How many are wanted of whom, by needs that all overlap each other.

        Who is chosen is a demand of their own, so that nobody else's demand counts on them. Demands for the same people
        are one: what they want together is what decides.
        """
        demands: list[tuple[int, dict[str, int]]] = []
        for index in crowd:
            need, mine = self.needs[index], self.by_need[index]
            wanted = [(1, {identifier: mine.get(identifier, 0)}) for identifier in need.chosen]
            left = need.count - len(need.chosen)
            if left:
                wanted.append((left, {i: bits for i, bits in mine.items() if i not in need.chosen}))
            for count, people in wanted:
                same = next((n for n, (_, others) in enumerate(demands) if others == people), None)
                if same is None:
                    demands.append((count, people))
                else:
                    demands[same] = (demands[same][0] + count, people)
        return demands

    def _alike(self, group: Sequence[int], allowed: int) -> list[tuple[int, list[list[str]]]]:
        """The allowed steps in parts, in each of which the same people could serve the needs of a group."""
        parts: list[tuple[int, list[list[str]]]] = [(allowed, [[] for _ in group])]
        for position, index in enumerate(group):
            for identifier, bits in self.by_need[index].items():
                further = []
                for steps, candidates in parts:
                    able = steps & bits
                    if able:
                        mine = [*candidates[position], identifier]
                        further.append((able, [*candidates[:position], mine, *candidates[position + 1 :]]))
                    if able != steps:
                        further.append((steps & ~bits, candidates))
                parts = further
        return parts

    def led_by(self, index: int) -> dict[str, int]:
        """For each who could lead (serve the need at `index`), the steps at which the whole visit can begin then."""
        needs = list(self.needs)
        lead, mine = needs[index], self.by_need[index]
        everybody = self.together()
        found = {i: both for i in lead.chosen or tuple(mine) if (both := mine.get(i, 0) & everybody)}
        if lead.chosen or not everybody:
            return found
        group = next(group for group in tangles(needs) if index in group)
        # Who is wanted nowhere else can lead whenever somebody can: they change places.
        rivals = [needs[other] for other in group if other != index and _compete(lead, needs[other])]
        for identifier in [i for i in found if any(i in rival.pool for rival in rivals)]:
            needs[index] = replace(lead, chosen=(identifier,))
            steps = Starts(needs, self.by_need, self.allowed, self.tries)._untangle(group, found[identifier])
            if steps:
                found[identifier] = steps
            else:
                del found[identifier]
        return found

    def at(self, step: int) -> list[list[str]]:
        """For each need who could serve it at a step."""
        bit = 1 << step
        return [[identifier for identifier, bits in mine.items() if bits & bit] for mine in self.by_need]


def _compete(one: Need, other: Need) -> bool:
    return overlap(one.pattern, other.pattern) and not set(one.pool).isdisjoint(other.pool)


def tangles(needs: Sequence[Need]) -> list[list[int]]:
    """Needs that compete for the same people or things, directly or through others, by their positions."""
    groups: list[list[int]] = []
    for index, need in enumerate(needs):
        touching = [group for group in groups if any(_compete(need, needs[other]) for other in group)]
        for group in touching:
            groups.remove(group)
        groups.append([*itertools.chain.from_iterable(touching), index])
    return groups


def _crowds(patterns: Sequence[Pattern]) -> list[list[int]]:
    """Positions of patterns that all overlap each other; as one where all do, else those of each moment."""
    positions = list(range(len(patterns)))
    if all(overlap(patterns[one], patterns[other]) for one, other in itertools.combinations(positions, 2)):
        return [positions]
    moments = sorted({first for pattern in patterns for first, _ in pattern})
    found = {
        tuple(n for n in positions if any(first <= moment < last for first, last in patterns[n])) for moment in moments
    }
    return [list(crowd) for crowd in sorted(found) if not any(set(crowd) < set(other) for other in found)]


def _hall(demands: Sequence[tuple[int, Mapping[str, int]]], allowed: int) -> int:
    """Of the allowed steps those at which every set of demands has as many people as it wants.

    Of more than six demands only single ones, pairs and all together are looked at: then it says what is impossible,
    not what is possible.
    """
    found = allowed
    sizes: Iterable[int] = range(1, len(demands) + 1)
    if len(demands) > MOST_DEMANDS:
        sizes = (1, 2, len(demands))
    for size in sizes:
        for subset in itertools.combinations(demands, size):
            union: dict[str, int] = {}
            for _, mine in subset:
                for identifier, bits in mine.items():
                    union[identifier] = union.get(identifier, 0) | bits
            found &= at_least(union.values(), sum(count for count, _ in subset))
            if not found:
                return 0
    return found


def assign(
    needs: Sequence[Need], candidates: Sequence[Sequence[str]], tries: Tries | None = None
) -> list[tuple[str, ...]] | None:
    """Give each need its people, those who stand first among its candidates first; None when it cannot be done.

    Nobody is given to two needs whose patterns overlap. What is not found in 20,000 tries counts as impossible.
    """
    budget = tries or Tries()
    rivals = [
        [later for later in range(index + 1, len(needs)) if overlap(need.pattern, needs[later].pattern)]
        for index, need in enumerate(needs)
    ]
    given: list[tuple[str, ...]] = []

    def can_serve(index: int, able: Sequence[str]) -> bool:
        return len(able) >= needs[index].count and all(identifier in able for identifier in needs[index].chosen)

    def left_for(others: Sequence[Sequence[str]], index: int, taken: Sequence[str]) -> list[Sequence[str]] | None:
        left = list(others)
        for later in rivals[index]:
            left[later] = [identifier for identifier in left[later] if identifier not in taken]
            if not can_serve(later, left[later]):
                return None
        return left

    def place(index: int, able: Sequence[Sequence[str]]) -> bool:
        if index == len(needs):
            return True
        need = needs[index]
        others = [identifier for identifier in able[index] if identifier not in need.chosen]
        for more in itertools.combinations(others, need.count - len(need.chosen)):
            budget.left -= 1
            if budget.left < 0:
                return False
            taken = (*need.chosen, *more)
            left = left_for(able, index, taken)
            if left is not None:
                given.append(taken)
                if place(index + 1, left):
                    return True
                given.pop()
        return False

    if not all(can_serve(index, able) for index, able in enumerate(candidates)):
        return None
    return given if place(0, candidates) else None


# --- what is offered ---


def without_orphans(free: int, pattern: Pattern, starts: int, shortest: int, within: int) -> int:
    """Of the starts those that leave no free gap shorter than `shortest` steps before or after in a free time."""
    first, last = pattern[0][0], pattern[-1][1]
    long = runs(free, shortest)

    def shifted(bitmap: int, by: int) -> int:
        return bitmap >> by if by >= 0 else bitmap << -by

    before = (within & ~shifted(free, first - 1)) | shifted(long, first - shortest)
    after = (within & ~shifted(free, last)) | shifted(long, last)
    return starts & before & after


def by_step(starts: Mapping[str, int], limit: int = MOST_SLOTS) -> list[tuple[int, list[str]]]:
    """Steps at which somebody could begin, in order and at most `limit`, each with everybody who could."""
    union = 0
    for bitmap in starts.values():
        union |= bitmap
    steps = steps_of(union)[:limit]
    if len(starts) == 1:
        ids = list(starts)
        return [(step, ids) for step in steps]
    # A text of zeros and ones answers "is the n-th bit set" without shifting a long number.
    texts = [(person_id, bin(bitmap)[:1:-1]) for person_id, bitmap in starts.items()]
    return [(step, [person_id for person_id, text in texts if text[step : step + 1] == "1"]) for step in steps]
