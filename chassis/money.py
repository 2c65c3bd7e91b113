"""Money in minor units. No float touches it."""

from __future__ import annotations

from foyer.common.v1.common_pb2 import Money


def money(amount: int, currency: str) -> Money:
    """An amount in minor units of a currency."""
    return Money(amount=amount, currency=currency)


def split_in_proportion(amount: int, weights: list[int]) -> list[int]:
    """Split `amount` (minor units, not negative) over weights so that the parts sum to it exactly.

    Largest remainders get what rounding leaves, the earlier first; no part exceeds its weight while the amount does not
    exceed their sum. Raises ValueError when there is nothing to split over.
    """
    total = sum(weights)
    if total <= 0:
        if amount == 0:
            return [0] * len(weights)
        raise ValueError("nothing to split over")
    parts = [amount * weight // total for weight in weights]
    remainders = sorted(range(len(weights)), key=lambda i: (-(amount * weights[i] % total), i))
    for i in remainders[: amount - sum(parts)]:
        parts[i] += 1
    return parts
