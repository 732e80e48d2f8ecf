"""Rows to a temporary staging table, and from there into their table, in a few statements.

Takes a cursor inside a transaction and never commits. After a merge the table holds every given
row exactly, which is looked at before it is said; rows whose key was not given stay, unless a
unique key of theirs was taken over.
"""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Self

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Table
from shared.utils.copy_stream import copy_rows
from shared.utils.merge_proof import prove, warn_of_hooks
from shared.utils.merge_statements import MergeStatements, planned_for
from shared.utils.relations import Relation, find_relation, only_own_functions
from shared.utils.sql import fetch_one, load_sql

logger = logging.getLogger(__name__)
SQL = load_sql(__file__)


@dataclass(frozen=True)
class MergeResult:
    """What a merge did: `inserted` + `updated` are the rows given.

    A row that is followed by another one with its key counts as updated (ruling 16). `changed` are
    the stored rows that got another value in a column of the table; the other updated ones are as
    they were. `superseded` are the stored rows that were removed since a unique key of theirs
    belongs to another key now.
    `moment` is what the merged rows (of a snapshot all, else those that are new or changed) have in
    `last_updated`; None if there was no row.
    """

    inserted: int = 0
    updated: int = 0
    superseded: int = 0
    moment: datetime | None = None
    changed: int = 0

    @property
    def given(self) -> int:
        """How many rows were given, each of which is stored."""
        return self.inserted + self.updated

    def __add__(self, other: Self) -> Self:
        """What two merges did together; the moment is this one's."""
        return type(self)(
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.superseded + other.superseded,
            self.moment,
            self.changed + other.changed,
        )


NEWEST_ROWS = datetime.min  # stands for a last list whose moment is to be read from the table


def lock_name(cursor: Cursor, name: str) -> None:
    """Wait for other runs that hold the lock of this name (a table's), until the time-out."""
    cursor.execute(SQL["lock"], (zlib.crc32(name.encode()),))


def merge_rows(
    cursor: Cursor,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    batch_size: int = 1000,
    progress: Callable[[int, int], None] | None = None,
    are_distinct: bool = False,
    last_moment: datetime | None = NEWEST_ROWS,
    observe: Callable[[Cursor, datetime | None], None] | None = None,
    record: Callable[[Cursor, MergeResult], None] | None = None,
    is_end: bool = False,
    dry_run: bool = False,
) -> MergeResult:
    """Merge `rows` into `table` within the cursor's transaction, and look whether they are there.

    Of a snapshot each row gets the run's moment. Else only what is new or differs is written.
    Each row has an entry for each of the table's columns; of rows with the same key, or the same
    unique key, the last one counts (`are_distinct`: there are none). `batch_size` rows are streamed
    at a time, after each of which `progress` is called with the rows streamed and the rows in all.
    `last_moment` is that of the last list (None: there was none), in UTC where the table's moments
    have a time zone; if it is not given, the newest rows are the last list. `observe` is called
    with the last list's moment (of a snapshot) before anything is changed, while the rows are in
    the temporary table STAGE_NAME and the differences in DELTA_NAME; `record` when all is written,
    before the proof: no statement of the transaction that could set something off comes after it
    (ruling 29). `is_end` says that the transaction writes nothing after this: then nothing else
    can, either. A `dry_run` works out the result, and changes and locks nothing.
    Raises DatabaseError if a row lacks a column, or the table does not hold the rows as they are
    after they were written; psycopg2.Error if the database refuses.
    """
    if not rows:
        return MergeResult()
    lock_name(cursor, table.name)
    merge = MergeStatements(table, find_relation(cursor, table.name))
    kept, repeated = (rows, 0) if are_distinct else last_of_each_key(table, rows)
    with only_own_functions(cursor):
        for preparation in (SQL["planning"], merge.render("drop"), merge.render("create_stage")):
            cursor.execute(preparation)
        copy = merge.render("copy_to_stage")
        copy_rows(cursor, copy, kept, table.columns, batch_size, progress)
        if table.is_snapshot and not dry_run:
            cursor.execute(merge.render("lock_table"))
        previous, moment = _read_moments(cursor, merge, last_moment)
        inserted, changed = _compare(cursor, merge, previous)
        if observe is not None:
            observe(cursor, previous)
        if dry_run:
            superseded = _count_superseded(cursor, merge)
            warn_of_hooks(cursor, merge.relation)
    if not dry_run:
        superseded = _write(cursor, merge, {"moment": moment, "previous": previous})
    updated = len(kept) - inserted + repeated
    result = MergeResult(inserted, updated, superseded, moment, changed)
    if dry_run:
        return result
    if record is not None:
        record(cursor, result)
    cursor.execute(SQL["fire_deferred"])
    if is_end:
        cursor.execute(SQL["end_writing"])
    with only_own_functions(cursor):
        prove(cursor, merge, moment, kept)
    return result


def is_stored(cursor: Cursor, table: Table, result: MergeResult) -> bool:
    """Whether a merge whose COMMIT went unanswered was committed: its moment is in the table.

    False also where no row tells it: the same merge again does no harm.
    """
    lock_name(cursor, table.name)  # its own transaction may be about to end
    if not table.last_updated:
        return False
    merge = MergeStatements(table, find_relation(cursor, table.name))
    return bool(fetch_one(cursor, merge.render("is_stored"), {"moment": result.moment})[0])


def has_time_zone(cursor: Cursor, table: Table, relation: Relation) -> bool:
    """Whether the moments of the table, which is at `relation`, have a time zone."""
    params = {"oid": relation.oid, "column": table.last_updated}
    return bool(fetch_one(cursor, SQL["read_zoned"], params)[0])


def _compare(cursor: Cursor, merge: MergeStatements, previous: datetime | None) -> tuple[int, int]:
    """Find the differences. Returns how many keys are new, and how many rows get other values."""
    with planned_for(cursor, merge.table):
        cursor.execute(merge.render("create_delta"), {"previous": previous})
    cursor.execute(merge.render("analyze_delta"))
    new, changed = fetch_one(cursor, merge.render("count_differences"))
    return new, changed


def _read_moments(
    cursor: Cursor, merge: MergeStatements, last_moment: datetime | None
) -> tuple[datetime | None, datetime]:
    """The moment of the last list (None: there is none), and the run's own."""
    table = merge.table
    is_zoned = not table.last_updated or has_time_zone(cursor, table, merge.relation)
    if not table.is_snapshot:
        last_moment = None
    elif last_moment is NEWEST_ROWS:
        (last_moment,) = fetch_one(cursor, merge.render("newest"))
    elif last_moment is not None and is_zoned:
        last_moment = last_moment.replace(tzinfo=UTC)
    statement = SQL["moment"].format(type="timestamptz" if is_zoned else "timestamp")
    return last_moment, fetch_one(cursor, statement, {"previous": last_moment})[0]


def _write(cursor: Cursor, merge: MergeStatements, moments: Mapping[str, Any]) -> int:
    """Change the table. Returns how many rows were superseded."""
    superseded = sum(fetch_one(cursor, each)[0] for each in merge.render_each("make_way"))
    if merge.table.is_snapshot:
        cursor.execute(merge.render("touch"), moments)
    cursor.execute(merge.render("update"), moments)
    cursor.execute(merge.render("insert"), moments)
    return int(superseded)


def _count_superseded(cursor: Cursor, merge: MergeStatements) -> int:
    if not merge.table.unique:
        return 0
    superseded = sql.SQL("\nUNION\n").join(merge.render_each("superseded"))
    count = sql.SQL("SELECT count(*) FROM ({}) AS superseded").format(superseded)
    return int(fetch_one(cursor, count)[0])


def last_of_each_key(
    table: Table, rows: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[Mapping[str, Any]], int]:
    """The rows that count, and how many were followed by another one with their key.

    Of rows that share a unique key under different keys the last counts, too; those before it
    are left out with a warning (a DAG that wants to report them rejects them beforehand).
    """
    try:
        kept = _last_rows(rows, table.key)
        repeated = len(rows) - len(kept)
        for unique in table.unique:
            before, kept = kept, _last_rows(kept, unique)
            if lost := len(before) - len(kept):
                left_out = "%s: left out %d rows whose (%s) a later row has"
                logger.warning(left_out, table.name, lost, ", ".join(unique))
    except (KeyError, TypeError) as exc:
        raise DatabaseError(f"A row has no usable value for {exc}; nothing was stored.") from exc
    return kept, repeated


def _last_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """The last of the rows with the same values in `columns`; NULL is the same as no other."""
    last = dict(zip(map(itemgetter(*columns), rows), range(len(rows))))
    if len(last) == len(rows):
        return rows
    counting = set(last.values())
    return [
        row
        for position, row in enumerate(rows)
        if position in counting or any(row[name] in (None, "") for name in columns)
    ]
