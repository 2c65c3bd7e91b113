"""More time for a booking, with everybody and everything it has (加钟)."""

from __future__ import annotations

from dataclasses import replace

from foyer.bookings.v1 import assignments_pb2, catalogue_pb2
from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.db import prepare_sql
from chassis.errors import not_found
from chassis.unit import Unit
from services.bookings import allocator, booking, calendar, domain, pricing
from services.bookings import board as boards
from services.bookings.allocator import Taken
from services.bookings.board import Board, Offered
from services.bookings.calendar import STEP_MINUTES, STEP_SECONDS
from services.bookings.freed import How
from services.bookings.rows import locked, moment_of, stored_lines, told, write

# Holds that ran out and nobody gave back yet.
RAN_OUT = prepare_sql(
    """
select distinct a.booking_id
from unnest($2::uuid[], $3::timestamptz[], $4::timestamptz[]) as w(resource_id, starts_at, ends_at)
join allocations a on a.resource_id = w.resource_id and a.starts_at < w.ends_at and a.ends_at > w.starts_at
  and a.starts_at > w.starts_at - interval '10 days'
where a.chain_id = $1::uuid and a.expires_at <= $5::timestamptz
order by a.booking_id
""",
    "chain_id",
    "ids",
    "starts",
    "ends",
    "now",
)


async def extend(request: assignments_pb2.ExtendBookingRequest, unit: Unit) -> pb.Booking:
    """Add an add-on at the end of a booking's last service.

    Raises Refusal SLOT_TAKEN when anybody or anything it has, or the customer, is taken then; NOT_BOOKABLE for an
    add-on that does not go with the service; NOT_FOUND, WRONG_STATE.
    """
    row, status = await locked(unit, request.id, "extend")
    if row["class_session_id"] is not None:
        raise domain.not_bookable("in_class", [])
    board = await boards.of_branch(unit, row["branch_id"])
    lines = list(stored_lines(row))
    line = max(lines, key=lambda each: each.ends_at.seconds)
    add_on = _add_on(board, line.service_id, request.add_on_id.lower())
    steps = add_on.duration_minutes // STEP_MINUTES
    end = line.ends_at.seconds // STEP_SECONDS
    old = await allocator.of_booking(unit, row["id"])
    longer = _longer(old, line, end, steps)
    await _expire_in_the_way(unit, longer)
    if await allocator.move(unit, row["id"], old, longer, row["expires_at"]):
        raise domain.slot_taken([])
    lead = next((board.people.get(each.id) for each in line.assignments if each.is_staff), None)
    line.price.amount += pricing.price_amount(board, add_on, (), lead, calendar.moment_of(end))
    line.add_on_ids.append(add_on.id)
    line.materials.extend(add_on.plan.materials)
    line.ends_at.seconds += steps * STEP_SECONDS
    for each in line.assignments:
        last = each.taken[-1]
        if last.ends_at.seconds // STEP_SECONDS >= end:
            last.ends_at.seconds += steps * STEP_SECONDS
    products = pb.BookedProducts.FromString(row["products"] or b"").products
    changed = await write(
        unit,
        row,
        status=status,
        ends_at=moment_of(line.ends_at),
        lines=pb.BookingLines(lines=lines).SerializeToString(),
        price_amount=sum(each.price.amount for each in lines) + sum(each.price.amount for each in products),
    )
    event = assignments_pb2.BookingExtended
    return told(unit, changed, event, add_on_id=add_on.id, previous_ends_at=row["ends_at"])


def _add_on(board: Board, service_id: str, add_on_id: str) -> Offered:
    """The add-on, if it goes with the service. Raises Refusal NOT_FOUND, NOT_BOOKABLE."""
    add_on = board.services.get(add_on_id)
    if add_on is None:
        raise not_found("service", "add_on_id")
    if not add_on.active:
        raise domain.not_bookable("service_inactive", [])
    if not add_on.offered_here:
        raise domain.not_bookable("service_elsewhere", [])
    rules: catalogue_pb2.AddOnRules | None = add_on.add_on
    if rules is None or (rules.service_ids and service_id not in rules.service_ids):
        raise domain.not_bookable("add_on_elsewhere", [])
    return add_on


async def _expire_in_the_way(unit: Unit, wanted: list[Taken]) -> None:
    """Let go of holds that ran out and still stand in the time that is wanted now."""
    rows = await unit.all(
        RAN_OUT,
        ids=[each.resource_id for each in wanted],
        starts=[calendar.moment_of(each.first) for each in wanted],
        ends=[calendar.moment_of(each.last) for each in wanted],
        now=unit.now,
    )
    if rows:
        await booking.expire(unit, [row["booking_id"] for row in rows], How.TAKEN)


def _longer(old: list[Taken], line: pb.BookingLine, end: int, steps: int) -> list[Taken]:
    """What is taken until the end of a line, or beyond it with its buffer, for so many steps more."""
    mine = {assigned.id for assigned in line.assignments}
    mine.add(line.customer_id)
    return [
        replace(each, last=each.last + steps) if each.resource_id in mine and each.last >= end else each for each in old
    ]
