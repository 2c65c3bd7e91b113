"""The bitmaps against a reference that looks at every step, and every way to give people, by itself."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.bookings import availability
from services.bookings.availability import Need, Starts, Tries, Window
from tests.unit.bookings_reference import Job, ways

STEPS = 48
PEOPLE = "abcdef"
CASES, LONG_CASES = 600, 20_000


def pattern_of(steps: frozenset[int]) -> availability.Pattern:
    """Stretches of steps that are together."""
    found: list[tuple[int, int]] = []
    for step in sorted(steps):
        if found and found[-1][1] == step:
            found[-1] = (found[-1][0], step + 1)
        else:
            found.append((step, step + 1))
    return tuple(found)


stretch = st.tuples(st.integers(-3, 10), st.integers(1, 5)).map(lambda pair: range(pair[0], pair[0] + pair[1]))
pattern_steps = st.lists(stretch, min_size=1, max_size=2).map(lambda parts: frozenset(itertools.chain(*parts)))


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        pool = sorted(draw(st.sets(st.sampled_from(PEOPLE), min_size=1, max_size=5)))
        count = draw(st.sampled_from((1, 1, 1, 2, 3)))
        chosen = (
            set(draw(st.lists(st.sampled_from(pool), max_size=count, unique=True))) if draw(st.booleans()) else set()
        )
        found.append(Job(f"{number}.x", draw(pattern_steps), count, chosen, pool, []))
    return found


def need_of(job: Job) -> Need:
    return Need(job.key, "staff", tuple(job.pool), job.count, pattern_of(job.steps), tuple(sorted(job.chosen)))


free_time = st.tuples(st.integers(0, 2**STEPS - 1), st.integers(0, 2**STEPS - 1)).map(lambda two: two[0] | two[1])


def check_together(wanted: list[Job], free: dict[str, int], allowed: int) -> None:
    needs = [need_of(job) for job in wanted]
    starts = Starts.of(needs, lambda _need, identifier: free[identifier], allowed)
    together = starts.together()
    led = starts.led_by(0)
    for step in range(STEPS):
        ready = [
            [one for one in job.pool if all(step + s >= 0 and free[one] >> step + s & 1 for s in job.steps)]
            for job in wanted
        ]
        every_way = set(ways(wanted, ready)) if allowed >> step & 1 else set()
        assert together >> step & 1 == bool(every_way), step
        leaders = {one for way in every_way for one in way[0] if not wanted[0].chosen or one in wanted[0].chosen}
        assert {one for one, bits in led.items() if bits >> step & 1} == leaders, step
        if allowed >> step & 1:
            assert starts.at(step) == ready


@pytest.mark.timeout(1200)
def test_who_and_what_is_free_together(long_run: bool) -> None:
    cases = st.tuples(jobs(), st.fixed_dictionaries(dict.fromkeys(PEOPLE, free_time)), st.integers(0, 2**STEPS - 1))

    @settings(max_examples=LONG_CASES if long_run else CASES, deadline=None)
    @given(cases)
    def check(case: tuple[list[Job], dict[str, int], int]) -> None:
        check_together(*case)

    check()


@settings(max_examples=200, deadline=None)
@given(jobs(), st.data())
def test_the_first_who_can_are_given(wanted: list[Job], data: st.DataObject) -> None:
    """Of all ways to give people it is the one with those who stand first, for the first need first."""
    ready = [data.draw(st.permutations(job.pool)) for job in wanted]
    given_ = availability.assign([need_of(job) for job in wanted], ready)
    first = next(ways(wanted, ready), None)
    assert (None if given_ is None else [set(ids) for ids in given_]) == (first and [set(ids) for ids in first])


def test_a_crowd_is_settled_in_time() -> None:
    """Twelve needs of different lengths that compete for ten people: too many sets for Hall, and nobody waits long."""
    people = [f"p{number}" for number in range(13)]
    needs = [Need(f"{n}.x", "staff", tuple(people[n % 3 :]), 1, ((0, 6 + n),), ()) for n in range(12)]
    free = dict.fromkeys(people, (1 << 2000) - 1)
    for number, identifier in enumerate(people[:3]):
        free[identifier] &= ~(1 << 500 * (number + 1))
    started = time.process_time()
    starts = Starts.of(needs, lambda _need, identifier: free[identifier], (1 << 1900) - 1)
    found = starts.together()
    assert found == (1 << 1900) - 1 & ~starts_of_nobody(free, needs, people)
    few = Starts.of(needs, lambda _need, one: free[one] if one in people[:11] else 0, (1 << 1900) - 1)
    assert few.together() == 0
    chain = [Need(f"{n}.x", "staff", tuple(people[:8]), 1, ((n, n + 9),), ()) for n in range(20)]
    assert Starts.of(chain, lambda _need, one: free[one], (1 << 1900) - 1).together() == 0
    assert time.process_time() - started < 2


def starts_of_nobody(free: dict[str, int], needs: list[Need], people: list[str]) -> int:
    """Steps at which fewer than twelve people are free for the longest need, or those able for the needs too few."""
    found = 0
    for step in range(1900):
        ready = [
            {one for one in need.pool if all(free[one] >> step + s & 1 for s in range(*need.pattern[0]))}
            for need in needs
        ]
        if not matched(ready):
            found |= 1 << step
    return found


def matched(ready: list[set[str]]) -> bool:
    """Whether each can have one of their own, by augmenting paths."""
    owner: dict[str, int] = {}

    def place(index: int, seen: set[str]) -> bool:
        for one in ready[index] - seen:
            seen.add(one)
            if one not in owner or place(owner[one], seen):
                owner[one] = index
                return True
        return False

    return all(place(index, set()) for index in range(len(ready)))


def test_what_cannot_be_settled_counts_as_impossible() -> None:
    needs = [Need(f"{n}.x", "staff", ("a", "b"), 1, ((n, n + 2),), ()) for n in range(4)]
    assert availability.assign(needs, [["a", "b"]] * 4) is not None
    assert availability.assign(needs, [["a", "b"]] * 4, Tries(2)) is None


@given(st.integers(0, 2**300), st.integers(1, 60))
def test_runs_of_free_steps(free: int, length: int) -> None:
    expected = sum(1 << step for step in range(300) if free >> step & ((1 << length) - 1) == (1 << length) - 1)
    assert availability.runs(free, length) & ((1 << 300) - 1) == expected


@given(st.lists(st.integers(0, 2**60), max_size=6), st.integers(1, 5))
def test_counting_bitmaps(bitmaps: list[int], count: int) -> None:
    expected = sum(1 << step for step in range(61) if sum(bits >> step & 1 for bits in bitmaps) >= count)
    assert availability.at_least(bitmaps, count) == expected


@given(st.integers(0, 2**80), st.integers(0, 20))
def test_the_first_steps(bitmap: int, count: int) -> None:
    steps = [step for step in range(81) if bitmap >> step & 1]
    assert availability.steps_of(bitmap) == steps
    assert availability.steps_of(availability.lowest(bitmap, count)) == steps[:count]


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 2**64), max_size=4), st.integers(1, 70))
def test_slots_name_everybody_who_could(starts: dict[str, int], limit: int) -> None:
    expected = []
    for step in range(65):
        names = [name for name, bitmap in starts.items() if bitmap >> step & 1]
        if names:
            expected.append((step, names))
    assert availability.by_step(starts, limit) == expected[:limit]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.booleans(),
    st.integers(0, 3),
    st.integers(1, 5),
    st.integers(1, 6),
)
def test_gaps_that_nobody_can_use(lengths: list[int], is_free: bool, before: int, length: int, shortest: int) -> None:
    """A start is offered when what it leaves of the free time it lies in is nothing, or long enough, on both sides."""
    free = position = 0
    for stretch_length in lengths:
        free |= ((1 << stretch_length) - 1) << position if is_free else 0
        position += stretch_length
        is_free = not is_free
    pattern = ((-before, length),)
    starts = availability.possible_starts(free, pattern) & (1 << 200) - 1
    expected = 0
    for step in availability.steps_of(starts):
        left = right = 0
        while step - before - left - 1 >= 0 and free >> step - before - left - 1 & 1:
            left += 1
        while free >> step + length + right & 1:
            right += 1
        if all(gap == 0 or gap >= shortest for gap in (left, right)):
            expected |= 1 << step
    assert availability.without_orphans(free, pattern, starts, shortest, (1 << 200) - 1) == expected


def test_a_window_has_whole_days() -> None:
    start = datetime(2026, 5, 1, 1, tzinfo=UTC)
    window = Window(20_574, 2)
    assert window.first_step == 20_574 * 288
    assert window.all.bit_count() == 576
    step = int(start.timestamp()) // 300
    assert window.span(step, step + 12) == 0b111111111111 << 12
    assert window.span(step - 500, step) == (1 << 12) - 1
    assert window.span(step + 10**6, step + 10**6 + 5) == 0
