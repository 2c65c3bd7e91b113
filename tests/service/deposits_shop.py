"""Bookings and wallet together. Events flow through a bus in memory, or are carried by hand: late, twice, mixed up."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from foyer.access.v1.access_pb2 import Branch
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import policies_pb2
from foyer.wallet.v1 import wallet_pb2
from google.protobuf.message import Message

from chassis.bus import Event
from chassis.clock import FrozenClock
from chassis.db import migrate
from chassis.errors import Refusal
from chassis.memory_bus import MemoryBus
from chassis.settings import Settings
from chassis.testing import Platform
from chassis.unit import system_caller
from services.bookings.service import SERVICE as BOOKINGS
from services.wallet import projections
from services.wallet.service import SERVICE as WALLET
from tests.service.bookings_shop import NOW, Shop, yuan
from tools.servers import Servers

PRICE, DEPOSIT = 20000, 5000


@asynccontextmanager
async def both(servers: Servers, name: str, bus: MemoryBus) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    """Bookings and wallet in this process, each on a database of its own; their jobs run when a test says so."""
    names = ["bookings", "wallet"]
    environ = servers.make_databases(f"{name}_{{service}}", names)
    environ["FOYER_SERVICE_ADDRESS"] = f"unix:{servers.directory}/{name}-{{service}}.sock"
    for service in names:
        await asyncio.to_thread(migrate, environ["FOYER_OWNER_DATABASE_URL"].replace("{service}", service), service)
    clock = FrozenClock(NOW)
    services = [dataclasses.replace(service, jobs=()) for service in (BOOKINGS, WALLET)]
    async with Platform.start(Settings.from_environment(environ), services, bus=bus, clock=clock) as platform:
        yield platform, clock


@dataclass
class DepositShop(Shop):
    """A shop whose service asks for a deposit that the chain collects by itself, and a customer with money."""

    carried: set[tuple[str, str]] = field(default_factory=set)
    """Events that were carried by hand: where to, and which."""

    async def open(self, staff: int = 2, money: int = 100_000, **change: Any) -> DepositShop:
        await super().open(staff, price=yuan(PRICE), deposit=yuan(DEPOSIT))
        grants = {**self.caller.grants, "bookings.override": "*"}
        self.caller = dataclasses.replace(self.caller, grants=grants)
        async with self.platform["wallet"].context.store.unit(self.system("wallet")) as unit:
            branch = Branch(id=self.branch, time_zone=self.zone, version=1)
            await projections.keep_branch(unit, branch)
            for identifier in (self.customer, *self.crowd):
                await projections.keep_customer(unit, identifier, None, 1)
        await self.set_policy(collect_deposits=True, **change)
        await self.top_up(self.customer, money)
        return self

    def system(self, service: str) -> Any:
        return system_caller(service, self.caller.chain_id)

    async def set_policy(self, **changes: Any) -> policies_pb2.BookingPolicy:
        request = policies_pb2.UpdateBookingPolicyRequest(**changes)
        policy: policies_pb2.BookingPolicy = await self.call("UpdateBookingPolicy", request)
        return policy

    async def wallet(self, method: str, request: Message) -> Any:
        return await self.platform.call("wallet", method, request, self.caller)

    async def top_up(self, customer: str, amount: int) -> None:
        if amount:
            request = wallet_pb2.TopUpRequest(
                customer_id=customer, amount=yuan(amount), method=wallet_pb2.PAYMENT_METHOD_CASH
            )
            await self.wallet("TopUp", request)

    async def ask(self, starts_at: Any, **more: Any) -> pb.Booking:
        """A booking of the customer with money."""
        return await self.book(starts_at, customer_id=self.customer, **more)

    async def read(self, identifier: str) -> pb.Booking:
        booking: pb.Booking = await self.call("GetBooking", pb.GetBookingRequest(id=identifier))
        return booking

    async def stands(self, identifier: str) -> tuple[str, str]:
        """State of a booking and of its deposit."""
        booking = await self.read(identifier)
        status = pb.BookingStatus.Name(booking.status).removeprefix("BOOKING_STATUS_").lower()
        deposit = pb.DepositStatus.Name(booking.deposit_status).removeprefix("DEPOSIT_STATUS_").lower()
        return status, deposit

    async def money(self) -> tuple[int, int]:
        """What is in the customer's wallet, and what of it is set aside."""
        found = await self.wallet("GetWallet", wallet_pb2.GetWalletRequest(customer_id=self.customer))
        held = found.held.principal.amount + found.held.gift.amount
        return found.total.amount, held

    async def check_books(self) -> None:
        report = await self.wallet("VerifyBooks", wallet_pb2.VerifyBooksRequest())
        assert report.balanced, report

    async def settle(self) -> None:
        """Wait until nothing more comes: what answers an event is an event again."""
        before = -1
        while before != (count := await self.count()):
            before = count
            await self.platform.settle(self.caller.chain_id)

    async def count(self) -> int:
        """How many events there were."""
        count = 0
        for application in self.platform.applications.values():
            async with application.context.system_store.pool.acquire() as connection:
                query = "select count(*) from outbox where chain_id = $1"
                count += await connection.fetchval(query, self.caller.chain_id)
        return count

    async def step(self, method: str, request: Message) -> str:
        """Take a step; answers why it was refused, or nothing."""
        try:
            await self.call(method, request)
        except Refusal as refusal:
            return refusal.code
        return ""

    # --- events by hand ---

    async def waiting(self, to: str) -> list[Event]:
        """Events the other one told that were not carried to this one yet, in their order."""
        source = "wallet" if to == "bookings" else "bookings"
        subjects = set(self.platform[to].service.subscriptions.subjects)
        async with self.platform[source].context.system_store.pool.acquire() as connection:
            rows = await connection.fetch(
                "select * from outbox where chain_id = $1 order by sequence", self.caller.chain_id
            )
        return [
            Event(
                id=row["id"],
                type=row["subject"],
                chain_id=row["chain_id"],
                aggregate_id=row["aggregate_id"],
                source=source,
                time=row["recorded_at"],
                occurred_at=row["occurred_at"],
                body=row["body"],
            )
            for row in rows
            if row["subject"] in subjects and (to, row["id"]) not in self.carried
        ]

    async def carry(self, to: str, *events: Event) -> None:
        """Have a service handle events, whether or not it did before."""
        for event in events:
            async with self.platform[to].context.store.unit(self.system(to)) as unit:
                await self.platform[to].service.subscriptions.apply([event], unit)
            self.carried.add((to, event.id))

    async def carry_one(self, to: str, subject: str) -> Event:
        """Carry the first event of a kind that waits."""
        event = next(event for event in await self.waiting(to) if event.type == subject)
        await self.carry(to, event)
        return event

    async def carry_all(self, chance: random.Random | None = None) -> None:
        """Carry everything there is, until nothing more comes; with `chance` in any order, and some of it twice."""
        while True:
            found = [(to, event) for to in ("wallet", "bookings") for event in await self.waiting(to)]
            if not found:
                return
            if chance is not None:
                chance.shuffle(found)
            for to, event in found:
                await self.carry(to, *([event] * (2 if chance is not None and chance.random() < 0.3 else 1)))
