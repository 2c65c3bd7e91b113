"""The one way to a person's time: hold, book, confirm, move, shorten and give back all go through here.

The bits of `staff_days` are the arbiter: of several who want the same bits one sets them, the others wait for that one
to commit and then find them set. Rows are locked in one order everywhere, bookings (by id) before days (by person and
day), so that nobody waits in a circle; where that order cannot be kept the database says so (40P01) and the call runs
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from asyncpg import BitString

from chassis.db import prepare
from chassis.unit import Unit
from services.bookings import calendar, statements
from services.bookings.models import DAY_BITS, allocations

DAY_BYTES = DAY_BITS // 8
MOST_EXPIRED_AT_ONCE = 500

_of_booking = sa.and_(
    allocations.c.chain_id == sa.bindparam("chain_id"), allocations.c.booking_id == sa.bindparam("id")
)
KEEP = prepare(sa.update(allocations).where(_of_booking).values(expires_at=None))
SHORTEN = prepare(sa.update(allocations).where(_of_booking).values(ends_at=sa.bindparam("until")))
MOVE = prepare(
    sa.update(allocations)
    .where(_of_booking)
    .values(
        staff_id=sa.bindparam("to_staff_id"),
        starts_at=sa.bindparam("occupied_from"),
        ends_at=sa.bindparam("occupied_until"),
        expires_at=sa.bindparam("expiry"),
    )
)
DELETE = prepare(
    sa.delete(allocations).where(
        allocations.c.chain_id == sa.bindparam("chain_id"),
        allocations.c.booking_id == sa.any_(sa.cast(sa.bindparam("ids"), sa.ARRAY(allocations.c.booking_id.type))),
    )
)
DUE = prepare(
    sa.select(allocations.c.booking_id)
    .where(allocations.c.chain_id == sa.bindparam("chain_id"), allocations.c.expires_at <= sa.bindparam("now"))
    .order_by(allocations.c.expires_at)
    .limit(MOST_EXPIRED_AT_ONCE)
)


@dataclass(frozen=True, slots=True)
class Taken:
    """Time of a person, buffers included: from step `first` to before step `last` (since 1970)."""

    staff_id: str
    first: int
    last: int

    @classmethod
    def by(cls, booking: Mapping[str, Any] | asyncpg.Record) -> Taken:
        """The time a booking was given."""
        starts_at: datetime = booking["starts_at"]
        ends_at: datetime = booking["ends_at"]
        return cls(
            booking["staff_id"],
            calendar.last_step(starts_at - timedelta(minutes=booking["buffer_before_minutes"])),
            calendar.first_step(ends_at + timedelta(minutes=booking["buffer_after_minutes"])),
        )

    def masks(self) -> dict[tuple[str, date], int]:
        """Its bits, by person and UTC day, in order."""
        return {(self.staff_id, calendar.date_of(day)): mask for day, mask in calendar.day_masks(self.first, self.last)}


def bits(mask: int) -> BitString:
    """A day's bitmap as the database keeps it: the last bit is midnight."""
    return BitString.frombytes(mask.to_bytes(DAY_BYTES, "big"), DAY_BITS)


def number(value: BitString) -> int:
    """A day's bitmap as a number: bit 0 is midnight."""
    return int.from_bytes(value.bytes, "big")


async def claim(unit: Unit, booking: Mapping[str, Any]) -> bool:
    """Take a person's time for a new booking and write the booking; False, and nothing done, when it is taken.

    Raises asyncpg.ExclusionViolationError when bits and allocations disagree, which would be a fault of ours.
    """
    taken = Taken.by(booking)
    masks = taken.masks()
    days: list[date] | None = await unit.value(
        statements.CLAIM,
        **booking,
        days=[day for _, day in masks],
        masks=[bits(mask) for mask in masks.values()],
        occupied_from=calendar.moment_of(taken.first),
        occupied_until=calendar.moment_of(taken.last),
    )
    if days is not None and len(days) == len(masks):
        return True
    if days:
        await _change(unit, {key: mask for key, mask in masks.items() if key[1] in days}, {})
    return False


async def move(unit: Unit, booking_id: str, old: Taken, new: Taken, expires_at: datetime | None) -> bool:
    """Swap a booking's time for another; False, and nothing done, when the other one is taken."""
    out, into = old.masks(), new.masks()
    keys = sorted({*out, *into})
    staff_ids, days = [key[0] for key in keys], [key[1] for key in keys]
    await unit.run(statements.ENSURE_DAYS, staff_ids=staff_ids, days=days)
    for row in await unit.all(statements.LOCK_DAYS, staff_ids=staff_ids, days=days):
        key = (row["staff_id"], row["day"])
        if number(row["busy"]) & ~out.get(key, 0) & into.get(key, 0):
            return False
    await _change(unit, out, into)
    await unit.run(
        MOVE,
        id=booking_id,
        to_staff_id=new.staff_id,
        occupied_from=calendar.moment_of(new.first),
        occupied_until=calendar.moment_of(new.last),
        expiry=expires_at,
    )
    return True


async def keep(unit: Unit, booking_id: str) -> None:
    """Make a held time a lasting one."""
    await unit.run(KEEP, id=booking_id)


async def release(unit: Unit, taken: Mapping[str, Taken]) -> None:
    """Give back the time of bookings, by their ids."""
    out: dict[tuple[str, date], int] = {}
    for time in taken.values():
        for key, mask in time.masks().items():
            out[key] = out.get(key, 0) | mask
    await _change(unit, out, {})
    await unit.run(DELETE, ids=list(taken))


async def shorten(unit: Unit, booking_id: str, taken: Taken, last: int) -> None:
    """Give back what a booking has from step `last` on."""
    if last <= taken.first:
        await release(unit, {booking_id: taken})
    elif last < taken.last:
        await _change(unit, Taken(taken.staff_id, last, taken.last).masks(), {})
        await unit.run(SHORTEN, id=booking_id, until=calendar.moment_of(last))


async def expire(unit: Unit, ids: Sequence[str]) -> list[asyncpg.Record]:
    """Let go of those of these bookings whose hold ran out; answers them as they are now."""
    rows = await unit.all(statements.EXPIRE_BOOKINGS, ids=list(ids), now=unit.now)
    if rows:
        await release(unit, {row["id"]: Taken.by(row) for row in rows})
    return rows


async def due(unit: Unit) -> list[str]:
    """Ids of bookings of the chain whose hold ran out, the longest ago first, a bounded number."""
    return [row["booking_id"] for row in await unit.all(DUE, now=unit.now)]


async def _change(unit: Unit, out: Mapping[tuple[str, date], int], into: Mapping[tuple[str, date], int]) -> None:
    keys = sorted({*out, *into})
    await unit.run(
        statements.CHANGE_DAYS,
        staff_ids=[key[0] for key in keys],
        days=[key[1] for key in keys],
        masks_out=[bits(out.get(key, 0)) for key in keys],
        masks_into=[bits(into.get(key, 0)) for key in keys],
    )


def busy_by_staff(
    staff_ids: Iterable[str], days: Iterable[int], bitmaps: Iterable[BitString], first_day: int
) -> dict[str, int]:
    """The busy days of people as one bitmap each, from `first_day` on."""
    found: dict[str, int] = {}
    for staff_id, day, bitmap in zip(staff_ids, days, bitmaps, strict=True):
        found[staff_id] = found.get(staff_id, 0) | (number(bitmap) << (day - first_day) * DAY_BITS)
    return found
