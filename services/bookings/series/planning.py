"""Many dates decided together: all that decides is read in one statement, then each date is given who and what it gets.

A date sees what the dates before it were given, and what is given back in the same change counts as free. Nothing is
locked here; who takes the times locks all of them at once, and what somebody else was faster with is noted (`lose`)
before the dates are planned again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg
from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.errors import Refusal
from chassis.unit import Unit
from services.bookings import allocator, availability, board, booking, calendar, choice, statements, times
from services.bookings import plan as plans
from services.bookings.allocator import Masks, Taken
from services.bookings.availability import Window
from services.bookings.board import Board
from services.bookings.choice import Given
from services.bookings.plan import Compiled, Question
from services.bookings.times import MOST_READS, Offer, Times

MOST_ALTERNATIVES = 3
A_DAY = timedelta(days=1)


@dataclass(slots=True)
class Wanted:
    """A date that is asked for: what, and when it begins; `lines` when it is a booking that is to move."""

    starts_at: datetime
    question: Question
    lines: Sequence[pb.BookingLine] = ()
    compiled: Compiled = field(default_factory=lambda: Compiled(()))

    @property
    def kept(self) -> list[str]:
        """Everybody and everything it had."""
        return [assigned.id for line in self.lines for assigned in line.assignments]

    def compile(self, known: Board) -> None:
        """Make its plan from a board. Raises Refusal NOT_FOUND, INVALID_REQUEST."""
        if self.lines:
            sold = plans.of_booking(known, self.question, self.lines)
            self.compiled = Compiled((sold,), choice.reason_to_stay(known, self.question))
        else:
            self.compiled = plans.compile_plans(known, self.question)


@dataclass(slots=True)
class Planned:
    """What a date gets, or why not and what is free close by."""

    wanted: Wanted
    found: Times
    given: Given | None = None
    reason: str | None = None
    alternatives: Sequence[Offer] = ()
    moved: bool = False
    """It gets another time than was asked for."""


@dataclass(slots=True)
class Snapshot:
    """All that decides about some dates, as it was read at one moment."""

    board: Board
    busy: dict[str, dict[int, int]]
    """Taken time by person, thing or customer and UTC day (since 1970); holds that ran out are not in it."""
    holds: list[tuple[str, Taken]]
    """Those holds, not yet given back."""
    freed: list[Taken]
    """Time that is given back in the same change."""
    now: datetime

    def lose(self, clashes: Masks) -> None:
        """Note what somebody else was faster with."""
        for (identifier, day), mask in clashes.items():
            days = self.busy.setdefault(identifier, {})
            number = (day - calendar.EPOCH).days
            days[number] = days.get(number, 0) | mask

    def times(self, wanted: Wanted, within: timedelta, planned: Sequence[Taken]) -> Times:
        """What is free around a date; what was planned for others is taken."""
        window = _window(self.board, wanted, within, self.now)
        ids = set(wanted.compiled.ids)
        busy = {identifier: self._bitmap(identifier, window) for identifier in ids}
        for each in self.freed:
            if each.guarded and each.resource_id in ids:
                busy[each.resource_id] &= ~window.span(each.first, each.last)
        for each in planned:
            if each.resource_id in ids:
                busy[each.resource_id] |= window.span(each.first, each.last)
        return Times(self.board, wanted.question, wanted.compiled, window, busy, self.holds)

    def _bitmap(self, identifier: str, window: Window) -> int:
        days = self.busy.get(identifier, {})
        bitmap = 0
        for number in range(window.days):
            bitmap |= days.get(window.first_day + number, 0) << number * calendar.DAY_STEPS
        return bitmap


def _window(known: Board, wanted: Wanted, within: timedelta, now: datetime) -> Window:
    """The days around a date that are looked at: those before and after it, and as far as it may be moved."""
    anchor = min(max(wanted.starts_at, now), now + timedelta(days=availability.HORIZON_DAYS))
    first, last = (calendar.moment_of(step) for step in calendar.local_day(known.time_zone, anchor))
    longest = max((plan.duration for plan in wanted.compiled.plans), default=0)
    latest = max(last + A_DAY, anchor + within) + timedelta(minutes=longest * calendar.STEP_MINUTES)
    return times.window_of(known, wanted.compiled, min(first - A_DAY, anchor - within), latest)


async def read(unit: Unit, dates: Sequence[Wanted], within: timedelta, freed: Sequence[Taken] = ()) -> Snapshot:
    """Read what decides about dates at one branch. Raises Absent, Refusal NOT_FOUND, INVALID_REQUEST."""
    branch_id = dates[0].question.branch_id
    known = await board.of_branch(unit, branch_id)
    for _ in range(MOST_READS):
        _compile(known, dates)
        windows = [_window(known, wanted, within, unit.now) for wanted in dates]
        days = {day for window in windows for day in range(window.first_day, window.first_day + window.days)}
        customer_ids = list(dict.fromkeys(each for wanted in dates for each in wanted.question.customer_ids))
        row = await unit.one(
            statements.READ_BUSY_ON_DAYS,
            branch_id=branch_id,
            customer_ids=customer_ids,
            ids=list(dict.fromkeys(each for wanted in dates for each in wanted.compiled.ids)),
            first_day=calendar.date_of(min(days)),
            last_day=calendar.date_of(max(days)),
            days=[calendar.date_of(day) for day in sorted(days)],
            now=unit.now,
        )
        assert row is not None
        if known.versions == (row["chain_version"], row["branch_version"]):
            for wanted in dates:
                times.check_customers(row["customer_ids"], wanted.question)
            holds = _holds(row)
            return Snapshot(known, _busy(row, holds), holds, list(freed), unit.now)
        known = await board.load(unit, branch_id)
    raise RuntimeError("what decides about a branch's time changed five times while it was read")


def _compile(known: Board, dates: Sequence[Wanted]) -> None:
    """Make the plans; dates that ask for the same have the same one."""
    seen: dict[int, Compiled] = {}
    for wanted in dates:
        if wanted.lines:
            wanted.compile(known)
            continue
        if id(wanted.question) not in seen:
            wanted.compile(known)
            seen[id(wanted.question)] = wanted.compiled
        wanted.compiled = seen[id(wanted.question)]


def _busy(row: asyncpg.Record, holds: Sequence[tuple[str, Taken]]) -> dict[str, dict[int, int]]:
    busy: dict[str, dict[int, int]] = {}
    if row["busy"] is not None:
        for identifier, day, bitmap in zip(row["busy_ids"], row["busy_days"], row["busy"], strict=True):
            busy.setdefault(identifier, {})[day] = allocator.number(bitmap)
    for _, taken in holds:
        days = busy.get(taken.resource_id, {})
        for day, mask in calendar.day_masks(taken.first, taken.last):
            days[day] = days.get(day, 0) & ~mask
    return busy


def _holds(row: asyncpg.Record) -> list[tuple[str, Taken]]:
    if row["held_ids"] is None:
        return []
    columns = (row["held_ids"], row["held_resource_ids"], row["held_from"], row["held_until"])
    return [
        (booking_id, Taken(identifier, calendar.last_step(starts_at), calendar.first_step(ends_at)))
        for booking_id, identifier, starts_at, ends_at in zip(*columns, strict=True)
    ]


# --- dates ---


async def plan_all(unit: Unit, snapshot: Snapshot, dates: Sequence[Wanted], nearest: timedelta | None) -> list[Planned]:
    """Decide each date, in order; with `nearest` one that is not free gets the closest time within that."""
    taken: list[Taken] = []
    found = []
    for wanted in dates:
        planned = await _plan(unit, snapshot, wanted, taken)
        if planned.given is None and nearest is not None:
            await _move(unit, snapshot, planned, nearest, taken)
        if planned.given is not None:
            taken += planned.given.taken()
        found.append(planned)
    return found


async def _plan(unit: Unit, snapshot: Snapshot, wanted: Wanted, taken: Sequence[Taken]) -> Planned:
    found = snapshot.times(wanted, timedelta(0), taken)
    planned = Planned(wanted, found, reason=booking.reason_against(found, wanted.starts_at, unit.now))
    if planned.reason is None:
        step = calendar.last_step(wanted.starts_at) - found.window.first_step
        planned.given = await choice.choose(unit, found, step, wanted.kept)
        if planned.given is not None:
            return planned
        planned.reason = "customer_busy" if choice.is_only_customer_busy(found, step) else "taken"
    planned.alternatives = _alternatives(found, wanted.starts_at, unit.now)
    return planned


def _offers(found: Times, starts_at: datetime, now: datetime) -> list[Offer]:
    """All that is free in a window, the nearest to a moment first."""
    window = found.window
    first, last = (
        calendar.moment_of(window.first_step),
        calendar.moment_of(window.first_step + window.days * calendar.DAY_STEPS),
    )
    wanted = calendar.last_step(starts_at)
    return sorted(found.offers(first, last, now), key=lambda offer: (abs(offer[0] - wanted), offer[0]))


def _alternatives(found: Times, starts_at: datetime, now: datetime) -> list[Offer]:
    """Free times close to a moment: of its local day, else of the days around it."""
    if found.reason is not None or starts_at < now or starts_at > found.latest(now):
        return []
    offers = _offers(found, starts_at, now)
    first, last = calendar.local_day(found.board.time_zone, starts_at)
    same_day = [offer for offer in offers if first <= offer[0] < last]
    return (same_day or offers)[:MOST_ALTERNATIVES]


async def _move(unit: Unit, snapshot: Snapshot, planned: Planned, within: timedelta, taken: Sequence[Taken]) -> None:
    """Give a date the nearest free time within a distance, if there is one."""
    wanted = planned.wanted
    if planned.found.reason is not None or wanted.starts_at < unit.now:
        return
    found = snapshot.times(wanted, within, taken)
    steps = within // timedelta(minutes=calendar.STEP_MINUTES)
    asked = calendar.last_step(wanted.starts_at)
    for first, _, _ in _offers(found, wanted.starts_at, unit.now)[:MOST_ALTERNATIVES]:
        if abs(first - asked) > steps:
            break
        given = await choice.choose(unit, found, first - found.window.first_step, wanted.kept)
        if given is not None:
            planned.given, planned.found, planned.moved = given, found, True
            return


# --- taking ---

MOST_ROUNDS = 10


async def take(
    unit: Unit, dates: Sequence[Wanted], nearest: timedelta | None, freed: Sequence[Taken], *, may_skip: bool
) -> list[Planned]:
    """Plan dates and lock all their time, so that it is there to be taken; the dates that are not free have no time.

    Unless dates may be skipped nothing is locked when one of them is not free.
    """
    within = nearest or timedelta(0)
    snapshot = await read(unit, dates, within, freed)
    await board.hold(unit, snapshot.board)
    for _ in range(MOST_ROUNDS):
        found = await plan_all(unit, snapshot, dates, nearest)
        if any(each.given is None for each in found) and not may_skip:
            return found
        taken = [each for planned in found if planned.given is not None for each in planned.given.taken()]
        await booking.expire_in_the_way(unit, found[0].found, taken)
        clashes = await allocator.lock(unit, freed, taken)
        if not clashes:
            return found
        snapshot.lose(clashes)
    raise Refusal("UNAVAILABLE")
