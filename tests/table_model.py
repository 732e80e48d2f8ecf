"""The table as plain Python: what rulings 16 to 18 make of it, and how the real one is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

COLUMNS = (
    "instrument_token",
    "exchange",
    "tradingsymbol",
    "exchange_token",
    "instrument_type",
    "name",
    "segment",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
)

Key = tuple[int, str]
Row = dict[str, Any]


def key_of(row: Mapping[str, Any]) -> Key:
    return row["instrument_token"], row["exchange"]


def symbol_of(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["tradingsymbol"], row["exchange"]


def read_table(connection: Any) -> dict[Key, Row]:
    """The whole table by key, both timestamps included."""
    names = (*COLUMNS, "created_at", "last_updated")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(names)} FROM kite_instrument_master")
        rows = [dict(zip(names, values)) for values in cursor.fetchall()]
    table = {key_of(row): row for row in rows}
    assert len(table) == len(rows)
    return table


def write_table(connection: Any, rows: list[Row]) -> None:
    """The table with these rows and no others, by plain statements: much sooner than a merge."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM kite_instrument_master")
        for row in rows:
            statement = f"INSERT INTO kite_instrument_master ({', '.join(row)}) VALUES %s"
            cursor.execute(statement, (tuple(row.values()),))


def fields_of(table: Mapping[Key, Mapping[str, Any]]) -> dict[Key, Row]:
    """The table without its timestamps."""
    return {key: {name: row[name] for name in COLUMNS} for key, row in table.items()}


@dataclass(frozen=True)
class Outcome:
    """What a run has to report."""

    processed: int
    inserted: int
    updated: int
    superseded: int
    rejected: int


@dataclass
class TableModel:
    """The table after a number of runs; a moment is the number of its run."""

    rows: dict[Key, Row] = field(default_factory=dict)
    runs: int = 0
    moments: dict[int, datetime] = field(default_factory=dict)

    def merge(self, dump: Sequence[Mapping[str, Any]]) -> Outcome:
        """A run with these rows, all of which are valid by themselves."""
        self.runs += 1
        last: dict[Key, Mapping[str, Any]] = {}
        for row in dump:
            last.pop(key_of(row), None)
            last[key_of(row)] = row
        owner = {symbol_of(row): key for key, row in last.items()}
        kept = {key: row for key, row in last.items() if owner[symbol_of(row)] == key}
        processed = sum(key_of(row) in kept for row in dump)
        new = [key for key in kept if key not in self.rows]
        gone = [
            key
            for key, row in self.rows.items()
            if key not in kept and owner.get(symbol_of(row)) in kept
        ]
        for key in gone:
            del self.rows[key]
        for key, row in kept.items():
            created = self.rows[key]["created_at"] if key in self.rows else self.runs
            values = {name: row[name] for name in COLUMNS}
            self.rows[key] = {**values, "created_at": created, "last_updated": self.runs}
        return Outcome(processed, len(new), processed - len(new), len(gone), len(dump) - processed)

    def run(self, dump: Sequence[Mapping[str, Any]]) -> Outcome:
        """A run of DAG 1: of the rows of one key the first symbol's last counts (ruling 28)."""
        first = {}
        for row in dump:
            first.setdefault(key_of(row), row["tradingsymbol"])
        kept: dict[Key, Mapping[str, Any]] = {}
        for row in dump:
            if row["tradingsymbol"] == first[key_of(row)]:
                kept.pop(key_of(row), None)
                kept[key_of(row)] = row
        others = sum(row["tradingsymbol"] != first[key_of(row)] for row in dump)
        outcome = self.merge(list(kept.values()))
        return replace(outcome, rejected=outcome.rejected + others)

    def assert_equals(self, table: Mapping[Key, Mapping[str, Any]]) -> None:
        """The table has the same rows, and one moment for each run, later than those before."""
        assert fields_of(table) == fields_of(self.rows)
        for key, row in self.rows.items():
            for column in ("created_at", "last_updated"):
                stored = table[key][column]
                assert self.moments.setdefault(row[column], stored) == stored, (key, column)
        in_order = [self.moments[run] for run in sorted(self.moments)]
        assert in_order == sorted(set(in_order))


def permuted(rows: Iterable[Row], order: Iterable[int]) -> list[Row]:
    by_position = list(rows)
    return [by_position[position] for position in order]


def wait_until(
    condition: Callable[[], Any], *, seconds: float = 60.0, pause: float = 0.005
) -> None:
    """Wait for another session or process to get somewhere; fail if it does not.

    It is asked again after each `pause`, in seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)
