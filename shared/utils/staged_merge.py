"""Rows to a temporary staging table, and from there into their table, in a few statements.

Takes a cursor inside a transaction and never commits. After a merge the table holds every given
row exactly, which is looked at before it is said; rows whose key was not given stay, unless a
unique key of theirs was taken over.

The order of the statements is what resolves unique keys that move (ruling 17): whatever row of
the table holds a unique key that the stage gives to another row lets go of it first. Then neither
the UPDATE nor the INSERT can collide, whatever the pattern (swap, chain, rotation). A holder that
is staged itself is renamed, not deleted: it stays the same row for whoever refers to it.
"""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Column, Table
from shared.utils.copy_stream import copy_rows
from shared.utils.merge_proof import (
    COUNT_AT_MOMENT,
    END_WRITING,
    FIRE_DEFERRED,
    IS_STORED,
    READ_BACK,
    prove,
    warn_of_hooks,
)
from shared.utils.relations import Relation, find_relation, only_own_functions

logger = logging.getLogger(__name__)

STAGE_NAME = "stock_ingestion_stage"
STAGE = sql.Identifier("pg_temp", STAGE_NAME)
DELTA_NAME = "stock_ingestion_delta"
DELTA = sql.Identifier("pg_temp", DELTA_NAME)

# One run at a time writes a table; held until the transaction ends (ruling 21).
LOCK = sql.SQL("SELECT pg_catalog.pg_advisory_xact_lock({table_id})")

# No other session writes the table from here to the end of the transaction; who reads it does not
# wait (ruling 24). It takes no more than the right to update or delete.
LOCK_TABLE = sql.SQL("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")

# The moment of the newest rows: where it is not known from elsewhere, that of the last list.
NEWEST = sql.SQL(
    """\
SELECT max({last_updated}) FROM {table}
WHERE {last_updated} BETWEEN '0001-01-02' AND '9999-12-30'"""
)

# The run's own moment: now, and later than the last list's even if a clock was set back
# (ruling 18).
MOMENT = sql.SQL(
    """\
SELECT greatest(clock_timestamp()::{moment_type},
                %(previous)s::{moment_type} + interval '1 microsecond')"""
)

# Whether the table's moments have a time zone: then they are the same whatever zone a session has.
READ_ZONED = """
WITH RECURSIVE base (oid) AS (
    SELECT atttypid FROM pg_attribute
    WHERE attrelid = format('%%I.%%I', %(schema)s, %(name)s)::regclass AND attname = %(column)s
    UNION ALL
    SELECT typbasetype FROM base JOIN pg_type USING (oid) WHERE typtype = 'd'
)
SELECT coalesce(bool_or(oid = 'timestamptz'::regtype), false) FROM base
"""

# Room for the join of all rows: with the default of 4 MB it goes over the disk.
WORK_MEMORY = "SELECT set_config('work_mem', '64MB', true)"

# What another transaction of a pooled session left behind, or a merge earlier in this one.
DROP = sql.SQL("DROP TABLE IF EXISTS {stage}, {delta}")

# A NUMERIC without a scale takes a value as it is; its CHECK refuses what would be rounded later.
CREATE_STAGE = sql.SQL("CREATE TEMPORARY TABLE {stage} ({definitions}) ON COMMIT DROP")

COPY_TO_STAGE = sql.SQL("COPY {stage} ({columns}) FROM STDIN WITH (FORMAT text, NULL '')")

# Where the staged rows differ from the table: a row each, new_* as staged, old_* as stored. A key
# that only the table has is among them if it was current: one of the last list's moment; or if
# somebody else has given it another moment since.
CREATE_DELTA = sql.SQL(
    """\
CREATE TEMPORARY TABLE {delta} ON COMMIT DROP AS
SELECT {new_and_old},
       (t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s) IS TRUE AS was_current,
       {was_touched} AS was_touched
FROM {stage} AS s FULL JOIN {table} AS t ON {same_key}
WHERE {t_first} IS NULL
   OR ({s_first} IS NULL
       AND (t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s OR {was_touched}))
   OR ({s_first} IS NOT NULL
       AND ((t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s) IS NOT TRUE
            OR ({s_others}) IS DISTINCT FROM ({t_others})))"""
)
WAS_TOUCHED = sql.SQL(
    "(t.{last_updated} > %(previous)s AND t.{created_at} <= %(previous)s) IS TRUE"
)

ANALYZE_DELTA = sql.SQL("ANALYZE {delta}")

# The stored rows that hold a unique key which the stage gives to another row. One that is staged
# itself is in the delta, since its own unique key must be another one now.
_HOLDERS = """\
WITH holder AS (
    SELECT {t_key}, EXISTS (SELECT FROM {delta} AS d WHERE {new_has_key}) AS is_staged
    FROM {table} AS t JOIN {delta} AS d ON {new_has_unique}
    WHERE NOT ({new_has_key})
)"""

# A row may be superseded for several of its unique keys: UNION counts it once.
SUPERSEDED = sql.SQL(
    """\
SELECT {t_key} FROM {table} AS t JOIN {delta} AS d ON {new_has_unique}
WHERE NOT EXISTS (SELECT FROM {delta} AS d WHERE {new_has_key})"""
)
COUNT_SUPERSEDED = sql.SQL("SELECT count(*) FROM ({superseded}) AS superseded")

# The holders let go. Those that are not staged are removed (superseded); the others take a name
# that no instrument has, until the UPDATE.
MAKE_WAY = sql.SQL(
    _HOLDERS
    + """, removed AS (
    DELETE FROM {table} AS t USING holder AS s
    WHERE {same_key} AND NOT s.is_staged
    RETURNING 1
), renamed AS (
    UPDATE {table} AS t SET {name} = pg_catalog.concat(
        pg_catalog.chr(1), pg_catalog.left(pg_catalog.md5(pg_catalog.random()::text), 16), t.ctid)
    FROM holder AS s
    WHERE {same_key} AND s.is_staged
    RETURNING 1
)
SELECT (SELECT count(*) FROM removed), (SELECT count(*) FROM renamed)"""
)

# The current rows that the delta has not are staged as they are: only their moment is new. (One
# UPDATE from the stage would join all rows once more: 0.32 s for 118,000, against 0.19 s.)
# NOT ... ANY, since its subquery is hashed whatever the planner expects. It expects hardly any row
# of the previous moment where the table was not analysed since, and would go through the delta once
# for each of them (30 s, with NOT EXISTS).
TOUCH = sql.SQL(
    """\
UPDATE {table} AS t SET {last_updated} = %(moment)s
WHERE t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s
  AND NOT ({t_key}) OPERATOR(pg_catalog.=) ANY (
      SELECT {old_key} FROM {delta} AS d WHERE {old_first} IS NOT NULL)"""
)

UPDATE = sql.SQL(
    """\
UPDATE {table} AS t SET {assignments}, {last_updated} = %(moment)s
FROM {delta} AS d WHERE {new_has_key}"""
)

INSERT = sql.SQL(
    """\
INSERT INTO {table} ({columns}, {last_updated}, {created_at})
SELECT {new_columns}, %(moment)s, %(moment)s FROM {delta} AS d
WHERE {old_first} IS NULL"""
)

COUNT_INSERTED = sql.SQL("SELECT count(*) FROM {delta} AS d WHERE {old_first} IS NULL")


@dataclass(frozen=True)
class MergeResult:
    """What a merge did: `inserted` + `updated` are the rows given.

    A row that is followed by another one with its key counts as updated (ruling 16); `superseded`
    are the stored rows that were removed since a unique key of theirs belongs to another key now.
    `moment` is what every merged row has in `last_updated`; None if there was no row.
    """

    inserted: int = 0
    updated: int = 0
    superseded: int = 0
    moment: datetime | None = None

    def __add__(self, other: MergeResult) -> MergeResult:
        """What two merges did together; the moment is this one's."""
        return MergeResult(
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.superseded + other.superseded,
            self.moment,
        )


# Called with the cursor and the moment of the last list (None: there is none), before anything is
# changed.
Observer = Callable[[Cursor, "datetime | None"], None]

# Called with the cursor and what the merge has done, before that is looked at.
Recorder = Callable[[Cursor, MergeResult], None]

# Stands for a last list whose moment is to be read from the table.
NEWEST_ROWS = datetime.min


def lock_table(cursor: Cursor, table: Table) -> None:
    """Wait for other runs on this table, until the transaction's lock time-out."""
    lock_name(cursor, table.name)


def lock_name(cursor: Cursor, name: str) -> None:
    """Wait for other runs that hold the lock of this name, until the lock time-out."""
    table_id = zlib.crc32(name.encode())
    cursor.execute(LOCK.format(table_id=sql.Literal(table_id)))


def merge_rows(
    cursor: Cursor,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    batch_size: int = 1000,
    progress: Callable[[int, int], None] | None = None,
    are_distinct: bool = False,
    last_moment: datetime | None = NEWEST_ROWS,
    observe: Observer | None = None,
    record: Recorder | None = None,
    is_end: bool = False,
    dry_run: bool = False,
) -> MergeResult:
    """Merge `rows` into `table` within the cursor's transaction, and look whether they are there.

    Each row has an entry for each of the table's columns; of rows with the same key, or the same
    unique key, the last one counts (`are_distinct`: there are none). `batch_size` rows are streamed
    at a time, after each of which `progress` is called with the rows streamed and the rows in all.
    `last_moment` is that of the last list (None: there was none), in UTC where the table's moments
    have a time zone; if it is not given, the newest rows are the last list. `observe` is called
    before anything is changed, while the rows are in the temporary table STAGE_NAME and the
    differences in DELTA_NAME; `record` when all is written, before the proof: no statement of the
    transaction that could set something off comes after it (ruling 29).
    `is_end` says that the transaction writes nothing after this: then nothing else can, either.
    A `dry_run` works out the result, and changes and locks nothing.

    Raises DatabaseError if a row lacks a column, or the table does not hold the rows as they are
    after they were written; psycopg2.Error if the database refuses.
    """
    if not rows:
        return MergeResult()
    lock_table(cursor, table)
    relation = find_relation(cursor, table.name)
    kept, repeated = (rows, 0) if are_distinct else _last_of_each_key(table, rows)
    merge = render_merge(table, relation)
    with only_own_functions(cursor):
        is_zoned = has_time_zone(cursor, table, relation)
        cursor.execute(WORK_MEMORY)
        cursor.execute(merge.drop)
        cursor.execute(merge.create_stage)
        copy_rows(cursor, merge.copy, kept, table.column_names, batch_size, progress)
        if not dry_run:
            cursor.execute(merge.lock_table)
        previous, moment = _read_moments(cursor, merge, last_moment, is_zoned)
        cursor.execute(merge.create_delta, {"previous": previous})
        cursor.execute(merge.analyze_delta)
        if observe is not None:
            observe(cursor, previous)
        if dry_run:
            inserted, updated, superseded = _predict(cursor, merge, len(kept))
            warn_of_hooks(cursor, relation)
    if dry_run:
        return MergeResult(inserted, updated + repeated, superseded, moment)
    inserted, updated, superseded = _apply(cursor, merge, previous, moment)
    result = MergeResult(inserted, updated + repeated, superseded, moment)
    if record is not None:
        record(cursor, result)
    cursor.execute(FIRE_DEFERRED)
    if is_end:
        cursor.execute(END_WRITING)
    with only_own_functions(cursor):
        prove(cursor, merge, relation, moment, table.columns, kept)
    return result


def is_stored(cursor: Cursor, table: Table, result: MergeResult) -> bool:
    """Whether a merge whose COMMIT went unanswered was committed: its moment is in the table."""
    lock_table(cursor, table)  # its own transaction may be about to end
    merge = render_merge(table, find_relation(cursor, table.name))
    cursor.execute(merge.is_stored, {"moment": result.moment})
    return bool(_only_row(cursor)[0])


def has_time_zone(cursor: Cursor, table: Table, relation: Relation) -> bool:
    """Whether the moments of the table, which is at `relation`, have a time zone."""
    place = {"schema": relation.schema, "name": relation.name, "column": table.last_updated}
    cursor.execute(READ_ZONED, place)
    row = cursor.fetchone()
    return row == (True,)


def _read_moments(
    cursor: Cursor, merge: MergeStatements, last_moment: datetime | None, is_zoned: bool
) -> tuple[datetime | None, datetime]:
    """The moment of the last list (None: there is none), and the run's own."""
    if last_moment is NEWEST_ROWS:
        cursor.execute(merge.newest)
        last_moment = _only_row(cursor)[0]
    elif last_moment is not None and is_zoned:
        last_moment = last_moment.replace(tzinfo=timezone.utc)
    moment_type = sql.SQL("timestamptz" if is_zoned else "timestamp")
    cursor.execute(MOMENT.format(moment_type=moment_type), {"previous": last_moment})
    return last_moment, _only_row(cursor)[0]


def _apply(
    cursor: Cursor, merge: MergeStatements, previous: datetime | None, moment: datetime
) -> tuple[int, int, int]:
    superseded = 0
    for statement in merge.make_way:
        cursor.execute(statement)
        superseded += _only_row(cursor)[0]
    cursor.execute(merge.touch, {"moment": moment, "previous": previous})
    updated = cursor.rowcount
    cursor.execute(merge.update, {"moment": moment})
    updated += cursor.rowcount
    cursor.execute(merge.insert, {"moment": moment})
    return cursor.rowcount, updated, superseded


def _predict(cursor: Cursor, merge: MergeStatements, staged: int) -> tuple[int, int, int]:
    superseded = 0
    if merge.count_superseded is not None:
        cursor.execute(merge.count_superseded)
        superseded = _only_row(cursor)[0]
    cursor.execute(merge.count_inserted)
    inserted = _only_row(cursor)[0]
    return inserted, staged - inserted, superseded


@dataclass(frozen=True)
class MergeStatements:
    """The statements of a merge, in the order in which they run."""

    drop: sql.Composed
    create_stage: sql.Composed
    copy: sql.Composed
    lock_table: sql.Composed
    newest: sql.Composed
    create_delta: sql.Composed
    analyze_delta: sql.Composed
    count_superseded: sql.Composed | None  # None: the table has no further unique key
    count_inserted: sql.Composed
    make_way: tuple[sql.Composed, ...]
    touch: sql.Composed
    update: sql.Composed
    insert: sql.Composed
    count_at_moment: sql.Composed
    read_back: sql.Composed
    is_stored: sql.Composed


def render_merge(table: Table, relation: Relation) -> MergeStatements:
    """The statements that merge a staged dump into `table`, which is at `relation`."""
    names = table.column_names
    others = [name for name in names if name not in table.key]
    parts = {
        "table": relation.identifier,
        "stage": STAGE,
        "delta": DELTA,
        "columns": _listed(names),
        "new_columns": _listed([f"new_{name}" for name in names], "d"),
        "new_and_old": sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(
                sql.Identifier(alias, name), sql.Identifier(f"{prefix}_{name}")
            )
            for alias, prefix in (("s", "new"), ("t", "old"))
            for name in names
        ),
        "s_first": sql.Identifier("s", table.key[0]),
        "t_first": sql.Identifier("t", table.key[0]),
        "old_first": sql.Identifier("d", f"old_{table.key[0]}"),
        "new_first": sql.Identifier("d", f"new_{table.key[0]}"),
        "s_others": _listed(others, "s"),
        "t_others": _listed(others, "t"),
        "new_others": _listed([f"new_{name}" for name in others], "d"),
        "t_key": _listed(table.key, "t"),
        "t_columns": sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier("t", name)) for name in names
        ),
        "same_key": _equal(table.key, "t", "s"),
        "new_has_key": _equal(table.key, "t", "d", "new_"),
        "old_key": _listed([f"old_{name}" for name in table.key], "d"),
        "last_updated": sql.Identifier(table.last_updated),
        "created_at": sql.Identifier(table.created_at),
        "definitions": sql.SQL(", ").join(map(_definition, table.columns)),
        "assignments": sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier("d", f"new_{name}"))
            for name in others
        ),
    }
    parts["was_touched"] = WAS_TOUCHED.format(**parts)
    per_unique = [
        {
            **parts,
            "new_has_unique": _equal(unique, "t", "d", "new_"),
            "name": sql.Identifier(unique[0]),
        }
        for unique in table.unique
    ]
    superseded = [SUPERSEDED.format(**each) for each in per_unique]
    return MergeStatements(
        drop=DROP.format(**parts),
        create_stage=CREATE_STAGE.format(**parts),
        copy=COPY_TO_STAGE.format(**parts),
        lock_table=LOCK_TABLE.format(**parts),
        newest=NEWEST.format(**parts),
        create_delta=CREATE_DELTA.format(**parts),
        analyze_delta=ANALYZE_DELTA.format(**parts),
        count_superseded=COUNT_SUPERSEDED.format(superseded=sql.SQL("\nUNION\n").join(superseded))
        if superseded
        else None,
        count_inserted=COUNT_INSERTED.format(**parts),
        make_way=tuple(MAKE_WAY.format(**each) for each in per_unique),
        touch=TOUCH.format(**parts),
        update=UPDATE.format(**parts),
        insert=INSERT.format(**parts),
        count_at_moment=COUNT_AT_MOMENT.format(**parts),
        read_back=READ_BACK.format(**parts),
        is_stored=IS_STORED.format(**parts),
    )


def _listed(names: Sequence[str], alias: str | None = None) -> sql.Composed:
    qualifier = (alias,) if alias else ()
    return sql.SQL(", ").join(sql.Identifier(*qualifier, name) for name in names)


def _equal(names: Sequence[str], left: str, right: str, prefix: str = "") -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(
            sql.Identifier(left, name), sql.Identifier(right, prefix + name)
        )
        for name in names
    )


def _definition(column: Column) -> sql.Composed:
    name = sql.Identifier(column.name)
    sql_type = sql.Composed([sql.SQL(column.sql_type)])
    if column.length is not None:
        sql_type += sql.SQL("({})").format(sql.Literal(column.length))
    if column.scale is not None:
        # NaN has no scale; NULL has none either, and may pass.
        sql_type += sql.SQL(
            " CHECK ({0} IS NULL OR coalesce(min_scale({0}) <= {1}, false))"
        ).format(name, sql.Literal(column.scale))
    return sql.SQL("{} {}").format(name, sql_type)


def _only_row(cursor: Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None  # the statement is an aggregate
    return row


def _last_of_each_key(
    table: Table, rows: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[Mapping[str, Any]], int]:
    """The rows that count, and how many were followed by another one with their key.

    Of rows that share a unique key under different keys the last counts, too; those before it
    are left out with a warning (a DAG that wants to report them rejects them beforehand).
    """
    try:
        if all(_all_differ(rows, columns) for columns in (table.key, *table.unique)):
            return rows, 0
        by_key = _unique_rows(rows, table.key)
        repeated = len(rows) - len(by_key)
        for unique in table.unique:
            by_unique = _unique_rows(by_key, unique)
            if len(by_unique) != len(by_key):
                logger.warning(
                    "%s: left out %d rows whose (%s) a later row has",
                    table.name,
                    len(by_key) - len(by_unique),
                    ", ".join(unique),
                )
            by_key = by_unique
    except (KeyError, TypeError) as exc:
        raise DatabaseError(f"A row has no usable value for {exc}; nothing was stored.") from exc
    return by_key, repeated


def _unique_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """The last of the rows with the same values in `columns`."""
    values_of = itemgetter(*columns)
    last = {values_of(row): position for position, row in enumerate(rows)}
    return [rows[position] for position in sorted(last.values())]


def _all_differ(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bool:
    """Whether no two rows have the same values in `columns`."""
    # Grouped by the other columns: one set of pairs takes more than twice as long.
    first_of = itemgetter(columns[0])
    others_of = itemgetter(*(columns[1:] or columns))
    groups: defaultdict[Any, set[Any]] = defaultdict(set)
    for row in rows:
        groups[others_of(row)].add(first_of(row))
    return sum(map(len, groups.values())) == len(rows)
