"""What every service forgets in time: answered idempotency keys, and events that cannot come again."""

from __future__ import annotations

from chassis.bus import STREAM_AGE_SECONDS
from chassis.db import Pool

EVERY_SECONDS = 600.0
KEY_AGE_SECONDS = 7 * 24 * 3600
# A consumer must know an event for as long as the stream may bring it again, and a day more.
INBOX_AGE_SECONDS = STREAM_AGE_SECONDS + 24 * 3600
BATCH_ROWS = 2000
MOST_BATCHES = 200

FORGET = """
with old as (select ctid from {table} where {column} < now() - make_interval(secs => $1) limit $2)
delete from {table} using old where {table}.ctid = old.ctid
"""


async def forget(pool: Pool) -> int:
    """Delete what is too old, a batch at a time; answers how many rows went."""
    gone = 0
    for table, column, age_seconds in (
        ("idempotency", "created_at", KEY_AGE_SECONDS),
        ("inbox", "seen_at", INBOX_AGE_SECONDS),
    ):
        statement = FORGET.format(table=table, column=column)
        for _ in range(MOST_BATCHES):
            status = await pool.execute(statement, age_seconds, BATCH_ROWS)
            rows = int(status.rpartition(" ")[2])
            gone += rows
            if rows < BATCH_ROWS:
                break
    return gone
