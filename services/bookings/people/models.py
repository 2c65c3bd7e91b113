"""The table of qualifications that expire."""

from __future__ import annotations

import sqlalchemy as sa

from chassis.db import chain_column, time_type, uuid_type
from services.bookings.models import metadata

# Qualifications of people who still work, as far as they expire: what a job must find that `staff` keeps as a message.
expiring_qualifications = sa.Table(
    "expiring_qualifications",
    metadata,
    chain_column(),
    sa.Column("staff_id", uuid_type(), primary_key=True),
    sa.Column("skill", sa.Text, primary_key=True),
    sa.Column("expires_on", sa.Date, primary_key=True),
    # When it was told that it expires soon; null: not yet.
    sa.Column("told_at", time_type()),
)
sa.Index(
    "expiring_qualifications_untold",
    expiring_qualifications.c.chain_id,
    expiring_qualifications.c.expires_on,
    postgresql_where=expiring_qualifications.c.told_at.is_(None),
)
