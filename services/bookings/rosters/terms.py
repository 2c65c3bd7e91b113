"""What rosters have to keep to: contracts of people, and how many of them a branch needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import rosters_pb2 as pb
from sqlalchemy.dialects.postgresql import insert

from chassis.db import Prepared, prepare, uuid_type
from chassis.errors import FieldError
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import board as boards
from services.bookings import domain, staff
from services.bookings.common import check_branch_known, check_scope, lower, refuse_if
from services.bookings.models import branches
from services.bookings.rosters import demand, inputs, telling
from services.bookings.rosters.demand import Period
from services.bookings.rosters.models import roster_contracts, roster_demands, shift_templates
from services.bookings.rosters.problem import Contract
from services.bookings.rosters.store import check_own

READ, WRITE = "rosters.read", "rosters.write"
FIRST = Contract()
LIMITS = ("min_week_minutes", "max_week_minutes", "max_week_days", "min_rest_minutes", "max_consecutive_days")

to_contract = projector(pb.RosterContract)


def _upsert(table: sa.Table, key: sa.Column[str]) -> sa.sql.ClauseElement:
    statement = insert(table)
    names = [column.name for column in table.c if column.name not in ("chain_id", key.name, "version")]
    changes = {name: statement.excluded[name] for name in names} | {"version": table.c.version + 1}
    return statement.on_conflict_do_update(index_elements=[table.c.chain_id, key], set_=changes).returning(table)


SET_CONTRACT = prepare(_upsert(roster_contracts, roster_contracts.c.staff_id))
SET_DEMAND = prepare(_upsert(roster_demands, roster_demands.c.branch_id))
LOCK_BRANCH = prepare(
    sa.select(branches.c.id)
    .where(branches.c.chain_id == sa.bindparam("chain_id"), branches.c.id == sa.bindparam("branch_id"))
    .with_for_update()
)
KNOWN_TEMPLATES = prepare(
    sa.select(shift_templates.c.id).where(
        shift_templates.c.chain_id == sa.bindparam("chain_id"),
        shift_templates.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))),
    )
)


async def check_templates(unit: Unit, ids: Sequence[str], field: str) -> None:
    """Refuse shifts that the chain does not have; `field` with {} for the position in it."""
    if ids:
        known = {row["id"] for row in await unit.all(KNOWN_TEMPLATES, ids=list(ids))}
        refuse_if(
            [
                FieldError(field.format(index), "not_found", "there is no such shift", "没有该班次")
                for index, identifier in enumerate(ids)
                if identifier not in known
            ]
        )


async def _check_version(unit: Unit, statement: Prepared, **where: Any) -> None:
    """Refuse PRECONDITION_FAILED when If-Match names another version than the one there is; 0 where nothing was set."""
    rows = await unit.all(statement, **where)
    unit.check_version(rows[0]["version"] if rows else 0)


# --- contracts ---


async def set_contract(request: pb.SetRosterContractRequest, unit: Unit) -> pb.RosterContract:
    """Set a person's contract. Raises Refusal NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED, PRECONDITION_FAILED."""
    person = await staff.locked(unit, request.staff_id, "staff_id")
    check_scope(unit, person["branch_ids"], WRITE)
    await _check_version(unit, inputs.READ_CONTRACTS, ids=[person["id"]])
    values = {
        name: getattr(request, name) if request.HasField(name) else getattr(FIRST, name)  # type: ignore[arg-type]
        for name in LIMITS
    }
    if values["min_week_minutes"] > values["max_week_minutes"]:
        message = "must not be above max_week_minutes"
        refuse_if([FieldError("min_week_minutes", "order", message, "应不大于 max_week_minutes")])
    template_ids = lower(request.shift_template_ids)
    await check_templates(unit, template_ids, "shift_template_ids[{}]")
    row = await unit.one(SET_CONTRACT, staff_id=person["id"], **values, shift_template_ids=template_ids, version=1)
    assert row is not None
    return to_contract(row)


async def get_contract(request: pb.GetRosterContractRequest, unit: Unit) -> pb.RosterContract:
    """Read a person's contract. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    person = await staff.readable(unit, request.staff_id, "staff_id")
    check_own(unit, person["id"], person["branch_ids"])
    rows: list[asyncpg.Record] = await unit.all(inputs.READ_CONTRACTS, ids=[person["id"]])
    if rows:
        return to_contract(rows[0])
    return pb.RosterContract(staff_id=person["id"], **{name: getattr(FIRST, name) for name in LIMITS})


# --- what is needed ---


async def set_demand(request: pb.SetRosterDemandRequest, unit: Unit) -> pb.RosterDemand:
    """Set how many people a branch needs.

    Raises Refusal NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED, PRECONDITION_FAILED.
    """
    branch_id = request.branch_id.lower()
    await check_branch_known(unit, branch_id)
    unit.check_branch(branch_id, WRITE)
    await unit.one(LOCK_BRANCH, branch_id=branch_id)
    await _check_version(unit, inputs.READ_DEMAND, branch_id=branch_id)
    refuse_if([error for index, rule in enumerate(request.rules) for error in _rule_errors(index, rule)])
    stored = pb.RosterDemand(rules=request.rules).SerializeToString()
    row = await unit.one(SET_DEMAND, branch_id=branch_id, demand=stored, version=1)
    assert row is not None
    return pb.RosterDemand(branch_id=branch_id, rules=request.rules, version=row["version"])


def _rule_errors(index: int, rule: pb.DemandRule) -> list[FieldError]:
    path = f"rules[{index}]"
    if rule.HasField("from_date") != rule.HasField("until_date"):
        missing = "until_date" if rule.HasField("from_date") else "from_date"
        return [FieldError(f"{path}.{missing}", "required", "is required with the other date", "两个日期须同时填写")]
    if not rule.HasField("from_date"):
        return []
    first = domain.parse_date(f"{path}.from_date", rule.from_date)
    last = domain.parse_date(f"{path}.until_date", rule.until_date)
    if last < first:
        return [FieldError(f"{path}.until_date", "order", "must not be before from_date", "应不早于 from_date")]
    return []


async def get_demand(request: pb.GetRosterDemandRequest, unit: Unit) -> pb.RosterDemand:
    """Read how many people a branch needs. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    branch_id = request.branch_id.lower()
    await check_branch_known(unit, branch_id)
    unit.check_branch(branch_id, READ)
    row = await unit.one(inputs.READ_DEMAND, branch_id=branch_id)
    if row is None:
        return pb.RosterDemand(branch_id=branch_id)
    rules = pb.RosterDemand.FromString(row["demand"]).rules
    return pb.RosterDemand(branch_id=branch_id, rules=rules, version=row["version"])


async def forecast(request: pb.ForecastRosterDemandRequest, unit: Unit) -> pb.RosterForecast:
    """What the bookings of the last weeks let expect. Raises Refusal NOT_FOUND, INVALID_REQUEST, PERMISSION_DENIED."""
    branch_id = request.branch_id.lower()
    await check_branch_known(unit, branch_id)
    unit.check_branch(branch_id, READ)
    from_date = domain.parse_date("from_date", request.from_date)
    board = await boards.of_branch(unit, branch_id)
    period = Period.of(board, from_date, request.weeks, request.slot_minutes or demand.SLOT_MINUTES)
    needs, bookings = await demand.history(
        unit,
        board,
        period,
        request.history_weeks or demand.HISTORY_WEEKS,
        request.productivity_percent or demand.PRODUCTIVITY_PERCENT,
    )
    return pb.RosterForecast(
        branch_id=branch_id,
        bookings=bookings,
        slots=[telling.demand_slot(slot) for slot in demand.slots(needs, period)],
    )
