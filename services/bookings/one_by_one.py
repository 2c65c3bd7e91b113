"""Work of jobs on many things: each in a transaction of its own, so that one that fails holds up no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from chassis import logs
from chassis.app import Context
from chassis.rpc import is_unavailable
from chassis.unit import Unit, system_caller

T = TypeVar("T")
log = logs.logger(__name__)


async def each(
    context: Context, job: str, chain_id: str, things: Iterable[T], work: Callable[[Unit, T], Awaitable[object]]
) -> list[T]:
    """Do the work for each thing of a chain; what fails is logged. Answers what failed.

    Raises what says that the database is away: there is no use in going on then.
    """
    caller = system_caller(context.name, chain_id)
    failed = []
    for thing in things:
        try:
            async with context.store.unit(caller) as unit:
                await work(unit, thing)
        except Exception as problem:  # whatever it is, the others come next
            if is_unavailable(problem):
                raise
            log.error("work of a job failed", job=job, chain_id=chain_id, thing=str(thing), exc_info=problem)
            failed.append(thing)
    return failed
