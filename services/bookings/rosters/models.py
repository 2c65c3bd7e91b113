"""Tables of rosters, and the statements that read and change single rows of them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import chain_column, id_column, json_type, time_type, uuid_type
from services.bookings.models import metadata

shift_templates = sa.Table(
    "shift_templates",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("start_time", sa.Text, nullable=False),
    sa.Column("end_time", sa.Text, nullable=False),
    sa.Column("unpaid_break_minutes", sa.Integer, nullable=False),
    sa.Column("is_late", sa.Boolean, nullable=False),
    # Empty: all.
    sa.Column("weekdays", ARRAY(sa.Integer), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index(
    "shift_templates_of_branch",
    shift_templates.c.chain_id,
    shift_templates.c.branch_id,
    shift_templates.c.name,
    shift_templates.c.id,
)
sa.Index("shift_templates_by_name", shift_templates.c.chain_id, shift_templates.c.name, shift_templates.c.id)

roster_contracts = sa.Table(
    "roster_contracts",
    metadata,
    chain_column(),
    sa.Column("staff_id", uuid_type(), primary_key=True),
    sa.Column("min_week_minutes", sa.Integer, nullable=False),
    sa.Column("max_week_minutes", sa.Integer, nullable=False),
    sa.Column("max_week_days", sa.Integer, nullable=False),
    sa.Column("min_rest_minutes", sa.Integer, nullable=False),
    sa.Column("max_consecutive_days", sa.Integer, nullable=False),
    sa.Column("shift_template_ids", ARRAY(uuid_type()), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)

roster_demands = sa.Table(
    "roster_demands",
    metadata,
    chain_column(),
    sa.Column("branch_id", uuid_type(), primary_key=True),
    # RosterDemand of the contract, serialized.
    sa.Column("demand", sa.LargeBinary, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)

roster_wishes = sa.Table(
    "roster_wishes",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("staff_id", uuid_type(), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("day", sa.Date),
    sa.Column("weekday", sa.Integer),
    sa.Column("shift_template_id", uuid_type()),
    sa.Column("weight", sa.Integer, nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index("roster_wishes_of_staff", roster_wishes.c.chain_id, roster_wishes.c.staff_id, roster_wishes.c.id)

rosters = sa.Table(
    "rosters",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("from_date", sa.Date, nullable=False),
    # The day after its last one.
    sa.Column("end_date", sa.Date, nullable=False),
    sa.Column("weeks", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("staff_ids", ARRAY(uuid_type()), nullable=False),
    # CreateRosterRequest of the contract, serialized: how it is to be made.
    sa.Column("request", sa.LargeBinary, nullable=False),
    # Whoever solves it has it until then; when that is past, another one takes it up.
    sa.Column("lease_until", time_type()),
    sa.Column("attempts", sa.Integer, nullable=False),
    # RosterProgress and RosterFigures of the contract, serialized.
    sa.Column("progress", sa.LargeBinary),
    sa.Column("figures", sa.LargeBinary),
    sa.Column("failure", sa.Text),
    sa.Column("wanted_minutes", sa.Integer, nullable=False),
    sa.Column("missing_minutes", sa.Integer, nullable=False),
    sa.Column("published_at", time_type()),
    # When bookings that were made in the same moment are looked for; null: that is done.
    sa.Column("check_at", time_type()),
    # Bookings and classes that somebody accepted outside the shifts.
    sa.Column("accepted_ids", ARRAY(uuid_type()), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index("rosters_by_id", rosters.c.chain_id, rosters.c.branch_id, rosters.c.id)
sa.Index("rosters_of_branch", rosters.c.chain_id, rosters.c.branch_id, rosters.c.status, rosters.c.end_date)
sa.Index("rosters_to_solve", rosters.c.chain_id, rosters.c.id, postgresql_where=rosters.c.status == "solving")
sa.Index("rosters_to_check", rosters.c.chain_id, rosters.c.check_at, postgresql_where=rosters.c.check_at.is_not(None))

# Who is not in it has the day off.
roster_shifts = sa.Table(
    "roster_shifts",
    metadata,
    chain_column(),
    sa.Column("roster_id", uuid_type(), primary_key=True),
    sa.Column("staff_id", uuid_type(), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("shift_template_id", uuid_type()),
    # As in dated_shifts: in the form of calendar.format_week, all on the weekday of `day`.
    sa.Column("week", sa.Text, nullable=False),
    sa.Column("minutes", sa.Integer, nullable=False),
    sa.Column("is_late", sa.Boolean, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    # What speaks for it: [code, skill, amount] each.
    sa.Column("reasons", json_type(), nullable=False),
)
sa.Index("roster_shifts_of_staff", roster_shifts.c.chain_id, roster_shifts.c.staff_id, roster_shifts.c.day)

shift_swaps = sa.Table(
    "shift_swaps",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("roster_id", uuid_type(), nullable=False),
    sa.Column("branch_id", uuid_type(), nullable=False),
    sa.Column("staff_id", uuid_type(), nullable=False),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("to_staff_id", uuid_type(), nullable=False),
    sa.Column("to_day", sa.Date),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("accepted_by", sa.Text),
    sa.Column("accept_note", sa.Text),
    sa.Column("decided_by", sa.Text),
    sa.Column("decline_reason", sa.Text),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index("shift_swaps_of_branch", shift_swaps.c.chain_id, shift_swaps.c.branch_id, shift_swaps.c.id)
sa.Index("shift_swaps_of_staff", shift_swaps.c.chain_id, shift_swaps.c.staff_id, shift_swaps.c.id)
sa.Index("shift_swaps_of_colleague", shift_swaps.c.chain_id, shift_swaps.c.to_staff_id, shift_swaps.c.id)
