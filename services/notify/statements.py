"""Statements of the messages, prepared once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from chassis.db import Prepared, prepare, prepare_sql, uuid_type
from services.notify.models import customers, messages, names, templates

_chain: sa.BindParameter[str] = sa.bindparam("chain_id")
_id: sa.BindParameter[str] = sa.bindparam("id")
_ids: sa.BindParameter[Sequence[str]] = sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))

# --- what is kept of others ---

KEEP_CUSTOMER = prepare_sql(
    """
insert into customers as c (chain_id, id, name, language, email, version) values ($1::uuid, $2::uuid, $3, $4, $5, $6)
on conflict (chain_id, id) do update
set name = excluded.name, language = excluded.language, email = excluded.email, version = excluded.version
where c.version < excluded.version
""",
    *("chain_id", "id", "name", "language", "email", "version"),
)
KEEP_NAME = prepare_sql(
    """
insert into names as n (chain_id, kind, id, name, address, phone, version)
values ($1::uuid, $2, $3::uuid, $4, $5, $6, $7)
on conflict (chain_id, kind, id) do update
set name = excluded.name, address = excluded.address, phone = excluded.phone, version = excluded.version
where n.version < excluded.version
""",
    *("chain_id", "kind", "id", "name", "address", "phone", "version"),
)
CUSTOMERS = prepare(
    sa.select(customers.c.id, customers.c.name, customers.c.language, customers.c.email).where(
        customers.c.chain_id == _chain, customers.c.id == sa.any_(_ids)
    )
)
NAMES = prepare(
    sa.select(names.c.kind, names.c.id, names.c.name, names.c.address, names.c.phone).where(
        names.c.chain_id == _chain, names.c.id == sa.any_(_ids)
    )
)

# --- templates ---


@cache
def templates_in_force(of_event: bool) -> Prepared:
    """The chain's own templates in force: of each event, channel and language the newest version."""
    key = (templates.c.event_type, templates.c.channel, templates.c.language)
    statement = sa.select(templates).where(templates.c.chain_id == _chain).ext(distinct_on(*key))
    if of_event:
        statement = statement.where(templates.c.event_type == sa.bindparam("event_type"))
    return prepare(statement.order_by(*key, templates.c.version.desc()))


TEMPLATE = prepare(sa.select(templates).where(templates.c.chain_id == _chain, templates.c.id == _id))
LOCK_TEMPLATE = prepare_sql("select pg_advisory_xact_lock(hashtextextended($1, 0))", "key")
"""Versions of one template are numbered one after the other."""

CREATE_TEMPLATE = prepare_sql(
    """
insert into templates (chain_id, id, event_type, channel, language, version, subject, body, enabled, invitation,
  created_at)
select $1::uuid, $2::uuid, $3::text, $4::text, $5::text, coalesce(max(version), 0) + 1, $6, $7, $8, $9, $10
from templates where chain_id = $1::uuid and event_type = $3 and channel = $4 and language = $5
returning *
""",
    *("chain_id", "id", "event_type", "channel", "language", "subject", "body", "enabled", "invitation", "now"),
)

# --- messages ---

WRITE_MESSAGES = prepare_sql(
    """
insert into messages (chain_id, id, event_id, event_type, customer_id, branch_id, channel, address, language,
  subject, body, facts, invitation, status, created_at, due_at)
select $1::uuid, m.id, m.event_id, m.event_type, m.customer_id, m.branch_id, m.channel, m.address, m.language,
  m.subject, m.body, m.facts::jsonb, m.invitation, 'queued', $2::timestamptz, $2::timestamptz
from unnest($3::uuid[], $4::uuid[], $5::text[], $6::uuid[], $7::uuid[], $8::text[], $9::text[], $10::text[],
  $11::text[], $12::text[], $13::text[], $14::boolean[])
  as m(id, event_id, event_type, customer_id, branch_id, channel, address, language, subject, body, facts, invitation)
on conflict (chain_id, event_id, channel) do nothing
returning channel
""",
    *("chain_id", "now", "ids", "event_ids", "event_types", "customer_ids", "branch_ids", "channels", "addresses"),
    *("languages", "subjects", "bodies", "facts", "invitations"),
)
MESSAGE = prepare(sa.select(messages).where(messages.c.chain_id == _chain, messages.c.id == _id))
NEWEST_FACTS = prepare(
    sa.select(messages.c.facts)
    .where(
        messages.c.chain_id == _chain,
        messages.c.customer_id == sa.bindparam("customer_id"),
        messages.c.event_type == sa.bindparam("event_type"),
    )
    .order_by(messages.c.id.desc())
    .limit(1)
)
FILTERS: dict[str, sa.ColumnElement[bool]] = {
    "customer_id": messages.c.customer_id == sa.bindparam("customer_id"),
    "channel": messages.c.channel == sa.bindparam("channel"),
    "status": messages.c.status == sa.bindparam("status"),
    "branch_ids": messages.c.branch_id == sa.any_(sa.bindparam("branch_ids", type_=sa.ARRAY(uuid_type()))),
    "before": messages.c.id < sa.bindparam("before", type_=uuid_type()),
}


@cache
def list_messages(filters: frozenset[str]) -> Prepared:
    """Messages newest first, by the given ones of FILTERS; ids ascend with time."""
    conditions = [condition for name, condition in FILTERS.items() if name in filters]
    statement = sa.select(messages).where(messages.c.chain_id == _chain, *conditions)
    return prepare(statement.order_by(messages.c.id.desc()).limit(sa.bindparam("most")))


RESEND = prepare(
    messages.update()
    .where(messages.c.chain_id == _chain, messages.c.id == _id, messages.c.status == "failed")
    .values(status="queued", attempts=0, error=None, due_at=sa.bindparam("now"))
    .returning(messages)
)

# --- sending ---

CLAIM = prepare_sql(
    """
with due as (
  select chain_id, id from messages where status = 'queued' and due_at <= $1::timestamptz
  order by due_at limit $3 for update skip locked
)
update messages m set attempts = attempts + 1, due_at = $2::timestamptz
from due where m.chain_id = due.chain_id and m.id = due.id
returning m.chain_id, m.id, m.customer_id, m.event_type, m.channel, m.address, m.language, m.subject, m.body,
  m.attempts, m.created_at, case when m.invitation then m.facts end as invited_to
""",
    *("now", "lease_ends_at", "most"),
)
"""Takes messages that are due, of all chains. Should we die, others take them when the lease has ended."""

_claimed = (
    messages.c.chain_id == _chain,
    messages.c.id == _id,
    messages.c.status == "queued",
    # Who was taken for dead and comes back late does not decide any more.
    messages.c.attempts == sa.bindparam("attempt"),
)
SENT = prepare(messages.update().where(*_claimed).values(status="sent", sent_at=sa.bindparam("now"), error=None))
FAILED = prepare(messages.update().where(*_claimed).values(status="failed", error=sa.bindparam("reason")))
RETRY = prepare(
    messages.update().where(*_claimed).values(due_at=sa.bindparam("retry_at"), error=sa.bindparam("reason"))
)
