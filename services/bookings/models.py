"""Tables of bookings.

Time is guarded twice. `resource_days` holds the occupied time of a person, a room, a thing or a customer as one bit for
every five minutes of a UTC day: whoever sets the bits has the time, and availability reads nothing else. `allocations`
says whose the bits are, and its exclusion constraint is the proof that no two of them overlap.

What decides about a branch's time besides (services, people, shifts, resources, rules) is read as a whole and kept by
each process (board.py); `board_versions` says when that is out of date, and triggers of the tables count it up.
"""

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
    sa.Column("address", sa.Text, nullable=False, server_default=""),
    sa.Column("time_zone", sa.Text, nullable=False),
    # A week in the form of calendar.format_week; null: always open.
    sa.Column("opening_hours", sa.Text),
    # Days it is closed, as YYYY-MM-DD, sorted, with commas between.
    sa.Column("holidays", sa.Text, nullable=False),
    # Days that follow the plan of another weekday (调休), as YYYY-MM-DD:N (1 is Monday), sorted, with commas between.
    sa.Column("swapped_days", sa.Text, nullable=False, server_default=""),
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
    sa.Column("deposit_percent", sa.Integer),
    # Channels of `offer`, once more for lists; empty: every channel.
    sa.Column("channels", ARRAY(sa.Text), nullable=False, server_default="{}"),
    # Messages of the contract, serialized: ServicePlan, PriceRules, OfferRules, AddOnRules.
    sa.Column("plan", sa.LargeBinary),
    sa.Column("price_rules", sa.LargeBinary),
    sa.Column("offer", sa.LargeBinary),
    sa.Column("add_on", sa.LargeBinary),
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
    sa.Column("grade", sa.Integer, nullable=False, server_default="0"),
    # Messages of the contract, serialized: Qualifications, StaffTermsList.
    sa.Column("qualifications", sa.LargeBinary),
    sa.Column("terms", sa.LargeBinary),
    sa.Column("supplier", sa.Text),
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

# What a person works on one day instead of what their week says.
dated_shifts = sa.Table(
    "dated_shifts",
    metadata,
    chain_column(),
    sa.Column("branch_id", uuid_type(), primary_key=True),
    sa.Column("staff_id", uuid_type(), primary_key=True),
    # A local day of the branch.
    sa.Column("day", sa.Date, primary_key=True),
    # In the form of calendar.format_week, all on the weekday of `day`; empty: they do not work.
    sa.Column("week", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    # The roster it comes from; null: set by hand.
    sa.Column("roster_id", uuid_type()),
)
sa.Index("dated_shifts_of_staff", dated_shifts.c.chain_id, dated_shifts.c.staff_id, dated_shifts.c.day)

# Time off. Only what is approved takes time.
leaves = sa.Table(
    "leaves",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("staff_id", uuid_type(), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("starts_at", time_type(), nullable=False),
    sa.Column("ends_at", time_type(), nullable=False),
    # Of a leave of whole local days: as it was said.
    sa.Column("from_date", sa.Date),
    sa.Column("until_date", sa.Date),
    sa.Column("reason", sa.Text),
    sa.Column("requested_by", sa.Text, nullable=False),
    sa.Column("decided_by", sa.Text),
    sa.Column("decided_at", time_type()),
    sa.Column("decision_reason", sa.Text),
    _version(),
    _created_at(),
    sa.CheckConstraint("starts_at < ends_at", name="leaves_forward"),
)
sa.Index("leaves_of_staff", leaves.c.chain_id, leaves.c.staff_id, leaves.c.ends_at)
sa.Index("leaves_by_start", leaves.c.chain_id, leaves.c.starts_at, leaves.c.id)

# --- rooms and things ---

resource_types = sa.Table(
    "resource_types",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_en", sa.Text),
    sa.Column("code", sa.Text),
    # room, set, equipment or lent: what it is, for people; they are all guarded alike.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    _version(),
    _created_at(),
)
sa.Index("resource_types_code", resource_types.c.chain_id, resource_types.c.code, unique=True)
sa.Index("resource_types_by_name", resource_types.c.chain_id, resource_types.c.name, resource_types.c.id)

# One unit each: of three alike costumes there are three rows.
resources = sa.Table(
    "resources",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("resource_type_id", uuid_type(), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("active", sa.Boolean, nullable=False),
    _version(),
    _created_at(),
)
sa.Index("resources_code", resources.c.chain_id, resources.c.branch_id, resources.c.code, unique=True)
sa.Index("resources_by_name", resources.c.chain_id, resources.c.branch_id, resources.c.name, resources.c.id)

# When a room or thing is out of service.
resource_blocks = sa.Table(
    "resource_blocks",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("resource_id", uuid_type(), nullable=False),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("starts_at", time_type(), nullable=False),
    sa.Column("ends_at", time_type(), nullable=False),
    sa.Column("reason", sa.Text),
    _created_at(),
    sa.CheckConstraint("starts_at < ends_at", name="resource_blocks_forward"),
)
sa.Index(
    "resource_blocks_of_resource", resource_blocks.c.chain_id, resource_blocks.c.resource_id, resource_blocks.c.ends_at
)
sa.Index(
    "resource_blocks_of_branch", resource_blocks.c.chain_id, resource_blocks.c.branch_id, resource_blocks.c.ends_at
)

# --- rules ---

booking_policies = sa.Table(
    "booking_policies",
    metadata,
    chain_column(),
    # BookingPolicy of the contract, serialized.
    sa.Column("policy", sa.LargeBinary, nullable=False),
    _version(),
)

# How often what decides about a branch's time changed; the row of no branch (all zeros) is that of the chain.
board_versions = sa.Table(
    "board_versions",
    metadata,
    chain_column(),
    sa.Column("branch_id", uuid_type(), primary_key=True),
    _version(),
    postgresql_with={"fillfactor": "50"},
)

# --- time ---

# Rows are updated in place again and again: room in the page keeps that cheap (HOT).
resource_days = sa.Table(
    "resource_days",
    metadata,
    chain_column(),
    # A person, a room, a thing or a customer.
    sa.Column("resource_id", uuid_type(), primary_key=True),
    # A day in UTC.
    sa.Column("day", sa.Date, primary_key=True),
    # The last bit is 00:00 to 00:05.
    sa.Column("busy", BIT(DAY_BITS), nullable=False),
    postgresql_with={"fillfactor": "60"},
)

# The time a booking takes from a person, room, thing or customer, buffers included. Whoever needs the time of an
# expired one takes it.
allocations = sa.Table(
    "allocations",
    metadata,
    chain_column(),
    sa.Column("booking_id", uuid_type(), primary_key=True),
    sa.Column("resource_id", uuid_type(), primary_key=True),
    sa.Column("starts_at", time_type(), primary_key=True),
    sa.Column("ends_at", time_type(), nullable=False),
    # Null: not held only.
    sa.Column("expires_at", time_type()),
    # False for what was deliberately overbooked: it has no bits of its own.
    sa.Column("guarded", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.CheckConstraint("starts_at < ends_at", name="allocations_forward"),
)
allocations.append_constraint(
    ExcludeConstraint(
        # What tells rows apart comes first: with the chain in front, the same for most, it costs three times more.
        (allocations.c.resource_id, "="),
        (sa.func.tstzrange(allocations.c.starts_at, allocations.c.ends_at), "&&"),
        (allocations.c.chain_id, "="),
        name="allocations_no_overlap",
        using="gist",
        where=allocations.c.guarded,
    )
)
sa.Index("allocations_of_resource", allocations.c.chain_id, allocations.c.resource_id, allocations.c.starts_at)
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
    # The first line's service and who leads it; null for a service that needs nobody.
    sa.Column("service_id", uuid_type(), nullable=False),
    sa.Column("customer_id", uuid_type(), nullable=False),
    sa.Column("staff_id", uuid_type()),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("starts_at", time_type(), nullable=False),
    sa.Column("ends_at", time_type(), nullable=False),
    # What is sold is frozen here: later changes of the catalogue do not reach it. The lines are BookingLines of the
    # contract, serialized: every service with who and what was given to it, and when that is taken.
    sa.Column("lines", sa.LargeBinary),
    # ChangePolicy of the contract, serialized.
    sa.Column("change_policy", sa.LargeBinary),
    # The package it was sold as, and its BookedProducts of the contract, serialized.
    sa.Column("package_id", uuid_type()),
    sa.Column("package_name", sa.Text),
    sa.Column("products", sa.LargeBinary),
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
    sa.Column("deposit_amount", sa.BigInteger),
    # none, due, pending, authorized, refused, captured, released or kept (deposits.py).
    sa.Column("deposit_status", sa.Text, nullable=False, server_default="none"),
    # What the wallet set aside.
    sa.Column("deposit_authorization_id", uuid_type()),
    sa.Column("deposit_waived_reason", sa.Text),
    # Fees for moving, cancelling and not coming, all together.
    sa.Column("fee_amount", sa.BigInteger),
    sa.Column("fee_waived_reason", sa.Text),
    sa.Column("change_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("renewals", sa.Integer, nullable=False, server_default="0"),
    # The customer's own time is not guarded by it.
    sa.Column("overlap_allowed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("overbook_reason", sa.Text),
    # A seat, or several, in a class: the session has the teacher and the room, the booking the customer's own time.
    sa.Column("class_session_id", uuid_type()),
    # When it was told that the customer is late.
    sa.Column("late_told_at", time_type()),
    # Held for who waits.
    sa.Column("waiting_entry_id", uuid_type()),
    sa.Column("seats", sa.Integer),
    # The series it was made with.
    sa.Column("series_id", uuid_type()),
    # When it last took a step; null: not since it was made.
    sa.Column("updated_at", time_type()),
    _version(),
    _created_at(),
    postgresql_with={"fillfactor": "80"},
)
# A page of a list is read from the index of the filter that narrows it most.
sa.Index("bookings_by_start", bookings.c.chain_id, bookings.c.starts_at, bookings.c.id)
sa.Index("bookings_by_status", bookings.c.chain_id, bookings.c.status, bookings.c.starts_at, bookings.c.id)
sa.Index("bookings_of_branch", bookings.c.chain_id, bookings.c.branch_id, bookings.c.starts_at, bookings.c.id)
sa.Index("bookings_of_staff", bookings.c.chain_id, bookings.c.staff_id, bookings.c.starts_at, bookings.c.id)
for _group in ("class_session_id", "series_id"):
    sa.Index(
        f"bookings_by_{_group}",
        bookings.c.chain_id,
        bookings.c[_group],
        bookings.c.starts_at,
        bookings.c.id,
        postgresql_where=bookings.c[_group].is_not(None),
    )
sa.Index("bookings_of_customer", bookings.c.chain_id, bookings.c.customer_id, bookings.c.starts_at, bookings.c.id)
# Calendars go on showing for some days what was called off.
sa.Index(
    "bookings_cancelled",
    bookings.c.chain_id,
    bookings.c.branch_id,
    bookings.c.cancelled_at,
    postgresql_where=bookings.c.status == "cancelled",
)
sa.Index(
    "bookings_external",
    bookings.c.chain_id,
    bookings.c.external_id,
    unique=True,
    postgresql_where=bookings.c.external_id.is_not(None),
)
