"""A few candles beside the sandbox's list: what the documents' queries are asked of."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

from psycopg2.extensions import cursor as Cursor

from dag_2_import_candles_from_kite import FEED
from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.partitions import ensure_partitions
from dag_2_import_candles_from_kite.plan import midnight
from shared.preparation import read_schema
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import ensure_extra_table

INDEX, SHARE, CONTRACT = "NSE:NIFTY 50", "NSE:INFY", "NFO:NIFTY2680424500CE"
NEVER_ANSWERED = "NSE:RELIANCE"
FIRST, LAST = date(2026, 7, 1), date(2026, 8, 4)
GAP = date(2026, 7, 15)  # of the share
SPLIT = date(2026, 7, 20)  # of the share: two for one
MINUTES_OF = date(2026, 7, 31)  # of the share: its prices are 1, 2, 3, ...
_DAY = timedelta(days=1)


def list_days() -> list[date]:
    """Those from FIRST to LAST, without weekends."""
    days = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    return [day for day in days if day.weekday() < 5]


def store_candles(manager: DatabaseManager) -> None:
    """Make the tables and views of DAG 2, with candles of July 2026."""
    manager.execute_query(read_schema(FEED))

    def work(cursor: Cursor) -> None:
        for table in FEED.needs:
            assert not ensure_extra_table(cursor, table)
        ensure_partitions(cursor, INTERVALS["day"], midnight(FIRST), midnight(LAST + _DAY))
        ensure_partitions(
            cursor, INTERVALS["minute"], midnight(MINUTES_OF), midnight(MINUTES_OF + _DAY)
        )
        _fill(cursor)

    manager.run_in_transaction(work)
    manager.execute_query(FEED.views)


def _fill(cursor: Cursor) -> None:
    cursor.execute(
        "SELECT exchange || ':' || tradingsymbol, instrument_id"
        " FROM kite_instrument_history ORDER BY valid_from"
    )
    ids = dict(cursor.fetchall())
    rows = [row for key in (INDEX, SHARE, CONTRACT) for row in _list_days_of(key, ids[key])]
    rows += _list_minutes(ids[SHARE])
    cursor.executemany("INSERT INTO kite_candle VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", rows)
    spans = [(ids[key], "day", FIRST, LAST) for key in (INDEX, SHARE, CONTRACT, NEVER_ANSWERED)]
    spans.append((ids[SHARE], "minute", MINUTES_OF, MINUTES_OF))
    at = midnight(LAST) + timedelta(days=1, hours=18)
    cursor.executemany(
        "INSERT INTO kite_candle_coverage VALUES (%s, %s, %s, %s, %s, true)",
        [(*key, midnight(first), midnight(last + _DAY), at) for *key, first, last in spans],
    )
    found_at = midnight(SPLIT) + timedelta(hours=18)
    compared = midnight(SPLIT) - 5 * _DAY, midnight(SPLIT)
    cursor.execute(
        "INSERT INTO kite_candle_adjustment VALUES (%s, 'day', 0.5, %s, %s, %s, NULL)",
        (ids[SHARE], found_at, *compared),
    )


def _list_days_of(key: str, instrument_id: int) -> Iterator[tuple[Any, ...]]:
    for number, day in enumerate(list_days()):
        if (key, day) != (SHARE, GAP):
            close = 100 + number
            oi = 75 if key == CONTRACT else None
            yield instrument_id, "day", midnight(day), close, close + 1, close - 1, close, 10, oi


def _list_minutes(instrument_id: int) -> Iterator[tuple[Any, ...]]:
    opens = datetime.combine(MINUTES_OF, time(9, 15), midnight(MINUTES_OF).tzinfo)
    for number in range(375):
        price = number + 1
        ts = opens + timedelta(minutes=number)
        yield instrument_id, "minute", ts, price, price, price, price, 1, None
