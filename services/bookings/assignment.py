"""Who is chosen of those who are able and free, and why."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from foyer.bookings.v1 import policies_pb2

from chassis.db import prepare_sql
from chassis.unit import Unit
from services.bookings import calendar, nights
from services.bookings.assignments import rota
from services.bookings.availability import Need
from services.bookings.plan import Question
from services.bookings.times import Times

CHOSEN = "chosen"
LOAD, GRADE, FAIRNESS, SAME_PERSON, ROTA = "load", "grade", "fairness", "same_person", "rota"
STRATEGIES = {
    policies_pb2.ASSIGNMENT_STRATEGY_UNSPECIFIED: LOAD,
    policies_pb2.ASSIGNMENT_STRATEGY_LOAD: LOAD,
    policies_pb2.ASSIGNMENT_STRATEGY_GRADE: GRADE,
    policies_pb2.ASSIGNMENT_STRATEGY_FAIRNESS: FAIRNESS,
    policies_pb2.ASSIGNMENT_STRATEGY_SAME_PERSON: SAME_PERSON,
    policies_pb2.ASSIGNMENT_STRATEGY_ROTA: ROTA,
}

# Minutes of each in a period, what is agreed for its rest included.
MINUTES = prepare_sql(
    """
select resource_id, (sum(extract(epoch from ends_at - starts_at)) / 60)::float8 as minutes from allocations
where chain_id = $1::uuid and resource_id = any($2::uuid[]) and starts_at >= $3::timestamptz
  and starts_at < $4::timestamptz and (expires_at is null or expires_at > $5::timestamptz)
group by resource_id
""",
    "chain_id",
    "ids",
    "starts_from",
    "starts_before",
    "now",
)
# How long ago each last served a customer: the last visits are enough to know.
LAST_SERVED = prepare_sql(
    """
select staff_id, max(starts_at) as starts_at from (
  select staff_id, starts_at from bookings
  where chain_id = $1::uuid and customer_id = $2::uuid and starts_at < $3::timestamptz and staff_id is not null
    and status in ('completed', 'in_service', 'checked_in', 'confirmed')
  order by starts_at desc, id desc limit 50
) visits group by staff_id
""",
    "chain_id",
    "customer_id",
    "before",
)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates for a need, the best first, each with what spoke for them (higher is better)."""

    strategy: str
    scores: Mapping[str, float]

    @property
    def ids(self) -> list[str]:
        """The candidates in order."""
        return list(self.scores)


async def rank(unit: Unit, times: Times, need: Need, ids: Sequence[str], step: int) -> Ranking:
    """Order those who are able and free at a step by the chain's strategy.

    Equals are ordered by how busy they are on that day, then by who joined first (ids ascend). Where a strategy has
    nothing to say, as the rota on another day or the same person for somebody new, it is by load.
    """
    strategy = STRATEGIES[times.board.policy.assignment]
    load = by_load(times, spread(ids, times.question, unit.attempt), step)
    if not load or need.chosen or strategy == LOAD:
        return Ranking(strategy, load)
    starts_at = calendar.moment_of(times.window.first_step + step)
    scores: Mapping[str, float] | None = None
    if strategy == GRADE:
        scores = {identifier: by_grade(times, need, identifier) for identifier in load}
    elif strategy == FAIRNESS:
        scores = await _by_fairness(unit, times, list(load), starts_at)
    elif strategy == SAME_PERSON:
        scores = await _by_same_person(unit, times, starts_at)
    elif strategy == ROTA:
        scores = await _by_rota(unit, times, starts_at)
    if not scores:
        return Ranking(LOAD, load)
    lowest = min(scores.values()) - 1
    ordered = sorted(load, key=lambda identifier: -scores.get(identifier, lowest))
    return Ranking(strategy, {identifier: scores.get(identifier, lowest) for identifier in ordered})


def spread(ids: Iterable[str], question: Question, attempt: int) -> list[str]:
    """Ids in order, who joined first first; after a conflict in an order of each customer's own.

    So the first ones are filled up before others are begun, and who meets somebody there does not meet them again.
    """
    if attempt == 1:
        return sorted(ids)
    salt = f"{question.customer_id}{attempt}".encode()
    return sorted(ids, key=lambda identifier: zlib.crc32(identifier.encode(), zlib.crc32(salt)))


def by_load(times: Times, ids: Sequence[str], step: int) -> dict[str, float]:
    """Minus the minutes that each is busy on the local day, the least busy first, equals as they come."""
    moment = calendar.moment_of(times.window.first_step + step)
    day = times.window.span(*calendar.local_day(times.board.time_zone, moment))
    minutes = {
        identifier: 0.0 - (times.busy.get(identifier, 0) & day).bit_count() * calendar.STEP_MINUTES
        for identifier in ids
    }
    return dict(sorted(minutes.items(), key=lambda item: -item[1]))


def by_grade(times: Times, need: Need, identifier: str) -> float:
    """The grade of a person in the skills that are asked for: the lowest of them, or their own where none are."""
    person = times.board.people[identifier]
    return float(min((person.skills[skill][0] for skill in need.skills), default=person.grade))


async def _by_fairness(unit: Unit, times: Times, ids: list[str], starts_at: datetime) -> Mapping[str, float]:
    """Minus the minutes that each has in the fairness period, which ends a week after the visit."""
    since = starts_at - timedelta(days=times.board.policy.fairness_days or 28)
    until = starts_at + timedelta(days=7)
    rows = await unit.all(MINUTES, ids=ids, starts_from=since, starts_before=until, now=unit.now)
    minutes = {row["resource_id"]: row["minutes"] for row in rows}
    return {identifier: -float(minutes.get(identifier, 0)) for identifier in ids}


async def _by_same_person(unit: Unit, times: Times, starts_at: datetime) -> Mapping[str, float]:
    """Minus the days since each served the customer; nothing for who never did."""
    customer_id = times.question.customer_id
    if customer_id is None:
        return {}
    rows = await unit.all(LAST_SERVED, customer_id=customer_id, before=starts_at)
    return {row["staff_id"]: -(starts_at - row["starts_at"]) / timedelta(days=1) for row in rows}


async def _by_rota(unit: Unit, times: Times, starts_at: datetime) -> Mapping[str, float]:
    """Minus the place of each in today's rota; the rota says nothing of other days."""
    day = nights.today(times.board, unit.now)
    if nights.today(times.board, starts_at) != day:
        return {}
    places = await rota.positions(unit, times.board, day)
    return {identifier: -float(place) for identifier, place in places.items()}
