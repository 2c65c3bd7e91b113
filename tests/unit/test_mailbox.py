"""The mail catcher, over real SMTP."""

from __future__ import annotations

from email.message import EmailMessage
from pathlib import Path

import aiosmtplib

from tools import mailbox
from tools.servers import free_ports


async def test_messages_are_kept_as_files_and_only_the_newest(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = await mailbox.start(tmp_path, "127.0.0.1", port, keep=3)
    try:
        for number in range(5):
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = "a@foyer.example", "b@foyer.example", f"预约 {number}"
            message.set_content("您好")
            await aiosmtplib.send(message, hostname="127.0.0.1", port=port, recipients=["c@foyer.example"])
    finally:
        server.close()
        await server.wait_closed()
    found = mailbox.read(tmp_path)
    assert [message["Subject"] for message in found] == ["预约 2", "预约 3", "预约 4"]
    assert found[0]["X-Envelope-To"] == "c@foyer.example"
    assert found[0].get_content().strip() == "您好"
