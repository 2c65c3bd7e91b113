"""A transaction as the chassis makes it, for floors: the same SQL without gateway, gRPC and messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Self

from bench.shop import Shop
from chassis import unit as chassis_unit
from chassis.db import CHAIN_SETTING, Prepared
from chassis.ids import new_id
from chassis.outbox import partition_of


class Transaction:
    """A transaction as the chassis makes it: BEGIN and the chain in one round trip, statements, COMMIT."""

    def __init__(self, connection: Any, shop: Shop) -> None:
        self.connection = connection
        self.shop = shop

    async def __aenter__(self) -> Self:
        await self.connection.execute(f"begin;select set_config('{CHAIN_SETTING}','{self.shop.chain_id}',true)")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.execute("commit")

    async def run(self, statement: Prepared, **parameters: Any) -> Any:
        parameters.setdefault("chain_id", self.shop.chain_id)
        return await self.connection.fetch(statement.sql, *statement.arguments(parameters))

    async def claim(self, key: str) -> None:
        now = datetime.now(UTC)
        await self.connection.fetchval(
            chassis_unit.CLAIM_KEY, self.shop.chain_id, "floor", key, "Floor", b"0" * 32, now
        )

    async def finish(self, key: str, subject: str, aggregate_id: str) -> None:
        now = datetime.now(UTC)
        await self.connection.execute(
            chassis_unit.EVENTS_AND_ANSWER,
            self.shop.chain_id,
            now,
            None,
            [new_id()],
            [partition_of(aggregate_id)],
            [subject],
            [aggregate_id],
            [now],
            [b"x" * 300],
            b"x" * 300,
            "floor",
            key,
        )
