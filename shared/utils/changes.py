"""What a run changes: found in the differences of the merge, and kept, in its transaction.

The merge has put the differences into the temporary table DELTA_NAME: new_* is the payload's row,
old_* the table's; was_current says that the old row was of the last list. What they mean is put
into CHANGE_NAME by the feed's `before_merge`, or by key: a row each that was `added` or `removed`,
and one for each column of a row that was `changed`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.calendar import IST
from shared.exceptions import ConfigurationError, DatabaseError
from shared.feed import Feed, Run
from shared.models.table import Column, Table
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import ExtraTable, is_ours
from shared.utils.merge_statements import DELTA, STAGE_NAME
from shared.utils.relations import Relation, compose
from shared.utils.sql import fetch_one

CHANGE_NAME = "stock_ingestion_change"
CHANGE = sql.Identifier("pg_temp", CHANGE_NAME)
_TERMS = ("kind", "field", "old", "new")

# The table for feeds that have none of their own.
CHANGES = ExtraTable(
    "ingestion_change",
    """\
CREATE TABLE IF NOT EXISTS ingestion_change (
    change_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id BIGINT NOT NULL REFERENCES ingestion_run ON DELETE CASCADE,
    key TEXT NOT NULL,      -- the values of the row's key, with a blank between
    kind TEXT NOT NULL,     -- 'added', 'removed', 'changed'
    field TEXT,
    old TEXT,
    new TEXT
);
CREATE INDEX IF NOT EXISTS idx_ingestion_change_run_id ON ingestion_change(run_id);
""",
    columns=(
        Column("run_id", "bigint"),
        Column("key", "text"),
        Column("kind", "text"),
        Column("field", "text", nullable=True),
        Column("old", "text", nullable=True),
        Column("new", "text", nullable=True),
    ),
    privileges=("SELECT", "INSERT"),
)

CREATE = "CREATE TEMPORARY TABLE {name} ({definitions})"
DROP = f"DROP TABLE IF EXISTS pg_temp.{CHANGE_NAME}"
COUNT = f"SELECT kind, count(*) FROM pg_temp.{CHANGE_NAME} GROUP BY kind"
KEEP = """
INSERT INTO {changes} (run_id, {columns}) SELECT %s, {columns} FROM pg_temp.stock_ingestion_change
"""
COUNT_LOST = """
SELECT count(*) FROM (
    SELECT {columns} FROM pg_temp.stock_ingestion_change
    EXCEPT ALL SELECT {columns} FROM {changes} WHERE run_id = %s) AS lost
"""
COUNT_STAGED = sql.SQL(f"SELECT {{group}}, count(*) FROM pg_temp.{STAGE_NAME} GROUP BY 1")

# By value: the rows that only the last list has, less those that only the payload has. Counted in
# the differences: counting the last list itself would read the whole table.
COUNT_LOSSES = sql.SQL(
    """
SELECT CASE WHEN {key} IS NULL THEN {old} ELSE {new} END,
       count(*) FILTER (WHERE {key} IS NULL AND was_current)
       - count(*) FILTER (WHERE {key} IS NOT NULL AND NOT was_current)
FROM {delta} GROUP BY 1
"""
)

# By key. Rows that come and go are told of a snapshot alone: of another feed they are its data.
FIND_BY_KEY = sql.SQL(
    """
INSERT INTO pg_temp.stock_ingestion_change (key, kind, field, old, new)
SELECT pg_catalog.concat_ws(' ', {new_key}), 'added', NULL, NULL, NULL FROM {delta} AS d
WHERE {is_snapshot} AND {new_first} IS NOT NULL AND NOT was_current
UNION ALL
SELECT pg_catalog.concat_ws(' ', {old_key}), 'removed', NULL, NULL, NULL FROM {delta} AS d
WHERE {is_snapshot} AND {new_first} IS NULL AND was_current
  AND (%(scope)s::text[] = '{{}}' OR {group} = ANY (%(scope)s::text[]))
UNION ALL
SELECT pg_catalog.concat_ws(' ', {new_key}), 'changed', term.field, term.old, term.new
FROM {delta} AS d CROSS JOIN LATERAL (VALUES {terms}) AS term (field, old, new)
WHERE {new_first} IS NOT NULL AND {old_first} IS NOT NULL AND (was_current OR NOT {is_snapshot})
  AND term.old IS DISTINCT FROM term.new
"""
)


@dataclass(frozen=True)
class ChangeReport:
    """What a run changed, for the command `changes`.

    `run_id` is None where no run is on record. `is_first`: there was no list to compare with.
    `remark` says why the changes are not known. Each change has the columns `label` and `group`,
    kind, field, old, new, and those that its feed has beside them.
    """

    feed: Feed
    label: str
    group: str | None
    run_id: int | None = None
    started_at: datetime | None = None
    is_first: bool = False
    remark: str | None = None
    changes: Sequence[dict[str, Any]] = ()


# The good runs whose payload is another one than that of the good run before.
READ_RUNS = """
SELECT run_id, started_at, is_first, error FROM (
    SELECT run_id, started_at, error, lag(run_id) OVER good IS NULL AS is_first,
           rows_fetched IS DISTINCT FROM 0 AND (dump_sha256 IS NULL
               OR dump_sha256 IS DISTINCT FROM lag(dump_sha256) OVER good) AS is_new
    FROM ingestion_run WHERE dag_id = %(dag_id)s AND status = 'succeeded'
    WINDOW good AS (ORDER BY run_id)) AS run
WHERE CASE WHEN %(run_id)s::bigint IS NOT NULL THEN run_id = %(run_id)s
           WHEN %(since)s::timestamptz IS NOT NULL THEN started_at >= %(since)s
           ELSE is_new END
ORDER BY run_id DESC
"""
READ_CHANGES = """
SELECT {columns} FROM {changes}
WHERE run_id = %(run_id)s AND (%(kind)s::text IS NULL OR kind = %(kind)s)
  AND (%(group)s::text IS NULL OR {group}::text = %(group)s)
ORDER BY {order}
"""


def table_of(feed: Feed) -> ExtraTable:
    """The table that the feed's changes are kept in."""
    return feed.changes or CHANGES


def find_changes(cursor: Cursor, run: Run) -> None:
    """Find what the differences mean, into CHANGE_NAME; the run's figures get the counts."""
    definitions = sql.SQL(", ").join(
        sql.SQL("{} {}").format(
            sql.Identifier(column.name),
            sql.SQL("text" if column.sql_type == "varchar" else column.sql_type),
        )
        for column in table_of(run.feed).columns
        if column.name != "run_id"
    )
    cursor.execute(DROP)
    cursor.execute(sql.SQL(CREATE).format(name=CHANGE, definitions=definitions))
    if run.feed.before_merge is not None:
        run.feed.before_merge(cursor, run)
    elif terms := _terms(run.feed.table):
        cursor.execute(_render_by_key(run.feed, terms), {"scope": list(run.scope)})
    cursor.execute(COUNT)
    run.figures.changes = Counter(dict(cursor.fetchall()))


def keep_changes(cursor: Cursor, feed: Feed, changes: Relation, run_id: int) -> None:
    """Put what `find_changes` has found into the feed's table of changes, as the run's.

    Raises DatabaseError if they are not there then as they were found.
    """
    columns = _columns(feed)
    cursor.execute(compose(KEEP, changes=changes, columns=columns), (run_id,))
    (lost,) = fetch_one(cursor, compose(COUNT_LOST, changes=changes, columns=columns), (run_id,))
    if lost:
        raise DatabaseError(
            f"Nothing was stored: {lost:,} of the run's changes are not in {changes} as they were "
            "found. A trigger, a rule or row security on that table does such things."
        )


def count_staged(cursor: Cursor, feed: Feed) -> Counter[str]:
    """The staged rows by the value of the feed's first column to count by."""
    cursor.execute(COUNT_STAGED.format(group=_group(feed)))
    return Counter(dict(cursor.fetchall()))


def count_last(cursor: Cursor, feed: Feed, staged: Counter[str]) -> Counter[str]:
    """The same of the rows of the last list, told from those that are staged."""
    key = sql.Identifier(f"new_{feed.table.key[0]}")
    old, new = _group(feed, "old_"), _group(feed, "new_")
    cursor.execute(COUNT_LOSSES.format(key=key, old=old, new=new, delta=DELTA))
    return staged + Counter(dict(cursor.fetchall()))


def _group(feed: Feed, prefix: str = "") -> sql.Composable:
    """The value that a row is counted under: the same for all where there is no such column."""
    if not feed.count_by:
        return sql.SQL("''::text")
    return sql.SQL("coalesce({}::text, '')").format(sql.Identifier(prefix + feed.count_by[0]))


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
    (a value of the first column of `count_by`) leave out other changes.

    Raises ConfigurationError for a run that is not on record, DatabaseError if nothing can be read.
    """
    identity = [name for name in _columns(feed) if name not in _TERMS]
    grouping = next((name for name in feed.count_by[:1] if name in identity), None)
    empty = ChangeReport(feed, identity[-1], grouping)

    def work(cursor: Cursor) -> list[ChangeReport]:
        if not (run_history.is_kept(cursor) and is_ours(cursor, table_of(feed))):
            return []
        begin = since and datetime.combine(since, time(), IST)
        wanted = {"dag_id": feed.dag_id, "run_id": run_id, "since": begin}
        cursor.execute(READ_RUNS, wanted)
        runs = cursor.fetchall()
        statement = sql.SQL(READ_CHANGES).format(
            columns=_listed(_columns(feed)),
            changes=sql.Identifier(table_of(feed).name),
            group=sql.Identifier(grouping) if grouping else sql.SQL("NULL"),
            order=_listed(["kind", *identity, "field"]),
        )
        reports = []
        for number, started_at, is_first, remark in runs if since else runs[:1]:
            cursor.execute(statement, {"run_id": number, "kind": kind, "group": group})
            changes = [dict(zip(_columns(feed), row)) for row in cursor.fetchall()]
            reports.append(
                replace(
                    empty,
                    run_id=number,
                    started_at=started_at,
                    is_first=is_first and feed.table.is_snapshot and not changes,
                    remark=remark,
                    changes=changes,
                )
            )
        return reports

    reports = manager.run_in_transaction(work)
    if run_id is not None and not reports:
        raise ConfigurationError(f"DAG {feed.dag_id} has no good run {run_id} on record.")
    return reports


def _columns(feed: Feed) -> list[str]:
    return [column.name for column in table_of(feed).columns if column.name != "run_id"]


def _listed(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _terms(table: Table) -> list[sql.Composed]:
    """Of each column that is not of the key: its name, the old value, the new one, in one form."""
    return [
        sql.SQL("({}, {}, {})").format(
            sql.Literal(column.name), *(_as_text(column, age) for age in ("old", "new"))
        )
        for column in table.columns
        if column.name not in table.key
    ]


def _as_text(column: Column, age: str) -> sql.Composed:
    """15.5 and 15.5000 are one value."""
    form = "trim_scale({})::text" if column.sql_type == "numeric" else "{}::text"
    return sql.SQL(form).format(sql.Identifier(f"{age}_{column.name}"))


def _render_by_key(feed: Feed, terms: Sequence[sql.Composed]) -> sql.Composed:
    key = feed.table.key
    return FIND_BY_KEY.format(
        new_key=_listed([f"new_{name}" for name in key]),
        old_key=_listed([f"old_{name}" for name in key]),
        new_first=sql.Identifier(f"new_{key[0]}"),
        old_first=sql.Identifier(f"old_{key[0]}"),
        group=_group(feed, "old_"),
        is_snapshot=sql.Literal(feed.table.is_snapshot),
        terms=sql.SQL(", ").join(terms),
        delta=DELTA,
    )
