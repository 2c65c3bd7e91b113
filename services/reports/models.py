"""Tables of the reports."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from chassis.db import chain_column, id_column, time_type, uuid_type

BUILDING, SERVING, RETIRED = "building", "serving", "retired"

metadata = sa.MetaData()

generations = sa.Table(
    "generations",
    metadata,
    chain_column(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # building: being filled by a rebuild; serving: what answers come from; retired: to be deleted.
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("counted_events", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("newest_event_at", time_type()),
    # How far a rebuild has read each service's log: {"bookings": 1234}.
    sa.Column("cursors", JSONB(), nullable=False, server_default="{}"),
    sa.Column("started_at", time_type(), nullable=False),
    sa.Column("rebuilt_at", time_type()),
    sa.Column("retired_at", time_type()),
    sa.CheckConstraint(f"status in ('{BUILDING}', '{SERVING}', '{RETIRED}')", name="generations_status"),
)
"""Complete sets of numbers of a chain. One serves; a rebuild fills another beside it."""

for status in (BUILDING, SERVING):
    sa.Index(
        f"generations_one_{status}",
        generations.c.chain_id,
        unique=True,
        postgresql_where=sa.text(f"status = '{status}'"),
    )
sa.Index(
    "generations_work", generations.c.status, generations.c.chain_id, postgresql_where=sa.text("status <> 'serving'")
)

rollups = sa.Table(
    "rollups",
    metadata,
    chain_column(),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("measure", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("day", sa.Date, primary_key=True),
    # The nil uuid and the empty text stand for "none": columns of a key cannot be null.
    sa.Column("branch_id", uuid_type(), primary_key=True),
    sa.Column("service_id", uuid_type(), primary_key=True),
    sa.Column("staff_id", uuid_type(), primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    # Rows are updated again and again while their day lasts: room on the page keeps those updates out of the index.
    postgresql_with={"fillfactor": "70"},
)
"""Sums by day and by everything that a measure is split by."""

counted = sa.Table(
    "counted",
    metadata,
    chain_column(),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("event_id", uuid_type(), primary_key=True),
)
"""Events that a rebuilt generation holds, from a log or live.

A generation that was never rebuilt has none: there the inbox is enough. Of a rebuilt one they stay, as an event that
was counted from a log may be a dead letter and be replayed any time.
"""

names = sa.Table(
    "names",
    metadata,
    chain_column(),
    sa.Column("kind", sa.Text, primary_key=True),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_en", sa.Text),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.CheckConstraint("kind in ('branch', 'service', 'staff')", name="names_kind"),
)
"""What branches, services and staff are called."""
