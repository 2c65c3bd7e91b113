"""What the chassis promises every service: conflicts are tried again, deadlines hold, chains are walled off twice."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import grpc
import pytest
from foyer.access.v1 import access_pb2 as pb
from foyer.access.v1 import access_pb2_grpc
from grpc.aio import Metadata

from chassis.access import CALLER_METADATA
from chassis.client import READ_ATTEMPTS, read
from chassis.db import prepare_sql
from chassis.errors import Refusal
from chassis.projections import Projections
from chassis.rpc import ATTEMPTS, Runner
from chassis.settings import SERVICES
from chassis.testing import Platform
from chassis.unit import Unit
from tools.servers import Servers

LOCK = prepare_sql("select pg_advisory_xact_lock(771, $1)", "number")
UNPROTECTED = """
select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'public' and c.relkind in ('r', 'p') and c.relname <> 'alembic_version'
  and not (c.relrowsecurity and c.relforcerowsecurity and pg_get_userbyid(c.relowner) = 'foyer_owner'
    and exists (select from pg_policies p where p.tablename = c.relname and 'foyer_app' = any(p.roles)))
"""


def runner(platform: Platform) -> Runner:
    store = platform["access"].context.store
    return Runner("access", store, Projections("access", store, {}))


async def test_who_loses_a_deadlock_is_tried_again(platform: Platform) -> None:
    """Two calls lock two things in opposite order: PostgreSQL ends one (40P01), the chassis runs it again."""
    tries = 0
    both = asyncio.Barrier(2)

    def work(first: int, second: int) -> Any:
        met = False

        async def run(unit: Unit) -> pb.GetChainRequest:
            nonlocal tries, met
            tries += 1
            await unit.all(LOCK, number=first)
            if not met:
                met = True
                await both.wait()
            await unit.all(LOCK, number=second)
            return pb.GetChainRequest()

        return run

    calls = (
        runner(platform).in_unit(work(*order), platform.owner(), None, None, read_only=False)
        for order in ((1, 2), (2, 1))
    )
    assert await asyncio.gather(*calls) == [pb.GetChainRequest()] * 2
    assert tries == 3


async def test_conflicts_are_tried_again_but_not_for_ever(platform: Platform) -> None:
    tries = 0

    async def work(unit: Unit) -> pb.GetChainRequest:
        nonlocal tries
        tries += 1
        await unit.all(prepare_sql("do $$ begin raise exception using errcode = '40001'; end $$"))
        return pb.GetChainRequest()

    with pytest.raises(asyncpg.SerializationError):
        await runner(platform).in_unit(work, platform.owner(), None, None, read_only=False)
    assert tries == ATTEMPTS


async def test_a_deadline_ends_the_work_and_leaves_nothing(platform: Platform, servers: Servers) -> None:
    """The caller's deadline travels with the call: what waits for a lock then is undone, not done later."""
    owner = platform.owner()
    application = platform["access"]
    branch = await platform.call("access", "CreateBranch", pb.CreateBranchRequest(name="Here"), owner)
    admin = await asyncpg.connect(servers.postgres.admin_url.rpartition("/")[0] + "/foyer_access")
    address = application.settings.service_address_of("access")
    metadata = Metadata((CALLER_METADATA, application.context.caller_tokens.mint(owner)))
    try:
        async with grpc.aio.insecure_channel(address) as channel, admin.transaction():
            await admin.execute("select from branches where id = $1 for update", branch.id)
            update = access_pb2_grpc.AccessStub(channel).UpdateBranch
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await update(pb.UpdateBranchRequest(id=branch.id, name="Late"), timeout=0.5, metadata=metadata)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.sleep(0.5)
        found = await platform.call("access", "GetBranch", pb.GetBranchRequest(id=branch.id), owner)
        assert (found.name, found.version) == ("Here", 1)
    finally:
        await admin.close()


async def test_reads_are_tried_again_within_bounds() -> None:
    tries = 0

    async def away(_request: Any, **_options: Any) -> Any:
        nonlocal tries
        tries += 1
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata())

    with pytest.raises(Refusal) as refused:
        await read(away, pb.GetChainRequest(), (), 5)
    assert (refused.value.code, tries) == ("UNAVAILABLE", READ_ATTEMPTS)


async def test_a_write_is_sent_once(platform: Platform) -> None:
    """Nobody listens there: a write is refused at once, for only its sender can know whether to repeat it."""
    context = platform["access"].context
    request = pb.CreateBranchRequest(name="Nowhere")
    with pytest.raises(Refusal) as refused:
        await context.clients.write(
            "nobody",
            access_pb2_grpc.AccessStub,
            "CreateBranch",
            request,
            caller=platform.owner(),
            idempotency_key="once",
        )
    assert refused.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("service", SERVICES)
async def test_every_table_is_walled_off(servers: Servers, service: str) -> None:
    """Row-level security is on, forced on the owner too, with a policy for the application, which owns nothing."""
    admin = await asyncpg.connect(servers.postgres.admin_url.rpartition("/")[0] + f"/foyer_{service}")
    try:
        assert await admin.fetch(UNPROTECTED) == []
        assert await admin.fetchval("select count(*) from pg_policies") > 4
        owned = "select count(*) from pg_class where pg_get_userbyid(relowner) in ('foyer_app', 'foyer_system')"
        assert await admin.fetchval(owned) == 0
    finally:
        await admin.close()


async def test_without_a_chain_nothing_is_seen(platform: Platform) -> None:
    """The second wall alone: a statement that forgets its chain finds no row of any."""
    await platform.call("access", "CreateBranch", pb.CreateBranchRequest(name="Mine"), platform.owner())
    async with platform["access"].context.store.pool.acquire() as connection:
        assert await connection.fetchval("select count(*) from branches") == 0
    async with platform["access"].context.store.unit(platform.owner(), read_only=True) as unit:
        assert await unit.value(prepare_sql("select count(*) from branches")) == 0
