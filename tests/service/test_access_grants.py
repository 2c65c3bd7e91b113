"""Accounts, roles, grants and API keys against real PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any
from uuid import uuid4

from foyer.access.v1 import access_pb2 as pb
from foyer.bookings.v1 import bookings_pb2

from chassis.errors import Refusal
from chassis.testing import Platform
from services.access import domain
from tests.service.access_calls import (
    PASSWORD,
    account,
    authenticate,
    branch,
    caller_of,
    email,
    open_chain,
    refused,
    sign_in,
)

# --- accounts and grants ----------------------------------------------------------------------------------------------


async def test_an_account_holds_its_roles_where_they_were_granted(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    here, there = await branch(platform, owner, "here"), await branch(platform, owner, "there")
    made = await account(
        platform, owner, pb.Grant(role="front_desk", branch_id=here.id.upper()), pb.Grant(role="legal"), language="en"
    )
    caller = await caller_of(platform, made)
    assert caller.branches("bookings.write") == [here.id]
    assert caller.branches("bookings.read") is None
    assert caller.roles == ("front_desk", "legal")
    assert caller.language == "en"
    seen = await platform.call("access", "ListBranches", pb.ListBranchesRequest(), caller)
    assert len(seen.branches) == 2
    made = await account(platform, owner, pb.Grant(role="front_desk", branch_id=here.id))
    caller = await caller_of(platform, made)
    assert caller.language == "zh"
    seen = await platform.call("access", "ListBranches", pb.ListBranchesRequest(), caller)
    assert [found.id for found in seen.branches] == [here.id]
    far = await refused(platform.call("access", "GetBranch", pb.GetBranchRequest(id=there.id), caller))
    assert far.code == "PERMISSION_DENIED"


async def test_nobody_grants_what_they_do_not_hold(platform: Platform) -> None:
    created, owner = await open_chain(platform)
    here, there = await branch(platform, owner, "here"), await branch(platform, owner, "there")
    boss = await caller_of(platform, await account(platform, owner, pb.Grant(role="store_manager", branch_id=here.id)))
    desk = await account(platform, boss, pb.Grant(role="front_desk", branch_id=here.id))
    for too_wide in (
        pb.Grant(role="front_desk"),
        pb.Grant(role="front_desk", branch_id=there.id),
        pb.Grant(role="owner", branch_id=here.id),
    ):
        problem = await refused(account(platform, boss, too_wide))
        assert problem.code == "GRANT_TOO_WIDE"
        assert problem.parameters["permissions"]
    # Neither by the back door: the owner's password, roles, or account.
    request: Any
    for method, request in (
        ("SetPassword", pb.SetPasswordRequest(id=created.owner.id, password=PASSWORD)),
        ("UpdateAccount", pb.UpdateAccountRequest(id=created.owner.id, active=False)),
        ("UpdateAccount", pb.UpdateAccountRequest(id=desk.id, roles=pb.Grants(grants=[pb.Grant(role="owner")]))),
    ):
        assert (await refused(platform.call("access", method, request, boss))).code == "GRANT_TOO_WIDE"
    listed = await platform.call("access", "ListAccounts", pb.ListAccountsRequest(), boss)
    assert {found.id for found in listed.accounts} == {desk.id, boss.id}
    hidden = await refused(platform.call("access", "GetAccount", pb.GetAccountRequest(id=created.owner.id), boss))
    assert hidden.code == "PERMISSION_DENIED"
    out_of_reach: Any
    for method, out_of_reach in (
        ("CreateBranch", pb.CreateBranchRequest(name="mine")),
        ("CreateDepartment", pb.CreateDepartmentRequest(name="mine")),
        ("UpdateBranch", pb.UpdateBranchRequest(id=there.id, name="mine")),
    ):
        assert (await refused(platform.call("access", method, out_of_reach, boss))).code == "PERMISSION_DENIED"
    await platform.call("access", "UpdateBranch", pb.UpdateBranchRequest(id=here.id, name="ours"), boss)


async def test_roles_and_branches_of_a_grant_must_exist(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    missing = str(uuid4())
    problem = await refused(
        account(platform, owner, pb.Grant(role="wizard"), pb.Grant(role="sales", branch_id=missing))
    )
    assert problem.code == "NOT_FOUND"
    assert [error.field for error in problem.errors] == ["roles[0].role", "roles[1].branch_id"]


async def test_an_account_can_belong_to_a_staff_member(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    here = await branch(platform, owner)
    request = bookings_pb2.CreateStaffRequest(name="Mei", branch_ids=[here.id])
    person = await platform.call("bookings", "CreateStaff", request, owner)
    made = await account(platform, owner, pb.Grant(role="sales"), staff_id=person.id)
    assert made.staff_id == person.id
    problem = await refused(account(platform, owner, pb.Grant(role="sales"), staff_id=str(uuid4())))
    assert (problem.code, problem.errors[0].field) == ("NOT_FOUND", "staff_id")


async def test_emails_are_unique_on_the_platform(platform: Platform) -> None:
    created, _ = await open_chain(platform)
    _, owner = await open_chain(platform)
    request = pb.CreateAccountRequest(
        email=created.owner.email.upper(), name="x", password=PASSWORD, roles=[pb.Grant(role="sales")]
    )
    assert (await refused(platform.call("access", "CreateAccount", request, owner))).code == "EMAIL_TAKEN"


async def test_closing_and_changing_accounts(platform: Platform) -> None:
    created, owner = await open_chain(platform)
    made = await account(platform, owner, pb.Grant(role="sales"))
    caller = await caller_of(platform, made)
    request = pb.UpdateAccountRequest(id=made.id, name="Mei Lin", roles=pb.Grants(grants=[pb.Grant(role="legal")]))
    changed = await platform.call("access", "UpdateAccount", request, owner, if_match=1)
    assert (changed.name, changed.version, changed.roles[0].role) == ("Mei Lin", 2, "legal")
    await platform.call("access", "SetPassword", pb.SetPasswordRequest(id=made.id, password="another password"), caller)
    assert (await refused(sign_in(platform, made.email))).code == "WRONG_CREDENTIALS"
    await sign_in(platform, made.email, "another password")
    foreign = pb.SetPasswordRequest(id=created.owner.id, password="another password")
    assert (await refused(platform.call("access", "SetPassword", foreign, caller))).code == "PERMISSION_DENIED"
    closed = await platform.call("access", "UpdateAccount", pb.UpdateAccountRequest(id=made.id, active=False), owner)
    assert closed.active is False
    assert (await refused(sign_in(platform, made.email, "another password"))).code == "WRONG_CREDENTIALS"
    assert (await refused(platform.call("access", "GetMe", pb.GetMeRequest(), caller))).code == "UNAUTHENTICATED"


async def test_a_chain_keeps_an_owner(platform: Platform) -> None:
    created, owner = await open_chain(platform)
    leave = pb.UpdateAccountRequest(id=created.owner.id, active=False)
    step_down = pb.UpdateAccountRequest(id=created.owner.id, roles=pb.Grants(grants=[pb.Grant(role="sales")]))
    for request in (leave, step_down):
        assert (await refused(platform.call("access", "UpdateAccount", request, owner))).code == "LAST_OWNER"
    second = await account(platform, owner, pb.Grant(role="owner"))
    both = [pb.UpdateAccountRequest(id=found, active=False) for found in (created.owner.id, second.id)]
    results = await asyncio.gather(
        *(platform.call("access", "UpdateAccount", request, owner) for request in both), return_exceptions=True
    )
    codes = [result.code for result in results if isinstance(result, Refusal)]
    assert codes == ["LAST_OWNER"], "of two owners who leave at once one stays"


async def test_own_roles(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    call = platform.call
    request = pb.CreateRoleRequest(name="stylist", title="造型师", permissions=["bookings.read", "customers.read"])
    role = await call("access", "CreateRole", request, owner)
    assert not role.ready_made
    taken = await refused(call("access", "CreateRole", request, owner))
    assert (taken.code, taken.errors[0].field) == ("ALREADY_EXISTS", "name")
    stylist = await caller_of(platform, await account(platform, owner, pb.Grant(role="stylist")))
    assert dict(stylist.grants) == {"bookings.read": "*", "customers.read": "*"}
    wider = pb.UpdateRoleRequest(name="stylist", permissions=pb.Permissions(names=["bookings.read", "wallet.read"]))
    assert list((await call("access", "UpdateRole", wider, owner)).permissions) == ["bookings.read", "wallet.read"]
    weaker = dataclasses.replace(owner, grants={"roles.write": "*", "bookings.read": "*"})
    assert (await refused(call("access", "CreateRole", wider_role("cashier"), weaker))).code == "GRANT_TOO_WIDE"
    more = pb.UpdateRoleRequest(name="stylist", permissions=pb.Permissions(names=["wallet.read", "wallet.refund"]))
    problem = await refused(call("access", "UpdateRole", more, weaker))
    assert (problem.code, problem.parameters["permissions"]) == ("GRANT_TOO_WIDE", "wallet.refund")
    fixed = pb.UpdateRoleRequest(name="owner", title="King")
    assert (await refused(call("access", "UpdateRole", fixed, owner))).code == "READY_MADE_ROLE"
    assert (await refused(call("access", "UpdateRole", pb.UpdateRoleRequest(name="nobody"), owner))).code == "NOT_FOUND"
    titles = {role.name: role.title for role in (await call("access", "ListRoles", pb.ListRolesRequest(), owner)).roles}
    assert (titles["front_desk"], titles["stylist"]) == ("前台", "造型师")
    english = dataclasses.replace(owner, language="en")
    titles = {
        role.name: role.title for role in (await call("access", "ListRoles", pb.ListRolesRequest(), english)).roles
    }
    assert titles["front_desk"] == "Front desk"


def wider_role(name: str) -> pb.CreateRoleRequest:
    return pb.CreateRoleRequest(name=name, title="x", permissions=["bookings.read", "wallet.refund"])


# --- API keys ---------------------------------------------------------------------------------------------------------


async def test_api_keys_stand_for_a_caller(platform: Platform) -> None:
    created, owner = await open_chain(platform)
    found = await authenticate(platform, created.api_key.secret)
    assert (found.chain, list(found.roles)) == (created.chain, ["owner"])
    assert found.permissions["bookings.write"].all
    here = await branch(platform, owner)
    request = pb.CreateApiKeyRequest(name="Site", roles=[pb.Grant(role="front_desk", branch_id=here.id)])
    key = await platform.call("access", "CreateApiKey", request, owner)
    found = await authenticate(platform, key.secret)
    assert (found.id, found.name) == (key.id, "Site")
    assert list(found.permissions["bookings.write"].branch_ids) == [here.id]
    listed = await platform.call("access", "ListApiKeys", pb.ListApiKeysRequest(page_size=1), owner)
    assert listed.api_keys[0].id == key.id
    assert not listed.api_keys[0].HasField("secret")
    rest = pb.ListApiKeysRequest(page_size=1, page_token=listed.next_page_token)
    listed = await platform.call("access", "ListApiKeys", rest, owner)
    assert [found.id for found in listed.api_keys] == [created.api_key.id]
    for wrong in ("", "x", key.secret[:-1] + ("a" if key.secret[-1] != "a" else "b"), "foyer_000000000000_" + "x" * 43):
        assert (await refused(authenticate(platform, wrong or "-"))).code == "UNAUTHENTICATED"


async def test_a_key_is_rotated_with_overlap(platform: Platform) -> None:
    created, owner = await open_chain(platform)
    first = created.api_key.secret

    async def rotate(overlap_seconds: int) -> str:
        request = pb.RotateApiKeyRequest(id=created.api_key.id, overlap_seconds=overlap_seconds)
        answer = await platform.call("access", "RotateApiKey", request, owner)
        return str(answer.secret)

    second = await rotate(3600)
    assert (await authenticate(platform, first)).id == (await authenticate(platform, second)).id
    third = await rotate(0)
    for old in (first, second):
        assert (await refused(authenticate(platform, old))).code == "UNAUTHENTICATED"
    await authenticate(platform, third)
    for _ in range(2):
        request = pb.RevokeApiKeyRequest(id=created.api_key.id)
        revoked = await platform.call("access", "RevokeApiKey", request, owner)
        assert revoked.HasField("revoked_at")
    assert (await refused(authenticate(platform, third))).code == "UNAUTHENTICATED"
    assert (await refused(rotate(0))).code == "WRONG_STATE"


async def test_a_key_expires(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    now = platform["access"].context.clock.now()
    request = pb.CreateApiKeyRequest(name="k", roles=[pb.Grant(role="sales")])
    request.expires_at.FromDatetime(now - timedelta(seconds=1))
    problem = await refused(platform.call("access", "CreateApiKey", request, owner))
    assert [error.field for error in problem.errors] == ["expires_at"]
    request.expires_at.FromDatetime(now + timedelta(seconds=1))
    key = await platform.call("access", "CreateApiKey", request, owner)
    await authenticate(platform, key.secret)
    await asyncio.sleep(1.1)
    assert (await refused(authenticate(platform, key.secret))).code == "UNAUTHENTICATED"


async def test_keys_give_no_more_than_their_maker_holds(platform: Platform) -> None:
    created, owner = await open_chain(platform)
    weaker = dataclasses.replace(owner, grants={"api_keys.write": "*", "bookings.read": "*"})
    request = pb.CreateApiKeyRequest(name="k", roles=[pb.Grant(role="sales")])
    assert (await refused(platform.call("access", "CreateApiKey", request, weaker))).code == "GRANT_TOO_WIDE"
    rotate = pb.RotateApiKeyRequest(id=created.api_key.id)
    assert (await refused(platform.call("access", "RotateApiKey", rotate, weaker))).code == "GRANT_TOO_WIDE"


async def test_secrets_are_stored_as_hashes_only(platform: Platform) -> None:
    created, owner = await open_chain(platform)
    secret = created.api_key.secret.rpartition("_")[2]
    async with platform["access"].context.store.pool.acquire() as connection, connection.transaction():
        await connection.execute("select set_config('foyer.chain_id', $1, true)", owner.chain_id)
        for table in ("api_keys", "api_key_secrets", "outbox", "accounts", "chains"):
            for row in await connection.fetch(f"select t::text as text from {table} t"):
                assert secret not in row["text"]


async def test_failed_sign_ins_are_forgotten_in_time(platform: Platform) -> None:
    from services.access.signin import forget_failures

    context = platform["access"].context
    address = email()
    assert (await refused(sign_in(platform, address, "wrong"))).code == "WRONG_CREDENTIALS"
    count = "select count(*) from sign_in_failures where last_at < now() - interval '15 minutes'"
    async with context.system_store.pool.acquire() as connection:
        await connection.execute(
            "update sign_in_failures set last_at = last_at - $1::interval", domain.FAILED_SIGN_INS_WINDOW
        )
        assert await connection.fetchval(count) > 0
        await forget_failures(context)
        assert await connection.fetchval(count) == 0


async def test_a_secret_is_told_once_and_not_stored(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    request = pb.CreateApiKeyRequest(name="Once", roles=[pb.Grant(role="sales")])
    first = await platform.call("access", "CreateApiKey", request, owner, key="make-it-once")
    again = await platform.call("access", "CreateApiKey", request, owner, key="make-it-once")
    assert first.secret
    assert again.id == first.id
    assert not again.HasField("secret")
