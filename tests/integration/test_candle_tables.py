"""The tables of candles, and their partitions: made beside readers, whoever made others before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import cursor as Cursor

from dag_2_import_candles_from_kite.answers import render
from dag_2_import_candles_from_kite.candles import CANDLES
from dag_2_import_candles_from_kite.intervals import INTERVALS, Interval
from dag_2_import_candles_from_kite.partitions import (
    Partitions,
    ensure_partitions,
    find_lacking_partitions,
    list_periods,
)
from dag_2_import_candles_from_kite.plan import Span
from dag_2_import_candles_from_kite.store import Adjustment, Series, Store
from dag_2_import_candles_from_kite.tables import ADJUSTMENTS, COVERAGE
from dag_2_import_candles_from_kite.universe import Target
from shared.calendar import IST
from shared.exceptions import DatabaseError, TransientDatabaseError
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import ensure_extra_table, find_extra
from shared.utils.relations import find_relation
from shared.utils.table_check import check_columns, read_table
from shared.utils.table_setup import ensure_table
from tests.candles import make_candle
from tests.conftest import NO_WAIT, PROJECT, Server

SCHEMA = (PROJECT / "dag_2_import_candles_from_kite" / "schema.sql").read_text(encoding="utf-8")
DAY, MINUTE = INTERVALS["day"], INTERVALS["minute"]
INSERT = "INSERT INTO kite_candle VALUES (%s, %s, %s, 1, 2, 1, 2, 100, NULL)"
BOUNDS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
JOIN pg_class AS p ON p.oid = inhparent AND p.relkind = 'p'
ORDER BY 1
"""
INDEXES = """
SELECT leaf.relname, index.indisvalid AND index.indisunique, above.indisprimary, above.indisvalid
FROM pg_class AS leaf JOIN pg_index AS index ON index.indrelid = leaf.oid
LEFT JOIN pg_inherits ON inhrelid = index.indexrelid
LEFT JOIN pg_index AS above ON above.indexrelid = inhparent
WHERE leaf.relname LIKE 'kite_candle%' AND leaf.relkind IN ('r', 'p') AND leaf.relispartition
"""


def ist(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=IST)  # type: ignore[arg-type, misc]


@pytest.fixture
def manager(server: Server, empty_database: str) -> Iterator[DatabaseManager]:
    with DatabaseManager(server.config(empty_database), retry=NO_WAIT) as manager:
        manager.run_in_transaction(lambda cursor: ensure_table(cursor, CANDLES, SCHEMA))
        yield manager


@pytest.fixture
def session(server: Server, manager: DatabaseManager, empty_database: str) -> Iterator[Any]:
    """Another session: its statements wait a tenth of a second at most."""
    with closing(server.connect(empty_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '100ms'")
        yield cursor


def ensure(manager: DatabaseManager, interval: Interval, begin: datetime, end: datetime) -> None:
    manager.run_in_transaction(lambda cursor: ensure_partitions(cursor, interval, begin, end))


def names(manager: DatabaseManager) -> list[str]:
    return [name for name, _ in manager.fetch_all(BOUNDS)]


class CountingCursor(Cursor):
    """A cursor that keeps its statements."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.statements: list[Any] = []

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's name
        self.statements.append(query)
        super().execute(query, vars)


# --- the tables themselves ---------------------------------------------------------------------


def test_table_takes_every_candle_exactly(manager: DatabaseManager) -> None:
    with manager.transaction() as cursor:
        found = read_table(cursor, CANDLES.name)
        assert found is not None
        assert check_columns(cursor, CANDLES, found) == []
    assert tuple(found.columns) == CANDLES.column_names
    assert found.has_primary_key


@pytest.mark.parametrize("table", [COVERAGE, ADJUSTMENTS], ids=lambda table: table.name)
def test_tables_beside_it_are_made_and_known_again(manager: DatabaseManager, table: Any) -> None:
    with manager.transaction() as cursor:
        assert ensure_extra_table(cursor, table) is None
        found = find_extra(cursor, table)
        assert ensure_extra_table(cursor, table) is None
    assert found is not None
    # All but none: also those whose names are quoted.
    assert [column.name for column in table.columns] == list(found.columns)
    assert all(
        column.nullable != found.columns[column.name].is_not_null for column in table.columns
    )


def test_coverage_without_a_quoted_column_is_something_else(manager: DatabaseManager) -> None:
    assert {"from", "to"} <= {column.name for column in COVERAGE.columns}
    manager.execute_query(COVERAGE.script.replace('"to"', '"until"'))
    with manager.transaction() as cursor:
        assert "lacks the column to" in (ensure_extra_table(cursor, COVERAGE) or "")


# --- periods -----------------------------------------------------------------------------------

moments = st.datetimes(datetime(2014, 1, 1), datetime(2031, 1, 1), timezones=st.just(UTC))


@given(
    st.sampled_from(list(INTERVALS.values())), moments, st.timedeltas(timedelta(), timedelta(999))
)
def test_periods_cover_the_span_without_a_hole(
    interval: Interval, begin: datetime, length: timedelta
) -> None:
    periods = list_periods(interval, begin, begin + length)
    if not length:
        assert periods == []
        return
    assert periods[0].begin <= begin < periods[0].end
    assert periods[-1].begin < begin + length <= periods[-1].end
    assert [period.end for period in periods[:-1]] == [period.begin for period in periods[1:]]
    for _, first, after in periods:
        assert (first.day, first.hour, first.utcoffset()) == (1, 0, timedelta(hours=5.5))
        months = (after.year - first.year) * 12 + after.month - first.month
        assert months == (12 if interval.is_day else 1)


# --- making them -------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_bounds_are_midnights_in_india_whatever_the_zone(
    manager: DatabaseManager, session: Any, zone: str
) -> None:
    with manager.transaction() as cursor:
        cursor.execute(f"SET LOCAL timezone = '{zone}'")
        ensure_partitions(cursor, DAY, ist(2025, 12, 31, 23, 59), ist(2026, 1, 1, 0, 1))
        ensure_partitions(cursor, MINUTE, ist(2026, 11, 30), ist(2026, 12, 1))
        ensure_partitions(cursor, DAY, ist(2025, 12, 31, 23, 59), ist(2026, 1, 1, 0, 1))
    session.execute("SET timezone = 'Asia/Kolkata'")
    session.execute(BOUNDS)
    assert dict(session.fetchall()) == {
        "kite_candle_day": "FOR VALUES IN ('day')",
        "kite_candle_day_2025": (
            "FOR VALUES FROM ('2025-01-01 00:00:00+05:30') TO ('2026-01-01 00:00:00+05:30')"
        ),
        "kite_candle_day_2026": (
            "FOR VALUES FROM ('2026-01-01 00:00:00+05:30') TO ('2027-01-01 00:00:00+05:30')"
        ),
        "kite_candle_minute": "FOR VALUES IN ('minute')",
        "kite_candle_minute_2026_11": (
            "FOR VALUES FROM ('2026-11-01 00:00:00+05:30') TO ('2026-12-01 00:00:00+05:30')"
        ),
    }


def test_candles_go_where_they_belong_and_none_twice(manager: DatabaseManager) -> None:
    ensure(manager, DAY, ist(2025, 1, 1), ist(2026, 2, 1))
    moments = [ist(2025, 12, 31), ist(2026, 1, 1)]
    manager.execute_many(INSERT, [(1, "day", moment) for moment in moments])
    assert manager.fetch_all(
        "SELECT tableoid::regclass::text, ts FROM kite_candle ORDER BY ts"
    ) == [
        ("kite_candle_day_2025", moments[0]),
        ("kite_candle_day_2026", moments[1]),
    ]
    with pytest.raises(DatabaseError):
        manager.execute_query(INSERT, (1, "day", moments[0]))


def test_indexes_are_part_of_the_primary_key(manager: DatabaseManager) -> None:
    ensure(manager, DAY, ist(2025, 1, 1), ist(2026, 2, 1))
    ensure(manager, DAY, ist(2027, 1, 1), ist(2027, 2, 1))
    rows = manager.fetch_all(INDEXES)
    assert len(rows) == 4  # the branch, and three years
    assert all(row[1:] == (True, True, True) for row in rows)
    assert manager.fetch_all(
        "SELECT indisvalid FROM pg_index WHERE indrelid = 'kite_candle'::regclass"
    ) == [(True,)]


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "next"])
def test_it_does_not_wait_for_readers_nor_writers(
    manager: DatabaseManager, session: Any, is_first: bool
) -> None:
    if not is_first:
        ensure(manager, DAY, ist(2025, 1, 1), ist(2025, 2, 1))
    session.execute(
        "BEGIN; SELECT * FROM kite_candle; LOCK TABLE kite_candle IN ROW EXCLUSIVE MODE"
    )
    ensure(manager, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
    assert "kite_candle_day_2026" in names(manager)
    session.execute("COMMIT")


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "next"])
def test_readers_and_writers_do_not_wait_while_it_is_not_committed(
    manager: DatabaseManager, session: Any, is_first: bool
) -> None:
    ensure(manager, MINUTE, ist(2026, 1, 1), ist(2026, 2, 1))
    if not is_first:
        ensure(manager, DAY, ist(2025, 1, 1), ist(2025, 2, 1))
    with manager.transaction() as cursor:
        ensure_partitions(cursor, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
        cursor.execute(INSERT, (1, "day", ist(2026, 1, 1)))
        session.execute("SELECT count(*) FROM kite_candle WHERE interval = 'day'")
        assert session.fetchall() == [(0,)]
        session.execute(INSERT, (1, "minute", ist(2026, 1, 1, 9, 15)))
    session.execute("SELECT count(*) FROM kite_candle")
    assert session.fetchall() == [(2,)]


def test_partition_of_would_lock_readers_out(manager: DatabaseManager, session: Any) -> None:
    """Why it is not done."""
    ensure(manager, DAY, ist(2025, 1, 1), ist(2025, 2, 1))
    with manager.transaction() as cursor:
        cursor.execute(
            "CREATE TABLE x PARTITION OF kite_candle_day"
            " FOR VALUES FROM ('2026-01-01 00:00:00+05:30') TO ('2027-01-01 00:00:00+05:30')"
        )
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            session.execute("SELECT count(*) FROM kite_candle")


def test_two_runs_at_once(server: Server, manager: DatabaseManager, session: Any) -> None:
    """The second waits for the first, and finds what that has made."""
    with manager.transaction() as cursor:
        ensure_partitions(cursor, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
        session.execute("BEGIN")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            ensure_partitions(session, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
        session.execute("ROLLBACK; BEGIN")
        # One that needs nothing does not wait.
        ensure_partitions(session, DAY, ist(2026, 1, 1), ist(2026, 1, 1))
    ensure_partitions(session, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
    session.execute("COMMIT")
    assert names(manager) == ["kite_candle_day", "kite_candle_day_2026"]


def test_table_that_another_session_is_changing(manager: DatabaseManager, session: Any) -> None:
    session.execute("BEGIN; LOCK TABLE kite_candle IN SHARE UPDATE EXCLUSIVE MODE")
    said = "kite_candle_day_2026 cannot be attached"
    with pytest.raises(TransientDatabaseError, match=said), manager.transaction() as cursor:
        ensure_partitions(cursor, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
    session.execute("ROLLBACK")
    assert names(manager) == []


def test_one_look_is_enough_where_all_is_there(
    server: Server, manager: DatabaseManager, empty_database: str
) -> None:
    begin, end = ist(2015, 1, 1), ist(2026, 2, 1)
    ensure(manager, DAY, begin, end)
    with closing(server.connect(empty_database)) as connection:
        cursor = connection.cursor(cursor_factory=CountingCursor)
        table = find_relation(cursor, CANDLES.name)
        found, seen = Partitions(table), len(cursor.statements)
        ensure_partitions(cursor, DAY, begin, end, table=table)
        assert len(cursor.statements) == seen + 1
        found.ensure(cursor, DAY, ist(2026, 1, 5), ist(2026, 1, 6))
        assert len(cursor.statements) == seen + 2
        found.ensure(cursor, DAY, ist(2026, 1, 1), end)  # the same year
        assert len(cursor.statements) == seen + 2
        found.ensure(cursor, DAY, begin, end)
        assert len(cursor.statements) == seen + 3


def test_what_a_transaction_has_made_is_not_remembered_before_it_ends(
    manager: DatabaseManager,
) -> None:
    span = ist(2026, 1, 1), ist(2026, 2, 1)
    with manager.transaction() as cursor:
        found = Partitions(find_relation(cursor, CANDLES.name))

    def fail(cursor: Any) -> None:
        found.ensure(cursor, DAY, *span)
        found.ensure(cursor, DAY, *span)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        manager.run_in_transaction(fail)
    assert names(manager) == []
    with manager.transaction() as cursor:
        found.ensure(cursor, DAY, *span)
    assert "kite_candle_day_2026" in names(manager)


def test_it_is_made_where_the_table_is(manager: DatabaseManager) -> None:
    manager.execute_query(
        'CREATE SCHEMA "Odd ""one"; ALTER TABLE kite_candle SET SCHEMA "Odd ""one"'
    )
    with manager.transaction() as cursor:
        cursor.execute('SET LOCAL search_path = public, "Odd ""one"')
        ensure_partitions(cursor, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
        cursor.execute(
            "SELECT count(*) FROM pg_class AS c WHERE relkind IN ('r', 'p')"
            ' AND relnamespace::regnamespace::text = \'"Odd ""one"\''
        )
        assert cursor.fetchall() == [(3,)]
        ensure_partitions(cursor, DAY, ist(2026, 1, 1), ist(2026, 2, 1))


def test_without_a_table_nothing_is_made(server: Server, empty_database: str) -> None:
    with DatabaseManager(server.config(empty_database)) as manager:
        ensure(manager, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
        with manager.transaction() as cursor:
            assert find_lacking_partitions(cursor, [DAY], ist(2026, 1, 1)) == []


# --- beside those of others --------------------------------------------------------------------

BRANCH = "CREATE TABLE own PARTITION OF kite_candle FOR VALUES IN ('day', 'week')"
BY_TIME = f"{BRANCH} PARTITION BY RANGE (ts)"
LEAF = "CREATE TABLE wide PARTITION OF own"


@pytest.mark.parametrize(
    ("layout", "made"),
    [
        pytest.param(BRANCH, [], id="one for all years"),
        pytest.param(f"{BRANCH} PARTITION BY HASH (instrument_id)", [], id="by instrument"),
        pytest.param(
            f"{BRANCH} PARTITION BY RANGE (ts, instrument_id)", [], id="by time and instrument"
        ),
        pytest.param(
            f"{BY_TIME}; {LEAF} FOR VALUES FROM (MINVALUE) TO (MAXVALUE)", [], id="unbounded"
        ),
        pytest.param(
            f"{BY_TIME}; {LEAF} FOR VALUES FROM ('-infinity') TO ('infinity')", [], id="infinite"
        ),
        pytest.param(
            f"{BY_TIME}; {LEAF} FOR VALUES"
            " FROM ('2020-01-01 00:00:00Z') TO ('2027-01-01 00:00:00Z')",
            ["kite_candle_day_2027_0101_053000"],
            id="wider",
        ),
        pytest.param(
            f"{BY_TIME}; {LEAF} FOR VALUES"
            " FROM ('2026-04-01 00:00:00+05:30') TO ('2026-07-01 05:30:00+05:30')",
            ["kite_candle_day_2026", "kite_candle_day_2026_0701_053000", "kite_candle_day_2027"],
            id="narrower",
        ),
        pytest.param(
            f"{BY_TIME}; {LEAF} DEFAULT",
            ["kite_candle_day_2026", "kite_candle_day_2027"],
            id="an empty DEFAULT",
        ),
        pytest.param(
            "CREATE TABLE others PARTITION OF kite_candle DEFAULT",
            ["kite_candle_day", "kite_candle_day_2026", "kite_candle_day_2027"],
            id="an empty DEFAULT for intervals",
        ),
    ],
)
def test_only_what_no_partition_takes_is_made(
    manager: DatabaseManager, layout: str, made: list[str]
) -> None:
    manager.execute_query(layout)
    before = set(names(manager))
    ensure(manager, DAY, ist(2026, 1, 1), ist(2027, 2, 1))
    assert sorted(set(names(manager)) - before) == made
    ensure(manager, DAY, ist(2026, 1, 1), ist(2027, 2, 1))
    assert sorted(set(names(manager)) - before) == made
    if "HASH" in layout or "instrument_id)" in layout:
        return
    stored = [(1, "day", ist(2026, 1, 1) + timedelta(days=days)) for days in range(0, 396, 30)]
    manager.execute_many(INSERT, stored)


@pytest.mark.parametrize(
    "partitioned", ["", " PARTITION BY RANGE (ts)"], ids=["ordinary", "by time"]
)
def test_table_that_is_divided_otherwise_stays_as_it_is(
    server: Server, empty_database: str, partitioned: str
) -> None:
    by_interval = "\nPARTITION BY LIST (interval)"
    with DatabaseManager(server.config(empty_database)) as manager:
        manager.execute_query(SCHEMA.replace(by_interval, partitioned))
        ensure(manager, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
        assert names(manager) == []
        with manager.transaction() as cursor:
            found = Partitions(find_relation(cursor, CANDLES.name))
            found.ensure(cursor, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
        if not partitioned:
            manager.execute_query(INSERT, (1, "day", ist(2026, 1, 1)))


def follow(manager: DatabaseManager, words: str) -> None:
    """Run what a message says."""
    found = re.search(r"owner (?:run|move them): (.*)", words, re.S)
    assert found is not None
    for statement in found[1].split("; "):
        if statement not in ("BEGIN", "COMMIT"):
            manager.execute_query(statement)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param("CREATE TABLE rest PARTITION OF kite_candle DEFAULT", id="of intervals"),
        pytest.param(f"{BY_TIME}; CREATE TABLE rest PARTITION OF own DEFAULT", id="of years"),
    ],
)
def test_default_partition_that_has_candles(manager: DatabaseManager, layout: str) -> None:
    """The message moves them, and none is lost."""
    manager.execute_query(layout)
    stored = [(n, "day", ist(2026 + n, 1, 1)) for n in range(-3, 3)]
    manager.execute_many(INSERT, stored)
    with pytest.raises(DatabaseError, match="The DEFAULT partition rest has candles") as raised:
        ensure(manager, DAY, ist(2026, 1, 1), ist(2027, 2, 1))
    assert "rest" in names(manager)
    with manager.transaction():
        follow(manager, str(raised.value))
    ensure(manager, DAY, ist(2026, 1, 1), ist(2027, 2, 1))
    query = "SELECT instrument_id, interval, ts FROM kite_candle ORDER BY 1"
    assert manager.fetch_all(query) == stored
    query = "SELECT DISTINCT tableoid::regclass::text FROM kite_candle WHERE ts >= %s AND ts < %s"
    places = manager.fetch_all(query, (ist(2026, 1, 1), ist(2028, 1, 1)))
    assert sorted(places) == [("kite_candle_day_2026",), ("kite_candle_day_2027",)]


@pytest.mark.parametrize("is_detached", [True, False], ids=["detached", "something else"])
def test_name_that_is_taken(manager: DatabaseManager, is_detached: bool) -> None:
    """Rows that somebody took out do not come back by themselves."""
    ensure(manager, DAY, ist(2025, 1, 1), ist(2026, 2, 1))
    manager.execute_query("ALTER TABLE kite_candle_day DETACH PARTITION kite_candle_day_2026")
    if not is_detached:
        manager.execute_query("DROP TABLE kite_candle_day_2026")
        manager.execute_query("CREATE VIEW kite_candle_day_2026 AS SELECT 1")
    with pytest.raises(DatabaseError, match="a table of that name is there"):
        ensure(manager, DAY, ist(2026, 1, 1), ist(2026, 2, 1))


# --- roles -------------------------------------------------------------------------------------


@pytest.fixture
def role(
    server: Server, manager: DatabaseManager, empty_database: str, make_role: Callable[[], str]
) -> Iterator[DatabaseManager]:
    """A manager of a role that may write the table, and make nothing."""
    name = make_role()
    manager.execute_query(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON kite_candle TO {name};"
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )
    config = server.config(empty_database, user=name, password="Role-Secret-3f9")
    with DatabaseManager(config, retry=NO_WAIT) as of_role:
        yield of_role


def test_role_with_partitions_needs_no_right_to_make_any(
    manager: DatabaseManager, role: DatabaseManager
) -> None:
    ensure(manager, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
    ensure(role, DAY, ist(2026, 1, 1), ist(2026, 2, 1))
    role.execute_query(INSERT, (1, "day", ist(2026, 1, 1)))
    role.execute_query("UPDATE kite_candle SET close = 1 WHERE interval = 'day'")
    role.execute_query("DELETE FROM kite_candle WHERE interval = 'day'")
    role.execute_query(INSERT, (1, "day", ist(2026, 1, 1)))
    assert role.fetch_all("SELECT instrument_id FROM kite_candle") == [(1,)]


def test_role_without_partitions_is_told_what_the_owner_has_to_run(
    manager: DatabaseManager, role: DatabaseManager
) -> None:
    with pytest.raises(DatabaseError, match="day from 2025-01-01 to 2026-12-31") as raised:
        ensure(role, DAY, ist(2025, 12, 1), ist(2026, 2, 1))
    follow(manager, str(raised.value))
    ensure(role, DAY, ist(2025, 12, 1), ist(2026, 2, 1))
    role.execute_query(INSERT, (1, "day", ist(2026, 1, 1)))


def test_role_without_partitions_uses_a_default_one(
    manager: DatabaseManager, role: DatabaseManager
) -> None:
    manager.execute_query("CREATE TABLE rest PARTITION OF kite_candle DEFAULT")
    ensure(role, DAY, ist(2025, 12, 1), ist(2026, 2, 1))
    role.execute_query(INSERT, (1, "day", ist(2026, 1, 1)))


def test_check_tells_what_lacks_for_now_and_next(
    manager: DatabaseManager, role: DatabaseManager
) -> None:
    now = ist(2026, 12, 5)
    wanted = [DAY, MINUTE]
    with manager.transaction() as cursor:
        assert find_lacking_partitions(cursor, wanted, now) == []  # it makes them itself
    with role.transaction() as cursor:
        statements = find_lacking_partitions(cursor, wanted, now)
    for statement in statements:
        manager.execute_query(statement)
    assert names(manager) == [
        "kite_candle_day",
        "kite_candle_day_2026",
        "kite_candle_day_2027",
        "kite_candle_minute",
        "kite_candle_minute_2026_12",
        "kite_candle_minute_2027_01",
    ]
    with role.transaction() as cursor:
        assert find_lacking_partitions(cursor, wanted, now) == []
        since = find_lacking_partitions(cursor, [DAY], now, since=ist(2025, 3, 1))
    assert [statement.split(" ")[0] for statement in since] == ["CREATE", "ALTER"]


# --- what an answer touches ----------------------------------------------------------------------

LOCKED = """
SELECT DISTINCT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation
WHERE pid = pg_backend_pid() AND relname ~ '^kite_candle_day_[0-9]+$'
"""


@pytest.mark.parametrize("is_whole", [False, True], ids=["merged", "asked anew"])
def test_only_the_partitions_of_an_answer_are_touched(
    manager: DatabaseManager, is_whole: bool
) -> None:
    """Each statement has the answer's bounds: a partition without them is not even locked."""
    ensure(manager, DAY, ist(2023, 1, 1), ist(2028, 1, 1))
    series = Series(Target(7, 512, "NSE", "INFY", has_oi=False), DAY)
    span, now = Span(ist(2026, 1, 5), ist(2026, 1, 8)), ist(2026, 1, 9)
    candles = [make_candle(ist(2026, 1, day)) for day in (5, 6, 7)]
    adjustment = Adjustment(Decimal("0.5"), span)
    with manager.transaction() as cursor:
        for table in (COVERAGE, ADJUSTMENTS):
            assert not ensure_extra_table(cursor, table)
        cursor.execute(INSERT, (7, "day", ist(2025, 12, 30)))
        cursor.execute(INSERT, (7, "day", ist(2026, 1, 5)))
        cursor.execute(INSERT, (7, "day", ist(2026, 1, 6)))
    with manager.transaction() as cursor:
        store = Store.open(cursor)
    with manager.transaction() as cursor:
        if is_whole:
            lines = BytesIO(render(candles[1:], 7, "day"))
            store.replace(cursor, series, span, lines, 2, now, adjustment)
        else:
            store.merge(cursor, series, span, candles, now, lambda comparison: True)
        cursor.execute(LOCKED)
        assert cursor.fetchall() == [("kite_candle_day_2026",)]
