"""Deposits of bookings."""

from __future__ import annotations

from alembic import op

from chassis.db import create_tables
from services.wallet.deposits import metadata

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_tables(op, metadata)
