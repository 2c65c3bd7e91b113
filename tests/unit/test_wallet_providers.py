"""Callbacks of payment providers: told from forged ones, and read."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from chassis.access import derive_key
from chassis.errors import Refusal
from chassis.money import money
from services.wallet.providers import PaymentNotice, SandboxProvider, read_notice

SECRET = b"s" * 32
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOTICE = PaymentNotice("sbx_1", True, money(5000, "CNY"))


@pytest.fixture
def sandbox() -> SandboxProvider:
    return SandboxProvider(SECRET, "http://front.example:8080/")


def test_urls_and_ids(sandbox: SandboxProvider) -> None:
    assert sandbox.payment_id("7") == "sbx_7"
    assert sandbox.payment_url("sbx_7") == "http://front.example:8080/v1/sandbox/payments/sbx_7"


def test_signed_by_the_standard_webhooks_scheme(sandbox: SandboxProvider) -> None:
    headers, body = sandbox.sign(NOTICE, NOW)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = derive_key(SECRET, "sandbox-payment")
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert orjson.loads(body) == {
        "payment_id": "sbx_1",
        "status": "paid",
        "amount": {"amount": 5000, "currency": "CNY"},
    }


@pytest.mark.parametrize("minutes", [-5, 0, 5])
def test_a_callback_is_read(sandbox: SandboxProvider, minutes: int) -> None:
    headers, body = sandbox.sign(NOTICE, NOW)
    assert sandbox.read_callback(headers, body, NOW + timedelta(minutes=minutes)) == NOTICE


def test_one_right_signature_among_others_is_enough(sandbox: SandboxProvider) -> None:
    headers, body = sandbox.sign(NOTICE, NOW)
    headers["webhook-signature"] = f"v1,b2xk v1a,x {headers['webhook-signature']}"
    assert sandbox.read_callback(headers, body, NOW) == NOTICE


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-signature": "v1,bm90IG91cnM="},
        {"webhook-signature": ""},
        {"webhook-signature": "nonsense 签名"},
        {"webhook-id": "another"},
        {"webhook-id": ""},
        {"webhook-timestamp": "1"},
        {"webhook-timestamp": "not a number"},
        {"webhook-timestamp": "9" * 400},
        {"webhook-timestamp": ""},
    ],
)
def test_forged_callbacks_are_refused(sandbox: SandboxProvider, changes: dict[str, str]) -> None:
    headers, body = sandbox.sign(NOTICE, NOW)
    with pytest.raises(Refusal) as told:
        sandbox.read_callback({**headers, **changes}, body, NOW)
    assert told.value.code == "BAD_SIGNATURE"


def test_another_body_another_key_or_another_time_is_refused(sandbox: SandboxProvider) -> None:
    headers, body = sandbox.sign(NOTICE, NOW)
    others = [
        (SandboxProvider(b"t" * 32, ""), body, NOW),
        (sandbox, body.replace(b"5000", b"9000"), NOW),
        (sandbox, body, NOW + timedelta(minutes=6)),
        (sandbox, body, NOW - timedelta(minutes=6)),
    ]
    for provider, told_body, at in others:
        with pytest.raises(Refusal) as told:
            provider.read_callback(headers, told_body, at)
        assert told.value.code == "BAD_SIGNATURE"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"not json", ["body"]),
        (b"[]", ["body"]),
        (b"{}", ["payment_id", "status", "amount.amount", "amount.currency"]),
        (b'{"payment_id":"x","status":"maybe","amount":{"amount":1,"currency":"CNY"}}', ["status"]),
        (b'{"payment_id":"x","status":"paid","amount":{"amount":true,"currency":"CNY"}}', ["amount.amount"]),
        (b'{"payment_id":"x","status":["paid"],"amount":7}', ["status", "amount.amount", "amount.currency"]),
    ],
)
def test_every_wrong_field_of_a_signed_body_is_named(body: bytes, fields: list[str]) -> None:
    with pytest.raises(Refusal) as told:
        read_notice(body)
    assert told.value.code == "INVALID_REQUEST"
    assert [error.field for error in told.value.errors] == fields
