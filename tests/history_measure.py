"""What the model of identities makes of real NSE lists, and of the official symbol changes.

`.venv/bin/python -m tests.history_measure` prints it.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from dag_1_import_instruments_from_kite.import_instruments import (
    parse_instruments,
    validate_instruments,
)
from shared.calendar import IST
from tests.change_model import _split_series as split_series
from tests.history_model import COLUMNS, History, Symbol, SymbolChange, Version, share_symbol

DATA = Path(__file__).resolve().parents[2] / "shared"
LISTS = "kite/dumps/nse_*.csv.gz"
NOTHING = "NOTHING but the token"
OTHER_NAMES = "the symbol but for its series; the NAMES DIFFER"
NO_NAME = "the symbol but for its series; a name is blank"
CHANGES = "nse/symbol_changes_2018_2025-06.csv"


@dataclass
class Measure:
    """What was found between a list and the one before."""

    name: str
    possible: list[tuple[Symbol, Symbol]]  # official changes, chains followed, that both show
    kept: list[tuple[Symbol, Symbol]]  # those whose id went on
    joins: list[tuple[Version, Version]]  # of different symbols: the version before and after


@dataclass
class Lists:
    """The real lists, each as that of the last day of its month, and the official changes."""

    folder: Path = DATA
    official: list[SymbolChange] = field(default_factory=list)

    def __post_init__(self) -> None:
        with (self.folder / CHANGES).open(newline="") as file:
            self.official = [
                (row["old"], row["new"], date.fromisoformat(row["date"]))
                for row in csv.DictReader(file)
            ]

    def read(self) -> Iterator[tuple[str, datetime, list[dict[str, Any]]]]:
        """Name, moment and rows of each list."""
        for path in sorted(self.folder.glob(LISTS)):
            name = path.name.removesuffix(".csv.gz")
            year, month = map(int, name[-7:].split("-"))
            first = datetime(year, month, 1, tzinfo=IST)
            at = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
            rows = validate_instruments(parse_instruments(gzip.decompress(path.read_bytes())))
            yield name, at, [{column: row[column] for column in COLUMNS} for row in rows]


def measure(lists: Lists, *, with_official: bool = True) -> tuple[History, list[Measure]]:
    """Load all lists, one after the other."""
    history = History()
    found = []
    for name, at, rows in lists.read():
        before = {version.instrument_id: version for version in history.open()}
        history.load(rows, at, lists.official if with_official else ())
        after = {version.instrument_id: version for version in history.open()}
        if before:
            found.append(_compare(name, before, after, lists.official, at.date()))
    return history, found


def _compare(
    name: str,
    before: dict[int, Version],
    after: dict[int, Version],
    official: Sequence[SymbolChange],
    day: date,
) -> Measure:
    old, new = _ids_of_shares(before), _ids_of_shares(after)
    vanished, appeared = old.keys() - new.keys(), new.keys() - old.keys()
    possible = [
        (start, end) for start in vanished for end in _follow(start, official, day) & appeared
    ]
    joins = [
        (version, after[identity])
        for identity, version in before.items()
        if identity in after
        and after[identity].row["tradingsymbol"] != version.row["tradingsymbol"]
    ]
    kept = [pair for pair in possible if old[pair[0]] & new[pair[1]]]
    return Measure(name, sorted(possible), sorted(kept), joins)


def _ids_of_shares(versions: dict[int, Version]) -> dict[Symbol, set[int]]:
    ids = defaultdict(set)
    for identity, version in versions.items():
        symbol = share_symbol(version.row)
        if symbol is not None:
            ids[symbol].add(identity)
    return ids


def _follow(start: Symbol, official: Sequence[SymbolChange], day: date) -> set[Symbol]:
    """The symbols to which the changes up to a day lead."""
    ends: set[Symbol] = set()
    reached = {start: date.min}
    for old, new, changed_on in sorted(official, key=lambda change: change[2]):
        if old != new and old in reached and reached[old] <= changed_on <= day:
            reached.setdefault(new, changed_on)
            ends.add(new)
    return ends


def grade(old: Version, new: Version, official: Sequence[SymbolChange]) -> str:
    """What speaks for one instrument in two rows with different symbols, beside the rules."""
    one, other = (split_series(version.row["tradingsymbol"])[0] for version in (old, new))
    names = [version.row["name"] for version in (old, new)]
    if other in _follow(one, official, date.max):
        return "official list"
    if names[0] and names[0] == names[1]:
        return "name"
    if one != other:
        return NOTHING
    return OTHER_NAMES if all(names) else NO_NAME


def report(out: TextIO) -> None:
    """Print figures, then every join of two symbols for which nothing speaks but the rules."""
    lists = Lists()
    history, found = measure(lists)
    _, without = measure(lists, with_official=False)
    total, kept, bare = (
        sum(len(pairs) for pairs in pairs_of)
        for pairs_of in (
            [one.possible for one in found],
            [one.kept for one in found],
            [one.kept for one in without],
        )
    )
    print(f"official changes between neighbouring lists: {total}; id kept: {kept}", file=out)
    print(f"without the official list: {bare}", file=out)
    for one in found:
        lost = sorted(set(one.possible) - set(one.kept))
        print(
            f"{one.name}: {len(one.possible)} possible, {len(one.kept)} kept, lost {lost}", file=out
        )
    print("versions by rule:", dict(Counter(v.why for v in history.versions)), file=out)
    graded = defaultdict(list)
    for one in found:
        print(f"{one.name}: joins of two symbols by rule:", count_rules(one), file=out)
        for old, new in one.joins:
            graded[grade(old, new, lists.official)].append((one.name, old, new))
    for what, joins in graded.items():
        print(f"joins of two symbols for which this speaks: {what}: {len(joins)}", file=out)
    for what in (NOTHING, OTHER_NAMES, NO_NAME):
        print(f"\n== {what}: {len(graded[what])}", file=out)
        for name, old, new in graded[what]:
            print(f"{name}, {new.why}\n  {_show(old)}\n  {_show(new)}", file=out)


def count_rules(one: Measure) -> dict[str, int]:
    """How many joins of two symbols each rule has made."""
    return dict(Counter(new.why for _, new in one.joins))


def _show(version: Version) -> str:
    return f"#{version.instrument_id} " + ",".join(
        "" if value is None else str(value) for value in version.row.values()
    )


if __name__ == "__main__":
    report(sys.stdout)
