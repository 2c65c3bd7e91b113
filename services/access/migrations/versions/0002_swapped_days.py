"""Branches have make-up working days (调休)."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A database made since has the column from 0001, which makes the tables as they are today.
    op.execute("alter table branches add column if not exists swapped_days jsonb not null default '[]'")
