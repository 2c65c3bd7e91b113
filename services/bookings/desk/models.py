"""The table of who walked in."""

from __future__ import annotations

import sqlalchemy as sa

from chassis.db import chain_column, id_column, time_type, uuid_type
from services.bookings.models import bookings, metadata

walk_ins = sa.Table(
    "walk_ins",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("branch_id", uuid_type(), nullable=False),
    # A local day of the branch.
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("customer_id", uuid_type()),
    sa.Column("name", sa.Text),
    # SearchAvailabilityRequest of the contract, serialized: only its lines.
    sa.Column("lines", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("booking_id", uuid_type()),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index(
    "walk_ins_of_day",
    walk_ins.c.chain_id,
    walk_ins.c.branch_id,
    walk_ins.c.day,
    walk_ins.c.number,
    unique=True,
)
# Chains are learned from it across chains, so that it begins with the time.
sa.Index(
    "bookings_not_begun",
    bookings.c.starts_at,
    bookings.c.chain_id,
    postgresql_where=bookings.c.status == "confirmed",
)
