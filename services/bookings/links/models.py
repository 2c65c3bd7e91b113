"""Table of links. What makes a link work is not in it: the token is signed, and made from the ids."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import chain_column, id_column, time_type, uuid_type
from services.bookings.models import metadata

booking_links = sa.Table(
    "booking_links",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("booking_id", uuid_type(), nullable=False),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    sa.Column("expires_at", time_type(), nullable=False),
    sa.Column("revoked_at", time_type()),
    # Who made it, and who withdrew it.
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("revoked_by", sa.Text),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index("booking_links_of_booking", booking_links.c.chain_id, booking_links.c.booking_id, booking_links.c.id)
