"""The words of `find`: what each may mean, and how words make one text."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.lookup_words import find_phrases, parse_words


def values(typed: str) -> list[Any]:
    """What the conditions of a word compare with."""
    (word,) = parse_words([typed])
    return list(word.params.values())


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        pytest.param(["nifty 25000", " ce "], ["nifty", "25000", "ce"], id="blanks"),
        pytest.param(["nse:infy"], ["nse", "infy"], id="exchange and symbol"),
        pytest.param(["NSE:NIFTY 50"], ["NSE", "NIFTY", "50"], id="symbol with a blank"),
        pytest.param(["nfo:"], ["nfo"], id="exchange alone"),
        pytest.param(["moon:infy"], ["moon:infy"], id="no exchange"),
        pytest.param(["25,000ce", "370.75PE"], ["25,000", "CE", "370.75", "PE"], id="strike, type"),
        pytest.param(["", " "], [], id="none"),
    ],
)
def test_texts_are_split_into_words(texts: list[str], words: list[str]) -> None:
    assert [word.typed for word in parse_words(texts)] == words


@pytest.mark.parametrize(
    ("typed", "number"),
    [("25000", 25000), ("25,000", 25000), ("1,25,000", 125000), ("370.75", Decimal("370.75"))],
)
def test_number(typed: str, number: Any) -> None:
    (word,) = parse_words([typed])
    assert word.params["w0"] == number
    assert ("instrument_token" in word.condition) == (number == int(number))


def test_number_of_six_digits_may_be_a_scrip_code() -> None:
    assert "500325" in values("500325")
    assert "50032" not in values("50032")


@pytest.mark.parametrize("typed", ["1.2.3", "1,2", "12a", "٣"])
def test_what_is_no_number_is_a_text(typed: str) -> None:
    assert f"%{typed.upper()}%" in values(typed)


def test_number_beyond_every_token_is_no_token() -> None:
    (word,) = parse_words(["9" * 30])
    assert "instrument_token" not in word.condition


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        pytest.param("sep", [9], id="month"),
        pytest.param("SEPTEMBER", [9], id="whole name"),
        pytest.param("sept", [9], id="four letters"),
        pytest.param("may", [5], id="may"),
        pytest.param("24sep", [9, 24, 2024], id="day, or year"),
        pytest.param("sep-26", [9, 26, 2026], id="year, or day"),
        pytest.param("sep2026", [9, 2026, 2026], id="year"),
        pytest.param("24sep26", [9, 24, 2026], id="day and year"),
        pytest.param("24-Sep-2026", [9, 24, 2026], id="hyphens"),
        pytest.param("2026-09-24", [date(2026, 9, 24)], id="ISO"),
        pytest.param("24/9/26", [date(2026, 9, 24)], id="India"),
    ],
)
def test_expiry(typed: str, expected: list[Any]) -> None:
    assert values(typed) == expected


@pytest.mark.parametrize("typed", ["2026-02-30", "sepp", "marico", "1sep1"])
def test_what_is_no_expiry_is_a_text(typed: str) -> None:
    assert f"%{typed.upper()}%" in values(typed)


@pytest.mark.parametrize(
    "typed", ["ce", "Calls", "PUT", "fut", "futures", "options", "eq", "index"]
)
def test_type_is_no_text(typed: str) -> None:
    (word,) = parse_words([typed])
    assert (word.params, word.text) == ({}, "")
    assert "::text" in word.condition


def test_signs_of_patterns_are_literal() -> None:
    assert values(r"50%_\x")[0] == r"%50\%\_\\X%"


@pytest.mark.parametrize(
    "typed", ["zo'hare", "z'; DROP TABLE t", 'z"', "z%(w0)s", "z{x}", "nse:z'"]
)
def test_what_was_typed_is_no_part_of_a_statement(typed: str) -> None:
    for word in parse_words([typed]):
        assert "Z" not in (word.condition + word.rank + word.exact).upper().replace("SIZE", "")


def test_bytes_that_no_database_takes_are_replaced() -> None:
    assert [word.typed for word in parse_words(["a\0b", "\udc80"])] == ["a?b", "?"]


def test_phrases_are_of_words_in_any_order_the_longest_first() -> None:
    phrases = find_phrases(parse_words(["bank nifty sep fut nifty"]))
    assert phrases == [["BANKNIFTY", "NIFTYBANK"], ["BANK", "NIFTY"]]
    assert find_phrases(parse_words(["ce"])) == []
    assert find_phrases(parse_words(["nse:x"])) == [["X"]]
    assert len(find_phrases(parse_words([*"abcdefgh"]))) == 3
