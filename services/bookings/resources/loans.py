"""Units that are lent without a booking, through the one way to time; and those that do not come back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import resources_pb2 as pb

from chassis.app import Context
from chassis.db import Prepared, prepare, prepared_once, time_type, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import projector
from chassis.unit import Absent, Unit, system_caller
from services.bookings import allocator, calendar, one_by_one
from services.bookings import domain as core
from services.bookings.allocator import Taken
from services.bookings.common import check_branch_known, refuse_if
from services.bookings.models import customers, resources
from services.bookings.resources import domain, units, use
from services.bookings.resources.listing import after_moment, filters_of, scoped
from services.bookings.resources.models import loans
from services.bookings.rows import READ, WRITE, moment_of

MOST_DAYS = 92
WATCH_SECONDS = 60.0
# What is overdue stays taken for the next hour, and is looked at again before that is over; soon, where somebody else
# has some of that hour.
KEPT_STEPS = 12
LOOKED_AT_BEFORE = timedelta(minutes=15)
LOOKED_AT_AFTER = timedelta(minutes=5)
NEXT_CONFLICTS = timedelta(hours=24)
MOST_CHAINS = 100
MOST_LOANS_AT_ONCE = 200
FILTERS = ("branch_id", "resource_id", "customer_id")

_one = sa.and_(loans.c.chain_id == sa.bindparam("chain_id"), loans.c.id == sa.bindparam("id"))
INSERT = prepare(sa.insert(loans).returning(loans))
SELECT = prepare(sa.select(loans).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(loans).where(_one).with_for_update())
RETURN = prepare(
    sa.update(loans)
    .where(_one)
    .values(returned_at=sa.bindparam("now", type_=time_type()), version=loans.c.version + 1)
    .returning(loans)
)
WATCHED = prepare(
    sa.update(loans)
    .where(_one)
    .values(
        overdue_told_at=sa.func.coalesce(loans.c.overdue_told_at, sa.bindparam("now", type_=time_type())),
        watched_at=sa.bindparam("next", type_=time_type()),
    )
)
KNOWN_CUSTOMER = prepare(
    sa.select(customers.c.id).where(
        customers.c.chain_id == sa.bindparam("chain_id"), customers.c.id == sa.bindparam("id")
    )
)
KNOWN_RESOURCE = prepare(
    sa.select(resources.c.id).where(
        resources.c.chain_id == sa.bindparam("chain_id"), resources.c.id == sa.bindparam("id")
    )
)
_watched = sa.and_(loans.c.returned_at.is_(None), loans.c.watched_at <= sa.bindparam("now", type_=time_type()))
CHAINS_TO_WATCH = prepare(sa.select(loans.c.chain_id).where(_watched).distinct().limit(MOST_CHAINS))
TO_WATCH = prepare(
    sa.select(loans)
    .where(loans.c.chain_id == sa.bindparam("chain_id"), _watched)
    .order_by(loans.c.watched_at, loans.c.id)
    .limit(MOST_LOANS_AT_ONCE)
    .with_for_update()
)

_project = projector(pb.Loan)


def to_loan(row: Mapping[str, Any] | asyncpg.Record, now: datetime) -> pb.Loan:
    """A row as a message, with the state as it is at `now`."""
    loan = _project(row)  # type: ignore[arg-type]
    status = domain.loan_status(row["starts_at"], row["ends_at"], row["returned_at"], now)
    loan.status = pb.LoanStatus.Value(f"LOAN_STATUS_{status.upper()}")
    return loan


# --- lending and returning ---


async def create(request: pb.CreateLoanRequest, unit: Unit) -> pb.Loan:
    """Lend a unit. Raises Refusal RESOURCE_TAKEN, RESOURCE_OUT_OF_SERVICE, NOT_FOUND."""
    resource = await units.read(unit, request.resource_id, WRITE, "resource_id")
    customer_id = request.customer_id.lower() if request.HasField("customer_id") else None
    if customer_id is not None and not await unit.value(KNOWN_CUSTOMER, id=customer_id):
        raise Absent("customer", customer_id, field="customer_id")
    starts_at, ends_at = _stretch(request, unit)
    taken = Taken(resource["id"], calendar.last_step(starts_at), calendar.first_step(ends_at))
    found = await use.read(unit, resource["branch_id"], lambda _: [resource["id"]], starts_at, ends_at)
    wanted = found.window.span(taken.first, taken.last)
    if wanted & ~found.usable(resource["id"]):
        raise Refusal("RESOURCE_OUT_OF_SERVICE")
    identifier = new_id()
    await use.expire_in_the_way(unit, found, taken)
    if await allocator.move(unit, identifier, [], [taken], None):
        raise Refusal("RESOURCE_TAKEN")
    row = await unit.one(
        INSERT,
        id=identifier,
        resource_id=resource["id"],
        branch_id=resource["branch_id"],
        customer_id=customer_id,
        starts_at=starts_at,
        ends_at=ends_at,
        note=request.note or None,
        returned_at=None,
        overdue_told_at=None,
        watched_at=ends_at,
        version=1,
        created_at=unit.now,
    )
    assert row is not None
    loan = to_loan(row, unit.now)
    unit.emit(pb.LoanCreated(loan_id=loan.id, loan=loan))
    return loan


def _stretch(request: pb.CreateLoanRequest, unit: Unit) -> tuple[datetime, datetime]:
    this_step = calendar.moment_of(calendar.last_step(unit.now))
    starts_at = moment_of(request.starts_at) if request.HasField("starts_at") else this_step
    ends_at = moment_of(request.ends_at)
    given = {"starts_at": starts_at, "ends_at": ends_at}
    errors = [core.off_step_error(name) for name, moment in given.items() if not calendar.is_on_step(moment)]
    if starts_at < this_step:
        errors.append(FieldError("starts_at", "past", "must not be in the past", "不应为过去的时间"))
    if starts_at > unit.now + use.HORIZON:
        message = f"must be at most {use.HORIZON.days} days from now"
        errors.append(FieldError("starts_at", "range", message, f"最多提前 {use.HORIZON.days} 天"))
    errors += domain.stretch_errors(starts_at, ends_at, MOST_DAYS)
    if not errors and ends_at <= unit.now:
        errors.append(FieldError("ends_at", "past", "must be in the future", "应为将来的时间"))
    refuse_if(errors)
    return starts_at, ends_at


async def give_back(request: pb.ReturnLoanRequest, unit: Unit) -> pb.Loan:
    """The unit is back: what is left of its time is free. Raises Refusal WRONG_STATE when it came back before."""
    row = await unit.one(SELECT_FOR_UPDATE, id=request.id)
    if row is None:
        raise not_found("loan", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    if row["returned_at"] is not None:
        raise Refusal("WRONG_STATE", status="returned")
    if row["starts_at"] >= unit.now:
        await allocator.release(unit, [row["id"]])
    else:
        await allocator.shorten(unit, row["id"], calendar.first_step(unit.now))
    changed = await unit.one(RETURN, id=row["id"], now=unit.now)
    assert changed is not None
    loan = to_loan(changed, unit.now)
    unit.emit(pb.LoanReturned(loan_id=loan.id, loan=loan))
    return loan


# --- reading ---


async def get(request: pb.GetLoanRequest, unit: Unit) -> pb.Loan:
    """Read a loan. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("loan", "id")
    unit.check_branch(row["branch_id"], READ)
    return to_loan(row, unit.now)


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    query = sa.select(loans).where(loans.c.chain_id == sa.bindparam("chain_id"))
    for name in FILTERS:
        if name in filters:
            query = query.where(loans.c[name] == sa.bindparam(name))
    if "allowed" in filters:
        query = query.where(loans.c.branch_id == sa.any_(sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))))
    if "overdue" in filters:
        late = sa.and_(loans.c.returned_at.is_(None), loans.c.ends_at <= sa.bindparam("now", type_=time_type()))
        query = query.where(late == sa.bindparam("overdue", type_=sa.Boolean()))
    if "returned" in filters:
        query = query.where(loans.c.returned_at.is_not(None) == sa.bindparam("returned", type_=sa.Boolean()))
    if "after_id" in filters:
        key = sa.tuple_(sa.bindparam("after_ends_at", type_=time_type()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(loans.c.ends_at, loans.c.id) > key)
    return prepare(query.order_by(loans.c.ends_at, loans.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


async def find(request: pb.ListLoansRequest, unit: Unit) -> pb.ListLoansResponse:
    """A page of loans, by when they are due."""
    limit = page_limit(request.page_size)
    after = after_moment(request.page_token)
    filters = scoped(unit, filters_of(request, *FILTERS, "overdue", "returned"), READ)
    parameters = dict(filters)
    if "overdue" in filters:
        parameters["now"] = unit.now
    if after is not None:
        parameters["after_ends_at"], parameters["after_id"] = after
    rows = await unit.all(_list(frozenset(parameters)), **parameters, limit=limit + 1)
    if not rows:
        await _check_known(unit, filters)
    page, token = split_page(rows, limit, lambda row: (row["ends_at"], row["id"]))
    return pb.ListLoansResponse(loans=[to_loan(row, unit.now) for row in page], next_page_token=token)


async def _check_known(unit: Unit, filters: Mapping[str, Any]) -> None:
    """Raise Absent or Refusal NOT_FOUND for the first id of a filter that does not exist."""
    if "branch_id" in filters:
        await check_branch_known(unit, filters["branch_id"].lower())
    if "resource_id" in filters and not await unit.value(KNOWN_RESOURCE, id=filters["resource_id"]):
        raise not_found("resource", "resource_id")
    if "customer_id" in filters and not await unit.value(KNOWN_CUSTOMER, id=filters["customer_id"]):
        raise Absent("customer", filters["customer_id"].lower(), field="customer_id")


# --- what does not come back ---


async def watch(context: Context) -> None:
    """Tell once of loans that should be back, and keep their units taken while they are not."""
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        chains = [row["chain_id"] for row in await unit.all(CHAINS_TO_WATCH, now=unit.now)]
    for chain_id in chains:
        await one_by_one.each(context, "watch-loans", chain_id, [chain_id], _watch_chain)


async def _watch_chain(unit: Unit, _: str) -> None:
    for row in await unit.all(TO_WATCH, now=unit.now):
        await _watch(unit, row)


async def _watch(unit: Unit, row: asyncpg.Record) -> None:
    if row["overdue_told_at"] is None:
        ahead = await use.conflicts(unit, [row["resource_id"]], unit.now, unit.now + NEXT_CONFLICTS, but=row["id"])
        unit.emit(pb.LoanOverdue(loan_id=row["id"], loan=to_loan(row, unit.now), conflicts=ahead))
    kept_until = calendar.moment_of(await _keep(unit, row))
    next_look = max(kept_until - LOOKED_AT_BEFORE, unit.now + LOOKED_AT_AFTER)
    await unit.run(WATCHED, id=row["id"], now=unit.now, next=next_look)


async def _keep(unit: Unit, row: asyncpg.Record) -> int:
    """Take the next hour as well, as far as nobody else has it: nobody is to be given what is not there.

    Answers the step until which it is taken.
    """
    mine = await allocator.of_booking(unit, row["id"])
    first = max([calendar.last_step(unit.now), *(each.last for each in mine)])
    last = calendar.first_step(unit.now) + KEPT_STEPS
    if first >= last:
        return first
    resource_id = row["resource_id"]
    found = await use.read(
        unit, row["branch_id"], lambda _: [resource_id], calendar.moment_of(first), calendar.moment_of(last)
    )
    busy = found.busy.get(resource_id, 0) >> first - found.window.first_step
    free = (busy & -busy).bit_length() - 1 if busy else last - first
    more = Taken(resource_id, first, min(first + free, last))
    if not free:
        return first
    await use.expire_in_the_way(unit, found, more)
    return more.last if await allocator.lengthen(unit, row["id"], more) else first
