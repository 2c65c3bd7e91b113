"""What is measured against: a chain with 20 staff, 60,000 bookings, 200 customers with money."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx

from chassis.settings import Settings
from tools.postgres import admin_url
from tools.running import Running

STAFF = 20
CUSTOMERS = 200
FEWEST_BOOKINGS, BOOKINGS, MOST_BOOKINGS = 6_000, 60_000, 600_000
MONEY = 100_000_000
WEEK = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SLOTS_A_DAY = 12
ROOMS = 5
PRICE = {"amount": 12800, "currency": "CNY"}

Make = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Posts a body to a path of the API; answers what was made."""

# Past bookings of an hour each, spread over the staff, twelve a day; written in one go, as the API would have.
PAST_BOOKINGS = """
with slots as (
  select g as number, $2::uuid[] as staff, g % 20 as person, (g / 20) / 12 as day, (g / 20) % 12 as hour
  from generate_series($6::int, $7::int - 1) g
), rows as (
  select gen_random_uuid() as id, staff[person + 1] as staff_id,
    $5::timestamptz - make_interval(days => day::int + 1) + make_interval(hours => 9 + hour::int) as starts_at
  from slots
), booked as (
  insert into bookings (chain_id, id, branch_id, service_id, customer_id, staff_id, status, starts_at, ends_at,
    buffer_before_minutes, buffer_after_minutes, price_amount, currency, service_name, time_zone, version, created_at)
  select $1, id, $3, $4, $8, staff_id, 'completed', starts_at, starts_at + interval '1 hour', 0, 0, 12800, 'CNY', 'Cut',
    'UTC', 1, starts_at
  from rows
), allocated as (
  insert into allocations (chain_id, booking_id, resource_id, starts_at, ends_at)
  select $1, id, staff_id, starts_at, starts_at + interval '1 hour' from rows
)
insert into resource_days (chain_id, resource_id, day, busy)
select distinct $1::uuid, staff_id, starts_at::date, ~(0::bit(288)) from rows
on conflict do nothing
"""


@dataclass
class Shop:
    """Ids and ways in."""

    platform: Running
    settings: Settings
    key: str
    chain_id: str
    branch_id: str = ""
    service_id: str = ""
    """One person for an hour."""
    pair_id: str = ""
    """Two people of different skills and a room, for an hour."""
    equipped_id: str = ""
    """A person, a room and a thing, for an hour."""
    staff_ids: list[str] = field(default_factory=list)
    thing_ids: list[str] = field(default_factory=list)
    """Five rooms, then five things."""
    held_ids: dict[int, str] = field(default_factory=dict)
    """Holds that are to be confirmed, by their numbers."""
    customer_ids: list[str] = field(default_factory=list)
    midnight: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    )

    def slot(self, number: int) -> tuple[str, datetime]:
        """The nth free slot from tomorrow on: who, and when."""
        person, rest = number % STAFF, number // STAFF
        day, hour = rest // SLOTS_A_DAY, rest % SLOTS_A_DAY
        return self.staff_ids[person], self.midnight + timedelta(days=day + 2, hours=9 + hour)

    async def admin(self, service: str) -> asyncpg.Connection[asyncpg.Record]:
        """A connection to a service's database that sees everything."""
        secrets = self.platform.home.secrets()
        url = admin_url(self.platform.port_base + 1, secrets["postgres"]).rpartition("/")[0]
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(f"{url}/foyer_{service}")
        return connection


async def open_shop(platform: Running) -> Shop:
    """Set everything up through the gateway, and the mass of past bookings in the database."""
    key = platform.demo["api_key"]
    async with httpx.AsyncClient(
        base_url=platform.gateway, headers={"authorization": f"Bearer {key}"}, timeout=60
    ) as api:

        async def make(path: str, body: dict[str, Any]) -> dict[str, Any]:
            answer = await api.post(path, json=body)
            assert answer.status_code == 201, answer.text
            made: dict[str, Any] = answer.json()
            return made

        chain = (await api.get("/v1/chain")).json()
        shop = Shop(platform, settings_of(platform), key, chain["id"])
        shop.branch_id = (await make("/v1/branches", {"name": "Bench", "time_zone": "UTC"}))["id"]
        shop.service_id = (await make("/v1/services", {"name": "Cut", "duration_minutes": 60, "price": PRICE}))["id"]
        await open_rooms(shop, make)
        week = [{"weekday": day, "start_time": "09:00", "end_time": "21:00"} for day in WEEK]
        for number in range(STAFF):
            staff = await make(
                "/v1/staff",
                {"name": f"Bench {number}", "branch_ids": [shop.branch_id], "skills": [f"bench-{number % 2}"]},
            )
            answer = await api.put(
                f"/v1/staff/{staff['id']}/shifts", json={"from_date": "2024-01-01", "intervals": week}
            )
            assert answer.status_code == 200, answer.text
            shop.staff_ids.append(staff["id"])
        free = asyncio.Semaphore(8)

        async def customer(number: int) -> str:
            async with free:
                made = await make("/v1/customers", {"name": f"Bench {number}", "phone": f"1390000{number:04d}"})
                amount = {"amount": MONEY, "currency": "CNY"}
                await make(f"/v1/wallets/{made['id']}:top-up", {"amount": amount, "method": "cash"})
                return str(made["id"])

        shop.customer_ids = list(await asyncio.gather(*(customer(number) for number in range(CUSTOMERS))))
        # One of each, so that every projection is there before anything is measured.
        await make("/v1/bookings", booking(shop, 0))
    await fill(shop, 0, FEWEST_BOOKINGS)
    return shop


async def open_rooms(shop: Shop, make: Make) -> None:
    """Five rooms, five things, and services that need them."""
    types = {}
    for name, kind in (("room", "room"), ("thing", "equipment")):
        types[name] = (await make("/v1/resource-types", {"name": f"Bench {name}", "kind": kind}))["id"]
        body = {"branch_id": shop.branch_id, "resource_type_id": types[name], "name": name, "count": ROOMS}
        shop.thing_ids += [unit["id"] for unit in (await make("/v1/resources", body))["resources"]]
    needs = {name: {"name": name, "resource_type_id": identifier} for name, identifier in types.items()}
    plans = {
        "pair_id": {
            "roles": [{"name": "lead", "skills": ["bench-0"]}, {"name": "second", "skills": ["bench-1"]}],
            "resources": [needs["room"]],
        },
        "equipped_id": {"roles": [{"name": "lead"}], "resources": list(needs.values())},
    }
    for name, plan in plans.items():
        body = {"name": f"Bench {name}", "duration_minutes": 60, "price": PRICE, "plan": plan}
        setattr(shop, name, (await make("/v1/services", body))["id"])


async def fill(shop: Shop, since: int, until: int) -> None:
    """Write past bookings number `since` to before `until`."""
    admin = await shop.admin("bookings")
    try:
        await admin.execute(
            PAST_BOOKINGS,
            shop.chain_id,
            shop.staff_ids,
            shop.branch_id,
            shop.service_id,
            shop.midnight,
            since,
            until,
            shop.customer_ids[0],
            timeout=600,
        )
        await admin.execute("vacuum analyze", timeout=600)
    finally:
        await admin.close()


def booking(shop: Shop, number: int, *, hold: bool = False) -> dict[str, Any]:
    """The body that books the nth free slot."""
    staff_id, starts_at = shop.slot(number)
    return {
        "branch_id": shop.branch_id,
        "service_id": shop.service_id,
        "customer_id": shop.customer_ids[number % CUSTOMERS],
        "staff_id": staff_id,
        "starts_at": starts_at.isoformat(),
        "hold": hold,
    }


def settings_of(platform: Running) -> Settings:
    """The settings that the platform's processes were given."""
    from tools import databases
    from tools.home import ROLES

    secrets = platform.home.secrets()
    admin = admin_url(platform.port_base + 1, secrets["postgres"])
    names = dict(
        zip(("FOYER_OWNER_DATABASE_URL", "FOYER_DATABASE_URL", "FOYER_SYSTEM_DATABASE_URL"), ROLES, strict=True)
    )
    urls = {name: databases.url(admin, role, secrets[role]) for name, role in names.items()}
    return Settings.from_environment({"FOYER_SECRET": secrets["platform"], **urls})
