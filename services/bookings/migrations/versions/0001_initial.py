"""Catalogue, staff, shifts, time and bookings."""

from alembic import op

from chassis.db import create_chassis_tables, create_tables
from services.bookings.migrations.initial import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The job that tidies up expired holds must learn which chains have any.
SYSTEM_RIGHTS = {"allocations": "select"}


def upgrade() -> None:
    create_chassis_tables(op)
    create_tables(op, metadata, system=SYSTEM_RIGHTS)
