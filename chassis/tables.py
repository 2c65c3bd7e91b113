"""Tables that every service's database has: the log of events, what was handled, what could not be, and answered keys.

`chassis.db.create_chassis_tables` makes them in the first migration of a service. They are created on a metadata of the
caller's, so that a service can hold them beside its own tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID


@dataclass(frozen=True, slots=True)
class ChassisTables:
    """The four tables of the chassis on one metadata."""

    outbox: sa.Table
    inbox: sa.Table
    dead_letters: sa.Table
    idempotency: sa.Table


def chassis_tables(metadata: sa.MetaData) -> ChassisTables:
    """Declare the chassis' tables on a metadata."""
    return ChassisTables(_outbox(metadata), _inbox(metadata), _dead_letters(metadata), _idempotency(metadata))


def _uuid() -> UUID[str]:
    return UUID(as_uuid=False)


def _moment() -> TIMESTAMP:
    return TIMESTAMP(timezone=True)


def _outbox(metadata: sa.MetaData) -> sa.Table:
    """Every event of the service, as written in the commit of its cause: the log of record, never deleted."""
    table = sa.Table(
        "outbox",
        metadata,
        sa.Column("chain_id", _uuid(), nullable=False),
        sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("id", _uuid(), nullable=False),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("aggregate_id", sa.Text, nullable=False),
        sa.Column("recorded_at", _moment(), nullable=False),
        sa.Column("occurred_at", _moment(), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("traceparent", sa.Text),
        # What the bus answered: which event of which incarnation of the stream it became.
        sa.Column("published_at", _moment()),
        sa.Column("stream_sequence", sa.BigInteger),
        sa.Column("stream_created_at", _moment()),
        sa.PrimaryKeyConstraint("chain_id", "sequence"),
    )
    unsent = sa.text("published_at is null")
    sa.Index("outbox_unsent", table.c.partition, table.c.sequence, table.c.chain_id, postgresql_where=unsent)
    sa.Index("outbox_log", table.c.sequence, table.c.chain_id)
    # Finding what a stream lost must not read the whole log.
    sent = sa.text("stream_sequence is not null")
    sa.Index("outbox_sent", table.c.stream_created_at, table.c.stream_sequence, table.c.chain_id, postgresql_where=sent)
    return table


def _inbox(metadata: sa.MetaData) -> sa.Table:
    """Which events a consumer has handled. A row lives longer than the stream keeps its event."""
    table = sa.Table(
        "inbox",
        metadata,
        sa.Column("chain_id", _uuid(), nullable=False),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("event_id", _uuid(), nullable=False),
        sa.Column("seen_at", _moment(), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("chain_id", "consumer", "event_id"),
    )
    sa.Index("inbox_age", table.c.seen_at, table.c.chain_id, postgresql_using="brin")
    return table


def _dead_letters(metadata: sa.MetaData) -> sa.Table:
    """Events that a consumer failed to handle; handled_at is set when one was handled after all."""
    table = sa.Table(
        "dead_letters",
        metadata,
        sa.Column("chain_id", _uuid(), nullable=False),
        sa.Column("event_id", _uuid(), nullable=False),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("aggregate_id", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("occurred_at", _moment(), nullable=False),
        sa.Column("time", _moment(), nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("dead_at", _moment(), nullable=False),
        sa.Column("handled_at", _moment()),
        sa.PrimaryKeyConstraint("chain_id", "event_id", "consumer"),
    )
    sa.Index("dead_letters_newest", table.c.chain_id, table.c.dead_at, table.c.event_id)
    sa.Index("dead_letters_open", table.c.dead_at, postgresql_where=table.c.handled_at.is_(None))
    return table


def _idempotency(metadata: sa.MetaData) -> sa.Table:
    """Answers given to writes that carried an Idempotency-Key, kept for as long as a caller may repeat them."""
    table = sa.Table(
        "idempotency",
        metadata,
        sa.Column("chain_id", _uuid(), nullable=False),
        sa.Column("caller_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary),
        sa.Column("created_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("chain_id", "caller_id", "key"),
    )
    sa.Index("idempotency_age", table.c.created_at, table.c.chain_id, postgresql_using="brin")
    return table
