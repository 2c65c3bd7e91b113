"""Invitations: messages about bookings bring the appointment for the customer's calendar."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A new database has the columns from the start: 0001 makes the tables as they are now."""
    op.execute("alter table templates add column if not exists invitation boolean not null default true")
    op.execute("alter table messages add column if not exists invitation boolean not null default false")
