"""What each instrument was, from when to when: its versions, under an identity that stays.

Written in the transaction of the merge, from the differences that it has found (an SCD of type 2).
Which rows are one instrument is told by changes.sql; the statements are in history.sql.
"""

import logging
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from psycopg2 import sql

from dag_1_import_instruments_from_kite.changes import (
    DELTA,
    PAIR,
    STAGE,
    official_changes,
    pair_rows,
    read_day,
    symbol_rules,
)
from shared.calendar import IST
from shared.exceptions import ConfigurationError, DatabaseError
from shared.feed import Run
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils import run_history
from shared.utils.extras import ExtraTable
from shared.utils.relations import only_own_functions
from shared.utils.sql import (
    compose,
    fetch_one,
    joined,
    listed,
    load_sql,
    succeeds,
    temporary,
)
from shared.utils.staged_merge import MergeResult

logger = logging.getLogger(__name__)

SQL = load_sql(Path(__file__).with_suffix(".sql"))
HISTORY = ExtraTable(
    "kite_instrument_history",
    SQL["create_kite_instrument_history"],
    privileges=("SELECT", "INSERT", "UPDATE"),
    key=("instrument_id", "valid_from"),
)

_COLUMNS = INSTRUMENT_TABLE.column_names
_LAST_LIST = temporary("stock_ingestion_last_list")
_FULL_DELTA = temporary("stock_ingestion_full_delta")
_FULL_PAIR = temporary("stock_ingestion_full_pair")
_IS_UNVERSIONED = """
d.new_instrument_token IS NOT NULL AND (
    SELECT instrument_id FROM {history} AS o
    WHERE o.exchange = d.new_exchange AND o.instrument_token = d.new_instrument_token
      AND o.valid_to IS NULL
    LIMIT 1) IS NULL
"""
# Of an instrument of which no version is open, and none began later than this one, h.
_IS_LAST = """
(SELECT count(*) FROM {history} AS same
 WHERE same.instrument_id = h.instrument_id
   AND (same.valid_to IS NULL OR same.valid_from > h.valid_from)) = 0
"""
_HISTORY_JOIN = re.compile(r"\nLEFT JOIN kite_instrument_history AS h.*?\n(?=WHERE|\))", re.S)
_FUNCTION = re.compile(r"CREATE OR REPLACE FUNCTION .*?;\n", re.S)


def without_history(views: str) -> str:
    """The views for a database that has no history: `instrument_id` is NULL in them."""
    plain = _HISTORY_JOIN.sub("\n", _FUNCTION.sub("", views))
    return plain.replace("h.instrument_id", "NULL::bigint AS instrument_id")


def look_for_others(cursor: Any, run: Run) -> None:
    """Look whether something else has written rows of the last list. Sets `run.is_touched`.

    Before the merge, which writes them all.
    """
    if run.versions is None or run.last is None or not (run.table and run.runs):
        return
    parts = {"table": run.table.identifier, "runs": run.runs.identifier}
    values = {"moment": run.last_moment, "run_id": run.last.run_id}
    (run.is_touched,) = fetch_one(cursor, compose(SQL["is_touched"], **parts), values)


def write_history(cursor: Any, run: Run, result: MergeResult) -> None:
    """Bring the versions up to the list that the merge has stored. Sets `run.valid_from`.

    Where they are those of the last list, the merge's differences are enough; else they are
    compared as a whole. Raises DatabaseError if they are not there as they were written.
    """
    newest = run_history.read_newest_version(cursor, run.feed.dag_id)
    with only_own_functions(cursor):
        day = read_day(cursor, run)
        dated = run.options.dated
        moments = {
            "moment": datetime.combine(dated, time(), IST) if dated else result.moment,
            "last_moment": run.last_moment,
            "last_version": run.last and run.last.valid_from,
            "newest": newest,
        }
        at, before = fetch_one(cursor, SQL["choose_moments"], moments)
        at = _Versions(cursor, run, result).bring_up(at, before, day)
        if dated is not None and (first_day := at.astimezone(IST).date()) != dated:
            raise ConfigurationError(
                f"--dated {dated}: {run.table} or {run.versions} has rows of {first_day} already, "
                "and history is written forwards. Import lists of earlier days into a new database."
            )
        run.valid_from = at


class _Versions:
    """The table of versions within one transaction."""

    def __init__(self, cursor: Any, run: Run, result: MergeResult) -> None:
        assert run.versions is not None
        self._cursor = cursor
        self._run = run
        self._result = result
        history = run.versions.identifier
        self._parts: dict[str, sql.Composable] = {
            "history": history,
            "official": official_changes(run),
            "stage": STAGE,
            "columns": listed(_COLUMNS),
            "h_columns": listed(_COLUMNS, "h"),
            "l_columns": listed(_COLUMNS, "l"),
            "new_columns": listed([f"new_{name}" for name in _COLUMNS], "d"),
            "old_columns": listed([f"old_{name}" for name in _COLUMNS], "d"),
            "new_and_old": joined(
                compose("{value} AS {name}", value=listed([name], alias), name=[f"{side}_{name}"])
                for alias, side in (("l", "new"), ("h", "old"))
                for name in _COLUMNS
            ),
            "o_columns": listed(_COLUMNS, "o"),
            "is_unversioned": compose(_IS_UNVERSIONED, history=history),
            "is_last": compose(_IS_LAST, history=history),
        }

    def bring_up(self, at: datetime, before: datetime | None, day: date) -> datetime:
        """Write the versions of the new list, of `day`, from `at` on, or later. Returns from when.

        `before` is since when the last list counts, if no version tells; None: there was none.
        """
        is_empty = self._is("is_empty")
        last = self._run.last
        if before is not None and (is_empty or last is None or last.valid_from is None):
            # The first run with a history, or one after others that could not write it.
            self._execute("last_list", DELTA, list=_LAST_LIST)
            before = self._compare_all(_LAST_LIST, before, before.astimezone(IST).date())
            at = max(at, before + timedelta(microseconds=1))
        if before is None and is_empty:
            self._fill(DELTA, at)
        else:
            at = self._write_whole(at, day)
        if is_empty:
            assert self._run.table is not None
            values = {"moment": self._result.moment, "days": None}
            self._execute("keep_left", DELTA, values, table=self._run.table.identifier)
        self._retire()
        return at

    def _write_whole(self, at: datetime, day: date) -> datetime:
        """Write what the merge has found, or, where that does not fit, what a look at all finds."""
        given = {"given": self._result.given}
        if self._run.last_moment is None:
            pair_rows(self._cursor, self._run, day)  # as nothing was classified

        def write() -> bool:
            is_in_step = not self._run.is_touched and self._is("is_in_step", DELTA, given)
            if is_in_step:
                self._write(DELTA, PAIR, at, day)
            return is_in_step

        # Versions that are no row's may also be in the way.
        if succeeds(self._cursor, write):
            return at
        logger.info("the versions of instruments are not those of the last list: all are compared")
        return self._compare_all(STAGE, at, day)

    def _compare_all(self, rows: sql.Composable, at: datetime, day: date) -> datetime:
        """Write what is different between the open versions and `rows`, a list of `day`.

        From `at` on, or after all that there is: its run may be on record no more.
        """
        (at,) = self._fetch("begin_after_all", values={"at": at})
        self._cursor.execute(compose("DROP TABLE IF EXISTS {delta}", delta=_FULL_DELTA))
        self._execute("compare_all", _FULL_DELTA, list=rows)
        self._execute("analyze", _FULL_DELTA)
        full = {"delta": _FULL_DELTA, "pair": _FULL_PAIR}
        pair_rows(self._cursor, self._run, day, rows=rows, **full)
        self._write(_FULL_DELTA, _FULL_PAIR, at, day)
        return at

    def _write(self, delta: sql.Composable, pair: sql.Composable, at: datetime, day: date) -> None:
        if self._is("is_empty"):
            self._fill(delta, at)
            return
        (newest,) = self._fetch("newest_id")
        values = {**symbol_rules(day), "at": at, "newest": newest}
        for name in ("end_versions", "go_on", "come_back"):
            self._execute(name, delta, values, pair=pair)
        if self._run.reads:  # the official list is there
            self._execute("come_back_renamed", delta, values, pair=pair)
        if not succeeds(self._cursor, lambda: self._is("begin", delta, values)):
            self._execute("begin_numbered", delta, values)
        self._refuse_lost("count_lost", delta)

    def _fill(self, delta: sql.Composable, at: datetime) -> None:
        """Begin the first versions that there are."""
        self._execute("fill", delta, {"at": at})
        self._refuse_lost("count_unfilled", delta)

    def _refuse_lost(self, count: str, delta: sql.Composable) -> None:
        (lost,) = self._fetch(count, delta)
        if lost:
            raise DatabaseError(
                f"Nothing was stored: {lost:,} versions of instruments are not in "
                f"{self._run.versions} as they were written. A trigger, a rule or row security on "
                "that table does such things."
            )

    def _retire(self) -> None:
        """Take rows out of the table that no list has had for long: the versions keep them."""
        days, table = self._run.parameters.get("retire_after_days"), self._run.table
        if days is None:
            return
        assert table is not None
        values = {"moment": self._result.moment, "days": days}
        for name in ("keep_left", "retire"):
            self._execute(name, DELTA, values, table=table.identifier)
        self._run.figures.retired = self._cursor.rowcount

    def _execute(
        self,
        name: str,
        delta: sql.Composable = DELTA,
        values: Mapping[str, Any] | None = None,
        **parts: sql.Composable,
    ) -> None:
        statement = compose(SQL[name], delta=delta, **self._parts, **parts)
        self._cursor.execute(statement, values or {})

    def _fetch(
        self, name: str, delta: sql.Composable = DELTA, values: Mapping[str, Any] | None = None
    ) -> tuple[Any, ...]:
        self._execute(name, delta, values)
        row: tuple[Any, ...] = self._cursor.fetchone()
        return row

    def _is(
        self, name: str, delta: sql.Composable = DELTA, values: Mapping[str, Any] | None = None
    ) -> bool:
        return self._fetch(name, delta, values) == (True,)
