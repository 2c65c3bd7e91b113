"""Day sheets: what comes at a branch on a day, what it needs, and what to mind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime

import asyncpg
from foyer.bookings.v1 import bookings_pb2
from foyer.bookings.v1 import front_desk_pb2 as pb

from chassis.db import prepare_sql
from chassis.errors import not_found
from chassis.money import money
from chassis.unit import Unit
from services.bookings import board as boards
from services.bookings import calendar, domain
from services.bookings import plan as plans
from services.bookings.board import Board
from services.bookings.rows import READ, moment_of, to_booking

MOST_ENTRIES = 1000
OVER = ("cancelled", "no_show", "expired")

VISITS = prepare_sql(
    """
select b.*, c.name as customer_name, not exists (
    select from bookings e where e.chain_id = b.chain_id and e.customer_id = b.customer_id and e.status = 'completed'
      and e.starts_at < b.starts_at
  ) as is_first
from bookings b left join customers c on c.chain_id = b.chain_id and c.id = b.customer_id
where b.chain_id = $1::uuid and b.branch_id = $2::uuid and b.starts_at >= $3::timestamptz
  and b.starts_at < $4::timestamptz
order by b.starts_at, b.id limit 5000
""",
    "chain_id",
    "branch_id",
    "starts_from",
    "starts_before",
)

# What to mind: English and Chinese.
WARNINGS = {
    "late": ("The customer is late.", "客户迟到。"),
    "hold": ("Held only, not confirmed yet.", "仅预留，尚未确认。"),
    "deposit_open": ("The deposit is not there yet.", "定金尚未到账。"),
    "overbooked": ("Booked on purpose although the time was taken.", "该时段为特意超额预约。"),
    "overlap": ("The customer may be booked elsewhere at the same time.", "客户可能在同一时段另有预约。"),
    "staff_off": ("{name} does not work at that time.", "{name} 此时不上班。"),
    "staff_left": ("{name} no longer works here.", "{name} 已不在本店工作。"),
    "skill_expired": ("{name} has not, or no longer, the skill for it.", "{name} 不具备所需技能或资质已过期。"),
    "resource_blocked": ("{name} is out of service at that time.", "{name} 此时停用。"),
    "resource_gone": ("{name} is no longer in use.", "{name} 已不再使用。"),
    "first_visit": ("First visit.", "首次到店。"),
}


async def get(request: pb.GetDaySheetRequest, unit: Unit) -> pb.DaySheet:
    """The sheet of a day. Raises Refusal NOT_FOUND, PERMISSION_DENIED, INVALID_REQUEST for a day there is not."""
    branch_id = request.branch_id.lower()
    unit.check_branch(branch_id, READ)
    board = await boards.of_branch(unit, branch_id)
    day = domain.parse_date("day", request.day) if request.HasField("day") else _today(unit, board)
    wanted = _wanted(board, request)
    zone = calendar.zone_of(board.time_zone)
    rows = await unit.all(
        VISITS,
        branch_id=branch_id,
        starts_from=calendar.local_moment(day, 0, zone),
        starts_before=calendar.local_moment(day, calendar.DAY_MINUTES, zone),
    )
    may_see = unit.caller.may("customers.read")
    sheet = pb.DaySheet(branch_id=branch_id, day=day.isoformat(), time_zone=board.time_zone)
    total = 0
    for row in rows:
        booking = to_booking(row, unit.now)
        status = domain.effective_status(row["status"], row["expires_at"], unit.now)
        is_over = status in OVER
        if (is_over and not request.include_over) or len(sheet.entries) == MOST_ENTRIES:
            continue
        requirements = list(_requirements(board, booking))
        if wanted is not None and all(each.id != wanted for each in requirements):
            continue
        total += 0 if is_over else row["price_amount"]
        warnings = () if is_over else _warnings(board, row, booking, unit)
        sheet.entries.append(
            pb.DaySheetEntry(
                booking=booking,
                customer_name=row["customer_name"] if may_see else None,
                requirements=requirements,
                warnings=warnings,
            )
        )
    sheet.total.CopyFrom(money(total, unit.caller.currency))
    return sheet


def _today(unit: Unit, board: Board) -> date:
    return calendar.local_today(unit.now, board.time_zone)


def _wanted(board: Board, request: pb.GetDaySheetRequest) -> str | None:
    """The person, room or thing a sheet is for. Raises Refusal NOT_FOUND."""
    if request.HasField("staff_id"):
        if request.staff_id.lower() not in board.people:
            raise not_found("staff", "staff_id")
        return request.staff_id.lower()
    if request.HasField("resource_id"):
        if request.resource_id.lower() not in board.things:
            raise not_found("resource", "resource_id")
        return request.resource_id.lower()
    return None


def _requirements(board: Board, booking: bookings_pb2.Booking) -> Iterator[pb.Requirement]:
    for line in booking.lines:
        for assigned in line.assignments:
            known = board.people.get(assigned.id) if assigned.is_staff else board.things.get(assigned.id)
            yield pb.Requirement(
                need=assigned.need,
                id=assigned.id,
                name=known.name if known is not None else "",
                is_staff=assigned.is_staff,
                starts_at=assigned.taken[0].starts_at if assigned.taken else line.starts_at,
                ends_at=assigned.taken[-1].ends_at if assigned.taken else line.ends_at,
            )


def _warnings(board: Board, row: asyncpg.Record, booking: bookings_pb2.Booking, unit: Unit) -> list[pb.Warning]:
    found: list[tuple[str, str | None, str]] = []
    late = board.policy.late_minutes * 60
    if row["status"] == "confirmed" and (unit.now - row["starts_at"]).total_seconds() >= max(late, 1):
        found.append(("late", None, ""))
    if row["status"] == "held":
        found.append(("hold", None, ""))
    if row["deposit_status"] in ("due", "pending"):
        found.append(("deposit_open", None, ""))
    if row["overbook_reason"] is not None:
        found.append(("overbooked", None, ""))
    if row["overlap_allowed"]:
        found.append(("overlap", None, ""))
    if row["is_first"]:
        found.append(("first_visit", None, ""))
    if row["status"] in ("held", "confirmed", "checked_in"):
        for line in booking.lines:
            for assigned in line.assignments:
                found += _about(board, line, assigned)
    chinese = unit.caller.language == "zh"
    return [
        pb.Warning(code=code, id=identifier, message=WARNINGS[code][chinese].format(name=name))
        for code, identifier, name in dict.fromkeys(found)
    ]


def _about(
    board: Board, line: bookings_pb2.BookingLine, assigned: bookings_pb2.Assignment
) -> Iterator[tuple[str, str | None, str]]:
    """What is wrong with somebody or something a visit was given, as things are now."""
    stretches = [(moment_of(each.starts_at), moment_of(each.ends_at)) for each in assigned.taken]
    if assigned.is_staff:
        person = board.people.get(assigned.id)
        if person is None or not person.active:
            yield "staff_left", assigned.id, person.name if person is not None else assigned.id
            return
        if not all(_covers(board, person.id, since, until) for since, until in stretches):
            yield "staff_off", person.id, person.name
        skills = _skills_for(board, line.service_id, assigned.need)
        day = (calendar.local_today(moment_of(line.starts_at), board.time_zone) - calendar.EPOCH).days
        if any(skill not in person.skills for skill in skills) or person.able_until(skills) < day:
            yield "skill_expired", person.id, person.name
        return
    thing = board.things.get(assigned.id)
    if thing is None or not thing.active:
        yield "resource_gone", assigned.id, thing.name if thing is not None else assigned.id
        return
    for since, until in stretches:
        first, last = calendar.last_step(since), calendar.first_step(until)
        if any(begin < last and first < end for begin, end in thing.blocked):
            yield "resource_blocked", thing.id, thing.name


def _skills_for(board: Board, service_id: str, need: str) -> tuple[str, ...]:
    """What somebody needs for a role of a service, as it is now."""
    service = board.services.get(service_id)
    roles = plans.roles_of(service) if service is not None else ()
    for position, role in enumerate(roles):
        if service is not None and role.name == need:
            return (*(service.required_skills if position == 0 else ()), *role.skills)
    return ()


def _covers(board: Board, staff_id: str, since: datetime, until: datetime) -> bool:
    first, last = calendar.last_step(since), calendar.first_step(until)
    first_day = first // calendar.DAY_STEPS
    days = (last - 1) // calendar.DAY_STEPS - first_day + 1
    wanted = calendar.span(first, last, first_day, days)
    return board.works(board.people[staff_id], first_day, days) & wanted == wanted
