"""The clocks of the day: who is late is told of once, and who never comes becomes a no-show by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
from foyer.bookings.v1 import bookings_pb2, policies_pb2
from foyer.bookings.v1 import front_desk_pb2 as pb

from chassis.app import Context
from chassis.db import prepare_sql
from chassis.unit import Unit, system_caller
from services.bookings import board as boards
from services.bookings import booking, one_by_one
from services.bookings.rows import project_booking

JOB = "watch-arrivals"
MOST_AT_ONCE = 500
# What lies further back was forgotten by the desk, and is for people to put right.
LOOK_BACK = timedelta(days=1)

# Confirmed bookings that should have begun are there all day where nobody checks in: they are read page by page, so
# that none hides another.
CHAINS = prepare_sql(
    """
select distinct chain_id from bookings
where status = 'confirmed' and starts_at <= $1::timestamptz and starts_at > $2::timestamptz
  and ($3::uuid is null or chain_id > $3::uuid)
order by chain_id limit 500
""",
    "now",
    "since",
    "after",
)
BEGUN = prepare_sql(
    """
select id, branch_id, starts_at, late_told_at from bookings
where chain_id = $1::uuid and status = 'confirmed' and starts_at <= $2::timestamptz and starts_at > $3::timestamptz
  and ($4::timestamptz is null or (starts_at, id) > ($4::timestamptz, $5::uuid))
order by starts_at, id limit 500
""",
    "chain_id",
    "now",
    "since",
    "after",
    "after_id",
)
TELL_LATE = prepare_sql(
    """
update bookings set late_told_at = $3::timestamptz
where chain_id = $1::uuid and id = $2::uuid and status = 'confirmed'
  and (late_told_at is null or late_told_at < starts_at)
  and starts_at = $4::timestamptz
returning *
""",
    "chain_id",
    "id",
    "now",
    "starts_at",
)


async def watch_arrivals(context: Context) -> None:
    """The job: looks at every confirmed booking that should have begun."""
    chain_id: str | None = None
    while True:
        async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
            rows = await unit.all(CHAINS, now=unit.now, since=unit.now - LOOK_BACK, after=chain_id)
        for row in rows:
            chain_id = row["chain_id"]
            await one_by_one.each(context, JOB, row["chain_id"], await _due(context, row["chain_id"]), _watch)
        if len(rows) < MOST_AT_ONCE:
            return


async def _due(context: Context, chain_id: str) -> list[asyncpg.Record]:
    """Bookings of a chain that something is to be done about."""
    found: list[asyncpg.Record] = []
    after: dict[str, Any] = {"after": None, "after_id": None}
    async with context.store.unit(system_caller(context.name, chain_id), read_only=True) as unit:
        while True:
            rows = await unit.all(BEGUN, now=unit.now, since=unit.now - LOOK_BACK, **after)
            for row in rows:
                policy = (await boards.of_branch(unit, row["branch_id"])).policy
                # One that moved since is told of again.
                is_told = row["late_told_at"] is not None and row["late_told_at"] >= row["starts_at"]
                if _is_missed(policy, row, unit) or (not is_told and _minutes(row, unit) >= policy.late_minutes):
                    found.append(row)
            if len(rows) < MOST_AT_ONCE:
                return found
            after = {"after": rows[-1]["starts_at"], "after_id": rows[-1]["id"]}


def _minutes(row: asyncpg.Record, unit: Unit) -> int:
    return int((unit.now - row["starts_at"]).total_seconds() // 60)


def _is_missed(policy: policies_pb2.BookingPolicy, row: asyncpg.Record, unit: Unit) -> bool:
    return policy.no_show_minutes > 0 and _minutes(row, unit) >= policy.no_show_minutes


async def _watch(unit: Unit, due: asyncpg.Record) -> None:
    policy = (await boards.of_branch(unit, due["branch_id"])).policy
    if _is_missed(policy, due, unit):
        row = await unit.one(STILL_CONFIRMED, id=due["id"], starts_at=due["starts_at"])
        if row is not None:
            await booking.mark_no_show(bookings_pb2.MarkNoShowRequest(id=due["id"]), unit)
        return
    row = await unit.one(TELL_LATE, id=due["id"], now=unit.now, starts_at=due["starts_at"])
    if row is not None:
        unit.emit(pb.BookingLate(booking_id=due["id"], booking=project_booking(row), late_minutes=_minutes(due, unit)))


STILL_CONFIRMED = prepare_sql(
    "select id from bookings where chain_id = $1::uuid and id = $2::uuid and status = 'confirmed'"
    " and starts_at = $3::timestamptz for update",
    "chain_id",
    "id",
    "starts_at",
)
