"""Adding events to the numbers, each of them once.

A live event comes at most once into the generation that serves, because the inbox lets it through once. While another
generation is being built, and for what was written until shortly after it took over, an event may come twice: from its
service's log and live. So those are also looked up in `counted`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from google.protobuf.message import Message

from chassis import metrics
from chassis.unit import Unit
from services.reports import statements
from services.reports.domain import MEASURE_NAMES, Cell, facts_of, fold
from services.reports.models import BUILDING, SERVING

RECHECKED = timedelta(minutes=10)
"""Events written this long after a switch are still looked up: clocks differ, and commits come in any order."""

FACTS_COUNTED = metrics.counter("foyer_reports_facts_total", "Facts added to the numbers that serve.", ("measure",))
_counters = {measure: FACTS_COUNTED.labels(name) for measure, name in MEASURE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Counted:
    """An event to be counted. `time` is when it was written, `occurred_at` when it happened."""

    id: str
    time: datetime
    occurred_at: datetime
    event: Message


async def count_live(unit: Unit, events: Sequence[Counted]) -> None:
    """Add events that just came to the numbers that serve, and to those that are being built."""
    newest = max(event.time for event in events)
    generations = await unit.all(statements.TOUCH, events=len(events), newest=newest)
    if not any(row["status"] == SERVING for row in generations):
        await unit.run(statements.ENSURE_SERVING, now=unit.now)
        generations = await unit.all(statements.TOUCH, events=len(events), newest=newest)
    for row in generations:
        if row["status"] == BUILDING:
            await _count_new(unit, row["id"], events)
        else:
            await _count_serving(unit, row["id"], row["rebuilt_at"], events)


async def _count_serving(unit: Unit, generation: int, rebuilt_at: datetime | None, events: Sequence[Counted]) -> None:
    """Most events are new for sure; those a rebuild may have read are looked up."""
    new = list(events)
    if rebuilt_at is not None:
        recent = rebuilt_at + RECHECKED
        doubtful = [event for event in events if event.time <= recent]
        if doubtful:
            ids = await _keep_counted(unit, generation, doubtful)
            new = [event for event in events if event.time > recent or event.id in ids]
            # They were all counted when the generation was locked.
            await unit.run(statements.ADD_EVENTS, generation=generation, events=len(new) - len(events), newest=None)
    facts = await _add(unit, generation, new)
    unit.after_commit(lambda: _measure(facts))


async def _count_new(unit: Unit, generation: int, events: Sequence[Counted]) -> int:
    """Add those events that a generation does not hold yet; answers how many."""
    ids = await _keep_counted(unit, generation, events)
    new = [event for event in events if event.id in ids]
    if new:
        await _add(unit, generation, new)
        newest = max(event.time for event in new)
        await unit.run(statements.ADD_EVENTS, generation=generation, events=len(new), newest=newest)
    return len(new)


async def count_logged(unit: Unit, generation: int, service: str, sequence: int, events: Sequence[Counted]) -> bool:
    """Add a stretch of a service's log that ends with `sequence`; False when the generation is not being built."""
    if await unit.value(statements.ADVANCE, generation=generation, service=service, sequence=sequence) is None:
        return False
    if events:
        await _count_new(unit, generation, events)
    return True


async def _keep_counted(unit: Unit, generation: int, events: Sequence[Counted]) -> set[str]:
    ids = sorted(event.id for event in events)
    rows = await unit.all(statements.KEEP_COUNTED, generation=generation, event_ids=ids)
    return {row["event_id"] for row in rows}


async def _add(unit: Unit, generation: int, events: Sequence[Counted]) -> Counter[int]:
    """Fold events into cells and add those to the rollups by one statement; answers how many facts of which measure."""
    facts = [fact for event in events for fact in facts_of(event.event, event.occurred_at)]
    if not facts:
        return Counter()
    cells: dict[Cell, int] = {}
    fold(facts, cells)
    # In order, so that two batches cannot wait for each other.
    keys = sorted(cells)
    measures, days, branch_ids, service_ids, staff_ids, sources = zip(*keys, strict=True)
    await unit.run(
        statements.ADD,
        generation=generation,
        measures=measures,
        days=days,
        branch_ids=branch_ids,
        service_ids=service_ids,
        staff_ids=staff_ids,
        sources=sources,
        values=[cells[key] for key in keys],
    )
    return Counter(fact.cell.measure for fact in facts)


def _measure(facts: Counter[int]) -> None:
    for measure, number in facts.items():
        _counters[measure].inc(number)
