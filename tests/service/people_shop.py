"""What tests of people share: a branch more, somebody with fewer rights, single days, leave."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

from foyer.access.v1.access_pb2 import Branch
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import people_pb2
from google.protobuf.message import Message

from chassis.access import Caller
from chassis.codec import descriptor_of
from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.unit import event_subject
from services.bookings.events import keep_branch
from tests.service.bookings_shop import Shop, stamp

READ_EVENTS = prepare_sql(
    "select body from outbox where chain_id = $1::uuid and subject = $2 order by sequence", "chain_id", "subject"
)


async def another_branch(shop: Shop, zone: str = "Asia/Shanghai", **more: Any) -> str:
    """A branch of the chain that is always open."""
    branch = Branch(id=new_id(), name="Pudong", time_zone=zone, active=True, version=1, **more)
    async with shop.unit() as unit:
        await keep_branch(branch, unit)
    return branch.id


def with_rights(shop: Shop, *permissions: str, branches: list[str] | None = None, staff_id: str = "") -> Caller:
    """Somebody of the chain who may do just this, everywhere or at some branches; `staff_id`: who they are at work."""
    scope: str | list[str] = "*" if branches is None else branches
    return dataclasses.replace(shop.caller, id=new_id(), staff_id=staff_id, grants=dict.fromkeys(permissions, scope))


async def told(shop: Shop, event: type[Message]) -> list[Any]:
    """All events of a kind that the chain has published, in order."""
    subject = event_subject(descriptor_of(event()))[0]
    async with shop.unit() as unit:
        rows = await unit.all(READ_EVENTS, subject=subject)
    return [event.FromString(row["body"]) for row in rows]


async def set_day(shop: Shop, day: str, *intervals: str, staff: int = 0, **more: Any) -> people_pb2.StaffDayChange:
    """What somebody works on a day, as `10:00-18:00`."""
    request = people_pb2.SetStaffDayRequest(
        id=shop.staff[staff],
        day=day,
        intervals=[people_pb2.DayInterval(start_time=text[:5], end_time=text[6:]) for text in intervals],
        **more,
    )
    change: people_pb2.StaffDayChange = await shop.call("SetStaffDay", request)
    return change


def leave_request(
    shop: Shop, starts_at: datetime | None = None, ends_at: datetime | None = None, staff: int = 0, **more: Any
) -> people_pb2.RequestLeaveRequest:
    values: dict[str, Any] = {"staff_id": shop.staff[staff], "kind": people_pb2.LEAVE_KIND_ANNUAL, **more}
    if starts_at is not None:
        values["starts_at"] = stamp(starts_at)
    if ends_at is not None:
        values["ends_at"] = stamp(ends_at)
    return people_pb2.RequestLeaveRequest(**values)


async def ask_leave(
    shop: Shop, starts_at: datetime | None = None, ends_at: datetime | None = None, **more: Any
) -> people_pb2.Leave:
    leave: people_pb2.Leave = await shop.call("RequestLeave", leave_request(shop, starts_at, ends_at, **more))
    return leave


async def get_leave(shop: Shop, leave: people_pb2.Leave, caller: Caller | None = None) -> people_pb2.Leave:
    found: people_pb2.Leave = await shop.call("GetLeave", people_pb2.GetLeaveRequest(id=leave.id), caller)
    return found


async def approve(shop: Shop, leave: people_pb2.Leave, *, accept_conflicts: bool = False) -> people_pb2.Leave:
    request = people_pb2.ApproveLeaveRequest(id=leave.id, accept_conflicts=accept_conflicts)
    approved: people_pb2.Leave = await shop.call("ApproveLeave", request)
    return approved


async def reassign(shop: Shop, booking: pb.Booking, staff: int, **more: Any) -> pb.Booking:
    request = people_pb2.ReassignBookingRequest(id=booking.id, staff_id=shop.staff[staff], **more)
    moved: pb.Booking = await shop.call("ReassignBooking", request)
    return moved


def fields(refusal: Refusal) -> list[str]:
    return [error.field for error in refusal.errors]


def moment(message: Any) -> datetime:
    found: datetime = message.ToDatetime(tzinfo=UTC)
    return found
