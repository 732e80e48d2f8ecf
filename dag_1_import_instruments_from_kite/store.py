"""The transaction of DAG 1: plausibility, merge, changes, and the run's own record."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from dag_1_import_instruments_from_kite.changes import (
    Plausibility,
    carry_on,
    classify_changes,
    count_lists,
    keep_changes,
)
from dag_1_import_instruments_from_kite.settings import CHANGES_TABLE
from dag_1_import_instruments_from_kite.summary import Summary
from shared.config.config_loader import DatabaseConfig
from shared.config.logging_config import redact
from shared.exceptions import DatabaseError
from shared.foreign_text import escape
from shared.models.instrument import INSTRUMENT_TABLE
from shared.models.table import Column
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import (
    ExtraTable,
    Upgrade,
    ensure_extra_table,
    ensure_views,
    find_extra,
    find_upgrades,
    is_readable,
)
from shared.utils.interruptible import DeadlineExceededError, call_interruptibly
from shared.utils.operation import advance
from shared.utils.relations import find_relation
from shared.utils.retry import RetryPolicy
from shared.utils.staged_merge import (
    NEWEST_ROWS,
    MergeResult,
    is_stored,
    lock_table,
    merge_rows,
)
from shared.utils.table_check import read_table

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).resolve().parent
SCHEMA_FILE = _FOLDER / "schema.sql"
VIEWS = _FOLDER / "views.sql"

# How long the record of a failed run may take: the run itself has ended already.
_RECORD_SECONDS = 2
_RECORD_DEADLINE_SECONDS = 3


CHANGES = ExtraTable(
    CHANGES_TABLE,
    (_FOLDER / "changes_schema.sql").read_text(encoding="utf-8"),
    columns=(
        Column("run_id", "bigint"),
        Column("exchange", "varchar", length=10),
        Column("instrument_token", "bigint"),
        Column("tradingsymbol", "varchar", length=50),
        Column("kind", "text"),
        Column("field", "text", nullable=True),
        Column("old", "text", nullable=True),
        Column("new", "text", nullable=True),
    ),
    privileges=("SELECT", "INSERT"),
    upgrades=(
        Upgrade(
            "",
            f"ALTER TABLE {CHANGES_TABLE}"
            " ADD COLUMN change_id UUID DEFAULT gen_random_uuid() PRIMARY KEY",
        ),
    ),
)


class History(NamedTuple):
    """What can be recorded of a run (in a dry run: read): the run itself, and what it changed."""

    runs: bool
    changes: bool


def prepare_history(db_manager: DatabaseManager) -> History:
    """Make the tables and views beside the instrument table, where the role may.

    Returns what can be recorded. A role that may not is no error (ruling 23); one warning says what
    is lacking.
    """
    history, lacking = db_manager.run_in_transaction(_ensure_history)
    if lacking:
        logger.warning("%s", lacking)
    return history


def check_history(db_manager: DatabaseManager) -> str:
    """What a run would say that it lacks for history and views: "" if nothing. Changes nothing."""

    def work(cursor: Any) -> str:
        found = find_extra(cursor, CHANGES)
        key = "; ".join(find_upgrades(CHANGES, found)) if found else ""
        cursor.execute("SAVEPOINT before_history")
        try:
            if read_table(cursor, INSTRUMENT_TABLE.name) is None:
                cursor.execute(SCHEMA_FILE.read_text(encoding="utf-8"))
            _, lacking = _ensure_history(cursor, upgrade=False)
        finally:
            cursor.execute("ROLLBACK TO SAVEPOINT before_history")
        if key and not lacking:
            return f"{CHANGES_TABLE} has no primary key. The next run of its owner adds it: {key}"
        return lacking

    return db_manager.run_in_transaction(work)


def _ensure_history(cursor: Any, *, upgrade: bool = True) -> tuple[History, str]:
    """What can be recorded, and what is lacking, in words."""
    if reason := ensure_extra_table(cursor, run_history.TABLE):
        return History(runs=False, changes=False), (
            f"The history of runs and changes is not kept: {reason}. The views that go by it then "
            "show, among today's rows, also what earlier lists had."
        )
    no_changes = ensure_extra_table(cursor, CHANGES, upgrade=upgrade)
    faults = [f"What changes is not kept: {no_changes}."] if no_changes else []
    if lacking := ensure_views(cursor, _views_script(cursor)):
        faults.append(
            f"Not made, or of an earlier version: {'; '.join(lacking)}. Rename what is in the way, "
            "or let the table's owner run this DAG once."
        )
    return History(runs=True, changes=no_changes is None), " ".join(faults)


def _views_script(cursor: Any) -> str:
    """What makes the views.

    The list_moment of a last_updated with a time zone is in UTC: they are not compared in the
    reader's zone.
    """
    script = VIEWS.read_text(encoding="utf-8")
    table = read_table(cursor, INSTRUMENT_TABLE.name)
    assert table is not None
    if table.columns[INSTRUMENT_TABLE.last_updated].type_name != "timestamptz":
        return script
    moment = "SELECT list_moment"
    return script.replace(moment, f"{moment} AT TIME ZONE 'UTC'")


def store_list(
    db_manager: DatabaseManager,
    instruments: list[dict[str, Any]],
    summary: Summary,
    plausibility: Plausibility,
    *,
    batch_size: int,
    history: History,
) -> None:
    """Merge the instruments in one transaction, and record the run and its changes in it.

    In a dry run everything is worked out and nothing is written. Fills in the summary.

    Raises ValidationError if the list is not plausible, DatabaseError if the database refuses;
    nothing is stored then.
    """
    begin = time.perf_counter()

    def work(cursor: Any) -> MergeResult:
        lock_table(cursor, INSTRUMENT_TABLE)  # first: runs are numbered in the order of their lists
        summary.changes = None  # of an attempt before
        table = find_relation(cursor, INSTRUMENT_TABLE.name)
        # Without a history nothing is looked for under its names. What may not be written any more
        # may still be read: the last run on record is what the list is compared with.
        has_runs = history.runs or is_readable(cursor, run_history.TABLE)
        has_changes = history.changes or (has_runs and is_readable(cursor, CHANGES))
        changes = find_relation(cursor, CHANGES_TABLE) if has_changes else None
        last = run_history.read_last_good_run(cursor, summary.key.dag_id) if has_runs else None
        summary.last = last

        def observe(cursor: Any, previous: datetime | None) -> None:
            if previous is None:
                return  # the first list is what later ones are compared with
            carry_on(cursor, table, changes, last)
            now, before = count_lists(cursor)
            plausibility.check(now, before, last)
            summary.is_compared_with_newest_rows = last is None
            if (history.runs and last is None) or (last is not None and not before.total()):
                return  # what the table holds is no list of a run
            summary.changes = classify_changes(
                cursor,
                plausibility.exchanges_of(now),
                rejected=summary.rejected,
                is_replay=not summary.key.is_from_api,
            )

        def record(cursor: Any, result: MergeResult) -> None:
            run_history.warn_of_clock(cursor, result.moment)
            if history.runs:
                run_id = run_history.insert_run(cursor, summary.key, "succeeded")
                if history.changes and changes is not None and summary.changes is not None:
                    keep_changes(cursor, changes, run_id)
                durations = {**summary.durations, "store": time.perf_counter() - begin}
                figures = make_figures(summary, result, durations)
                remark = _find_remark(summary, history)
                run_history.update_run(cursor, run_id, figures, remark)

        return merge_rows(
            cursor,
            INSTRUMENT_TABLE,
            instruments,
            batch_size=batch_size,
            progress=advance,
            are_distinct=True,  # validated
            last_moment=last.list_moment if last and last.list_moment else NEWEST_ROWS,
            observe=observe,
            record=record,
            is_end=True,
            dry_run=summary.dry_run,
        )

    def was_stored(cursor: Any, result: MergeResult) -> bool:
        if not history.runs:
            return is_stored(cursor, INSTRUMENT_TABLE, result)
        lock_table(cursor, INSTRUMENT_TABLE)  # the attempt before may be about to end
        return run_history.has_succeeded(cursor, summary.key)

    summary.merge = db_manager.run_in_transaction(work, was_stored=was_stored)


def _find_remark(summary: Summary, history: History) -> str | None:
    """Why a good run has no changes on record, although there was a list before it."""
    if summary.changes and not history.changes:
        return f"What changed is not kept: DB_USER could not write {CHANGES_TABLE}."
    if summary.changes is not None or summary.last is None:
        return None
    return (
        "What changed cannot be told: the table held none of the rows that run "
        f"{summary.last.run_id} had stored."
    )


def predict_list(
    db_manager: DatabaseManager,
    instruments: list[dict[str, Any]],
    summary: Summary,
    plausibility: Plausibility,
) -> None:
    """Work out what storing the list would change, as far as there is a table. Writes nothing."""
    table = db_manager.run_in_transaction(
        lambda cursor: find_relation(cursor, INSTRUMENT_TABLE.name)
    )
    if not table.exists:
        summary.merge = MergeResult(inserted=len(instruments))
        return
    store_list(
        db_manager,
        instruments,
        summary,
        plausibility,
        batch_size=1000,
        history=db_manager.run_in_transaction(
            lambda cursor: History(
                *(is_readable(cursor, each) for each in (run_history.TABLE, CHANGES))
            )
        ),
    )


def record_failure(config: DatabaseConfig, summary: Summary, error: BaseException) -> bool:
    """Record a failed run in a transaction of its own, if the database lets us, and soon.

    Returns True, and records nothing, if its list turns out to be stored: the answer to COMMIT was
    lost, or a signal came before it. False also where that cannot be found out.
    """
    quick = replace(
        config,
        connect_timeout_seconds=_RECORD_SECONDS,
        lock_timeout_seconds=_RECORD_SECONDS,
        statement_timeout_seconds=_RECORD_SECONDS,
    )
    # PostgreSQL stores neither NUL nor bytes that are no UTF-8.
    reason = escape(redact(str(error))) or f"ended from outside: {type(error).__name__.strip('_')}"

    def work(cursor: Any) -> bool:
        if run_history.has_succeeded(cursor, summary.key):
            return True
        run_id = run_history.insert_run(cursor, summary.key, "failed")
        figures = make_figures(summary, None, summary.durations)
        run_history.update_run(cursor, run_id, figures, reason)
        return False

    def record() -> bool:
        with DatabaseManager(asdict(quick), retry=RetryPolicy(max_attempts=1)) as db_manager:
            # The tables alone: the views need the instrument table, which there may not be yet.
            lacking = db_manager.run_in_transaction(
                lambda cursor: ensure_extra_table(cursor, run_history.TABLE)
            )
            return lacking is None and db_manager.run_in_transaction(work)

    try:
        # All of it within a deadline: after SIGTERM the run has to end soon (ruling 26).
        return call_interruptibly(record, deadline_seconds=_RECORD_DEADLINE_SECONDS)
    except (DatabaseError, DeadlineExceededError) as exc:
        logger.info("the failed run could not be recorded: %s", exc or "the database is slow")
        return False


def make_figures(
    summary: Summary, result: MergeResult | None, durations: Mapping[str, float]
) -> run_history.RunFigures:
    """The summary as the history keeps it."""
    return run_history.RunFigures(
        fetched=summary.fetched,
        left_out=sum(summary.left_out.values()),
        rejected=len(summary.rejected),
        inserted=result.inserted if result else None,
        updated=result.updated if result else None,
        superseded=result.superseded if result else None,
        list_moment=run_history.without_zone(result.moment) if result else None,
        dump_sha256=summary.dump_sha256,
        dump_bytes=summary.dump_bytes,
        durations=durations,
    )
