"""Decisions about units, loans and stock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bookings.resources import domain

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BITS = 12


@given(st.lists(st.integers(0, (1 << BITS) - 1), max_size=40), st.integers(1, (1 << BITS) - 1))
def test_counting_all_bits_at_once_equals_counting_each(bitmaps: list[int], within: int) -> None:
    counts = [sum(bitmap >> bit & 1 for bitmap in bitmaps) for bit in range(BITS)]
    wanted = {bit: counts[bit] for bit in range(BITS) if within >> bit & 1}
    fewest = min(wanted.values())
    where = sum(1 << bit for bit, count in wanted.items() if count == fewest)
    assert domain.least(domain.count_all(bitmaps), within) == (fewest, where)


@pytest.mark.parametrize(
    ("count", "first", "names"),
    [
        (None, 1, ["Dress"]),
        (1, 1, ["Dress 1"]),
        (3, 9, ["Dress 09", "Dress 10", "Dress 11"]),
        (2, 0, ["Dress 0", "Dress 1"]),
    ],
)
def test_units_have_numbers_of_one_length(count: int | None, first: int, names: list[str]) -> None:
    assert domain.numbered("Dress", " ", count, first) == names


@pytest.mark.parametrize(
    ("starts_in", "ends_in", "returned", "status"),
    [
        (1, 2, None, "planned"),
        (0, 2, None, "out"),
        (-2, 1, None, "out"),
        (-2, 0, None, "overdue"),
        (-2, 0, NOON, "returned"),
        (1, 2, NOON, "returned"),
    ],
)
def test_the_state_of_a_loan(starts_in: int, ends_in: int, returned: datetime | None, status: str) -> None:
    assert domain.loan_status(NOON + starts_in * HOUR, NOON + ends_in * HOUR, returned, NOON) == status


@pytest.mark.parametrize(("quantity", "active", "low"), [(6, True, False), (5, True, True), (5, False, False)])
def test_stock_is_low_at_its_threshold(quantity: int, active: bool, low: bool) -> None:
    assert domain.is_low(quantity, 5, active) is low


def test_a_stretch_goes_forward_and_ends_in_time() -> None:
    assert domain.stretch_errors(NOON, NOON + 3 * HOUR, 1) == []
    assert [error.code for error in domain.stretch_errors(NOON, NOON, 1)] == ["order"]
    assert [error.code for error in domain.stretch_errors(NOON, NOON + 25 * HOUR, 1)] == ["range"]
