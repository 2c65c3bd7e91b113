"""Payments at the till: money taken or given back outside any wallet, posted like everything else."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
from foyer.wallet.v1 import wallet_pb2 as pb

from chassis.errors import not_found
from chassis.ids import new_id
from chassis.pages import cursor_decode, page_limit, split_page, wrong_token
from chassis.rows import enum_name
from chassis.unit import UUID_PATTERN, Unit
from services.wallet import domain, ledger
from services.wallet import statements as sql
from services.wallet.movements import about, count, method_name, subject_of
from services.wallet.reads import (
    PAYMENT,
    PAYMENT_BY_EXTERNAL_ID,
    payments_page,
    require_branch,
    require_customer,
    to_payment,
)

LEDGER_REASONS = {"sale": "sale", "refund": "sale_refund"}


async def record(unit: Unit, request: pb.RecordPaymentRequest) -> pb.Payment:
    """Write a payment down; one with an `external_id` that is there already answers the first record.

    Refuses CURRENCY_MISMATCH, PERMISSION_DENIED for a record from before without records.import; raises Absent.
    """
    tax = request.tax if request.HasField("tax") else None
    domain.check_currency(unit.caller.currency, amount=request.amount, tax=tax)
    occurred_at = unit.now
    if request.HasField("occurred_at"):
        unit.check_branch(request.branch_id.lower(), "records.import")
        occurred_at = request.occurred_at.ToDatetime(tzinfo=UTC)
        domain.check_occurred_at(occurred_at, unit.now)
    subject = subject_of(request, unit)
    credited = await about(unit, subject)
    payment_id = await _insert(unit, request, subject, credited, occurred_at)
    if payment_id is None:
        return await _first_record(unit, request.external_id)
    row = await unit.one(PAYMENT, id=payment_id)
    assert row is not None
    payment = to_payment(row)
    event = pb.PaymentRecorded(payment_id=payment_id, payment=payment, time_zone=credited["time_zone"])
    unit.emit(event, occurred_at=occurred_at)
    count(unit, LEDGER_REASONS[row["kind"]])
    return payment


async def _insert(
    unit: Unit,
    request: pb.RecordPaymentRequest,
    subject: dict[str, str | None],
    credited: asyncpg.Record,
    occurred_at: datetime,
) -> str | None:
    kind = enum_name(pb.RecordPaymentRequest, "kind", request.kind)
    method = method_name(request.method)
    branch_id = request.branch_id.lower()
    postings = ledger.payment(kind, request.amount.amount, request.tax.amount, method, branch_id)
    payment_id: str | None = await unit.value(
        sql.RECORD_PAYMENT,
        id=new_id(),
        kind=kind,
        reason=LEDGER_REASONS[kind],
        currency=request.amount.currency,
        amount=request.amount.amount,
        tax=request.tax.amount,
        method=method,
        branch_id=branch_id,
        customer_id=subject["customer_id"],
        staff_id=credited["staff_id"],
        service_id=credited["service_id"],
        booking_id=subject["booking_id"],
        description=request.description,
        occurred_at=occurred_at,
        external_id=request.external_id or None,
        now=unit.now,
        ids=[new_id() for _ in postings.lines],
        accounts=[line.account for line in postings.lines],
        owners=[line.owner_id for line in postings.lines],
        amounts=[line.amount for line in postings.lines],
    )
    return payment_id


async def _first_record(unit: Unit, external_id: str) -> pb.Payment:
    row = await unit.one(PAYMENT_BY_EXTERNAL_ID, external_id=external_id)
    if row is None:
        raise not_found("payment", "external_id")
    unit.check_branch(row["branch_id"], "payments.write")
    return to_payment(row)


async def list_payments(unit: Unit, request: pb.ListPaymentsRequest) -> pb.ListPaymentsResponse:
    """A page of payments, newest first, at the branches the caller may read."""
    limit = page_limit(request.page_size)
    filters: dict[str, object] = {}
    if request.HasField("branch_id"):
        filters["branch_id"] = request.branch_id.lower()
    if request.HasField("customer_id"):
        filters["customer_id"] = request.customer_id.lower()
    allowed = unit.allowed_branches("payments.read")
    if allowed is not None:
        filters["branch_ids"] = allowed
    after = _after(request.page_token)
    rows = await unit.all(payments_page(tuple(filters), bool(after)), **filters, **after, limit=limit + 1)
    if not rows and request.HasField("branch_id"):
        await require_branch(unit, request.branch_id.lower())
    if not rows and request.HasField("customer_id"):
        await require_customer(unit, request.customer_id.lower())
    shown, token = split_page(rows, limit, lambda row: (row["occurred_at"].isoformat(), row["id"]))
    return pb.ListPaymentsResponse(payments=[to_payment(row) for row in shown], next_page_token=token)


def _after(token: str) -> dict[str, object]:
    """Where a page begins. Refuses INVALID_REQUEST for a token that is not of this list."""
    cursor = cursor_decode(token, 2)
    if cursor is None:
        return {}
    try:
        after_time = datetime.fromisoformat(cursor[0])
    except (TypeError, ValueError):
        raise wrong_token() from None
    if after_time.tzinfo is None or not UUID_PATTERN.fullmatch(str(cursor[1])):
        raise wrong_token()
    return {"after_time": after_time, "after_id": cursor[1]}
