"""The proof of a merge: is what was written in the table, before anybody is told that it is?

A trigger, a rule, row security or a coarser type may make other rows of those that are written,
and nothing of it is an error. So the table is looked at (ruling 29).
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Column
from shared.utils.merge_statements import MergeStatements, planned_for
from shared.utils.relations import Relation
from shared.utils.sql import fetch_one, load_sql

logger = logging.getLogger(__name__)
SQL = load_sql(__file__)


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
    params = {"moment": moment, "oid": relation.oid}
    with planned_for(cursor, table):
        found, later, off = fetch_one(cursor, merge.render("count_stored"), params)
    hooks = _read_hooks(cursor, relation)
    if later:
        logger.warning(
            "%d rows of %s are not of this list and have a later last_updated: the views show them "
            "with it. Give them an earlier one",
            later,
            relation,
        )
    has_functions, is_inexact, is_filtered = fetch_one(cursor, SQL["read_doubts"], params)
    others = [hook for hook in hooks if not hook.startswith("row security on ")]
    if is_filtered and (has_functions or others):
        raise DatabaseError(
            f"Nothing was stored: row security may hide rows of {relation} from DB_USER that "
            f"{', '.join(others) or 'a function'} may have written. Give DB_USER BYPASSRLS, or "
            "drop one of the two."
        )
    if found == staged and not (off or hooks or has_functions or is_inexact):
        return
    with planned_for(cursor, table):
        cursor.execute(merge.render("read_back"), params)
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
        pairs = zip(converts, texts)
        return tuple(None if text is None else convert(text) for convert, text in pairs)

    # What is sent as an empty field is NULL.
    sent = {
        comparable(None if row[name] in (None, "") else str(row[name]) for name in names)
        for row in rows
    }
    return len(sent - set(map(comparable, stored)))


def find_hooks(cursor: Cursor, relation: Relation) -> list[str]:
    """What may change rows on their way into the relation: then they are to be read back."""
    has_functions, _, is_filtered = fetch_one(cursor, SQL["read_doubts"], {"oid": relation.oid})
    functions = ["a function that a statement may call"] if has_functions else []
    hidden = ["row security, which may hide rows"] if is_filtered else []
    return [*_read_hooks(cursor, relation), *functions, *hidden]


def warn_of_hooks(cursor: Cursor, relation: Relation) -> None:
    """Say what may make a run end otherwise than a dry run predicts."""
    if hooks := _read_hooks(cursor, relation):
        may_differ = "A run may end otherwise than this dry run, since the database has %s"
        logger.warning(may_differ, ", ".join(hooks))


def _read_hooks(cursor: Cursor, relation: Relation) -> list[str]:
    cursor.execute(SQL["read_hooks"], {"oid": relation.oid})
    return [text for (text,) in cursor.fetchall()]
