"""Notify: customers are told what happened, once, in their language; what cannot be sent is tried again or put aside.

The events are written into the outboxes of the services that would write them, and come over the real bus; mail goes to
a real mail server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import assignments_pb2, bookings_pb2, people_pb2, waiting_list_pb2
from foyer.customers.v1 import customers_pb2
from foyer.notify.v1 import notify_pb2 as pb
from foyer.wallet.v1 import wallet_pb2

from chassis.bus import Event
from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.money import money
from chassis.settings import Settings
from chassis.testing import Platform
from chassis.unit import Unit, system_caller
from services.notify import delivery, statements
from services.notify.domain import VARIABLES
from services.notify.events import on
from tests.service.notify_chain import STARTS_AT, ZONE, Chain, Server, open_chain, serving_mail

READ = ["messages.read", "messages.write", "templates.read"]
MAKE_DUE = prepare_sql(
    "update messages set due_at = now() - interval '1 second' where chain_id = $1::uuid and status = 'queued'",
    "chain_id",
)
SENT_EVENTS = prepare_sql("select subject from outbox where chain_id = $1::uuid order by sequence", "chain_id")


@pytest.fixture(scope="module")
async def mail(settings: Settings) -> AsyncIterator[Server]:
    async with serving_mail(settings) as server:
        yield server


@pytest.fixture
async def chain(platform: Platform, mail: Server) -> Chain:
    return await open_chain(platform, mail)


async def test_a_booking_is_told_by_mail_and_in_the_app(chain: Chain) -> None:
    customer_id, address = await chain.customer()
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    found = await chain.outcomes(customer_id, 2, pb.MESSAGE_STATUS_SENT)
    by_mail, in_app = found[pb.CHANNEL_EMAIL], found[pb.CHANNEL_IN_APP]
    assert (by_mail.address, by_mail.event_type, by_mail.language) == (address, "booking.confirmed", "en")
    assert by_mail.subject == "Your appointment at Dawn: Friday, 1 March 2030, 14:30"
    assert by_mail.attempts == 1
    assert by_mail.HasField("sent_at")
    assert not in_app.HasField("address")
    assert in_app.body == "剪发 at 静安店: Friday, 1 March 2030, 14:30."
    [arrived] = chain.mail.to(address)
    assert arrived["Subject"] == by_mail.subject
    assert by_mail.id in arrived["Message-ID"]
    text = arrived.get_body(("plain",))
    assert text is not None
    assert text.get_content().strip().replace("\r\n", "\n") == by_mail.body
    assert "With Robin" in by_mail.body
    assert await chain.call("GetMessage", pb.GetMessageRequest(id=by_mail.id)) == by_mail
    async with chain.platform["notify"].context.store.unit(system_caller("notify", chain.id)) as unit:
        assert [row["subject"] for row in await unit.all(SENT_EVENTS)] == ["message.sent"] * 2


async def test_every_event_in_the_customers_language(chain: Chain) -> None:
    customer_id, _ = await chain.customer("zh")
    booking = chain.booking(customer_id)
    key: dict[str, Any] = {"booking_id": booking.id, "booking": booking}
    moved = bookings_pb2.BookingRescheduled(previous_staff_id=booking.staff_id, **key)
    moved.previous_starts_at.FromDatetime(STARTS_AT - timedelta(days=1))
    at: dict[str, Any] = {"customer_id": customer_id, "available": money(5000, "CNY"), "time_zone": ZONE}
    amount = money(10000, "CNY")
    await chain.happen(
        "bookings",
        [
            bookings_pb2.BookingConfirmed(**key),
            moved,
            people_pb2.BookingReassigned(staff_id=booking.staff_id, **key),
            assignments_pb2.BookingExtended(**key),
            waiting_list_pb2.WaitingListOffered(entry_id=new_id(), booking=booking, expires_at=booking.ends_at),
            bookings_pb2.BookingCancelled(**key),
            bookings_pb2.BookingMissed(**key),
            bookings_pb2.BookingCompleted(**key),
        ],
    )
    await chain.happen(
        "wallet",
        [
            wallet_pb2.TopUpCredited(top_up_id=new_id(), amount=amount, gift=amount, **at),
            wallet_pb2.WalletCharged(charge_id=new_id(), amount=amount, reason="剪发", **at),
            wallet_pb2.ChargeRefunded(refund_id=new_id(), charge_id=new_id(), amount=amount, **at),
        ],
    )
    await chain.settle()
    found = await chain.messages(customer_id=customer_id, channel=pb.CHANNEL_IN_APP)
    assert {message.event_type for message in found} == set(VARIABLES)
    assert {message.language for message in found} == {"zh"}
    bodies = {message.event_type: message.body for message in found}
    assert bodies["booking.rescheduled"] == "剪发（静安店）已改到 2030年3月1日（周五） 14:30。"
    assert bodies["top_up.credited"] == "已充值 ¥100.00，赠送 ¥100.00，当前可用 ¥50.00。"


async def test_nobody_is_told_of_history_or_of_holds(chain: Chain) -> None:
    customer_id, _ = await chain.customer()
    booking = chain.booking(customer_id)
    long_ago = datetime.now(UTC) - timedelta(days=3)
    await chain.happen("bookings", [chain.confirmed(customer_id)], long_ago)
    let_go = bookings_pb2.BookingCancelled(booking_id=booking.id, booking=booking, was_held=True)
    await chain.happen("bookings", [let_go, bookings_pb2.BookingHeld(booking_id=booking.id, booking=booking)])
    await chain.settle()
    assert await chain.messages(customer_id=customer_id) == []


async def test_nobody_gets_the_same_twice(chain: Chain) -> None:
    customer_id, _ = await chain.customer()
    await chain.settle()
    event = chain.confirmed(customer_id)
    context = chain.platform["notify"].context
    now = context.clock.now()
    envelope = Event(
        id=new_id(),
        type="booking.confirmed",
        chain_id=chain.id,
        aggregate_id=event.booking_id,
        source="bookings",
        time=now,
        occurred_at=now,
        body=event.SerializeToString(),
    )
    for _ in range(3):
        async with context.store.unit(system_caller("notify", chain.id)) as unit:
            await on.apply([envelope], unit)
    assert len(await chain.messages(customer_id=customer_id)) == 2


async def test_customers_without_an_address_and_customers_who_change_theirs(chain: Chain) -> None:
    customer_id, _ = await chain.customer(address="")
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    assert set(await chain.outcomes(customer_id, 1)) == {pb.CHANNEL_IN_APP}
    address = f"new-{customer_id}@example.com"
    for version, mail in ((3, address), (2, "old@example.com")):
        card = customers_pb2.CustomerCard(name="A", language="en", email=mail, version=version)
        await chain.happen("customers", [customers_pb2.CustomerUpdated(customer_id=customer_id, card=card)])
    await chain.settle()
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    await chain.settle()
    [message] = await chain.messages(customer_id=customer_id, channel=pb.CHANNEL_EMAIL)
    assert message.address == address


async def test_refused_for_now_is_tried_again_later(chain: Chain) -> None:
    customer_id, address = await chain.customer()
    chain.mail.answers[address] = f"451 {address} come back later"
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    waiting = (await chain.outcomes(customer_id, 2))[pb.CHANNEL_EMAIL]
    async with asyncio.timeout(10):
        while not waiting.HasField("error"):
            waiting = await chain.call("GetMessage", pb.GetMessageRequest(id=waiting.id))
            await asyncio.sleep(0.02)
    assert (waiting.status, waiting.attempts) == (pb.MESSAGE_STATUS_QUEUED, 1)
    assert waiting.error.startswith("451")
    assert address not in waiting.error
    chain.platform["notify"].context.wake(delivery.JOB)
    await asyncio.sleep(0.1)
    assert chain.mail.to(address) == [], "not before its time"
    del chain.mail.answers[address]
    await chain.run(MAKE_DUE)
    sent = (await chain.outcomes(customer_id, 2, pb.MESSAGE_STATUS_SENT))[pb.CHANNEL_EMAIL]
    assert sent.attempts == 2
    assert not sent.HasField("error")
    assert len(chain.mail.to(address)) == 1


async def test_refused_for_good_is_put_aside_and_can_be_sent_again(chain: Chain) -> None:
    customer_id, address = await chain.customer()
    chain.mail.answers[address] = "550 no such user"
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    await chain.outcomes(customer_id, 2, pb.MESSAGE_STATUS_SENT, pb.MESSAGE_STATUS_FAILED)
    [failed] = await chain.messages(status=pb.MESSAGE_STATUS_FAILED)
    assert (failed.channel, failed.attempts) == (pb.CHANNEL_EMAIL, 1)
    assert "550" in failed.error
    async with chain.platform["notify"].context.store.unit(system_caller("notify", chain.id)) as unit:
        assert "message.failed" in {row["subject"] for row in await unit.all(SENT_EVENTS)}
    del chain.mail.answers[address]
    again = await chain.call("ResendMessage", pb.ResendMessageRequest(id=failed.id))
    assert (again.status, again.attempts) == (pb.MESSAGE_STATUS_QUEUED, 0)
    await chain.outcomes(customer_id, 2, pb.MESSAGE_STATUS_SENT)
    assert len(chain.mail.to(address)) == 1
    with pytest.raises(Refusal, match="WRONG_STATE"):
        await chain.call("ResendMessage", pb.ResendMessageRequest(id=failed.id))


async def test_given_up_after_the_last_attempt(chain: Chain) -> None:
    customer_id, address = await chain.customer()
    chain.mail.answers[address] = "451 never"
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    for _ in range(10):
        await asyncio.sleep(0.2)
        await chain.run(MAKE_DUE)
    message = (await chain.outcomes(customer_id, 2))[pb.CHANNEL_EMAIL]
    async with asyncio.timeout(10):
        while message.status == pb.MESSAGE_STATUS_QUEUED:
            await chain.run(MAKE_DUE)
            await asyncio.sleep(0.1)
            message = await chain.call("GetMessage", pb.GetMessageRequest(id=message.id))
    assert (message.status, message.attempts) == (pb.MESSAGE_STATUS_FAILED, 6)


async def test_what_is_taken_is_taken_once_until_its_lease_ends(chain: Chain) -> None:
    customer_id, _ = await chain.customer()
    context = chain.platform["notify"].context
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    await chain.outcomes(customer_id, 2, pb.MESSAGE_STATUS_SENT)
    # Due in an hour, so that only who looks from then on takes them.
    reopen = prepare_sql(
        "update messages set status = 'queued', due_at = now() + interval '1 hour' where chain_id = $1::uuid",
        "chain_id",
    )
    caller = system_caller("notify", chain.id)
    async with context.store.unit(caller) as unit:
        await unit.run(reopen)
    mine = {message.id for message in await chain.messages()}
    later = context.clock.now() + timedelta(hours=2)
    first, second = context.system_store.open(caller), context.system_store.open(caller)

    async def take(unit: Unit, after: timedelta) -> set[str]:
        now = later + after
        rows = await unit.all(statements.CLAIM, now=now, lease_ends_at=now + delivery.LEASE, most=1000)
        return {row["id"] for row in rows} & mine

    try:
        assert await take(first, timedelta()) == mine
        assert await take(second, timedelta()) == set(), "somebody has them"
        assert await take(first, delivery.LEASE / 2) == set(), "somebody is still sending them"
        assert await take(first, delivery.LEASE) == mine, "that somebody is taken for dead"
    finally:
        await first.close()
        await second.close()


async def test_addresses_are_masked_for_who_may_not_see_them(chain: Chain) -> None:
    customer_id, address = await chain.customer()
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    await chain.settle()
    reader = chain.platform.owner(chain.id, grants=dict.fromkeys(READ, "*"))
    [message] = await chain.messages(reader, customer_id=customer_id, channel=pb.CHANNEL_EMAIL)
    assert message.address == f"{address[0]}***@example.com"
    [message] = await chain.messages(customer_id=customer_id, channel=pb.CHANNEL_EMAIL)
    assert message.address == address


async def test_callers_of_some_branches_see_those_only(chain: Chain) -> None:
    customer_id, _ = await chain.customer()
    at: dict[str, Any] = {"customer_id": customer_id, "time_zone": ZONE}
    amount = money(1, "CNY")
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    top_up = wallet_pb2.TopUpCredited(top_up_id=new_id(), amount=amount, gift=amount, available=amount, **at)
    await chain.happen("wallet", [top_up])
    await chain.settle()
    here = chain.platform.owner(chain.id, grants={key: [chain.branch_id] for key in READ})
    elsewhere = chain.platform.owner(chain.id, grants={key: [new_id()] for key in READ})
    assert {m.event_type for m in await chain.messages(here, customer_id=customer_id)} == {"booking.confirmed"}
    assert await chain.messages(elsewhere, customer_id=customer_id) == []
    for message in await chain.messages():
        with pytest.raises(Refusal, match="PERMISSION_DENIED"):
            await chain.call("GetMessage", pb.GetMessageRequest(id=message.id), elsewhere)


async def test_pages_and_what_is_not_there(chain: Chain) -> None:
    customer_id, _ = await chain.customer()
    await chain.happen("bookings", [chain.confirmed(customer_id) for _ in range(4)])
    await chain.settle()
    seen: list[str] = []
    token: str | None = ""
    while token is not None:
        answer = await chain.call("ListMessages", pb.ListMessagesRequest(page_size=3, page_token=token))
        seen += [message.id for message in answer.messages]
        token = answer.next_page_token if answer.HasField("next_page_token") else None
    assert len(seen) == 8
    assert seen == sorted(set(seen), reverse=True)
    for token in ("nonsense", "WzFd", "WyJ4Il0"):
        with pytest.raises(Refusal, match="INVALID_REQUEST") as refused:
            await chain.call("ListMessages", pb.ListMessagesRequest(page_token=token))
        assert [error.field for error in refused.value.errors] == ["page_token"]
    with pytest.raises(Refusal, match="NOT_FOUND") as refused:
        await chain.messages(customer_id=new_id())
    assert [error.field for error in refused.value.errors] == ["customer_id"]
    stranger = chain.platform.owner()
    assert await chain.messages(stranger) == []
    for method, request in (
        ("GetMessage", pb.GetMessageRequest(id=seen[0])),
        ("ResendMessage", pb.ResendMessageRequest(id=seen[0])),
        ("ListMessages", pb.ListMessagesRequest(customer_id=customer_id)),
        ("GetTemplate", pb.GetTemplateRequest(id=new_id())),
    ):
        with pytest.raises(Refusal, match="NOT_FOUND"):
            await chain.call(method, request, stranger)
