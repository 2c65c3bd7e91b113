"""Tables of what is lent without a booking, and of stock.

Resource types, units and their blocks stand in services.bookings.models: they decide about time. A loan takes its
time like a booking does: its allocations carry its id as `booking_id`.
"""

from __future__ import annotations

import sqlalchemy as sa

from chassis.db import chain_column, id_column, time_type, uuid_type
from services.bookings.models import metadata

loans = sa.Table(
    "loans",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("resource_id", uuid_type(), nullable=False),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("customer_id", uuid_type()),
    sa.Column("starts_at", time_type(), nullable=False),
    # When it is due; its unit stays taken for longer while it is overdue.
    sa.Column("ends_at", time_type(), nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("returned_at", time_type()),
    sa.Column("overdue_told_at", time_type()),
    # When the job looks at it next, unless it is returned before.
    sa.Column("watched_at", time_type(), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
    sa.CheckConstraint("starts_at < ends_at", name="loans_forward"),
)
sa.Index("loans_by_end", loans.c.chain_id, loans.c.ends_at, loans.c.id)
sa.Index("loans_of_branch", loans.c.chain_id, loans.c.branch_id, loans.c.ends_at, loans.c.id)
sa.Index("loans_of_resource", loans.c.chain_id, loans.c.resource_id, loans.c.ends_at, loans.c.id)
sa.Index("loans_of_customer", loans.c.chain_id, loans.c.customer_id, loans.c.ends_at, loans.c.id)
sa.Index("loans_watched", loans.c.chain_id, loans.c.watched_at, postgresql_where=loans.c.returned_at.is_(None))

# What is used up, at one branch. The row is the lock under which its quantity changes.
stock_items = sa.Table(
    "stock_items",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    # The same thing at several branches has the same code.
    sa.Column("code", sa.Text),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("quantity", sa.BigInteger, nullable=False),
    # Low: this much or less.
    sa.Column("low_at", sa.BigInteger, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
    sa.CheckConstraint("quantity >= 0", name="stock_items_there"),
    postgresql_with={"fillfactor": "80"},
)
sa.Index("stock_items_code", stock_items.c.chain_id, stock_items.c.branch_id, stock_items.c.code, unique=True)
sa.Index("stock_items_by_name", stock_items.c.chain_id, stock_items.c.branch_id, stock_items.c.name, stock_items.c.id)

# Append-only: what changed the quantity of an item.
stock_movements = sa.Table(
    "stock_movements",
    metadata,
    chain_column(),
    sa.Column("stock_item_id", uuid_type(), primary_key=True),
    # Version of the item that the movement led to.
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("branch_id", uuid_type(), nullable=False),
    # received, used, counted or written_off.
    sa.Column("reason", sa.Text, nullable=False),
    # How much more there is, below zero: less.
    sa.Column("quantity", sa.BigInteger, nullable=False),
    sa.Column("balance", sa.BigInteger, nullable=False),
    # What was used and was not there by the count.
    sa.Column("shortage", sa.BigInteger, nullable=False),
    sa.Column("booking_id", uuid_type()),
    sa.Column("note", sa.Text),
    # Id of the caller.
    sa.Column("recorded_by", sa.Text, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index(
    "stock_movements_of_booking",
    stock_movements.c.chain_id,
    stock_movements.c.booking_id,
    postgresql_where=stock_movements.c.booking_id.is_not(None),
)
