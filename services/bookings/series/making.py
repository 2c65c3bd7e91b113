"""Series: made and previewed. All dates are planned, then all their time is locked at once, then each is booked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import series_pb2
from foyer.bookings.v1.series_pb2 import BookingSeries, SeriesOccurrence
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.codec import to_json
from chassis.db import prepare
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.rows import enum_name, projector
from chassis.unit import Unit
from services.bookings import allocator, asking, board, booking, calendar, domain, times
from services.bookings.common import refuse_if
from services.bookings.rows import moment_of
from services.bookings.series import planning, rule
from services.bookings.series.models import booking_series
from services.bookings.series.planning import Planned, Wanted

NEAREST_WITHIN = timedelta(days=1)
INSERT = prepare(sa.insert(booking_series).returning(booking_series))
to_series = projector(BookingSeries, rule=lambda row: series_pb2.SeriesRule.FromString(row["rule"]))


async def create(request: series_pb2.CreateSeriesRequest, unit: Unit) -> BookingSeries:
    """Book every date of a rule, or say what would happen. Raises Refusal SERIES_CONFLICT, NOT_BOOKABLE, NOT_FOUND."""
    starts_at = moment_of(request.starts_at)
    visit = _visit(request)
    asking.check_asked(visit, unit, starts_at)
    if starts_at < unit.now or starts_at > booking.anchor_of(unit, starts_at):
        raise domain.not_bookable("past" if starts_at < unit.now else "too_far", ())
    zone_name = (await board.of_branch(unit, visit.branch_id.lower())).time_zone
    refuse_if(rule.rule_errors(request.rule, starts_at.astimezone(calendar.zone_of(zone_name)).date()))
    question = asking.question_asked(visit, None)
    dates = [Wanted(moment, question) for moment in rule.starts_of(request.rule, starts_at, zone_name)]
    may_skip = request.on_conflict == series_pb2.ON_CONFLICT_SKIP
    nearest = None
    if request.on_conflict == series_pb2.ON_CONFLICT_NEAREST:
        asked = request.HasField("nearest_within_minutes")
        nearest = timedelta(minutes=request.nearest_within_minutes) if asked else NEAREST_WITHIN
    if request.preview:
        snapshot = await planning.read(unit, dates, nearest or timedelta(0))
        found = await planning.plan_all(unit, snapshot, dates, nearest)
    else:
        found = await planning.take(unit, dates, nearest, (), may_skip=may_skip)
    await _check_standing(unit, found[0])
    columns = _columns(request, starts_at, zone_name)
    if request.preview:
        series = to_series(columns)  # type: ignore[arg-type]
        series.occurrences.extend(occurrence(each, skips=may_skip) for each in found)
        return series
    if any(each.given is None for each in found) and not (may_skip and any(each.given for each in found)):
        raise conflict(found)
    return await _book(unit, visit, columns, found)


def _visit(request: series_pb2.CreateSeriesRequest) -> pb.CreateBookingRequest:
    """What is booked at each date, as if it were booked alone."""
    return pb.CreateBookingRequest(
        branch_id=request.branch_id,
        service_id=request.service_id,
        customer_id=request.customer_id,
        starts_at=request.starts_at,
        staff_id=request.staff_id if request.HasField("staff_id") else None,
        lines=request.lines,
        add_on_ids=request.add_on_ids,
        choices=request.choices,
        source=request.source if request.HasField("source") else None,
        note=request.note if request.HasField("note") else None,
    )


async def _check_standing(unit: Unit, planned: Planned) -> None:
    """Refuse NOT_BOOKABLE what cannot be booked on any date, NOT_FOUND a person who is nobody's."""
    found = planned.found
    if found.reason is not None:
        await booking.check_staff_known(unit, found)
        raise domain.not_bookable(found.reason, ())


def _columns(request: series_pb2.CreateSeriesRequest, starts_at: datetime, zone_name: str) -> dict[str, Any]:
    on_conflict = request.on_conflict or series_pb2.ON_CONFLICT_REFUSE
    return {
        "branch_id": request.branch_id.lower(),
        "customer_id": request.customer_id.lower(),
        "starts_at": starts_at,
        "time_zone": zone_name,
        "rule": request.rule.SerializeToString(),
        "on_conflict": enum_name(BookingSeries, "on_conflict", on_conflict),
        "source": request.source or None,
        "note": request.note or None,
    }


async def _book(
    unit: Unit, visit: pb.CreateBookingRequest, columns: dict[str, Any], found: Sequence[Planned]
) -> BookingSeries:
    """Book what was planned: its time is locked."""
    row = await unit.one(INSERT, id=new_id(), **columns, version=1, created_at=unit.now)
    assert row is not None
    bookings = []
    occurrences = []
    for planned in found:
        told = occurrence(planned, skips=True)
        if planned.given is not None:
            values = booking.new_values(visit, unit, planned.found, planned.given)
            lost = await allocator.claim(unit, {**values, "series_id": row["id"]}, planned.given.taken())
            assert not lost, "its time was locked"
            made = booking.made(unit, {**values, "series_id": row["id"]})
            bookings.append(made.id)
            told.booking.CopyFrom(made)
            if not planned.moved:
                told.outcome = series_pb2.OCCURRENCE_OUTCOME_BOOKED
        occurrences.append(told)
    series = to_series(row)
    unit.emit(series_pb2.SeriesCreated(series_id=row["id"], series=series, booking_ids=bookings))
    series.occurrences.extend(occurrences)
    return series


# --- as it is told ---


def occurrence(planned: Planned, *, skips: bool = False) -> SeriesOccurrence:
    """A date as it is told; `skips`: what is not free is left out."""
    told = SeriesOccurrence(starts_at=_stamp(planned.wanted.starts_at), outcome=series_pb2.OCCURRENCE_OUTCOME_FREE)
    if planned.reason is not None:
        told.reason = planned.reason
        told.alternatives.extend(times.slot_messages(planned.alternatives))
        skipped, lost = series_pb2.OCCURRENCE_OUTCOME_SKIPPED, series_pb2.OCCURRENCE_OUTCOME_CONFLICT
        told.outcome = skipped if skips else lost
    if planned.moved and planned.given is not None:
        told.outcome = series_pb2.OCCURRENCE_OUTCOME_MOVED
        told.moved_to.CopyFrom(_stamp(planned.given.starts_at))
    return told


def conflict(found: Sequence[Planned], bookings: Sequence[pb.Booking] = ()) -> Refusal:
    """The refusal with every date; `bookings` are those that were to move, as they are."""
    occurrences = [occurrence(planned) for planned in found]
    for told, stays in zip(occurrences, bookings, strict=False):
        told.booking.CopyFrom(stays)
    lost = sum(planned.given is None for planned in found)
    members = {"occurrences": [to_json(each) for each in occurrences]}
    return Refusal("SERIES_CONFLICT", members=members, conflicts=lost, total=len(found))


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
