"""The views of candles, and `gaps`: against plain Python on random days, and case by case."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag_1_import_instruments_from_kite.history import HISTORY
from dag_2_import_candles_from_kite import gaps as gaps_module
from dag_2_import_candles_from_kite.candles import CANDLES
from dag_2_import_candles_from_kite.gaps import Gap, States, count_states, list_gaps
from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.partitions import ensure_partitions
from dag_2_import_candles_from_kite.tables import COVERAGE
from shared.calendar import IST
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import ensure_extra_table, ensure_views, find_stale
from shared.utils.table_setup import ensure_table
from tests.conftest import NO_WAIT, PROJECT, Server

FOLDER = PROJECT / "dag_2_import_candles_from_kite"
VIEWS = (FOLDER / "views.sql").read_text(encoding="utf-8")
FIRST, LAST = datetime(2025, 1, 1, tzinfo=IST), datetime(2027, 1, 1, tzinfo=IST)
# What an instrument is here: its number, and its exchange.
INDEX, INFY, SBIN, FUTURE, BSE_A, BSE_B, GOLD = range(1, 8)
LISTED = {
    INDEX: ("NSE", "NIFTY 50"),
    INFY: ("NSE", "INFY"),
    SBIN: ("NSE", "SBIN"),
    FUTURE: ("NFO", "NIFTY26JANFUT"),
    BSE_A: ("BSE", "A"),
    BSE_B: ("BSE", "B"),
    GOLD: ("MCX", "GOLD26JANFUT"),
}
INDEXED = ("NSE", "NFO")


def begin_of(day: date) -> datetime:
    return datetime.combine(day, time(), IST)


def january(*numbers: int) -> list[date]:
    return [date(2026, 1, number) for number in numbers]


class Market:
    """The tables, filled by hand."""

    def __init__(self, manager: DatabaseManager) -> None:
        self.manager = manager
        self.query = manager.fetch_all

    def empty(self) -> None:
        self.manager.execute_query(
            f"DELETE FROM kite_candle; DELETE FROM {COVERAGE.name}; DELETE FROM {HISTORY.name}"
        )
        self.insert(
            f"{HISTORY.name}"
            " (instrument_id, instrument_token, exchange, tradingsymbol, valid_from)",
            [(number, number, *listed, FIRST) for number, listed in LISTED.items()],
        )

    def insert(self, where: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            places = ", ".join(["%s"] * len(rows))
            self.manager.execute_query(f"INSERT INTO {where} VALUES {places}", tuple(rows))

    def rename(self, number: int, symbol: str | None, exchange: str = "NSE") -> None:
        """From 2026 on it has another symbol (None: it is not listed any more)."""
        moment = datetime(2026, 1, 1, tzinfo=IST)
        self.manager.execute_query(
            f"UPDATE {HISTORY.name} SET valid_to = %s WHERE instrument_id = %s", (moment, number)
        )
        if symbol:
            self.manager.execute_query(
                f"INSERT INTO {HISTORY.name}"
                " (instrument_id, instrument_token, exchange, tradingsymbol, valid_from)"
                " VALUES (%s, %s, %s, %s, %s)",
                (number, number, exchange, symbol, moment),
            )

    def cover(
        self, number: int, interval: str, begin: date | datetime, end: date | datetime
    ) -> None:
        """A date is its midnight in India."""
        span = [each if isinstance(each, datetime) else begin_of(each) for each in (begin, end)]
        self.insert(COVERAGE.name, [(number, interval, *span, LAST, True)])

    def store(self, number: int, interval: str, days: Sequence[date]) -> None:
        """A day's candle, or the first and the last of a session."""
        times = [time()] if interval == "day" else [time(9, 15), time(15, 29)]
        self.insert(
            "kite_candle (instrument_id, interval, ts, open, high, low, close, volume)",
            [
                (number, interval, datetime.combine(day, hour, IST), 1, 2, 1, 2, 100)
                for day in days
                for hour in times
            ],
        )

    def add(
        self, number: int, interval: str, days: Sequence[date], end: date | None = None
    ) -> None:
        """These days' candles, and coverage from the first to before `end` (the day after)."""
        self.cover(number, interval, days[0], end or days[-1] + timedelta(1))
        self.store(number, interval, days)

    def gaps(self) -> list[Gap]:
        return self.manager.run_in_transaction(list_gaps)

    def told(self) -> list[tuple[str, str, int, int, int]]:
        """Gaps in short: symbol, interval, days of January, number."""
        return [
            (gap.tradingsymbol, gap.interval, gap.from_day.day, gap.to_day.day, gap.days)
            for gap in self.gaps()
        ]

    def states(self, *pairs: tuple[int, str]) -> States:
        return self.manager.run_in_transaction(lambda cursor: count_states(cursor, pairs))


@pytest.fixture(scope="module")
def whole(server: Server, module_database: str) -> Iterator[Market]:
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        with manager.transaction() as cursor:
            ensure_table(cursor, CANDLES, (FOLDER / "schema.sql").read_text(encoding="utf-8"))
            assert ensure_extra_table(cursor, COVERAGE) is None
            assert ensure_extra_table(cursor, HISTORY) is None
            assert ensure_views(cursor, VIEWS) == []
            ensure_partitions(cursor, INTERVALS["day"], FIRST, LAST)
            ensure_partitions(cursor, INTERVALS["minute"], *map(begin_of, january(1, 31)))
        yield Market(manager)


@pytest.fixture
def market(whole: Market) -> Market:
    whole.empty()
    return whole


@pytest.fixture
def reader(
    server: Server, market: Market, module_database: str, make_role: Callable[[], str]
) -> Iterator[DatabaseManager]:
    """A role that may read the views and nothing else."""
    role = make_role()
    names = ", ".join(re.findall(r"VIEW (\w+)", VIEWS))
    market.manager.execute_query(f"GRANT SELECT ON {names} TO {role}")
    config = server.config(module_database, user=role, password="Role-Secret-3f9")
    with DatabaseManager(config, retry=NO_WAIT) as manager:
        yield manager
    market.manager.execute_query(f"REVOKE ALL ON {names} FROM {role}")


# --- gaps, against plain Python ----------------------------------------------------------------

Stored = Mapping[tuple[int, str], tuple[set[date], set[date]]]  # days covered, days with candles
DAYS = january(*range(1, 13))


def days_of(stored: Stored, exchange: str) -> set[date]:
    """Those on which any of its instruments has a candle."""
    found = (days for (number, _), (_, days) in stored.items() if LISTED[number][0] == exchange)
    return set().union(*found)


def trading_days(stored: Stored, exchange: str) -> set[date]:
    """By definition."""
    index_days = stored.get((INDEX, "day"), (set(), set()))[1]
    return index_days if exchange in INDEXED else days_of(stored, exchange)


def model(stored: Stored) -> set[tuple[Any, ...]]:
    """The gaps by definition."""
    index_days = trading_days(stored, "NSE")
    found = set()
    for (number, interval), (covered, days) in stored.items():
        if not days:
            continue
        exchange, symbol = LISTED[number]
        trading = trading_days(stored, exchange)
        due = set(trading)
        if (number, interval) == (INDEX, "day") and index_days:
            due |= days_of(stored, "NSE")
        missing = sorted(day for day in (due & covered) - days if day > min(days))
        rows: dict[int, list[date]] = {}
        for place, day in enumerate(missing):
            before = len([each for each in trading if each < day])
            # Those of a row follow each other among the days of trading.
            key = before if due != trading or day not in trading else before - place
            rows.setdefault(key, []).append(day)
        for row in rows.values():
            found.add((number, exchange, symbol, interval, row[0], row[-1], len(row)))
    return found


@st.composite
def pairs(draw: st.DrawFn) -> Stored:
    stored = {}
    for number in LISTED:
        for interval in ("day", "minute"):
            covered = draw(st.sets(st.sampled_from(DAYS)))
            if covered:
                some = st.sets(st.sampled_from(sorted(covered)))
                stored[number, interval] = (covered, draw(some | st.just(covered)))
    return stored


@given(pairs())
def test_gaps_are_those_of_the_definition(whole: Market, stored: Stored) -> None:
    with whole.manager.transaction():
        whole.empty()
        whole.insert(
            COVERAGE.name,
            [
                (*pair, begin_of(day), begin_of(day + timedelta(1)), LAST, True)
                for pair, (covered, _) in stored.items()
                for day in sorted(covered)
            ],
        )
        for pair, (_, days) in stored.items():
            whole.store(*pair, sorted(days))
    expected = model(stored)
    assert set(map(tuple, whole.gaps())) == expected
    states = whole.states(*((number, each) for number in LISTED for each in ("day", "minute")))
    with_candles = {pair for pair, (_, days) in stored.items() if days}
    with_gaps = {(row[0], row[3]) for row in expected}
    has_index = (INDEX, "day") in with_candles
    untold = {pair for pair in with_candles if LISTED[pair[0]][0] in INDEXED and not has_index}
    complete = with_candles - with_gaps - untold
    behind = [
        pair
        for pair in complete
        if max(stored[pair][0]) < max(trading_days(stored, LISTED[pair[0]][0]))
    ]
    assert states == States(
        wanted=2 * len(LISTED),
        complete=len(complete),
        with_gaps=len(with_gaps),
        missing_days=sum(row[-1] for row in expected),
        untold=len(untold),
        never_answered=2 * len(LISTED) - len(with_candles),
        unasked=2 * len(LISTED) - len(stored),
        behind=len(behind),
    )


# --- case by case ------------------------------------------------------------------------------

WEEK = january(5, 6, 7, 8, 9, 12, 13)  # Monday to Tuesday of the next week


@pytest.mark.parametrize("interval", ["day", "minute"])
@pytest.mark.parametrize(
    ("days", "told"),
    [
        pytest.param(WEEK, [], id="complete"),
        pytest.param(january(7, 8, 9, 12, 13), [], id="listed later"),
        pytest.param(january(5, 6, 8, 9, 12, 13), [(7, 7, 1)], id="in the middle"),
        pytest.param(january(5, 6, 7, 8, 13), [(9, 12, 2)], id="over a weekend"),
        pytest.param(january(5, 7, 9, 12, 13), [(6, 6, 1), (8, 8, 1)], id="two"),
        pytest.param(january(5, 6, 7, 8), [(9, 13, 3)], id="at the end"),
        pytest.param([], [], id="never answered"),
    ],
)
def test_gaps_of_a_share(
    market: Market, interval: str, days: list[date], told: list[tuple[int, int, int]]
) -> None:
    market.add(INDEX, "day", WEEK)
    market.cover(INFY, interval, *january(1, 14))
    market.store(INFY, interval, days)
    assert market.told() == [("INFY", interval, *row) for row in told]
    states = market.states((INFY, interval), (INFY, interval), (SBIN, "day"))
    assert states == States(
        wanted=2,
        complete=int(bool(days) and not told),
        with_gaps=int(bool(told)),
        missing_days=sum(row[-1] for row in told),
        untold=0,
        never_answered=1 if days else 2,
        unasked=1,
    )


def test_session_on_a_weekend_counts(market: Market) -> None:
    market.add(INDEX, "day", january(9, 10, 12))  # a Saturday
    market.add(INFY, "day", january(9, 12))
    assert market.told() == [("INFY", "day", 10, 10, 1)]


def test_what_was_not_asked_for_is_no_gap(market: Market) -> None:
    """Before it was wanted, after it was delisted, and in between."""
    market.add(INDEX, "day", WEEK)
    market.add(INFY, "day", january(6))
    market.add(INFY, "day", january(9), end=date(2026, 1, 13))
    assert market.told() == [("INFY", "day", 12, 12, 1)]


def test_day_that_was_asked_for_in_two_parts(market: Market) -> None:
    market.add(INDEX, "day", WEEK)
    noon = datetime(2026, 1, 7, 12, tzinfo=IST)
    market.cover(INFY, "minute", WEEK[0], noon)
    market.cover(INFY, "minute", noon, date(2026, 1, 9))
    market.store(INFY, "minute", january(5, 6, 8))
    assert market.told() == [("INFY", "minute", 7, 7, 1)]


def test_day_that_is_not_over_is_not_judged(market: Market) -> None:
    market.add(INDEX, "day", WEEK)
    market.cover(INFY, "minute", WEEK[0], datetime(2026, 1, 8, 15, tzinfo=IST))
    market.store(INFY, "minute", january(5, 6, 7))
    assert market.told() == []


@pytest.mark.parametrize("interval", ["day", "minute"])
def test_gap_of_the_index_is_told_by_others(market: Market, interval: str) -> None:
    market.add(INDEX, "day", january(5, 6, 9, 12, 13))
    market.add(INFY, interval, WEEK)
    market.add(GOLD, "day", january(10))  # another exchange tells nothing of it
    assert market.told() == [("NIFTY 50", "day", 7, 8, 2)]


def test_gap_of_the_index_at_its_end(market: Market) -> None:
    market.add(INDEX, "day", january(5, 6), end=date(2026, 1, 13))
    market.add(INFY, "minute", WEEK)
    assert market.told() == [("NIFTY 50", "day", 7, 12, 4)]


def test_missing_day_is_not_hidden_by_a_candle_of_another_day(market: Market) -> None:
    """As many candles as days, and yet not those."""
    market.add(INDEX, "day", WEEK)
    market.add(INFY, "day", january(5, 6, 7, 8, 10, 12, 13))
    assert ("INFY", "day", 9, 9, 1) in market.told()


def test_other_exchanges_have_calendars_of_their_own(market: Market) -> None:
    market.add(INDEX, "day", WEEK)
    market.add(FUTURE, "minute", january(5, 7))
    market.add(BSE_A, "day", january(5, 7))
    market.add(BSE_B, "minute", january(5, 6, 7))
    market.add(GOLD, "minute", january(4, 10), end=date(2026, 1, 14))
    assert market.told() == [("A", "day", 6, 6, 1), ("NIFTY26JANFUT", "minute", 6, 6, 1)]
    days = market.query("SELECT exchange, day FROM kite_trading_day ORDER BY 1, 2")
    expected = {"BSE": january(5, 6, 7), "MCX": january(4, 10), "NFO": WEEK, "NSE": WEEK}
    assert days == [(exchange, day) for exchange, each in expected.items() for day in each]


def test_gaps_are_under_the_newest_symbol(market: Market) -> None:
    market.add(INDEX, "day", WEEK)
    market.add(INFY, "day", january(5, 7))
    market.add(SBIN, "day", january(5, 7))
    market.rename(INFY, "INFOSYS")
    market.rename(SBIN, None)
    assert [row[0] for row in market.told()] == ["INFOSYS", "SBIN"]
    assert market.query("SELECT from_day FROM kite_candle_gap WHERE tradingsymbol = 'INFOSYS'") == [
        (date(2026, 1, 6),)
    ]


def test_index_that_was_renamed_still_is_the_calendar(market: Market) -> None:
    market.add(INDEX, "day", WEEK)
    market.rename(INDEX, None)
    market.add(INFY, "day", january(5, 7))
    assert market.told() == [("INFY", "day", 6, 6, 1)]


# --- the other views ---------------------------------------------------------------------------


def test_candles_by_symbol_and_the_last_of_each(market: Market, reader: DatabaseManager) -> None:
    market.add(INFY, "day", [date(2025, 12, 31), date(2026, 1, 5)])
    market.add(INFY, "minute", january(5))
    market.add(SBIN, "day", january(5))
    market.cover(GOLD, "day", *january(5, 9))
    market.rename(INFY, "INFOSYS")
    market.rename(SBIN, None)
    symbols = (
        "SELECT interval, ts FROM kite_candle_by_symbol WHERE tradingsymbol = %s ORDER BY 1, 2"
    )
    assert [row[0] for row in reader.fetch_all(symbols, ("INFOSYS",))] == [
        *("day", "day"),
        *("minute", "minute"),
    ]
    assert reader.fetch_all(symbols, ("INFY",)) == reader.fetch_all(symbols, ("SBIN",)) == []
    last = "SELECT exchange, tradingsymbol, interval, ts, instrument_id FROM kite_candle_last"
    day, minute = begin_of(date(2026, 1, 5)), datetime(2026, 1, 5, 15, 29, tzinfo=IST)
    assert sorted(reader.fetch_all(last)) == [
        ("NSE", "INFOSYS", "day", day, INFY),
        ("NSE", "INFOSYS", "minute", minute, INFY),
        ("NSE", "SBIN", "day", day, SBIN),
    ]
    assert reader.run_in_transaction(list_gaps) == []
    states = reader.run_in_transaction(lambda cursor: count_states(cursor, [(INFY, "day")]))
    assert states.untold == 1


def plan_of(market: Market, query: str, *params: Any) -> str:
    # So few rows are read as a whole, or by a bitmap, if that may be: it goes by the statistics.
    with market.manager.transaction() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {query}", params)
        return "\n".join(line for (line,) in cursor.fetchall())


def test_bounds_in_time_leave_partitions_out(market: Market) -> None:
    market.add(INFY, "day", january(5))
    query = "SELECT * FROM kite_candle_by_symbol WHERE exchange = 'NSE' AND tradingsymbol = 'INFY'"
    bounded = f"{query} AND interval = %s AND ts >= %s AND ts < %s"
    plan = plan_of(market, bounded, "day", *map(begin_of, january(1, 9)))
    assert set(re.findall(r"on (kite_candle_\w+)", plan)) == {"kite_candle_day_2026"}
    assert "kite_candle_day_2026_pkey" in plan
    plan = plan_of(market, f"{query} AND interval = %s", "day")
    used = set(re.findall(r"on (kite_candle_\w+)", plan))
    assert used == {"kite_candle_day_2025", "kite_candle_day_2026"}


def test_last_candle_is_found_by_an_index(market: Market) -> None:
    market.add(INFY, "day", january(5))
    plan = plan_of(market, "SELECT * FROM kite_candle_last")
    assert "Scan Backward using kite_candle_day_2026_pkey" in plan
    assert not re.search(r"Seq Scan on kite_candle_(day|minute)", plan)


def test_views_are_found_again_as_they_were_made(market: Market) -> None:
    with market.manager.transaction() as cursor:
        assert list(find_stale(cursor, VIEWS)) == []
        cursor.execute("ALTER TABLE kite_candle RENAME TO mine")
        cursor.execute("CREATE TABLE kite_candle (LIKE mine)")
        assert len(list(find_stale(cursor, VIEWS))) == 5
        cursor.execute("DROP TABLE kite_candle; ALTER TABLE mine RENAME TO kite_candle")


# --- the command -------------------------------------------------------------------------------


class Shown:
    """What `gaps` has printed, and its exit status."""

    def __init__(self, status: int, output: str) -> None:
        self.status = status
        self.output = output


@pytest.fixture
def show(
    server: Server,
    market: Market,
    module_database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Shown]:
    config = server.config(module_database)
    for name, key in (("HOST", "host"), ("PORT", "port"), ("NAME", "database"), ("USER", "user")):
        monkeypatch.setenv(f"DB_{name}", str(config[key]))
    monkeypatch.setenv("DB_PASSWORD", config["password"])

    def run(*arguments: str) -> Shown:
        parser = argparse.ArgumentParser()
        gaps_module.GAPS.add_arguments(parser)
        status = gaps_module.GAPS.function(parser.parse_args(arguments))
        return Shown(status or 0, capsys.readouterr().out)

    return run


def test_command_shows_gaps(market: Market, show: Callable[..., Shown]) -> None:
    market.add(INDEX, "day", WEEK)
    market.add(INFY, "day", january(5, 8))
    shown = show()
    assert shown.status == 1
    row = r"NSE:INFY\W+day\W+2026-01-06\W+2026-01-07\W+2"
    assert re.search(row, shown.output)
    assert "2 days are missing, of 1 instrument." in shown.output
    shown = show("--json")
    assert shown.status == 1
    assert json.loads(shown.output) == {
        "is_known": True,
        "untold": [],
        "missing_days": 2,
        "gaps": [
            {
                "instrument_id": INFY,
                "exchange": "NSE",
                "tradingsymbol": "INFY",
                "interval": "day",
                "from_day": "2026-01-06",
                "to_day": "2026-01-07",
                "days": 2,
            }
        ],
    }


def test_command_shows_some_of_many(market: Market, show: Callable[..., Shown]) -> None:
    days = [date(2026, 1, 1) + timedelta(n) for n in range(101)]
    market.add(INDEX, "day", days)
    market.add(INFY, "day", days[::2])
    shown = show()
    assert shown.output.count("NSE:INFY") == gaps_module.SHOWN
    assert "10 more: --json gives all." in shown.output
    assert len(json.loads(show("--json").output)["gaps"]) == 50


def test_command_says_that_there_are_none(market: Market, show: Callable[..., Shown]) -> None:
    market.add(INDEX, "day", WEEK)
    market.add(INFY, "day", WEEK)
    shown = show()
    assert (shown.status, shown.output) == (0, "No gaps on NSE.\n")
    document = json.loads(show("--json").output)
    assert document == {"is_known": True, "untold": [], "missing_days": 0, "gaps": []}


def test_command_claims_nothing_without_a_calendar(
    market: Market, show: Callable[..., Shown]
) -> None:
    shown = show()
    assert shown.status == 4
    assert shown.output == "No candle is stored yet, so gaps cannot be told.\n"
    market.add(INFY, "day", WEEK)
    market.cover(INDEX, "day", *january(5, 9))
    shown = show()
    assert shown.status == 4
    assert shown.output.startswith("Those of NSE cannot be told: NSE:NIFTY 50, whose day candles")
    assert json.loads(show("--json").output)["is_known"] is False
    market.add(BSE_A, "day", january(5, 6))
    market.add(BSE_B, "day", january(5), end=date(2026, 1, 7))
    shown = show()
    assert shown.status == 1
    assert "1 day is missing, of 1 instrument. Those of NSE cannot be told" in shown.output
