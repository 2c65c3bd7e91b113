"""First tables."""

from alembic import op

from chassis.db import create_chassis_tables, create_tables
from services.reports.models import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only: what must go back is written as a new migration."""
    create_chassis_tables(op)
    # The job that rebuilds looks across chains for what there is to do; it works as the application, chain by chain.
    create_tables(op, metadata, system={"generations": "select"})
