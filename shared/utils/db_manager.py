"""The connection to PostgreSQL: one transaction at a time, translated errors, retries."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_INERROR
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.instrument import INSTRUMENT_TABLE
from shared.models.table import Table
from shared.utils.db_errors import translate, translate_connect
from shared.utils.interruptible import DeadlineExceededError, call_interruptibly
from shared.utils.interruptible_cursor import InterruptibleCursor, cancel
from shared.utils.libpq_environment import without_libpq_variables
from shared.utils.retry import RetryPolicy
from shared.utils.sql import load_sql
from shared.utils.staged_merge import MergeResult, is_stored, merge_rows

logger = logging.getLogger(__name__)
SQL = load_sql(__file__)
T = TypeVar("T")

# A dead server is noticed after about a minute, even in the middle of a statement.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class DatabaseManager:
    """Manages PostgreSQL database connections and operations.

    `config` has host, port, database, user and password, and may have sslmode and the seconds of
    connect, lock and statement time-outs. `retry` says how often a refused or lost connection, a
    deadlock or a serialization failure is tried again, as a whole transaction (ruling 22).
    """

    def __init__(self, config: Mapping[str, Any], *, retry: RetryPolicy | None = None) -> None:
        """Initialize with database configuration. Nothing is connected yet."""
        self._config = config
        self._retry = retry or RetryPolicy()
        self._connection: Connection | None = None
        self._cursor: Cursor | None = None
        self._where = f"{config['database']} at {config['host']}:{config['port']}"
        self._timeouts = [
            f"{config.get(f'{name}_timeout_seconds', default) * 1000:.0f}ms"
            for name, default in (("lock", 60.0), ("statement", 300.0))
        ]

    def get_connection(self) -> Connection:
        """The open connection, or a new one, tried with backoff. Raises DatabaseError."""
        return self._retry.run(self._open, operation="connect to the database")

    def execute_query(self, query: str, params: tuple[Any, ...] | None = None) -> None:
        """Execute a query without returning results. Raises DatabaseError if it fails."""
        self.run_in_transaction(lambda cursor: cursor.execute(query, params))

    def execute_many(self, query: str, data: list[tuple[Any, ...]]) -> int:
        """Execute a query for each tuple, all or none; the rows affected. Raises DatabaseError."""

        def work(cursor: Cursor) -> int:
            cursor.executemany(query, data)
            return max(cursor.rowcount, 0)

        return self.run_in_transaction(work) if data else 0

    def upsert_instruments(self, instruments: list[dict[str, Any]]) -> tuple[int, int]:
        """Upsert as `merge` does; returns (inserted_count, updated_count). Raises DatabaseError."""
        result = self.merge(INSTRUMENT_TABLE, instruments)
        return result.inserted, result.updated

    def merge(self, table: Table, rows: Sequence[Mapping[str, Any]], **options: Any) -> MergeResult:
        """Merge as merge_rows does, in one transaction; the counts are logged (Property 9)."""
        result = self.run_in_transaction(
            lambda cursor: merge_rows(cursor, table, rows, **options),
            was_stored=lambda cursor, result: is_stored(cursor, table, result),
        )
        counts = (len(rows), result.inserted, result.updated, result.superseded)
        logger.info("%s: %d rows: %d inserted, %d updated, %d superseded", table.name, *counts)
        return result

    def fetch_all(self, query: str, params: Any = None) -> list[tuple[Any, ...]]:
        """The rows that a query gives. Raises DatabaseError if it fails."""

        def work(cursor: Cursor) -> list[tuple[Any, ...]]:
            cursor.execute(query, params)
            return cursor.fetchall()

        return self.run_in_transaction(work)

    def count_instruments(self, instrument_token: int, exchange: str) -> int:
        """How many rows have this key: 0 or 1."""
        return self._count("instrument_token = %s AND exchange = %s", (instrument_token, exchange))

    def count_all_instruments(self) -> int:
        """How many rows kite_instrument_master has."""
        return self._count("true", ())

    def count_instruments_by_tokens(self, tokens: list[int]) -> int:
        """How many rows have one of these tokens, on whatever exchange."""
        return self._count("instrument_token = ANY(%s)", (list(tokens),))

    def get_instrument(self, instrument_token: int, exchange: str) -> dict[str, Any] | None:
        """The row with this key, a value for each column of the table; None if there is none."""
        names = (*INSTRUMENT_TABLE.column_names, *INSTRUMENT_TABLE.moments)
        condition = "instrument_token = %s AND exchange = %s"
        query = f"SELECT {', '.join(names)} FROM {INSTRUMENT_TABLE.name} WHERE {condition}"
        rows = self.fetch_all(query, (instrument_token, exchange))
        return dict(zip(names, rows[0])) if rows else None

    def run_in_transaction(
        self, work: Callable[[Cursor], T], *, was_stored: Callable[[Cursor, T], bool] | None = None
    ) -> T:
        """`work` in a transaction of its own, repeated as a whole if the fault may pass by itself.

        Where only the answer to a COMMIT was lost, `was_stored` is asked first: if it finds the
        attempt's data, that result is returned. Within an open `transaction()` it is part of it.
        """
        if self._cursor is not None:
            with self.transaction() as cursor:
                return work(cursor)
        ended: list[T] = []  # what the last attempt gave, if it came to its COMMIT

        def attempt() -> T:
            self._open()  # not get_connection: its attempts would multiply with these
            with self.transaction() as cursor:
                if not (was_stored is not None and ended and was_stored(cursor, ended[0])):
                    ended.clear()
                    ended.append(work(cursor))
                return ended[0]

        return self._retry.run(attempt, operation="database transaction")

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """A transaction, committed at the end of the body, rolled back if an error leaves it.

        Within another one it is a part of it. Raises DatabaseError for what the database refuses.
        """
        if self._cursor is not None:
            try:
                yield self._cursor
            except psycopg2.Error as exc:
                raise translate(exc, self._where) from exc
            return
        connection = self.get_connection()
        try:
            self._cursor = connection.cursor(cursor_factory=InterruptibleCursor)
            self._cursor.execute(SQL["set_up"], self._timeouts)
            yield self._cursor
            # COMMIT would then roll back, without a word.
            if connection.info.transaction_status == TRANSACTION_STATUS_INERROR:
                raise DatabaseError(
                    "A statement of this transaction failed, and its error was passed over: "
                    "nothing was stored."
                )
            begin = time.perf_counter()
            call_interruptibly(connection.commit, cancel=partial(cancel, connection))
            logger.debug("%.3f s: COMMIT", time.perf_counter() - begin)
        except Exception as exc:
            self._roll_back(connection)
            if isinstance(exc, psycopg2.Error):
                raise translate(exc, self._where) from exc
            raise
        except BaseException:
            # A signal: without its connection the server rolls back, and nothing is waited for.
            self._abandon()
            raise
        finally:
            self._cursor = None

    def close(self) -> None:
        """Close database connection; an open transaction is rolled back by the server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> DatabaseManager:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self) -> Connection:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        config = self._config
        options: dict[str, Any] = {
            **{name: config[name] for name in ("host", "port", "database", "user")},
            "password": config.get("password") or None,
            "sslmode": config.get("sslmode", "prefer"),
            "connect_timeout": config.get("connect_timeout_seconds", 10),
            "application_name": "stock_ingestion",
            "client_encoding": "UTF8",
            **_KEEPALIVE,
        }
        try:
            with without_libpq_variables():
                connection: Connection = call_interruptibly(lambda: psycopg2.connect(**options))
        except psycopg2.Error as exc:
            raise translate_connect(exc, self._where) from exc
        # The statements after the lock must see what the run before committed.
        connection.set_session(isolation_level="READ COMMITTED")
        self._connection = connection
        return connection

    def _abandon(self) -> None:
        """Close the connection, or leave it behind: closing waits for a statement that hangs."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DeadlineExceededError):
                call_interruptibly(connection.close, deadline_seconds=1.0)

    def _roll_back(self, connection: Connection) -> None:
        try:
            connection.rollback()
        except psycopg2.Error as exc:
            # Closing ends the transaction as well; the first error is the one to tell.
            logger.debug("rollback failed, closing the connection: %s", exc)
            connection.close()

    def _count(self, condition: str, params: tuple[Any, ...]) -> int:
        query = f"SELECT count(*) FROM {INSTRUMENT_TABLE.name} WHERE {condition}"
        return int(self.fetch_all(query, params)[0][0])


def execute_with_transaction(
    db_manager: DatabaseManager, operations: Sequence[Callable[[Connection], Any]]
) -> None:
    """Execute operations, each called with the connection, within one transaction: all or none."""
    with db_manager.transaction() as cursor:
        for operation in operations:
            operation(cursor.connection)
