"""What decides about a service's time at a branch, read in one statement and put into bitmaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from foyer.bookings.v1 import bookings_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.codec import to_json
from chassis.errors import not_found
from chassis.unit import Absent, Unit
from services.bookings import allocator, availability, calendar, domain, statements
from services.bookings.allocator import Taken
from services.bookings.availability import HORIZON_DAYS, Need, Person, Window
from services.bookings.calendar import STEP_SECONDS

FOREVER_DAY = 1_000_000
MOST_NEAREST = 5
# How far the nearest free slots are looked for: days before and after what was wanted, until there are enough.
NEAREST_DAYS = ((1, 1), (7, 14))
TWO_DAYS = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: a service at a branch, with a certain person or anybody, for a customer or nobody yet."""

    branch_id: str
    service_id: str
    staff_id: str | None = None
    customer_id: str | None = None


@dataclass(slots=True)
class Times:
    """The answer of the database, over the whole UTC days of a window."""

    row: asyncpg.Record
    window: Window
    need: Need
    people: list[Person]
    open: int
    holds: list[tuple[str, Taken]]
    """Holds that ran out and are not yet given back; people's bitmaps leave them out already."""

    @property
    def reason(self) -> str | None:
        """Why nothing can be booked, whatever the time."""
        row = self.row
        standing = domain.Standing(
            row["branch_active"],
            row["service_active"],
            row["offered"],
            row["staff_id"] is not None,
            bool(row["staff_active"]),
            bool(row["staff_here"]),
            bool(row["staff_able"]),
        )
        return domain.standing_reason(standing)

    def starts(self, allowed: int) -> dict[str, int]:
        """For each person the steps of the window, of those allowed, at which they could begin."""
        if self.reason is not None:
            return {}
        return availability.starts_of(self.people, self.need, self.open, allowed)

    def offers(self, earliest: datetime, latest_end: datetime) -> list[tuple[int, list[str]]]:
        """Slots on the grid that begin at or after a moment and end by another: step since 1970, and who could."""
        first = calendar.first_step(earliest)
        last = calendar.last_step(latest_end) - self.need.duration
        allowed = self.window.span(first, last + 1) & calendar.grid_bitmap(availability.GRID_STEPS, self.window.days)
        base = self.window.first_step
        return [(base + step, staff_ids) for step, staff_ids in availability.by_step(self.starts(allowed))]


async def read(unit: Unit, question: Question, window: Window) -> Times:
    """Read what decides about a question. Raises Absent or Refusal NOT_FOUND for what is not there."""
    first_date, last_date = calendar.date_of(window.first_day), calendar.date_of(window.first_day + window.days - 1)
    row = await unit.one(
        statements.READ_TIMES,
        branch_id=question.branch_id,
        service_id=question.service_id,
        staff_id=question.staff_id,
        customer_id=question.customer_id,
        # Local days begin up to 14 hours off, and a night shift belongs to the day before.
        first_date=first_date - TWO_DAYS,
        last_date=last_date + TWO_DAYS,
        first_day=first_date,
        last_day=last_date,
        now=unit.now,
    )
    assert row is not None
    _check_known(row, question)
    need = Need.of_minutes(row["buffer_before_minutes"], row["duration_minutes"], row["buffer_after_minutes"])
    people, holds = _people(row, window)
    open_ = calendar.opening_bitmap(
        row["opening_hours"], row["holidays"], row["time_zone"], window.first_day, window.days
    )
    return Times(row, window, need, people, open_, holds)


def _check_known(row: asyncpg.Record, question: Question) -> None:
    if row["branch_id"] is None:
        raise Absent("branch", question.branch_id, field="branch_id")
    if row["service_id"] is None:
        raise not_found("service", "service_id")
    if question.staff_id is not None and row["staff_id"] is None:
        raise not_found("staff", "staff_id")
    if question.customer_id is not None and row["customer_id"] is None:
        raise Absent("customer", question.customer_id, field="customer_id")


def _people(row: asyncpg.Record, window: Window) -> tuple[list[Person], list[tuple[str, Taken]]]:
    if row["staff_ids"] is None:
        return [], []
    zone, first_day, days = row["time_zone"], window.first_day, window.days
    works: dict[str, int] = {}
    for staff_id, from_day, until_day, week in zip(
        row["staff_ids"], row["from_days"], row["until_days"], row["weeks"], strict=True
    ):
        until = FOREVER_DAY if until_day is None else until_day
        bitmap = calendar.week_bitmap(week, zone, from_day, until, first_day, days)
        works[staff_id] = works.get(staff_id, 0) | bitmap
    busy: dict[str, int] = {}
    if row["busy"] is not None:
        busy = allocator.busy_by_staff(row["busy_staff_ids"], row["busy_days"], row["busy"], first_day)
    holds = []
    if row["held_ids"] is not None:
        for booking_id, staff_id, starts_at, ends_at in zip(
            row["held_ids"], row["held_staff_ids"], row["held_from"], row["held_until"], strict=True
        ):
            taken = Taken(staff_id, calendar.last_step(starts_at), calendar.first_step(ends_at))
            holds.append((booking_id, taken))
            if staff_id in busy:
                busy[staff_id] &= ~window.span(taken.first, taken.last)
    return [Person(staff_id, bitmap, busy.get(staff_id, 0)) for staff_id, bitmap in works.items()], holds


async def nearest(unit: Unit, question: Question, wanted: datetime) -> list[Any]:
    """Up to five free slots close to a wanted moment, the closest first, as JSON values of foyer.bookings.v1.Slot."""
    horizon = unit.now + timedelta(days=HORIZON_DAYS)
    anchor = min(max(wanted, unit.now), horizon)
    wanted_step = calendar.last_step(anchor)
    slots: list[tuple[int, list[str]]] = []
    duration = 0
    for days_before, days_after in NEAREST_DAYS:
        earliest = max(anchor - timedelta(days=days_before), unit.now)
        latest = min(anchor + timedelta(days=days_after), horizon) + availability.MOST_DURATION
        times = await read(unit, question, Window.around(earliest, latest))
        duration = times.need.duration
        slots = availability.nearest_first(times.offers(earliest, latest), wanted_step, MOST_NEAREST)
        if times.reason is not None or len(slots) == MOST_NEAREST:
            break
    return [to_json(message) for message in slot_messages(slots, duration)]


def slot_messages(slots: Sequence[tuple[int, list[str]]], duration_steps: int) -> list[pb.Slot]:
    """Slots as messages."""
    duration_seconds = duration_steps * STEP_SECONDS
    return [
        pb.Slot(
            starts_at=Timestamp(seconds=step * STEP_SECONDS),
            ends_at=Timestamp(seconds=step * STEP_SECONDS + duration_seconds),
            staff_ids=staff_ids,
        )
        for step, staff_ids in slots
    ]
