"""Access against real PostgreSQL: chains, sign-in, grants, API keys."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from argon2 import PasswordHasher
from foyer.access.v1 import access_pb2 as pb
from foyer.bookings.v1 import bookings_pb2
from foyer.common.v1.common_pb2 import WEEKDAY_MONDAY, WEEKDAY_TUESDAY

from chassis.access import AccessTokens, Caller
from chassis.errors import Refusal
from chassis.testing import Platform
from chassis.unit import system_caller
from services.access import domain

PASSWORD = "a password of some length"
GATEWAY = system_caller("gateway", "")


def email() -> str:
    return f"owner-{uuid4().hex[:12]}@Example.com"


async def open_chain(platform: Platform, **changes: Any) -> tuple[pb.CreatedChain, Caller]:
    """A new chain, and its owner as a caller."""
    given = {"name": "Silk & Stone", "time_zone": "Asia/Shanghai", "currency": "CNY", "language": "zh"}
    owner = {"owner_name": "林晓", "owner_email": email(), "owner_password": PASSWORD}
    created = await platform.call(
        "access", "CreateChain", pb.CreateChainRequest(**{**given, **owner, **changes}), GATEWAY
    )
    token = await sign_in(platform, created.owner.email)
    return created, tokens(platform).verify(token.access_token)[0]


def tokens(platform: Platform) -> AccessTokens:
    return platform["access"].context.access_tokens


async def sign_in(platform: Platform, address: str, password: str = PASSWORD) -> pb.Token:
    token: pb.Token = await platform.call(
        "access", "CreateToken", pb.CreateTokenRequest(email=address, password=password)
    )
    return token


async def authenticate(platform: Platform, key: str) -> pb.AuthenticatedCaller:
    answer: pb.AuthenticatedCaller = await platform.call(
        "access", "Authenticate", pb.AuthenticateRequest(api_key=key), GATEWAY
    )
    return answer


async def refused(work: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value


async def branch(platform: Platform, caller: Caller, name: str = "静安店", **more: Any) -> pb.Branch:
    made: pb.Branch = await platform.call("access", "CreateBranch", pb.CreateBranchRequest(name=name, **more), caller)
    return made


async def account(platform: Platform, caller: Caller, *roles: pb.Grant, **more: Any) -> pb.Account:
    request = pb.CreateAccountRequest(email=email(), name="Mei", password=PASSWORD, roles=roles, **more)
    made: pb.Account = await platform.call("access", "CreateAccount", request, caller)
    return made


async def caller_of(platform: Platform, who: pb.Account) -> Caller:
    return tokens(platform).verify((await sign_in(platform, who.email)).access_token)[0]


# --- chains and sign-in -----------------------------------------------------------------------------------------------


async def test_a_chain_is_opened_once_for_an_email(platform: Platform) -> None:
    address = email()
    created, owner = await open_chain(platform, owner_email=address)
    assert created.chain.name == "Silk & Stone"
    assert created.owner.roles == [pb.Grant(role="owner")]
    assert owner.chain_id == created.chain.id
    assert (owner.time_zone, owner.currency, owner.language) == ("Asia/Shanghai", "CNY", "zh")
    assert owner.grants["wallet.top_up"] == "*"
    again = await refused(open_chain(platform, owner_email=address.swapcase()))
    assert again.code == "EMAIL_TAKEN"
    wrong = await refused(open_chain(platform, time_zone="Asia/Atlantis"))
    assert [error.field for error in wrong.errors] == ["time_zone"]


async def test_only_the_platform_opens_chains(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    request = pb.CreateChainRequest(name="x", time_zone="UTC", currency="CNY", language="en", owner_name="x")
    assert (await refused(platform.call("access", "CreateChain", request, owner))).code == "PERMISSION_DENIED"
    assert (await refused(platform.call("access", "CreateChain", request))).code == "UNAUTHENTICATED"
    lookup = pb.AuthenticateRequest(api_key="x")
    assert (await refused(platform.call("access", "Authenticate", lookup, owner))).code == "PERMISSION_DENIED"


async def test_me(platform: Platform) -> None:
    created, owner = await open_chain(platform)
    me = await platform.call("access", "GetMe", pb.GetMeRequest(), owner)
    assert (me.kind, me.name, me.email) == ("account", "林晓", created.owner.email)
    assert me.chain == created.chain
    assert me.roles == [pb.Grant(role="owner")]
    assert "bookings.write" in me.permissions
    found = await authenticate(platform, created.api_key.secret)
    key = Caller(found.id, "api_key", found.name, found.chain.id, roles=tuple(found.roles), grants={"x.y": "*"})
    me = await platform.call("access", "GetMe", pb.GetMeRequest(), key)
    assert (me.kind, me.HasField("email"), list(me.permissions)) == ("api_key", False, ["x.y"])
    assert me.roles == [pb.Grant(role="owner")]


async def test_emails_are_one_whatever_their_case(platform: Platform) -> None:
    created, _ = await open_chain(platform)
    token = await sign_in(platform, f" {created.owner.email.upper()} ")
    assert (token.token_type, token.expires_in) == ("Bearer", 900)


async def test_wrong_passwords_are_counted_and_then_refused(platform: Platform) -> None:
    created, _ = await open_chain(platform)
    address = created.owner.email
    for _ in range(4):
        assert (await refused(sign_in(platform, address, "wrong"))).code == "WRONG_CREDENTIALS"
    await sign_in(platform, address)
    # Signing in forgot the four failures.
    for _ in range(5):
        assert (await refused(sign_in(platform, address, "wrong"))).code == "WRONG_CREDENTIALS"
    late = await refused(sign_in(platform, address.lower()))
    assert late.code == "TOO_MANY_ATTEMPTS"
    assert 0 < int(late.parameters["retry_after_seconds"]) <= 900
    # It is the e-mail that is refused, not everybody.
    other, _ = await open_chain(platform)
    await sign_in(platform, other.owner.email)


async def test_many_attempts_at_once_cannot_overtake_the_count(platform: Platform) -> None:
    created, _ = await open_chain(platform)
    attempts = [sign_in(platform, created.owner.email, f"guess {i}") for i in range(20)]
    codes = [problem.code for problem in await asyncio.gather(*attempts, return_exceptions=True)]  # type: ignore[union-attr]
    assert set(codes) == {"WRONG_CREDENTIALS", "TOO_MANY_ATTEMPTS"}
    assert 5 <= codes.count("WRONG_CREDENTIALS") <= 6


async def test_an_unknown_email_takes_as_long_as_a_known_one(platform: Platform) -> None:
    known: list[float] = []
    unknown: list[float] = []
    for _ in range(3):
        created, _ = await open_chain(platform)
        for times, address in ((known, created.owner.email), (unknown, email())) * 3:
            started = time.perf_counter()
            assert (await refused(sign_in(platform, address, "wrong"))).code == "WRONG_CREDENTIALS"
            times.append(time.perf_counter() - started)
    assert 0.5 < statistics.median(unknown) / statistics.median(known) < 2
    assert min(unknown) > 0.005


async def test_old_hashes_are_renewed_at_sign_in(platform: Platform) -> None:
    created, owner = await open_chain(platform)
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    store = platform["access"].context.store
    async with store.pool.acquire() as connection, connection.transaction():
        await connection.execute("select set_config('foyer.chain_id', $1, true)", owner.chain_id)
        await connection.execute("update accounts set password_hash = $1", weak)
    await sign_in(platform, created.owner.email)
    async with store.pool.acquire() as connection, connection.transaction():
        await connection.execute("select set_config('foyer.chain_id', $1, true)", owner.chain_id)
        stored = await connection.fetchval("select password_hash from accounts")
    assert "m=19456,t=2,p=1" in stored
    await sign_in(platform, created.owner.email)


async def test_the_system_role_sees_only_what_leads_to_a_chain(platform: Platform) -> None:
    await open_chain(platform)
    async with platform["access"].context.system_store.pool.acquire() as connection:
        assert await connection.fetchval("select count(email_key) from accounts") > 0
        for query in (
            "select password_hash from accounts",
            "select name from accounts",
            "select * from chains",
            "select * from api_keys",
            "select name from branches",
            "update accounts set email_key = 'x'",
        ):
            with pytest.raises(Exception, match="permission denied"):
                await connection.fetch(query)


async def test_chains_do_not_see_each_other(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    _, stranger = await open_chain(platform)
    theirs = await branch(platform, owner)
    assert (await refused(platform.call("access", "GetBranch", pb.GetBranchRequest(id=theirs.id), stranger))).code == (
        "NOT_FOUND"
    )
    listed = await platform.call("access", "ListBranches", pb.ListBranchesRequest(), stranger)
    assert not listed.branches
    request = pb.CreateDepartmentRequest(name="Lab", branch_id=theirs.id)
    unknown = await refused(platform.call("access", "CreateDepartment", request, stranger))
    assert (unknown.code, unknown.errors[0].field) == ("NOT_FOUND", "branch_id")


async def test_the_chain_can_be_changed(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    request = pb.UpdateChainRequest(name="Silk", time_zone="Europe/London")
    changed = await platform.call("access", "UpdateChain", request, owner, if_match=1)
    assert (changed.name, changed.time_zone, changed.language, changed.version) == ("Silk", "Europe/London", "zh", 2)
    assert await platform.call("access", "GetChain", pb.GetChainRequest(), owner) == changed
    stale = await refused(platform.call("access", "UpdateChain", request, owner, if_match=1))
    assert stale.code == "PRECONDITION_FAILED"


# --- branches ---------------------------------------------------------------------------------------------------------


async def test_branches(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    hours = [pb.OpeningInterval(weekday=WEEKDAY_TUESDAY, start_time="10:00", end_time="24:00")]
    made = await branch(
        platform, owner, "B", address="1 Road", opening_hours=hours, holidays=["2026-10-02", "2026-10-01", "2026-10-01"]
    )
    assert (made.time_zone, made.active, made.version) == ("Asia/Shanghai", True, 1)
    assert list(made.holidays) == ["2026-10-01", "2026-10-02"]
    assert made.opening_hours == hours
    assert await platform.call("access", "GetBranch", pb.GetBranchRequest(id=made.id.upper()), owner) == made
    request = pb.UpdateBranchRequest(
        id=made.id, address="", time_zone="Asia/Tokyo", opening_hours=pb.OpeningHours(), active=False
    )
    changed = await platform.call("access", "UpdateBranch", request, owner)
    assert not changed.HasField("address")
    assert (changed.time_zone, changed.active, changed.version, len(changed.opening_hours)) == (
        "Asia/Tokyo",
        False,
        2,
        0,
    )
    assert list(changed.holidays) == ["2026-10-01", "2026-10-02"]
    stale = await refused(platform.call("access", "UpdateBranch", request, owner, if_match=1))
    assert stale.code == "PRECONDITION_FAILED"


async def test_all_that_is_wrong_with_a_branch_is_told_at_once(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    wrong = pb.OpeningInterval(weekday=WEEKDAY_MONDAY, start_time="18:00", end_time="09:00")
    problem = await refused(
        branch(platform, owner, time_zone="Mars/Base", opening_hours=[wrong], holidays=["2026-02-30"])
    )
    assert problem.code == "INVALID_REQUEST"
    assert [error.field for error in problem.errors] == ["time_zone", "opening_hours[0].end_time", "holidays[0]"]
    made = await branch(platform, owner)
    request = pb.UpdateBranchRequest(
        id=made.id, opening_hours=pb.OpeningHours(intervals=[wrong]), holidays=pb.Days(days=["2026-13-01"])
    )
    problem = await refused(platform.call("access", "UpdateBranch", request, owner))
    assert [error.field for error in problem.errors] == ["opening_hours.intervals[0].end_time", "holidays.days[0]"]


async def test_branches_are_listed_by_name_in_pages(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    for name in ("d", "a", "c", "b", "a"):
        await branch(platform, owner, name)
    names: list[str] = []
    token = ""
    for _ in range(3):
        request = pb.ListBranchesRequest(page_size=2, page_token=token)
        page = await platform.call("access", "ListBranches", request, owner)
        names += [found.name for found in page.branches]
        token = page.next_page_token
    assert (names, token) == (["a", "a", "b", "c", "d"], "")
    for wrong in ("x", "WzFd", "WyJhIiwgIm5vIGlkIl0"):
        problem = await refused(
            platform.call("access", "ListBranches", pb.ListBranchesRequest(page_token=wrong), owner)
        )
        assert [error.field for error in problem.errors] == ["page_token"]


async def test_departments(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    home = await branch(platform, owner)
    call = platform.call
    lab = await call("access", "CreateDepartment", pb.CreateDepartmentRequest(name="Lab"), owner)
    desk = await call("access", "CreateDepartment", pb.CreateDepartmentRequest(name="Desk", branch_id=home.id), owner)
    assert (lab.HasField("branch_id"), desk.branch_id) == (False, home.id)
    renamed = await call("access", "UpdateDepartment", pb.UpdateDepartmentRequest(id=lab.id, name="Atelier"), owner)
    listed = await call("access", "ListDepartments", pb.ListDepartmentsRequest(), owner)
    assert list(listed.departments) == [renamed, desk]


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
