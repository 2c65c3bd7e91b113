"""Chain B's key finds nothing of chain A: 404 for each id of A, on every route that takes one."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.flow.conftest import Shop, client, open_shop
from tools.running import Running

# Where the ids of a path belong to; a new noun in the API must be added here, or the test says so.
NOUNS = (
    "branches departments accounts api-keys services staff bookings customers wallets top-ups authorizations charges"
    " payments messages templates calendar-feeds packages resource-types resources loans stock-items leaves"
    " class-sessions booking-series claim-offers waiting-list walk-ins rosters shift-templates shift-swaps"
    " roster-wishes".split()
)
# Ids that are not of a chain's thing, or routes that take no part.
SKIPPED_PATHS = ("/v1/calendars/", "/v1/hooks/", "/v1/sandbox/", "/v1/operations/", "/v1/roles/", "/v1/self-service/")
WRITES = {"post", "put", "patch", "delete"}


async def everything(shop: Shop) -> dict[str, str]:
    """An id of every kind in the shop's chain, by the name that a path or a field gives it."""
    api = shop.api
    slot = (await shop.slots(days_ahead=6))[0]
    booking = await shop.make("/v1/bookings", shop.booking(slot))
    money = {"amount": 10000, "currency": "CNY"}
    wallet = f"/v1/wallets/{shop.customer_id}"
    top_up = await shop.make(f"{wallet}:top-up", {"amount": money, "method": "cash"})
    small = {"amount": 100, "currency": "CNY"}
    charge = await shop.make(f"{wallet}:charge", {"amount": small, "reason": "a"})
    authorization = await shop.make(f"{wallet}:authorize", {"amount": small, "reason": "a"})
    payment = await shop.make(
        "/v1/payments",
        {"kind": "sale", "amount": small, "method": "cash", "branch_id": shop.branch_id, "description": "tea"},
    )
    department = await shop.make("/v1/departments", {"name": f"D {uuid4().hex[:6]}"})
    key = await shop.make("/v1/api-keys", {"name": "k", "roles": [{"role": "front_desk"}]})
    account = (await api.get("/v1/accounts")).json()["accounts"][0]
    template = await shop.make(
        "/v1/templates",
        {
            "event_type": "booking.completed",
            "channel": "in_app",
            "language": "en",
            "subject": "Thank you",
            "body": "See you again.",
        },
    )
    calendar_feed = await shop.make("/v1/calendar-feeds", {"kind": "staff", "subject_id": shop.staff_id})
    parts = [{"service_id": shop.service_id}]
    package = await shop.make("/v1/packages", {"name": "P", "services": parts, "price": small})
    things = await things_of(shop)
    leave = await shop.make("/v1/leaves", {"staff_id": shop.staff_id, "kind": "other", "from_date": "2029-03-01"})
    groups = await groups_of(shop)
    waiting = await waiting_of(shop, booking)
    rota = await rota_of(shop)
    message = ""
    for _ in range(100):
        listed = (await api.get("/v1/messages", params={"customer_id": shop.customer_id})).json()["messages"]
        if listed:
            message = listed[0]["id"]
            break
    return {
        "branches": shop.branch_id,
        "departments": department["id"],
        "accounts": account["id"],
        "api-keys": key["id"],
        "services": shop.service_id,
        "staff": shop.staff_id,
        "bookings": booking["id"],
        "customers": shop.customer_id,
        "wallets": shop.customer_id,
        "top-ups": top_up["id"],
        "authorizations": authorization["id"],
        "charges": charge["id"],
        "payments": payment["id"],
        "messages": message,
        "templates": template["id"],
        **waiting,
        "packages": package["id"],
        "calendar-feeds": calendar_feed["id"],
        "leaves": leave["id"],
        **things,
        **groups,
        **rota,
    }


async def groups_of(shop: Shop) -> dict[str, str]:
    """A class session and a series."""
    slots = await shop.slots(days_ahead=8)
    place = {"branch_id": shop.branch_id, "service_id": shop.service_id}
    first, last = {"starts_at": slots[0]["starts_at"]}, {"starts_at": slots[-1]["starts_at"]}
    session = await shop.make("/v1/class-sessions", {**place, **first, "seats": 5})
    visit = {**place, **last, "customer_id": shop.customer_id}
    series = await shop.make("/v1/booking-series", {**visit, "rule": {"frequency": "weekly", "count": 1}})
    return {"class-sessions": session["id"], "booking-series": series["id"]}


async def things_of(shop: Shop) -> dict[str, str]:
    """A room type, a room, a loan of it, and stock."""
    branch = {"branch_id": shop.branch_id, "name": "Thing"}
    kind = await shop.make("/v1/resource-types", {"name": "Dress", "kind": "lent"})
    made = await shop.make("/v1/resources", {**branch, "resource_type_id": kind["id"]})
    resource_id = made["resources"][0]["id"]
    due = (datetime.now(UTC) + timedelta(days=1)).replace(minute=0, second=0, microsecond=0).isoformat()
    loan = await shop.make("/v1/loans", {"resource_id": resource_id, "ends_at": due})
    item = await shop.make("/v1/stock-items", {**branch, "unit": "ml", "quantity": 5})
    return {"resource-types": kind["id"], "resources": resource_id, "loans": loan["id"], "stock-items": item["id"]}


async def rota_of(shop: Shop) -> dict[str, str]:
    """A published roster of somebody and a colleague, who swap, and a wish."""
    here = {"branch_id": shop.branch_id}
    colleague = await shop.make("/v1/staff", {"name": "Mei", "branch_ids": [shop.branch_id]})
    hours = {"start_time": "10:00", "end_time": "14:00"}
    template = await shop.make("/v1/shift-templates", {**here, **hours, "name": "Morning"})
    staff_ids = [shop.staff_id, colleague["id"]]
    demand = await shop.api.put(
        f"/v1/branches/{shop.branch_id}/roster-demand", json={"rules": [{**hours, "wanted": 2}]}
    )
    assert demand.status_code == 200, demand.text
    asked = {**here, "from_date": "2029-03-05", "weeks": 1, "staff_ids": staff_ids, "time_limit_seconds": 5}
    path = f"/v1/rosters/{(await shop.make('/v1/rosters', asked))['id']}"
    for _ in range(600):
        roster = (await shop.api.get(path)).json()
        if roster["status"] != "solving":
            break
        await asyncio.sleep(0.05)
    assert (await shop.make(f"{path}:publish", {}, 200))["status"] == "published"
    day = next(shift["day"] for shift in roster["shifts"] if shift["staff_id"] == shop.staff_id)
    swap = {"roster_id": roster["id"], "staff_id": shop.staff_id, "to_staff_id": colleague["id"]}
    swap = await shop.make("/v1/shift-swaps", {**swap, "day": day, "to_day": day})
    wish = await shop.make("/v1/roster-wishes", {"staff_id": shop.staff_id, "kind": "avoids", "day": "2029-03-06"})
    ids = {"shift-templates": template, "rosters": roster, "shift-swaps": swap, "roster-wishes": wish}
    return {noun: thing["id"] for noun, thing in ids.items()}


async def waiting_of(shop: Shop, booking: dict[str, Any]) -> dict[str, str]:
    """Somebody on the waiting list, somebody in the queue, and a booking on offer."""
    here = {"branch_id": shop.branch_id, "lines": [{"service_id": shop.service_id}]}
    window = {"from": booking["starts_at"], "to": booking["ends_at"]}
    entry = await shop.make("/v1/waiting-list", {**here, "customer_id": shop.customer_id, "windows": [window]})
    walk_in = await shop.make("/v1/walk-ins", {**here, "name": "A"})
    offer = await shop.make(f"/v1/bookings/{booking['id']}:offer", {"steps": [{"minutes": 10}]})
    return {"waiting-list": entry["id"], "walk-ins": walk_in["id"], "claim-offers": offer["id"]}


FIELDS = {
    "branch_id": "branches",
    "home_branch_id": "branches",
    "service_id": "services",
    "customer_id": "customers",
    "staff_id": "staff",
    "owner_staff_id": "staff",
    "booking_id": "bookings",
    "package_id": "packages",
    "subject_id": "staff",
    "resource_type_id": "resource-types",
    "resource_id": "resources",
    "class_session_id": "class-sessions",
    "series_id": "booking-series",
}


@pytest.mark.timeout(180)
async def test_chain_b_finds_nothing_of_chain_a(shop: Shop, platform: Running) -> None:
    theirs = await everything(shop)
    document = (await shop.api.get("/openapi.json")).json()
    async with client(platform, platform.demo["other_api_key"]) as other:
        own = await open_shop(other)
        tried = leaks = 0
        wrong: list[str] = []
        for path, operations in document["paths"].items():
            if path.startswith(SKIPPED_PATHS):
                continue
            for verb, operation in operations.items():
                if verb not in WRITES | {"get"}:
                    continue
                for where, request in cases(document, path, verb, operation, theirs, own):
                    answer = await other.request(verb, **request)
                    tried += 1
                    if answer.status_code != 404:
                        leaks += 1
                        wrong.append(f"{verb} {path} {where}: {answer.status_code} {answer.text[:200]}")
        assert not wrong, "\n".join(wrong)
        assert tried > 40


def cases(
    document: dict[str, Any], path: str, verb: str, operation: dict[str, Any], theirs: dict[str, str], own: Shop
) -> list[tuple[str, dict[str, Any]]]:
    """Requests to an operation, each right but for one id of the other chain."""
    noun = re.split("[/:]", path)[2]
    own_ids: dict[str, Any] = {
        "lines": [{"service_id": own.service_id}],
        "branch_id": own.branch_id,
        "service_id": own.service_id,
        "customer_id": own.customer_id,
        "staff_id": own.staff_id,
    }
    body = body_for(document, operation, own_ids)
    query = {
        p["name"]: SAMPLES.get(p["name"]) or sample(p["schema"])
        for p in query_parameters(operation)
        if p.get("required")
    }
    if path == "/v1/bookings:record" and body is not None:
        body["starts_at"] = "2026-03-01T02:00:00Z"
    query |= {name: value for name, value in own_ids.items() if name in query}
    if "{" in path:
        assert noun in NOUNS, f"tell tests/flow/test_isolation.py how to find an id for {path}"
        start, _, rest = path.partition("{")
        # What stands further on in a path is never reached.
        url = (
            start
            + theirs[noun]
            + re.sub(r"\{(\w+)\}", lambda found: SAMPLES.get(found[1], str(uuid4())), rest.partition("}")[2])
        )
        return [("path", {"url": url, "params": query, **({"json": body} if body is not None else {})})]
    found: list[tuple[str, dict[str, Any]]] = []
    names = {p["name"] for p in query_parameters(operation)}
    for field in sorted(names & set(FIELDS)):
        found += [(field, {"url": path, "params": {**query, field: theirs[FIELDS[field]]}})]
    if body is not None:
        for field in sorted(set(properties(document, operation)) & set(FIELDS)):
            visit = {} if field == "package_id" else visit_of(properties(document, operation), own.service_id)
            found += [(field, {"url": path, "json": {**visit, **body, field: theirs[FIELDS[field]]}})]
    return found


def visit_of(names: dict[str, Any], service_id: str) -> dict[str, Any]:
    """What is asked for, where a body may say it in several ways and the contract can ask for none of them."""
    if "package_id" not in names and "rule" not in names:
        return {}
    return {"service_id": service_id} if "service_id" in names else {"lines": [{"service_id": service_id}]}


def query_parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters of the query; those that all operations share are references to headers."""
    return [p for p in operation.get("parameters", ()) if p.get("in") == "query"]


def schema_of(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    return resolve(document, content["schema"]) if content else {}


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while True:
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        elif "allOf" in schema:
            schema = schema["allOf"][0]
        else:
            return schema


def properties(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema_of(document, operation).get("properties", {})
    return found


def body_for(document: dict[str, Any], operation: dict[str, Any], own_ids: dict[str, Any]) -> dict[str, Any] | None:
    schema = schema_of(document, operation)
    if not schema:
        return None
    body = {}
    for name in schema.get("required", ()):
        body[name] = own_ids.get(name) or build(document, name, schema["properties"][name])
    return body


SAMPLES: dict[str, Any] = {
    "from": "2027-03-01T00:00:00Z",
    "to": "2027-03-02T00:00:00Z",
    "day": "2027-03-01",
    "start_time": "10:00",
    "end_time": "14:00",
    "rule": {"frequency": "weekly", "count": 1},
    "starts_at": "2027-03-01T02:00:00Z",
    "steps": [{"minutes": 10}],
    "windows": [{"from": "2027-03-01T02:00:00Z", "to": "2027-03-01T04:00:00Z"}],
    "staff_ids": [str(uuid4())],
    "code": "123456",
    "email": f"{uuid4().hex}@example.com",
    "owner_email": "x@example.com",
    "password": "a long enough password",
    "event_type": "booking.confirmed",
    "language": "en",
    "permissions": ["bookings.read"],
    "roles": [{"role": "front_desk"}],
    "duration_minutes": 60,
    "body": "hello",
    "status": "completed",
}


def build(document: dict[str, Any], name: str, schema: dict[str, Any]) -> Any:
    if name in SAMPLES:
        return SAMPLES[name]
    schema = resolve(document, schema)
    if schema.get("type") == "object":
        wanted = schema.get("required", list(schema.get("properties", {})))
        if "currency" in schema.get("properties", {}):
            return {"amount": 100, "currency": "CNY"}
        return {inner: build(document, inner, schema["properties"][inner]) for inner in wanted}
    return sample(schema)


def sample(schema: dict[str, Any]) -> Any:
    """A value that a simple schema takes."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if schema.get("format") == "uuid":
        return str(uuid4())
    if schema.get("format") == "date-time":
        return "2026-12-01T00:00:00Z"
    if kind == "integer":
        return max(schema.get("minimum", 1), 1)
    if kind == "boolean":
        return False
    if kind == "array":
        return []
    if "pattern" in schema and "[0-9]{4}" in schema["pattern"]:
        return "2026-12-01"
    return "x" * max(schema.get("minLength", 1), 1)
