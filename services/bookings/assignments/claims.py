"""Offers to claim (或签): a booking is offered to one group after the other, and the first who claims it has it.

Whoever the booking was given to keeps its time free meanwhile: a booking that nobody claims is never lost. A claim is a
step of the offer's own row: of several at once one finds it open.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import assignments_pb2 as pb

from chassis.app import Context
from chassis.db import Prepared, prepare, prepare_sql, prepared_once, uuid_type
from chassis.errors import Refusal, not_found
from chassis.ids import new_id
from chassis.pages import page_limit, split_page
from chassis.rows import enum_name, projector
from chassis.unit import Unit, system_caller
from services.bookings import board as boards
from services.bookings import domain, one_by_one
from services.bookings import plan as plans
from services.bookings.assignments.models import claim_offers
from services.bookings.board import Board
from services.bookings.common import after_id
from services.bookings.people import takeover
from services.bookings.records import check_known
from services.bookings.rows import READ, SELECT_FOR_UPDATE, WRITE, stored_lines

CLAIM = "bookings.claim"
MOST_CHAINS = 100
OFFERABLE = frozenset({"held", "confirmed", "checked_in"})

to_offer = projector(pb.ClaimOffer, steps=lambda row: pb.OfferBookingRequest.FromString(row["steps"]).steps)
_one = sa.and_(claim_offers.c.chain_id == sa.bindparam("chain_id"), claim_offers.c.id == sa.bindparam("id"))
CHANGED = ("status", "step", "candidate_ids", "step_ends_at", "claimed_by", "claimed_at")
INSERT = prepare(sa.insert(claim_offers).returning(claim_offers))
SELECT_OFFER = prepare(sa.select(claim_offers).where(_one))
LOCK_OFFER = prepare(sa.select(claim_offers).where(_one).with_for_update())
UPDATE = prepare(
    sa.update(claim_offers)
    .where(_one)
    .values(
        {name: sa.bindparam(f"new_{name}", type_=claim_offers.c[name].type) for name in CHANGED}
        | {"version": claim_offers.c.version + 1}
    )
    .returning(claim_offers)
)
DUE = prepare_sql(
    """
select id from claim_offers where chain_id = $1::uuid and status = 'open' and step_ends_at <= $2::timestamptz
order by step_ends_at limit 200
""",
    "chain_id",
    "now",
)
CHAINS_WITH_DUE = prepare_sql(
    "select distinct chain_id from claim_offers where status = 'open' and step_ends_at <= $1::timestamptz limit 100",
    "now",
)


@prepared_once
def _list(filters: frozenset[str]) -> Prepared:
    table = claim_offers
    query = sa.select(table).where(table.c.chain_id == sa.bindparam("chain_id"))
    if "branch_id" in filters:
        query = query.where(table.c.branch_id == sa.bindparam("branch_id"))
    if "allowed" in filters:
        query = query.where(table.c.branch_id == sa.any_(sa.bindparam("allowed", type_=sa.ARRAY(uuid_type()))))
    if "staff_id" in filters:
        query = query.where(
            table.c.status == "open", sa.bindparam("staff_id", type_=uuid_type()) == sa.any_(table.c.candidate_ids)
        )
    if "status" in filters:
        query = query.where(table.c.status == sa.bindparam("status"))
    if "after" in filters:
        query = query.where(table.c.id < sa.bindparam("after", type_=uuid_type()))
    return prepare(query.order_by(table.c.id.desc()).limit(sa.bindparam("limit", type_=sa.Integer())))


async def offer(request: pb.OfferBookingRequest, unit: Unit) -> pb.ClaimOffer:
    """Offer a booking. Raises Refusal ALREADY_OFFERED, WRONG_STATE, NOT_FOUND, NOT_BOOKABLE: nobody could claim it."""
    row = await unit.one(SELECT_FOR_UPDATE, id=request.id)
    if row is None:
        raise not_found("booking", "id")
    unit.check_branch(row["branch_id"], WRITE)
    status = domain.effective_status(row["status"], row["expires_at"], unit.now)
    if status not in OFFERABLE:
        raise Refusal("WRONG_STATE", status=status)
    if row["class_session_id"] is not None:
        raise domain.not_bookable("in_class", [])
    board = await boards.of_branch(unit, row["branch_id"])
    for index, step in enumerate(request.steps):
        for position, identifier in enumerate(step.staff_ids):
            if identifier.lower() not in board.people:
                raise not_found("staff", f"steps[{index}].staff_ids[{position}]")
    found = _group(board, row, request.steps, 0)
    if found is None:
        raise domain.not_bookable("nobody", [])
    number, people = found
    try:
        made = await unit.one(
            INSERT,
            id=new_id(),
            booking_id=row["id"],
            branch_id=row["branch_id"],
            status="open",
            steps=pb.OfferBookingRequest(steps=request.steps).SerializeToString(),
            step=number,
            candidate_ids=people,
            step_ends_at=unit.now + timedelta(minutes=request.steps[number].minutes),
            claimed_by=None,
            claimed_at=None,
            version=1,
            created_at=unit.now,
        )
    except asyncpg.UniqueViolationError:
        raise Refusal("ALREADY_OFFERED") from None
    assert made is not None
    return _told(unit, made, pb.ClaimOfferOpened)


def candidates(board: Board, booking: asyncpg.Record, step: pb.OfferStep) -> list[str]:
    """Who of a group may lead a booking: able, at the branch, and with what the step asks for besides."""
    able = plans.leaders(board, stored_lines(booking)[0].service_id)
    named = [identifier.lower() for identifier in step.staff_ids]
    return [
        person.id
        for person in able
        if (not named or person.id in named)
        and person.is_able(tuple(step.skills), 0)
        and person.grade >= step.min_grade
    ]


def _group(
    board: Board, booking: asyncpg.Record, steps: Sequence[pb.OfferStep], number: int
) -> tuple[int, list[str]] | None:
    """The first group from a number on that has anybody, and who they are: nobody waits for a group of none."""
    for index in range(number, len(steps)):
        people = candidates(board, booking, steps[index])
        if people:
            return index, people
    return None


async def find(request: pb.ListClaimOffersRequest, unit: Unit) -> pb.ListClaimOffersResponse:
    """A page of offers, newest first."""
    limit = page_limit(request.page_size)
    parameters: dict[str, Any] = {}
    for name in ("branch_id", "staff_id"):
        if request.HasField(name):
            parameters[name] = getattr(request, name)
    if request.HasField("status"):
        parameters["status"] = enum_name(pb.ClaimOffer, "status", request.status)
    allowed = unit.allowed_branches(READ)
    if allowed is not None:
        parameters["allowed"] = allowed
    after = after_id(request.page_token)
    if after is not None:
        parameters["after"] = after
    rows = await unit.all(_list(frozenset(parameters)), **parameters, limit=limit + 1)
    if not rows:
        await check_known(unit, parameters.get("branch_id"), parameters.get("staff_id"), None)
    page, token = split_page(rows, limit, lambda row: (row["id"],))
    return pb.ListClaimOffersResponse(offers=[to_offer(row) for row in page], next_page_token=token)


async def get(request: pb.GetClaimOfferRequest, unit: Unit) -> pb.ClaimOffer:
    """Read an offer. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT_OFFER, id=request.id)
    if row is None:
        raise not_found("claim_offer", "id")
    unit.check_branch(row["branch_id"], READ)
    return to_offer(row)


async def claim(request: pb.ClaimBookingRequest, unit: Unit) -> pb.ClaimOffer:
    """Take a booking that is on offer.

    Raises Refusal OFFER_GONE, NOT_OFFERED; SLOT_TAKEN or NOT_BOOKABLE when whoever claims it is not free then.
    """
    row = await unit.one(LOCK_OFFER, id=request.id)
    if row is None:
        raise not_found("claim_offer", "id")
    unit.check_branch(row["branch_id"], CLAIM)
    staff_id = request.staff_id.lower() if request.HasField("staff_id") else unit.caller.staff_id
    if staff_id != unit.caller.staff_id:
        unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    if row["status"] != "open":
        raise Refusal("OFFER_GONE", status=row["status"])
    if staff_id not in row["candidate_ids"]:
        raise Refusal("NOT_OFFERED")
    booking = await unit.one(SELECT_FOR_UPDATE, id=row["booking_id"])
    assert booking is not None
    status = domain.effective_status(booking["status"], booking["expires_at"], unit.now)
    if status not in OFFERABLE:
        raise Refusal("OFFER_GONE", status="withdrawn")
    if booking["staff_id"] != staff_id:
        await takeover.hand_over(unit, booking, status, booking["staff_id"], staff_id)
    claimed = await _write(unit, row, status="claimed", claimed_by=staff_id, claimed_at=unit.now)
    return _told(unit, claimed, pb.ClaimOfferClaimed)


async def withdraw(request: pb.WithdrawClaimOfferRequest, unit: Unit) -> pb.ClaimOffer:
    """Take an offer back. Raises Refusal OFFER_GONE, NOT_FOUND."""
    row = await unit.one(LOCK_OFFER, id=request.id)
    if row is None:
        raise not_found("claim_offer", "id")
    unit.check_branch(row["branch_id"], WRITE)
    unit.check_version(row["version"])
    if row["status"] != "open":
        raise Refusal("OFFER_GONE", status=row["status"])
    return to_offer(await _write(unit, row, status="withdrawn"))


async def advance(unit: Unit, offer_id: str) -> None:
    """Ask the next group when the time of one is over; after the last one tell who has to see to it."""
    row = await unit.one(LOCK_OFFER, id=offer_id)
    if row is None or row["status"] != "open" or row["step_ends_at"] > unit.now:
        return
    booking = await unit.one(SELECT_FOR_UPDATE, id=row["booking_id"])
    assert booking is not None
    if domain.effective_status(booking["status"], booking["expires_at"], unit.now) not in OFFERABLE:
        await _write(unit, row, status="withdrawn")
        return
    steps = pb.OfferBookingRequest.FromString(row["steps"]).steps
    found = _group(await boards.of_branch(unit, row["branch_id"]), booking, steps, row["step"] + 1)
    if found is None:
        _told(unit, await _write(unit, row, status="escalated"), pb.ClaimOfferEscalated)
        return
    number, people = found
    changed = await _write(
        unit,
        row,
        step=number,
        candidate_ids=people,
        step_ends_at=unit.now + timedelta(minutes=steps[number].minutes),
    )
    _told(unit, changed, pb.ClaimOfferOpened)


async def advance_offers(context: Context) -> None:
    """The job: every offer whose time is over goes on to its next step."""
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        chains = [row["chain_id"] for row in await unit.all(CHAINS_WITH_DUE, now=unit.now)]
    for chain_id in chains:
        async with context.store.unit(system_caller(context.name, chain_id), read_only=True) as unit:
            due = [row["id"] for row in await unit.all(DUE, now=unit.now)]
        await one_by_one.each(context, "advance-offers", chain_id, due, advance)


async def _write(unit: Unit, row: asyncpg.Record, **changes: Any) -> asyncpg.Record:
    values = {name: row[name] for name in CHANGED} | changes
    changed = await unit.one(UPDATE, id=row["id"], **{f"new_{name}": values[name] for name in CHANGED})
    assert changed is not None
    return changed


def _told(unit: Unit, row: asyncpg.Record, event: Any) -> pb.ClaimOffer:
    found = to_offer(row)
    unit.emit(event(booking_id=found.booking_id, offer=found))
    return found
