"""Where the race is run: one branch with few people, rooms and things, and many customers who want the same times."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from bench.load import Connection, request
from tools.running import Running

STAFF, ROOMS, THINGS, CUSTOMERS, SESSIONS = 6, 4, 3, 60, 6
SEATS = 8
DAYS = 4
PRICE = {"amount": 12800, "currency": "CNY"}
WEEK = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass
class Arena:
    """Ids of everything that is fought for."""

    platform: Running
    chain_id: str = ""
    branch_id: str = ""
    staff_ids: list[str] = field(default_factory=list)
    resource_ids: list[str] = field(default_factory=list)
    customer_ids: list[str] = field(default_factory=list)
    single_id: str = ""
    """A service of one person, for 30 minutes."""
    multi_id: str = ""
    """A service of two people, a room and a thing, for an hour, with a processing gap."""
    session_ids: list[str] = field(default_factory=list)
    first_day: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2)
    )

    @property
    def key(self) -> str:
        """The key of the chain's owner."""
        found: str = self.platform.demo["api_key"]
        return found

    def content(self, method: str, path: str, body: dict[str, Any] | None = None, idempotency_key: str = "") -> bytes:
        """A request as the bytes that are sent."""
        more = {"idempotency_key": idempotency_key} if idempotency_key else {}
        return request(method, path, self.key, json.dumps(body).encode() if body is not None else b"", **more)


async def open_arena(platform: Running, *, hold_minutes: int) -> Arena:
    """Set it up through the gateway. Raises AssertionError when something is refused."""
    arena = Arena(platform)
    connection = await Connection.open(platform.port_base)

    async def call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        status, answer = await connection.send(arena.content(method, path, body))
        assert status in (200, 201), f"{method} {path}: {status} {answer.decode()}"
        found: dict[str, Any] = json.loads(answer)
        return found

    async def make(path: str, body: dict[str, Any]) -> str:
        return str((await call("POST", path, body))["id"])

    try:
        mark = uuid4().hex[:6]
        arena.chain_id = (await call("GET", "/v1/chain"))["id"]
        await call("PATCH", "/v1/booking-policy", {"hold_minutes": hold_minutes, "slot_step_minutes": 15})
        arena.branch_id = await make("/v1/branches", {"name": f"Race {mark}", "time_zone": "UTC"})
        week = [{"weekday": day, "start_time": "09:00", "end_time": "18:00"} for day in WEEK]
        for number in range(STAFF):
            body = {"name": f"Racer {number}", "branch_ids": [arena.branch_id], "skills": [f"race-{mark}"]}
            staff_id = await make("/v1/staff", body)
            await call("PUT", f"/v1/staff/{staff_id}/shifts", {"from_date": "2024-01-01", "intervals": week})
            arena.staff_ids.append(staff_id)
        types = {}
        for name, count in (("room", ROOMS), ("thing", THINGS)):
            kind = "room" if name == "room" else "equipment"
            types[name] = await make("/v1/resource-types", {"name": f"{name} {mark}", "kind": kind})
            made = {"branch_id": arena.branch_id, "resource_type_id": types[name], "name": name, "count": count}
            answer = await call("POST", "/v1/resources", made)
            arena.resource_ids += [unit["id"] for unit in answer["resources"]]
        arena.single_id = await make("/v1/services", {"name": f"One {mark}", "duration_minutes": 30, "price": PRICE})
        arena.multi_id = await make("/v1/services", _multi(mark, types))
        for number in range(CUSTOMERS):
            arena.customer_ids.append(await make("/v1/customers", {"name": f"Runner {mark} {number}"}))
        arena.session_ids = [await make("/v1/class-sessions", _session(arena, n)) for n in range(SESSIONS)]
    finally:
        connection.close()
    return arena


def _multi(mark: str, types: dict[str, str]) -> dict[str, Any]:
    return {
        "name": f"Many {mark}",
        "duration_minutes": 60,
        "buffer_after_minutes": 5,
        "price": PRICE,
        "plan": {
            "roles": [{"name": "lead", "skills": [f"race-{mark}"]}, {"name": "second"}],
            "resources": [
                {"name": "room", "resource_type_id": types["room"]},
                {"name": "thing", "resource_type_id": types["thing"], "buffer_after_minutes": 15},
            ],
            "segments": [
                {"duration_minutes": 20, "uses": ["lead", "room"]},
                {"duration_minutes": 20, "uses": ["room", "thing"]},
                {"duration_minutes": 20, "uses": ["lead", "second", "room"]},
            ],
        },
    }


def _session(arena: Arena, number: int) -> dict[str, Any]:
    starts_at = arena.first_day + timedelta(days=DAYS + number, hours=10)
    return {
        "branch_id": arena.branch_id,
        "service_id": arena.single_id,
        "starts_at": starts_at.isoformat(),
        "seats": SEATS,
    }
