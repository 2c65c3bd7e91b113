"""How much each caller may ask: a fixed window of a second for each credential, and for each address without one."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from chassis.errors import Refusal
from gateway.exchange import Headers


class Rates:
    """Counts requests in this process; each gateway counts for itself."""

    def __init__(self, per_credential: int, per_address: int) -> None:
        """Most requests a second of one credential, and of one address whose caller is not known (yet)."""
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._credential = RateLimitItemPerSecond(per_credential)
        self._address = RateLimitItemPerSecond(per_address)

    def take(self, key: str, *, known: bool) -> Headers:
        """Count a request; answers the RateLimit headers. Raises Refusal RATE_LIMITED when there were too many.

        `key` is a credential's id when the caller is `known`, otherwise the address.
        """
        item = self._credential if known else self._address
        allowed = self._limiter.hit(item, key)
        ends_at, left = self._limiter.get_window_stats(item, key)
        reset_seconds = max(1, math.ceil(ends_at - time.time()))
        if not allowed:
            raise Refusal("RATE_LIMITED", retry_after_seconds=reset_seconds)
        return [
            (b"ratelimit-limit", b"%d" % item.amount),
            (b"ratelimit-remaining", b"%d" % left),
            (b"ratelimit-reset", b"%d" % reset_seconds),
        ]
