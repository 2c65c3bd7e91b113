"""What decides about time at a branch besides what is taken: services, people, shifts, resources, rules.

It changes a few times a day and is asked for hundreds of times a second. So each process keeps it, for as long as the
versions it was read at are the newest: every statement that reads busy time reads the versions with it, in the same
snapshot, and who finds another version reads the board anew. Triggers count the versions (migration 0002), and a
version comes from a sequence, so that one seen in a transaction that was undone never stands for anything else.

The versions are read before the rest: a board is never older than its versions say. It may be newer, and is then read
once more than needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg
from foyer.bookings.v1 import catalogue_pb2, policies_pb2

from chassis.unit import Absent, Unit
from services.bookings import calendar, statements
from services.bookings.calendar import Days

MOST_BOARDS = 256
MOST_CATALOGUES = 64
MOST_BITMAPS = 5000
FOREVER_DAY = 1_000_000
Versions = tuple[int, int]
Stretches = tuple[tuple[int, int], ...]
"""From a first step to before a last one (since 1970)."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A service as the catalogue has it."""

    id: str
    name: str
    version: int
    duration_minutes: int
    buffer_before_minutes: int
    buffer_after_minutes: int
    price_amount: int
    currency: str
    branch_price_amount: int
    """Its price at the branch, before rules."""
    required_skills: tuple[str, ...]
    deposit_amount: int | None
    deposit_percent: int | None
    offered_here: bool
    active: bool
    plan: catalogue_pb2.ServicePlan
    price_rules: tuple[catalogue_pb2.PriceRule, ...]
    offer: catalogue_pb2.OfferRules
    add_on: catalogue_pb2.AddOnRules | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A service in the chain's catalogue, with what differs at some branches."""

    service: Offered
    """As it is where nothing differs."""
    prices: Mapping[str, int]
    branch_ids: frozenset[str]
    """Branches that offer it; empty: all."""

    def at(self, branch_id: str) -> Offered:
        """The service as a branch offers it: the same object for all at which nothing differs."""
        is_here = not self.branch_ids or branch_id in self.branch_ids
        price = self.prices.get(branch_id, self.service.price_amount)
        if is_here and price == self.service.branch_price_amount:
            return self.service
        return replace(self.service, branch_price_amount=price, offered_here=is_here)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who works at the branch, or did."""

    id: str
    name: str
    grade: int
    active: bool
    here: bool
    skills: Mapping[str, tuple[int, int]]
    """Skill → grade, and the last day (since 1970) it holds."""
    terms: Mapping[str, catalogue_pb2.StaffTerms]
    periods: tuple[tuple[int, int, str], ...]
    dated: Days
    away: Stretches

    def is_able(self, skills: Sequence[str], min_grade: int) -> bool:
        """Whether they have all these skills in that grade, on some day at least."""
        return all(skill in self.skills and self.skills[skill][0] >= min_grade for skill in skills)

    def able_until(self, skills: Sequence[str]) -> int:
        """The last day (since 1970) on which they have all these skills."""
        return min((self.skills[skill][1] for skill in skills), default=FOREVER_DAY)


@dataclass(frozen=True, slots=True)
class Thing:
    """A room or thing of the branch."""

    id: str
    name: str
    type_id: str
    active: bool
    blocked: Stretches


@dataclass(slots=True)
class Board:
    """All of a branch, as of its versions."""

    versions: Versions
    day: int
    """The day (UTC, since 1970) it was read: what lies before it is not in it."""
    branch_id: str
    time_zone: str
    active: bool
    opening_hours: str | None
    holidays: str
    swapped: tuple[tuple[int, int], ...]
    services: Mapping[str, Offered]
    people: Mapping[str, Person]
    things: Mapping[str, Thing]
    type_names: Mapping[str, str]
    policy: policies_pb2.BookingPolicy
    plans: dict[Any, Any] = field(default_factory=dict)
    """What plan.py compiled from it, by what was asked for."""
    _bitmaps: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def open(self, first_day: int, days: int) -> int:
        """When the branch is open."""
        return calendar.opening_bitmap(self.opening_hours, self.holidays, self.swapped, self.time_zone, first_day, days)

    def works(self, person: Person, first_day: int, days: int) -> int:
        """When somebody works here: shifts without approved leave."""
        key = (person.id, first_day, days)
        known = self._bitmaps.get(key)
        if known is None:
            known = calendar.shift_bitmap(
                person.periods, person.dated, self.swapped, self.time_zone, first_day, days
            ) & ~_cover(person.away, first_day, days)
            self._keep(key, known)
        return known

    def usable(self, thing: Thing, first_day: int, days: int) -> int:
        """When a room or thing is in service."""
        everything = (1 << days * calendar.DAY_STEPS) - 1
        return everything & ~_cover(thing.blocked, first_day, days) if thing.blocked else everything

    def until(self, day: int, first_day: int, days: int) -> int:
        """The local days up to `day` (since 1970), included."""
        if day >= first_day + days + 1:
            return (1 << days * calendar.DAY_STEPS) - 1
        end = calendar.local_moment(calendar.date_of(day), calendar.DAY_MINUTES, calendar.zone_of(self.time_zone))
        return calendar.span(0, calendar.last_step(end), first_day, days)

    def _keep(self, key: tuple[Any, ...], bitmap: int) -> None:
        if len(self._bitmaps) >= MOST_BITMAPS:
            self._bitmaps.clear()
        self._bitmaps[key] = bitmap


def _cover(stretches: Stretches, first_day: int, days: int) -> int:
    bitmap = 0
    for first, last in stretches:
        bitmap |= calendar.span(first, last, first_day, days)
    return bitmap


# --- kept by the process ---

_boards: OrderedDict[tuple[str, str], Board] = OrderedDict()
_catalogues: OrderedDict[str, tuple[int, Sequence[Listed]]] = OrderedDict()


def kept(unit: Unit, branch_id: str) -> Board | None:
    """The board this process has of a branch; whether it is the newest shows with the next read of busy time."""
    board = _boards.get((unit.chain_id, branch_id))
    if board is None or board.day != calendar.day_number(unit.now):
        return None
    _boards.move_to_end((unit.chain_id, branch_id))
    return board


async def of_branch(unit: Unit, branch_id: str) -> Board:
    """The board of a branch that holds now, at the price of one round trip. Raises Absent for an unknown branch."""
    board = kept(unit, branch_id)
    if board is not None:
        row = await unit.one(statements.READ_VERSIONS, branch_id=branch_id)
        assert row is not None
        if board.versions == (row["chain_version"], row["branch_version"]):
            return board
    return await load(unit, branch_id)


async def load(unit: Unit, branch_id: str) -> Board:
    """Read a board anew. Raises Absent for an unknown branch."""
    versions = await unit.one(statements.READ_VERSIONS, branch_id=branch_id)
    branch = await unit.one(statements.READ_BRANCH, branch_id=branch_id)
    if versions is None or branch is None:
        raise Absent("branch", branch_id, field="branch_id")
    # A night shift or a zone far from UTC belongs to the day before.
    since = (unit.now - timedelta(days=3)).date()
    listed = await _catalogue(unit, versions["chain_version"])
    people = await _people(unit, branch_id, since)
    things = await unit.all(statements.READ_THINGS, branch_id=branch_id)
    blocks = await unit.all(statements.READ_BLOCKS, branch_id=branch_id, since=since)
    types = await unit.all(statements.READ_TYPES)
    board = Board(
        versions=(versions["chain_version"], versions["branch_version"]),
        day=calendar.day_number(unit.now),
        branch_id=branch_id,
        time_zone=branch["time_zone"],
        active=branch["active"],
        opening_hours=branch["opening_hours"],
        holidays=branch["holidays"],
        swapped=calendar.parse_swapped(branch["swapped_days"]),
        services={each.service.id: each.at(branch_id) for each in listed},
        people=people,
        things={row["id"]: _thing(row, blocks) for row in things},
        type_names={row["id"]: row["name"] for row in types},
        policy=policy_of(branch["policy"], branch["policy_version"]),
    )
    _boards[unit.chain_id, branch_id] = board
    while len(_boards) > MOST_BOARDS:
        _boards.popitem(last=False)
    return board


class OutOfDate(asyncpg.SerializationError):
    """What decides about time changed since it was read: the call runs again."""


async def hold(unit: Unit, known: Board) -> None:
    """Keep what decides about a branch's time as it is until the end of the unit. Raises OutOfDate when it changed."""
    rows = await unit.all(statements.LOCK_VERSIONS, branch_id=known.branch_id)
    if any(row["version"] not in known.versions for row in rows):
        raise OutOfDate("what decides about a branch's time changed")


def policy_of(stored: bytes | None, version: int | None) -> policies_pb2.BookingPolicy:
    """A chain's rules, with what comes with the product where it set none."""
    policy = policies_pb2.BookingPolicy(
        slot_step_minutes=15,
        horizon_days=400,
        hold_minutes=10,
        assignment=policies_pb2.ASSIGNMENT_STRATEGY_LOAD,
        fairness_days=28,
        late_minutes=10,
        offer_minutes=30,
        waiting_order=policies_pb2.WAITING_ORDER_FIRST_COME,
        change=policies_pb2.ChangePolicy(),
    )
    if stored is not None:
        policy = policies_pb2.BookingPolicy.FromString(stored)
        policy.version = version or 0
    return policy


async def _catalogue(unit: Unit, version: int) -> Sequence[Listed]:
    """The catalogue of the chain, which all its branches share; read once for each version of the chain."""
    known = _catalogues.get(unit.chain_id)
    if known is None or known[0] != version:
        known = _catalogues[unit.chain_id] = (
            version,
            tuple(_listed(row) for row in await unit.all(statements.READ_SERVICES)),
        )
        while len(_catalogues) > MOST_CATALOGUES:
            _catalogues.popitem(last=False)
    _catalogues.move_to_end(unit.chain_id)
    return known[1]


def _listed(row: asyncpg.Record) -> Listed:
    service = Offered(
        id=row["id"],
        name=row["name"],
        version=row["version"],
        duration_minutes=row["duration_minutes"],
        buffer_before_minutes=row["buffer_before_minutes"],
        buffer_after_minutes=row["buffer_after_minutes"],
        price_amount=row["price_amount"],
        currency=row["currency"],
        branch_price_amount=row["price_amount"],
        required_skills=tuple(row["required_skills"]),
        deposit_amount=row["deposit_amount"],
        deposit_percent=row["deposit_percent"],
        offered_here=True,
        active=row["active"],
        plan=catalogue_pb2.ServicePlan.FromString(row["plan"] or b""),
        price_rules=tuple(catalogue_pb2.PriceRules.FromString(row["price_rules"] or b"").rules),
        offer=catalogue_pb2.OfferRules.FromString(row["offer"] or b""),
        add_on=None if row["add_on"] is None else catalogue_pb2.AddOnRules.FromString(row["add_on"]),
    )
    prices = dict(zip(row["price_branch_ids"], row["price_branch_amounts"], strict=True))
    return Listed(service, prices, frozenset(row["branch_ids"]))


async def _people(unit: Unit, branch_id: str, since: date) -> dict[str, Person]:
    rows = await unit.all(statements.READ_PEOPLE, branch_id=branch_id)
    periods: dict[str, list[tuple[int, int, str]]] = {}
    for row in await unit.all(statements.READ_SHIFTS, branch_id=branch_id, since=since):
        until = FOREVER_DAY if row["until_day"] is None else row["until_day"]
        periods.setdefault(row["staff_id"], []).append((row["from_day"], until, row["week"]))
    dated: dict[str, list[tuple[int, str]]] = {}
    for row in await unit.all(statements.READ_DATED, branch_id=branch_id, since=since):
        dated.setdefault(row["staff_id"], []).append((row["day"], row["week"]))
    away: dict[str, list[tuple[int, int]]] = {}
    for row in await unit.all(statements.READ_LEAVES, ids=[row["id"] for row in rows], since=since):
        away.setdefault(row["staff_id"], []).append(_steps(row))
    return {
        row["id"]: Person(
            id=row["id"],
            name=row["name"],
            grade=row["grade"],
            active=row["active"],
            here=branch_id in row["branch_ids"],
            skills=_skills(row),
            terms={
                terms.service_id: terms for terms in catalogue_pb2.StaffTermsList.FromString(row["terms"] or b"").terms
            },
            periods=tuple(sorted(periods.get(row["id"], ()))),
            dated=tuple(sorted(dated.get(row["id"], ()))),
            away=tuple(sorted(away.get(row["id"], ()))),
        )
        for row in rows
    }


def _skills(row: asyncpg.Record) -> dict[str, tuple[int, int]]:
    skills = dict.fromkeys(row["skills"], (1, FOREVER_DAY))
    stored = catalogue_pb2.Qualifications.FromString(row["qualifications"] or b"")
    for qualification in stored.qualifications:
        if qualification.skill in skills:
            until = calendar.days_of(qualification.expires_on) if qualification.expires_on else FOREVER_DAY
            skills[qualification.skill] = (qualification.grade or 1, until)
    return skills


def _thing(row: asyncpg.Record, blocks: Sequence[asyncpg.Record]) -> Thing:
    blocked = tuple(sorted(_steps(block) for block in blocks if block["resource_id"] == row["id"]))
    return Thing(row["id"], row["name"], row["resource_type_id"], row["active"], blocked)


def _steps(row: asyncpg.Record) -> tuple[int, int]:
    """All steps that a stretch touches."""
    starts_at: datetime = row["starts_at"]
    return calendar.last_step(starts_at), calendar.first_step(row["ends_at"])
