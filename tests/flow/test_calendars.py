"""Calendars as their users have them: a program subscribes without signing in, and mail brings appointments.

khal, a calendar program for terminals, reads what the gateway answers and what the mail server took; vobject believes
our VTIMEZONE, as it knows no zone under the name it is given.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import icalendar
import pytest
import vobject

from tests.flow.conftest import Shop, open_shop
from tools import mailbox
from tools.running import Running

Khal = Callable[[bytes], list[str]]
CONFIGURATION = """
[calendars]
[[feed]]
path = {folder}/feed
[locale]
local_timezone = {zone}
default_timezone = {zone}
dateformat = %Y-%m-%d
longdateformat = %Y-%m-%d
datetimeformat = %Y-%m-%d %H:%M
longdatetimeformat = %Y-%m-%d %H:%M
timeformat = %H:%M
[default]
default_calendar = feed
[sqlite]
path = {folder}/khal.db
"""
SHOWN = "{uid}|{start-long-full}|{title}|{location}|{status}"


@pytest.fixture
def khal(tmp_path: Path) -> Khal:
    """What khal shows of a calendar within 20 days, a line an entry; what it has already is replaced."""
    (tmp_path / "feed").mkdir()
    configuration, file = tmp_path / "khal.conf", tmp_path / "calendar.ics"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path, zone="Asia/Shanghai"))

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "khal", "--config", str(configuration), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "error" not in done.stderr.lower(), done.stderr
        return done.stdout

    def read(content: bytes) -> list[str]:
        file.write_bytes(content)
        run("import", "--batch", "--include-calendar", "feed", str(file))
        today = datetime.now(UTC).date().isoformat()
        told = run("list", "--format", SHOWN, "--day-format", "", today, "20d")
        return [line for line in told.splitlines() if line]

    return read


@pytest.fixture
async def program(platform: Running) -> Any:
    """A program that has nothing but addresses."""
    async with httpx.AsyncClient(timeout=30) as opened:
        yield opened


async def subscribe(shop: Shop, kind: str, subject_id: str, **more: Any) -> dict[str, Any]:
    return await shop.make("/v1/calendar-feeds", {"kind": kind, "subject_id": subject_id, "language": "zh", **more})


def calendar_of(content: bytes) -> Any:
    return icalendar.Calendar.from_ical(content)


async def read(program: httpx.AsyncClient, feed: dict[str, Any]) -> Any:
    answer = await program.get(feed["url"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/calendar; charset=utf-8"
    return calendar_of(answer.content)


async def test_subscribed_moved_called_off(shop: Shop, program: httpx.AsyncClient, khal: Khal) -> None:
    feed = await subscribe(shop, "staff", shop.staff_id)
    slots = await shop.slots()
    booking = await shop.make("/v1/bookings", shop.booking(slots[0], hold=True))
    [event] = (await read(program, feed)).events
    assert (event["uid"], event["status"], event["sequence"]) == (booking["id"], "TENTATIVE", 1)
    await shop.make(f"/v1/bookings/{booking['id']}:confirm", {}, 200)
    first = await program.get(feed["url"])
    [line] = khal(first.content)
    identifier, start, title, location, status = line.split("|")
    assert (identifier, status) == (booking["id"], "CONFIRMED ")
    local = datetime.fromisoformat(slots[0]["starts_at"]) + timedelta(hours=8)
    assert start == f"{local:%Y-%m-%d %H:%M}"
    assert title.startswith("Cut ")
    assert "王小明" in title
    assert location.startswith("Flow ")
    again = await program.get(feed["url"], headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert "max-age" in first.headers["cache-control"]
    head = await program.head(feed["url"])
    assert (head.status_code, head.content) == (200, b"")
    await shop.make(f"/v1/bookings/{booking['id']}:reschedule", {"starts_at": slots[8]["starts_at"]}, 200)
    moved = await program.get(feed["url"], headers={"If-None-Match": first.headers["etag"]})
    [event] = calendar_of(moved.content).events
    assert event["sequence"] == 3
    assert event.start.astimezone(UTC) == datetime.fromisoformat(slots[8]["starts_at"])
    await shop.make(f"/v1/bookings/{booking['id']}:cancel", {}, 200)
    [event] = (await read(program, feed)).events
    assert (event["uid"], event["status"], event["sequence"]) == (booking["id"], "CANCELLED", 4)
    [line] = khal((await program.get(feed["url"])).content)
    assert line.endswith("|CANCELLED ")


async def test_customers_see_their_own_only(shop: Shop, program: httpx.AsyncClient) -> None:
    other = (await shop.make("/v1/customers", {"name": "李雷", "notes": "allergic"}))["id"]
    slots = await shop.slots()
    own = await shop.make("/v1/bookings", shop.booking(slots[0], note="secret note"))
    theirs = await shop.make("/v1/bookings", {**shop.booking(slots[10]), "customer_id": other})
    mine = await read(program, await subscribe(shop, "customer", shop.customer_id))
    assert [event["uid"] for event in mine.events] == [own["id"]]
    assert str(mine["x-wr-calname"]) == "我的预约"
    branch = await program.get((await subscribe(shop, "branch", shop.branch_id))["url"])
    events = calendar_of(branch.content).events
    assert {event["uid"] for event in events} == {own["id"], theirs["id"]}
    for hidden in ("allergic", "secret note", "13800138000", "example.com"):
        assert hidden not in branch.text


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
async def test_times_of_other_zones(api: httpx.AsyncClient, program: httpx.AsyncClient, zone: str) -> None:
    shop = await open_shop(api, zone)
    feed = await subscribe(shop, "branch", shop.branch_id)
    starts = []
    for days in (5, 100, 170):
        slot = (await shop.slots(days_ahead=days, days=2))[0]
        await shop.make("/v1/bookings", shop.booking(slot))
        starts.append(datetime.fromisoformat(slot["starts_at"]))
    content = (await program.get(feed["url"])).content
    parsed = calendar_of(content)
    assert [event.start.astimezone(UTC) for event in parsed.events] == starts
    assert {event["dtstart"].params["TZID"] for event in parsed.events} == {zone}
    calendar = vobject.readOne(content.replace(zone.encode(), f"House/{uuid4().hex}".encode()).decode())
    assert [event.dtstart.value.astimezone(UTC) for event in calendar.vevent_list] == starts


async def test_addresses_that_do_not_work(shop: Shop, program: httpx.AsyncClient, platform: Running) -> None:
    feed = await subscribe(shop, "staff", shop.staff_id)
    start, _, token = feed["url"].rpartition("/")
    assert start == f"{platform.gateway}/v1/calendars"
    rotated = await shop.make(f"/v1/calendar-feeds/{feed['id']}:rotate", {}, 200)
    revoked = await subscribe(shop, "staff", shop.staff_id)
    await shop.make(f"/v1/calendar-feeds/{revoked['id']}:revoke", {}, 200)
    soon = datetime.now(UTC) + timedelta(seconds=1)
    expired = await subscribe(shop, "staff", shop.staff_id, expires_at=soon.isoformat())
    await asyncio.sleep(1.2)
    forged = [f"{start}/{name}.ics" for name in ("x", f"{token[:-5]}A", "x" * 500, "%00", "%E4%BD%A0")]
    for url in (feed["url"], revoked["url"], expired["url"], *forged):
        answer = await program.get(url, headers={"Accept-Language": "zh"})
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), url
    assert (await program.get(rotated["url"])).status_code == 200
    read = (await shop.api.get(f"/v1/calendar-feeds/{feed['id']}")).json()
    assert "url" not in read


async def test_the_secret_is_told_nowhere(shop: Shop, program: httpx.AsyncClient, platform: Running) -> None:
    feed = await subscribe(shop, "staff", shop.staff_id)
    token = feed["url"].rpartition("/")[2].removesuffix(".ics")
    assert (await program.get(feed["url"])).status_code == 200
    assert (await program.get(f"{feed['url']}x")).status_code == 404
    async with shop.api.stream("GET", "/v1/events", params={"types": "calendar_feed.rotated"}) as stream:
        await shop.make(f"/v1/calendar-feeds/{feed['id']}:rotate", {}, 200)
        async with asyncio.timeout(15):
            told = [line async for line in _until_event(stream, feed["id"])]
    assert not any("calendars/" in line for line in told)
    metrics = (await program.get(f"{platform.gateway}/metrics")).text
    assert 'route="/v1/calendars/{token}.ics"' in metrics
    assert token not in metrics
    await asyncio.sleep(0.3)
    logs = "".join(path.read_text(errors="replace") for path in platform.home.log.glob("*.log"))
    assert '"/v1/calendars/{token}.ics"' in logs
    assert token not in logs


async def _until_event(stream: httpx.Response, identifier: str) -> Any:
    async for line in stream.aiter_lines():
        yield line
        if identifier in line:
            return


async def test_mail_brings_the_appointment_and_takes_it_back(shop: Shop, platform: Running, khal: Khal) -> None:
    address = (await shop.api.get(f"/v1/customers/{shop.customer_id}")).json()["email"]
    slots = await shop.slots()
    booking = await shop.make("/v1/bookings", shop.booking(slots[0]))
    await shop.make(f"/v1/bookings/{booking['id']}:reschedule", {"starts_at": slots[6]["starts_at"]}, 200)
    await shop.make(f"/v1/bookings/{booking['id']}:cancel", {}, 200)
    parts = await _arrived(platform.home.mail, address, 3)
    told = []
    for part in parts:
        calendar = calendar_of(part.get_payload(decode=True))
        [entry] = calendar.events
        assert part.get_param("method") == calendar["method"]
        told.append((int(entry["sequence"]), str(calendar["method"]), str(entry["uid"])))
    # Mail may overtake mail; the sequence says which is the newest.
    assert sorted(told) == [(1, "REQUEST", booking["id"]), (2, "REQUEST", booking["id"]), (3, "CANCEL", booking["id"])]
    newest = parts[told.index(max(told))]
    [line] = khal(newest.get_payload(decode=True))
    assert line.startswith(booking["id"])
    assert line.endswith("|CANCELLED ")
    feed = await subscribe(shop, "customer", shop.customer_id)
    async with httpx.AsyncClient(timeout=30) as program:
        [shown] = (await read(program, feed)).events
    assert (3, "CANCEL", str(shown["uid"])) == max(told)
    assert shown["sequence"] == 3


async def _arrived(folder: Path, address: str, least: int) -> list[Any]:
    """The calendar parts of what was sent to an address, oldest first."""
    for _ in range(200):
        found = [message for message in mailbox.read(folder) if message["To"] == address]
        parts = [part for message in found for part in message.walk() if part.get_content_type() == "text/calendar"]
        if len(parts) >= least:
            return parts
        await asyncio.sleep(0.1)
    raise AssertionError(f"{len(parts)} of {least} invitations arrived")
