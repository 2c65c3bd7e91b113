"""The tables as migration 0001 made them; what became of them since is said by the migrations after it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BIT, ExcludeConstraint

from chassis.db import chain_column, id_column, time_type, uuid_type

metadata = sa.MetaData()

DAY_BITS = 288


def _version() -> sa.Column[int]:
    return sa.Column("version", sa.BigInteger, nullable=False)


def _created_at() -> sa.Column[Any]:
    return sa.Column("created_at", time_type(), nullable=False)


# --- what is kept of other services' things ---

branches = sa.Table(
    "branches",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("time_zone", sa.Text, nullable=False),
    # A week in the form of calendar.format_week; null: always open.
    sa.Column("opening_hours", sa.Text),
    # Days it is closed, as YYYY-MM-DD, sorted, with commas between.
    sa.Column("holidays", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    _version(),
)

customers = sa.Table(
    "customers",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    _version(),
)

# --- catalogue and people ---

services = sa.Table(
    "services",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("code", sa.Text),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_en", sa.Text),
    sa.Column("category", sa.Text),
    sa.Column("duration_minutes", sa.Integer, nullable=False),
    sa.Column("buffer_before_minutes", sa.Integer, nullable=False),
    sa.Column("buffer_after_minutes", sa.Integer, nullable=False),
    sa.Column("price_amount", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    # Prices that differ, side by side: the n-th price holds at the n-th branch.
    sa.Column("price_branch_ids", ARRAY(uuid_type()), nullable=False),
    sa.Column("price_branch_amounts", ARRAY(sa.BigInteger), nullable=False),
    sa.Column("required_skills", ARRAY(sa.Text), nullable=False),
    # Empty: every branch.
    sa.Column("branch_ids", ARRAY(uuid_type()), nullable=False),
    sa.Column("deposit_amount", sa.BigInteger),
    sa.Column("active", sa.Boolean, nullable=False),
    _version(),
    _created_at(),
)
sa.Index("services_code", services.c.chain_id, services.c.code, unique=True)
sa.Index("services_by_name", services.c.chain_id, services.c.name, services.c.id)

staff = sa.Table(
    "staff",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("title", sa.Text),
    sa.Column("branch_ids", ARRAY(uuid_type()), nullable=False),
    sa.Column("skills", ARRAY(sa.Text), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    _version(),
    _created_at(),
)
sa.Index("staff_code", staff.c.chain_id, staff.c.code, unique=True)
sa.Index("staff_by_name", staff.c.chain_id, staff.c.name, staff.c.id)

# The periods of a person at a branch never overlap; a period with an empty week says that they do not work there.
shifts = sa.Table(
    "shifts",
    metadata,
    chain_column(),
    sa.Column("branch_id", uuid_type(), primary_key=True),
    sa.Column("staff_id", uuid_type(), primary_key=True),
    sa.Column("from_date", sa.Date, primary_key=True),
    sa.Column("until_date", sa.Date),
    # In the form of calendar.format_week.
    sa.Column("week", sa.Text, nullable=False),
)
sa.Index("shifts_of_staff", shifts.c.chain_id, shifts.c.staff_id, shifts.c.branch_id, shifts.c.from_date)

# --- time ---

# Rows are updated in place again and again: room in the page keeps that cheap (HOT).
staff_days = sa.Table(
    "staff_days",
    metadata,
    chain_column(),
    sa.Column("staff_id", uuid_type(), primary_key=True),
    # A day in UTC.
    sa.Column("day", sa.Date, primary_key=True),
    # The last bit is 00:00 to 00:05.
    sa.Column("busy", BIT(DAY_BITS), nullable=False),
    postgresql_with={"fillfactor": "60"},
)

# The time a booking takes from a person, buffers included. Whoever needs the time of an expired one takes it.
allocations = sa.Table(
    "allocations",
    metadata,
    chain_column(),
    sa.Column("booking_id", uuid_type(), primary_key=True),
    sa.Column("staff_id", uuid_type(), nullable=False),
    sa.Column("starts_at", time_type(), nullable=False),
    sa.Column("ends_at", time_type(), nullable=False),
    # Null: not held only.
    sa.Column("expires_at", time_type()),
    sa.CheckConstraint("starts_at < ends_at", name="allocations_forward"),
)
allocations.append_constraint(
    ExcludeConstraint(
        (allocations.c.chain_id, "="),
        (allocations.c.staff_id, "="),
        (sa.func.tstzrange(allocations.c.starts_at, allocations.c.ends_at), "&&"),
        name="allocations_no_overlap",
        using="gist",
    )
)
sa.Index(
    "allocations_held",
    allocations.c.chain_id,
    allocations.c.expires_at,
    postgresql_where=allocations.c.expires_at.is_not(None),
)

bookings = sa.Table(
    "bookings",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("service_id", uuid_type(), nullable=False),
    sa.Column("customer_id", uuid_type(), nullable=False),
    sa.Column("staff_id", uuid_type(), nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("starts_at", time_type(), nullable=False),
    sa.Column("ends_at", time_type(), nullable=False),
    # What is sold is frozen here: later changes of the catalogue do not reach it.
    sa.Column("buffer_before_minutes", sa.Integer, nullable=False),
    sa.Column("buffer_after_minutes", sa.Integer, nullable=False),
    sa.Column("price_amount", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("service_name", sa.Text, nullable=False),
    sa.Column("time_zone", sa.Text, nullable=False),
    sa.Column("expires_at", time_type()),
    sa.Column("source", sa.Text),
    sa.Column("note", sa.Text),
    sa.Column("cancel_reason", sa.Text),
    sa.Column("cancelled_at", time_type()),
    sa.Column("external_id", sa.Text),
    _version(),
    _created_at(),
    postgresql_with={"fillfactor": "80"},
)
# A page of a list is read from the index of the filter that narrows it most.
sa.Index("bookings_by_start", bookings.c.chain_id, bookings.c.starts_at, bookings.c.id)
sa.Index("bookings_by_status", bookings.c.chain_id, bookings.c.status, bookings.c.starts_at, bookings.c.id)
sa.Index("bookings_of_branch", bookings.c.chain_id, bookings.c.branch_id, bookings.c.starts_at, bookings.c.id)
sa.Index("bookings_of_staff", bookings.c.chain_id, bookings.c.staff_id, bookings.c.starts_at, bookings.c.id)
sa.Index("bookings_of_customer", bookings.c.chain_id, bookings.c.customer_id, bookings.c.starts_at, bookings.c.id)
sa.Index(
    "bookings_external",
    bookings.c.chain_id,
    bookings.c.external_id,
    unique=True,
    postgresql_where=bookings.c.external_id.is_not(None),
)
