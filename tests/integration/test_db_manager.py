"""DatabaseManager on a real PostgreSQL: queries, transactions, upserts, signals."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from shared.exceptions import DatabaseError, TransientDatabaseError
from shared.utils.db_manager import DatabaseManager, execute_with_transaction
from shared.utils.retry import RetryPolicy
from tests.conftest import PROJECT, Server
from tests.instruments import instrument
from tests.table_model import fields_of, key_of, read_table, wait_until

INSERT = (
    "INSERT INTO kite_instrument_master (instrument_token, exchange, tradingsymbol)"
    " VALUES (%s, %s, %s)"
)


def is_idle(manager: DatabaseManager) -> bool:
    """Whether the manager's connection is open, with no transaction on it."""
    status = manager.get_connection().info.transaction_status
    return status == psycopg2.extensions.TRANSACTION_STATUS_IDLE


# Connection


def test_connection_is_opened_once_and_again_after_close(
    server: Server, module_database: str
) -> None:
    manager = DatabaseManager(server.config(module_database))
    first = manager.get_connection()
    assert manager.get_connection() is first
    manager.close()
    assert first.closed
    second = manager.get_connection()
    assert not second.closed
    assert second is not first
    manager.close()
    manager.close()  # once more does no harm


def test_connection_is_closed_at_the_end_of_with(server: Server, module_database: str) -> None:
    with DatabaseManager(server.config(module_database)) as manager:
        connection = manager.get_connection()
    assert connection.closed


def test_construction_connects_to_nothing() -> None:
    config = {"host": "192.0.2.1", "port": 1, "database": "d", "user": "u", "password": "Secret-0"}
    manager = DatabaseManager(config)
    assert "Secret-0" not in repr(manager)
    manager.close()


def test_connection_names_the_program_and_speaks_utf8(emptied_manager: DatabaseManager) -> None:
    with emptied_manager.transaction() as cursor:
        cursor.execute(
            "SELECT current_setting('application_name'), current_setting('client_encoding'),"
            " current_setting('transaction_isolation')"
        )
        assert cursor.fetchone() == ("stock_ingestion", "UTF8", "read committed")


def test_timeouts_hold_within_a_transaction_and_not_after_it(
    server: Server, module_database: str
) -> None:
    config = server.config(
        module_database, lock_timeout_seconds=1.5, statement_timeout_seconds=2.25
    )
    read = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
    with DatabaseManager(config) as manager:
        with manager.transaction() as cursor:
            cursor.execute(read)
            assert cursor.fetchone() == ("1500ms", "2250ms")
        with closing(manager.get_connection().cursor()) as plain:
            plain.execute(read)
            assert plain.fetchone() == ("0", "0")


# execute_query, execute_many


def test_query_is_committed_with_its_parameters_bound(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    symbol = "'; DROP TABLE kite_instrument_master; --"
    emptied_manager.execute_query(INSERT, (1, "NFO", symbol))
    assert read_table(module_connection)[1, "NFO"]["tradingsymbol"] == symbol
    assert is_idle(emptied_manager)


def test_query_without_parameters_may_hold_percent_signs(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    emptied_manager.execute_query(INSERT, (1, "NFO", "A"))
    emptied_manager.execute_query(
        "DELETE FROM kite_instrument_master WHERE tradingsymbol LIKE 'A%'"
    )
    assert read_table(module_connection) == {}


def test_query_that_fails_leaves_the_table_and_the_connection_well(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    emptied_manager.execute_query(INSERT, (1, "NFO", "A"))
    before = read_table(module_connection)
    with pytest.raises(DatabaseError, match="unique_tradingsymbol_exchange") as caught:
        emptied_manager.execute_query(INSERT, (2, "NFO", "A"))
    assert isinstance(caught.value.__cause__, psycopg2.errors.UniqueViolation)
    assert not isinstance(caught.value, TransientDatabaseError)
    assert read_table(module_connection) == before
    assert is_idle(emptied_manager)


def test_query_on_a_missing_table_says_what_to_do(emptied_manager: DatabaseManager) -> None:
    with pytest.raises(DatabaseError, match=r'once with a role .* relation "nowhere"'):
        emptied_manager.execute_query("SELECT * FROM nowhere")


def test_many_returns_the_rows_affected(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    data = [(token, "NFO", f"S{token}") for token in range(1, 6)]
    assert emptied_manager.execute_many(INSERT, data) == 5
    assert len(read_table(module_connection)) == 5
    update = "UPDATE kite_instrument_master SET lot_size = %s WHERE instrument_token <= %s"
    assert emptied_manager.execute_many(update, [(1, 2), (2, 0), (3, 5)]) == 7


def test_many_of_nothing_affects_nothing(emptied_manager: DatabaseManager) -> None:
    assert emptied_manager.execute_many(INSERT, []) == 0


def test_many_is_all_or_none(emptied_manager: DatabaseManager, module_connection: Any) -> None:
    with pytest.raises(DatabaseError, match="duplicate key"):
        emptied_manager.execute_many(INSERT, [(1, "NFO", "A"), (2, "NFO", "B"), (1, "NFO", "C")])
    assert read_table(module_connection) == {}
    assert is_idle(emptied_manager)


# upsert_instruments and the design's helpers


def test_upsert_of_nothing(emptied_manager: DatabaseManager, module_connection: Any) -> None:
    assert emptied_manager.upsert_instruments([]) == (0, 0)
    assert read_table(module_connection) == {}


def test_upsert_counts_inserted_and_updated_and_logs_them(
    emptied_manager: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    assert emptied_manager.upsert_instruments([instrument(1, "A"), instrument(2, "B")]) == (2, 0)
    with caplog.at_level(logging.INFO):
        rows = [instrument(2, "B"), instrument(3, "C"), instrument(4, "A")]
        assert emptied_manager.upsert_instruments(rows) == (2, 1)
    assert "3 rows: 2 inserted, 1 updated, 1 superseded" in caplog.text


def test_upsert_when_an_instrument_lacks_its_token(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    emptied_manager.upsert_instruments([instrument(1, "A")])
    before = read_table(module_connection)
    rows = [instrument(1, "A", lot_size=1), {**instrument(2, "B"), "instrument_token": None}]
    with pytest.raises(DatabaseError, match='null value in column "instrument_token"'):
        emptied_manager.upsert_instruments(rows)
    assert read_table(module_connection) == before
    assert is_idle(emptied_manager)


def test_upsert_takes_floats_as_what_they_were_written_as(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    emptied_manager.upsert_instruments([instrument(1, "A", strike=90.875, tick_size=0.0025)])
    row = read_table(module_connection)[1, "NFO"]
    assert (row["strike"], row["tick_size"]) == (Decimal("90.875"), Decimal("0.0025"))


def test_counts_and_row_of_the_designs_helpers(emptied_manager: DatabaseManager) -> None:
    rows = [instrument(1, "A", "NSE"), instrument(1, "A", "BSE"), instrument(2, "B", "NSE")]
    emptied_manager.upsert_instruments(rows)
    assert emptied_manager.count_all_instruments() == 3
    assert emptied_manager.count_instruments(1, "NSE") == 1
    assert emptied_manager.count_instruments(1, "NFO") == 0
    assert emptied_manager.count_instruments_by_tokens([1, 2, 3]) == 3
    assert emptied_manager.count_instruments_by_tokens([1, 1]) == 2
    assert emptied_manager.count_instruments_by_tokens([]) == 0
    assert emptied_manager.get_instrument(3, "NSE") is None
    stored = emptied_manager.get_instrument(1, "BSE")
    assert stored is not None
    assert isinstance(stored.pop("created_at"), datetime)
    assert isinstance(stored.pop("last_updated"), datetime)
    assert stored == rows[1]
    assert is_idle(emptied_manager)


def test_daily_refresh_is_heap_only_and_the_table_does_not_grow(
    server: Server, database: str
) -> None:
    """Ten refreshes: what makes them cheap is fillfactor 50 (ruling 20).

    Old versions of rows stay where they are while any session that is just starting or analyzing
    could still see them, so that on a busy server ten refreshes may be spoilt, but not each ten.
    """
    rows = [instrument(token, f"NIFTY26AUG{token}CE") for token in range(1, 3001)]
    size = "SELECT pg_relation_size('kite_instrument_master')"
    read = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
        " WHERE relname = 'kite_instrument_master'"
    )
    updated = heap_only = 0
    shares, growths = [], []
    for _ in range(3):
        with DatabaseManager(server.config(database)) as manager:
            manager.execute_query("TRUNCATE kite_instrument_master")
            assert manager.upsert_instruments(rows) == (3000, 0)
            ((empty_half,),) = server.execute(size, dbname=database)
            for day in range(10):
                refreshed = [{**row, "lot_size": day} for row in rows]
                assert manager.upsert_instruments(refreshed) == (0, 3000)
        # A session's figures reach the view once it has ended.
        wanted = updated + 30_000
        wait_until(lambda: server.execute(read, dbname=database)[0][0] >= wanted)  # noqa: B023
        before = heap_only
        ((updated, heap_only),) = server.execute(read, dbname=database)
        assert updated == wanted
        ((after,),) = server.execute(size, dbname=database)
        shares.append((heap_only - before) / 30_000)
        growths.append(after / empty_half)
        if shares[-1] >= 0.99:
            break
    assert max(shares) >= 0.99, shares
    assert min(growths) <= 1.1, growths


# transaction


def test_transaction_commits_at_its_end(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    with emptied_manager.transaction() as cursor:
        cursor.execute(INSERT, (1, "NFO", "A"))
        assert read_table(module_connection) == {}
    assert list(read_table(module_connection)) == [(1, "NFO")]
    assert is_idle(emptied_manager)


def insert_and_raise(manager: DatabaseManager, error: BaseException) -> None:
    with manager.transaction() as cursor:
        cursor.execute(INSERT, (1, "NFO", "A"))
        raise error


def test_transaction_left_by_an_error_is_rolled_back(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    error = ZeroDivisionError("the caller's own")
    with pytest.raises(ZeroDivisionError) as caught:
        insert_and_raise(emptied_manager, error)
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert read_table(module_connection) == {}
    assert is_idle(emptied_manager)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=["ctrl-c", "exit"])
def test_transaction_left_by_a_signal_is_rolled_back_by_the_server(
    emptied_manager: DatabaseManager, module_connection: Any, error: BaseException
) -> None:
    connection = emptied_manager.get_connection()
    with pytest.raises(type(error)):
        insert_and_raise(emptied_manager, error)
    assert connection.closed
    with module_connection.cursor() as cursor:  # waits until the row is free again
        cursor.execute(INSERT, (1, "NFO", "B"))
    assert read_table(module_connection)[1, "NFO"]["tradingsymbol"] == "B"


def test_rollback_that_fails_does_not_hide_the_error(
    server: Server, emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    def lose_connection_and_raise() -> None:
        with emptied_manager.transaction() as cursor:
            cursor.execute(INSERT, (1, "NFO", "A"))
            server.execute("SELECT pg_terminate_backend(%s)", (cursor.connection.info.backend_pid,))
            raise ZeroDivisionError("the first error")

    with pytest.raises(ZeroDivisionError, match="the first error"):
        lose_connection_and_raise()
    assert emptied_manager.upsert_instruments([instrument(2, "B")]) == (1, 0)
    assert list(read_table(module_connection)) == [(2, "NFO")]


def test_nested_transaction_is_a_part_of_the_outer_one(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    with emptied_manager.transaction() as outer:
        emptied_manager.upsert_instruments([instrument(1, "A")])
        with emptied_manager.transaction() as inner:
            assert inner is outer
            emptied_manager.execute_query(INSERT, (2, "NFO", "B"))
        assert emptied_manager.count_all_instruments() == 2
        assert read_table(module_connection) == {}
    assert sorted(read_table(module_connection)) == [(1, "NFO"), (2, "NFO")]


def test_nested_transaction_that_fails_takes_the_outer_one_with_it(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    def fail_within() -> None:
        with emptied_manager.transaction():
            emptied_manager.upsert_instruments([instrument(1, "A")])
            emptied_manager.execute_query(INSERT, (1, "NFO", "A"))

    with pytest.raises(DatabaseError, match="duplicate key"):
        fail_within()
    assert read_table(module_connection) == {}
    assert is_idle(emptied_manager)


def test_nested_upsert_that_fails_raises_the_projects_error(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    """And where that is passed over, the end is no success: COMMIT would roll back in silence."""

    def pass_over() -> None:
        with emptied_manager.transaction():
            emptied_manager.upsert_instruments([instrument(1, "A")])
            with pytest.raises(DatabaseError, match="does not fit"):
                emptied_manager.upsert_instruments([instrument(2, "B", strike=Decimal("0.00001"))])

    with pytest.raises(DatabaseError, match="nothing was stored"):
        pass_over()
    assert read_table(module_connection) == {}
    assert is_idle(emptied_manager)


def test_transaction_is_repeated_as_a_whole_after_a_transient_error(
    server: Server, module_database: str, module_connection: Any
) -> None:
    delays: list[float] = []
    policy = RetryPolicy(3, 1.5, sleep=delays.append)
    attempts: list[dict[Any, Any]] = []

    def work(cursor: Any) -> str:
        attempts.append(read_table(module_connection))
        cursor.execute(INSERT, (1, "NFO", "A"))
        if len(attempts) < 3:
            cursor.execute("DO $$ BEGIN RAISE 'lost the race' USING ERRCODE = '40001'; END $$")
        return "done"

    with DatabaseManager(server.config(module_database), retry=policy) as manager:
        manager.execute_query("TRUNCATE kite_instrument_master")
        assert manager.run_in_transaction(work) == "done"
    assert attempts == [{}, {}, {}]
    assert delays == [1.5, 3.0]
    assert list(read_table(module_connection)) == [(1, "NFO")]


def test_work_within_a_transaction_is_not_repeated_by_itself(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    calls = []

    def work(cursor: Any) -> None:
        calls.append(1)
        cursor.execute("DO $$ BEGIN RAISE 'lost the race' USING ERRCODE = '40001'; END $$")

    def within() -> None:
        with emptied_manager.transaction():
            emptied_manager.run_in_transaction(work)

    with pytest.raises(TransientDatabaseError, match="lost the race"):
        within()
    assert calls == [1]


# execute_with_transaction


def insert_with(connection: Any, *values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(INSERT, values)


def test_operations_are_committed_together(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    seen: list[dict[Any, Any]] = []
    execute_with_transaction(
        emptied_manager,
        [
            lambda connection: insert_with(connection, 1, "NFO", "A"),
            lambda connection: seen.append(read_table(module_connection)),
            lambda connection: insert_with(connection, 2, "NFO", "B"),
        ],
    )
    assert seen == [{}]
    assert sorted(read_table(module_connection)) == [(1, "NFO"), (2, "NFO")]
    assert is_idle(emptied_manager)


def test_operations_are_rolled_back_together(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    calls: list[int] = []
    with pytest.raises(DatabaseError, match="duplicate key"):
        execute_with_transaction(
            emptied_manager,
            [
                lambda connection: insert_with(connection, 1, "NFO", "A"),
                lambda connection: insert_with(connection, 1, "NFO", "A"),
                lambda connection: calls.append(1),
            ],
        )
    assert calls == []
    assert read_table(module_connection) == {}
    assert is_idle(emptied_manager)


# Signals: a wait for a lock ends at once.

WAITING_SCRIPT = """
import json, signal, sys
from shared.utils.db_manager import DatabaseManager
from tests.instruments import instrument

class Terminated(BaseException):
    pass

def terminate(number, frame):
    raise Terminated

signal.signal(signal.SIGTERM, terminate)
signal.signal(signal.SIGINT, signal.default_int_handler)
config, wait_where = json.loads(sys.argv[1])
manager = DatabaseManager(config)
try:
    if wait_where == "upsert":
        manager.upsert_instruments([instrument(1, "A", lot_size=1), instrument(2, "B")])
    elif wait_where == "query":
        manager.execute_query("UPDATE kite_instrument_master SET lot_size = 1")
    else:
        with manager.transaction() as cursor:
            cursor.execute("UPDATE kite_instrument_master SET lot_size = 1")
            manager.execute_query("LOCK TABLE obstacle")
except BaseException as exc:
    print(type(exc).__name__, flush=True)
    sys.exit(3)
"""


@contextmanager
def waiting_process(
    server: Server, dbname: str, wait_where: str
) -> Iterator[subprocess.Popen[str]]:
    """A process of ours that waits for a lock which nobody gives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING_SCRIPT, json.dumps([server.config(dbname), wait_where])],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(
            lambda: server.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
                " AND application_name = 'stock_ingestion'",
                (dbname,),
            )
        )
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "ends_with"),
    [
        pytest.param(signal.SIGTERM, "Terminated", id="SIGTERM"),
        pytest.param(signal.SIGINT, "KeyboardInterrupt", id="Ctrl-C"),
    ],
)
@pytest.mark.parametrize("wait_where", ["upsert", "query", "transaction"])
def test_signal_while_waiting_for_a_lock_ends_the_run_at_once(
    server: Server,
    database: str,
    db_manager: DatabaseManager,
    wait_where: str,
    number: signal.Signals,
    ends_with: str,
) -> None:
    db_manager.upsert_instruments([instrument(1, "A")])
    server.execute("CREATE TABLE obstacle ()", dbname=database)
    with closing(server.connect(database)) as holder:
        before = read_table(holder)
        holder.autocommit = False
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE obstacle IN ACCESS EXCLUSIVE MODE")
            if wait_where != "transaction":
                cursor.execute("LOCK TABLE kite_instrument_master IN SHARE MODE")
        with waiting_process(server, database, wait_where) as process:
            process.send_signal(number)
            output, errors = process.communicate(timeout=60)
            assert (process.returncode, output.strip()) == (3, ends_with), errors
        # The server has let go, although the lock is still held.
        wait_until(
            lambda: (
                not server.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = %s"
                    " AND application_name = 'stock_ingestion' AND state <> 'idle'",
                    (database,),
                )
            )
        )
        assert read_table(holder) == before
        holder.rollback()
    assert db_manager.upsert_instruments([instrument(1, "A"), instrument(2, "B")]) == (1, 1)


def test_upsert_counts_a_row_that_the_callers_transaction_wrote_as_updated(
    emptied_manager: DatabaseManager, module_connection: Any
) -> None:
    emptied_manager.upsert_instruments([instrument(1, "A")])
    with emptied_manager.transaction() as cursor:
        cursor.execute(INSERT, (9, "NFO", "Z"))
        assert emptied_manager.upsert_instruments([instrument(9, "Z"), instrument(3, "C")]) == (
            1,
            1,
        )
    expected = [instrument(1, "A"), instrument(3, "C"), instrument(9, "Z")]
    assert fields_of(read_table(module_connection)) == {key_of(row): row for row in expected}


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda m: m.execute_query("SELECT 1/0"), id="execute_query"),
        pytest.param(lambda m: m.execute_many("SELECT 1/%s", [(0,)]), id="execute_many"),
        pytest.param(lambda m: m.count_instruments("x", "NFO"), id="count_instruments"),
        pytest.param(lambda m: m.count_instruments_by_tokens(["x"]), id="count_by_tokens"),
        pytest.param(lambda m: m.get_instrument("x", "NFO"), id="get_instrument"),
        pytest.param(lambda m: m.upsert_instruments([{}]), id="upsert_instruments"),
    ],
)
def test_error_is_the_projects_own_whatever_fails(
    emptied_manager: DatabaseManager, call: Callable[[DatabaseManager], Any]
) -> None:
    with pytest.raises(DatabaseError):
        call(emptied_manager)
    assert is_idle(emptied_manager)
