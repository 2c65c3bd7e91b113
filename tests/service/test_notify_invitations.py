"""Invitations: what arrives at a real mail server is read by another program than the one that wrote it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from email.message import EmailMessage
from typing import Any

import icalendar
import pytest
import vobject
from foyer.bookings.v1 import bookings_pb2
from foyer.notify.v1 import notify_pb2 as pb

from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.settings import Settings
from chassis.testing import Platform
from tests.service.notify_chain import STARTS_AT, Chain, Server, open_chain, serving_mail

FORGET = prepare_sql(
    "update messages set facts = facts #- '{booking,id}', due_at = now() - interval '1 second'"
    " where chain_id = $1::uuid and status = 'queued'",
    "chain_id",
)


@pytest.fixture(scope="module")
async def mail(settings: Settings) -> AsyncIterator[Server]:
    async with serving_mail(settings) as server:
        yield server


@pytest.fixture
async def chain(platform: Platform, mail: Server) -> Chain:
    return await open_chain(platform, mail)


def parts(message: EmailMessage) -> dict[str, Any]:
    """The parts of a message that hold something, by type."""
    return {part.get_content_type(): part for part in message.walk() if not part.is_multipart()}


def calendar_of(message: EmailMessage) -> tuple[str, Any]:
    """What a mail program would hand to the calendar: its method, as the mail tells it, and the entry."""
    found = parts(message)
    part, file = found["text/calendar"], found["application/ics"]
    content = part.get_payload(decode=True)
    assert content.replace(b"\r\n", b"\n").strip() == file.get_payload(decode=True).replace(b"\r\n", b"\n").strip()
    assert file.get_filename() == "appointment.ics"
    calendar: Any = icalendar.Calendar.from_ical(content)
    method = str(part.get_param("method"))
    assert calendar["method"] == method
    assert part.get_content_charset() == "utf-8"
    read = vobject.readOne(content.decode())
    assert read.vevent.dtstart.value.astimezone(UTC) == calendar.events[0].start.astimezone(UTC)
    return method, calendar.events[0]


async def test_asked_moved_and_taken_back(chain: Chain) -> None:
    customer_id, address = await chain.customer("zh", name="王, 小明")
    booking = chain.booking(customer_id)
    booking.version = 2
    booking.lines.add(service_name="剪发")
    booking.lines.add(service_name="造型；吹风")
    await chain.happen("bookings", [bookings_pb2.BookingConfirmed(booking_id=booking.id, booking=booking)])
    await chain.outcomes(customer_id, 2, pb.MESSAGE_STATUS_SENT)
    booking.version = 3
    booking.starts_at.FromDatetime(STARTS_AT + timedelta(hours=2))
    booking.ends_at.FromDatetime(STARTS_AT + timedelta(hours=3))
    moved = bookings_pb2.BookingRescheduled(booking_id=booking.id, booking=booking)
    await chain.happen("bookings", [moved])
    await chain.outcomes(customer_id, 4, pb.MESSAGE_STATUS_SENT)
    booking.version = 4
    await chain.happen("bookings", [bookings_pb2.BookingCancelled(booking_id=booking.id, booking=booking)])
    await chain.outcomes(customer_id, 6, pb.MESSAGE_STATUS_SENT)
    arrived = chain.mail.to(address)
    found = [calendar_of(message) for message in arrived]
    assert [method for method, _ in found] == ["REQUEST", "REQUEST", "CANCEL"]
    assert [event["sequence"] for _, event in found] == [2, 3, 4]
    assert {str(event["uid"]) for _, event in found} == {booking.id}
    assert [str(event["status"]) for _, event in found] == ["CONFIRMED", "CONFIRMED", "CANCELLED"]
    starts = [event.start.astimezone(UTC) - STARTS_AT for _, event in found]
    assert starts == [timedelta(), timedelta(hours=2), timedelta(hours=2)]
    first = found[0][1]
    assert (first["summary"], first["location"]) == ("剪发 + 造型；吹风", "静安店")
    assert first["description"] == "服务人员：Robin"
    assert first["organizer"] == "mailto:no-reply@foyer.example"
    assert first["organizer"].params["CN"] == "Dawn"
    assert first["attendee"] == f"mailto:{address}"
    assert first["attendee"].params["CN"] == "王, 小明"
    text = arrived[0].get_body(("plain",))
    assert text is not None
    assert "预约已确认" in text.get_content()
    types = [part.get_content_type() for part in arrived[0].walk()]
    assert types == ["multipart/mixed", "multipart/alternative", "text/plain", "text/calendar", "application/ics"]


async def test_other_messages_bring_none(chain: Chain) -> None:
    customer_id, address = await chain.customer()
    booking = chain.booking(customer_id)
    await chain.happen("bookings", [bookings_pb2.BookingCompleted(booking_id=booking.id, booking=booking)])
    found = await chain.outcomes(customer_id, 2, pb.MESSAGE_STATUS_SENT)
    assert not any(message.invitation for message in found.values())
    assert [list(parts(message)) for message in chain.mail.to(address)] == [["text/plain"]]


async def test_a_chain_may_do_without(chain: Chain) -> None:
    words: dict[str, Any] = {
        "subject": "Confirmed",
        "body": "See you.",
        "language": "en",
        "event_type": "booking.confirmed",
    }
    kept: pb.Template = await chain.call("CreateTemplate", pb.CreateTemplateRequest(channel=pb.CHANNEL_EMAIL, **words))
    assert kept.invitation
    for invitation in (True, False):
        request = pb.CreateTemplateRequest(channel=pb.CHANNEL_EMAIL, invitation=invitation, **words)
        assert (await chain.call("CreateTemplate", request)).invitation is invitation
    customer_id, address = await chain.customer()
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    await chain.outcomes(customer_id, 2, pb.MESSAGE_STATUS_SENT)
    assert [list(parts(message)) for message in chain.mail.to(address)] == [["text/plain"]]
    with pytest.raises(Refusal) as refused:
        await chain.call(
            "CreateTemplate", pb.CreateTemplateRequest(channel=pb.CHANNEL_IN_APP, invitation=True, **words)
        )
    assert [error.field for error in refused.value.errors] == ["invitation"]
    listed = await chain.call("ListTemplates", pb.ListTemplatesRequest(event_type="booking.cancelled"))
    told = {(each.channel, each.language): each.invitation for each in listed.templates}
    assert told == {
        (channel, language): channel == pb.CHANNEL_EMAIL
        for channel in (pb.CHANNEL_EMAIL, pb.CHANNEL_IN_APP)
        for language in ("en", "zh")
    }


async def test_a_message_from_before_there_were_invitations_is_sent_without(chain: Chain) -> None:
    customer_id, address = await chain.customer()
    chain.mail.answers[address] = "451 later"
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    await chain.settle()
    async with asyncio.timeout(15):
        # Until the first attempt is over: it has the facts as they were.
        while not any(message.error for message in await chain.messages(customer_id=customer_id)):
            await asyncio.sleep(0.05)
    del chain.mail.answers[address]
    await chain.run(FORGET)
    await chain.outcomes(customer_id, 2, pb.MESSAGE_STATUS_SENT)
    assert [list(parts(message)) for message in chain.mail.to(address)] == [["text/plain"]]
