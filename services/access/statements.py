"""Statements of access, compiled once. `chain_id` is given by the unit; those of the system role name no chain."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import any_, bindparam, func, insert, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert

from chassis.db import Prepared, prepare, prepare_sql, time_type, uuid_type
from services.access.models import (
    accounts,
    api_key_secrets,
    api_keys,
    branches,
    chains,
    departments,
    roles,
    sign_in_failures,
    staff,
)

MOST_OWN_ROLES = 200
NOBODYS_CHAIN = "00000000-0000-0000-0000-000000000000"
FIRST = ("", NOBODYS_CHAIN)
"""Where a list by name begins."""


def _columns(table: sa.Table, *without: str) -> list[Any]:
    return [column for column in table.columns if column.name not in ("chain_id", *without)]


def _mine(table: sa.Table) -> sa.ColumnElement[bool]:
    return table.c.chain_id == bindparam("chain_id", type_=uuid_type())


def _one(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(_mine(table), table.c.id == bindparam("id", type_=uuid_type()))


def _after(table: sa.Table) -> sa.ColumnElement[bool]:
    """Behind the last row of the page before, by name and id."""
    return tuple_(table.c.name, table.c.id) > tuple_(
        bindparam("after_name", type_=sa.Text()), bindparam("after_id", type_=uuid_type())
    )


def _allowed(column: sa.Column[str]) -> sa.ColumnElement[bool]:
    """Within the branches that the caller's permission holds for; null: all."""
    allowed = bindparam("branch_ids", type_=ARRAY(uuid_type()))
    return or_(allowed.is_(None), column == any_(allowed))


def _limit() -> sa.BindParameter[int]:
    return bindparam("limit", type_=sa.Integer())


def _insert(table: sa.Table, *without: str) -> sa.Insert:
    names = [column.name for column in table.columns if column.name not in ("version", *without)]
    return insert(table).values({name: bindparam(name) for name in names})


def _update(table: sa.Table, where: sa.ColumnElement[bool], *names: str, returning: list[Any]) -> Prepared:
    values = {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in names}
    versioned = {"version": table.c.version + 1} if "version" in table.c else {}
    return prepare(update(table).where(where).values({**values, **versioned}).returning(*returning))


# --- chains -----------------------------------------------------------------------------------------------------------

CHAIN_COLUMNS = [chains.c.chain_id.label("id"), *_columns(chains)]
CHAIN = select(*CHAIN_COLUMNS).where(_mine(chains))
GET_CHAIN = prepare(CHAIN)
LOCK_CHAIN = prepare(CHAIN.with_for_update())
ADD_CHAIN = prepare(_insert(chains).returning(*CHAIN_COLUMNS))
CHANGE_CHAIN = _update(chains, _mine(chains), "name", "time_zone", "language", returning=CHAIN_COLUMNS)

# --- branches and departments -----------------------------------------------------------------------------------------

GET_BRANCH = prepare(select(*_columns(branches)).where(_one(branches)))
LOCK_BRANCH = prepare(select(*_columns(branches)).where(_one(branches)).with_for_update())
ADD_BRANCH = prepare(_insert(branches).returning(*_columns(branches)))
CHANGE_BRANCH = _update(
    branches,
    _one(branches),
    "name",
    "address",
    "phone",
    "time_zone",
    "opening_hours",
    "holidays",
    "swapped_days",
    "active",
    returning=_columns(branches),
)
LIST_BRANCHES = prepare(
    select(*_columns(branches))
    .where(_mine(branches), _allowed(branches.c.id), _after(branches))
    .order_by(branches.c.name, branches.c.id)
    .limit(_limit())
)
KNOWN_BRANCHES = prepare(
    select(branches.c.id).where(_mine(branches), branches.c.id == any_(bindparam("ids", type_=ARRAY(uuid_type()))))
)

LOCK_DEPARTMENT = prepare(select(*_columns(departments)).where(_one(departments)).with_for_update())
ADD_DEPARTMENT = prepare(_insert(departments).returning(*_columns(departments)))
CHANGE_DEPARTMENT = _update(departments, _one(departments), "name", returning=_columns(departments))
LIST_DEPARTMENTS = prepare(
    select(*_columns(departments))
    .where(
        _mine(departments),
        or_(departments.c.branch_id.is_(None), _allowed(departments.c.branch_id)),
        _after(departments),
    )
    .order_by(departments.c.name, departments.c.id)
    .limit(_limit())
)

# --- accounts and roles -----------------------------------------------------------------------------------------------

ACCOUNT_COLUMNS = _columns(accounts, "email_key", "password_hash")
GET_ACCOUNT = prepare(select(*ACCOUNT_COLUMNS).where(_one(accounts)))
LOCK_ACCOUNT = prepare(select(*ACCOUNT_COLUMNS).where(_one(accounts)).with_for_update())
# The e-mail may be taken in another chain, whose row cannot be seen: nothing is added then, and nothing answered.
ADD_ACCOUNT = prepare(
    upsert(accounts)
    .values(
        {column.name: bindparam(column.name) for column in accounts.columns if column.name not in ("version", "active")}
    )
    .on_conflict_do_nothing(index_elements=["email_key"])
    .returning(*ACCOUNT_COLUMNS)
)
CHANGE_ACCOUNT = _update(
    accounts, _one(accounts), "name", "staff_id", "language", "roles", "active", returning=ACCOUNT_COLUMNS
)
CHANGE_PASSWORD = _update(accounts, _one(accounts), "password_hash", returning=ACCOUNT_COLUMNS)
RENEW_PASSWORD_HASH = prepare(
    update(accounts)
    .where(_one(accounts), accounts.c.password_hash == bindparam("old_hash"))
    .values(password_hash=bindparam("new_hash"))
)
_AT_ALLOWED = (
    select(sa.literal(1))
    .select_from(func.jsonb_array_elements(accounts.c.roles).alias("held"))
    .where(
        sa.cast(sa.literal_column("held").op("->>")("branch_id"), uuid_type())
        == any_(bindparam("branch_ids", type_=ARRAY(uuid_type())))
    )
    .exists()
)
LIST_ACCOUNTS = prepare(
    select(*ACCOUNT_COLUMNS)
    .where(
        _mine(accounts),
        or_(bindparam("branch_ids", type_=ARRAY(uuid_type())).is_(None), _AT_ALLOWED),
        _after(accounts),
    )
    .order_by(accounts.c.name, accounts.c.id)
    .limit(_limit())
)
COUNT_OTHER_OWNERS = prepare(
    select(func.count())
    .select_from(accounts)
    .where(
        _mine(accounts),
        accounts.c.id != bindparam("id", type_=uuid_type()),
        accounts.c.active,
        accounts.c.roles.contains(bindparam("owner", type_=accounts.c.roles.type)),
    )
)
SIGN_IN_ACCOUNT = prepare(select(*ACCOUNT_COLUMNS, accounts.c.password_hash).where(_one(accounts)))

OWN_ROLES = prepare(select(*_columns(roles)).where(_mine(roles)).order_by(roles.c.name).limit(MOST_OWN_ROLES))
LOCK_ROLE = prepare(select(*_columns(roles)).where(_mine(roles), roles.c.name == bindparam("name")).with_for_update())
ADD_ROLE = prepare(
    upsert(roles)
    .values({column.name: bindparam(column.name) for column in roles.columns if column.name != "version"})
    .on_conflict_do_nothing(index_elements=["chain_id", "name"])
    .returning(*_columns(roles))
)
CHANGE_ROLE = _update(
    roles,
    sa.and_(_mine(roles), roles.c.name == bindparam("role_name", type_=sa.Text())),
    "title",
    "permissions",
    returning=_columns(roles),
)

KEEP_STAFF = prepare(
    upsert(staff)
    .values({column.name: bindparam(column.name) for column in staff.columns})
    .on_conflict_do_update(
        index_elements=["chain_id", "id"],
        set_={"version": bindparam("version", type_=sa.BigInteger())},
        where=staff.c.version < bindparam("version", type_=sa.BigInteger()),
    )
)
HAS_STAFF = prepare(select(sa.literal(1)).where(_one(staff)))

# --- API keys ---------------------------------------------------------------------------------------------------------

GET_API_KEY = prepare(select(*_columns(api_keys)).where(_one(api_keys)))
LOCK_API_KEY = prepare(select(*_columns(api_keys)).where(_one(api_keys)).with_for_update())
ADD_API_KEY = prepare(_insert(api_keys, "revoked_at").returning(*_columns(api_keys)))
LIST_API_KEYS = prepare(
    select(*_columns(api_keys))
    .where(_mine(api_keys), api_keys.c.id < bindparam("before", type_=uuid_type()))
    .order_by(api_keys.c.id.desc())
    .limit(_limit())
)
REVOKE_API_KEY = prepare(
    update(api_keys)
    .where(_one(api_keys))
    .values(revoked_at=func.coalesce(api_keys.c.revoked_at, bindparam("now", type_=time_type())))
    .returning(*_columns(api_keys))
)
ADD_SECRET = prepare(_insert(api_key_secrets))
_OF_KEY = sa.and_(_mine(api_key_secrets), api_key_secrets.c.api_key_id == bindparam("id", type_=uuid_type()))
# On rotation: a secret that was to end anyway ends now, the one that holds gets an end.
END_OLD_SECRETS = prepare(sa.delete(api_key_secrets).where(_OF_KEY, api_key_secrets.c.expires_at.is_not(None)))
LIMIT_SECRET = prepare(update(api_key_secrets).where(_OF_KEY).values(expires_at=bindparam("until", type_=time_type())))

# --- across chains: the system role -----------------------------------------------------------------------------------

FIND_ACCOUNT = prepare(select(accounts.c.chain_id, accounts.c.id).where(accounts.c.email_key == bindparam("email_key")))
FIND_SECRET = prepare(
    select(
        api_key_secrets.c.chain_id, api_key_secrets.c.api_key_id, api_key_secrets.c.hash, api_key_secrets.c.expires_at
    ).where(api_key_secrets.c.prefix == bindparam("prefix"))
)
FAILURES = prepare(select(sign_in_failures.c.failed_at).where(sign_in_failures.c.email_hash == bindparam("email_hash")))
# The last ten are kept: Core has no slice of a sum of arrays.
KEEP_FAILURE = prepare_sql(
    """
    insert into sign_in_failures as kept (chain_id, email_hash, failed_at, last_at)
    values ($1::uuid, $2, array[$3::timestamptz], $3)
    on conflict (chain_id, email_hash) do update
      set failed_at = (kept.failed_at || excluded.failed_at)[greatest(1, cardinality(kept.failed_at) - 8):],
          last_at = excluded.last_at
    """,
    "nobody",
    "email_hash",
    "now",
)
FORGET_FAILURES = prepare(sa.delete(sign_in_failures).where(sign_in_failures.c.email_hash == bindparam("email_hash")))
FORGET_OLD_FAILURES = prepare(
    sa.delete(sign_in_failures).where(
        sign_in_failures.c.chain_id == bindparam("nobody", type_=uuid_type()),
        sign_in_failures.c.last_at < bindparam("before", type_=time_type()),
    )
)
