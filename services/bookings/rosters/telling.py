"""Rosters as messages, and their shifts as rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import asyncpg
from foyer.bookings.v1 import people_pb2
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.codec import enum_numbers
from chassis.rows import projector
from services.bookings import calendar
from services.bookings.rosters import inputs, rules
from services.bookings.rosters.figures import Figures, Reason
from services.bookings.rosters.problem import Plan, Shift, Slot
from services.bookings.rosters.rules import Violation

PROPOSED, CHANGED, SETTLED = "proposed", "changed", "settled"
ORIGINS = enum_numbers(pb.ShiftOrigin.DESCRIPTOR)

to_roster = projector(
    pb.Roster,
    from_date=lambda row: row["from_date"].isoformat(),
    progress=lambda row: pb.RosterProgress.FromString(row["progress"] or b""),
    figures=lambda _: None,
)
to_swap = projector(
    pb.ShiftSwap,
    day=lambda row: row["day"].isoformat(),
    to_day=lambda row: row["to_day"] and row["to_day"].isoformat(),
)


def day_text(day: int) -> str:
    """A day since 1970 as YYYY-MM-DD."""
    return calendar.date_of(day).isoformat()


def _moment(step: int) -> Any:
    """The moment of a step, as a field of a message takes it."""
    return calendar.moment_of(step)


# --- shifts ---


def week_of(zone_name: str, shift: Shift, template: Mapping[str, Any] | asyncpg.Record | None) -> str:
    """A shift as dated_shifts keeps it: local times on the weekday of its day."""
    weekday = calendar.date_of(shift.day).isoweekday()
    if template is not None:
        return calendar.format_week([(weekday, template["start_time"], template["end_time"])])
    zone = calendar.zone_of(zone_name)

    def local(step: int) -> str:
        return calendar.moment_of(step).astimezone(zone).strftime("%H:%M")

    ends = {"00:00": "24:00"}
    return calendar.format_week(
        [(weekday, local(first), ends.get(local(last), local(last))) for first, last in shift.stretches]
    )


def rows_of(
    given: inputs.Inputs, plan: Plan, reasons: Mapping[tuple[str, int], Sequence[Reason]], origins: Mapping[Any, str]
) -> list[dict[str, Any]]:
    """A roster's shifts as rows; what `origins` does not name the solver proposed."""
    return [
        {
            "staff_id": staff_id,
            "day": day_text(day),
            "shift_template_id": shift.template_id,
            "week": week_of(given.board.time_zone, shift, given.templates.get(shift.template_id or "")),
            "minutes": shift.minutes,
            "is_late": shift.is_late,
            "origin": origins.get((staff_id, day), PROPOSED),
            "reasons": [[each.code, each.skill, each.amount] for each in reasons.get((staff_id, day), ())],
        }
        for (staff_id, day), shift in sorted(plan.items())
    ]


def plan_of(zone_name: str, rows: Iterable[asyncpg.Record]) -> dict[tuple[str, int], Shift]:
    """The plan that rows of shifts stand for."""
    found = {}
    for row in rows:
        day = (row["day"] - calendar.EPOCH).days
        shift = inputs.of_week(
            zone_name, row["week"], day, row["minutes"], late=row["is_late"], template=row["shift_template_id"]
        )
        if shift is not None:
            found[row["staff_id"], day] = shift
    return found


def to_shift(row: asyncpg.Record) -> pb.RosterShift:
    """A row of a shift as a message."""
    day: date = row["day"]
    return pb.RosterShift(
        staff_id=row["staff_id"],
        day=day.isoformat(),
        shift_template_id=row["shift_template_id"],
        intervals=[
            people_pb2.DayInterval(start_time=start, end_time=end) for _, start, end in calendar.split_week(row["week"])
        ],
        minutes=row["minutes"],
        origin=ORIGINS[row["origin"]],  # type: ignore[arg-type]
        reasons=[
            pb.ShiftReason(code=code, skill=skill or None, amount=amount) for code, skill, amount in row["reasons"]
        ],
    )


# --- figures ---


def demand_slot(slot: Slot) -> pb.DemandSlot:
    """People needed in a slot."""
    return pb.DemandSlot(
        day=day_text(slot.day),
        starts_at=_moment(slot.first),
        ends_at=_moment(slot.last),
        skill=slot.skill or None,
        wanted=slot.wanted,
    )


def to_figures(found: Figures) -> pb.RosterFigures:
    """What is known about a roster; violations without their texts, which are those of who reads them."""
    return pb.RosterFigures(
        coverage=[
            pb.SlotCoverage(
                day=day_text(each.slot.day),
                starts_at=_moment(each.slot.first),
                ends_at=_moment(each.slot.last),
                skill=each.slot.skill or None,
                wanted=each.slot.wanted,
                given=each.given,
                missing=each.missing,
            )
            for each in found.coverage
        ],
        wishes=[
            pb.WishOutcome(
                wish_id=each.wish.id,
                staff_id=each.wish.staff_id,
                days_met=each.days_met,
                unmet=[pb.UnmetWish(day=day_text(day), reason=reason) for day, reason in each.unmet],
            )
            for each in found.wishes
        ],
        staff=[
            pb.StaffFigures(
                staff_id=each.person.id,
                minutes=each.minutes,
                week_minutes=each.week_minutes,
                min_week_minutes=each.person.contract.min_week_minutes,
                max_week_minutes=each.person.contract.max_week_minutes,
                even_minutes=each.even_minutes,
                days=each.days,
                weekend_days=each.weekend_days,
                past_weekend_days=each.person.past_weekends,
                late_shifts=each.late_shifts,
                past_late_shifts=each.person.past_lates,
            )
            for each in found.shares
        ],
        violations=[to_violation(each) for each in found.violations],
        points=[pb.PointsPart(name=name, points=round(points, 2)) for name, points in found.points.items()],
    )


def to_violation(violation: Violation, language: str = "") -> pb.RosterViolation:
    """A broken rule as a message; in a language, with its text."""
    message = pb.RosterViolation(
        rule=violation.rule,
        staff_id=violation.staff_id,
        from_date=day_text(violation.first_day),
        until_date=day_text(violation.last_day),
        amount=violation.amount,
    )
    return explain(message, language) if language else message


def explain(violation: pb.RosterViolation, language: str) -> pb.RosterViolation:
    """Put into a broken rule what it means."""
    english, chinese = rules.RULES[violation.rule]
    violation.message = (chinese if language == "zh" else english).format(amount=violation.amount)
    return violation


def conflict(row: asyncpg.Record) -> pb.RosterConflict:
    """What a person is taken for as a conflict."""
    named: dict[str, Any] = {"class_session_id": row["id"]} if row["is_class"] else {"booking_id": row["id"]}
    return pb.RosterConflict(staff_id=row["staff_id"], starts_at=row["starts_at"], ends_at=row["ends_at"], **named)
