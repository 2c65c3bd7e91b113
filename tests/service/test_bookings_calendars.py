"""Calendar feeds against real PostgreSQL: what is shown to whom, and to whom nothing is."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import icalendar
import pytest
from foyer.bookings.v1 import bookings_pb2, classes_pb2
from foyer.bookings.v1 import calendars_pb2 as pb
from google.protobuf.message import Message

from chassis.access import EVERYWHERE, Caller
from chassis.clock import FrozenClock
from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from services.bookings.calendars.feeds import MOST_OF_SUBJECT
from services.bookings.calendars.reading import MOST_ENTRIES, bookings_of
from services.bookings.events import keep_customer
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp
from tests.service.bookings_things import given, new_type, new_units, room_plan
from tools.servers import Servers

GATEWAY = Caller("service:gateway", "service", "gateway", "")
STAFF, BRANCH, RESOURCE, CUSTOMER = (
    pb.CALENDAR_KIND_STAFF,
    pb.CALENDAR_KIND_BRANCH,
    pb.CALENDAR_KIND_RESOURCE,
    pb.CALENDAR_KIND_CUSTOMER,
)
# Copies of a booking, day after day, that take nobody's time: as an import leaves them.
COPY = prepare_sql(
    """
insert into bookings (chain_id, id, branch_id, service_id, customer_id, staff_id, status, starts_at, ends_at, lines,
  buffer_before_minutes, buffer_after_minutes, price_amount, currency, service_name, time_zone, version, created_at)
select chain_id, gen_random_uuid(), branch_id, service_id, customer_id, staff_id, 'confirmed',
  $3::timestamptz + n * interval '1 hour', $3::timestamptz + n * interval '1 hour' + interval '1 hour', null,
  0, 0, 0, currency, service_name, time_zone, 1, created_at
from bookings, generate_series(0, $4 - 1) n where chain_id = $1::uuid and id = $2::uuid
""",
    *("chain_id", "id", "starts_at", "count"),
)
MOVE = prepare_sql(
    "update bookings set starts_at = $3, ends_at = $3::timestamptz + interval '1 hour'"
    " where chain_id = $1::uuid and id = $2::uuid",
    *("chain_id", "id", "starts_at"),
)


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_calendars") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> Shop:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    return await Shop(platform, clock).open()


async def subscribe(shop: Shop, kind: int = STAFF, subject_id: str | None = None, **more: Any) -> pb.CalendarFeed:
    subject = subject_id or shop.staff[0]
    caller = more.pop("caller", None)
    values: dict[str, Any] = {"kind": kind, "subject_id": subject, "language": "zh", **more}
    feed: pb.CalendarFeed = await shop.call("CreateCalendarFeed", pb.CreateCalendarFeedRequest(**values), caller)
    return feed


def token_of(feed: pb.CalendarFeed) -> str:
    start, _, token = feed.url.rpartition("/")
    assert start.endswith("/v1/calendars")
    return token.removesuffix(".ics")


async def document(shop: Shop, token: str, if_none_match: str = "") -> pb.CalendarDocument:
    request = pb.ReadCalendarRequest(token=token, if_none_match=if_none_match)
    found: pb.CalendarDocument = await shop.call("ReadCalendar", request, GATEWAY)
    return found


async def calendar(shop: Shop, feed: pb.CalendarFeed) -> Any:
    return icalendar.Calendar.from_ical((await document(shop, token_of(feed))).body)


async def entries(shop: Shop, feed: pb.CalendarFeed) -> dict[str, Any]:
    return {str(event["uid"]): event for event in (await calendar(shop, feed)).events}


async def is_gone(shop: Shop, token: str) -> bool:
    try:
        await document(shop, token)
    except Refusal as refusal:
        return (refusal.code, refusal.errors[0].field) == ("NOT_FOUND", "token")
    return False


def moment(event: Any) -> datetime:
    found: datetime = event.start.astimezone(UTC)
    return found


def limited(shop: Shop, branches: list[str], *permissions: str) -> Caller:
    names = permissions or ("calendars.read", "calendars.write", "bookings.read", "customers.read")
    return replace(shop.caller, id=new_id(), grants=dict.fromkeys(names, branches))


def steps(feed: pb.CalendarFeed) -> list[tuple[str, Message]]:
    """Every call that names a feed."""
    return [
        ("GetCalendarFeed", pb.GetCalendarFeedRequest(id=feed.id)),
        ("RotateCalendarFeed", pb.RotateCalendarFeedRequest(id=feed.id)),
        ("RevokeCalendarFeed", pb.RevokeCalendarFeedRequest(id=feed.id)),
    ]


# --- what is shown ---


async def test_a_booking_on_its_way_through_a_feed(shop: Shop) -> None:
    feed = await subscribe(shop)
    assert feed.shows_customers
    held = await shop.book(at(1, 10), hold=True, note="allergic to nuts")
    event = (await entries(shop, feed))[held.id]
    assert (event["summary"], event["status"], event["sequence"]) == ("Cut · 王小明", "TENTATIVE", 1)
    assert (event["location"], event["transp"], event["categories"].cats) == ("Jing'an", "OPAQUE", ["预留"])
    assert event["dtstart"].params["TZID"] == "Asia/Shanghai"
    assert moment(event) == at(1, 10)
    assert event["dtstamp"].dt == event["last-modified"].dt == NOW
    shop.clock.advance(timedelta(minutes=1))
    await shop.call("ConfirmBooking", bookings_pb2.ConfirmBookingRequest(id=held.id))
    event = (await entries(shop, feed))[held.id]
    assert (event["status"], event["sequence"], event["last-modified"].dt) == (
        "CONFIRMED",
        2,
        NOW + timedelta(minutes=1),
    )
    moved = bookings_pb2.RescheduleBookingRequest(id=held.id, starts_at=stamp(at(2, 14)))
    await shop.call("RescheduleBooking", moved)
    event = (await entries(shop, feed))[held.id]
    assert (moment(event), event["sequence"]) == (at(2, 14), 3)
    await shop.call("CancelBooking", bookings_pb2.CancelBookingRequest(id=held.id))
    event = (await entries(shop, feed))[held.id]
    assert (event["status"], event["sequence"], event["transp"]) == ("CANCELLED", 4, "TRANSPARENT")
    assert not {"attendee", "organizer", "valarm"} & {name.lower() for name in event}
    assert b"nuts" not in (await document(shop, token_of(feed))).body
    shop.clock.advance(timedelta(days=15))
    assert held.id not in await entries(shop, feed)


async def test_a_hold_that_ran_out_is_gone(shop: Shop) -> None:
    feed = await subscribe(shop)
    held = await shop.book(at(1, 10), hold=True)
    assert held.id in await entries(shop, feed)
    shop.clock.advance(timedelta(minutes=11))
    assert held.id not in await entries(shop, feed)


async def test_everybody_sees_their_own(shop: Shop) -> None:
    other = await shop.new_staff(name="Mei")
    room_type = await new_type(shop)
    [room] = await new_units(shop, room_type, 1, name="VIP")
    massage = await shop.new_service(name="按摩", name_en="Massage", plan=room_plan(room_type, people=1))
    cut = await shop.book(at(1, 10), staff=0)
    lines = [
        bookings_pb2.LineRequest(service_id=shop.service, staff_id=shop.staff[0]),
        bookings_pb2.LineRequest(service_id=massage, staff_id=other),
    ]
    visit = await shop.book(at(1, 13), service_id="", lines=lines, customer_id=shop.customer)
    assert given(visit) == [room]
    of_lin, of_mei = await subscribe(shop), await subscribe(shop, STAFF, other, language="en")
    assert set(await entries(shop, of_lin)) == {cut.id, visit.id}
    [(uid, event)] = (await entries(shop, of_mei)).items()
    assert (uid, event["summary"], moment(event)) == (f"{visit.id}-2", "Massage · 王小明", at(1, 14))
    assert event["description"] == "Room or thing: VIP 1"
    [(uid, event)] = (await entries(shop, await subscribe(shop, RESOURCE, room))).items()
    assert (uid, event["description"]) == (f"{visit.id}-2", "服务人员：Mei")
    whole = await entries(shop, await subscribe(shop, BRANCH, shop.branch))
    assert set(whole) == {cut.id, visit.id}
    assert whole[visit.id]["summary"] == "Cut + 按摩 · 王小明"
    assert whole[visit.id]["description"] == "服务人员：Lin、Mei\n房间或物品：VIP 1"
    of_customer = await subscribe(shop, CUSTOMER, shop.customer)
    assert not of_customer.shows_customers
    [(uid, event)] = (await entries(shop, of_customer)).items()
    assert (uid, event["summary"], event["description"]) == (visit.id, "Cut + 按摩", "服务人员：Lin、Mei")
    await shop.call("CancelBooking", bookings_pb2.CancelBookingRequest(id=visit.id))
    for feed in (of_mei, await subscribe(shop, RESOURCE, room)):
        assert (await entries(shop, feed))[f"{visit.id}-2"]["status"] == "CANCELLED"


async def test_two_who_come_together_see_what_is_theirs(shop: Shop) -> None:
    shop.staff.append(await shop.new_staff())
    friend = shop.crowd[5]
    async with shop.unit() as unit:
        await keep_customer(unit, friend, "李雷", "zh", 2)
    lines = [
        bookings_pb2.LineRequest(service_id=shop.service),
        bookings_pb2.LineRequest(service_id=shop.service, customer_id=friend, together=True),
        bookings_pb2.LineRequest(service_id=shop.service, guest_name="韩梅梅"),
    ]
    visit = await shop.book(at(1, 10), service_id="", lines=lines, customer_id=shop.customer)
    whole = (await entries(shop, await subscribe(shop, BRANCH, shop.branch)))[visit.id]
    assert whole["summary"] == "Cut + Cut + Cut · 王小明 · 李雷 · 韩梅梅"
    assert set(await entries(shop, await subscribe(shop, CUSTOMER, friend))) == {f"{visit.id}-2"}


async def test_a_class_is_one_entry_for_its_teacher(shop: Shop) -> None:
    request = classes_pb2.CreateClassSessionRequest(
        branch_id=shop.branch, service_id=shop.service, seats=5, starts_at=stamp(at(1, 10))
    )
    session = await shop.call("CreateClassSession", request)
    enrolled = [
        await shop.call("CreateEnrolment", classes_pb2.CreateEnrolmentRequest(id=session.id, customer_id=customer))
        for customer in shop.crowd[:3]
    ]
    for feed in (await subscribe(shop), await subscribe(shop, BRANCH, shop.branch)):
        [(uid, event)] = (await entries(shop, feed)).items()
        assert (uid, event["summary"], moment(event)) == (session.id, "Cut", at(1, 10))
    assert set(await entries(shop, await subscribe(shop, CUSTOMER, shop.crowd[0]))) == {enrolled[0].id}


async def test_from_30_days_back_to_180_ahead_and_no_more_than_2000(shop: Shop) -> None:
    feed, booking = await subscribe(shop), await shop.book(at(1, 10))
    for days, shown in ((-31, False), (-29, True), (179, True), (181, False)):
        async with shop.unit() as unit:
            await unit.run(MOVE, id=booking.id, starts_at=NOW + timedelta(days=days))
        assert (booking.id in await entries(shop, feed)) is shown
    async with shop.unit() as unit:
        # 30 days back are 720; of those ahead there are 1,500, and then others for another person.
        await unit.run(COPY, id=booking.id, starts_at=NOW - timedelta(days=30) + timedelta(hours=1), count=2219)
    starts = sorted(moment(event) for event in (await calendar(shop, feed)).events)
    assert len(starts) == MOST_ENTRIES
    assert starts[-1] == NOW + timedelta(hours=1499)
    assert starts[0] == NOW - timedelta(hours=500), "what is to come has room first, then what is past, newest first"


async def test_what_it_reads_is_found_by_indexes(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    async with shop.unit() as unit:
        await unit.run(COPY, id=booking.id, starts_at=NOW - timedelta(days=200), count=5000)
    context = shop.platform["bookings"].context
    async with context.store.pool.acquire() as connection:
        for kind in ("staff", "branch", "resource", "customer"):
            statement = bookings_of(kind, "asc")
            arguments = [shop.caller.chain_id, shop.staff[0], NOW, NOW + timedelta(days=1), None, 10]
            async with connection.transaction():
                await connection.execute(f"set local foyer.chain_id = '{shop.caller.chain_id}'")
                rows = await connection.fetch(f"explain {statement.sql}", *arguments)
            plan = "\n".join(row[0] for row in rows)
            assert "Seq Scan on" not in plan, plan


# --- programs that ask again ---


async def test_an_entity_tag_stays_while_nothing_that_is_shown_changes(shop: Shop) -> None:
    feed = await subscribe(shop)
    await shop.book(at(1, 10))
    first = await document(shop, token_of(feed))
    assert first.body.startswith(b"BEGIN:VCALENDAR\r\n")
    shop.clock.advance(timedelta(minutes=5))
    for known in (first.etag, f"W/{first.etag}", f'"other", {first.etag}', "*"):
        again = await document(shop, token_of(feed), known)
        assert (again.not_modified, again.body, again.etag) == (True, b"", first.etag)
    assert (await document(shop, token_of(feed), '"other"')).body == first.body
    async with shop.unit() as unit:
        for customer in shop.crowd:
            await keep_customer(unit, customer, "李雷", "zh", 2)
    changed = await document(shop, token_of(feed), first.etag)
    assert not changed.not_modified
    assert "李雷" in changed.body.decode()


# --- addresses ---


async def test_the_address_is_told_once_and_cannot_be_guessed(shop: Shop) -> None:
    feed = await subscribe(shop)
    assert not await is_gone(shop, token_of(feed))
    read = await shop.call("GetCalendarFeed", pb.GetCalendarFeedRequest(id=feed.id))
    assert not read.HasField("url")
    told = await shop.call("ListCalendarFeeds", pb.ListCalendarFeedsRequest())
    assert [each.HasField("url") for each in told.calendar_feeds] == [False]
    token = token_of(feed)
    for forged in (
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        token[::-1],
        token[:-4],
        token + "AAAA",
        "",
        "x" * 72,
    ):
        assert await is_gone(shop, forged), forged
    content = bytearray(base64.urlsafe_b64decode(token))
    for place in (0, 20, 35, 40):
        wrong = bytearray(content)
        wrong[place] ^= 1
        assert await is_gone(shop, base64.urlsafe_b64encode(bytes(wrong)).decode())
    again = await shop.call(
        "CreateCalendarFeed", pb.CreateCalendarFeedRequest(kind=STAFF, subject_id=shop.staff[0]), key="k"
    )
    repeated = await shop.call(
        "CreateCalendarFeed", pb.CreateCalendarFeedRequest(kind=STAFF, subject_id=shop.staff[0]), key="k"
    )
    assert (repeated.id, repeated.HasField("url")) == (again.id, False)
    assert again.language == "en"


async def test_rotated_revoked_expired(shop: Shop) -> None:
    feed = await subscribe(shop, expires_at=stamp(NOW + timedelta(hours=1)))
    rotated = await shop.call("RotateCalendarFeed", pb.RotateCalendarFeedRequest(id=feed.id))
    assert (rotated.id, rotated.version) == (feed.id, 2)
    assert await is_gone(shop, token_of(feed))
    assert not await is_gone(shop, token_of(rotated))
    late = await shop.refused("RotateCalendarFeed", pb.RotateCalendarFeedRequest(id=feed.id), if_match=1)
    assert late.code == "PRECONDITION_FAILED"
    shop.clock.advance(timedelta(hours=1))
    assert await is_gone(shop, token_of(rotated))
    assert (await shop.refused("RotateCalendarFeed", pb.RotateCalendarFeedRequest(id=feed.id))).code == "WRONG_STATE"
    other = await subscribe(shop)
    revoked = await shop.call("RevokeCalendarFeed", pb.RevokeCalendarFeedRequest(id=other.id))
    assert revoked.HasField("revoked_at")
    assert await is_gone(shop, token_of(other))
    assert await shop.call("RevokeCalendarFeed", pb.RevokeCalendarFeedRequest(id=other.id)) == revoked
    assert (await shop.refused("RotateCalendarFeed", pb.RotateCalendarFeedRequest(id=other.id))).code == "WRONG_STATE"
    listed = {
        active: [feed.id for feed in (await shop.call("ListCalendarFeeds", request)).calendar_feeds]
        for active in (True, False)
        for request in [pb.ListCalendarFeedsRequest(active=active)]
    }
    assert listed == {True: [], False: [other.id, feed.id]}


async def test_every_change_is_told_without_the_address(shop: Shop) -> None:
    feed = await subscribe(shop)
    await shop.call("RotateCalendarFeed", pb.RotateCalendarFeedRequest(id=feed.id))
    await shop.call("RevokeCalendarFeed", pb.RevokeCalendarFeedRequest(id=feed.id))
    read = prepare_sql(
        "select subject, body from outbox where chain_id = $1::uuid and aggregate_id = $2 order by sequence",
        *("chain_id", "id"),
    )
    async with shop.unit() as unit:
        rows = await unit.all(read, id=feed.id)
    assert [row["subject"] for row in rows] == [f"calendar_feed.{verb}" for verb in ("created", "rotated", "revoked")]
    told = [pb.CalendarFeedCreated.FromString(row["body"]).calendar_feed for row in rows]
    assert [(each.id, each.HasField("url")) for each in told] == [(feed.id, False)] * 3


# --- who may ---


async def test_what_is_wrong_is_refused(shop: Shop) -> None:
    async def code(**values: Any) -> tuple[str, list[str]]:
        refusal = await shop.refused("CreateCalendarFeed", pb.CreateCalendarFeedRequest(**values))
        return refusal.code, [error.field for error in refusal.errors]

    past = stamp(NOW)
    assert await code(kind=STAFF, subject_id=shop.staff[0], expires_at=past) == ("INVALID_REQUEST", ["expires_at"])
    wrong = await code(subject_id="x", language="fr")
    assert wrong == ("INVALID_REQUEST", ["kind", "subject_id", "language"])
    for kind in (STAFF, RESOURCE):
        assert await code(kind=kind, subject_id=new_id()) == ("NOT_FOUND", ["subject_id"])
    unknown = await shop.refused("ListCalendarFeeds", pb.ListCalendarFeedsRequest(subject_id=new_id()))
    assert (unknown.code, unknown.errors[0].field) == ("NOT_FOUND", "subject_id")
    token = await shop.refused("ListCalendarFeeds", pb.ListCalendarFeedsRequest(page_token="x"))
    assert token.errors[0].field == "page_token"
    for _ in range(MOST_OF_SUBJECT):
        last = await subscribe(shop)
    assert (await code(kind=STAFF, subject_id=shop.staff[0]))[0] == "TOO_MANY_FEEDS"
    await shop.call("RevokeCalendarFeed", pb.RevokeCalendarFeedRequest(id=last.id))
    await subscribe(shop)
    first = await shop.call("ListCalendarFeeds", pb.ListCalendarFeedsRequest(kind=STAFF, page_size=15))
    second = await shop.call(
        "ListCalendarFeeds", pb.ListCalendarFeedsRequest(kind=STAFF, page_size=15, page_token=first.next_page_token)
    )
    assert len({feed.id for feed in (*first.calendar_feeds, *second.calendar_feeds)}) == MOST_OF_SUBJECT + 1
    assert not (await shop.call("ListCalendarFeeds", pb.ListCalendarFeedsRequest(kind=CUSTOMER))).calendar_feeds


async def test_a_feed_shows_no_more_than_its_maker_may_see(shop: Shop) -> None:
    here, elsewhere = limited(shop, [shop.branch]), limited(shop, [new_id()])
    booking = await shop.book(at(1, 10), customer_id=shop.customer)
    feed = await subscribe(shop, caller=here)
    assert (list(feed.branch_ids), feed.shows_customers) == ([shop.branch], True)
    assert booking.id in await entries(shop, feed)
    nameless = limited(shop, [shop.branch], "calendars.write", "bookings.read")
    plain = await subscribe(shop, caller=nameless)
    assert (await entries(shop, plain))[booking.id]["summary"] == "Cut"
    blind = replace(here, grants={"calendars.write": EVERYWHERE})
    for kind, subject_id in ((STAFF, shop.staff[0]), (BRANCH, shop.branch), (CUSTOMER, shop.customer)):
        request = pb.CreateCalendarFeedRequest(kind=kind, subject_id=subject_id)
        if kind != CUSTOMER:
            assert (await shop.refused("CreateCalendarFeed", request, caller=elsewhere)).code == "PERMISSION_DENIED"
        assert (await shop.refused("CreateCalendarFeed", request, caller=blind)).code == "PERMISSION_DENIED"
    assert not await entries(shop, await subscribe(shop, CUSTOMER, shop.customer, caller=elsewhere))
    everywhere = await subscribe(shop)
    for caller, wanted in ((here, [plain.id, feed.id]), (elsewhere, [])):
        of_lin = pb.ListCalendarFeedsRequest(subject_id=shop.staff[0])
        listed = (await shop.call("ListCalendarFeeds", of_lin, caller)).calendar_feeds
        assert [each.id for each in listed] == wanted
    for method, asked in steps(everywhere):
        assert (await shop.refused(method, asked, caller=here)).code == "PERMISSION_DENIED"


async def test_another_chain_finds_nothing(shop: Shop) -> None:
    feed = await subscribe(shop)
    stranger = shop.platform.owner()
    make = pb.CreateCalendarFeedRequest(kind=STAFF, subject_id=shop.staff[0])
    for method, request in (*steps(feed), ("CreateCalendarFeed", make)):
        assert (await shop.refused(method, request, caller=stranger)).code == "NOT_FOUND"
    people = await shop.refused("ReadCalendar", pb.ReadCalendarRequest(token=token_of(feed)))
    assert people.code == "PERMISSION_DENIED", "only the gateway asks"


async def test_many_readers_and_a_rotation_at_once(shop: Shop) -> None:
    feed = await subscribe(shop)
    await shop.book(at(1, 10))
    rotations = [shop.call("RotateCalendarFeed", pb.RotateCalendarFeedRequest(id=feed.id)) for _ in range(4)]
    reads = [is_gone(shop, token_of(feed)) for _ in range(12)]
    answers = await asyncio.gather(*rotations, *reads)
    newest = max(answers[:4], key=lambda each: each.version)
    assert [await is_gone(shop, token_of(each)) for each in answers[:4]].count(False) == 1
    assert not await is_gone(shop, token_of(newest))
