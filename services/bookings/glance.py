"""Days at a glance: how many free times each local day has, or why it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from foyer.bookings.v1 import bookings_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import FieldError
from chassis.unit import Unit
from services.bookings import calendar, domain, offers, times
from services.bookings.availability import HORIZON_DAYS, MOST_DURATION, Starts
from services.bookings.calendar import STEP_SECONDS
from services.bookings.common import refuse_if
from services.bookings.times import Times

MOST_DAYS = 62
# No zone is further from UTC: the day is known before the branch's zone is.
ZONES_REACH = timedelta(hours=15)
# What stops a start, in order; the last layer is what is free.
REASONS = ("past", "lead_time", "too_far", "closed", "nobody", "full")


@dataclass(frozen=True, slots=True)
class Day:
    """A local day: how many free starts, the first and the last (steps since 1970), or why there is none."""

    date: date
    free_starts: int
    first: int | None
    last: int | None
    reason: str | None


async def find(request: pb.ListAvailableDaysRequest, unit: Unit) -> pb.AvailableDays:
    """Each day from one date to another, 62 at most."""
    first, last = _dates(request)
    question = offers.question_of(request, request.branch_id.lower())
    horizon = unit.now + timedelta(days=HORIZON_DAYS) + MOST_DURATION
    earliest = min(max(_midnight(first) - ZONES_REACH, unit.now), horizon)
    latest = max(min(_midnight(last) + timedelta(days=1) + ZONES_REACH, horizon), earliest + offers.ONE_STEP)
    found = await times.read(unit, question, earliest, latest + MOST_DURATION)
    answer = pb.AvailableDays(time_zone=found.board.time_zone, reason=await offers.standing(unit, found))
    if not answer.HasField("reason"):
        answer.days.extend(_message(day) for day in days_of(found, first, last, unit.now))
    return answer


def _dates(request: pb.ListAvailableDaysRequest) -> tuple[date, date]:
    first = domain.parse_date("from_date", request.from_date)
    last = domain.parse_date("until_date", request.until_date)
    if last < first:
        refuse_if([FieldError("until_date", "order", "must not be before `from_date`", "不应早于 from_date")])
    if (last - first).days >= MOST_DAYS:
        message = f"must be within {MOST_DAYS} days of `from_date`"
        refuse_if([FieldError("until_date", "range", message, f"与 from_date 合计最多 {MOST_DAYS} 天")])
    return first, last


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def days_of(found: Times, first: date, last: date, now: datetime) -> list[Day]:
    """The days from one date to another, of what was read for them."""
    layers = _layers(found, now)
    base = found.window.first_step
    soonest, latest = calendar.first_step(now), calendar.last_step(found.latest(now))
    days = []
    for day, first_step, last_step in calendar.local_days(found.board.time_zone, first, last):
        if last_step <= soonest or first_step > latest:
            days.append(Day(day, 0, None, None, "past" if last_step <= soonest else "too_far"))
            continue
        begin = max(first_step - base, 0)
        mask = (1 << last_step - base - begin) - 1
        free = layers[-1] >> begin & mask
        if free:
            lowest, highest = (free & -free).bit_length() - 1, free.bit_length() - 1
            days.append(Day(day, free.bit_count(), base + begin + lowest, base + begin + highest, None))
        else:
            reason = next(name for name, passed in zip(REASONS, layers, strict=True) if not passed >> begin & mask)
            days.append(Day(day, 0, None, None, reason))
    return days


def _layers(found: Times, now: datetime) -> Sequence[int]:
    """For each reason the starts of the grid that it, and all before it, let through; for any of the plans."""
    window = found.window
    end = window.first_step + window.days * calendar.DAY_STEPS
    layers = [0] * len(REASONS)
    for plan in found.compiled.plans:
        passed = found.grid(plan) & window.span(calendar.first_step(now), end)
        layers[0] |= passed
        passed &= window.span(calendar.first_step(found.earliest(now)), end)
        layers[1] |= passed
        passed &= window.span(window.first_step, calendar.last_step(found.latest(now)) + 1)
        layers[2] |= passed
        passed &= found.open_starts(plan)
        layers[3] |= passed
        layers[4] |= Starts.of(plan.needs, found.there, passed).together()
        layers[5] |= found.bookable(plan, passed).together()
    return layers


def _message(day: Day) -> pb.AvailableDay:
    return pb.AvailableDay(
        date=day.date.isoformat(),
        free_starts=day.free_starts,
        first_starts_at=_stamp(day.first),
        last_starts_at=_stamp(day.last),
        reason=day.reason,
    )


def _stamp(step: int | None) -> Timestamp | None:
    return None if step is None else Timestamp(seconds=step * STEP_SECONDS)
