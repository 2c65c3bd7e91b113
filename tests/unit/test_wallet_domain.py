"""Splitting, capturing and refunding, and what is written for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial

import pytest
from foyer.common.v1.common_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Refusal
from services.wallet import domain, ledger
from services.wallet.domain import Parts, Wallet
from tests.unit.wallet_model import attempt

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AMOUNT = st.integers(0, 10**12)
BIG = st.builds(Parts, AMOUNT, AMOUNT)


@pytest.mark.parametrize(
    ("order", "amount", "expected"),
    [
        ("proportional", 100, Parts(75, 25)),
        ("proportional", 1, Parts(1, 0)),
        ("proportional", 400, Parts(300, 100)),
        ("principal_first", 100, Parts(100, 0)),
        ("principal_first", 350, Parts(300, 50)),
        ("gift_first", 100, Parts(0, 100)),
        ("gift_first", 350, Parts(250, 100)),
    ],
)
def test_deduction_order(order: str, amount: int, expected: Parts) -> None:
    assert domain.split(amount, Parts(300, 100), order) == expected


def test_the_half_that_cannot_be_split_comes_from_the_principal() -> None:
    assert domain.split(1, Parts(5, 5), "proportional") == Parts(1, 0)
    assert domain.split(3, Parts(1, 1000), "proportional") == Parts(0, 3)


def test_more_than_there_is_is_not_split() -> None:
    with pytest.raises(ValueError, match="more than there is"):
        domain.split(401, Parts(300, 100), "gift_first")


@given(BIG, st.data(), st.sampled_from(["proportional", "principal_first", "gift_first"]))
def test_split_takes_exactly_the_amount_and_never_more_of_a_kind_than_there_is(
    available: Parts, data: st.DataObject, order: str
) -> None:
    amount = data.draw(st.integers(0, available.total))
    parts = domain.split(amount, available, order)
    assert parts.total == amount
    assert 0 <= parts.principal <= available.principal
    assert 0 <= parts.gift <= available.gift
    if order == "proportional" and available.total:
        assert abs(parts.principal - Fraction(amount * available.principal, available.total)) <= Fraction(1, 2)


@given(BIG.filter(lambda parts: parts.total > 0), st.lists(st.integers(1, 10**12), max_size=8))
def test_refunds_never_exceed_a_kind_and_the_last_leaves_nothing(charged: Parts, amounts: list[int]) -> None:
    refunded = domain.NOTHING
    for amount in [*amounts, None]:
        left = charged - refunded
        given_back = attempt(partial(domain.refund, amount, charged, refunded, "CNY"))
        if isinstance(given_back, Refusal):
            assert given_back.code == "TOO_MUCH"
            assert given_back.members["available"] == {"amount": left.total, "currency": "CNY"}
            assert left.total < (amount or 1)
            continue
        assert given_back.total == (amount or left.total)
        assert 0 <= given_back.principal <= left.principal
        assert 0 <= given_back.gift <= left.gift
        refunded += given_back
    assert refunded == charged


def test_capture_takes_a_part_in_proportion() -> None:
    assert domain.capture(None, Parts(300, 100), "CNY") == Parts(300, 100)
    assert domain.capture(100, Parts(300, 100), "CNY") == Parts(75, 25)
    with pytest.raises(Refusal) as told:
        domain.capture(401, Parts(300, 100), "CNY")
    assert (told.value.code, told.value.members) == ("TOO_MUCH", {"available": {"amount": 400, "currency": "CNY"}})


def test_too_little_money_says_what_is_there() -> None:
    wallet = Wallet("c", "CNY", Parts(100, 50), Parts(30, 20))
    domain.need(100, wallet.available, "CNY")
    with pytest.raises(Refusal) as told:
        domain.need(101, wallet.available, "CNY")
    assert told.value.code == "INSUFFICIENT_FUNDS"
    assert told.value.members == {"available": {"amount": 100, "currency": "CNY"}}


def test_every_field_in_another_currency_is_named() -> None:
    domain.check_currency("CNY", amount=Money(amount=1, currency="CNY"), gift=None)
    with pytest.raises(Refusal) as told:
        domain.check_currency(
            "CNY", amount=Money(amount=1, currency="USD"), tax=Money(currency="EUR"), gift=Money(currency="CNY")
        )
    assert told.value.code == "CURRENCY_MISMATCH"
    assert [error.field for error in told.value.errors] == ["amount.currency", "tax.currency"]


def test_an_authorization_expires_by_itself() -> None:
    assert domain.status_at("authorized", NOW, NOW) == "expired"
    assert domain.status_at("authorized", NOW + timedelta(seconds=1), NOW) == "authorized"
    assert domain.status_at("captured", NOW - timedelta(days=1), NOW) == "captured"


@pytest.mark.parametrize("wrong", [NOW + timedelta(seconds=1), datetime(1969, 12, 31, tzinfo=UTC)])
def test_records_of_the_future_or_of_long_ago_are_refused(wrong: datetime) -> None:
    domain.check_occurred_at(NOW - timedelta(days=3000), NOW)
    with pytest.raises(Refusal) as told:
        domain.check_occurred_at(wrong, NOW)
    assert [error.field for error in told.value.errors] == ["occurred_at"]


def test_a_period_does_not_end_before_it_begins() -> None:
    domain.check_period(None, NOW)
    domain.check_period(NOW, NOW)
    with pytest.raises(Refusal) as told:
        domain.check_period(NOW, NOW - timedelta(days=1))
    assert [error.field for error in told.value.errors] == ["from"]


# --- postings ---------------------------------------------------------------------------------------


def lines(postings: ledger.Postings) -> dict[tuple[str, str], int]:
    return {(line.account, line.owner_id): line.amount for line in postings.lines}


def test_top_up_at_the_till_and_through_a_provider() -> None:
    till = ledger.top_up(Parts(1000, 200), "card", "c", "b", "chain")
    assert lines(till) == {
        ("principal", "c"): 1000,
        ("gift", "c"): 200,
        ("card", "b"): -1000,
        ("gift_expense", "chain"): -200,
    }
    assert (till.entries, till.customer) == (2, Parts(1000, 200))
    assert lines(ledger.top_up(Parts(1000, 0), "sandbox", "c", "b", "chain")) == {
        ("principal", "c"): 1000,
        ("clearing", "chain"): -1000,
    }
    assert ("cash", "chain") in lines(ledger.top_up(Parts(1, 0), "cash", "c", None, "chain"))


def test_charge_and_refund_mirror_each_other() -> None:
    taken = ledger.charge(Parts(75, 25), "c", "b", "chain")
    assert lines(taken) == {("principal", "c"): -75, ("gift", "c"): -25, ("revenue", "b"): 100}
    given_back = ledger.refund(Parts(75, 25), "c", "b", "chain")
    assert lines(given_back) == {account: -amount for account, amount in lines(taken).items()}
    assert lines(ledger.charge(Parts(0, 25), "c", None, "chain")) == {("gift", "c"): -25, ("revenue", "chain"): 25}


def test_the_till_posts_revenue_and_tax() -> None:
    assert lines(ledger.payment("sale", 1000, 130, "cash", "b")) == {
        ("cash", "b"): -1130,
        ("revenue", "b"): 1000,
        ("tax", "b"): 130,
    }
    assert lines(ledger.payment("refund", 1000, 0, "other", "b")) == {("other", "b"): 1000, ("revenue", "b"): -1000}
    assert ledger.payment("sale", 0, 0, "cash", "b").lines == ()


@given(st.lists(st.tuples(st.sampled_from(["principal", "gift", "revenue"]), st.integers(-5, 5)), max_size=4))
def test_postings_that_do_not_sum_to_zero_cannot_be_made(given_lines: list[tuple[str, int]]) -> None:
    made = tuple(ledger.Posting(account, "x", amount) for account, amount in given_lines)
    accounts = [account for account, _ in given_lines]
    if sum(amount for _, amount in given_lines) == 0 and len(set(accounts)) == len(accounts):
        assert ledger.Postings(made).lines == made
    else:
        with pytest.raises(ValueError, match=r"zero|twice"):
            ledger.Postings(made)


def test_the_customers_lines_come_first() -> None:
    till = ledger.top_up(Parts(1, 1), "cash", "c", "b", "chain")
    assert [line.account for line in till.lines[:2]] == ["principal", "gift"]
