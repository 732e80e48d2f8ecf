"""Random days in sequence: the database's identities and versions are the model's.

The days are those of the machine of changes, with official symbol changes, shares that wander
under them, and instruments that come back as they left. The ids of model and database are paired
once and for all, so that one that is used again shows.
"""

from __future__ import annotations

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

from shared.utils.db_manager import DatabaseManager
from tests.change_model import TERMS, Days
from tests.conftest import NO_WAIT, Server
from tests.history_model import COLUMNS, History, SymbolChange, share_symbol
from tests.property.test_changes_machine import (
    FUTURE,
    ChangesMachine,
    Key,
    Row,
    contents,
    fields,
    keys,
    symbols,
)
from tests.symbol_changes import SYMBOL_CHANGES, write_symbol_change

FIRST_CHANGE, SECOND_CHANGE = date(2020, 1, 1), date(2020, 6, 1)

days_of_change = st.sampled_from([FIRST_CHANGE, FIRST_CHANGE, SECOND_CHANGE, FUTURE])
bases = st.sampled_from(["X", "Y", "A-X", "360ONE", "642AS43", "642ASM43", "Z"])
series = st.sampled_from(["", "", "-BE", "-SM", "-ST", "-SG"])
tokens = st.integers(1, 5)
places = st.integers(0, 30)
SHARE = {
    **dict.fromkeys(TERMS),
    "instrument_type": "EQ",
    "segment": "NSE",
    "strike": Decimal(0),
    "tick_size": Decimal("0.05"),
    "lot_size": 1,
}


class HistoryMachine(ChangesMachine):
    """`history` is the model; `lists` the moments after each good run, by the database's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self.official: list[SymbolChange] = []
        self.lists: list[tuple[datetime, list[Row]]] = []
        self.ids: dict[int, int] = {}  # of the model, to those of the database
        self.moments: dict[datetime, datetime] = {}

    @initialize(
        rows=st.lists(st.tuples(keys, symbols, contents), min_size=2, max_size=6),
        shares=st.lists(st.tuples(tokens, symbols), min_size=1, max_size=3),
    )
    def first_day(self, rows: list[tuple[Key, str, Row]], shares: list[tuple[int, str]]) -> None:
        self.empty()
        super().first_day([*rows, *(((token, "NSE"), symbol, SHARE) for token, symbol in shares)])

    # What happens in a day, besides what the machine of changes has

    @rule(old=bases, new=bases, changed_on=days_of_change)
    def change_officially(self, old: str, new: str, changed_on: date) -> None:
        if (old, new, changed_on) not in self.official:
            self.official.append((old, new, changed_on))
            self.write_official(old, new, changed_on)

    @rule(place=places, token=tokens, base=bases, ending=series, changed_on=days_of_change)
    def rename_a_share(
        self, place: int, token: int, base: str, ending: str, changed_on: date
    ) -> None:
        """In the market, officially, under whatever token and in whatever series."""
        shares = [key for key, row in self.market.items() if share_symbol(row) is not None]
        if shares:
            key = shares[place % len(shares)]
            self.rename(self.market.pop(key), token, base, ending, changed_on)
            self.run_day()

    @rule(place=places, token=tokens, ending=series)
    def move_a_share(self, place: int, token: int, ending: str) -> None:
        """To another series, and mostly to another token."""
        shares = [key for key, row in self.market.items() if share_symbol(row) is not None]
        if shares:
            row = self.market.pop(shares[place % len(shares)])
            self.put((token, row["exchange"]), f"{share_symbol(row)}{ending}", row)
            self.run_day()

    @rule(place=places)
    def delist_and_run(self, place: int) -> None:
        if len(self.market) > 1:
            del self.market[list(self.market)[place % len(self.market)]]
            self.run_day()

    @rule(place=places, token=tokens, base=bases, ending=series, changed_on=days_of_change)
    def bring_a_share_back_renamed(
        self, place: int, token: int, base: str, ending: str, changed_on: date
    ) -> None:
        left = [row for row in self.find_ended() if share_symbol(row) is not None]
        if left:
            self.rename(left[place % len(left)], token, base, ending, changed_on)
            self.run_day()

    @rule(place=places)
    def bring_back_as_it_left(self, place: int) -> None:
        left = self.find_ended()
        if left:
            row = left[place % len(left)]
            self.put((row["instrument_token"], row["exchange"]), row["tradingsymbol"], row)

    @rule(key=keys, field=fields, content=contents)
    def correct_a_row_that_left(self, key: Key, field: str, content: Row) -> None:
        left = [row for row in self.find_ended() if row["exchange"] == key[1]]
        if left:
            row = {**left[-1], field: content[field]}
            self.put((row["instrument_token"], row["exchange"]), row["tradingsymbol"], row)

    @rule()
    def run_day(self) -> None:
        if self.market:
            rows = list(self.market.values())
            self.load(rows)
            at = self.read_clock()
            self.history.load(rows, at, self.official)
            self.lists.append((at, rows))
            self.last = rows
            self.look()

    @rule()
    def try_day(self) -> None:
        if self.market:
            self.days.load(list(self.market.values()), dry_run=True)
            self.look()

    # What they have in common

    def rename(self, row: Row, token: int, base: str, ending: str, changed_on: date) -> None:
        symbol = share_symbol(row)
        assert symbol is not None
        self.change_officially(old=symbol, new=base, changed_on=changed_on)
        self.put((token, row["exchange"]), base + ending, row)

    def find_ended(self) -> list[Row]:
        """The rows that some list had and the market has not, those that ended last at the end."""
        ended = [version for version in self.history.versions if version.valid_to]
        ended.sort(key=lambda version: version.valid_to or datetime.min)
        return [version.row for version in ended if version.row not in self.market.values()]

    def look(self) -> None:
        """All versions, and the list of every moment."""
        self.compare_versions()
        for at, rows in self.lists:
            expected = {version.key: version for version in self.history.as_of(at)}
            assert {key: version.row for key, version in expected.items()} == {
                (row["exchange"], row["instrument_token"]): row for row in map(as_stored, rows)
            }
            found = self.read_list(at)
            assert len(found) == len(expected)
            for identity, *values in found:
                row = dict(zip(COLUMNS, values))
                version = expected[row["exchange"], row["instrument_token"]]
                assert (row, identity) == (version.row, self.ids[version.instrument_id])

    def compare_versions(self) -> None:
        expected = sorted(self.history.versions, key=lambda one: (one.key, one.valid_from))
        found = self.read_versions()
        assert len(found) == len(expected)
        for version, (identity, begin, end, *values) in zip(expected, found):
            assert dict(zip(COLUMNS, values)) == version.row
            assert self.ids.setdefault(version.instrument_id, identity) == identity
            assert self.moments.setdefault(version.valid_from, begin) == begin
            assert (version.valid_to is None) == (end is None)
            if version.valid_to is not None:
                assert self.moments.setdefault(version.valid_to, end) == end
        assert len(set(self.ids.values())) == len(self.ids)
        moments = [self.moments[at] for at in sorted(self.moments)]
        assert moments == sorted(set(moments))

    # The database

    def empty(self) -> None:
        self.days.manager.execute_query("TRUNCATE kite_instrument_history, nse_symbol_change")

    def load(self, rows: list[Row]) -> None:
        self.days.load(rows)

    def write_official(self, old: str, new: str, changed_on: date) -> None:
        write_symbol_change(self.days.manager, old, new, changed_on)

    def read_clock(self) -> datetime:
        moment: datetime = self.days.query("SELECT clock_timestamp()")[0][0]
        return moment

    def read_versions(self) -> list[tuple[Any, ...]]:
        return self.days.query(
            f"SELECT instrument_id, valid_from, valid_to, {', '.join(COLUMNS)}"
            ' FROM kite_instrument_history ORDER BY exchange COLLATE "C", instrument_token,'
            " valid_from"
        )

    def read_list(self, at: datetime) -> list[tuple[Any, ...]]:
        return self.days.query(
            f"SELECT instrument_id, {', '.join(COLUMNS)} FROM kite_instrument_as_of(%s)", at
        )


def as_stored(row: Row) -> Row:
    return {name: row[name] for name in COLUMNS}


@pytest.fixture
def machine(server: Server, module_database: str) -> Iterator[type[HistoryMachine]]:
    connection = server.connect(module_database)
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        days = Days(manager, connection)
        days.prepare()
        manager.execute_query(SYMBOL_CHANGES)
        yield type("Machine", (HistoryMachine,), {"days": days})
    connection.close()


def test_history_is_the_models(machine: Callable[[], RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=settings().max_examples // 8,  # of many days each; the cases are elsewhere
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
