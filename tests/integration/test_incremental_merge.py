"""The merge into a table that is no snapshot: the given keys alone are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.exceptions import DatabaseError
from shared.models.table import Column, Table
from shared.utils.db_manager import DatabaseManager
from shared.utils.merge_statements import (
    DELTA_NAME,
    MergeStatements,
    planned_for,
)
from shared.utils.relations import Relation
from shared.utils.sql import fetch_one
from shared.utils.staged_merge import MergeResult, is_stored, merge_rows
from tests.conftest import NO_WAIT, Server

IST = timezone(timedelta(hours=5, minutes=30))
OPENING = datetime(2026, 11, 27, 9, 15, tzinfo=IST)

CANDLES = Table(
    name="candle",
    columns=(
        Column("token", "bigint"),
        Column("begins_at", "timestamptz"),
        Column("close", "numeric", precision=12, scale=2),
        Column("volume", "bigint", nullable=True),
        Column("is_adjusted", "boolean", nullable=True),
    ),
    key=("token", "begins_at"),
    last_updated="",
    created_at="",
    is_snapshot=False,
)
CANDLES_SQL = """
CREATE TABLE candle (
    token bigint, begins_at timestamptz, close numeric(12, 2) NOT NULL, volume bigint,
    is_adjusted boolean, PRIMARY KEY (token, begins_at)
)
"""
# The same with the two moments.
DATED = replace(CANDLES, name="dated", last_updated="last_updated", created_at="created_at")
DATED_SQL = """
CREATE TABLE dated (
    token bigint, begins_at timestamptz, close numeric(12, 2) NOT NULL, volume bigint,
    is_adjusted boolean, last_updated timestamptz, created_at timestamptz,
    PRIMARY KEY (token, begins_at)
)
"""


def candle(token: int, minute: int, close: str = "100.50", **fields: Any) -> dict[str, Any]:
    return {
        "token": token,
        "begins_at": OPENING + timedelta(minutes=minute),
        "close": Decimal(close),
        "volume": 7,
        "is_adjusted": True,
        **fields,
    }


def counts(result: MergeResult) -> tuple[int, int]:
    return result.inserted, result.updated


def key_of(row: dict[str, Any]) -> tuple[int, datetime]:
    return row["token"], row["begins_at"]


def read(manager: DatabaseManager) -> dict[tuple[int, datetime], dict[str, Any]]:
    names = CANDLES.column_names
    found = manager.fetch_all(f"SELECT {', '.join(names)} FROM candle")
    return {key_of(row): row for row in (dict(zip(names, values)) for values in found)}


def read_versions(manager: DatabaseManager) -> dict[tuple[int, datetime], str]:
    """What of each row is another text once it was written again."""
    found = manager.fetch_all("SELECT token, begins_at, concat(ctid, ' ', xmin) FROM candle")
    return {(token, begins_at): version for token, begins_at, version in found}


@pytest.fixture
def candles(db_manager: DatabaseManager) -> DatabaseManager:
    db_manager.execute_query(CANDLES_SQL)
    return db_manager


def test_given_rows_are_merged_and_others_left_alone(candles: DatabaseManager) -> None:
    first = [candle(1, 0), candle(1, 1), candle(2, 0)]
    assert counts(candles.merge(CANDLES, first)) == (3, 0)
    second = [candle(1, 1), candle(2, 0, "99.75", volume=None), candle(2, 1)]
    predicted = candles.merge(CANDLES, second, dry_run=True)
    assert read(candles) == {key_of(row): row for row in first}
    before = read_versions(candles)
    result = candles.merge(CANDLES, second)
    assert counts(result) == counts(predicted) == (1, 2)
    assert result.changed == predicted.changed == 1
    assert {key_of(second[1]), key_of(second[2])} == dict(
        read_versions(candles).items() - before.items()
    ).keys()
    assert read(candles) == {key_of(row): row for row in [*first, *second]}


def test_of_rows_with_one_key_the_last_counts(candles: DatabaseManager) -> None:
    result = candles.merge(CANDLES, [candle(1, 0), candle(1, 0, "2"), candle(1, 1)])
    assert counts(result) == (2, 1)
    assert read(candles)[1, OPENING]["close"] == 2


def test_row_that_is_stored_already_is_not_written_again(candles: DatabaseManager) -> None:
    rows = [candle(1, 0), candle(1, 1)]
    candles.merge(CANDLES, rows)
    before = read_versions(candles)
    assert counts(candles.merge(CANDLES, rows)) == (0, 2)
    assert read_versions(candles) == before


def test_new_and_changed_rows_alone_get_the_moments(db_manager: DatabaseManager) -> None:
    db_manager.execute_query(DATED_SQL)
    first = db_manager.merge(DATED, [candle(1, 0), candle(1, 1)])
    second = db_manager.merge(DATED, [candle(1, 0), candle(1, 1, "2"), candle(1, 2)])
    third = db_manager.merge(DATED, [candle(1, 0)])
    assert counts(third) == (0, 1)
    read_moments = "SELECT last_updated, created_at FROM dated ORDER BY begins_at"
    assert db_manager.fetch_all(read_moments) == [
        (first.moment, first.moment),
        (second.moment, first.moment),
        (second.moment, second.moment),
    ]
    told = [
        db_manager.run_in_transaction(lambda cursor, each=each: is_stored(cursor, DATED, each))
        for each in (first, second, third)
    ]
    assert told == [True, True, False]  # of the third no row tells


def test_lost_commit_cannot_be_looked_up_where_no_row_has_a_moment(
    candles: DatabaseManager,
) -> None:
    result = candles.merge(CANDLES, [candle(1, 0)])
    assert result.moment is not None
    assert result.moment.tzinfo is not None
    assert not candles.run_in_transaction(lambda cursor: is_stored(cursor, CANDLES, result))


def test_differences_are_there_for_the_hooks(candles: DatabaseManager) -> None:
    candles.merge(CANDLES, [candle(1, 0), candle(1, 1), candle(1, 2)])
    seen: list[Any] = []

    def observe(cursor: Any, previous: datetime | None) -> None:
        cursor.execute(
            "SELECT old_close, new_close, old_token = new_token, was_current, was_touched"
            f" FROM {DELTA_NAME} ORDER BY new_begins_at"
        )
        seen.append((previous, cursor.fetchall()))

    def record(cursor: Any, result: MergeResult) -> None:
        seen.append(counts(result))

    rows = [candle(1, 0), candle(1, 1, "1"), candle(1, 3, "2")]
    candles.run_in_transaction(
        lambda cursor: merge_rows(cursor, CANDLES, rows, observe=observe, record=record)
    )
    differences = [
        (Decimal("100.50"), Decimal(1), True, True, False),
        (None, Decimal(2), None, False, False),
    ]
    assert seen == [(None, differences), (1, 2)]


def test_table_that_is_all_key(db_manager: DatabaseManager) -> None:
    db_manager.execute_query("CREATE TABLE holiday (day date PRIMARY KEY)")
    table = Table(
        "holiday", (Column("day", "date"),), ("day",), (), "", created_at="", is_snapshot=False
    )
    days = [{"day": "2026-12-25"}, {"day": "2027-01-26"}]
    assert counts(db_manager.merge(table, days[:1])) == (1, 0)
    assert counts(db_manager.merge(table, days)) == (1, 1)


def test_unique_keys_that_move(db_manager: DatabaseManager) -> None:
    """As of a snapshot: a swap, and a row that is not given and loses its name."""
    db_manager.execute_query("CREATE TABLE shop (id int PRIMARY KEY, name text UNIQUE)")
    table = Table(
        name="shop",
        columns=(Column("id", "integer"), Column("name", "text")),
        key=("id",),
        unique=(("name",),),
        last_updated="",
        created_at="",
        is_snapshot=False,
    )

    def shops(*names: tuple[int, str]) -> list[dict[str, Any]]:
        return [{"id": key, "name": name} for key, name in names]

    db_manager.merge(table, shops((1, "a"), (2, "b"), (3, "c"), (4, "d")))
    rows = shops((1, "b"), (2, "a"), (5, "c"))
    predicted = db_manager.merge(table, rows, dry_run=True)
    result = db_manager.merge(table, rows)
    assert (counts(result), result.superseded) == ((1, 2), 1)
    assert (counts(predicted), predicted.superseded) == ((1, 2), 1)
    stored = db_manager.fetch_all("SELECT id, name FROM shop ORDER BY id")
    assert stored == [(1, "b"), (2, "a"), (4, "d"), (5, "c")]


@pytest.mark.parametrize("staged", [20, 2_000])
def test_keys_are_looked_up_whatever_the_planner_would_rather_do(
    candles: DatabaseManager, staged: int
) -> None:
    candles.execute_query(
        "INSERT INTO candle SELECT token, '2026-11-27 09:15+05:30'::timestamptz"
        " + minute * interval '1 minute', 1, 1 FROM generate_series(1, 40) AS token,"
        " generate_series(1, 500) AS minute; ANALYZE candle"
    )
    rows = [candle(token, minute) for token in range(1, 21) for minute in range(staged // 20)]
    plans: list[str] = []

    def explain(cursor: Any, previous: datetime | None) -> None:
        merge = MergeStatements(CANDLES, Relation("public", "candle"))
        cursor.execute("DROP TABLE pg_temp.stock_ingestion_delta")
        with planned_for(cursor, CANDLES):
            for statement in ("create_delta", "count_stored", "read_back"):
                cursor.execute(b"EXPLAIN " + cursor.mogrify(merge.render(statement)))
                plans.append("\n".join(line for (line,) in cursor.fetchall()))
        read = "SELECT current_setting('enable_hashjoin'), current_setting('enable_mergejoin')"
        assert fetch_one(cursor, read) == ("on", "on")
        cursor.execute(merge.render("create_delta"))

    candles.run_in_transaction(lambda cursor: merge_rows(cursor, CANDLES, rows, observe=explain))
    assert len(plans) == 3
    for plan in plans:
        assert "Index Scan using candle_pkey on candle" in plan
        assert "Seq Scan on candle" not in plan


def test_other_sessions_may_write_meanwhile(
    candles: DatabaseManager, server: Server, database: str
) -> None:
    """No lock of the table: VACUUM and others' rows need not wait for a run."""

    def write(cursor: Any, previous: datetime | None) -> None:
        with DatabaseManager(server.config(database, lock_timeout_seconds=0.05)) as other:
            other.execute_query("INSERT INTO candle VALUES (9, now(), 1, 1)")

    candles.run_in_transaction(
        lambda cursor: merge_rows(cursor, CANDLES, [candle(1, 0)], observe=write)
    )
    assert candles.fetch_all("SELECT token FROM candle ORDER BY 1") == [(1,), (9,)]


TRIGGER = """
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN {} RETURN NEW; END';
CREATE TRIGGER meddles BEFORE INSERT OR UPDATE ON candle
    FOR EACH ROW EXECUTE FUNCTION meddle()
"""


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("NEW.close := NEW.close + 1;", id="a value"),
        pytest.param("NEW.begins_at := NEW.begins_at + interval ''1 s'';", id="a key"),
        pytest.param("IF NEW.token = 1 THEN RETURN NULL; END IF;", id="no row"),
    ],
)
def test_trigger_that_makes_other_rows_is_noticed(candles: DatabaseManager, body: str) -> None:
    candles.execute_query(TRIGGER.format(body))
    with pytest.raises(DatabaseError, match=r"1 of the list's 1 rows are not in public\.candle"):
        candles.merge(CANDLES, [candle(1, 0)])
    assert read(candles) == {}


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_trigger_that_changes_nothing_is_no_hindrance(
    candles: DatabaseManager, server: Server, database: str, zone: str
) -> None:
    """Rows are read back then: the same moment may be written in another zone."""
    server.execute(f"ALTER DATABASE {database} SET timezone = '{zone}'")
    candles.close()
    candles.execute_query(TRIGGER.format(""))
    rows = [candle(1, 0), candle(1, 1, volume=None, is_adjusted=False), candle(1, 2, "7")]
    rows[0]["begins_at"] += timedelta(microseconds=500_000)
    assert counts(candles.merge(CANDLES, rows)) == (3, 0)
    assert counts(candles.merge(CANDLES, [*rows, candle(2, 0)])) == (1, 3)


@pytest.fixture(scope="module")
def module_candles(server: Server, module_database: str) -> Iterator[DatabaseManager]:
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        manager.execute_query(CANDLES_SQL)
        yield manager


ROWS = st.builds(
    candle,
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from(["1", "1.00", "2.5"]),
    volume=st.sampled_from([None, 0, 5]),
    is_adjusted=st.sampled_from([None, True, False]),
)


@settings(max_examples=settings().max_examples // 4)  # of many batches each
@given(batches=st.lists(st.lists(ROWS, max_size=8), max_size=4))
def test_table_equals_the_model_after_every_sequence_of_batches(
    module_candles: DatabaseManager, batches: list[list[dict[str, Any]]]
) -> None:
    module_candles.execute_query("DELETE FROM candle")
    model: dict[tuple[int, datetime], dict[str, Any]] = {}
    for batch in batches:
        given_rows = {key_of(row): row for row in batch}
        inserted = len(given_rows.keys() - model.keys())
        written = {key for key, row in given_rows.items() if model.get(key) != row}
        model.update(given_rows)
        before = read_versions(module_candles)
        result = module_candles.merge(CANDLES, batch)
        assert counts(result) == (inserted, len(batch) - inserted)
        assert dict(read_versions(module_candles).items() - before.items()).keys() == written
        assert read(module_candles) == model
