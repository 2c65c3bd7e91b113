"""The rota (轮钟): who asks for nobody goes to whose turn it is; who is asked for by name (点钟) keeps their turn."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime

from foyer.bookings.v1 import assignments_pb2 as pb

from chassis.db import prepare_sql
from chassis.errors import FieldError, not_found
from chassis.unit import Unit
from services.bookings import board as boards
from services.bookings import calendar, nights
from services.bookings.board import Board
from services.bookings.common import refuse_if
from services.bookings.rows import READ, WRITE, stored_lines

READ_ROTA = prepare_sql(
    """
select r.staff_id, r.turn_count, r.signed_in_at, p.name
from rota_turns r join staff p on p.chain_id = r.chain_id and p.id = r.staff_id
where r.chain_id = $1::uuid and r.branch_id = $2::uuid and r.day = $3::date and r.signed_out_at is null
order by r.turn, r.staff_id limit 500
""",
    "chain_id",
    "branch_id",
    "day",
)
READ_VISITS = prepare_sql(
    """
select staff_id, customer_id, status, starts_at, ends_at, lines, service_id, service_name, price_amount, currency,
  buffer_before_minutes, buffer_after_minutes
from bookings
where chain_id = $1::uuid and branch_id = $2::uuid and starts_at >= $3::timestamptz and starts_at < $4::timestamptz
  and status in ('confirmed', 'checked_in', 'in_service', 'completed') and staff_id is not null
order by starts_at, id limit 5000
""",
    "chain_id",
    "branch_id",
    "starts_from",
    "starts_before",
)
READ_TURNS = prepare_sql(
    """
select staff_id, turn from rota_turns
where chain_id = $1::uuid and branch_id = $2::uuid and day = $3::date and signed_out_at is null
order by turn, staff_id limit 500
""",
    "chain_id",
    "branch_id",
    "day",
)
NEXT_TURN = """
(select coalesce(max(turn), 0) + 1 from rota_turns
 where chain_id = $1::uuid and branch_id = $2::uuid and day = $3::date)
"""
SIGN_IN = prepare_sql(
    f"""
insert into rota_turns (chain_id, branch_id, day, staff_id, turn, turn_count, signed_in_at)
select $1::uuid, $2::uuid, $3::date, $4::uuid, {NEXT_TURN}, 0, $5::timestamptz
on conflict (chain_id, branch_id, day, staff_id) do update
set signed_out_at = null, turn = excluded.turn, signed_in_at = excluded.signed_in_at
where rota_turns.signed_out_at is not null
""",
    "chain_id",
    "branch_id",
    "day",
    "staff_id",
    "now",
)
SIGN_OUT = prepare_sql(
    """
update rota_turns set signed_out_at = $5::timestamptz
where chain_id = $1::uuid and branch_id = $2::uuid and day = $3::date and staff_id = $4::uuid and signed_out_at is null
""",
    "chain_id",
    "branch_id",
    "day",
    "staff_id",
    "now",
)
TAKE_TURN = prepare_sql(
    f"""
update rota_turns set turn = {NEXT_TURN}, turn_count = turn_count + 1
where chain_id = $1::uuid and branch_id = $2::uuid and day = $3::date and staff_id = $4::uuid
""",  # noqa: S608 - constants only
    "chain_id",
    "branch_id",
    "day",
    "staff_id",
)
ORDER = prepare_sql(
    """
update rota_turns r set turn = w.turn
from unnest($4::uuid[]) with ordinality as w(staff_id, turn)
where r.chain_id = $1::uuid and r.branch_id = $2::uuid and r.day = $3::date and r.staff_id = w.staff_id
""",
    "chain_id",
    "branch_id",
    "day",
    "staff_ids",
)


async def get(request: pb.GetRotaRequest, unit: Unit) -> pb.Rota:
    """The rota of a branch today. Raises Refusal NOT_FOUND, PERMISSION_DENIED."""
    branch_id = request.branch_id.lower()
    unit.check_branch(branch_id, READ)
    return await _rota(unit, await boards.of_branch(unit, branch_id))


async def order(request: pb.OrderRotaRequest, unit: Unit) -> pb.Rota:
    """Put those who are signed in into an order; who is not named comes after, in the order they have."""
    board = await _writable(unit, request.branch_id.lower())
    turns = await unit.all(READ_TURNS, branch_id=board.branch_id, day=_today(unit, board))
    there = [row["staff_id"] for row in turns]
    wanted = [identifier.lower() for identifier in request.staff_ids]
    refuse_if(
        [
            FieldError(f"staff_ids[{index}]", "absent", "is not signed in", "未签到")
            for index, identifier in enumerate(wanted)
            if identifier not in there
        ]
    )
    await unit.run(
        ORDER,
        branch_id=board.branch_id,
        day=_today(unit, board),
        staff_ids=[*wanted, *(identifier for identifier in there if identifier not in wanted)],
    )
    return await _rota(unit, board)


async def sign_in(request: pb.SignInToRotaRequest, unit: Unit) -> pb.Rota:
    """Somebody joins at the end."""
    board = await _writable(unit, request.branch_id.lower())
    staff_id = _person(board, request.staff_id.lower())
    await unit.run(SIGN_IN, branch_id=board.branch_id, day=_today(unit, board), staff_id=staff_id, now=unit.now)
    return await _rota(unit, board)


async def sign_out(request: pb.SignOutOfRotaRequest, unit: Unit) -> pb.Rota:
    """Somebody leaves."""
    board = await _writable(unit, request.branch_id.lower())
    staff_id = _person(board, request.staff_id.lower())
    await unit.run(SIGN_OUT, branch_id=board.branch_id, day=_today(unit, board), staff_id=staff_id, now=unit.now)
    return await _rota(unit, board)


async def positions(unit: Unit, board: Board, day: date) -> dict[str, int]:
    """The place of each who is signed in, from 0."""
    turns = await unit.all(READ_TURNS, branch_id=board.branch_id, day=day)
    return {row["staff_id"]: place for place, row in enumerate(turns)}


async def take_turn(unit: Unit, board: Board, starts_at: datetime, staff_id: str) -> None:
    """Somebody got a customer by turn: they go to the end."""
    day = nights.today(board, starts_at)
    await unit.run(TAKE_TURN, branch_id=board.branch_id, day=day, staff_id=staff_id)


async def _writable(unit: Unit, branch_id: str) -> Board:
    unit.check_branch(branch_id, WRITE)
    return await boards.of_branch(unit, branch_id)


def _person(board: Board, staff_id: str) -> str:
    person = board.people.get(staff_id)
    if person is None or not person.here or not person.active:
        raise not_found("staff", "staff_id")
    return staff_id


def _today(unit: Unit, board: Board) -> date:
    return nights.today(board, unit.now)


async def _rota(unit: Unit, board: Board) -> pb.Rota:
    day = _today(unit, board)
    first, last = nights.span(board, day)
    chosen: Counter[str] = Counter()
    free_at: dict[str, datetime] = {}
    visits = await unit.all(
        READ_VISITS,
        branch_id=board.branch_id,
        starts_from=calendar.moment_of(first),
        starts_before=calendar.moment_of(last),
    )
    for row in visits:
        for assigned in stored_lines(row)[0].assignments:
            chosen[row["staff_id"]] += assigned.id == row["staff_id"] and assigned.chosen
        if row["status"] == "in_service":
            free_at[row["staff_id"]] = row["ends_at"]
    turns = [
        pb.Turn(
            staff_id=row["staff_id"],
            name=row["name"],
            state=pb.TURN_STATE_BUSY if row["staff_id"] in free_at else pb.TURN_STATE_WAITING,
            free_at=free_at.get(row["staff_id"]),  # type: ignore[arg-type]
            turn_count=row["turn_count"],
            chosen_count=chosen[row["staff_id"]],
            signed_in_at=row["signed_in_at"],
        )
        for row in await unit.all(READ_ROTA, branch_id=board.branch_id, day=day)
    ]
    return pb.Rota(branch_id=board.branch_id, day=day.isoformat(), turns=turns)
