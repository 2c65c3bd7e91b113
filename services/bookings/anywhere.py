"""The next free times of a service over all branches that offer it.

Branches are taken in the order in which they could first begin something: when as many times are found as are wanted
and no other branch can be earlier, nobody looks further. The busy time of several branches is read at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import bookings_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.db import prepare, prepare_sql
from chassis.errors import not_found
from chassis.unit import Unit
from services.bookings import availability, calendar, offers, times
from services.bookings.availability import Window
from services.bookings.booking import KNOWN_STAFF, READ, moment_of
from services.bookings.calendar import DAY_STEPS, STEP_SECONDS
from services.bookings.common import check_branches, lower
from services.bookings.models import services
from services.bookings.plan import Plan, Question
from services.bookings.times import Times

BRANCHES_AT_ONCE = 25
DEFAULT_LIMIT = 5
# Days ahead that are looked at, one stretch after the other until enough is found.
LOOK_AHEAD_DAYS = ((0, 1), (1, 7), (7, 35))

READ_SERVICE = prepare(
    sa.select(services.c.branch_ids).where(
        services.c.chain_id == sa.bindparam("chain_id"), services.c.id == sa.bindparam("id")
    )
)
READ_BRANCHES = prepare_sql(
    """
select id::text, name, time_zone, opening_hours, holidays, swapped_days from branches
where chain_id = $1::uuid and active and ($2::uuid[] is null or id = any($2::uuid[]))
order by id limit 1000
""",
    "chain_id",
    "ids",
)
# As READ_BUSY, for several branches at once. Always one row.
READ_BUSY = prepare_sql(
    """
select
  coalesce((select version from board_versions
    where chain_id = $1::uuid and branch_id = '00000000-0000-0000-0000-000000000000'), 0) as chain_version,
  v.branch_ids, v.branch_versions,
  (select array_agg(c.id::text) from customers c where c.chain_id = $1::uuid and c.id = any($3::uuid[]))
    as customer_ids,
  d.busy_ids, d.busy_days, d.busy,
  h.held_ids, h.held_resource_ids, h.held_from, h.held_until
from (values (1)) as one
cross join lateral (
  select array_agg(v.branch_id::text) as branch_ids, array_agg(v.version) as branch_versions
  from board_versions v where v.chain_id = $1::uuid and v.branch_id = any($2::uuid[])
) v
cross join lateral (
  select array_agg(d.resource_id::text) as busy_ids, array_agg(d.day - date '1970-01-01') as busy_days,
    array_agg(d.busy) as busy
  from resource_days d
  where d.chain_id = $1::uuid and d.resource_id = any($4::uuid[]) and d.day >= $5::date and d.day <= $6::date
) d
cross join lateral (
  select array_agg(a.booking_id::text) as held_ids, array_agg(a.resource_id::text) as held_resource_ids,
    array_agg(a.starts_at) as held_from, array_agg(a.ends_at) as held_until
  from (
    select * from allocations where chain_id = $1::uuid and expires_at <= $7::timestamptz and guarded offset 0
  ) a
  where a.resource_id = any($4::uuid[]) and a.starts_at < ($6::date + 1)::timestamptz
    and a.ends_at > $5::date::timestamptz
) h
""",
    "chain_id",
    "branch_ids",
    "customer_ids",
    "ids",
    "first_day",
    "last_day",
    "now",
    name="select_resource_days",
)


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """A free time; they sort by start, then by branch."""

    step: int
    branch_id: str
    duration: int
    staff_ids: tuple[str, ...]


async def find(request: pb.FindNextAvailabilityRequest, unit: Unit) -> pb.NextAvailability:
    """Up to `limit` free times, the earliest first."""
    limit = request.limit or DEFAULT_LIMIT
    asked = max(moment_of(request.starts_from), unit.now) if request.HasField("starts_from") else unit.now
    starts_from = min(asked, unit.now + timedelta(days=availability.HORIZON_DAYS + 1))
    branches = {row["id"]: row for row in await _branches(request, unit)}
    questions = {identifier: offers.question_of(request, identifier) for identifier in branches}
    found: list[Found] = []
    for first_day, last_day in LOOK_AHEAD_DAYS:
        first = calendar.first_step(starts_from + timedelta(days=first_day))
        last = calendar.first_step(starts_from + timedelta(days=last_day))
        opening = sorted((_opens(row, first, last), identifier) for identifier, row in branches.items())
        for batch in _batches([(step, identifier) for step, identifier in opening if step < last]):
            if len(found) == limit and found[-1].step < batch[0][0]:
                break
            for each in await _read(unit, [questions[identifier] for _, identifier in batch], first, last):
                found = sorted([*found, *_first_of(each, first, last, limit, unit.now)])[:limit]
        if len(found) == limit:
            break
    return pb.NextAvailability(slots=[_message(each, branches[each.branch_id]) for each in found])


async def _branches(request: pb.FindNextAvailabilityRequest, unit: Unit) -> Sequence[asyncpg.Record]:
    """Branches that offer the service, of those that are asked for and may be seen."""
    service = await unit.one(READ_SERVICE, id=request.service_id.lower())
    if service is None:
        raise not_found("service", "service_id")
    if request.HasField("staff_id") and not await unit.value(KNOWN_STAFF, id=request.staff_id.lower()):
        raise not_found("staff", "staff_id")
    asked = lower(request.branch_ids)
    for branch_id in asked:
        unit.check_branch(branch_id, READ)
    await check_branches(unit, asked, "branch_ids")
    scopes = [set(scope) for scope in (asked, service["branch_ids"]) if scope]
    allowed = unit.allowed_branches(READ)
    if allowed is not None:
        scopes.append(set(allowed))
    ids = sorted(set.intersection(*scopes)) if scopes else None
    return await unit.all(READ_BRANCHES, ids=ids)


def _opens(row: asyncpg.Record, first: int, last: int) -> int:
    """The first step from `first` on at which a branch is open; `last` when it is not before that."""
    first_day = first // DAY_STEPS
    days = (last - 1) // DAY_STEPS - first_day + 1
    opening = calendar.opening_bitmap(
        row["opening_hours"],
        row["holidays"],
        calendar.parse_swapped(row["swapped_days"]),
        row["time_zone"],
        first_day,
        days,
    )
    left = opening & calendar.span(first, last, first_day, days)
    return first_day * DAY_STEPS + (left & -left).bit_length() - 1 if left else last


def _batches(opening: Sequence[tuple[int, str]]) -> Iterator[Sequence[tuple[int, str]]]:
    for start in range(0, len(opening), BRANCHES_AT_ONCE):
        yield opening[start : start + BRANCHES_AT_ONCE]


async def _read(unit: Unit, questions: Sequence[Question], first: int, last: int) -> list[Times]:
    """What is free at several branches for starts of a stretch of time."""
    read = [await times.compile_newest(unit, question) for question in questions]
    earliest, latest = calendar.moment_of(first), calendar.moment_of(last)
    windows = [times.window_of(known, each, earliest, latest + _longest(each.plans)) for known, each in read]
    first_day = min(window.first_day for window in windows)
    window = Window(first_day, max(window.first_day + window.days for window in windows) - first_day)
    row = await unit.one(
        READ_BUSY,
        branch_ids=[question.branch_id for question in questions],
        customer_ids=questions[0].customer_ids,
        ids=list(dict.fromkeys(itertools.chain.from_iterable(each.ids for _, each in read))),
        first_day=calendar.date_of(window.first_day),
        last_day=calendar.date_of(window.first_day + window.days - 1),
        now=unit.now,
    )
    assert row is not None
    times.check_customers(row["customer_ids"], questions[0])
    versions = dict(zip(row["branch_ids"] or (), row["branch_versions"] or (), strict=True))
    busy, holds = times.busy_and_holds(row, window)
    found = []
    for (known, each), question in zip(read, questions, strict=True):
        if known.versions == (row["chain_version"], versions.get(question.branch_id, 0)):
            found.append(Times(known, question, each, window, busy, holds))
        else:
            found.append(await times.read(unit, question, earliest, latest + availability.MOST_DURATION))
    return found


def _longest(compiled: Sequence[Plan]) -> timedelta:
    return max((plan.duration for plan in compiled), default=0) * timedelta(seconds=STEP_SECONDS)


def _first_of(found: Times, first: int, last: int, limit: int, now: datetime) -> list[Found]:
    """The first free times of a branch that begin in a stretch of time."""
    first = max(first, calendar.first_step(found.earliest(now)))
    last = min(last, calendar.last_step(found.latest(now)) + 1)
    best: list[Found] = []
    for plan in found.compiled.plans:
        free = found.bookable(plan, found.window.span(first, last) & found.grid(plan)).together()
        for step in availability.steps_of(availability.lowest(free, limit)):
            led = found.led(plan, found.bookable(plan, 1 << step))
            ids = tuple(identifier for identifier in led if identifier)
            best.append(Found(found.window.first_step + step, found.board.branch_id, plan.duration, ids))
    return best


def _message(found: Found, row: asyncpg.Record) -> pb.BranchSlot:
    return pb.BranchSlot(
        branch_id=found.branch_id,
        branch_name=row["name"],
        time_zone=row["time_zone"],
        starts_at=Timestamp(seconds=found.step * STEP_SECONDS),
        ends_at=Timestamp(seconds=(found.step + found.duration) * STEP_SECONDS),
        staff_ids=found.staff_ids,
    )
