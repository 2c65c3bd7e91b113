"""Quotes: what a visit would cost and take, without taking anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from foyer.bookings.v1 import bookings_pb2, quotes_pb2

from chassis.app import Context
from chassis.errors import FieldError
from chassis.money import money
from chassis.unit import Unit
from services.bookings import booking, calendar, choice, domain, pricing, sale, times
from services.bookings.asking import check_asked, question_asked
from services.bookings.board import Board, Person
from services.bookings.calendar import STEP_MINUTES
from services.bookings.common import refuse_if
from services.bookings.plan import Plan, Question
from services.bookings.sale import Priced, SoldPackage
from services.bookings.times import Times


class Quotes:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def quote_booking(self, request: quotes_pb2.QuoteBookingRequest, unit: Unit) -> quotes_pb2.BookingQuote:
        """Say what a booking would cost. Raises Refusal NOT_BOOKABLE, NOT_FOUND, INVALID_REQUEST."""
        asked = _as_booking(request)
        starts_at = booking.moment_of(request.starts_at) if request.HasField("starts_at") else None
        check_asked(asked, unit, starts_at)
        package = await sale.package_asked(unit, asked)
        question = question_asked(asked, package)
        if starts_at is not None:
            return await _at(unit, question, starts_at, package)
        return await _any_time(unit, question, package)


def _as_booking(request: quotes_pb2.QuoteBookingRequest) -> bookings_pb2.CreateBookingRequest:
    """The booking that is thought of."""
    asked = bookings_pb2.CreateBookingRequest()
    for field, value in request.ListFields():
        name = field.name
        if field.message_type is not None or field.is_repeated:
            getattr(asked, name).MergeFrom(value)
        else:
            setattr(asked, name, value)
    return asked


async def _at(
    unit: Unit, question: Question, starts_at: datetime, package: SoldPackage | None
) -> quotes_pb2.BookingQuote:
    """What booking would give at a time; of a time that is taken, what it would cost if it were free."""
    found = await times.read(unit, question, booking.anchor_of(unit, starts_at))
    await booking.check_time(unit, found, starts_at)
    step = calendar.last_step(starts_at) - found.window.first_step
    given = await choice.choose(unit, found, step)
    free = given is not None
    if given is None:
        given = await choice.overbook(unit, found, step)
    if given is None:
        raise domain.not_bookable("nobody", await times.nearest(unit, question, starts_at))
    priced = [
        Priced(planned, choice.lead_of(found.board, given, planned), calendar.moment_of(given.start + planned.first))
        for planned in given.plan.lines
    ]
    leads = [each.lead.id if each.lead is not None else None for each in priced]
    quote = _quote(found.board, given.plan, priced, leads, package)
    quote.starts_at.FromDatetime(given.starts_at)
    quote.ends_at.FromDatetime(given.ends_at)
    quote.free = free
    return quote


async def _any_time(unit: Unit, question: Question, package: SoldPackage | None) -> quotes_pb2.BookingQuote:
    """What it costs whatever the time. Refuses when that depends on the time, or on a person nobody named."""
    found = await times.read(unit, question, unit.now)
    if found.reason is not None:
        if found.reason.startswith("staff_"):
            await booking.check_staff_known(unit, found)
        raise domain.not_bookable(found.reason, [])
    plans = found.compiled.plans
    errors: list[FieldError] = []
    priced = [_of_anybody(found, index, unit.now, errors) for index in range(len(plans[0].lines))]
    refuse_if(errors)
    leads = [staff_id for _, staff_id in priced]
    return _quote(found.board, plans[0], [each for each, _ in priced], leads, package)


def _of_anybody(found: Times, index: int, now: datetime, errors: list[FieldError]) -> tuple[Priced, str | None]:
    """A line with somebody who could lead it, and their id when nobody else could.

    `errors` gets the field that is missing when another person or another time would change price or length.
    """
    board, today = found.board, calendar.local_today(now, found.board.time_zone).isoformat()
    options = [(plan.lines[index], person) for plan in found.compiled.plans for person in _leaders(board, plan, index)]
    planned, person = options[0]
    if any(
        pricing.depends_on_time(board, service, each, today)
        for line, each in options
        for service in (line.service, *line.add_ons)
    ):
        message = "is required: the price depends on the time"
        errors.append(FieldError("starts_at", "required", message, "必填：价格随时间而变"))
        return Priced(planned, person, now), None
    seen = {
        (pricing.price_amount(board, line.service, line.add_ons, each, now), line.last - line.first)
        for line, each in options
    }
    if len(seen) > 1:
        field = planned.line.field or (f"lines[{index}]." if index else "")
        message = "is required, or a time is: price or length depend on the person"
        errors.append(FieldError(f"{field}staff_id", "required", message, "必填，或填写 starts_at：价格或时长因人而异"))
    is_only = person is not None and len({each.id for _, each in options if each is not None}) == 1
    return Priced(planned, person, now), person.id if is_only and person is not None else None


def _leaders(board: Board, plan: Plan, index: int) -> Sequence[Person | None]:
    """Everybody who could lead a line: those who are asked for, where some are."""
    planned = plan.lines[index]
    for need in plan.needs:
        if need.key == planned.lead:
            ids = [identifier for identifier in need.pool if not need.chosen or identifier in need.chosen]
            return [board.people[identifier] for identifier in ids] or [None]
    return [None]


def _quote(
    board: Board, plan: Plan, priced: Sequence[Priced], leads: Sequence[str | None], package: SoldPackage | None
) -> quotes_pb2.BookingQuote:
    currency = plan.lines[0].service.currency
    amounts = sale.amounts_of(board, priced, package)
    lines = [
        quotes_pb2.QuotedLine(
            service_id=each.planned.service.id,
            service_name=each.planned.service.name,
            service_version=each.planned.service.version,
            add_on_ids=[add_on.id for add_on in each.planned.add_ons],
            duration_minutes=(each.planned.last - each.planned.first) * STEP_MINUTES,
            price=money(amount, currency),
            staff_id=lead,
        )
        for each, amount, lead in zip(priced, amounts.lines, leads, strict=True)
    ]
    return quotes_pb2.BookingQuote(
        lines=lines,
        products=sale.products_of(package, amounts),
        price=money(amounts.total, currency),
        deposit=money(amounts.deposit, currency) if amounts.deposit else None,
        duration_minutes=plan.duration * STEP_MINUTES,
        change_policy=board.policy.change,
        package_name=package.name if package is not None else None,
        time_zone=board.time_zone,
    )
