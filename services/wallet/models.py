"""Tables of wallet.

Two kinds of account. A customer's principal and gift money are balances that must never be overdrawn: both stand in the
customer's row of `wallets`, which is also the lock under which everything about that customer's money happens. Branch
and chain accounts (revenue, cash, tax, ...) only get postings: a balance row of a branch would be written by every
charge there.

An account is named by its kind and its owner (customer, branch or chain). A transaction has the id of what caused it
(charge, top-up, refund, payment), so that nothing can be posted twice.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from chassis.db import chain_column, id_column, time_type, uuid_type

metadata = sa.MetaData()

CUSTOMER_ACCOUNTS = ("principal", "gift")
ACCOUNTS = (*CUSTOMER_ACCOUNTS, "revenue", "cash", "card", "bank", "other", "tax", "gift_expense", "clearing")
REASONS = ("top_up", "charge", "refund", "sale", "sale_refund")
METHODS = ("cash", "card", "bank", "sandbox", "other")
ORDERS = ("proportional", "principal_first", "gift_first")


def _uuid(name: str, *, required: bool = False) -> sa.Column[str]:
    return sa.Column(name, uuid_type(), nullable=not required)


def _amount(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _text(name: str, *, required: bool = True) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=not required)


def _moment(name: str, *, required: bool = True) -> sa.Column[datetime]:
    return sa.Column(name, time_type(), nullable=not required)


def _one_of(column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} in ({', '.join(repr(value) for value in values)})", name=f"{column}_known")


# --- what is kept of other services' things -------------------------------------------------------

customers = sa.Table(
    "customers",
    metadata,
    chain_column(),
    id_column(),
    _uuid("home_branch_id"),
    sa.Column("version", sa.BigInteger, nullable=False),
)

branches = sa.Table(
    "branches",
    metadata,
    chain_column(),
    id_column(),
    _text("time_zone"),
    sa.Column("version", sa.BigInteger, nullable=False),
)

# Staff and services: only that they exist.
catalogue = sa.Table(
    "catalogue",
    metadata,
    chain_column(),
    sa.Column("kind", sa.Text, primary_key=True),
    id_column(),
    _one_of("kind", ("staff", "service")),
)

bookings = sa.Table(
    "bookings",
    metadata,
    chain_column(),
    id_column(),
    _uuid("branch_id", required=True),
    _uuid("staff_id"),
    _uuid("service_id"),
    sa.Column("version", sa.BigInteger, nullable=False),
)

# --- the books ------------------------------------------------------------------------------------

wallets = sa.Table(
    "wallets",
    metadata,
    chain_column(),
    sa.Column("customer_id", uuid_type(), primary_key=True),
    _text("currency"),
    _amount("principal"),
    _amount("principal_held"),
    _amount("gift"),
    _amount("gift_held"),
    # Number of the customer's newest entry.
    _amount("last_entry"),
    # No hold expires before this: what is past may hide money that is free again. Null: nothing is held.
    _moment("holds_expire_at", required=False),
    _moment("opened_at"),
    sa.CheckConstraint(
        "principal >= 0 and principal_held >= 0 and principal - principal_held >= 0", name="principal_is_there"
    ),
    sa.CheckConstraint("gift >= 0 and gift_held >= 0 and gift - gift_held >= 0", name="gift_is_there"),
    # A charge writes the row where it lies, without touching an index, as long as its page has room.
    postgresql_with={"fillfactor": "50"},
)
sa.Index(
    "wallets_due",
    wallets.c.holds_expire_at,
    wallets.c.chain_id,
    postgresql_where=wallets.c.holds_expire_at.is_not(None),
)

transactions = sa.Table(
    "transactions",
    metadata,
    chain_column(),
    id_column(),
    _text("reason"),
    _uuid("customer_id"),
    _text("currency"),
    _text("description", required=False),
    _uuid("booking_id"),
    _uuid("branch_id"),
    _moment("occurred_at"),
    _moment("created_at"),
    _one_of("reason", REASONS),
)

postings = sa.Table(
    "postings",
    metadata,
    chain_column(),
    id_column(),
    _uuid("transaction_id", required=True),
    _text("account"),
    _uuid("owner_id", required=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    # Customers' accounts only: the balance after it, and its number among the customer's entries.
    sa.Column("balance", sa.BigInteger),
    sa.Column("number", sa.BigInteger),
    _one_of("account", ACCOUNTS),
    sa.CheckConstraint("amount <> 0", name="amount_moves"),
    sa.CheckConstraint(
        "(account in ('principal', 'gift')) = (balance is not null) and (balance is null) = (number is null)",
        name="customer_entries_count",
    ),
)
sa.Index(
    "postings_entries",
    postings.c.chain_id,
    postings.c.owner_id,
    postings.c.number,
    unique=True,
    postgresql_where=postings.c.number.is_not(None),
)

# --- what moves money -----------------------------------------------------------------------------

top_ups = sa.Table(
    "top_ups",
    metadata,
    chain_column(),
    id_column(),
    _uuid("customer_id", required=True),
    _text("status"),
    _text("currency"),
    _amount("amount"),
    _amount("gift"),
    _text("method"),
    _text("payment_id", required=False),
    _uuid("branch_id"),
    _uuid("staff_id"),
    _text("description", required=False),
    _text("time_zone"),
    _moment("created_at"),
    _moment("credited_at", required=False),
    _one_of("status", ("pending", "credited", "failed")),
    _one_of("method", METHODS),
)

# Which chain a provider's payment belongs to: a callback names no chain. `due_at`: when an unpaid one is given up.
payments_at_providers = sa.Table(
    "payments_at_providers",
    metadata,
    chain_column(),
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("payment_id", sa.Text, primary_key=True),
    _uuid("top_up_id", required=True),
    _moment("due_at", required=False),
)
sa.Index(
    "payments_at_providers_lookup",
    payments_at_providers.c.payment_id,
    payments_at_providers.c.provider,
    payments_at_providers.c.chain_id,
)
sa.Index(
    "payments_at_providers_due",
    payments_at_providers.c.due_at,
    payments_at_providers.c.chain_id,
    postgresql_where=payments_at_providers.c.due_at.is_not(None),
)

charges = sa.Table(
    "charges",
    metadata,
    chain_column(),
    id_column(),
    _uuid("customer_id", required=True),
    _text("currency"),
    _amount("principal"),
    _amount("gift"),
    _amount("principal_refunded"),
    _amount("gift_refunded"),
    _text("reason"),
    _uuid("booking_id"),
    _uuid("authorization_id"),
    _uuid("branch_id"),
    _uuid("staff_id"),
    _uuid("service_id"),
    _text("time_zone"),
    sa.Column("automatic", sa.Boolean, nullable=False, server_default=sa.false()),
    _moment("created_at"),
    sa.CheckConstraint("principal_refunded between 0 and principal", name="principal_refunded_fits"),
    sa.CheckConstraint("gift_refunded between 0 and gift", name="gift_refunded_fits"),
)
_booked = charges.c.booking_id.is_not(None)
sa.Index("charges_of_booking", charges.c.chain_id, charges.c.booking_id, postgresql_where=_booked)
sa.Index(
    "charges_automatic",
    charges.c.chain_id,
    charges.c.booking_id,
    unique=True,
    postgresql_where=charges.c.automatic,
)

refunds = sa.Table(
    "refunds",
    metadata,
    chain_column(),
    id_column(),
    _uuid("charge_id", required=True),
    _uuid("customer_id", required=True),
    _text("currency"),
    _amount("principal"),
    _amount("gift"),
    _text("reason", required=False),
    _moment("created_at"),
)

authorizations = sa.Table(
    "authorizations",
    metadata,
    chain_column(),
    id_column(),
    _uuid("customer_id", required=True),
    _text("status"),
    _text("currency"),
    _amount("principal"),
    _amount("gift"),
    sa.Column("captured", sa.BigInteger),
    _uuid("charge_id"),
    _text("reason"),
    _uuid("booking_id"),
    _uuid("branch_id"),
    _uuid("staff_id"),
    _uuid("service_id"),
    _text("time_zone"),
    _moment("expires_at"),
    _moment("created_at"),
    _one_of("status", ("authorized", "captured", "voided", "expired")),
)
sa.Index(
    "authorizations_open",
    authorizations.c.chain_id,
    authorizations.c.customer_id,
    authorizations.c.expires_at,
    postgresql_where=authorizations.c.status == sa.literal_column("'authorized'"),
)

payments = sa.Table(
    "payments",
    metadata,
    chain_column(),
    id_column(),
    _text("kind"),
    _text("currency"),
    _amount("amount"),
    _amount("tax"),
    _text("method"),
    _uuid("branch_id", required=True),
    _uuid("customer_id"),
    _uuid("staff_id"),
    _uuid("service_id"),
    _text("description"),
    _moment("occurred_at"),
    _text("external_id", required=False),
    _uuid("booking_id"),
    _moment("created_at"),
    _one_of("kind", ("sale", "refund")),
    _one_of("method", METHODS),
)
_newest = (payments.c.occurred_at, payments.c.id)
sa.Index("payments_newest", payments.c.chain_id, *_newest)
sa.Index("payments_of_branch", payments.c.chain_id, payments.c.branch_id, *_newest)
sa.Index("payments_of_customer", payments.c.chain_id, payments.c.customer_id, *_newest)
sa.Index(
    "payments_external",
    payments.c.chain_id,
    payments.c.external_id,
    unique=True,
    postgresql_where=payments.c.external_id.is_not(None),
)

policies = sa.Table(
    "policies",
    metadata,
    chain_column(),
    _text("deduction_order"),
    sa.Column("charge_on_completion", sa.Boolean, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    _one_of("deduction_order", ORDERS),
)
