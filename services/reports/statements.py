"""Statements of the reports, prepared once."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from foyer.reports.v1 import reports_pb2

from chassis.db import Prepared, prepare, prepare_sql
from services.reports.models import BUILDING, RETIRED, SERVING, generations, names, rollups

# --- counting: hot, so each is one statement over arrays, which Core cannot say ---

TOUCH = prepare_sql(
    """
update generations set
  counted_events = counted_events + case when status = 'serving' then $2::int else 0 end,
  newest_event_at = case when status = 'serving' then greatest(newest_event_at, $3::timestamptz)
    else newest_event_at end
where chain_id = $1::uuid and status in ('building', 'serving')
returning id, status, rebuilt_at
""",
    "chain_id",
    "events",
    "newest",
)
"""Counts a batch, answers the generations it goes into, and locks them: a rebuild cannot switch in between."""

ADD_EVENTS = prepare_sql(
    """
update generations set
  counted_events = counted_events + $3::int, newest_event_at = greatest(newest_event_at, $4::timestamptz)
where chain_id = $1::uuid and id = $2::int
""",
    "chain_id",
    "generation",
    "events",
    "newest",
)

ADVANCE = prepare_sql(
    """
update generations set cursors = jsonb_set(cursors, array[$3::text], to_jsonb($4::bigint))
where chain_id = $1::uuid and id = $2::int and status = 'building' returning id
""",
    "chain_id",
    "generation",
    "service",
    "sequence",
)
"""Moves a rebuild's place in a log on; nothing when the generation is no longer being built."""

ENSURE_SERVING = prepare_sql(
    """
insert into generations (chain_id, id, status, started_at) values ($1::uuid, 1, 'serving', $2::timestamptz)
on conflict do nothing
""",
    "chain_id",
    "now",
)

KEEP_COUNTED = prepare_sql(
    """
insert into counted (chain_id, generation, event_id)
select $1::uuid, $2::int, e.id from unnest($3::uuid[]) as e(id) on conflict do nothing returning event_id
""",
    "chain_id",
    "generation",
    "event_ids",
)
"""Takes up events into a generation; answers those it did not have."""

ADD = prepare_sql(
    """
insert into rollups as r (chain_id, generation, measure, day, branch_id, service_id, staff_id, source, value)
select $1::uuid, $2::int, f.measure, f.day, f.branch_id, f.service_id, f.staff_id, f.source, f.value
from unnest($3::smallint[], $4::date[], $5::uuid[], $6::uuid[], $7::uuid[], $8::text[], $9::bigint[])
  as f(measure, day, branch_id, service_id, staff_id, source, value)
on conflict (chain_id, generation, measure, day, branch_id, service_id, staff_id, source)
do update set value = r.value + excluded.value
""",
    "chain_id",
    "generation",
    "measures",
    "days",
    "branch_ids",
    "service_ids",
    "staff_ids",
    "sources",
    "values",
)

KEEP_NAMES = prepare_sql(
    """
insert into names as n (chain_id, kind, id, name, name_en, version)
select $1::uuid, e.kind, e.id, e.name, e.name_en, e.version
from unnest($2::text[], $3::uuid[], $4::text[], $5::text[], $6::bigint[]) as e(kind, id, name, name_en, version)
on conflict (chain_id, kind, id)
do update set name = excluded.name, name_en = excluded.name_en, version = excluded.version
where n.version < excluded.version
""",
    "chain_id",
    "kinds",
    "ids",
    "names",
    "names_en",
    "versions",
)

# --- reading ---

_chain: sa.BindParameter[str] = sa.bindparam("chain_id")
_r = rollups.c

GENERATIONS = prepare(
    sa.select(generations)
    .where(generations.c.chain_id == _chain, generations.c.status != RETIRED)
    .order_by(generations.c.id)
)
SERVING_ID = prepare(
    sa.select(generations.c.id).where(generations.c.chain_id == _chain, generations.c.status == SERVING)
)
KNOWN = prepare(
    sa.select(names.c.id).where(
        names.c.chain_id == _chain, names.c.kind == sa.bindparam("kind"), names.c.id == sa.bindparam("id")
    )
)
NAMES = prepare(
    sa.select(names.c.id, names.c.name, names.c.name_en).where(
        names.c.chain_id == _chain,
        names.c.kind == sa.bindparam("kind"),
        names.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(names.c.id.type))),
    )
)

KEYS = {
    reports_pb2.DIMENSION_BRANCH: _r.branch_id,
    reports_pb2.DIMENSION_SERVICE: _r.service_id,
    reports_pb2.DIMENSION_STAFF: _r.staff_id,
    reports_pb2.DIMENSION_SOURCE: _r.source,
}


def _where(at_branches: bool) -> list[sa.ColumnElement[bool]]:
    conditions = [
        _r.chain_id == _chain,
        _r.generation == sa.bindparam("generation"),
        _r.measure == sa.bindparam("measure"),
        _r.day >= sa.bindparam("first"),
        _r.day < sa.bindparam("end"),
    ]
    if at_branches:
        conditions.append(_r.branch_id == sa.any_(sa.bindparam("branch_ids", type_=sa.ARRAY(_r.branch_id.type))))
    return conditions


def _sum() -> sa.ColumnElement[int]:
    return sa.cast(sa.func.sum(_r.value), sa.BigInteger)


@cache
def total(at_branches: bool) -> Prepared:
    """Sum of a measure over a period."""
    return prepare(sa.select(sa.func.coalesce(_sum(), 0)).where(*_where(at_branches)))


@cache
def points(interval: int, by: int, at_branches: bool) -> Prepared:
    """Sums of a measure by bucket, and by key where it is split."""
    bucket: sa.ColumnElement[object] = _r.day
    if interval != reports_pb2.INTERVAL_DAY:
        unit = "week" if interval == reports_pb2.INTERVAL_WEEK else "month"
        moment = sa.cast(_r.day, sa.TIMESTAMP)
        bucket = sa.cast(sa.func.date_trunc(sa.literal_column(f"'{unit}'"), moment), sa.Date)
    key = [KEYS[reports_pb2.Dimension.ValueType(by)]] if by else []
    statement = (
        sa.select(bucket.label("bucket"), *[column.label("key") for column in key], _sum().label("value"))
        .where(*_where(at_branches))
        .group_by(bucket, *key)
        .having(sa.func.sum(_r.value) != 0)
        .order_by(bucket, *key)
        .limit(sa.bindparam("most"))
    )
    return prepare(statement)


@cache
def ranking(by: int, at_branches: bool) -> Prepared:
    """Keys by their sum of a measure, highest first, with the sum over all of them."""
    key = KEYS[reports_pb2.Dimension.ValueType(by)]
    total_of_all = sa.cast(sa.func.sum(sa.func.sum(_r.value)).over(), sa.BigInteger)
    statement = (
        sa.select(key.label("key"), _sum().label("value"), total_of_all.label("total"))
        .where(*_where(at_branches))
        .group_by(key)
        .having(sa.func.sum(_r.value) != 0)
        .order_by(sa.func.sum(_r.value).desc(), key)
        .limit(sa.bindparam("most"))
    )
    return prepare(statement)


# --- rebuilding ---

START = prepare_sql(
    """
insert into generations (chain_id, id, status, started_at)
select $1::uuid, max(id) + 1, 'building', $2::timestamptz from generations where chain_id = $1::uuid
on conflict do nothing
""",
    "chain_id",
    "now",
)
"""Begins a generation beside the one that serves; touches no row when one is being built already."""

WORK = prepare(
    sa.select(generations.c.chain_id, generations.c.id, generations.c.cursors)
    .where(generations.c.status == sa.bindparam("status"))
    .order_by(generations.c.started_at)
    .limit(sa.bindparam("most"))
)
"""What there is to build or to delete, across chains."""

RETIRE = prepare(
    generations.update()
    .where(generations.c.chain_id == _chain, generations.c.status == SERVING)
    .values(status=RETIRED, retired_at=sa.bindparam("now"))
)
SERVE = prepare(
    generations.update()
    .where(
        generations.c.chain_id == _chain,
        generations.c.id == sa.bindparam("generation"),
        generations.c.status == BUILDING,
    )
    .values(status=SERVING, rebuilt_at=sa.bindparam("now"))
)

DELETE_ROLLUPS = prepare_sql(
    """
delete from rollups where ctid = any(array(
  select ctid from rollups where chain_id = $1::uuid and generation = $2::int limit $3))
and chain_id = $1::uuid and generation = $2::int
""",
    "chain_id",
    "generation",
    "most",
)
DELETE_COUNTED = prepare_sql(
    """
delete from counted where ctid = any(array(
  select ctid from counted where chain_id = $1::uuid and generation = $2::int limit $3))
and chain_id = $1::uuid and generation = $2::int
""",
    "chain_id",
    "generation",
    "most",
)
IS_REPLACED = prepare(
    sa.select(generations.c.id).where(
        generations.c.chain_id == _chain,
        generations.c.id == sa.bindparam("generation"),
        generations.c.status == RETIRED,
        generations.c.retired_at < sa.bindparam("before"),
    )
)
FORGET = prepare(
    generations.delete().where(
        generations.c.chain_id == _chain,
        generations.c.id == sa.bindparam("generation"),
        generations.c.status == RETIRED,
    )
)
