"""Appointments for the customer's own calendar, sent along with messages about bookings (RFC 5546, RFC 6047).

A booking that is agreed or changed is a request, one that is called off takes it back. The entry is known by the id of
the booking, as in the customer's calendar feed, and its version is the booking's: what arrives late changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from chassis import icalendar
from chassis.icalendar import CANCEL, REQUEST, Appointment, Party
from services.notify.channels import Invitation

METHODS: Mapping[str, str] = {
    "booking.confirmed": REQUEST,
    "booking.rescheduled": REQUEST,
    "booking.reassigned": REQUEST,
    "booking.cancelled": CANCEL,
}
"""Event → what it does to the customer's calendar."""

STAFF: Mapping[str, str] = {"en": "With {}", "zh": "服务人员：{}"}


def is_possible(event_type: str, channel: str) -> bool:
    """Whether messages of an event and channel can bring an invitation."""
    return channel == "email" and event_type in METHODS


def invitation_of(
    event_type: str, facts: Mapping[str, Any], customer: Party, sender_address: str, language: str, written_at: datetime
) -> Invitation | None:
    """The invitation to what a message tells of; None where the facts, being older, do not tell enough."""
    booking = facts["booking"]
    if "id" not in booking:
        return None
    method = METHODS[event_type]
    branch, staff = facts.get("branch", {}), facts.get("staff", {})
    appointment = Appointment(
        uid=booking["id"],
        sequence=booking["version"],
        starts_at=datetime.fromisoformat(booking["starts_at"]),
        ends_at=datetime.fromisoformat(booking["ends_at"]),
        time_zone=booking["time_zone"] or "UTC",
        summary=booking["services"],
        stamped_at=written_at,
        status=icalendar.CANCELLED if method == CANCEL else icalendar.CONFIRMED,
        location=", ".join(text for text in (branch.get("name"), branch.get("address")) if text),
        description=STAFF[language].format(staff["name"]) if staff.get("name") else "",
        organizer=Party(sender_address, facts["chain"]["name"]),
        attendee=customer,
    )
    return Invitation(method, icalendar.write([appointment], method=method))
