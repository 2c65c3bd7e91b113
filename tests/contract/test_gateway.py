"""The gateway in front of the real services: what every caller may rely on, whichever operation they call."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from chassis.ids import new_id
from tools.protos import ROOT
from tools.running import Running, free_port_base

MONEY = {"amount": 5000, "currency": "CNY"}


@pytest.fixture
async def api(platform: Running) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {platform.demo['api_key']}"}
    async with httpx.AsyncClient(base_url=platform.gateway, headers=headers, timeout=30) as opened:
        yield opened


async def customer(api: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    answer = await api.post("/v1/customers", json={"name": "王小明", "phone": "13800138000", **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def fields(answer: httpx.Response) -> dict[str, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return {error["field"]: error["code"] for error in answer.json().get("errors", [])}


# --- problems ---


async def test_who_does_not_say_who_they_are_is_refused(platform: Running) -> None:
    async with httpx.AsyncClient(base_url=platform.gateway, timeout=30) as nobody:
        for header in (None, "Bearer foyer_no_such_key_at_all", "Bearer a.b.c", "Basic abc"):
            answer = await nobody.get("/v1/me", headers={"Authorization": header} if header else {})
            assert answer.status_code == 401
            assert answer.json()["code"] == "UNAUTHENTICATED"
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_everything_wrong_is_told_at_once(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "x" * 201, "Request-Timeout": "soon", "Accept-Language": "zh-CN"}
    body = {"name": 1, "phone": "abc", "other_phones": ["1", 2], "colour": "red"}
    answer = await api.post("/v1/customers", json=body, headers=headers)
    assert answer.status_code == 422
    assert fields(answer) == {
        "name": "type",
        "phone": "format",
        "other_phones[1]": "type",
        "colour": "unknown",
        "Idempotency-Key": "format",
        "Request-Timeout": "range",
    }
    assert "需要更正" in answer.json()["detail"]
    answer = await api.get("/v1/customers", params={"page_size": "many", "colour": "red"})
    assert fields(answer) == {"page_size": "type", "colour": "unknown"}
    answer = await api.get("/v1/customers/not-an-id")
    assert (answer.status_code, fields(answer)) == (422, {"id": "id"})


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"name=x", "application/x-www-form-urlencoded", 415),
        (b"[]", "application/json", 422),
        (b" " * 1_100_000, "application/json", 413),
        (b"", "application/json", 422),
    ],
)
async def test_bodies(api: httpx.AsyncClient, content: bytes, content_type: str, status: int) -> None:
    answer = await api.post("/v1/customers", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert answer.json()["status"] == status


async def test_routes_and_methods(api: httpx.AsyncClient) -> None:
    for path in ("/v1/nothing", "/v1/customers/", f"/v1/customers/{uuid4()}:frob", "/v2/customers", "/v1"):
        answer = await api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "NO_SUCH_ROUTE")
    answer = await api.delete(f"/v1/customers/{uuid4()}")
    assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, HEAD, PATCH"
    answer = await api.post("/healthz")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


# --- what answers carry ---


async def test_versions_are_etags(api: httpx.AsyncClient) -> None:
    made = await customer(api)
    path = f"/v1/customers/{made['id']}"
    read = await api.get(path)
    tag = read.headers["etag"]
    assert tag == f'"{made["version"]}"'
    unchanged = await api.get(path, headers={"If-None-Match": f'W/"0", {tag}'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert (await api.get(path, headers={"If-None-Match": '"0"'})).status_code == 200
    head = await api.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
    changed = await api.patch(path, json={"notes": "tea"}, headers={"If-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert (await api.patch(path, json={"notes": "?"}, headers={"If-Match": tag})).status_code == 412
    assert (await api.patch(path, json={"notes": "!"}, headers={"If-Match": "*"})).status_code == 200
    assert fields(await api.patch(path, json={}, headers={"If-Match": "soon"})) == {"If-Match": "format"}


async def test_traces_and_limits_are_told(api: httpx.AsyncClient) -> None:
    trace_id = uuid4().hex
    answer = await api.get("/v1/me", headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    assert answer.headers["foyer-trace-id"] == trace_id
    assert trace_id in answer.headers["traceparent"]
    assert int(answer.headers["ratelimit-remaining"]) < int(answer.headers["ratelimit-limit"])
    assert answer.headers["x-content-type-options"] == "nosniff"
    fresh = await api.get("/v1/nothing", headers={"traceparent": "nonsense"})
    assert fresh.json()["trace_id"] == fresh.headers["foyer-trace-id"] != trace_id


async def test_lists_as_csv(api: httpx.AsyncClient) -> None:
    mark = uuid4().hex[:8]
    for name in (f"{mark} a", f"{mark} b", f'=HYPERLINK("{mark}")'):
        await customer(api, name=name, notes="+1+1")
    headers = {"Accept": "text/csv"}
    answer = await api.get("/v1/customers", params={"query": mark, "page_size": 2}, headers=headers)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 2
    more: dict[str, str | int] = {"query": mark, "page_size": 2, "page_token": answer.headers["foyer-next-page-token"]}
    last = await api.get("/v1/customers", params=more, headers=headers)
    assert "foyer-next-page-token" not in last.headers
    rows += list(csv.DictReader(io.StringIO(last.text)))
    assert sorted(row["name"] for row in rows) == sorted([f"{mark} a", f"{mark} b", f'\'=HYPERLINK("{mark}")'])
    assert {row["notes"] for row in rows} == {"'+1+1"}
    single = await api.get(f"/v1/customers/{rows[0]['id']}", headers=headers)
    assert single.headers["content-type"] == "application/json"


async def test_the_same_key_gets_the_same_answer(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    answers = await asyncio.gather(*(api.post("/v1/customers", json={"name": "x"}, headers=headers) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    other = await api.post("/v1/customers", json={"name": "y"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_every_service_answers_for_operations(api: httpx.AsyncClient) -> None:
    for service in ("access", "customers", "bookings", "wallet", "notify", "reports"):
        answer = await api.get(f"/v1/operations/{service}/dead-letters")
        assert answer.status_code == 200, answer.text
    assert fields(await api.get("/v1/operations/kitchen/dead-letters")) == {"service": "enum"}


async def test_health_and_metrics(platform: Running) -> None:
    async with httpx.AsyncClient(base_url=platform.gateway, timeout=30) as nobody:
        assert (await nobody.get("/healthz")).json() == {"status": "ok"}
        ready = await nobody.get("/readyz")
        assert (ready.status_code, set(ready.json()["services"].values())) == (200, {True})
        metrics = (await nobody.get("/metrics")).text
        assert 'foyer_http_seconds_count{method="GET",route="/readyz",status="200"}' in metrics


# --- payments ---


async def test_the_sandbox_pays_as_a_provider_would(api: httpx.AsyncClient, platform: Running) -> None:
    made = await customer(api)
    wallet = f"/v1/wallets/{made['id']}"
    started = (await api.post(f"{wallet}:top-up", json={"amount": MONEY, "method": "sandbox"})).json()
    url = started["payment_url"]
    async with httpx.AsyncClient(timeout=30) as browser:
        page = await browser.get(url, headers={"Accept-Language": "zh-CN"})
        assert page.headers["content-type"].startswith("text/html")
        assert "50.00 CNY" in page.text
        assert "支付" in page.text
        assert fields(await browser.post(f"{url}:pay", json={"paid": "yes", "x": 1})) == {
            "paid": "type",
            "x": "unknown",
        }
        paid = await browser.post(f"{url}:pay")
        assert (paid.status_code, paid.json()["status"]) == (200, "credited")
        again = await browser.post(f"{url}:pay", data={"paid": "true"})
        assert again.headers["content-type"].startswith("text/html")
        forged = await browser.post(f"{platform.gateway}/v1/hooks/payments/sandbox", content=b"{}")
        assert (forged.status_code, forged.json()["code"]) == (401, "BAD_SIGNATURE")
        unknown = await browser.post(f"{platform.gateway}/v1/hooks/payments/nobody", content=b"{}")
        assert unknown.status_code == 404
        large = await browser.post(f"{platform.gateway}/v1/hooks/payments/sandbox", content=b"x" * 70_000)
        assert large.status_code == 413
    assert (await api.get(wallet)).json()["total"] == MONEY


async def test_who_turns_away_pays_nothing(api: httpx.AsyncClient) -> None:
    made = await customer(api)
    wallet = f"/v1/wallets/{made['id']}"
    started = (await api.post(f"{wallet}:top-up", json={"amount": MONEY, "method": "sandbox"})).json()
    async with httpx.AsyncClient(timeout=30) as browser:
        answer = await browser.post(f"{started['payment_url']}:pay", json={"paid": False})
    assert answer.json()["status"] == "failed"
    assert (await api.get(wallet)).json()["total"]["amount"] == 0


# --- events ---


@asynccontextmanager
async def stream(api: httpx.AsyncClient, **more: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    async with api.stream("GET", "/v1/events", **more) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def read() -> AsyncIterator[dict[str, Any]]:
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

        yield read()


async def names(events: AsyncIterator[dict[str, Any]], wanted: int, seconds: float = 20) -> dict[str, str]:
    """Id → customer's name of the next events."""
    found: dict[str, str] = {}
    async with asyncio.timeout(seconds):
        async for event in events:
            found[event["id"]] = event["data"]["card"]["name"]
            if len(found) == wanted:
                return found
    raise AssertionError("the stream ended")


async def test_events_are_followed_and_resumed(api: httpx.AsyncClient, platform: Running) -> None:
    types = {"types": "customer.created"}
    mark = uuid4().hex[:8]
    other_headers = {"Authorization": f"Bearer {platform.demo['other_api_key']}"}
    async with stream(api, params=types) as events:
        async with httpx.AsyncClient(base_url=platform.gateway, headers=other_headers, timeout=30) as other:
            await customer(other, name="of another chain")
        for number in range(4):
            await customer(api, name=f"{mark} {number}")
        seen = await names(events, 4)
    assert list(seen.values()) == [f"{mark} {number}" for number in range(4)], "this chain's only, in order"
    second = list(seen)[1]
    async with stream(api, params=types, headers={"Last-Event-ID": second}) as events:
        assert list((await names(events, 2)).values()) == [f"{mark} 2", f"{mark} 3"]
    async with stream(api, params={**types, "last_event_id": second}) as events:
        assert list((await names(events, 1)).values()) == [f"{mark} 2"]
    async with stream(api, params=types, headers={"Last-Event-ID": new_id()}) as events, asyncio.timeout(20):
        async for event in events:
            if event["id"] == list(seen)[3]:
                break  # an id that is not found: what was shortly before it comes again


async def test_streams_are_refused_clearly(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/events", params={"types": "booking.confirmed,nobody.knows"})
    assert fields(answer) == {"types": "enum"}
    answer = await api.get("/v1/events", headers={"Last-Event-ID": "7"})
    assert fields(answer) == {"Last-Event-ID": "id"}


async def test_a_gateway_with_open_streams_stops_at_once(platform: Running) -> None:
    running = platform.pid("gateway")
    assert running is not None
    port = free_port_base()
    environ = {**psutil.Process(running).environ(), "FOYER_PORT_BASE": str(port)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", env=environ, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        headers = {"Authorization": f"Bearer {platform.demo['api_key']}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as api:
            await _started(api)
            async with stream(api) as events:
                process.send_signal(signal.SIGTERM)
                stopped_at = time.monotonic()
                with pytest.raises(StopAsyncIteration):
                    await anext(events)
        async with asyncio.timeout(10):
            await process.wait()
        assert time.monotonic() - stopped_at < 5
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _started(api: httpx.AsyncClient) -> None:
    for _ in range(300):
        try:
            await api.get("/healthz")
        except httpx.TransportError:
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError("the gateway does not start")
