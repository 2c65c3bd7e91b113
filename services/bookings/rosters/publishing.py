"""Rosters become what people work: their days, in the place of what their weeks say."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.db import prepare, prepare_sql
from chassis.errors import FieldError
from chassis.unit import Unit
from services.bookings import calendar
from services.bookings.common import refuse_if
from services.bookings.models import branches
from services.bookings.rosters import store, telling

LATE_SECONDS = 45
"""Longer than a call takes: a booking that knew only the old shifts has ended by then, one way or the other."""

ZONE = prepare(
    sa.select(branches.c.time_zone).where(
        branches.c.chain_id == sa.bindparam("chain_id"), branches.c.id == sa.bindparam("branch_id")
    )
)
# Every day of everybody who is planned: a shift, or a day off. What was set by hand stays.
PUBLISH = prepare_sql(
    """
insert into dated_shifts (chain_id, branch_id, staff_id, day, week, reason, roster_id)
select $1::uuid, $2::uuid, p.staff_id, d.day, coalesce(s.week, ''), null, $3::uuid
from unnest($4::uuid[]) as p(staff_id)
cross join lateral (select generate_series($5::date, $6::date - 1, interval '1 day')::date as day) d
left join roster_shifts s on s.chain_id = $1::uuid and s.roster_id = $3::uuid and s.staff_id = p.staff_id
  and s.day = d.day
order by p.staff_id, d.day
on conflict (chain_id, branch_id, staff_id, day) do update set week = excluded.week, reason = null,
  roster_id = excluded.roster_id
where dated_shifts.roster_id is not null
""",
    "chain_id",
    "branch_id",
    "roster_id",
    "staff_ids",
    "first",
    "end",
)
# Published rosters of the branch of which no day is left.
REPLACE = prepare_sql(
    """
update rosters r set status = 'replaced', version = r.version + 1, check_at = null
where r.chain_id = $1::uuid and r.branch_id = $2::uuid and r.status = 'published' and r.id <> $3::uuid
  and r.end_date > $4::date and r.from_date < $5::date
  and not exists (select from dated_shifts d where d.chain_id = $1::uuid and d.branch_id = $2::uuid
    and d.staff_id = any(r.staff_ids) and d.day >= greatest(r.from_date, $4::date) and d.roster_id = r.id)
""",
    "chain_id",
    "branch_id",
    "roster_id",
    "today",
    "end",
)


async def publish(request: pb.PublishRosterRequest, unit: Unit) -> pb.Roster:
    """Make a roster what people work. Raises Refusal ROSTER_HITS_BOOKINGS, WRONG_STATE, NOT_FOUND, INVALID_REQUEST."""
    row = await store.locked(unit, request.id)
    store.check_status(row, "proposed")
    zone: str = await unit.value(ZONE, branch_id=row["branch_id"])
    today = calendar.local_today(unit.now, zone)
    first: date = max(row["from_date"], today)
    if first >= row["end_date"]:
        refuse_if([FieldError("id", "past", "all of its days are past", "其日期均已过去")])
    staff_ids = list(row["staff_ids"])
    # Their time is changed by one at a time, as everywhere.
    await unit.all(store.LOCK_STAFF, ids=staff_ids)
    where = {"branch_id": row["branch_id"], "roster_id": row["id"], "end": row["end_date"]}
    await unit.run(PUBLISH, **where, staff_ids=staff_ids, first=first)
    conflicts = await hit(unit, row, staff_ids)
    if conflicts and not request.accept_conflicts:
        raise store.refuse_conflicts(conflicts)
    await unit.run(REPLACE, **where, today=today)
    changed = await store.write(
        unit,
        row,
        status="published",
        published_at=unit.now,
        check_at=unit.now + timedelta(seconds=LATE_SECONDS),
        accepted_ids=accepted(row, conflicts),
    )
    unit.emit(
        pb.RosterPublished(
            roster_id=row["id"],
            branch_id=row["branch_id"],
            from_date=first.isoformat(),
            until_date=(row["end_date"] - timedelta(days=1)).isoformat(),
            staff_ids=staff_ids,
            conflicts=[telling.conflict(each) for each in conflicts[: store.MOST_CONFLICTS]],
        )
    )
    return await store.told(unit, changed)


async def hit(unit: Unit, row: asyncpg.Record, staff_ids: list[str]) -> list[asyncpg.Record]:
    """Bookings of people in the days of a roster that lie outside what they work now."""
    zone = calendar.zone_of(await unit.value(ZONE, branch_id=row["branch_id"]))
    first = calendar.local_moment(row["from_date"], 0, zone)
    last = calendar.local_moment(row["end_date"], 0, zone)
    return await store.outside(unit, row["branch_id"], staff_ids, first, last)


def accepted(row: asyncpg.Record, conflicts: list[asyncpg.Record]) -> list[Any]:
    """What was accepted outside the shifts of a roster, with what is now."""
    return sorted({*row["accepted_ids"], *(each["id"] for each in conflicts)})
