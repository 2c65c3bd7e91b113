"""Who and what is given to a visit that begins at a certain moment, or why it cannot begin then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.common.v1.common_pb2 import Money
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.unit import Unit
from services.bookings import assignment, availability, calendar, pricing
from services.bookings import plan as plans
from services.bookings.allocator import Taken
from services.bookings.assignment import Ranking
from services.bookings.availability import Need
from services.bookings.board import Board, Person
from services.bookings.calendar import STEP_SECONDS
from services.bookings.plan import Plan, PlannedLine, Question
from services.bookings.times import Times


@dataclass(frozen=True, slots=True)
class Given:
    """A plan with everybody and everything it gets, from a step on (since 1970)."""

    plan: Plan
    start: int
    ids: tuple[tuple[str, ...], ...]
    """Who serves each need."""
    rankings: tuple[Ranking, ...]
    overbooked: frozenset[str] = frozenset()
    """Those who are taken already."""

    @property
    def starts_at(self) -> datetime:
        """When it begins."""
        return calendar.moment_of(self.start)

    @property
    def ends_at(self) -> datetime:
        """When its last service ends."""
        return calendar.moment_of(self.start + self.plan.duration)

    @property
    def staff_id(self) -> str | None:
        """Who leads it."""
        return self.ids[self.plan.lead][0] if self.plan.lead is not None else None

    @property
    def is_by_turn(self) -> bool:
        """Whether who leads it got it by the rota."""
        lead = self.plan.lead
        return lead is not None and not self.plan.needs[lead].chosen and self.rankings[lead].strategy == assignment.ROTA

    def taken(self) -> list[Taken]:
        """All the time it takes. A person who serves several needs one after another has a stretch for each."""
        stretches: dict[str, list[tuple[int, int]]] = {}
        for need, ids in zip(self.plan.needs, self.ids, strict=True):
            for identifier in ids:
                stretches.setdefault(identifier, []).extend(need.pattern)
        return [
            Taken(identifier, self.start + first, self.start + last, identifier not in self.overbooked)
            for identifier, own in sorted(stretches.items())
            for first, last in plans.merged(own)
        ]


async def choose(unit: Unit, times: Times, step: int, preferred: Iterable[str] = ()) -> Given | None:
    """The best that is free for a visit at a step of the window; None when it cannot begin then.

    Who is `preferred` comes before all others; then the chain's strategy decides, for who leads first.
    """
    bit = 1 << step
    first = frozenset(preferred)
    options: list[tuple[float, str, Plan, list[list[str]]]] = []
    for plan in times.compiled.plans:
        starts = times.starts(plan, bit)
        led = times.led(plan, starts)
        if not led:
            continue
        candidates = starts.at(step)
        if plan.lead is None:
            options.append((0.0, "", plan, candidates))
            continue
        ranking = await assignment.rank(unit, times, plan.needs[plan.lead], list(led), step)
        options += [
            (score + (1e9 if identifier in first else 0.0), identifier, plan, candidates)
            for identifier, score in ranking.scores.items()
        ]
    for _, leader, plan, candidates in sorted(options, key=lambda option: -option[0]):
        given = await _give(unit, times, plan, candidates, leader, step, first)
        if given is not None:
            return given
    return None


async def _give(
    unit: Unit,
    times: Times,
    plan: Plan,
    candidates: Sequence[Sequence[str]],
    leader: str,
    step: int,
    preferred: frozenset[str],
) -> Given | None:
    rankings = []
    ordered = []
    for index, (need, ids) in enumerate(zip(plan.needs, candidates, strict=True)):
        if need.kind == plans.STAFF:
            ranking = await assignment.rank(unit, times, need, ids, step)
        else:
            ranking = Ranking("any", dict.fromkeys(assignment.spread(ids, times.question, unit.attempt), 0.0))
        rankings.append(ranking)
        mine = sorted(ranking.ids, key=lambda identifier: identifier not in preferred)
        if index == plan.lead:
            mine = [leader, *(identifier for identifier in mine if identifier != leader)]
        ordered.append(mine)
    given = availability.assign(plan.needs, ordered)
    if given is None:
        return None
    return Given(plan, times.window.first_step + step, tuple(given), tuple(rankings))


async def overbook(unit: Unit, times: Times, step: int) -> Given | None:
    """Who would do a visit if nobody were busy, the free ones first; None: nobody works then."""
    busy = dict(times.busy)
    free = Times(times.board, times.question, times.compiled, times.window, {}, times.holds)
    idle = [
        identifier
        for plan in times.compiled.plans
        for need in plan.needs
        for identifier in need.pool
        if not _is_taken(busy, need, identifier, step)
    ]
    given = await choose(unit, free, step, idle)
    if given is None:
        return None
    taken = frozenset(
        identifier
        for need, ids in zip(given.plan.needs, given.ids, strict=True)
        for identifier in ids
        if _is_taken(busy, need, identifier, step)
    )
    return Given(given.plan, given.start, given.ids, given.rankings, taken)


def _is_taken(busy: Mapping[str, int], need: Need, identifier: str, step: int) -> bool:
    taken = busy.get(identifier, 0)
    return any(taken >> max(step + first, 0) & (1 << (last - first)) - 1 for first, last in need.pattern)


def reason_of_time(times: Times, step: int) -> tuple[str | None, str | None]:
    """Why a visit cannot begin at a step even if nobody were busy, and the need that is not met; None when it could."""
    bit = 1 << step
    reason: tuple[str | None, str | None] = ("closed", None)
    for plan in times.compiled.plans:
        if not times.open_starts(plan) & bit:
            continue
        unbusy = availability.Starts.of(plan.needs, times.there, bit)
        missing = next((index for index in range(len(plan.needs)) if not unbusy.alone(index)), None)
        if missing is None:
            return None, None
        need = plan.needs[missing]
        reason = (_lack(need), need.name)
    return reason


def reason_to_stay(board: Board, question: Question) -> str | None:
    """Why a booking that was sold cannot be moved whatever the time; None when it can.

    That a service is no longer sold does not reach what was sold before.
    """
    if not board.active:
        return "branch_closed_down"
    reasons = (plans.staff_reason(board, line, board.services[line.service_id]) for line in question.lines)
    return next((reason for reason in reasons if reason is not None), None)


def _lack(need: Need) -> str:
    if need.kind != plans.STAFF:
        return "resource_none"
    return "off_shift" if need.chosen else "nobody"


def is_only_customer_busy(times: Times, step: int) -> bool:
    """Whether a visit could begin at a step if those it is for were not elsewhere then."""
    bit = 1 << step
    for plan in times.compiled.plans:
        others = [need for need in plan.needs if need.kind != "customer"]
        is_open = len(others) < len(plan.needs) and times.open_starts(plan) & bit
        if is_open and availability.Starts.of(others, times.free, bit).together():
            return True
    return False


# --- as it is sold ---


def lines_of(board: Board, given: Given, customer_id: str) -> list[pb.BookingLine]:
    """The lines of a new booking: prices of now, and who and what each need gets."""
    found = []
    for index, planned in enumerate(given.plan.lines):
        lead = lead_of(board, given, planned)
        starts_at = calendar.moment_of(given.start + planned.first)
        amount = pricing.price_amount(board, planned.service, planned.add_ons, lead, starts_at)
        line = pb.BookingLine(
            service_id=planned.service.id,
            service_name=planned.service.name,
            service_version=planned.service.version,
            customer_id=_customer(planned, customer_id),
            starts_at=_stamp(given.start + planned.first),
            ends_at=_stamp(given.start + planned.last),
            price=Money(amount=amount, currency=planned.service.currency),
            add_on_ids=[add_on.id for add_on in planned.add_ons],
            together=planned.line.together,
            guest_name=planned.line.guest_name,
            assignments=assignments_of(given, index),
            materials=[need for each in (planned.service, *planned.add_ons) for need in each.plan.materials],
        )
        found.append(line)
    return found


def _customer(planned: PlannedLine, customer_id: str) -> str:
    if planned.line.customer_id is not None:
        return planned.line.customer_id
    return "" if planned.line.guest_name is not None else customer_id


def lead_of(board: Board, given: Given, planned: PlannedLine) -> Person | None:
    """Who leads a line; None where nobody does."""
    for need, ids in zip(given.plan.needs, given.ids, strict=True):
        if need.key == planned.lead:
            return board.people.get(ids[0])
    return None


def assignments_of(given: Given, line: int) -> list[pb.Assignment]:
    """Who and what the needs of a line get."""
    found = []
    for need, ids, ranking in zip(given.plan.needs, given.ids, given.rankings, strict=True):
        if need.line != line or need.kind == "customer":
            continue
        taken = [
            pb.Stretch(starts_at=_stamp(given.start + first), ends_at=_stamp(given.start + last))
            for first, last in need.pattern
        ]
        for identifier in ids:
            is_chosen = identifier in need.chosen
            found.append(
                pb.Assignment(
                    need=need.name,
                    id=identifier,
                    is_staff=need.kind == plans.STAFF,
                    chosen=is_chosen,
                    taken=taken,
                    strategy=assignment.CHOSEN if is_chosen else ranking.strategy,
                    score=None if is_chosen else ranking.scores.get(identifier),
                    considered=len(ranking.scores),
                )
            )
    return found


def moved_lines(lines: Sequence[pb.BookingLine], given: Given) -> list[pb.BookingLine]:
    """The lines of a booking at another time, as they were sold, with who and what they get there."""
    found = []
    for index, (line, planned) in enumerate(zip(lines, given.plan.lines, strict=True)):
        moved = pb.BookingLine()
        moved.CopyFrom(line)
        moved.starts_at.CopyFrom(_stamp(given.start + planned.first))
        moved.ends_at.CopyFrom(_stamp(given.start + planned.last))
        moved.ClearField("assignments")
        moved.assignments.extend(_as_before(line, assigned) for assigned in assignments_of(given, index))
        found.append(moved)
    return found


def _as_before(line: pb.BookingLine, assigned: pb.Assignment) -> pb.Assignment:
    """Who is kept was not chosen anew: why they were given it stays as it was."""
    for old in line.assignments:
        if (old.need, old.id) == (assigned.need, assigned.id):
            kept = pb.Assignment()
            kept.CopyFrom(old)
            kept.ClearField("taken")
            kept.taken.extend(assigned.taken)
            return kept
    return assigned


def _stamp(step: int) -> Timestamp:
    return Timestamp(seconds=step * STEP_SECONDS)
