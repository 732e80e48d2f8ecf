"""Days in sequence: random dumps through validation, transformation and merge, against a model.

Each rule changes the market in its way (new, changed, renamed, swapped, delisted instruments),
and runs the pipeline on a dump of it, in any order of rows, with repetitions and bad rows. After
each, the table equals the model, moments of creation and counts of the superseded included.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dag_1_import_instruments_from_kite.import_instruments import (
    transform_instruments,
    validate_instruments,
)
from shared.exceptions import DatabaseError, ValidationError
from shared.feed import RejectedRow
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.db_manager import DatabaseManager
from tests.conftest import NO_WAIT, Server
from tests.instruments import instrument
from tests.property.strategies import valid_instrument
from tests.table_model import Key, Row, TableModel, fields_of, key_of, read_table

EXCHANGES = ("NSE", "NFO")
SYMBOLS = ("A", "B", "C", "D", "M&M", "\x01(0,1)", "\\.", "E\r\nF")

keys = st.tuples(st.integers(1, 6), st.sampled_from(EXCHANGES))
symbols = st.sampled_from(SYMBOLS)
# Most days bring small changes; some bring whatever a column can hold.
contents = st.one_of(
    st.builds(lambda lot_size: instrument(1, "-", lot_size=lot_size), st.integers(0, 3)),
    st.builds(lambda strike: instrument(1, "-", strike=strike), st.decimals(0, 9, places=4)),
    valid_instrument(),
)
picks = st.integers(0, 11)  # which of the listed instruments, counted round and round
orders = st.integers(0, 2**32)  # seeds of an order of rows: shrinking it is of no use

# Rows that break a rule by themselves; some of them have the key or the symbol of good ones.
UNUSABLE: list[Row] = [
    {**instrument(1, "A", "NSE"), "instrument_token": None},
    {**instrument(1, "A", "NSE"), "tradingsymbol": None},
    {**instrument(1, "A", "NSE"), "tradingsymbol": ""},
    {**instrument(1, "A", "NSE"), "exchange": None},
    instrument(2, "B", "NSE", strike=Decimal("0.00001")),
    instrument(3, "C", "NFO", name="N" * 256),
    instrument(3, "C" * 51, "NFO"),
    instrument(4, "D", "NFO", lot_size=2**31),
    instrument(5, "D", "NSE", name="\0"),
    {**instrument(5, "D", "NSE"), "instrument_token": 2**63},
    {**instrument(5, "D", "NSE"), "expiry": "2026-02-30"},
]
# Rows that only validation refuses: the database would take them.
UNWANTED: list[Row] = [
    instrument(2, "B", "NFO", tick_size=Decimal("NaN")),
    instrument(4, "D", "NFO", lot_size=-1),
    {**instrument(1, "A", "NSE"), "tradingsymbol": "   "},
    {**instrument(5, "D", "NSE"), "expiry": "tomorrow"},
]
bad_rows = st.sampled_from(UNUSABLE + UNWANTED)


class TableMachine(RuleBasedStateMachine):
    """`market` is what the next dump lists; `model` is the table after the last run."""

    manager: DatabaseManager
    connection: Any

    def __init__(self) -> None:
        super().__init__()
        self.market: dict[Key, Row] = {}
        self.model = TableModel()

    @initialize(rows=st.lists(st.tuples(keys, symbols, contents), min_size=3, max_size=8))
    def first_day(self, rows: list[tuple[Key, str, Row]]) -> None:
        self.manager.execute_query("DELETE FROM kite_instrument_master")
        for key, symbol, content in rows:
            self.list_instrument(key, symbol, content)
        self.run_pipeline(list(self.market.values()))

    # Days

    @rule(key=keys, symbol=symbols, content=contents, order=orders)
    def day_with_a_new_or_changed_instrument(
        self, key: Key, symbol: str, content: Row, order: int
    ) -> None:
        self.list_instrument(key, symbol, content)
        self.run_pipeline(self.dump(order))

    @rule(pick=picks, symbol=symbols, order=orders)
    def day_with_a_renamed_instrument(self, pick: int, symbol: str, order: int) -> None:
        self.rename(self.pick(pick), symbol)
        self.run_pipeline(self.dump(order))

    @rule(exchange=st.sampled_from(EXCHANGES), shuffle=orders, order=orders)
    def day_with_symbols_that_change_places(self, exchange: str, shuffle: int, order: int) -> None:
        """Swaps, chains and rotations, whichever the permutation holds."""
        moved = [key for key in self.market if key[1] == exchange]
        names = [self.market[key]["tradingsymbol"] for key in moved]
        random.Random(shuffle).shuffle(names)
        for key, name in zip(moved, names):
            self.rename(key, name)
        self.run_pipeline(self.dump(order))

    @rule(pick=picks, token=st.integers(1, 6), is_kept=st.booleans(), order=orders)
    def day_with_a_symbol_under_another_token(
        self, pick: int, token: int, is_kept: bool, order: int
    ) -> None:
        """The old holder is delisted (and superseded), or listed under another name."""
        old = self.pick(pick)
        row = self.market[old]
        if is_kept:
            self.rename(old, "E")
        else:
            del self.market[old]
        self.list_instrument((token, old[1]), row["tradingsymbol"], row)
        self.run_pipeline(self.dump(order))

    @rule(gone=st.lists(picks, min_size=1, max_size=3), order=orders)
    def day_with_delisted_instruments(self, gone: list[int], order: int) -> None:
        for pick in gone:
            if len(self.market) > 1:
                del self.market[self.pick(pick)]
        self.run_pipeline(self.dump(order))

    @rule(
        repeated=st.lists(st.tuples(picks, symbols), min_size=1, max_size=3),
        are_first=st.booleans(),
        order=orders,
    )
    def day_with_repeated_rows(
        self, repeated: list[tuple[int, str]], are_first: bool, order: int
    ) -> None:
        rows = [
            {**self.market[self.pick(pick)], "tradingsymbol": symbol, "lot_size": 99}
            for pick, symbol in repeated
        ]
        listed = self.dump(order)
        self.run_pipeline([*rows, *listed] if are_first else [*listed, *rows])

    @rule(bad=st.lists(st.tuples(bad_rows, picks), min_size=1, max_size=4), order=orders)
    def day_with_bad_rows(self, bad: list[tuple[Row, int]], order: int) -> None:
        self.run_pipeline(self.dump(order), bad)

    @rule(bad=st.lists(bad_rows, min_size=1, max_size=3))
    def day_with_nothing_valid(self, bad: list[Row]) -> None:
        with pytest.raises(ValidationError, match=f"None of the {len(bad)} instruments is valid"):
            validate_instruments(bad)

    @rule()
    def day_with_nothing(self) -> None:
        valid = validate_instruments([])
        assert self.manager.upsert_instruments(transform_instruments(valid)) == (0, 0)

    @rule(bad=st.sampled_from(UNUSABLE))
    def day_with_a_row_that_the_database_refuses(self, bad: Row) -> None:
        """As if validation had missed it: all is rolled back."""
        others = [
            row
            for row in self.market.values()
            if key_of(row) != key_of(bad) and row["tradingsymbol"] != bad["tradingsymbol"]
        ]
        with pytest.raises(DatabaseError):
            self.manager.upsert_instruments([*others, bad])

    # What they have in common

    def pick(self, number: int) -> Key:
        listed = sorted(self.market)
        return listed[number % len(listed)]

    def list_instrument(self, key: Key, symbol: str, content: Row) -> None:
        token, exchange = key
        self.market[key] = {
            **content,
            "instrument_token": token,
            "exchange": exchange,
            "tradingsymbol": symbol,
        }

    def rename(self, key: Key, symbol: str) -> None:
        self.market[key] = {**self.market[key], "tradingsymbol": symbol}

    def dump(self, order: int) -> list[Row]:
        rows = [self.market[key] for key in sorted(self.market)]
        random.Random(order).shuffle(rows)
        return rows

    def run_pipeline(self, good: list[Row], bad: list[tuple[Row, int]] | None = None) -> None:
        """Run on these rows, each of the bad ones put in at its position."""
        dump = list(good)
        for row, position in bad or []:
            dump.insert(position, row)
        before = fields_of(self.model.rows)
        expected = self.model.run(good)
        rejected: list[RejectedRow] = []
        valid = validate_instruments(dump, rejected)
        assert len(rejected) == expected.rejected + len(bad or [])
        result = self.manager.merge(INSTRUMENT_TABLE, transform_instruments(valid), batch_size=3)
        assert result.inserted + result.updated == expected.processed == len(valid)
        assert (result.inserted, result.updated, result.superseded) == (
            expected.inserted,
            expected.updated,
            expected.superseded,
        )
        after = fields_of(self.model.rows)
        assert result.changed == sum(after[key] != before[key] for key in after.keys() & before)

    @invariant()
    def table_equals_model(self) -> None:
        if self.model.runs:
            self.model.assert_equals(read_table(self.connection))


@pytest.fixture
def machine(server: Server, module_database: str) -> Iterator[type[TableMachine]]:
    connection = server.connect(module_database)
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        yield type("Machine", (TableMachine,), {"manager": manager, "connection": connection})
    connection.close()


def test_table_equals_the_model_after_every_sequence_of_dumps(
    machine: Callable[[], RuleBasedStateMachine],
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=settings().max_examples // 4,  # of many days each
            stateful_step_count=10,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
