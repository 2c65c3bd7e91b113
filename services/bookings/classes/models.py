"""Tables of classes."""

from __future__ import annotations

import sqlalchemy as sa

from chassis.db import chain_column, id_column, time_type, uuid_type
from services.bookings.models import metadata

# A service held for several. Its id owns its teacher's, room's and things' time in `allocations`, as a booking's does.
class_sessions = sa.Table(
    "class_sessions",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("service_id", uuid_type(), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    # Who leads it; null for a service that needs nobody.
    sa.Column("staff_id", uuid_type()),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("starts_at", time_type(), nullable=False),
    sa.Column("ends_at", time_type(), nullable=False),
    sa.Column("seats", sa.Integer, nullable=False),
    # Seats of bookings that are held, agreed or used. A trigger of `bookings` (migration 0002) counts down.
    sa.Column("taken", sa.Integer, nullable=False),
    # BookingLine of the contract, serialized: the service at the price of a seat, with who and what it got.
    sa.Column("line", sa.LargeBinary, nullable=False),
    sa.Column("price_amount", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    # Deposit asked for each seat.
    sa.Column("deposit_amount", sa.BigInteger),
    sa.Column("time_zone", sa.Text, nullable=False),
    sa.Column("cancel_reason", sa.Text),
    sa.Column("cancelled_at", time_type()),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
    # The proof that no seat is sold twice.
    sa.CheckConstraint("taken between 0 and seats", name="class_sessions_seats"),
    sa.CheckConstraint("starts_at < ends_at", name="class_sessions_forward"),
    # Room in the page for counting seats in place.
    postgresql_with={"fillfactor": "70"},
)
_key = (class_sessions.c.starts_at, class_sessions.c.id)
sa.Index("class_sessions_by_start", class_sessions.c.chain_id, *_key)
sa.Index("class_sessions_of_branch", class_sessions.c.chain_id, class_sessions.c.branch_id, *_key)
sa.Index("class_sessions_of_service", class_sessions.c.chain_id, class_sessions.c.service_id, *_key)
sa.Index("class_sessions_of_staff", class_sessions.c.chain_id, class_sessions.c.staff_id, *_key)
