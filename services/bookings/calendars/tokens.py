"""Secret addresses of calendar feeds: signed, so that nobody finds one by trying.

A token names the chain, the feed and the number of its address, and is signed with a key of its own. What is forged is
known without asking the database, and which chain to ask is known without looking across chains.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from uuid import UUID

from chassis.access import derive_key

PURPOSE = "calendar-feed"
ID_BYTES = 16
NUMBER_BYTES = 4
SIGNATURE_BYTES = 18
NAMED_BYTES = 2 * ID_BYTES + NUMBER_BYTES
TOKEN_LENGTH = (NAMED_BYTES + SIGNATURE_BYTES) // 3 * 4
"""Characters: the bytes are a multiple of three, so a token has one form only."""


@dataclass(frozen=True, slots=True)
class FeedAddress:
    """What a token names. `number` grows each time a feed gets a new address."""

    chain_id: str
    feed_id: str
    number: int


class FeedTokens:
    """Makes and reads tokens."""

    def __init__(self, secret: bytes) -> None:
        """`secret` is the platform's."""
        self._key = derive_key(secret, PURPOSE)

    def make(self, address: FeedAddress) -> str:
        """The token of an address: letters, digits, - and _."""
        named = (
            UUID(address.chain_id).bytes + UUID(address.feed_id).bytes + address.number.to_bytes(NUMBER_BYTES, "big")
        )
        return base64.urlsafe_b64encode(named + self._sign(named)).decode()

    def read(self, token: str) -> FeedAddress | None:
        """The address a token names; None for one that we did not sign."""
        if len(token) != TOKEN_LENGTH or not token.isascii():
            return None
        try:
            content = base64.b64decode(token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        named, signature = content[:NAMED_BYTES], content[NAMED_BYTES:]
        if not hmac.compare_digest(signature, self._sign(named)):
            return None
        chain_id, feed_id = (str(UUID(bytes=named[start : start + ID_BYTES])) for start in (0, ID_BYTES))
        return FeedAddress(chain_id, feed_id, int.from_bytes(named[2 * ID_BYTES :], "big"))

    def _sign(self, named: bytes) -> bytes:
        return hmac.digest(self._key, named, hashlib.sha256)[:SIGNATURE_BYTES]
