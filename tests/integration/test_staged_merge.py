"""The merge: its statements, its stream, its counts, on tables of any description."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from shared.exceptions import DatabaseError
from shared.models.instrument import INSTRUMENT_TABLE
from shared.models.table import Column, Table
from shared.utils.db_manager import DatabaseManager
from shared.utils.merge_statements import DELTA_NAME, MergeStatements
from shared.utils.relations import Relation
from shared.utils.staged_merge import MergeResult, lock_name, merge_rows
from tests.conftest import Server
from tests.instruments import instrument
from tests.table_model import fields_of, key_of, read_table

MASTER = Relation("public", "kite_instrument_master")

SHOPS = Table(
    name="shops",
    columns=(
        Column("id", "integer"),
        Column("name", "varchar", length=60),
        Column("code", "varchar", length=40),
        Column("balance", "numeric", precision=6, scale=1),
    ),
    key=("id",),
    unique=(("name",), ("code",)),
    last_updated="seen_at",
    created_at="first_seen_at",
)
# Rows that come a few at a time, and carry no moment of a run.
CANDLES = Table(
    name="candle",
    columns=(
        Column("token", "bigint"),
        Column("begins_at", "timestamptz"),
        Column("close", "numeric", precision=12, scale=2),
        Column("volume", "bigint", nullable=True),
    ),
    key=("token", "begins_at"),
    last_updated="",
    created_at="",
    is_snapshot=False,
)
SHOPS_SQL = """
CREATE TABLE shops (
    id integer PRIMARY KEY, name varchar(60) UNIQUE, code varchar(40) UNIQUE, balance numeric(6, 1),
    seen_at timestamp, first_seen_at timestamp
)
"""


@pytest.fixture
def connection(server: Server, database: str) -> Iterator[Any]:
    """A second session, to look at what is committed."""
    connection = server.connect(database)
    yield connection
    connection.close()


def shop(key: int, name: str, code: str | None, balance: str = "0") -> dict[str, Any]:
    return {"id": key, "name": name, "code": code, "balance": Decimal(balance)}


def counts(result: MergeResult) -> tuple[int, int, int]:
    return result.inserted, result.updated, result.superseded


def render_pinned(merge: MergeStatements, connection: Any) -> str:
    """The statements as a file of SQL, with a line of description each."""
    make_way = dict(zip(merge.table.unique, merge.render_each("make_way")))
    superseded = dict(zip(merge.table.unique, merge.render_each("superseded")))
    of_snapshot = {
        "From here on nobody else writes, and everybody reads.": "lock_table",
        "Where no history tells it: the moment of the last list.": "newest",
    }
    touch = {"Keys that are there, with nothing new about them but the moment.": "touch"}
    is_stored = {"After an answer to COMMIT that was lost: is it stored?": "is_stored"}
    is_snapshot = merge.table.is_snapshot
    described: dict[str, Any] = {
        "What another merge may have left in a pooled session.": "drop",
        "The rows of the run, gone when the transaction ends.": "create_stage",
        "Filled from the client, as text.": "copy_to_stage",
        **(of_snapshot if is_snapshot else {}),
        "What the run changes.": "create_delta",
        "So that the planner knows how much that is.": "analyze_delta",
        "How many keys are new, and how many rows get other values.": "count_differences",
        **{
            f"Stored rows let go of what the run gives to another key: {', '.join(unique)}.": each
            for unique, each in make_way.items()
        },
        **(touch if is_snapshot else {}),
        "Keys that are there, with something new.": "update",
        "Keys that are new.": "insert",
        "How many rows the run has, and how many of its changes are off.": "count_stored",
        "Where something may change rows on their way: all that are there.": "read_back",
        **(is_stored if merge.table.last_updated else {}),
        **{
            f"In a dry run: the rows that would be superseded by their {', '.join(unique)}.": each
            for unique, each in superseded.items()
        },
    }

    def render(statement: Any) -> str:
        if isinstance(statement, str):
            statement = merge.render(statement)
        text: str = statement.as_string(connection)
        return text

    return "\n".join(
        f"-- {description}\n{render(statement)};\n" for description, statement in described.items()
    )


@pytest.mark.parametrize(
    ("table", "file_name"),
    [
        pytest.param(INSTRUMENT_TABLE, "merge_kite_instrument_master.sql", id="snapshot"),
        pytest.param(CANDLES, "merge_candle.sql", id="incremental"),
    ],
)
def test_statements_equal_the_pinned_file(
    module_connection: Any, table: Table, file_name: str
) -> None:
    pinned = Path(__file__).with_name(file_name)
    merge = MergeStatements(table, Relation("public", table.name))
    rendered = render_pinned(merge, module_connection)
    assert rendered == pinned.read_text(encoding="utf-8"), (
        f"the merge has changed: review it, then put this into {file_name}:\n{rendered}"
    )


def test_merge_never_commits(emptied_manager: DatabaseManager, module_connection: Any) -> None:
    def merge_and_fail() -> None:
        with emptied_manager.transaction() as cursor:
            result = merge_rows(cursor, INSTRUMENT_TABLE, [instrument(1, "A")])
            assert counts(result) == (1, 0, 0)
            cursor.execute("SELECT count(*) FROM kite_instrument_master")
            assert cursor.fetchone() == (1,)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        merge_and_fail()
    assert read_table(module_connection) == {}


def test_two_merges_in_one_transaction(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    with emptied_manager.transaction() as cursor:
        first = merge_rows(cursor, INSTRUMENT_TABLE, [instrument(1, "A"), instrument(2, "B")])
        second = merge_rows(cursor, INSTRUMENT_TABLE, [instrument(2, "A"), instrument(3, "B")])
    assert (counts(first), counts(second)) == ((2, 0, 0), (1, 1, 1))
    table = read_table(module_connection)
    assert sorted((key[0], row["tradingsymbol"]) for key, row in table.items()) == [
        (2, "A"),
        (3, "B"),
    ]
    kept = table[2, "NFO"]
    assert kept["created_at"] < kept["last_updated"] == table[3, "NFO"]["last_updated"]


def test_merge_of_no_rows_asks_nothing_of_the_database(emptied_manager: DatabaseManager) -> None:
    with emptied_manager.transaction() as cursor:
        assert merge_rows(cursor, INSTRUMENT_TABLE, []) == MergeResult(0, 0, 0, None)
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [
        pytest.param(1, [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)], id="one"),
        pytest.param(2, [(2, 5), (4, 5), (5, 5)], id="last batch not full"),
        pytest.param(5, [(5, 5)], id="all"),
        pytest.param(9, [(5, 5)], id="more than all"),
    ],
)
def test_progress_is_told_after_each_batch(
    emptied_manager: DatabaseManager,
    module_connection: Any,
    batch_size: int,
    expected: list[tuple[int, int]],
) -> None:
    rows = [instrument(token, f"S{token}") for token in range(1, 6)]
    told: list[tuple[int, int]] = []
    emptied_manager.merge(
        INSTRUMENT_TABLE,
        rows,
        batch_size=batch_size,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == expected
    assert fields_of(read_table(module_connection)) == {key_of(row): row for row in rows}


def test_error_of_progress_comes_out_as_it_is(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError("the display broke")

    with pytest.raises(ZeroDivisionError, match="the display broke"):
        emptied_manager.merge(INSTRUMENT_TABLE, [instrument(1, "A")], progress=fail)
    assert read_table(module_connection) == {}
    assert emptied_manager.upsert_instruments([instrument(1, "A")]) == (1, 0)


@pytest.mark.parametrize("column", ["name", "lot_size", "exchange", "tradingsymbol"])
def test_row_without_a_column_is_refused_by_name(
    emptied_manager: DatabaseManager, module_connection: Any, column: str
) -> None:
    incomplete = instrument(2, "B")
    del incomplete[column]
    with pytest.raises(DatabaseError, match=f"'{column}'; nothing was stored") as caught:
        emptied_manager.upsert_instruments([instrument(1, "A"), incomplete])
    assert "cancelled" not in str(caught.value)
    assert read_table(module_connection) == {}


def test_text_that_is_no_unicode_is_refused_as_such(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    with pytest.raises(DatabaseError, match="not Unicode"):
        emptied_manager.upsert_instruments([instrument(1, "A"), instrument(2, "B", name="x\ud800")])
    assert read_table(module_connection) == {}


def test_moment_is_one_for_all_rows_changed_or_not(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    emptied_manager.upsert_instruments([instrument(1, "A"), instrument(2, "B"), instrument(3, "C")])
    before = read_table(module_connection)
    assert emptied_manager.upsert_instruments(
        [instrument(1, "A"), instrument(2, "B", lot_size=7), instrument(4, "D")]
    ) == (1, 2)
    after = read_table(module_connection)
    (moment,) = {after[token, "NFO"]["last_updated"] for token in (1, 2, 4)}
    assert moment > before[1, "NFO"]["last_updated"]
    assert after[3, "NFO"] == before[3, "NFO"]
    assert after[4, "NFO"]["created_at"] == moment
    for token in (1, 2):
        assert after[token, "NFO"]["created_at"] == before[token, "NFO"]["created_at"]


def test_moment_is_later_than_the_last_one_when_the_clock_was_set_back(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    emptied_manager.upsert_instruments([instrument(1, "A"), instrument(2, "B")])
    future = datetime(2199, 12, 31, 12, 0, 0, 7)
    emptied_manager.execute_query("UPDATE kite_instrument_master SET last_updated = %s", (future,))
    emptied_manager.upsert_instruments([instrument(2, "B")])
    table = read_table(module_connection)
    assert table[1, "NFO"]["last_updated"] == future
    assert table[2, "NFO"]["last_updated"] == future + timedelta(microseconds=1)


def test_moment_is_in_the_result(emptied_manager: DatabaseManager, module_connection: Any) -> None:
    result = emptied_manager.merge(INSTRUMENT_TABLE, [instrument(1, "A")])
    assert result.moment == read_table(module_connection)[1, "NFO"]["last_updated"]


def test_dry_run_tells_the_counts_and_changes_nothing(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    emptied_manager.upsert_instruments(
        [instrument(1, "A"), instrument(2, "B"), instrument(3, "C"), instrument(4, "D")]
    )
    before = read_table(module_connection)
    dump = [
        instrument(1, "B"),
        instrument(2, "A"),
        instrument(5, "C"),
        instrument(6, "E"),
        instrument(6, "F"),
    ]
    predicted = emptied_manager.merge(INSTRUMENT_TABLE, dump, dry_run=True)
    assert counts(predicted) == (2, 3, 1)
    assert read_table(module_connection) == before
    assert counts(emptied_manager.merge(INSTRUMENT_TABLE, dump)) == (2, 3, 1)


def test_observer_sees_the_differences_before_anything_has_changed(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    old = instrument(7, "OLD")
    emptied_manager.upsert_instruments([old, instrument(6, "OLD TOO")])
    emptied_manager.upsert_instruments(
        [instrument(1, "A"), instrument(2, "B"), instrument(3, "C"), instrument(4, "D")]
    )
    before = read_table(module_connection)
    seen: list[Any] = []

    def observe(cursor: Any, previous: datetime | None) -> None:
        assert previous == before[1, "NFO"]["last_updated"]
        cursor.execute(
            "SELECT old_instrument_token, old_tradingsymbol, new_instrument_token,"
            f" new_tradingsymbol, new_lot_size, was_current FROM {DELTA_NAME}"
            " ORDER BY coalesce(old_instrument_token, new_instrument_token)"
        )
        seen.extend(cursor.fetchall())
        cursor.execute("SELECT tradingsymbol FROM public.kite_instrument_master ORDER BY 1")
        assert [row[0] for row in cursor.fetchall()] == ["A", "B", "C", "D", "OLD", "OLD TOO"]

    rows = [
        instrument(1, "A"),
        instrument(2, "X"),
        instrument(3, "C", lot_size=1),
        old,
        instrument(5, "B"),
    ]
    emptied_manager.run_in_transaction(
        lambda cursor: merge_rows(cursor, INSTRUMENT_TABLE, rows, observe=observe)
    )
    assert seen == [
        (2, "B", 2, "X", 2025, True),  # renamed
        (3, "C", 3, "C", 1, True),  # changed
        (4, "D", None, None, None, True),  # gone since the last run
        (None, None, 5, "B", 2025, False),  # new
        (7, "OLD", 7, "OLD", 2025, False),  # back again, the same as it was
    ]


def test_moment_is_when_the_merge_ran_not_when_its_transaction_began(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    """A run that waited for another one is later than that one, although it began before it."""
    with emptied_manager.transaction() as cursor:
        cursor.execute("SELECT pg_sleep(0.01), now()::timestamp")
        began = cursor.fetchone()[1]
        merge_rows(cursor, INSTRUMENT_TABLE, [instrument(1, "A")])
    assert read_table(module_connection)[1, "NFO"]["last_updated"] > began


def test_same_symbol_under_two_keys_warns_and_keeps_the_last(
    emptied_manager: DatabaseManager, module_connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [instrument(1, "A"), instrument(2, "A"), instrument(3, "C")]
    with caplog.at_level(logging.WARNING, logger="shared.utils.staged_merge"):
        assert emptied_manager.upsert_instruments(rows) == (2, 0)
    assert caplog.messages == [
        "kite_instrument_master: left out 1 rows whose (tradingsymbol, exchange) a later row has"
    ]
    assert fields_of(read_table(module_connection)) == {key_of(row): row for row in rows[1:]}


def test_row_that_others_refer_to_is_renamed_in_place_when_symbols_swap(
    db_manager: DatabaseManager, connection: Any
) -> None:
    db_manager.upsert_instruments([instrument(1, "A"), instrument(2, "B")])
    db_manager.execute_query(
        "CREATE TABLE position (token bigint, exchange varchar(10), FOREIGN KEY (token, exchange)"
        " REFERENCES kite_instrument_master (instrument_token, exchange))"
    )
    db_manager.execute_query("INSERT INTO position VALUES (1, 'NFO'), (2, 'NFO')")
    assert db_manager.upsert_instruments([instrument(1, "B"), instrument(2, "A")]) == (0, 2)
    assert read_table(connection)[1, "NFO"]["tradingsymbol"] == "B"


def test_symbol_that_looks_like_a_passing_name_does_not_collide(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    bystanders = [instrument(10 + n, f"\x01(0,{n})", exchange="NFO") for n in range(1, 20)]
    emptied_manager.upsert_instruments([instrument(1, "A"), instrument(2, "B"), *bystanders])
    swapped = [instrument(1, "B"), instrument(2, "A")]
    assert emptied_manager.upsert_instruments(swapped) == (0, 2)
    assert fields_of(read_table(module_connection)) == {
        key_of(r): r for r in [*swapped, *bystanders]
    }


@pytest.mark.parametrize(
    ("strike", "message"),
    [
        pytest.param("90.87501", "does not fit its column exactly", id="five decimals"),
        pytest.param("0.00001", "does not fit its column exactly", id="rounds to zero"),
        pytest.param("1e-30", "does not fit its column exactly", id="thirty decimals"),
        pytest.param("100000000000", "too large", id="twelve digits before the point"),
        pytest.param("Infinity", "does not fit its column", id="infinite"),
        pytest.param("NaN", "does not fit its column", id="not a number"),
    ],
)
def test_strike_that_its_column_cannot_hold_is_refused_and_nothing_stored(
    emptied_manager: DatabaseManager, module_connection: Any, strike: str, message: str
) -> None:
    emptied_manager.upsert_instruments([instrument(1, "A")])
    before = read_table(module_connection)
    with pytest.raises(DatabaseError, match=message):
        emptied_manager.upsert_instruments(
            [instrument(1, "A", lot_size=1), instrument(2, "B", strike=Decimal(strike))]
        )
    assert read_table(module_connection) == before


@pytest.mark.parametrize(
    "strike", ["90.875", "0.0001", "99999999999.9999", "1E+2", "22500.0000000", "0"]
)
def test_strike_is_stored_exactly(
    emptied_manager: DatabaseManager, module_connection: Any, strike: str
) -> None:
    emptied_manager.upsert_instruments([instrument(1, "A", strike=Decimal(strike))])
    assert read_table(module_connection)[1, "NFO"]["strike"] == Decimal(strike)


AWKWARD_TEXTS = {
    "end of data mark": "\\.",
    "end of data mark on a line of its own": "a\n\\.\nb",
    "end of data mark after CRLF": "a\r\n\\.\r\nb",
    "null mark": "\\N",
    "word NULL": "NULL",
    "backslashes": "\\\\n\\t\\",
    "quote": 'THE "BEST"',
    "lone quote": '"',
    "two quotes": '""',
    "comma": "M&M FIN. SERVICES, LTD",
    "apostrophe": "'; DROP TABLE kite_instrument_master; --",
    "line feed": "a\nb",
    "carriage return": "a\rb",
    "CRLF": "a\r\nb",
    "ends in line feed": "a\n",
    "tab": "a\tb",
    "spaces around": "  a  ",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x85",
    "line separators": "a\u2028b\u2029c",
    "byte order mark": "\ufeffa",
    "beyond the basic plane": "\U0001f4c8",
    "percent": "%s %(a)s %%",
    "braces": "{} {table}",
}


@pytest.mark.parametrize("text", AWKWARD_TEXTS.values(), ids=AWKWARD_TEXTS.keys())
def test_text_survives_copy(
    emptied_manager: DatabaseManager, module_connection: Any, text: str
) -> None:
    row = instrument(1, text, name=text, exchange_token=text)
    neighbour = instrument(2, "B")
    assert emptied_manager.upsert_instruments([neighbour, row]) == (2, 0)
    assert fields_of(read_table(module_connection)) == {key_of(r): r for r in (row, neighbour)}


def test_blanks_and_extreme_values_survive_copy(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    empty = dict.fromkeys(
        (
            "exchange_token",
            "instrument_type",
            "name",
            "segment",
            "expiry",
            "strike",
            "tick_size",
            "lot_size",
        )
    )
    rows = [
        instrument(1, "EMPTY", **empty),
        instrument(
            2**63 - 1,
            "é" * 50,
            exchange="X" * 10,
            name="😀" * 255,
            segment="S" * 20,
            instrument_type="T" * 10,
            exchange_token="0" * 50,
            expiry=date.max,
            tick_size=Decimal("999999.9999"),
            lot_size=2**31 - 1,
        ),
        instrument(3, "ZERO", strike=Decimal(0), tick_size=Decimal(0), lot_size=0),
        instrument(4, "OLD", expiry=date.min),
    ]
    emptied_manager.upsert_instruments(rows)
    assert fields_of(read_table(module_connection)) == {key_of(row): row for row in rows}


def test_second_lock_on_the_same_table_waits_and_on_another_does_not(
    server: Server, database: str, db_manager: DatabaseManager
) -> None:
    config = server.config(database, lock_timeout_seconds=0.02)
    with DatabaseManager(config) as other, db_manager.transaction() as cursor:
        lock_name(cursor, INSTRUMENT_TABLE.name)
        with other.transaction() as second:
            lock_name(second, SHOPS.name)
        with pytest.raises(DatabaseError, match="lock"), other.transaction() as second:
            lock_name(second, INSTRUMENT_TABLE.name)


# A table of another description, with two unique keys, neither of which has the key's columns.


@pytest.fixture
def merge_shops(db_manager: DatabaseManager) -> Callable[..., MergeResult]:
    db_manager.execute_query(SHOPS_SQL)
    return lambda *rows: db_manager.merge(SHOPS, rows)


@pytest.fixture
def read_shops(connection: Any) -> Callable[[], list[tuple[Any, ...]]]:
    def read() -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id, name, code, balance FROM shops ORDER BY id")
            return cursor.fetchall()

    return read


def test_merge_of_another_table_when_both_unique_keys_move(
    merge_shops: Callable[..., MergeResult], read_shops: Callable[[], list[Any]]
) -> None:
    merge_shops(shop(1, "a", "x"), shop(2, "b", "y"), shop(3, "c", "z"))
    result = merge_shops(shop(1, "b", "z"), shop(2, "c", "x"), shop(3, "a", "y", "1.5"))
    assert counts(result) == (0, 3, 0)
    assert read_shops() == [
        (1, "b", "z", Decimal(0)),
        (2, "c", "x", Decimal(0)),
        (3, "a", "y", Decimal("1.5")),
    ]


def test_rows_without_a_unique_key_are_all_kept(
    db_manager: DatabaseManager, read_shops: Callable[[], list[Any]]
) -> None:
    db_manager.execute_query(SHOPS_SQL)
    columns = [replace(column, nullable=column.name == "code") for column in SHOPS.columns]
    table = replace(SHOPS, columns=tuple(columns))
    rows = [shop(1, "a", "x"), shop(2, "b", None), shop(3, "c", None), shop(4, "d", "x")]
    for _ in range(2):
        db_manager.merge(table, rows)
        assert [row[:3] for row in read_shops()] == [
            (2, "b", None),
            (3, "c", None),
            (4, "d", "x"),
        ]


def test_merge_of_another_table_when_one_row_takes_over_two(
    merge_shops: Callable[..., MergeResult], read_shops: Callable[[], list[Any]]
) -> None:
    merge_shops(shop(1, "a", "x"), shop(2, "b", "y"), shop(3, "c", "z"))
    assert counts(merge_shops(shop(4, "a", "y"))) == (1, 0, 2)
    assert [row[0] for row in read_shops()] == [3, 4]


def test_merge_of_another_table_when_one_row_holds_both_unique_keys(
    merge_shops: Callable[..., MergeResult], read_shops: Callable[[], list[Any]]
) -> None:
    merge_shops(shop(1, "a", "x"))
    assert counts(merge_shops(shop(2, "a", "x"))) == (1, 0, 1)
    assert [row[0] for row in read_shops()] == [2]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([shop(4, "a", "y")], id="takes over two"),
        pytest.param([shop(4, "a", "x")], id="takes over both keys of one"),
        pytest.param([shop(1, "b", "z"), shop(4, "a", "y")], id="chain"),
    ],
)
def test_dry_run_of_another_table_predicts_the_counts(
    db_manager: DatabaseManager, merge_shops: Callable[..., MergeResult], rows: list[Any]
) -> None:
    merge_shops(shop(1, "a", "x"), shop(2, "b", "y"), shop(3, "c", "z"))
    predicted = db_manager.merge(SHOPS, rows, dry_run=True)
    assert counts(predicted) == counts(merge_shops(*rows))


def test_merge_of_another_table_refuses_a_second_decimal(
    merge_shops: Callable[..., MergeResult], read_shops: Callable[[], list[Any]]
) -> None:
    with pytest.raises(DatabaseError, match="does not fit"):
        merge_shops(shop(1, "a", "x", "0.25"))
    assert read_shops() == []


def test_merge_of_a_table_without_a_further_unique_key(
    db_manager: DatabaseManager, connection: Any
) -> None:
    table = Table(
        name="plain",
        columns=(Column("id", "integer"), Column("value", "varchar", length=5)),
        key=("id",),
    )
    db_manager.execute_query(
        "CREATE TABLE plain (id int PRIMARY KEY, value varchar(5),"
        " last_updated timestamp, created_at timestamp)"
    )
    rows = [{"id": 1, "value": "a"}, {"id": 2, "value": "a"}, {"id": 1, "value": "b"}]
    assert counts(db_manager.merge(table, rows, dry_run=True)) == (2, 1, 0)
    assert counts(db_manager.merge(table, rows)) == (2, 1, 0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, value FROM plain ORDER BY id")
        assert cursor.fetchall() == [(1, "b"), (2, "a")]


def test_touch_hashes_the_delta_whatever_the_statistics_expect(
    db_manager: DatabaseManager, connection: Any
) -> None:
    """Statistics of an older list, as when a run follows another before autovacuum does.

    They say that hardly a row is of the previous moment. A nested loop is then the cheapest plan,
    and takes half a minute on a full table.
    """
    rows = [instrument(token, f"S{token}") for token in range(1, 2_001)]
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE kite_instrument_master SET (autovacuum_enabled = false)")
        db_manager.upsert_instruments(rows)
        cursor.execute("ANALYZE kite_instrument_master")
        db_manager.upsert_instruments(rows)
    plans = []

    def explain(cursor: Any, previous: datetime | None) -> None:
        touch = MergeStatements(INSTRUMENT_TABLE, MASTER).render("touch")
        parameters = {"previous": previous, "moment": datetime(2199, 12, 31)}
        cursor.execute(b"EXPLAIN " + cursor.mogrify(touch, parameters))
        plans.append("\n".join(line for (line,) in cursor.fetchall()))

    changed = [{**row, "lot_size": 1} if row["instrument_token"] % 2 else row for row in rows]
    db_manager.run_in_transaction(
        lambda cursor: merge_rows(cursor, INSTRUMENT_TABLE, changed, observe=explain)
    )
    assert "hashed SubPlan" in plans[0]
    assert "Nested Loop" not in plans[0]


def test_merge_keeps_the_error_of_the_database(server: Server, database: str) -> None:
    """Without a manager the driver's own error comes, not one of the stream's."""
    connection = psycopg2.connect(**{**server.conninfo, "dbname": database})
    try:
        with (
            connection.cursor() as cursor,
            pytest.raises(psycopg2.errors.InvalidTextRepresentation),
        ):
            merge_rows(cursor, INSTRUMENT_TABLE, [instrument(1, "A", lot_size="many")])
    finally:
        connection.close()
