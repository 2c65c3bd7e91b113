"""Chains, branches, accounts, roles, API keys."""

from alembic import op

from chassis.db import create_chassis_tables, create_tables
from services.access.models import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# What leads a caller who names no chain to theirs, and nothing else of those tables.
SYSTEM_RIGHTS = {
    "accounts": "select (chain_id, id, email_key)",
    "api_key_secrets": "select (chain_id, prefix, hash, api_key_id, expires_at)",
    "sign_in_failures": "select, insert, update, delete",
}


def upgrade() -> None:
    create_chassis_tables(op)
    create_tables(op, metadata, system=SYSTEM_RIGHTS)
