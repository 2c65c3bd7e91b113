"""What is offered: free times for a service at a branch."""

from __future__ import annotations

from datetime import timedelta

from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.errors import FieldError
from chassis.unit import Unit
from services.bookings import times
from services.bookings.availability import HORIZON_DAYS, WINDOW_DAYS, Window
from services.bookings.booking import moment_of
from services.bookings.common import refuse_if
from services.bookings.times import Question


async def find(request: pb.FindAvailabilityRequest, unit: Unit) -> pb.Availability:
    """Free times of a window of up to 35 days; nothing lies in the past or more than 400 days ahead."""
    earliest, latest = moment_of(request.starts_from), moment_of(request.ends_by)
    _check(latest - earliest)
    question = Question(
        request.branch_id.lower(),
        request.service_id.lower(),
        request.staff_id.lower() if request.HasField("staff_id") else None,
    )
    horizon = unit.now + timedelta(days=HORIZON_DAYS)
    earliest = min(max(earliest, unit.now), horizon)
    latest = max(min(latest, horizon), earliest)
    found = await times.read(unit, question, Window.around(earliest, latest))
    slots = times.slot_messages(found.offers(earliest, latest), found.need.duration)
    return pb.Availability(slots=slots, time_zone=found.row["time_zone"])


def _check(length: timedelta) -> None:
    if length <= timedelta(0):
        refuse_if([FieldError("to", "order", "must be after `from`", "应晚于 from")])
    if length > timedelta(days=WINDOW_DAYS):
        message = f"must be at most {WINDOW_DAYS} days after `from`"
        refuse_if([FieldError("to", "range", message, f"最多晚于 from {WINDOW_DAYS} 天")])
