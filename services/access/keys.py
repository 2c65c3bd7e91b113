"""API keys: `foyer_<public part>_<secret>`. The public part finds the key, the secret is kept as its SHA-256 only.

A secret has 256 bits of chance, so a plain hash protects it as well as a slow one would.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
PREFIX_LENGTH = 12
SECRET_BYTES = 32
FORM = re.compile(rf"foyer_([0-9a-z]{{{PREFIX_LENGTH}}})_([A-Za-z0-9_-]{{43}})")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: told once, stored as prefix and hash."""

    prefix: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What the caller gets."""
        return f"foyer_{self.prefix}_{self.secret}"

    @property
    def hash(self) -> bytes:
        """What is stored."""
        return hash_of(self.secret)


def make() -> NewKey:
    """A new key, from the system's randomness."""
    prefix = "".join(secrets.choice(ALPHABET) for _ in range(PREFIX_LENGTH))
    return NewKey(prefix, secrets.token_urlsafe(SECRET_BYTES))


def parse(text: str) -> NewKey | None:
    """The parts of a key as it was sent, None when it does not have the form of one."""
    found = FORM.fullmatch(text)
    return NewKey(found[1], found[2]) if found else None


def hash_of(secret: str) -> bytes:
    """SHA-256 of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def matches(key: NewKey, stored: bytes) -> bool:
    """Whether a key has this hash, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(key.hash, stored)
