"""The chassis' tables and wallet's own, as they were first."""

from __future__ import annotations

from alembic import op

from chassis.db import append_only, create_chassis_tables, create_tables
from services.wallet.models import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# All postings of a transaction are written by one statement, so one check at its end sees them all: cheaper than a
# deferred trigger on each row (README: figures), and no statement of anybody can unbalance the books.
CHECK_BALANCE = """
create function check_postings_balance() returns trigger language plpgsql as $$
begin
  if exists (select from written group by chain_id, transaction_id having sum(amount) <> 0) then
    raise exception 'the postings of a transaction do not sum to zero' using errcode = 'check_violation';
  end if;
  return null;
end
$$
"""
CHECK_EVERY_INSERT = """
create trigger postings_balance after insert on postings
  referencing new table as written for each statement execute function check_postings_balance()
"""

# What the system role reads across chains: due holds and payments, the way from a provider's payment to its chain, and
# the sums behind foyer_wallet_imbalance.
SYSTEM_RIGHTS = {
    "wallets": "select (chain_id, customer_id, principal, principal_held, gift, gift_held, holds_expire_at)",
    "postings": "select (chain_id, owner_id, account, amount)",
    "payments_at_providers": "select",
}


def upgrade() -> None:
    create_chassis_tables(op)
    create_tables(op, metadata, system=SYSTEM_RIGHTS)
    op.execute(CHECK_BALANCE)
    op.execute(CHECK_EVERY_INSERT)
    append_only(op, "transactions")
    append_only(op, "postings")
