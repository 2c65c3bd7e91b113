"""The one way to time: hold, book, confirm, move, shorten and give back all go through here.

The bits of `resource_days` are the arbiter, for people, rooms, things and customers alike: of several who want the
same bits one sets them, the others wait for that one to commit and then find them set. Rows are locked in one order
everywhere, bookings (by id) before days (by resource and day), so that nobody waits in a circle; where that order
cannot be kept the database says so (40P01) and the call runs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

import asyncpg
import sqlalchemy as sa
from asyncpg import BitString

from chassis.db import prepare
from chassis.unit import Unit
from services.bookings import calendar, statements
from services.bookings.board import OutOfDate, Versions
from services.bookings.models import DAY_BITS, allocations

DAY_BYTES = DAY_BITS // 8
MOST_EXPIRED_AT_ONCE = 500

_of_booking = sa.and_(
    allocations.c.chain_id == sa.bindparam("chain_id"), allocations.c.booking_id == sa.bindparam("id")
)
READ = prepare(sa.select(allocations).where(_of_booking))
READ_ALL = prepare(
    sa.select(allocations).where(
        allocations.c.chain_id == sa.bindparam("chain_id"),
        allocations.c.booking_id == sa.any_(sa.cast(sa.bindparam("ids"), sa.ARRAY(allocations.c.booking_id.type))),
    )
)
KEEP = prepare(sa.update(allocations).where(_of_booking).values(expires_at=sa.bindparam("expiry")))
DELETE = prepare(
    sa.delete(allocations)
    .where(
        allocations.c.chain_id == sa.bindparam("chain_id"),
        allocations.c.booking_id == sa.any_(sa.cast(sa.bindparam("ids"), sa.ARRAY(allocations.c.booking_id.type))),
    )
    .returning(allocations)
)
LENGTHEN = prepare(
    sa.update(allocations)
    .where(
        _of_booking,
        allocations.c.resource_id == sa.bindparam("resource_id"),
        allocations.c.ends_at == sa.bindparam("from"),
        allocations.c.guarded,
    )
    .values(ends_at=sa.bindparam("until"))
)
DUE = prepare(
    sa.select(allocations.c.booking_id)
    .where(allocations.c.chain_id == sa.bindparam("chain_id"), allocations.c.expires_at <= sa.bindparam("now"))
    .group_by(allocations.c.booking_id)
    .order_by(sa.func.min(allocations.c.expires_at))
    .limit(MOST_EXPIRED_AT_ONCE)
)

Masks = dict[tuple[str, date], int]


class Faster(asyncpg.SerializationError):
    """Somebody else took the time first, and there is another one to be had: the call runs again.

    What it had taken of the rest is let go with its transaction. Kept, it would stand in the way of those who wait for
    it while this one waits for theirs.
    """


@dataclass(frozen=True, slots=True)
class Taken:
    """Time of a person, room, thing or customer: from step `first` to before step `last` (since 1970)."""

    resource_id: str
    first: int
    last: int
    guarded: bool = True
    """False: deliberately overbooked; it takes no bits."""

    @classmethod
    def of(cls, row: Mapping[str, Any] | asyncpg.Record) -> Taken:
        """The time an allocation stands for."""
        starts_at: datetime = row["starts_at"]
        return cls(
            row["resource_id"], calendar.last_step(starts_at), calendar.first_step(row["ends_at"]), row["guarded"]
        )


def masks_of(taken: Iterable[Taken]) -> Masks:
    """The bits that stretches of time take, by resource and UTC day, in the order in which rows are locked."""
    found: Masks = {}
    for each in taken:
        if each.guarded:
            for day, mask in calendar.day_masks(each.first, each.last):
                key = (each.resource_id, calendar.date_of(day))
                found[key] = found.get(key, 0) | mask
    return dict(sorted(found.items()))


def bits(mask: int) -> BitString:
    """A day's bitmap as the database keeps it: the last bit is midnight."""
    return BitString.frombytes(mask.to_bytes(DAY_BYTES, "big"), DAY_BITS)


def number(value: BitString) -> int:
    """A day's bitmap as a number: bit 0 is midnight."""
    return int.from_bytes(value.bytes, "big")


async def claim(
    unit: Unit, booking: Mapping[str, Any], taken: Sequence[Taken], versions: Versions | None = None
) -> set[str]:
    """Take time for a new booking and write the booking; answers whose time somebody else has, and then did nothing.

    `versions` are those of the board that says who is there then. Raises OutOfDate when they are not the newest, and
    asyncpg.ExclusionViolationError when bits and allocations disagree, which would be a fault of ours.
    """
    masks = masks_of(taken)
    # What a booking does not say is null.
    values = {**dict.fromkeys(statements.NEW_BOOKING), **booking}
    row = await unit.one(statements.CLAIM, **values, **arguments(taken), versions=versions)
    assert row is not None
    if not row["is_current"]:
        raise OutOfDate("what decides about a branch's time changed")
    got = set(zip(row["resource_ids"] or (), row["days"] or (), strict=True))
    lost = {key[0] for key in masks if key not in got}
    if lost and got:
        await _change(unit, {key: mask for key, mask in masks.items() if key in got}, {})
    return lost


def arguments(taken: Sequence[Taken]) -> dict[str, list[Any]]:
    """What the statement that claims time wants to know of it."""
    masks = masks_of(taken)
    return {
        **_columns(taken),
        "mask_ids": [key[0] for key in masks],
        "mask_days": [key[1] for key in masks],
        "masks": [bits(mask) for mask in masks.values()],
    }


def _columns(taken: Sequence[Taken]) -> dict[str, list[Any]]:
    return {
        "taken_ids": [each.resource_id for each in taken],
        "taken_from": [calendar.moment_of(each.first) for each in taken],
        "taken_until": [calendar.moment_of(each.last) for each in taken],
        "taken_guarded": [each.guarded for each in taken],
    }


async def of_bookings(unit: Unit, ids: Sequence[str]) -> dict[str, list[Taken]]:
    """The time that each of several bookings has."""
    found: dict[str, list[Taken]] = {identifier: [] for identifier in ids}
    for row in await unit.all(READ_ALL, ids=list(ids)):
        found[row["booking_id"]].append(Taken.of(row))
    return found


async def of_booking(unit: Unit, booking_id: str) -> list[Taken]:
    """The time a booking has."""
    return [Taken.of(row) for row in await unit.all(READ, id=booking_id)]


async def move(
    unit: Unit, booking_id: str, old: Sequence[Taken], new: Sequence[Taken], expires_at: datetime | None
) -> set[str]:
    """Swap a booking's time for another; answers whose time somebody else has, and then did nothing."""
    clashes = await lock(unit, old, new)
    if not clashes:
        await swap(unit, [Move(booking_id, old, new, expires_at)])
    return {resource_id for resource_id, _ in clashes}


@dataclass(frozen=True, slots=True)
class Move:
    """The time that a booking, or whatever else owns time, has and is to have instead."""

    owner_id: str
    old: Sequence[Taken]
    new: Sequence[Taken]
    expires_at: datetime | None = None


async def lock(unit: Unit, old: Iterable[Taken], new: Iterable[Taken]) -> Masks:
    """Lock all days of times to be given back and taken, until the end of the unit.

    Answers the bits of the new times that somebody else has.
    """
    out, into = masks_of(old), masks_of(new)
    keys = sorted({*out, *into})
    resource_ids, days = [key[0] for key in keys], [key[1] for key in keys]
    await unit.run(statements.ENSURE_DAYS, resource_ids=resource_ids, days=days)
    clashes = {}
    for row in await unit.all(statements.LOCK_DAYS, resource_ids=resource_ids, days=days):
        key = (row["resource_id"], row["day"])
        clash = number(row["busy"]) & ~out.get(key, 0) & into.get(key, 0)
        if clash:
            clashes[key] = clash
    return clashes


def is_clashing(taken: Iterable[Taken], clashes: Masks) -> bool:
    """Whether one of these times is among those that somebody else has."""
    return any(mask & clashes.get(key, 0) for key, mask in masks_of(taken).items())


async def swap(unit: Unit, moves: Sequence[Move]) -> None:
    """Swap times for others, all at once: a new one may be another's old one. `lock` said that nobody has them."""
    await _change(
        unit,
        masks_of(each for move in moves for each in move.old),
        masks_of(each for move in moves for each in move.new),
    )
    await unit.run(DELETE, ids=[move.owner_id for move in moves])
    await unit.run(
        statements.ALLOCATE,
        ids=[move.owner_id for move in moves for _ in move.new],
        expiries=[move.expires_at for move in moves for _ in move.new],
        **_columns([each for move in moves for each in move.new]),
    )
    await _guard(unit, [each for move in moves for each in move.old])


async def lengthen(unit: Unit, booking_id: str, more: Taken) -> bool:
    """Take more time of a thing for what has it already; False when somebody else has some of it, and nothing is done.

    What follows on the end of a stretch becomes one with it.
    """
    if await lock(unit, [], [more]):
        return False
    await _change(unit, {}, masks_of([more]))
    first, last = calendar.moment_of(more.first), calendar.moment_of(more.last)
    parameters = {"resource_id": more.resource_id, "from": first, "until": last}
    if not await unit.run(LENGTHEN, id=booking_id, **parameters):
        await unit.run(statements.ALLOCATE, ids=[booking_id], expiries=[None], **_columns([more]))
    return True


async def keep(unit: Unit, booking_id: str, expires_at: datetime | None = None) -> None:
    """Make a held time a lasting one, or one that is held until another moment."""
    await unit.run(KEEP, id=booking_id, expiry=expires_at)


async def release(unit: Unit, booking_ids: Sequence[str]) -> None:
    """Give back the time of bookings."""
    rows = await unit.all(DELETE, ids=list(booking_ids))
    given_back = [Taken.of(row) for row in rows]
    await _change(unit, masks_of(given_back), {})
    await _guard(unit, given_back)


async def _guard(unit: Unit, given_back: Sequence[Taken]) -> None:
    """Give what was overbooked the time that is free now: it is one booking's only, and nobody else's to be booked."""
    free = [each for each in given_back if each.guarded]
    if not free:
        return
    rows = await unit.all(
        statements.READ_UNGUARDED,
        resource_ids=list({each.resource_id for each in free}),
        given_from=calendar.moment_of(min(each.first for each in free)),
        given_until=calendar.moment_of(max(each.last for each in free)),
        now=unit.now,
    )
    for row in rows:
        wanted = replace(Taken.of(row), guarded=True)
        if not await lock(unit, (), [wanted]):
            await _change(unit, {}, masks_of([wanted]))
            await unit.run(
                statements.GUARD,
                booking_id=row["booking_id"],
                resource_id=row["resource_id"],
                starts_at=row["starts_at"],
            )


async def shorten(unit: Unit, booking_id: str, until: int, after: Mapping[str, int] | None = None) -> None:
    """Give back what a booking has from step `until` on; who is in `after` keeps as many steps more."""
    old = await of_booking(unit, booking_id)
    ends = {each.resource_id: until + (after or {}).get(each.resource_id, 0) for each in old}
    new = [
        replace(each, last=min(each.last, ends[each.resource_id]))
        for each in old
        if each.first < ends[each.resource_id]
    ]
    if new != old:
        await swap(unit, [Move(booking_id, old, new)])


async def expire(unit: Unit, ids: Sequence[str]) -> list[asyncpg.Record]:
    """Let go of those of these bookings whose hold ran out; answers them as they are now."""
    rows = await unit.all(statements.EXPIRE_BOOKINGS, ids=list(ids), now=unit.now)
    if rows:
        await release(unit, [row["id"] for row in rows])
    return rows


async def due(unit: Unit) -> list[str]:
    """Ids of bookings of the chain whose hold ran out, the longest ago first, a bounded number."""
    return [row["booking_id"] for row in await unit.all(DUE, now=unit.now)]


async def _change(unit: Unit, out: Masks, into: Masks) -> None:
    keys = sorted({*out, *into})
    if keys:
        await unit.run(
            statements.CHANGE_DAYS,
            resource_ids=[key[0] for key in keys],
            days=[key[1] for key in keys],
            masks_out=[bits(out.get(key, 0)) for key in keys],
            masks_into=[bits(into.get(key, 0)) for key in keys],
        )


def busy_by_resource(
    resource_ids: Iterable[str], days: Iterable[int], bitmaps: Iterable[BitString], first_day: int
) -> dict[str, int]:
    """The busy days of each as one bitmap, from `first_day` on."""
    found: dict[str, int] = {}
    for resource_id, day, bitmap in zip(resource_ids, days, bitmaps, strict=True):
        found[resource_id] = found.get(resource_id, 0) | (number(bitmap) << (day - first_day) * DAY_BITS)
    return found
