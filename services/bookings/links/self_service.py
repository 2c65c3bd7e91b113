"""What a customer does by a link: see the booking, its terms, other times; cancel, move, confirm, wait.

Nobody is signed in. The token says which chain and which link; what the link may do is read from its row in the
transaction of the call, so a link that was withdrawn does nothing from that moment on. The caller of such a transaction
is the link: it has no permission but those a customer's steps need, and is bound by the customer's terms (changes.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2, policies_pb2, waiting_list_pb2
from foyer.bookings.v1 import links_pb2 as pb
from google.protobuf.message import Message

from chassis.access import EVERYWHERE, Caller
from chassis.app import Context
from chassis.db import prepare, uuid_type
from chassis.errors import Refusal
from chassis.money import money
from chassis.rpc import Call, outside_unit
from chassis.unit import Unit
from services.bookings import allocator, booking, changes, domain, times
from services.bookings.availability import HORIZON_DAYS, MOST_DURATION
from services.bookings.links.links import scopes_of
from services.bookings.links.models import booking_links
from services.bookings.links.tokens import LinkTokens
from services.bookings.models import branches, customers, staff
from services.bookings.offers import ONE_STEP, check_window
from services.bookings.rows import READ, SELECT, SELECT_FOR_UPDATE, WRITE, moment_of, stored_lines, to_booking
from services.bookings.waiting import entries

LINK = prepare(
    sa.select(booking_links).where(
        booking_links.c.chain_id == sa.bindparam("chain_id"), booking_links.c.id == sa.bindparam("id")
    )
)
_chain = sa.bindparam("chain_id", type_=uuid_type())
NAMES = prepare(
    sa.select(
        sa.select(branches.c.name)
        .where(branches.c.chain_id == _chain, branches.c.id == sa.bindparam("branch_id", type_=uuid_type()))
        .scalar_subquery()
        .label("branch"),
        sa.select(customers.c.name)
        .where(customers.c.chain_id == _chain, customers.c.id == sa.bindparam("customer_id", type_=uuid_type()))
        .scalar_subquery()
        .label("customer"),
    )
)
STAFF_NAMES = prepare(
    sa.select(staff.c.id, staff.c.name).where(
        staff.c.chain_id == sa.bindparam("chain_id"),
        staff.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))),
    )
)

MOST_WAITING = 5
SOURCE = "self_service"

Work = Callable[[Unit, asyncpg.Record, asyncpg.Record], Awaitable[Message]]
"""What is done in the unit, with the link and its booking."""


class SelfService:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self._tokens = LinkTokens(context.settings.secret)

    async def _run(self, token: str, call: Call, scope: str, work: Work) -> Message:
        """Do something by a link. Raises Refusal LINK_INVALID, LINK_SCOPE."""
        named = self._tokens.read(token)
        if named is None:
            raise Refusal("LINK_INVALID")
        chain_id, link_id = named

        async def admitted(unit: Unit) -> Message:
            link = await admit(unit, link_id, scope)
            row = await unit.one(SELECT, id=link["booking_id"])
            if row is None:
                raise Refusal("LINK_INVALID")
            try:
                return await work(unit, link, row)
            except Refusal as refusal:
                raise _without_ids(refusal) from None

        answer: Message = await call.run(admitted, caller_of(chain_id, link_id, call.language))
        return answer

    @outside_unit
    async def get_self_service_booking(self, request: pb.GetSelfServiceBookingRequest, call: Call) -> Message:
        """Read the booking of a link."""
        return await self._run(request.token, call, "view", shown)

    @outside_unit
    async def get_self_service_terms(self, request: pb.GetSelfServiceTermsRequest, call: Call) -> Message:
        """Read what moving or cancelling costs now."""

        async def work(unit: Unit, _: asyncpg.Record, row: asyncpg.Record) -> policies_pb2.ChangeTerms:
            terms = changes.terms(row, unit.now)
            terms.ClearField("booking_id")
            return terms

        return await self._run(request.token, call, "view", work)

    @outside_unit
    async def find_self_service_availability(
        self, request: pb.FindSelfServiceAvailabilityRequest, call: Call
    ) -> Message:
        """Find times the booking could be moved to."""

        async def work(unit: Unit, _: asyncpg.Record, row: asyncpg.Record) -> bookings_pb2.Availability:
            return await other_times(unit, row, request)

        return await self._run(request.token, call, "change", work)

    @outside_unit
    async def cancel_self_service_booking(self, request: pb.CancelSelfServiceBookingRequest, call: Call) -> Message:
        """Cancel the booking."""

        async def work(unit: Unit, link: asyncpg.Record, row: asyncpg.Record) -> Message:
            step = bookings_pb2.CancelBookingRequest(id=row["id"], reason=request.reason or None)
            if request.HasField("accepted_fee"):
                step.accepted_fee.CopyFrom(request.accepted_fee)
            await booking.cancel(step, unit)
            return await shown(unit, link)

        return await self._run(request.token, call, "cancel", work)

    @outside_unit
    async def reschedule_self_service_booking(
        self, request: pb.RescheduleSelfServiceBookingRequest, call: Call
    ) -> Message:
        """Move the booking."""

        async def work(unit: Unit, link: asyncpg.Record, row: asyncpg.Record) -> Message:
            step = bookings_pb2.RescheduleBookingRequest(id=row["id"], starts_at=request.starts_at)
            if request.HasField("accepted_fee"):
                step.accepted_fee.CopyFrom(request.accepted_fee)
            await booking.reschedule(step, unit)
            # The link goes with the booking: it may work for longer now.
            return await shown(unit, await admit(unit, link["id"], "view"))

        return await self._run(request.token, call, "change", work)

    @outside_unit
    async def confirm_self_service_booking(self, request: pb.ConfirmSelfServiceBookingRequest, call: Call) -> Message:
        """Confirm what is held, with its deposit."""

        async def work(unit: Unit, link: asyncpg.Record, row: asyncpg.Record) -> Message:
            await booking.confirm(bookings_pb2.ConfirmBookingRequest(id=row["id"]), unit)
            return await shown(unit, link)

        return await self._run(request.token, call, "pay", work)

    @outside_unit
    async def join_self_service_waiting_list(
        self, request: pb.JoinSelfServiceWaitingListRequest, call: Call
    ) -> Message:
        """Join the waiting list for the same services."""

        async def work(unit: Unit, _: asyncpg.Record, row: asyncpg.Record) -> pb.SelfServiceWaiting:
            return await wait(unit, row, request)

        return await self._run(request.token, call, "wait", work)


def _without_ids(refusal: Refusal) -> Refusal:
    """What a customer is told of why not: times and terms, and no ids."""
    # The fields stay, as the contract says that they are there.
    for slot in refusal.members.get("nearest", ()):
        slot["staff_ids"] = []
    if "terms" in refusal.members:
        refusal.members["terms"]["booking_id"] = ""
    return refusal


def caller_of(chain_id: str, link_id: str, language: str) -> Caller:
    """The caller a link is: it acts on its own booking only, and never overrides anything."""
    return Caller(
        id=f"link:{link_id}",
        kind=changes.LINK,
        name="Customer",
        chain_id=chain_id,
        language=language,
        grants={READ: EVERYWHERE, WRITE: EVERYWHERE},
    )


async def admit(unit: Unit, link_id: str, scope: str) -> asyncpg.Record:
    """The row of a link that works and allows this. Raises Refusal LINK_INVALID, LINK_SCOPE."""
    link = await unit.one(LINK, id=link_id)
    if link is None or link["revoked_at"] is not None or link["expires_at"] <= unit.now:
        raise Refusal("LINK_INVALID")
    if scope not in link["scopes"]:
        raise Refusal("LINK_SCOPE", scope=scope)
    return link


async def shown(unit: Unit, link: asyncpg.Record, row: asyncpg.Record | None = None) -> pb.SelfServiceBooking:
    """A booking as its customer may see it: no notes, no ids, nobody else's name. Read anew unless `row` is given."""
    row = row or await unit.one(SELECT, id=link["booking_id"])
    assert row is not None
    known = to_booking(row, unit.now)
    names = await unit.one(NAMES, branch_id=row["branch_id"], customer_id=row["customer_id"])
    assert names is not None
    found = pb.SelfServiceBooking(
        status=known.status,
        starts_at=known.starts_at,
        ends_at=known.ends_at,
        time_zone=known.time_zone,
        branch_name=names["branch"] or "",
        customer_name=masked(names["customer"] or ""),
        lines=await _lines(unit, stored_lines(row)),
        price=known.price,
        deposit_status=known.deposit_status,
        change_count=known.change_count,
        scopes=scopes_of(link),  # type: ignore[arg-type]
        link_expires_at=link["expires_at"],
        version=known.version,
    )
    for name in ("deposit", "fee"):
        amount = row[f"{name}_amount"]
        if amount is not None:
            getattr(found, name).CopyFrom(money(amount, row["currency"]))
    if known.status == bookings_pb2.BOOKING_STATUS_HELD:
        found.expires_at.CopyFrom(known.expires_at)
    return found


def masked(name: str) -> str:
    """A name of which only the first letter is told."""
    return f"{name[:1]}*" if name else ""


async def _lines(unit: Unit, lines: Sequence[bookings_pb2.BookingLine]) -> list[pb.SelfServiceLine]:
    ids = sorted({each.id for line in lines for each in line.assignments if each.is_staff and each.id})
    names = {row["id"]: row["name"] for row in await unit.all(STAFF_NAMES, ids=ids)} if ids else {}
    return [
        pb.SelfServiceLine(
            service_name=line.service_name,
            starts_at=line.starts_at,
            ends_at=line.ends_at,
            staff_names=[names[each.id] for each in line.assignments if each.id in names],
        )
        for line in lines
    ]


async def other_times(
    unit: Unit, row: asyncpg.Record, request: pb.FindSelfServiceAvailabilityRequest
) -> bookings_pb2.Availability:
    """Times a booking could be moved to, the one it has left out. Raises Refusal WRONG_STATE, INVALID_REQUEST."""
    status = domain.effective_status(row["status"], row["expires_at"], unit.now)
    domain.next_status("reschedule", status)
    starts_from, ends_by = moment_of(request.starts_from), moment_of(request.ends_by)
    check_window(ends_by - starts_from)
    last = unit.now + timedelta(days=HORIZON_DAYS) + MOST_DURATION
    earliest = min(max(starts_from, unit.now), last)
    latest = max(min(ends_by, last), earliest)
    lines = stored_lines(row)
    question = booking.question_of(row, lines)
    old = await allocator.of_booking(unit, row["id"])
    found = await booking.read_other(unit, question, lines, old, earliest, max(latest, earliest + ONE_STEP))
    answer = bookings_pb2.Availability(time_zone=row["time_zone"])
    if found.reason is None:
        answer.slots.extend(
            bookings_pb2.Slot(starts_at=slot.starts_at, ends_at=slot.ends_at)
            for slot in times.slot_messages(found.offers(earliest, latest, unit.now))
            if moment_of(slot.starts_at) != row["starts_at"]
        )
    return answer


async def wait(unit: Unit, row: asyncpg.Record, request: pb.JoinSelfServiceWaitingListRequest) -> pb.SelfServiceWaiting:
    """Have the customer of a booking wait for its services at another time. Raises Refusal WAITING_ALREADY."""
    # Locked, so that those who join at the same moment by the same link are counted one after the other.
    await unit.one(SELECT_FOR_UPDATE, id=row["id"])
    named = {"branch_id": row["branch_id"], "customer_id": row["customer_id"]}
    asked = waiting_list_pb2.ListWaitingEntriesRequest(**named, page_size=MOST_WAITING)
    if len((await entries.find(asked, unit)).entries) >= MOST_WAITING:
        raise Refusal("WAITING_ALREADY", most=MOST_WAITING)
    lines = [
        bookings_pb2.LineRequest(
            service_id=line.service_id,
            customer_id=line.customer_id if line.customer_id and line.customer_id != row["customer_id"] else None,
            add_on_ids=line.add_on_ids,
            together=line.together,
            guest_name=line.guest_name if line.HasField("guest_name") else None,
        )
        for line in stored_lines(row)
    ]
    joining = waiting_list_pb2.JoinWaitingListRequest(**named, lines=lines, windows=request.windows, source=SOURCE)
    entry = await entries.join(joining, unit)
    found = pb.SelfServiceWaiting(
        status=entry.status, windows=entry.windows, place=entry.place if entry.HasField("place") else None
    )
    if entry.HasField("offer_expires_at"):
        found.offer_expires_at.CopyFrom(entry.offer_expires_at)
    return found
