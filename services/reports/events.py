"""What the reports listen to: events that count for something, and the names of what they are split by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from foyer.access.v1 import access_pb2, access_pb2_grpc
from foyer.access.v1.access_pb2 import BranchCreated, BranchUpdated
from foyer.bookings.v1.bookings_pb2 import (
    BookingCancelled,
    BookingCompleted,
    BookingConfirmed,
    BookingMissed,
    ServiceCreated,
    ServiceUpdated,
    StaffCreated,
    StaffUpdated,
)
from foyer.customers.v1.customers_pb2 import CustomerCreated
from foyer.wallet.v1.wallet_pb2 import ChargeRefunded, PaymentRecorded, TopUpCredited, WalletCharged
from google.protobuf.message import Message

from chassis.access import Caller
from chassis.inbox import EventMeta, Subscriptions
from chassis.projections import Keep
from chassis.unit import Unit
from services.reports import statements
from services.reports.counting import Counted, count_live

if TYPE_CHECKING:
    from chassis.app import Context

on = Subscriptions()


@on.batch(
    BookingConfirmed,
    BookingCompleted,
    BookingMissed,
    BookingCancelled,
    PaymentRecorded,
    WalletCharged,
    ChargeRefunded,
    TopUpCredited,
    CustomerCreated,
)
async def count(batch: Sequence[tuple[Message, EventMeta]], unit: Unit) -> None:
    """Add what happened to the numbers."""
    await count_live(unit, [Counted(meta.id, meta.time, meta.occurred_at, event) for event, meta in batch])


class Named(NamedTuple):
    """What something is called. `version` grows with every change."""

    kind: str
    id: str
    name: str
    name_en: str | None
    version: int


@on.batch(BranchCreated, BranchUpdated, ServiceCreated, ServiceUpdated, StaffCreated, StaffUpdated)
async def keep_names(batch: Sequence[tuple[Message, EventMeta]], unit: Unit) -> None:
    """Keep what branches, services and staff are called."""
    await store_names(unit, [named(event) for event, _ in batch])


def named(event: Message) -> Named:
    """The name that an event tells. Raises TypeError for an event that tells none."""
    if isinstance(event, BranchCreated | BranchUpdated):
        return Named("branch", event.branch_id, event.branch.name, None, event.branch.version)
    if isinstance(event, ServiceCreated | ServiceUpdated):
        service = event.service
        return Named("service", event.service_id, service.name, service.name_en or None, service.version)
    if isinstance(event, StaffCreated | StaffUpdated):
        return Named("staff", event.staff_id, event.staff.name, None, event.staff.version)
    raise TypeError(f"{event.DESCRIPTOR.full_name} tells no name")


async def store_names(unit: Unit, found: Sequence[Named]) -> None:
    """Keep names; of each thing the newest, for a statement must not touch a row twice."""
    newest: dict[tuple[str, str], Named] = {}
    for one in found:
        known = newest.get((one.kind, one.id))
        if known is None or known.version < one.version:
            newest[one.kind, one.id] = one
    kinds, ids, names, names_en, versions = zip(*(newest[key] for key in sorted(newest)), strict=True)
    await unit.run(statements.KEEP_NAMES, kinds=kinds, ids=ids, names=names, names_en=names_en, versions=versions)


async def fetch_branch(context: Context, caller: Caller, branch_id: str) -> Keep:
    """Read a branch from access; answers what keeps its name. Raises Refusal NOT_FOUND."""
    request = access_pb2.GetBranchRequest(id=branch_id)
    branch: access_pb2.Branch = await context.clients.read(
        "access", access_pb2_grpc.AccessStub, "GetBranch", request, caller=caller
    )

    async def keep(unit: Unit) -> None:
        await store_names(unit, [Named("branch", branch.id, branch.name, None, branch.version)])

    return keep
