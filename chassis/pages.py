"""Pages of a list: keyset cursors that stay right while rows come and go."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson

from chassis.errors import FieldError, invalid

DEFAULT_PAGE_SIZE = 50
MOST_PAGE_SIZE = 200

R = TypeVar("R")


def page_limit(page_size: int) -> int:
    """Entries in a page: what was asked for within 1 to 200, else 50."""
    return min(page_size, MOST_PAGE_SIZE) if page_size > 0 else DEFAULT_PAGE_SIZE


def cursor_encode(values: Sequence[Any]) -> str:
    """An opaque token of the key of a page's last row; datetimes become text."""
    return base64.urlsafe_b64encode(orjson.dumps(list(values))).decode().rstrip("=")


def cursor_decode(token: str, length: int) -> list[Any] | None:
    """The key a token holds, None for the first page. Raises Refusal INVALID_REQUEST for a token that is not ours."""
    if not token:
        return None
    try:
        values = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, binascii.Error):
        values = None
    if not isinstance(values, list) or len(values) != length or not all(isinstance(v, str | int) for v in values):
        raise wrong_token()
    return values


def wrong_token() -> Exception:
    """The refusal for a page token that is not ours."""
    return invalid(
        FieldError(
            "page_token", "page_token", "is not a token of this list; take next_page_token as it came", "分页标记无效"
        )
    )


def split_page(rows: Sequence[R], limit: int, key: Callable[[R], Sequence[Any]]) -> tuple[Sequence[R], str | None]:
    """Of up to limit + 1 rows, those of the page and the token of the next one (None on the last)."""
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], cursor_encode(key(rows[limit - 1]))
