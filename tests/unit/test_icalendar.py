"""Calendars are read as they are meant: by the library that writes them, and by one that has nothing of it.

vobject knows no zone under the names given here, so that it must believe our VTIMEZONE.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import icalendar
import pytest
import vobject
from hypothesis import given
from hypothesis import strategies as st

from chassis.icalendar import CANCEL, CANCELLED, REQUEST, Appointment, Party, write

STAMP = datetime(2026, 5, 4, tzinfo=UTC)
HOUR = timedelta(hours=1)
# Days (UTC) on which clocks change, and the zones.
CHANGES = [
    ("America/New_York", datetime(2027, 3, 14, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2027, 4, 3, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 5, 5, tzinfo=UTC)),
    ("Asia/Shanghai", datetime(2026, 5, 5, tzinfo=UTC)),
]


def appointment(starts_at: datetime, zone: str = "Asia/Shanghai", **more: Any) -> Appointment:
    fields: dict[str, Any] = {"uid": starts_at.isoformat(), "summary": "剪发", **more}
    return Appointment(
        sequence=1, starts_at=starts_at, ends_at=starts_at + HOUR, time_zone=zone, stamped_at=STAMP, **fields
    )


def calendar_of(content: bytes) -> Any:
    return icalendar.Calendar.from_ical(content)


def only_event(content: bytes) -> Any:
    [event] = calendar_of(content).events
    return event


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_time_is_what_it_was_whatever_the_clocks_do(zone: str, day: datetime) -> None:
    entries = [appointment(day + timedelta(minutes=5 * step), zone) for step in range(600)]
    content = write(entries)
    for entry, event in zip(entries, calendar_of(content).events, strict=True):
        assert event.start.astimezone(UTC) == entry.starts_at
        assert event.end.astimezone(UTC) == entry.ends_at
    alias = f"House/{zone[-5:]}{day:%m}"
    read = vobject.readOne(content.replace(zone.encode(), alias.encode()).decode())
    assert [event.dtstart.value.astimezone(UTC) for event in read.vevent_list] == [e.starts_at for e in entries]
    assert [event.dtend.value.astimezone(UTC) for event in read.vevent_list] == [e.ends_at for e in entries]


def test_a_zone_tells_each_change_by_the_clock_before_it() -> None:
    content = write([appointment(STAMP, "America/New_York"), appointment(STAMP + 330 * 24 * HOUR, "America/New_York")])
    [zone] = calendar_of(content).timezones
    told = [(part.name, f"{part['dtstart'].dt:%Y%m%dT%H}", part["tzoffsetto"].td / HOUR) for part in zone.subcomponents]
    assert told == [
        ("DAYLIGHT", "20260502T20", -4),
        ("STANDARD", "20261101T02", -5),
        ("DAYLIGHT", "20270314T02", -4),
    ]
    assert b"TZOFFSETFROM:+0545" in write([appointment(STAMP, "Asia/Kathmandu")])
    assert not calendar_of(write([appointment(STAMP, "UTC")])).timezones


def test_a_time_that_clocks_show_twice_is_told_in_utc() -> None:
    first, second = (datetime(2026, 11, 1, hour, 30, tzinfo=UTC) for hour in (5, 6))
    assert first.astimezone(ZoneInfo("America/New_York")).hour == 1
    content = write([appointment(first, "America/New_York"), appointment(second, "America/New_York")]).decode()
    starts = re.findall(r"DTSTART(.*)", content.partition("BEGIN:VEVENT")[2])
    assert [start.strip() for start in starts] == [";TZID=America/New_York:20261101T013000", ":20261101T063000Z"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_comes_back(text: str) -> None:
    content = write([appointment(STAMP, summary=text, location=text)], name=text)
    assert all(len(line) <= 75 for line in content.split(b"\r\n"))
    assert content.count(b"BEGIN:") == 3 + content.count(b"BEGIN:STANDARD")
    shown = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text.replace("\r\n", "\n"))
    assert str(only_event(content)["summary"]) == shown
    # The library does not know the name to be text, and leaves it as it is written.
    assert str(calendar_of(content).get("name", "")) == only_event(content)["summary"].to_ical().decode()
    assert vobject.readOne(content.decode()).vevent.summary.value == shown


def test_an_invitation_and_its_end() -> None:
    organizer, customer = (
        Party("no-reply@foyer.example", '晨曦; "Dawn"\r\nX-EVIL:1'),
        Party("a@example.com", "王, 小明"),
    )
    invited = only_event(write([appointment(STAMP, organizer=organizer, attendee=customer)], method=REQUEST))
    assert invited["organizer"] == "mailto:no-reply@foyer.example"
    assert invited["organizer"].params["CN"] == "晨曦; Dawn X-EVIL:1"
    assert invited["attendee"].params["CN"] == "王, 小明"
    assert "X-EVIL" not in invited
    content = write([appointment(STAMP, status=CANCELLED, organizer=organizer, attendee=customer)], method=CANCEL)
    assert calendar_of(content)["method"] == "CANCEL"
    assert only_event(content)["status"] == "CANCELLED"
    assert only_event(content)["transp"] == "TRANSPARENT"


def test_what_subscribers_are_told() -> None:
    calendar = calendar_of(write([], name="王芳", refresh=timedelta(minutes=15)))
    assert (calendar["name"], calendar["x-wr-calname"]) == ("王芳", "王芳")
    assert calendar["refresh-interval"].dt == timedelta(minutes=15)
    assert "method" not in calendar


def test_who_writes_no_calendar_does_not_pay_for_the_library() -> None:
    code = (
        "import sys, services.bookings.service, services.notify.service, gateway.app;"
        " sys.exit('icalendar' in sys.modules or 'dateutil' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
