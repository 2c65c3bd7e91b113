"""Bookings as entries of a calendar: what a reader of a feed is shown, and what not. Values in, values out.

A branch and a customer see visits; a person and a room see the services they are needed for, each when it needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.icalendar import CANCELLED, CONFIRMED, TENTATIVE, Appointment
from services.bookings import domain
from services.bookings.rows import stored_lines

Row = Mapping[str, Any] | asyncpg.Record

STATUS_OF = {"held": TENTATIVE, "cancelled": CANCELLED, "no_show": CANCELLED}
"""State of a booking → that of its entry; all others are confirmed."""

STATES: Mapping[str, tuple[str, str]] = {
    "held": ("Held", "预留"),
    "confirmed": ("Confirmed", "已确认"),
    "checked_in": ("Checked in", "已签到"),
    "in_service": ("In service", "服务中"),
    "completed": ("Completed", "已完成"),
    "cancelled": ("Cancelled", "已取消"),
    "no_show": ("No-show", "爽约"),
}
"""State of a booking or class → English and Chinese."""

WORDS: Mapping[str, tuple[str, str]] = {
    "staff": ("With {}", "服务人员：{}"),
    "things": ("Room or thing: {}", "房间或物品：{}"),
    "customer_calendar": ("Appointments", "我的预约"),
}


@dataclass(frozen=True, slots=True)
class View:
    """Who looks, and what things are called. `names` are those of people, rooms, things and customers, by id."""

    kind: str
    subject_id: str
    language: str
    shows_customers: bool
    names: Mapping[str, str]
    places: Mapping[str, str]
    english_services: Mapping[str, str]

    def say(self, words: tuple[str, str]) -> str:
        """English and Chinese words in the language of the feed."""
        return words[self.language == "zh"]


def uid_of(identifier: str, number: int = 0) -> str:
    """What an entry is known by: the id of the booking, and for a service after the first also its number."""
    return f"{identifier}-{number + 1}" if number else identifier


def entries_of(row: Row, view: View, now: datetime) -> Iterator[Appointment]:
    """The entries of a booking. A hold that ran out has none."""
    status = domain.effective_status(row["status"], row["expires_at"], now)
    if status not in STATES:
        return
    lines = stored_lines(row)
    if view.kind == "branch" or (view.kind == "customer" and row["customer_id"] == view.subject_id):
        yield _entry(row, view, status, lines, uid_of(row["id"]), (row["starts_at"], row["ends_at"]))
        return
    for number, line in enumerate(lines):
        span = _span(line, view)
        if span is not None:
            yield _entry(row, view, status, [line], uid_of(row["id"], number), span)


def _span(line: pb.BookingLine, view: View) -> tuple[datetime, datetime] | None:
    """When a service needs who looks, without the time kept free around it; None when it does not."""
    starts_at, ends_at = _moment(line.starts_at), _moment(line.ends_at)
    if view.kind == "customer":
        return (starts_at, ends_at) if line.customer_id == view.subject_id else None
    taken = [stretch for assigned in line.assignments if assigned.id == view.subject_id for stretch in assigned.taken]
    if not taken:
        return None
    first = max(starts_at, min(_moment(stretch.starts_at) for stretch in taken))
    last = min(ends_at, max(_moment(stretch.ends_at) for stretch in taken))
    return (first, last) if first < last else (starts_at, ends_at)


def _entry(
    row: Row, view: View, status: str, lines: Sequence[pb.BookingLine], uid: str, span: tuple[datetime, datetime]
) -> Appointment:
    services = " + ".join(_service(line.service_id, line.service_name, view) for line in lines)
    changed_at = row["updated_at"] or row["created_at"]
    return Appointment(
        uid=uid,
        sequence=row["version"],
        starts_at=span[0],
        ends_at=span[1],
        time_zone=row["time_zone"],
        summary=_joined(" · ", [services, *_people(row, lines, view)]),
        # Nobody sends it to anybody: it is stamped when it was last changed (RFC 5545, 3.8.7.2).
        stamped_at=changed_at,
        changed_at=changed_at,
        status=STATUS_OF.get(status, CONFIRMED),
        location=view.places.get(row["branch_id"], ""),
        description=_description([assigned for line in lines for assigned in line.assignments], view),
        categories=(view.say(STATES[status]),),
    )


def entry_of_class(row: Row, line: pb.BookingLine, view: View) -> Appointment:
    """The entry of a class, whoever has seats in it."""
    status = "cancelled" if row["status"] == "cancelled" else "confirmed"
    changed_at = row["cancelled_at"] or row["created_at"]
    return Appointment(
        uid=uid_of(row["id"]),
        sequence=row["version"],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        time_zone=row["time_zone"],
        summary=_service(row["service_id"], row["name"], view),
        stamped_at=changed_at,
        changed_at=changed_at,
        status=STATUS_OF.get(status, CONFIRMED),
        location=view.places.get(row["branch_id"], ""),
        description=_description(line.assignments, view),
        categories=(view.say(STATES[status]),),
    )


def _service(service_id: str, name: str, view: View) -> str:
    return view.english_services.get(service_id, name) if view.language == "en" else name


def _people(row: Row, lines: Sequence[pb.BookingLine], view: View) -> list[str]:
    """Names of those a visit is for, each once; nobody where they are not to be shown."""
    if not view.shows_customers:
        return []
    found = [line.guest_name or view.names.get(line.customer_id or row["customer_id"], "") for line in lines]
    return list(dict.fromkeys(found))


def _description(assignments: Sequence[pb.Assignment], view: View) -> str:
    """Who else is there, and where; customers are told of people only."""
    others = [assigned for assigned in assignments if assigned.id != view.subject_id]
    staff = dict.fromkeys(view.names.get(assigned.id, "") for assigned in others if assigned.is_staff)
    things = dict.fromkeys(view.names.get(assigned.id, "") for assigned in others if not assigned.is_staff)
    between = "、" if view.language == "zh" else ", "
    told = [("staff", _joined(between, staff))]
    if view.kind != "customer":
        told.append(("things", _joined(between, things)))
    return "\n".join(view.say(WORDS[word]).format(names) for word, names in told if names)


def _joined(between: str, texts: Sequence[str] | Mapping[str, None]) -> str:
    return between.join(text for text in texts if text)


def _moment(message: Any) -> datetime:
    moment: datetime = message.ToDatetime(tzinfo=UTC)
    return moment
