"""What may be written as the universe of candles, and what is said of the rest."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from dag_2_import_candles_from_kite.settings import FIELDS, read_day
from dag_2_import_candles_from_kite.universe import read_selection, read_universe


@pytest.mark.parametrize(
    ("item", "selection"),
    [
        ("NSE:INFY", "NSE:INFY"),
        (" nse : INFY ", "NSE:INFY"),
        ("NSE:NIFTY 50", "NSE:NIFTY 50"),
        ("NSE:M&M", "NSE:M&M"),
        ("NSE:a:b", "NSE:a:b"),
        ({"exchange": "NSE", "segment": "NSE"}, {"exchange": "NSE", "segment": "NSE"}),
        ({"underlying": " NIFTY "}, {"underlying": "NIFTY"}),
        ({"underlying": "NIFTY", "expiries": 2}, {"underlying": "NIFTY", "expiries": 2}),
    ],
)
def test_selection(item: Any, selection: Any) -> None:
    assert read_selection(item) == selection
    assert read_universe([item, item]) == [selection, selection]


@pytest.mark.parametrize(
    "item",
    [
        *("", "INFY", "NSE:", ":INFY", " : ", "NSE:IN\0FY", "NSE:\ud800"),
        *(None, 408065, True, ["NSE:INFY"], {}),
        {"expiries": 2},
        {"exchange": "NSE", "symbol": "INFY"},
        {"exchange": ""},
        {"exchange": 7},
        {"exchange": None},
        {"underlying": "NIF\0TY"},
        {"underlying": "NIFTY", "expiries": 10**12},
        *({"underlying": "NIFTY", "expiries": count} for count in (0, -1, 1.0, "2", True, None)),
    ],
    ids=repr,
)
def test_item_that_selects_nothing(item: Any) -> None:
    with pytest.raises(ValueError, match=r'^expected a symbol such as "NSE:INFY", or a selection '):
        read_universe(["NSE:INFY", item])


@pytest.mark.parametrize("value", ["NSE:INFY", None, {"exchange": "NSE"}, 7])
def test_universe_is_a_list(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r'^expected a list; each item a symbol such as "NSE:INFY"'
    ):
        read_universe(value)


def test_empty_universe_is_told_by_the_run() -> None:
    assert read_universe([]) == []


def test_days() -> None:
    assert read_day("2015-01-01") == date(2015, 1, 1)
    for value in ("", "2015-02-30", "yesterday", None, 2015, ["2015-01-01"]):
        with pytest.raises(ValueError, match=r'^expected a day such as "2015-01-01"$'):
            read_day(value)


@pytest.mark.parametrize("value", ["0001-01-01", "1899-12-31", "9999-12-31"])
def test_days_that_nobody_means(value: str) -> None:
    with pytest.raises(ValueError, match=r'^expected a day from "1900-01-01" to "2999-12-31"$'):
        read_day(value)


def test_every_default_is_good() -> None:
    """As they would be read from a file."""
    for field in FIELDS:
        given = field.default
        written = given.isoformat() if isinstance(given, date) else given
        assert field.convert(written) == given
