"""Sending what is due: taken with a lease in one short transaction, sent outside of any, and its outcome kept."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Mapping
from datetime import timedelta
from email.utils import parseaddr
from typing import TYPE_CHECKING

import asyncpg
from foyer.notify.v1 import notify_pb2 as pb

from chassis import logs, metrics
from chassis.codec import enum_numbers
from chassis.icalendar import Party
from chassis.unit import Unit, system_caller
from services.notify import statements
from services.notify.channels import (
    Channel,
    Invitation,
    Outgoing,
    PermanentFailure,
    TemporaryFailure,
    open_channels,
)
from services.notify.domain import MOST_ATTEMPTS, mask_addresses, retry_at
from services.notify.invitations import invitation_of

if TYPE_CHECKING:
    from chassis.app import Context

JOB = "send-messages"
CLAIMED_AT_ONCE = 16
MOST_ROUNDS = 200
LEASE = timedelta(minutes=2)
"""Longer than all of a round can take: each message has ten seconds, and all of a round are sent side by side."""

MESSAGES = metrics.counter("foyer_messages_total", "Messages by what became of them.", ("channel", "status"))
CHANNEL_NUMBERS = enum_numbers(pb.Channel.DESCRIPTOR)

_contexts: weakref.WeakSet[Context] = weakref.WeakSet()

log = logs.logger(__name__)


def attach(context: Context) -> None:
    """Have `written` wake the job of this service too."""
    _contexts.add(context)


def written(channels: Iterable[str]) -> None:
    """Messages were committed: count them and send them now rather than at the next turn."""
    for channel in channels:
        MESSAGES.labels(channel, "queued").inc()
    wake()


def wake() -> None:
    """Send what is due now."""
    for context in _contexts:
        context.wake(JOB)


async def send_messages(context: Context) -> None:
    """Send what is due, of all chains; what is left after many rounds waits for the next turn."""
    channels = open_channels(context.settings.smtp_url, context.settings.mail_from)
    for _ in range(MOST_ROUNDS):
        rows = await _claim(context)
        outcomes = await asyncio.gather(*(_deliver(context, channels, row) for row in rows), return_exceptions=True)
        for outcome in outcomes:
            # The database went away: the lease ends, and the message is taken again.
            if isinstance(outcome, BaseException):
                raise outcome
        if len(rows) < CLAIMED_AT_ONCE:
            return


async def _claim(context: Context) -> list[asyncpg.Record]:
    async with context.system_store.unit(system_caller(context.name, "")) as unit:
        return await unit.all(statements.CLAIM, now=unit.now, lease_ends_at=unit.now + LEASE, most=CLAIMED_AT_ONCE)


async def _deliver(context: Context, channels: Mapping[str, Channel], row: asyncpg.Record) -> None:
    """Send one message and keep what became of it."""
    reason, final = None, False
    try:
        if row["attempts"] > MOST_ATTEMPTS:
            # Each time it was taken, the process died before it could tell the outcome.
            raise PermanentFailure("never came to an end")
        invitation = await asyncio.to_thread(_invitation, row, context.settings.mail_from)
        outgoing = Outgoing(row["id"], row["address"], row["subject"], row["body"], row["language"], invitation)
        await channels[row["channel"]].send(outgoing)
    except TemporaryFailure as failure:
        reason = str(failure)
    except PermanentFailure as failure:
        reason, final = str(failure), True
    async with context.store.unit(system_caller(context.name, row["chain_id"])) as unit:
        await _keep_outcome(unit, row, mask_addresses(reason) if reason is not None else None, final)


def _invitation(row: asyncpg.Record, sender: str) -> Invitation | None:
    """What goes along for the customer's calendar. It is the same however often the message is tried."""
    facts = row["invited_to"]
    if facts is None:
        return None
    customer = Party(row["address"], facts["customer"]["name"])
    sender_address = parseaddr(sender)[1]
    return invitation_of(row["event_type"], facts, customer, sender_address, row["language"], row["created_at"])


async def _keep_outcome(unit: Unit, row: asyncpg.Record, reason: str | None, final: bool) -> None:
    claimed = {"id": row["id"], "attempt": row["attempts"]}
    told = {
        "message_id": row["id"],
        "customer_id": row["customer_id"],
        "channel": CHANNEL_NUMBERS[row["channel"]],
        "event_type": row["event_type"],
    }
    if reason is None:
        status = "sent"
        if await unit.run(statements.SENT, **claimed, now=unit.now):
            unit.emit(pb.MessageSent(**told))
    else:
        again = None if final else retry_at(row["attempts"], unit.now)
        if again is not None:
            status = "retried"
            await unit.run(statements.RETRY, **claimed, retry_at=again, reason=reason)
        else:
            status = "failed"
            if await unit.run(statements.FAILED, **claimed, reason=reason):
                unit.emit(pb.MessageFailed(**told))
        log.warning("message not sent", message_id=row["id"], channel=row["channel"], status=status, reason=reason)
    unit.after_commit(lambda: MESSAGES.labels(row["channel"], status).inc())
