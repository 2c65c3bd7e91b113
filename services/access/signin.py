"""Signing in: e-mail and password to a token, API key to a caller. Both begin without a chain and find it."""

from __future__ import annotations

import hashlib
from datetime import datetime

from foyer.access.v1 import access_pb2 as pb

from chassis import metrics
from chassis.access import ACCESS_TOKEN_SECONDS, EVERYWHERE, Caller
from chassis.app import Context
from chassis.db import Prepared
from chassis.errors import Refusal
from chassis.unit import system_caller
from services.access import domain, holders, keys, statements
from services.access.passwords import Passwords

FORGET_FAILURES_SECONDS = 60.0

SIGN_INS = metrics.counter("foyer_sign_ins_total", "Sign-ins with a password, by how they ended.", ["outcome"])


class SignIn:
    """Who is it? The system role leads to the chain (by an e-mail or a key), the rest is read within it."""

    def __init__(self, context: Context, passwords: Passwords) -> None:
        self._context = context
        self._passwords = passwords
        self._system = system_caller(context.name, "")

    async def token(self, email: str, password: str) -> pb.Token:
        """A token for the account. Raises Refusal WRONG_CREDENTIALS, TOO_MANY_ATTEMPTS or UNAVAILABLE."""
        try:
            caller = await self._sign_in(email, password)
        except Refusal as refusal:
            SIGN_INS.labels(refusal.code.lower()).inc()
            raise
        SIGN_INS.labels("signed_in").inc()
        token = self._context.access_tokens.mint(caller)
        return pb.Token(access_token=token, token_type="Bearer", expires_in=ACCESS_TOKEN_SECONDS)  # noqa: S106

    async def _sign_in(self, email: str, password: str) -> Caller:
        """The caller that e-mail and password stand for.

        An e-mail without account goes the same way as one with, so that the time taken does not tell them apart. All
        of it happens within a turn: attempts that come at once cannot overtake the count of those that failed.
        """
        key = domain.email_key(email)
        email_hash = hashlib.sha256(key.encode()).digest()
        async with self._passwords.turn():
            async with self._context.system_store.unit(self._system) as unit:
                failed_at: list[datetime] = await unit.value(statements.FAILURES, email_hash=email_hash) or []
                domain.check_attempts(failed_at, unit.now)
                found = await unit.one(statements.FIND_ACCOUNT, email_key=key)
            chain_id = found["chain_id"] if found else statements.NOBODYS_CHAIN
            caller, password_hash = await self._account(chain_id, found["id"] if found else statements.NOBODYS_CHAIN)
            if not await self._passwords.verify(password_hash, password) or caller is None or password_hash is None:
                await self._change(statements.KEEP_FAILURE, email_hash, nobody=statements.NOBODYS_CHAIN)
                raise Refusal("WRONG_CREDENTIALS")
            if failed_at:
                await self._change(statements.FORGET_FAILURES, email_hash)
            await self._renew(caller, password_hash, password)
            return caller

    async def _change(self, statement: Prepared, email_hash: bytes, **more: str) -> None:
        """Change what is known of failed sign-ins with an e-mail."""
        async with self._context.system_store.unit(self._system) as unit:
            await unit.run(statement, email_hash=email_hash, now=unit.now, **more)

    async def _account(self, chain_id: str, account_id: str) -> tuple[Caller | None, str | None]:
        """The caller and the password's hash of an account; None and None where there is none or it is closed."""
        async with self._context.store.unit(system_caller(self._context.name, chain_id), read_only=True) as unit:
            row = await unit.one(statements.SIGN_IN_ACCOUNT, id=account_id)
            chain = await unit.one(statements.GET_CHAIN)
            own = await holders.own_roles(unit)
        if row is None or chain is None or not row["active"]:
            return None, None
        return holders.caller_of(row, "account", chain, own), row["password_hash"]

    async def _renew(self, caller: Caller, old_hash: str, password: str) -> None:
        """Hash the password anew where it was hashed with other parameters than today's."""
        new_hash = await self._passwords.renew(old_hash, password)
        if new_hash is not None:
            async with self._context.store.unit(caller) as unit:
                await unit.run(statements.RENEW_PASSWORD_HASH, id=caller.id, old_hash=old_hash, new_hash=new_hash)

    async def authenticate(self, text: str) -> pb.AuthenticatedCaller:
        """The caller an API key stands for. Raises Refusal UNAUTHENTICATED when it is wrong, revoked or expired."""
        key = keys.parse(text)
        if key is None:
            raise Refusal("UNAUTHENTICATED")
        async with self._context.system_store.unit(self._system, read_only=True) as unit:
            secret = await unit.one(statements.FIND_SECRET, prefix=key.prefix)
        if secret is None or not keys.matches(key, secret["hash"]) or _is_past(secret["expires_at"], unit.now):
            raise Refusal("UNAUTHENTICATED")
        own_caller = system_caller(self._context.name, secret["chain_id"])
        async with self._context.store.unit(own_caller, read_only=True) as unit:
            row = await unit.one(statements.GET_API_KEY, id=secret["api_key_id"])
            chain = await unit.one(statements.GET_CHAIN)
            own = await holders.own_roles(unit)
        if row is None or chain is None or row["revoked_at"] or _is_past(row["expires_at"], unit.now):
            raise Refusal("UNAUTHENTICATED")
        caller = holders.caller_of(row, "api_key", chain, own)
        return pb.AuthenticatedCaller(
            id=caller.id,
            name=caller.name,
            chain=holders.to_chain(chain),
            roles=caller.roles,
            permissions={permission: _scope(branches) for permission, branches in caller.grants.items()},
        )


def _is_past(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment <= now


def _scope(branches: str | list[str]) -> pb.BranchScope:
    return pb.BranchScope(all=True) if branches == EVERYWHERE else pb.BranchScope(branch_ids=branches)


async def forget_failures(context: Context) -> None:
    """Job: delete failed sign-ins that no longer count."""
    async with context.system_store.unit(system_caller(context.name, "")) as unit:
        await unit.run(
            statements.FORGET_OLD_FAILURES,
            nobody=statements.NOBODYS_CHAIN,
            before=unit.now - domain.FAILED_SIGN_INS_WINDOW,
        )
