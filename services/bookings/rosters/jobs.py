"""Work on rosters that no call waits for: solving them, and looking for bookings that slipped through."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis import logs, metrics
from chassis.app import Context
from chassis.db import prepare, prepare_sql
from chassis.unit import Unit, system_caller
from services.bookings.rosters import inputs, process, proposals, publishing, store, telling
from services.bookings.rosters.inputs import Inputs
from services.bookings.rosters.models import rosters
from services.bookings.rosters.process import Answer, Progress, SolverFailed

JOB = "work-on-rosters"
EVERY_SECONDS = 5.0
LEASE_SECONDS = 30
MOST_ATTEMPTS = 3
MOST_CHAINS = 100

log = logs.logger(__name__)
SOLVED = metrics.counter("foyer_rosters_solved_total", "Rosters that were worked on, by how it ended.", ("outcome",))

CHAINS_WITH_WORK = prepare(
    sa.select(rosters.c.chain_id)
    .where(
        sa.or_(
            sa.and_(
                rosters.c.status == "solving",
                sa.or_(rosters.c.lease_until.is_(None), rosters.c.lease_until <= sa.bindparam("now")),
            ),
            rosters.c.check_at <= sa.bindparam("now"),
        )
    )
    .distinct()
    .limit(MOST_CHAINS)
)
# The one that waits longest; whoever has it keeps it until the lease runs out.
CLAIM = prepare_sql(
    """
update rosters r set lease_until = $3::timestamptz, attempts = r.attempts + 1, version = r.version + 1
where r.chain_id = $1::uuid and r.id = (
  select id from rosters where chain_id = $1::uuid and status = 'solving'
    and (lease_until is null or lease_until <= $2::timestamptz)
  order by id limit 1 for update skip locked)
returning r.*
""",
    "chain_id",
    "now",
    "lease_until",
)
# Progress of this attempt, and a longer lease; no row: it was given up, or somebody else has it.
KEEP = prepare_sql(
    """
update rosters set progress = $4::bytea, lease_until = $5::timestamptz
where chain_id = $1::uuid and id = $2::uuid and status = 'solving' and attempts = $3::integer
returning id
""",
    "chain_id",
    "id",
    "attempts",
    "progress",
    "lease_until",
)
DUE_CHECKS = prepare(
    sa.select(rosters)
    .where(rosters.c.chain_id == sa.bindparam("chain_id"), rosters.c.check_at <= sa.bindparam("now"))
    .order_by(rosters.c.check_at)
    .limit(20)
    .with_for_update(skip_locked=True)
)


class GivenUp(Exception):
    """Nobody wants the roster any more, or somebody else works on it."""


async def work(context: Context) -> None:
    """Solve a roster of every chain that waits for one, and look after those just published."""
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        chains = [row["chain_id"] for row in await unit.all(CHAINS_WITH_WORK, now=unit.now)]
    for chain_id in chains:
        async with context.store.unit(system_caller(context.name, chain_id)) as unit:
            await look_again(unit)
        if await solve_next(context, chain_id):
            # There may be more, of this chain or of others: each in its turn.
            context.wake(JOB)


async def solve_next(context: Context, chain_id: str) -> bool:
    """Work on the roster of a chain that waits longest; False when none does."""
    caller = system_caller(context.name, chain_id)
    async with context.store.unit(caller) as unit:
        row = await unit.one(CLAIM, now=unit.now, lease_until=unit.now + timedelta(seconds=LEASE_SECONDS))
        if row is None:
            return False
        if row["attempts"] > MOST_ATTEMPTS:
            await _fail(unit, row, f"it was tried {MOST_ATTEMPTS} times, and each time whoever worked on it was lost")
            return True
        given = await inputs.read(unit, row)
    try:
        answer = await _solve(context, row, given)
    except GivenUp:
        SOLVED.labels("given_up").inc()
    except SolverFailed as problem:
        log.warning("roster not solved", roster_id=row["id"], problem=str(problem))
        async with context.store.unit(caller) as unit:
            current = await _ours(unit, row)
            if current is not None and current["attempts"] < MOST_ATTEMPTS:
                await store.write(unit, current, lease_until=None)
            elif current is not None:
                await _fail(unit, current, str(problem))
    else:
        async with context.store.unit(caller) as unit:
            current = await _ours(unit, row)
            if current is not None:
                await _propose(unit, current, answer)
    return True


async def _solve(context: Context, row: asyncpg.Record, given: Inputs) -> Answer:
    """What the solver's process answers; no transaction is open while it works."""
    request = pb.CreateRosterRequest.FromString(row["request"])
    seconds = request.time_limit_seconds or proposals.FIRST_SECONDS
    caller = system_caller(context.name, row["chain_id"])

    async def report(progress: Progress) -> None:
        message = _progress(row, seconds, progress.seconds, progress.best, progress.bound)
        async with context.store.unit(caller) as unit:
            lease = unit.now + timedelta(seconds=LEASE_SECONDS)
            stored = {"progress": message.SerializeToString(), "lease_until": lease}
            if await unit.one(KEEP, id=row["id"], attempts=row["attempts"], **stored) is None:
                raise GivenUp

    await report(Progress(0.0, None, None))
    return await process.solve(given.problem, seconds, report)


def _progress(
    row: asyncpg.Record, limit: float, seconds: float, best: float | None, bound: float | None, percent: int = 99
) -> pb.RosterProgress:
    return pb.RosterProgress(
        percent=min(round(100 * seconds / limit), percent),
        seconds=round(seconds, 1),
        best_points=best,
        bound_points=bound,
        attempts=row["attempts"],
    )


async def _ours(unit: Unit, row: asyncpg.Record) -> asyncpg.Record | None:
    """The roster, locked, as long as this attempt is the one that counts."""
    current = await unit.one(store.SELECT_FOR_UPDATE, id=row["id"])
    if current is None or current["status"] != "solving" or current["attempts"] != row["attempts"]:
        SOLVED.labels("given_up").inc()
        return None
    return current


async def _propose(unit: Unit, row: asyncpg.Record, answer: Answer) -> None:
    # Read anew: what was booked or settled meanwhile shows in the figures.
    given = await inputs.read(unit, row)
    progress = _progress(row, answer.seconds or 1.0, answer.seconds or 1.0, answer.points, answer.bound, percent=100)
    changes: Mapping[str, Any] = {
        "status": "proposed",
        "lease_until": None,
        "progress": progress.SerializeToString(),
    }
    changed = await proposals.keep(unit, row, given, answer.plan, {}, **changes)
    found = pb.RosterFigures.FromString(changed["figures"])
    unit.emit(
        pb.RosterProposed(
            roster_id=row["id"],
            branch_id=row["branch_id"],
            from_date=row["from_date"].isoformat(),
            until_date=(row["end_date"] - timedelta(days=1)).isoformat(),
            missing_minutes=changed["missing_minutes"],
            violations=len(found.violations),
        )
    )
    SOLVED.labels("proposed").inc()


async def _fail(unit: Unit, row: asyncpg.Record, failure: str) -> None:
    changed = await store.write(unit, row, status="failed", failure=failure, lease_until=None)
    unit.emit(pb.RosterFailed(roster_id=row["id"], branch_id=row["branch_id"], failure=changed["failure"]))
    SOLVED.labels("failed").inc()


async def look_again(unit: Unit) -> None:
    """Tell of bookings that were made in the moment shifts changed, by somebody who knew only the old ones."""
    for row in await unit.all(DUE_CHECKS, now=unit.now):
        rows = await publishing.hit(unit, row, list(row["staff_ids"]))
        conflicts = [each for each in rows if each["id"] not in row["accepted_ids"]]
        await store.write(unit, row, check_at=None, accepted_ids=publishing.accepted(row, conflicts))
        if conflicts:
            told = [telling.conflict(each) for each in conflicts[: store.MOST_CONFLICTS]]
            unit.emit(pb.RosterConflicted(roster_id=row["id"], branch_id=row["branch_id"], conflicts=told))
