"""Tables of the rota and of offers to claim."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import chain_column, id_column, time_type, uuid_type
from services.bookings.models import metadata

# Whose turn it is at a branch on a local day. Who has the lowest turn is next.
rota_turns = sa.Table(
    "rota_turns",
    metadata,
    chain_column(),
    sa.Column("branch_id", uuid_type(), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("staff_id", uuid_type(), primary_key=True),
    # Grows with every turn that is taken; the order of those who wait.
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("turn_count", sa.Integer, nullable=False),
    sa.Column("signed_in_at", time_type(), nullable=False),
    # Null: still there.
    sa.Column("signed_out_at", time_type()),
)

claim_offers = sa.Table(
    "claim_offers",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("booking_id", uuid_type(), nullable=False),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    # OfferBookingRequest of the contract, serialized: only its steps.
    sa.Column("steps", sa.LargeBinary, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("candidate_ids", ARRAY(uuid_type()), nullable=False),
    sa.Column("step_ends_at", time_type(), nullable=False),
    sa.Column("claimed_by", uuid_type()),
    sa.Column("claimed_at", time_type()),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index(
    "claim_offers_open",
    claim_offers.c.chain_id,
    claim_offers.c.booking_id,
    unique=True,
    postgresql_where=claim_offers.c.status == "open",
)
sa.Index(
    "claim_offers_due",
    claim_offers.c.chain_id,
    claim_offers.c.step_ends_at,
    postgresql_where=claim_offers.c.status == "open",
)
sa.Index("claim_offers_by_id", claim_offers.c.chain_id, claim_offers.c.branch_id, claim_offers.c.id)
