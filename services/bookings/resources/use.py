"""Who has a unit, and when: the time that is taken, and the bookings and loans it is taken by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from foyer.bookings.v1 import resources_pb2 as pb

from chassis.db import prepare_sql
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import board, booking, calendar, statements
from services.bookings.allocator import Taken
from services.bookings.availability import HORIZON_DAYS, Window
from services.bookings.board import Board
from services.bookings.times import MOST_READS, busy_and_holds

MOST_CONFLICTS = 200
HORIZON = timedelta(days=HORIZON_DAYS)
# Nothing is booked or lent further ahead, and nothing that is lasts longer.
FOR_EVER = 2 * HORIZON

# A loan lasts 92 days and may be overdue for long: what began more than 400 days before is not looked for.
SELECT_CONFLICTS = prepare_sql(
    """
select a.resource_id, b.id as booking_id, l.id as loan_id, coalesce(b.customer_id, l.customer_id) as customer_id,
  a.starts_at, a.ends_at, b.service_name, s.id as class_session_id
from allocations a
left join bookings b on b.chain_id = a.chain_id and b.id = a.booking_id and b.status <> 'completed'
left join loans l on l.chain_id = a.chain_id and l.id = a.booking_id
left join class_sessions s on s.chain_id = a.chain_id and s.id = a.booking_id
where a.chain_id = $1::uuid and a.resource_id = any($2::uuid[])
  and a.starts_at < $4::timestamptz and a.starts_at > $3::timestamptz - interval '400 days'
  and a.ends_at > $3::timestamptz and (a.expires_at is null or a.expires_at > $5::timestamptz)
  and (b.id is not null or l.id is not null or s.id is not null) and a.booking_id is distinct from $6::uuid
order by a.starts_at, a.resource_id, a.booking_id
limit $7::integer
""",
    "chain_id",
    "ids",
    "from",
    "to",
    "now",
    "except",
    "limit",
    name="select_allocations_conflicts",
)

to_conflict = projector(pb.ResourceConflict)


async def conflicts(
    unit: Unit, ids: Sequence[str], starts_at: datetime, ends_at: datetime, but: str | None = None
) -> list[pb.ResourceConflict]:
    """The bookings, loans and class sessions that have units in a stretch of time to come, earliest first, 200 at most.

    What is past is left out, and so is the one named by `but`.
    """
    parameters = {"from": max(starts_at, unit.now), "to": ends_at, "except": but}
    rows = await unit.all(SELECT_CONFLICTS, ids=list(ids), now=unit.now, limit=MOST_CONFLICTS, **parameters)
    return [to_conflict(row) for row in rows]


@dataclass(slots=True)
class Use:
    """What is taken of some units of a branch, over the whole UTC days of a window."""

    board: Board
    window: Window
    ids: Sequence[str]
    busy: dict[str, int]
    """Taken time; holds that ran out are not in it."""
    holds: list[tuple[str, Taken]]
    """Those holds, not yet given back."""

    def usable(self, identifier: str) -> int:
        """When a unit is in service; never, when it is not active."""
        thing = self.board.things[identifier]
        return self.board.usable(thing, self.window.first_day, self.window.days) if thing.active else 0

    def free(self, identifier: str) -> int:
        """When a unit is in service and nobody has it."""
        return self.usable(identifier) & ~self.busy.get(identifier, 0)


async def read(
    unit: Unit, branch_id: str, choose: Callable[[Board], Sequence[str]], starts_at: datetime, ends_at: datetime
) -> Use:
    """Read what is taken of the units that `choose` finds on the board of a branch. Raises Absent for no branch."""
    first_day = calendar.day_number(starts_at)
    window = Window(first_day, calendar.day_number(ends_at) - first_day + 1)
    known = board.kept(unit, branch_id)
    for _ in range(MOST_READS):
        if known is None:
            known = await board.load(unit, branch_id)
        ids = choose(known)
        row = await unit.one(
            statements.READ_BUSY,
            branch_id=branch_id,
            customer_ids=[],
            ids=list(ids),
            first_day=calendar.date_of(window.first_day),
            last_day=calendar.date_of(window.first_day + window.days - 1),
            now=unit.now,
        )
        assert row is not None
        if known.versions == (row["chain_version"], row["branch_version"]):
            return Use(known, window, ids, *busy_and_holds(row, window))
        known = None
    raise RuntimeError("what decides about a branch's time changed five times while it was read")


async def expire_in_the_way(unit: Unit, found: Use, wanted: Taken) -> None:
    """Let go of holds that ran out and still stand in a time that is wanted now."""
    ids = {
        booking_id
        for booking_id, held in found.holds
        if held.resource_id == wanted.resource_id and held.first < wanted.last and wanted.first < held.last
    }
    if ids:
        await booking.expire(unit, sorted(ids))


def soon(moment: datetime) -> datetime:
    """A step later: the end of the smallest stretch that can be read."""
    return moment + timedelta(minutes=calendar.STEP_MINUTES)
