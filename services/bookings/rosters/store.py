"""Rosters as rows: read, locked, changed; and what every step of them checks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.codec import to_json
from chassis.db import prepare, prepare_sql, uuid_type
from chassis.errors import Refusal, not_found
from chassis.unit import Unit
from services.bookings import board as boards
from services.bookings import calendar
from services.bookings.availability import Window
from services.bookings.common import check_scope
from services.bookings.models import staff
from services.bookings.rosters import telling
from services.bookings.rosters.inputs import MOST_TAKEN, READ_TAKEN
from services.bookings.rosters.models import roster_shifts, rosters

READ, WRITE = "rosters.read", "rosters.write"
MOST_CONFLICTS = 500

_one = sa.and_(rosters.c.chain_id == sa.bindparam("chain_id"), rosters.c.id == sa.bindparam("id"))
CHANGED = (
    "status",
    "lease_until",
    "attempts",
    "progress",
    "figures",
    "failure",
    "wanted_minutes",
    "missing_minutes",
    "published_at",
    "check_at",
    "accepted_ids",
    "version",
)
INSERT = prepare(sa.insert(rosters).returning(rosters))
SELECT = prepare(sa.select(rosters).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(rosters).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(rosters)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=rosters.c[name].type) for name in CHANGED})
    .returning(rosters)
)
READ_SHIFTS = prepare(
    sa.select(roster_shifts)
    .where(roster_shifts.c.chain_id == sa.bindparam("chain_id"), roster_shifts.c.roster_id == sa.bindparam("roster_id"))
    .order_by(roster_shifts.c.day, roster_shifts.c.staff_id)
)
DELETE_SHIFTS = prepare(
    sa.delete(roster_shifts).where(
        roster_shifts.c.chain_id == sa.bindparam("chain_id"), roster_shifts.c.roster_id == sa.bindparam("roster_id")
    )
)
# Hundreds of rows in one round trip.
INSERT_SHIFTS = prepare_sql(
    """
insert into roster_shifts
  (chain_id, roster_id, staff_id, day, shift_template_id, week, minutes, is_late, origin, reasons)
select $1::uuid, $2::uuid, r.* from jsonb_to_recordset($3::jsonb)
  as r(staff_id uuid, day date, shift_template_id uuid, week text, minutes integer, is_late boolean, origin text,
    reasons jsonb)
""",
    "chain_id",
    "roster_id",
    "rows",
)
LOCK_STAFF = prepare(
    sa.select(staff.c.id)
    .where(
        staff.c.chain_id == sa.bindparam("chain_id"),
        staff.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))),
    )
    .order_by(staff.c.id)
    .with_for_update()
)


async def locked(unit: Unit, identifier: str, field: str = "id") -> asyncpg.Record:
    """A roster to be changed, locked. Raises Refusal NOT_FOUND, PERMISSION_DENIED, PRECONDITION_FAILED."""
    row = await unit.one(SELECT_FOR_UPDATE, id=identifier)
    if row is None:
        raise not_found("roster", field)
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    return row


def check_status(row: asyncpg.Record, *statuses: str) -> None:
    """Refuse WRONG_STATE for a roster in another state."""
    if row["status"] not in statuses:
        raise Refusal("WRONG_STATE", status=row["status"])


async def write(unit: Unit, row: asyncpg.Record, **changes: Any) -> asyncpg.Record:
    """Change columns of a roster that is locked, its version with them; answers it as it is then."""
    values = {name: row[name] for name in CHANGED} | changes
    values["version"] = row["version"] + 1
    changed = await unit.one(UPDATE, id=row["id"], **{f"new_{name}": values[name] for name in CHANGED})
    assert changed is not None
    return changed


async def replace_shifts(unit: Unit, roster_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Put other shifts in the place of a roster's."""
    await unit.run(DELETE_SHIFTS, roster_id=roster_id)
    await unit.run(INSERT_SHIFTS, roster_id=roster_id, rows=list(rows))


def check_own(unit: Unit, staff_id: str, branch_ids: list[str]) -> None:
    """Refuse PERMISSION_DENIED what is neither the caller's own nor of people they plan."""
    if staff_id != unit.caller.staff_id:
        if not unit.caller.may(WRITE):
            raise Refusal("PERMISSION_DENIED", permission=WRITE)
        check_scope(unit, branch_ids, WRITE)


def plans(unit: Unit, branch_id: str) -> bool:
    """Whether the caller plans the branch; others see what is published, and nothing of how it came about."""
    allowed = unit.allowed_branches(WRITE) if unit.caller.may(WRITE) else []
    return allowed is None or branch_id in allowed


async def told(unit: Unit, row: asyncpg.Record) -> pb.Roster:
    """A roster with its shifts, and for those who plan with its figures."""
    roster = telling.to_roster(row)
    shifts = await unit.all(READ_SHIFTS, roster_id=row["id"])
    roster.shifts.extend(telling.to_shift(each) for each in shifts)
    if not plans(unit, row["branch_id"]):
        for shift in roster.shifts:
            del shift.reasons[:]
    elif row["figures"] is not None:
        roster.figures.ParseFromString(row["figures"])
        for violation in roster.figures.violations:
            telling.explain(violation, unit.caller.language)
    return roster


# --- what customers have booked ---


async def outside(
    unit: Unit, branch_id: str, staff_ids: Sequence[str], first: datetime, last: datetime
) -> list[asyncpg.Record]:
    """What people are booked for at a branch, from now on, that does not lie in their shifts, by start."""
    board = await boards.of_branch(unit, branch_id)
    earliest = max(first, unit.now)
    if earliest >= last:
        return []
    window = Window(calendar.day_number(earliest) - 1, calendar.day_number(last) - calendar.day_number(earliest) + 4)
    rows = await unit.all(
        READ_TAKEN, ids=list(staff_ids), earliest=earliest, latest=last, now=unit.now, limit=MOST_TAKEN
    )
    found = []
    for row in rows:
        if row["branch_id"] != branch_id:
            continue
        person = board.people.get(row["staff_id"])
        works = 0 if person is None else board.works(person, window.first_day, window.days)
        taken = window.span(calendar.last_step(row["starts_at"]), calendar.first_step(row["ends_at"]))
        if taken & ~works:
            found.append(row)
    return found


def refuse_conflicts(rows: Sequence[asyncpg.Record]) -> Refusal:
    """The refusal that tells the bookings outside shifts."""
    told = [to_json(telling.conflict(row)) for row in rows[:MOST_CONFLICTS]]
    return Refusal("ROSTER_HITS_BOOKINGS", members={"conflicts": told}, count=len(rows))
