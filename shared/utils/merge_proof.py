"""The proof of a merge: is what was written in the table, before anybody is told that it is?

A trigger, a rule, row security or a coarser type may make other rows of those that are written,
and nothing of it is an error. So the table is looked at (ruling 29).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Column
from shared.utils.relations import Relation

logger = logging.getLogger(__name__)

# What is deferred to the end of the transaction happens now, where it can still be looked at.
FIRE_DEFERRED = "SET CONSTRAINTS ALL IMMEDIATE"

# And what would still write, during the proof or at COMMIT, is an error.
END_WRITING = "SET TRANSACTION READ ONLY"

# The proof (ruling 29): how many rows have the run's moment, how many a later one, and how many
# that the run has changed or inserted are not as they are staged.
COUNT_AT_MOMENT = sql.SQL(
    """\
SELECT at_moment, later,
       (SELECT count(*) FROM {delta} AS d
        WHERE {new_first} IS NOT NULL AND NOT EXISTS (
            SELECT FROM {table} AS t WHERE {new_has_key} AND t.{last_updated} = %(moment)s
            AND ({t_others}) IS NOT DISTINCT FROM ({new_others})))
FROM (SELECT count(*) FILTER (WHERE t.{last_updated} = %(moment)s) AS at_moment,
             count(*) FILTER (WHERE t.{last_updated} > %(moment)s) AS later
      FROM {table} AS t WHERE t.{last_updated} >= %(moment)s) AS counted"""
)
# And all rows that have it, as PostgreSQL writes them: they are compared with what was sent. (The
# stage may be spoilt, too.)
READ_BACK = sql.SQL("SELECT {t_columns} FROM {table} AS t WHERE t.{last_updated} = %(moment)s")

# Whether every row has to be read back: there is a function that is neither PostgreSQL's own nor
# compiled, or an encoding in which two characters may become one. A function may change rows on
# their way, by whatever detour it is called: a default, a check, a domain, an operator, an index, a
# policy, of this table or of any that the transaction writes.
HAS_FUNCTIONS = """\
SELECT EXISTS (SELECT FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
               WHERE p.oid >= 16384 AND l.lanname NOT IN ('internal', 'c'))
       OR current_setting('server_encoding') <> 'UTF8',
       row_security_active(format('%%I.%%I', %(schema)s, %(name)s)::regclass)"""

# What may make other rows of those that are written. Triggers and rules count wherever they are:
# a foreign key or the run's own record may set off those of another table, and they write this one.
# So may event triggers, as the run makes its temporary tables, and functions that a row calls.
READ_HOOKS = """\
WITH own AS (
    SELECT format('%%I.%%I', %(schema)s, %(name)s)::regclass AS oid
), part AS (
    SELECT relid AS oid FROM own, pg_partition_tree(own.oid) UNION SELECT oid FROM own
)
SELECT format('the trigger %%I on %%s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE NOT tgisinternal AND tgenabled <> 'D'
UNION ALL
SELECT format('the rule %%I on %%s', rulename, ev_class::regclass) FROM pg_rewrite
WHERE ev_type <> '1' AND ev_enabled <> 'D' AND ev_class >= 16384
UNION ALL
SELECT format('the event trigger %%I', evtname) FROM pg_event_trigger WHERE evtenabled <> 'D'
UNION ALL
SELECT DISTINCT format('the function %%s of a default, a check or an index', refobjid::regprocedure)
FROM pg_depend WHERE refclassid = 'pg_proc'::regclass AND (
    classid = 'pg_attrdef'::regclass AND objid IN (
        SELECT d.oid FROM pg_attrdef AS d WHERE adrelid IN (SELECT oid FROM part))
    OR classid = 'pg_constraint'::regclass AND objid IN (
        SELECT c.oid FROM pg_constraint AS c WHERE conrelid IN (SELECT oid FROM part))
    OR classid = 'pg_class'::regclass AND objid IN (
        SELECT indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM part)))
UNION ALL
SELECT format('row security on %%s', oid::regclass) FROM pg_class
WHERE oid IN (SELECT oid FROM part) AND relrowsecurity
UNION ALL
SELECT format('the generated column %%I', attname) FROM pg_attribute
WHERE attrelid = (SELECT oid FROM own) AND attgenerated <> '' AND NOT attisdropped
UNION ALL
SELECT format('the foreign key %%I', conname) FROM pg_constraint
WHERE contype = 'f' AND conrelid IN (SELECT oid FROM part)
  AND (confupdtype NOT IN ('a', 'r') OR confdeltype NOT IN ('a', 'r'))
UNION ALL
SELECT format('the inheriting table %%s', inhrelid::regclass) FROM pg_inherits
WHERE inhparent = (SELECT oid FROM own)
  AND NOT (SELECT relispartition FROM pg_class WHERE oid = inhrelid)"""

IS_STORED = sql.SQL(
    """\
SELECT EXISTS (SELECT FROM {table} AS t WHERE t.{last_updated} OPERATOR(pg_catalog.=) %(moment)s)"""
)


_NUMBERS = ("bigint", "integer", "numeric")


class _Statements(Protocol):
    @property
    def count_at_moment(self) -> sql.Composed: ...

    @property
    def read_back(self) -> sql.Composed: ...


def prove(
    cursor: Cursor,
    merge: _Statements,
    relation: Relation,
    moment: datetime,
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Look whether the rows with the run's moment are exactly `rows`, of which no two share a key.

    Rows that were only touched need no look at their values, which were compared in the same
    transaction while no other session could write: unless something in the database may have
    changed them on the way; then every row is read back.

    Raises DatabaseError that says how many rows are off, and what may have made them so.
    """
    staged = len(rows)
    cursor.execute(merge.count_at_moment, {"moment": moment})
    at_moment, later, off = _row(cursor)
    hooks = _read_hooks(cursor, relation)
    if later:
        logger.warning(
            "%d rows of %s are not of this list and have a later last_updated: the views show them "
            "with it. Give them an earlier one",
            later,
            relation,
        )
    cursor.execute(HAS_FUNCTIONS, {"schema": relation.schema, "name": relation.name})
    has_functions, is_filtered = _row(cursor)
    others = [hook for hook in hooks if not hook.startswith("row security on ")]
    if is_filtered and (has_functions or others):
        raise DatabaseError(
            f"Nothing was stored: row security may hide rows of {relation} from DB_USER that "
            f"{', '.join(others) or 'a function'} may have written. Give DB_USER BYPASSRLS, or "
            "drop one of the two."
        )
    if at_moment == staged and not off and not hooks and not has_functions:
        return
    cursor.execute(merge.read_back, {"moment": moment})
    off = max(off, _count_off(columns, rows, cursor.fetchall()))
    extra = max(0, at_moment - staged)
    if not off and not extra:
        return
    more = f", and {extra:,} rows that it has not" if extra else ""
    suspects = (
        f"Here that may be: {', '.join(hooks)}." if hooks else "Here none of these was found."
    )
    raise DatabaseError(
        f"Nothing was stored: {off:,} of the list's {staged:,} rows are not in {relation} as the "
        f"list has them after they were written{more}. Triggers, rules, row security, generated "
        f"columns and cascading foreign keys do such things. {suspects} Take away, or change, what "
        "keeps the list from being stored as it is."
    )


def _count_off(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], stored: Sequence[tuple[Any, ...]]
) -> int:
    """How many of the rows are not among the stored ones, which are texts, value for value."""
    converts = [Decimal if column.sql_type in _NUMBERS else str for column in columns]
    names = [column.name for column in columns]

    def comparable(texts: Iterable[str | None]) -> tuple[Any, ...]:
        return tuple(
            None if text is None else convert(text) for convert, text in zip(converts, texts)
        )

    # What is sent as an empty field is NULL.
    sent = {
        comparable(None if row[name] in (None, "") else str(row[name]) for name in names)
        for row in rows
    }
    return len(sent - set(map(comparable, stored)))


def warn_of_hooks(cursor: Cursor, relation: Relation) -> None:
    """Say what may make a run end otherwise than a dry run predicts."""
    hooks = _read_hooks(cursor, relation)
    if hooks:
        logger.warning(
            "A run may end otherwise than this dry run, since the database has %s",
            ", ".join(hooks),
        )


def _read_hooks(cursor: Cursor, relation: Relation) -> list[str]:
    cursor.execute(READ_HOOKS, {"schema": relation.schema, "name": relation.name})
    return [text for (text,) in cursor.fetchall()]


def _row(cursor: Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None  # the statement is an aggregate
    return row
