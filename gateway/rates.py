"""How much each caller may ask: a fixed window of a second for each credential, and for each address without one.

Counted by hand: the `limits` library starts a thread every ten milliseconds to forget old windows, which cost more than
all else the gateway does for a read.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from chassis.errors import Refusal
from gateway.exchange import Headers

WINDOW_SECONDS = 1
MOST_COUNTED = 100_000


class Rates:
    """Counts requests in this process; each gateway counts for itself."""

    def __init__(
        self,
        per_credential: int,
        per_address: int,
        *,
        now: Callable[[], float] = time.monotonic,
        most: int = MOST_COUNTED,
    ) -> None:
        """Most requests a second of one credential, and of one address whose caller is not known (yet).

        `most` bounds how many callers are told apart in one window; those beyond it share one count.
        """
        self._per_credential = per_credential
        self._per_address = per_address
        self._now = now
        self._most = most
        self._window = 0
        self._counts: dict[str, int] = {}

    def take(self, key: str, *, known: bool) -> Headers:
        """Count a request; answers the RateLimit headers. Raises Refusal RATE_LIMITED when there were too many.

        `key` is a credential's id when the caller is `known`, otherwise the address.
        """
        limit = self._per_credential if known else self._per_address
        window = int(self._now() / WINDOW_SECONDS)
        if window != self._window:
            self._window = window
            self._counts.clear()
        if key not in self._counts and len(self._counts) >= self._most:
            key = ""
        count = self._counts.get(key, 0) + 1
        if count > limit:
            raise Refusal("RATE_LIMITED", retry_after_seconds=WINDOW_SECONDS)
        self._counts[key] = count
        return [
            (b"ratelimit-limit", b"%d" % limit),
            (b"ratelimit-remaining", b"%d" % (limit - count)),
            (b"ratelimit-reset", b"%d" % WINDOW_SECONDS),
        ]
