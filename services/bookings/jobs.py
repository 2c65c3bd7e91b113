"""Work that is done again and again."""

from __future__ import annotations

import sqlalchemy as sa

from chassis.app import Context
from chassis.db import prepare
from chassis.unit import Unit, system_caller
from services.bookings import allocator, booking, one_by_one
from services.bookings.models import allocations

MOST_CHAINS = 100

CHAINS_WITH_DUE = prepare(
    sa.select(allocations.c.chain_id)
    .where(allocations.c.expires_at <= sa.bindparam("now"))
    .distinct()
    .limit(MOST_CHAINS)
)


async def expire_holds(context: Context) -> None:
    """Give back holds that ran out and that nobody needed since: so that events tell of them and lists are true."""
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        chains = [row["chain_id"] for row in await unit.all(CHAINS_WITH_DUE, now=unit.now)]
    for chain_id in chains:
        async with context.store.unit(system_caller(context.name, chain_id), read_only=True) as unit:
            due = await allocator.due(unit)
        await one_by_one.each(context, "expire-holds", chain_id, due, _expire)


async def _expire(unit: Unit, booking_id: str) -> None:
    await booking.expire(unit, [booking_id])
