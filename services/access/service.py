"""The RPCs of Access, in the order of the proto."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any

import asyncpg
from foyer.access.v1 import access_pb2 as pb

from chassis.app import Context, Job, Service
from chassis.db import Prepared
from chassis.errors import FieldError, Refusal, invalid, not_found
from chassis.ids import new_id
from chassis.pages import cursor_decode, page_limit, split_page, wrong_token
from chassis.rows import projector
from chassis.rpc import Call, outside_unit
from chassis.unit import UUID_PATTERN, Unit, system_caller
from services.access import domain, holders, public_holidays, statements
from services.access.domain import RoleGrant
from services.access.events import fetch_staff, on
from services.access.passwords import Passwords
from services.access.permissions import OWNER, READY_MADE
from services.access.signin import FORGET_FAILURES_SECONDS, SignIn, forget_failures

LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"

to_branch = projector(
    pb.Branch,
    opening_hours=lambda row: [pb.OpeningInterval(**interval) for interval in row["opening_hours"]],
    swapped_days=lambda row: [pb.SwappedDay(**day) for day in row["swapped_days"]],
)
to_department = projector(pb.Department)
to_role = projector(pb.Role)


class Access:
    """Chains, branches, departments, accounts, roles and API keys."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.passwords = Passwords()
        self.sign_in = SignIn(context, self.passwords)

    # --- sign-in ---

    @outside_unit
    async def create_token(self, request: pb.CreateTokenRequest, call: Call) -> pb.Token:  # noqa: ARG002
        """Sign in with e-mail and password."""
        return await self.sign_in.token(request.email, request.password)

    async def get_me(self, request: pb.GetMeRequest, unit: Unit) -> pb.Me:  # noqa: ARG002
        """The caller, as known now; what they may do as their token says."""
        caller = unit.caller
        me = pb.Me(id=caller.id, kind=caller.kind, name=caller.name, permissions=sorted(caller.grants))
        chain = await unit.one(statements.GET_CHAIN)
        if chain is not None:
            me.chain.CopyFrom(holders.to_chain(chain))
        if caller.kind == "account":
            account = await unit.one(statements.GET_ACCOUNT, id=caller.id)
            if account is None or not account["active"]:
                raise Refusal("UNAUTHENTICATED")
            me.name, me.email = account["name"], account["email"]
            if account["staff_id"] is not None:
                me.staff_id = account["staff_id"]
            me.roles.extend(holders.grant_messages(account))
        elif caller.kind == "api_key":
            key = await unit.one(statements.GET_API_KEY, id=caller.id)
            if key is None or key["revoked_at"]:
                raise Refusal("UNAUTHENTICATED")
            me.roles.extend(holders.grant_messages(key))
        return me

    @outside_unit
    async def authenticate(self, request: pb.AuthenticateRequest, call: Call) -> pb.AuthenticatedCaller:  # noqa: ARG002
        """The caller an API key stands for."""
        return await self.sign_in.authenticate(request.api_key)

    # --- chain ---

    @outside_unit
    async def create_chain(self, request: pb.CreateChainRequest, call: Call) -> Any:
        """Open a chain with its owner and a key."""
        errors = domain.zone_errors(request.time_zone)
        if errors:
            raise invalid(*errors)
        password_hash = await self.passwords.hash(request.owner_password)
        chain_id = new_id()

        async def work(unit: Unit) -> pb.CreatedChain:
            row = await unit.one(
                statements.ADD_CHAIN,
                name=request.name,
                time_zone=request.time_zone,
                currency=request.currency,
                language=request.language,
                created_at=unit.now,
            )
            chain = holders.to_chain(holders.there(row))
            grants = [RoleGrant(OWNER)]
            owner = await holders.add_account(
                unit, request.owner_email, request.owner_name, password_hash, request.language, grants
            )
            api_key = await holders.add_api_key(unit, f"{request.owner_name} (API)", grants, None)
            unit.emit(pb.ChainCreated(chain_id=chain_id, chain=chain))
            return pb.CreatedChain(chain=chain, owner=owner, api_key=api_key)

        caller = system_caller(self.context.name, chain_id, request.time_zone, request.currency)
        return await call.run(work, caller)

    async def get_chain(self, request: pb.GetChainRequest, unit: Unit) -> pb.Chain:  # noqa: ARG002
        """Read the chain."""
        row = await unit.one(statements.GET_CHAIN)
        if row is None:
            raise not_found("chain")
        return holders.to_chain(row)

    async def update_chain(self, request: pb.UpdateChainRequest, unit: Unit) -> pb.Chain:
        """Change the chain's name, language, zone."""
        _check_everywhere(unit, "chain.write")
        if request.HasField("time_zone") and (errors := domain.zone_errors(request.time_zone)):
            raise invalid(*errors)
        row = await unit.one(statements.LOCK_CHAIN)
        if row is None:
            raise not_found("chain")
        unit.check_version(row["version"])
        new = _changes(request, row, "name", "time_zone", "language")
        chain = holders.to_chain(holders.there(await unit.one(statements.CHANGE_CHAIN, **new)))
        unit.emit(pb.ChainUpdated(chain_id=chain.id, chain=chain))
        return chain

    # --- branches and departments ---

    async def create_branch(self, request: pb.CreateBranchRequest, unit: Unit) -> pb.Branch:
        """Open a branch."""
        _check_everywhere(unit, "branches.write")
        _check_branch_facts(
            request,
            request.opening_hours,
            "opening_hours",
            request.holidays,
            "holidays",
            _swapped_errors(request.swapped_days, "swapped_days", request.holidays),
        )
        time_zone = request.time_zone
        if not time_zone:
            chain = await unit.one(statements.GET_CHAIN)
            time_zone = chain["time_zone"] if chain is not None else unit.caller.time_zone
        row = await unit.one(
            statements.ADD_BRANCH,
            id=new_id(),
            name=request.name,
            address=request.address or None,
            phone=request.phone or None,
            time_zone=time_zone,
            opening_hours=_hours_for_row(request.opening_hours),
            holidays=sorted(set(request.holidays)),
            swapped_days=_swapped_for_row(request.swapped_days),
            active=True,
            created_at=unit.now,
        )
        branch = to_branch(holders.there(row))
        unit.emit(pb.BranchCreated(branch_id=branch.id, branch=branch))
        return branch

    async def list_branches(self, request: pb.ListBranchesRequest, unit: Unit) -> pb.ListBranchesResponse:
        """List the branches the caller may see, by name."""
        rows, token = await _page_by_name(unit, statements.LIST_BRANCHES, request, "branches.read")
        return pb.ListBranchesResponse(branches=[to_branch(row) for row in rows], next_page_token=token)

    async def get_branch(self, request: pb.GetBranchRequest, unit: Unit) -> pb.Branch:
        """Read a branch."""
        row = await unit.one(statements.GET_BRANCH, id=request.id)
        if row is None:
            raise not_found("branch", "id")
        unit.check_branch(row["id"], "branches.read")
        return to_branch(row)

    async def update_branch(self, request: pb.UpdateBranchRequest, unit: Unit) -> pb.Branch:
        """Change a branch."""
        hours, days = request.opening_hours.intervals, request.holidays.days
        row = await unit.one(statements.LOCK_BRANCH, id=request.id)
        if row is None:
            raise not_found("branch", "id")
        unit.check_branch(row["id"], "branches.write")
        unit.check_version(row["version"])
        new = _changes(request, row, "name", "address", "phone", "time_zone", "active", removable=("address", "phone"))
        new["new_opening_hours"] = _hours_for_row(hours) if request.HasField("opening_hours") else row["opening_hours"]
        new["new_holidays"] = sorted(set(days)) if request.HasField("holidays") else row["holidays"]
        swapped = request.swapped_days.days if request.HasField("swapped_days") else to_branch(row).swapped_days
        _check_branch_facts(
            request,
            hours,
            "opening_hours.intervals",
            days,
            "holidays.days",
            _swapped_errors(swapped, "swapped_days.days", new["new_holidays"]),
        )
        new["new_swapped_days"] = _swapped_for_row(swapped)
        branch = to_branch(holders.there(await unit.one(statements.CHANGE_BRANCH, id=request.id, **new)))
        unit.emit(pb.BranchUpdated(branch_id=branch.id, branch=branch))
        return branch

    async def get_public_holidays(self, request: pb.GetPublicHolidaysRequest, unit: Unit) -> pb.PublicHolidays:  # noqa: ARG002
        """Read the public holidays of a country in a year."""
        return public_holidays.of(request.country, request.year)

    async def create_department(self, request: pb.CreateDepartmentRequest, unit: Unit) -> pb.Department:
        """Set up a department of the chain or of one branch."""
        branch_id = request.branch_id or None
        if branch_id is None:
            _check_everywhere(unit, "branches.write")
        elif await unit.one(statements.GET_BRANCH, id=branch_id) is None:
            raise not_found("branch", "branch_id")
        row = await unit.one(
            statements.ADD_DEPARTMENT, id=new_id(), name=request.name, branch_id=branch_id, created_at=unit.now
        )
        return to_department(holders.there(row))

    async def list_departments(self, request: pb.ListDepartmentsRequest, unit: Unit) -> pb.ListDepartmentsResponse:
        """List the departments, by name; those of the chain and of branches the caller may see."""
        rows, token = await _page_by_name(unit, statements.LIST_DEPARTMENTS, request, "branches.read")
        return pb.ListDepartmentsResponse(departments=[to_department(row) for row in rows], next_page_token=token)

    async def update_department(self, request: pb.UpdateDepartmentRequest, unit: Unit) -> pb.Department:
        """Change a department."""
        row = await unit.one(statements.LOCK_DEPARTMENT, id=request.id)
        if row is None:
            raise not_found("department", "id")
        if row["branch_id"] is None:
            _check_everywhere(unit, "branches.write")
        else:
            unit.check_branch(row["branch_id"], "branches.write")
        unit.check_version(row["version"])
        new = _changes(request, row, "name")
        return to_department(holders.there(await unit.one(statements.CHANGE_DEPARTMENT, id=request.id, **new)))

    # --- accounts ---

    @outside_unit
    async def create_account(self, request: pb.CreateAccountRequest, call: Call) -> Any:
        """Give a person an account, with roles."""
        password_hash = await self.passwords.hash(request.password)

        async def work(unit: Unit) -> pb.Account:
            grants = await holders.granted(unit, request.roles, "roles")
            if request.staff_id:
                await holders.check_staff(unit, request.staff_id)
            language = request.language
            if not language:
                chain = await unit.one(statements.GET_CHAIN)
                language = chain["language"] if chain is not None else unit.caller.language
            return await holders.add_account(
                unit, request.email, request.name, password_hash, language, grants, request.staff_id or None
            )

        return await call.run(work)

    async def list_accounts(self, request: pb.ListAccountsRequest, unit: Unit) -> pb.ListAccountsResponse:
        """List the accounts, by name; to a caller for branches those that hold something there."""
        rows, token = await _page_by_name(unit, statements.LIST_ACCOUNTS, request, "accounts.read")
        return pb.ListAccountsResponse(accounts=[holders.to_account(row) for row in rows], next_page_token=token)

    async def get_account(self, request: pb.GetAccountRequest, unit: Unit) -> pb.Account:
        """Read an account."""
        row = await unit.one(statements.GET_ACCOUNT, id=request.id)
        if row is None:
            raise not_found("account", "id")
        allowed = unit.allowed_branches("accounts.read")
        if allowed is not None and not any(grant.branch_id in allowed for grant in holders.grants_of_row(row)):
            raise Refusal("PERMISSION_DENIED", permission="accounts.read")
        return holders.to_account(row)

    async def update_account(self, request: pb.UpdateAccountRequest, unit: Unit) -> pb.Account:
        """Change an account: its roles, its name, or close it."""
        row = await unit.one(statements.LOCK_ACCOUNT, id=request.id)
        if row is None:
            raise not_found("account", "id")
        await holders.check_caller_covers_row(unit, row)
        unit.check_version(row["version"])
        before = holders.grants_of_row(row)
        after = before
        if request.HasField("roles"):
            after = await holders.granted(unit, request.roles.grants, "roles.grants")
        if request.staff_id:
            await holders.check_staff(unit, request.staff_id)
        stays = (request.active if request.HasField("active") else row["active"]) and domain.is_owner(after)
        if row["active"] and domain.is_owner(before) and not stays:
            await holders.check_not_last_owner(unit, row["id"])
        new = _changes(request, row, "name", "staff_id", "language", "active")
        new["new_roles"] = holders.grants_for_row(after)
        return holders.to_account(holders.there(await unit.one(statements.CHANGE_ACCOUNT, id=request.id, **new)))

    @outside_unit
    async def set_password(self, request: pb.SetPasswordRequest, call: Call) -> Any:
        """Set somebody's password (accounts.write, and nobody's who holds more), or one's own."""
        own = call.caller.kind == "account" and call.caller.id == request.id.lower()
        if not own and not call.caller.may("accounts.write"):
            raise Refusal("PERMISSION_DENIED", permission="accounts.write")
        password_hash = await self.passwords.hash(request.password)

        async def work(unit: Unit) -> pb.Account:
            row = await unit.one(statements.LOCK_ACCOUNT, id=request.id)
            if row is None:
                raise not_found("account", "id")
            if not own:
                await holders.check_caller_covers_row(unit, row)
            unit.check_version(row["version"])
            changed = await unit.one(statements.CHANGE_PASSWORD, id=request.id, new_password_hash=password_hash)
            return holders.to_account(holders.there(changed))

        return await call.run(work)

    # --- roles ---

    async def list_roles(self, request: pb.ListRolesRequest, unit: Unit) -> pb.ListRolesResponse:  # noqa: ARG002
        """List the roles: the ready-made ones, then the chain's own."""
        language = unit.caller.language
        ready_made = [
            pb.Role(name=role.name, title=role.title(language), permissions=sorted(role.permissions), ready_made=True)
            for role in READY_MADE.values()
        ]
        own = [to_role(row) for row in await unit.all(statements.OWN_ROLES)]
        return pb.ListRolesResponse(roles=[*ready_made, *own])

    async def create_role(self, request: pb.CreateRoleRequest, unit: Unit) -> pb.Role:
        """Define a role of the chain's own."""
        _check_everywhere(unit, "roles.write")
        permissions = domain.check_permission_names(request.permissions, "permissions")
        holders.check_caller_covers(unit.caller, dict.fromkeys(permissions, domain.EVERYWHERE))
        if request.name in READY_MADE:
            raise _exists("role", "name")
        if len(await unit.all(statements.OWN_ROLES)) >= statements.MOST_OWN_ROLES:
            text = f"a chain has {statements.MOST_OWN_ROLES} roles of its own at most"
            zh = f"每个连锁最多 {statements.MOST_OWN_ROLES} 个自定义角色"
            raise invalid(FieldError("name", "too_many", text, zh))
        row = await unit.one(
            statements.ADD_ROLE,
            name=request.name,
            title=request.title,
            permissions=permissions,
            created_at=unit.now,
        )
        if row is None:
            raise _exists("role", "name")
        return to_role(row)

    async def update_role(self, request: pb.UpdateRoleRequest, unit: Unit) -> pb.Role:
        """Change one of the chain's own roles. What it allows newly, the caller must hold in the whole chain."""
        _check_everywhere(unit, "roles.write")
        if request.name in READY_MADE:
            raise Refusal("READY_MADE_ROLE")
        row = await unit.one(statements.LOCK_ROLE, name=request.name)
        if row is None:
            raise not_found("role", "name")
        unit.check_version(row["version"])
        new = _changes(request, row, "title")
        new["new_permissions"] = row["permissions"]
        if request.HasField("permissions"):
            names = domain.check_permission_names(request.permissions.names, "permissions.names")
            added = set(names) - set(row["permissions"])
            holders.check_caller_covers(unit.caller, dict.fromkeys(added, domain.EVERYWHERE))
            new["new_permissions"] = names
        return to_role(holders.there(await unit.one(statements.CHANGE_ROLE, role_name=request.name, **new)))

    # --- API keys ---

    async def create_api_key(self, request: pb.CreateApiKeyRequest, unit: Unit) -> pb.ApiKey:
        """Make an API key; its secret is in this answer only."""
        _check_everywhere(unit, "api_keys.write")
        expires_at = request.expires_at.ToDatetime(UTC) if request.HasField("expires_at") else None
        if expires_at is not None and expires_at <= unit.now:
            raise invalid(FieldError("expires_at", "past", "must lie in the future", "应为将来的时间"))
        return await holders.add_api_key(
            unit, request.name, await holders.granted(unit, request.roles, "roles"), expires_at
        )

    async def list_api_keys(self, request: pb.ListApiKeysRequest, unit: Unit) -> pb.ListApiKeysResponse:
        """List the API keys, newest first, without their secrets."""
        _check_everywhere(unit, "api_keys.read")
        limit = page_limit(request.page_size)
        cursor = cursor_decode(request.page_token, 1)
        before = LAST_ID if cursor is None else _checked_id(cursor[0])
        rows = await unit.all(statements.LIST_API_KEYS, before=before, limit=limit + 1)
        page, token = split_page(rows, limit, lambda row: [row["id"]])
        return pb.ListApiKeysResponse(api_keys=[holders.to_api_key(row) for row in page], next_page_token=token)

    async def rotate_api_key(self, request: pb.RotateApiKeyRequest, unit: Unit) -> pb.ApiKey:
        """Give a key a new secret; the old one works on for a while, any before it no longer."""
        row = await _lock_key(request.id, unit)
        await holders.check_caller_covers_row(unit, row)
        if row["revoked_at"] is not None:
            raise Refusal("WRONG_STATE", status="revoked")
        if row["expires_at"] is not None and row["expires_at"] <= unit.now:
            raise Refusal("WRONG_STATE", status="expired")
        await holders.end_secret(unit, row["id"], request.overlap_seconds)
        api_key = holders.to_api_key(row)
        api_key.secret = await holders.add_secret(unit, row["id"])
        return api_key

    async def revoke_api_key(self, request: pb.RevokeApiKeyRequest, unit: Unit) -> pb.ApiKey:
        """Revoke a key; once more changes nothing."""
        await _lock_key(request.id, unit)
        return holders.to_api_key(holders.there(await unit.one(statements.REVOKE_API_KEY, id=request.id, now=unit.now)))


# --- what the methods share ---


async def _lock_key(key_id: str, unit: Unit) -> asyncpg.Record:
    """An API key's row, locked, for a caller who may change keys of the whole chain. Raises Refusal NOT_FOUND."""
    _check_everywhere(unit, "api_keys.write")
    row = await unit.one(statements.LOCK_API_KEY, id=key_id)
    if row is None:
        raise not_found("api_key", "id")
    return row


def _check_everywhere(unit: Unit, permission: str) -> None:
    """Refuse a caller whose permission holds at some branches only."""
    if unit.allowed_branches(permission) is not None:
        raise Refusal("PERMISSION_DENIED", permission=permission)


def _check_branch_facts(
    request: pb.CreateBranchRequest | pb.UpdateBranchRequest,
    hours: Iterable[pb.OpeningInterval],
    hours_path: str,
    days: Sequence[str],
    days_path: str,
    swapped_errors: Sequence[FieldError],
) -> None:
    """Refuse INVALID_REQUEST with all that is wrong with zone, hours, holidays and make-up days."""
    errors = domain.zone_errors(request.time_zone) if request.HasField("time_zone") else []
    errors += domain.hours_errors([(part.weekday, part.start_time, part.end_time) for part in hours], hours_path)
    errors += domain.holiday_errors(days, days_path)
    errors += swapped_errors
    if errors:
        raise invalid(*errors)


def _hours_for_row(hours: Iterable[pb.OpeningInterval]) -> list[dict[str, Any]]:
    """Opening hours as they are stored, in the order of the week."""
    in_order = sorted(hours, key=lambda part: (part.weekday, part.start_time))
    return [{"weekday": part.weekday, "start_time": part.start_time, "end_time": part.end_time} for part in in_order]


def _swapped_errors(swapped: Iterable[pb.SwappedDay], path: str, holidays: Iterable[str]) -> list[FieldError]:
    return domain.swapped_errors([day.day for day in swapped], holidays, path)


def _swapped_for_row(swapped: Iterable[pb.SwappedDay]) -> list[dict[str, Any]]:
    """Days that follow another weekday as they are stored, in order."""
    return [{"day": day.day, "follows": day.follows} for day in sorted(swapped, key=lambda day: day.day)]


def _changes(request: Any, row: asyncpg.Record, *names: str, removable: Sequence[str] = ()) -> dict[str, Any]:
    """Parameters of a change: what the request sends, else what is there; empty takes a removable field away."""
    values = {name: getattr(request, name) if request.HasField(name) else row[name] for name in names}
    return {f"new_{name}": None if name in removable and not value else value for name, value in values.items()}


def _exists(kind: str, field: str) -> Refusal:
    error = FieldError(field, "exists", "is already in use", "已被使用")
    return Refusal("ALREADY_EXISTS", kind=kind, field=field, errors=[error])


def _checked_id(value: Any) -> str:
    """An id out of a page token. Raises Refusal INVALID_REQUEST when it is none."""
    if not isinstance(value, str) or not UUID_PATTERN.fullmatch(value):
        raise wrong_token()
    return value


async def _page_by_name(
    unit: Unit, statement: Prepared, request: Any, permission: str
) -> tuple[Sequence[asyncpg.Record], str | None]:
    """A page of a list by name and id, of what the caller's permission holds for, and the token of the next one."""
    limit = page_limit(request.page_size)
    name, last_id = cursor_decode(request.page_token, 2) or statements.FIRST
    if not isinstance(name, str):
        raise wrong_token()
    rows = await unit.all(
        statement,
        branch_ids=unit.allowed_branches(permission),
        after_name=name,
        after_id=_checked_id(last_id),
        limit=limit + 1,
    )
    return split_page(rows, limit, lambda row: [row["name"], row["id"]])


SERVICE = Service(
    name="access",
    servicers=[(pb.DESCRIPTOR.services_by_name["Access"], Access)],
    subscriptions=on,
    fetchers={"staff": fetch_staff},
    jobs=[Job("forget-failed-sign-ins", forget_failures, every_seconds=FORGET_FAILURES_SECONDS)],
)
