"""Checking in by a code that a customer shows."""

from __future__ import annotations

import hashlib
import hmac

from foyer.bookings.v1 import bookings_pb2
from foyer.bookings.v1 import front_desk_pb2 as pb

from chassis.access import derive_key
from chassis.db import prepare_sql
from chassis.errors import Refusal, not_found
from chassis.unit import Unit
from services.bookings import board as boards
from services.bookings import booking, calendar, nights
from services.bookings.rows import READ, SELECT, WRITE

DIGITS = 6
# Those of a day who are not there yet; one branch's day.
EXPECTED = prepare_sql(
    """
select id from bookings
where chain_id = $1::uuid and branch_id = $2::uuid and starts_at >= $3::timestamptz and starts_at < $4::timestamptz
  and status = 'confirmed'
order by starts_at, id limit 5000
""",
    "chain_id",
    "branch_id",
    "starts_from",
    "starts_before",
)


class CheckInCodes:
    """Six digits for each booking, from the platform's secret: nothing is stored, nothing can be guessed from an id."""

    def __init__(self, secret: bytes) -> None:
        self._key = derive_key(secret, "check-in-code")

    def of(self, booking_id: str) -> str:
        """The code of a booking."""
        digest = hmac.new(self._key, booking_id.encode(), hashlib.sha256).digest()
        return str(int.from_bytes(digest[:8], "big") % 10**DIGITS).zfill(DIGITS)


async def read_code(request: pb.GetCheckInCodeRequest, unit: Unit, codes: CheckInCodes) -> pb.CheckInCode:
    """The code of a booking. Raises Refusal NOT_FOUND."""
    row = await unit.one(SELECT, id=request.id)
    if row is None:
        raise not_found("booking", "id")
    unit.check_branch(row["branch_id"], READ)
    return pb.CheckInCode(booking_id=row["id"], code=codes.of(row["id"]))


async def by_code(request: pb.CheckInByCodeRequest, unit: Unit, codes: CheckInCodes) -> bookings_pb2.Booking:
    """Check in the one booking of today that has the code. Raises Refusal CODE_UNKNOWN for none, or for two."""
    branch_id = request.branch_id.lower()
    unit.check_branch(branch_id, WRITE)
    board = await boards.of_branch(unit, branch_id)
    first, last = nights.span(board, nights.today(board, unit.now))
    rows = await unit.all(
        EXPECTED,
        branch_id=branch_id,
        starts_from=calendar.moment_of(first),
        starts_before=calendar.moment_of(last),
    )
    matching = [row["id"] for row in rows if hmac.compare_digest(codes.of(row["id"]), request.code)]
    if len(matching) != 1:
        raise Refusal("CODE_UNKNOWN")
    return await booking.check_in(bookings_pb2.CheckInBookingRequest(id=matching[0]), unit)
