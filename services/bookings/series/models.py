"""Tables of series."""

from __future__ import annotations

import sqlalchemy as sa

from chassis.db import chain_column, id_column, time_type, uuid_type
from services.bookings.models import metadata

# Bookings that were made together by a rule; each of them names its series.
booking_series = sa.Table(
    "booking_series",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("customer_id", uuid_type(), nullable=False),
    # The first start, and the zone whose clocks the others follow.
    sa.Column("starts_at", time_type(), nullable=False),
    sa.Column("time_zone", sa.Text, nullable=False),
    # SeriesRule of the contract, serialized.
    sa.Column("rule", sa.LargeBinary, nullable=False),
    sa.Column("on_conflict", sa.Text, nullable=False),
    sa.Column("source", sa.Text),
    sa.Column("note", sa.Text),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index("booking_series_of_customer", booking_series.c.chain_id, booking_series.c.customer_id, booking_series.c.id)
sa.Index("booking_series_of_branch", booking_series.c.chain_id, booking_series.c.branch_id, booking_series.c.id)
