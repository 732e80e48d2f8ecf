"""The proof of a merge: is what was written in the table, before anybody is told that it is?

A trigger, a rule, row security or a coarser type may make other rows of those that are written,
and nothing of it is an error. So the table is looked at (ruling 29).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Column
from shared.utils import merge_statements as statements
from shared.utils.merge_statements import MergeStatements, planned_for
from shared.utils.relations import Relation
from shared.utils.sql import fetch_one

logger = logging.getLogger(__name__)

# What is deferred to the end of the transaction happens now, where it can still be looked at.
FIRE_DEFERRED = "SET CONSTRAINTS ALL IMMEDIATE"

# And what would still write, during the proof or at COMMIT, is an error.
END_WRITING = "SET TRANSACTION READ ONLY"

# Where any of the first two holds, every row is read back. There is a function that is neither
# PostgreSQL's own nor compiled: it may change rows on their way, by whatever detour it is called (a
# default, a check, a domain, an operator, an index, a policy, of this table or of any that the
# transaction writes). Two characters may become one in this encoding. The third: rows are hidden.
READ_DOUBTS = """\
SELECT EXISTS (SELECT FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
               WHERE p.oid >= 16384 AND l.lanname NOT IN ('internal', 'c')),
       current_setting('server_encoding') <> 'UTF8',
       row_security_active(%(oid)s::oid)"""

# What may make other rows of those that are written. Triggers and rules count wherever they are:
# a foreign key or the run's own record may set off those of another table, and they write this one.
# So may event triggers, as the run makes its temporary tables, and functions that a row calls.
READ_HOOKS = """\
WITH part AS (
    SELECT relid AS oid FROM pg_partition_tree(%(oid)s::oid::regclass) UNION SELECT %(oid)s::oid
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
FROM pg_depend WHERE refclassid = 'pg_proc'::regclass AND refobjid >= 16384
  AND classid IN ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_class'::regclass)
UNION ALL
SELECT format('row security on %%s', oid::regclass) FROM pg_class
WHERE oid IN (SELECT oid FROM part) AND relrowsecurity
UNION ALL
SELECT format('the generated column %%I', attname) FROM pg_attribute
WHERE attrelid = %(oid)s::oid AND attgenerated <> '' AND NOT attisdropped
UNION ALL
SELECT format('the foreign key %%I', conname) FROM pg_constraint
WHERE contype = 'f' AND conrelid IN (SELECT oid FROM part)
  AND (confupdtype NOT IN ('a', 'r') OR confdeltype NOT IN ('a', 'r'))
UNION ALL
SELECT format('the inheriting table %%s', inhrelid::regclass) FROM pg_inherits
WHERE inhparent = %(oid)s::oid
  AND NOT (SELECT relispartition FROM pg_class WHERE oid = inhrelid)"""


def _to_moment(text: str) -> object:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # of years that Python does not know
        return text


# What a text means, where one value has several: 1.50 and 1.5, True and true, 9:15+05:30 and 3:45Z.
_MEANINGS: Mapping[str, Callable[[str], object]] = {
    **dict.fromkeys(("smallint", "integer", "bigint", "numeric", "double precision"), Decimal),
    "boolean": str.lower,
    "timestamp": _to_moment,
    "timestamptz": _to_moment,
}


def prove(
    cursor: Cursor, merge: MergeStatements, moment: datetime, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Look whether the table holds `rows`, of which no two share a key; a snapshot's no others.

    Rows that were only touched need no look at their values, which were compared in the same
    transaction while no other session could write: unless something in the database may have
    changed them on the way; then every row is read back.

    Raises DatabaseError that says how many rows are off, and what may have made them so.
    """
    table, relation, staged = merge.table, merge.relation, len(rows)
    count = merge.render(statements.COUNT_STORED, statements.COUNT_STAGED)
    with planned_for(cursor, table):
        found, later, off = fetch_one(cursor, count, {"moment": moment})
    hooks = _read_hooks(cursor, relation)
    if later:
        logger.warning(
            "%d rows of %s are not of this list and have a later last_updated: the views show them "
            "with it. Give them an earlier one",
            later,
            relation,
        )
    doubts = fetch_one(cursor, READ_DOUBTS, {"oid": relation.oid})
    has_functions, is_inexact, is_filtered = doubts
    others = [hook for hook in hooks if not hook.startswith("row security on ")]
    if is_filtered and (has_functions or others):
        raise DatabaseError(
            f"Nothing was stored: row security may hide rows of {relation} from DB_USER that "
            f"{', '.join(others) or 'a function'} may have written. Give DB_USER BYPASSRLS, or "
            "drop one of the two."
        )
    if found == staged and not (off or hooks or has_functions or is_inexact):
        return
    read_back = merge.render(statements.READ_BACK, statements.READ_BACK_STAGED)
    with planned_for(cursor, table):
        cursor.execute(read_back, {"moment": moment})
        off = max(off, _count_off(table.columns, rows, cursor.fetchall()))
    extra = max(0, found - staged)
    if not off and not extra:
        return
    more = f", and {extra:,} rows that it has not" if extra else ""
    suspects = f"Here that may be: {', '.join(hooks)}" if hooks else "Here none of these was found"
    raise DatabaseError(
        f"Nothing was stored: {off:,} of the list's {staged:,} rows are not in {relation} as the "
        f"list has them after they were written{more}. Triggers, rules, row security, generated "
        f"columns and cascading foreign keys do such things. {suspects}. Take away, or change, "
        "what keeps the list from being stored as it is."
    )


def _count_off(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], stored: Sequence[tuple[Any, ...]]
) -> int:
    """How many of the rows are not among the stored ones, which are texts, value for value."""
    converts = [_MEANINGS.get(column.sql_type, str) for column in columns]
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
        may_differ = "A run may end otherwise than this dry run, since the database has %s"
        logger.warning(may_differ, ", ".join(hooks))


def _read_hooks(cursor: Cursor, relation: Relation) -> list[str]:
    cursor.execute(READ_HOOKS, {"oid": relation.oid})
    return [text for (text,) in cursor.fetchall()]
