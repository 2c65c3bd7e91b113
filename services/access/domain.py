"""Decisions of access: who holds what, and whether a branch's facts make sense. Values in, values or a refusal out."""

from __future__ import annotations

import functools
import math
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise

from chassis.errors import FieldError, Refusal, invalid
from services.access.permissions import OWNER, PERMISSIONS, READY_MADE

EVERYWHERE = "*"
MOST_FAILED_SIGN_INS = 5
FAILED_SIGN_INS_WINDOW = timedelta(minutes=15)
# Names of the zone database that name no place.
NO_ZONES = frozenset({"Factory", "localtime", "posixrules"})

Holdings = Mapping[str, str | Sequence[str]]
"""Permission → "*" or the branches it holds for."""


@dataclass(frozen=True, slots=True, order=True)
class RoleGrant:
    """A role, and the branch it holds for; None: the whole chain."""

    role: str
    branch_id: str | None = None


# --- grants -----------------------------------------------------------------------------------------------------------


def permissions_of(role: str, own_roles: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """What a role allows; nothing when it is neither ready-made nor one of the chain's own."""
    ready_made = READY_MADE.get(role)
    if ready_made is not None:
        return ready_made.permissions
    return frozenset(own_roles.get(role, ())) & PERMISSIONS


def resolve(grants: Iterable[RoleGrant], own_roles: Mapping[str, Iterable[str]]) -> dict[str, str | list[str]]:
    """Roles and where they hold, as permission → "*" or sorted branches."""
    held: dict[str, set[str | None]] = {}
    for grant in grants:
        for permission in permissions_of(grant.role, own_roles):
            held.setdefault(permission, set()).add(grant.branch_id)
    resolved: dict[str, str | list[str]] = {}
    for permission in sorted(held):
        branches = held[permission]
        resolved[permission] = EVERYWHERE if None in branches else sorted(str(branch) for branch in branches)
    return resolved


def exceeding(wanted: Holdings, held: Holdings) -> list[str]:
    """Permissions in `wanted` that `held` lacks somewhere, sorted."""
    lacking = []
    for permission, branches in wanted.items():
        here = held.get(permission, ())
        if here == EVERYWHERE:
            continue
        if branches == EVERYWHERE or not set(branches) <= set(here):
            lacking.append(permission)
    return sorted(lacking)


def check_covered(wanted: Holdings, held: Holdings) -> None:
    """Refuse GRANT_TOO_WIDE when `held` does not cover `wanted`."""
    lacking = exceeding(wanted, held)
    if lacking:
        raise Refusal("GRANT_TOO_WIDE", permissions=", ".join(lacking))


def clean_grants(grants: Iterable[RoleGrant]) -> list[RoleGrant]:
    """Each grant once, ids in small letters; a grant for a branch falls away beside the same role for the chain."""
    once = {RoleGrant(grant.role, grant.branch_id.lower() if grant.branch_id else None) for grant in grants}
    return sorted(
        (grant for grant in once if grant.branch_id is None or RoleGrant(grant.role) not in once),
        key=lambda grant: (grant.role, grant.branch_id or ""),
    )


def check_grants(
    grants: Sequence[RoleGrant], own_roles: Iterable[str], branches: Iterable[str], path: str = "roles"
) -> None:
    """Refuse grants of roles or at branches that there are not: NOT_FOUND, with each field."""
    known_roles, known_branches = {*READY_MADE, *own_roles}, set(branches)
    errors = []
    for number, grant in enumerate(grants):
        if grant.role not in known_roles:
            text = f"there is no such role: {grant.role}"
            errors.append(FieldError(f"{path}[{number}].role", "not_found", text, f"没有该角色：{grant.role}"))
        if grant.branch_id is not None and grant.branch_id.lower() not in known_branches:
            errors.append(
                FieldError(f"{path}[{number}].branch_id", "not_found", "there is no such branch", "未找到该分店")
            )
    if errors:
        kind = "role" if errors[0].field.endswith("role") else "branch"
        raise Refusal("NOT_FOUND", errors=errors, kind=kind)


def is_owner(grants: Iterable[RoleGrant]) -> bool:
    """Whether somebody with these grants owns the chain."""
    return RoleGrant(OWNER) in grants


def check_permission_names(names: Sequence[str], path: str) -> list[str]:
    """The names, each once, sorted. Raises Refusal INVALID_REQUEST that lists those that are no permission."""
    errors = [
        FieldError(f"{path}[{number}]", "permission", f"there is no permission {name}", f"没有权限 {name}")
        for number, name in enumerate(names)
        if name not in PERMISSIONS
    ]
    if errors:
        raise invalid(*errors)
    return sorted(set(names))


# --- branches ---------------------------------------------------------------------------------------------------------


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) - NO_ZONES


def zone_errors(name: str, field: str = "time_zone") -> list[FieldError]:
    """What is wrong with the name of a time zone: it must be one of the IANA database."""
    if name in _zones():
        return []
    text = "must be a time zone of the IANA database, such as Asia/Shanghai"
    return [FieldError(field, "time_zone", text, "应为 IANA 时区名，例如 Asia/Shanghai")]


def hours_errors(hours: Sequence[tuple[int, str, str]], path: str) -> list[FieldError]:
    """What is wrong with opening hours (weekday, from, to as HH:MM): ends before starts, and overlaps."""
    errors = [
        FieldError(f"{path}[{number}].end_time", "order", "must be after start_time", "应晚于 start_time")
        for number, (_, start, end) in enumerate(hours)
        if end <= start
    ]
    in_order = sorted(range(len(hours)), key=lambda number: hours[number])
    for before, after in pairwise(in_order):
        (day, _, end), (next_day, start, _) = hours[before], hours[after]
        if day == next_day and start < end:
            text = f"overlaps with {path}[{before}]"
            errors.append(FieldError(f"{path}[{after}].start_time", "overlap", text, f"与 {path}[{before}] 重叠"))
    return errors


def holiday_errors(days: Sequence[str], path: str) -> list[FieldError]:
    """What is wrong with a list of days: each must be on the calendar."""
    errors = []
    for number, day in enumerate(days):
        try:
            date.fromisoformat(day)
        except ValueError:
            text = "must be a day of the calendar as YYYY-MM-DD"
            errors.append(FieldError(f"{path}[{number}]", "date", text, "应为日历上的日期，格式 YYYY-MM-DD"))
    return errors


def swapped_errors(days: Sequence[str], holidays: Iterable[str], path: str) -> list[FieldError]:
    """What is wrong with days that follow another weekday: on the calendar, each once, none a day that is closed."""
    errors = [
        FieldError(f"{error.field}.day", error.code, error.message, error.message_zh)
        for error in holiday_errors(days, path)
    ]
    closed = set(holidays)
    for number, day in enumerate(days):
        if day in days[:number]:
            errors.append(FieldError(f"{path}[{number}].day", "repeated", "was named before", "重复"))
        elif day in closed:
            text = "is a day on which the branch is closed"
            errors.append(FieldError(f"{path}[{number}].day", "holiday", text, "该日已设为休业日"))
    return errors


# --- sign-in ----------------------------------------------------------------------------------------------------------


def email_key(email: str) -> str:
    """An e-mail as it is compared: without blanks around it, in small letters."""
    return email.strip().lower()


def check_attempts(failed_at: Sequence[datetime], now: datetime) -> None:
    """Refuse TOO_MANY_ATTEMPTS when there were too many failed sign-ins lately."""
    recent = sorted(moment for moment in failed_at if moment > now - FAILED_SIGN_INS_WINDOW)[-MOST_FAILED_SIGN_INS:]
    if len(recent) == MOST_FAILED_SIGN_INS:
        left = (recent[0] + FAILED_SIGN_INS_WINDOW - now).total_seconds()
        raise Refusal("TOO_MANY_ATTEMPTS", retry_after_seconds=max(1, math.ceil(left)))
