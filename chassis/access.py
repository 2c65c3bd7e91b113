"""Who calls, and what they may do: tokens between gateway and services, and the scope of every statement.

Two kinds of token, both HS256 with keys derived from the platform's secret (docs/decisions/0004-tokens.md): the access
token a person signs in for (issued by access, checked by the gateway without a call), and the caller token that the
gateway or a service puts on each call to a service. Neither key can make the other kind.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from chassis.errors import Refusal

CALLER_METADATA = "foyer-caller"
CALLER_TOKEN_SECONDS = 60
ACCESS_TOKEN_SECONDS = 900
LEEWAY_SECONDS = 5
MOST_CACHED_TOKENS = 4096

EVERYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `grants` maps a permission to "*" or to the branches it holds for."""

    id: str
    kind: str  # account, api_key, service, or link: a customer who is not signed in
    name: str
    chain_id: str  # empty: a system call that belongs to no chain
    time_zone: str = "UTC"
    currency: str = "CNY"
    language: str = "zh"
    roles: tuple[str, ...] = ()
    grants: Mapping[str, str | list[str]] = field(default_factory=dict)
    staff_id: str = ""  # the person who works that the account belongs to; empty: none

    @property
    def is_service(self) -> bool:
        """A service of the platform calls, on nobody's behalf."""
        return self.kind == "service"

    def may(self, permission: str) -> bool:
        """Whether the caller has the permission somewhere."""
        return self.is_service or permission in self.grants

    def branches(self, permission: str) -> list[str] | None:
        """The branches a permission holds for; None: all."""
        if self.is_service:
            return None
        scope = self.grants.get(permission, [])
        return None if scope == EVERYWHERE else list(scope)


def derive_key(secret: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose, from the platform's secret (RFC 5869 HKDF with SHA-256)."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"foyer/{purpose}".encode()).derive(secret)


def _claims(caller: Caller, audience: str, seconds: int) -> dict[str, Any]:
    now = int(time.time())
    return {
        "aud": audience,
        "iat": now,
        "exp": now + seconds,
        "sub": caller.id,
        "kind": caller.kind,
        "name": caller.name,
        "chain": caller.chain_id,
        "zone": caller.time_zone,
        "currency": caller.currency,
        "lang": caller.language,
        "roles": list(caller.roles),
        "grants": dict(caller.grants),
        "staff": caller.staff_id,
    }


class _Tokens:
    """Signs and checks tokens of one kind. What was checked is remembered, as a signature does not change."""

    audience: str

    def __init__(self, secret: bytes) -> None:
        self._key = OctKey.import_key(derive_key(secret, f"{self.audience}-token"))
        self._decode = functools.lru_cache(MOST_CACHED_TOKENS)(self._decode_once)

    def _mint(self, caller: Caller, seconds: int) -> str:
        return jwt.encode({"alg": "HS256"}, _claims(caller, self.audience, seconds), self._key)

    def _decode_once(self, token: str) -> tuple[Caller, float]:
        try:
            claims = jwt.decode(token, self._key, algorithms=["HS256"]).claims
        except (JoseError, ValueError):
            raise Refusal("UNAUTHENTICATED") from None
        if claims.get("aud") != self.audience:
            raise Refusal("UNAUTHENTICATED")
        caller = Caller(
            claims["sub"],
            claims["kind"],
            claims["name"],
            claims["chain"],
            claims["zone"],
            claims["currency"],
            claims["lang"],
            tuple(claims["roles"]),
            claims["grants"],
            claims.get("staff", ""),
        )
        return caller, float(claims["exp"])

    def _verify(self, token: str, leeway_seconds: int) -> tuple[Caller, float]:
        caller, expires_at = self._decode(token)
        if expires_at + leeway_seconds <= time.time():
            raise Refusal("UNAUTHENTICATED")
        return caller, expires_at


class CallerTokens(_Tokens):
    """Makes and checks the tokens that say who calls a service."""

    audience = "service"

    def mint(self, caller: Caller, seconds: int = CALLER_TOKEN_SECONDS) -> str:
        """A token for a caller that holds for `seconds`."""
        return self._mint(caller, seconds)

    def service(self, name: str, chain_id: str, time_zone: str = "UTC", currency: str = "CNY") -> str:
        """A token by which a service calls another one for a chain (or none: ""), on nobody's behalf."""
        return self._mint(
            Caller(f"service:{name}", "service", name, chain_id, time_zone, currency), CALLER_TOKEN_SECONDS
        )

    def verify(self, token: str) -> Caller:
        """The caller a token stands for. Raises Refusal UNAUTHENTICATED when it is forged or has expired."""
        return self._verify(token, LEEWAY_SECONDS)[0]


class AccessTokens(_Tokens):
    """Makes and checks the tokens people sign in for."""

    audience = "gateway"

    def mint(self, caller: Caller, seconds: int = ACCESS_TOKEN_SECONDS) -> str:
        """A token that lets a person call the gateway for `seconds`."""
        return self._mint(caller, seconds)

    def verify(self, token: str) -> tuple[Caller, float]:
        """The caller a token stands for and when it expires (Unix seconds). Raises Refusal UNAUTHENTICATED."""
        return self._verify(token, 0)
