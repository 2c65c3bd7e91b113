"""Reports: events become numbers, once each, also while everything is counted anew; and who sees which of them.

The events are written into the outboxes of the services that would write them, and come over the real bus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from foyer.access.v1 import access_pb2
from foyer.bookings.v1 import bookings_pb2
from foyer.customers.v1 import customers_pb2
from foyer.reports.v1 import reports_pb2 as pb
from foyer.wallet.v1 import wallet_pb2
from google.protobuf.message import Message

from chassis.access import Caller
from chassis.bus import Event
from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.money import money
from chassis.testing import Platform
from chassis.unit import system_caller
from services.reports import statements
from services.reports.events import on
from services.reports.rebuild import SOURCES, sweep_reports
from services.reports.service import Reports

ZONE = "Asia/Shanghai"
MARCH = datetime(2025, 3, 10, 2, tzinfo=UTC)
SPRING = {"from_date": "2025-03-01", "to_date": "2025-05-01"}


@dataclass
class Chain:
    """A chain of two branches, as the reports know it."""

    platform: Platform
    owner: Caller
    branches: tuple[str, str]
    service_id: str
    staff_id: str

    @property
    def id(self) -> str:
        return self.owner.chain_id

    async def happen(self, service: str, events: Sequence[Message], occurred_at: datetime | None = None) -> None:
        context = self.platform[service].context
        async with context.store.unit(system_caller(service, self.id)) as unit:
            for event in events:
                unit.emit(event, occurred_at)

    def booking(self, branch: int = 0, **changes: Any) -> bookings_pb2.Booking:
        return bookings_pb2.Booking(
            **{
                "id": new_id(),
                "branch_id": self.branches[branch],
                "service_id": self.service_id,
                "staff_id": self.staff_id,
                "customer_id": new_id(),
                "source": "wechat",
                "time_zone": ZONE,
                **changes,
            }
        )

    def confirmed(self, branch: int = 0, **changes: Any) -> bookings_pb2.BookingConfirmed:
        booking = self.booking(branch, **changes)
        return bookings_pb2.BookingConfirmed(booking_id=booking.id, booking=booking)

    def sale(self, amount: int, branch: int = 0, kind: int = wallet_pb2.PAYMENT_KIND_SALE) -> Message:
        payment = wallet_pb2.Payment(
            id=new_id(),
            kind=wallet_pb2.PaymentKind.ValueType(kind),
            amount=money(amount, "CNY"),
            tax=money(amount // 10, "CNY"),
            branch_id=self.branches[branch],
            staff_id=self.staff_id,
        )
        return wallet_pb2.PaymentRecorded(payment_id=payment.id, payment=payment, time_zone=ZONE)

    async def series(self, measure: int, caller: Caller | None = None, **changes: Any) -> pb.Series:
        fields: dict[str, Any] = {"measure": measure, "interval": pb.INTERVAL_MONTH, **SPRING, **changes}
        answer = await self.platform.call("reports", "GetSeries", pb.GetSeriesRequest(**fields), caller or self.owner)
        assert isinstance(answer, pb.Series)
        return answer

    async def ranking(self, measure: int, by: int, caller: Caller | None = None, **changes: Any) -> pb.Ranking:
        fields: dict[str, Any] = {"measure": measure, "by": by, **SPRING, **changes}
        request = pb.GetRankingRequest(**fields)
        answer = await self.platform.call("reports", "GetRanking", request, caller or self.owner)
        assert isinstance(answer, pb.Ranking)
        return answer

    async def status(self) -> pb.ReportsStatus:
        answer = await self.platform.call("reports", "GetReportsStatus", pb.GetReportsStatusRequest(), self.owner)
        assert isinstance(answer, pb.ReportsStatus)
        return answer

    async def rebuild(self) -> pb.ReportsStatus:
        answer = await self.platform.call("reports", "RebuildReports", pb.RebuildReportsRequest(), self.owner)
        assert isinstance(answer, pb.ReportsStatus)
        return answer

    async def settle(self) -> None:
        await self.platform.settle(self.id)


@pytest.fixture
async def chain(platform: Platform) -> Chain:
    owner = platform.owner()
    made = Chain(platform, owner, (new_id(), new_id()), new_id(), new_id())
    chain = access_pb2.Chain(id=made.id, name="Dawn", time_zone=ZONE, currency="CNY", language="zh", version=1)
    events: list[Message] = [access_pb2.ChainCreated(chain_id=made.id, chain=chain)]
    for number, branch_id in enumerate(made.branches):
        branch = access_pb2.Branch(id=branch_id, name=f"Branch {number}", time_zone=ZONE, active=True, version=1)
        events.append(access_pb2.BranchCreated(branch_id=branch_id, branch=branch))
    await made.happen("access", events)
    service = bookings_pb2.Service(
        id=made.service_id,
        name="剪发",
        name_en="Haircut",
        duration_minutes=30,
        price=money(100, "CNY"),
        active=True,
        version=1,
    )
    staff = bookings_pb2.Staff(id=made.staff_id, name="Robin", branch_ids=made.branches, active=True, version=1)
    await made.happen(
        "bookings",
        [
            bookings_pb2.ServiceCreated(service_id=service.id, service=service),
            bookings_pb2.StaffCreated(staff_id=staff.id, staff=staff),
        ],
    )
    await made.settle()
    return made


async def test_nothing_has_happened(chain: Chain) -> None:
    series = await chain.series(pb.MEASURE_REVENUE, compare=True)
    assert [(point.date, point.value, point.money.currency) for point in series.points] == [
        ("2025-03-01", 0, "CNY"),
        ("2025-04-01", 0, "CNY"),
    ]
    assert (series.total, series.currency, series.previous_period_total) == (0, "CNY", 0)
    assert (await chain.ranking(pb.MEASURE_BOOKINGS, pb.DIMENSION_STAFF)).rows == []
    assert (await chain.status()).counted_events == 0


async def test_events_are_counted_where_and_when_they_happened(chain: Chain) -> None:
    await chain.happen("bookings", [chain.confirmed(), chain.confirmed(1), chain.confirmed(1)], MARCH)
    # 20:00 in Greenwich on the last of March is April in Shanghai.
    await chain.happen("bookings", [chain.confirmed(1)], datetime(2025, 3, 31, 20, tzinfo=UTC))
    await chain.happen("wallet", [chain.sale(10000), chain.sale(2500, 1)], MARCH)
    await chain.happen("wallet", [chain.sale(500, 1, wallet_pb2.PAYMENT_KIND_REFUND)], MARCH + timedelta(days=1))
    await chain.settle()

    series = await chain.series(pb.MEASURE_BOOKINGS)
    assert [(point.date, point.value) for point in series.points] == [("2025-03-01", 3), ("2025-04-01", 1)]
    assert series.total == 4
    assert not series.HasField("currency")
    assert not series.points[0].HasField("money")
    assert not series.HasField("previous_period_total")

    days = await chain.series(pb.MEASURE_REVENUE, interval=pb.INTERVAL_DAY, to_date="2025-04-01")
    assert len(days.points) == 31
    assert {point.date: point.money.amount for point in days.points if point.value} == {
        "2025-03-10": 12500,
        "2025-03-11": -500,
    }
    weeks = await chain.series(pb.MEASURE_REVENUE, interval=pb.INTERVAL_WEEK, from_date="2025-03-05")
    assert (weeks.points[0].date, weeks.points[1].date, weeks.points[1].value) == ("2025-03-03", "2025-03-10", 12000)

    one = await chain.series(pb.MEASURE_REVENUE, branch_id=chain.branches[1])
    assert one.total == 2000
    split = await chain.series(pb.MEASURE_BOOKINGS, by=pb.DIMENSION_BRANCH)
    first, second = chain.branches
    assert [(point.date, point.key, point.name, point.value) for point in split.points] == [
        ("2025-03-01", first, "Branch 0", 1),
        ("2025-03-01", second, "Branch 1", 2),
        ("2025-04-01", second, "Branch 1", 1),
    ]
    assert (await chain.series(pb.MEASURE_BOOKINGS, by=pb.DIMENSION_SOURCE)).points[0].key == "wechat"
    status = await chain.status()
    assert (status.counted_events, status.rebuilding) == (7, False)
    assert status.HasField("newest_event_at")
    assert not status.HasField("rebuilt_at")


async def test_rankings(chain: Chain) -> None:
    await chain.happen("wallet", [chain.sale(3000), chain.sale(5000, 1)], MARCH)
    await chain.happen("bookings", [chain.confirmed()], MARCH)
    await chain.settle()
    ranking = await chain.ranking(pb.MEASURE_REVENUE, pb.DIMENSION_BRANCH)
    assert [(row.rank, row.name, row.value, row.money.amount) for row in ranking.rows] == [
        (1, "Branch 1", 5000, 5000),
        (2, "Branch 0", 3000, 3000),
    ]
    top = await chain.ranking(pb.MEASURE_REVENUE, pb.DIMENSION_BRANCH, limit=1)
    assert (len(top.rows), top.total, top.currency) == (1, 8000, "CNY")
    assert (await chain.ranking(pb.MEASURE_BOOKINGS, pb.DIMENSION_SERVICE)).rows[0].name == "Haircut"
    staff = await chain.ranking(pb.MEASURE_BOOKINGS, pb.DIMENSION_STAFF)
    assert (staff.rows[0].name, staff.rows[0].key) == ("Robin", chain.staff_id)
    # Till payments know no service here: such facts have no key.
    assert not (await chain.ranking(pb.MEASURE_REVENUE, pb.DIMENSION_SERVICE)).rows[0].HasField("key")


async def test_compared_with_the_time_before(chain: Chain) -> None:
    for days, amount in ((0, 100), (-31, 20), (-365, 3)):
        await chain.happen("wallet", [chain.sale(amount)], MARCH + timedelta(days=days))
    await chain.settle()
    series = await chain.series(pb.MEASURE_REVENUE, to_date="2025-04-01", compare=True)
    assert (series.total, series.previous_period_total, series.previous_year_total) == (100, 20, 3)


async def test_wallets_and_customers(chain: Chain) -> None:
    customer = new_id()
    at: dict[str, Any] = {"customer_id": customer, "branch_id": chain.branches[0], "time_zone": ZONE}
    card = customers_pb2.CustomerCard(name="A", language="zh", source="referral", version=1, time_zone=ZONE)
    await chain.happen("customers", [customers_pb2.CustomerCreated(customer_id=customer, card=card)], MARCH)
    cny = [money(amount, "CNY") for amount in (10000, 1000, 4000)]
    await chain.happen(
        "wallet",
        [
            wallet_pb2.TopUpCredited(top_up_id=new_id(), amount=cny[0], gift=cny[1], available=cny[0], **at),
            wallet_pb2.WalletCharged(charge_id=new_id(), amount=cny[2], reason="x", available=cny[0], **at),
            wallet_pb2.ChargeRefunded(refund_id=new_id(), charge_id=new_id(), amount=cny[1], available=cny[0], **at),
        ],
        MARCH,
    )
    booking = chain.booking()
    cancelled = bookings_pb2.BookingCancelled(booking_id=booking.id, booking=booking)
    let_go = bookings_pb2.BookingCancelled(booking_id=booking.id, booking=booking, was_held=True)
    missed = bookings_pb2.BookingMissed(booking_id=booking.id, booking=booking)
    completed = bookings_pb2.BookingCompleted(booking_id=booking.id, booking=booking)
    await chain.happen("bookings", [cancelled, let_go, missed, completed], MARCH)
    await chain.settle()
    totals = {measure: (await chain.series(measure)).total for measure in pb.Measure.values() if measure}
    assert totals == {
        pb.MEASURE_BOOKINGS: 0,
        pb.MEASURE_COMPLETED: 1,
        pb.MEASURE_NO_SHOWS: 1,
        pb.MEASURE_CANCELLED: 1,
        pb.MEASURE_REVENUE: 3000,
        pb.MEASURE_TOP_UPS: 10000,
        pb.MEASURE_CHARGED: 3000,
        pb.MEASURE_NEW_CUSTOMERS: 1,
    }


async def test_callers_of_some_branches_see_those_only(chain: Chain) -> None:
    customer = customers_pb2.CustomerCard(name="A", language="zh", version=1, time_zone=ZONE)
    await chain.happen("customers", [customers_pb2.CustomerCreated(customer_id=new_id(), card=customer)], MARCH)
    await chain.happen("bookings", [chain.confirmed(), chain.confirmed(1)], MARCH)
    await chain.settle()
    first, second = chain.branches
    local = chain.platform.owner(chain.id, grants={"reports.read": [first]})
    assert (await chain.series(pb.MEASURE_BOOKINGS, local)).total == 1
    assert (await chain.series(pb.MEASURE_NEW_CUSTOMERS, local)).total == 0
    assert (await chain.series(pb.MEASURE_NEW_CUSTOMERS)).total == 1
    assert [row.key for row in (await chain.ranking(pb.MEASURE_BOOKINGS, pb.DIMENSION_BRANCH, local)).rows] == [first]
    with pytest.raises(Refusal, match="PERMISSION_DENIED"):
        await chain.series(pb.MEASURE_BOOKINGS, local, branch_id=second)
    with pytest.raises(Refusal, match="PERMISSION_DENIED"):
        await chain.platform.call("reports", "RebuildReports", pb.RebuildReportsRequest(), local)
    stranger = chain.platform.owner()
    assert (await chain.series(pb.MEASURE_BOOKINGS, stranger)).total == 0
    with pytest.raises(Refusal, match="NOT_FOUND") as refused:
        await chain.series(pb.MEASURE_BOOKINGS, stranger, branch_id=first)
    assert [error.field for error in refused.value.errors] == ["branch_id"]


async def test_wrong_questions(chain: Chain) -> None:
    with pytest.raises(Refusal, match="INVALID_REQUEST") as refused:
        await chain.series(pb.MEASURE_BOOKINGS, from_date="2025-02-30", to_date="2025-02-31")
    assert [error.field for error in refused.value.errors] == ["from", "to"]
    with pytest.raises(Refusal, match="INVALID_REQUEST"):
        await chain.ranking(pb.MEASURE_BOOKINGS, 0)
    with pytest.raises(Refusal, match="NOT_FOUND"):
        await chain.ranking(pb.MEASURE_BOOKINGS, pb.DIMENSION_STAFF, branch_id=new_id())


async def test_names_follow_and_old_news_do_not_win(chain: Chain) -> None:
    branch_id = chain.branches[0]
    for name, version in (("New", 3), ("Old", 2)):
        branch = access_pb2.Branch(id=branch_id, name=name, time_zone=ZONE, version=version)
        await chain.happen("access", [access_pb2.BranchUpdated(branch_id=branch_id, branch=branch)])
    await chain.happen("bookings", [chain.confirmed()], MARCH)
    await chain.settle()
    assert (await chain.ranking(pb.MEASURE_BOOKINGS, pb.DIMENSION_BRANCH)).rows[0].name == "New"


async def wait_until_rebuilt(chain: Chain) -> pb.ReportsStatus:
    async with asyncio.timeout(20):
        while (status := await chain.status()).rebuilding:
            await asyncio.sleep(0.02)
    return status


async def test_everything_counted_anew(chain: Chain) -> None:
    sales = [chain.sale(100 + number, number % 2) for number in range(900)]
    await chain.happen("wallet", sales, MARCH)
    await chain.settle()
    before = await chain.series(pb.MEASURE_REVENUE, by=pb.DIMENSION_BRANCH)
    # Numbers that went wrong are put right by counting anew.
    async with chain.platform["reports"].context.store.unit(system_caller("reports", chain.id)) as unit:
        cell = ([pb.MEASURE_REVENUE], [MARCH.date()], [chain.branches[0]], [new_id()], [new_id()], [""], [7])
        names = ("measures", "days", "branch_ids", "service_ids", "staff_ids", "sources", "values")
        await unit.run(statements.ADD, generation=1, **dict(zip(names, cell, strict=True)))
    assert (await chain.series(pb.MEASURE_REVENUE)).total == before.total + 7

    status = await chain.rebuild()
    assert status.rebuilding
    assert status.counted_events == 900
    done = await wait_until_rebuilt(chain)
    assert await chain.series(pb.MEASURE_REVENUE, by=pb.DIMENSION_BRANCH) == before
    assert (done.counted_events, done.rebuilding, done.HasField("rebuilt_at")) == (900, False, True)
    await chain.happen("wallet", [chain.sale(1)], MARCH)
    await chain.settle()
    assert (await chain.series(pb.MEASURE_REVENUE)).total == before.total + 1
    assert (await chain.status()).counted_events == 901


async def test_events_that_come_while_counting_anew_count_once(chain: Chain) -> None:
    total = 0
    for number in range(1200):
        total += number
    await chain.happen("wallet", [chain.sale(number) for number in range(1200)], MARCH)

    async def go_on() -> int:
        added = 0
        for number in range(60):
            await chain.happen("wallet", [chain.sale(1), chain.sale(2, 1)], MARCH + timedelta(days=number % 5))
            await chain.happen("bookings", [chain.confirmed()], MARCH)
            added += 3
        return added

    writing = asyncio.create_task(go_on())
    rebuilds = 0
    while not writing.done():
        await chain.rebuild()
        await wait_until_rebuilt(chain)
        rebuilds += 1
    total += await writing
    await chain.settle()
    assert rebuilds
    assert (await chain.series(pb.MEASURE_REVENUE)).total == total
    assert (await chain.series(pb.MEASURE_BOOKINGS)).total == 60
    await chain.rebuild()
    await wait_until_rebuilt(chain)
    assert (await chain.series(pb.MEASURE_REVENUE)).total == total
    assert (await chain.status()).counted_events == 1200 + 180


async def test_one_rebuild_at_a_time_and_what_was_replaced_is_deleted(chain: Chain) -> None:
    await chain.happen("wallet", [chain.sale(5)], MARCH)
    await chain.settle()
    context = chain.platform["reports"].context
    caller = system_caller("reports", chain.id)
    reports, request = Reports(context), pb.RebuildReportsRequest()
    unit = context.store.open(caller)
    assert (await reports.rebuild_reports(request, unit)).rebuilding
    with pytest.raises(Refusal, match="WRONG_STATE"):
        await reports.rebuild_reports(request, unit)
    await unit.close()
    assert not (await chain.status()).rebuilding
    async with context.store.unit(caller) as unit:
        # A rebuild that finds nothing: its places in the logs lie behind their ends.
        await unit.run(statements.START, now=unit.now)
        for service in SOURCES:
            await unit.value(statements.ADVANCE, generation=2, service=service, sequence=2**40)
    context.wake("rebuild-reports")
    await wait_until_rebuilt(chain)
    assert (await chain.series(pb.MEASURE_REVENUE)).total == 0, "the empty numbers serve"
    async with context.store.unit(caller) as unit:
        count = prepare_sql("select count(*) from rollups where chain_id = $1::uuid and generation = 1", "chain_id")
        assert await unit.value(count) == 1
        old = prepare_sql(
            "update generations set retired_at = retired_at - interval '1 hour' where chain_id = $1::uuid", "chain_id"
        )
        await unit.run(old)
    await sweep_reports(context)
    async with context.store.unit(caller) as unit:
        assert await unit.value(count) == 0
        assert [row["id"] for row in await unit.all(statements.GENERATIONS)] == [2]


async def test_a_live_event_that_a_rebuild_has_read_counts_once(chain: Chain) -> None:
    """A rebuild takes over between an event's way into the log and its way over the bus; then it comes live."""
    context = chain.platform["reports"].context
    event = chain.sale(700)
    envelope = Event(
        id=new_id(),
        type="payment.recorded",
        chain_id=chain.id,
        aggregate_id=new_id(),
        source="wallet",
        time=context.clock.now(),
        occurred_at=MARCH,
        body=event.SerializeToString(),
    )
    caller = system_caller("reports", chain.id)
    async with context.store.unit(caller) as unit:
        await unit.run(statements.ENSURE_SERVING, now=unit.now)
        await unit.run(statements.START, now=unit.now)
        await unit.all(statements.KEEP_COUNTED, generation=2, event_ids=[envelope.id])
        await unit.run(statements.RETIRE, now=unit.now)
        await unit.run(statements.SERVE, generation=2, now=unit.now)
    async with context.store.unit(caller) as unit:
        await on.apply([envelope], unit)
    assert (await chain.series(pb.MEASURE_REVENUE)).total == 0
    assert (await chain.status()).counted_events == 0
