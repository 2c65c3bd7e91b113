"""Uvicorn's HTTP protocol with a bound on what comes before a request is understood: its size and its time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD_BYTES = 256 * 1024
HEAD_TIMEOUT_SECONDS = 20.0


class BoundedProtocol(HttpToolsProtocol):
    """Hangs up on who sends a request's head without end, or too slowly, or nothing at all."""

    _head_bytes = 0
    _reading_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Somebody connected, and is given some time to ask."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """They are gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that is not complete yet is measured."""
        super().data_received(data)
        if self._reading_head:
            self._head_bytes += len(data)
            if self._head_bytes > LARGEST_HEAD_BYTES:
                self._hang_up()
            elif self._head_timer is None and self._head_bytes:
                self._head_timer = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self._hang_up)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._reading_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        self._reading_head = False
        self._stop_timer()
        super().on_headers_complete()

    def _stop_timer(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()

    def _hang_up(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
