"""What catalogue, staff and bookings share: known branches, the scope of a caller, lists with filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from chassis.db import prepare, uuid_type
from chassis.errors import FieldError, Refusal
from chassis.pages import cursor_decode, wrong_token
from chassis.unit import UUID_PATTERN, Absent, Unit
from services.bookings.models import branches

M = TypeVar("M", bound=Message)

KNOWN_BRANCHES = prepare(
    sa.select(branches.c.id).where(
        branches.c.chain_id == sa.bindparam("chain_id"),
        branches.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(uuid_type()))),
    )
)


def after_key(token: str) -> tuple[str, str] | None:
    """The (text, id) after which a page begins; None for the first page. Raises Refusal INVALID_REQUEST."""
    values = cursor_decode(token, 2)
    if values is None:
        return None
    text, identifier = values
    ours = isinstance(text, str) and isinstance(identifier, str) and UUID_PATTERN.fullmatch(identifier)
    if not ours or "\0" in text:
        raise wrong_token()
    return text, identifier


def after_id(token: str) -> str | None:
    """The id after which a page begins; None for the first page. Raises Refusal INVALID_REQUEST."""
    values = cursor_decode(token, 1)
    if values is None:
        return None
    if not isinstance(values[0], str) or not UUID_PATTERN.fullmatch(values[0]):
        raise wrong_token()
    return values[0]


def stored(message_type: type[M], value: bytes | None) -> M | None:
    """A message as a column keeps it, or None."""
    return None if value is None else message_type.FromString(value)


def lower(ids: Sequence[str]) -> list[str]:
    """Ids in the form the database has them, each once, in order."""
    return list(dict.fromkeys(identifier.lower() for identifier in ids))


async def check_branches(unit: Unit, ids: Sequence[str], field: str, member: str = "") -> None:
    """Raise Absent for the first branch that is not known; `field` is the list that names them, as `member`."""
    if not ids:
        return
    known = {row["id"] for row in await unit.all(KNOWN_BRANCHES, ids=list(ids))}
    for index, identifier in enumerate(ids):
        if identifier not in known:
            raise Absent("branch", identifier, field=f"{field}[{index}]{member}")


async def check_branch_known(unit: Unit, identifier: str, field: str = "branch_id") -> None:
    """Raise Absent for a branch that is not known."""
    if not await unit.value(KNOWN_BRANCHES, ids=[identifier]):
        raise Absent("branch", identifier, field=field)


def check_scope(unit: Unit, branch_ids: Sequence[str], permission: str) -> None:
    """Refuse what reaches beyond the branches a caller's permission holds for; no branches means all of them."""
    allowed = unit.allowed_branches(permission)
    if allowed is not None and (not branch_ids or not set(branch_ids) <= set(allowed)):
        raise Refusal("PERMISSION_DENIED", permission=permission)


def already_exists(kind: str) -> Refusal:
    """Another thing of the kind has the code."""
    error = FieldError("code", "taken", f"another {kind} has this code", "该编码已被使用")
    return Refusal("ALREADY_EXISTS", errors=[error], kind=kind, field="code")


def refuse_if(errors: Sequence[FieldError]) -> None:
    """Refuse a request with all that is wrong in it."""
    if errors:
        raise Refusal("INVALID_REQUEST", errors=errors)
