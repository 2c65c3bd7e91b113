"""What operations may ask of every service: dead letters listed and handed over once more, and the log of events."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg
from foyer.common.v1 import common_pb2 as pb

from chassis import logs
from chassis.bus import Event
from chassis.db import Prepared, prepare_sql
from chassis.errors import Refusal, not_found
from chassis.inbox import AWAY, Consumer, Stores, reason_of
from chassis.pages import cursor_decode, page_limit, split_page, wrong_token
from chassis.rows import projector
from chassis.rpc import Call, outside_unit
from chassis.unit import Unit, system_caller

# A row gets its number before its commit, so it may appear behind one that was read already. The log is read only up to
# a number once all transactions that were open when it was the last have ended.
LAST_NUMBER = prepare_sql("select last_value from outbox_sequence_seq")
OPEN_UNTIL = prepare_sql("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
OLDEST_OPEN = prepare_sql("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
BEGIN_SECONDS = 0.02
SETTLE_SECONDS = 5.0
POLL_SECONDS = 0.01

LETTER = "event_id as id, type, attempts, reason, dead_at, handled_at"
LIST = prepare_sql(
    f"""
select {LETTER} from dead_letters
where chain_id = $1::uuid and ($2::timestamptz is null or (dead_at, event_id) < ($2::timestamptz, $3::uuid))
order by dead_at desc, event_id desc limit $4
""",  # noqa: S608 - column names of our own
    *("chain_id", "before", "before_id", "limit"),
)
READ = prepare_sql(
    f"""
select {LETTER}, source, aggregate_id, body, occurred_at, time, traceparent
from dead_letters where chain_id = $1::uuid and event_id = $2::uuid and consumer = $3 for update
""",  # noqa: S608
    *("chain_id", "event_id", "consumer"),
)
MARK_HANDLED = prepare_sql(
    f"""
update dead_letters set handled_at = $4, attempts = attempts + 1
where chain_id = $1::uuid and event_id = $2::uuid and consumer = $3 returning {LETTER}
""",  # noqa: S608
    *("chain_id", "event_id", "consumer", "now"),
)
MARK_FAILED = prepare_sql(
    f"""
update dead_letters set reason = $4, attempts = attempts + 1
where chain_id = $1::uuid and event_id = $2::uuid and consumer = $3 returning {LETTER}
""",  # noqa: S608
    *("chain_id", "event_id", "consumer", "reason"),
)
LOGGED = "sequence, id, chain_id, subject, recorded_at, occurred_at, body"
READ_LOG = prepare_sql(
    f"select {LOGGED} from outbox where sequence > $1 and sequence <= $2 order by sequence limit $3",  # noqa: S608
    *("after", "last", "limit"),
)
READ_LOG_OF_CHAIN = prepare_sql(
    f"""
select {LOGGED} from outbox where chain_id = $1::uuid and sequence > $2 and sequence <= $3 order by sequence limit $4
""",  # noqa: S608
    *("chain_id", "after", "last", "limit"),
)

to_dead_letter = projector(pb.DeadLetter)
to_logged_event = projector(pb.LoggedEvent, type=lambda row: row["subject"], time=lambda row: row["recorded_at"])
log = logs.logger(__name__)


class Service(Stores, Protocol):
    """The part of a service's context that is used here."""

    name: str


class DeadLetters:
    """foyer.common.v1.Operations of one service."""

    def __init__(self, context: Service, consumer: Consumer) -> None:
        self._context = context
        self._consumer = consumer

    async def list_dead_letters(self, request: pb.ListDeadLettersRequest, unit: Unit) -> pb.ListDeadLettersResponse:
        """List a chain's dead letters, newest first."""
        limit = page_limit(request.page_size)
        before, before_id = _cursor(request.page_token)
        rows = await unit.all(LIST, before=before, before_id=before_id, limit=limit + 1)
        page, token = split_page(rows, limit, lambda row: (row["dead_at"].isoformat(), row["id"]))
        return pb.ListDeadLettersResponse(dead_letters=map(to_dead_letter, page), next_page_token=token)

    @outside_unit
    async def replay_dead_letter(self, request: pb.ReplayDeadLetterRequest, call: Call) -> pb.DeadLetter:
        """Handle a dead letter once more. What fails again stays, with the new reason."""
        caller = system_caller(self._context.name, call.caller.chain_id)
        try:
            answer: pb.DeadLetter = await call.run(lambda unit: self._replay(request.id, unit), caller)
            return answer
        except (*AWAY, TimeoutError):
            raise
        except Refusal as refusal:
            if refusal.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "IDEMPOTENCY_KEY_REUSED"):
                raise
            problem: Exception = refusal
        except Exception as failure:  # the handler's, which is what is asked about
            problem = failure
        log.warning("dead letter failed again", id=request.id, consumer=self._consumer.name, exc_info=problem)
        async with call.store.unit(caller) as unit:
            row = await unit.one(
                MARK_FAILED, event_id=request.id, consumer=self._consumer.name, reason=reason_of(problem)
            )
        if row is None:
            raise not_found("dead_letter", "id")
        return to_dead_letter(row)

    async def _replay(self, event_id: str, unit: Unit) -> pb.DeadLetter:
        consumer = self._consumer.name
        row = await unit.one(READ, event_id=event_id, consumer=consumer)
        if row is None:
            raise not_found("dead_letter", "id")
        if row["handled_at"] is None:
            await self._consumer.apply([_event(row, unit.chain_id)], unit)
            row = await unit.one(MARK_HANDLED, event_id=event_id, consumer=consumer, now=unit.now)
        if row is None:
            raise AssertionError("the row is locked")
        return to_dead_letter(row)

    @outside_unit
    async def read_events(self, request: pb.ReadEventsRequest, _call: Call) -> pb.ReadEventsResponse:
        """Read the log of events, of all chains or of one.

        Raises Refusal UNAVAILABLE when a transaction stays open for so long that the end of the log is not known.
        """
        statement: Prepared = READ_LOG
        parameters: dict[str, Any] = {"after": request.after_sequence, "limit": request.limit}
        if request.HasField("chain_id"):
            statement = READ_LOG_OF_CHAIN
            parameters["chain_id"] = request.chain_id
        caller = system_caller(self._context.name, "")
        async with self._context.system_store.unit(caller, read_only=True) as unit:
            parameters["last"] = await _settled_number(unit)
            rows = await unit.all(statement, **parameters)
        return pb.ReadEventsResponse(events=map(to_logged_event, rows))


async def _settled_number(unit: Unit) -> int:
    """A number of the log up to which nothing will appear any more."""
    last: int = await unit.value(LAST_NUMBER)
    # Who has just got a number has a transaction's number of its own by now.
    await asyncio.sleep(BEGIN_SECONDS)
    until: int = await unit.value(OPEN_UNTIL)
    for _ in range(int(SETTLE_SECONDS / POLL_SECONDS)):
        if await unit.value(OLDEST_OPEN) >= until:
            return last
        await asyncio.sleep(POLL_SECONDS)
    raise Refusal("UNAVAILABLE")


def _cursor(token: str) -> tuple[datetime | None, str | None]:
    values = cursor_decode(token, 2)
    if values is None:
        return None, None
    try:
        return datetime.fromisoformat(values[0]), str(UUID(values[1]))
    except (TypeError, ValueError, AttributeError):
        raise wrong_token() from None


def _event(row: asyncpg.Record, chain_id: str) -> Event:
    return Event(
        id=row["id"],
        type=row["type"],
        chain_id=chain_id,
        aggregate_id=row["aggregate_id"],
        source=row["source"],
        time=row["time"],
        occurred_at=row["occurred_at"],
        body=row["body"],
        traceparent=row["traceparent"],
    )
