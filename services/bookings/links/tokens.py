"""Tokens of links: they name a chain and a link of it, and are signed, so that nobody finds one by trying.

A forged one is told by its signature, before any database is asked; a withdrawn or expired one by its row.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from uuid import UUID

from chassis.access import derive_key

PURPOSE = "booking-link"
ID_BYTES = 16
NAMED_BYTES = 2 * ID_BYTES
SIGNATURE_BYTES = 16
TOKEN_LENGTH = (NAMED_BYTES + SIGNATURE_BYTES) // 3 * 4
"""Characters: the bytes are a multiple of three, so a token has one form only."""


class LinkTokens:
    """Makes and reads tokens."""

    def __init__(self, secret: bytes) -> None:
        """`secret` is the platform's."""
        self._key = derive_key(secret, PURPOSE)

    def make(self, chain_id: str, link_id: str) -> str:
        """The token of a link: letters, digits, - and _."""
        named = UUID(chain_id).bytes + UUID(link_id).bytes
        return base64.urlsafe_b64encode(named + self._sign(named)).decode()

    def read(self, token: str) -> tuple[str, str] | None:
        """Chain and link that a token names; None for one that was not signed here."""
        if len(token) != TOKEN_LENGTH or not token.isascii():
            return None
        try:
            content = base64.b64decode(token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        named, signature = content[:NAMED_BYTES], content[NAMED_BYTES:]
        if not hmac.compare_digest(signature, self._sign(named)):
            return None
        return str(UUID(bytes=named[:ID_BYTES])), str(UUID(bytes=named[ID_BYTES:]))

    def _sign(self, named: bytes) -> bytes:
        return hmac.digest(self._key, named, hashlib.sha256)[:SIGNATURE_BYTES]
