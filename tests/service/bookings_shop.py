"""Bookings alone, with a clock of its own: database and gRPC server are real, what others would tell is written in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from foyer.access.v1.access_pb2 import Branch
from foyer.bookings.v1 import assignments_pb2, people_pb2
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.common.v1.common_pb2 import Money, Weekday
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.access import Caller
from chassis.clock import Clock, FrozenClock
from chassis.db import migrate, prepare_sql
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.memory_bus import MemoryBus
from chassis.settings import Settings
from chassis.testing import Platform
from chassis.unit import event_subject, system_caller
from services.bookings import allocator
from services.bookings.events import keep_branch, keep_customer
from services.bookings.service import SERVICE
from tools.servers import Servers

CROWD = 80
NOW = datetime(2026, 5, 4, 0, 0, tzinfo=UTC)  # a Monday; 08:00 in Shanghai
EVENTS = {
    message.DESCRIPTOR.full_name.rpartition(".")[2]: message
    for message in (
        pb.BookingHeld,
        pb.BookingConfirmed,
        pb.BookingRescheduled,
        pb.BookingCheckedIn,
        pb.BookingStarted,
        pb.BookingCompleted,
        pb.BookingCancelled,
        pb.BookingMissed,
        pb.BookingExpired,
        assignments_pb2.BookingExtended,
        people_pb2.BookingReassigned,
    )
}
READ_EVENTS = prepare_sql(
    "select subject, occurred_at, body from outbox where chain_id = $1::uuid and aggregate_id = $2 order by sequence",
    "chain_id",
    "aggregate_id",
)
READ_DAYS = prepare_sql("select resource_id::text, day, busy from resource_days where chain_id = $1::uuid", "chain_id")
READ_ALLOCATIONS = prepare_sql(
    "select booking_id::text, resource_id::text, starts_at, ends_at, guarded from allocations"
    " where chain_id = $1::uuid",
    "chain_id",
)


@asynccontextmanager
async def bookings_alone(
    servers: Servers, name: str, clock: Clock | None = None
) -> AsyncIterator[tuple[Platform, Any]]:
    """The bookings service in this process, on a database of its own, with a clock that stands still or a given one."""
    template = f"{name}_{{service}}"
    environ = servers.make_databases(template, ["bookings"])
    environ["FOYER_SERVICE_ADDRESS"] = f"unix:{servers.directory}/{name}-{{service}}.sock"
    owner_url = environ["FOYER_OWNER_DATABASE_URL"].replace("{service}", "bookings")
    await asyncio.to_thread(migrate, owner_url, "bookings")
    clock, bus = clock or FrozenClock(NOW), MemoryBus()
    await bus.connect()
    async with Platform.start(Settings.from_environment(environ), [SERVICE], bus=bus, clock=clock) as platform:
        yield platform, clock


def yuan(amount: int, currency: str = "CNY") -> Money:
    return Money(amount=amount, currency=currency)


def stamp(moment: datetime) -> Timestamp:
    """A moment as protobuf has it."""
    found = Timestamp()
    found.FromDatetime(moment)
    return found


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """A time in Shanghai, in days from the first one."""
    return NOW + timedelta(days=day, hours=hour - 8, minutes=minute)


def intervals(start: str, end: str, weekdays: Sequence[int] = range(1, 8)) -> list[pb.ShiftInterval]:
    return [pb.ShiftInterval(weekday=day, start_time=start, end_time=end) for day in weekdays]  # type: ignore[arg-type]


@dataclass
class Shop:
    """A chain with a branch that is open from 9 to 21, a service of an hour, a customer, and staff."""

    platform: Platform
    clock: FrozenClock
    zone: str = "Asia/Shanghai"
    caller: Caller = field(init=False)
    branch: str = field(default_factory=new_id)
    customer: str = field(default_factory=new_id)
    service: str = ""
    staff: list[str] = field(default_factory=list)
    crowd: list[str] = field(default_factory=lambda: [new_id() for _ in range(CROWD)])
    """Customers who book when nobody is named: each time another one, for nobody can be in two places."""
    turn: int = 0

    async def open(self, staff: int = 1, **service: Any) -> Shop:
        self.caller = self.platform.owner(time_zone=self.zone)
        await self.keep_branch()
        async with self.unit() as unit:
            for identifier in (self.customer, *self.crowd):
                await keep_customer(unit, identifier, "王小明", "zh", 1)
        self.service = await self.new_service(**service)
        for _ in range(staff):
            self.staff.append(await self.new_staff())
        return self

    def unit(self) -> Any:
        return self.platform["bookings"].context.store.unit(system_caller("bookings", self.caller.chain_id))

    async def keep_branch(
        self, version: int = 1, hours: tuple[str, str] | None = ("09:00", "21:00"), **more: Any
    ) -> None:
        branch = Branch(id=self.branch, name="Jing'an", time_zone=self.zone, active=True, version=version)
        if hours is not None:
            for day in Weekday.values()[1:]:
                branch.opening_hours.add(weekday=day, start_time=hours[0], end_time=hours[1])
        branch.MergeFrom(Branch(**more))
        if "active" in more:
            branch.active = more["active"]
        async with self.unit() as unit:
            await keep_branch(branch, unit)

    async def call(self, method: str, request: Message, caller: Caller | None = None, **more: Any) -> Any:
        return await self.platform.call("bookings", method, request, caller or self.caller, **more)

    async def refused(self, method: str, request: Message, **more: Any) -> Refusal:
        try:
            answer = await self.call(method, request, **more)
        except Refusal as refusal:
            return refusal
        raise AssertionError(f"{method} was not refused: {answer}")

    async def outcome(self, request: Message, method: str = "CreateBooking") -> str:
        """`done`, or the code of the refusal."""
        try:
            await self.call(method, request)
        except Refusal as refusal:
            return refusal.code
        return "done"

    async def new_service(self, **changes: Any) -> str:
        values: dict[str, Any] = {"name": "Cut", "duration_minutes": 60, "price": yuan(12800), **changes}
        identifier: str = (await self.call("CreateService", pb.CreateServiceRequest(**values))).id
        return identifier

    async def new_staff(self, start: str = "10:00", end: str = "18:00", **changes: Any) -> str:
        values: dict[str, Any] = {"name": "Lin", "branch_ids": [self.branch], **changes}
        person = await self.call("CreateStaff", pb.CreateStaffRequest(**values))
        if start != end:
            request = pb.SetShiftsRequest(
                id=person.id, branch_id=self.branch, from_date="2026-01-01", intervals=intervals(start, end)
            )
            await self.call("SetShifts", request)
        identifier: str = person.id
        return identifier

    def request(self, starts_at: datetime, staff: int | None = None, **more: Any) -> pb.CreateBookingRequest:
        values: dict[str, Any] = {
            "branch_id": self.branch,
            "service_id": self.service,
            "customer_id": self.crowd[self.turn % CROWD],
            **more,
        }
        self.turn += 1
        if staff is not None:
            values["staff_id"] = self.staff[staff]
        return pb.CreateBookingRequest(starts_at=stamp(starts_at), **values)

    async def book(self, starts_at: datetime, staff: int | None = None, **more: Any) -> pb.Booking:
        booking: pb.Booking = await self.call("CreateBooking", self.request(starts_at, staff, **more))
        return booking

    async def offers(self, start: datetime, end: datetime, **more: Any) -> list[pb.Slot]:
        values: dict[str, Any] = {"branch_id": self.branch, "service_id": self.service, **more}
        request = pb.FindAvailabilityRequest(starts_from=stamp(start), ends_by=stamp(end), **values)
        return list((await self.call("FindAvailability", request)).slots)

    async def starts(self, day: int, **more: Any) -> list[str]:
        """Offered starts of a day in Shanghai, as HH:MM."""
        slots = await self.offers(at(day, 0), at(day, 24), **more)
        moments = [slot.starts_at.ToDatetime(tzinfo=UTC) + timedelta(hours=8) for slot in slots]
        return [moment.strftime("%H:%M") for moment in moments]

    async def events(self, aggregate_id: str) -> list[tuple[Any, datetime]]:
        """Events of a booking in order, each with the time it counts at."""
        async with self.unit() as unit:
            rows = await unit.all(READ_EVENTS, aggregate_id=aggregate_id)
        kinds = {_subject(message): message for message in EVENTS.values()}
        known = [row for row in rows if row["subject"] in kinds]
        return [(kinds[row["subject"]].FromString(row["body"]), row["occurred_at"]) for row in known]

    async def told(self, aggregate_id: str) -> list[str]:
        return [type(event).DESCRIPTOR.name for event, _ in await self.events(aggregate_id)]

    async def check_time(self) -> int:
        """That bits are those of the allocations, which do not overlap; answers how many bookings have any."""
        async with self.unit() as unit:
            days = await unit.all(READ_DAYS)
            allocations: list[asyncpg.Record] = await unit.all(READ_ALLOCATIONS)
        expected: dict[tuple[str, Any], int] = {}
        for row in allocations:
            for key, mask in allocator.masks_of([allocator.Taken.of(row)]).items():
                assert not expected.get(key, 0) & mask, "allocations overlap"
                expected[key] = expected.get(key, 0) | mask
        found = {(row["resource_id"], row["day"]): allocator.number(row["busy"]) for row in days}
        assert {key: mask for key, mask in found.items() if mask} == expected
        return len({row["booking_id"] for row in allocations})


def _subject(message: Any) -> str:
    return event_subject(message.DESCRIPTOR)[0]
