"""What goes on at a branch right now: who is busy with whom until when, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import asyncpg
from foyer.bookings.v1 import front_desk_pb2 as pb

from chassis.db import prepare_sql
from chassis.unit import Unit
from services.bookings import board as boards
from services.bookings import calendar, nights
from services.bookings.board import Board
from services.bookings.rows import READ

# Every stretch of the rest of the day, of people, rooms and things; buffers are part of it. Only loans are that long.
STRETCHES = prepare_sql(
    """
select a.resource_id, a.booking_id, a.starts_at, a.ends_at, b.status
from allocations a left join bookings b on b.chain_id = a.chain_id and b.id = a.booking_id
where a.chain_id = $1::uuid and a.resource_id = any($2::uuid[]) and a.starts_at < $4::timestamptz
  and a.starts_at > $3::timestamptz - interval '3 days' and a.ends_at > $3::timestamptz
  and (a.expires_at is null or a.expires_at > $3::timestamptz)
union all
select a.resource_id, a.booking_id, a.starts_at, a.ends_at, null
from loans l join allocations a on a.chain_id = l.chain_id and a.booking_id = l.id
where l.chain_id = $1::uuid and l.returned_at is null and a.resource_id = any($2::uuid[])
  and a.starts_at <= $3::timestamptz - interval '3 days' and a.ends_at > $3::timestamptz
order by resource_id, starts_at limit 20000
""",
    "chain_id",
    "ids",
    "now",
    "until",
)
DONE = frozenset({"completed"})


async def get(request: pb.GetNowRequest, unit: Unit) -> pb.Now:
    """What goes on at a branch. Raises Refusal PERMISSION_DENIED, NOT_FOUND."""
    branch_id = request.branch_id.lower()
    unit.check_branch(branch_id, READ)
    board = await boards.of_branch(unit, branch_id)
    first, last = nights.span(board, nights.today(board, unit.now))
    people = [person for person in board.people.values() if person.active and person.here]
    things = [thing for thing in board.things.values() if thing.active]
    ids = [person.id for person in people] + [thing.id for thing in things]
    rows = await unit.all(STRETCHES, ids=ids, now=unit.now, until=calendar.moment_of(last))
    by_id: dict[str, list[asyncpg.Record]] = {}
    for row in rows:
        if row["status"] not in DONE:
            by_id.setdefault(row["resource_id"], []).append(row)
    days = _at_work(board, first, last, unit.now)
    found = pb.Now(
        staff=[
            _place(person.id, person.name, by_id, unit.now, is_there=days[person.id][1])
            for person in people
            if days[person.id][0] or person.id in by_id
        ],
        resources=[
            _place(thing.id, thing.name, by_id, unit.now, is_there=_is_usable(board, thing.id, unit.now))
            for thing in things
        ],
    )
    found.read_at.FromDatetime(unit.now)
    return found


def _at_work(board: Board, first: int, last: int, now: datetime) -> Mapping[str, tuple[bool, bool]]:
    """For each person whether they work today, and whether they are at work now."""
    first_day = first // calendar.DAY_STEPS
    days = (last - 1) // calendar.DAY_STEPS - first_day + 1
    today = calendar.span(first, last, first_day, days)
    step = calendar.last_step(now)
    moment = calendar.span(step, step + 1, first_day, days)
    found = {}
    for person in board.people.values():
        works = board.works(person, first_day, days)
        found[person.id] = bool(works & today), bool(works & moment)
    return found


def _is_usable(board: Board, thing_id: str, now: datetime) -> bool:
    step = calendar.last_step(now)
    return not any(first <= step < last for first, last in board.things[thing_id].blocked)


def _place(
    identifier: str, name: str, by_id: Mapping[str, list[asyncpg.Record]], now: datetime, *, is_there: bool
) -> pb.Place:
    place = pb.Place(id=identifier, name=name, state=pb.PLACE_STATE_FREE if is_there else pb.PLACE_STATE_OFF)
    for row in by_id.get(identifier, ()):
        if row["starts_at"] <= now:
            in_service = row["status"] in ("in_service", None)
            place.state = pb.PLACE_STATE_IN_SERVICE if in_service else pb.PLACE_STATE_RESERVED
            if row["status"] is not None:
                place.booking_id = row["booking_id"]
            place.busy_until.FromDatetime(row["ends_at"])
        elif not place.HasField("next_at"):
            place.next_at.FromDatetime(row["starts_at"])
            if row["status"] is not None:
                place.next_booking_id = row["booking_id"]
    return place
