"""Rooms, things and stock for tests of bookings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from foyer.bookings.v1 import bookings_pb2, catalogue_pb2
from foyer.bookings.v1 import resources_pb2 as pb
from google.protobuf.message import Message

from chassis.codec import descriptor_of
from chassis.errors import Refusal
from chassis.unit import event_subject
from tests.service.bookings_shop import READ_EVENTS, Shop


async def new_type(shop: Shop, name: str = "Room", kind: int = pb.RESOURCE_KIND_ROOM, **more: Any) -> str:
    request = pb.CreateResourceTypeRequest(name=name, kind=kind, **more)  # type: ignore[arg-type]
    identifier: str = (await shop.call("CreateResourceType", request)).id
    return identifier


async def new_units(shop: Shop, type_id: str, count: int, **more: Any) -> list[str]:
    values: dict[str, Any] = {"branch_id": shop.branch, "name": "Room", **more}
    request = pb.CreateResourcesRequest(resource_type_id=type_id, count=count, **values)
    return [each.id for each in (await shop.call("CreateResources", request)).resources]


def room_plan(type_id: str, people: int = 0, rooms: int = 1, **need: Any) -> catalogue_pb2.ServicePlan:
    """A service of so many people in so many rooms."""
    roles = [catalogue_pb2.Role(name="therapist", count=people)] if people else []
    resource = catalogue_pb2.ResourceNeed(name="room", resource_type_id=type_id, count=rooms, **need)
    return catalogue_pb2.ServicePlan(roles=roles, resources=[resource])


def given(booking: bookings_pb2.Booking, need: str = "room") -> list[str]:
    """Who or what a booking has for a need."""
    return [each.id for line in booking.lines for each in line.assignments if each.need == need]


async def attempts(shop: Shop, method: str, requests: Iterable[Message]) -> tuple[list[Any], list[str]]:
    """Many calls at once: the answers, and the names of the refusals."""

    async def attempt(request: Message) -> Any:
        try:
            return await shop.call(method, request)
        except Refusal as refusal:
            return refusal

    answers = await asyncio.gather(*(attempt(request) for request in requests))
    refusals = [answer.code for answer in answers if isinstance(answer, Refusal)]
    return [answer for answer in answers if not isinstance(answer, Refusal)], refusals


async def subjects(shop: Shop, aggregate_id: str) -> list[str]:
    """What was told of a thing, in order."""
    async with shop.unit() as unit:
        return [row["subject"] for row in await unit.all(READ_EVENTS, aggregate_id=aggregate_id)]


async def told(shop: Shop, aggregate_id: str, event: type[Message]) -> list[Any]:
    """All events of one kind about a thing, in order."""
    async with shop.unit() as unit:
        rows = await unit.all(READ_EVENTS, aggregate_id=aggregate_id)
    wanted = event_subject(descriptor_of(event()))[0]
    return [event.FromString(row["body"]) for row in rows if row["subject"] == wanted]
