"""Random days in sequence: what is recorded is what a plain Python comparison of two lists finds.

A day lists, delists, renames and changes a few instruments, out of so few tokens, symbols and
terms that they meet in every way: tokens that pass on, symbols that wander, shares in three
series, contracts that expire. Runs that fail, and dry runs, come in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from shared.calendar import IST
from shared.utils.db_manager import DatabaseManager
from tests.change_model import TERMS, Days, classify
from tests.conftest import NO_WAIT, Server
from tests.instruments import instrument

Key = tuple[int, str]
Row = dict[str, Any]

EXCHANGES = ("NSE", "NFO")
SYMBOLS = (
    "X",
    "X-BE",
    "X-SM",
    "X-SG",
    "A-X",
    "A-X-BE",
    "Y",
    "Y-ST",
    "642AS43-SG",
    "642ASM43-SG",
    "7KA41",
    "7KAR41",
    "360ONE",
)
PAST, LATER, FUTURE = date(2025, 7, 31), date(2025, 8, 28), date(2199, 8, 26)

keys = st.tuples(st.integers(1, 5), st.sampled_from(EXCHANGES))
symbols = st.sampled_from(SYMBOLS)
contents = st.fixed_dictionaries(
    {
        "instrument_type": st.sampled_from(["EQ", "EQ", "EQ", "CE", "FUT", None]),
        "name": st.sampled_from(["X LTD", "Y LTD", None]),
        "segment": st.sampled_from(["NSE", "NFO-OPT"]),
        "expiry": st.sampled_from([None, None, PAST, LATER, FUTURE]),
        "strike": st.sampled_from([Decimal(0), Decimal("390"), Decimal("390.0000"), None]),
        "tick_size": st.sampled_from([Decimal("0.05"), Decimal("0.0500"), Decimal("100")]),
        "lot_size": st.sampled_from([1, 2025, None]),
        "exchange_token": st.sampled_from(["1", "2", None]),
    }
)
fields = st.sampled_from(["name", "expiry", "strike", "lot_size", "instrument_type", "segment"])


class Refused(Exception):  # noqa: N818 - it stands for an error of any kind
    """What makes a run fail after everything was written."""


class ChangesMachine(RuleBasedStateMachine):
    """`market` is what the next list has; `last` the list of the last good run."""

    days: Days

    def __init__(self) -> None:
        super().__init__()
        self.market: dict[Key, Row] = {}
        self.last: list[Row] | None = None
        self.recorded = 0

    @initialize(rows=st.lists(st.tuples(keys, symbols, contents), min_size=3, max_size=8))
    def first_day(self, rows: list[tuple[Key, str, Row]]) -> None:
        self.days.manager.execute_query("TRUNCATE kite_instrument_master, ingestion_run CASCADE")
        for key, symbol, content in rows:
            self.put(key, symbol, content)
        self.run_day()

    # What happens in a day: any number of these, then the run

    @rule(key=keys, symbol=symbols, content=contents)
    def list_instrument(self, key: Key, symbol: str, content: Row) -> None:
        self.put(key, symbol, content)

    @rule(key=keys, symbol=symbols)
    def rename_or_move(self, key: Key, symbol: str) -> None:
        """Whoever had the symbol is delisted."""
        if key in self.market:
            self.put(key, symbol, self.market[key])

    @rule(keys=st.lists(keys, min_size=2, max_size=4, unique=True), by=st.integers(1, 3))
    def pass_symbols_on(self, keys: list[Key], by: int) -> None:
        """Swaps and rotations among the tokens of an exchange."""
        there = [key for key in keys if key in self.market and key[1] == keys[0][1]]
        rows = [self.market[key] for key in there]
        for place, key in enumerate(there):
            name = rows[(place + by) % len(rows)]["tradingsymbol"]
            self.market[key] = {**self.market[key], "tradingsymbol": name}

    @rule(key=keys, token=st.integers(1, 5))
    def move_to_another_token(self, key: Key, token: int) -> None:
        if key in self.market:
            row = self.market.pop(key)
            self.put((token, key[1]), row["tradingsymbol"], row)

    @rule(key=keys, field=fields, content=contents)
    def change_a_term(self, key: Key, field: str, content: Row) -> None:
        if key in self.market:
            self.market[key] = {**self.market[key], field: content[field]}

    @rule(gone=st.lists(keys, min_size=1, max_size=4))
    def delist(self, gone: list[Key]) -> None:
        for key in gone:
            if len(self.market) > 1:
                self.market.pop(key, None)

    @rule()
    def run_day(self) -> None:
        if not self.market:
            return
        rows = list(self.market.values())
        expected = self.compare(rows)
        summary = self.days.load(rows)
        assert summary.changes == by_kind(expected)
        assert self.days.changes() == (expected or Counter())
        self.recorded += (expected or Counter()).total()
        self.last = rows
        self.look()

    @rule()
    def try_day(self) -> None:
        if self.market:
            rows = list(self.market.values())
            assert self.days.load(rows, dry_run=True).changes == by_kind(self.compare(rows))
            self.look()

    @rule()
    def fail_day(self) -> None:
        if self.market:
            with pytest.raises(Refused):
                self.load_and_fail(list(self.market.values()))
            self.look()

    # What they have in common

    def put(self, key: Key, symbol: str, content: Row) -> None:
        holder = [
            other
            for other, row in self.market.items()
            if other[1] == key[1] and row["tradingsymbol"] == symbol and other != key
        ]
        for other in holder:
            del self.market[other]
        token, exchange = key
        terms = {name: content[name] for name in TERMS}
        self.market[key] = instrument(token, symbol, exchange, **terms)

    def load_and_fail(self, rows: list[Row]) -> None:
        with self.days.manager.transaction():
            self.days.load(rows)
            raise Refused

    def compare(self, rows: list[Row]) -> Counter[Any] | None:
        if self.last is None:
            return None
        return classify(self.last, rows, today=datetime.now(IST).date())

    def look(self) -> None:
        """Nothing else was recorded, and every change once."""
        assert self.days.count_changes() == self.recorded
        assert len(self.days.query("SELECT 1 FROM kite_instrument_today")) == len(self.last or [])


def by_kind(changes: Counter[Any] | None) -> Counter[str] | None:
    return None if changes is None else Counter(change.kind for change in changes.elements())


@pytest.fixture
def machine(server: Server, module_database: str) -> Iterator[type[ChangesMachine]]:
    connection = server.connect(module_database)
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        days = Days(manager, connection)
        days.prepare()
        yield type("Machine", (ChangesMachine,), {"days": days})
    connection.close()


def test_recorded_changes_are_those_that_two_lists_have(
    machine: Callable[[], RuleBasedStateMachine],
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=settings().max_examples // 4,  # of many days each
            stateful_step_count=15,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
