"""Calendar feeds: made, listed, given a new address, revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import calendars_pb2 as pb

from chassis.db import Prepared, prepare, prepared_once, time_type, uuid_type
from chassis.errors import FieldError, Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import enum_name, projector
from chassis.unit import Absent, Unit
from services.bookings.calendars.models import calendar_feeds
from services.bookings.calendars.tokens import FeedAddress, FeedTokens
from services.bookings.common import after_id, refuse_if
from services.bookings.models import branches, customers, resources, staff
from services.bookings.rows import READ as READ_BOOKINGS
from services.bookings.rows import moment_of

READ, WRITE = "calendars.read", "calendars.write"
READ_CUSTOMERS = "customers.read"
MOST_OF_SUBJECT = 20
LANGUAGES = ("zh", "en")

to_feed = projector(pb.CalendarFeed)

_chain: sa.BindParameter[str] = sa.bindparam("chain_id")
_one = sa.and_(calendar_feeds.c.chain_id == _chain, calendar_feeds.c.id == sa.bindparam("id"))
SELECT = prepare(sa.select(calendar_feeds).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(calendar_feeds).where(_one).with_for_update())
INSERT = prepare(sa.insert(calendar_feeds).returning(calendar_feeds))
ROTATE = prepare(
    sa.update(calendar_feeds)
    .where(_one)
    .values(address_number=calendar_feeds.c.address_number + 1, version=calendar_feeds.c.version + 1)
    .returning(calendar_feeds)
)
REVOKE = prepare(
    sa.update(calendar_feeds)
    .where(_one)
    .values(revoked_at=sa.bindparam("now"), version=calendar_feeds.c.version + 1)
    .returning(calendar_feeds)
)


def _works(now: sa.BindParameter[Any]) -> sa.ColumnElement[bool]:
    expires_at = calendar_feeds.c.expires_at
    return sa.and_(calendar_feeds.c.revoked_at.is_(None), sa.or_(expires_at.is_(None), expires_at > now))


_now = sa.bindparam("now", type_=time_type())
COUNT_OF_SUBJECT = prepare(
    sa.select(sa.func.count()).where(
        calendar_feeds.c.chain_id == _chain, calendar_feeds.c.subject_id == sa.bindparam("subject_id"), _works(_now)
    )
)


def _of_kind(table: sa.Table, *columns: str) -> Prepared:
    query = sa.select(*(table.c[name] for name in ("id", "name", *columns)))
    return prepare(query.where(table.c.chain_id == _chain, table.c.id == sa.bindparam("id")))


SUBJECTS = {
    "staff": _of_kind(staff, "branch_ids"),
    "branch": _of_kind(branches),
    "resource": _of_kind(resources, "branch_id"),
    "customer": _of_kind(customers),
}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Makes the addresses of feeds."""

    tokens: FeedTokens
    public_url: str

    def of(self, row: asyncpg.Record) -> str:
        """Where a feed is read."""
        token = self.tokens.make(FeedAddress(row["chain_id"], row["id"], row["address_number"]))
        return f"{self.public_url}/v1/calendars/{token}.ics"


async def create(request: pb.CreateCalendarFeedRequest, unit: Unit, addresses: Addresses) -> pb.CalendarFeed:
    """Make a feed. Raises Refusal NOT_FOUND, PERMISSION_DENIED, INVALID_REQUEST, TOO_MANY_FEEDS."""
    expires_at = moment_of(request.expires_at) if request.HasField("expires_at") else None
    if expires_at is not None and expires_at <= unit.now:
        refuse_if([FieldError("expires_at", "future", "must be in the future", "应为将来的时间")])
    kind = enum_name(pb.CreateCalendarFeedRequest, "kind", request.kind)
    subject_id = request.subject_id.lower()
    branch_ids = await _scope(unit, kind, subject_id)
    if await unit.value(COUNT_OF_SUBJECT, subject_id=subject_id, now=unit.now) >= MOST_OF_SUBJECT:
        raise Refusal("TOO_MANY_FEEDS", most=MOST_OF_SUBJECT)
    own_language = unit.caller.language if unit.caller.language in LANGUAGES else LANGUAGES[0]
    row = await unit.one(
        INSERT,
        id=new_id(),
        kind=kind,
        subject_id=subject_id,
        language=request.language or own_language,
        shows_customers=kind != "customer" and _covers(unit.allowed_branches(READ_CUSTOMERS), branch_ids),
        branch_ids=branch_ids,
        address_number=1,
        expires_at=expires_at,
        revoked_at=None,
        created_by=unit.caller.id,
        created_at=unit.now,
        version=1,
    )
    assert row is not None
    return _told(unit, row, pb.CalendarFeedCreated, addresses)


async def _scope(unit: Unit, kind: str, subject_id: str) -> list[str] | None:
    """The branches whose bookings a feed may show; None: all. Raises Absent, Refusal NOT_FOUND, PERMISSION_DENIED."""
    subject = await unit.one(SUBJECTS[kind], id=subject_id)
    if subject is None and kind in ("branch", "customer"):
        raise Absent(kind, subject_id, field="subject_id")
    if subject is None:
        raise not_found(kind, "subject_id")
    allowed = _both(unit.allowed_branches(WRITE), unit.allowed_branches(READ_BOOKINGS))
    if kind in ("branch", "resource"):
        place = subject_id if kind == "branch" else subject["branch_id"]
        if allowed is not None and place not in allowed:
            raise Refusal("PERMISSION_DENIED", permission=WRITE)
        return [place]
    works_there = kind != "staff" or allowed is None or bool(set(subject["branch_ids"]) & set(allowed))
    if allowed == [] or not works_there:
        raise Refusal("PERMISSION_DENIED", permission=WRITE)
    return allowed


def _both(one: list[str] | None, other: list[str] | None) -> list[str] | None:
    """Branches that both hold for; None: all."""
    if one is None or other is None:
        return one if other is None else other
    return sorted(set(one) & set(other))


def _covers(allowed: Sequence[str] | None, branch_ids: Sequence[str] | None) -> bool:
    """Whether what holds at `allowed` holds at all of the branches (None: all there are)."""
    return allowed is None or (branch_ids is not None and set(branch_ids) <= set(allowed))


def _told(unit: Unit, row: asyncpg.Record, event: Any, addresses: Addresses | None = None) -> pb.CalendarFeed:
    """The feed after a change; the event tells of it without its address."""
    feed = to_feed(row)
    unit.emit(event(calendar_feed_id=feed.id, calendar_feed=feed))
    if addresses is not None:
        feed.url = addresses.of(row)
    return feed


@prepared_once
def list_statement(filters: frozenset[str]) -> Prepared:
    """The statement of a list for the filters that are given; newest first, as ids ascend with time."""
    table = calendar_feeds
    query = sa.select(table).where(table.c.chain_id == _chain)
    for name in ("kind", "subject_id"):
        if name in filters:
            query = query.where(table.c[name] == sa.bindparam(name))
    if "works" in filters:
        query = query.where(_works(_now))
    if "ended" in filters:
        query = query.where(sa.not_(sa.func.coalesce(_works(_now), sa.false())))
    if "allowed" in filters:
        query = query.where(table.c.branch_ids.contained_by(sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))))
    if "before" in filters:
        query = query.where(table.c.id < sa.bindparam("before", type_=uuid_type()))
    return prepare(query.order_by(table.c.id.desc()).limit(sa.bindparam("limit", type_=sa.Integer())))


async def find(request: pb.ListCalendarFeedsRequest, unit: Unit) -> pb.ListCalendarFeedsResponse:
    """A page of feeds. Raises Refusal NOT_FOUND, INVALID_REQUEST."""
    limit = page_limit(request.page_size)
    parameters: dict[str, Any] = {}
    filters: set[str] = set()
    if request.HasField("kind"):
        parameters["kind"] = enum_name(pb.ListCalendarFeedsRequest, "kind", request.kind)
    if request.HasField("subject_id"):
        parameters["subject_id"] = request.subject_id.lower()
    after = after_id(request.page_token)
    if after is not None:
        parameters["before"] = after
    allowed = unit.allowed_branches(READ)
    if allowed is not None:
        parameters["allowed"] = allowed
    filters = set(parameters)
    if request.HasField("active"):
        filters.add("works" if request.active else "ended")
        parameters["now"] = unit.now
    rows = await unit.all(list_statement(frozenset(filters)), **parameters, limit=limit + 1)
    if not rows and "subject_id" in parameters:
        await _check_subject(unit, parameters["subject_id"])
    page, token = split_page(rows, limit, lambda row: (row["id"],))
    return pb.ListCalendarFeedsResponse(calendar_feeds=[to_feed(row) for row in page], next_page_token=token)


async def _check_subject(unit: Unit, subject_id: str) -> None:
    for statement in SUBJECTS.values():
        if await unit.one(statement, id=subject_id) is not None:
            return
    raise not_found("subject", "subject_id")


async def get(request: pb.GetCalendarFeedRequest, unit: Unit) -> pb.CalendarFeed:
    """Read a feed. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    return to_feed(_visible(unit, await unit.one(SELECT, id=request.id), READ))


async def rotate(request: pb.RotateCalendarFeedRequest, unit: Unit, addresses: Addresses) -> pb.CalendarFeed:
    """Give a feed a new address. Raises Refusal NOT_FOUND, PERMISSION_DENIED, WRONG_STATE."""
    row = _visible(unit, await unit.one(SELECT_FOR_UPDATE, id=request.id), WRITE)
    unit.check_version(row["version"])
    if row["revoked_at"] is not None:
        raise Refusal("WRONG_STATE", status="revoked")
    if has_expired(row, unit):
        raise Refusal("WRONG_STATE", status="expired")
    rotated = await unit.one(ROTATE, id=request.id)
    assert rotated is not None
    return _told(unit, rotated, pb.CalendarFeedRotated, addresses)


async def revoke(request: pb.RevokeCalendarFeedRequest, unit: Unit) -> pb.CalendarFeed:
    """Revoke a feed; one that is revoked stays as it is. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    row = _visible(unit, await unit.one(SELECT_FOR_UPDATE, id=request.id), WRITE)
    unit.check_version(row["version"])
    if row["revoked_at"] is not None:
        return to_feed(row)
    revoked = await unit.one(REVOKE, id=request.id, now=unit.now)
    assert revoked is not None
    return _told(unit, revoked, pb.CalendarFeedRevoked)


def has_expired(row: asyncpg.Record, unit: Unit) -> bool:
    """Whether the time of a feed is over."""
    return row["expires_at"] is not None and row["expires_at"] <= unit.now


def _visible(unit: Unit, row: asyncpg.Record | None, permission: str) -> asyncpg.Record:
    """A feed that the caller may see: all of what it shows lies in the branches of their permission."""
    if row is None:
        raise not_found("calendar feed", "id")
    if not _covers(unit.allowed_branches(permission), row["branch_ids"]):
        raise Refusal("PERMISSION_DENIED", permission=permission)
    return row
