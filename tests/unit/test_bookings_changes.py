"""What changing a booking costs, by its tiers; tokens of links; and that they stay out of logs."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1.policies_pb2 import ChangePolicy, Fee, NoticeTier
from foyer.common.v1.common_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from chassis import logs
from chassis.ids import new_id
from services.bookings import changes, deposits
from services.bookings.links.self_service import masked
from services.bookings.links.tokens import TOKEN_LENGTH, LinkTokens

START = datetime(2026, 5, 10, 12, tzinfo=UTC)
DAY = 24 * 60
POLICY = ChangePolicy(
    cancellation=[
        NoticeTier(notice_minutes=2 * DAY),
        NoticeTier(notice_minutes=DAY, fee=Fee(percent=25)),
        NoticeTier(notice_minutes=120, fee=Fee(amount=Money(amount=6000, currency="CNY"))),
    ],
    late_fee=Fee(percent=100),
    no_show_fee=Fee(percent=50),
    most_changes=2,
    change_notice_minutes=DAY,
)


def row(policy: ChangePolicy = POLICY, **changed: Any) -> dict[str, Any]:
    return {
        "id": new_id(),
        "status": "confirmed",
        "starts_at": START,
        "expires_at": None,
        "price_amount": 10001,
        "currency": "CNY",
        "change_policy": policy.SerializeToString(),
        "change_count": 0,
        "deposit_amount": None,
        "deposit_status": "none",
        "fee_amount": None,
        "fee_waived_reason": None,
        **changed,
    }


@pytest.mark.parametrize(
    ("minutes", "amount"),
    [
        (10 * DAY, 0),
        (2 * DAY, 0),
        (2 * DAY - 1, 2500),
        (DAY, 2500),
        (DAY - 1, 6000),
        (120, 6000),
        (119, 10001),
        (-60, 10001),
    ],
)
def test_the_tier_with_the_longest_notice_that_is_kept_holds(minutes: int, amount: int) -> None:
    assert changes.cancel_amount(row(), START - timedelta(minutes=minutes)) == amount


def test_what_was_never_agreed_and_what_has_no_terms_costs_nothing() -> None:
    assert changes.cancel_amount(row(status="held"), START) == 0
    assert changes.move_amount(row(status="held"), START) == 0
    assert changes.cancel_amount(row(change_policy=None), START) == 0
    assert changes.no_show_amount(row(change_policy=None)) == 0


def test_terms_tell_each_step_until_it_ends() -> None:
    terms = changes.terms(row(), START - timedelta(days=3))
    steps = [
        (step.until.ToDatetime(UTC) if step.HasField("until") else None, step.fee.amount) for step in terms.cancellation
    ]
    assert steps == [
        (START - timedelta(days=2), 0),
        (START - timedelta(days=1), 2500),
        (START - timedelta(minutes=120), 6000),
        (None, 10001),
    ]
    assert [(step.HasField("until"), step.fee.amount) for step in terms.moving] == [(False, 0)]
    assert terms.no_show_fee.amount == 5001
    assert (terms.customer_can_move, terms.moves_left) == (True, 2)
    assert terms.customer_can_move_until.ToDatetime(UTC) == START - timedelta(days=1)
    assert not changes.terms(row(change_count=2), START - timedelta(days=3)).customer_can_move
    assert not changes.terms(row(), START - timedelta(minutes=DAY - 1)).customer_can_move
    assert changes.terms(row(), START - timedelta(minutes=DAY)).customer_can_move


def test_terms_of_what_is_over_offer_nothing() -> None:
    terms = changes.terms(row(status="cancelled"), START - timedelta(days=3))
    assert (terms.can_cancel, terms.can_move, terms.customer_can_move) == (False, False, False)
    assert not terms.cancellation
    assert not terms.moving


def test_a_deposit_that_is_kept_counts_as_the_fee() -> None:
    policy = ChangePolicy(late_fee=Fee(percent=10), deposit_kept_notice_minutes=60)
    kept = row(policy, deposit_amount=4000, deposit_status="authorized")
    assert changes.cancel_amount(kept, START - timedelta(minutes=60)) == 1000
    assert changes.cancel_amount(kept, START - timedelta(minutes=59)) == 4000
    assert changes.no_show_amount(kept) == 4000
    assert changes.no_show_amount({**kept, "deposit_status": "released"}) == 0
    terms = changes.terms(kept, START - timedelta(days=1))
    assert [step.fee.amount for step in terms.cancellation] == [1000, 4000]
    assert terms.deposit_kept.amount == 1000


amounts = st.builds(lambda percent: Fee(percent=percent), st.integers(0, 100))
tiers = st.lists(st.integers(0, 5000), unique=True, max_size=6).flatmap(
    lambda notices: st.lists(amounts, min_size=len(notices), max_size=len(notices)).map(
        lambda fees: [
            NoticeTier(notice_minutes=notice, fee=fee)
            for notice, fee in zip(sorted(notices, reverse=True), fees, strict=True)
        ]
    )
)


@given(tiers, amounts, st.integers(0, 6000), st.integers(-10, 6000), st.one_of(st.none(), st.integers(0, 5000)))
def test_the_steps_say_what_will_be_due(
    cancellation: list[NoticeTier], late: Fee, asked: int, later: int, kept: int | None
) -> None:
    policy = ChangePolicy(cancellation=cancellation, late_fee=late, deposit_kept_notice_minutes=kept)
    booking = row(policy, deposit_amount=3000, deposit_status="authorized")
    now, moment = START - timedelta(minutes=asked), START - timedelta(minutes=min(later, asked))
    terms = changes.terms(booking, now)
    step = next(
        each for each in terms.cancellation if not each.HasField("until") or moment <= each.until.ToDatetime(UTC)
    )
    assert step.fee.amount == changes.cancel_amount(booking, moment)
    assert terms.cancellation[0].fee == terms.cancel_fee
    fees = [each.fee.amount for each in terms.cancellation]
    assert all(one != other for one, other in itertools.pairwise(fees))


@pytest.mark.parametrize(
    ("status", "fee", "expected"),
    [
        ("authorized", 0, ("released", 0)),
        ("authorized", 100, ("kept", 100)),
        ("authorized", 9000, ("kept", 4000)),
        ("pending", 100, ("pending", 0)),
        ("due", 100, ("none", 0)),
        ("captured", 100, ("captured", 0)),
    ],
)
def test_what_becomes_of_a_deposit(status: str, fee: int, expected: tuple[str, int]) -> None:
    assert deposits.after_fees(row(deposit_status=status, deposit_amount=4000), fee) == expected


# --- links ---


def test_a_token_names_its_link_and_nobody_makes_another() -> None:
    tokens, chain, link = LinkTokens(b"s" * 32), new_id(), new_id()
    token = tokens.make(chain, link)
    assert len(token) == TOKEN_LENGTH == 64
    assert tokens.read(token) == (chain, link)
    assert LinkTokens(b"t" * 32).read(token) is None
    for place in range(len(token)):
        other = "A" if token[place] != "A" else "B"
        assert tokens.read(token[:place] + other + token[place + 1 :]) is None


@given(st.text(max_size=80))
def test_nonsense_is_no_token(text: str) -> None:
    assert LinkTokens(b"s" * 32).read(text) is None


def test_tokens_stay_out_of_logs() -> None:
    token = LinkTokens(b"s" * 32).make(new_id(), new_id())
    for path in (f"/v1/self-service/{token}", f"GET https://x.example/v1/self-service/{token}:cancel failed"):
        assert token not in logs.without_personal_data(path)
        assert "/self-service/" in logs.without_personal_data(path)
    told = logs.redact(None, "info", {"event": f"'/v1/self-service/{token}/terms'", "token": token})
    assert token not in str(told)


@pytest.mark.parametrize(("name", "shown"), [("王小明", "王*"), ("Ann", "A*"), ("", "")])
def test_names_are_told_by_their_first_letter(name: str, shown: str) -> None:
    assert masked(name) == shown
