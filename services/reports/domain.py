"""What an event counts for, and how days become buckets. Values in, values out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from foyer.bookings.v1 import bookings_pb2
from foyer.customers.v1 import customers_pb2
from foyer.reports.v1 import reports_pb2
from foyer.wallet.v1 import wallet_pb2
from google.protobuf.message import Message

from chassis.errors import FieldError

MOST_DAYS = 3700
NONE = "00000000-0000-0000-0000-000000000000"
"""Stands in a key for "no branch", "no service", "nobody": a key's columns cannot be null."""

BOOKINGS = reports_pb2.MEASURE_BOOKINGS
COMPLETED = reports_pb2.MEASURE_COMPLETED
NO_SHOWS = reports_pb2.MEASURE_NO_SHOWS
CANCELLED = reports_pb2.MEASURE_CANCELLED
REVENUE = reports_pb2.MEASURE_REVENUE
TOP_UPS = reports_pb2.MEASURE_TOP_UPS
CHARGED = reports_pb2.MEASURE_CHARGED
NEW_CUSTOMERS = reports_pb2.MEASURE_NEW_CUSTOMERS
MONEY_MEASURES = frozenset({REVENUE, TOP_UPS, CHARGED})

MEASURE_NAMES: Mapping[int, str] = {
    value.number: value.name.removeprefix("MEASURE_").lower()
    for value in reports_pb2.Measure.DESCRIPTOR.values
    if value.number
}


class Cell(NamedTuple):
    """Where a value is added: the key of a rollup. Sorted cells are locked in the same order by everybody."""

    measure: int
    day: date
    branch_id: str
    service_id: str
    staff_id: str
    source: str


class Fact(NamedTuple):
    """What an event adds: a number, or minor units, to one cell."""

    cell: Cell
    value: int


# --- events → facts ---


def local_day(moment: datetime, time_zone: str) -> date:
    """The day a moment falls on in a zone. Raises zoneinfo.ZoneInfoNotFoundError for a zone that does not exist."""
    return moment.astimezone(ZoneInfo(time_zone or "UTC")).date()


def _booking(measure: int) -> Callable[[Any, datetime], list[Fact]]:
    def facts(event: Any, occurred_at: datetime) -> list[Fact]:
        booking = event.booking
        day = local_day(occurred_at, booking.time_zone)
        branch, service, staff = booking.branch_id or NONE, booking.service_id or NONE, booking.staff_id or NONE
        return [Fact(Cell(measure, day, branch, service, staff, booking.source), 1)]

    return facts


_cancelled = _booking(CANCELLED)


def _booking_cancelled(event: bookings_pb2.BookingCancelled, occurred_at: datetime) -> list[Fact]:
    """A hold that was let go was never agreed, so nothing was called off."""
    return [] if event.was_held else _cancelled(event, occurred_at)


def _money(measures: Iterable[int], day: date, of: Any, value: int) -> list[Fact]:
    if not value:
        return []
    branch, service, staff = of.branch_id or NONE, getattr(of, "service_id", "") or NONE, of.staff_id or NONE
    return [Fact(Cell(measure, day, branch, service, staff, ""), value) for measure in measures]


def _payment_recorded(event: wallet_pb2.PaymentRecorded, occurred_at: datetime) -> list[Fact]:
    payment = event.payment
    sign = {wallet_pb2.PAYMENT_KIND_SALE: 1, wallet_pb2.PAYMENT_KIND_REFUND: -1}.get(payment.kind, 0)
    return _money((REVENUE,), local_day(occurred_at, event.time_zone), payment, sign * payment.amount.amount)


def _wallet_charged(event: wallet_pb2.WalletCharged, occurred_at: datetime) -> list[Fact]:
    return _money((REVENUE, CHARGED), local_day(occurred_at, event.time_zone), event, event.amount.amount)


def _charge_refunded(event: wallet_pb2.ChargeRefunded, occurred_at: datetime) -> list[Fact]:
    return _money((REVENUE, CHARGED), local_day(occurred_at, event.time_zone), event, -event.amount.amount)


def _top_up_credited(event: wallet_pb2.TopUpCredited, occurred_at: datetime) -> list[Fact]:
    return _money((TOP_UPS,), local_day(occurred_at, event.time_zone), event, event.amount.amount)


def _customer_created(event: customers_pb2.CustomerCreated, occurred_at: datetime) -> list[Fact]:
    card = event.card
    day = local_day(occurred_at, card.time_zone)
    return [Fact(Cell(NEW_CUSTOMERS, day, card.home_branch_id or NONE, NONE, NONE, card.source), 1)]


FACTS: Mapping[type[Message], Callable[[Any, datetime], list[Fact]]] = {
    bookings_pb2.BookingConfirmed: _booking(BOOKINGS),
    bookings_pb2.BookingCompleted: _booking(COMPLETED),
    bookings_pb2.BookingMissed: _booking(NO_SHOWS),
    bookings_pb2.BookingCancelled: _booking_cancelled,
    wallet_pb2.PaymentRecorded: _payment_recorded,
    wallet_pb2.WalletCharged: _wallet_charged,
    wallet_pb2.ChargeRefunded: _charge_refunded,
    wallet_pb2.TopUpCredited: _top_up_credited,
    customers_pb2.CustomerCreated: _customer_created,
}
"""Event → what it counts for. An event that is not here counts for nothing."""


def facts_of(event: Message, occurred_at: datetime) -> list[Fact]:
    """What an event adds, on the day it happened where it happened."""
    return FACTS[type(event)](event, occurred_at)


def fold(facts: Iterable[Fact], into: dict[Cell, int]) -> None:
    """Add facts up by cell."""
    for cell, value in facts:
        into[cell] = into.get(cell, 0) + value


# --- days and buckets ---


@dataclass(frozen=True, slots=True)
class Period:
    """Days from `first` up to and without `end`."""

    first: date
    end: date

    @property
    def days(self) -> int:
        """How many days it has."""
        return (self.end - self.first).days

    def before(self) -> Period:
        """The period of equal length that ends where this one begins."""
        return Period(self.first - timedelta(days=self.days), self.first)

    def a_year_before(self) -> Period:
        """The same dates a year before; the 28th for a 29 February."""
        return Period(_year_before(self.first), _year_before(self.end))


def _year_before(day: date) -> date:
    try:
        return day.replace(year=day.year - 1)
    except ValueError:
        return day.replace(year=day.year - 1, day=28)


def read_period(first: str, end: str) -> tuple[Period | None, list[FieldError]]:
    """The days that `from` and `to` of a request name, or what is wrong with them.

    A time is taken as its day; as the end it counts its day in, unless it is midnight.
    """
    errors: list[FieldError] = []
    start, _ = _read_day("from", first, errors)
    stop, has_time = _read_day("to", end, errors)
    if start is None or stop is None:
        return None, errors
    if has_time:
        stop += timedelta(days=1)
    if stop <= start:
        errors.append(FieldError("to", "range", "must be after from", "必须晚于 from"))
    elif (stop - start).days > MOST_DAYS:
        text = f"must be at most {MOST_DAYS} days after from"
        errors.append(FieldError("to", "range", text, f"距 from 最多 {MOST_DAYS} 天"))
    return (None, errors) if errors else (Period(start, stop), errors)


def _read_day(name: str, text: str, errors: list[FieldError]) -> tuple[date | None, bool]:
    """The day of a date or time, and whether it is a time later than midnight.

    A `+` that was not escaped in a query arrives as a blank.
    """
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        message = "must be a day as YYYY-MM-DD, or a time"
        errors.append(FieldError(name, "date", message, "必须是 YYYY-MM-DD 格式的日期或时间"))
        return None, False
    if not 1900 <= moment.year < 2200:
        errors.append(FieldError(name, "date", "must be between 1900 and 2199", "年份必须在 1900 到 2199 之间"))
        return None, False
    return moment.date(), moment.time().replace(tzinfo=None) != datetime.min.time()


def bucket_of(day: date, interval: int) -> date:
    """First day of the bucket a day falls into: itself, its Monday, or the first of its month."""
    if interval == reports_pb2.INTERVAL_WEEK:
        return day - timedelta(days=day.weekday())
    if interval == reports_pb2.INTERVAL_MONTH:
        return day.replace(day=1)
    return day


def buckets(period: Period, interval: int) -> Iterator[date]:
    """First days of all buckets that have a day of the period, in order; the first may begin before the period."""
    bucket = bucket_of(period.first, interval)
    while bucket < period.end:
        yield bucket
        if interval == reports_pb2.INTERVAL_WEEK:
            bucket += timedelta(days=7)
        elif interval == reports_pb2.INTERVAL_MONTH:
            bucket = (bucket + timedelta(days=31)).replace(day=1)
        else:
            bucket += timedelta(days=1)
