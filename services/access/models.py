"""Tables of access.

Two columns are unique on the whole platform, not in a chain: an account's e-mail and the public part of an API key.
They lead a caller who names no chain to theirs; the system role may read just these (migrations/versions/0001).
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import chain_column, id_column, json_type, time_type, uuid_type

metadata = sa.MetaData()


def _version() -> sa.Column[int]:
    return sa.Column("version", sa.BigInteger, nullable=False, server_default="1")


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", time_type(), nullable=False)


chains = sa.Table(
    "chains",
    metadata,
    chain_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("time_zone", sa.Text, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    _version(),
    _created_at(),
)

branches = sa.Table(
    "branches",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("address", sa.Text),
    sa.Column("phone", sa.Text),
    sa.Column("time_zone", sa.Text, nullable=False),
    # [{"weekday": 1, "start_time": "09:00", "end_time": "21:00"}]
    sa.Column("opening_hours", json_type(), nullable=False),
    sa.Column("holidays", ARRAY(sa.Text), nullable=False),
    # [{"day": "2026-10-10", "follows": 3}]
    sa.Column("swapped_days", json_type(), nullable=False, server_default="[]"),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    _version(),
    _created_at(),
)
sa.Index("branches_by_name", branches.c.chain_id, branches.c.name, branches.c.id)

departments = sa.Table(
    "departments",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("branch_id", uuid_type()),
    _version(),
    _created_at(),
    sa.ForeignKeyConstraint(["chain_id", "branch_id"], ["branches.chain_id", "branches.id"]),
)
sa.Index("departments_by_name", departments.c.chain_id, departments.c.name, departments.c.id)

accounts = sa.Table(
    "accounts",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("email", sa.Text, nullable=False),
    # The e-mail as it is compared: in small letters.
    sa.Column("email_key", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("staff_id", uuid_type()),
    sa.Column("language", sa.Text, nullable=False),
    # [{"role": "front_desk", "branch_id": null}]
    sa.Column("roles", json_type(), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    _version(),
    _created_at(),
)
sa.Index("accounts_email", accounts.c.email_key, unique=True)
sa.Index("accounts_by_name", accounts.c.chain_id, accounts.c.name, accounts.c.id)

roles = sa.Table(
    "roles",
    metadata,
    chain_column(),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("permissions", ARRAY(sa.Text), nullable=False),
    _version(),
    _created_at(),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("roles", json_type(), nullable=False),
    sa.Column("expires_at", time_type()),
    sa.Column("revoked_at", time_type()),
    _created_at(),
)

# Two rows of a key at most: the secret that holds, and the one before while both work.
api_key_secrets = sa.Table(
    "api_key_secrets",
    metadata,
    chain_column(),
    sa.Column("prefix", sa.Text, primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("api_key_id", uuid_type(), nullable=False),
    sa.Column("expires_at", time_type()),
    _created_at(),
    sa.ForeignKeyConstraint(["chain_id", "api_key_id"], ["api_keys.chain_id", "api_keys.id"]),
)
sa.Index("api_key_secrets_prefix", api_key_secrets.c.prefix, unique=True)
sa.Index("api_key_secrets_of_key", api_key_secrets.c.chain_id, api_key_secrets.c.api_key_id)

# Sign-ins that failed, by a hash of the e-mail that was tried: whether it has an account does not matter, so a row
# belongs to no chain (its chain_id is all zeros).
sign_in_failures = sa.Table(
    "sign_in_failures",
    metadata,
    chain_column(),
    sa.Column("email_hash", sa.LargeBinary, primary_key=True),
    sa.Column("failed_at", ARRAY(time_type()), nullable=False),
    sa.Column("last_at", time_type(), nullable=False),
)
sa.Index("sign_in_failures_age", sign_in_failures.c.chain_id, sign_in_failures.c.last_at)

# What access keeps of the staff of bookings, to know that a staff_id exists.
staff = sa.Table(
    "staff",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("version", sa.BigInteger, nullable=False),
)
