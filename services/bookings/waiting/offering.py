"""What is offered to whom: a freed time is held for the first who waits and whom it suits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from services.bookings import booking, calendar, freed, one_by_one, times
from services.bookings.asking import lines_asked
from services.bookings.availability import MOST_DURATION
from services.bookings.freed import How
from services.bookings.plan import Question
from services.bookings.rows import moment_of
from services.bookings.waiting.models import waiting_entries

# How many times are tried for one who waits.
MOST_TRIED = 5
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
# In the order in which they are asked.
WAITING_FOR = prepare_sql(
    """
select * from waiting_entries
where chain_id = $1::uuid and branch_id = $2::uuid and status = 'waiting' and ends_by > $3::timestamptz
  and starts_from < $4::timestamptz
order by case when $5::boolean then -priority else 0 end, created_at, id
limit 100
""",
    "chain_id",
    "branch_id",
    "starts_at",
    "ends_at",
    "by_priority",
)
# Who is being offered something else at this moment is passed over.
LOCK_WAITING = prepare_sql(
    "select id from waiting_entries where chain_id = $1::uuid and id = $2::uuid and status = 'waiting'"
    " for update skip locked",
    "chain_id",
    "id",
)
STATUS = prepare_sql("select status from waiting_entries where chain_id = $1::uuid and id = $2::uuid", "chain_id", "id")
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
    # A seat in a class frees nobody but its customer.
    if how in (How.OVER, How.MOVED) and before["class_session_id"] is None:
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


Slot = tuple[datetime, datetime]


async def offer(unit: Unit, branch_id: str, starts_at: datetime, ends_at: datetime) -> int:
    """Hold a freed time for who waits for it, the first one first; answers how many got an offer.

    What was freed may suit several: two short visits in place of a long one. What keeps somebody from getting an offer
    is never a matter of who gives the time back.
    """
    if ends_at <= unit.now:
        return 0
    board = await boards.of_branch(unit, branch_id)
    by_priority = board.policy.waiting_order == policies_pb2.WAITING_ORDER_PRIORITY
    rows = await unit.all(
        WAITING_FOR, branch_id=branch_id, starts_at=starts_at, ends_at=ends_at, by_priority=by_priority
    )
    made = 0
    # What can begin in that time, whoever it is for: many wait for the same. Nothing stays nothing.
    slots: dict[tuple[bytes, str | None], list[Slot]] = {}
    for row in rows:
        asked = (row["lines"], row["source"])
        try:
            if asked not in slots:
                slots[asked] = []
                slots[asked] = await _slots(unit, _question(row, None), (starts_at, ends_at))
            is_made = bool(slots[asked]) and await _offer_to(unit, row, slots[asked], (starts_at, ends_at))
        except (Refusal, Absent):
            # Its service, or what it chose, is not there any more.
            continue
        if is_made:
            made += 1
            slots = {asked: left for asked, left in slots.items() if not left}
    return made


def _question(row: asyncpg.Record, customer_id: str | None) -> Question:
    lines = pb.SearchAvailabilityRequest.FromString(row["lines"]).lines
    return Question(row["branch_id"], lines_asked(lines), customer_id, row["source"])


async def _slots(unit: Unit, question: Question, within: Slot, window: Slot | None = None) -> list[Slot]:
    """What can be begun and touches a time, and lies in a window where there is one."""
    since, until = within
    earliest, latest = max(since - MOST_DURATION, unit.now), until + MOST_DURATION
    if window is not None:
        earliest, latest = max(earliest, window[0]), min(latest, window[1])
    if earliest >= latest or latest <= since or earliest >= until:
        return []
    found = await times.read(unit, question, earliest, latest)
    offers = [
        (calendar.moment_of(step), calendar.moment_of(step + duration))
        for step, duration, _ in found.offers(earliest, latest, unit.now)
    ]
    return [(start, end) for start, end in offers if start < until and end > since]


def _windows(row: asyncpg.Record) -> list[Slot]:
    windows = waiting_list_pb2.WaitingWindows.FromString(row["windows"]).windows
    return [(moment_of(window.starts_from), moment_of(window.ends_by)) for window in windows]


async def _offer_to(unit: Unit, row: asyncpg.Record, slots: Sequence[Slot], within: Slot) -> bool:
    """Hold the first time that suits an entry and touches what was freed; `slots` are those free for anybody."""
    windows = [
        window
        for window in _windows(row)
        if any(window[0] <= start and end <= window[1] and start not in row["passed_starts"] for start, end in slots)
    ]
    # Only who gets an offer is locked: of several times freed at once each finds somebody.
    if not windows or await unit.one(LOCK_WAITING, id=row["id"]) is None:
        return False
    lines = pb.SearchAvailabilityRequest.FromString(row["lines"]).lines
    tried = 0
    for window in windows:
        for start, _ in await _slots(unit, _question(row, row["customer_id"]), within, window):
            if start in row["passed_starts"]:
                continue
            if await _hold(unit, row, lines, start):
                return True
            tried += 1
            if tried == MOST_TRIED:
                return False
    return False


async def offer_free(unit: Unit, row: asyncpg.Record) -> bool:
    """Offer what is free already and suits an entry; who is before it and waits for the same is asked first.

    Answers whether the entry has an offer then. Raises Refusal or Absent when what it asks for is not there any more.
    """
    tried: set[datetime] = set(row["passed_starts"])
    for _ in range(MOST_TRIED):
        slot = await _first_free(unit, row, tried)
        if slot is None:
            return False
        tried.add(slot[0])
        await offer(unit, row["branch_id"], *slot)
        if await unit.value(STATUS, id=row["id"]) != "waiting":
            return True
    return False


async def _first_free(unit: Unit, row: asyncpg.Record, tried: Collection[datetime]) -> Slot | None:
    for window in sorted(_windows(row)):
        if window[1] <= unit.now:
            continue
        for slot in await _slots(unit, _question(row, row["customer_id"]), window, window):
            if slot[0] not in tried:
                return slot
    return None


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
    try:
        has_offer = await offer_free(unit, row)
    except (Refusal, Absent):
        # Its service, or what it chose, is not there any more: it is looked at again later.
        has_offer = False
    if not has_offer:
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
        async with context.store.unit(system_caller(context.name, chain_id), read_only=True) as unit:
            due = [row["id"] for row in await unit.all(UNLOOKED, before=unit.now - LOOK_AGAIN)]
        failed = await one_by_one.each(context, "look-at-waiting-list", chain_id, due, look)
        # Those come last the next time: they must not stand before all others for ever.
        await one_by_one.each(context, "look-at-waiting-list", chain_id, failed, _put_off)


async def _put_off(unit: Unit, entry_id: str) -> None:
    row = await unit.one(LOCK, id=entry_id)
    if row is not None and row["status"] == "waiting":
        await write(unit, row, looked_at=unit.now)
