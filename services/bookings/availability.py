"""Who is free when: the one place that decides it, for what is offered as for what is booked.

A person can begin a service at a step when
- the branch is open for the whole service, and
- the person's shift at the branch covers the service and its buffers, and
- the person is busy with nothing else during both.
What is offered lies on a grid of 15 minutes from local midnight; what is booked may begin at any step of five minutes.
(Every zone is a multiple of 15 minutes away from UTC, so that the grid is the same everywhere.)

Bitmaps are those of services.bookings.calendar: bit n is the n-th step of five minutes after midnight UTC of
`first_day`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.bookings import calendar
from services.bookings.calendar import DAY_STEPS, STEP_MINUTES

GRID_STEPS = 3
HORIZON_DAYS = 400
WINDOW_DAYS = 35
MOST_SLOTS = 2000
MOST_BUFFER = timedelta(hours=4)
MOST_DURATION = timedelta(hours=24)
ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Whole UTC days that bitmaps cover; `first_day` counts from 1970."""

    first_day: int
    days: int

    @classmethod
    def around(cls, earliest: datetime, latest: datetime) -> Window:
        """The days of all steps from `earliest` to `latest` with the longest buffers."""
        first = calendar.day_number(earliest - MOST_BUFFER)
        return cls(first, calendar.day_number(latest + MOST_BUFFER) - first + 1)

    @property
    def first_step(self) -> int:
        """Its first step since 1970."""
        return self.first_day * DAY_STEPS

    def span(self, first: int, last: int) -> int:
        """The bitmap of the steps from `first` to before `last` (since 1970)."""
        return calendar.span(first, last, self.first_day, self.days)


@dataclass(frozen=True, slots=True)
class Need:
    """What a service takes of a person's time, in steps."""

    before: int
    duration: int
    after: int

    @classmethod
    def of_minutes(cls, before: int, duration: int, after: int) -> Need:
        """The same in minutes, multiples of five."""
        return cls(before // STEP_MINUTES, duration // STEP_MINUTES, after // STEP_MINUTES)

    def occupied(self, start: int) -> tuple[int, int]:
        """First and last step (exclusive) that a service beginning at a step takes, buffers included."""
        return start - self.before, start + self.duration + self.after


@dataclass(slots=True)
class Person:
    """A person who can do the service: when they work at the branch, and when they are busy."""

    id: str
    works: int
    busy: int


def runs(free: int, length: int) -> int:
    """The steps at which `length` free steps begin."""
    found = free
    covered = 1
    while covered < length:
        further = min(covered, length - covered)
        found &= found >> further
        covered += further
    return found


def possible_starts(free: int, need: Need) -> int:
    """Steps at which a service could begin in a person's free time."""
    return runs(free, need.before + need.duration + need.after) << need.before


def starts_of(people: Iterable[Person], need: Need, open_: int, allowed: int) -> dict[str, int]:
    """For each person the steps at which they could begin, of those allowed and while the branch is open."""
    within = runs(open_, need.duration) & allowed
    found = {}
    cache: dict[int, int] = {}
    for person in people:
        free = person.works & ~person.busy
        starts = cache.get(free)
        if starts is None:
            starts = cache[free] = possible_starts(free, need) & within
        if starts:
            found[person.id] = starts
    return found


def steps_of(bitmap: int) -> list[int]:
    """The steps that are set, in order."""
    text = bin(bitmap)[:1:-1]
    found = []
    position = text.find("1")
    while position >= 0:
        found.append(position)
        position = text.find("1", position + 1)
    return found


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


def nearest_first(steps: Sequence[tuple[int, list[str]]], wanted: int, most: int) -> list[tuple[int, list[str]]]:
    """The slots closest to a wanted step, the closest first; of two equally close the earlier one."""
    return sorted(steps, key=lambda slot: (abs(slot[0] - wanted), slot[0]))[:most]


def fairest_first(people: Iterable[Person], local_day: int) -> list[Person]:
    """Who should get the next booking of a day: the least busy first; then those who joined first (ids ascend)."""
    return sorted(people, key=lambda person: ((person.busy & local_day).bit_count(), person.id))
