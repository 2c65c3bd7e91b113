"""What bookings keeps of branches and customers, from the events of those who own them."""

from __future__ import annotations

import sqlalchemy as sa
from foyer.access.v1 import access_pb2, access_pb2_grpc
from foyer.customers.v1 import customers_pb2, customers_pb2_grpc
from sqlalchemy.dialects.postgresql import insert

from chassis.access import Caller
from chassis.app import Context
from chassis.db import Prepared, prepare
from chassis.inbox import EventMeta, Subscriptions
from chassis.projections import Keep
from chassis.unit import Unit
from services.bookings import calendar
from services.bookings.models import branches, customers

on = Subscriptions()


def _keep(table: sa.Table) -> Prepared:
    """Store a thing unless a newer version of it is there."""
    statement = insert(table)
    columns = [column.name for column in table.c if column.name not in ("chain_id", "id")]
    changes = {name: statement.excluded[name] for name in columns}
    return prepare(
        statement.on_conflict_do_update(
            index_elements=[table.c.chain_id, table.c.id],
            set_=changes,
            where=table.c.version < statement.excluded.version,
        )
    )


KEEP_BRANCH = _keep(branches)
KEEP_CUSTOMER = _keep(customers)


async def keep_branch(branch: access_pb2.Branch, unit: Unit) -> None:
    """Store what bookings needs of a branch."""
    week = calendar.format_week(
        [(interval.weekday, interval.start_time, interval.end_time) for interval in branch.opening_hours]
    )
    await unit.run(
        KEEP_BRANCH,
        id=branch.id,
        name=branch.name,
        address=branch.address,
        time_zone=branch.time_zone,
        opening_hours=week or None,
        holidays=",".join(sorted(set(branch.holidays))),
        swapped_days=",".join(sorted(f"{day.day}:{day.follows}" for day in branch.swapped_days)),
        active=branch.active,
        version=branch.version,
    )


@on(access_pb2.BranchCreated)
async def branch_created(event: access_pb2.BranchCreated, _: EventMeta, unit: Unit) -> None:
    """A new branch."""
    await keep_branch(event.branch, unit)


@on(access_pb2.BranchUpdated)
async def branch_updated(event: access_pb2.BranchUpdated, _: EventMeta, unit: Unit) -> None:
    """A branch as it is now."""
    await keep_branch(event.branch, unit)


@on(customers_pb2.CustomerCreated)
async def customer_created(event: customers_pb2.CustomerCreated, _: EventMeta, unit: Unit) -> None:
    """A new customer."""
    await keep_customer(unit, event.customer_id, event.card.name, event.card.language, event.card.version)


@on(customers_pb2.CustomerUpdated)
async def customer_updated(event: customers_pb2.CustomerUpdated, _: EventMeta, unit: Unit) -> None:
    """A customer as they are now."""
    await keep_customer(unit, event.customer_id, event.card.name, event.card.language, event.card.version)


async def keep_customer(unit: Unit, identifier: str, name: str, language: str, version: int) -> None:
    """Store what bookings needs of a customer."""
    await unit.run(KEEP_CUSTOMER, id=identifier, name=name, language=language, version=version)


async def fetch_branch(context: Context, caller: Caller, identifier: str) -> Keep:
    """Read a branch from access; answers what stores it. Raises Refusal NOT_FOUND."""
    request = access_pb2.GetBranchRequest(id=identifier)
    branch = await context.clients.read("access", access_pb2_grpc.AccessStub, "GetBranch", request, caller=caller)

    async def keep(unit: Unit) -> None:
        await keep_branch(branch, unit)

    return keep


async def fetch_customer(context: Context, caller: Caller, identifier: str) -> Keep:
    """Read a customer from customers; answers what stores it. Raises Refusal NOT_FOUND."""
    request = customers_pb2.GetCustomerRequest(id=identifier)
    customer = await context.clients.read(
        "customers", customers_pb2_grpc.CustomersStub, "GetCustomer", request, caller=caller
    )

    async def keep(unit: Unit) -> None:
        await keep_customer(unit, customer.id, customer.name, customer.language, customer.version)

    return keep
