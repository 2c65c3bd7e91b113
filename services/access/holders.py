"""Accounts and API keys as holders of roles: what they hold, read from the database, and as messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from foyer.access.v1 import access_pb2 as pb

from chassis.access import Caller
from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.rows import projector
from chassis.unit import Absent, Unit
from services.access import domain, keys, statements
from services.access.domain import RoleGrant

OwnRoles = Mapping[str, Sequence[str]]


def grants_of_row(row: asyncpg.Record) -> list[RoleGrant]:
    """The grants that an account's or a key's row holds."""
    return [RoleGrant(held["role"], held["branch_id"]) for held in row["roles"]]


def grants_of_request(grants: Iterable[pb.Grant]) -> list[RoleGrant]:
    """The grants that a request asks for, in its order."""
    return [RoleGrant(grant.role, grant.branch_id if grant.HasField("branch_id") else None) for grant in grants]


def grants_for_row(grants: Iterable[RoleGrant]) -> list[dict[str, Any]]:
    """Grants as they are stored."""
    return [{"role": grant.role, "branch_id": grant.branch_id} for grant in grants]


def grant_messages(row: asyncpg.Record) -> list[pb.Grant]:
    """The grants of a row as messages."""
    return [pb.Grant(role=held["role"], branch_id=held["branch_id"]) for held in row["roles"]]


def there(row: asyncpg.Record | None) -> asyncpg.Record:
    """The row, which is there: it was just written or locked. Raises RuntimeError otherwise."""
    if row is None:
        raise RuntimeError("a row that this transaction holds is gone")
    return row


to_account = projector(pb.Account, roles=grant_messages)
to_api_key = projector(pb.ApiKey, roles=grant_messages)
to_chain = projector(pb.Chain)


async def own_roles(unit: Unit) -> OwnRoles:
    """Roles that the chain defined itself, with what they allow."""
    return {row["name"]: row["permissions"] for row in await unit.all(statements.OWN_ROLES)}


async def granted(unit: Unit, asked: Iterable[pb.Grant], path: str) -> list[RoleGrant]:
    """The grants that a request asks for, cleaned.

    Raises Refusal NOT_FOUND for roles and branches that do not exist, GRANT_TOO_WIDE for what the caller does not hold.
    """
    given = grants_of_request(asked)
    own = await own_roles(unit)
    wanted_branches = sorted({grant.branch_id for grant in given if grant.branch_id})
    known = await unit.all(statements.KNOWN_BRANCHES, ids=wanted_branches) if wanted_branches else []
    domain.check_grants(given, own, [row["id"] for row in known], path)
    clean = domain.clean_grants(given)
    check_caller_covers(unit.caller, domain.resolve(clean, own))
    return clean


def check_caller_covers(caller: Caller, wanted: domain.Holdings) -> None:
    """Refuse GRANT_TOO_WIDE when the caller lacks something of `wanted`; services of the platform hold everything."""
    if not caller.is_service:
        domain.check_covered(wanted, caller.grants)


async def check_caller_covers_row(unit: Unit, row: asyncpg.Record) -> None:
    """Refuse GRANT_TOO_WIDE when the account or key of the row holds what the caller does not.

    Who could change it would gain that.
    """
    check_caller_covers(unit.caller, domain.resolve(grants_of_row(row), await own_roles(unit)))


async def check_staff(unit: Unit, staff_id: str) -> None:
    """Refuse NOT_FOUND when there is no such staff member (read from bookings when not known yet)."""
    if await unit.value(statements.HAS_STAFF, id=staff_id) is None:
        raise Absent("staff", staff_id, field="staff_id")


async def check_not_last_owner(unit: Unit, account_id: str) -> None:
    """Refuse LAST_OWNER when nobody else owns the chain.

    Owners are changed one after the other: the chain is locked.
    """
    await unit.one(statements.LOCK_CHAIN)
    owner = grants_for_row([RoleGrant("owner")])
    if not await unit.value(statements.COUNT_OTHER_OWNERS, id=account_id, owner=owner):
        raise Refusal("LAST_OWNER")


def caller_of(row: asyncpg.Record, kind: str, chain: asyncpg.Record, own: OwnRoles) -> Caller:
    """The caller that an account or a key is, with all it holds."""
    grants = grants_of_row(row)
    return Caller(
        id=row["id"],
        kind=kind,
        name=row["name"],
        chain_id=chain["id"],
        time_zone=chain["time_zone"],
        currency=chain["currency"],
        language=row["language"] if "language" in row else chain["language"],
        roles=tuple(sorted({grant.role for grant in grants})),
        grants=domain.resolve(grants, own),
        staff_id=(row["staff_id"] or "") if "staff_id" in row else "",
    )


async def add_account(
    unit: Unit,
    email: str,
    name: str,
    password_hash: str,
    language: str,
    grants: Iterable[RoleGrant],
    staff_id: str | None = None,
) -> pb.Account:
    """Store a new account. Raises Refusal EMAIL_TAKEN when any account of the platform has the e-mail."""
    row = await unit.one(
        statements.ADD_ACCOUNT,
        id=new_id(),
        email=email.strip(),
        email_key=domain.email_key(email),
        name=name,
        password_hash=password_hash,
        staff_id=staff_id,
        language=language,
        roles=grants_for_row(grants),
        created_at=unit.now,
    )
    if row is None:
        raise Refusal("EMAIL_TAKEN")
    return to_account(row)


async def add_api_key(unit: Unit, name: str, grants: Iterable[RoleGrant], expires_at: datetime | None) -> pb.ApiKey:
    """Store a new API key; the answer holds its secret."""
    key_id = new_id()
    row = await unit.one(
        statements.ADD_API_KEY,
        id=key_id,
        name=name,
        roles=grants_for_row(grants),
        expires_at=expires_at,
        created_at=unit.now,
    )
    api_key = to_api_key(there(row))
    api_key.secret = await add_secret(unit, key_id)
    return api_key


async def add_secret(unit: Unit, key_id: str) -> str:
    """Give a key a new secret that holds until further notice; answers the key as the caller will send it."""
    key = keys.make()
    await unit.run(
        statements.ADD_SECRET,
        prefix=key.prefix,
        hash=key.hash,
        api_key_id=key_id,
        expires_at=None,
        created_at=unit.now,
    )
    return key.text


async def end_secret(unit: Unit, key_id: str, overlap_seconds: int) -> None:
    """End the secret that holds after `overlap_seconds`, and one that was ending already now: two work at most."""
    await unit.run(statements.END_OLD_SECRETS, id=key_id)
    await unit.run(statements.LIMIT_SECRET, id=key_id, until=unit.now + timedelta(seconds=overlap_seconds))
