"""Decisions of customers: phones, search, masking."""

from __future__ import annotations

import pytest

from services.customers import domain

CHAIN, OTHER = "018f0000-0000-7000-8000-000000000001", "018f0000-0000-7000-8000-000000000002"


@pytest.mark.parametrize(
    ("written", "kept"),
    [("138 0013-8000", "13800138000"), ("+1 (416) 555.0100", "+14165550100"), ("021-5555", "0215555")],
)
def test_phones_lose_their_formatting(written: str, kept: str) -> None:
    assert domain.normalise_phone(written) == kept


def test_further_phones_are_kept_once_and_without_the_main_one() -> None:
    assert domain.normalise_phones(["1 2345", "12345", "999 99", "000-11"], "99999") == ["12345", "00011"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", []),
        ("   ", []),
        ("张伟", ["张伟"]),
        ("Ｗａｎｇ  Wei", ["wang", "wei"]),
        ("138 0013-8000", ["13800138000"]),
        ("+1 (416) 555", ["+1416555"]),
        ("Anne-Marie", ["anne-marie"]),
        ("-", ["-"]),
        ("a b c d e f g h i j", ["a", "b", "c", "d", "e", "f", "g", "h"]),
    ],
)
def test_words_of_a_query(query: str, words: list[str]) -> None:
    assert domain.words_of_query(query) == words


def _finds(query: str, name: str, *phones: str) -> bool:
    text = domain.search_text(name, phones)
    words = domain.words_of_query(query)
    has = set(domain.grams(CHAIN, text.split("\n")))
    by_grams = set(domain.grams_of_words(CHAIN, words)) <= has
    by_text = all(word in text for word in words)
    assert by_grams or not by_text, "the index must not lose what the text has"
    return by_text


@pytest.mark.parametrize("query", ["张", "张伟", "伟", "0013", "1380013", "8", "张 138", "张伟 8000"])
def test_parts_find_a_chinese_customer(query: str) -> None:
    assert _finds(query, "张伟", "13800138000")


@pytest.mark.parametrize("query", ["cath", "JOHNSON", "ine jo", "+1 416", "(416) 555-0100", "Ｃａｔｈ"])
def test_parts_find_an_english_customer(query: str) -> None:
    assert _finds(query, "Catherine  Johnson", "+14165550100")


@pytest.mark.parametrize("query", ["李", "伟张", "9999", "张 139"])
def test_others_are_not_found(query: str) -> None:
    assert not _finds(query, "张伟", "13800138000")


def test_grams_differ_from_chain_to_chain() -> None:
    assert set(domain.grams(CHAIN, ["张伟"])).isdisjoint(domain.grams(OTHER, ["张伟"]))
    assert all(0 <= gram < 2**31 for gram in domain.grams(CHAIN, ["Catherine Johnson", "13800138000"]))


def test_what_is_left_of_contacts() -> None:
    assert domain.masked_phone("13800138000") == "***8000"
    assert domain.masked_phone("12345") == "***"
    assert domain.masked_email("anne@example.com") == "a***@example.com"


@pytest.mark.parametrize(
    ("branches", "home", "reaches"),
    [
        (None, "b1", True),
        (None, None, True),
        (["b1"], "b1", True),
        (["b1"], None, True),
        (["b1"], "b2", False),
        ([], None, False),
    ],
)
def test_where_a_permission_reaches(branches: list[str] | None, home: str | None, reaches: bool) -> None:
    assert domain.holds_at(branches, home) is reaches
