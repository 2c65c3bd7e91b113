"""Who asks: an access token or an API key becomes a caller, and the caller a short-lived token for the services.

Access tokens are checked here, by their signature. API keys are asked for at the access service, whose answer is kept
for ten seconds: so long a revoked key may still work. A caller token holds for a minute and is used for half of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from foyer.access.v1 import access_pb2

from chassis.access import CALLER_TOKEN_SECONDS, EVERYWHERE, AccessTokens, Caller, CallerTokens
from chassis.errors import Refusal

API_KEY_PREFIX = "foyer_"
API_KEY_KEPT_SECONDS = 10.0
CALLER_TOKEN_USED_SECONDS = CALLER_TOKEN_SECONDS / 2
MOST_CREDENTIALS = 10_000
LONGEST_CREDENTIAL = 8192

LookUp = Callable[[str], Awaitable[access_pb2.AuthenticatedCaller]]


@dataclass(slots=True)
class Credential:
    """A caller who has shown who they are."""

    id: str
    """Stands for the credential where it is counted or logged; the credential cannot be learnt from it."""
    caller: Caller
    holds_until: float
    """Unix seconds until which it need not be checked again."""
    caller_token: str = ""
    caller_token_until: float = 0.0


class Authenticator:
    """Knows the credentials that were shown lately."""

    def __init__(self, access_tokens: AccessTokens, caller_tokens: CallerTokens, look_up: LookUp) -> None:
        """`look_up` asks the access service for the caller an API key stands for."""
        self._access_tokens = access_tokens
        self._caller_tokens = caller_tokens
        self._look_up = look_up
        self._known: OrderedDict[str, Credential] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[Credential]] = {}

    def known(self, secret: str) -> Credential | None:
        """The credential, when it was checked lately and still holds."""
        found = self._known.get(secret)
        if found is None or found.holds_until <= time.time():
            return None
        self._known.move_to_end(secret)
        return found

    async def check(self, secret: str) -> Credential:
        """Check a credential. Raises Refusal UNAUTHENTICATED, or UNAVAILABLE when nobody can tell at the moment."""
        if secret.startswith(API_KEY_PREFIX):
            return await self._api_key(secret)
        caller, expires_at = self._access_tokens.verify(secret)
        return self._keep(secret, caller, expires_at)

    def caller_token(self, credential: Credential) -> str:
        """The token by which services know the caller."""
        now = time.time()
        if credential.caller_token_until <= now:
            credential.caller_token = self._caller_tokens.mint(credential.caller)
            credential.caller_token_until = now + CALLER_TOKEN_USED_SECONDS
        return credential.caller_token

    async def _api_key(self, secret: str) -> Credential:
        """Ask once for all who show the same key at the same time."""
        task = self._under_way.get(secret)
        if task is None:
            task = self._under_way[secret] = asyncio.create_task(self._ask(secret))
            task.add_done_callback(lambda done: self._asked(secret, done))
        return await asyncio.shield(task)

    def _asked(self, secret: str, task: asyncio.Task[Credential]) -> None:
        self._under_way.pop(secret, None)
        if not task.cancelled():
            task.exception()  # looked at, also when all who waited have hung up

    async def _ask(self, secret: str) -> Credential:
        answer = await self._look_up(secret)
        caller = Caller(
            id=answer.id,
            kind="api_key",
            name=answer.name,
            chain_id=answer.chain.id,
            time_zone=answer.chain.time_zone,
            currency=answer.chain.currency,
            language=answer.chain.language,
            roles=tuple(answer.roles),
            grants={
                permission: EVERYWHERE if scope.all else list(scope.branch_ids)
                for permission, scope in answer.permissions.items()
            },
        )
        return self._keep(secret, caller, time.time() + API_KEY_KEPT_SECONDS)

    def _keep(self, secret: str, caller: Caller, holds_until: float) -> Credential:
        before = self._known.get(secret)
        credential = Credential(hashlib.sha256(secret.encode()).hexdigest()[:16], caller, holds_until)
        if before is not None and before.caller == caller:
            credential.caller_token, credential.caller_token_until = before.caller_token, before.caller_token_until
        self._known[secret] = credential
        self._known.move_to_end(secret)
        while len(self._known) > MOST_CREDENTIALS:
            self._known.popitem(last=False)
        return credential


def bearer(header: str | None) -> str | None:
    """The secret of an Authorization header; None when there is no such header. Raises Refusal UNAUTHENTICATED."""
    if header is None:
        return None
    scheme, _, secret = header.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret or len(secret) > LONGEST_CREDENTIAL or not secret.isascii():
        raise Refusal("UNAUTHENTICATED")
    return secret
