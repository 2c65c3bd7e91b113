"""All that decides about time, from what is asked for to who could do it when, against the reference."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings

from services.bookings import calendar, domain, whynot
from services.bookings.availability import steps_of
from tests.unit.bookings_reference import World, free_times
from tests.unit.bookings_worlds import times_of, worlds

CASES, LONG_CASES = 160, 6000

BUSY = ("staff_busy", "resource_busy", "together", "customer_busy")


def check(world: World) -> None:
    day = datetime(world.day.year, world.day.month, world.day.day, tzinfo=UTC)
    middle = calendar.last_step(day)
    # Every step of a day, and of the evening before: zones west and east of UTC.
    starts = range(middle - 120, middle + 288)
    found = times_of(world, starts)
    answer = set()
    for plan in found.compiled.plans:
        allowed = found.window.span(starts.start, starts.stop)
        for leader, bits in found.led(plan, found.starts(plan, allowed)).items():
            first = found.window.first_step
            answer |= {(first + step, plan.duration * calendar.STEP_MINUTES, leader) for step in steps_of(bits)}
    assert answer == free_times(world, starts)


@pytest.mark.timeout(1200)
def test_as_the_reference_says(long_run: bool) -> None:
    run = settings(
        max_examples=LONG_CASES if long_run else CASES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run(given(worlds())(check))()


def check_reasons(world: World) -> None:
    day = datetime(world.day.year, world.day.month, world.day.day, tzinfo=UTC)
    middle = calendar.last_step(day)
    starts = range(middle - 120, middle + 288)
    found = times_of(world, starts)
    earliest, now = calendar.moment_of(starts.start), calendar.moment_of(starts.start + 20)
    longest = max((plan.duration for plan in found.compiled.plans), default=0)
    latest_end = calendar.moment_of(starts.stop + longest)
    offered = {(step, length * 5) for step, length, _ in found.offers(earliest, latest_end, now)}
    possible = {(start, minutes) for start, minutes, _ in free_times(world, starts)}
    refused = {step: reason for step, reason, _ in whynot.refused(found, earliest, latest_end, now)}
    grid = calendar.grid(15, world.zone, found.window.first_day, found.window.days)
    on_grid = {found.window.first_step + step for step in steps_of(grid)}
    # What is offered is what is possible on the grid and not in the past; each other time of the grid has a reason.
    asked = {(start, minutes) for start, minutes in possible if start in on_grid and start >= starts.start + 20}
    assert {each for each in offered if each[0] in starts} == asked
    assert not {step for step, _ in offered} & set(refused)
    if found.compiled.plans:
        assert {step for step in on_grid if step in starts} <= {step for step, _ in offered} | set(refused)
    assert all((reason == "past") == (step < starts.start + 20) for step, reason in refused.items())
    # A reason says what would help: nobody being busy does not where nobody works, and does where only customers are.
    unbusy = replace(
        world,
        people=[replace(person, busy=[]) for person in world.people],
        things=[replace(thing, busy=[]) for thing in world.things],
        customers_busy={},
    )
    would_do = {start for start, _, _ in free_times(unbusy, starts)}
    for_others = {start for start, _, _ in free_times(replace(world, customers_busy={}), starts)}
    for step, reason in refused.items():
        assert reason in {*domain.REASONS, *BUSY}
        if step in starts and reason not in ("past", *BUSY):
            assert step not in would_do, reason
        if step in starts and reason == "customer_busy":
            assert step in for_others


@pytest.mark.timeout(1200)
def test_what_is_not_offered_says_why(long_run: bool) -> None:
    run = settings(
        max_examples=LONG_CASES // 4 if long_run else CASES // 2,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run(given(worlds())(check_reasons))()
