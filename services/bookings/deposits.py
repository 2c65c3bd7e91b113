"""Deposits that the wallet sets aside: asked for, kept or let go, all by events.

A booking that needs one is held until the wallet has answered; nothing is called while a transaction is open:

    due → pending → authorized → captured (completed), kept (fees) or released
                  → refused    the booking is cancelled and its time free

Whatever is interrupted ends closed. A hold whose answer does not come in time expires; an answer that comes after that
finds the booking gone, and the money is let go again (deposit_answers.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg
from foyer.bookings.v1 import policies_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.money import money
from chassis.unit import Unit

Row = Mapping[str, Any] | asyncpg.Record


def status_at_first(policy: policies_pb2.BookingPolicy, amount: int, *, hold: bool, waived: bool) -> str:
    """Where the deposit of a new booking stands: `none` is collected, it is `due`, or the wallet is asked at once."""
    if not policy.collect_deposits or amount <= 0 or waived:
        return "none"
    return "due" if hold else "pending"


def ask(unit: Unit, row: Row) -> None:
    """Have the wallet set the deposit of a booking aside; it answers by event."""
    ends_at = Timestamp()
    ends_at.FromDatetime(row["ends_at"])
    unit.emit(
        policies_pb2.BookingDepositRequested(
            booking_id=row["id"],
            customer_id=row["customer_id"],
            branch_id=row["branch_id"],
            amount=money(row["deposit_amount"], row["currency"]),
            reason=row["service_name"],
            time_zone=row["time_zone"],
            ends_at=ends_at,
        )
    )


def after_fees(row: Row, fee_amount: int) -> tuple[str, int]:
    """Where the deposit of a booking that comes to nothing stands then, and how much of it is kept for the fees.

    One that is still being set aside is decided when the wallet's answer is there.
    """
    status: str = row["deposit_status"]
    if status == "authorized":
        kept = min(row["deposit_amount"], fee_amount)
        return ("kept" if kept else "released"), kept
    return ("none" if status == "due" else status), 0


def settle(unit: Unit, row: Row, kept_amount: int) -> None:
    """Have the wallet keep a part of what is set aside for a booking, and let go of the rest, or of all of it."""
    if kept_amount:
        unit.emit(
            policies_pb2.BookingDepositKept(
                booking_id=row["id"],
                customer_id=row["customer_id"],
                amount=money(kept_amount, row["currency"]),
            )
        )
    else:
        release(unit, row)


def release(unit: Unit, row: Row) -> None:
    """Have the wallet let go of whatever is set aside for a booking."""
    unit.emit(policies_pb2.BookingDepositReleased(booking_id=row["id"], customer_id=row["customer_id"]))
