"""Stock that is used up: how much is there, every movement of it, and when it is low.

The row of an item is the lock under which its quantity changes: each change is one statement that writes the movement
with it and answers what was there before, so that exactly one call sees the stock become low.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2
from foyer.bookings.v1 import resources_pb2 as pb

from chassis.db import Prepared, prepare, prepare_sql, prepared_once
from chassis.errors import Refusal, not_found
from chassis.ids import new_id
from chassis.pages import cursor_decode, page_limit, split_page, wrong_token
from chassis.rows import projector
from chassis.unit import Unit
from services.bookings.common import already_exists, check_branch_known
from services.bookings.models import bookings
from services.bookings.resources import domain
from services.bookings.resources.listing import filters_of, page_by_name, scoped
from services.bookings.resources.models import stock_items, stock_movements

READ, WRITE = "stock.read", "stock.write"

to_item = projector(pb.StockItem, low=lambda row: domain.is_low(row["quantity"], row["low_at"], row["active"]))
to_movement = projector(pb.StockMovement)
EVENTS = {
    "received": pb.StockItemReceived,
    "used": pb.StockItemUsed,
    "written_off": pb.StockItemUsed,
    "counted": pb.StockItemCounted,
}

_one = sa.and_(stock_items.c.chain_id == sa.bindparam("chain_id"), stock_items.c.id == sa.bindparam("id"))
CHANGED = ("name", "code", "unit", "low_at", "active", "version")
INSERT = prepare(sa.insert(stock_items).returning(stock_items))
SELECT = prepare(sa.select(stock_items).where(_one))
SELECT_FOR_UPDATE = prepare(sa.select(stock_items).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(stock_items)
    .where(_one)
    .values({name: sa.bindparam(f"new_{name}", type_=stock_items.c[name].type) for name in CHANGED})
    .returning(stock_items)
)
KNOWN_BOOKING = prepare(
    sa.select(bookings.c.id).where(bookings.c.chain_id == sa.bindparam("chain_id"), bookings.c.id == sa.bindparam("id"))
)
# By `change`, or to `counted`; nothing when that would leave less than nothing.
MOVE = prepare_sql(
    """
with old as (
  select id, quantity from stock_items where chain_id = $1::uuid and id = $2::uuid for update
), changed as (
  update stock_items i
  set quantity = coalesce($4::bigint, old.quantity + $3::bigint), version = i.version + 1
  from old
  where i.chain_id = $1::uuid and i.id = old.id and coalesce($4::bigint, old.quantity + $3::bigint) >= 0
  returning i.*, old.quantity as quantity_before, 0::bigint as shortage
), moved as (
  insert into stock_movements (chain_id, stock_item_id, number, branch_id, reason, quantity, balance, shortage,
    booking_id, note, recorded_by, created_at)
  select chain_id, id, version, branch_id, $5::text, quantity - quantity_before, quantity, 0, $6::uuid, $7::text,
    $8::text, $9::timestamptz
  from changed
)
select * from changed
""",
    "chain_id",
    "id",
    "change",
    "counted",
    "reason",
    "booking_id",
    "note",
    "recorded_by",
    "now",
)
# What a booking used up, of the items of its branch: the one that is named, or the one with the code of that one. What
# is not there cannot be taken, and is written down as shortage. Items are locked by id, as by everybody.
TAKE = prepare_sql(
    """
with wanted as (
  select own.id, sum(a.quantity)::bigint as quantity
  from unnest($3::uuid[], $4::bigint[]) as a(id, quantity)
  join stock_items named on named.chain_id = $1::uuid and named.id = a.id
  join stock_items own on own.chain_id = $1::uuid and own.branch_id = $2::uuid
    and (own.id = named.id or (named.branch_id <> $2::uuid and own.code = named.code))
  group by own.id
), old as (
  select i.id, i.quantity, w.quantity as wanted
  from stock_items i join wanted w on w.id = i.id
  where i.chain_id = $1::uuid order by i.id for update of i
), changed as (
  update stock_items i set quantity = greatest(old.quantity - old.wanted, 0), version = i.version + 1
  from old where i.chain_id = $1::uuid and i.id = old.id
  returning i.*, old.quantity as quantity_before, greatest(old.wanted - old.quantity, 0) as shortage
), moved as (
  insert into stock_movements (chain_id, stock_item_id, number, branch_id, reason, quantity, balance, shortage,
    booking_id, recorded_by, created_at)
  select chain_id, id, version, branch_id, 'used', quantity - quantity_before, quantity, shortage, $5::uuid, $6::text,
    $7::timestamptz
  from changed
)
select * from changed order by id
""",
    "chain_id",
    "branch_id",
    "ids",
    "quantities",
    "booking_id",
    "recorded_by",
    "now",
)


# --- items ---


async def create(request: pb.CreateStockItemRequest, unit: Unit) -> pb.StockItem:
    """Keep stock of something; what is there at first is its first movement, as counted."""
    unit.check_branch(request.branch_id.lower(), WRITE)
    await check_branch_known(unit, request.branch_id.lower())
    try:
        row = await unit.one(
            INSERT,
            id=new_id(),
            branch_id=request.branch_id,
            name=request.name,
            code=request.code or None,
            unit=request.unit,
            quantity=0,
            low_at=request.low_at,
            active=True,
            version=1,
            created_at=unit.now,
        )
    except asyncpg.UniqueViolationError:
        raise already_exists("stock item") from None
    assert row is not None
    item = to_item(row)
    unit.emit(pb.StockItemCreated(stock_item_id=item.id, stock_item=item))
    if request.quantity:
        return await _move(unit, row["id"], "counted", counted=request.quantity)
    return item


async def find(request: pb.ListStockItemsRequest, unit: Unit) -> pb.ListStockItemsResponse:
    """A page of stock, by name."""
    filters = scoped(unit, filters_of(request, "branch_id", "low", "active"), READ)
    page, token = await page_by_name(unit, stock_items, request, filters)
    if not page and "branch_id" in filters:
        await check_branch_known(unit, filters["branch_id"].lower())
    return pb.ListStockItemsResponse(stock_items=[to_item(row) for row in page], next_page_token=token)


async def get(request: pb.GetStockItemRequest, unit: Unit) -> pb.StockItem:
    """Read a stock item. Raises Refusal NOT_FOUND."""
    return to_item(await _read(unit, request.id, READ))


async def update(request: pb.UpdateStockItemRequest, unit: Unit) -> pb.StockItem:
    """Change what a stock item is called and when it is low."""
    row = await unit.one(SELECT_FOR_UPDATE, id=request.id)
    if row is None:
        raise not_found("stock_item", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    changes = filters_of(request, "name", "code", "unit", "low_at", "active")
    if "code" in changes:
        changes["code"] = changes["code"] or None
    values = {name: row[name] for name in CHANGED} | changes | {"version": row["version"] + 1}
    try:
        changed = await unit.one(UPDATE, id=request.id, **{f"new_{name}": values[name] for name in CHANGED})
    except asyncpg.UniqueViolationError:
        raise already_exists("stock item") from None
    assert changed is not None
    item = to_item(changed)
    unit.emit(pb.StockItemUpdated(stock_item_id=item.id, stock_item=item))
    if item.low and not to_item(row).low:
        unit.emit(pb.StockItemLow(stock_item_id=item.id, stock_item=item))
    return item


async def _read(unit: Unit, identifier: str, permission: str) -> asyncpg.Record:
    row = await unit.one(SELECT, id=identifier)
    if row is None:
        raise not_found("stock_item", "id")
    unit.check_branch(row["branch_id"], permission)
    return row


# --- movements ---


async def _to_move(unit: Unit, identifier: str) -> asyncpg.Record:
    """An item whose quantity changes, locked. Raises Refusal NOT_FOUND, PERMISSION_DENIED, PRECONDITION_FAILED."""
    row = await unit.one(SELECT_FOR_UPDATE, id=identifier)
    if row is None:
        raise not_found("stock_item", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    return row


async def receive(request: pb.ReceiveStockRequest, unit: Unit) -> pb.StockItem:
    """Stock came in."""
    row = await _to_move(unit, request.id)
    return await _move(unit, row["id"], "received", change=request.quantity, note=request.note)


async def use(request: pb.UseStockRequest, unit: Unit) -> pb.StockItem:
    """Stock was used or written off. Raises Refusal NOT_ENOUGH_STOCK, and then nothing is taken."""
    row = await _to_move(unit, request.id)
    booking_id = request.booking_id if request.HasField("booking_id") else None
    if booking_id is not None and not await unit.value(KNOWN_BOOKING, id=booking_id):
        raise not_found("booking", "booking_id")
    reason = "written_off" if request.written_off else "used"
    return await _move(unit, row["id"], reason, change=-request.quantity, note=request.note, booking_id=booking_id)


async def count(request: pb.CountStockRequest, unit: Unit) -> pb.StockItem:
    """Stock was counted: this is what is there."""
    row = await _to_move(unit, request.id)
    return await _move(unit, row["id"], "counted", counted=request.quantity, note=request.note)


async def _move(
    unit: Unit,
    identifier: str,
    reason: str,
    *,
    change: int | None = None,
    counted: int | None = None,
    note: str = "",
    booking_id: str | None = None,
) -> pb.StockItem:
    more = {"change": change, "counted": counted, "note": note or None, "booking_id": booking_id}
    row = await unit.one(MOVE, id=identifier, reason=reason, recorded_by=unit.caller.id, now=unit.now, **more)
    if row is None:
        item = await unit.one(SELECT, id=identifier)
        assert item is not None
        raise Refusal("NOT_ENOUGH_STOCK", quantity=item["quantity"], unit=item["unit"])
    return _told(unit, row, reason, note, booking_id)


async def take_materials(
    unit: Unit, booking: Mapping[str, Any] | asyncpg.Record, lines: Sequence[bookings_pb2.BookingLine]
) -> None:
    """Take what the services of a completed booking use up, as sold, from the stock of its branch.

    It is done already, so nothing is refused: what is not there by the count is written down and told as shortage.
    """
    wanted: dict[str, int] = {}
    for line in lines:
        for material in line.materials:
            wanted[material.stock_item_id] = wanted.get(material.stock_item_id, 0) + material.quantity
    if not wanted:
        return
    rows = await unit.all(
        TAKE,
        branch_id=booking["branch_id"],
        ids=list(wanted),
        quantities=list(wanted.values()),
        booking_id=booking["id"],
        recorded_by=unit.caller.id,
        now=unit.now,
    )
    for row in rows:
        _told(unit, row, "used", "", booking["id"])


def _told(unit: Unit, row: asyncpg.Record, reason: str, note: str, booking_id: str | None) -> pb.StockItem:
    """Tell of a movement, and of stock that became low with it."""
    item = to_item(row)
    values = {
        "stock_item_id": row["id"],
        "number": row["version"],
        "reason": reason,
        "quantity": row["quantity"] - row["quantity_before"],
        "balance": row["quantity"],
        "shortage": row["shortage"],
        "booking_id": booking_id,
        "note": note or None,
        "recorded_by": unit.caller.id,
        "created_at": unit.now,
    }
    movement = to_movement(values)  # type: ignore[arg-type]
    unit.emit(EVENTS[reason](stock_item_id=item.id, stock_item=item, movement=movement))
    if item.low and not domain.is_low(row["quantity_before"], row["low_at"], row["active"]):
        unit.emit(pb.StockItemLow(stock_item_id=item.id, stock_item=item))
    return item


@prepared_once
def _list_movements(after: bool) -> Prepared:
    query = sa.select(stock_movements).where(
        stock_movements.c.chain_id == sa.bindparam("chain_id"),
        stock_movements.c.stock_item_id == sa.bindparam("id"),
    )
    if after:
        query = query.where(stock_movements.c.number < sa.bindparam("after"))
    return prepare(query.order_by(stock_movements.c.number.desc()).limit(sa.bindparam("limit", type_=sa.Integer())))


async def movements(request: pb.ListStockMovementsRequest, unit: Unit) -> pb.ListStockMovementsResponse:
    """A page of the movements of a stock item, the newest first."""
    item = await _read(unit, request.id, READ)
    limit = page_limit(request.page_size)
    after = cursor_decode(request.page_token, 1)
    more = {}
    if after is not None:
        if not isinstance(after[0], int) or not 0 <= after[0] < 1 << 63:
            raise wrong_token()
        more["after"] = after[0]
    rows = await unit.all(_list_movements(bool(more)), id=item["id"], limit=limit + 1, **more)
    page, token = split_page(rows, limit, lambda row: (row["number"],))
    return pb.ListStockMovementsResponse(movements=[to_movement(row) for row in page], next_page_token=token)
