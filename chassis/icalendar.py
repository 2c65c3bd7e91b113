"""Calendars as other programs read them: appointments written as iCalendar (RFC 5545, RFC 5546 for invitations).

Appointment   one entry, in plain values
Party         who invites, or is invited
write         the bytes of a calendar

The library behind it costs 10 MB and a tenth of a second, so it is imported when the first calendar is written: a
process that writes none does not pay. Writing is work for the processor, about 0.2 ms an entry: whoever writes long
calendars does it in a thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    import icalendar

PRODUCT = "-//Foyer//Foyer 1.0//EN"
MEDIA_TYPE = "text/calendar; charset=utf-8"

TENTATIVE, CONFIRMED, CANCELLED = "TENTATIVE", "CONFIRMED", "CANCELLED"
REQUEST, CANCEL = "REQUEST", "CANCEL"

# What may not stand in a text (RFC 5545, 3.1), and what would end a line or a parameter.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BREAK = re.compile(r'[\s"\x00-\x1f\x7f]+')


@dataclass(frozen=True, slots=True)
class Party:
    """Who invites, or is invited: an e-mail address and a name."""

    address: str
    name: str


@dataclass(frozen=True, slots=True)
class Appointment:
    """One entry of a calendar. Moments have a zone of their own and are shown in `time_zone` (an IANA name)."""

    uid: str
    """The same in every version and wherever else the entry is shown."""
    sequence: int
    """Grows with every version."""
    starts_at: datetime
    ends_at: datetime
    time_zone: str
    summary: str
    stamped_at: datetime
    """When this version was written down; in an invitation, when it was sent."""
    status: str = CONFIRMED
    changed_at: datetime | None = None
    location: str = ""
    description: str = ""
    categories: tuple[str, ...] = ()
    organizer: Party | None = None
    attendee: Party | None = None


def write(
    appointments: Sequence[Appointment],
    *,
    name: str = "",
    method: str | None = None,
    refresh: timedelta | None = None,
) -> bytes:
    """A calendar as UTF-8 text with folded lines. Raises zoneinfo.ZoneInfoNotFoundError for a zone nobody knows.

    `name` is what programs call the calendar, `method` (REQUEST, CANCEL) makes it an invitation or takes one back, and
    `refresh` tells subscribers how often to look.
    """
    import icalendar

    calendar = icalendar.Calendar()
    calendar.add("prodid", PRODUCT)
    calendar.add("version", "2.0")
    calendar.add("calscale", "GREGORIAN")
    if method is not None:
        calendar.add("method", method)
    if name:
        # The standard's name, and the one that programs have read for twenty years.
        for key in ("name", "x-wr-calname"):
            # Said to be text: the library does not know it of these.
            calendar.add(key, icalendar.vText(_text(name)))
    if refresh is not None:
        calendar.add("refresh-interval", refresh, parameters={"VALUE": "DURATION"})
        calendar.add("x-published-ttl", f"PT{refresh // timedelta(minutes=1)}M")
    for zone, first, last in _zones(appointments):
        calendar.add_component(_zone(zone, first, last))
    for appointment in appointments:
        calendar.add_component(_event(appointment))
    return bytes(calendar.to_ical(sorted=False))


def _event(entry: Appointment) -> icalendar.Event:
    import icalendar

    event = icalendar.Event()
    event.add("uid", entry.uid)
    event.add("sequence", entry.sequence)
    event.add("dtstamp", entry.stamped_at.astimezone(UTC))
    if entry.changed_at is not None:
        event.add("last-modified", entry.changed_at.astimezone(UTC))
    for key, moment in (("dtstart", entry.starts_at), ("dtend", entry.ends_at)):
        event.add(key, _local(moment, entry.time_zone))
    event.add("summary", _text(entry.summary))
    for key, text in (("location", entry.location), ("description", entry.description)):
        if text:
            event.add(key, _text(text))
    event.add("status", entry.status)
    event.add("transp", "TRANSPARENT" if entry.status == CANCELLED else "OPAQUE")
    if entry.categories:
        event.add("categories", [_text(category) for category in entry.categories])
    if entry.organizer is not None:
        event.add("organizer", _party(entry.organizer))
    if entry.attendee is not None:
        attendee = _party(entry.attendee)
        # They asked for it themselves, and nobody waits for an answer.
        attendee.params |= {"ROLE": "REQ-PARTICIPANT", "PARTSTAT": "ACCEPTED", "RSVP": "FALSE"}
        event.add("attendee", attendee)
    return event


def _party(party: Party) -> icalendar.vCalAddress:
    import icalendar

    address = icalendar.vCalAddress(f"mailto:{_BREAK.sub('', party.address)}")
    name = _BREAK.sub(" ", party.name).strip()
    if name:
        address.params["CN"] = name
    return address


def _text(text: str) -> str:
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def _local(moment: datetime, time_zone: str) -> datetime:
    """A moment in local time. The second time that clocks show it cannot be told so: then it is in UTC."""
    local = moment.astimezone(ZoneInfo(time_zone))
    return moment.astimezone(UTC) if local.fold else local


# --- zones ---


def _zones(appointments: Iterable[Appointment]) -> Iterator[tuple[str, datetime, datetime]]:
    """The zones there are, each with the first and the last moment it is needed for."""
    found: dict[str, tuple[datetime, datetime]] = {}
    for entry in appointments:
        first, last = found.get(entry.time_zone, (entry.starts_at, entry.ends_at))
        found[entry.time_zone] = min(first, entry.starts_at), max(last, entry.ends_at)
    for name, (first, last) in sorted(found.items()):
        if name != "UTC":
            yield name, first.astimezone(UTC), last.astimezone(UTC)


def _zone(name: str, first: datetime, last: datetime) -> icalendar.Timezone:
    """What clocks of a zone show from a day before `first` to a day after `last`, change by change.

    The library can do this too, but writes the local time after a change where the standard wants the one before it
    (3.6.5: the onset is told in TZOFFSETFROM), so that summer would begin an hour late.
    """
    import icalendar

    zone = ZoneInfo(name)
    component = icalendar.Timezone()
    component.add("tzid", name)
    start = first.replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
    end = last + timedelta(days=1)
    component.add_component(_observance(start, zone, _offset(start, zone)))
    day = start
    while day < end:
        next_day = day + timedelta(days=1)
        before = _offset(day, zone)
        if _offset(next_day, zone) != before:
            component.add_component(_observance(_change(day, next_day, zone), zone, before))
        day = next_day
    return component


def _observance(
    onset: datetime, zone: ZoneInfo, before: timedelta
) -> icalendar.TimezoneStandard | icalendar.TimezoneDaylight:
    """From `onset` on clocks show another time, or the first one that is told."""
    import icalendar

    local = onset.astimezone(zone)
    component = icalendar.TimezoneDaylight() if local.dst() else icalendar.TimezoneStandard()
    component.add("dtstart", (onset + before).replace(tzinfo=None))
    component.add("tzoffsetfrom", before)
    component.add("tzoffsetto", _offset(onset, zone))
    component.add("tzname", local.tzname() or str(zone))
    return component


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The first second of the offset that holds at `after`."""
    offset = _offset(after, zone)
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if _offset(middle, zone) == offset:
            after = middle
        else:
            before = middle
    return after


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
