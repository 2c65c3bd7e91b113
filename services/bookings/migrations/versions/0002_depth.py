"""Bookings in depth: rooms and things beside people, visits of several services, rules, rosters, waiting lists."""

from alembic import op
from sqlalchemy.schema import CreateColumn

from chassis.db import APPLICATION_ROLE, DIALECT, SYSTEM_ROLE, append_only, protect
from services.bookings.migrations import initial
from services.bookings.tables import metadata

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# What the system role may do across chains: jobs must learn which chains have work.
SYSTEM_RIGHTS: dict[str, str] = {
    "rosters": "select (chain_id, status, lease_until, check_at)",
    "claim_offers": "select",
    "waiting_entries": "select",
    "bookings": "select (chain_id, status, starts_at)",
    "expiring_qualifications": "select (chain_id, expires_on, told_at)",
    "loans": "select (chain_id, returned_at, watched_at)",
}

# Tables whose change makes what processes keep of a branch's time out of date, and the column that names the branch.
WATCHED = {
    "services": None,
    "staff": None,
    "leaves": None,
    "booking_policies": None,
    "resource_types": None,
    "branches": "id",
    "shifts": "branch_id",
    "dated_shifts": "branch_id",
    "resources": "branch_id",
    "resource_blocks": "branch_id",
}


def upgrade() -> None:
    _change_old()
    fresh = [table for table in metadata.sorted_tables if table.name not in OLD]
    metadata.create_all(op.get_bind(), tables=fresh)
    for table in fresh:
        protect(op, table.name, system=SYSTEM_RIGHTS.get(table.name, ""))
    for name in sorted(OLD & set(SYSTEM_RIGHTS)):
        op.execute(f"grant {SYSTEM_RIGHTS[name]} on {name} to {SYSTEM_ROLE}")
        op.execute(f"create policy everywhere on {name} to {SYSTEM_ROLE} using (true) with check (true)")
    append_only(op, "stock_movements")
    _watch()
    _give_back_seats()


OLD = set(initial.metadata.tables) - {"staff_days"} | {"resource_days"}


def _change_old() -> None:
    """Bring the tables of 0001 to what they are now; nothing of what they hold is lost."""
    op.execute("alter table staff_days rename to resource_days")
    op.execute("alter table resource_days rename column staff_id to resource_id")
    op.execute("alter table allocations rename column staff_id to resource_id")
    op.execute("alter table allocations add column guarded boolean not null default true")
    op.execute("alter table allocations drop constraint allocations_pkey")
    op.execute("alter table allocations add primary key (chain_id, booking_id, resource_id, starts_at)")
    op.execute("alter table allocations drop constraint allocations_no_overlap")
    op.execute(
        "alter table allocations add constraint allocations_no_overlap exclude using gist"
        " (resource_id with =, tstzrange(starts_at, ends_at) with &&, chain_id with =) where (guarded)"
    )
    op.execute("create index allocations_of_resource on allocations (chain_id, resource_id, starts_at)")
    op.execute("alter table bookings alter column staff_id drop not null")
    for name in sorted(OLD - {"resource_days", "allocations"}):
        known = {column.name for column in initial.metadata.tables[name].columns}
        for column in metadata.tables[name].columns:
            if column.name not in known:
                op.execute(f"alter table {name} add column {CreateColumn(column).compile(dialect=DIALECT)}")
        known = {str(index.name) for index in initial.metadata.tables[name].indexes}
        for index in metadata.tables[name].indexes:
            if str(index.name) not in known:
                index.create(op.get_bind())


def _watch() -> None:
    """Count the version up with every change of what decides about time."""
    op.execute("create sequence board_version")
    op.execute(f"grant usage on sequence board_version to {APPLICATION_ROLE}, {SYSTEM_ROLE}")
    op.execute(
        """
        create function touch_board() returns trigger language plpgsql as $$
        declare
          changed record;
          branch uuid := '00000000-0000-0000-0000-000000000000';
        begin
          if tg_op = 'DELETE' then changed := old; else changed := new; end if;
          if tg_nargs > 0 then branch := (to_jsonb(changed) ->> tg_argv[0])::uuid; end if;
          -- Who takes time by what is about to change is waited for, and waits: they share this lock.
          perform pg_advisory_xact_lock(hashtextextended('board ' || changed.chain_id || branch, 0));
          -- A sequence, so that what a transaction saw that was undone never stands for anything else.
          insert into board_versions (chain_id, branch_id, version)
          values (changed.chain_id, branch, nextval('board_version'))
          on conflict (chain_id, branch_id) do update set version = excluded.version;
          return null;
        end $$
        """
    )
    for table, column in WATCHED.items():
        argument = f"'{column}'" if column else ""
        op.execute(
            f"create trigger touch_board after insert or update or delete on {table}"
            f" for each row execute function touch_board({argument})"
        )


def _give_back_seats() -> None:
    """Free the seats of a booking once, whichever way it comes to an end without being used."""
    op.execute(
        """
        create function give_back_seats() returns trigger language plpgsql as $$
        begin
          update class_sessions set taken = taken - old.seats
          where chain_id = old.chain_id and id = old.class_session_id;
          return null;
        end $$
        """
    )
    op.execute(
        "create trigger give_back_seats after update of status on bookings for each row"
        " when (old.class_session_id is not null and new.status in ('cancelled', 'expired', 'no_show')"
        " and old.status not in ('cancelled', 'expired', 'no_show')) execute function give_back_seats()"
    )
