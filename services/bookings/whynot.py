"""Why a time of the grid is not offered: layer by layer, for all times of a window at once.

What is left of the grid goes through the layers in order, and each takes out what it does not let through. So the
reason of a time is the first layer that stops it; where people take different times (several plans), that of the plan
that came furthest.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from services.bookings import availability, calendar
from services.bookings import plan as plans
from services.bookings.availability import MOST_SLOTS, Need, Starts
from services.bookings.plan import Plan
from services.bookings.times import Times

RESOURCE, CUSTOMER = "resource", "customer"

Layer = tuple[str, str | None, int]
"""Reason, name of the need, and the steps that it stops."""


def refused(times: Times, earliest: datetime, latest_end: datetime, now: datetime) -> list[tuple[int, str, str | None]]:
    """Times of the grid that are not offered, with reason and need, in order; at most 2,000.

    They begin at or after a moment and end by another. Steps count from 1970.
    """
    stopped: list[tuple[int, Layer]] = []
    left = offered = 0
    for plan in times.compiled.plans:
        first = calendar.first_step(earliest)
        grid = times.grid(plan) & times.window.span(first, calendar.last_step(latest_end) - plan.duration + 1)
        left |= grid
        rest = grid
        for number, (reason, need, passed) in enumerate(layers(times, plan, grid, now)):
            stopped.append((number, (reason, need, rest & ~passed)))
            rest &= passed
        offered |= rest
    left &= ~offered
    found: list[tuple[int, str, str | None]] = []
    for _, (reason, need, steps) in sorted(stopped, key=lambda item: -item[0]):
        mine = steps & left
        left &= ~mine
        found += [(times.window.first_step + step, reason, need) for step in availability.steps_of(mine)[:MOST_SLOTS]]
    return sorted(found, key=lambda slot: slot[0])[:MOST_SLOTS]


def layers(times: Times, plan: Plan, grid: int, now: datetime) -> Iterator[Layer]:
    """Each reason with the need it is about, and the steps of the grid that it lets through."""
    window = times.window
    end = window.first_step + window.days * calendar.DAY_STEPS
    yield "past", None, window.span(calendar.first_step(now), end)
    yield "lead_time", None, window.span(calendar.first_step(times.earliest(now)), end)
    yield "too_far", None, window.span(window.first_step, calendar.last_step(times.latest(now)) + 1)
    yield "closed", None, times.open_starts(plan)
    there = Starts.of(plan.needs, times.there, grid)
    free = Starts.of(plan.needs, times.free, grid)
    # First what would not do even if nobody were busy: booking says the same then.
    order = [index for index, need in enumerate(plan.needs) if need.kind == plans.STAFF]
    order += [index for index, need in enumerate(plan.needs) if need.kind == RESOURCE]
    for index in order:
        yield lack_of(plan.needs[index]), plan.needs[index].name, there.alone(index)
    for index in order:
        need = plan.needs[index]
        yield ("staff_busy" if need.kind == plans.STAFF else "resource_busy"), need.name, free.alone(index)
    yield "together", None, free.only(order).together()
    for index, need in enumerate(plan.needs):
        if need.kind == CUSTOMER:
            yield "customer_busy", None, free.alone(index)
    yield "orphan_gap", None, times.bookable(plan, grid).together()


def lack_of(need: Need) -> str:
    """Why a need cannot be met by those who are there, even if nobody were busy."""
    if need.kind != plans.STAFF:
        return "resource_none"
    return "off_shift" if need.chosen else "nobody"
