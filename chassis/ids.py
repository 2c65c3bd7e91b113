"""Ids: UUIDv7 as text, so that rows made one after the other lie beside each other in an index."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils

VERSION = 7


def new_id() -> str:
    """A new id, in the lower-case text form PostgreSQL uses; ids of one process ascend."""
    return str(uuid_utils.uuid7())


def time_of(identifier: str) -> datetime:
    """When an id was made, to the millisecond, in UTC. Raises ValueError when it is not a UUIDv7."""
    value = UUID(identifier)
    if value.version != VERSION:
        raise ValueError(f"{identifier} is not a UUIDv7")
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)
