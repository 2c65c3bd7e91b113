"""Wallet under contention, and against a model of it: nothing is spent twice, and the entries tell one story."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from foyer.wallet.v1 import wallet_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.testing import Platform
from chassis.unit import system_caller
from services.wallet import domain
from services.wallet.domain import Parts
from services.wallet.models import ORDERS
from tests.service.wallet_shop import Shop, parts, wallet_alone, yuan
from tests.unit.wallet_model import Model
from tools.servers import Servers

GATEWAY = system_caller("gateway", "")


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with wallet_alone(servers, "wallet_parallel") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> Shop:
    return await Shop(*alone).open()


async def outcomes(calls: list[Awaitable[Any]]) -> Counter[str]:
    """How often each outcome came: OK, or the name of a refusal. Anything else is an error."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, Refusal):
            raise answer
    return Counter(answer.code if isinstance(answer, Refusal) else "OK" for answer in answers)


async def check_story(shop: Shop) -> None:
    """Running balances follow the amounts, entry by entry, and end at the wallet's balances."""
    balances = {pb.BALANCE_KIND_PRINCIPAL: 0, pb.BALANCE_KIND_GIFT: 0}
    for entry in reversed(await shop.entries()):
        balances[entry.kind] += entry.amount.amount
        assert entry.balance.amount == balances[entry.kind] >= 0
    assert parts((await shop.wallet()).balances) == tuple(balances.values())
    await shop.books()


async def test_twenty_times_one_charge_with_one_key_is_one_charge(shop: Shop) -> None:
    await shop.top_up(10_000, 1_000)
    request = shop.to_charge(700, booking_id=shop.booking)
    answers = await asyncio.gather(*(shop.call("ChargeWallet", request, key="k-1") for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert len(await shop.events(pb.WalletCharged)) == 1
    assert [entry.amount.amount for entry in (await shop.entries())[:2]] == [-64, -636]
    assert (await shop.refused("ChargeWallet", shop.to_charge(701), key="k-1")).code == "IDEMPOTENCY_KEY_REUSED"
    await check_story(shop)


async def test_many_charges_on_one_wallet_never_overdraw_it(shop: Shop) -> None:
    await shop.top_up(5_000, 2_003)
    counted = await outcomes([shop.charge(100 + number % 7) for number in range(120)])
    assert set(counted) == {"OK", "INSUFFICIENT_FUNDS"}
    left = (await shop.wallet()).total.amount
    assert 0 <= left < 100 + 6
    charged = sum(event.amount.amount for event in await shop.events(pb.WalletCharged))
    assert charged + left == 7_003
    assert len(await shop.events(pb.WalletCharged)) == counted["OK"]
    await check_story(shop)


async def test_everything_at_once_on_one_wallet(shop: Shop) -> None:
    await shop.top_up(2_000, 500)
    holds = [await shop.authorize(50) for _ in range(8)]
    charges = [await shop.charge(40) for _ in range(8)]
    waiting = [await shop.top_up(30, 0, pb.PAYMENT_METHOD_SANDBOX) for _ in range(4)]
    signing = [pb.SignSandboxPaymentRequest(payment_id=receipt.payment_id, paid=True) for receipt in waiting]
    signed = [await shop.call("SignSandboxPayment", request, GATEWAY) for request in signing]
    calls: list[Awaitable[Any]] = []
    for hold, charge in zip(holds, charges, strict=True):
        calls += [shop.call("CaptureAuthorization", pb.CaptureAuthorizationRequest(id=hold.id, amount=yuan(20)))]
        calls.append(shop.call("VoidAuthorization", pb.VoidAuthorizationRequest(id=hold.id)))
        calls += [shop.call("RefundCharge", pb.RefundChargeRequest(id=charge.id, amount=yuan(30))) for _ in range(2)]
        calls += [shop.charge(60), shop.authorize(70), shop.top_up(10)]
    for callback in signed:
        calls += [shop.call("ReceivePaymentCallback", callback, GATEWAY) for _ in range(3)]
    counted = await outcomes(calls)
    assert counted["WRONG_STATE"] == 8
    assert counted["TOO_MUCH"] == 8
    assert set(counted) <= {"OK", "WRONG_STATE", "TOO_MUCH", "INSUFFICIENT_FUNDS"}
    captured = [await shop.call("GetAuthorization", pb.GetAuthorizationRequest(id=hold.id)) for hold in holds]
    for hold in captured:
        voided = hold.status == pb.AUTHORIZATION_STATUS_VOIDED
        assert voided or (hold.status == pb.AUTHORIZATION_STATUS_CAPTURED and hold.captured.amount == 20)
    await check_story(shop)


async def test_a_hold_that_expires_is_let_go_by_one_of_many(shop: Shop) -> None:
    await shop.top_up(100)
    await shop.authorize(100, minutes=5)
    shop.clock.advance(timedelta(minutes=5))
    counted = await outcomes([shop.charge(10) for _ in range(20)])
    assert counted == {"OK": 10, "INSUFFICIENT_FUNDS": 10}
    assert len(await shop.events(pb.AuthorizationReleased)) == 1
    await check_story(shop)


AMOUNT = st.integers(1, 10**12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(principal=AMOUNT, gift=st.integers(0, 10**12), order=st.sampled_from(ORDERS), data=st.data())
async def test_the_statement_splits_as_the_domain_does(
    alone: tuple[Platform, FrozenClock], principal: int, gift: int, order: str, data: st.DataObject
) -> None:
    shop = await Shop(*alone).open()
    amount = data.draw(st.integers(1, min(principal + gift, 10**12)))
    await shop.top_up(principal, gift)
    await set_order(shop, order)
    assert parts(await shop.charge(amount)) == shown(domain.split(amount, Parts(principal, gift), order))


async def set_order(shop: Shop, order: str) -> None:
    number = pb.DeductionOrder.Value(f"DEDUCTION_ORDER_{order.upper()}")
    await shop.call("UpdateWalletPolicy", pb.UpdateWalletPolicyRequest(deduction_order=number))


def shown(split: Parts) -> tuple[int, int]:
    return split.principal, split.gift


STEPS = st.one_of(
    st.tuples(st.just("top_up"), st.integers(1, 3_000), st.integers(0, 900)),
    st.tuples(st.just("charge"), st.integers(1, 2_500), st.just(0)),
    st.tuples(st.just("authorize"), st.integers(1, 2_500), st.integers(1, 40)),
    st.tuples(st.just("capture"), st.integers(0, 2_500), st.integers(0, 50)),
    st.tuples(st.just("void"), st.just(0), st.integers(0, 50)),
    st.tuples(st.just("refund"), st.integers(0, 2_500), st.integers(0, 50)),
    st.tuples(st.just("wait"), st.integers(1, 30), st.just(0)),
)


class Walk:
    """One wallet and its model, taken through the same steps."""

    def __init__(self, shop: Shop, order: str) -> None:
        self.shop = shop
        self.model = Model(order)
        self.charges: list[str] = []
        self.holds: list[str] = []

    async def step(self, name: str, first: int, second: int) -> None:
        """Do a step in both: the same happens, or the same refusal."""
        shop, model = self.shop, self.model
        if name == "top_up":
            model.top_up(first, second)
            await shop.top_up(first, second)
        elif name == "wait":
            model.now += first
            shop.clock.advance(timedelta(minutes=first))
        elif name == "charge":
            made = await self.both(lambda: model.charge(first), shop.charge(first))
            self.charges += [made.id] if made else []
        elif name == "authorize":
            made = await self.both(lambda: model.authorize(first, second), shop.authorize(first, second))
            self.holds += [made.id] if made else []
        elif name == "refund" and self.charges:
            number = second % len(self.charges)
            request = pb.RefundChargeRequest(id=self.charges[number], amount=yuan(first) if first else None)
            charged = model.charges[number]
            await self.both(lambda: model.refund(charged, first or None), shop.call("RefundCharge", request))
        elif name in ("capture", "void") and self.holds:
            await self.end_hold(name, second % len(self.holds), first)

    async def end_hold(self, name: str, number: int, amount: int) -> None:
        hold_id, hold = self.holds[number], self.model.holds[number]
        if name == "void":
            request = pb.VoidAuthorizationRequest(id=hold_id)
            await self.both(lambda: self.model.void(hold), self.shop.call("VoidAuthorization", request))
            return
        capture = pb.CaptureAuthorizationRequest(id=hold_id, amount=yuan(amount) if amount else None)
        captured = await self.both(
            lambda: self.model.capture(hold, amount or None), self.shop.call("CaptureAuthorization", capture), False
        )
        self.charges += [captured.charge_id] if captured else []

    async def both(self, expected: Callable[[], Parts | None], call: Awaitable[Any], split: bool = True) -> Any:
        wanted: Parts | Refusal | None
        try:
            wanted = expected()
        except Refusal as refusal:
            wanted = refusal
        try:
            answer = await call
        except Refusal as refusal:
            assert isinstance(wanted, Refusal)
            assert (refusal.code, refusal.members) == (wanted.code, wanted.members)  # noqa: PT017
            return None
        assert not isinstance(wanted, Refusal)
        if split and wanted is not None:
            assert parts(answer) == shown(wanted)
        return answer

    async def check(self) -> None:
        """Wallet and model agree, in balances and in every entry."""
        wallet = await self.shop.wallet()
        model = self.model
        assert parts(wallet.balances) == shown(model.posted)
        assert parts(wallet.held) == shown(model.held)
        assert parts(wallet.available) == shown(model.available)
        kinds = {pb.BALANCE_KIND_PRINCIPAL: "principal", pb.BALANCE_KIND_GIFT: "gift"}
        told = [(kinds[e.kind], e.amount.amount, e.balance.amount) for e in reversed(await self.shop.entries())]
        assert told == model.entries
        model.check()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.sampled_from(ORDERS), steps=st.lists(STEPS, min_size=12, max_size=40))
async def test_the_ledger_agrees_with_its_model(
    alone: tuple[Platform, FrozenClock], order: str, steps: list[tuple[str, int, int]]
) -> None:
    walk = Walk(await Shop(*alone).open(), order)
    await set_order(walk.shop, order)
    for step in (("top_up", 3_000, 700), *steps):
        await walk.step(*step)
    await walk.check()
    await walk.shop.books()
