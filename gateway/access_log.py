"""A line for each request, in the shape of chassis.logs, at a tenth of its cost.

What is told is no secret: no path with its ids, no query, no body. So nothing has to be looked for and blacked out, and
the lines of a moment are written together.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from chassis import logs

WRITE_AFTER_SECONDS = 0.1
MOST_WAITING = 1000

log = logs.logger(__name__)


class AccessLog:
    """Tells what was asked and how it went. In text format, for people at a terminal, chassis.logs writes the lines."""

    def __init__(self, service: str, level: str, format: str, output: TextIO | None = None) -> None:  # noqa: A002
        """`level` and `format` are those of the process; `output` is standard error when not given."""
        self._service = service
        self._silent = level not in ("debug", "info")
        self._as_text = format == "text"
        self._output = output
        self._waiting: list[bytes] = []

    def tell(self, trace_id: str, method: str, route: str, status: int, seconds: float, credential: str) -> None:
        """A request was answered. `credential` stands for who asked, and does not tell who it is."""
        if self._silent:
            return
        milliseconds = round(seconds * 1000, 2)
        event: dict[str, Any] = {"method": method, "route": route, "status": status, "milliseconds": milliseconds}
        if credential:
            event["caller"] = credential
        if self._as_text:
            log.info("request", **event)
            return
        time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = {
            "event": "request",
            **event,
            "level": "info",
            "time": time,
            "service": self._service,
            "trace_id": trace_id,
        }
        if not self._waiting:
            asyncio.get_running_loop().call_later(WRITE_AFTER_SECONDS, self.write)
        self._waiting.append(orjson.dumps(line))
        if len(self._waiting) >= MOST_WAITING:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        lines, self._waiting = self._waiting, []
        if lines:
            output = self._output or sys.stderr
            output.write(b"\n".join(lines).decode() + "\n")
            output.flush()
