"""What stands behind the address of a feed: the bookings, what they are called, and the text programs read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2
from foyer.bookings.v1 import calendars_pb2 as pb

from chassis import icalendar
from chassis.db import Prepared, prepare, prepare_sql, prepared_once, uuid_type
from chassis.errors import not_found
from chassis.icalendar import Appointment
from chassis.unit import Unit
from services.bookings.calendars.entries import WORDS, View, entries_of, entry_of_class
from services.bookings.calendars.feeds import SELECT, SUBJECTS, has_expired
from services.bookings.calendars.tokens import FeedAddress
from services.bookings.models import branches, customers, resources, services, staff
from services.bookings.rows import stored_lines

BACK, AHEAD = timedelta(days=30), timedelta(days=180)
RECENT = timedelta(days=1)
"""What began less long ago than this comes before what is past, where not all has room."""
CANCELLED_FOR = timedelta(days=14)
"""How long what was called off is still shown, as such."""
MOST_ENTRIES = 2000
MOST_CANCELLED = 500
REFRESH = timedelta(minutes=15)

# What a person, thing or customer is needed for: `allocations` knows, as long as it takes their time.
_ALLOCATED = """select distinct a.booking_id from allocations a where a.chain_id = $1::uuid and a.resource_id = $2::uuid
      and a.starts_at >= $3::timestamptz - interval '1 day' and a.starts_at < $4::timestamptz + interval '1 day'"""
_OWN = """select o.id from {{table}} o where o.chain_id = $1::uuid and o.{column} = $2::uuid
      and o.starts_at >= $3::timestamptz and o.starts_at < $4::timestamptz"""
_FOUND = {
    "staff": f"{_ALLOCATED} union {_OWN.format(column='staff_id')}",
    "resource": _ALLOCATED,
    "customer": f"{_ALLOCATED} union {_OWN.format(column='customer_id')}",
}
# All that an entry is made of, and what `stored_lines` asks of a booking from before there were lines.
_SHOWN = ", ".join(
    f"b.{name}"
    for name in (
        *("id", "branch_id", "service_id", "customer_id", "staff_id", "status", "starts_at", "ends_at", "lines"),
        *("buffer_before_minutes", "buffer_after_minutes", "price_amount", "currency", "service_name", "time_zone"),
        *("expires_at", "cancelled_at", "updated_at", "created_at", "version"),
    )
)
_TIMES = "b.starts_at >= $3::timestamptz and b.starts_at < $4::timestamptz"
_SCOPE = "($5::uuid[] is null or b.branch_id = any($5::uuid[]))"
_NAMES = ("chain_id", "subject_id", "starts_from", "starts_before", "branch_ids", "limit")


@prepared_once
def bookings_of(kind: str, direction: str) -> Prepared:
    """Bookings of a subject that begin in a time, from its beginning (`asc`) or end (`desc`) on."""
    shown = "b.status <> 'expired'" if kind == "customer" else "b.status <> 'expired' and b.class_session_id is null"
    return _beginning(kind, "bookings", _SHOWN, f"{shown} and", direction)


@prepared_once
def classes_of(kind: str) -> Prepared:
    """Classes of a person, branch, room or thing that begin in a time."""
    return _beginning(kind, "class_sessions", "b.*", "", "asc")


def _beginning(kind: str, table: str, columns: str, shown: str, direction: str) -> Prepared:
    found, source = "", f"{table} b"
    where = f"b.chain_id = $1::uuid and b.branch_id = $2::uuid and {shown} {_TIMES}"
    if kind != "branch":
        # Each is looked up by its id, whatever the planner thinks of the times: `offset 0` keeps these out.
        found = f"with found(id) as materialized (\n    {_FOUND[kind].format(table=table)}\n)\n"
        one = f"select * from {table} t where t.chain_id = $1::uuid and t.id = f.id offset 0"  # noqa: S608
        source, where = f"found f cross join lateral ({one}) b", f"{shown} {_TIMES}"
    query = f"{found}select {columns} from {source} where {where} and {_SCOPE}"  # noqa: S608 - constants only
    order = f"order by b.starts_at {direction}, b.id limit $6::integer"
    return prepare_sql(f"{query} {order}", *_NAMES, name=f"select_{table}")


# What was called off takes nobody's time any more, so that only its branch leads to it.
CANCELLED_AT = prepare_sql(
    f"""
select {_SHOWN} from bookings b
where b.chain_id = $1::uuid and b.branch_id = any($2::uuid[]) and b.status = 'cancelled'
  and b.cancelled_at >= $3::timestamptz and b.starts_at >= $4::timestamptz and b.starts_at < $5::timestamptz
  and b.class_session_id is null
order by b.cancelled_at desc limit $6::integer
""",  # noqa: S608 - constants only
    *("chain_id", "branch_ids", "cancelled_from", "starts_from", "starts_before", "limit"),
)


def _by_ids(table: sa.Table, *columns: str) -> Prepared:
    ids = sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))
    query = sa.select(*(table.c[name] for name in ("id", "name", *columns)))
    return prepare(query.where(table.c.chain_id == sa.bindparam("chain_id"), table.c.id == sa.any_(ids)))


NAMES_OF_STAFF, NAMES_OF_THINGS, NAMES_OF_CUSTOMERS = _by_ids(staff), _by_ids(resources), _by_ids(customers)
NAMES_OF_SERVICES, PLACES = _by_ids(services, "name_en"), _by_ids(branches, "address")


@dataclass(frozen=True, slots=True)
class Content:
    """What a feed shows at a moment: rows, of which entries are still to be made."""

    name: str
    view: View
    now: datetime
    bookings: Sequence[asyncpg.Record]
    classes: Sequence[asyncpg.Record]

    def appointments(self) -> list[Appointment]:
        """The entries, in order."""
        found = [entry for row in self.bookings for entry in entries_of(row, self.view, self.now)]
        found += [entry_of_class(row, _line(row), self.view) for row in self.classes]
        return sorted(found[:MOST_ENTRIES], key=lambda entry: (entry.starts_at, entry.uid))


async def read(unit: Unit, address: FeedAddress) -> Content:
    """What a feed shows now. Raises Refusal NOT_FOUND when the address is not, or no longer, that of a feed."""
    feed = await unit.one(SELECT, id=address.feed_id)
    if (
        feed is None
        or feed["address_number"] != address.number
        or feed["revoked_at"] is not None
        or has_expired(feed, unit)
    ):
        raise not_found("calendar", "token")
    subject = await unit.one(SUBJECTS[feed["kind"]], id=feed["subject_id"])
    if subject is None:
        raise not_found("calendar", "token")
    rows = await _bookings(unit, feed, subject)
    classes = await _classes(unit, feed)
    view = await _view(unit, feed, rows, classes)
    name = view.say(WORDS["customer_calendar"]) if feed["kind"] == "customer" else subject["name"]
    return Content(name, view, unit.now, rows, classes)


async def _bookings(unit: Unit, feed: asyncpg.Record, subject: asyncpg.Record) -> list[asyncpg.Record]:
    """Bookings in the order in which they have room: what is to come, what was called off, what is past."""
    now, kind = unit.now, feed["kind"]
    scope = {"subject_id": feed["subject_id"], "branch_ids": feed["branch_ids"]}
    turn = now - RECENT
    rows = await unit.all(
        bookings_of(kind, "asc"), **scope, starts_from=turn, starts_before=now + AHEAD, limit=MOST_ENTRIES
    )
    if kind in ("staff", "resource"):
        places = [subject["branch_id"]] if kind == "resource" else subject["branch_ids"]
        if feed["branch_ids"] is not None:
            places = sorted(set(places) & set(feed["branch_ids"]))
        rows += await unit.all(
            CANCELLED_AT,
            branch_ids=places,
            cancelled_from=now - CANCELLED_FOR,
            starts_from=now - BACK,
            starts_before=now + AHEAD,
            limit=MOST_CANCELLED,
        )
    if len(rows) < MOST_ENTRIES:
        left = MOST_ENTRIES - len(rows)
        rows += await unit.all(
            bookings_of(kind, "desc"), **scope, starts_from=now - BACK, starts_before=turn, limit=left
        )
    unique = {row["id"]: row for row in rows if not _is_forgotten(row, now)}
    return list(unique.values())


def _is_forgotten(row: asyncpg.Record, now: datetime) -> bool:
    cancelled_at: datetime | None = row["cancelled_at"]
    return row["status"] == "cancelled" and cancelled_at is not None and cancelled_at < now - CANCELLED_FOR


async def _classes(unit: Unit, feed: asyncpg.Record) -> list[asyncpg.Record]:
    if feed["kind"] == "customer":
        return []
    rows = await unit.all(
        classes_of(feed["kind"]),
        subject_id=feed["subject_id"],
        branch_ids=feed["branch_ids"],
        starts_from=unit.now - RECENT,
        starts_before=unit.now + AHEAD,
        limit=MOST_ENTRIES,
    )
    return [row for row in rows if not _is_forgotten(row, unit.now)]


def _line(session: asyncpg.Record) -> bookings_pb2.BookingLine:
    return bookings_pb2.BookingLine.FromString(session["line"])


async def _view(
    unit: Unit, feed: asyncpg.Record, rows: Sequence[asyncpg.Record], classes: Sequence[asyncpg.Record]
) -> View:
    """What all that is shown is called, and nothing that is not shown."""
    lines = [line for row in rows for line in stored_lines(row)] + [_line(row) for row in classes]
    assigned = [each for line in lines for each in line.assignments]
    names = await _named(unit, NAMES_OF_STAFF, (each.id for each in assigned if each.is_staff))
    if feed["kind"] != "customer":
        names |= await _named(unit, NAMES_OF_THINGS, (each.id for each in assigned if not each.is_staff))
    if feed["shows_customers"]:
        ids = {line.customer_id for line in lines} | {row["customer_id"] for row in rows}
        names |= await _named(unit, NAMES_OF_CUSTOMERS, ids)
    english: Mapping[str, str] = {}
    if feed["language"] == "en":
        known = await unit.all(NAMES_OF_SERVICES, ids=_ids(line.service_id for line in lines))
        english = {row["id"]: row["name_en"] for row in known if row["name_en"]}
    places = await unit.all(PLACES, ids=_ids(row["branch_id"] for row in (*rows, *classes)))
    return View(
        kind=feed["kind"],
        subject_id=feed["subject_id"],
        language=feed["language"],
        shows_customers=feed["shows_customers"],
        names=names,
        places={row["id"]: ", ".join(filter(None, (row["name"], row["address"]))) for row in places},
        english_services=english,
    )


async def _named(unit: Unit, statement: Prepared, ids: Iterable[str]) -> dict[str, str]:
    wanted = _ids(ids)
    return {row["id"]: row["name"] for row in await unit.all(statement, ids=wanted)} if wanted else {}


def _ids(ids: Iterable[str]) -> list[str]:
    return sorted({identifier for identifier in ids if identifier})


async def document(content: Content, if_none_match: str) -> pb.CalendarDocument:
    """The content as programs read it; without its text for a program that has it already.

    The text is written in a thread: thousands of entries take longer than others here can wait.
    """
    return await asyncio.to_thread(_document, content, if_none_match)


def _document(content: Content, if_none_match: str) -> pb.CalendarDocument:
    appointments = content.appointments()
    told = repr((content.name, appointments))
    etag = f'"{hashlib.sha256(told.encode()).hexdigest()[:32]}"'
    if names_tag(if_none_match, etag):
        return pb.CalendarDocument(etag=etag, not_modified=True)
    body = icalendar.write(appointments, name=content.name, refresh=REFRESH)
    return pb.CalendarDocument(body=body, etag=etag)


def names_tag(if_none_match: str, etag: str) -> bool:
    """Whether an If-None-Match header names an entity tag; weak ones count (RFC 9110, 13.1.2)."""
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags
