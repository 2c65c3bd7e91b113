"""What must hold when everybody comes at once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.flow.conftest import Shop
from tools.running import Running

ROUNDS = 8
LONG_ROUNDS = 50
CONTENDERS = 64


@pytest.mark.timeout(300)
async def test_one_slot_is_sold_once(shop: Shop, long_run: bool) -> None:
    slots = await shop.slots(days_ahead=4, days=30)
    # Slots of an hour on a grid of quarters overlap: every fourth one stands free of the others.
    apart: list[dict[str, Any]] = []
    for slot in slots:
        if not apart or slot["starts_at"] >= apart[-1]["ends_at"]:
            apart.append(slot)
    for slot in apart[: LONG_ROUNDS if long_run else ROUNDS]:
        body = shop.booking(slot, hold=bool(len(apart) % 2))
        answers = await asyncio.gather(*(shop.api.post("/v1/bookings", json=body) for _ in range(CONTENDERS)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [201] + [409] * (CONTENDERS - 1), statuses
        for answer in answers:
            if answer.status_code == 409:
                assert answer.json()["code"] == "SLOT_TAKEN"
                assert answer.json()["nearest"]
    listed = (await shop.api.get("/v1/bookings", params={"staff_id": shop.staff_id, "page_size": 200})).json()
    spans = sorted((booking["starts_at"], booking["ends_at"]) for booking in listed["bookings"])
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


async def test_one_key_charges_once(shop: Shop) -> None:
    wallet = f"/v1/wallets/{shop.customer_id}"
    await shop.make(f"{wallet}:top-up", {"amount": {"amount": 10000, "currency": "CNY"}, "method": "cash"})
    body = {"amount": {"amount": 2500, "currency": "CNY"}, "reason": "once"}
    key = {"Idempotency-Key": str(uuid4())}
    answers = await asyncio.gather(*(shop.api.post(f"{wallet}:charge", json=body, headers=key) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    entries = (await shop.api.get(f"{wallet}/entries")).json()["entries"]
    assert [entry["amount"]["amount"] for entry in entries] == [-2500, 10000]
    other = await shop.api.post(f"{wallet}:charge", json={**body, "reason": "other"}, headers=key)
    assert other.status_code == 422
    assert other.json()["code"] == "IDEMPOTENCY_KEY_REUSED"


async def test_money_is_never_spent_twice(shop: Shop) -> None:
    wallet = f"/v1/wallets/{shop.customer_id}"
    await shop.make(f"{wallet}:top-up", {"amount": {"amount": 1000, "currency": "CNY"}, "method": "cash"})
    body = {"amount": {"amount": 300, "currency": "CNY"}, "reason": "race"}
    answers = await asyncio.gather(*(shop.api.post(f"{wallet}:charge", json=body) for _ in range(30)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 27
    assert (await shop.api.get(wallet)).json()["total"]["amount"] == 100


async def test_a_payment_is_credited_once(shop: Shop, platform: Running) -> None:
    wallet = f"/v1/wallets/{shop.customer_id}"
    started = await shop.make(f"{wallet}:top-up", {"amount": {"amount": 8800, "currency": "CNY"}, "method": "sandbox"})
    assert started["status"] == "pending"
    assert started["payment_url"].startswith(platform.gateway)
    async with httpx.AsyncClient(base_url=platform.gateway, timeout=30) as outside:
        assert (await outside.get(started["payment_url"])).status_code == 200
        body = json.dumps(
            {"payment_id": started["payment_id"], "status": "paid", "amount": {"amount": 8800, "currency": "CNY"}}
        ).encode()
        hook = "/v1/hooks/payments/sandbox"
        genuine = sign(platform.demo["sandbox_payment_secret"], body)
        answers = await asyncio.gather(*(outside.post(hook, content=body, headers=genuine) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        forged = sign(base64.b64encode(b"guess" * 7).decode(), body)
        assert (await outside.post(hook, content=body, headers=forged)).status_code == 401
        stranger = body.replace(started["payment_id"].encode(), b"sbx_" + str(uuid4()).encode())
        headers = sign(platform.demo["sandbox_payment_secret"], stranger)
        assert (await outside.post(hook, content=stranger, headers=headers)).status_code == 404
    entries = (await shop.api.get(f"{wallet}/entries")).json()["entries"]
    assert [entry["amount"]["amount"] for entry in entries] == [8800]


def sign(secret: str, body: bytes) -> dict[str, str]:
    """Headers of a callback by the Standard Webhooks scheme; `secret` is base64."""
    identifier, stamp = f"msg_{uuid4().hex}", str(int(time.time()))
    signed = f"{identifier}.{stamp}.".encode() + body
    signature = base64.b64encode(hmac.new(base64.b64decode(secret), signed, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "webhook-id": identifier,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{signature}",
    }
