"""Wallet alone, with a clock of its own: database and gRPC server are real, what others would tell is written in."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from foyer.access.v1.access_pb2 import Branch
from foyer.bookings.v1.bookings_pb2 import Booking
from foyer.common.v1.common_pb2 import Money
from foyer.wallet.v1 import wallet_pb2 as pb
from google.protobuf.message import Message

from chassis.access import Caller
from chassis.clock import FrozenClock
from chassis.codec import descriptor_of
from chassis.db import migrate
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.memory_bus import MemoryBus
from chassis.settings import Settings
from chassis.testing import Platform
from chassis.unit import event_subject, system_caller
from services.wallet import projections
from services.wallet.service import SERVICE
from tools.servers import Servers

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BRANCH_ZONE = "America/Toronto"
CHAIN_ZONE = "Asia/Shanghai"


@asynccontextmanager
async def wallet_alone(servers: Servers, name: str) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    """The wallet service in this process, on a database of its own; its jobs run when a test says so."""
    template = f"{name}_{{service}}"
    environ = servers.make_databases(template, ["wallet"])
    environ["FOYER_SERVICE_ADDRESS"] = f"unix:{servers.directory}/{name}-{{service}}.sock"
    owner_url = environ["FOYER_OWNER_DATABASE_URL"].replace("{service}", "wallet")
    await asyncio.to_thread(migrate, owner_url, "wallet")
    clock, bus = FrozenClock(NOW), MemoryBus()
    await bus.connect()
    service = dataclasses.replace(SERVICE, jobs=())
    async with Platform.start(Settings.from_environment(environ), [service], bus=bus, clock=clock) as platform:
        yield platform, clock


def yuan(amount: int, currency: str = "CNY") -> Money:
    return Money(amount=amount, currency=currency)


@dataclass
class Shop:
    """A chain with one branch, a staff member, a service, a customer and a booking."""

    platform: Platform
    clock: FrozenClock
    caller: Caller = field(init=False)
    customer: str = field(default_factory=new_id)
    branch: str = field(default_factory=new_id)
    staff: str = field(default_factory=new_id)
    service: str = field(default_factory=new_id)
    booking: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        self.caller = self.platform.owner()

    async def open(self) -> Shop:
        async with self.platform["wallet"].context.store.unit(self.caller) as unit:
            branch = Branch(id=self.branch, time_zone=BRANCH_ZONE, version=1)
            booking = Booking(
                id=self.booking, branch_id=self.branch, staff_id=self.staff, service_id=self.service, version=1
            )
            await projections.keep_branch(unit, branch)
            await projections.keep_customer(unit, self.customer, None, 1)
            await projections.keep_booking(unit, booking)
            await projections.keep_known(unit, "staff", self.staff)
            await projections.keep_known(unit, "service", self.service)
        return self

    async def call(self, method: str, request: Message, caller: Caller | None = None, **options: Any) -> Any:
        return await self.platform.call("wallet", method, request, caller or self.caller, **options)

    async def refused(self, method: str, request: Message, caller: Caller | None = None, **options: Any) -> Refusal:
        try:
            answer = await self.call(method, request, caller, **options)
        except Refusal as refusal:
            return refusal
        raise AssertionError(f"{method} was not refused: {answer}")

    async def top_up(self, amount: int, gift: int = 0, method: int = pb.PAYMENT_METHOD_CASH, **more: Any) -> Any:
        request = pb.TopUpRequest(
            customer_id=self.customer,
            amount=yuan(amount),
            gift=yuan(gift) if gift else None,
            method=method,  # type: ignore[arg-type]
            **more,
        )
        return await self.call("TopUp", request)

    def to_charge(self, amount: int, currency: str = "CNY", **more: Any) -> pb.ChargeWalletRequest:
        given: dict[str, Any] = {"customer_id": self.customer, "amount": yuan(amount, currency), "reason": "Cut"}
        return pb.ChargeWalletRequest(**{**given, **more})

    async def charge(self, amount: int, **more: Any) -> Any:
        return await self.call("ChargeWallet", self.to_charge(amount, **more))

    async def authorize(self, amount: int, minutes: int | None = None, **more: Any) -> Any:
        request = pb.AuthorizeWalletRequest(
            customer_id=self.customer, amount=yuan(amount), reason="Deposit", expires_in_minutes=minutes, **more
        )
        return await self.call("AuthorizeWallet", request)

    async def wallet(self) -> Any:
        return await self.call("GetWallet", pb.GetWalletRequest(customer_id=self.customer))

    async def entries(self, customer: str | None = None) -> list[Any]:
        found: list[Any] = []
        token = ""
        for _ in range(100):
            request = pb.ListEntriesRequest(customer_id=customer or self.customer, page_size=200, page_token=token)
            page = await self.call("ListEntries", request)
            found += page.entries
            token = page.next_page_token
            if not token:
                return found
        raise AssertionError("more than 20,000 entries")

    async def books(self) -> Any:
        """The books, which must be right."""
        report = await self.call("VerifyBooks", pb.VerifyBooksRequest())
        assert report.balanced, report
        return report

    async def events(self, message: type[Message]) -> list[Any]:
        """What was emitted of a kind, in order."""
        subject, _ = event_subject(descriptor_of(message()))
        query = "select body from outbox where chain_id = $1 and subject = $2 order by sequence"
        async with self.platform["wallet"].context.system_store.pool.acquire() as connection:
            rows = await connection.fetch(query, self.caller.chain_id, subject)
        return [message.FromString(row["body"]) for row in rows]

    async def hears(self, event: Message, **options: Any) -> None:
        """Another service publishes an event, and wallet handles it."""
        async with self.platform["wallet"].context.store.unit(system_caller("other", self.caller.chain_id)) as unit:
            unit.emit(event, **options)
        self.platform["wallet"].relay.wake()
        await self.platform.settle(self.caller.chain_id)


def parts(balances: Any) -> tuple[int, int]:
    """Principal and gift of balances."""
    return balances.principal.amount, balances.gift.amount
