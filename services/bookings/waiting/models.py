"""The table of who waits."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import chain_column, id_column, time_type, uuid_type
from services.bookings.models import metadata

waiting_entries = sa.Table(
    "waiting_entries",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("customer_id", uuid_type(), nullable=False),
    # SearchAvailabilityRequest of the contract, serialized: only its lines.
    sa.Column("lines", sa.LargeBinary, nullable=False),
    # WaitingWindows of the contract, serialized; and the stretch from the first to the last of them.
    sa.Column("windows", sa.LargeBinary, nullable=False),
    sa.Column("starts_from", time_type(), nullable=False),
    sa.Column("ends_by", time_type(), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("booking_id", uuid_type()),
    sa.Column("offer_expires_at", time_type()),
    # Starts that were offered and not taken: these are not offered again.
    sa.Column("passed_starts", ARRAY(time_type()), nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("source", sa.Text),
    # When it was last looked at without anything being freed.
    sa.Column("looked_at", time_type(), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index(
    "waiting_entries_waiting",
    waiting_entries.c.chain_id,
    waiting_entries.c.branch_id,
    waiting_entries.c.ends_by,
    postgresql_where=waiting_entries.c.status == "waiting",
)
sa.Index(
    "waiting_entries_of_booking",
    waiting_entries.c.chain_id,
    waiting_entries.c.booking_id,
    postgresql_where=waiting_entries.c.booking_id.is_not(None),
)
sa.Index("waiting_entries_by_id", waiting_entries.c.chain_id, waiting_entries.c.status, waiting_entries.c.id)
sa.Index(
    "waiting_entries_unlooked",
    waiting_entries.c.chain_id,
    waiting_entries.c.looked_at,
    postgresql_where=waiting_entries.c.status == "waiting",
)
