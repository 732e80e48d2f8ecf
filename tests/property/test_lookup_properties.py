"""`find` against a filter in plain Python, which shares nothing with its SQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag_1_import_instruments_from_kite.import_instruments import transform_instruments
from dag_1_import_instruments_from_kite.lookup import find
from shared.utils.db_manager import DatabaseManager
from tests.conftest import NO_WAIT, Server
from tests.instruments import instrument

Row = dict[str, Any]

NAMES = ["NIFTY", "BANKNIFTY", "NIFTY 50", "NIFTY BANK", "O'HARE", "50%_A\\B", "Mixed Case", "INFO"]
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
TYPES = {
    "ce": {"CE"},
    "calls": {"CE"},
    "put": {"PE"},
    "fut": {"FUT"},
    "opt": {"CE", "PE"},
}
EXCHANGES = ["NSE", "NFO", "BSE"]
STRIKES = [Decimal(50), Decimal(24), Decimal(25000), Decimal("370.75")]
DAYS = [date(2026, 8, 24), date(2026, 9, 24), date(2026, 9, 1), date(2027, 9, 24)]


@st.composite
def instruments(draw: st.DrawFn) -> list[Row]:
    rows = []
    for token in range(1, draw(st.integers(1, 8)) + 1):
        name = draw(st.sampled_from(NAMES))
        exchange = draw(st.sampled_from(EXCHANGES))
        kind = draw(st.sampled_from(["CE", "PE", "FUT", "EQ", "EQ"]))
        fields: Row = {"expiry": None, "strike": Decimal(0), "segment": exchange}
        symbol = name
        if kind == "EQ":
            fields["segment"] = draw(st.sampled_from([exchange, "INDICES"]))
        else:
            fields["expiry"] = day = draw(st.sampled_from(DAYS))
            symbol = f"{name}{day:%y%b}".upper()
            if kind != "FUT":
                fields["strike"] = draw(st.sampled_from(STRIKES))
                symbol += f"{fields['strike']}{kind}"
        fields["name"] = draw(st.sampled_from([name, None, *NAMES]))
        fields["exchange_token"] = draw(st.sampled_from(["500325", "7"]))
        rows.append(
            instrument(token, f"{symbol}-{token}", exchange, instrument_type=kind, **fields)
        )
    return rows


words = st.one_of(
    st.sampled_from(["nifty", "Bank", "o'h", "%", "_", "\\", "50%_", "niftybank", "inf", "mixed"]),
    st.sampled_from(["50", "24", "25,000", "370.75", "3", "500325", "26", "2027", "0", "5"]),
    st.sampled_from([*TYPES, "eq", "index"]),
    st.sampled_from(["sep", "24sep", "sep26", "26aug", "24sep26", "2026-09-01", "MAR"]),
    st.sampled_from(["nse", "NFO", "nse:nifty", "25000ce"]),
)


def meets(row: Row, word: str) -> bool:
    """Whether a row meets a word, as docs/lookup.md says."""
    word = word.lower()
    if ":" in word:
        exchange, _, symbol = word.partition(":")
        return bool(row["exchange"].lower() == exchange) and meets(row, symbol)
    if word == "25000ce":
        return meets(row, "25000") and meets(row, "ce")
    kind, expiry = row["instrument_type"], row["expiry"]
    texts = [(row[column] or "").lower().replace(" ", "") for column in ("tradingsymbol", "name")]
    if word in TYPES:
        return kind in TYPES[word]
    if word in ("eq", "index"):
        return bool((row["segment"] == "INDICES") == (word == "index")) and kind == "EQ"
    if word.upper() in EXCHANGES:
        return row["exchange"].lower() == word or word in texts
    if re.fullmatch(r"\d{4}-\d\d-\d\d", word):
        return str(expiry) == word
    if match := re.fullmatch(r"(\d*)([a-z]{3})(\d*)", word):
        before, month, after = match.groups()
        if month in MONTHS:
            return meets_expiry(expiry, MONTHS.index(month) + 1, before, after)
    if re.fullmatch(r"[\d.,]+", word):
        return meets_number(row, texts, word.replace(",", ""))
    of_index = {"nifty": "nifty50", "banknifty": "niftybank"}.get(word)
    return any(word in text for text in texts) or texts[0] == of_index


def meets_expiry(expiry: date | None, month: int, before: str, after: str) -> bool:
    if expiry is None or expiry.month != month:
        return False
    if before and after:
        return (expiry.day, expiry.year) == (int(before), 2000 + int(after))
    number = before or after
    return not number or int(number) in (expiry.day, expiry.year - 2000)


def meets_number(row: Row, texts: list[str], digits: str) -> bool:
    is_option = row["instrument_type"] in ("CE", "PE")
    if is_option and row["strike"] == Decimal(digits):
        return True
    named = texts[1:] if row["expiry"] else texts
    if any(digits in re.findall(r"[\d.]+", text) for text in named):
        return True
    if digits == row["exchange_token"] == "500325" and row["exchange"] == "BSE":
        return True
    if digits == str(row["instrument_token"]):
        return True
    expiry = row["expiry"]
    days = {str(expiry.day), f"{expiry:%y}", f"{expiry:%Y}"} if expiry else set()
    return digits in days


@pytest.fixture(scope="module")
def manager(server: Server, module_database: str) -> Iterator[DatabaseManager]:
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        manager.execute_query(
            "CREATE VIEW kite_instrument_today AS SELECT * FROM kite_instrument_master"
        )
        yield manager


@given(rows=instruments(), wanted=st.lists(words, min_size=1, max_size=3), data=st.data())
def test_find_is_a_filter_by_every_word(
    manager: DatabaseManager, rows: list[Row], wanted: list[str], data: st.DataObject
) -> None:
    manager.execute_query("TRUNCATE kite_instrument_master")
    manager.upsert_instruments(transform_instruments(rows))
    found = find(manager, wanted, limit=None)
    expected = [row for row in rows if all(meets(row, word) for word in wanted)]
    assert {row["instrument_token"] for row in found} == {r["instrument_token"] for r in expected}
    assert found.total == len(found) == len(expected)
    parts = [part for word in wanted for part in split(word)]
    unmatched = [part for part in parts if not any(meets(row, part) for row in rows)]
    assert list(found.unmatched) == ([] if expected else unmatched)
    other = [word.swapcase() for word in data.draw(st.permutations(wanted))]
    assert find(manager, other, limit=None) == found
    assert find(manager, " ".join(wanted), limit=2) == found[:2]


def split(word: str) -> list[str]:
    return {"25000ce": ["25000", "CE"], "nse:nifty": ["nse", "nifty"]}.get(word, [word])
