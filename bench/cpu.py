"""CPU time of the platform's processes: what a request costs, whatever else the machine does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tools.running import Running

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads; 0 for one that is gone."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(values[11]) + int(values[12])) / TICKS


@dataclass(frozen=True)
class Spent:
    """Seconds of CPU by part."""

    gateway: float
    service: float
    database: float

    @property
    def total(self) -> float:
        return self.gateway + self.service + self.database


class Meter:
    """Reads what gateway, one service and its database's backends have used so far."""

    def __init__(self, platform: Running, service: str, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        self._platform = platform
        self._service = service
        self._admin = admin

    async def backends(self) -> list[int]:
        rows = await self._admin.fetch(
            "select pid from pg_stat_activity where datname = $1 or backend_type in ('walwriter', 'checkpointer')",
            f"foyer_{self._service}",
        )
        return [row["pid"] for row in rows]

    async def read(self, pids: list[int]) -> Spent:
        own = {name: self._platform.pid(name) or 0 for name in ("gateway", self._service)}
        return Spent(
            cpu_seconds(own["gateway"]), cpu_seconds(own[self._service]), sum(cpu_seconds(pid) for pid in pids)
        )
