"""Decisions about stored money: how much there is, which of it is used, and how much of a charge may be given back.

Amounts are minor units of the chain's currency. Principal is what the customer paid in, gift what the chain gave
on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from foyer.common.v1.common_pb2 import Money

from chassis.errors import FieldError, Refusal, invalid
from chassis.money import split_in_proportion

HOLD_MINUTES = 7 * 24 * 60
PENDING_TOP_UP_HOURS = 24
# What came to be longer ago was recorded afterwards: it was paid for back then.
AUTOMATIC_CHARGE_WITHIN = timedelta(days=1)
EARLIEST_YEAR = 1970


@dataclass(frozen=True, slots=True)
class Parts:
    """An amount by kind of money."""

    principal: int
    gift: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.principal + self.gift

    def __add__(self, other: Parts) -> Parts:
        return Parts(self.principal + other.principal, self.gift + other.gift)

    def __sub__(self, other: Parts) -> Parts:
        return Parts(self.principal - other.principal, self.gift - other.gift)

    def __neg__(self) -> Parts:
        return Parts(-self.principal, -self.gift)


NOTHING = Parts(0, 0)


@dataclass(frozen=True, slots=True)
class Wallet:
    """A customer's balances."""

    customer_id: str
    currency: str
    posted: Parts
    held: Parts
    holds_expire_at: datetime | None = None

    @property
    def available(self) -> Parts:
        """What can be used."""
        return self.posted - self.held


def split(amount: int, available: Parts, order: str) -> Parts:
    """Which money an amount is taken from, by the chain's deduction order.

    In proportion, the half unit that cannot be split comes from the principal. statements.CHARGE says the same in SQL,
    for it decides without a round trip. Raises ValueError when there is not that much.
    """
    if amount > available.total:
        raise ValueError("more than there is")
    if order == "principal_first":
        principal = min(amount, available.principal)
    elif order == "gift_first":
        principal = amount - min(amount, available.gift)
    else:
        principal = split_in_proportion(amount, [available.principal, available.gift])[0]
    return Parts(principal, amount - principal)


def need(amount: int, available: Parts, currency: str) -> None:
    """Refuse INSUFFICIENT_FUNDS, with what is there, when that is less than the amount."""
    if amount > available.total:
        raise insufficient(available.total, currency)


def insufficient(available: int, currency: str) -> Refusal:
    """There is too little money."""
    return Refusal("INSUFFICIENT_FUNDS", members={"available": {"amount": available, "currency": currency}})


def capture(amount: int | None, authorized: Parts, currency: str) -> Parts:
    """What of an authorization is charged: all of it, or an amount, in the proportion that was set aside.

    Refuses TOO_MUCH when the amount is more than was set aside.
    """
    if amount is None:
        return authorized
    if amount > authorized.total:
        raise too_much(authorized.total, currency)
    return split(amount, authorized, "proportional")


def refund(amount: int | None, charged: Parts, refunded: Parts, currency: str) -> Parts:
    """What a refund gives back to each kind: in proportion to the charge, counted over all its refunds together.

    Counted that way no sequence of refunds gives a kind more than was taken from it, and the last one leaves nothing
    over. Refuses TOO_MUCH when it is more than is left, or nothing is left.
    """
    left = charged - refunded
    wanted = left.total if amount is None else amount
    if wanted > left.total or wanted <= 0:
        raise too_much(left.total, currency)
    principal = (refunded.total + wanted) * charged.principal // charged.total - refunded.principal
    return Parts(principal, wanted - principal)


def too_much(left: int, currency: str) -> Refusal:
    """More than there is left."""
    return Refusal("TOO_MUCH", members={"available": {"amount": left, "currency": currency}})


def wrong_state(status: str) -> Refusal:
    """The step is not possible in this state."""
    return Refusal("WRONG_STATE", status=status)


def status_at(status: str, expires_at: datetime, now: datetime) -> str:
    """State of an authorization at a time: it expires by itself, whether or not somebody has written that down."""
    return "expired" if status == "authorized" and expires_at <= now else status


def check_currency(currency: str, **amounts: Money | None) -> None:
    """Refuse CURRENCY_MISMATCH, with every field it is true for, unless all amounts are in the chain's currency."""
    errors = [
        FieldError(f"{name}.currency", "currency_mismatch", f"must be {currency}", f"必须为 {currency}")
        for name, amount in amounts.items()
        if amount is not None and amount.currency != currency
    ]
    if errors:
        raise Refusal("CURRENCY_MISMATCH", errors=errors, currency=currency)


def check_occurred_at(occurred_at: datetime, now: datetime) -> None:
    """Refuse INVALID_REQUEST for a record of the future, or from before there were such records."""
    if occurred_at > now:
        raise invalid(FieldError("occurred_at", "future", "must not be in the future", "不能晚于当前时间"))
    if occurred_at.year < EARLIEST_YEAR:
        raise invalid(FieldError("occurred_at", "too_early", f"must be in {EARLIEST_YEAR} or later", "时间过早"))


def check_period(starts_from: datetime | None, ends_before: datetime | None) -> None:
    """Refuse INVALID_REQUEST when a period ends before it begins."""
    if starts_from is not None and ends_before is not None and starts_from > ends_before:
        raise invalid(FieldError("from", "after_end", "must not be after `to`", "不能晚于结束时间"))
