"""Shops made up by dice, and short ways to ask what is offered there."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import catalogue_pb2 as catalogue
from foyer.bookings.v1 import policies_pb2 as policies
from foyer.bookings.v1 import resources_pb2 as resources

from chassis.errors import Refusal
from tests.service.bookings_shop import Shop, stamp

ZONES = {
    "Asia/Shanghai": (2026, 6, 1),
    "Asia/Kathmandu": (2026, 6, 1),
    "Australia/Lord_Howe": (2026, 10, 4),
    "America/St_Johns": (2026, 11, 1),
    "Africa/Cairo": (2026, 4, 24),
}


def moment(stamped: Any) -> datetime:
    found: datetime = stamped.ToDatetime(tzinfo=UTC)
    return found


async def ask(shop: Shop, start: datetime, end: datetime, **more: Any) -> pb.Availability:
    values: dict[str, Any] = {"branch_id": shop.branch, "service_id": shop.service, **more}
    request = pb.FindAvailabilityRequest(starts_from=stamp(start), ends_by=stamp(end), **values)
    answer: pb.Availability = await shop.call("FindAvailability", request)
    return answer


async def rooms(shop: Shop, count: int, name: str = "Room") -> str:
    kind = resources.CreateResourceTypeRequest(name=name, kind=resources.RESOURCE_KIND_ROOM)
    type_id: str = (await shop.call("CreateResourceType", kind)).id
    wanted = resources.CreateResourcesRequest(branch_id=shop.branch, resource_type_id=type_id, name=name, count=count)
    await shop.call("CreateResources", wanted)
    return type_id


async def policy(shop: Shop, **changes: Any) -> None:
    await shop.call("UpdateBookingPolicy", policies.UpdateBookingPolicyRequest(**changes))


def fields(refusal: Refusal) -> list[str]:
    return [error.field for error in refusal.errors]


async def days(shop: Shop, first: date, last: date, **more: Any) -> pb.AvailableDays:
    values: dict[str, Any] = {"branch_id": shop.branch, "service_id": shop.service, **more}
    request = pb.ListAvailableDaysRequest(from_date=first.isoformat(), until_date=last.isoformat(), **values)
    answer: pb.AvailableDays = await shop.call("ListAvailableDays", request)
    return answer


@dataclass
class Fair:
    """A shop made up by dice: services of roles and rooms, people who can do parts of them, and some bookings."""

    shop: Shop
    dice: random.Random
    day: datetime
    services: list[str] = field(default_factory=list)

    async def open(self) -> Fair:
        dice, shop = self.dice, self.shop
        await shop.keep_branch(2, hours=dice.choice((("08:00", "20:00"), ("06:00", "03:30"), ("00:00", "24:00"))))
        await policy(shop, slot_step_minutes=dice.choice((15, 30)), channels=policies.ChannelRules(rules=self.rules()))
        room = await rooms(shop, dice.randint(1, 2))
        for _ in range(2):
            self.services.append(await shop.new_service(**self.service(room)))
        for _ in range(dice.randint(3, 4)):
            start, end = dice.choice((("22:00", "09:00"), ("08:00", "23:30"), ("00:00", "24:00"), ("06:30", "15:00")))
            skills = dice.choice((["a"], ["b"], ["a", "b"]))
            shop.staff.append(await shop.new_staff(start, end, skills=skills))
        for _ in range(14):
            starts_at = self.day + timedelta(minutes=5 * dice.randrange(-100, 380))
            await self.attempt(starts_at, service_id=dice.choice(self.services), hold=dice.random() < 0.3)
        return self

    def rules(self) -> list[policies.ChannelRule]:
        return [policies.ChannelRule(channel="app", slot_step_minutes=20, lead_minutes=60 * 40, horizon_days=3)]

    def service(self, room: str) -> dict[str, Any]:
        dice = self.dice
        roles = [catalogue.Role(name="lead", skills=["a"], count=1)]
        if dice.random() < 0.7:
            roles.append(catalogue.Role(name="second", skills=dice.choice((["b"], [])), count=1))
        needs = [catalogue.ResourceNeed(name="room", resource_type_id=room, count=1, buffer_after_minutes=20)]
        plan = catalogue.ServicePlan(roles=roles, resources=needs if dice.random() < 0.7 else [])
        names = [role.name for role in roles] + [need.name for need in plan.resources]
        if dice.random() < 0.5:
            plan.segments.add(duration_minutes=20)
            plan.segments.add(duration_minutes=25, uses=names[1:], idle=True)
            plan.segments.add(duration_minutes=15, uses=names[:1])
        return {
            "duration_minutes": 60,
            "buffer_before_minutes": dice.choice((0, 5)),
            "buffer_after_minutes": 10,
            "plan": plan,
        }

    async def attempt(self, starts_at: datetime, **more: Any) -> pb.Booking | Refusal:
        try:
            return await self.shop.book(starts_at, **more)
        except Refusal as refusal:
            return refusal

    async def try_out(self, slot: pb.Slot, **more: Any) -> None:
        """Hold a slot, and let it go again."""
        held = await self.shop.book(moment(slot.starts_at), hold=True, **more)
        assert held.ends_at == slot.ends_at
        assert held.staff_id in slot.staff_ids
        assert held.staff_id == more.get("staff_id", held.staff_id)
        await self.shop.call("CancelBooking", pb.CancelBookingRequest(id=held.id))
