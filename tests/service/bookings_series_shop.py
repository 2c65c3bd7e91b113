"""Series as tests make them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import series_pb2
from google.protobuf.message import Message

from chassis.errors import Refusal
from tests.service.bookings_shop import READ_EVENTS, Shop, stamp

DAILY, WEEKLY = series_pb2.FREQUENCY_DAILY, series_pb2.FREQUENCY_WEEKLY
SKIP, NEAREST = series_pb2.ON_CONFLICT_SKIP, series_pb2.ON_CONFLICT_NEAREST
FOLLOWING, ALL = series_pb2.SERIES_SCOPE_FOLLOWING, series_pb2.SERIES_SCOPE_ALL
FREE, BOOKED, MOVED, SKIPPED, CONFLICT = (
    series_pb2.OCCURRENCE_OUTCOME_FREE,
    series_pb2.OCCURRENCE_OUTCOME_BOOKED,
    series_pb2.OCCURRENCE_OUTCOME_MOVED,
    series_pb2.OCCURRENCE_OUTCOME_SKIPPED,
    series_pb2.OCCURRENCE_OUTCOME_CONFLICT,
)


def weekly(count: int, **more: Any) -> series_pb2.SeriesRule:
    return series_pb2.SeriesRule(frequency=WEEKLY, count=count, **more)


def daily(count: int) -> series_pb2.SeriesRule:
    return series_pb2.SeriesRule(frequency=DAILY, count=count)


def request(
    shop: Shop, starts_at: datetime, rule: series_pb2.SeriesRule, **more: Any
) -> series_pb2.CreateSeriesRequest:
    values: dict[str, Any] = {
        "branch_id": shop.branch,
        "service_id": shop.service,
        "customer_id": shop.crowd[shop.turn % len(shop.crowd)],
        **more,
    }
    shop.turn += 1
    return series_pb2.CreateSeriesRequest(starts_at=stamp(starts_at), rule=rule, **values)


async def make(shop: Shop, starts_at: datetime, rule: series_pb2.SeriesRule, **more: Any) -> series_pb2.BookingSeries:
    made: series_pb2.BookingSeries = await shop.call("CreateSeries", request(shop, starts_at, rule, **more))
    return made


async def attempt(shop: Shop, method: str, asked: Message) -> Any:
    try:
        return await shop.call(method, asked)
    except Refusal as refusal:
        return refusal.code


async def listed(shop: Shop, series: series_pb2.BookingSeries) -> list[pb.Booking]:
    found = await shop.call("ListBookings", pb.ListBookingsRequest(series_id=series.id, page_size=200))
    return list(found.bookings)


async def subjects(shop: Shop, aggregate_id: str) -> list[str]:
    async with shop.unit() as unit:
        return [row["subject"].rpartition(".")[2] for row in await unit.all(READ_EVENTS, aggregate_id=aggregate_id)]


def starts(bookings: list[pb.Booking], zone: str = "Asia/Shanghai") -> list[str]:
    moments = sorted(booking.starts_at.ToDatetime(tzinfo=UTC) for booking in bookings)
    return [moment.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M") for moment in moments]


def confirmed(bookings: list[pb.Booking]) -> list[pb.Booking]:
    return [booking for booking in bookings if booking.status == pb.BOOKING_STATUS_CONFIRMED]


def moving(series: series_pb2.BookingSeries, booking: pb.Booking, **more: Any) -> series_pb2.RescheduleSeriesRequest:
    return series_pb2.RescheduleSeriesRequest(id=series.id, booking_id=booking.id, **more)
