"""What is offered: free times for a service, or for a visit of several, at a branch."""

from __future__ import annotations

from datetime import timedelta

from foyer.bookings.v1 import bookings_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import FieldError
from chassis.unit import Unit
from services.bookings import domain, times, whynot
from services.bookings.asking import search_asked
from services.bookings.availability import HORIZON_DAYS, MOST_DURATION, WINDOW_DAYS
from services.bookings.booking import check_staff_known, moment_of
from services.bookings.calendar import STEP_SECONDS
from services.bookings.common import refuse_if
from services.bookings.plan import Line, Question
from services.bookings.sale import package_asked
from services.bookings.times import Times

ONE_STEP = timedelta(seconds=STEP_SECONDS)


async def find(request: pb.FindAvailabilityRequest, unit: Unit) -> pb.Availability:
    """Free times of a window of up to 35 days; nothing lies in the past or beyond the horizon."""
    return await _answer(request, unit, question_of(request, request.branch_id.lower()))


async def search(request: pb.SearchAvailabilityRequest, unit: Unit) -> pb.Availability:
    """The same for several services in a row, or for several people at once."""
    question = search_asked(request, await package_asked(unit, request))
    return await _answer(request, unit, question)


def question_of(
    request: pb.FindAvailabilityRequest | pb.ListAvailableDaysRequest | pb.FindNextAvailabilityRequest, branch_id: str
) -> Question:
    """What is asked for with one service, at a branch."""
    line = Line(
        request.service_id.lower(),
        staff_id=request.staff_id.lower() if request.HasField("staff_id") else None,
        add_on_ids=tuple(identifier.lower() for identifier in request.add_on_ids),
    )
    customer_id = request.customer_id.lower() if request.HasField("customer_id") else None
    return Question(branch_id, (line,), customer_id, request.source or None)


async def _answer(
    request: pb.FindAvailabilityRequest | pb.SearchAvailabilityRequest, unit: Unit, question: Question
) -> pb.Availability:
    starts_from, ends_by = moment_of(request.starts_from), moment_of(request.ends_by)
    check_window(ends_by - starts_from)
    # What lies far off is not worth reading. Only reasons are told of the past.
    around = timedelta(days=WINDOW_DAYS) if request.why_not else timedelta(0)
    first = unit.now - around
    last = unit.now + timedelta(days=HORIZON_DAYS) + MOST_DURATION + around
    earliest = min(max(starts_from, first), last)
    latest = max(min(ends_by, last), earliest)
    found = await times.read(unit, question, earliest, max(latest, earliest + ONE_STEP))
    answer = pb.Availability(time_zone=found.board.time_zone, reason=await standing(unit, found))
    if not answer.HasField("reason"):
        answer.slots.extend(times.slot_messages(found.offers(earliest, latest, unit.now)))
        if request.why_not:
            answer.refused.extend(
                pb.RefusedSlot(starts_at=Timestamp(seconds=step * STEP_SECONDS), reason=reason, need=need)
                for step, reason, need in whynot.refused(found, earliest, latest, unit.now)
            )
    return answer


async def standing(unit: Unit, found: Times) -> pb.StandingReason | None:
    """Why nothing can be booked, whatever the time. Raises Refusal NOT_FOUND for a person who is nobody's."""
    reason = found.reason
    if reason is None:
        return None
    if reason.startswith("staff_"):
        await check_staff_known(unit, found)
    text, text_zh = domain.REASONS[reason]
    return pb.StandingReason(code=reason, text=text, text_zh=text_zh)


def check_window(length: timedelta) -> None:
    """Raise Refusal INVALID_REQUEST for a window that ends before it begins, or is longer than is read at once."""
    if length <= timedelta(0):
        refuse_if([FieldError("to", "order", "must be after `from`", "应晚于 from")])
    if length > timedelta(days=WINDOW_DAYS):
        message = f"must be at most {WINDOW_DAYS} days after `from`"
        refuse_if([FieldError("to", "range", message, f"最多晚于 from {WINDOW_DAYS} 天")])
