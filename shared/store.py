"""The transaction of a payload: gate, changes, merge, and the run's own record."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shared.calendar import IST
from shared.exceptions import ConfigurationError, DatabaseError
from shared.feed import Run, Stage
from shared.gate import Plausibility
from shared.preparation import History
from shared.utils import run_history
from shared.utils.changes import count_last, find_changes, keep_changes, table_of
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import is_readable
from shared.utils.operation import advance
from shared.utils.relations import find_relation
from shared.utils.staged_merge import NEWEST_ROWS, MergeResult, is_stored, lock_name, merge_rows
from shared.utils.table_check import find_added, read_table
from shared.utils.table_setup import refuse_unsuited

Rows = Sequence[Mapping[str, Any]]


def store(
    run: Run, manager: DatabaseManager, rows: Rows, history: History, *, is_last: bool
) -> None:
    """Merge a payload's rows in one transaction, and record the run and its changes in it.

    In a dry run everything is worked out and nothing is written. Fills in the run's figures.
    `is_last`: with this payload the run has succeeded.

    Raises ValidationError if the rows are not plausible, DatabaseError if the database refuses;
    nothing of this payload is stored then.
    """
    transaction = _Transaction(run, history, is_last)
    figures, before = run.figures, run.figures.changes
    try:
        result = manager.run_in_transaction(
            lambda cursor: transaction.merge(cursor, rows), was_stored=transaction.was_stored
        )
    finally:
        found, figures.changes = figures.changes, before
    run.run_id = transaction.run_id
    figures.merge = result + transaction.merged_before
    figures.changes = found if before is None else before + (found or Counter())
    if not run.options.dry_run:
        run.stage = Stage.STORED


def look_up(cursor: Any, run: Run, history: History) -> None:
    """Fill in where the run's tables are, and what the last good run before it was."""
    feed = run.feed
    # Without a history nothing is looked for under its names. What may not be written any more
    # may still be read: the last run on record is what the list is compared with.
    has_runs = history.runs or is_readable(cursor, run_history.TABLE)
    run.last = run_history.read_last_good_run(cursor, feed.dag_id) if has_runs else None
    has_changes = history.changes or (has_runs and is_readable(cursor, table_of(feed)))
    run.changes = find_relation(cursor, table_of(feed).name) if has_changes else None
    run.runs = find_relation(cursor, run_history.TABLE.name) if has_runs else None
    run.table = find_relation(cursor, feed.table.name)
    run.versions = None
    if feed.versions is not None and history.versions:
        run.versions = find_relation(cursor, feed.versions.name)
    run.reads = {
        table.name: find_relation(cursor, table.name)
        for table in feed.reads
        if is_readable(cursor, table)
    }


class _Transaction:
    """The transaction of one payload, and what the run had found before it."""

    def __init__(self, run: Run, history: History, is_last: bool) -> None:
        self._run = run
        self._history = history
        self._is_last = is_last
        self._begin = time.perf_counter()
        self.merged_before = run.figures.merge or MergeResult()
        self.run_id = run.run_id

    def merge(self, cursor: Any, rows: Rows) -> MergeResult:
        run, feed = self._run, self._run.feed
        lock_name(cursor, feed.table.name)  # first: runs are numbered in the order of their lists
        run.figures.changes = None  # of an attempt before
        look_up(cursor, run, self._history)
        if run.options.dated is not None:
            _refuse_undatable(run)
        return merge_rows(
            cursor,
            feed.table,
            rows,
            batch_size=run.parameters["batch_size"],
            progress=advance if self._is_last else None,
            are_distinct=True,  # of each key there is one
            last_moment=run.last.list_moment if run.last and run.last.list_moment else NEWEST_ROWS,
            observe=self._observe,
            record=self._record,
            is_end=True,
            dry_run=run.options.dry_run,
        )

    def _observe(self, cursor: Any, previous: datetime | None) -> None:
        self._run.last_moment = previous
        if not self._run.feed.table.is_snapshot:
            find_changes(cursor, self._run)
        elif previous is not None:  # the first list is what later ones are compared with
            _compare(cursor, self._run, is_recorded=self._history.runs)

    def _record(self, cursor: Any, result: MergeResult) -> None:
        run = self._run
        run_history.warn_of_clock(cursor, result.moment)
        if not self._history.runs:
            return
        run_id = run.run_id
        if run_id is None:
            run_id = run_history.start_run(cursor, run.key)
        elif self._is_last:
            run_id = run_history.put_last(cursor, run.key, run_id)
        self.run_id = run_id
        if self._history.changes and run.changes and run.figures.changes is not None:
            keep_changes(cursor, run.feed, run.changes, run_id)
        if run.versions is not None and run.feed.after_merge is not None:
            run.feed.after_merge(cursor, run, result)
        merged = result + self.merged_before
        durations = {**run.durations, "store": time.perf_counter() - self._begin}
        status = "succeeded" if self._is_last else "running"
        remark = _find_remark(run, self._history) if self._is_last else None
        run_history.update_run(
            cursor, run_id, run.figures, merged, durations, status=status, error=remark
        )
        if run.valid_from is not None:
            run_history.set_valid_from(cursor, run_id, run.valid_from)

    def was_stored(self, cursor: Any, result: MergeResult) -> bool:
        """Whether the transaction whose COMMIT went unanswered was committed."""
        run, table = self._run, self._run.feed.table
        if not self._history.runs or run.run_id is None:
            return is_stored(cursor, table, result)
        lock_name(cursor, table.name)  # the attempt before may be about to end
        if self._is_last:
            return run_history.has_succeeded(cursor, run.key)
        return run_history.is_at_payload(cursor, run.run_id, run.figures.sha256)


def _refuse_undatable(run: Run) -> None:
    """Raise ConfigurationError if the list cannot count as that of the day that is asked for."""
    dated, last = run.options.dated, run.last
    if run.versions is None and not run.options.dry_run:
        raise ConfigurationError(
            f"--dated {dated}: the list would become history, and no versions of {run.feed.title} "
            "are kept here. The warning above says why."
        )
    if last is None:
        return
    last_day = (last.valid_from or last.started_at).astimezone(IST).date()
    if dated is not None and dated < last_day:
        raise ConfigurationError(
            f"--dated {dated}: the last list is that of {last_day}, and history is written "
            "forwards. Import lists of earlier days into a new database first, in order, and "
            "then the later ones."
        )


def _compare(cursor: Any, run: Run, *, is_recorded: bool) -> None:
    """Find what changed since the last snapshot. Raises ValidationError if too much is missing."""
    plausibility = Plausibility(run)
    now = _count_rows(run)
    run.scope = plausibility.find_scope(now)
    find_changes(cursor, run)
    before = count_last(cursor, run.feed, now)
    plausibility.check(now, before)
    run.is_compared_with_newest_rows = run.last is None
    if (is_recorded and run.last is None) or (run.last is not None and not before.total()):
        run.figures.changes = None  # what the table holds is not the list of a run


def _count_rows(run: Run) -> Counter[str]:
    """The snapshot's rows by the value of the first column to count by; all as one without it."""
    if not run.feed.count_by:
        return Counter({"": run.figures.stored})
    counts = run.figures.counts[run.feed.count_by[0]]
    return Counter({"" if value is None else str(value): n for value, n in counts.items()})


def _find_remark(run: Run, history: History) -> str | None:
    """Why a good run has no changes on record, although there was a list before it."""
    changes = run.figures.changes
    if changes and not history.changes:
        name = table_of(run.feed).name
        return f"What changed is not kept: DB_USER could not write {name}."
    if changes is not None or run.last is None:
        return None
    return (
        "What changed cannot be told: the table held none of the rows that run "
        f"{run.last.run_id} had stored."
    )


def predict(run: Run, manager: DatabaseManager, rows: Rows) -> None:
    """Work out what storing the rows would change, as far as there is a table. Writes nothing."""
    table = run.feed.table

    def look_up(cursor: Any) -> History | None:
        refuse_unsuited(cursor, table)
        if (found := read_table(cursor, table.name)) is None:
            return None
        if added := find_added(table, found):
            raise DatabaseError(
                f"{table.name} is of an earlier version: a run gives it the column "
                f"{', '.join(added)} first."
            )
        kept = (run_history.TABLE, table_of(run.feed))
        return History(*(is_readable(cursor, each) for each in kept))

    history = manager.run_in_transaction(look_up)
    if history is None:
        run.figures.merge = MergeResult(inserted=len(rows)) + (run.figures.merge or MergeResult())
    else:
        store(run, manager, rows, history, is_last=True)
