"""Table of the calendar feeds."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import chain_column, id_column, time_type, uuid_type
from services.bookings.models import metadata

calendar_feeds = sa.Table(
    "calendar_feeds",
    metadata,
    chain_column(),
    id_column(),
    # staff, branch, resource or customer: what the subject is.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject_id", uuid_type(), nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("shows_customers", sa.Boolean, nullable=False),
    # Only bookings of these; null: of all branches.
    sa.Column("branch_ids", ARRAY(uuid_type())),
    # Which address it is by now: a token of another one is not taken.
    sa.Column("address_number", sa.Integer, nullable=False),
    sa.Column("expires_at", time_type()),
    sa.Column("revoked_at", time_type()),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)
sa.Index("calendar_feeds_of_subject", calendar_feeds.c.chain_id, calendar_feeds.c.subject_id, calendar_feeds.c.id)
