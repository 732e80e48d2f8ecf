"""What a run changes: found in the differences of the merge, and kept, in its transaction.

The merge has put the differences into the temporary table stock_ingestion_delta: new_* is the
payload's row, old_* the table's; was_current says that the old row was of the last list. What they
mean is put into stock_ingestion_change by the feed's `before_merge`, or by key: a row each that was
`added` or `removed`, and one for each column of a row that was `changed`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.calendar import IST
from shared.exceptions import ConfigurationError, DatabaseError
from shared.feed import Feed, Run
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import ExtraTable, find_extra
from shared.utils.relations import Relation
from shared.utils.sql import compose, fetch_one, joined, load_sql

SQL = load_sql(__file__)
_TERMS = ("kind", "field", "old", "new")
# The table for feeds that have none of their own.
CHANGES = ExtraTable("ingestion_change", SQL["create_ingestion_change"], ("SELECT", "INSERT"))


@dataclass(frozen=True)
class ChangeReport:
    """What a run changed, for the command `changes`.

    `is_first`: there was no list to compare with. `remark` says why the changes are not known.
    Each change has the columns `label` and `group`, kind, field, old, new, and those that its feed
    has beside them.
    """

    label: str
    group: str | None
    run_id: int
    started_at: datetime
    is_first: bool
    remark: str | None
    changes: Sequence[dict[str, Any]]


def table_of(feed: Feed) -> ExtraTable:
    """The table that the feed's changes are kept in."""
    return feed.changes or CHANGES


def find_changes(cursor: Cursor, run: Run) -> None:
    """Find what the differences mean; the run's figures get the counts."""
    feed = run.feed
    definitions = joined(
        compose(f"{{name}} {column.sql_type}", name=[column.name])
        for column in table_of(feed).columns
        if column.name != "run_id"
    )
    cursor.execute(compose(SQL["create"], definitions=definitions))
    if feed.before_merge is not None:
        feed.before_merge(cursor, run)
    else:
        if run.changes is not None and run.runs is not None:
            tables = {"changes": run.changes.identifier, "runs": run.runs.identifier}
            old_key = [f"old_{name}" for name in feed.table.key]
            cursor.execute(compose(SQL["carry_on"], old_key=old_key, **tables), (feed.dag_id,))
        cursor.execute(_render_by_key(feed), {"scope": list(run.scope)})
    run.figures.changes = _count(cursor, SQL["count"])


def keep_changes(cursor: Cursor, feed: Feed, changes: Relation, run_id: int) -> None:
    """Store what `find_changes` has found, as the run's. Raises DatabaseError if some is lost."""
    parts: dict[str, Any] = {"changes": changes.identifier, "columns": _columns(feed)}
    cursor.execute(compose(SQL["keep"], **parts), (run_id,))
    (lost,) = fetch_one(cursor, compose(SQL["count_lost"], **parts), (run_id,))
    if lost:
        raise DatabaseError(
            f"Nothing was stored: {lost:,} of the run's changes are not in {changes} as they were "
            "found. A trigger, a rule or row security on that table does such things."
        )


def count_last(cursor: Cursor, feed: Feed, staged: Counter[str]) -> Counter[str]:
    """The rows of the last list by the value of the feed's first column to count by.

    Told from those that are staged, `staged`.
    """
    key = [f"new_{feed.table.key[0]}"]
    old, new = _group(feed, "old_"), _group(feed, "new_")
    return staged + _count(cursor, compose(SQL["count_losses"], key=key, old=old, new=new))


def _group(feed: Feed, prefix: str = "") -> sql.Composable:
    """The value that a row is counted under: "" for all where there is no such column."""
    if not feed.count_by:
        return sql.SQL("''::text")
    return compose("coalesce({column}::text, '')", column=[prefix + feed.count_by[0]])


def read_changes(
    manager: DatabaseManager,
    feed: Feed,
    *,
    run_id: int | None = None,
    since: date | None = None,
    kind: str | None = None,
    group: str | None = None,
) -> list[ChangeReport]:
    """What runs of the feed changed, newest first: of the run `run_id`, or of each since a day.

    Otherwise of the last run that brought another list than the one before it. `kind` and `group`
    (a value of the first column of `count_by`) leave out other changes. Raises ConfigurationError
    for a run that is not on record, DatabaseError if nothing can be read.
    """
    columns = _columns(feed)
    identity = [name for name in columns if name not in _TERMS]
    grouping = next((name for name in feed.count_by[:1] if name in identity), None)
    statement = compose(
        SQL["read_changes"],
        columns=columns,
        changes=[table_of(feed).name],
        group=[grouping] if grouping else sql.SQL("NULL"),
        order=["kind", *identity, "field"],
    )

    def report(
        cursor: Cursor, run_id: int, started_at: datetime, is_first: bool, remark: str | None
    ) -> ChangeReport:
        cursor.execute(statement, {"run_id": run_id, "kind": kind, "group": group})
        changes = [dict(zip(columns, row)) for row in cursor.fetchall()]
        is_first = is_first and feed.table.is_snapshot and not changes
        return ChangeReport(identity[-1], grouping, run_id, started_at, is_first, remark, changes)

    def work(cursor: Cursor) -> list[ChangeReport]:
        if not all(find_extra(cursor, table) for table in (run_history.TABLE, table_of(feed))):
            return []
        begin = since and datetime.combine(since, time(), IST)
        cursor.execute(SQL["read_runs"], {"dag_id": feed.dag_id, "run_id": run_id, "since": begin})
        runs = cursor.fetchall()
        return [report(cursor, *run) for run in (runs if since else runs[:1])]

    reports = manager.run_in_transaction(work)
    if run_id is not None and not reports:
        raise ConfigurationError(f"DAG {feed.dag_id} has no good run {run_id} on record.")
    return reports


def _columns(feed: Feed) -> list[str]:
    return [column.name for column in table_of(feed).columns if column.name != "run_id"]


def _count(cursor: Cursor, statement: Any) -> Counter[str]:
    cursor.execute(statement)
    return Counter(dict(cursor.fetchall()))


def _render_by_key(feed: Feed) -> sql.Composed:
    key = feed.table.key
    # Of each column that is not of the key: its name, the old value, the new one, in one form.
    terms = [
        compose(
            # 15.5 and 15.5000 are one value.
            "({name}, trim_scale({old})::text, trim_scale({new})::text)"
            if column.sql_type == "numeric"
            else "({name}, {old}::text, {new}::text)",
            name=sql.Literal(column.name),
            old=[f"old_{column.name}"],
            new=[f"new_{column.name}"],
        )
        for column in feed.table.columns
        if column.name not in key
    ]
    return compose(
        SQL["find_by_key"],
        new_key=[f"new_{name}" for name in key],
        old_key=[f"old_{name}" for name in key],
        new_first=[f"new_{key[0]}"],
        old_first=[f"old_{key[0]}"],
        group=_group(feed, "old_"),
        is_snapshot=sql.Literal(feed.table.is_snapshot),
        terms=joined(terms or [sql.SQL("(NULL, NULL, NULL)")]),
    )
