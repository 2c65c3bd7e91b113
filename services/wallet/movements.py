"""Movements of stored money: each locks the customer's wallet, decides, posts and emits within its caller's unit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from foyer.common.v1.common_pb2 import Money
from foyer.wallet.v1 import wallet_pb2 as pb
from google.protobuf.message import Message

from chassis import metrics
from chassis.db import Prepared
from chassis.ids import new_id
from chassis.money import money
from chassis.rows import enum_name
from chassis.unit import Absent, Unit
from services.wallet import deposits, domain, ledger
from services.wallet import statements as sql
from services.wallet.domain import NOTHING, Parts, Wallet
from services.wallet.reads import AUTHORIZATION, CHARGE_ROW, DEFAULT_ORDER, POLICY, balances, moment, read, wallet_of

MOVEMENTS = metrics.counter("foyer_wallet_movements_total", "Movements of stored money.", ("reason",))
SUBJECT = ("customer_id", "booking_id", "branch_id", "staff_id", "service_id")

Subject = Mapping[str, str | None]
"""Whose money moves and what it is credited to: the parameters of statements' `about`."""


def subject_of(request: Message, unit: Unit) -> dict[str, str | None]:
    """The subject a request names; fields that it does not have are not said."""
    subject: dict[str, str | None] = {name: str(getattr(request, name, "")).lower() or None for name in SUBJECT}
    subject["time_zone"] = unit.caller.time_zone
    return subject


def check_known(row: asyncpg.Record, subject: Subject) -> None:
    """Raise Absent for the first thing of the subject that is not known here."""
    missing: str | None = row["missing"]
    if missing is None:
        return
    named = subject[f"{missing}_id"]
    if named is None:
        # The branch of the booking.
        raise Absent("branch", row["branch_id"], field="booking_id")
    raise Absent(missing, named, field=f"{missing}_id")


async def about(unit: Unit, subject: Subject) -> asyncpg.Record:
    """What a movement is credited to and the zone its day is counted in. Raises Absent for what is not known here."""
    row = await unit.one(sql.ABOUT, **subject)
    assert row is not None
    check_known(row, subject)
    return row


async def lock(unit: Unit, customer_id: str, *, currency: str | None = None) -> Wallet:
    """Lock a customer's wallet until the unit ends, let go of holds whose time has come, and answer what there is.

    A wallet that is not there yet is opened in `currency` where that is given, else it is empty.
    """
    row = await unit.one(sql.LOCK, customer_id=customer_id)
    if row is None and currency is not None:
        await unit.run(sql.OPEN, customer_id=customer_id, currency=currency, now=unit.now)
        row = await unit.one(sql.LOCK, customer_id=customer_id)
    if row is None:
        return Wallet(customer_id, unit.caller.currency, NOTHING, NOTHING)
    wallet = wallet_of(customer_id, row)
    if wallet.holds_expire_at is not None and wallet.holds_expire_at <= unit.now:
        wallet = await release_expired(unit, customer_id)
    return wallet


async def release_expired(unit: Unit, customer_id: str) -> Wallet:
    """Let go of a locked wallet's holds whose time has come; answers what there is then."""
    rows = await unit.all(sql.EXPIRE, customer_id=customer_id, now=unit.now)
    for row in rows:
        if row["id"] is not None:
            _emit_released(
                unit, row["id"], customer_id, money(row["released"], row["currency"]), row["booking_id"], True
            )
            await deposits.closed(unit, row["booking_id"], row["id"], 0)
    return wallet_of(customer_id, rows[0])


def _emit_released(
    unit: Unit, authorization_id: str, customer_id: str, amount: Money, booking_id: str | None, expired: bool
) -> None:
    unit.emit(
        pb.AuthorizationReleased(
            authorization_id=authorization_id,
            customer_id=customer_id,
            amount=amount,
            expired=expired,
            booking_id=booking_id,
        )
    )


async def move(
    unit: Unit,
    transaction_id: str,
    reason: str,
    customer_id: str,
    postings: ledger.Postings,
    *,
    released: Parts = NOTHING,
    description: str | None = None,
    booking_id: str | None = None,
    branch_id: str | None = None,
) -> Wallet:
    """Post a transaction in a locked wallet, and let go of what was held for it; answers what there is then."""
    change = postings.customer
    row = await unit.one(
        sql.MOVE,
        id=transaction_id,
        reason=reason,
        customer_id=customer_id,
        principal=change.principal,
        gift=change.gift,
        principal_held=-released.principal,
        gift_held=-released.gift,
        entries=postings.entries,
        ids=[new_id() for _ in postings.lines],
        accounts=[line.account for line in postings.lines],
        owners=[line.owner_id for line in postings.lines],
        amounts=[line.amount for line in postings.lines],
        description=description,
        booking_id=booking_id,
        branch_id=branch_id,
        now=unit.now,
    )
    assert row is not None
    count(unit, reason)
    return wallet_of(customer_id, row)


def count(unit: Unit, reason: str) -> None:
    """Count a movement once it is committed."""
    unit.after_commit(MOVEMENTS.labels(reason).inc)


# --- charge ---------------------------------------------------------------------------------------


async def charge(unit: Unit, subject: Subject, amount: Money, reason: str, *, automatic: bool = False) -> pb.Charge:
    """Take money out of a wallet, in one statement.

    Refuses INSUFFICIENT_FUNDS with what is there, CURRENCY_MISMATCH; raises Absent for what is not known here.
    """
    charge_id = new_id()
    parameters: dict[str, Any] = {
        **subject,
        "id": charge_id,
        "amount": amount.amount,
        "currency": amount.currency,
        "reason": reason,
        "automatic": automatic,
        "now": unit.now,
        "principal_entry_id": new_id(),
        "gift_entry_id": new_id(),
        "revenue_entry_id": new_id(),
    }
    customer_id = parameters["customer_id"]
    row = await unit.one(sql.CHARGE, **parameters)
    assert row is not None
    check_known(row, subject)
    if row["principal_part"] is None and row["holds_expire_at"] is not None and row["holds_expire_at"] <= unit.now:
        # Money that is free again since a hold's time has come: let it go, and try once more.
        await release_expired(unit, customer_id)
        row = await unit.one(sql.CHARGE, **parameters)
        assert row is not None
    if row["principal_part"] is None:
        if row["currency"] is not None:
            domain.check_currency(row["currency"], amount=amount)
        raise domain.insufficient((row["principal_available"] or 0) + (row["gift_available"] or 0), amount.currency)
    if row["branch_id"] is not None:
        unit.check_branch(row["branch_id"], "wallet.charge")
    taken = Parts(row["principal_part"], row["gift_part"])
    left = Parts(row["principal_available"], row["gift_available"]) - taken
    count(unit, "charge")
    event = _emit_charged(
        unit, charge_id, customer_id, taken, left, amount.currency, reason, row, subject["booking_id"]
    )
    return _charge_of(event, unit, left)


def _emit_charged(
    unit: Unit,
    charge_id: str,
    customer_id: str,
    taken: Parts,
    left: Parts,
    currency: str,
    reason: str,
    credited: asyncpg.Record,
    booking_id: str | None,
) -> pb.WalletCharged:
    event = pb.WalletCharged(
        charge_id=charge_id,
        customer_id=customer_id,
        amount=money(taken.total, currency),
        principal=money(taken.principal, currency),
        gift=money(taken.gift, currency),
        reason=reason,
        booking_id=booking_id,
        branch_id=credited["branch_id"],
        staff_id=credited["staff_id"],
        service_id=credited["service_id"],
        time_zone=credited["time_zone"],
        available=money(left.total, currency),
    )
    unit.emit(event)
    return event


def _charge_of(event: pb.WalletCharged, unit: Unit, left: Parts) -> pb.Charge:
    """The answer to a charge: what its event says."""
    currency = event.amount.currency
    made = pb.Charge(
        id=event.charge_id,
        customer_id=event.customer_id,
        amount=event.amount,
        principal=event.principal,
        gift=event.gift,
        refunded=money(0, currency),
        reason=event.reason,
        created_at=moment(unit.now),
        available=balances(left, currency),
    )
    for name in ("booking_id", "branch_id", "staff_id", "service_id"):
        if event.HasField(name):
            setattr(made, name, getattr(event, name))
    return made


# --- authorizations -------------------------------------------------------------------------------


async def authorize(unit: Unit, request: pb.AuthorizeWalletRequest) -> str:
    """Set money aside; answers the authorization's id. Refuses INSUFFICIENT_FUNDS, CURRENCY_MISMATCH."""
    subject = subject_of(request, unit)
    credited = await about(unit, subject)
    if credited["branch_id"] is not None:
        unit.check_branch(credited["branch_id"], "wallet.charge")
    expires_at = unit.now + timedelta(minutes=request.expires_in_minutes or domain.HOLD_MINUTES)
    return await set_aside(unit, subject, credited, request.amount, request.reason, expires_at)


async def set_aside(
    unit: Unit, subject: Subject, credited: asyncpg.Record, amount: Money, reason: str, expires_at: datetime
) -> str:
    """Set money of a subject's customer aside until a moment; answers the authorization's id.

    `credited` is what `about` told of the subject. Refuses INSUFFICIENT_FUNDS, CURRENCY_MISMATCH.
    """
    wallet = await lock(unit, str(subject["customer_id"]))
    domain.check_currency(wallet.currency, amount=amount)
    domain.need(amount.amount, wallet.available, wallet.currency)
    policy = await unit.one(POLICY)
    order = DEFAULT_ORDER if policy is None else policy["deduction_order"]
    parts = domain.split(amount.amount, wallet.available, order)
    authorization_id = new_id()
    await unit.run(
        sql.HOLD,
        id=authorization_id,
        customer_id=wallet.customer_id,
        principal=parts.principal,
        gift=parts.gift,
        currency=wallet.currency,
        reason=reason,
        booking_id=subject["booking_id"],
        branch_id=credited["branch_id"],
        staff_id=credited["staff_id"],
        service_id=credited["service_id"],
        time_zone=credited["time_zone"],
        expires_at=expires_at,
        now=unit.now,
    )
    unit.emit(
        pb.WalletAuthorized(
            authorization_id=authorization_id,
            customer_id=wallet.customer_id,
            amount=amount,
            booking_id=subject["booking_id"],
        )
    )
    count(unit, "authorize")
    return authorization_id


async def _lock_with(
    unit: Unit, statement: Prepared, row_id: str, kind: str, permission: str
) -> tuple[asyncpg.Record, Wallet]:
    """A row that belongs to a customer, read under the lock of the customer's wallet."""
    row = await read(unit, statement, row_id, kind, permission)
    locked = await unit.one(sql.LOCK, customer_id=row["customer_id"])
    assert locked is not None
    row = await read(unit, statement, row_id, kind, permission)
    return row, wallet_of(row["customer_id"], locked)


async def _lock_open(unit: Unit, id: str) -> tuple[asyncpg.Record, Wallet]:  # noqa: A002
    """An authorization that can still be captured or voided. Refuses NOT_FOUND, WRONG_STATE."""
    row, wallet = await _lock_with(unit, AUTHORIZATION, id, "authorization", "wallet.charge")
    status = domain.status_at(row["status"], row["expires_at"], unit.now)
    if status != "authorized":
        raise domain.wrong_state(status)
    if wallet.holds_expire_at is not None and wallet.holds_expire_at <= unit.now:
        wallet = await release_expired(unit, wallet.customer_id)
    return row, wallet


async def capture(unit: Unit, id: str, wanted: Money | None) -> None:  # noqa: A002
    """Charge what was set aside, or a part of it; the rest is let go.

    Refuses WRONG_STATE, TOO_MUCH, CURRENCY_MISMATCH.
    """
    row, _ = await _lock_open(unit, id)
    amount: int | None = None
    if wanted is not None:
        domain.check_currency(row["currency"], amount=wanted)
        amount = wanted.amount
    authorized = Parts(row["principal"], row["gift"])
    taken = domain.capture(amount, authorized, row["currency"])
    charge_id = new_id()
    await unit.run(
        sql.CAPTURE, id=row["id"], charge_id=charge_id, principal=taken.principal, gift=taken.gift, now=unit.now
    )
    wallet = await move(
        unit,
        charge_id,
        "charge",
        row["customer_id"],
        ledger.charge(taken, row["customer_id"], row["branch_id"], unit.chain_id),
        released=authorized,
        description=row["reason"],
        booking_id=row["booking_id"],
        branch_id=row["branch_id"],
    )
    _emit_charged(
        unit,
        charge_id,
        row["customer_id"],
        taken,
        wallet.available,
        row["currency"],
        row["reason"],
        row,
        row["booking_id"],
    )
    await deposits.closed(unit, row["booking_id"], row["id"], taken.total)


async def void(unit: Unit, id: str) -> None:  # noqa: A002
    """Let go of what was set aside. Refuses WRONG_STATE."""
    row, _ = await _lock_open(unit, id)
    await unit.run(
        sql.LET_GO, id=row["id"], customer_id=row["customer_id"], principal=row["principal"], gift=row["gift"]
    )
    amount = money(row["principal"] + row["gift"], row["currency"])
    _emit_released(unit, row["id"], row["customer_id"], amount, row["booking_id"], False)
    await deposits.closed(unit, row["booking_id"], row["id"], 0)
    count(unit, "void")


# --- refund ---------------------------------------------------------------------------------------


async def refund(unit: Unit, request: pb.RefundChargeRequest) -> pb.Refund:
    """Give a charge back, or a part of it, to where it came from.

    Refuses TOO_MUCH with what is left, CURRENCY_MISMATCH.
    """
    row, _ = await _lock_with(unit, CHARGE_ROW, request.id, "charge", "wallet.refund")
    currency: str = row["currency"]
    amount: int | None = None
    if request.HasField("amount"):
        domain.check_currency(currency, amount=request.amount)
        amount = request.amount.amount
    charged = Parts(row["principal"], row["gift"])
    given = domain.refund(amount, charged, Parts(row["principal_refunded"], row["gift_refunded"]), currency)
    refund_id = new_id()
    reason = request.reason or None
    await unit.run(
        sql.REFUND,
        id=refund_id,
        charge_id=row["id"],
        principal=given.principal,
        gift=given.gift,
        reason=reason,
        now=unit.now,
    )
    wallet = await move(
        unit,
        refund_id,
        "refund",
        row["customer_id"],
        ledger.refund(given, row["customer_id"], row["branch_id"], unit.chain_id),
        description=reason,
        booking_id=row["booking_id"],
        branch_id=row["branch_id"],
    )
    made = pb.Refund(
        id=refund_id,
        charge_id=row["id"],
        customer_id=row["customer_id"],
        amount=money(given.total, currency),
        principal=money(given.principal, currency),
        gift=money(given.gift, currency),
        reason=reason,
        created_at=moment(unit.now),
    )
    unit.emit(
        pb.ChargeRefunded(
            refund_id=refund_id,
            charge_id=row["id"],
            customer_id=row["customer_id"],
            amount=made.amount,
            principal=made.principal,
            gift=made.gift,
            branch_id=row["branch_id"],
            staff_id=row["staff_id"],
            service_id=row["service_id"],
            time_zone=row["time_zone"],
            available=money(wallet.available.total, currency),
        )
    )
    return made


def method_name(method: int) -> str:
    """A payment method as it is stored."""
    return enum_name(pb.TopUpRequest, "method", method)
