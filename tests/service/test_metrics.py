"""What a service measures of its database and its events, while it works."""

from __future__ import annotations

import asyncpg
import pytest
from foyer.customers.v1 import customers_pb2 as pb

from chassis import metrics, tracing
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.outbox import dedicated
from chassis.testing import Platform
from chassis.unit import system_caller

SERVICE = "customers"


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, {"service": SERVICE, **labels}) or 0.0


async def test_every_statement_and_transaction_is_measured(platform: Platform) -> None:
    caller = platform.owner()
    names = ("begin", "insert_customers", "insert_outbox", "commit")
    before = {name: value("foyer_query_seconds_count", query=name) for name in names}
    committed = value("foyer_unit_seconds_count", outcome="committed")
    await platform.call(SERVICE, "CreateCustomer", pb.CreateCustomerRequest(name="Daiyu", phone="13900139000"), caller)
    for name in names:
        assert value("foyer_query_seconds_count", query=name) > before[name], name
    assert value("foyer_unit_seconds_count", outcome="committed") > committed
    undone = value("foyer_unit_seconds_count", outcome="undone")
    with pytest.raises(Refusal):
        await platform.call(SERVICE, "GetCustomer", pb.GetCustomerRequest(id=new_id()), caller)
    assert value("foyer_unit_seconds_count", outcome="undone") > undone


async def test_dead_letters_are_counted_until_they_are_handled(platform: Platform) -> None:
    application = platform[SERVICE]
    chain_id, event_id = new_id(), new_id()
    insert = """
    insert into dead_letters (chain_id, event_id, consumer, type, source, aggregate_id, body, occurred_at, time,
      attempts, reason, dead_at)
    values ($1, $2, 'customers', 'staff.created', 'access', 'x', '', now(), now(), 1, 'test', now())
    """
    async with dedicated(application.context.system_store.pool) as connection:
        await application.relay._measure(connection)
        before = value("foyer_dead_letters")
        await connection.execute(insert, chain_id, event_id)
        await application.relay._measure(connection)
        assert value("foyer_dead_letters") == before + 1
        await connection.execute("update dead_letters set handled_at = now() where chain_id = $1", chain_id)
        await application.relay._measure(connection)
        assert value("foyer_dead_letters") == before


async def test_events_of_one_transaction_keep_the_trace_each_was_caused_by(platform: Platform) -> None:
    """A batch of events is handled in one transaction; what follows from each belongs to its own trace."""
    chain_id = new_id()
    store = platform[SERVICE].context.store
    first, second = tracing.new(), tracing.new()
    async with store.unit(system_caller(SERVICE, chain_id)) as unit:
        for number, trace in enumerate((first, second)):
            with tracing.span("handle", parent=trace.traceparent):
                event = pb.CustomerCreated(customer_id=new_id())
                event.card.name = f"Customer {number}"
                unit.emit(event)
    async with platform[SERVICE].context.system_store.pool.acquire() as connection:
        find = "select traceparent from outbox where chain_id = $1 order by sequence"
        rows: list[asyncpg.Record] = await connection.fetch(find, chain_id)
    assert [row["traceparent"].split("-")[1] for row in rows] == [first.trace_id, second.trace_id]


async def test_the_bus_tells_how_much_it_keeps(platform: Platform) -> None:
    caller = platform.owner()
    await platform.call(SERVICE, "CreateCustomer", pb.CreateCustomerRequest(name="Baoyu", phone="13900139001"), caller)
    await platform.settle(caller.chain_id)
    state = await platform[SERVICE].context.bus.stream_state()
    assert state.messages > 0
    assert state.size_bytes > state.messages
