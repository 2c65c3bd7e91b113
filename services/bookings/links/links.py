"""Links as the team has them: made, listed, withdrawn."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import links_pb2 as pb

from chassis.app import Context
from chassis.codec import enum_names, enum_numbers
from chassis.db import prepare, prepare_sql, prepared_once, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings import freed
from services.bookings.common import after_id, lower, refuse_if
from services.bookings.freed import How
from services.bookings.links.models import booking_links
from services.bookings.links.tokens import LinkTokens
from services.bookings.rows import READ, SELECT, SELECT_FOR_UPDATE, WRITE, moment_of

PATH = "/v1/self-service/"
EXPIRES_AFTER = timedelta(days=1)
EXPIRES_AT_MOST_AFTER = timedelta(days=30)
MOST_LINKS = 20
SCOPE_NAMES = enum_names(pb.LinkScope.DESCRIPTOR)
SCOPE_NUMBERS = enum_numbers(pb.LinkScope.DESCRIPTOR)

_of_booking = (
    booking_links.c.chain_id == sa.bindparam("chain_id"),
    booking_links.c.booking_id == sa.bindparam("booking_id"),
)
_works = (booking_links.c.revoked_at.is_(None), booking_links.c.expires_at > sa.bindparam("now"))
INSERT = prepare(sa.insert(booking_links).returning(booking_links))
COUNT = prepare(sa.select(sa.func.count()).select_from(booking_links).where(*_of_booking, *_works))
REVOKE = prepare(
    sa.update(booking_links)
    .where(
        *_of_booking,
        booking_links.c.revoked_at.is_(None),
        sa.or_(
            sa.bindparam("all_of_them", type_=sa.Boolean()),
            booking_links.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))),
        ),
    )
    .values(revoked_at=sa.bindparam("now"), revoked_by=sa.bindparam("by"))
)
# A link that was to work beyond the end of its booking does so for as long when the booking has a later end.
FOLLOW = prepare_sql(
    """
update booking_links l set expires_at = l.expires_at + (b.ends_at - $3::timestamptz)
from bookings b
where b.chain_id = $1::uuid and b.id = $2::uuid and b.ends_at > $3::timestamptz
  and l.chain_id = $1::uuid and l.booking_id = $2::uuid and l.revoked_at is null
  and l.expires_at > $4::timestamptz and l.expires_at >= $3::timestamptz
""",
    "chain_id",
    "booking_id",
    "ended_at",
    "now",
)
KNOWN = prepare(
    sa.select(booking_links.c.id).where(
        *_of_booking, booking_links.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type())))
    )
)


def scopes_of(row: asyncpg.Record) -> list[int]:
    """What a link allows, as the contract's numbers."""
    return [SCOPE_NUMBERS[name] for name in row["scopes"]]


to_link = projector(pb.BookingLink, scopes=scopes_of)


class BookingLinks:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self._tokens = LinkTokens(context.settings.secret)
        self._public_url = context.settings.public_url.rstrip("/")

    async def create_booking_link(self, request: pb.CreateBookingLinkRequest, unit: Unit) -> pb.BookingLink:
        """Make a link."""
        link = await create(request, unit)
        link.token = self._tokens.make(unit.chain_id, link.id)
        link.url = self._public_url + PATH + link.token
        return link

    async def list_booking_links(self, request: pb.ListBookingLinksRequest, unit: Unit) -> pb.ListBookingLinksResponse:
        """List the links of a booking."""
        return await find(request, unit)

    async def revoke_booking_links(
        self, request: pb.RevokeBookingLinksRequest, unit: Unit
    ) -> pb.ListBookingLinksResponse:
        """Withdraw links."""
        return await revoke(request, unit)


async def create(request: pb.CreateBookingLinkRequest, unit: Unit) -> pb.BookingLink:
    """Make a link. Raises Refusal NOT_FOUND, PERMISSION_DENIED, INVALID_REQUEST, TOO_MANY_LINKS."""
    # Locked, so that links made at the same moment are counted one after the other.
    booking = await unit.one(SELECT_FOR_UPDATE, id=request.id)
    if booking is None:
        raise not_found("booking", "id")
    unit.check_branch(booking["branch_id"], WRITE)
    ends_at = max(booking["ends_at"], unit.now)
    expires_at = moment_of(request.expires_at) if request.HasField("expires_at") else ends_at + EXPIRES_AFTER
    _check_expiry(expires_at, ends_at + EXPIRES_AT_MOST_AFTER, unit.now)
    if await unit.value(COUNT, booking_id=booking["id"], now=unit.now) >= MOST_LINKS:
        raise Refusal("TOO_MANY_LINKS", most=MOST_LINKS)
    row = await unit.one(
        INSERT,
        id=new_id(),
        booking_id=booking["id"],
        scopes=[SCOPE_NAMES[scope] for scope in sorted({pb.LINK_SCOPE_VIEW, *request.scopes})],
        expires_at=expires_at,
        revoked_at=None,
        created_by=unit.caller.id,
        revoked_by=None,
        created_at=unit.now,
    )
    assert row is not None
    return to_link(row)


def _check_expiry(expires_at: datetime, latest: datetime, now: datetime) -> None:
    if expires_at <= now:
        refuse_if([FieldError("expires_at", "past", "must be in the future", "应为将来的时间")])
    if expires_at > latest:
        message = "must be at most 30 days after the end of the booking"
        refuse_if([FieldError("expires_at", "range", message, "最多晚于预约结束 30 天")])


async def find(request: pb.ListBookingLinksRequest, unit: Unit) -> pb.ListBookingLinksResponse:
    """A page of a booking's links, newest first."""
    await _check_booking(unit, request.id, READ)
    limit = page_limit(request.page_size)
    after = after_id(request.page_token)
    parameters: dict[str, Any] = {} if after is None else {"before": after}
    rows = await unit.all(_page(after is not None), booking_id=request.id, limit=limit + 1, **parameters)
    page, token = split_page(rows, limit, lambda row: (row["id"],))
    return pb.ListBookingLinksResponse(links=[to_link(row) for row in page], next_page_token=token)


@prepared_once
def _page(is_later: bool) -> Any:
    query = sa.select(booking_links).where(*_of_booking)
    if is_later:
        query = query.where(booking_links.c.id < sa.bindparam("before", type_=uuid_type()))
    return prepare(query.order_by(booking_links.c.id.desc()).limit(sa.bindparam("limit", type_=sa.Integer())))


async def revoke(request: pb.RevokeBookingLinksRequest, unit: Unit) -> pb.ListBookingLinksResponse:
    """Withdraw links; answers the newest of the booking as they are then. Raises Refusal NOT_FOUND."""
    await _check_booking(unit, request.id, WRITE)
    ids = lower(request.link_ids)
    known = {row["id"] for row in await unit.all(KNOWN, booking_id=request.id, ids=ids)} if ids else set()
    for index, identifier in enumerate(request.link_ids):
        if identifier.lower() not in known:
            raise not_found("link", f"link_ids[{index}]")
    await unit.run(REVOKE, booking_id=request.id, ids=ids, all_of_them=not ids, now=unit.now, by=unit.caller.id)
    return await find(pb.ListBookingLinksRequest(id=request.id), unit)


@freed.listen
async def follow(unit: Unit, before: asyncpg.Record, how: How) -> None:
    """Have links work for as long after a booking that was moved as they did before."""
    if how == How.MOVED:
        await unit.run(FOLLOW, booking_id=before["id"], ended_at=before["ends_at"], now=unit.now)


async def _check_booking(unit: Unit, identifier: str, permission: str) -> None:
    row = await unit.one(SELECT, id=identifier)
    if row is None:
        raise not_found("booking", "id")
    unit.check_branch(row["branch_id"], permission)
