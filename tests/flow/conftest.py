"""A chain at work, seen from outside: everything goes through the gateway of a platform that runs as users run it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tools.running import Running

WEEK = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SETTLE_SECONDS = 30.0


@dataclass
class Shop:
    """A branch with one stylist, one service and one customer, and a client that is signed in."""

    api: httpx.AsyncClient
    branch_id: str
    staff_id: str
    service_id: str
    customer_id: str

    async def make(self, path: str, body: dict[str, Any], status: int = 201) -> dict[str, Any]:
        answer = await self.api.post(path, json=body)
        assert answer.status_code == status, answer.text
        result: dict[str, Any] = answer.json()
        return result

    async def slots(self, days_ahead: int = 3, days: int = 3) -> list[dict[str, Any]]:
        start = datetime.now(UTC) + timedelta(days=days_ahead)
        answer = await self.api.get(
            "/v1/availability",
            params={
                "branch_id": self.branch_id,
                "service_id": self.service_id,
                "from": start.isoformat(),
                "to": (start + timedelta(days=days)).isoformat(),
            },
        )
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["slots"]
        return found

    def booking(self, slot: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "branch_id": self.branch_id,
            "service_id": self.service_id,
            "customer_id": self.customer_id,
            "starts_at": slot["starts_at"],
            **more,
        }

    async def total(self, measure: str) -> int | None:
        """What reports say now; None while they are not there."""
        today = datetime.now(UTC).date()
        answer = await self.api.get(
            "/v1/reports/series",
            params={
                "measure": measure,
                "interval": "month",
                "from": (today - timedelta(days=40)).isoformat(),
                "to": (today + timedelta(days=40)).isoformat(),
                "branch_id": self.branch_id,
            },
        )
        if answer.status_code == 503:
            return None
        assert answer.status_code == 200, answer.text
        value: int = answer.json()["total"]
        return value

    async def wait_for_total(self, measure: str, expected: int) -> None:
        """Reports follow within moments; wait until they say what they should, and no longer."""
        ends_at = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while (value := await self.total(measure)) != expected:
            assert asyncio.get_running_loop().time() < ends_at, f"{measure} is {value}, not {expected}"
            await asyncio.sleep(0.1)


def client(platform: Running, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=platform.gateway,
        headers={"Authorization": f"Bearer {key}"},
        timeout=30,
        limits=httpx.Limits(max_connections=80),
    )


async def open_shop(api: httpx.AsyncClient, zone: str = "Asia/Shanghai") -> Shop:
    shop = Shop(api, "", "", "", "")
    mark = uuid4().hex[:8]
    shop.branch_id = (await shop.make("/v1/branches", {"name": f"Flow {mark}", "time_zone": zone}))["id"]
    shop.staff_id = (await shop.make("/v1/staff", {"name": f"Stylist {mark}", "branch_ids": [shop.branch_id]}))["id"]
    service = {"name": f"Cut {mark}", "duration_minutes": 60, "price": {"amount": 12800, "currency": "CNY"}}
    shop.service_id = (await shop.make("/v1/services", service))["id"]
    customer = {"name": f"王小明 {mark}", "phone": "13800138000", "email": f"{mark}@example.com", "source": "wechat"}
    shop.customer_id = (await shop.make("/v1/customers", customer))["id"]
    intervals = [{"weekday": day, "start_time": "09:00", "end_time": "18:00"} for day in WEEK]
    today = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    answer = await api.put(
        f"/v1/staff/{shop.staff_id}/shifts",
        json={"branch_id": shop.branch_id, "from_date": today, "intervals": intervals},
    )
    assert answer.status_code == 200, answer.text
    return shop


@pytest.fixture
async def api(platform: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with client(platform, platform.demo["api_key"]) as opened:
        yield opened


@pytest.fixture
async def shop(api: httpx.AsyncClient) -> Shop:
    return await open_shop(api)
