"""First tables."""

from alembic import op

from chassis.db import create_chassis_tables, create_tables
from services.notify.models import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only: what must go back is written as a new migration."""
    create_chassis_tables(op)
    # Messages are sent for all chains alike, whoever's turn it is.
    create_tables(op, metadata, system={"messages": "select, update"})
