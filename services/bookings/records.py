"""Bookings from before the platform was used, and lists of bookings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.codec import enum_names
from chassis.db import Prepared, prepare, prepared_once, time_type, uuid_type
from chassis.errors import FieldError, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page, wrong_token
from chassis.unit import Absent, Unit
from services.bookings import domain
from services.bookings.booking import READ, count, moment_of, project_booking, to_booking
from services.bookings.classes.models import class_sessions
from services.bookings.common import after_key, refuse_if
from services.bookings.models import bookings, branches, customers, services, staff
from services.bookings.series.models import booking_series

STATUS_NAMES = enum_names(pb.BookingStatus.DESCRIPTOR)


def _known(table: sa.Table, name: str) -> sa.ScalarSelect[Any]:
    parameter = sa.bindparam(name, type_=uuid_type())
    query = sa.select(table.c.id).where(table.c.chain_id == sa.bindparam("chain_id", type_=uuid_type()))
    return query.where(table.c.id == parameter).scalar_subquery()


KNOWN = prepare(
    sa.select(
        _known(branches, "branch_id").label("branch_id"),
        _known(staff, "staff_id").label("staff_id"),
        _known(customers, "customer_id").label("customer_id"),
    )
)
SERVICE_AND_ZONE = prepare(
    sa.select(services, branches.c.time_zone)
    .select_from(services)
    .outerjoin(
        branches,
        sa.and_(
            branches.c.chain_id == services.c.chain_id, branches.c.id == sa.bindparam("branch_id", type_=uuid_type())
        ),
    )
    .where(services.c.chain_id == sa.bindparam("chain_id"), services.c.id == sa.bindparam("service_id"))
)
_external = sa.and_(
    bookings.c.chain_id == sa.bindparam("chain_id"), bookings.c.external_id == sa.bindparam("external_id")
)
SELECT_EXTERNAL = prepare(sa.select(bookings).where(_external))
INSERT_RECORD = prepare(
    sa.dialects.postgresql.insert(bookings)
    .on_conflict_do_nothing(
        index_elements=[bookings.c.chain_id, bookings.c.external_id],
        index_where=bookings.c.external_id.is_not(None),
    )
    .returning(bookings)
)
# What a booking from before has nothing to say of.
NOT_SAID = {column.name: None for column in bookings.c if column.nullable}


async def record(request: pb.RecordBookingRequest, unit: Unit) -> pb.Booking:
    """Write down a booking from before; a second record with the same external id answers the first one."""
    if request.HasField("external_id"):
        existing = await unit.one(SELECT_EXTERNAL, external_id=request.external_id)
        if existing is not None:
            return project_booking(existing)
    _check(request, unit)
    row = await unit.one(INSERT_RECORD, **NOT_SAID | await _values(request, unit))
    if row is None:
        # Somebody else recorded it at the same time.
        existing = await unit.one(SELECT_EXTERNAL, external_id=request.external_id)
        assert existing is not None
        return project_booking(existing)
    booking = project_booking(row)
    _tell(unit, row, booking)
    return booking


def _check(request: pb.RecordBookingRequest, unit: Unit) -> None:
    errors: list[FieldError] = []
    cancelled = request.status == pb.BOOKING_STATUS_CANCELLED
    times = {"starts_at": request.starts_at, "booked_at": request.booked_at, "cancelled_at": request.cancelled_at}
    errors += [
        FieldError(name, "past", "must be in the past", "应为过去的时间")
        for name, moment in times.items()
        if moment_of(moment) > unit.now  # one that is not given is 1970
    ]
    if cancelled and not request.HasField("cancelled_at"):
        errors.append(FieldError("cancelled_at", "required", "is required for a cancelled booking", "已取消的预约必填"))
    if not cancelled and request.HasField("cancelled_at"):
        message = "must only be given for a cancelled booking"
        errors.append(FieldError("cancelled_at", "not_cancelled", message, "仅已取消的预约可填"))
    if request.HasField("price"):
        errors += domain.money_errors("price", request.price, unit.caller.currency)
    refuse_if(errors)


async def _values(request: pb.RecordBookingRequest, unit: Unit) -> dict[str, Any]:
    service = await unit.one(SERVICE_AND_ZONE, branch_id=request.branch_id, service_id=request.service_id)
    await check_known(unit, request.branch_id, request.staff_id, request.customer_id)
    if service is None:
        raise not_found("service", "service_id")
    starts_at = moment_of(request.starts_at)
    price = request.price.amount if request.HasField("price") else _price_at(service, request.branch_id.lower())
    return {
        "id": new_id(),
        "branch_id": request.branch_id,
        "service_id": request.service_id,
        "customer_id": request.customer_id,
        "staff_id": request.staff_id,
        "status": STATUS_NAMES[request.status],
        "starts_at": starts_at,
        "ends_at": starts_at + timedelta(minutes=service["duration_minutes"]),
        # It takes nobody's time.
        "buffer_before_minutes": 0,
        "buffer_after_minutes": 0,
        "price_amount": price,
        "currency": service["currency"],
        "service_name": service["name"],
        "time_zone": service["time_zone"],
        "expires_at": None,
        "source": request.source or None,
        "note": request.note or None,
        "cancel_reason": request.cancel_reason or None,
        "cancelled_at": moment_of(request.cancelled_at) if request.HasField("cancelled_at") else None,
        "lines": None,
        "change_policy": None,
        "package_id": None,
        "package_name": None,
        "products": None,
        "deposit_amount": None,
        "deposit_status": "none",
        "deposit_authorization_id": None,
        "deposit_waived_reason": None,
        "fee_amount": None,
        "fee_waived_reason": None,
        "change_count": 0,
        "renewals": 0,
        "updated_at": None,
        "overlap_allowed": False,
        "overbook_reason": None,
        "external_id": request.external_id if request.HasField("external_id") else None,
        # The first version was the confirmed one.
        "version": 2,
        "created_at": moment_of(request.booked_at) if request.HasField("booked_at") else starts_at,
    }


def _price_at(service: asyncpg.Record, branch_id: str) -> int:
    prices = dict(zip(service["price_branch_ids"], service["price_branch_amounts"], strict=True))
    amount: int = prices.get(branch_id, service["price_amount"])
    return amount


def _tell(unit: Unit, row: asyncpg.Record, booking: pb.Booking) -> None:
    """Events as they would have come then: agreed, and how it ended, each with the time it counts at."""
    agreed = pb.Booking()
    agreed.CopyFrom(booking)
    agreed.status = pb.BOOKING_STATUS_CONFIRMED
    agreed.version = 1
    agreed.ClearField("cancelled_at")
    agreed.ClearField("cancel_reason")
    unit.emit(pb.BookingConfirmed(booking_id=booking.id, booking=agreed), row["created_at"])
    count(unit, "confirmed")
    starts_at: datetime = row["starts_at"]
    if row["status"] == "cancelled":
        minutes = domain.notice_minutes(row["cancelled_at"], starts_at)
        event = pb.BookingCancelled(booking_id=booking.id, booking=booking, notice_minutes=minutes)
        unit.emit(event, row["cancelled_at"])
    elif row["status"] == "completed":
        unit.emit(pb.BookingCompleted(booking_id=booking.id, booking=booking), starts_at)
    else:
        unit.emit(pb.BookingMissed(booking_id=booking.id, booking=booking), starts_at)
    count(unit, row["status"])


async def check_known(unit: Unit, branch_id: str | None, staff_id: str | None, customer_id: str | None) -> None:
    """Raise Absent or Refusal NOT_FOUND for the first of these that does not exist."""
    row = await unit.one(KNOWN, branch_id=branch_id, staff_id=staff_id, customer_id=customer_id)
    assert row is not None
    if branch_id is not None and row["branch_id"] is None:
        raise Absent("branch", branch_id.lower(), field="branch_id")
    if staff_id is not None and row["staff_id"] is None:
        raise not_found("staff", "staff_id")
    if customer_id is not None and row["customer_id"] is None:
        raise Absent("customer", customer_id.lower(), field="customer_id")


# --- lists ---

FILTERS = ("branch_id", "staff_id", "customer_id")
GROUPS = {"class_session_id": ("class session", class_sessions), "series_id": ("series", booking_series)}
"""Filters by what a booking was made with: what that is called, and where it is kept."""


KNOWN_GROUPS = {
    name: prepare(
        sa.select(table.c.id).where(table.c.chain_id == sa.bindparam("chain_id"), table.c.id == sa.bindparam("id"))
    )
    for name, (_, table) in GROUPS.items()
}


@prepared_once
def list_statement(filters: frozenset[str]) -> Prepared:
    """The statement of a list for the filters that are given: each is read from the index that serves it."""
    table = bookings
    query = sa.select(table).where(table.c.chain_id == sa.bindparam("chain_id"))
    for name in (*FILTERS, *GROUPS):
        if name in filters:
            query = query.where(table.c[name] == sa.bindparam(name))
    if "allowed" in filters:
        allowed = sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))
        query = query.where(table.c.branch_id == sa.any_(allowed))
    if "status" in filters:
        expired = sa.and_(table.c.status == "held", table.c.expires_at <= sa.bindparam("now", type_=time_type()))
        status = sa.case((expired, "expired"), else_=table.c.status)
        query = query.where(status == sa.any_(sa.bindparam("status", type_=sa.ARRAY(sa.Text()))))
    if "one_status" in filters:
        query = query.where(table.c.status == sa.bindparam("one_status", type_=sa.Text()))
    if "from" in filters:
        query = query.where(table.c.starts_at >= sa.bindparam("from", type_=time_type()))
    if "to" in filters:
        query = query.where(table.c.starts_at < sa.bindparam("to", type_=time_type()))
    if "after" in filters:
        key = sa.tuple_(sa.bindparam("after_starts_at", type_=time_type()), sa.bindparam("after_id", type_=uuid_type()))
        query = query.where(sa.tuple_(table.c.starts_at, table.c.id) > key)
    return prepare(query.order_by(table.c.starts_at, table.c.id).limit(sa.bindparam("limit", type_=sa.Integer())))


async def find(request: pb.ListBookingsRequest, unit: Unit) -> pb.ListBookingsResponse:
    """A page of bookings, by start."""
    limit = page_limit(request.page_size)
    parameters = _parameters(request, unit)
    after = after_key(request.page_token)
    if after is not None:
        parameters["after_starts_at"], parameters["after_id"] = moment_of_token(after[0]), after[1]
    filters = set(parameters) - {"after_starts_at", "after_id"}
    statement = list_statement(frozenset(filters | ({"after"} if after is not None else set())))
    if "status" in parameters:
        parameters["now"] = unit.now
    rows = await unit.all(statement, **parameters, limit=limit + 1)
    if not rows:
        named = [getattr(request, name) if request.HasField(name) else None for name in FILTERS]  # type: ignore[arg-type]
        if any(named):
            await check_known(unit, *named)
        await _check_groups(unit, parameters)
    page, token = split_page(rows, limit, lambda row: (row["starts_at"], row["id"]))
    return pb.ListBookingsResponse(bookings=[to_booking(row, unit.now) for row in page], next_page_token=token)


async def _check_groups(unit: Unit, parameters: Mapping[str, Any]) -> None:
    """Raise Refusal NOT_FOUND for a class session or a series that does not exist."""
    for name, (kind, _) in GROUPS.items():
        if name in parameters and not await unit.value(KNOWN_GROUPS[name], id=parameters[name]):
            raise not_found(kind, name)


def moment_of_token(text: str) -> datetime:
    """The moment in a page token. Raises Refusal INVALID_REQUEST for a token that is not ours."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise wrong_token() from None
    if moment.tzinfo is None:
        raise wrong_token()
    return moment


def _parameters(request: pb.ListBookingsRequest, unit: Unit) -> dict[str, Any]:
    """The filters that are given, by name. Raises Refusal INVALID_REQUEST for an empty stretch of time."""
    parameters: dict[str, Any] = {
        name: getattr(request, name)
        for name in (*FILTERS, *GROUPS)
        if request.HasField(name)  # type: ignore[arg-type]
    }
    if request.status:
        parameters["status"] = [STATUS_NAMES.get(status, "") for status in request.status]
        if len(request.status) == 1 and request.status[0] != pb.BOOKING_STATUS_EXPIRED:
            # As it is stored, so that an index serves it; only "expired" may still be stored as "held".
            parameters["one_status"] = parameters["status"][0]
    if request.HasField("starts_from"):
        parameters["from"] = moment_of(request.starts_from)
    if request.HasField("starts_before"):
        parameters["to"] = moment_of(request.starts_before)
    if "from" in parameters and "to" in parameters and parameters["from"] >= parameters["to"]:
        refuse_if([FieldError("to", "order", "must be after `from`", "应晚于 from")])
    allowed = unit.allowed_branches(READ)
    if allowed is not None and "branch_id" not in parameters:
        parameters["allowed"] = allowed
    return parameters
