"""Changes of a series: this booking, it and those after it, or all that are to come; each of them, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import series_pb2
from foyer.bookings.v1.series_pb2 import SeriesChange

from chassis.codec import to_json
from chassis.db import prepare
from chassis.errors import FieldError, Refusal, not_found
from chassis.money import money
from chassis.unit import Unit
from services.bookings import allocator, booking, calendar, changes, choice, domain, freed
from services.bookings.allocator import Move
from services.bookings.common import refuse_if
from services.bookings.freed import How
from services.bookings.models import bookings
from services.bookings.rows import WRITE, project_booking, stored_lines, told, write
from services.bookings.series import planning, rule
from services.bookings.series.making import conflict, to_series
from services.bookings.series.models import booking_series
from services.bookings.series.planning import Planned, Wanted

_one = sa.and_(booking_series.c.chain_id == sa.bindparam("chain_id"), booking_series.c.id == sa.bindparam("id"))
LOCK_SERIES = prepare(sa.select(booking_series).where(_one).with_for_update())
TOUCH_SERIES = prepare(
    sa.update(booking_series).where(_one).values(version=booking_series.c.version + 1).returning(booking_series)
)
LOCK_BOOKINGS = prepare(
    sa.select(bookings)
    .where(bookings.c.chain_id == sa.bindparam("chain_id"), bookings.c.series_id == sa.bindparam("id"))
    .order_by(bookings.c.id)
    .with_for_update()
)


async def _locked(unit: Unit, identifier: str) -> asyncpg.Record:
    row = await unit.one(LOCK_SERIES, id=identifier)
    if row is None:
        raise not_found("series", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    return row


async def _meant(unit: Unit, identifier: str, booking_id: str | None, scope: int, step: str) -> list[asyncpg.Record]:
    """The bookings that a change is for, by start, all locked. Raises Refusal NOT_FOUND, WRONG_STATE.

    Of several, those that began, ended or were never agreed in time are left out.
    """
    rows = sorted(await unit.all(LOCK_BOOKINGS, id=identifier), key=lambda row: (row["starts_at"], row["id"]))
    named = next((row for row in rows if row["id"] == booking_id), None)
    if booking_id is not None and named is None:
        raise not_found("booking", "booking_id")
    if named is not None and scope in (series_pb2.SERIES_SCOPE_UNSPECIFIED, series_pb2.SERIES_SCOPE_THIS):
        domain.next_status(step, _status(named, unit.now))
        return [named]
    if named is not None and scope == series_pb2.SERIES_SCOPE_FOLLOWING:
        rows = [row for row in rows if row["starts_at"] >= named["starts_at"]]
    possible = domain.STEPS[step][0]
    meant = [row for row in rows if row["starts_at"] > unit.now and _status(row, unit.now) in possible]
    if not meant:
        raise Refusal("WRONG_STATE", status="over")
    return meant


def _status(row: asyncpg.Record, now: datetime) -> str:
    return domain.effective_status(row["status"], row["expires_at"], now)


Asked = series_pb2.CancelSeriesRequest | series_pb2.RescheduleSeriesRequest


def _fees(
    unit: Unit, request: Asked, rows: Sequence[asyncpg.Record], amount_at: Callable[..., int]
) -> list[dict[str, Any]]:
    """What is said of the fee for each booking. Raises Refusal SERIES_FEE_DUE when the sum was not accepted."""
    if request.HasField("waive_fee_reason"):
        return [{"waive_fee_reason": request.waive_fee_reason} for _ in rows]
    due = [amount_at(row, unit.now) for row in rows]
    total, currency = sum(due), rows[0]["currency"]
    accepted = (request.accepted_fee.amount, request.accepted_fee.currency)
    if total and not (request.HasField("accepted_fee") and accepted == (total, currency)):
        raise Refusal("SERIES_FEE_DUE", members={"total_fee": to_json(money(total, currency))})
    return [{"accepted_fee": money(amount, currency)} for amount in due]


async def _changed(
    unit: Unit, series_id: str, request: Asked, kind: series_pb2.SeriesChangeKind.ValueType, found: list[pb.Booking]
) -> SeriesChange:
    row = await unit.one(TOUCH_SERIES, id=series_id)
    assert row is not None
    series = to_series(row)
    event = series_pb2.SeriesChanged(
        series_id=series_id,
        series=series,
        kind=kind,
        scope=request.scope or series_pb2.SERIES_SCOPE_THIS,
        booking_ids=[each.id for each in found],
    )
    unit.emit(event)
    return SeriesChange(series=series, bookings=found)


# --- cancelling ---


async def cancel(request: series_pb2.CancelSeriesRequest, unit: Unit) -> SeriesChange:
    """Cancel bookings of a series. Raises Refusal WRONG_STATE, SERIES_FEE_DUE."""
    series = await _locked(unit, request.id)
    everything = request.scope == series_pb2.SERIES_SCOPE_ALL
    if not everything and not request.HasField("booking_id"):
        message = "is required, unless the scope is all"
        refuse_if([FieldError("booking_id", "required", message, "必填，除非 scope 为 all")])
    booking_id = request.booking_id.lower() if request.HasField("booking_id") else None
    rows = await _meant(unit, series["id"], booking_id, request.scope, "cancel")
    fees = _fees(unit, request, rows, changes.cancel_amount)
    had = await allocator.of_bookings(unit, [row["id"] for row in rows])
    # All days at once, in the one order, before each booking gives back its own.
    await allocator.lock(unit, [taken for each in had.values() for taken in each], ())
    reason = request.reason or None
    cancelled = []
    for row, fee in zip(rows, fees, strict=True):
        asked = pb.CancelBookingRequest(id=row["id"], reason=reason, **fee)
        cancelled.append(await booking.call_off(unit, row, reason, changes.on_cancel(unit, row, asked)))
    return await _changed(unit, series["id"], request, series_pb2.SERIES_CHANGE_KIND_CANCELLED, cancelled)


# --- moving ---


async def reschedule(request: series_pb2.RescheduleSeriesRequest, unit: Unit) -> SeriesChange:
    """Move bookings of a series, each of them or none. Raises Refusal SERIES_CONFLICT, WRONG_STATE, SERIES_FEE_DUE."""
    series = await _locked(unit, request.id)
    if not any(request.HasField(name) for name in ("local_time", "weekday", "staff_id")):
        message = "is required, or a weekday or a person is"
        refuse_if([FieldError("local_time", "required", message, "必填，或填写 weekday 或 staff_id")])
    rows = await _meant(unit, series["id"], request.booking_id.lower(), request.scope, "reschedule")
    starts = _new_starts(request, rows, series["time_zone"])
    staff_id = request.staff_id.lower() if request.HasField("staff_id") else None
    moving = [
        (row, starts_at)
        for row, starts_at in zip(rows, starts, strict=True)
        if row["starts_at"] != starts_at or staff_id not in (None, row["staff_id"])
    ]
    if not moving:
        return SeriesChange(series=to_series(series))
    rows = [row for row, _ in moving]
    fees = _fees(unit, request, rows, changes.move_amount)
    had = await allocator.of_bookings(unit, [row["id"] for row in rows])
    dates = []
    for row, starts_at in moving:
        lines = stored_lines(row)
        dates.append(Wanted(starts_at, booking.question_of(row, lines, staff_id), lines))
    found = await planning.take(unit, dates, None, [taken for each in had.values() for taken in each], may_skip=False)
    for planned in found:
        await booking.check_staff_known(unit, planned.found)
    if any(planned.given is None for planned in found):
        raise conflict(found, [project_booking(row) for row in rows])
    await allocator.swap(
        unit,
        [
            Move(row["id"], had[row["id"]], planned.given.taken() if planned.given else (), row["expires_at"])
            for row, planned in zip(rows, found, strict=True)
        ],
    )
    moved = [await _moved(unit, row, planned, fee) for row, planned, fee in zip(rows, found, fees, strict=True)]
    return await _changed(unit, series["id"], request, series_pb2.SERIES_CHANGE_KIND_RESCHEDULED, moved)


def _new_starts(
    request: series_pb2.RescheduleSeriesRequest, rows: Sequence[asyncpg.Record], zone_name: str
) -> list[datetime]:
    named = next(row for row in rows if row["id"] == request.booking_id.lower())
    days = 0
    if request.HasField("weekday"):
        local = named["starts_at"].astimezone(calendar.zone_of(zone_name))
        days = request.weekday - local.isoweekday()
    minutes = calendar.parse_time(request.local_time) if request.HasField("local_time") else None
    return rule.shifted([row["starts_at"] for row in rows], days, minutes, zone_name)


async def _moved(unit: Unit, row: asyncpg.Record, planned: Planned, fee: dict[str, Any]) -> pb.Booking:
    given = planned.given
    assert given is not None
    asked = pb.RescheduleBookingRequest(id=row["id"], **fee)
    cost = changes.on_reschedule(unit, row, asked)
    lines = choice.moved_lines(planned.wanted.lines, given)
    changed = await write(
        unit,
        row,
        staff_id=given.staff_id,
        starts_at=given.starts_at,
        ends_at=given.ends_at,
        lines=pb.BookingLines(lines=lines).SerializeToString(),
        change_count=row["change_count"] + 1,
        **cost.columns,
    )
    await freed.tell(unit, row, How.MOVED)
    return told(
        unit,
        changed,
        pb.BookingRescheduled,
        previous_starts_at=row["starts_at"],
        previous_staff_id=row["staff_id"],
        **cost.told,
    )
