"""One request is followed by its trace id: through logs, outbox and bus, to what others made of it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from chassis.settings import SERVICES
from tests.flow.conftest import Shop
from tools import databases, postgres
from tools.running import Running
from tools.up import POSTGRES

WAIT_SECONDS = 30.0


async def until(find: Callable[[], Any], what: str) -> Any:
    """What `find` answers, once it answers something."""
    ends_at = asyncio.get_running_loop().time() + WAIT_SECONDS
    while not (found := find()):
        assert asyncio.get_running_loop().time() < ends_at, f"{what} did not come"
        await asyncio.sleep(0.1)
    return found


def lines(log: Path, trace_id: str) -> list[dict[str, Any]]:
    """Lines of a process's log that belong to a trace."""
    with log.open(encoding="utf-8") as text:
        found = [json.loads(line) for line in text if trace_id in line and line.startswith("{")]
    return [line for line in found if line.get("trace_id") == trace_id]


async def outbox(platform: Running, service: str, statement: str, *arguments: str) -> list[asyncpg.Record]:
    secret = platform.home.secrets()
    admin = postgres.admin_url(platform.port_base + POSTGRES, secret["postgres"])
    url = databases.url(admin, databases.SYSTEM, secret[databases.SYSTEM]).replace("{service}", service)
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
        return rows
    finally:
        await connection.close()


async def event_after(api: httpx.AsyncClient, last_id: str, type_: str) -> dict[str, Any]:
    """The first event of a type behind another event, as a partner gets it."""
    headers = {"Last-Event-ID": last_id}
    async with (
        asyncio.timeout(WAIT_SECONDS),
        api.stream("GET", "/v1/events", params={"types": type_}, headers=headers) as stream,
    ):
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                event: dict[str, Any] = json.loads(line.removeprefix("data:"))
                return event
    raise AssertionError("the stream ended")


async def test_one_id_leads_through_everything(platform: Running, shop: Shop) -> None:
    booking = await shop.make("/v1/bookings", shop.booking((await shop.slots())[0]))
    await shop.make(f"/v1/bookings/{booking['id']}:check-in", {}, 200)
    # Wallet tells in its log why a completed booking that should charge itself was not charged.
    policy = await shop.api.patch("/v1/wallet-policy", json={"charge_on_completion": True})
    assert policy.status_code == 200, policy.text
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    try:
        answer = await shop.api.post(
            f"/v1/bookings/{booking['id']}:complete", json={}, headers={"traceparent": f"00-{trace_id}-{span_id}-01"}
        )
        assert answer.status_code == 200, answer.text
        consumed = await until(lambda: lines(platform.home.log / "wallet.log", trace_id), "wallet's line")
    finally:
        await shop.api.patch("/v1/wallet-policy", json={"charge_on_completion": False})

    # The answer names the trace, so that a user can tell it; it is a span of its own in the caller's trace.
    assert answer.headers["foyer-trace-id"] == trace_id
    assert answer.headers["traceparent"].split("-")[1] == trace_id
    assert answer.headers["traceparent"].split("-")[2] != span_id

    told = (await until(lambda: lines(platform.home.log / "gateway.log", trace_id), "the gateway's line"))[0]
    assert (told["service"], told["route"], told["status"]) == ("gateway", "/v1/bookings/{id}:complete", 200)

    find = "select id, subject, traceparent from outbox where aggregate_id = $1 order by sequence"
    rows = await outbox(platform, "bookings", find, booking["id"])
    assert [row["subject"] for row in rows][-1] == "booking.completed"
    assert [row["subject"] for row in rows if row["traceparent"].split("-")[1] == trace_id] == ["booking.completed"]

    event = await event_after(shop.api, str(rows[-2]["id"]), "booking.completed")
    assert event["subject"] == booking["id"]
    assert event["id"] == str(rows[-1]["id"])
    assert event["traceparent"] == rows[-1]["traceparent"]

    assert (consumed[0]["service"], consumed[0]["event"]) == ("wallet", "completed booking not charged")
    assert consumed[0]["booking_id"] == booking["id"]


async def test_what_follows_from_an_event_carries_its_trace(platform: Running, shop: Shop) -> None:
    """Money that wallet takes because a booking was completed belongs to the trace of whoever completed it."""
    booking = await shop.make("/v1/bookings", shop.booking((await shop.slots(days_ahead=4))[0]))
    top_up = {"amount": {"amount": 50000, "currency": "CNY"}, "method": "cash", "branch_id": shop.branch_id}
    await shop.make(f"/v1/wallets/{shop.customer_id}:top-up", top_up)
    await shop.make(f"/v1/bookings/{booking['id']}:check-in", {}, 200)
    await shop.api.patch("/v1/wallet-policy", json={"charge_on_completion": True})
    trace_id = secrets.token_hex(16)
    try:
        traceparent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
        path = f"/v1/bookings/{booking['id']}:complete"
        answer = await shop.api.post(path, json={}, headers={"traceparent": traceparent})
        assert answer.status_code == 200, answer.text
        await shop.wait_for_total("charged", 12800)
    finally:
        await shop.api.patch("/v1/wallet-policy", json={"charge_on_completion": False})
    find = "select subject from outbox where split_part(traceparent, '-', 2) = $1"
    assert [row["subject"] for row in await outbox(platform, "bookings", find, trace_id)] == ["booking.completed"]
    assert [row["subject"] for row in await outbox(platform, "wallet", find, trace_id)] == ["wallet.charged"]


async def test_every_process_shows_what_it_does(platform: Running, shop: Shop) -> None:
    await shop.make("/v1/bookings", shop.booking((await shop.slots(days_ahead=5))[0]))
    ports = {name: platform.port_base + 10 + index for index, name in enumerate(SERVICES)}
    async with httpx.AsyncClient(timeout=30) as api:
        texts = {name: (await api.get(f"http://127.0.0.1:{port}/metrics")).text for name, port in ports.items()}
        texts["gateway"] = (await api.get(f"{platform.gateway}/metrics")).text
    for name in SERVICES:
        for part in ('foyer_unit_seconds_count{outcome="committed"', 'foyer_query_seconds_count{query="commit"'):
            assert f'{part},service="{name}"}}' in texts[name], f"{name}: {part}"
        assert f'foyer_pool_connections{{pool="application",service="{name}",state="most"}}' in texts[name]
    assert 'foyer_query_seconds_count{query="insert_outbox",service="bookings"}' in texts["bookings"]
    assert 'foyer_rpc_seconds_count{code="OK",method="CreateBooking",service="bookings"}' in texts["bookings"]
    assert 'foyer_bookings_total{status="confirmed"}' in texts["bookings"]
    assert 'route="/v1/bookings",status="201"' in texts["gateway"]
    stream = next(line for line in texts["bookings"].splitlines() if line.startswith("foyer_bus_stream_messages "))
    assert float(stream.split()[1]) > 0
