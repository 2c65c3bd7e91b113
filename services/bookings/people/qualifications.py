"""Grade and expiry of skills: what makes sense, and telling in time that one expires."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta

import sqlalchemy as sa
from foyer.bookings.v1 import catalogue_pb2, people_pb2

from chassis.app import Context
from chassis.db import prepare, prepare_sql
from chassis.errors import FieldError, Refusal
from chassis.unit import Unit, system_caller
from services.bookings import domain, one_by_one
from services.bookings.people.models import expiring_qualifications

TELL_EXPIRING_SECONDS = 3600.0
NOTICE_DAYS = 30
MOST_CHAINS = 100
MOST_AT_ONCE = 500

FORGET = prepare_sql(
    """
delete from expiring_qualifications q where q.chain_id = $1::uuid and q.staff_id = $2::uuid and not exists (
  select from unnest($3::text[], $4::date[]) as w(skill, expires_on)
  where w.skill = q.skill and w.expires_on = q.expires_on)
""",
    "chain_id",
    "staff_id",
    "skills",
    "days",
)
KEEP = prepare_sql(
    """
insert into expiring_qualifications (chain_id, staff_id, skill, expires_on)
select $1::uuid, $2::uuid, w.skill, w.expires_on from unnest($3::text[], $4::date[]) as w(skill, expires_on)
on conflict do nothing
""",
    "chain_id",
    "staff_id",
    "skills",
    "days",
)
_soon = sa.and_(
    expiring_qualifications.c.told_at.is_(None),
    expiring_qualifications.c.expires_on.between(
        sa.bindparam("today", type_=sa.Date()), sa.bindparam("last_day", type_=sa.Date())
    ),
)
CHAINS_TO_TELL = prepare(sa.select(expiring_qualifications.c.chain_id).where(_soon).distinct().limit(MOST_CHAINS))
TELL = prepare_sql(
    f"""
with soon as (
  select staff_id, skill, expires_on from expiring_qualifications
  where chain_id = $1::uuid and told_at is null and expires_on between $2::date and $3::date
  order by expires_on, staff_id, skill limit {MOST_AT_ONCE} for update
), told as (
  update expiring_qualifications q set told_at = $4::timestamptz from soon
  where q.chain_id = $1::uuid and q.staff_id = soon.staff_id and q.skill = soon.skill
    and q.expires_on = soon.expires_on
  returning q.staff_id, q.skill, q.expires_on
)
select p.id, p.name, p.branch_ids, t.skill, t.expires_on
from told t join staff p on p.chain_id = $1::uuid and p.id = t.staff_id
order by t.expires_on, p.id, t.skill
""",  # noqa: S608 - constants only
    "chain_id",
    "today",
    "last_day",
    "now",
)


def qualification_errors(
    qualifications: Sequence[catalogue_pb2.Qualification], skills: Collection[str], path: str
) -> list[FieldError]:
    """What is wrong with grades and expiries: of skills the person has, each once, on days of the calendar."""
    errors = []
    seen: set[str] = set()
    for index, qualification in enumerate(qualifications):
        field = f"{path}[{index}]"
        if qualification.skill not in skills:
            errors.append(FieldError(f"{field}.skill", "unknown", "is not among the skills", "不在技能列表中"))
        elif qualification.skill in seen:
            errors.append(FieldError(f"{field}.skill", "repeated", "was named before", "重复"))
        seen.add(qualification.skill)
        if qualification.HasField("expires_on"):
            try:
                domain.parse_date(f"{field}.expires_on", qualification.expires_on)
            except Refusal as refusal:
                errors += refusal.errors
    return errors


async def remember(unit: Unit, staff_id: str, qualifications: Sequence[catalogue_pb2.Qualification]) -> None:
    """Keep when somebody's qualifications expire; what was told of one that stays is not told again."""
    found = {each.skill: date.fromisoformat(each.expires_on) for each in qualifications if each.HasField("expires_on")}
    await unit.run(FORGET, staff_id=staff_id, skills=list(found), days=list(found.values()))
    if found:
        await unit.run(KEEP, staff_id=staff_id, skills=list(found), days=list(found.values()))


async def tell_expiring(context: Context) -> None:
    """Tell of each qualification once, 30 days before it expires. Days are those of UTC."""
    async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
        today = unit.now.date()
        days = {"today": today, "last_day": today + timedelta(days=NOTICE_DAYS)}
        chains = [row["chain_id"] for row in await unit.all(CHAINS_TO_TELL, **days)]
    for chain_id in chains:
        await one_by_one.each(context, "tell-expiring-qualifications", chain_id, [days], _tell)


async def _tell(unit: Unit, days: Mapping[str, date]) -> None:
    for row in await unit.all(TELL, **days, now=unit.now):
        event = people_pb2.StaffQualificationExpiring(
            staff_id=row["id"],
            name=row["name"],
            branch_ids=row["branch_ids"],
            skill=row["skill"],
            expires_on=row["expires_on"].isoformat(),
        )
        unit.emit(event)
