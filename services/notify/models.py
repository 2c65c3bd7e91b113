"""Tables of the messages."""

from __future__ import annotations

import sqlalchemy as sa

from chassis.db import chain_column, id_column, json_type, time_type, uuid_type

metadata = sa.MetaData()

customers = sa.Table(
    "customers",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("email", sa.Text),
    sa.Column("version", sa.BigInteger, nullable=False),
)
"""How customers are reached, kept from their events."""

names = sa.Table(
    "names",
    metadata,
    chain_column(),
    sa.Column("kind", sa.Text, primary_key=True),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False, server_default=""),
    sa.Column("phone", sa.Text, nullable=False, server_default=""),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.CheckConstraint("kind in ('chain', 'branch', 'staff')", name="names_kind"),
)
"""What chains, branches and staff are called, and where branches are, kept from their events."""

templates = sa.Table(
    "templates",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    # The appointment goes along, where the event and the channel can bring it.
    sa.Column("invitation", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_at", time_type(), nullable=False),
    sa.UniqueConstraint("chain_id", "event_type", "channel", "language", "version", name="templates_version"),
)
"""Versions of a chain's own templates; the highest is in force, those before stay."""

messages = sa.Table(
    "messages",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("event_id", uuid_type(), nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("customer_id", uuid_type(), nullable=False),
    sa.Column("branch_id", uuid_type()),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("address", sa.Text),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    # What the message was written from, to show templates with real data.
    sa.Column("facts", json_type(), nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("error", sa.Text),
    sa.Column("created_at", time_type(), nullable=False),
    # When it is tried next. While somebody sends it: when that somebody is taken for dead.
    sa.Column("due_at", time_type(), nullable=False),
    sa.Column("sent_at", time_type()),
    # The appointment goes along with it.
    sa.Column("invitation", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("chain_id", "event_id", "channel", name="messages_once"),
    sa.CheckConstraint("status in ('queued', 'sent', 'failed')", name="messages_status"),
)
"""What customers are told. Nobody gets the same twice: one message an event and channel."""

sa.Index("messages_customer", messages.c.chain_id, messages.c.customer_id, messages.c.id)
sa.Index("messages_due", messages.c.due_at, messages.c.chain_id, postgresql_where=sa.text("status = 'queued'"))
sa.Index("messages_failed", messages.c.chain_id, messages.c.id, postgresql_where=sa.text("status = 'failed'"))
