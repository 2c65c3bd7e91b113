"""Decisions of customers: how phones are written, what a search looks for, what a caller may see."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable, Sequence

MOST_WORDS = 8
VISIBLE_DIGITS = 4
HIDDEN = "***"
PHONE_FORMATTING = str.maketrans("", "", " .-()\u00a0\u2011")
ID_BITS = 0x7FFFFFFF


def normalise_phone(phone: str) -> str:
    """A phone without blanks, dots, dashes and brackets."""
    return phone.translate(PHONE_FORMATTING)


def normalise_phones(phones: Iterable[str], main: str | None) -> list[str]:
    """Further phones as they are stored: each once, in their order, without the main one."""
    return [phone for phone in dict.fromkeys(normalise_phone(phone) for phone in phones) if phone != main]


# --- search -----------------------------------------------------------------------------------------------------------


def folded(text: str) -> str:
    """A text as it is searched: full-width as ordinary characters, small letters, single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def search_text(name: str, phones: Iterable[str]) -> str:
    """What a customer is found by: the name on the first line, then the phones."""
    return "\n".join([folded(name), *phones])


def words_of_query(query: str) -> list[str]:
    """The parts that must all be found; a phone may be written with blanks and dashes. None for an empty query."""
    text = folded(query)
    phone = normalise_phone(text)
    if phone.lstrip("+").isdecimal():
        return [phone]
    return list(dict.fromkeys(text.split()))[:MOST_WORDS]


def grams(chain_id: str, texts: Iterable[str]) -> list[int]:
    """Every single character and every pair of neighbours of the texts, as numbers that differ from chain to chain.

    Pairs suit Chinese, where a name has two or three characters. Two grams may share a number: who searches by them
    looks at the text once more.
    """
    seed = zlib.crc32(chain_id.encode())
    found: set[str] = set()
    for text in texts:
        for word in text.split():
            found.update(word)
            found.update(word[i : i + 2] for i in range(len(word) - 1))
    return sorted(zlib.crc32(gram.encode(), seed) & ID_BITS for gram in found)


def grams_of_words(chain_id: str, words: Iterable[str]) -> list[int]:
    """The grams a customer must have to match all words: the pairs, or the character where a word has but one."""
    seed = zlib.crc32(chain_id.encode())
    needed = {pair for word in words for pair in ([word[i : i + 2] for i in range(len(word) - 1)] or [word])}
    return sorted(zlib.crc32(gram.encode(), seed) & ID_BITS for gram in needed)


# --- what a caller may see --------------------------------------------------------------------------------------------


def masked_phone(phone: str) -> str:
    """A phone of which only the last digits are left; nothing of one that is hardly longer."""
    return HIDDEN + phone[-VISIBLE_DIGITS:] if len(phone) > VISIBLE_DIGITS + 2 else HIDDEN


def masked_email(email: str) -> str:
    """An e-mail of which the first letter and the domain are left."""
    name, _, domain = email.rpartition("@")
    return f"{name[:1]}{HIDDEN}@{domain}"


def holds_at(branches: Sequence[str] | None, home_branch_id: str | None) -> bool:
    """Whether a permission that holds at `branches` (None: all, empty: nowhere) reaches a customer.

    One without a home branch belongs to all.
    """
    if branches is None:
        return True
    return bool(branches) and (home_branch_id is None or home_branch_id in branches)
