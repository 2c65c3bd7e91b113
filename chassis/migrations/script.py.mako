"""${message}"""

from alembic import op

from chassis.db import create_tables

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only: what must go back is written as a new migration."""
    ${upgrades if upgrades else "pass"}
