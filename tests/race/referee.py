"""What must be true after the race, read from the database and not from what the platform says of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import asyncpg

from tests.race.arena import Arena
from tools.postgres import admin_url

OVERLAPS = """
select count(*) from allocations a join allocations b
  on b.chain_id = a.chain_id and b.resource_id = a.resource_id
  and (b.booking_id, b.starts_at) > (a.booking_id, a.starts_at)
  and b.starts_at < a.ends_at and b.ends_at > a.starts_at
where a.chain_id = $1 and a.guarded and b.guarded
"""
# Bits that no allocation explains are lost slots; bits that are missing would be sold twice.
WRONG_BITS = """
with steps as (
  select a.resource_id, s as step
  from allocations a, generate_series(
    (extract(epoch from a.starts_at) / 300)::int, (extract(epoch from a.ends_at) / 300)::int - 1) s
  where a.chain_id = $1 and a.guarded
), expected as (
  select resource_id, date '1970-01-01' + step / 288 as day, bit_or(
    set_bit(0::bit(288), 287 - step % 288, 1)) as busy
  from steps group by 1, 2
)
select count(*) filter (where coalesce(d.busy, 0::bit(288)) & ~coalesce(e.busy, 0::bit(288)) <> 0::bit(288)) as lost,
  count(*) filter (where coalesce(e.busy, 0::bit(288)) & ~coalesce(d.busy, 0::bit(288)) <> 0::bit(288)) as unguarded
from expected e full join (select * from resource_days where chain_id = $1) d
  on d.resource_id = e.resource_id and d.day = e.day
"""
# Time that nobody holds: of bookings that are over, or of none.
ORPHANS = """
select count(*) from allocations a left join bookings b on b.chain_id = a.chain_id and b.id = a.booking_id
left join class_sessions s on s.chain_id = a.chain_id and s.id = a.booking_id
left join loans l on l.chain_id = a.chain_id and l.id = a.booking_id
where a.chain_id = $1 and s.id is null and l.id is null
  and (b.id is null or b.status not in ('held', 'confirmed', 'checked_in', 'in_service', 'completed'))
"""
NAKED = """
select count(*) from bookings b where b.chain_id = $1 and b.branch_id = $2 and b.status in ('held', 'confirmed')
  and not exists (select from allocations a where a.chain_id = b.chain_id and a.booking_id = b.id)
"""
SEATS = """
select coalesce(sum(greatest(held - seats, 0)), 0) as oversold, coalesce(sum(abs(taken - held)), 0) as miscounted from (
  select s.seats, s.taken, coalesce((
    select sum(b.seats) from bookings b where b.chain_id = s.chain_id and b.class_session_id = s.id
      and b.status in ('held', 'confirmed', 'checked_in', 'in_service', 'completed')), 0) as held
  from class_sessions s where s.chain_id = $1 and s.branch_id = $2 and s.status <> 'cancelled') x
"""


@dataclass
class Verdict:
    """How often each thing happened; all but attempts, wins and refusals must be 0."""

    attempts: int = 0
    wins: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    by_action: Counter[str] = field(default_factory=Counter)
    overlaps: int = 0
    lost_slots: int = 0
    unguarded: int = 0
    orphans: int = 0
    naked_bookings: int = 0
    seats_oversold: int = 0
    seats_miscounted: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing happened that must not."""
        return not self.errors and not any(
            (
                self.overlaps,
                self.lost_slots,
                self.unguarded,
                self.orphans,
                self.naked_bookings,
                self.seats_oversold,
                self.seats_miscounted,
            )
        )

    def text(self) -> str:
        """The verdict for people."""
        refused = ", ".join(f"{code} {count:,}" for code, count in self.refusals.most_common())
        wins = ", ".join(f"{action} {count:,}" for action, count in sorted(self.by_action.items()))
        wrong = ", ".join(f"{what} {count}" for what, count in self.errors.most_common()) or "0"
        return "\n".join(
            (
                f"attempts   {self.attempts:,}",
                f"wins       {self.wins:,} ({wins})",
                f"refusals   {sum(self.refusals.values()):,} ({refused})",
                f"errors     {wrong}",
                f"overlaps   {self.overlaps}",
                f"lost slots {self.lost_slots}, unguarded {self.unguarded}, orphans {self.orphans}",
                f"bookings without time {self.naked_bookings}",
                f"seats      oversold {self.seats_oversold}, miscounted {self.seats_miscounted}",
            )
        )


async def judge(arena: Arena, verdict: Verdict) -> None:
    """Read what the race left behind into the verdict."""
    secrets = arena.platform.home.secrets()
    url = admin_url(arena.platform.port_base + 1, secrets["postgres"]).rpartition("/")[0]
    connection = await asyncpg.connect(f"{url}/foyer_bookings")
    try:
        verdict.overlaps = await connection.fetchval(OVERLAPS, arena.chain_id)
        (bits,) = await connection.fetch(WRONG_BITS, arena.chain_id)
        verdict.lost_slots, verdict.unguarded = bits["lost"], bits["unguarded"]
        verdict.orphans = await connection.fetchval(ORPHANS, arena.chain_id)
        verdict.naked_bookings = await connection.fetchval(NAKED, arena.chain_id, arena.branch_id)
        (seats,) = await connection.fetch(SEATS, arena.chain_id, arena.branch_id)
        verdict.seats_oversold, verdict.seats_miscounted = int(seats["oversold"]), int(seats["miscounted"])
    finally:
        await connection.close()
