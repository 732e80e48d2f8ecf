"""What changes from one list to the next, as plain Python, and how the real thing is run and read.

The model goes from symbol to symbol and from token to token in dictionaries; nothing of it is
taken from changes.sql.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from dag_1_import_instruments_from_kite.import_instruments import (
    FEED,
    transform_instruments,
    validate_instruments,
)
from shared.feed import Figures, Run, RunKey, RunOptions
from shared.preparation import History, prepare_extras
from shared.store import store
from shared.utils.db_manager import DatabaseManager

Row = Mapping[str, Any]

TERMS = (
    "lot_size",
    "tick_size",
    "strike",
    "expiry",
    "name",
    "segment",
    "instrument_type",
    "exchange_token",
)
SERIES = ("-BE", "-BZ", "-BT", "-SM", "-ST", "-SZ")


class Change(NamedTuple):
    """A row of kite_instrument_change, without its run."""

    kind: str
    exchange: str
    token: int
    symbol: str
    field: str | None = None
    old: str | None = None
    new: str | None = None


def classify(
    before: Sequence[Row], after: Sequence[Row], *, today: date, is_replay: bool = False
) -> Counter[Change]:
    """The changes between two lists in each of which every token and every symbol is there once.

    What a replayed list does not have is judged by its own expiries, too.
    """
    changes: list[Change] = []
    exchanges = {row["exchange"] for row in [*before, *after]}
    for exchange in sorted(exchanges):
        changes += _classify_exchange(
            [row for row in before if row["exchange"] == exchange],
            [row for row in after if row["exchange"] == exchange],
            today,
            is_replay,
        )
    return Counter(changes)


def _classify_exchange(
    before: list[Row], after: list[Row], today: date, is_replay: bool
) -> list[Change]:
    old_by_symbol = {row["tradingsymbol"]: row for row in before}
    new_by_symbol = {row["tradingsymbol"]: row for row in after}
    old_by_token = {row["instrument_token"]: row for row in before}
    new_by_token = {row["instrument_token"]: row for row in after}
    moved = {
        symbol
        for symbol in old_by_symbol.keys() & new_by_symbol.keys()
        if _token(old_by_symbol[symbol]) != _token(new_by_symbol[symbol])
    }
    vanished = old_by_symbol.keys() - new_by_symbol.keys()
    appeared = new_by_symbol.keys() - old_by_symbol.keys()
    series = _pair_series(
        [old_by_symbol[symbol] for symbol in vanished],
        [new_by_symbol[symbol] for symbol in appeared],
    )
    taken = {new for _, new in series} | {old for old, _ in series}
    changes: list[Change] = []

    for symbol in moved:
        old, new = old_by_symbol[symbol], new_by_symbol[symbol]
        tokens = str(_token(old)), str(_token(new))
        changes.append(_change("token moved", new, "instrument_token", *tokens))
        changes += _compare_terms(old, new)
    for old_symbol, new_symbol in series:
        old, new = old_by_symbol[old_symbol], new_by_symbol[new_symbol]
        changes.append(_change("series moved", new, "tradingsymbol", old_symbol, new_symbol))
        changes += _compare_terms(old, new)
    for token in old_by_token.keys() & new_by_token.keys():
        old, new = old_by_token[token], new_by_token[token]
        names = old["tradingsymbol"], new["tradingsymbol"]
        if names[0] == names[1]:
            changes += _compare_terms(old, new)
        elif names[1] in moved or taken & set(names) or _is_another(old, new):
            changes.append(_change("token reused", new, "tradingsymbol", *names))
        else:
            changes.append(_change("renamed", new, "tradingsymbol", *names))
            changes += _compare_terms(old, new)
    expiries = [row["expiry"] for row in after if row["expiry"]] if is_replay else []
    first_expiry = min(expiries, default=date.max)
    for symbol in vanished - taken:
        row = old_by_symbol[symbol]
        if _token(row) not in new_by_token:  # else its token was reused, or renamed
            expiry = row["expiry"]
            is_past = expiry is not None and expiry < today and expiry <= first_expiry
            changes.append(_change("expired" if is_past else "gone", row))
    for symbol in appeared - taken:
        row = new_by_symbol[symbol]
        if _token(row) not in old_by_token:
            changes.append(_change("listed", row))
    return changes


def _token(row: Row) -> int:
    return int(row["instrument_token"])


def _change(kind: str, row: Row, *field_old_new: str) -> Change:
    return Change(kind, row["exchange"], _token(row), row["tradingsymbol"], *field_old_new)


def _pair_series(vanished: list[Row], appeared: list[Row]) -> list[tuple[str, str]]:
    """The shares that went on in another series: old and new symbol."""
    bases: dict[str, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((vanished, appeared)):
        for row in rows:
            if row["instrument_type"] == "EQ":
                symbol = row["tradingsymbol"]
                ends = symbol[-3:] in SERIES
                bases[symbol[:-3] if ends else symbol][side].append(row)
    return [
        (old["tradingsymbol"], new["tradingsymbol"])
        for sides in bases.values()
        for old, new in zip(*(sorted(side, key=lambda row: row["tradingsymbol"]) for side in sides))
        if _token(old) != _token(new)
    ]


def _is_another(old: Row, new: Row) -> bool:
    """Whether a token with another symbol is of another contract, going by the two rows alone."""
    if any(old[name] != new[name] for name in ("expiry", "instrument_type", "segment")):
        return True
    if new["expiry"] and old["name"] != new["name"] and old["strike"] != new["strike"]:
        return True
    symbols = [old["tradingsymbol"], new["tradingsymbol"]]
    if new["instrument_type"] != "EQ" or not any(map(_is_bond, symbols)):
        return False
    # The same bond if only letters differ, in the same series.
    (old_base, old_series), (new_base, new_series) = map(_split_series, symbols)
    old_digits, new_digits = (re.findall("[0-9]", base) for base in (old_base, new_base))
    return not new_digits or (old_digits, old_series) != (new_digits, new_series)


def _split_series(symbol: str) -> tuple[str, str]:
    return (symbol[:-3], symbol[-3:]) if symbol[-3:-2] == "-" else (symbol, "")


def _is_bond(symbol: str) -> bool:
    series = _split_series(symbol)[1]
    has_series_of_shares = series in ("", *SERIES, "-IV", "-RR")
    return not has_series_of_shares or bool(re.match("[0-9]+[A-Z]+[0-9]", symbol))


def _compare_terms(old: Row, new: Row) -> list[Change]:
    is_moved = _token(old) != _token(new)
    return [
        _change("terms changed", new, name, _as_text(old[name]), _as_text(new[name]))
        for name in TERMS
        if old[name] != new[name] and not (name == "exchange_token" and is_moved)
    ]


def _as_text(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value else "0"
    return None if value is None else str(value)


class Days:
    """Lists that are loaded one after the other, as DAG 1 does it, without fetch and files."""

    def __init__(self, manager: DatabaseManager, connection: Any) -> None:
        self.manager = manager
        self._cursor = connection.cursor()
        self._history: History | None = None

    def load(
        self,
        rows: Sequence[Row],
        *,
        exchanges: Sequence[str] = (),
        force: bool = False,
        dry_run: bool = False,
        source: str = "api",
        dated: date | None = None,
        retire_after_days: int | None = None,
    ) -> Figures:
        """A run with these rows."""
        key = RunKey(1, "import_instruments_from_kite", source, datetime.now().astimezone())
        parameters = {
            "exchanges": exchanges,
            "max_drop_percent": 50.0,
            "batch_size": 1000,
            "retire_after_days": retire_after_days,
        }
        options = RunOptions(dry_run=dry_run, force=force, dated=dated)
        run = Run(FEED, key, options, parameters=parameters)
        wanted = [dict(row) for row in rows if not exchanges or row["exchange"] in exchanges]
        instruments = transform_instruments(validate_instruments(wanted, run.figures.rejected))
        run.figures.counts["exchange"] = Counter(row["exchange"] for row in instruments)
        store(run, self.manager, instruments, self.prepare(), is_last=True)
        return run.figures

    def prepare(self) -> History:
        """Make what a run makes beside the instrument table, once."""
        if self._history is None:
            self._history, _ = self.manager.run_in_transaction(
                lambda cursor: prepare_extras(cursor, FEED)
            )
        return self._history

    def query(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        self._cursor.execute(statement, params or None)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def last_run(self) -> int | None:
        """The last good run's number."""
        found = self.query("SELECT max(run_id) FROM ingestion_run WHERE status = 'succeeded'")
        number: int | None = found[0][0]
        return number

    def changes(self, run_id: int | None = None) -> Counter[Change]:
        """What the run, or the last good one, has recorded."""
        rows = self.query(
            "SELECT kind, exchange, instrument_token, tradingsymbol, field, old, new"
            " FROM kite_instrument_change WHERE run_id = %s",
            run_id or self.last_run(),
        )
        return Counter(Change(*row) for row in rows)

    def count_changes(self) -> int:
        """How many rows the table of changes has, of all runs."""
        return int(self.query("SELECT count(*) FROM kite_instrument_change")[0][0])
