"""Counting everything anew from the services' logs, beside the numbers that serve; throwing away what was replaced."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, cast

from foyer.common.v1 import common_pb2, common_pb2_grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from chassis import logs
from chassis.unit import event_subject, system_caller
from services.reports import statements
from services.reports.counting import Counted, count_logged
from services.reports.domain import FACTS
from services.reports.models import BUILDING, RETIRED

if TYPE_CHECKING:
    from chassis.app import Context

SOURCES = ("customers", "bookings", "wallet")
"""The services whose events count for something."""

PAGE = 1000
READ_SECONDS = 20.0
MOST_CHAINS = 100
DELETED_AT_ONCE = 5000
KEPT = timedelta(minutes=1)
"""How long numbers that were replaced stay, for readers who began with them."""

EVENTS: dict[str, type[Message]] = {event_subject(cast("Descriptor", event.DESCRIPTOR))[0]: event for event in FACTS}

log = logs.logger(__name__)


async def rebuild_reports(context: Context) -> None:
    """Go on with every rebuild there is, page by page; a crash loses at most a page."""
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        work = await unit.all(statements.WORK, status=BUILDING, most=MOST_CHAINS)
    for row in work:
        await _rebuild(context, row["chain_id"], row["id"], row["cursors"])


async def _rebuild(context: Context, chain_id: str, generation: int, cursors: dict[str, int]) -> None:
    """Read all logs to their ends, then let the new numbers serve.

    What is written to a log while it is read comes live, so reading each to its end once is enough.
    """
    for service in SOURCES:
        sequence: int | None = cursors.get(service, 0)
        while sequence is not None:
            sequence = await _count_page(context, chain_id, generation, service, sequence)
    caller = system_caller(context.name, chain_id)
    async with context.store.unit(caller) as unit:
        # Live events lock the generations too: none is added to one set only.
        await unit.run(statements.RETIRE, now=unit.now)
        if not await unit.run(statements.SERVE, generation=generation, now=unit.now):
            raise RuntimeError("the generation is no longer being built")
    log.info("reports rebuilt", chain_id=chain_id, generation=generation)


async def _count_page(context: Context, chain_id: str, generation: int, service: str, sequence: int) -> int | None:
    """Count the next stretch of a log; answers where it ended, None at the end. Raises Refusal when nobody answers."""
    caller = system_caller(context.name, chain_id)
    request = common_pb2.ReadEventsRequest(after_sequence=sequence, limit=PAGE, chain_id=chain_id)
    answer: common_pb2.ReadEventsResponse = await context.clients.read(
        service, common_pb2_grpc.OperationsStub, "ReadEvents", request, caller=caller, deadline_seconds=READ_SECONDS
    )
    if not answer.events:
        return None
    last = answer.events[-1].sequence
    events = [_counted(event) for event in answer.events if event.type in EVENTS and event.chain_id == chain_id]
    async with context.store.unit(caller) as unit:
        if not await count_logged(unit, generation, service, last, events):
            return None
    await asyncio.sleep(0)
    return last


def _counted(event: common_pb2.LoggedEvent) -> Counted:
    time, occurred_at = event.time.ToDatetime(UTC), event.occurred_at.ToDatetime(UTC)
    return Counted(event.id, time, occurred_at, EVENTS[event.type].FromString(event.body))


async def sweep_reports(context: Context) -> None:
    """Delete numbers that were replaced, a bounded number of rows at a time."""
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        work = await unit.all(statements.WORK, status=RETIRED, most=MOST_CHAINS)
    for row in work:
        await _sweep(context, row["chain_id"], row["id"])


async def _sweep(context: Context, chain_id: str, generation: int) -> None:
    caller = system_caller(context.name, chain_id)
    before = context.clock.now() - KEPT
    async with context.store.unit(caller, read_only=True) as unit:
        if await unit.value(statements.IS_REPLACED, generation=generation, before=before) is None:
            return
    for statement in (statements.DELETE_ROLLUPS, statements.DELETE_COUNTED):
        deleted = DELETED_AT_ONCE
        while deleted == DELETED_AT_ONCE:
            async with context.store.unit(caller) as unit:
                deleted = await unit.run(statement, generation=generation, most=DELETED_AT_ONCE)
    async with context.store.unit(caller) as unit:
        await unit.run(statements.FORGET, generation=generation)
