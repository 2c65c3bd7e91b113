"""The ways a message takes. Each is a Channel and passes the same suite, tests/contract/test_channels.py.

Channel            what each of them can do
EmailChannel       over SMTP
InAppChannel       shown to the customer in Foyer's own pages
TemporaryFailure   it may work later
PermanentFailure   it never will
"""

from __future__ import annotations

import asyncio
import email.policy
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib

SEND_SECONDS = 10.0
PERMANENT_CODES = range(500, 600)
LONGEST_REASON = 300


class TemporaryFailure(Exception):
    """It did not work now, and may later."""


class PermanentFailure(Exception):
    """It will never work: there is no such address, or it is refused for good."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a calendar program is to do with a message: an iCalendar method, and the calendar it is for."""

    method: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way. `address` is None where the channel needs none."""

    id: str
    address: str | None
    subject: str
    body: str
    language: str
    invitation: Invitation | None = None


class Channel(Protocol):
    """A way to reach a customer."""

    name: str
    """Lower-case name of the contract's Channel."""

    async def send(self, message: Outgoing) -> None:
        """Hand a message over, within SEND_SECONDS.

        The same message handed over twice can be recognised by its id. Raises TemporaryFailure or PermanentFailure.
        """


class InAppChannel:
    """The stored message is what the customer's pages show: once it stands as sent, it is there."""

    name = "in_app"

    async def send(self, message: Outgoing) -> None:
        """Nothing is left to do but to refuse what could not be shown."""
        if not message.body:
            raise PermanentFailure("there is nothing to show")


class EmailChannel:
    """E-mail over SMTP: `smtp://[user:password@]host:port`, `smtps://` for TLS from the start.

    A server on the way is trusted as its certificate says; STARTTLS is used where it is offered.
    """

    name = "email"

    def __init__(self, url: str, sender: str, timeout_seconds: float = SEND_SECONDS) -> None:
        parts = urlsplit(url)
        self._implicit_tls = parts.scheme == "smtps"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (465 if self._implicit_tls else 25)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._timeout_seconds = timeout_seconds
        name, address = parseaddr(sender)
        self._sender = Address(display_name=name, addr_spec=address)

    async def send(self, message: Outgoing) -> None:
        """Hand a message to the mail server."""
        content = self.compose(message)
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            use_tls=self._implicit_tls,
            timeout=self._timeout_seconds,
        )
        taken = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await client.connect()
                await client.send_message(content)
                taken = True
                await client.quit()
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as problem:
            # What goes wrong while saying goodbye does not undo what the server has taken.
            if not taken:
                raise _failure(problem) from problem
        finally:
            client.close()

    def compose(self, message: Outgoing) -> EmailMessage:
        """The message as RFC 5322 has it. Raises PermanentFailure when the address is not one."""
        content = EmailMessage(policy=email.policy.SMTP)
        try:
            content["To"] = Address(addr_spec=message.address or "")
            # The policy refuses line breaks in a header: a subject cannot bring further ones.
            content["Subject"] = message.subject
        except (ValueError, IndexError, MessageError) as problem:
            raise PermanentFailure("the address or subject cannot stand in a message") from problem
        content["From"] = self._sender
        content["Date"] = format_datetime(datetime.now(UTC))
        # Made from our own id: when a message is handed over again, the other side can tell.
        content["Message-ID"] = f"<{message.id}@{self._sender.domain}>"
        content["Auto-Submitted"] = "auto-generated"
        # It replaces all headers that begin with Content-.
        content.set_content(message.body, charset="utf-8")
        if message.invitation is not None:
            _invite(content, message.invitation)
        content["Content-Language"] = message.language
        return content


def _invite(content: EmailMessage, invitation: Invitation) -> None:
    """Put an invitation beside the text: once for programs that act on it (RFC 6047), once as a file for the others."""
    text = invitation.content.decode()
    content.add_alternative(text, subtype="calendar", charset="utf-8", params={"method": invitation.method})
    content.add_attachment(invitation.content, maintype="application", subtype="ics", filename="appointment.ics")


def _failure(problem: Exception) -> TemporaryFailure | PermanentFailure:
    """What an error of the mail client means."""
    if isinstance(problem, aiosmtplib.SMTPRecipientsRefused) and problem.recipients:
        return _failure(problem.recipients[0])
    if isinstance(problem, aiosmtplib.SMTPNotSupported):
        return PermanentFailure(_reason(problem))
    about_us = aiosmtplib.SMTPAuthenticationError | aiosmtplib.SMTPConnectResponseError | aiosmtplib.SMTPHeloError
    if isinstance(problem, aiosmtplib.SMTPResponseException) and not isinstance(problem, about_us):
        # A server that does not take us may be set right; what it says about the message holds.
        kind = PermanentFailure if problem.code in PERMANENT_CODES else TemporaryFailure
        return kind(f"{problem.code} {problem.message}"[:LONGEST_REASON])
    return TemporaryFailure(_reason(problem))


def _reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"[:LONGEST_REASON]


def open_channels(smtp_url: str, sender: str) -> dict[str, Channel]:
    """The channels there are, by name."""
    channels: tuple[Channel, ...] = (EmailChannel(smtp_url, sender), InAppChannel())
    return {channel.name: channel for channel in channels}
