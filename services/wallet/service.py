"""Wallet's RPCs, in the order of the contract."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
from foyer.wallet.v1 import wallet_pb2 as pb
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.app import Context, Service
from chassis.errors import FieldError, invalid
from chassis.pages import cursor_decode, page_limit, split_page, wrong_token
from chassis.rows import enum_name
from chassis.rpc import Call, outside_unit
from chassis.unit import Unit, system_caller
from services.wallet import books, domain, movements, reads, till, top_ups
from services.wallet.domain import Parts
from services.wallet.events import on
from services.wallet.jobs import JOBS
from services.wallet.projections import FETCHERS
from services.wallet.providers import SANDBOX, PaymentNotice, SandboxProvider
from services.wallet.statements import named

LAST_NUMBER = 2**62

OPEN_POLICY = named("""
insert into policies (chain_id, deduction_order, charge_on_completion, version)
values (:chain_id::uuid, 'proportional', false, 1) on conflict do nothing
""")
LOCK_POLICY = named("""
select deduction_order, charge_on_completion, version from policies where chain_id = :chain_id::uuid for update
""")
CHANGE_POLICY = named("""
update policies set deduction_order = coalesce(:deduction_order::text, deduction_order),
  charge_on_completion = coalesce(:charge_on_completion::boolean, charge_on_completion), version = version + 1
where chain_id = :chain_id::uuid
returning deduction_order, charge_on_completion, version
""")


class Wallet:
    """Customers' stored money, and the payments for what was sold."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sandbox = SandboxProvider(context.settings.secret, context.settings.public_url)
        self._providers = {SANDBOX: self._sandbox}

    async def get_wallet(self, request: pb.GetWalletRequest, unit: Unit) -> pb.CustomerWallet:
        """Balances of a customer."""
        return reads.to_wallet(await reads.read_wallet(unit, request.customer_id.lower()))

    async def list_entries(self, request: pb.ListEntriesRequest, unit: Unit) -> pb.ListEntriesResponse:
        """Movements of a wallet, newest first."""
        customer_id = request.customer_id.lower()
        limit = page_limit(request.page_size)
        cursor = cursor_decode(request.page_token, 1)
        before = LAST_NUMBER if cursor is None else cursor[0]
        if not isinstance(before, int) or not 0 <= before <= LAST_NUMBER:
            raise wrong_token()
        rows = await unit.all(reads.ENTRIES, customer_id=customer_id, before=before, limit=limit + 1)
        if not rows:
            await reads.require_customer(unit, customer_id)
        shown, token = split_page(rows, limit, lambda row: (row["number"],))
        return pb.ListEntriesResponse(entries=[reads.to_entry(row) for row in shown], next_page_token=token)

    async def get_statement(self, request: pb.GetStatementRequest, unit: Unit) -> pb.Statement:
        """What moved in a period, and the balances before and after."""
        customer_id = request.customer_id.lower()
        starts_from, ends_before = _moment(request, "starts_from"), _moment(request, "ends_before")
        domain.check_period(starts_from, ends_before)
        # An open end takes in what was written a moment ago, by a process whose clock is a little ahead.
        end = ends_before or datetime.max.replace(tzinfo=UTC)
        most = reads.MOST_STATEMENT_ENTRIES
        rows = await unit.all(
            reads.PERIOD, customer_id=customer_id, starts_from=starts_from, ends_before=end, limit=most + 1
        )
        if len(rows) > most:
            raise invalid(
                FieldError("to", "too_many", f"holds more than {most} movements", f"该期间超过 {most} 条记录")
            )
        wallet = await reads.read_wallet(unit, customer_id)
        closing = await self._balances_before(unit, customer_id, end)
        moved = Parts(
            *(sum(row["amount_amount"] for row in rows if row["kind"] == kind) for kind in ("principal", "gift"))
        )
        return pb.Statement(
            customer_id=customer_id,
            opening=reads.balances(closing - moved, wallet.currency),
            closing=reads.balances(closing, wallet.currency),
            entries=[reads.to_entry(row) for row in rows],
        )

    async def _balances_before(self, unit: Unit, customer_id: str, end: datetime) -> Parts:
        row = await unit.one(reads.BALANCES_BEFORE, customer_id=customer_id, ends_before=end)
        assert row is not None
        return Parts(row["principal"], row["gift"])

    async def top_up(self, request: pb.TopUpRequest, unit: Unit) -> pb.TopUpReceipt:
        """Put money in: at once at the till, later through a provider."""
        provider = self._providers.get(movements.method_name(request.method))
        top_up_id = await top_ups.start_top_up(unit, request, provider)
        row = await unit.one(reads.TOP_UP, id=top_up_id)
        assert row is not None
        return self._receipt(row)

    async def get_top_up(self, request: pb.GetTopUpRequest, unit: Unit) -> pb.TopUpReceipt:
        """A top-up."""
        return self._receipt(await reads.read(unit, reads.TOP_UP, request.id, "top-up", "wallet.read"))

    def _receipt(self, row: asyncpg.Record) -> pb.TopUpReceipt:
        provider = self._providers.get(row["method"])
        url = provider.payment_url(row["payment_id"]) if provider and row["payment_id"] else None
        return reads.to_top_up(row, url)

    @outside_unit
    async def receive_payment_callback(
        self, request: pb.ReceivePaymentCallbackRequest, call: Call
    ) -> pb.ReceivePaymentCallbackResponse:
        """Take a provider's callback. It names no chain: the payment it is about leads to it."""
        provider = self._providers[request.provider]
        notice = provider.read_callback(request.headers, request.body, self._context.clock.now())
        chain_id, top_up_id = await self._owner(provider.name, notice.payment_id)

        async def settle(unit: Unit) -> pb.ReceivePaymentCallbackResponse:
            status = await top_ups.settle(unit, top_up_id, provider.name, notice)
            number = pb.TopUpStatus.Value(f"TOP_UP_STATUS_{status.upper()}")
            return pb.ReceivePaymentCallbackResponse(top_up_id=top_up_id, status=number)

        answer: pb.ReceivePaymentCallbackResponse = await call.run(settle, self._caller(chain_id))
        return answer

    @outside_unit
    async def get_sandbox_payment(self, request: pb.GetSandboxPaymentRequest, call: Call) -> pb.SandboxPayment:
        """What the sandbox's payment page shows."""
        chain_id, top_up_id = await self._owner(SANDBOX, request.payment_id)

        async def read(unit: Unit) -> pb.SandboxPayment:
            row = await unit.one(reads.TOP_UP, id=top_up_id)
            assert row is not None
            found = self._receipt(row)
            return pb.SandboxPayment(payment_id=request.payment_id, amount=found.amount, status=found.status)

        answer: pb.SandboxPayment = await call.run(read, self._caller(chain_id))
        return answer

    @outside_unit
    async def sign_sandbox_payment(
        self, request: pb.SignSandboxPaymentRequest, call: Call
    ) -> pb.ReceivePaymentCallbackRequest:
        """The callback the sandbox would send when the customer pays, or turns away."""
        shown = await self.get_sandbox_payment(pb.GetSandboxPaymentRequest(payment_id=request.payment_id), call)
        notice = PaymentNotice(request.payment_id, request.paid, shown.amount)
        headers, body = self._sandbox.sign(notice, self._context.clock.now())
        return pb.ReceivePaymentCallbackRequest(provider=SANDBOX, headers=headers, body=body)

    async def _owner(self, provider: str, payment_id: str) -> tuple[str, str]:
        return await top_ups.payment_owner(self._context.system_store, self._context.name, provider, payment_id)

    def _caller(self, chain_id: str) -> Any:
        return system_caller(self._context.name, chain_id)

    async def charge_wallet(self, request: pb.ChargeWalletRequest, unit: Unit) -> pb.Charge:
        """Take money out."""
        domain.check_currency(unit.caller.currency, amount=request.amount)
        return await movements.charge(unit, movements.subject_of(request, unit), request.amount, request.reason)

    async def authorize_wallet(self, request: pb.AuthorizeWalletRequest, unit: Unit) -> pb.Authorization:
        """Set money aside."""
        domain.check_currency(unit.caller.currency, amount=request.amount)
        return await self._authorization(unit, await movements.authorize(unit, request))

    async def _authorization(self, unit: Unit, id: str) -> pb.Authorization:  # noqa: A002
        row = await unit.one(reads.AUTHORIZATION, id=id)
        assert row is not None
        return reads.to_authorization(row, unit.now)

    async def get_authorization(self, request: pb.GetAuthorizationRequest, unit: Unit) -> pb.Authorization:
        """An authorization."""
        row = await reads.read(unit, reads.AUTHORIZATION, request.id, "authorization", "wallet.read")
        return reads.to_authorization(row, unit.now)

    async def capture_authorization(self, request: pb.CaptureAuthorizationRequest, unit: Unit) -> pb.Authorization:
        """Charge what was set aside."""
        await movements.capture(unit, request.id, request.amount if request.HasField("amount") else None)
        return await self._authorization(unit, request.id)

    async def void_authorization(self, request: pb.VoidAuthorizationRequest, unit: Unit) -> pb.Authorization:
        """Let go of what was set aside."""
        await movements.void(unit, request.id)
        return await self._authorization(unit, request.id)

    async def get_charge(self, request: pb.GetChargeRequest, unit: Unit) -> pb.Charge:
        """A charge."""
        return reads.to_charge(await reads.read(unit, reads.CHARGE_ROW, request.id, "charge", "wallet.read"))

    async def refund_charge(self, request: pb.RefundChargeRequest, unit: Unit) -> pb.Refund:
        """Give a charge back, or a part of it."""
        return await movements.refund(unit, request)

    async def record_payment(self, request: pb.RecordPaymentRequest, unit: Unit) -> pb.Payment:
        """Write down money taken or given back at the till."""
        return await till.record(unit, request)

    async def list_payments(self, request: pb.ListPaymentsRequest, unit: Unit) -> pb.ListPaymentsResponse:
        """Payments, newest first."""
        return await till.list_payments(unit, request)

    async def get_payment(self, request: pb.GetPaymentRequest, unit: Unit) -> pb.Payment:
        """A payment."""
        return reads.to_payment(await reads.read(unit, reads.PAYMENT, request.id, "payment", "payments.read"))

    async def get_wallet_policy(self, request: pb.GetWalletPolicyRequest, unit: Unit) -> pb.WalletPolicy:  # noqa: ARG002
        """How the chain's wallets work."""
        return await reads.read_policy(unit)

    async def update_wallet_policy(self, request: pb.UpdateWalletPolicyRequest, unit: Unit) -> pb.WalletPolicy:
        """Change how the chain's wallets work."""
        await unit.run(OPEN_POLICY)
        row = await unit.one(LOCK_POLICY)
        assert row is not None
        unit.check_version(row["version"])
        order = request.HasField("deduction_order")
        completion = request.HasField("charge_on_completion")
        if order or completion:
            row = await unit.one(
                CHANGE_POLICY,
                deduction_order=enum_name(type(request), "deduction_order", request.deduction_order) if order else None,
                charge_on_completion=request.charge_on_completion if completion else None,
            )
            assert row is not None
        return reads.to_policy(row)

    async def verify_books(self, request: pb.VerifyBooksRequest, unit: Unit) -> pb.BooksReport:  # noqa: ARG002
        """Check the books of the chain."""
        return await books.verify(unit)


def _moment(request: Message, name: str) -> datetime | None:
    if not request.HasField(name):
        return None
    moment: Timestamp = getattr(request, name)
    return moment.ToDatetime(tzinfo=UTC)


SERVICE = Service(
    name="wallet",
    servicers=[(pb.DESCRIPTOR.services_by_name["Wallet"], Wallet)],
    subscriptions=on,
    fetchers=FETCHERS,
    jobs=JOBS,
)
