"""Who waits: joining, changing, taking and letting pass what is offered, leaving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2
from foyer.bookings.v1 import waiting_list_pb2 as pb

from chassis.db import Prepared, prepare, prepare_sql, prepared_once, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import enum_name
from chassis.unit import Unit
from services.bookings import board as boards
from services.bookings import booking, domain, times
from services.bookings.asking import lines_asked
from services.bookings.availability import HORIZON_DAYS, WINDOW_DAYS
from services.bookings.common import after_id, refuse_if
from services.bookings.plan import Question
from services.bookings.records import check_known
from services.bookings.rows import READ, SELECT_FOR_UPDATE, WRITE, moment_of
from services.bookings.waiting.models import waiting_entries
from services.bookings.waiting.offering import LOCK, offer_free, passed, tell_left, to_entry, write

INSERT = prepare(sa.insert(waiting_entries).returning(waiting_entries))
SELECT = prepare(
    sa.select(waiting_entries).where(
        waiting_entries.c.chain_id == sa.bindparam("chain_id"), waiting_entries.c.id == sa.bindparam("id")
    )
)
PLACE = prepare_sql(
    """
select count(*) from waiting_entries
where chain_id = $1::uuid and branch_id = $2::uuid and status = 'waiting' and ends_by > $3::timestamptz
  and (case when $4::boolean then -priority else 0 end, created_at, id)
    < (case when $4::boolean then -$5::integer else 0 end, $6::timestamptz, $7::uuid)
""",
    "chain_id",
    "branch_id",
    "now",
    "by_priority",
    "priority",
    "created_at",
    "id",
)
ACTIVE = ("waiting", "offered")


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    table = waiting_entries
    query = sa.select(table).where(table.c.chain_id == sa.bindparam("chain_id"))
    for name in ("branch_id", "customer_id"):
        if name in filters:
            query = query.where(table.c[name] == sa.bindparam(name))
    if "allowed" in filters:
        query = query.where(table.c.branch_id == sa.any_(sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))))
    query = query.where(table.c.status == sa.any_(sa.bindparam("status", type_=sa.ARRAY(sa.Text()))))
    if "after" in filters:
        query = query.where(table.c.id > sa.bindparam("after", type_=uuid_type()))
    return prepare(query.order_by(table.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


async def join(request: pb.JoinWaitingListRequest, unit: Unit) -> pb.WaitingEntry:
    """Join the list; what suits and is free already is offered at once. Raises Refusal NOT_FOUND, INVALID_REQUEST."""
    branch_id, customer_id = request.branch_id.lower(), request.customer_id.lower()
    unit.check_branch(branch_id, WRITE)
    windows = _windows(request.windows, unit.now, "windows")
    question = Question(branch_id, lines_asked(request.lines), customer_id, request.source or None)
    earliest = max(min(since for since, _ in windows), unit.now)
    found = await times.read(unit, question, earliest)
    if found.reason is not None:
        await booking.check_staff_known(unit, found)
        english, chinese = domain.REASONS[found.reason]
        refuse_if([FieldError("lines", found.reason, english, chinese)])
    row = await unit.one(
        INSERT,
        id=new_id(),
        branch_id=branch_id,
        customer_id=customer_id,
        lines=bookings_pb2.SearchAvailabilityRequest(lines=request.lines).SerializeToString(),
        **_columns(request.windows, windows),
        priority=request.priority,
        status="waiting",
        booking_id=None,
        offer_expires_at=None,
        passed_starts=[],
        note=request.note or None,
        source=request.source or None,
        looked_at=unit.now,
        version=1,
        created_at=unit.now,
    )
    assert row is not None
    unit.emit(pb.WaitingListJoined(entry_id=row["id"], branch_id=branch_id, customer_id=customer_id))
    await offer_free(unit, row)
    return await _read(unit, row["id"])


def _windows(asked: Iterable[pb.WaitingWindow], now: datetime, name: str) -> list[tuple[datetime, datetime]]:
    """The times that suit. Raises Refusal INVALID_REQUEST for what is over, too long or the wrong way round."""
    windows = [(moment_of(window.starts_from), moment_of(window.ends_by)) for window in asked]
    errors = []
    for index, (since, until) in enumerate(windows):
        field = f"{name}[{index}].to"
        if until <= since:
            errors.append(FieldError(field, "order", "must be after `from`", "应晚于 from"))
        elif until <= now:
            errors.append(FieldError(field, "past", "must be in the future", "应为将来的时间"))
        elif (until - max(since, now)).days >= WINDOW_DAYS:
            message = f"must be at most {WINDOW_DAYS} days after `from`"
            errors.append(FieldError(field, "range", message, f"最多晚于 from {WINDOW_DAYS} 天"))
        elif (until - now).days >= HORIZON_DAYS:
            message = f"must be at most {HORIZON_DAYS} days ahead"
            errors.append(FieldError(field, "range", message, f"最多为今后 {HORIZON_DAYS} 天"))
    refuse_if(errors)
    return windows


def _columns(asked: Iterable[pb.WaitingWindow], windows: Sequence[tuple[datetime, datetime]]) -> dict[str, Any]:
    return {
        "windows": pb.WaitingWindows(windows=asked).SerializeToString(),
        "starts_from": min(since for since, _ in windows),
        "ends_by": max(until for _, until in windows),
    }


async def find(request: pb.ListWaitingEntriesRequest, unit: Unit) -> pb.ListWaitingEntriesResponse:
    """A page of entries, who joined first first."""
    limit = page_limit(request.page_size)
    parameters: dict[str, Any] = {}
    for name in ("branch_id", "customer_id"):
        if request.HasField(name):
            parameters[name] = getattr(request, name)
    allowed = unit.allowed_branches(READ)
    if allowed is not None:
        parameters["allowed"] = allowed
    after = after_id(request.page_token)
    if after is not None:
        parameters["after"] = after
    status = (enum_name(pb.WaitingEntry, "status", request.status),) if request.HasField("status") else ACTIVE
    rows = await unit.all(_list(frozenset(parameters)), **parameters, status=list(status), limit=limit + 1)
    if not rows:
        await check_known(unit, parameters.get("branch_id"), None, parameters.get("customer_id"))
    page, token = split_page(rows, limit, lambda row: (row["id"],))
    return pb.ListWaitingEntriesResponse(entries=[to_entry(row) for row in page], next_page_token=token)


async def get(request: pb.GetWaitingEntryRequest, unit: Unit) -> pb.WaitingEntry:
    """Read an entry with its place. Raises Refusal NOT_FOUND."""
    return await _read(unit, request.id, READ)


async def _read(unit: Unit, identifier: str, permission: str | None = None) -> pb.WaitingEntry:
    row = await unit.one(SELECT, id=identifier)
    if row is None:
        raise not_found("waiting_entry", "id")
    if permission is not None:
        unit.check_branch(row["branch_id"], permission)
    entry = to_entry(row)
    if row["status"] == "waiting":
        policy = (await boards.of_branch(unit, row["branch_id"])).policy
        before = await unit.value(
            PLACE,
            branch_id=row["branch_id"],
            now=unit.now,
            by_priority=policy.waiting_order == 2,
            priority=row["priority"],
            created_at=row["created_at"],
            id=row["id"],
        )
        entry.place = before + 1
    return entry


async def update(request: pb.UpdateWaitingEntryRequest, unit: Unit) -> pb.WaitingEntry:
    """Change what suits an entry that waits. Raises Refusal WRONG_STATE, NOT_FOUND."""
    row = await _locked(unit, request.id)
    unit.check_version(row["version"])
    if row["status"] not in ACTIVE:
        raise Refusal("WRONG_STATE", status=row["status"])
    changes: dict[str, Any] = {}
    if request.HasField("windows"):
        changes |= _columns(request.windows.windows, _windows(request.windows.windows, unit.now, "windows.windows"))
    if request.HasField("priority"):
        changes["priority"] = request.priority
    if request.HasField("note"):
        changes["note"] = request.note or None
    changed = await write(unit, row, **changes)
    if changed["status"] == "waiting" and request.HasField("windows"):
        await offer_free(unit, changed)
    return await _read(unit, row["id"])


async def accept(request: pb.AcceptWaitingOfferRequest, unit: Unit) -> pb.WaitingEntry:
    """Take what is offered. Raises Refusal NO_OFFER, HOLD_EXPIRED."""
    row = await _offered(unit, request.id)
    await booking.confirm(bookings_pb2.ConfirmBookingRequest(id=row["booking_id"]), unit)
    return await _read(unit, request.id)


async def decline(request: pb.DeclineWaitingOfferRequest, unit: Unit) -> pb.WaitingEntry:
    """Let what is offered pass. Raises Refusal NO_OFFER."""
    row = await _offered(unit, request.id)
    await booking.let_go(unit, row["booking_id"])
    return await _read(unit, request.id)


async def leave(request: pb.LeaveWaitingListRequest, unit: Unit) -> pb.WaitingEntry:
    """Leave the list; what is on offer goes to the next one. Raises Refusal WRONG_STATE."""
    seen = await unit.one(SELECT, id=request.id)
    if seen is not None and seen["booking_id"] is not None:
        # Bookings are locked before entries, everywhere.
        await unit.one(SELECT_FOR_UPDATE, id=seen["booking_id"])
    row = await _locked(unit, request.id)
    unit.check_version(row["version"])
    if row["status"] not in ACTIVE:
        raise Refusal("WRONG_STATE", status=row["status"])
    booking_id = row["booking_id"]
    if booking_id is not None:
        row = await passed(unit, row)
    left = await write(unit, row, status="left")
    tell_left(unit, left, over=False)
    if booking_id is not None:
        await booking.let_go(unit, booking_id)
    return to_entry(left)


async def _locked(unit: Unit, identifier: str) -> asyncpg.Record:
    row = await unit.one(LOCK, id=identifier)
    if row is None:
        raise not_found("waiting_entry", "id")
    unit.check_branch(row["branch_id"], WRITE)
    return row


async def _offered(unit: Unit, identifier: str) -> asyncpg.Record:
    """An entry that something is offered to. It is not locked: bookings are locked before entries, everywhere."""
    row = await unit.one(SELECT, id=identifier)
    if row is None:
        raise not_found("waiting_entry", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    if row["status"] != "offered" or row["booking_id"] is None:
        raise Refusal("NO_OFFER", status=row["status"])
    # If-Match named the entry's version: it says nothing of the booking's.
    unit.if_match = None
    return row
