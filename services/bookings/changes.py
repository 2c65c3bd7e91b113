"""What moving, cancelling and not coming cost, by the terms a booking was sold under; and who may still do it.

The terms are frozen on the booking. A fee must have been accepted by whoever changes it, or be waived with a reason.
Customers who change their booking through a link are bound by notice and number of changes; staff are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import policies_pb2
from foyer.bookings.v1.policies_pb2 import ChangePolicy, ChangeTerms, Fee, FeeStep
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.access import Caller
from chassis.codec import to_json
from chassis.errors import Refusal, not_found
from chassis.money import money
from chassis.unit import Unit
from services.bookings import deposits, domain, pricing
from services.bookings.deposits import Row
from services.bookings.rows import OVERRIDE, READ, SELECT

LINK = "link"
"""Kind of a caller who is a customer with a link."""
AFTER_ALL = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a change costs, and what it does to the booking besides."""

    columns: Mapping[str, Any]
    """Columns of the booking that change with it."""
    told: Mapping[str, Any]
    """What the event tells of it."""
    kept_amount: int | None = None
    """How much of the deposit that is set aside is kept, in minor units; None: it stays as it is."""


def free_of_charge(row: Row) -> Cost:
    """The cost of what the house calls off: no fee, and the deposit goes back."""
    status, _ = deposits.after_fees(row, 0)
    return Cost({"deposit_status": status}, {}, 0 if row["deposit_status"] == "authorized" else None)


def policy_of(row: Row) -> ChangePolicy:
    """The terms a booking was sold under; those of bookings from before there were terms are empty."""
    return ChangePolicy.FromString(row["change_policy"] or b"")


def fee_amount(fee: Fee, price_amount: int) -> int:
    """A fee in minor units, at a price; percent round half up."""
    if fee.HasField("percent"):
        return pricing.percent_of(price_amount, fee.percent)
    return fee.amount.amount


def tier_amount(
    tiers: Sequence[policies_pb2.NoticeTier], late: Fee, price_amount: int, starts_at: datetime, moment: datetime
) -> int:
    """What tiers ask for at a moment: the one with the longest notice that is kept, else the late fee."""
    notice = starts_at - moment
    for tier in tiers:
        if notice >= timedelta(minutes=tier.notice_minutes):
            return fee_amount(tier.fee, price_amount)
    return fee_amount(late, price_amount)


# --- what is due ---


def cancel_amount(row: Row, moment: datetime) -> int:
    """What cancelling costs at a moment, in minor units. What was never agreed costs nothing."""
    if row["status"] != "confirmed":
        return 0
    policy = policy_of(row)
    due = tier_amount(policy.cancellation, policy.late_fee, row["price_amount"], row["starts_at"], moment)
    return max(due, row["deposit_amount"]) if _keeps_deposit(row, policy, moment) else due


def _keeps_deposit(row: Row, policy: ChangePolicy, moment: datetime) -> bool:
    """Whether cancelling at a moment forfeits the deposit that is set aside."""
    kept_from = _kept_from(row, policy)
    return row["deposit_status"] == "authorized" and kept_from is not None and moment > kept_from


def _kept_from(row: Row, policy: ChangePolicy) -> datetime | None:
    if not policy.HasField("deposit_kept_notice_minutes"):
        return None
    starts_at: datetime = row["starts_at"]
    return starts_at - timedelta(minutes=policy.deposit_kept_notice_minutes)


def move_amount(row: Row, moment: datetime) -> int:
    """What moving costs at a moment, in minor units."""
    if row["status"] != "confirmed":
        return 0
    policy = policy_of(row)
    return tier_amount(policy.rescheduling, policy.late_rescheduling_fee, row["price_amount"], row["starts_at"], moment)


def no_show_amount(row: Row) -> int:
    """What not coming costs, in minor units: the fee, or all of the deposit where that is kept."""
    policy = policy_of(row)
    due = fee_amount(policy.no_show_fee, row["price_amount"])
    keeps = row["deposit_status"] == "authorized" and policy.HasField("deposit_kept_notice_minutes")
    return max(due, row["deposit_amount"]) if keeps else due


# --- steps ---


def on_cancel(unit: Unit, row: Row, request: pb.CancelBookingRequest) -> Cost:
    """The cost of cancelling a locked booking. Raises Refusal FEE_DUE, TOO_LATE_TO_CHANGE, PERMISSION_DENIED."""
    if is_customer(unit.caller) and row["starts_at"] <= unit.now:
        raise Refusal("TOO_LATE_TO_CHANGE")
    due = cancel_amount(row, unit.now)
    accepted = request.accepted_fee if request.HasField("accepted_fee") else None
    reason = request.waive_fee_reason if request.HasField("waive_fee_reason") else None
    return _ending(row, _paid(unit, row, due, accepted, reason), due, reason)


def on_no_show(unit: Unit, row: Row, request: pb.MarkNoShowRequest) -> Cost:
    """The cost of not coming; nobody has to accept it. Raises Refusal PERMISSION_DENIED."""
    due = no_show_amount(row)
    reason = request.waive_fee_reason if request.HasField("waive_fee_reason") else None
    if reason is not None:
        unit.check_branch(row["branch_id"], OVERRIDE)
    return _ending(row, due if reason is None else 0, due, reason)


def on_reschedule(unit: Unit, row: Row, request: pb.RescheduleBookingRequest) -> Cost:
    """The cost of moving a locked booking.

    Raises Refusal FEE_DUE, PERMISSION_DENIED, and for customers TOO_LATE_TO_CHANGE and CHANGED_TOO_OFTEN.
    """
    if is_customer(unit.caller):
        _check_customer(row, unit.now)
    due = move_amount(row, unit.now)
    accepted = request.accepted_fee if request.HasField("accepted_fee") else None
    reason = request.waive_fee_reason if request.HasField("waive_fee_reason") else None
    paid = _paid(unit, row, due, accepted, reason)
    return Cost(_columns(row, paid, due, reason), _told(row, paid, due, reason))


def is_customer(caller: Caller) -> bool:
    """Whether the caller is a customer with a link, and bound by what customers may do themselves."""
    return caller.kind == LINK


def _check_customer(row: Row, now: datetime) -> None:
    policy = policy_of(row)
    if now > _movable_until(row, policy) or row["starts_at"] <= now:
        raise Refusal("TOO_LATE_TO_CHANGE")
    if policy.HasField("most_changes") and row["change_count"] >= policy.most_changes:
        raise Refusal("CHANGED_TOO_OFTEN", times=row["change_count"])


def _movable_until(row: Row, policy: ChangePolicy) -> datetime:
    starts_at: datetime = row["starts_at"]
    return starts_at - timedelta(minutes=policy.change_notice_minutes)


def _paid(unit: Unit, row: Row, due: int, accepted: Any, reason: str | None) -> int:
    """The fee that is taken of the one that is due. Raises Refusal FEE_DUE, PERMISSION_DENIED."""
    if reason is not None:
        unit.check_branch(row["branch_id"], OVERRIDE)
        return 0
    if due and (accepted is None or (accepted.amount, accepted.currency) != (due, row["currency"])):
        raise Refusal("FEE_DUE", members={"terms": to_json(terms(row, unit.now))})
    return due


def _ending(row: Row, paid: int, due: int, reason: str | None) -> Cost:
    """The cost of what ends a booking: its deposit is decided with it."""
    columns = _columns(row, paid, due, reason)
    status, kept = deposits.after_fees(row, columns["fee_amount"] or 0)
    decided = row["deposit_status"] == "authorized"
    return Cost({**columns, "deposit_status": status}, _told(row, paid, due, reason), kept if decided else None)


def _columns(row: Row, paid: int, due: int, reason: str | None) -> dict[str, Any]:
    total = (row["fee_amount"] or 0) + paid
    return {
        "fee_amount": total or None,
        "fee_waived_reason": reason if reason is not None and due else row["fee_waived_reason"],
    }


def _told(row: Row, paid: int, due: int, reason: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if paid:
        told["fee"] = money(paid, row["currency"])
    if due and reason is not None:
        told |= {"waived_fee": money(due, row["currency"]), "fee_waived_reason": reason}
    return told


# --- terms ---


async def get_terms(request: policies_pb2.GetChangeTermsRequest, unit: Unit) -> ChangeTerms:
    """What changing a booking costs now. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row: asyncpg.Record | None = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("booking", "id")
    unit.check_branch(row["branch_id"], READ)
    return terms(row, unit.now)


def terms(row: Row, now: datetime) -> ChangeTerms:
    """What changing a booking costs at a moment, and until when."""
    policy, currency = policy_of(row), row["currency"]
    status = domain.effective_status(row["status"], row["expires_at"], now)
    can_cancel, can_move = (status in domain.STEPS[step][0] for step in ("cancel", "reschedule"))
    moves_left = max(policy.most_changes - row["change_count"], 0) if policy.HasField("most_changes") else None
    until = min(_movable_until(row, policy), row["starts_at"])
    cancel_fee = cancel_amount(row, now) if can_cancel else 0
    kept = deposits.after_fees(row, (row["fee_amount"] or 0) + cancel_fee)[1] if can_cancel else 0
    found = ChangeTerms(
        booking_id=row["id"],
        status=pb.BookingStatus.Value(f"BOOKING_STATUS_{status.upper()}"),
        can_cancel=can_cancel,
        cancel_fee=money(cancel_fee, currency),
        can_move=can_move,
        customer_can_move=can_move and now <= until and now < row["starts_at"] and moves_left != 0,
        move_fee=money(move_amount(row, now) if can_move else 0, currency),
        moves_left=moves_left,
        customer_can_move_until=_stamp(until),
        no_show_fee=money(no_show_amount(row), currency),
        deposit=None if row["deposit_amount"] is None else money(row["deposit_amount"], currency),
        deposit_status=pb.DepositStatus.Value(f"DEPOSIT_STATUS_{row['deposit_status'].upper()}"),
        deposit_kept=money(kept, currency) if row["deposit_status"] == "authorized" else None,
        fee=None if row["fee_amount"] is None else money(row["fee_amount"], currency),
    )
    if can_cancel:
        bounds = [row["starts_at"] - timedelta(minutes=tier.notice_minutes) for tier in policy.cancellation]
        kept_from = _kept_from(row, policy)
        found.cancellation.extend(steps([*bounds, *([kept_from] if kept_from else [])], row, now, cancel_amount))
    if can_move:
        bounds = [row["starts_at"] - timedelta(minutes=tier.notice_minutes) for tier in policy.rescheduling]
        found.moving.extend(steps(bounds, row, now, move_amount))
    return found


def steps(bounds: Sequence[datetime], row: Row, now: datetime, amount_at: Any) -> list[FeeStep]:
    """What something costs from now on: `bounds` are the last moments of tiers, `amount_at` what it costs at one."""
    ahead = sorted({bound for bound in bounds if bound >= now})
    last = (ahead[-1] if ahead else now) + AFTER_ALL
    amounts = [amount_at(row, bound) for bound in ahead] + [amount_at(row, last)]
    found: list[FeeStep] = []
    for number, (until, amount) in enumerate(zip([*ahead, None], amounts, strict=True)):
        if number + 1 < len(amounts) and amounts[number + 1] == amount:
            continue
        found.append(FeeStep(until=None if until is None else _stamp(until), fee=money(amount, row["currency"])))
    return found


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
