"""Cases of shares that change symbols: the database's identities are the model's, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from shared.utils.db_manager import DatabaseManager
from tests.change_model import Days
from tests.conftest import NO_WAIT, Server
from tests.history_model import History
from tests.instruments import instrument
from tests.symbol_changes import SYMBOL_CHANGES, write_symbol_change

# Lists of "token symbol type", and official changes "old new date".
CASES = {
    "X becomes B and A becomes X on one day, tokens stay": (
        [["1 A", "2 X"], ["1 X", "2 B"]],
        ["A X", "X B"],
    ),
    "X becomes B and A becomes X on one day, tokens new": (
        [["1 A", "2 X"], ["3 X", "4 B"]],
        ["A X", "X B"],
    ),
    "two lead to one": ([["1 A", "2 B"], ["3 C"]], ["A C", "B C"]),
    "one leads to two": ([["1 A"], ["2 B", "3 C"]], ["A B", "A C"]),
    "both ends of a chain appear": ([["1 A"], ["2 B", "3 C"]], ["A B", "B C"]),
    "a change counts once": ([["1 A"], ["2 B-BE"], ["3 A-BE"], ["4 B"]], ["A B"]),
    "there and back": ([["1 X"], ["2 Y"], ["3 X-BE"]], ["X Y", "Y X 2020-06-01"]),
    "there and back, one token": ([["1 X"], ["1 Y"], ["1 X-BE"]], ["X Y", "Y X 2020-06-01"]),
    "A goes on in one series": ([["1 A", "2 A-BE"], ["1 A", "3 B"]], ["A B"]),
    "B was there in another series": ([["1 A", "2 B"], ["2 B", "3 B-BE"]], ["A B"]),
    "B moves to A's token": ([["1 A", "2 B"], ["1 B"]], ["A B"]),
    "a bond without a series": ([["1 A"], ["2 642AS43"]], ["A 642AS43"]),
    "a bond without a series, one token": ([["1 A"], ["1 642AS43"]], ["A 642AS43"]),
    "debt, one token and series": ([["1 A-SG"], ["1 B-SG"]], ["A B"]),
    "debt, another series": ([["1 A-SG"], ["1 B-N1"]], ["A B"]),
    "debt, another token": ([["1 A-SG"], ["2 B-SG"]], ["A B"]),
    "a share and debt": ([["1 A"], ["1 B-SG"]], ["A B"]),
    "another type": ([["1 A"], ["2 B FUT"]], ["A B"]),
    "A is a call from now on": ([["1 A"], ["1 A CE", "2 B"]], ["A B"]),
    "a change of the future": ([["1 A"], ["2 B"]], ["A B 2199-01-01"]),
    "the pair goes before the token": ([["1 A", "2 C"], ["2 B", "3 D"]], ["A B"]),
    "several series": (
        [["1 A", "2 A-BE", "3 A-BZ"], ["8 B", "1 B-BE", "7 B-ST"]],
        ["A B"],
    ),
    "a swap": ([["1 A", "2 B"], ["2 A", "1 B"]], ["A B", "B A"]),
    "A's debt stays": ([["1 A", "3 A-SG"], ["2 B", "3 A-SG"]], ["A B"]),
    "back as it left": ([["1 A"], [], ["1 A"]], []),
    "back after it went on": ([["1 X"], ["2 X"], ["3 X-BE"], [], ["1 X"]], []),
    "back after its token was another's": ([["1 X"], ["1 Z CE"], [], ["1 X"]], []),
    "away": ([["1 A"], [], ["2 B-BE"]], ["A B"]),
    "away, one token": ([["1 A"], [], ["1 B"]], ["A B"]),
    "away, a chain": ([["1 A"], [], ["2 B"]], ["A X", "X B"]),
    "away, a chain that falls": ([["1 A"], [], ["2 B"]], ["A X 2020-06-01", "X B"]),
    "away, past a share that is there": (
        [["1 A", "5 X"], ["5 X"], ["5 X", "2 B"]],
        ["A X", "X B"],
    ),
    "away, two that left at once": ([["1 A", "2 A-BE"], [], ["3 B"]], ["A B"]),
    "away, two that come": ([["1 A"], [], ["3 B-BE", "2 B"]], ["A B"]),
    "away, two starts": ([["1 A", "2 X"], ["2 X"], [], ["3 B"]], ["A B", "X B"]),
    "away, A is there": ([["1 A"], [], ["3 A-BE"], ["3 A-BE", "2 B"]], ["A B"]),
    "away, A is back, too": ([["1 A"], [], ["3 A-BE", "2 B"]], ["A B"]),
    "away, B is there": ([["1 A"], [], ["2 B"], ["2 B", "3 B-BE"]], ["A B"]),
    "away, it has counted": ([["1 A", "2 B"], [], ["3 B"]], ["A B"]),
    "away, under a token in use": ([["1 A", "2 Z"], ["2 Z"], ["2 B"]], ["A B"]),
}


@pytest.fixture
def days(server: Server, module_database: str) -> Iterator[Days]:
    connection = server.connect(module_database)
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        days = Days(manager, connection)
        days.prepare()
        manager.execute_query(SYMBOL_CHANGES)
        manager.execute_query("TRUNCATE kite_instrument_master, ingestion_run CASCADE")
        manager.execute_query("TRUNCATE kite_instrument_history, nse_symbol_change")
        yield days
    connection.close()


@pytest.mark.parametrize(("lists", "changes"), CASES.values(), ids=CASES)
def test_identities_are_the_models(days: Days, lists: list[list[str]], changes: list[str]) -> None:
    official = [read_change(text) for text in changes]
    for change in official:
        write_symbol_change(days.manager, *change)
    model = History()
    for texts in lists:
        rows = [read_row(text) for text in [*texts, "9 S"]]  # no list is empty
        days.load(rows)
        model.load(rows, days.query("SELECT clock_timestamp()")[0][0], official)
    stored = days.query(
        "SELECT instrument_id, instrument_token, tradingsymbol FROM kite_instrument_history"
        " ORDER BY valid_from, instrument_token"
    )
    expected = sorted(model.versions, key=lambda one: (one.valid_from, one.row["instrument_token"]))
    # Whether one and the same id: the ids themselves are the database's affair.
    assert number([(token, symbol, identity) for identity, token, symbol in stored]) == number(
        [(one.key[1], one.row["tradingsymbol"], one.instrument_id) for one in expected]
    )


def number(versions: list[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
    """Token, symbol and id, the ids replaced by 0, 1, ... as they come."""
    seen: dict[int, int] = {}
    return [(token, symbol, seen.setdefault(id_, len(seen))) for token, symbol, id_ in versions]


def read_change(text: str) -> tuple[str, str, date]:
    old, new, *day = text.split()
    return old, new, date.fromisoformat(day[0]) if day else date(2020, 1, 1)


def read_row(text: str) -> dict[str, Any]:
    token, symbol, *kind = text.split()
    return instrument(
        int(token),
        symbol,
        "NSE",
        instrument_type=kind[0] if kind else "EQ",
        segment="NSE",
        expiry=None,
        strike=Decimal(0),
        name=None,
        lot_size=1,
    )
