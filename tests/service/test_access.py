"""Access against real PostgreSQL: chains, sign-in, branches."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import date

import pytest
from argon2 import PasswordHasher
from foyer.access.v1 import access_pb2 as pb
from foyer.common.v1.common_pb2 import WEEKDAY_MONDAY, WEEKDAY_TUESDAY, WEEKDAY_WEDNESDAY

from chassis.access import Caller
from chassis.testing import Platform
from tests.service.access_calls import (
    PASSWORD,
    authenticate,
    branch,
    email,
    open_chain,
    refused,
    sign_in,
)

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


async def test_make_up_days(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    days = [
        pb.SwappedDay(day="2026-10-10", follows=WEEKDAY_WEDNESDAY),
        pb.SwappedDay(day="2026-09-20", follows=WEEKDAY_TUESDAY),
    ]
    made = await branch(platform, owner, "B", holidays=["2026-10-01"], swapped_days=days)
    assert list(made.swapped_days) == days[::-1]
    assert await platform.call("access", "GetBranch", pb.GetBranchRequest(id=made.id), owner) == made
    wrong = [*days, days[0], *(pb.SwappedDay(day=day, follows=WEEKDAY_MONDAY) for day in ("2026-02-30", "2026-10-01"))]
    problem = await refused(branch(platform, owner, time_zone="Mars/Base", holidays=["2026-10-01"], swapped_days=wrong))
    assert [(error.field, error.code) for error in problem.errors] == [
        ("time_zone", "time_zone"),
        ("swapped_days[3].day", "date"),
        ("swapped_days[2].day", "repeated"),
        ("swapped_days[4].day", "holiday"),
    ]
    # What is not sent stays; a day cannot become one that is closed while it is a make-up day.
    renamed = pb.UpdateBranchRequest(id=made.id, name="C")
    assert list((await platform.call("access", "UpdateBranch", renamed, owner)).swapped_days) == days[::-1]
    closed = pb.UpdateBranchRequest(id=made.id, holidays=pb.Days(days=["2026-10-10"]))
    problem = await refused(platform.call("access", "UpdateBranch", closed, owner))
    assert [(error.field, error.code) for error in problem.errors] == [("swapped_days.days[1].day", "holiday")]
    both = pb.UpdateBranchRequest(
        id=made.id, holidays=pb.Days(days=["2026-10-10"]), swapped_days=pb.SwappedDays(days=days[1:])
    )
    changed = await platform.call("access", "UpdateBranch", both, owner)
    assert (list(changed.holidays), list(changed.swapped_days)) == (["2026-10-10"], days[1:])
    none = pb.UpdateBranchRequest(id=made.id, swapped_days=pb.SwappedDays())
    assert not (await platform.call("access", "UpdateBranch", none, owner)).swapped_days


async def test_public_holidays(platform: Platform) -> None:
    _, owner = await open_chain(platform)
    request = pb.GetPublicHolidaysRequest(country="CN", year=2026)
    found = await platform.call("access", "GetPublicHolidays", request, owner)
    assert (found.country, found.year, len(found.holidays)) == ("CN", 2026, 7)
    off = sum(
        (date.fromisoformat(each.until_date) - date.fromisoformat(each.from_date)).days + 1 for each in found.holidays
    )
    worked = [date.fromisoformat(day) for each in found.holidays for day in each.worked_days]
    assert (off, len(worked)) == (33, 6)
    assert all(day.isoweekday() >= 6 for day in worked)
    for request, field in (
        (pb.GetPublicHolidaysRequest(country="CN", year=2099), "year"),
        (pb.GetPublicHolidaysRequest(country="FR", year=2026), "country"),
    ):
        problem = await refused(platform.call("access", "GetPublicHolidays", request, owner))
        assert (problem.code, [error.field for error in problem.errors]) == ("NOT_FOUND", [field])
    # A chain takes over what holds for it.
    days = [pb.SwappedDay(day=day.isoformat(), follows=WEEKDAY_MONDAY) for day in worked]
    assert len((await branch(platform, owner, swapped_days=days)).swapped_days) == 6
    assert (await refused(platform.call("access", "GetPublicHolidays", request))).code == "UNAUTHENTICATED"


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
