"""What customers are told about, in which words, and when it is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from foyer.bookings.v1 import bookings_pb2
from foyer.wallet.v1 import wallet_pb2

from chassis.ids import new_id
from chassis.money import money
from services.notify.domain import (
    HISTORY,
    MOST_ATTEMPTS,
    VARIABLES,
    addresses_of,
    date_text,
    is_history,
    mask_address,
    mask_addresses,
    money_text,
    notice_of,
    retry_at,
    sample_facts,
    variables_of,
)

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)
STARTS_AT = datetime(2025, 3, 1, 17, 30, tzinfo=UTC)


def booking(**changes: object) -> bookings_pb2.Booking:
    made = bookings_pb2.Booking(
        id=new_id(),
        branch_id=new_id(),
        service_id=new_id(),
        customer_id=new_id(),
        staff_id=new_id(),
        status=bookings_pb2.BOOKING_STATUS_CONFIRMED,
        price=money(12800, "CNY"),
        service_name="剪发",
        time_zone="Asia/Shanghai",
    )
    made.starts_at.FromDatetime(STARTS_AT)
    made.ends_at.FromDatetime(STARTS_AT + timedelta(minutes=45))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_what_happened_long_ago_is_history() -> None:
    assert not is_history(NOW, NOW)
    assert not is_history(NOW, NOW - HISTORY)
    assert is_history(NOW, NOW - HISTORY - timedelta(seconds=1))
    assert not is_history(NOW, NOW + timedelta(days=3))


def test_tried_again_ever_later_and_then_given_up() -> None:
    waits = [retry_at(attempts, NOW) for attempts in range(1, MOST_ATTEMPTS + 2)]
    minutes = [None if at is None else (at - NOW).total_seconds() / 60 for at in waits]
    assert minutes == [1, 5, 30, 120, 360, None, None]


def test_who_is_reached_how() -> None:
    assert addresses_of(None) == {"in_app": None}
    assert addresses_of("a@example.com") == {"email": "a@example.com", "in_app": None}


def test_a_booking_is_told_in_the_local_time_of_its_branch() -> None:
    event = bookings_pb2.BookingConfirmed(booking=booking())
    notice = notice_of(event)
    assert notice is not None
    zh = variables_of("booking.confirmed", notice.facts, "zh")["booking"]
    assert zh == {
        "service_name": "剪发",
        "date": "2025年3月2日（周日）",
        "time": "01:30",
        "end_time": "02:15",
        "price": "¥128.00",
    }
    en = variables_of("booking.confirmed", notice.facts, "en")["booking"]
    assert (en["date"], en["price"]) == ("Sunday, 2 March 2025", "CNY 128.00")


def test_holds_are_not_told() -> None:
    held = booking(status=bookings_pb2.BOOKING_STATUS_HELD)
    assert notice_of(bookings_pb2.BookingRescheduled(booking=held)) is None
    assert notice_of(bookings_pb2.BookingCancelled(booking=held, was_held=True)) is None


def test_a_moved_booking_tells_both_times() -> None:
    event = bookings_pb2.BookingRescheduled(booking=booking())
    event.previous_starts_at.FromDatetime(STARTS_AT - timedelta(days=1))
    notice = notice_of(event)
    assert notice is not None
    told = variables_of("booking.rescheduled", notice.facts, "en")["booking"]
    assert (told["previous_date"], told["previous_time"]) == ("Saturday, 1 March 2025", "01:30")


def test_a_top_up_without_gift_tells_none() -> None:
    event = wallet_pb2.TopUpCredited(
        customer_id=new_id(), amount=money(1000, "CNY"), gift=money(0, "CNY"), available=money(0, "CNY")
    )
    notice = notice_of(event)
    assert notice is not None
    assert notice.branch_id is None
    told = variables_of("top_up.credited", notice.facts, "zh")
    assert told["top_up"] == {"amount": "¥10.00", "gift": ""}
    assert told["wallet"] == {"available": "¥0.00"}


def test_what_somebody_typed_stays_on_its_line_and_within_bounds() -> None:
    typed = "Mallory\r\n\r\nPay here: http://evil.example\x00" + "x" * 1000
    told = variables_of("booking.confirmed", {"customer": {"name": typed}}, "en")["customer"]["name"]
    assert told.startswith("Mallory Pay here")
    assert len(told) == 500
    assert not set("\r\n\x00") & set(told)


def test_every_variable_has_a_sample_in_both_languages() -> None:
    for event_type, paths in VARIABLES.items():
        for language in ("zh", "en"):
            values = variables_of(event_type, sample_facts(event_type, language), language)
            assert all(values[path.partition(".")[0]][path.partition(".")[2]] for path in paths)


@pytest.mark.parametrize(
    ("amount", "currency", "language", "text"),
    [
        (123456, "CNY", "zh", "¥1,234.56"),
        (123456, "CNY", "en", "CNY 1,234.56"),
        (5, "CAD", "en", "CAD 0.05"),
        (1200, "JPY", "en", "JPY 1,200"),
        (1234567, "KWD", "zh", "KWD 1,234.567"),
        (-50, "CNY", "zh", "-¥0.50"),
    ],
)
def test_money_as_people_write_it(amount: int, currency: str, language: str, text: str) -> None:
    assert money_text(amount, currency, language) == text


def test_days_as_people_write_them() -> None:
    assert date_text(NOW, "zh") == "2025年3月1日（周六）"
    assert date_text(NOW, "en") == "Saturday, 1 March 2025"


def test_addresses_are_masked() -> None:
    assert mask_address("alice@example.com") == "a***@example.com"
    assert mask_address("nonsense") == "***"
    assert mask_addresses("550 <bob@example.com>: no such user") == "550 <b***@example.com>: no such user"
