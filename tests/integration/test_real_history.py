"""Real lists of years in sequence, with NSE's own list of symbol changes: who is one instrument.

The official list is followed here by itself, from symbol to symbol; tests/README.md has the joins
for which it does not speak.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from dag_1_import_instruments_from_kite.import_instruments import validate_instruments
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.db_manager import DatabaseManager
from shared.utils.kite_csv import parse_dump
from tests.change_model import Days
from tests.conftest import PROJECT
from tests.documents import section
from tests.symbol_changes import SYMBOL_CHANGES

LoadRealDump = Callable[[str], bytes]
Row = Mapping[str, Any]

JOINS = "Instruments through time: joins that nothing but the token or the symbol speaks for"
NSE = ["2019-04", "2020-12", "2023-09", "2025-06", "2025-08", "2025-10"]
NFO = ["2019-04", "2019-05"]
COLUMNS = INSTRUMENT_TABLE.column_names


class Loaded(NamedTuple):
    """A list of a day, and since when it counts."""

    day: date
    moment: datetime
    rows: list[Row]


class Join(NamedTuple):
    """Two versions of one instrument, one after the other."""

    old: Row
    new: Row


@pytest.fixture
def days(emptied_manager: DatabaseManager, module_connection: Any) -> Iterator[Days]:
    days = Days(emptied_manager, module_connection)
    days.prepare()
    emptied_manager.execute_query("TRUNCATE ingestion_run, kite_instrument_history CASCADE")
    emptied_manager.execute_query(SYMBOL_CHANGES)
    yield days
    emptied_manager.execute_query("DROP TABLE nse_symbol_change")


@pytest.fixture
def official(real_dump: LoadRealDump) -> list[tuple[date, str, str]]:
    lines = real_dump("../nse/symbol_changes_2018_2025-06.csv").decode().splitlines()
    return [(date.fromisoformat(day), old, new) for day, old, new in list(csv.reader(lines))[1:]]


def load(days: Days, real_dump: LoadRealDump, exchange: str, months: Sequence[str]) -> list[Loaded]:
    loaded = []
    for month in months:
        body = real_dump(f"dumps/{exchange}_{month}.csv.gz")
        rows = validate_instruments(parse_dump(body).rows)
        day = date.fromisoformat(f"{month}-01")
        days.load(rows, dated=day, force=True)
        [(moment,)] = days.query("SELECT max(valid_from) FROM ingestion_run")
        loaded.append(Loaded(day, moment, [{name: row[name] for name in COLUMNS} for row in rows]))
    return loaded


def assert_lists_are_kept(days: Days, lists: Sequence[Loaded]) -> None:
    """Row for row, at the first and at the last moment of each."""
    query = f"SELECT {', '.join(COLUMNS)} FROM kite_instrument_as_of(%s)"
    ends = [each.moment - timedelta(microseconds=1) for each in lists[1:]]
    for loaded, end in zip(lists, [*ends, None]):
        wanted = {tuple(row.values()) for row in loaded.rows}
        assert len(wanted) == len(loaded.rows)
        for moment in filter(None, (loaded.moment, end)):
            found = days.query(query, moment)
            assert len(found) == len(wanted)
            assert set(found) == wanted


def read_ids(days: Days, loaded: Loaded) -> dict[str, int]:
    query = "SELECT tradingsymbol, instrument_id FROM kite_instrument_as_of(%s)"
    return dict(days.query(query, loaded.moment))


def read_joins(days: Days) -> list[Join]:
    """Neighbouring versions of one instrument that differ in token or symbol."""
    columns = ", ".join(f"{side}.{name}" for side in ("o", "n") for name in COLUMNS)
    rows = days.query(
        f"SELECT {columns} FROM kite_instrument_history AS o"
        " JOIN LATERAL (SELECT * FROM kite_instrument_history AS h"
        "               WHERE h.instrument_id = o.instrument_id AND h.valid_from > o.valid_from"
        "               ORDER BY valid_from LIMIT 1) AS n ON true"
        " WHERE (o.tradingsymbol, o.instrument_token) <> (n.tradingsymbol, n.instrument_token)"
    )
    half = len(COLUMNS)
    return [Join(dict(zip(COLUMNS, row[:half])), dict(zip(COLUMNS, row[half:]))) for row in rows]


def base_of(symbol: str) -> str:
    return re.sub("-(BE|BZ|BT|SM|ST|SZ)$", "", symbol)


def shares_by_base(loaded: Loaded) -> dict[str, str]:
    """The symbol of each share, by its base."""
    return {
        base_of(row["tradingsymbol"]): row["tradingsymbol"]
        for row in loaded.rows
        if row["instrument_type"] == "EQ" and not re.search("-..$", base_of(row["tradingsymbol"]))
    }


def follow(
    official: Sequence[tuple[date, str, str]], symbol: str, until: date, since: date = date.min
) -> set[str]:
    """What a symbol may have become by a day."""
    found = set()
    for day, old, new in official:
        if old == symbol and old != new and since < day <= until:
            found |= {new} | follow(official, new, until, day)
    return found


def test_nse_over_six_years(
    days: Days, real_dump: LoadRealDump, official: list[tuple[date, str, str]]
) -> None:
    for day, old, new in official:
        days.manager.execute_query(
            "INSERT INTO nse_symbol_change (changed_on, old_symbol, new_symbol)"
            " VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (day, old, new),
        )
    lists = load(days, real_dump, "nse", NSE)
    assert_lists_are_kept(days, lists)

    changes, kept = 0, 0
    for before, after in pairwise(lists):
        old, new = shares_by_base(before), shares_by_base(after)
        old_ids, new_ids = read_ids(days, before), read_ids(days, after)
        for base in old.keys() - new.keys():
            for became in follow(official, base, after.day) & (new.keys() - old.keys()):
                changes += 1
                kept += old_ids[old[base]] == new_ids[new[became]]
    assert (changes, kept) == (187, 187)

    unclear = set()
    for join in read_joins(days):
        assert join.old["instrument_type"] == join.new["instrument_type"]
        assert join.old["expiry"] == join.new["expiry"]
        old, new = (base_of(row["tradingsymbol"]) for row in join)
        # Of debt of one series the issuer's symbol is what the list has.
        issuers = [symbol[:-3] for symbol in (old, new) if symbol[-3:-2] == "-"]
        led = follow(official, old, lists[-1].day) | follow(official, old[:-3], lists[-1].day)
        is_official = new in led or (old[-3:] == new[-3:] and {*issuers[1:]} & led != set())
        if not is_official and not is_one_name(join.old["name"], join.new["name"], old == new):
            unclear.add(f"{join.old['tradingsymbol']} to {join.new['tradingsymbol']}")
    listed = re.findall(r"`(\S+ to \S+)`", section(PROJECT / "tests" / "README.md", JOINS))
    assert sorted(unclear) == sorted(listed)


def is_one_name(old: str | None, new: str | None, is_one_symbol: bool) -> bool:
    """Whether names speak for one company: they begin alike; where one is blank the symbol does."""
    if not old or not new:
        return is_one_symbol
    first, second = (re.sub("[^A-Z0-9]", "", name.upper()) for name in (old, new))
    return first[:4] == second[:4]


def test_nfo_over_an_expiry(days: Days, real_dump: LoadRealDump) -> None:
    lists = load(days, real_dump, "nfo", NFO)
    assert_lists_are_kept(days, lists)
    joins = read_joins(days)
    assert len(joins) == 100
    for join in joins:  # a contract goes with its token; what its symbol says is the same
        same = ("instrument_token", "instrument_type", "expiry", "name")
        assert [join.old[name] for name in same] == [join.new[name] for name in same]
