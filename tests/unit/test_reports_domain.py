"""What an event counts for, on which day, and which buckets a period has."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import pytest
from foyer.bookings.v1 import bookings_pb2
from foyer.customers.v1 import customers_pb2
from foyer.reports.v1 import reports_pb2 as pb
from foyer.wallet.v1 import wallet_pb2
from hypothesis import given
from hypothesis import strategies as st

from chassis.ids import new_id
from chassis.money import money
from services.reports.domain import (
    MONEY_MEASURES,
    NONE,
    Cell,
    Fact,
    Period,
    bucket_of,
    buckets,
    facts_of,
    fold,
    local_day,
    read_period,
)

BRANCH, SERVICE, STAFF = new_id(), new_id(), new_id()
LATE = datetime(2025, 3, 1, 17, 30, tzinfo=UTC)  # 2 March in Shanghai, 1 March in Toronto


def booking(zone: str = "Asia/Shanghai") -> bookings_pb2.Booking:
    return bookings_pb2.Booking(
        id=new_id(), branch_id=BRANCH, service_id=SERVICE, staff_id=STAFF, source="wechat", time_zone=zone
    )


def cell(measure: int, day: date, source: str = "") -> Cell:
    return Cell(measure, day, BRANCH, SERVICE, STAFF, source)


@pytest.mark.parametrize(
    ("event", "measure"),
    [
        (bookings_pb2.BookingConfirmed, pb.MEASURE_BOOKINGS),
        (bookings_pb2.BookingCompleted, pb.MEASURE_COMPLETED),
        (bookings_pb2.BookingMissed, pb.MEASURE_NO_SHOWS),
        (bookings_pb2.BookingCancelled, pb.MEASURE_CANCELLED),
    ],
)
def test_bookings_count_on_the_day_of_their_branch(event: type, measure: int) -> None:
    assert facts_of(event(booking=booking()), LATE) == [Fact(cell(measure, date(2025, 3, 2), "wechat"), 1)]
    there = facts_of(event(booking=booking("America/Toronto")), LATE)
    assert there == [Fact(cell(measure, date(2025, 3, 1), "wechat"), 1)]


def test_a_hold_that_was_let_go_counts_for_nothing() -> None:
    assert facts_of(bookings_pb2.BookingCancelled(booking=booking(), was_held=True), LATE) == []


def test_payments_are_revenue_without_tax_and_refunds_take_it_away() -> None:
    def payment(kind: wallet_pb2.PaymentKind.ValueType, amount: int) -> wallet_pb2.PaymentRecorded:
        made = wallet_pb2.Payment(
            kind=kind,
            amount=money(amount, "CAD"),
            tax=money(130, "CAD"),
            branch_id=BRANCH,
            service_id=SERVICE,
            staff_id=STAFF,
        )
        return wallet_pb2.PaymentRecorded(payment=made, time_zone="America/Toronto")

    day = date(2025, 3, 1)
    sale, refund = wallet_pb2.PAYMENT_KIND_SALE, wallet_pb2.PAYMENT_KIND_REFUND
    assert facts_of(payment(sale, 1000), LATE) == [Fact(cell(pb.MEASURE_REVENUE, day), 1000)]
    assert facts_of(payment(refund, 400), LATE) == [Fact(cell(pb.MEASURE_REVENUE, day), -400)]
    assert facts_of(payment(sale, 0), LATE) == []


def test_charges_are_revenue_and_stored_money_used() -> None:
    who: dict[str, Any] = {"branch_id": BRANCH, "service_id": SERVICE, "staff_id": STAFF, "time_zone": "Asia/Shanghai"}
    charge = wallet_pb2.WalletCharged(amount=money(500, "CNY"), gift=money(200, "CNY"), **who)
    refund = wallet_pb2.ChargeRefunded(amount=money(500, "CNY"), **who)
    day = date(2025, 3, 2)
    cells = [cell(pb.MEASURE_REVENUE, day), cell(pb.MEASURE_CHARGED, day)]
    assert facts_of(charge, LATE) == [Fact(one, 500) for one in cells]
    sums: dict[Cell, int] = {}
    fold([*facts_of(charge, LATE), *facts_of(refund, LATE)], sums)
    assert sums == dict.fromkeys(cells, 0)


def test_top_ups_count_without_gift_and_without_a_branch() -> None:
    event = wallet_pb2.TopUpCredited(amount=money(10000, "CNY"), gift=money(1000, "CNY"), time_zone="Asia/Shanghai")
    assert facts_of(event, LATE) == [Fact(Cell(pb.MEASURE_TOP_UPS, date(2025, 3, 2), NONE, NONE, NONE, ""), 10000)]


def test_customers_count_by_their_source() -> None:
    card = customers_pb2.CustomerCard(name="A", source="referral", home_branch_id=BRANCH, time_zone="UTC")
    event = customers_pb2.CustomerCreated(customer_id=new_id(), card=card)
    expected = Cell(pb.MEASURE_NEW_CUSTOMERS, date(2025, 3, 1), BRANCH, NONE, NONE, "referral")
    assert facts_of(event, LATE) == [Fact(expected, 1)]


def test_a_zone_that_does_not_exist_is_not_passed_over() -> None:
    assert local_day(LATE, "") == date(2025, 3, 1)
    with pytest.raises(ZoneInfoNotFoundError):
        local_day(LATE, "Mars/Olympus")


def test_money_measures() -> None:
    assert {pb.Measure.Name(measure) for measure in MONEY_MEASURES} == {
        "MEASURE_REVENUE",
        "MEASURE_TOP_UPS",
        "MEASURE_CHARGED",
    }


@pytest.mark.parametrize(
    ("first", "end", "expected"),
    [
        ("2025-03-01", "2025-04-01", Period(date(2025, 3, 1), date(2025, 4, 1))),
        ("2025-03-01T08:00:00Z", "2025-03-31T00:00:00Z", Period(date(2025, 3, 1), date(2025, 3, 31))),
        ("2025-03-01T00:00:00+08:00", "2025-03-31T23:59:59+08:00", Period(date(2025, 3, 1), date(2025, 4, 1))),
        ("2025-03-01T00:00:00 08:00", "2025-03-02T00:00:00 08:00", Period(date(2025, 3, 1), date(2025, 3, 2))),
    ],
)
def test_periods_from_days_and_times(first: str, end: str, expected: Period) -> None:
    assert read_period(first, end) == (expected, [])


@pytest.mark.parametrize(
    ("first", "end", "fields"),
    [
        ("2025-02-30", "2025-13-01", ["from", "to"]),
        ("2025-03-01", "2025-03-01", ["to"]),
        ("2025-03-02", "2025-03-01", ["to"]),
        ("2000-01-01", "2025-01-01", ["to"]),
        ("0001-01-01", "2025-01-01", ["from"]),
        ("2025-01-01Tnoon", "2025-02-01", ["from"]),
    ],
)
def test_wrong_periods_are_told_by_field(first: str, end: str, fields: list[str]) -> None:
    period, errors = read_period(first, end)
    assert period is None
    assert [error.field for error in errors] == fields
    assert all(error.message and error.message_zh for error in errors)


def test_periods_before() -> None:
    period = Period(date(2024, 2, 29), date(2024, 3, 7))
    assert period.before() == Period(date(2024, 2, 22), date(2024, 2, 29))
    assert period.a_year_before() == Period(date(2023, 2, 28), date(2023, 3, 7))


@given(
    st.dates(date(1990, 1, 1), date(2100, 1, 1)),
    st.integers(1, 3700),
    st.sampled_from([pb.INTERVAL_DAY, pb.INTERVAL_WEEK, pb.INTERVAL_MONTH]),
)
def test_every_day_has_its_bucket_and_every_bucket_a_day(first: date, days: int, interval: int) -> None:
    period = Period(first, date.fromordinal(first.toordinal() + days))
    expected = {bucket_of(date.fromordinal(n), interval) for n in range(first.toordinal(), period.end.toordinal())}
    assert list(buckets(period, interval)) == sorted(expected)


def test_weeks_begin_on_monday() -> None:
    assert bucket_of(date(2025, 3, 2), pb.INTERVAL_WEEK) == date(2025, 2, 24)
    assert bucket_of(date(2025, 3, 3), pb.INTERVAL_WEEK) == date(2025, 3, 3)
    assert bucket_of(date(2025, 3, 31), pb.INTERVAL_MONTH) == date(2025, 3, 1)
