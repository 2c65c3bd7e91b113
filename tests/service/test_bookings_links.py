"""Links: what a customer can do without signing in, what not, and that a link stops working."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as book
from foyer.bookings.v1 import links_pb2 as pb
from foyer.bookings.v1 import policies_pb2
from foyer.bookings.v1.policies_pb2 import ChangePolicy, Fee
from foyer.bookings.v1.waiting_list_pb2 import WAITING_STATUS_WAITING, WaitingWindow
from google.protobuf.message import Message

from chassis.clock import FrozenClock
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.testing import Platform
from services.bookings.links.tokens import LinkTokens
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp, yuan
from tools.servers import Servers

PRICE = 12800
ALL = (pb.LINK_SCOPE_CHANGE, pb.LINK_SCOPE_CANCEL, pb.LINK_SCOPE_PAY)


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_links") as started:
        yield started


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Shop]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Shop(platform, clock).open(2)
    yield opened
    await opened.check_time()


async def link_to(shop: Shop, booking: book.Booking, *scopes: int, **more: Any) -> pb.BookingLink:
    request = pb.CreateBookingLinkRequest(id=booking.id, scopes=scopes or ALL, **more)  # type: ignore[arg-type]
    link: pb.BookingLink = await shop.call("CreateBookingLink", request)
    return link


async def by(shop: Shop, method: str, request: Message, **more: Any) -> Any:
    """A call of nobody who is signed in."""
    return await shop.platform.call("bookings", method, request, **more)


async def refused(shop: Shop, method: str, request: Message) -> Refusal:
    with pytest.raises(Refusal) as told:
        await by(shop, method, request)
    return told.value


def see(token: str) -> pb.GetSelfServiceBookingRequest:
    return pb.GetSelfServiceBookingRequest(token=token)


def move(token: str, day: int, hour: int, fee: int | None = None) -> pb.RescheduleSelfServiceBookingRequest:
    accepted = None if fee is None else yuan(fee)
    return pb.RescheduleSelfServiceBookingRequest(token=token, starts_at=stamp(at(day, hour)), accepted_fee=accepted)


async def set_terms(shop: Shop, **terms: Any) -> None:
    await shop.call("UpdateBookingPolicy", policies_pb2.UpdateBookingPolicyRequest(change=ChangePolicy(**terms)))


# --- what it shows ---


async def test_a_customer_sees_the_booking_and_nothing_else(shop: Shop) -> None:
    booking = await shop.book(at(1, 10), 0, customer_id=shop.customer, note="likes tea", source="web")
    link = await link_to(shop, booking)
    assert link.url.endswith(f"/v1/self-service/{link.token}")
    seen = await by(shop, "GetSelfServiceBooking", see(link.token))
    assert (seen.status, seen.starts_at, seen.price) == (book.BOOKING_STATUS_CONFIRMED, booking.starts_at, yuan(PRICE))
    assert (seen.branch_name, seen.customer_name, seen.time_zone) == ("Jing'an", "王*", shop.zone)
    assert [(line.service_name, list(line.staff_names)) for line in seen.lines] == [("Cut", ["Lin"])]
    assert list(seen.scopes) == [pb.LINK_SCOPE_VIEW, *ALL]
    text = str(seen)
    for secret in ("likes tea", "小明", booking.id, shop.customer, shop.branch, shop.staff[0], shop.caller.chain_id):
        assert secret not in text
    terms = await by(shop, "GetSelfServiceTerms", pb.GetSelfServiceTermsRequest(token=link.token))
    assert terms.can_cancel
    assert booking.id not in str(terms)


async def test_the_token_is_told_once(shop: Shop) -> None:
    booking = await shop.book(at(1, 10))
    request = pb.CreateBookingLinkRequest(id=booking.id)
    first = await shop.call("CreateBookingLink", request, key="once")
    again = await shop.call("CreateBookingLink", request, key="once")
    assert (again.id, again.token, again.url) == (first.id, "", "")
    listed = await shop.call("ListBookingLinks", pb.ListBookingLinksRequest(id=booking.id))
    assert [(link.id, link.token) for link in listed.links] == [(first.id, "")]
    async with shop.platform["bookings"].context.system_store.pool.acquire() as connection:
        stored = await connection.fetch("select response from idempotency where key = 'once'")
    assert stored
    assert all(first.token.encode() not in (row["response"] or b"") for row in stored)


# --- what it does ---


async def test_a_customer_moves_and_cancels(shop: Shop) -> None:
    booking = await shop.book(at(1, 10), 0)
    token = (await link_to(shop, booking)).token
    window = pb.FindSelfServiceAvailabilityRequest(token=token, starts_from=stamp(at(1, 9)), ends_by=stamp(at(1, 12)))
    found = await by(shop, "FindSelfServiceAvailability", window)
    offered = [slot.starts_at for slot in found.slots]
    # Its own time counts as free, but for the start it has.
    assert [moment.ToJsonString() for moment in offered] == [
        stamp(at(1, 10, minute)).ToJsonString() for minute in (15, 30, 45)
    ] + [stamp(at(1, 11)).ToJsonString()]
    assert not any(slot.staff_ids for slot in found.slots)
    for moment in offered:
        request = pb.RescheduleSelfServiceBookingRequest(token=token, starts_at=moment)
        assert (await by(shop, "RescheduleSelfServiceBooking", request)).starts_at == moment
    cancel = pb.CancelSelfServiceBookingRequest(token=token, reason="ill")
    assert (await by(shop, "CancelSelfServiceBooking", cancel)).status == book.BOOKING_STATUS_CANCELLED
    stored = await shop.call("GetBooking", book.GetBookingRequest(id=booking.id))
    assert (stored.cancel_reason, stored.change_count) == ("ill", 4)
    assert (await refused(shop, "CancelSelfServiceBooking", cancel)).code == "WRONG_STATE"
    assert (await refused(shop, "FindSelfServiceAvailability", window)).code == "WRONG_STATE"


async def test_what_is_offered_is_what_can_be_had(shop: Shop) -> None:
    booking, other = await shop.book(at(1, 10), 0), await shop.book(at(1, 13), 0)
    token = (await link_to(shop, booking)).token
    refusal = await refused(shop, "RescheduleSelfServiceBooking", move(token, 1, 13))
    assert refusal.code == "SLOT_TAKEN"
    assert refusal.members["nearest"]
    assert (await refused(shop, "RescheduleSelfServiceBooking", move(token, 1, 3))).code == "NOT_BOOKABLE"
    window = pb.FindSelfServiceAvailabilityRequest(token=token, starts_from=stamp(at(1, 12)), ends_by=stamp(at(1, 15)))
    starts = [slot.starts_at.seconds for slot in (await by(shop, "FindSelfServiceAvailability", window)).slots]
    assert starts == [int(at(1, 12).timestamp()), int(at(1, 14).timestamp())]
    assert other.starts_at.seconds not in starts
    for wrong in (stamp(at(1, 11)), stamp(at(60, 11))):
        window.ends_by.CopyFrom(wrong)
        assert (await refused(shop, "FindSelfServiceAvailability", window)).code == "INVALID_REQUEST"


async def test_customers_are_bound_by_notice_and_number_of_changes(shop: Shop) -> None:
    await set_terms(shop, most_changes=1, change_notice_minutes=240)
    booking = await shop.book(at(1, 10), 0)
    token = (await link_to(shop, booking)).token
    await by(shop, "RescheduleSelfServiceBooking", move(token, 1, 12))
    refusal = await refused(shop, "RescheduleSelfServiceBooking", move(token, 1, 13))
    assert (refusal.code, refusal.parameters["times"]) == ("CHANGED_TOO_OFTEN", "1")
    late = await shop.book(at(1, 10), 1)
    token = (await link_to(shop, late)).token
    shop.clock.advance(at(1, 6, 1) - shop.clock.now())
    assert (await refused(shop, "RescheduleSelfServiceBooking", move(token, 1, 15))).code == "TOO_LATE_TO_CHANGE"
    shop.clock.advance(at(1, 10) - shop.clock.now())
    cancel = pb.CancelSelfServiceBookingRequest(token=token)
    assert (await refused(shop, "CancelSelfServiceBooking", cancel)).code == "TOO_LATE_TO_CHANGE"


async def test_customers_pay_what_they_accepted_and_waive_nothing(shop: Shop) -> None:
    await set_terms(shop, late_fee=Fee(percent=50), late_rescheduling_fee=Fee(percent=10))
    booking = await shop.book(at(1, 10), 0)
    token = (await link_to(shop, booking)).token
    assert (await refused(shop, "RescheduleSelfServiceBooking", move(token, 1, 12))).code == "FEE_DUE"
    moved = await by(shop, "RescheduleSelfServiceBooking", move(token, 1, 12, PRICE // 10))
    assert moved.fee == yuan(PRICE // 10)
    refusal = await refused(shop, "CancelSelfServiceBooking", pb.CancelSelfServiceBookingRequest(token=token))
    assert (refusal.code, refusal.members["terms"]["cancel_fee"]["amount"]) == ("FEE_DUE", PRICE // 2)
    accepted = pb.CancelSelfServiceBookingRequest(token=token, accepted_fee=yuan(PRICE // 2))
    assert (await by(shop, "CancelSelfServiceBooking", accepted)).fee == yuan(PRICE // 10 + PRICE // 2)
    assert not {"waive_fee_reason"} & set(pb.CancelSelfServiceBookingRequest.DESCRIPTOR.fields_by_name)


async def test_a_repeat_with_the_same_key_does_nothing_twice(shop: Shop) -> None:
    await set_terms(shop, late_rescheduling_fee=Fee(percent=10))
    booking, other = await shop.book(at(1, 10), 0), await shop.book(at(1, 10), 1)
    token, another = (await link_to(shop, booking)).token, (await link_to(shop, other)).token
    first = await by(shop, "RescheduleSelfServiceBooking", move(token, 1, 12, PRICE // 10), key="1")
    again = await by(shop, "RescheduleSelfServiceBooking", move(token, 1, 12, PRICE // 10), key="1")
    assert again == first
    assert (first.change_count, first.fee) == (1, yuan(PRICE // 10))
    # Another customer's key is another key.
    theirs = await by(shop, "RescheduleSelfServiceBooking", move(another, 1, 14, PRICE // 10), key="1")
    assert theirs.change_count == 1
    with pytest.raises(Refusal, match="IDEMPOTENCY_KEY_REUSED"):
        await by(shop, "RescheduleSelfServiceBooking", move(token, 1, 15, PRICE // 10), key="1")


async def test_what_is_held_is_confirmed(shop: Shop) -> None:
    held = await shop.book(at(1, 10), 0, hold=True)
    token = (await link_to(shop, held)).token
    assert (await by(shop, "GetSelfServiceBooking", see(token))).expires_at == held.expires_at
    confirm = pb.ConfirmSelfServiceBookingRequest(token=token)
    assert (await by(shop, "ConfirmSelfServiceBooking", confirm)).status == book.BOOKING_STATUS_CONFIRMED
    late = await shop.book(at(1, 12), 0, hold=True)
    token = (await link_to(shop, late)).token
    shop.clock.advance(timedelta(minutes=11))
    seen = await by(shop, "GetSelfServiceBooking", see(token))
    assert (seen.status, seen.HasField("expires_at")) == (book.BOOKING_STATUS_EXPIRED, False)
    confirm = pb.ConfirmSelfServiceBookingRequest(token=token)
    assert (await refused(shop, "ConfirmSelfServiceBooking", confirm)).code == "HOLD_EXPIRED"


async def test_of_many_who_cancel_by_the_same_link_one_does(shop: Shop) -> None:
    token = (await link_to(shop, await shop.book(at(1, 10), 0))).token
    cancel = pb.CancelSelfServiceBookingRequest(token=token)
    answers = await asyncio.gather(
        *(by(shop, "CancelSelfServiceBooking", cancel) for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(answer, pb.SelfServiceBooking) for answer in answers) == 1
    assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {"WRONG_STATE"}


async def test_a_customer_waits_for_another_time_and_takes_it(shop: Shop) -> None:
    mine = await shop.book(at(1, 10), 0, customer_id=shop.customer)
    wanted = [await shop.book(at(1, 14), staff) for staff in (0, 1)]
    token = (await link_to(shop, mine, pb.LINK_SCOPE_WAIT)).token
    window = WaitingWindow(starts_from=stamp(at(1, 14)), ends_by=stamp(at(1, 15)))
    request = pb.JoinSelfServiceWaitingListRequest(token=token, windows=[window])
    waiting = await by(shop, "JoinSelfServiceWaitingList", request)
    assert (waiting.status, waiting.place) == (WAITING_STATUS_WAITING, 1)
    await shop.call("CancelBooking", book.CancelBookingRequest(id=wanted[0].id))
    held = book.ListBookingsRequest(customer_id=shop.customer, status=[book.BOOKING_STATUS_HELD])
    (offered,) = (await shop.call("ListBookings", held)).bookings
    to_offer = (await link_to(shop, offered, pb.LINK_SCOPE_PAY)).token
    confirm = pb.ConfirmSelfServiceBookingRequest(token=to_offer)
    taken = await by(shop, "ConfirmSelfServiceBooking", confirm)
    assert (taken.status, taken.starts_at) == (book.BOOKING_STATUS_CONFIRMED, stamp(at(1, 14)))


async def test_nobody_fills_the_waiting_list_by_a_link(shop: Shop) -> None:
    mine = await shop.book(at(1, 10), 0, customer_id=shop.customer)
    for staff in (0, 1):
        await shop.book(at(1, 14), staff)
    token = (await link_to(shop, mine, pb.LINK_SCOPE_WAIT)).token
    window = WaitingWindow(starts_from=stamp(at(1, 14)), ends_by=stamp(at(1, 15)))
    request = pb.JoinSelfServiceWaitingListRequest(token=token, windows=[window])
    answers = await asyncio.gather(
        *(by(shop, "JoinSelfServiceWaitingList", request) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(answer, pb.SelfServiceWaiting) for answer in answers) == 5
    assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {"WAITING_ALREADY"}


# --- what it does not ---


def calls(token: str) -> dict[str, Message]:
    day = {"starts_from": stamp(at(1, 9)), "ends_by": stamp(at(1, 12))}
    return {
        "GetSelfServiceBooking": see(token),
        "GetSelfServiceTerms": pb.GetSelfServiceTermsRequest(token=token),
        "FindSelfServiceAvailability": pb.FindSelfServiceAvailabilityRequest(token=token, **day),
        "CancelSelfServiceBooking": pb.CancelSelfServiceBookingRequest(token=token),
        "RescheduleSelfServiceBooking": move(token, 1, 12),
        "ConfirmSelfServiceBooking": pb.ConfirmSelfServiceBookingRequest(token=token),
        "JoinSelfServiceWaitingList": pb.JoinSelfServiceWaitingListRequest(
            token=token, windows=[WaitingWindow(starts_from=stamp(at(1, 9)), ends_by=stamp(at(1, 12)))]
        ),
    }


async def test_a_link_allows_what_its_scopes_say(shop: Shop) -> None:
    booking = await shop.book(at(1, 10), 0)
    needs = {
        "FindSelfServiceAvailability": "change",
        "CancelSelfServiceBooking": "cancel",
        "RescheduleSelfServiceBooking": "change",
        "ConfirmSelfServiceBooking": "pay",
        "JoinSelfServiceWaitingList": "wait",
    }
    token = (await link_to(shop, booking, pb.LINK_SCOPE_VIEW)).token
    for method, request in calls(token).items():
        if method in needs:
            refusal = await refused(shop, method, request)
            assert (refusal.code, refusal.parameters["scope"]) == ("LINK_SCOPE", needs[method])
        else:
            await by(shop, method, request)
    only_cancel = (await link_to(shop, booking, pb.LINK_SCOPE_CANCEL)).token
    assert (await refused(shop, "RescheduleSelfServiceBooking", move(only_cancel, 1, 12))).code == "LINK_SCOPE"
    await by(shop, "CancelSelfServiceBooking", pb.CancelSelfServiceBookingRequest(token=only_cancel))


async def test_every_link_that_does_not_work_looks_the_same(shop: Shop) -> None:
    booking = await shop.book(at(1, 10), 0)
    secret = shop.platform["bookings"].context.settings.secret
    tokens = LinkTokens(secret)
    expired = await link_to(shop, booking, expires_at=stamp(NOW + timedelta(hours=1)))
    revoked = await link_to(shop, booking)
    kept = await link_to(shop, booking)
    await shop.call("RevokeBookingLinks", pb.RevokeBookingLinksRequest(id=booking.id, link_ids=[revoked.id]))
    shop.clock.advance(timedelta(hours=1))
    good = kept.token
    wrong = {
        "expired": expired.token,
        "revoked": revoked.token,
        "forged": good[:-1] + ("A" if good[-1] != "A" else "B"),
        "of another secret": LinkTokens(b"x" * 32).make(shop.caller.chain_id, kept.id),
        "of no link": tokens.make(shop.caller.chain_id, new_id()),
        "of another chain": tokens.make(new_id(), kept.id),
        "nonsense": "x",
        "an id": booking.id,
    }
    told = set()
    for token in wrong.values():
        for method, request in calls(token).items():
            refusal = await refused(shop, method, request)
            told.add((refusal.code, str(refusal.parameters), str(refusal.members), str(refusal.errors)))
    assert [code for code, *_ in told] == ["LINK_INVALID"]
    await by(shop, "GetSelfServiceBooking", see(good))


async def test_withdrawn_links_stop_at_once_and_all_together(shop: Shop) -> None:
    booking = await shop.book(at(1, 10), 0)
    links = [await link_to(shop, booking) for _ in range(3)]
    answer = await shop.call("RevokeBookingLinks", pb.RevokeBookingLinksRequest(id=booking.id))
    assert [link.id for link in answer.links] == [link.id for link in reversed(links)]
    assert all(link.HasField("revoked_at") for link in answer.links)
    for link in links:
        assert (await refused(shop, "GetSelfServiceBooking", see(link.token))).code == "LINK_INVALID"
    await link_to(shop, booking)


async def test_a_link_reaches_its_own_booking_only(shop: Shop) -> None:
    mine, other = await shop.book(at(1, 10), 0), await shop.book(at(1, 10), 1)
    foreign = await link_to(shop, other)
    refusal = await shop.refused("RevokeBookingLinks", pb.RevokeBookingLinksRequest(id=mine.id, link_ids=[foreign.id]))
    assert (refusal.code, [error.field for error in refusal.errors]) == ("NOT_FOUND", ["link_ids[0]"])
    token = (await link_to(shop, mine)).token
    await by(shop, "CancelSelfServiceBooking", pb.CancelSelfServiceBookingRequest(token=token))
    untouched = await shop.call("GetBooking", book.GetBookingRequest(id=other.id))
    assert untouched.status == book.BOOKING_STATUS_CONFIRMED


async def test_links_are_made_by_who_may_and_within_bounds(shop: Shop) -> None:
    booking = await shop.book(at(1, 10), 0)
    make = pb.CreateBookingLinkRequest(id=booking.id)
    for method, request in (
        ("CreateBookingLink", make),
        ("ListBookingLinks", pb.ListBookingLinksRequest(id=booking.id)),
        ("RevokeBookingLinks", pb.RevokeBookingLinksRequest(id=booking.id)),
    ):
        assert (await shop.refused(method, request, caller=shop.platform.owner())).code == "NOT_FOUND"
        grants = {name: [new_id()] for name in ("bookings.read", "bookings.write")}
        away = shop.platform.owner(shop.caller.chain_id, grants=grants)
        assert (await shop.refused(method, request, caller=away)).code == "PERMISSION_DENIED"
    for moment, code in ((NOW, "past"), (at(1, 11) + timedelta(days=30, minutes=1), "range")):
        wrong = pb.CreateBookingLinkRequest(id=booking.id, expires_at=stamp(moment))
        assert [error.code for error in (await shop.refused("CreateBookingLink", wrong)).errors] == [code]
    made = [await link_to(shop, booking) for _ in range(20)]
    assert (await shop.refused("CreateBookingLink", make)).code == "TOO_MANY_LINKS"
    page = await shop.call("ListBookingLinks", pb.ListBookingLinksRequest(id=booking.id, page_size=15))
    rest = pb.ListBookingLinksRequest(id=booking.id, page_size=15, page_token=page.next_page_token)
    listed = [*page.links, *(await shop.call("ListBookingLinks", rest)).links]
    assert [link.id for link in listed] == [link.id for link in reversed(made)]
    await shop.call("RevokeBookingLinks", pb.RevokeBookingLinksRequest(id=booking.id, link_ids=[made[0].id]))
    await shop.call("CreateBookingLink", make)


async def test_a_link_goes_with_the_booking_that_moves(shop: Shop) -> None:
    booking = await shop.book(at(1, 10), 0)
    token = (await link_to(shop, booking)).token
    short = (await link_to(shop, booking, expires_at=stamp(at(1, 9)))).token
    moved = await by(shop, "RescheduleSelfServiceBooking", move(token, 20, 10))
    assert moved.link_expires_at == stamp(at(21, 11))
    # A day before it is still there, and one that was to end before the visit is not.
    shop.clock.advance(at(19, 10) - shop.clock.now())
    assert (await by(shop, "GetSelfServiceBooking", see(token))).starts_at == stamp(at(20, 10))
    assert (await refused(shop, "GetSelfServiceBooking", see(short))).code == "LINK_INVALID"
    # Sooner again: it works no shorter than it was said to.
    moved = await by(shop, "RescheduleSelfServiceBooking", move(token, 19, 14))
    assert moved.link_expires_at == stamp(at(21, 11))


async def test_customers_have_what_is_offered_and_are_told_no_ids(shop: Shop) -> None:
    booking, _ = await shop.book(at(1, 10), 0), await shop.book(at(1, 13), 0)
    token = (await link_to(shop, booking)).token
    request = pb.RescheduleSelfServiceBookingRequest(token=token, starts_at=stamp(at(1, 15, 5)))
    refusal = await refused(shop, "RescheduleSelfServiceBooking", request)
    assert (refusal.code, refusal.parameters["reason"]) == (
        "NOT_BOOKABLE",
        "it does not begin at one of the offered times",
    )
    taken = await refused(shop, "RescheduleSelfServiceBooking", move(token, 1, 13))
    for slot in (*refusal.members["nearest"], *taken.members["nearest"]):
        assert slot["staff_ids"] == []
    await set_terms(shop, late_fee=Fee(percent=50))
    costly = (await link_to(shop, await shop.book(at(2, 10), 0))).token
    refusal = await refused(shop, "CancelSelfServiceBooking", pb.CancelSelfServiceBookingRequest(token=costly))
    assert refusal.code == "FEE_DUE"
    assert refusal.members["terms"]["booking_id"] == ""
    # The desk may begin at any step.
    asked = book.RescheduleBookingRequest(id=booking.id, starts_at=stamp(at(1, 15, 5)))
    assert (await shop.call("RescheduleBooking", asked)).starts_at == stamp(at(1, 15, 5))
