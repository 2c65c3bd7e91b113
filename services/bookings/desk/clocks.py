"""The clocks of the day: who is late is told of once, and who never comes becomes a no-show by itself."""

from __future__ import annotations

from datetime import timedelta

from foyer.bookings.v1 import bookings_pb2
from foyer.bookings.v1 import front_desk_pb2 as pb

from chassis.app import Context
from chassis.db import prepare_sql
from chassis.unit import Unit, system_caller
from services.bookings import board as boards
from services.bookings import booking
from services.bookings.rows import project_booking

MOST_CHAINS = 100
# What lies further back was forgotten by the desk, and is for people to put right.
LOOK_BACK = timedelta(days=1)

CHAINS = prepare_sql(
    """
select distinct chain_id from bookings
where status = 'confirmed' and starts_at <= $1::timestamptz and starts_at > $2::timestamptz limit 100
""",
    "now",
    "since",
)
BEGUN = prepare_sql(
    """
select * from bookings
where chain_id = $1::uuid and status = 'confirmed' and starts_at <= $2::timestamptz and starts_at > $3::timestamptz
order by starts_at, id limit 500
""",
    "chain_id",
    "now",
    "since",
)
TELL_LATE = prepare_sql(
    """
update bookings set late_told_at = $3::timestamptz
where chain_id = $1::uuid and id = $2::uuid and status = 'confirmed' and late_told_at is null returning *
""",
    "chain_id",
    "id",
    "now",
)


async def watch_arrivals(context: Context) -> None:
    """The job: looks at every confirmed booking that should have begun."""
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        chains = [row["chain_id"] for row in await unit.all(CHAINS, now=unit.now, since=unit.now - LOOK_BACK)]
    for chain_id in chains:
        caller = system_caller(context.name, chain_id)
        async with context.store.unit(caller, read_only=True) as unit:
            rows = await unit.all(BEGUN, now=unit.now, since=unit.now - LOOK_BACK)
        for row in rows:
            async with context.store.unit(caller) as unit:
                await _watch(
                    unit, row["id"], row["branch_id"], int((unit.now - row["starts_at"]).total_seconds() // 60)
                )


async def _watch(unit: Unit, booking_id: str, branch_id: str, minutes: int) -> None:
    policy = (await boards.of_branch(unit, branch_id)).policy
    if policy.no_show_minutes and minutes >= policy.no_show_minutes:
        row = await unit.one(STILL_CONFIRMED, id=booking_id)
        if row is not None:
            await booking.mark_no_show(bookings_pb2.MarkNoShowRequest(id=booking_id), unit)
        return
    if minutes < policy.late_minutes:
        return
    row = await unit.one(TELL_LATE, id=booking_id, now=unit.now)
    if row is not None:
        unit.emit(pb.BookingLate(booking_id=booking_id, booking=project_booking(row), late_minutes=minutes))


STILL_CONFIRMED = prepare_sql(
    "select id from bookings where chain_id = $1::uuid and id = $2::uuid and status = 'confirmed' for update",
    "chain_id",
    "id",
)
