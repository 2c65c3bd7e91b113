"""Tables of customers."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import chain_column, id_column, json_type, time_type, uuid_type

metadata = sa.MetaData()

customers = sa.Table(
    "customers",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("phone", sa.Text),
    sa.Column("other_phones", ARRAY(sa.Text), nullable=False),
    sa.Column("email", sa.Text),
    # [{"kind": "wechat", "value": "..."}]
    sa.Column("identities", json_type(), nullable=False),
    sa.Column("source", sa.Text),
    sa.Column("owner_staff_id", uuid_type()),
    sa.Column("home_branch_id", uuid_type()),
    sa.Column("level", sa.Text),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("notes", sa.Text),
    sa.Column("external_id", sa.Text),
    sa.Column("customer_since", time_type(), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("created_at", time_type(), nullable=False),
    # Name and phones as they are searched: one line each (domain.search_text), and the grams they hold (domain.grams).
    sa.Column("search_text", sa.Text, nullable=False),
    sa.Column("search_grams", ARRAY(sa.Integer), nullable=False),
)
sa.Index("customers_external_id", customers.c.chain_id, customers.c.external_id, unique=True)
sa.Index("customers_home_branch", customers.c.chain_id, customers.c.home_branch_id, customers.c.id)
# The grams are mixed with the chain's id, so the index leads with the chain though it has one column.
# A short pending list: what waits there is read through by every search.
sa.Index(
    "customers_search",
    customers.c.search_grams,
    postgresql_using="gin",
    postgresql_with={"gin_pending_list_limit": 256},
)

# What customers keeps of the branches of access.
branches = sa.Table(
    "branches",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("time_zone", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)

# What customers keeps of the staff of bookings.
staff = sa.Table(
    "staff",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("version", sa.BigInteger, nullable=False),
)
