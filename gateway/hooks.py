"""Callbacks of payment providers, and the payment page of the built-in sandbox provider.

A callback is handed to the wallet byte by byte, with the headers its signature needs; the wallet checks it and credits
once. The sandbox plays the provider: its page pays, and then calls our own hook over HTTP as a real provider would.
"""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import parse_qs

import grpc
import httpx
from fastapi import APIRouter, Request
from foyer.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from google.protobuf.message import Message
from starlette.responses import Response

from chassis import codec
from chassis.access import CALLER_METADATA
from chassis.client import read
from chassis.errors import FieldError, Refusal, from_call, invalid, not_found
from chassis.rules import violations
from gateway.core import GATEWAY_CALLER, Gateway, exchange_of, respond
from gateway.exchange import Answer, Exchange
from gateway.pages import CONTENT_POLICY, HTML, SANDBOX_PAGE
from gateway.transcode import read_json

LARGEST_CALLBACK_BYTES = 64 * 1024
SIGNATURE_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
LONGEST_HEADER = 1000
DEADLINE_SECONDS = 10.0
CALLBACK_TIMEOUT_SECONDS = 15.0
FORM = "application/x-www-form-urlencoded"
STATUS_TEXTS = {
    "pending": ("waiting to be paid", "待支付"),
    "credited": ("paid", "已支付"),
    "failed": ("turned away", "已取消"),
}

router = APIRouter()


@router.post("/v1/hooks/payments/{provider}", include_in_schema=False)
async def receive_payment_callback(request: Request, provider: str) -> Response:
    """Take a provider's callback."""
    gateway: Gateway = request.app
    exchange = exchange_of(request)
    gateway.count_address(exchange)
    headers = {
        name: value[:LONGEST_HEADER]
        for name in SIGNATURE_HEADERS
        if (value := exchange.header(name.encode())) is not None
    }
    body = await exchange.body(LARGEST_CALLBACK_BYTES)
    message = wallet_pb2.ReceivePaymentCallbackRequest(provider=_text(provider), headers=headers, body=body)
    if any(error.field == "provider" for error in violations(message)):
        raise not_found("provider", "provider")
    answer = await _ask(gateway, exchange, "ReceivePaymentCallback", message)
    return respond(Answer(200, codec.dumps(codec.to_json(answer))))


# Before the page's own route, which would take the verb for a part of the id.
@router.post("/v1/sandbox/payments/{payment_id}:pay", include_in_schema=False)
async def pay_sandbox_payment(request: Request, payment_id: str) -> Response:
    """Pay, or turn away, and tell the platform as a provider would."""
    gateway: Gateway = request.app
    exchange = exchange_of(request)
    gateway.count_address(exchange)
    is_form, paid = await _decision(exchange)
    message = _checked(wallet_pb2.SignSandboxPaymentRequest(payment_id=_text(payment_id), paid=paid))
    signed = await _ask(gateway, exchange, "SignSandboxPayment", message)
    status, told = await _call_back(gateway, signed)
    if status >= 300:
        return respond(Answer(status, told, "application/problem+json"))
    look = wallet_pb2.GetSandboxPaymentRequest(payment_id=payment_id)
    payment = codec.to_json(await _ask(gateway, exchange, "GetSandboxPayment", look, is_read=True))
    return respond(_page(payment, exchange) if is_form else Answer(200, codec.dumps(payment)))


@router.get("/v1/sandbox/payments/{payment_id}", include_in_schema=False)
async def show_sandbox_payment(request: Request, payment_id: str) -> Response:
    """Show the payment page."""
    gateway: Gateway = request.app
    exchange = exchange_of(request)
    gateway.count_address(exchange)
    message = _checked(wallet_pb2.GetSandboxPaymentRequest(payment_id=_text(payment_id)))
    payment = codec.to_json(await _ask(gateway, exchange, "GetSandboxPayment", message, is_read=True))
    return respond(_page(payment, exchange))


async def _call_back(gateway: Gateway, signed: Any) -> tuple[int, bytes]:
    """Send the signed callback to our own hook over HTTP; answers its status and body. Raises Refusal UNAVAILABLE."""
    url = f"{gateway.settings.public_url}/v1/hooks/payments/{signed.provider}"
    headers = {**signed.headers, "content-type": "application/json"}
    try:
        async with httpx.AsyncClient(timeout=CALLBACK_TIMEOUT_SECONDS, trust_env=False) as http:
            answer = await http.post(url, content=signed.body, headers=headers)
    except httpx.HTTPError:
        raise Refusal("UNAVAILABLE") from None
    return answer.status_code, answer.content


async def _decision(exchange: Exchange) -> tuple[bool, bool]:
    """Whether a form was sent, and whether it is paid. Raises Refusal."""
    body = await exchange.body(LARGEST_CALLBACK_BYTES)
    content_type = exchange.header(b"content-type")
    if body and content_type is not None and content_type.partition(";")[0].strip().lower() == FORM:
        values = parse_qs(body.decode("latin-1"), max_num_fields=10)
        return True, values.get("paid", ["true"])[-1] == "true"
    value = read_json(body, content_type) if body else {}
    if type(value) is not dict:
        raise invalid(FieldError("body", "type", "must be an object", "应为对象"))
    errors = [
        FieldError(name, "unknown", "is not known; known are: paid", "未知字段；可用字段：paid")
        for name in value
        if name != "paid"
    ]
    paid = value.get("paid", True)
    if type(paid) is not bool:
        errors.append(FieldError("paid", "type", "must be true or false", "应为 true 或 false"))
    if errors:
        raise invalid(*errors)
    return False, paid


async def _ask(gateway: Gateway, exchange: Exchange, method: str, message: Message, *, is_read: bool = False) -> Any:
    """Call the wallet on the platform's own behalf. Raises Refusal."""
    call = getattr(wallet_pb2_grpc.WalletStub(gateway.clients.channel("wallet")), method)
    metadata = [
        (CALLER_METADATA, gateway.caller_tokens.mint(GATEWAY_CALLER)),
        ("traceparent", exchange.trace.traceparent),
    ]
    if is_read:
        return await read(call, message, metadata, DEADLINE_SECONDS)
    try:
        return await call(message, timeout=DEADLINE_SECONDS, metadata=metadata)
    except grpc.aio.AioRpcError as problem:
        raise from_call(problem) from None


def _checked(message: Message) -> Message:
    errors = violations(message)
    if errors:
        raise invalid(*errors)
    return message


def _text(value: str) -> str:
    """Text of a path that no database chokes on."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _page(payment: dict[str, Any], exchange: Exchange) -> Answer:
    is_chinese = exchange.language == "zh"
    status = str(payment.get("status", "pending"))
    amount = payment.get("amount", {})
    page = SANDBOX_PAGE["zh" if is_chinese else "en"].format(
        payment_id=escape(str(payment.get("payment_id", ""))),
        amount=escape(_amount(amount)),
        status=escape(STATUS_TEXTS.get(status, (status, status))[is_chinese]),
        disabled="" if status == "pending" else " disabled",
    )
    return Answer(
        200, page.encode(), HTML, [(b"content-security-policy", CONTENT_POLICY), (b"cache-control", b"no-store")]
    )


def _amount(amount: dict[str, Any]) -> str:
    """Minor units as people write them, with two decimals as the yuan and most others have."""
    minor, currency = int(amount.get("amount", 0)), amount.get("currency", "")
    decimals = 0 if currency in ("JPY", "KRW", "VND", "CLP", "ISK") else 2
    if not decimals:
        return f"{minor} {currency}"
    return f"{minor // 100}.{minor % 100:02d} {currency}"
