"""Decisions about units, loans and stock: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from chassis.errors import FieldError


def numbered(text: str, separator: str, count: int | None, first: int) -> list[str]:
    """Names or codes of new units: the text itself for one, the text with numbers of one length for several."""
    if count is None:
        return [text]
    width = len(str(first + count - 1))
    return [f"{text}{separator}{number:0{width}d}" for number in range(first, first + count)]


def loan_status(starts_at: datetime, ends_at: datetime, returned_at: datetime | None, now: datetime) -> str:
    """The state of a loan as it is to be told at `now`."""
    if returned_at is not None:
        return "returned"
    if ends_at <= now:
        return "overdue"
    return "out" if starts_at <= now else "planned"


def stretch_errors(starts_at: datetime, ends_at: datetime, most_days: int) -> list[FieldError]:
    """What is wrong with a stretch of time: no length, or too much of it."""
    if ends_at <= starts_at:
        return [FieldError("ends_at", "order", "must be after `starts_at`", "应晚于 starts_at")]
    if ends_at - starts_at > timedelta(days=most_days):
        message = f"must be at most {most_days} days after `starts_at`"
        return [FieldError("ends_at", "range", message, f"最多晚于 starts_at {most_days} 天")]
    return []


def is_low(quantity: int, low_at: int, active: bool) -> bool:
    """Whether stock is low: as much as the threshold or less, of what is still kept."""
    return active and quantity <= low_at


def count_all(bitmaps: Iterable[int]) -> list[int]:
    """How many of the bitmaps have each bit, as the digits of a binary number: one bitmap a digit, the lowest first.

    It adds all bits at once, as a column of binary numbers is added by hand.
    """
    digits: list[int] = []
    for bitmap in bitmaps:
        carry = bitmap
        for place, digit in enumerate(digits):
            digits[place], carry = digit ^ carry, digit & carry
        if carry:
            digits.append(carry)
    return digits


def least(digits: Sequence[int], within: int) -> tuple[int, int]:
    """The least count at the bits of `within`, which must have some, and the bits that have it."""
    count = 0
    for place in range(len(digits) - 1, -1, -1):
        lower = within & ~digits[place]
        if lower:
            within = lower
        else:
            count += 1 << place
    return count, within
