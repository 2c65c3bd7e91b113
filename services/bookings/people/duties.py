"""What somebody has to do in a stretch of time: their bookings and classes to come, with the time they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chassis.db import prepare_sql
from chassis.unit import Unit
from services.bookings import calendar

# Rows are found by the start of what a person is taken for; nobody is taken for ten days at a stretch.
READ = prepare_sql(
    """
with mine as (
  select a.booking_id, array_agg(a.starts_at order by a.starts_at) as taken_from,
    array_agg(a.ends_at order by a.starts_at) as taken_until
  from allocations a
  where a.chain_id = $1::uuid and a.resource_id = $2::uuid
    and a.starts_at > $3::timestamptz - interval '10 days' and a.starts_at < $4::timestamptz
    and a.ends_at > $3::timestamptz
  group by a.booking_id
)
select m.booking_id as id, m.taken_from, m.taken_until, c.id is not null as is_class, b.status, b.customer_id,
  coalesce(b.branch_id, c.branch_id) as branch_id, coalesce(b.service_name, c.name) as service_name,
  coalesce(b.starts_at, c.starts_at) as starts_at, coalesce(b.ends_at, c.ends_at) as ends_at
from mine m
left join bookings b on b.chain_id = $1::uuid and b.id = m.booking_id
left join class_sessions c on c.chain_id = $1::uuid and c.id = m.booking_id
where coalesce(b.ends_at, c.ends_at) > $5::timestamptz
  and (c.id is not null or b.status in ('confirmed', 'checked_in', 'in_service')
    or (b.status = 'held' and b.expires_at > $5::timestamptz))
order by starts_at, id
limit $6::integer
""",
    "chain_id",
    "staff_id",
    "earliest",
    "latest",
    "now",
    "limit",
)


@dataclass(frozen=True, slots=True)
class Duty:
    """A booking or a class that takes somebody's time."""

    id: str
    is_class: bool
    branch_id: str
    customer_id: str | None
    service_name: str
    starts_at: datetime
    ends_at: datetime
    taken: tuple[tuple[int, int], ...]
    """When the person is taken by it within the time asked for: first steps, and the steps after the last."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """What every message that names it says of it."""
        named = {"class_session_id": self.id} if self.is_class else {"booking_id": self.id}
        return {
            **named,
            "customer_id": self.customer_id,
            "service_name": self.service_name,
            "starts_at": self.starts_at,
        }


async def read(unit: Unit, staff_id: str, earliest: datetime, latest: datetime, limit: int) -> list[Duty]:
    """What somebody has to do between two moments and is not over, by start; `limit` at most."""
    rows = await unit.all(READ, staff_id=staff_id, earliest=earliest, latest=latest, now=unit.now, limit=limit)
    return [
        Duty(
            id=row["id"],
            is_class=row["is_class"],
            branch_id=row["branch_id"],
            customer_id=row["customer_id"],
            service_name=row["service_name"],
            starts_at=row["starts_at"],
            ends_at=row["ends_at"],
            taken=tuple(
                (calendar.last_step(first), calendar.first_step(last))
                for first, last in zip(row["taken_from"], row["taken_until"], strict=True)
            ),
        )
        for row in rows
    ]
