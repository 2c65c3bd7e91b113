"""A mail server that keeps what it is sent as files: what customers would get, to look at and to test against."""

from __future__ import annotations

import asyncio
import email
import email.policy
import itertools
import time
from collections import deque
from email.message import EmailMessage
from functools import partial
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

NEWEST_KEPT = 1000
BYTES_AT_MOST = 1_000_000


class Mailbox:
    """Takes every message and writes it as `<time>-<number>.eml`; only the newest are kept."""

    def __init__(self, directory: Path, keep: int = NEWEST_KEPT) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        self._files = deque(sorted(directory.glob("*.eml")))
        self._numbers = itertools.count(1)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002, N802
        """Write one message, with the envelope's addresses as its first headers."""
        recipients = ", ".join(envelope.rcpt_tos)
        head = f"X-Envelope-From: {envelope.mail_from}\r\nX-Envelope-To: {recipients}\r\n"
        content = envelope.original_content or b""
        name = f"{time.time_ns() // 1000}-{next(self._numbers):06d}.eml"
        scratch = self.directory / f".{name}"
        scratch.write_bytes(head.encode() + content)
        self._files.append(scratch.rename(self.directory / name))
        while len(self._files) > self._keep:
            self._files.popleft().unlink(missing_ok=True)
        return "250 taken"


async def start(directory: Path, host: str, port: int, keep: int = NEWEST_KEPT) -> asyncio.Server:
    """Listen for mail in this event loop; close the answer to stop. Raises OSError when the port is taken."""
    loop = asyncio.get_running_loop()
    make = partial(SMTP, Mailbox(directory, keep), data_size_limit=BYTES_AT_MOST, enable_SMTPUTF8=True, loop=loop)
    return await loop.create_server(make, host, port)


def read(directory: Path) -> list[EmailMessage]:
    """The messages there are, oldest first."""
    found = []
    for file in sorted(directory.glob("*.eml")):
        message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        found.append(message)
    return found
