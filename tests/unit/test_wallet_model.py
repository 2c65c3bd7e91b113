"""The rules of the ledger under any sequence of movements: nothing is overdrawn, and the books always sum to zero."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chassis.errors import Refusal
from services.wallet.models import ORDERS
from tests.unit.wallet_model import Model, attempt

AMOUNTS = st.integers(1, 10_000)


class WalletMachine(RuleBasedStateMachine):
    @initialize(order=st.sampled_from(ORDERS))
    def begin(self, order: str) -> None:
        self.model = Model(order)

    @rule(principal=AMOUNTS, gift=st.integers(0, 5_000), method=st.sampled_from(["cash", "card", "bank", "sandbox"]))
    def top_up(self, principal: int, gift: int, method: str) -> None:
        self.model.top_up(principal, gift, method)

    @rule(amount=AMOUNTS)
    def charge(self, amount: int) -> None:
        before, there = self.model.posted, self.model.available
        taken = attempt(lambda: self.model.charge(amount))
        if isinstance(taken, Refusal):
            assert taken.code == "INSUFFICIENT_FUNDS"
            assert taken.members["available"]["amount"] == there.total < amount
            assert self.model.posted == before
        else:
            assert taken.total == amount

    @rule(amount=AMOUNTS, minutes=st.integers(1, 50))
    def authorize(self, amount: int, minutes: int) -> None:
        with contextlib.suppress(Refusal):
            before = self.model.available
            parts = self.model.authorize(amount, minutes)
            assert self.model.available == before - parts

    @rule(minutes=st.integers(1, 30))
    def wait(self, minutes: int) -> None:
        self.model.now += minutes

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), whole=st.booleans())
    def capture(self, data: st.DataObject, whole: bool) -> None:
        hold = data.draw(st.sampled_from(self.model.holds))
        amount = None if whole else data.draw(AMOUNTS)
        status, before = self.model.status(hold), self.model.posted
        taken = attempt(lambda: self.model.capture(hold, amount))
        if isinstance(taken, Refusal):
            assert taken.code == ("TOO_MUCH" if status == "authorized" else "WRONG_STATE")
        else:
            assert self.model.posted == before - taken
            assert taken.total == (hold.parts.total if amount is None else amount)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        hold = data.draw(st.sampled_from(self.model.holds))
        with contextlib.suppress(Refusal):
            self.model.void(hold)

    @precondition(lambda self: self.model.charges)
    @rule(data=st.data(), whole=st.booleans())
    def refund(self, data: st.DataObject, whole: bool) -> None:
        charged = data.draw(st.sampled_from(self.model.charges))
        amount = None if whole else data.draw(AMOUNTS)
        left = (charged.parts - charged.refunded).total
        given = attempt(lambda: self.model.refund(charged, amount))
        if isinstance(given, Refusal):
            assert given.code == "TOO_MUCH"
            assert given.members["available"]["amount"] == left
            assert left == 0 or (amount is not None and amount > left)
        else:
            assert given.total == (left if amount is None else amount)

    @invariant()
    def books_are_right(self) -> None:
        if hasattr(self, "model"):
            self.model.check()


WalletMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWallet = pytest.mark.timeout(120)(WalletMachine.TestCase)
