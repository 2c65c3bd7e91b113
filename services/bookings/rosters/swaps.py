"""Two people swap shifts, or one gives a shift away: asked for, agreed to, approved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import rosters_pb2 as pb
from google.protobuf.message import Message

from chassis.codec import to_json
from chassis.db import Prepared, prepare, prepared_once, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import enum_name
from chassis.unit import Unit
from services.bookings import calendar, domain, staff
from services.bookings.common import after_id, check_branch_known, refuse_if
from services.bookings.models import dated_shifts
from services.bookings.rosters import inputs, publishing, rules, store, telling
from services.bookings.rosters.figures import covered
from services.bookings.rosters.inputs import Inputs
from services.bookings.rosters.models import roster_shifts
from services.bookings.rosters.models import shift_swaps as table
from services.bookings.rosters.problem import Shift
from services.bookings.rosters.rules import Violation

REQUESTED, ACCEPTED, APPROVED, DECLINED = "requested", "accepted", "approved", "declined"
REASONS: Mapping[str, tuple[str, str]] = {
    "not_published": ("the roster is not published", "该排班尚未发布"),
    "past": ("the day is past", "日期已过"),
    "no_shift": ("there is no such shift of this roster any more", "该排班中已没有此班次"),
    "not_planned": ("the colleague is not planned by this roster", "对方不在此排班的员工中"),
    "same_person": ("both are the same person", "双方为同一人"),
    "not_free": ("one of them works on the day they would get", "其中一方在换入的日期已有班次"),
}

_one = sa.and_(table.c.chain_id == sa.bindparam("chain_id"), table.c.id == sa.bindparam("id"))
CHANGED = ("status", "accepted_by", "accept_note", "decided_by", "decline_reason", "version")
INSERT = prepare(sa.insert(table).returning(table))
SELECT = prepare(sa.select(table).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(table).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(table)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in CHANGED})
    .returning(table)
)
_day_of_roster = sa.and_(
    dated_shifts.c.chain_id == sa.bindparam("chain_id"),
    dated_shifts.c.branch_id == sa.bindparam("branch_id"),
    dated_shifts.c.staff_id == sa.bindparam("staff_id"),
    dated_shifts.c.day == sa.bindparam("day"),
    dated_shifts.c.roster_id == sa.bindparam("roster_id"),
)
READ_DAY = prepare(sa.select(dated_shifts.c.week).where(_day_of_roster))
SET_DAY = prepare(sa.update(dated_shifts).where(_day_of_roster).values(week=sa.bindparam("new_week", type_=sa.Text())))
_shift_of_roster = sa.and_(
    roster_shifts.c.chain_id == sa.bindparam("chain_id"),
    roster_shifts.c.roster_id == sa.bindparam("roster_id"),
    roster_shifts.c.staff_id == sa.bindparam("staff_id"),
    roster_shifts.c.day == sa.bindparam("day"),
)
TAKE_SHIFT = prepare(sa.delete(roster_shifts).where(_shift_of_roster).returning(roster_shifts))
GIVE_SHIFT = prepare(sa.insert(roster_shifts))


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    query = sa.select(table).where(table.c.chain_id == sa.bindparam("chain_id"))
    if "branch_id" in filters:
        query = query.where(table.c.branch_id == sa.bindparam("branch_id"))
    if "status" in filters:
        query = query.where(table.c.status == sa.bindparam("status"))
    if "staff_id" in filters:
        person = sa.bindparam("staff_id", type_=uuid_type())
        query = query.where(sa.or_(table.c.staff_id == person, table.c.to_staff_id == person))
    if "allowed" in filters:
        allowed = table.c.branch_id == sa.any_(sa.bindparam("allowed", type_=sa.ARRAY(uuid_type())))
        own = sa.bindparam("own_id", type_=uuid_type())
        query = query.where(sa.or_(allowed, table.c.staff_id == own, table.c.to_staff_id == own))
    if "after_id" in filters:
        query = query.where(table.c.id < sa.bindparam("after_id", type_=uuid_type()))
    return prepare(query.order_by(table.c.id.desc()).limit(sa.bindparam("limit", type_=sa.Integer())))


def _check_part(unit: Unit, branch_id: str, *staff_ids: str) -> None:
    """Refuse PERMISSION_DENIED who neither is one of these people nor plans the branch."""
    if unit.caller.staff_id not in staff_ids and not store.plans(unit, branch_id):
        raise Refusal("PERMISSION_DENIED", permission=store.WRITE)


def not_possible(reason: str) -> Refusal:
    """The refusal of a swap that cannot be."""
    english, chinese = REASONS[reason]
    return Refusal("SWAP_NOT_POSSIBLE", reason=english, reason_zh=chinese)


# --- asking and answering ---


async def request(asked: pb.RequestShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
    """Ask for a swap. Raises Refusal SWAP_NOT_POSSIBLE, NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED."""
    roster = await unit.one(store.SELECT, id=asked.roster_id)
    if roster is None:
        raise not_found("roster", "roster_id")
    day = domain.parse_date("day", asked.day)
    to_day = domain.parse_date("to_day", asked.to_day) if asked.HasField("to_day") else None
    for field in ("staff_id", "to_staff_id"):
        await staff.readable(unit, getattr(asked, field), field)
    swap: dict[str, Any] = {
        "staff_id": asked.staff_id.lower(),
        "day": day,
        "to_staff_id": asked.to_staff_id.lower(),
        "to_day": to_day,
    }
    _check_part(unit, roster["branch_id"], swap["staff_id"])
    await _check_possible(unit, roster, swap)
    row = await unit.one(
        INSERT,
        id=new_id(),
        roster_id=roster["id"],
        branch_id=roster["branch_id"],
        **swap,
        status=REQUESTED,
        note=asked.note or None,
        accepted_by=None,
        accept_note=None,
        decided_by=None,
        decline_reason=None,
        version=1,
        created_at=unit.now,
    )
    assert row is not None
    return _told(unit, row, pb.ShiftSwapRequested)


def _told(unit: Unit, row: asyncpg.Record, event: type[Message]) -> pb.ShiftSwap:
    swap = telling.to_swap(row)
    told = telling.to_swap(row)
    # Whoever listens needs to know what changes, not why somebody cannot come.
    for name in ("note", "accept_note", "decline_reason"):
        told.ClearField(name)
    unit.emit(event(shift_swap_id=swap.id, shift_swap=told))
    return swap


async def _check_possible(unit: Unit, roster: asyncpg.Record, swap: Mapping[str, Any] | asyncpg.Record) -> None:
    """Refuse a swap of shifts that are not there, not to come, or not of this roster."""
    if roster["status"] != "published":
        raise not_possible("not_published")
    if swap["staff_id"] == swap["to_staff_id"]:
        raise not_possible("same_person")
    if swap["to_staff_id"] not in roster["staff_ids"]:
        raise not_possible("not_planned")
    zone: str = await unit.value(publishing.ZONE, branch_id=roster["branch_id"])
    days = [day for day in (swap["day"], swap["to_day"]) if day is not None]
    if min(days) < calendar.local_today(unit.now, zone):
        raise not_possible("past")
    if not await _week(unit, roster, swap["staff_id"], swap["day"]):
        raise not_possible("no_shift")
    if swap["to_day"] is not None and not await _week(unit, roster, swap["to_staff_id"], swap["to_day"]):
        raise not_possible("no_shift")
    if swap["to_day"] != swap["day"]:
        gets = [(swap["to_staff_id"], swap["day"])]
        if swap["to_day"] is not None:
            gets.append((swap["staff_id"], swap["to_day"]))
        for staff_id, day in gets:
            # Nothing but a day off of this roster is free: what was set by hand has its reason.
            if await _week(unit, roster, staff_id, day) != "":
                raise not_possible("not_free")


async def _week(unit: Unit, roster: asyncpg.Record, staff_id: str, day: date) -> str | None:
    """What somebody works on a day as the roster says; None when it says nothing any more."""
    where = {"branch_id": roster["branch_id"], "staff_id": staff_id, "day": day, "roster_id": roster["id"]}
    week: str | None = await unit.value(READ_DAY, **where)
    return week


async def _locked(unit: Unit, identifier: str, *statuses: str) -> asyncpg.Record:
    row = await unit.one(SELECT_FOR_UPDATE, id=identifier)
    if row is None:
        raise not_found("shift_swap", "id")
    _check_part(unit, row["branch_id"], row["staff_id"], row["to_staff_id"])
    unit.check_version(row["version"])
    if row["status"] not in statuses:
        raise Refusal("WRONG_STATE", status=row["status"])
    return row


async def _write(unit: Unit, row: asyncpg.Record, **changes: Any) -> asyncpg.Record:
    values = {name: row[name] for name in CHANGED} | changes | {"version": row["version"] + 1}
    changed = await unit.one(UPDATE, id=row["id"], **{f"new_{name}": values[name] for name in CHANGED})
    assert changed is not None
    return changed


async def accept(asked: pb.AcceptShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
    """The colleague agrees. Raises Refusal WRONG_STATE, NOT_FOUND, PERMISSION_DENIED, INVALID_REQUEST."""
    row = await _locked(unit, asked.id, REQUESTED)
    if unit.caller.staff_id != row["to_staff_id"]:
        # Who asked cannot agree for the other one.
        _check_part(unit, row["branch_id"], row["to_staff_id"])
        if not asked.HasField("note"):
            message = "is required: say how it is known that they agreed"
            refuse_if([FieldError("note", "required", message, "必填：请说明如何得知对方已同意")])
    changed = await _write(unit, row, status=ACCEPTED, accepted_by=unit.caller.name, accept_note=asked.note or None)
    return _told(unit, changed, pb.ShiftSwapAccepted)


async def decline(asked: pb.DeclineShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
    """Somebody who takes part says no. Raises Refusal WRONG_STATE, NOT_FOUND, PERMISSION_DENIED."""
    row = await _locked(unit, asked.id, REQUESTED, ACCEPTED)
    changed = await _write(unit, row, status=DECLINED, decided_by=unit.caller.name, decline_reason=asked.reason or None)
    return _told(unit, changed, pb.ShiftSwapDeclined)


async def get(asked: pb.GetShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
    """Read a swap. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row = await unit.one(SELECT, id=asked.id)
    if row is None:
        raise not_found("shift_swap", "id")
    _check_part(unit, row["branch_id"], row["staff_id"], row["to_staff_id"])
    return telling.to_swap(row)


async def find(asked: pb.ListShiftSwapsRequest, unit: Unit) -> pb.ListShiftSwapsResponse:
    """A page of swaps, the latest first: all of them for those who plan, those they take part in for others."""
    limit = page_limit(asked.page_size)
    parameters: dict[str, Any] = {name: getattr(asked, name) for name in ("branch_id",) if asked.HasField(name)}
    if asked.HasField("status"):
        parameters["status"] = enum_name(pb.ShiftSwap, "status", asked.status)
    allowed = unit.allowed_branches(store.WRITE)
    if asked.HasField("staff_id"):
        person = await staff.readable(unit, asked.staff_id, "staff_id")
        parameters["staff_id"] = person["id"]
    if not unit.caller.may(store.WRITE):
        if not unit.caller.staff_id or parameters.get("staff_id", unit.caller.staff_id) != unit.caller.staff_id:
            return pb.ListShiftSwapsResponse()
        parameters["staff_id"] = unit.caller.staff_id
    elif allowed is not None:
        parameters |= {"allowed": allowed, "own_id": unit.caller.staff_id or None}
    after = after_id(asked.page_token)
    if after is not None:
        parameters["after_id"] = after
    rows = await unit.all(_list(frozenset(parameters)), **parameters, limit=limit + 1)
    if not rows and asked.HasField("branch_id"):
        await check_branch_known(unit, asked.branch_id.lower())
    page, token = split_page(rows, limit, lambda row: (row["id"],))
    return pb.ListShiftSwapsResponse(shift_swaps=[telling.to_swap(row) for row in page], next_page_token=token)


# --- approving ---


async def approve(asked: pb.ApproveShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
    """Swap. Raises Refusal SWAP_BREAKS_RULES, ROSTER_HITS_BOOKINGS, SWAP_NOT_POSSIBLE, WRONG_STATE, NOT_FOUND."""
    swap = await _locked(unit, asked.id, ACCEPTED)
    unit.check_branch(swap["branch_id"], store.WRITE)
    roster = await unit.one(store.SELECT_FOR_UPDATE, id=swap["roster_id"])
    assert roster is not None
    people = sorted({swap["staff_id"], swap["to_staff_id"]})
    await unit.all(store.LOCK_STAFF, ids=people)
    await _check_possible(unit, roster, swap)
    broken = await _broken(unit, roster, swap)
    if broken and not asked.accept_violations:
        told = [to_json(telling.to_violation(each, unit.caller.language)) for each in broken]
        raise Refusal("SWAP_BREAKS_RULES", members={"violations": told}, count=len(broken))
    known = {each["id"] for each in await publishing.hit(unit, roster, people)}
    await _move(unit, roster, swap)
    conflicts = [each for each in await publishing.hit(unit, roster, people) if each["id"] not in known]
    if conflicts and not asked.accept_conflicts:
        raise store.refuse_conflicts(conflicts)
    await store.write(
        unit,
        roster,
        check_at=unit.now + timedelta(seconds=publishing.LATE_SECONDS),
        accepted_ids=publishing.accepted(roster, conflicts),
    )
    changed = await _write(unit, swap, status=APPROVED, decided_by=unit.caller.name)
    return _told(unit, changed, pb.ShiftSwapApproved)


Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Move:
    """A shift that goes from one person to another."""

    day: date
    giver: str
    taker: str

    @property
    def number(self) -> int:
        """The day, since 1970."""
        return (self.day - calendar.EPOCH).days


def _moves(swap: asyncpg.Record) -> list[Move]:
    moves = [Move(swap["day"], swap["staff_id"], swap["to_staff_id"])]
    if swap["to_day"] is not None:
        moves.append(Move(swap["to_day"], swap["to_staff_id"], swap["staff_id"]))
    return moves


async def _broken(unit: Unit, roster: asyncpg.Record, swap: asyncpg.Record) -> list[Violation]:
    """Rules that a swap breaks and that were kept before, and skills that would be missing by it."""
    given = await inputs.read(unit, roster)
    before = telling.plan_of(given.board.time_zone, await unit.all(store.READ_SHIFTS, roster_id=roster["id"]))
    after = dict(before)
    for move in _moves(swap):
        after.pop((move.giver, move.number), None)
    for move in _moves(swap):
        after[move.taker, move.number] = before[move.giver, move.number]
    people = {swap["staff_id"], swap["to_staff_id"]}
    old = set(rules.violations(given.problem, before))
    # Bookings outside shifts are told by themselves.
    found = [
        each
        for each in rules.violations(given.problem, after)
        if each not in old and each.staff_id in people and each.rule != "booked"
    ]
    return found + _unskilled(given, before, after, swap)


def _unskilled(
    given: Inputs, before: dict[Key, Shift], after: dict[Key, Shift], swap: asyncpg.Record
) -> list[Violation]:
    """Days on which more would be missing than before, by who would stand in."""
    takers = {move.number: move.taker for move in _moves(swap)}
    missing: dict[int, int] = {}
    for old, new in zip(covered(given.problem, before), covered(given.problem, after), strict=True):
        if new.missing > old.missing:
            minutes = (new.slot.last - new.slot.first) * calendar.STEP_MINUTES
            missing[new.slot.day] = missing.get(new.slot.day, 0) + (new.missing - old.missing) * minutes
    return [
        Violation("skill", takers.get(day, swap["to_staff_id"]), day, day, minutes)
        for day, minutes in sorted(missing.items())
    ]


async def _move(unit: Unit, roster: asyncpg.Record, swap: asyncpg.Record) -> None:
    """Change both days at once, in what people work and in the roster."""
    where = {"branch_id": roster["branch_id"], "roster_id": roster["id"]}
    taken = []
    for move in _moves(swap):
        row = await unit.one(TAKE_SHIFT, roster_id=roster["id"], staff_id=move.giver, day=move.day)
        assert row is not None
        taken.append((move, row))
        await unit.run(SET_DAY, **where, staff_id=move.giver, day=move.day, new_week="")
    for move, row in taken:
        values = {name: row[name] for name in ("shift_template_id", "week", "minutes", "is_late", "reasons")}
        await unit.run(
            GIVE_SHIFT, roster_id=roster["id"], staff_id=move.taker, day=move.day, origin=telling.CHANGED, **values
        )
        await unit.run(SET_DAY, **where, staff_id=move.taker, day=move.day, new_week=row["week"])
