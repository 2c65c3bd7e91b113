"""Decisions of access: grants, opening hours, sign-in attempts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from foyer.access.v1 import access_pb2

from chassis.errors import Refusal, register
from services.access import domain, keys
from services.access.domain import RoleGrant
from services.access.passwords import MOST_WAITING, Passwords
from services.access.permissions import PERMISSIONS, READY_MADE

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
register(access_pb2.DESCRIPTOR)


def test_a_role_for_the_chain_swallows_the_same_role_for_a_branch() -> None:
    grants = [RoleGrant("sales", "B"), RoleGrant("sales"), RoleGrant("legal", "b"), RoleGrant("legal", "b")]
    assert domain.clean_grants(grants) == [RoleGrant("legal", "b"), RoleGrant("sales")]


def test_grants_resolve_to_branches_or_everywhere() -> None:
    grants = [RoleGrant("photographer", "b2"), RoleGrant("photographer", "b1"), RoleGrant("tellers"), RoleGrant("gone")]
    resolved = domain.resolve(grants, {"tellers": ["wallet.read", "bookings.read", "no.such"]})
    assert resolved["customers.read"] == ["b1", "b2"]
    assert resolved["bookings.read"] == "*"
    assert resolved["wallet.read"] == "*"
    assert "no.such" not in resolved


@pytest.mark.parametrize(
    ("wanted", "held", "lacking"),
    [
        ({"a": "*"}, {"a": "*"}, []),
        ({"a": ["b1"]}, {"a": "*"}, []),
        ({"a": ["b1"]}, {"a": ["b1", "b2"]}, []),
        ({"a": ["b1", "b3"]}, {"a": ["b1", "b2"]}, ["a"]),
        ({"a": "*", "c": "*"}, {"a": ["b1"]}, ["a", "c"]),
        ({"a": []}, {}, []),
    ],
)
def test_nobody_grants_what_they_do_not_hold(
    wanted: dict[str, str | list[str]], held: dict[str, str | list[str]], lacking: list[str]
) -> None:
    assert domain.exceeding(wanted, held) == lacking
    if lacking:
        with pytest.raises(Refusal) as refused:
            domain.check_covered(wanted, held)
        assert refused.value.code == "GRANT_TOO_WIDE"
        assert refused.value.parameters["permissions"] == ", ".join(lacking)


def test_unknown_roles_and_branches_are_all_named() -> None:
    grants = [RoleGrant("sales", "B1"), RoleGrant("wizard", "b2"), RoleGrant("own")]
    with pytest.raises(Refusal) as refused:
        domain.check_grants(grants, ["own"], ["b1"])
    assert refused.value.code == "NOT_FOUND"
    assert [error.field for error in refused.value.errors] == ["roles[1].role", "roles[1].branch_id"]


def test_ready_made_roles() -> None:
    assert set(READY_MADE) == {
        *("front_desk", "customer_service", "sales", "photographer", "therapist", "makeup_artist", "retoucher"),
        *("production", "finance", "legal", "store_manager", "owner"),
    }
    assert READY_MADE["owner"].permissions == PERMISSIONS
    for role in READY_MADE.values():
        assert role.permissions <= PERMISSIONS
        assert role.title("zh") != role.title("en")
        assert role.name == "owner" or "roles.write" not in role.permissions
    assert "customers.read_contact" not in READY_MADE["photographer"].permissions
    at_work = {"photographer", "therapist", "makeup_artist", "retoucher", "production"}
    claim = {role.name for role in READY_MADE.values() if "bookings.claim" in role.permissions}
    assert claim == {*at_work, "front_desk", "store_manager", "owner"}
    for name in claim - at_work:
        assert "bookings.write" in READY_MADE[name].permissions, "who claims for others needs both"


@pytest.mark.parametrize("name", ["Asia/Shanghai", "America/Toronto", "UTC", "Asia/Kathmandu"])
def test_a_zone(name: str) -> None:
    assert domain.zone_errors(name) == []


@pytest.mark.parametrize("name", ["Asia/Atlantis", "localtime", "../UTC", "UTC+8", "asia/shanghai ", "Factory"])
def test_no_zone(name: str) -> None:
    assert [error.code for error in domain.zone_errors(name)] == ["time_zone"]


def test_opening_hours_must_go_forward_and_not_overlap() -> None:
    good = [(1, "09:00", "12:00"), (1, "12:00", "24:00"), (2, "00:00", "24:00")]
    assert domain.hours_errors(good, "opening_hours") == []
    bad = [(1, "10:00", "12:00"), (1, "09:00", "10:30"), (2, "12:00", "12:00")]
    assert {(error.field, error.code) for error in domain.hours_errors(bad, "hours")} == {
        ("hours[0].start_time", "overlap"),
        ("hours[2].end_time", "order"),
    }


def test_holidays_must_be_on_the_calendar() -> None:
    errors = domain.holiday_errors(["2026-02-28", "2026-02-29", "2028-02-29"], "holidays")
    assert [error.field for error in errors] == ["holidays[1]"]


def test_five_failures_within_a_quarter_of_an_hour_are_enough() -> None:
    minutes = [20, 14, 10, 5, 1]
    domain.check_attempts([NOW - timedelta(minutes=ago) for ago in minutes], NOW)
    with pytest.raises(Refusal) as refused:
        domain.check_attempts([NOW - timedelta(minutes=ago) for ago in [*minutes, 0]], NOW)
    assert refused.value.code == "TOO_MANY_ATTEMPTS"
    assert refused.value.parameters["retry_after_seconds"] == 60


def test_permission_names_are_checked_all_at_once() -> None:
    assert domain.check_permission_names(["wallet.read", "wallet.read", "staff.read"], "permissions") == [
        "staff.read",
        "wallet.read",
    ]
    with pytest.raises(Refusal) as refused:
        domain.check_permission_names(["wallet.steal", "staff.read", "x.y"], "permissions")
    assert [error.field for error in refused.value.errors] == ["permissions[0]", "permissions[2]"]


def test_keys_are_told_once_and_known_by_their_hash() -> None:
    key = keys.make()
    parsed = keys.parse(key.text)
    assert parsed == key
    assert keys.matches(key, key.hash)
    assert key.secret not in repr(key)
    assert len(key.secret) == 43
    assert keys.make().text != key.text
    for wrong in ("", "foyer_", key.text[:-1], key.text + "x", key.text.replace("foyer", "loyer"), key.text.upper()):
        assert keys.parse(wrong) is None


async def test_passwords() -> None:
    passwords = Passwords()
    hashed = await passwords.hash("correct horse 马")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify(hashed, "correct horse 马")
    assert not await passwords.verify(hashed, "correct horse")
    assert not await passwords.verify(None, "nobody's password")
    assert not await passwords.verify("not a hash", "nobody's password")
    assert await passwords.renew(hashed, "correct horse 马") is None
    weak = hashed.replace("m=19456", "m=8192")
    renewed = await passwords.renew(weak, "correct horse 马")
    assert renewed is not None
    assert await passwords.verify(renewed, "correct horse 马")


async def test_who_waits_for_a_turn_is_bounded() -> None:
    import asyncio

    passwords = Passwords()
    release = asyncio.Event()

    async def hold() -> None:
        async with passwords.turn():
            await release.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(2 + MOST_WAITING)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as refused:
        await passwords.hash("one too many")
    assert refused.value.code == "UNAVAILABLE"
    release.set()
    await asyncio.gather(*tasks)
    assert await passwords.hash("all is well again")
