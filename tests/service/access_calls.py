"""Calls to access that its tests share."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from foyer.access.v1 import access_pb2 as pb

from chassis.access import AccessTokens, Caller
from chassis.errors import Refusal
from chassis.testing import Platform
from chassis.unit import system_caller

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
