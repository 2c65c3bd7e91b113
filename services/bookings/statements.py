"""Statements of the hot paths, as SQL: one round trip each for what Core cannot say in one."""

from __future__ import annotations

from chassis.db import prepare_sql

# --- what decides about a branch's time, as board.py keeps it ---

READ_VERSIONS = prepare_sql(
    """
select coalesce((select version from board_versions where chain_id = $1::uuid and branch_id = $3::uuid), 0)
    as chain_version,
  coalesce((select version from board_versions where chain_id = $1::uuid and branch_id = $2::uuid), 0)
    as branch_version
from (values ('00000000-0000-0000-0000-000000000000'::uuid)) as none(id)
""".replace("$3::uuid", "none.id"),
    "chain_id",
    "branch_id",
    name="select_board_versions",
)
# The same, locked until the end of the unit: whoever changes what decides waits for who takes time by it, and the other
# way round. A lock that had to wait reads what is there then.
LOCK_VERSIONS = prepare_sql(
    """
select version from board_versions
where chain_id = $1::uuid and branch_id in ('00000000-0000-0000-0000-000000000000', $2::uuid)
order by branch_id for share
""",
    "chain_id",
    "branch_id",
    name="select_board_versions",
)
READ_BRANCH = prepare_sql(
    """
select b.time_zone, b.opening_hours, b.holidays, b.swapped_days, b.active, p.policy, p.version as policy_version
from branches b left join booking_policies p on p.chain_id = b.chain_id
where b.chain_id = $1::uuid and b.id = $2::uuid
""",
    "chain_id",
    "branch_id",
)
# The chain's whole catalogue: bounded by what a chain can sensibly sell.
READ_SERVICES = prepare_sql("select * from services where chain_id = $1::uuid order by id limit 5000", "chain_id")
# Everybody who works here, or has shifts here from before.
READ_PEOPLE = prepare_sql(
    """
select * from staff p where p.chain_id = $1::uuid and ($2::uuid = any(p.branch_ids) or exists (
  select from shifts w where w.chain_id = p.chain_id and w.branch_id = $2::uuid and w.staff_id = p.id))
order by p.id limit 2000
""",
    "chain_id",
    "branch_id",
)
READ_SHIFTS = prepare_sql(
    """
select staff_id, from_date - date '1970-01-01' as from_day, until_date - date '1970-01-01' as until_day, week
from shifts where chain_id = $1::uuid and branch_id = $2::uuid and (until_date is null or until_date >= $3::date)
""",
    "chain_id",
    "branch_id",
    "since",
)
READ_DATED = prepare_sql(
    """
select staff_id, day - date '1970-01-01' as day, week
from dated_shifts where chain_id = $1::uuid and branch_id = $2::uuid and day >= $3::date
""",
    "chain_id",
    "branch_id",
    "since",
)
READ_LEAVES = prepare_sql(
    """
select staff_id, starts_at, ends_at from leaves
where chain_id = $1::uuid and staff_id = any($2::uuid[]) and ends_at > $3::date::timestamptz and status = 'approved'
""",
    "chain_id",
    "ids",
    "since",
)
# A unit of a type that is given up is not given to anybody.
READ_THINGS = prepare_sql(
    """
select r.id, r.name, r.resource_type_id, r.active and t.active as active
from resources r join resource_types t on t.chain_id = r.chain_id and t.id = r.resource_type_id
where r.chain_id = $1::uuid and r.branch_id = $2::uuid order by r.id limit 5000
""",
    "chain_id",
    "branch_id",
)
READ_TYPES = prepare_sql("select id, name from resource_types where chain_id = $1::uuid limit 5000", "chain_id")
READ_BLOCKS = prepare_sql(
    """
select resource_id, starts_at, ends_at from resource_blocks
where chain_id = $1::uuid and branch_id = $2::uuid and ends_at > $3::date::timestamptz
""",
    "chain_id",
    "branch_id",
    "since",
)

# --- what is taken ---

# Busy time of people, things and customers, the versions of what else decides, and holds that ran out but still stand
# in that time: all in one snapshot. Always one row. Ranges are compared as plain dates and moments: operators on ranges
# would lose their index under row-level security. Holds that ran out are few, and `offset 0` has them read first: any
# other order looks at all that people ever did.
READ_BUSY = prepare_sql(
    """
select
  coalesce((select version from board_versions
    where chain_id = $1::uuid and branch_id = '00000000-0000-0000-0000-000000000000'), 0) as chain_version,
  coalesce((select version from board_versions where chain_id = $1::uuid and branch_id = $2::uuid), 0)
    as branch_version,
  (select array_agg(c.id::text) from customers c where c.chain_id = $1::uuid and c.id = any($3::uuid[]))
    as customer_ids,
  d.busy_ids, d.busy_days, d.busy,
  h.held_ids, h.held_resource_ids, h.held_from, h.held_until
from (values (1)) as one
cross join lateral (
  select array_agg(d.resource_id::text) as busy_ids, array_agg(d.day - date '1970-01-01') as busy_days,
    array_agg(d.busy) as busy
  from resource_days d
  where d.chain_id = $1::uuid and d.resource_id = any($4::uuid[]) and d.day >= $5::date and d.day <= $6::date
) d
cross join lateral (
  select array_agg(a.booking_id::text) as held_ids, array_agg(a.resource_id::text) as held_resource_ids,
    array_agg(a.starts_at) as held_from, array_agg(a.ends_at) as held_until
  from (
    select * from allocations where chain_id = $1::uuid and expires_at <= $7::timestamptz and guarded offset 0
  ) a
  where a.resource_id = any($4::uuid[]) and a.starts_at < ($6::date + 1)::timestamptz
    and a.ends_at > $5::date::timestamptz
) h
""",
    "chain_id",
    "branch_id",
    "customer_ids",
    "ids",
    "first_day",
    "last_day",
    "now",
    name="select_resource_days",
)

# The same for who means to take time: until the end of the unit nobody changes what decides about it. Who changes it at
# this moment is waited for, and then the versions that are read here are old, which the claim notices.
READ_BUSY_TO_TAKE = prepare_sql(
    READ_BUSY.sql.replace(
        "select\n",
        """select
  pg_advisory_xact_lock_shared(hashtextextended('board ' || $1::uuid || '00000000-0000-0000-0000-000000000000', 0)),
  pg_advisory_xact_lock_shared(hashtextextended('board ' || $1::uuid || $2::uuid, 0)),
""",
        1,
    ),
    *READ_BUSY.names,
    name="select_resource_days",
)

# The same for some days only, which may lie far apart.
READ_BUSY_ON_DAYS = prepare_sql(
    READ_BUSY.sql.replace("d.day >= $5::date and d.day <= $6::date", "d.day = any($8::date[])"),
    *READ_BUSY.names,
    "days",
    name="select_resource_days",
)

# --- taking and giving back ---

NEW_BOOKING = (
    "id",
    "branch_id",
    "service_id",
    "customer_id",
    "staff_id",
    "status",
    "starts_at",
    "ends_at",
    "buffer_before_minutes",
    "buffer_after_minutes",
    "lines",
    "change_policy",
    "package_id",
    "package_name",
    "products",
    "price_amount",
    "currency",
    "service_name",
    "time_zone",
    "expires_at",
    "source",
    "note",
    "deposit_amount",
    "deposit_status",
    "deposit_waived_reason",
    "overlap_allowed",
    "overbook_reason",
    "class_session_id",
    "seats",
    "series_id",
    "waiting_entry_id",
    "version",
    "created_at",
)

_TYPES = {
    "bigint": ("price_amount", "version", "deposit_amount"),
    "integer": ("buffer_before_minutes", "buffer_after_minutes", "seats"),
    "timestamptz": ("starts_at", "ends_at", "expires_at", "created_at"),
    "uuid": (
        "id",
        "branch_id",
        "service_id",
        "customer_id",
        "staff_id",
        "package_id",
        "class_session_id",
        "series_id",
        "waiting_entry_id",
    ),
    "bytea": ("lines", "change_policy", "products"),
    "boolean": ("overlap_allowed",),
}
_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names}
_FIRST = 10
_VALUES = ", ".join(f"${n}::{_TYPE_OF.get(name, 'text')}" for n, name in enumerate(NEW_BOOKING, start=_FIRST))


def _value(name: str) -> str:
    return f"${_FIRST + NEW_BOOKING.index(name)}::{_TYPE_OF.get(name, 'text')}"


# Take the bits, and only when all of them were free write down whose they are and the booking. It answers those whose
# bits were taken: when some are missing, somebody else was faster, and the caller gives back what it got. Rows are
# taken by resource and day, as everywhere. Nothing is taken by a board that is out of date.
CLAIM = prepare_sql(
    f"""
with standing as materialized (
  select version from board_versions
  where chain_id = $1::uuid and branch_id in ('00000000-0000-0000-0000-000000000000', {_value("branch_id")})
), current as materialized (
  select 1 where $9::bigint[] is null or (select coalesce(bool_and(version = any($9::bigint[])), true) from standing)
), claimed as (
  insert into resource_days (chain_id, resource_id, day, busy)
  select $1::uuid, w.resource_id, w.day, w.mask
  from unnest($2::uuid[], $3::date[], $4::bit(288)[]) as w(resource_id, day, mask), current
  order by w.resource_id, w.day
  on conflict (chain_id, resource_id, day) do update set busy = resource_days.busy | excluded.busy
  where resource_days.busy & excluded.busy = 0::bit(288)
  returning resource_id, day
), complete as (
  select 1 from claimed having count(*) = cardinality($2::uuid[]) and exists (select from current)
), allocated as (
  insert into allocations (chain_id, booking_id, resource_id, starts_at, ends_at, expires_at, guarded)
  select $1::uuid, {_value("id")}, a.resource_id, a.starts_at, a.ends_at, {_value("expires_at")}, a.guarded
  from unnest($5::uuid[], $6::timestamptz[], $7::timestamptz[], $8::boolean[])
    as a(resource_id, starts_at, ends_at, guarded), complete
), booked as (
  insert into bookings (chain_id, {", ".join(NEW_BOOKING)}) select $1::uuid, {_VALUES} from complete
)
select array_agg(resource_id::text) as resource_ids, array_agg(day) as days, exists (select from current) as is_current
from claimed
""",  # noqa: S608 - constants only
    "chain_id",
    "mask_ids",
    "mask_days",
    "masks",
    "taken_ids",
    "taken_from",
    "taken_until",
    "taken_guarded",
    "versions",
    *NEW_BOOKING,
    name="insert_bookings",
)

# The time of bookings, or of whatever else owns time, that move.
ALLOCATE = prepare_sql(
    """
insert into allocations (chain_id, booking_id, resource_id, starts_at, ends_at, expires_at, guarded)
select $1::uuid, a.owner_id, a.resource_id, a.starts_at, a.ends_at, a.expires_at, a.guarded
from unnest($2::uuid[], $3::timestamptz[], $4::uuid[], $5::timestamptz[], $6::timestamptz[], $7::boolean[])
  as a(owner_id, expires_at, resource_id, starts_at, ends_at, guarded)
""",
    "chain_id",
    "ids",
    "expiries",
    "taken_ids",
    "taken_from",
    "taken_until",
    "taken_guarded",
)

# What was overbooked and has no bits, close to where time was given back.
READ_UNGUARDED = prepare_sql(
    """
select booking_id, resource_id, starts_at, ends_at, guarded from allocations
where chain_id = $1::uuid and resource_id = any($2::uuid[]) and starts_at > $3::timestamptz - interval '2 days'
  and starts_at < $4::timestamptz and ends_at > $3::timestamptz and not guarded
  and (expires_at is null or expires_at > $5::timestamptz)
order by starts_at, booking_id, resource_id limit 100
""",
    "chain_id",
    "resource_ids",
    "given_from",
    "given_until",
    "now",
)
GUARD = prepare_sql(
    """
update allocations set guarded = true
where chain_id = $1::uuid and booking_id = $2::uuid and resource_id = $3::uuid and starts_at = $4::timestamptz
""",
    "chain_id",
    "booking_id",
    "resource_id",
    "starts_at",
)

# Days that a move needs, made where they are missing, then locked in one order for everybody.
ENSURE_DAYS = prepare_sql(
    """
insert into resource_days (chain_id, resource_id, day, busy)
select $1::uuid, w.resource_id, w.day, 0::bit(288) from unnest($2::uuid[], $3::date[]) as w(resource_id, day)
order by w.resource_id, w.day
on conflict do nothing
""",
    "chain_id",
    "resource_ids",
    "days",
)
LOCK_DAYS = prepare_sql(
    """
select d.resource_id::text as resource_id, d.day, d.busy
from resource_days d
join unnest($2::uuid[], $3::date[]) as w(resource_id, day) on d.resource_id = w.resource_id and d.day = w.day
where d.chain_id = $1::uuid
order by d.resource_id, d.day
for update of d
""",
    "chain_id",
    "resource_ids",
    "days",
)
# The mask's bits out first, then the other mask's bits in.
CHANGE_DAYS = prepare_sql(
    """
with wanted as (
  select d.resource_id, d.day, w.mask_out, w.mask_into
  from resource_days d
  join unnest($2::uuid[], $3::date[], $4::bit(288)[], $5::bit(288)[]) as w(resource_id, day, mask_out, mask_into)
    on d.resource_id = w.resource_id and d.day = w.day
  where d.chain_id = $1::uuid
  order by d.resource_id, d.day
  for update of d
)
update resource_days d set busy = (d.busy & ~w.mask_out) | w.mask_into
from wanted w where d.chain_id = $1::uuid and d.resource_id = w.resource_id and d.day = w.day
""",
    "chain_id",
    "resource_ids",
    "days",
    "masks_out",
    "masks_into",
)

EXPIRE_BOOKINGS = prepare_sql(
    """
with due as (
  select id from bookings
  where chain_id = $1::uuid and id = any($2::uuid[]) and status = 'held' and expires_at <= $3::timestamptz
  order by id for update
)
update bookings b set status = 'expired', version = b.version + 1
from due where b.chain_id = $1::uuid and b.id = due.id
returning b.*
""",
    "chain_id",
    "ids",
    "now",
)
