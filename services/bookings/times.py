"""What is free for a question in a window of time: the board, plans made from it, and busy time in one statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from foyer.bookings.v1 import bookings_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.codec import to_json
from chassis.errors import Refusal
from chassis.unit import Absent, Unit
from services.bookings import allocator, availability, board, calendar, statements
from services.bookings import plan as plans
from services.bookings.allocator import Taken
from services.bookings.availability import MOST_SLOTS, Need, Starts, Window
from services.bookings.board import Board
from services.bookings.calendar import STEP_SECONDS
from services.bookings.plan import Compiled, Plan, Question

MOST_NEAREST = 5
MOST_NAMED = 10
# How far the nearest free slots are looked for: days before and after what was wanted, until there are enough.
NEAREST_DAYS = ((1, 1), (7, 14))
MOST_READS = 5

WALK_IN = "walk_in"
"""The source of bookings of who walked in."""
Offer = tuple[int, int, list[str]]
"""First step since 1970, length in steps, and everybody who could lead it."""
Reading = Callable[[datetime, datetime], Awaitable["Times"]]
"""Reads what is free between two moments."""


@dataclass(slots=True)
class Times:
    """The answer of the database, over the whole UTC days of a window."""

    board: Board
    question: Question
    compiled: Compiled
    window: Window
    busy: dict[str, int]
    """Taken time of everybody and everything that is asked for; holds that ran out are not in it."""
    holds: list[tuple[str, Taken]] = field(default_factory=list)
    """Those holds, not yet given back."""

    @property
    def reason(self) -> str | None:
        """Why nothing can be booked, whatever the time."""
        return self.compiled.reason

    def there(self, need: Need, identifier: str) -> int:
        """When somebody works who is able, or a thing is in service, whether or not they are busy."""
        first_day, days = self.window.first_day, self.window.days
        if need.kind == plans.STAFF:
            person = self.board.people.get(identifier)
            if person is None:
                return 0
            works = self.board.works(person, first_day, days)
            until = person.able_until(need.skills)
            return works if until >= board.FOREVER_DAY else works & self.board.until(until, first_day, days)
        thing = self.board.things.get(identifier) if need.kind == "resource" else None
        return self.window.all if thing is None else self.board.usable(thing, first_day, days)

    def free(self, need: Need, identifier: str) -> int:
        """When somebody or something is there and not busy."""
        return self.there(need, identifier) & ~self.busy.get(identifier, 0)

    def open_starts(self, plan: Plan) -> int:
        """Steps at which a visit would lie within opening hours."""
        return availability.runs(self.board.open(self.window.first_day, self.window.days), plan.duration)

    def grid(self, plan: Plan) -> int:
        """Steps that are offered: fixed start times of the first service, or the grid of the channel or the chain."""
        fixed = plan.lines[0].service.offer.start_times
        board_, window = self.board, self.window
        if fixed:
            minutes = tuple(calendar.parse_time(text) for text in fixed)
            return calendar.times_bitmap(minutes, board_.time_zone, window.first_day, window.days)
        rule = plans.channel_rule(board_, self.question.source)
        own = rule is not None and rule.HasField("slot_step_minutes")
        step = rule.slot_step_minutes if own and rule is not None else board_.policy.slot_step_minutes
        return calendar.grid(step, board_.time_zone, window.first_day, window.days)

    def earliest(self, now: datetime) -> datetime:
        """The first moment that can be booked. Who stands at the desk gave no notice."""
        rule = plans.channel_rule(self.board, self.question.source)
        own = rule is not None and rule.HasField("lead_minutes")
        if self.question.source == WALK_IN and not own:
            return now
        return now + timedelta(
            minutes=rule.lead_minutes if own and rule is not None else self.board.policy.lead_minutes
        )

    def latest(self, now: datetime) -> datetime:
        """The last moment at which something can begin."""
        rule = plans.channel_rule(self.board, self.question.source)
        own = rule is not None and rule.HasField("horizon_days")
        return now + timedelta(days=rule.horizon_days if own and rule is not None else self.board.policy.horizon_days)

    def allowed(self, plan: Plan, earliest: datetime, latest_end: datetime, now: datetime) -> int:
        """Steps that begin at or after a moment, end by another, and lie between lead time and horizon."""
        first = calendar.first_step(max(earliest, self.earliest(now)))
        last = min(calendar.last_step(latest_end) - plan.duration, calendar.last_step(self.latest(now)))
        return self.window.span(first, last + 1)

    def starts(self, plan: Plan, allowed: int) -> Starts:
        """For each need of a plan when it could be served, of the starts that are allowed and within opening hours."""
        return Starts.of(plan.needs, self.free, allowed & self.open_starts(plan))

    def led(self, plan: Plan, starts: Starts) -> dict[str, int]:
        """For everybody who could lead a plan when all of it can begin; under "" where nobody leads."""
        if plan.lead is None:
            together = starts.together()
            return {"": together} if together else {}
        return starts.led_by(plan.lead)

    def bookable(self, plan: Plan, allowed: int) -> Starts:
        """The same, without what the chain does not want to offer."""
        starts = self.starts(plan, allowed)
        self.hide_orphans(plan, starts, allowed)
        return starts

    def offers(self, earliest: datetime, latest_end: datetime, now: datetime) -> list[Offer]:
        """Slots on the grid that begin at or after a moment and end by another."""
        base = self.window.first_step
        found: list[Offer] = []
        for plan in self.compiled.plans:
            starts = self.bookable(plan, self.allowed(plan, earliest, latest_end, now) & self.grid(plan))
            for step, ids in availability.by_step(self.led(plan, starts)):
                found.append((base + step, plan.duration, [identifier for identifier in ids if identifier]))
        if len(self.compiled.plans) > 1:
            found.sort(key=lambda offer: offer[:2])
        return found[:MOST_SLOTS]

    def hide_orphans(self, plan: Plan, starts: Starts, allowed: int) -> None:
        """Take out starts that would leave the leading person a gap nobody can use, where the chain wants that."""
        shortest = self.board.policy.shortest_gap_minutes // calendar.STEP_MINUTES
        if shortest < 1 or plan.lead is None:
            return
        need = plan.needs[plan.lead]
        mine = starts.by_need[plan.lead]
        starts.by_need[plan.lead] = {
            identifier: left
            for identifier, bitmap in mine.items()
            if (
                left := availability.without_orphans(
                    self.free(need, identifier), need.pattern, bitmap, shortest, allowed
                )
            )
        }

    def leaves_gap(self, step: int) -> bool:
        """Whether the chain does not want to offer a start that is possible, for the gaps it would leave."""
        if self.board.policy.shortest_gap_minutes < calendar.STEP_MINUTES:
            return False
        bit = 1 << step
        compiled = self.compiled.plans
        return any(self.starts(plan, bit).together() for plan in compiled) and not any(
            self.bookable(plan, bit).together() for plan in compiled
        )


async def read(
    unit: Unit, question: Question, earliest: datetime, latest_end: datetime | None = None, plan: Plan | None = None
) -> Times:
    """Read what decides about a question, or about a plan made before, for starts from `earliest` on.

    Without `latest_end` it is one start, and all of its local day is read. Raises Absent or Refusal NOT_FOUND for what
    is not there.
    """
    for number in range(MOST_READS):
        if number:
            await board.load(unit, question.branch_id)
        if plan is None:
            known, compiled = await compile_newest(unit, question)
        else:
            known = board.kept(unit, question.branch_id) or await board.load(unit, question.branch_id)
            compiled = Compiled((plan,))
        window = window_of(known, compiled, earliest, latest_end)
        row = await unit.one(
            statements.READ_BUSY if unit.read_only else statements.READ_BUSY_TO_TAKE,
            branch_id=question.branch_id,
            customer_ids=question.customer_ids,
            ids=compiled.ids,
            first_day=calendar.date_of(window.first_day),
            last_day=calendar.date_of(window.first_day + window.days - 1),
            now=unit.now,
        )
        assert row is not None
        if known.versions == (row["chain_version"], row["branch_version"]):
            check_customers(row["customer_ids"], question)
            return Times(known, question, compiled, window, *busy_and_holds(row, window))
    raise RuntimeError("what decides about a branch's time changed five times while it was read")


async def compile_newest(unit: Unit, question: Question) -> tuple[Board, Compiled]:
    """The board this process keeps of a branch with the plans for a question; the newest one for what it does not know.

    Raises Absent or Refusal NOT_FOUND for what is not there.
    """
    known = board.kept(unit, question.branch_id)
    if known is not None:
        try:
            return known, plans.compile_plans(known, question)
        except Refusal:
            # It may have come since.
            known = await board.of_branch(unit, question.branch_id)
    else:
        known = await board.load(unit, question.branch_id)
    return known, plans.compile_plans(known, question)


def window_of(known: Board, compiled: Compiled, earliest: datetime, latest_end: datetime | None) -> Window:
    """The days that decide about the starts: also what plans take before the start and after the end, and gaps."""
    reaches = [(plan.reach, plan.duration) for plan in compiled.plans]
    gap = known.policy.shortest_gap_minutes // calendar.STEP_MINUTES
    before = max((-reach[0] for reach, _ in reaches), default=0) + gap
    first = calendar.last_step(earliest) - before
    if latest_end is None:
        midnight, next_midnight = calendar.local_day(known.time_zone, earliest)
        last = max([next_midnight, *(calendar.first_step(earliest) + reach[1] + gap for reach, _ in reaches)])
        first = min(first, midnight)
    else:
        after = max((reach[1] - duration for reach, duration in reaches), default=0) + gap
        last = calendar.first_step(latest_end) + after
    first_day = first // calendar.DAY_STEPS
    return Window(first_day, (last - 1) // calendar.DAY_STEPS - first_day + 1)


def check_customers(known: Sequence[str] | None, question: Question) -> None:
    """Raise Absent for somebody it is for who is not known."""
    there = known or ()
    if question.customer_id is not None and question.customer_id not in there:
        raise Absent("customer", question.customer_id, field="customer_id")
    for line in question.lines:
        if line.customer_id is not None and line.customer_id not in there:
            raise Absent("customer", line.customer_id, field=f"{line.field}customer_id")


def busy_and_holds(row: asyncpg.Record, window: Window) -> tuple[dict[str, int], list[tuple[str, Taken]]]:
    """Taken time by person, thing or customer, and the holds that ran out, which are not in it."""
    busy: dict[str, int] = {}
    if row["busy"] is not None:
        busy = allocator.busy_by_resource(row["busy_ids"], row["busy_days"], row["busy"], window.first_day)
    holds = []
    if row["held_ids"] is not None:
        for booking_id, resource_id, starts_at, ends_at in zip(
            row["held_ids"], row["held_resource_ids"], row["held_from"], row["held_until"], strict=True
        ):
            taken = Taken(resource_id, calendar.last_step(starts_at), calendar.first_step(ends_at))
            holds.append((booking_id, taken))
            if resource_id in busy:
                busy[resource_id] &= ~window.span(taken.first, taken.last)
    return busy, holds


async def nearest(unit: Unit, question: Question, wanted: datetime, reading: Reading | None = None) -> list[Any]:
    """Up to five free slots close to a wanted moment, the closest first, as JSON values of foyer.bookings.v1.Slot.

    `reading` reads what is free from one moment to another; the question as one for a new booking when not given.
    """
    horizon = unit.now + timedelta(days=availability.HORIZON_DAYS)
    anchor = min(max(wanted, unit.now), horizon)
    wanted_step = calendar.last_step(anchor)
    offers: list[Offer] = []
    for days_before, days_after in NEAREST_DAYS:
        earliest = max(anchor - timedelta(days=days_before), unit.now)
        latest = min(anchor + timedelta(days=days_after), horizon) + availability.MOST_DURATION
        times = await (read(unit, question, earliest, latest) if reading is None else reading(earliest, latest))
        found = times.offers(earliest, latest, unit.now)
        offers = sorted(found, key=lambda offer: (abs(offer[0] - wanted_step), offer[0]))[:MOST_NEAREST]
        if times.reason is not None or len(offers) == MOST_NEAREST:
            break
    # It travels in the refusal's metadata, which is small: a few of those who could do it are enough.
    few = [(step, duration, staff_ids[:MOST_NAMED]) for step, duration, staff_ids in offers]
    return [to_json(message) for message in slot_messages(few)]


def slot_messages(offers: Sequence[Offer]) -> list[pb.Slot]:
    """Slots as messages."""
    return [
        pb.Slot(
            starts_at=Timestamp(seconds=step * STEP_SECONDS),
            ends_at=Timestamp(seconds=(step + duration) * STEP_SECONDS),
            staff_ids=staff_ids,
        )
        for step, duration, staff_ids in offers
    ]
