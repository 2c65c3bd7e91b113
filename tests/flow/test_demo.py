"""What `make up` shows is there: rooms, rules, and bookings of every kind in the demo chain."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tools.running import Running


@pytest.fixture
def here(platform: Running) -> str:
    """The branch at which most of it is."""
    found: str = platform.demo["branch_ids"][0]
    return found


async def read(api: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_catalogue_shows_what_a_service_can_be(api: httpx.AsyncClient, here: str) -> None:
    services = (await read(api, "/v1/services", page_size=200))["services"]
    named = {service.get("code"): service for service in services}
    assert [role["name"] for role in named["BRIDAL"]["plan"]["roles"]] == ["artist", "stylist"]
    assert named["SPA"]["plan"]["segments"][0]["uses"] == ["room"]
    assert named["SPA"]["price_rules"]["rules"][0]["percent"] == 120
    assert named["OIL"]["add_on"]["only_with"]
    packages = (await read(api, "/v1/packages"))["packages"]
    assert "REFRESH" in [package.get("code") for package in packages]
    units = (await read(api, "/v1/resources", branch_id=here))["resources"]
    assert len(units) == 7
    low = (await read(api, "/v1/stock-items", branch_id=here, low=True))["stock_items"]
    assert [item["code"] for item in low] == ["DYE"]
    staff = (await read(api, "/v1/staff", branch_id=here))["staff"]
    assert max(person["grade"] for person in staff) == 3
    assert any("expires_on" in each for person in staff for each in person["qualifications"])
    closed = (await read(api, f"/v1/branches/{here}"))["swapped_days"]
    assert [day["follows"] for day in closed] == ["monday"]


async def test_there_are_bookings_of_every_kind(api: httpx.AsyncClient, here: str) -> None:
    lessons = (await read(api, "/v1/class-sessions", branch_id=here))["class_sessions"]
    assert [lesson["seats"] - lesson["free_seats"] for lesson in lessons] == [3]
    series = (await read(api, "/v1/booking-series", branch_id=here))["series"]
    assert len(series) == 1
    weekly = (await read(api, "/v1/bookings", series_id=series[0]["id"]))["bookings"]
    assert [booking["status"] for booking in weekly] == ["confirmed"] * 4
    bookings: list[dict[str, Any]] = []
    token: str | None = ""
    while token is not None:
        page = await read(api, "/v1/bookings", branch_id=here, page_size=200, status="confirmed", page_token=token)
        bookings += page["bookings"]
        token = page.get("next_page_token")
    lines = [line for booking in bookings for line in booking["lines"]]
    assert sum("package_id" in booking for booking in bookings) == 1
    assert sum(bool(line["add_on_ids"]) for line in lines) == 1
    assert sum(len(line["assignments"]) == 3 for line in lines) == 1


async def test_somebody_waits_and_somebody_wants_leave(api: httpx.AsyncClient, here: str) -> None:
    entries = (await read(api, "/v1/waiting-list", branch_id=here))["entries"]
    assert [entry["status"] for entry in entries] == ["waiting", "waiting"]
    leaves = (await read(api, "/v1/leaves", branch_id=here))["leaves"]
    assert [leave["status"] for leave in leaves] == ["requested"]
    loans = (await read(api, "/v1/loans", branch_id=here))["loans"]
    assert [loan["status"] for loan in loans] == ["out"]


async def test_a_roster_can_be_made_and_the_rules_are_tiered(api: httpx.AsyncClient, here: str) -> None:
    templates = (await read(api, "/v1/shift-templates", branch_id=here))["shift_templates"]
    assert len(templates) == 2
    assert len((await read(api, f"/v1/branches/{here}/roster-demand"))["rules"]) == 2
    policy = await read(api, "/v1/booking-policy")
    assert len(policy["change"]["cancellation"]) == 2
    assert [rule["channel"] for rule in policy["channels"]] == ["dianping"]
    assert policy["hold_minutes"] == 10
