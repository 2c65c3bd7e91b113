"""What wallet does by itself: holds and payments whose time has come are let go, and the books are checked."""

from __future__ import annotations

from chassis.app import Context, Job
from chassis.unit import system_caller
from services.wallet.books import CHECK_SECONDS, BooksJob
from services.wallet.movements import lock
from services.wallet.statements import named
from services.wallet.top_ups import GIVE_UP

EXPIRE_SECONDS = 5.0
MOST_AT_ONCE = 200

DUE_HOLDS = named("""
select chain_id, customer_id from wallets where holds_expire_at <= :now::timestamptz
order by holds_expire_at limit :limit::bigint
""")
DUE_PAYMENTS = named("""
select distinct chain_id from payments_at_providers where due_at <= :now::timestamptz limit :limit::bigint
""")


async def expire(context: Context) -> None:
    """Let go of holds whose time has come, with their event, and give up payments that nobody made.

    Nobody waits for this: a charge or an authorization finds such holds free by itself.
    """
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        holds = await unit.all(DUE_HOLDS, now=unit.now, limit=MOST_AT_ONCE)
        payments = await unit.all(DUE_PAYMENTS, now=unit.now, limit=MOST_AT_ONCE)
    for row in holds:
        async with context.store.unit(system_caller(context.name, row["chain_id"])) as unit:
            await lock(unit, row["customer_id"])
    for row in payments:
        async with context.store.unit(system_caller(context.name, row["chain_id"])) as unit:
            await unit.run(GIVE_UP, now=unit.now)


JOBS = (Job("expire", expire, every_seconds=EXPIRE_SECONDS), Job("books", BooksJob(), every_seconds=CHECK_SECONDS))
