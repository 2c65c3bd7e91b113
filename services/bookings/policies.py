"""The chain's rules for bookings: read, changed and told of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import asyncpg
import sqlalchemy as sa
from foyer.bookings.v1 import policies_pb2 as pb
from sqlalchemy.dialects.postgresql import insert

from chassis.app import Context
from chassis.db import prepare
from chassis.errors import FieldError
from chassis.unit import Unit
from services.bookings import board, changes, domain
from services.bookings.common import check_scope, refuse_if
from services.bookings.models import booking_policies

CONFIGURE = "bookings.configure"
PLAIN = (
    "slot_step_minutes",
    "lead_minutes",
    "horizon_days",
    "hold_minutes",
    "shortest_gap_minutes",
    "assignment",
    "fairness_days",
    "collect_deposits",
    "late_minutes",
    "no_show_minutes",
    "offer_minutes",
    "waiting_order",
)

_mine = booking_policies.c.chain_id == sa.bindparam("chain_id")
READ_POLICY = prepare(sa.select(booking_policies).where(_mine))
LOCK_POLICY = prepare(sa.select(booking_policies).where(_mine).with_for_update())
OPEN_POLICY = prepare(insert(booking_policies).on_conflict_do_nothing())
KEEP_POLICY = prepare(
    sa.update(booking_policies)
    .where(_mine)
    .values(policy=sa.bindparam("new_policy"), version=booking_policies.c.version + 1)
    .returning(booking_policies)
)


class Policies:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def get_booking_policy(self, request: pb.GetBookingPolicyRequest, unit: Unit) -> pb.BookingPolicy:  # noqa: ARG002
        """Read the rules for bookings."""
        return _policy(await unit.one(READ_POLICY))

    async def update_booking_policy(self, request: pb.UpdateBookingPolicyRequest, unit: Unit) -> pb.BookingPolicy:
        """Change the rules for bookings."""
        return await update(request, unit)

    async def get_change_terms(self, request: pb.GetChangeTermsRequest, unit: Unit) -> pb.ChangeTerms:
        """Read what moving or cancelling a booking costs now."""
        return await changes.get_terms(request, unit)


def _policy(row: asyncpg.Record | None) -> pb.BookingPolicy:
    return board.policy_of(None, None) if row is None else board.policy_of(row["policy"], row["version"])


async def update(request: pb.UpdateBookingPolicyRequest, unit: Unit) -> pb.BookingPolicy:
    """Change the rules for bookings; what is not sent stays. Raises Refusal PERMISSION_DENIED, PRECONDITION_FAILED."""
    check_scope(unit, [], CONFIGURE)
    refuse_if(list(errors_of(request, unit.caller.currency)))
    # A row to lock, also the first time. Its version is that of the rules nobody has changed yet.
    await unit.run(OPEN_POLICY, policy=board.policy_of(None, None).SerializeToString(), version=0)
    row = await unit.one(LOCK_POLICY)
    assert row is not None
    unit.check_version(row["version"])
    policy = _policy(row)
    for name in PLAIN:
        if request.HasField(name):  # type: ignore[arg-type]
            setattr(policy, name, getattr(request, name))
    if request.HasField("channels"):
        policy.ClearField("channels")
        policy.channels.extend(request.channels.rules)
    if request.HasField("change"):
        policy.change.CopyFrom(request.change)
    changed = _policy(await unit.one(KEEP_POLICY, new_policy=policy.SerializeToString()))
    unit.emit(pb.BookingPolicyUpdated(chain_id=unit.chain_id, policy=changed))
    return changed


# --- what makes sense ---


def errors_of(request: pb.UpdateBookingPolicyRequest, currency: str) -> Iterator[FieldError]:
    """All that is wrong in a change of the rules."""
    stepped = [(name, getattr(request, name)) for name in ("slot_step_minutes", "shortest_gap_minutes")]
    stepped += [
        (f"channels.rules[{index}].slot_step_minutes", rule.slot_step_minutes)
        for index, rule in enumerate(request.channels.rules)
    ]
    yield from domain.step_errors(stepped)
    channels = [rule.channel for rule in request.channels.rules]
    for index, channel in enumerate(channels):
        if channel in channels[:index]:
            yield FieldError(f"channels.rules[{index}].channel", "repeated", "was named before", "重复")
    if request.HasField("change"):
        yield from _change_errors(request.change, currency)


def _change_errors(change: pb.ChangePolicy, currency: str) -> Iterator[FieldError]:
    for name, tiers in (("cancellation", change.cancellation), ("rescheduling", change.rescheduling)):
        yield from _tier_errors(f"change.{name}", tiers, currency)
    for name in ("late_fee", "no_show_fee", "late_rescheduling_fee"):
        if change.HasField(name):  # type: ignore[arg-type]
            yield from _fee_errors(f"change.{name}", getattr(change, name), currency)


def _tier_errors(field: str, tiers: Sequence[pb.NoticeTier], currency: str) -> Iterator[FieldError]:
    for index, tier in enumerate(tiers):
        if index and tier.notice_minutes >= tiers[index - 1].notice_minutes:
            message = "must be less than in the tier before it: the longest notice comes first"
            yield FieldError(f"{field}[{index}].notice_minutes", "order", message, "应小于前一档：提前时间由长到短排列")
        if tier.HasField("fee"):
            yield from _fee_errors(f"{field}[{index}].fee", tier.fee, currency)


def _fee_errors(field: str, fee: pb.Fee, currency: str) -> Iterator[FieldError]:
    if fee.HasField("amount") == fee.HasField("percent"):
        yield FieldError(field, "one_of", "must have either amount or percent", "金额与百分比应二选一")
    if fee.HasField("amount"):
        yield from domain.money_errors(f"{field}.amount", fee.amount, currency)
