"""Leave: asked for, decided on, and what it means for bookings that are there already. Bookings never change by it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import people_pb2 as pb
from google.protobuf.message import Message

from chassis.codec import enum_names, to_json
from chassis.db import Prepared, prepare, prepared_once, time_type, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page, wrong_token
from chassis.rows import enum_name, projector
from chassis.unit import Unit
from services.bookings import calendar, domain, rows
from services.bookings import staff as people
from services.bookings.common import after_key, check_branch_known, check_scope, refuse_if
from services.bookings.models import branches, leaves, staff
from services.bookings.people import duties, takeover
from services.bookings.people.duties import Duty
from services.bookings.rows import moment_of
from services.bookings.staff import READ, WRITE

MOST_HITS = 200
MOST_PROPOSALS = 50
# A refusal travels in headers, which take some kilobytes.
MOST_HITS_IN_REFUSAL = 5
MOST_DAYS = 1100

STATUS_NAMES = enum_names(pb.LeaveStatus.DESCRIPTOR)
REQUESTED, APPROVED, REFUSED, CANCELLED = "requested", "approved", "refused", "cancelled"

_one = sa.and_(leaves.c.chain_id == sa.bindparam("chain_id"), leaves.c.id == sa.bindparam("id"))
_with_branches = sa.select(leaves, staff.c.branch_ids).join(
    staff, sa.and_(staff.c.chain_id == leaves.c.chain_id, staff.c.id == leaves.c.staff_id)
)
INSERT = prepare(sa.insert(leaves).returning(leaves))
SELECT = prepare(_with_branches.where(_one))
SELECT_FOR_UPDATE = prepare(_with_branches.where(_one).with_for_update(of=leaves))
DECIDE = prepare(
    sa.update(leaves)
    .where(_one)
    .values(
        status=sa.bindparam("new_status"),
        decided_by=sa.bindparam("by"),
        decided_at=sa.bindparam("now"),
        decision_reason=sa.bindparam("why"),
        version=leaves.c.version + 1,
    )
    .returning(leaves)
)
OVERLAPPING = prepare(
    sa.select(leaves)
    .where(
        leaves.c.chain_id == sa.bindparam("chain_id"),
        leaves.c.staff_id == sa.bindparam("staff_id"),
        leaves.c.ends_at > sa.bindparam("starts_at"),
        leaves.c.starts_at < sa.bindparam("ends_at"),
        sa.or_(leaves.c.status == REQUESTED, leaves.c.status == APPROVED),
    )
    .order_by(leaves.c.starts_at)
    .limit(1)
)
ZONES = prepare(
    sa.select(branches.c.time_zone).where(
        branches.c.chain_id == sa.bindparam("chain_id"),
        branches.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))),
    )
)


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    query = _with_branches.where(leaves.c.chain_id == sa.bindparam("chain_id"))
    if "staff_id" in filters:
        query = query.where(leaves.c.staff_id == sa.bindparam("staff_id"))
    if "branch_id" in filters:
        query = query.where(sa.bindparam("branch_id", type_=uuid_type()) == sa.any_(staff.c.branch_ids))
    if "allowed" in filters:
        query = query.where(staff.c.branch_ids.overlap(sa.bindparam("allowed", type_=staff.c.branch_ids.type)))
    if "status" in filters:
        query = query.where(leaves.c.status == sa.any_(sa.bindparam("status", type_=sa.ARRAY(sa.Text()))))
    if "from" in filters:
        query = query.where(leaves.c.ends_at > sa.bindparam("from", type_=time_type()))
    if "to" in filters:
        query = query.where(leaves.c.starts_at < sa.bindparam("to", type_=time_type()))
    if "after_starts_at" in filters:
        key = sa.tuple_(sa.bindparam("after_starts_at", type_=time_type()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(leaves.c.starts_at, leaves.c.id) > key)
    return prepare(query.order_by(leaves.c.starts_at, leaves.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


to_leave = projector(
    pb.Leave,
    from_date=lambda row: row["from_date"] and row["from_date"].isoformat(),
    until_date=lambda row: row["until_date"] and row["until_date"].isoformat(),
)


# --- asking ---


async def request_leave(request: pb.RequestLeaveRequest, unit: Unit) -> pb.Leave:
    """Ask for leave. Raises Refusal LEAVE_OVERLAPS, NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED."""
    staff_id = request.staff_id.lower() if request.HasField("staff_id") else unit.caller.staff_id
    if not staff_id:
        message = "is required: this account belongs to nobody who works"
        refuse_if([FieldError("staff_id", "required", message, "必填：此账号未关联员工")])
    person = await people.locked(unit, staff_id, "staff_id")
    if staff_id != unit.caller.staff_id:
        check_scope(unit, person["branch_ids"], WRITE)
    period = await _period(unit, request, person["branch_ids"])
    overlapping = await unit.one(
        OVERLAPPING, staff_id=person["id"], starts_at=period["starts_at"], ends_at=period["ends_at"]
    )
    if overlapping is not None:
        raise Refusal("LEAVE_OVERLAPS", members={"leave": to_json(_without_reasons(to_leave(overlapping)))})
    row = await unit.one(
        INSERT,
        id=new_id(),
        staff_id=person["id"],
        kind=enum_name(pb.RequestLeaveRequest, "kind", request.kind),
        status=REQUESTED,
        **period,
        reason=request.reason or None,
        requested_by=unit.caller.id,
        decided_by=None,
        decided_at=None,
        decision_reason=None,
        version=1,
        created_at=unit.now,
    )
    assert row is not None
    _tell(unit, row, pb.LeaveRequested)
    return await _with_hits(unit, row)


async def _period(unit: Unit, request: pb.RequestLeaveRequest, branch_ids: Sequence[str]) -> dict[str, Any]:
    """From when until when, and the whole days as they were said. Raises Refusal INVALID_REQUEST."""
    in_days = request.HasField("from_date")
    from_date: date | None = None
    until_date: date | None = None
    _check_said(request, in_days=in_days)
    if in_days:
        from_date = domain.parse_date("from_date", request.from_date)
        until_date = domain.parse_date("until_date", request.until_date) if request.until_date else from_date
        if until_date < from_date:
            refuse_if([FieldError("until_date", "order", "must not be before `from_date`", "应不早于 from_date")])
        names = {row["time_zone"] for row in await unit.all(ZONES, ids=list(branch_ids))} or {unit.caller.time_zone}
        zones = [calendar.zone_of(name) for name in names]
        # Of branches in several zones: the day wherever it is that day.
        starts_at = min(calendar.local_moment(from_date, 0, zone) for zone in zones)
        ends_at = max(calendar.local_moment(until_date, calendar.DAY_MINUTES, zone) for zone in zones)
    else:
        starts_at, ends_at = moment_of(request.starts_at), moment_of(request.ends_at)
    first, last = ("from_date", "until_date") if in_days else ("starts_at", "ends_at")
    errors = []
    if abs(starts_at - unit.now) > timedelta(days=MOST_DAYS):
        message = f"must be within {MOST_DAYS} days of now"
        errors.append(FieldError(first, "range", message, f"应在当前时间前后 {MOST_DAYS} 天内"))
    if ends_at - starts_at > timedelta(days=MOST_DAYS):
        errors.append(FieldError(last, "range", f"must be within {MOST_DAYS} days", f"最长 {MOST_DAYS} 天"))
    refuse_if(errors)
    return {"starts_at": starts_at, "ends_at": ends_at, "from_date": from_date, "until_date": until_date}


def _check_said(request: pb.RequestLeaveRequest, *, in_days: bool) -> None:
    """Refuse what is neither a stretch of time nor whole days."""
    moments = ("starts_at", "ends_at")
    errors = []
    if in_days or request.HasField("until_date"):
        if not in_days:
            errors.append(
                FieldError("from_date", "required", "is required with `until_date`", "填写 until_date 时必填")
            )
        errors += [
            FieldError(name, "conflict", "is not for leave of whole days", "整日请假时不应填写")
            for name in moments
            if request.HasField(name)  # type: ignore[arg-type]
        ]
    else:
        errors += [
            FieldError(name, "required", "is required, or `from_date` is", "必填，或填写 from_date")
            for name in moments
            if not request.HasField(name)  # type: ignore[arg-type]
        ]
        errors += [
            domain.off_step_error(name)
            for name in moments
            if request.HasField(name) and not calendar.is_on_step(moment_of(getattr(request, name)))  # type: ignore[arg-type]
        ]
        if not errors and moment_of(request.ends_at) <= moment_of(request.starts_at):
            errors.append(FieldError("ends_at", "order", "must be after `starts_at`", "应晚于 starts_at"))
    refuse_if(errors)


# --- reading ---


async def get(request: pb.GetLeaveRequest, unit: Unit) -> pb.Leave:
    """Read a leave. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("leave", "id")
    allowed = unit.allowed_branches(READ)
    if allowed is not None and not set(allowed) & set(row["branch_ids"]):
        raise Refusal("PERMISSION_DENIED", permission=READ)
    if not _may_know(unit, row):
        return _without_reasons(to_leave(row))
    return await _with_hits(unit, row)


async def find(request: pb.ListLeavesRequest, unit: Unit) -> pb.ListLeavesResponse:
    """A page of leave, by start. Raises Refusal NOT_FOUND, INVALID_REQUEST."""
    limit = page_limit(request.page_size)
    parameters = _parameters(request, unit)
    found = await unit.all(_list(frozenset(parameters)), **parameters, limit=limit + 1)
    if not found and request.HasField("staff_id"):
        await people.readable(unit, request.staff_id, "staff_id")
    if not found and request.HasField("branch_id"):
        await check_branch_known(unit, request.branch_id.lower())
    page, token = split_page(found, limit, lambda row: (row["starts_at"], row["id"]))
    listed = [to_leave(row) if _may_know(unit, row) else _without_reasons(to_leave(row)) for row in page]
    return pb.ListLeavesResponse(leaves=listed, next_page_token=token)


def _parameters(request: pb.ListLeavesRequest, unit: Unit) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        name: getattr(request, name) for name in ("staff_id", "branch_id") if request.HasField(name)
    }
    if request.status:
        parameters["status"] = [STATUS_NAMES.get(status, "") for status in request.status]
    if request.HasField("ends_after"):
        parameters["from"] = moment_of(request.ends_after)
    if request.HasField("starts_before"):
        parameters["to"] = moment_of(request.starts_before)
    if "from" in parameters and "to" in parameters and parameters["from"] >= parameters["to"]:
        refuse_if([FieldError("to", "order", "must be after `from`", "应晚于 from")])
    allowed = unit.allowed_branches(READ)
    if allowed is not None:
        parameters["allowed"] = allowed
    after = after_key(request.page_token)
    if after is not None:
        parameters["after_starts_at"], parameters["after_id"] = _moment_of_token(after[0]), after[1]
    return parameters


def _moment_of_token(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise wrong_token() from None
    if moment.tzinfo is None:
        raise wrong_token()
    return moment


def _may_know(unit: Unit, row: asyncpg.Record) -> bool:
    """Whether the caller is the person, or may decide on their leave."""
    if row["staff_id"] == unit.caller.staff_id:
        return True
    allowed = unit.allowed_branches(WRITE)
    return allowed is None or (bool(row["branch_ids"]) and set(row["branch_ids"]) <= set(allowed))


def _without_reasons(leave: pb.Leave) -> pb.Leave:
    """A leave as those see it who need not know why."""
    for name in ("kind", "reason", "decision_reason"):
        leave.ClearField(name)
    return leave


# --- deciding ---


async def _to_decide(unit: Unit, identifier: str, *statuses: str, by_themselves: bool = False) -> asyncpg.Record:
    """A leave in one of some states, locked; `by_themselves`: while it is requested, the person needs no permission."""
    row = await unit.one(SELECT_FOR_UPDATE, id=identifier)
    if row is None:
        raise not_found("leave", "id")
    is_own = row["staff_id"] == unit.caller.staff_id and row["status"] == REQUESTED
    if not (by_themselves and is_own):
        check_scope(unit, row["branch_ids"], WRITE)
    unit.check_version(row["version"])
    if row["status"] not in statuses:
        raise Refusal("WRONG_STATE", status=row["status"])
    return row


async def _decide(unit: Unit, row: asyncpg.Record, status: str, reason: str) -> asyncpg.Record:
    changed = await unit.one(
        DECIDE, id=row["id"], new_status=status, by=unit.caller.id, now=unit.now, why=reason or None
    )
    assert changed is not None
    return changed


async def approve(request: pb.ApproveLeaveRequest, unit: Unit) -> pb.Leave:
    """Approve a leave. Raises Refusal LEAVE_HITS_BOOKINGS, WRONG_STATE, NOT_FOUND, PRECONDITION_FAILED."""
    row = await _to_decide(unit, request.id, REQUESTED)
    found = await _duties(unit, row)
    if found and not request.accept_conflicts:
        shown = await _hits(unit, row, found[:MOST_HITS_IN_REFUSAL])
        raise Refusal("LEAVE_HITS_BOOKINGS", members={"hits": [to_json(hit) for hit in shown]}, count=len(found))
    hits = await _hits(unit, row, found)
    changed = await _decide(unit, row, APPROVED, request.reason)
    # Who was booking meanwhile is done now, and whoever comes later knows of the leave: nothing slips in between.
    known, found = {duty.id for duty in found}, await _duties(unit, row)
    late = [duty for duty in found if duty.id not in known]
    if late and not request.accept_conflicts:
        shown = await _hits(unit, row, found[:MOST_HITS_IN_REFUSAL])
        raise Refusal("LEAVE_HITS_BOOKINGS", members={"hits": [to_json(hit) for hit in shown]}, count=len(found))
    if late:
        hits = await _hits(unit, row, found)
    _tell(unit, changed, pb.LeaveApproved, booking_ids=[duty.id for duty in found if not duty.is_class])
    leave = to_leave(changed)
    leave.hits.extend(hits)
    return leave


async def refuse(request: pb.RefuseLeaveRequest, unit: Unit) -> pb.Leave:
    """Refuse a leave. Raises Refusal WRONG_STATE, NOT_FOUND, PRECONDITION_FAILED."""
    row = await _to_decide(unit, request.id, REQUESTED)
    changed = await _decide(unit, row, REFUSED, request.reason)
    _tell(unit, changed, pb.LeaveRefused)
    return to_leave(changed)


async def cancel(request: pb.CancelLeaveRequest, unit: Unit) -> pb.Leave:
    """Cancel a leave. Raises Refusal WRONG_STATE, NOT_FOUND, PRECONDITION_FAILED."""
    row = await _to_decide(unit, request.id, REQUESTED, APPROVED, by_themselves=True)
    changed = await _decide(unit, row, CANCELLED, request.reason)
    _tell(unit, changed, pb.LeaveCancelled, was_approved=row["status"] == APPROVED)
    return to_leave(changed)


def _tell(unit: Unit, row: asyncpg.Record, event: type[Message], **details: Any) -> None:
    """When somebody is away, not why."""
    time = pb.LeaveTime(
        staff_id=row["staff_id"],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        status=to_leave(row).status,
        version=row["version"],
    )
    unit.emit(event(leave_id=row["id"], leave=time, **details))


# --- what it means for bookings ---


async def _duties(unit: Unit, row: asyncpg.Record) -> list[Duty]:
    return await duties.read(unit, row["staff_id"], row["starts_at"], row["ends_at"], MOST_HITS)


async def _with_hits(unit: Unit, row: asyncpg.Record) -> pb.Leave:
    leave = to_leave(row)
    if row["status"] in (REQUESTED, APPROVED):
        leave.hits.extend(await _hits(unit, row, await _duties(unit, row)))
    return leave


async def _hits(unit: Unit, row: asyncpg.Record, found: Sequence[Duty]) -> list[pb.LeaveHit]:
    """Bookings with what could be done about each; proposals for the first of them only."""
    hits = []
    for index, duty in enumerate(found):
        facts = {**duty.fields, "branch_id": duty.branch_id, "ends_at": duty.ends_at}
        hit = pb.LeaveHit(**facts)
        booking = await unit.one(rows.SELECT, id=duty.id) if index < MOST_PROPOSALS and not duty.is_class else None
        if booking is not None and booking["status"] in domain.STEPS["reassign"][0]:
            staff_ids, slots = await takeover.propose(
                unit, booking, row["staff_id"], (row["starts_at"], row["ends_at"])
            )
            hit.staff_ids.extend(staff_ids)
            hit.other_times.extend(slots)
        hits.append(hit)
    return hits
