"""kill -9 in the middle of the main job: it comes back by itself, nothing acknowledged is lost, the books agree."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.flow.conftest import Shop, client, open_shop
from tools import running
from tools.running import Running

VICTIMS = ("bookings", "wallet", "reports", "nats", "postgres", "access", "customers", "notify", "gateway")
SHORT_VICTIMS = ("wallet", "nats", "postgres", "reports")
PAUSE_SECONDS = 3.0
RECOVERY_SECONDS = 40.0
WORKERS = 6


class Work:
    """Customers who top up and spend, each write repeated with its key until it is answered."""

    def __init__(self, shop: Shop, customers: list[str]) -> None:
        self.shop = shop
        self.customers = customers
        self.acknowledged: dict[str, int] = dict.fromkeys(customers, 0)
        self.answers = 0
        self.bookings: set[str] = set()
        self.stopping = False

    async def send(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """A write, with one key, until somebody answers it; bounded."""
        headers = {"Idempotency-Key": str(uuid4())}
        ends_at = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < ends_at:
            try:
                answer = await self.shop.api.post(path, json=body, headers=headers, timeout=10)
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code < 500 and answer.status_code != 429:
                return answer
            await asyncio.sleep(0.1)
        raise AssertionError(f"nobody answered {path} for {RECOVERY_SECONDS} s")

    async def spend(self, customer: str, seed: int) -> None:
        chance = random.Random(seed)
        money = {"currency": "CNY"}
        while not self.stopping:
            if chance.random() < 0.4:
                amount = chance.randint(100, 5000)
                body: dict[str, Any] = {"amount": {"amount": amount, **money}, "method": "cash"}
                answer = await self.send(f"/v1/wallets/{customer}:top-up", {**body, "branch_id": self.shop.branch_id})
                assert answer.status_code == 201, answer.text
                self.acknowledged[customer] += amount
            else:
                amount = chance.randint(50, 3000)
                body = {"amount": {"amount": amount, **money}, "reason": "spent", "branch_id": self.shop.branch_id}
                answer = await self.send(f"/v1/wallets/{customer}:charge", body)
                assert answer.status_code in (201, 409), answer.text
                if answer.status_code == 201:
                    self.acknowledged[customer] -= amount
            self.answers += 1

    async def book(self) -> None:
        for slot in await self.shop.slots(days_ahead=2, days=30):
            if self.stopping:
                return
            answer = await self.send("/v1/bookings", self.shop.booking(slot))
            assert answer.status_code in (201, 409), answer.text
            if answer.status_code == 201:
                self.bookings.add(answer.json()["id"])
            await asyncio.sleep(0.05)


@pytest.mark.timeout(1200)
async def test_killed_in_the_middle(long_run: bool) -> None:
    platform = running.start(environ={"FOYER_DEMO": "true"})
    try:
        async with client(platform, platform.demo["api_key"]) as api:
            await strike(platform, api, VICTIMS * 4 if long_run else SHORT_VICTIMS)
    finally:
        platform.stop()


async def strike(platform: Running, api: httpx.AsyncClient, victims: tuple[str, ...]) -> None:
    shop = await open_shop(api)
    customers = [(await shop.make("/v1/customers", {"name": f"Spender {i}"}))["id"] for i in range(WORKERS)]
    work = Work(shop, customers)
    tasks = [asyncio.create_task(work.spend(customer, i)) for i, customer in enumerate(customers)]
    tasks.append(asyncio.create_task(work.book()))
    for victim in victims:
        await asyncio.sleep(PAUSE_SECONDS)
        before = work.answers
        pid = platform.pid(victim)
        assert pid is not None, f"{victim} is not running"
        os.kill(pid, signal.SIGKILL)
        await until(lambda count=before: work.answers > count + 20, f"work went on after {victim} was killed")
    work.stopping = True
    await asyncio.wait_for(asyncio.gather(*tasks), RECOVERY_SECONDS * 2)
    for customer in customers:
        wallet = (await retry(api, f"/v1/wallets/{customer}"))["total"]["amount"]
        assert wallet == work.acknowledged[customer], "what was acknowledged is what is there"
    books = await retry(api, "/v1/wallet-books")
    assert books["balanced"], books
    listed = await every_booking(shop)
    assert work.bookings <= {booking["id"] for booking in listed}
    live = sorted((b["starts_at"], b["ends_at"]) for b in listed if b["status"] == "confirmed")
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(live))
    topped_up, charged = await ledger(shop, customers)
    await shop.wait_for_total("top_ups", topped_up)
    await shop.wait_for_total("charged", charged)
    await shop.wait_for_total("bookings", len(work.bookings))


async def every_booking(shop: Shop) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token = ""
    start = datetime.now(UTC) - timedelta(days=1)
    for _ in range(100):
        params = {"branch_id": shop.branch_id, "page_size": "200", "from": start.isoformat()}
        page = (
            await shop.api.get("/v1/bookings", params={**params, **({"page_token": token} if token else {})})
        ).json()
        found += page["bookings"]
        token = page.get("next_page_token", "")
        if not token:
            break
    return found


async def ledger(shop: Shop, customers: list[str]) -> tuple[int, int]:
    """Sums of top-ups and of charges, as the entries have them."""
    topped_up = charged = 0
    for customer in customers:
        token = ""
        for _ in range(1000):
            params = {"page_size": "200", **({"page_token": token} if token else {})}
            page = (await shop.api.get(f"/v1/wallets/{customer}/entries", params=params)).json()
            topped_up += sum(e["amount"]["amount"] for e in page["entries"] if e["reason"] == "top_up")
            charged -= sum(e["amount"]["amount"] for e in page["entries"] if e["reason"] in ("charge", "refund"))
            token = page.get("next_page_token", "")
            if not token:
                break
    return topped_up, charged


async def until(condition: Any, what: str) -> None:
    ends_at = time.monotonic() + RECOVERY_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, what
        await asyncio.sleep(0.1)


async def retry(api: httpx.AsyncClient, path: str) -> dict[str, Any]:
    for _ in range(100):
        try:
            answer = await api.get(path)
        except httpx.TransportError:
            await asyncio.sleep(0.2)
            continue
        if answer.status_code == 200:
            found: dict[str, Any] = answer.json()
            return found
        await asyncio.sleep(0.2)
    raise AssertionError(f"{path} does not come back")
