"""What is offered to whom: a freed time is held for the first who waits and whom it suits."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import policies_pb2, waiting_list_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.app import Context
from chassis.db import prepare, prepare_sql
from chassis.errors import Refusal
from chassis.rows import projector
from chassis.unit import Absent, Unit, system_caller
from services.bookings import board as boards
from services.bookings import booking, calendar, freed, times
from services.bookings.asking import lines_asked
from services.bookings.freed import How
from services.bookings.plan import Question
from services.bookings.rows import moment_of
from services.bookings.waiting.models import waiting_entries

# How many who wait are asked for one freed time, and how many of their times are tried.
MOST_ASKED = 100
MOST_TRIED = 5
MOST_LOOKED_AT = 50
LOOK_AGAIN = timedelta(minutes=5)

_one = sa.and_(waiting_entries.c.chain_id == sa.bindparam("chain_id"), waiting_entries.c.id == sa.bindparam("id"))
CHANGED = (
    "lines",
    "windows",
    "starts_from",
    "ends_by",
    "priority",
    "status",
    "booking_id",
    "offer_expires_at",
    "passed_starts",
    "note",
    "looked_at",
)
LOCK = prepare(sa.select(waiting_entries).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(waiting_entries)
    .where(_one)
    .values(
        {name: sa.bindparam(f"new_{name}", type_=waiting_entries.c[name].type) for name in CHANGED}
        | {"version": waiting_entries.c.version + 1}
    )
    .returning(waiting_entries)
)
# In the order in which they are asked. Who is being offered something else at this moment is passed over.
WAITING_FOR = prepare_sql(
    """
select * from waiting_entries
where chain_id = $1::uuid and branch_id = $2::uuid and status = 'waiting' and ends_by > $3::timestamptz
  and starts_from < $4::timestamptz
order by case when $5::boolean then -priority else 0 end, created_at, id
limit 100 for update skip locked
""",
    "chain_id",
    "branch_id",
    "starts_at",
    "ends_at",
    "by_priority",
)
OF_BOOKING = prepare_sql(
    "select * from waiting_entries where chain_id = $1::uuid and booking_id = $2::uuid and status = 'offered'"
    " for update",
    "chain_id",
    "booking_id",
)
UNLOOKED = prepare_sql(
    """
select id from waiting_entries where chain_id = $1::uuid and status = 'waiting' and looked_at <= $2::timestamptz
order by looked_at limit 50
""",
    "chain_id",
    "before",
)
CHAINS_WITH_UNLOOKED = prepare_sql(
    "select distinct chain_id from waiting_entries where status = 'waiting' and looked_at <= $1::timestamptz limit 100",
    "before",
)

to_entry = projector(
    waiting_list_pb2.WaitingEntry,
    lines=lambda row: pb.SearchAvailabilityRequest.FromString(row["lines"]).lines,
    windows=lambda row: waiting_list_pb2.WaitingWindows.FromString(row["windows"]).windows,
    passed_count=lambda row: len(row["passed_starts"]),
)


async def write(unit: Unit, row: asyncpg.Record, **changes: Any) -> asyncpg.Record:
    """Change columns of a locked entry; answers it as it is then."""
    values = {name: row[name] for name in CHANGED} | changes
    changed = await unit.one(UPDATE, id=row["id"], **{f"new_{name}": values[name] for name in CHANGED})
    assert changed is not None
    return changed


@freed.listen
async def booking_changed(unit: Unit, before: asyncpg.Record, how: How) -> None:
    """Whoever a time was offered to took it or let it pass; what is free again is offered to who waits."""
    if before["waiting_entry_id"] is not None and how != How.MOVED:
        row = await unit.one(OF_BOOKING, booking_id=before["id"])
        if row is not None:
            await (booked(unit, row) if how == How.AGREED else passed(unit, row))
    if how in (How.OVER, How.MOVED):
        await offer(unit, before["branch_id"], before["starts_at"], before["ends_at"])


async def passed(unit: Unit, row: asyncpg.Record) -> asyncpg.Record:
    """An entry whose offer is gone waits on, but not for that time."""
    start = await unit.value(STARTS_AT, id=row["booking_id"])
    unit.emit(
        waiting_list_pb2.WaitingListPassed(
            entry_id=row["id"], booking_id=row["booking_id"], customer_id=row["customer_id"]
        )
    )
    return await write(
        unit,
        row,
        status="waiting",
        booking_id=None,
        offer_expires_at=None,
        passed_starts=[*row["passed_starts"], start],
    )


STARTS_AT = prepare_sql("select starts_at from bookings where chain_id = $1::uuid and id = $2::uuid", "chain_id", "id")


async def offer(unit: Unit, branch_id: str, starts_at: datetime, ends_at: datetime) -> int:
    """Hold a freed time for who waits for it, the first one first; answers how many got an offer.

    What was freed may suit several: two short visits in place of a long one.
    """
    if ends_at <= unit.now:
        return 0
    board = await boards.of_branch(unit, branch_id)
    by_priority = board.policy.waiting_order == policies_pb2.WAITING_ORDER_PRIORITY
    rows = await unit.all(
        WAITING_FOR, branch_id=branch_id, starts_at=starts_at, ends_at=ends_at, by_priority=by_priority
    )
    made = 0
    for row in rows:
        made += await _offer_to(unit, row, starts_at, ends_at)
    return made


async def _offer_to(unit: Unit, row: asyncpg.Record, since: datetime, until: datetime) -> bool:
    """Hold the first time that suits an entry and touches what was freed."""
    lines = pb.SearchAvailabilityRequest.FromString(row["lines"]).lines
    question = Question(row["branch_id"], lines_asked(lines), row["customer_id"], row["source"])
    windows = waiting_list_pb2.WaitingWindows.FromString(row["windows"]).windows
    tried = 0
    for window in windows:
        earliest = max(moment_of(window.starts_from), unit.now)
        latest = moment_of(window.ends_by)
        if earliest >= latest or latest <= since or earliest >= until:
            continue
        found = await times.read(unit, question, earliest, latest)
        for step, duration, _ in found.offers(earliest, latest, unit.now):
            start = calendar.moment_of(step)
            touches = start < until and calendar.moment_of(step + duration) > since
            if not touches or start in row["passed_starts"]:
                continue
            if await _hold(unit, row, lines, start):
                return True
            tried += 1
            if tried == MOST_TRIED:
                return False
    return False


async def _hold(unit: Unit, row: asyncpg.Record, lines: Any, starts_at: datetime) -> bool:
    minutes = (await boards.of_branch(unit, row["branch_id"])).policy.offer_minutes or 30
    expires_at = unit.now + timedelta(minutes=minutes)
    stamp = Timestamp()
    stamp.FromDatetime(starts_at)
    request = pb.CreateBookingRequest(
        branch_id=row["branch_id"],
        customer_id=row["customer_id"],
        starts_at=stamp,
        lines=lines,
        hold=True,
        source=row["source"],
        note=row["note"],
    )
    try:
        held = await booking.create(request, unit, expires_at=expires_at, waiting_entry_id=row["id"])
    except Refusal:
        return False
    await write(unit, row, status="offered", booking_id=held.id, offer_expires_at=expires_at)
    unit.emit(waiting_list_pb2.WaitingListOffered(entry_id=row["id"], booking=held, expires_at=held.expires_at))
    return True


async def booked(unit: Unit, row: asyncpg.Record) -> asyncpg.Record:
    """The booking that was held for an entry is confirmed: it waits no longer."""
    unit.emit(
        waiting_list_pb2.WaitingListBooked(
            entry_id=row["id"], booking_id=row["booking_id"], customer_id=row["customer_id"]
        )
    )
    return await write(unit, row, status="booked", offer_expires_at=None)


async def look(unit: Unit, entry_id: str) -> None:
    """Look whether something suits an entry that nobody freed by letting go: a new shift, a room back in service."""
    row = await unit.one(LOCK, id=entry_id)
    if row is None or row["status"] != "waiting":
        return
    if row["ends_by"] <= unit.now:
        await write(unit, row, status="over")
        tell_left(unit, row, over=True)
        return
    if not await _offer_to(unit, row, row["starts_from"], row["ends_by"]):
        await write(unit, row, looked_at=unit.now)


def tell_left(unit: Unit, row: asyncpg.Record, *, over: bool) -> None:
    """Say that somebody waits no longer."""
    event: Message = waiting_list_pb2.WaitingListLeft(entry_id=row["id"], customer_id=row["customer_id"], over=over)
    unit.emit(event)


async def look_again(context: Context) -> None:
    """The job: everybody who waits is looked at every five minutes."""
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        before = unit.now - LOOK_AGAIN
        chains = [row["chain_id"] for row in await unit.all(CHAINS_WITH_UNLOOKED, before=before)]
    for chain_id in chains:
        caller = system_caller(context.name, chain_id)
        async with context.store.unit(caller, read_only=True) as unit:
            due = [row["id"] for row in await unit.all(UNLOOKED, before=unit.now - LOOK_AGAIN)]
        for entry_id in due:
            async with context.store.unit(caller) as unit:
                try:
                    await look(unit, entry_id)
                except (Refusal, Absent):
                    # Its service or branch is not offered any more: it is looked at again later.
                    continue
