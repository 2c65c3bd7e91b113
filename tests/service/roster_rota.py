"""A shop that makes rosters, for the tests of rosters and of swaps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from foyer.bookings.v1 import bookings_pb2, people_pb2
from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.access import Caller
from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.unit import event_subject
from tests.service.bookings_shop import Shop, intervals

PATIENCE_SECONDS = 30.0
DAYS = [f"2026-05-{day:02}" for day in range(11, 18)]  # a week from Monday
READ_EVENTS = prepare_sql(
    "select subject, body from outbox where chain_id = $1::uuid and subject = $2 order by sequence",
    "chain_id",
    "subject",
)


class Rota:
    """A shop with an early and a late shift, and one person wanted from 9 to 21."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.templates: dict[str, str] = {}

    async def open(self, wanted: int = 1) -> Rota:
        for person in self.shop.staff:
            # From Monday to Friday, until a roster says otherwise.
            week = intervals("10:00", "18:00", range(1, 6))
            shifts = bookings_pb2.SetShiftsRequest(id=person, from_date="2026-01-01", intervals=week)
            await self.shop.call("SetShifts", shifts)
        for name, start, end in (("early", "09:00", "17:00"), ("late", "13:00", "21:00")):
            request = pb.CreateShiftTemplateRequest(
                branch_id=self.shop.branch, name=name, start_time=start, end_time=end, unpaid_break_minutes=60
            )
            self.templates[name] = (await self.shop.call("CreateShiftTemplate", request)).id
        rule = pb.DemandRule(start_time="09:00", end_time="21:00", wanted=wanted)
        await self.shop.call("SetRosterDemand", pb.SetRosterDemandRequest(branch_id=self.shop.branch, rules=[rule]))
        return self

    async def ask(self, **more: Any) -> pb.Roster:
        values = {"branch_id": self.shop.branch, "from_date": DAYS[0], "weeks": 1, "time_limit_seconds": 5, **more}
        roster: pb.Roster = await self.shop.call("CreateRoster", pb.CreateRosterRequest(**values))
        return roster

    async def get(self, identifier: str) -> pb.Roster:
        roster: pb.Roster = await self.shop.call("GetRoster", pb.GetRosterRequest(id=identifier))
        return roster

    async def until_done(self, identifier: str) -> pb.Roster:
        ends_at = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while (roster := await self.get(identifier)).status == pb.ROSTER_STATUS_SOLVING:
            assert asyncio.get_running_loop().time() < ends_at, roster
            await asyncio.sleep(0.05)
        return roster

    async def proposed(self, **more: Any) -> pb.Roster:
        roster = await self.until_done((await self.ask(**more)).id)
        assert roster.status == pb.ROSTER_STATUS_PROPOSED, roster.failure
        return roster

    async def published(self, **more: Any) -> pb.Roster:
        roster = await self.proposed(**more)
        published: pb.Roster = await self.shop.call("PublishRoster", pb.PublishRosterRequest(id=roster.id))
        return published

    async def by_hand(self, roster: pb.Roster, *shifts: tuple[str, str, str | None]) -> pb.Roster:
        """Set (person, day, name of a shift or None)."""
        changes = [
            pb.RosterShiftChange(staff_id=person, day=day, shift_template_id=name and self.templates[name])
            for person, day, name in shifts
        ]
        changed: pb.Roster = await self.shop.call("UpdateRoster", pb.UpdateRosterRequest(id=roster.id, shifts=changes))
        return changed

    async def plain(self) -> pb.Roster:
        """A published roster: the first two work early and late from Monday to Friday, the third is off."""
        roster = await self.proposed()
        first, second, third = self.shop.staff
        for person, name in ((first, "early"), (second, "late"), (third, None)):
            await self.by_hand(roster, *((person, day, name if day < DAYS[5] else None) for day in DAYS))
        published: pb.Roster = await self.shop.call("PublishRoster", pb.PublishRosterRequest(id=roster.id))
        return published

    async def events(self, event: Any) -> list[Any]:
        async with self.shop.unit() as unit:
            rows = await unit.all(READ_EVENTS, subject=event_subject(event.DESCRIPTOR)[0])
        return [event.FromString(row["body"]) for row in rows]

    async def days_of(self, person: str) -> dict[str, list[str]]:
        request = people_pb2.ListStaffDaysRequest(id=person)
        listed = (await self.shop.call("ListStaffDays", request)).days
        return {day.day: [f"{each.start_time}-{each.end_time}" for each in day.intervals] for day in listed}

    def someone(self, person: str | None = None, **grants: Any) -> Caller:
        """An account of somebody who works there."""
        held: dict[str, Any] = dict.fromkeys(("staff.read", "rosters.read", "rosters.own"), "*") | grants
        return replace(self.shop.caller, id=new_id(), name="Colleague", grants=held, staff_id=person or "")


def shifts_of(roster: pb.Roster, person: str) -> dict[str, str]:
    return {
        shift.day: f"{shift.intervals[0].start_time}-{shift.intervals[0].end_time}"
        for shift in roster.shifts
        if shift.staff_id == person
    }


def fields(refusal: Refusal) -> list[str]:
    return [error.field for error in refusal.errors]
