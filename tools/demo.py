"""The demo chain: made through the product's own API, once; the last line printed says how to sign in, as JSON.

    python -m tools.demo

What was made is remembered in FOYER_HOME/demo-state.json, so that a second run has nothing to do. One that was broken
off goes on where it stopped, as every request carries an Idempotency-Key that follows from what it makes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from chassis.access import derive_key
from chassis.settings import Settings, SettingsError
from tools import demo_plan as plan
from tools import demo_shop as shop

OWNER_EMAIL = "owner@foyer.example"
OTHER_EMAIL = "owner@other.example"
FRONT_DESK_EMAIL = "desk@foyer.example"
AT_ONCE = 12
ATTEMPTS = 6
PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 3.0
TOP_UPS = 16
CHARGES = 12
# A run that was broken off days ago may find that a time has passed.
MISSED = ("NOT_BOOKABLE", "SLOT_TAKEN", "CUSTOMER_BUSY", "SERIES_CONFLICT", "RESOURCE_TAKEN", "INVALID_REQUEST")

T = TypeVar("T")


class DemoError(Exception):
    """The demo cannot be made; the text says what the platform answered."""


class State:
    """What is remembered between runs, in a file that only its owner reads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.values: dict[str, Any] = {}
        if file.exists():
            try:
                self.values = json.loads(file.read_text())
            except ValueError:
                self.values = {}

    def save(self, **values: Any) -> None:
        """Remember more."""
        self.values |= values
        scratch = self._file.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps(self.values, indent=2, ensure_ascii=False) + "\n")
        scratch.replace(self._file)


class Api:
    """The gateway, with a chain's key."""

    def __init__(self, gateway: str, key: str, prefix: str) -> None:
        limits = httpx.Limits(max_connections=AT_ONCE)
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(base_url=gateway, headers=headers, timeout=20, limits=limits, trust_env=False)
        self._prefix = prefix

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def make(
        self, name: str, path: str, body: dict[str, Any], *, method: str = "POST", skip: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Send a write under the key that belongs to `name`; repeated while the platform is away or busy.

        A refusal whose code is in `skip` answers nothing: {}. Raises DemoError for any other.
        """
        headers = {"Idempotency-Key": f"{self._prefix}-{name}"}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await self._client.request(method, path, json=body, headers=headers)
            except httpx.TransportError as problem:
                if attempt == ATTEMPTS:
                    raise DemoError(f"{method} {path}: {problem!r}") from problem
                await asyncio.sleep(PAUSE_SECONDS * 2**attempt)
                continue
            if answer.is_success:
                made: dict[str, Any] = answer.json()
                return made
            if answer.status_code not in (429, 503, 504) or attempt == ATTEMPTS:
                if _code(answer) in skip:
                    return {}
                raise DemoError(f"{method} {path} {json.dumps(body, ensure_ascii=False)}: {answer.text[:500]}")
            pause = float(answer.headers.get("retry-after", PAUSE_SECONDS * 2**attempt))
            await asyncio.sleep(min(pause, LONGEST_PAUSE_SECONDS))
        raise AssertionError("unreachable")

    async def is_known(self) -> bool:
        """Whether the key still opens a chain: the database may have been emptied."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await self._client.get("/v1/me")
            except httpx.TransportError as problem:
                if attempt == ATTEMPTS:
                    raise DemoError(f"the gateway does not answer: {problem!r}") from problem
            else:
                if answer.status_code in (200, 401):
                    return answer.status_code == 200
            await asyncio.sleep(PAUSE_SECONDS * 2**attempt)
        raise DemoError(f"GET /v1/me: {answer.status_code} {answer.text[:500]}")


def _code(answer: httpx.Response) -> str:
    """Code of a refusal."""
    try:
        return str(answer.json().get("code", ""))
    except ValueError:
        return ""


async def each(items: Iterable[T], work: Callable[[T], Awaitable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Do it for all, some at once; answers in the order of the items."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> dict[str, Any]:
        async with gate:
            return await work(item)

    return list(await asyncio.gather(*(one(item) for item in items)))


# --- chains -----------------------------------------------------------------------------------------------------------


async def open_chain(settings: Settings, chain: dict[str, str], email: str, name: str, password: str) -> dict[str, str]:
    """Open a chain as the platform itself does; answers id, e-mail and API key.

    When the e-mail is taken by a chain whose key is lost, the new one gets an e-mail of its own.
    """
    from foyer.access.v1 import access_pb2, access_pb2_grpc

    from chassis.access import CallerTokens
    from chassis.client import Clients
    from chassis.errors import Refusal, register
    from chassis.unit import system_caller

    register(access_pb2.DESCRIPTOR)
    clients = Clients(settings, CallerTokens(settings.secret))
    try:
        for address in (email, email.replace("@", f"-{secrets.token_hex(3)}@")):
            request = access_pb2.CreateChainRequest(
                **chain, owner_name=name, owner_email=address, owner_password=password
            )
            try:
                made = await clients.write(
                    "access",
                    access_pb2_grpc.AccessStub,
                    "CreateChain",
                    request,
                    caller=system_caller("demo", ""),
                    idempotency_key=f"demo-{address}",
                    deadline_seconds=15,
                )
            except Refusal as refusal:
                if refusal.code != "EMAIL_TAKEN":
                    raise DemoError(f"the chain {chain['name']} cannot be opened: {refusal}") from refusal
                continue
            return {"id": made.chain.id, "email": address, "api_key": made.api_key.secret}
    finally:
        await clients.close()
    raise DemoError(f"the e-mail {email} is taken")


async def ensure_chain(settings: Settings, gateway: str, state: State, place: str, *facts: Any) -> bool:
    """Have a chain under `place` of the state; True when it had to be opened."""
    known = state.values.get(place)
    if known:
        async with Api(gateway, known["api_key"], "") as api:
            if await api.is_known():
                return False
    filled = {"chain": "filled", "other": "other_filled"}[place]
    state.values.pop(filled, None)
    state.save(**{place: await open_chain(settings, *facts)})
    return True


# --- what is in them --------------------------------------------------------------------------------------------------


async def fill(api: Api, today: date, password: str) -> dict[str, Any]:
    """The demo chain's branches, people, catalogue, customers, bookings and money."""
    # Bookings are made under the rules, and keep them.
    await api.make("policy", "/v1/booking-policy", shop.POLICY, method="PATCH")
    branches, types = await asyncio.gather(
        each(range(len(plan.BRANCHES)), lambda n: api.make(f"branch-{n}", "/v1/branches", plan.branch_body(n, today))),
        each(shop.RESOURCE_TYPES, lambda kind: api.make(f"type-{kind['code']}", "/v1/resource-types", kind)),
    )
    ids = shop.Ids([branch["id"] for branch in branches], {kind["code"]: kind["id"] for kind in types})

    async def person(number: int) -> dict[str, Any]:
        branch_id = ids.branches[plan.STAFF[number].branch]
        made = await api.make(f"staff-{number}", "/v1/staff", plan.staff_body(number, branch_id, today))
        shifts = plan.shifts_body(number, branch_id, today)
        await api.make(f"shifts-{number}", f"/v1/staff/{made['id']}/shifts", shifts, method="PUT")
        return made

    staff, _, desk = await asyncio.gather(
        each(range(len(plan.STAFF)), person),
        things(api, ids),
        front_desk(api, ids.branches[0], password),
    )
    ids.staff = [made["id"] for made in staff]

    def customer(number: int) -> Awaitable[dict[str, Any]]:
        body = plan.customer_body(number, ids.branches, ids.staff, today)
        return api.make(f"customer-{number}", "/v1/customers", body)

    made, _ = await asyncio.gather(each(range(len(plan.customers())), customer), catalogue(api, ids))
    ids.customers = [each["id"] for each in made]

    def visit(planned: plan.Visit) -> Awaitable[dict[str, Any]]:
        path = "/v1/bookings:record" if planned.status else "/v1/bookings"
        services = [ids.services[service.code] for service in plan.SERVICES]
        body = plan.visit_body(planned, ids.branches, ids.staff, services, ids.customers)
        return api.make(f"visit-{planned.number}", path, body, skip=MISSED)

    made, _ = await asyncio.gather(each(plan.visits(today, shop.reserved(today)), visit), occasions(api, ids, today))
    await each(range(TOP_UPS), lambda number: spend(api, number, ids.customers, ids.branches, ids.staff))
    return {"branch_ids": ids.branches, "bookings": sum(bool(booking) for booking in made), "front_desk": desk}


async def things(api: Api, ids: shop.Ids) -> None:
    """Rooms, what is lent, and stock, at every branch."""
    places = [(branch, code) for branch in range(len(plan.BRANCHES)) for code in shop.UNITS]
    items = [(branch, number) for branch in range(len(plan.BRANCHES)) for number in range(len(shop.STOCK))]

    def units(place: tuple[int, str]) -> Awaitable[dict[str, Any]]:
        return api.make(f"units-{place[0]}-{place[1]}", "/v1/resources", shop.units_body(*place, ids))

    def item(place: tuple[int, int]) -> Awaitable[dict[str, Any]]:
        return api.make(f"stock-{place[0]}-{place[1]}", "/v1/stock-items", shop.stock_body(*place, ids))

    made, stock = await asyncio.gather(each(places, units), each(items, item))
    ids.dress = made[places.index((shop.HOME, "DRESS"))]["resources"][0]["id"]
    ids.stock = {kept["code"]: kept["id"] for kept in stock if kept["branch_id"] == ids.branches[shop.HOME]}


async def catalogue(api: Api, ids: shop.Ids) -> None:
    """Services, then the add-on of some of them, and a package."""

    async def service(number: int) -> dict[str, Any]:
        made = await api.make(f"service-{number}", "/v1/services", shop.service_body(number, ids))
        ids.services[plan.SERVICES[number].code] = made["id"]
        return made

    add_on = next(number for number, service in enumerate(plan.SERVICES) if service.code == "OIL")
    await each([number for number in range(len(plan.SERVICES)) if number != add_on], service)
    await service(add_on)
    ids.package = (await api.make("package", "/v1/packages", shop.package_body(ids)))["id"]


async def occasions(api: Api, ids: shop.Ids, today: date) -> None:
    """Bookings of every kind, who waits, who is away, and what a roster is made from."""

    async def lesson() -> None:
        made = await api.make("lesson", "/v1/class-sessions", shop.lesson_body(today, ids), skip=MISSED)
        for number in shop.occasions(today)["lesson"].customers if made else ():
            body = {"customer_id": ids.customers[number], "source": "wechat"}
            path = f"/v1/class-sessions/{made['id']}/enrolments"
            await api.make(f"enrolment-{number}", path, body, skip=MISSED)

    async def bookings() -> None:
        bodies = shop.booking_bodies(today, ids)
        await each(bodies, lambda name: api.make(f"booking-{name}", "/v1/bookings", bodies[name], skip=MISSED))
        # They stand in the order in which they came.
        for number, body in enumerate(shop.waiting_bodies(today, ids)):
            await api.make(f"waiting-{number}", "/v1/waiting-list", body, skip=MISSED)
        for number in range(len(shop.WALK_INS)):
            await api.make(f"walk-in-{number}", "/v1/walk-ins", shop.walk_in_body(number, ids))

    await asyncio.gather(
        lesson(),
        bookings(),
        api.make("series", "/v1/booking-series", shop.series_body(today, ids), skip=MISSED),
        api.make("loan", "/v1/loans", shop.loan_body(today, ids), skip=MISSED),
        api.make("leave", "/v1/leaves", shop.leave_body(today, ids), skip=MISSED),
        roster(api, ids),
    )


async def roster(api: Api, ids: shop.Ids) -> None:
    """Shifts, contracts and demand of the first branch: a roster can be proposed."""
    branch_id = ids.branches[shop.HOME]
    people = [ids.staff[number] for number, person in enumerate(plan.STAFF) if person.branch == shop.HOME]

    def template(number: int) -> Awaitable[dict[str, Any]]:
        body = {**shop.SHIFT_TEMPLATES[number], "branch_id": branch_id}
        return api.make(f"shift-{number}", "/v1/shift-templates", body)

    def contract(staff_id: str) -> Awaitable[dict[str, Any]]:
        path = f"/v1/staff/{staff_id}/roster-contract"
        return api.make(f"contract-{staff_id}", path, shop.CONTRACT, method="PUT")

    wish = {"staff_id": people[-1], "kind": "avoids", "weekday": "monday", "note": "晚上有课"}
    await asyncio.gather(
        each(range(len(shop.SHIFT_TEMPLATES)), template),
        each(people, contract),
        api.make("demand", f"/v1/branches/{branch_id}/roster-demand", shop.DEMAND, method="PUT"),
        api.make("wish", "/v1/roster-wishes", wish),
    )


async def front_desk(api: Api, branch_id: str, password: str) -> dict[str, str]:
    """An account that may work at the first branch only; answers how to sign in."""
    roles = [{"role": "front_desk", "branch_id": branch_id}]
    for address in (FRONT_DESK_EMAIL, FRONT_DESK_EMAIL.replace("@", f"-{branch_id[-6:]}@")):
        body = {"email": address, "name": "前台小美", "password": password, "language": "zh", "roles": roles}
        if await api.make(f"account-{address}", "/v1/accounts", body, skip=("EMAIL_TAKEN",)):
            return {"email": address, "password": password}
    raise DemoError(f"the e-mail {FRONT_DESK_EMAIL} is taken")


async def spend(
    api: Api, number: int, customer_ids: list[str], branch_ids: list[str], staff_ids: list[str]
) -> dict[str, Any]:
    """A customer pays in cash what is used up later, and most use a part of it at once."""
    customer = number * 5 % len(customer_ids)
    branch = plan.home_of(customer)
    where = {"branch_id": branch_ids[branch], "staff_id": staff_ids[branch * 3 + number % 3]}
    amount = plan.money((50000, 100000, 200000)[number % 3])
    gift = {"gift": plan.money(amount["amount"] // 10)} if number % 2 else {}
    wallet = f"/v1/wallets/{customer_ids[customer]}"
    made = await api.make(f"top-up-{number}", f"{wallet}:top-up", {"amount": amount, "method": "cash", **gift, **where})
    if number < CHARGES:
        service = plan.SERVICES[number % len(plan.SERVICES)]
        price = plan.money(min(service.price_amount, amount["amount"] // 2))
        await api.make(f"charge-{number}", f"{wallet}:charge", {"amount": price, "reason": service.name, **where})
    return made


async def fill_other(api: Api) -> None:
    """A little of everything for the second chain."""
    branch = await api.make("branch", "/v1/branches", {"name": "邻家本店", "time_zone": "Asia/Shanghai"})
    await api.make("staff", "/v1/staff", {"name": "方圆", "branch_ids": [branch["id"]]})
    service = {"name": "剪发", "name_en": "Haircut", "duration_minutes": 45, "price": plan.money(8800)}
    await api.make("service", "/v1/services", service)
    for number, name in enumerate(("邻居甲", "邻居乙")):
        await api.make(f"customer-{number}", "/v1/customers", {"name": name, "phone": f"1390000000{number}"})


async def run(settings: Settings) -> dict[str, Any]:
    """Make what is missing; answers what `demo.json` tells. Raises DemoError."""
    started = time.monotonic()
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host
    gateway = f"http://{host}:{settings.port_base}"
    settings.home.mkdir(parents=True, exist_ok=True)
    state = State(settings.home / "demo-state.json")
    password = state.values.get("password") or secrets.token_urlsafe(12)
    state.save(password=password)
    opened = await asyncio.gather(
        ensure_chain(settings, gateway, state, "chain", plan.CHAIN, OWNER_EMAIL, "林晓", password),
        ensure_chain(settings, gateway, state, "other", plan.OTHER_CHAIN, OTHER_EMAIL, "方圆", password),
    )
    chain, other = state.values["chain"], state.values["other"]
    if opened[0] or "filled" not in state.values:
        if opened[0] or "today" not in state.values:
            state.save(today=datetime.now(UTC).date().isoformat())
        today = date.fromisoformat(state.values["today"])
        async with Api(gateway, chain["api_key"], f"demo-{chain['id']}") as api:
            state.save(filled=await fill(api, today, password))
    if opened[1] or "other_filled" not in state.values:
        async with Api(gateway, other["api_key"], f"demo-{other['id']}") as api:
            await fill_other(api)
        state.save(other_filled=True)
    if any(opened):
        state.save(seconds=round(time.monotonic() - started, 1))
    return {
        "gateway": settings.public_url or gateway,
        "owner": {"email": chain["email"], "password": password},
        "front_desk": state.values["filled"]["front_desk"],
        "api_key": chain["api_key"],
        "chain_id": chain["id"],
        "branch_ids": state.values["filled"]["branch_ids"],
        "other_owner": {"email": other["email"], "password": password},
        "other_api_key": other["api_key"],
        "other_chain_id": other["id"],
        "sandbox_payment_secret": base64.b64encode(derive_key(settings.secret, "sandbox-payment")).decode(),
    }


def main() -> int:
    """Make the demo of the platform that FOYER_* names; answers a process exit code."""
    try:
        settings = Settings.from_environment(os.environ, needs=("secret", "service_address"))
        told = asyncio.run(run(settings))
    except (SettingsError, DemoError) as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    print(json.dumps(told, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
