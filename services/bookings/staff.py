"""The people who work: where, what they can do, and when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import catalogue_pb2

from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import calendar, domain
from services.bookings.catalogue import checked_terms
from services.bookings.common import (
    after_key,
    already_exists,
    check_branch_known,
    check_branches,
    check_scope,
    lower,
    refuse_if,
)
from services.bookings.models import branches, shifts, staff
from services.bookings.people import qualifications

READ, WRITE = "staff.read", "staff.write"
MOST_PERIODS = 1000

to_staff = projector(
    pb.Staff,
    qualifications=lambda row: catalogue_pb2.Qualifications.FromString(row["qualifications"] or b"").qualifications,
    terms=lambda row: catalogue_pb2.StaffTermsList.FromString(row["terms"] or b"").terms,
)


def pb_list(message: catalogue_pb2.Qualifications | catalogue_pb2.StaffTermsList) -> bytes | None:
    """A list as a column keeps it; None for an empty one."""
    return message.SerializeToString() or None


_one = sa.and_(staff.c.chain_id == sa.bindparam("chain_id"), staff.c.id == sa.bindparam("id"))
CHANGED = (
    "name",
    "code",
    "title",
    "branch_ids",
    "skills",
    "grade",
    "qualifications",
    "terms",
    "supplier",
    "active",
    "version",
)
INSERT = prepare(sa.insert(staff).returning(staff))
SELECT = prepare(sa.select(staff).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(staff).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(staff)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=staff.c[name].type) for name in CHANGED})
    .returning(staff)
)

_shifts_at_branch = sa.and_(
    shifts.c.chain_id == sa.bindparam("chain_id"),
    shifts.c.branch_id == sa.bindparam("branch_id"),
    shifts.c.staff_id == sa.bindparam("staff_id"),
)
ZONE = prepare(
    sa.select(branches.c.time_zone).where(
        branches.c.chain_id == sa.bindparam("chain_id"), branches.c.id == sa.bindparam("branch_id")
    )
)
DELETE_SHIFTS = prepare(sa.delete(shifts).where(_shifts_at_branch, shifts.c.from_date >= sa.bindparam("day")))
END_SHIFTS = prepare(
    sa.update(shifts)
    .where(
        _shifts_at_branch,
        sa.or_(shifts.c.until_date.is_(None), shifts.c.until_date >= sa.bindparam("day", type_=sa.Date())),
    )
    .values(until_date=sa.bindparam("last_day", type_=sa.Date()))
)
INSERT_SHIFTS = prepare(sa.insert(shifts))
SELECT_SHIFTS = prepare(
    sa.select(shifts)
    .where(shifts.c.chain_id == sa.bindparam("chain_id"), shifts.c.staff_id == sa.bindparam("staff_id"))
    .order_by(shifts.c.branch_id, shifts.c.from_date)
    .limit(MOST_PERIODS)
)


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    query = sa.select(staff).where(staff.c.chain_id == sa.bindparam("chain_id"))
    if "branch_id" in filters:
        query = query.where(sa.bindparam("branch_id", type_=uuid_type()) == sa.any_(staff.c.branch_ids))
    if "active" in filters:
        query = query.where(staff.c.active == sa.bindparam("active"))
    if "skill" in filters:
        query = query.where(sa.bindparam("skill", type_=sa.Text()) == sa.any_(staff.c.skills))
    if "external" in filters:
        query = query.where(staff.c.supplier.is_not(None) == sa.bindparam("external", type_=sa.Boolean()))
    if "allowed" in filters:
        query = query.where(staff.c.branch_ids.overlap(sa.bindparam("allowed", type_=staff.c.branch_ids.type)))
    if "after_name" in filters:
        key = sa.tuple_(sa.bindparam("after_name", type_=sa.Text()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(staff.c.name, staff.c.id) > key)
    return prepare(query.order_by(staff.c.name, staff.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


async def create(request: pb.CreateStaffRequest, unit: Unit) -> pb.Staff:
    """Take up a staff member."""
    branch_ids = lower(request.branch_ids)
    check_scope(unit, branch_ids, WRITE)
    await check_branches(unit, branch_ids, "branch_ids")
    refuse_if(qualifications.qualification_errors(request.qualifications, request.skills, "qualifications"))
    terms = await checked_terms(unit, request.terms, "terms")
    try:
        row = await unit.one(
            INSERT,
            id=new_id(),
            name=request.name,
            code=request.code if request.HasField("code") else None,
            title=request.title or None,
            branch_ids=branch_ids,
            skills=list(dict.fromkeys(request.skills)),
            grade=request.grade,
            qualifications=pb_list(catalogue_pb2.Qualifications(qualifications=request.qualifications)),
            terms=pb_list(terms),
            supplier=request.supplier or None,
            active=True,
            version=1,
            created_at=unit.now,
        )
    except asyncpg.UniqueViolationError:
        raise already_exists("staff") from None
    assert row is not None
    person = to_staff(row)
    await qualifications.remember(unit, person.id, person.qualifications)
    unit.emit(pb.StaffCreated(staff_id=person.id, staff=person))
    return person


async def find(request: pb.ListStaffRequest, unit: Unit) -> pb.ListStaffResponse:
    """A page of the staff, by name."""
    limit = page_limit(request.page_size)
    after = after_key(request.page_token)
    allowed = unit.allowed_branches(READ)
    filters = ("branch_id", "active", "skill", "external")
    parameters: dict[str, Any] = {
        name: getattr(request, name)
        for name in filters
        if request.HasField(name)  # type: ignore[arg-type]
    }
    if allowed is not None:
        parameters["allowed"] = allowed
    if after is not None:
        parameters["after_name"], parameters["after_id"] = after
    rows = await unit.all(_list(frozenset(parameters)), **parameters, limit=limit + 1)
    if not rows and request.HasField("branch_id"):
        await check_branch_known(unit, request.branch_id.lower())
    page, token = split_page(rows, limit, lambda row: (row["name"], row["id"]))
    return pb.ListStaffResponse(staff=[to_staff(row) for row in page], next_page_token=token)


async def get(request: pb.GetStaffRequest, unit: Unit) -> pb.Staff:
    """Read a staff member. Raises Refusal NOT_FOUND."""
    return to_staff(await readable(unit, request.id))


async def update(request: pb.UpdateStaffRequest, unit: Unit) -> pb.Staff:
    """Change a staff member. Raises Refusal NOT_FOUND."""
    row = await locked(unit, request.id)
    check_scope(unit, row["branch_ids"], WRITE)
    unit.check_version(row["version"])
    values = {name: row[name] for name in CHANGED}
    values["version"] = row["version"] + 1
    given = {field.name: value for field, value in request.ListFields()}
    values |= {name: given[name] for name in ("name", "active", "grade") if name in given}
    values |= {name: given[name] or None for name in ("code", "title", "supplier") if name in given}
    if "terms" in given:
        values["terms"] = pb_list(await checked_terms(unit, request.terms.terms, "terms.terms"))
    if request.HasField("branch_ids"):
        values["branch_ids"] = lower(request.branch_ids.ids)
        check_scope(unit, values["branch_ids"], WRITE)
        await check_branches(unit, values["branch_ids"], "branch_ids.ids")
    if request.HasField("skills"):
        values["skills"] = list(dict.fromkeys(request.skills.values))
    values["qualifications"] = pb_list(_qualifications(request, row, values["skills"]))
    try:
        changed = await unit.one(UPDATE, id=request.id, **{f"new_{name}": values[name] for name in CHANGED})
    except asyncpg.UniqueViolationError:
        raise already_exists("staff") from None
    assert changed is not None
    person = to_staff(changed)
    await qualifications.remember(unit, person.id, person.qualifications if person.active else [])
    unit.emit(pb.StaffUpdated(staff_id=person.id, staff=person))
    return person


def _qualifications(
    request: pb.UpdateStaffRequest, row: asyncpg.Record, skills: list[str]
) -> catalogue_pb2.Qualifications:
    """The qualifications after a change: those that are sent, else those of skills that the person still has."""
    if request.HasField("qualifications"):
        sent = request.qualifications.qualifications
        refuse_if(qualifications.qualification_errors(sent, skills, "qualifications.qualifications"))
        return request.qualifications
    stored = catalogue_pb2.Qualifications.FromString(row["qualifications"] or b"").qualifications
    return catalogue_pb2.Qualifications(qualifications=[each for each in stored if each.skill in skills])


async def set_shifts(request: pb.SetShiftsRequest, unit: Unit) -> pb.Shifts:
    """Set the weekly shifts of a person at a branch from a day on; what was planned from then on is replaced."""
    row = await locked(unit, request.id)
    branch_id = await place_of(unit, request.branch_id, row)
    check_works_at(row, branch_id)
    zone: str = await unit.value(ZONE, branch_id=branch_id)
    if request.HasField("from_date"):
        day = domain.parse_date("from_date", request.from_date)
    else:
        day = calendar.local_today(unit.now, zone)
    week = calendar.format_week(
        [(interval.weekday, interval.start_time, interval.end_time) for interval in request.intervals]
    )
    where = {"branch_id": branch_id, "staff_id": row["id"]}
    await unit.run(DELETE_SHIFTS, **where, day=day)
    await unit.run(END_SHIFTS, **where, day=day, last_day=day - timedelta(days=1))
    await unit.run(INSERT_SHIFTS, **where, from_date=day, until_date=None, week=week)
    return to_shifts({**where, "from_date": day, "until_date": None, "week": week})


async def get_shifts(request: pb.GetShiftsRequest, unit: Unit) -> pb.GetShiftsResponse:
    """All weekly shifts of a person, by branch and first day."""
    await readable(unit, request.id)
    rows = await unit.all(SELECT_SHIFTS, staff_id=request.id)
    return pb.GetShiftsResponse(shifts=[to_shifts(row) for row in rows])


def to_shifts(row: Any) -> pb.Shifts:
    """A period of weekly shifts as a message."""
    until = row["until_date"]
    return pb.Shifts(
        staff_id=row["staff_id"],
        branch_id=row["branch_id"],
        from_date=row["from_date"].isoformat(),
        until_date=None if until is None else until.isoformat(),
        intervals=[
            pb.ShiftInterval(weekday=weekday, start_time=start, end_time=end)  # type: ignore[arg-type]
            for weekday, start, end in calendar.split_week(row["week"])
        ],
    )


async def place_of(unit: Unit, named: str, row: asyncpg.Record) -> str:
    """The branch at which a person's time is to be changed: the one that is `named`, or the only one they work at.

    Raises Refusal INVALID_REQUEST without a branch, PERMISSION_DENIED, and Absent for an unknown branch.
    """
    branch_id = _branch_of(named, row["branch_ids"])
    unit.check_branch(branch_id, WRITE)
    await check_branch_known(unit, branch_id)
    return branch_id


def check_works_at(row: asyncpg.Record, branch_id: str) -> None:
    """Refuse INVALID_REQUEST when a person does not work at a branch."""
    if branch_id not in row["branch_ids"]:
        error = FieldError("branch_id", "elsewhere", "this person does not work at this branch", "该员工不在此门店")
        refuse_if([error])


def _branch_of(named: str, branch_ids: list[str]) -> str:
    if named:
        return named.lower()
    if len(branch_ids) == 1:
        return branch_ids[0]
    raise Refusal(
        "INVALID_REQUEST",
        errors=[
            FieldError(
                "branch_id",
                "required",
                "is required: this person does not work at exactly one branch",
                "必填：该员工不是只在一家门店工作",
            )
        ],
    )


async def locked(unit: Unit, identifier: str, field: str = "id") -> asyncpg.Record:
    """A person, locked: their time is changed by one at a time. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT_FOR_UPDATE, id=identifier)
    if row is None:
        raise not_found("staff", field)
    return row


async def readable(unit: Unit, identifier: str, field: str = "id") -> asyncpg.Record:
    """A person the caller may know of. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row = await unit.one(SELECT, id=identifier)
    if row is None:
        raise not_found("staff", field)
    allowed = unit.allowed_branches(READ)
    if allowed is not None and not set(allowed) & set(row["branch_ids"]):
        raise Refusal("PERMISSION_DENIED", permission=READ)
    return row
