"""Payment providers: how a payment is started there, and how their callbacks are told from forged ones.

PaymentProvider   what wallet asks of a provider
SandboxProvider   the built-in one, for tests and demonstrations: its payment page belongs to the gateway

Callbacks are signed by the Standard Webhooks scheme (https://www.standardwebhooks.com): headers webhook-id,
webhook-timestamp and webhook-signature, which is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; several
signatures stand side by side, separated by blanks, while a provider changes its key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import orjson
from foyer.common.v1.common_pb2 import Money

from chassis.access import derive_key
from chassis.errors import FieldError, Refusal, invalid
from chassis.ids import new_id
from chassis.money import money

TOLERANCE_SECONDS = 300
SANDBOX = "sandbox"
SANDBOX_PREFIX = "sbx_"
MOST_SIGNATURES = 8
MOST_DIGITS = 12
MOST_AMOUNT = 10**12


@dataclass(frozen=True, slots=True)
class PaymentNotice:
    """What a provider tells of a payment."""

    payment_id: str
    paid: bool
    amount: Money


class PaymentProvider(Protocol):
    """What wallet asks of a provider. Nothing of it may be slow: a real one starts payments by a job."""

    name: str

    def payment_id(self, top_up_id: str) -> str:
        """The id a top-up's payment has at the provider."""

    def payment_url(self, payment_id: str) -> str:
        """Where the customer pays."""

    def read_callback(self, headers: Mapping[str, str], body: bytes, now: datetime) -> PaymentNotice:
        """What a callback says. Refuses BAD_SIGNATURE when it is not the provider's, INVALID_REQUEST for its body."""


class SandboxProvider:
    """The built-in test provider."""

    name = SANDBOX

    def __init__(self, platform_secret: bytes, public_url: str) -> None:
        self._key = derive_key(platform_secret, "sandbox-payment")
        self._public_url = public_url.rstrip("/")

    def payment_id(self, top_up_id: str) -> str:
        """The id a top-up's payment has here."""
        return SANDBOX_PREFIX + top_up_id

    def payment_url(self, payment_id: str) -> str:
        """Where the customer pays."""
        return f"{self._public_url}/v1/sandbox/payments/{payment_id}"

    def sign(self, notice: PaymentNotice, now: datetime) -> tuple[dict[str, str], bytes]:
        """Headers and body of the callback that tells of a payment."""
        amount = {"amount": notice.amount.amount, "currency": notice.amount.currency}
        status = "paid" if notice.paid else "failed"
        body = orjson.dumps({"payment_id": notice.payment_id, "status": status, "amount": amount})
        headers = {"webhook-id": f"msg_{new_id()}", "webhook-timestamp": str(int(now.timestamp()))}
        return {**headers, "webhook-signature": signature(self._key, headers, body)}, body

    def read_callback(self, headers: Mapping[str, str], body: bytes, now: datetime) -> PaymentNotice:
        """What a callback says. Refuses BAD_SIGNATURE when it is not ours, INVALID_REQUEST for a wrong body."""
        check_signature(self._key, headers, body, now)
        return read_notice(body)


def signature(key: bytes, headers: Mapping[str, str], body: bytes) -> str:
    """The signature of a body under its id and timestamp."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def check_signature(key: bytes, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
    """Refuse BAD_SIGNATURE unless one of the signatures is right and the callback is of the last or next 5 minutes."""
    timestamp = headers.get("webhook-timestamp", "")
    if not (
        timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= MOST_DIGITS and headers.get("webhook-id")
    ):
        raise Refusal("BAD_SIGNATURE")
    if abs(int(timestamp) - now.timestamp()) > TOLERANCE_SECONDS:
        raise Refusal("BAD_SIGNATURE")
    wanted = signature(key, headers, body).encode()
    given = headers.get("webhook-signature", "").split()[:MOST_SIGNATURES]
    if not any(hmac.compare_digest(wanted, one.encode()) for one in given):
        raise Refusal("BAD_SIGNATURE")


def read_notice(body: bytes) -> PaymentNotice:
    """The notice in a body: `{payment_id, status: paid or failed, amount: {amount, currency}}`.

    Refuses INVALID_REQUEST with every field that is wrong.
    """
    try:
        content = orjson.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise invalid(FieldError("body", "json", "must be a JSON object", "应为 JSON 对象"))
    amount = content.get("amount")
    amount = amount if isinstance(amount, dict) else {}
    checks = {
        "payment_id": isinstance(content.get("payment_id"), str),
        "status": content.get("status") in ("paid", "failed"),
        "amount.amount": type(amount.get("amount")) is int and 0 < amount["amount"] <= MOST_AMOUNT,
        "amount.currency": isinstance(amount.get("currency"), str),
    }
    errors = [
        FieldError(name, "wrong", "is missing or wrong", "缺失或有误") for name, right in checks.items() if not right
    ]
    if errors:
        raise invalid(*errors)
    return PaymentNotice(
        content["payment_id"], content["status"] == "paid", money(amount["amount"], amount["currency"])
    )
