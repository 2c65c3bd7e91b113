"""Every channel passes one suite; e-mail against a real mail server besides."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.message import EmailMessage
from functools import partial
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from foyer.notify.v1 import notify_pb2 as pb

from chassis.codec import enum_numbers
from chassis.ids import new_id
from services.notify.channels import (
    Channel,
    EmailChannel,
    InAppChannel,
    Outgoing,
    PermanentFailure,
    TemporaryFailure,
    open_channels,
)

SENDER = "晨曦 Foyer <no-reply@foyer.example>"
SHORT_SECONDS = 0.5


class Server:
    """A mail server: keeps what it takes, and answers as its addresses say."""

    def __init__(self) -> None:
        self.taken: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.asleep = False

    async def handle_RCPT(  # noqa: N802
        self,
        _server: SMTP,
        _session: Session,
        envelope: Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        answers = {"gone": "550 5.1.1 no such user", "later": "451 4.7.1 come back later"}
        if self.asleep:
            await asyncio.sleep(30)
        answer = answers.get(address.partition("@")[0])
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 fine"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if b"X-refuse" in (envelope.original_content or b""):
            return "554 not this one"
        message = email.message_from_bytes(envelope.original_content or b"", policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.taken.append(message)
        self.recipients += envelope.rcpt_tos
        return "250 taken"


@asynccontextmanager
async def serving(handler: object, **options: Any) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    make = partial(SMTP, handler, enable_SMTPUTF8=True, loop=loop, **options)
    server = await loop.create_server(make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await server.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, EmailChannel]]:
    handler = Server()
    async with serving(handler) as port:
        yield handler, EmailChannel(f"smtp://127.0.0.1:{port}", SENDER)


@pytest.fixture(params=["email", "in_app"])
async def channel(request: pytest.FixtureRequest) -> AsyncIterator[Channel]:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(Server()))
        yield open_channels(f"smtp://127.0.0.1:{port}", SENDER)[request.param]


def outgoing(**changes: str | None) -> Outgoing:
    fields = {"id": new_id(), "address": "a@example.com", "subject": "Subject", "body": "Text", "language": "en"}
    return Outgoing(**{**fields, **changes})  # type: ignore[arg-type]


# --- the suite of all channels ---


def test_each_channel_of_the_contract_is_there() -> None:
    channels = open_channels("smtp://127.0.0.1:25", SENDER)
    assert set(channels) == set(enum_numbers(pb.Channel.DESCRIPTOR))
    assert all(channel.name == name for name, channel in channels.items())


async def test_a_message_is_handed_over(channel: Channel) -> None:
    await channel.send(outgoing())


async def test_a_message_may_be_handed_over_again(channel: Channel) -> None:
    message = outgoing()
    await channel.send(message)
    await channel.send(message)


async def test_several_at_once(channel: Channel) -> None:
    await asyncio.gather(*(channel.send(outgoing()) for _ in range(16)))


async def test_any_language(channel: Channel) -> None:
    await channel.send(outgoing(subject="预约成功 🎉", body="您好\n\n您的预约已确认。", language="zh"))


async def test_long_lines_and_dots(channel: Channel) -> None:
    await channel.send(outgoing(body="." + "x" * 5000 + "\n.\n..\nlast"))


@pytest.mark.parametrize("make", [lambda: EmailChannel("smtp://127.0.0.1:9", SENDER), InAppChannel])
async def test_what_cannot_be_sent_is_told(make: Callable[[], Channel]) -> None:
    with pytest.raises((TemporaryFailure, PermanentFailure)):
        await make().send(outgoing(body=""))


# --- e-mail ---


async def test_what_arrives(server: tuple[Server, EmailChannel]) -> None:
    handler, channel = server
    message = outgoing(subject="预约成功：3月1日", body="您好，\n.第一行\n\nEnd", language="zh")
    await channel.send(message)
    [arrived] = handler.taken
    assert handler.recipients == ["a@example.com"]
    assert arrived["Subject"] == message.subject
    assert arrived["To"] == "a@example.com"
    assert arrived["From"].addresses[0].display_name == "晨曦 Foyer"
    assert arrived["Message-ID"] == f"<{message.id}@foyer.example>"
    assert arrived["Auto-Submitted"] == "auto-generated"
    assert arrived["Content-Language"] == "zh"
    assert arrived["Date"]
    assert arrived.get_content_charset() == "utf-8"
    assert arrived.get_content().rstrip("\r\n").replace("\r\n", "\n") == message.body


async def test_the_same_message_twice_can_be_recognised(server: tuple[Server, EmailChannel]) -> None:
    handler, channel = server
    message = outgoing()
    await channel.send(message)
    await channel.send(message)
    assert len({arrived["Message-ID"] for arrived in handler.taken}) == 1


@pytest.mark.parametrize("subject", ["Hi\r\nBcc: everybody@example.com", "Hi\nX-Header: 1"])
async def test_a_subject_brings_no_header(server: tuple[Server, EmailChannel], subject: str) -> None:
    handler, channel = server
    with pytest.raises(PermanentFailure):
        await channel.send(outgoing(subject=subject))
    assert handler.taken == []


@pytest.mark.parametrize(
    "address",
    ["nonsense", "", "a@example.com, b@example.com", "a@example.com\r\nBcc: b@example.com", "a b@example.com"],
)
async def test_what_is_no_address(server: tuple[Server, EmailChannel], address: str) -> None:
    handler, channel = server
    with pytest.raises(PermanentFailure):
        await channel.send(outgoing(address=address))
    assert handler.taken == []


async def test_refused_for_good_and_refused_for_now(server: tuple[Server, EmailChannel]) -> None:
    _, channel = server
    with pytest.raises(PermanentFailure, match="550"):
        await channel.send(outgoing(address="gone@example.com"))
    with pytest.raises(TemporaryFailure, match="451"):
        await channel.send(outgoing(address="later@example.com"))
    with pytest.raises(PermanentFailure, match="554"):
        await channel.send(outgoing(body="X-refuse"))


async def test_nobody_answers() -> None:
    with pytest.raises(TemporaryFailure):
        await EmailChannel("smtp://127.0.0.1:9", SENDER).send(outgoing())


async def test_a_server_that_hangs_is_left() -> None:
    handler = Server()
    handler.asleep = True
    async with serving(handler) as port:
        channel = EmailChannel(f"smtp://127.0.0.1:{port}", SENDER, SHORT_SECONDS)
        started = asyncio.get_running_loop().time()
        with pytest.raises(TemporaryFailure):
            await channel.send(outgoing())
        assert asyncio.get_running_loop().time() - started < SHORT_SECONDS + 1


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_user_and_password() -> None:
    def check(_server: object, _session: object, _envelope: object, _mechanism: str, data: LoginPassword) -> AuthResult:
        return AuthResult(success=data.login == b"foyer" and data.password == b"p@ss word")

    handler = Server()
    options: dict[str, Any] = {"authenticator": check, "auth_required": True, "auth_require_tls": False}
    async with serving(handler, **options) as port:
        await EmailChannel(f"smtp://foyer:p%40ss%20word@127.0.0.1:{port}", SENDER).send(outgoing())
        # What is wrong with our own account may be put right: the message is not lost for it.
        with pytest.raises(TemporaryFailure):
            await EmailChannel(f"smtp://foyer:wrong@127.0.0.1:{port}", SENDER, SHORT_SECONDS).send(outgoing())
    assert len(handler.taken) == 1
