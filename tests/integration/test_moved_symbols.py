"""Symbols that move among tokens (ruling 17): the table, the counts, in any order of rows.

The expected result comes from the plain-Python model. Every case is put into an exchange of its
own, and so thousands of them fit in one merge; those that have a name also run by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.import_instruments import validate_instruments
from shared.feed import RejectedRow
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.db_manager import DatabaseManager
from shared.utils.staged_merge import MergeResult
from tests.instruments import instrument
from tests.table_model import Outcome, TableModel, permuted, read_table

Pairs = Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Pattern:
    """Which token has which symbol: in the table, and in the dump; what the run has to report."""

    stored: Pairs
    dump: Pairs
    inserted: int
    updated: int
    superseded: int
    table: Pairs


PATTERNS = {
    "nothing moves": Pattern(
        [(1, "A"), (2, "B")], [(1, "A"), (2, "B")], 0, 2, 0, [(1, "A"), (2, "B")]
    ),
    "swap": Pattern([(1, "A"), (2, "B")], [(1, "B"), (2, "A")], 0, 2, 0, [(1, "B"), (2, "A")]),
    "two swaps": Pattern(
        [(1, "A"), (2, "B"), (3, "C"), (4, "D")],
        [(1, "B"), (2, "A"), (3, "D"), (4, "C")],
        0,
        4,
        0,
        [(1, "B"), (2, "A"), (3, "D"), (4, "C")],
    ),
    "rotation of three": Pattern(
        [(1, "A"), (2, "B"), (3, "C")],
        [(1, "B"), (2, "C"), (3, "A")],
        0,
        3,
        0,
        [(1, "B"), (2, "C"), (3, "A")],
    ),
    "rotation of four": Pattern(
        [(1, "A"), (2, "B"), (3, "C"), (4, "D")],
        [(1, "B"), (2, "C"), (3, "D"), (4, "A")],
        0,
        4,
        0,
        [(1, "B"), (2, "C"), (3, "D"), (4, "A")],
    ),
    "chain to a new symbol": Pattern(
        [(1, "A"), (2, "B"), (3, "C")],
        [(1, "B"), (2, "C"), (3, "D")],
        0,
        3,
        0,
        [(1, "B"), (2, "C"), (3, "D")],
    ),
    "chain that begins at a new token": Pattern(
        [(1, "A"), (2, "B"), (3, "C")],
        [(4, "A"), (1, "B"), (2, "C"), (3, "D")],
        1,
        3,
        0,
        [(1, "B"), (2, "C"), (3, "D"), (4, "A")],
    ),
    "chain that ends at a row which the dump lacks": Pattern(
        [(1, "A"), (2, "B"), (3, "C")],
        [(1, "B"), (2, "C")],
        0,
        2,
        1,
        [(1, "B"), (2, "C")],
    ),
    "chain within three that ends in a rename": Pattern(
        [(1, "A"), (2, "B")], [(1, "B"), (2, "C")], 0, 2, 0, [(1, "B"), (2, "C")]
    ),
    "new token takes over, old holder is gone": Pattern(
        [(1, "A"), (2, "B")], [(3, "A"), (2, "B")], 1, 1, 1, [(2, "B"), (3, "A")]
    ),
    "new token takes over, old holder is renamed": Pattern(
        [(1, "A"), (2, "B")], [(3, "A"), (1, "C")], 1, 1, 0, [(1, "C"), (2, "B"), (3, "A")]
    ),
    "known token takes over, old holder is gone": Pattern(
        [(1, "A"), (2, "B")], [(2, "A")], 0, 1, 1, [(2, "A")]
    ),
    "known token takes over, old holder is renamed": Pattern(
        [(1, "A"), (2, "B")], [(2, "A"), (1, "C")], 0, 2, 0, [(1, "C"), (2, "A")]
    ),
    "two takeovers of rows that are gone": Pattern(
        [(1, "A"), (2, "B"), (3, "C")],
        [(4, "A"), (5, "B")],
        2,
        0,
        2,
        [(3, "C"), (4, "A"), (5, "B")],
    ),
    "rename frees a symbol that nobody takes": Pattern(
        [(1, "A"), (2, "B")], [(1, "C")], 0, 1, 0, [(1, "C"), (2, "B")]
    ),
    "swap beside a new row and a row that is gone": Pattern(
        [(1, "A"), (2, "B"), (3, "C")],
        [(1, "B"), (2, "A"), (4, "D")],
        1,
        2,
        0,
        [(1, "B"), (2, "A"), (3, "C"), (4, "D")],
    ),
}


def rows_of(pairs: Pairs, *, exchange: str = "NFO", lot_size: int = 1) -> list[dict[str, Any]]:
    """Rows that differ in more than their symbols, so that a mix-up shows."""
    return [
        instrument(token, symbol, exchange, lot_size=lot_size + 10 * position, name=f"{token}")
        for position, (token, symbol) in enumerate(pairs)
    ]


def report(result: MergeResult, processed: int) -> tuple[int, int, int]:
    assert result.inserted + result.updated == processed
    return result.inserted, result.updated, result.superseded


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_merge_in_every_order_of_rows_when(
    emptied_manager: DatabaseManager, module_connection: Any, pattern: Pattern
) -> None:
    for order in permutations(range(len(pattern.dump))):
        emptied_manager.execute_query("DELETE FROM kite_instrument_master")
        model = TableModel()
        model.merge(rows_of(pattern.stored))
        emptied_manager.upsert_instruments(rows_of(pattern.stored))
        dump = permuted(rows_of(pattern.dump, lot_size=5), order)
        model.merge(dump)
        predicted = emptied_manager.merge(INSTRUMENT_TABLE, dump, dry_run=True)
        result = emptied_manager.merge(INSTRUMENT_TABLE, dump)
        assert report(predicted, len(dump)) == report(result, len(dump))
        expected = (pattern.inserted, pattern.updated, pattern.superseded)
        assert report(result, len(dump)) == expected, order
        table = read_table(module_connection)
        assert sorted((key[0], row["tradingsymbol"]) for key, row in table.items()) == pattern.table
        model.assert_equals(table)


def run_cases(
    emptied_manager: DatabaseManager, module_connection: Any, stored: Pairs, dumps: Iterable[Pairs]
) -> list[RejectedRow]:
    """Merge every dump, in an exchange of its own, onto the stored rows; compare with the model.

    The rows of the dumps take turns, as those of exchanges may. Returns what was rejected.
    """
    cases = [(f"X{number}", dump) for number, dump in enumerate(dumps)]
    model = TableModel()
    first = [row for exchange, _ in cases for row in rows_of(stored, exchange=exchange)]
    assert model.merge(first) == Outcome(len(first), len(first), 0, 0, 0)
    emptied_manager.merge(INSTRUMENT_TABLE, first)
    by_case = [rows_of(dump, exchange=exchange, lot_size=5) for exchange, dump in cases]
    dump = [row for turn in zip(*by_case) for row in turn]
    expected = model.run(dump)
    rejected: list[RejectedRow] = []
    valid = validate_instruments(dump, rejected)
    assert (len(valid), len(rejected)) == (expected.processed, expected.rejected)
    predicted = emptied_manager.merge(INSTRUMENT_TABLE, valid, dry_run=True)
    result = emptied_manager.merge(INSTRUMENT_TABLE, valid)
    assert report(predicted, len(valid)) == report(result, expected.processed)
    assert report(result, expected.processed) == (
        expected.inserted,
        expected.updated,
        expected.superseded,
    )
    model.assert_equals(read_table(module_connection))
    return rejected


def test_merge_of_every_dump_of_three_rows_repeated_keys_and_symbols_included(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    """16 rows are possible (4 tokens, one of them new, and 4 symbols, one of them new)."""
    rows = list(product((1, 2, 3, 4), "ABCD"))
    dumps = list(product(rows, repeat=3))
    rejected = run_cases(emptied_manager, module_connection, [(1, "A"), (2, "B"), (3, "C")], dumps)
    assert len(dumps) == 4096
    assert {row.reason.partition(" has ")[0] for row in rejected} == {
        "tradingsymbol: a later row",
        "instrument_token: an earlier row",
    }


def test_merge_of_every_assignment_of_four_symbols_to_four_tokens_in_every_order(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    dumps = [
        permuted(list(zip((1, 2, 3, 4), symbols)), order)
        for symbols in permutations("ABCD")
        for order in permutations(range(4))
    ]
    stored = [(1, "A"), (2, "B"), (3, "C"), (4, "D")]
    assert run_cases(emptied_manager, module_connection, stored, dumps) == []
    assert len(dumps) == 576


def test_merge_of_every_four_tokens_and_symbols_in_every_order_when_two_of_each_are_new(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    """Takeovers with and without the old holder in the dump, chains and swaps, all mixed."""
    dumps = [
        list(zip(tokens, symbols))
        for tokens in permutations((1, 2, 3, 4, 5), 4)
        for symbols in permutations("ABCDE", 4)
        if tokens[0] == min(tokens) or symbols[0] == min(symbols)
    ]
    stored = [(1, "A"), (2, "B"), (3, "C")]
    assert run_cases(emptied_manager, module_connection, stored, dumps) == []
    assert len(dumps) > 5000


REPEATED = {
    "same key twice": ([(1, "A"), (1, "B")], 1, 1, [(1, "A", 0)]),
    "same key three times": ([(1, "A"), (1, "B"), (1, "A")], 1, 1, [(1, "A", 2)]),
    "same symbol under two tokens": ([(1, "A"), (2, "A")], 1, 1, [(2, "A", 1)]),
    "symbol of a row that does not count": (
        [(1, "B"), (2, "A"), (1, "A")],
        2,
        1,
        [(1, "B", 0), (2, "A", 1)],
    ),
    "row that is left out has an earlier one": (
        [(1, "B"), (1, "A"), (2, "B")],
        1,
        2,
        [(2, "B", 2)],
    ),
    "both, one after the other": (
        [(1, "A"), (2, "B"), (1, "B"), (2, "A")],
        2,
        2,
        [(1, "A", 0), (2, "B", 1)],
    ),
}


@pytest.mark.parametrize(
    ("dump", "inserted", "rejected", "table"), REPEATED.values(), ids=REPEATED.keys()
)
def test_merge_into_an_empty_table_when_the_dump_repeats(
    emptied_manager: DatabaseManager,
    module_connection: Any,
    dump: Pairs,
    inserted: int,
    rejected: int,
    table: list[tuple[int, str, int]],
) -> None:
    """`table` has token, symbol, and which row of the dump it is."""
    left_out: list[RejectedRow] = []
    valid = validate_instruments(rows_of(dump), left_out)
    result = emptied_manager.merge(INSTRUMENT_TABLE, valid)
    assert report(result, len(valid)) == (inserted, 0, 0)
    assert len(left_out) == rejected
    stored = read_table(module_connection)
    assert (
        sorted(
            (key[0], row["tradingsymbol"], (row["lot_size"] - 1) // 10)
            for key, row in stored.items()
        )
        == table
    )


def test_symbols_of_one_exchange_leave_those_of_another_alone(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    stored = [instrument(1, "A", "NSE"), instrument(1, "A", "BSE"), instrument(2, "B", "BSE")]
    model = TableModel()
    model.merge(stored)
    emptied_manager.upsert_instruments(stored)
    dump = [instrument(2, "A", "NSE"), instrument(1, "B", "BSE"), instrument(2, "A", "BSE")]
    expected = model.merge(dump)
    result = emptied_manager.merge(INSTRUMENT_TABLE, dump)
    assert report(result, 3) == (expected.inserted, expected.updated, expected.superseded)
    assert (expected.inserted, expected.updated, expected.superseded) == (1, 2, 1)
    model.assert_equals(read_table(module_connection))


def test_days_in_sequence_when_strikes_move_and_come_back(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    """As after a dividend: the strike's symbol goes to a new token, and back the next day."""
    days: list[Pairs] = [
        [(26052610, "HINDPETRO26AUG390CE"), (2, "HINDPETRO26AUG400CE")],
        [
            (26052610, "HINDPETRO26AUG370.75CE"),
            (13683458, "HINDPETRO26AUG390CE"),
            (2, "HINDPETRO26AUG400CE"),
        ],
        [(26052610, "HINDPETRO26AUG390CE"), (2, "HINDPETRO26AUG370.75CE")],
        [(13683458, "HINDPETRO26AUG390CE"), (26052610, "HINDPETRO26AUG400CE")],
    ]
    model = TableModel()
    superseded = []
    for number, day in enumerate(days):
        dump = rows_of(day, lot_size=number + 1)
        expected = model.merge(dump)
        result = emptied_manager.merge(INSTRUMENT_TABLE, dump)
        assert report(result, len(dump)) == (
            expected.inserted,
            expected.updated,
            expected.superseded,
        )
        superseded.append(result.superseded)
        model.assert_equals(read_table(module_connection))
    assert superseded == [0, 0, 1, 0]
