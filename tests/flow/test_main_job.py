"""The main job: sign in, keep a customer, find a time, book it, take stored money, tell the customer, count it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx

from tests.flow.conftest import Shop
from tools.running import Running


async def test_signs_in(platform: Running) -> None:
    async with httpx.AsyncClient(base_url=platform.gateway, timeout=30) as api:
        token = await api.post("/v1/auth/token", json=platform.demo["owner"])
        assert token.status_code in (200, 201)
        assert token.json()["expires_in"] > 0
        me = await api.get("/v1/me", headers={"Authorization": f"Bearer {token.json()['access_token']}"})
        assert me.status_code == 200
        assert me.json()["email"] == platform.demo["owner"]["email"]
        assert "bookings.write" in me.json()["permissions"]
        wrong = await api.post("/v1/auth/token", json={**platform.demo["owner"], "password": "not the password"})
        assert wrong.status_code == 401
        assert wrong.json()["code"] == "WRONG_CREDENTIALS"
        assert (await api.get("/v1/me")).status_code == 401


async def test_the_whole_job(shop: Shop) -> None:
    slot = (await shop.slots())[0]
    assert slot["staff_ids"] == [shop.staff_id]
    held = await shop.make("/v1/bookings", shop.booking(slot, hold=True))
    assert held["status"] == "held"
    assert held["expires_at"]
    assert slot["starts_at"] not in [free["starts_at"] for free in await shop.slots()]
    confirmed = await shop.make(f"/v1/bookings/{held['id']}:confirm", {}, 200)
    assert confirmed["status"] == "confirmed"
    assert "expires_at" not in confirmed

    top_up = {"amount": {"amount": 50000, "currency": "CNY"}, "method": "cash", "branch_id": shop.branch_id}
    credited = await shop.make(f"/v1/wallets/{shop.customer_id}:top-up", top_up)
    assert credited["status"] == "credited"
    charge = await shop.make(
        f"/v1/wallets/{shop.customer_id}:charge",
        {
            "amount": {"amount": 12800, "currency": "CNY"},
            "reason": "cut",
            "booking_id": held["id"],
            "branch_id": shop.branch_id,
        },
    )
    wallet = (await shop.api.get(f"/v1/wallets/{shop.customer_id}")).json()
    assert wallet["balances"]["principal"] == {"amount": 37200, "currency": "CNY"}
    entries = (await shop.api.get(f"/v1/wallets/{shop.customer_id}/entries")).json()["entries"]
    assert [entry["amount"]["amount"] for entry in entries] == [-12800, 50000]
    assert entries[0]["balance"]["amount"] == 37200
    await shop.make(f"/v1/charges/{charge['id']}:refund", {"amount": {"amount": 2800, "currency": "CNY"}})

    assert (await shop.make(f"/v1/bookings/{held['id']}:check-in", {}, 200))["status"] == "checked_in"
    assert (await shop.make(f"/v1/bookings/{held['id']}:complete", {}, 200))["status"] == "completed"
    again = await shop.api.post(f"/v1/bookings/{held['id']}:cancel", json={})
    assert again.status_code == 409
    assert again.json()["code"] == "WRONG_STATE"

    await shop.wait_for_total("bookings", 1)
    await shop.wait_for_total("completed", 1)
    await shop.wait_for_total("top_ups", 50000)
    await shop.wait_for_total("charged", 10000)
    await shop.wait_for_total("revenue", 10000)
    sent = await _messages(shop, 2)
    assert {"booking.confirmed", "top_up.credited"} <= {message["event_type"] for message in sent}


async def _messages(shop: Shop, least: int) -> list[dict[str, Any]]:
    for _ in range(150):
        found = (await shop.api.get("/v1/messages", params={"customer_id": shop.customer_id})).json()["messages"]
        by_mail = [message for message in found if message["channel"] == "email" and message["status"] == "sent"]
        if len(by_mail) >= least:
            return by_mail
        await asyncio.sleep(0.1)
    raise AssertionError(f"only {found} were sent")


async def test_refuses_clearly(shop: Shop) -> None:
    wrong = await shop.api.post("/v1/bookings", json={"branch_id": "x", "starts_at": "tomorrow", "colour": "red"})
    assert wrong.status_code == 422
    assert wrong.headers["content-type"] == "application/problem+json"
    named = {error["field"] for error in wrong.json()["errors"]}
    assert {"branch_id", "service_id", "customer_id", "starts_at", "colour"} <= named
    chinese = await shop.api.post("/v1/bookings", json={}, headers={"Accept-Language": "zh-CN,zh;q=0.9"})
    assert any("一" <= letter <= "鿿" for letter in chinese.json()["detail"])
    unknown = await shop.api.get(f"/v1/customers/{uuid4()}")
    assert unknown.status_code == 404
    poor = await shop.api.post(
        f"/v1/wallets/{shop.customer_id}:charge",
        json={"amount": {"amount": 1, "currency": "CNY"}, "reason": "nothing there"},
    )
    assert poor.status_code == 409
    assert poor.json()["code"] == "INSUFFICIENT_FUNDS"
    assert poor.json()["available"] == {"amount": 0, "currency": "CNY"}


async def test_edits_need_the_current_version(shop: Shop) -> None:
    path = f"/v1/customers/{shop.customer_id}"
    tag = (await shop.api.get(path)).headers["etag"]
    changed = await shop.api.patch(path, json={"notes": "likes tea"}, headers={"If-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    late = await shop.api.patch(path, json={"notes": "likes coffee"}, headers={"If-Match": tag})
    assert late.status_code == 412
    assert late.json()["code"] == "PRECONDITION_FAILED"


async def test_pages_hold_everything_once(shop: Shop) -> None:
    mark = uuid4().hex[:8]
    made = {(await shop.make("/v1/customers", {"name": f"Page {mark} {i}"}))["id"] for i in range(7)}
    seen: list[str] = []
    token = ""
    for _ in range(10):
        params = {"query": mark, "page_size": "3", **({"page_token": token} if token else {})}
        page = (await shop.api.get("/v1/customers", params=params)).json()
        seen += [customer["id"] for customer in page["customers"]]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert sorted(seen) == sorted(made)


async def test_events_stream(shop: Shop) -> None:
    slot = (await shop.slots(days_ahead=5))[0]
    async with shop.api.stream("GET", "/v1/events", params={"types": "booking.confirmed"}) as stream:
        assert stream.status_code == 200
        booking = await shop.make("/v1/bookings", shop.booking(slot))
        async with asyncio.timeout(15):
            async for line in stream.aiter_lines():
                if line.startswith("data:") and booking["id"] in line:
                    assert '"type":"booking.confirmed"' in line.replace(" ", "")
                    break
