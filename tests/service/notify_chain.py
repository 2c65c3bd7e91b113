"""A chain as notify knows it, and a real mail server, for the tests of notify."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from aiosmtpd.smtp import SMTP, Envelope, Session
from foyer.access.v1 import access_pb2
from foyer.bookings.v1 import bookings_pb2
from foyer.customers.v1 import customers_pb2
from foyer.notify.v1 import notify_pb2 as pb
from google.protobuf.message import Message

from chassis.access import Caller
from chassis.ids import new_id
from chassis.money import money
from chassis.settings import Settings
from chassis.testing import Platform
from chassis.unit import system_caller
from services.notify import delivery

ZONE = "Asia/Shanghai"
STARTS_AT = datetime(2030, 3, 1, 6, 30, tzinfo=UTC)


class Server:
    """A mail server that keeps what it takes; `answers` says what it tells a recipient instead."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, EmailMessage]] = []
        self.answers: dict[str, str] = {}

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        message = email.message_from_bytes(envelope.original_content or b"", policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.taken.append((envelope.rcpt_tos[0], message))
        return "250 taken"

    def to(self, address: str) -> list[EmailMessage]:
        return [message for recipient, message in self.taken if recipient == address]


@asynccontextmanager
async def serving_mail(settings: Settings) -> AsyncIterator[Server]:
    """The mail server the platform under test sends to."""
    parts = urlsplit(settings.smtp_url)
    handler = Server()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(SMTP, handler, loop=loop), parts.hostname, parts.port or 25)
    try:
        yield handler
    finally:
        server.close()


@dataclass
class Chain:
    """A chain with a branch and somebody who works there, as notify knows it."""

    platform: Platform
    owner: Caller
    mail: Server
    branch_id: str = field(default_factory=new_id)
    staff_id: str = field(default_factory=new_id)

    @property
    def id(self) -> str:
        return self.owner.chain_id

    async def happen(self, service: str, events: Sequence[Message], occurred_at: datetime | None = None) -> None:
        context = self.platform[service].context
        async with context.store.unit(system_caller(service, self.id)) as unit:
            for event in events:
                unit.emit(event, occurred_at)

    async def customer(self, language: str = "en", address: str | None = None, **changes: Any) -> tuple[str, str]:
        """A customer and their address; each has one of their own."""
        customer_id = new_id()
        mail = address if address is not None else f"{customer_id}@example.com"
        card = customers_pb2.CustomerCard(
            **{"name": "Alex", "language": language, "email": mail or None, "version": 1, "time_zone": ZONE, **changes}
        )
        await self.happen("customers", [customers_pb2.CustomerCreated(customer_id=customer_id, card=card)])
        return customer_id, mail

    def booking(self, customer_id: str) -> bookings_pb2.Booking:
        made = bookings_pb2.Booking(
            id=new_id(),
            branch_id=self.branch_id,
            service_id=new_id(),
            staff_id=self.staff_id,
            customer_id=customer_id,
            status=bookings_pb2.BOOKING_STATUS_CONFIRMED,
            price=money(12800, "CNY"),
            service_name="剪发",
            time_zone=ZONE,
        )
        made.starts_at.FromDatetime(STARTS_AT)
        made.ends_at.FromDatetime(STARTS_AT + timedelta(minutes=45))
        return made

    def confirmed(self, customer_id: str) -> bookings_pb2.BookingConfirmed:
        booking = self.booking(customer_id)
        return bookings_pb2.BookingConfirmed(booking_id=booking.id, booking=booking)

    async def call(self, method: str, request: Message, caller: Caller | None = None) -> Any:
        return await self.platform.call("notify", method, request, caller or self.owner)

    async def messages(self, caller: Caller | None = None, **filters: Any) -> list[pb.Message]:
        answer = await self.call("ListMessages", pb.ListMessagesRequest(**filters), caller)
        return list(answer.messages)

    async def settle(self) -> None:
        await self.platform.settle(self.id)

    async def outcomes(self, customer_id: str, count: int, *statuses: int) -> dict[int, pb.Message]:
        """The messages of a customer by channel, once each has had an attempt and a status."""
        await self.settle()
        async with asyncio.timeout(15):
            while True:
                found = await self.messages(customer_id=customer_id)
                if len(found) == count and all(m.attempts and (not statuses or m.status in statuses) for m in found):
                    return {message.channel: message for message in found}
                await asyncio.sleep(0.05)

    async def run(self, statement: Any) -> None:
        context = self.platform["notify"].context
        async with context.store.unit(system_caller("notify", self.id)) as unit:
            await unit.run(statement)
        context.wake(delivery.JOB)


async def open_chain(platform: Platform, mail: Server) -> Chain:
    """A new chain whose names have arrived."""
    made = Chain(platform, platform.owner(), mail)
    chain = access_pb2.Chain(id=made.id, name="Dawn", time_zone=ZONE, currency="CNY", language="zh", version=1)
    branch = access_pb2.Branch(id=made.branch_id, name="静安店", phone="021", time_zone=ZONE, active=True, version=1)
    await made.happen(
        "access",
        [
            access_pb2.ChainCreated(chain_id=made.id, chain=chain),
            access_pb2.BranchCreated(branch_id=branch.id, branch=branch),
        ],
    )
    staff = bookings_pb2.Staff(id=made.staff_id, name="Robin", branch_ids=[made.branch_id], active=True, version=1)
    await made.happen("bookings", [bookings_pb2.StaffCreated(staff_id=staff.id, staff=staff)])
    await made.settle()
    return made
