"""Bookings as rows: read, locked, changed and told of. Every step of a booking is made of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from google.protobuf.message import Message

from chassis import metrics
from chassis.db import prepare
from chassis.errors import not_found
from chassis.money import money
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import domain
from services.bookings import plan as plans
from services.bookings.models import bookings

READ, WRITE, OVERRIDE = "bookings.read", "bookings.write", "bookings.override"

BOOKINGS = metrics.counter("foyer_bookings_total", "Bookings that came into a state.", ("status",))

_one = sa.and_(bookings.c.chain_id == sa.bindparam("chain_id"), bookings.c.id == sa.bindparam("id"))
CHANGED = (
    "status",
    "staff_id",
    "starts_at",
    "ends_at",
    "buffer_before_minutes",
    "buffer_after_minutes",
    "lines",
    "price_amount",
    "expires_at",
    "change_count",
    "renewals",
    "cancel_reason",
    "cancelled_at",
    "deposit_status",
    "deposit_authorization_id",
    "fee_amount",
    "fee_waived_reason",
    "updated_at",
    "version",
)
SELECT = prepare(sa.select(bookings).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(bookings).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(bookings)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=bookings.c[name].type) for name in CHANGED})
    .returning(bookings)
)


def stored_lines(row: Mapping[str, Any] | asyncpg.Record) -> Sequence[pb.BookingLine]:
    """The lines of a booking; those from before there were lines have one."""
    if row["lines"] is not None:
        return pb.BookingLines.FromString(row["lines"]).lines
    stretch = pb.Stretch(
        starts_at=row["starts_at"] - timedelta(minutes=row["buffer_before_minutes"]),
        ends_at=row["ends_at"] + timedelta(minutes=row["buffer_after_minutes"]),
    )
    return [
        pb.BookingLine(
            service_id=row["service_id"],
            service_name=row["service_name"],
            customer_id=row["customer_id"],
            starts_at=row["starts_at"],
            ends_at=row["ends_at"],
            price=money(row["price_amount"], row["currency"]),
            assignments=[pb.Assignment(need=plans.STAFF, id=row["staff_id"], is_staff=True, taken=[stretch])],
        )
    ]


project_booking = projector(
    pb.Booking,
    lines=stored_lines,
    products=lambda row: pb.BookedProducts.FromString(row["products"] or b"").products,
)


def to_booking(row: asyncpg.Record, now: datetime) -> pb.Booking:
    """A row as a message, with the state as it is to be told at `now`."""
    booking = project_booking(row)
    if domain.effective_status(row["status"], row["expires_at"], now) == "expired":
        booking.status = pb.BOOKING_STATUS_EXPIRED
    return booking


def count(unit: Unit, status: str) -> None:
    """Count a booking that came into a state, once that is committed."""
    unit.after_commit(lambda: BOOKINGS.labels(status).inc())


def moment_of(message: Any) -> datetime:
    """A Timestamp as a datetime in UTC."""
    moment: datetime = message.ToDatetime(tzinfo=UTC)
    return moment


async def locked(unit: Unit, identifier: str, step: str) -> tuple[asyncpg.Record, str]:
    """A booking that is to take a step, locked, and the state that leads to.

    Raises Refusal NOT_FOUND, PERMISSION_DENIED, PRECONDITION_FAILED, WRONG_STATE, HOLD_EXPIRED.
    """
    row = await unit.one(SELECT_FOR_UPDATE, id=identifier)
    if row is None:
        raise not_found("booking", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    status = domain.effective_status(row["status"], row["expires_at"], unit.now)
    return row, domain.next_status(step, status)


async def write(unit: Unit, row: asyncpg.Record, **changes: Any) -> asyncpg.Record:
    """Change columns of a booking that is locked, its version with them; answers it as it is then."""
    values = {name: row[name] for name in CHANGED} | changes
    values["version"] = row["version"] + 1
    values["updated_at"] = unit.now
    changed = await unit.one(UPDATE, id=row["id"], **{f"new_{name}": values[name] for name in CHANGED})
    assert changed is not None
    return changed


def told(
    unit: Unit, row: asyncpg.Record, event: Callable[..., Message], occurred_at: datetime | None = None, **details: Any
) -> pb.Booking:
    """Tell what happened to a booking, as it is now; answers it as a message."""
    booking = project_booking(row)
    unit.emit(event(booking_id=booking.id, booking=booking, **details), occurred_at)
    return booking
