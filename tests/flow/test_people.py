"""Single days, leave and who takes over, as a client of the API sees them."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from tests.flow.conftest import Shop


async def test_days_leave_and_reassigning(shop: Shop) -> None:
    api = shop.api
    slot = (await shop.slots(days_ahead=9))[0]
    booking = await shop.make("/v1/bookings", shop.booking(slot))
    zone = (await api.get(f"/v1/branches/{shop.branch_id}")).json()["time_zone"]
    day = datetime.fromisoformat(slot["starts_at"]).astimezone(ZoneInfo(zone)).date().isoformat()
    url = f"/v1/staff/{shop.staff_id}/days/{day}"
    answer = await api.put(url, json={"intervals": [{"start_time": "22:00", "end_time": "23:00"}], "reason": "late"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["day"]["intervals"] == [{"start_time": "22:00", "end_time": "23:00"}]
    assert [each["booking_id"] for each in answer.json()["conflicts"]] == [booking["id"]]
    listed = await api.get(f"/v1/staff/{shop.staff_id}/days", params={"from": day, "to": day})
    assert [each["day"] for each in listed.json()["days"]] == [day]
    answer = await api.delete(url)
    assert (answer.status_code, answer.json()["conflicts"]) == (200, [])
    assert (await api.delete(url)).status_code == 404

    wanted = {"staff_id": shop.staff_id, "kind": "annual", "from_date": day}
    leave = await shop.make("/v1/leaves", wanted)
    overlapping = await api.post("/v1/leaves", json=wanted, headers={"Accept-Language": "zh"})
    assert (overlapping.status_code, overlapping.json()["leave"]["id"]) == (409, leave["id"])
    refused = await api.post(f"/v1/leaves/{leave['id']}:approve", json={})
    assert refused.status_code == 409
    assert (refused.json()["code"], refused.json()["hits"][0]["booking_id"]) == ("LEAVE_HITS_BOOKINGS", booking["id"])
    other = await _colleague(shop)
    read = await api.get(f"/v1/leaves/{leave['id']}")
    assert (read.json()["hits"][0]["staff_ids"], read.headers["etag"]) == ([other], '"1"')
    moved = await api.post(f"/v1/bookings/{booking['id']}:reassign", json={"staff_id": other})
    assert (moved.status_code, moved.json()["staff_id"]) == (200, other), moved.text
    approved = await api.post(f"/v1/leaves/{leave['id']}:approve", json={}, headers={"If-Match": '"1"'})
    assert (approved.json()["status"], approved.json()["hits"]) == ("approved", [])
    found = await api.get("/v1/leaves", params={"staff_id": shop.staff_id, "status": "approved"})
    assert [each["id"] for each in found.json()["leaves"]] == [leave["id"]]


async def _colleague(shop: Shop) -> str:
    """Somebody else who works there all day."""
    body = {"name": f"Stand-in {uuid4().hex[:6]}", "branch_ids": [shop.branch_id], "supplier": "Golden Hands"}
    person = await shop.make("/v1/staff", body)
    shifts = await shop.api.get(f"/v1/staff/{shop.staff_id}/shifts")
    week: list[dict[str, Any]] = shifts.json()["shifts"][0]["intervals"]
    answer = await shop.api.put(f"/v1/staff/{person['id']}/shifts", json={"intervals": week})
    assert answer.status_code == 200, answer.text
    found = await shop.api.get("/v1/staff", params={"external": "true", "branch_id": shop.branch_id})
    assert [each["id"] for each in found.json()["staff"]] == [person["id"]]
    identifier: str = person["id"]
    return identifier


async def test_a_chain_takes_over_make_up_days(shop: Shop) -> None:
    answer = await shop.api.get("/v1/public-holidays", params={"country": "CN", "year": 2026})
    assert answer.status_code == 200, answer.text
    worked = [day for holiday in answer.json()["holidays"] for day in holiday["worked_days"]]
    swapped = [{"day": day, "follows": "monday"} for day in sorted(worked)]
    assert date.fromisoformat(worked[0]) - timedelta(days=3) == date(2026, 1, 1)
    changed = await shop.api.patch(f"/v1/branches/{shop.branch_id}", json={"swapped_days": {"days": swapped}})
    assert changed.json()["swapped_days"] == swapped, changed.text
    unknown = await shop.api.get("/v1/public-holidays", params={"country": "CN", "year": 2031})
    assert unknown.status_code == 404
