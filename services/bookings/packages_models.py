"""The table of packages."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import chain_column, id_column, time_type, uuid_type
from services.bookings.models import metadata

packages = sa.Table(
    "packages",
    metadata,
    chain_column(),
    id_column(),
    sa.Column("code", sa.Text),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_en", sa.Text),
    # Messages of the contract, serialized: PackageServices, PackageProducts.
    sa.Column("services", sa.LargeBinary, nullable=False),
    sa.Column("products", sa.LargeBinary, nullable=False),
    sa.Column("price_amount", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    # Prices that differ, side by side: the n-th price holds at the n-th branch.
    sa.Column("price_branch_ids", ARRAY(uuid_type()), nullable=False),
    sa.Column("price_branch_amounts", ARRAY(sa.BigInteger), nullable=False),
    # Empty: every branch.
    sa.Column("branch_ids", ARRAY(uuid_type()), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", time_type(), nullable=False),
)
sa.Index("packages_code", packages.c.chain_id, packages.c.code, unique=True)
sa.Index("packages_by_name", packages.c.chain_id, packages.c.name, packages.c.id)
