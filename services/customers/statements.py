"""Statements of customers, compiled once. `chain_id` is given by the unit."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import any_, bindparam, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert

from chassis.db import Prepared, prepare, prepare_sql, prepared_once, uuid_type
from services.customers.models import branches, customers, staff

LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
"""Behind every id: where a list that begins with the newest begins."""

HIDDEN = ("chain_id", "search_text", "search_grams")
COLUMNS = [column for column in customers.columns if column.name not in HIDDEN]
FIXED = ("chain_id", "id", "customer_since", "version", "created_at")
CHANGEABLE = [column for column in customers.columns if column.name not in FIXED]

_CHAIN = customers.c.chain_id == bindparam("chain_id", type_=uuid_type())
_ONE = sa.and_(_CHAIN, customers.c.id == bindparam("id", type_=uuid_type()))

GET_CUSTOMER = prepare(select(*COLUMNS).where(_ONE))
LOCK_CUSTOMER = prepare(select(*COLUMNS).where(_ONE).with_for_update())
# Nothing is added, and nothing answered, when the external id is in use.
ADD_CUSTOMER = prepare(
    upsert(customers)
    .values({column.name: bindparam(column.name) for column in customers.columns if column.name != "version"})
    .on_conflict_do_nothing(index_elements=["chain_id", "external_id"])
    .returning(*COLUMNS)
)
CHANGE_CUSTOMER = prepare(
    update(customers)
    .where(_ONE)
    .values(
        {
            **{column.name: bindparam(f"new_{column.name}", type_=column.type) for column in CHANGEABLE},
            "version": customers.c.version + 1,
        }
    )
    .returning(*COLUMNS)
)


@prepared_once
def list_customers(*, at_home: bool, at_allowed: bool, by_external_id: bool) -> Prepared:
    """Customers before an id, newest first, with the filters that are given."""
    filters: list[sa.ColumnElement[bool]] = [customers.c.id < bindparam("before", type_=uuid_type())]
    if at_home:
        filters.append(customers.c.home_branch_id == bindparam("home_branch_id", type_=uuid_type()))
    if at_allowed:
        allowed = customers.c.home_branch_id == any_(bindparam("branch_ids", type_=ARRAY(uuid_type())))
        filters.append(or_(customers.c.home_branch_id.is_(None), allowed))
    if by_external_id:
        filters.append(customers.c.external_id == bindparam("external_id"))
    limit = bindparam("limit", type_=sa.Integer())
    return prepare(select(*COLUMNS).where(_CHAIN, *filters).order_by(customers.c.id.desc()).limit(limit))


# A function that works as the owner of the table (migrations/versions/0001): the index does not help the application.
SEARCH_CUSTOMERS = prepare_sql(
    f"select {', '.join(column.name for column in COLUMNS)}"  # noqa: S608 - names of columns
    " from search_customers($1, $2, $3, $4, $5, $6, $7, $8)",
    "words",
    "grams",
    "names_only",
    "branch_ids",
    "home_branch_id",
    "external_id",
    "before",
    "limit",
)

# Zone of the home branch and whether there is such a staff member, in one round trip.
REFERENCES = prepare(
    select(
        select(branches.c.time_zone)
        .where(
            branches.c.chain_id == bindparam("chain_id", type_=uuid_type()),
            branches.c.id == bindparam("home_branch_id", type_=uuid_type()),
        )
        .scalar_subquery()
        .label("time_zone"),
        select(sa.literal(1))
        .where(
            staff.c.chain_id == bindparam("chain_id", type_=uuid_type()),
            staff.c.id == bindparam("owner_staff_id", type_=uuid_type()),
        )
        .exists()
        .label("has_staff"),
    )
)


def _keep(table: sa.Table) -> Prepared:
    """Store what another service told of its thing, unless a newer version is there."""
    given = upsert(table).values({column.name: bindparam(column.name) for column in table.columns})
    new = {column.name: given.excluded[column.name] for column in table.columns if not column.primary_key}
    return prepare(
        given.on_conflict_do_update(
            index_elements=["chain_id", "id"], set_=new, where=table.c.version < given.excluded.version
        )
    )


KEEP_BRANCH = _keep(branches)
KEEP_STAFF = _keep(staff)
