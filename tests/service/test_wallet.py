"""Wallet against real PostgreSQL: top-ups, charges, authorizations, refunds, the till, and the books."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from typing import Any

import asyncpg
import pytest
from foyer.access.v1.access_pb2 import Branch, BranchUpdated
from foyer.customers.v1.customers_pb2 import CustomerCard, CustomerCreated
from foyer.wallet.v1 import wallet_pb2 as pb

from chassis.clock import FrozenClock
from chassis.ids import new_id
from chassis.testing import Platform
from chassis.unit import system_caller
from services.wallet.jobs import expire
from tests.service.wallet_shop import BRANCH_ZONE, CHAIN_ZONE, Shop, parts, wallet_alone, yuan
from tools.servers import Servers

GATEWAY = system_caller("gateway", "")


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with wallet_alone(servers, "wallet_alone") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> Shop:
    return await Shop(*alone).open()


def fields(refusal: Any) -> list[str]:
    return [error.field for error in refusal.errors]


# --- top-up ----------------------------------------------------------------------------------------


async def test_a_customer_without_movements_has_an_empty_wallet(shop: Shop) -> None:
    wallet = await shop.wallet()
    assert (wallet.currency, wallet.total.amount, parts(wallet.available)) == ("CNY", 0, (0, 0))
    assert await shop.entries() == []


async def test_cash_is_credited_at_once(shop: Shop) -> None:
    receipt = await shop.top_up(10_000, 2_000, branch_id=shop.branch, staff_id=shop.staff, description="Spring card")
    assert receipt.status == pb.TOP_UP_STATUS_CREDITED
    assert not receipt.HasField("payment_url")
    wallet = await shop.wallet()
    assert (parts(wallet.balances), parts(wallet.available), wallet.total.amount) == ((10_000, 2_000),) * 2 + (12_000,)
    gift, principal = await shop.entries()
    assert (principal.reason, principal.kind) == (pb.ENTRY_REASON_TOP_UP, pb.BALANCE_KIND_PRINCIPAL)
    assert (gift.reason, gift.kind) == (pb.ENTRY_REASON_GIFT, pb.BALANCE_KIND_GIFT)
    assert (principal.amount, principal.balance, principal.description) == (yuan(10_000), yuan(10_000), "Spring card")
    assert principal.source_id == gift.source_id == receipt.id
    [event] = await shop.events(pb.TopUpCredited)
    assert (event.available, event.time_zone, event.staff_id) == (yuan(12_000), BRANCH_ZONE, shop.staff)
    assert await shop.call("GetTopUp", pb.GetTopUpRequest(id=receipt.id)) == receipt
    await shop.books()


async def test_the_day_is_counted_in_the_branchs_zone_else_the_home_branchs_else_the_chains(shop: Shop) -> None:
    await shop.top_up(1_000)
    await shop.hears(
        CustomerCreated(customer_id=shop.customer, card=CustomerCard(home_branch_id=shop.branch, version=2))
    )
    await shop.top_up(1_000)
    zones = [event.time_zone for event in await shop.events(pb.TopUpCredited)]
    assert zones == [CHAIN_ZONE, BRANCH_ZONE]
    await shop.hears(
        BranchUpdated(branch_id=shop.branch, branch=Branch(id=shop.branch, time_zone="Asia/Tokyo", version=2))
    )
    await shop.charge(10, branch_id=shop.branch)
    [charged] = await shop.events(pb.WalletCharged)
    assert charged.time_zone == "Asia/Tokyo"


async def pay(shop: Shop, payment_id: str, paid: bool = True) -> pb.ReceivePaymentCallbackRequest:
    request = pb.SignSandboxPaymentRequest(payment_id=payment_id, paid=paid)
    signed: pb.ReceivePaymentCallbackRequest = await shop.call("SignSandboxPayment", request, GATEWAY)
    return signed


async def test_the_sandbox_credits_once_however_often_it_calls(shop: Shop) -> None:
    receipt = await shop.top_up(5_000, 500, pb.PAYMENT_METHOD_SANDBOX)
    assert receipt.status == pb.TOP_UP_STATUS_PENDING
    assert receipt.payment_url.endswith(f"/v1/sandbox/payments/{receipt.payment_id}")
    assert (await shop.wallet()).total.amount == 0
    shown = await shop.call("GetSandboxPayment", pb.GetSandboxPaymentRequest(payment_id=receipt.payment_id), GATEWAY)
    assert (shown.amount, shown.status) == (yuan(5_000), pb.TOP_UP_STATUS_PENDING)
    signed = await pay(shop, receipt.payment_id)
    answers = await asyncio.gather(*(shop.call("ReceivePaymentCallback", signed, GATEWAY) for _ in range(10)))
    expected = pb.ReceivePaymentCallbackResponse(top_up_id=receipt.id, status=pb.TOP_UP_STATUS_CREDITED)
    assert answers == [expected] * 10
    assert await shop.call("ReceivePaymentCallback", await pay(shop, receipt.payment_id, False), GATEWAY) == expected
    assert parts((await shop.wallet()).balances) == (5_000, 500)
    assert len(await shop.events(pb.TopUpCredited)) == 1
    credited = await shop.call("GetTopUp", pb.GetTopUpRequest(id=receipt.id))
    assert credited.credited_at.ToDatetime(tzinfo=UTC) == shop.clock.now()
    await shop.books()


async def test_forged_unknown_and_wrong_callbacks_are_refused(shop: Shop) -> None:
    receipt = await shop.top_up(5_000, 0, pb.PAYMENT_METHOD_SANDBOX)
    signed = await pay(shop, receipt.payment_id)
    forged = pb.ReceivePaymentCallbackRequest()
    forged.CopyFrom(signed)
    forged.body = signed.body.replace(b"5000", b"9000")
    assert (await shop.refused("ReceivePaymentCallback", forged, GATEWAY)).code == "BAD_SIGNATURE"
    sandbox = shop.platform["wallet"].context
    from services.wallet.providers import PaymentNotice, SandboxProvider

    provider = SandboxProvider(sandbox.settings.secret, sandbox.settings.public_url)
    for notice, code, named in (
        (PaymentNotice("sbx_nobody", True, yuan(5_000)), "NOT_FOUND", ["payment_id"]),
        (PaymentNotice(receipt.payment_id, True, yuan(4_999)), "INVALID_REQUEST", ["amount"]),
        (PaymentNotice(receipt.payment_id, True, yuan(5_000, "USD")), "INVALID_REQUEST", ["amount"]),
    ):
        headers, body = provider.sign(notice, shop.clock.now())
        request = pb.ReceivePaymentCallbackRequest(provider="sandbox", headers=headers, body=body)
        refusal = await shop.refused("ReceivePaymentCallback", request, GATEWAY)
        assert (refusal.code, fields(refusal)) == (code, named)
    unknown = pb.SignSandboxPaymentRequest(payment_id="sbx_nobody", paid=True)
    assert (await shop.refused("SignSandboxPayment", unknown, GATEWAY)).code == "NOT_FOUND"
    assert (await shop.wallet()).total.amount == 0


async def test_a_payment_that_failed_or_was_given_up_counts_when_it_was_paid_after_all(shop: Shop) -> None:
    turned_away, forgotten = [await shop.top_up(100, 0, pb.PAYMENT_METHOD_SANDBOX) for _ in range(2)]
    failed = await shop.call("ReceivePaymentCallback", await pay(shop, turned_away.payment_id, False), GATEWAY)
    assert failed.status == pb.TOP_UP_STATUS_FAILED
    shop.clock.advance(timedelta(hours=25))
    await expire(shop.platform["wallet"].context)
    found = await shop.call("GetTopUp", pb.GetTopUpRequest(id=forgotten.id))
    assert found.status == pb.TOP_UP_STATUS_FAILED
    for receipt in (turned_away, forgotten):
        answer = await shop.call("ReceivePaymentCallback", await pay(shop, receipt.payment_id), GATEWAY)
        assert answer.status == pb.TOP_UP_STATUS_CREDITED
    assert (await shop.wallet()).total.amount == 200


# --- charge and refund -----------------------------------------------------------------------------


async def test_a_charge_takes_principal_and_gift_in_proportion(shop: Shop) -> None:
    await shop.top_up(30_000, 10_000)
    charge = await shop.charge(10_000, booking_id=shop.booking)
    assert (charge.principal, charge.gift, charge.refunded) == (yuan(7_500), yuan(2_500), yuan(0))
    assert parts(charge.available) == (22_500, 7_500)
    assert (charge.branch_id, charge.staff_id, charge.service_id) == (shop.branch, shop.staff, shop.service)
    gift, principal = (await shop.entries())[:2]
    assert (principal.amount.amount, principal.balance.amount) == (-7_500, 22_500)
    assert (gift.amount.amount, gift.balance.amount) == (-2_500, 7_500)
    assert (gift.reason, gift.description, gift.booking_id) == (pb.ENTRY_REASON_CHARGE, "Cut", shop.booking)
    [event] = await shop.events(pb.WalletCharged)
    assert (event.amount, event.available, event.time_zone) == (yuan(10_000), yuan(30_000), BRANCH_ZONE)
    assert (event.staff_id, event.service_id) == (shop.staff, shop.service)
    charge.ClearField("available")
    assert await shop.call("GetCharge", pb.GetChargeRequest(id=charge.id)) == charge
    report = await shop.books()
    assert parts(report.liability) == (22_500, 7_500)


@pytest.mark.parametrize(
    ("order", "expected"),
    [(pb.DEDUCTION_ORDER_PRINCIPAL_FIRST, (300, 50)), (pb.DEDUCTION_ORDER_GIFT_FIRST, (250, 100))],
)
async def test_the_chains_policy_says_which_money_is_used_first(
    shop: Shop, order: int, expected: tuple[int, int]
) -> None:
    await shop.top_up(300, 100)
    await shop.call("UpdateWalletPolicy", pb.UpdateWalletPolicyRequest(deduction_order=order))  # type: ignore[arg-type]
    assert parts(await shop.authorize(350)) == expected
    [hold] = await shop.events(pb.WalletAuthorized)
    await shop.call("VoidAuthorization", pb.VoidAuthorizationRequest(id=hold.authorization_id))
    assert parts(await shop.charge(350)) == expected


async def test_the_policy_keeps_versions(shop: Shop) -> None:
    policy = await shop.call("GetWalletPolicy", pb.GetWalletPolicyRequest())
    assert (policy.deduction_order, policy.charge_on_completion) == (pb.DEDUCTION_ORDER_PROPORTIONAL, False)
    same = await shop.call("UpdateWalletPolicy", pb.UpdateWalletPolicyRequest())
    assert same == policy
    change = pb.UpdateWalletPolicyRequest(charge_on_completion=True)
    changed = await shop.call("UpdateWalletPolicy", change, if_match=policy.version)
    assert (changed.charge_on_completion, changed.version) == (True, policy.version + 1)
    assert (await shop.refused("UpdateWalletPolicy", change, if_match=policy.version)).code == "PRECONDITION_FAILED"
    assert await shop.call("GetWalletPolicy", pb.GetWalletPolicyRequest()) == changed


async def test_too_little_money_changes_nothing_and_says_what_is_there(shop: Shop) -> None:
    refusal = await shop.refused("ChargeWallet", shop.to_charge(1))
    assert (refusal.code, refusal.members["available"]) == ("INSUFFICIENT_FUNDS", {"amount": 0, "currency": "CNY"})
    await shop.top_up(900, 99)
    refusal = await shop.refused("ChargeWallet", shop.to_charge(1_000))
    assert (refusal.code, refusal.members["available"]) == ("INSUFFICIENT_FUNDS", {"amount": 999, "currency": "CNY"})
    assert (await shop.wallet()).total.amount == 999
    assert await shop.events(pb.WalletCharged) == []
    await shop.charge(999)


async def test_another_currency_is_refused(shop: Shop) -> None:
    refusal = await shop.refused("ChargeWallet", shop.to_charge(1, "USD"))
    assert (refusal.code, fields(refusal), refusal.parameters["currency"]) == (
        "CURRENCY_MISMATCH",
        ["amount.currency"],
        "CNY",
    )
    request = pb.TopUpRequest(
        customer_id=shop.customer, amount=yuan(1, "USD"), gift=yuan(1, "EUR"), method=pb.PAYMENT_METHOD_CASH
    )
    assert fields(await shop.refused("TopUp", request)) == ["amount.currency", "gift.currency"]


async def test_refunds_go_back_to_where_it_came_from_and_never_exceed_it(shop: Shop) -> None:
    await shop.top_up(300, 100)
    charge = await shop.charge(101, booking_id=shop.booking)
    assert parts(charge) == (76, 25)
    given = [
        await shop.call("RefundCharge", pb.RefundChargeRequest(id=charge.id, amount=yuan(33), reason="Late"))
        for _ in range(3)
    ]
    refusal = await shop.refused("RefundCharge", pb.RefundChargeRequest(id=charge.id, amount=yuan(3)))
    assert (refusal.code, refusal.members["available"]) == ("TOO_MUCH", {"amount": 2, "currency": "CNY"})
    given.append(await shop.call("RefundCharge", pb.RefundChargeRequest(id=charge.id)))
    assert [refund.amount.amount for refund in given] == [33, 33, 33, 2]
    assert sum(refund.principal.amount for refund in given) == 76
    assert (await shop.refused("RefundCharge", pb.RefundChargeRequest(id=charge.id))).code == "TOO_MUCH"
    assert parts((await shop.wallet()).balances) == (300, 100)
    assert (await shop.call("GetCharge", pb.GetChargeRequest(id=charge.id))).refunded == yuan(101)
    events = await shop.events(pb.ChargeRefunded)
    assert [event.available.amount for event in events] == [332, 365, 398, 400]
    assert {(event.branch_id, event.staff_id, event.service_id) for event in events} == {
        (shop.branch, shop.staff, shop.service)
    }
    await shop.books()


async def test_what_is_named_must_exist(shop: Shop) -> None:
    """Access, customers and bookings do not run here: what is not known cannot be asked for, and that is told."""
    await shop.top_up(100)
    for name in ("branch_id", "staff_id", "service_id", "booking_id", "customer_id"):
        assert (await shop.refused("ChargeWallet", shop.to_charge(1, **{name: new_id()}))).code == "UNAVAILABLE"
    for method, request in (
        ("GetCharge", pb.GetChargeRequest(id=new_id())),
        ("GetTopUp", pb.GetTopUpRequest(id=new_id())),
        ("GetPayment", pb.GetPaymentRequest(id=new_id())),
        ("GetAuthorization", pb.GetAuthorizationRequest(id=new_id())),
        ("RefundCharge", pb.RefundChargeRequest(id=new_id())),
        ("VoidAuthorization", pb.VoidAuthorizationRequest(id=new_id())),
        ("CaptureAuthorization", pb.CaptureAuthorizationRequest(id=new_id())),
    ):
        refusal = await shop.refused(method, request)
        assert (refusal.code, fields(refusal)) == ("NOT_FOUND", ["id"])


async def test_another_chain_sees_nothing(shop: Shop) -> None:
    await shop.top_up(100)
    charge = await shop.charge(10)
    stranger = shop.platform.owner()
    for method, request in (
        ("GetCharge", pb.GetChargeRequest(id=charge.id)),
        ("RefundCharge", pb.RefundChargeRequest(id=charge.id)),
    ):
        assert (await shop.refused(method, request, stranger)).code == "NOT_FOUND"
    report = await shop.call("VerifyBooks", pb.VerifyBooksRequest(), stranger)
    assert (report.balanced, report.posting_count) == (True, 0)


async def test_a_caller_of_one_branch_cannot_charge_or_refund_for_another(shop: Shop) -> None:
    await shop.top_up(100)
    elsewhere = new_id()
    grants = {name: [elsewhere] for name in ("wallet.charge", "wallet.refund", "wallet.read")}
    limited = dataclasses.replace(shop.caller, grants=grants)
    for more in ({"branch_id": shop.branch}, {"booking_id": shop.booking}):
        refusal = await shop.refused("ChargeWallet", shop.to_charge(1, **more), limited)
        assert refusal.code == "PERMISSION_DENIED"
    charge = await shop.charge(10, branch_id=shop.branch)
    assert (
        await shop.refused("RefundCharge", pb.RefundChargeRequest(id=charge.id), limited)
    ).code == "PERMISSION_DENIED"
    assert (await shop.wallet()).total.amount == 90


# --- authorizations --------------------------------------------------------------------------------


async def test_what_is_set_aside_cannot_be_used_until_it_is_let_go(shop: Shop) -> None:
    await shop.top_up(300, 100)
    hold = await shop.authorize(100, booking_id=shop.booking)
    assert (hold.status, parts(hold)) == (pb.AUTHORIZATION_STATUS_AUTHORIZED, (75, 25))
    wallet = await shop.wallet()
    assert (parts(wallet.held), parts(wallet.available), wallet.total.amount) == ((75, 25), (225, 75), 400)
    refusal = await shop.refused("ChargeWallet", shop.to_charge(301))
    assert refusal.members["available"]["amount"] == 300
    voided = await shop.call("VoidAuthorization", pb.VoidAuthorizationRequest(id=hold.id))
    assert voided.status == pb.AUTHORIZATION_STATUS_VOIDED
    again = await shop.refused("VoidAuthorization", pb.VoidAuthorizationRequest(id=hold.id))
    assert (again.code, again.parameters["status"]) == ("WRONG_STATE", "voided")
    assert parts((await shop.wallet()).available) == (300, 100)
    [released] = await shop.events(pb.AuthorizationReleased)
    assert (released.amount, released.expired, released.booking_id) == (yuan(100), False, shop.booking)
    await shop.books()


async def test_a_part_is_captured_and_the_rest_let_go(shop: Shop) -> None:
    await shop.top_up(300, 100)
    hold = await shop.authorize(200, booking_id=shop.booking)
    too_much = pb.CaptureAuthorizationRequest(id=hold.id, amount=yuan(201))
    assert (await shop.refused("CaptureAuthorization", too_much)).members["available"]["amount"] == 200
    captured = await shop.call("CaptureAuthorization", pb.CaptureAuthorizationRequest(id=hold.id, amount=yuan(100)))
    assert (captured.status, captured.captured) == (pb.AUTHORIZATION_STATUS_CAPTURED, yuan(100))
    wallet = await shop.wallet()
    assert (parts(wallet.balances), parts(wallet.held)) == ((225, 75), (0, 0))
    charge = await shop.call("GetCharge", pb.GetChargeRequest(id=captured.charge_id))
    assert (parts(charge), charge.authorization_id, charge.staff_id) == ((75, 25), hold.id, shop.staff)
    [event] = await shop.events(pb.WalletCharged)
    assert (event.charge_id, event.available, event.time_zone) == (charge.id, yuan(300), BRANCH_ZONE)
    assert await shop.events(pb.AuthorizationReleased) == []
    assert (await shop.refused("CaptureAuthorization", pb.CaptureAuthorizationRequest(id=hold.id))).parameters[
        "status"
    ] == "captured"
    await shop.call("RefundCharge", pb.RefundChargeRequest(id=charge.id))
    await shop.books()


async def test_expired_holds_do_not_block_and_are_told_once(shop: Shop) -> None:
    await shop.top_up(100)
    first = await shop.authorize(60, minutes=10)
    second = await shop.authorize(40, minutes=30)
    shop.clock.advance(timedelta(minutes=10))
    assert parts((await shop.wallet()).held) == (40, 0)
    found = await shop.call("GetAuthorization", pb.GetAuthorizationRequest(id=first.id))
    assert found.status == pb.AUTHORIZATION_STATUS_EXPIRED
    late = await shop.refused("CaptureAuthorization", pb.CaptureAuthorizationRequest(id=first.id))
    assert (late.code, late.parameters["status"]) == ("WRONG_STATE", "expired")
    assert await shop.events(pb.AuthorizationReleased) == []
    assert (await shop.charge(60)).available.principal.amount == 0
    [released] = await shop.events(pb.AuthorizationReleased)
    assert (released.authorization_id, released.expired) == (first.id, True)
    shop.clock.advance(timedelta(minutes=20))
    for _ in range(2):
        await expire(shop.platform["wallet"].context)
    assert [event.authorization_id for event in await shop.events(pb.AuthorizationReleased)] == [first.id, second.id]
    wallet = await shop.wallet()
    assert (parts(wallet.held), wallet.total.amount) == ((0, 0), 40)
    await shop.books()


# --- statements and books --------------------------------------------------------------------------


async def test_a_statement_goes_from_opening_to_closing(shop: Shop) -> None:
    await shop.top_up(1_000, 100)
    shop.clock.advance(timedelta(days=1))
    begin = shop.clock.now()
    await shop.charge(110)
    shop.clock.advance(timedelta(days=1))
    end = shop.clock.now()
    await shop.top_up(5)
    request = pb.GetStatementRequest(customer_id=shop.customer, starts_from=begin, ends_before=end)  # type: ignore[arg-type]
    statement = await shop.call("GetStatement", request)
    assert (parts(statement.opening), parts(statement.closing)) == ((1_000, 100), (900, 90))
    assert [entry.amount.amount for entry in statement.entries] == [-100, -10]
    whole = await shop.call("GetStatement", pb.GetStatementRequest(customer_id=shop.customer))
    assert (parts(whole.opening), parts(whole.closing), len(whole.entries)) == ((0, 0), (905, 90), 5)


async def test_entries_come_in_pages(shop: Shop) -> None:
    for amount in range(1, 6):
        await shop.top_up(amount)
    first = await shop.call("ListEntries", pb.ListEntriesRequest(customer_id=shop.customer, page_size=2))
    assert [entry.amount.amount for entry in first.entries] == [5, 4]
    more = pb.ListEntriesRequest(customer_id=shop.customer, page_size=200, page_token=first.next_page_token)
    rest = await shop.call("ListEntries", more)
    assert [entry.balance.amount for entry in rest.entries] == [6, 3, 1]
    assert not rest.HasField("next_page_token")
    for token in ("nonsense", "WyJhIl0", "Wy0xXQ"):
        request = pb.ListEntriesRequest(customer_id=shop.customer, page_token=token)
        assert fields(await shop.refused("ListEntries", request)) == ["page_token"]


async def test_history_cannot_be_changed_and_books_cannot_be_unbalanced(shop: Shop) -> None:
    await shop.top_up(100)
    chain = shop.caller.chain_id
    pool = shop.platform["wallet"].context.store.pool
    columns = "chain_id, id, transaction_id, account, owner_id, amount"
    line = f"insert into postings ({columns}) values ($1, $2, $2, 'cash', $1, 5)"
    for statement, error in (
        ("update postings set amount = 1 where chain_id = $1", asyncpg.InsufficientPrivilegeError),
        ("delete from postings where chain_id = $1", asyncpg.InsufficientPrivilegeError),
        ("delete from transactions where chain_id = $1", asyncpg.InsufficientPrivilegeError),
        ("update wallets set principal = -1 where chain_id = $1", asyncpg.CheckViolationError),
        ("update wallets set principal_held = 101 where chain_id = $1", asyncpg.CheckViolationError),
        (line, asyncpg.CheckViolationError),
    ):
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("select set_config('foyer.chain_id', $1, true)", chain)
            with pytest.raises(error):
                await connection.execute(statement, chain, *([new_id()] if "$2" in statement else []))
            await transaction.rollback()
    await shop.books()


async def test_wrong_books_are_noticed(shop: Shop) -> None:
    from services.wallet.books import IMBALANCE, BooksJob

    await shop.top_up(100)
    context = shop.platform["wallet"].context
    await BooksJob()(context)
    assert IMBALANCE._value.get() == 0
    async with context.store.pool.acquire() as connection:
        await connection.execute(f"set foyer.chain_id = '{shop.caller.chain_id}'")
        await connection.execute("update wallets set principal = 93 where customer_id = $1", shop.customer)
        report = await shop.call("VerifyBooks", pb.VerifyBooksRequest())
        await BooksJob()(context)
        wrong = IMBALANCE._value.get()
        await connection.execute("update wallets set principal = 100 where customer_id = $1", shop.customer)
        await connection.execute("reset foyer.chain_id")
    assert (report.balanced, list(report.wrong_account_ids)) == (False, [f"{shop.customer}:principal"])
    assert wrong == 7
    await shop.books()
