"""Secret addresses of calendars, and entity tags: values in, values out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bookings.calendars.entries import STATES, STATUS_OF, uid_of
from services.bookings.calendars.reading import names_tag
from services.bookings.calendars.tokens import TOKEN_LENGTH, FeedAddress, FeedTokens

SECRET = b"a secret of more than 32 bytes, for tests only"
TOKENS = FeedTokens(SECRET)
ids = st.uuids().map(str)


@given(ids, ids, st.integers(1, 2**32 - 1))
def test_a_token_names_what_it_was_made_of(chain_id: str, feed_id: str, number: int) -> None:
    address = FeedAddress(chain_id, feed_id, number)
    token = TOKENS.make(address)
    assert TOKENS.read(token) == address
    assert (len(token), token.replace("-", "").replace("_", "").isalnum()) == (TOKEN_LENGTH, True)
    assert FeedTokens(SECRET + b"!").read(token) is None


@given(st.text(max_size=80) | st.text("ABCabc012-_=+/", min_size=TOKEN_LENGTH, max_size=TOKEN_LENGTH))
def test_what_we_did_not_sign_names_nothing(token: str) -> None:
    assert TOKENS.read(token) is None


@given(ids, ids, st.integers(0, TOKEN_LENGTH - 1), st.sampled_from("ABCDEFabcdef0123456789-_"))
def test_one_letter_changed_names_nothing(chain_id: str, feed_id: str, place: int, letter: str) -> None:
    token = TOKENS.make(FeedAddress(chain_id, feed_id, 1))
    changed = token[:place] + letter + token[place + 1 :]
    assert (TOKENS.read(changed) is None) == (changed != token)


@pytest.mark.parametrize(
    ("header", "named"),
    [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ("", False), ('"b"', False), ("a", False)],
)
def test_entity_tags(header: str, named: bool) -> None:
    assert names_tag(header, '"a"') is named


def test_what_entries_are_known_by() -> None:
    assert [uid_of("id", number) for number in range(3)] == ["id", "id-2", "id-3"]
    assert set(STATUS_OF) <= set(STATES)
