"""Tables, views and indexes beside a table of rows, which a run can do without.

Takes a cursor inside a transaction and never commits. What is in the way, or may not be made, costs
no run: the reason comes back in words. Nothing that is there is ever dropped.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Column, Table
from shared.utils.sql import settings
from shared.utils.staged_merge import lock_name
from shared.utils.table_check import FoundTable, find_faults, find_missing_keys, read_table

logger = logging.getLogger(__name__)

# Readers of a view do not wait behind a run that waits to replace it.
LOCK_TIMEOUT = "1s"

# What it is, its comment, its columns, and whether it reads these relations and no others.
READ_VIEW_OR_INDEX = """
SELECT c.relkind::text, coalesce(pg_catalog.obj_description(c.oid, 'pg_class'::name), ''),
       ARRAY(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum),
       ARRAY(SELECT DISTINCT d.refobjid
             FROM pg_rewrite AS w
             JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass::oid AND d.objid = w.oid
              AND d.refclassid = 'pg_class'::regclass::oid AND d.refobjid <> w.ev_class
             WHERE w.ev_class = c.oid ORDER BY 1)
       OPERATOR(pg_catalog.=)
       ARRAY(SELECT DISTINCT to_regclass(name)::oid
             FROM pg_catalog.unnest(%(sources)s::text[]) AS name ORDER BY 1)
FROM pg_class AS c WHERE c.oid = to_regclass(%(name)s)::oid
"""

_STATEMENT = re.compile(r"^CREATE .*?;$", re.M | re.S)
_NAME = re.compile(r"CREATE (?:OR REPLACE VIEW|INDEX IF NOT EXISTS) (\S+)")
_SOURCE = re.compile(r"\b(?:FROM|JOIN) (\w[\w.]*)")
_MARK = "Made by stock_ingestion, version "


class Upgrade(NamedTuple):
    """The statement that gives a table of an earlier version what it lacks.

    That is a column that may be NULL, by its name, or a primary key (""): nothing can be deleted
    from a table without one while it is published.
    """

    lacks: str
    statement: str


@dataclass(frozen=True)
class ExtraTable:
    """A table that a run writes to and can do without.

    `script` makes it. `columns` are those that a run gives values, `key` is another one: they tell
    it from a table that something else made. `privileges` are what the role needs on it. One that
    lacks what `upgrades` add is used as it is until a role comes that may add it.
    """

    name: str
    script: str
    columns: tuple[Column, ...]
    privileges: tuple[str, ...]
    key: tuple[str, ...] = ()
    upgrades: tuple[Upgrade, ...] = ()


def find_extra(cursor: Cursor, table: ExtraTable) -> FoundTable | None:
    """The table, with its columns and the privileges that the role lacks.

    None if it is not there, or something else has its name. Looking takes three short queries.
    """
    found, fault = _look_up(cursor, table)
    return None if fault else found


def is_ours(cursor: Cursor, table: ExtraTable) -> bool:
    """Whether the table is there, and not something else of its name."""
    return find_extra(cursor, table) is not None


def is_readable(cursor: Cursor, table: ExtraTable) -> bool:
    """Whether it is there, and the role may read it."""
    found = find_extra(cursor, table)
    return found is not None and "SELECT" not in found.lacking


def ensure_extra_table(cursor: Cursor, table: ExtraTable, *, upgrade: bool = True) -> str | None:
    """Make the table if it is not there. Returns why it cannot be used, or None."""
    found, fault = _look_up(cursor, table)
    no_right = (
        f"DB_USER may neither make nor write {table.name}. Let the table's owner run this DAG "
        f"once, and grant {', '.join(table.privileges)} on it"
    )
    if fault:
        return fault
    if found is None:
        lock_name(cursor, table.name)  # another run may be making it
        refused = attempt(cursor, table.script)
        if isinstance(refused, errors.InsufficientPrivilege):
            return no_right
        return f"{table.name} cannot be made ({_said(refused)})" if refused else None
    if set(table.privileges) & set(found.lacking):
        return no_right
    for statement in find_upgrades(table, found) if upgrade else ():
        if refused := attempt(cursor, statement):
            logger.info("%s stays without an upgrade: %s", table.name, _said(refused))
    return None


def find_upgrades(table: ExtraTable, found: FoundTable) -> list[str]:
    """The statements that the table that was found still needs."""
    return [
        statement
        for lacks, statement in table.upgrades
        if (lacks not in found.columns if lacks else not found.has_primary_key)
    ]


def ensure_views(cursor: Cursor, script: str) -> list[str]:
    """Make the views and indexes of `script`, each by itself, where missing or of another version.

    A view is the program's if its comment says so, or, as an earlier version made it, if it has the
    script's columns. Returns the views that are lacking afterwards, each with the reason.
    """
    if not _find_stale(cursor, script):
        return []
    lock_name(cursor, "stock_ingestion views")  # another run may be making them
    lacking: dict[str, str] = {}
    for statement in _find_stale(cursor, script):
        name = _name_of(statement)
        blocking = [source for source in _SOURCE.findall(statement) if source in lacking]
        if blocking:
            lacking[name] = f"it reads {blocking[0]}"
        elif not _may_replace(cursor, statement):
            lacking[name] = "something else has its name, rename that"
        elif (refused := attempt(cursor, f"{statement}\n{_comment(statement)}")) is not None:
            if statement.startswith("CREATE INDEX"):  # without it the same is found, later
                logger.info("the index %s is not made: %s", name, _said(refused))
            else:
                lacking[name] = _said(refused)
    return [f"{name} ({reason})" for name, reason in lacking.items()]


def attempt(cursor: Cursor, script: str) -> psycopg2.Error | None:
    """Run `script` in a savepoint. Returns the error if the database refused: it is undone then."""
    cursor.execute("SAVEPOINT extra")
    try:
        with settings(cursor, lock_timeout=LOCK_TIMEOUT):
            cursor.execute(script)
    except psycopg2.Error as exc:
        cursor.execute("ROLLBACK TO SAVEPOINT extra")  # fails where the connection is lost
        return exc
    return None


def _look_up(cursor: Cursor, table: ExtraTable) -> tuple[FoundTable | None, str]:
    """What is there under the table's name, and why that is not the table ("": it is)."""
    try:
        found = read_table(cursor, table.name)
    except DatabaseError as exc:
        return None, str(exc).rstrip(".")
    if found is None:
        return None, ""
    added = {upgrade.lacks for upgrade in table.upgrades} - set(found.columns)
    columns = tuple(column for column in table.columns if column.name not in added)
    described = Table(table.name, columns, (), (), "", "", is_snapshot=False)
    faults = find_faults(described, found) + find_missing_keys(table.name, (table.key,), found)
    if not faults:
        return found, ""
    # Not with the statement that would make it ours.
    reason = faults[0].split(":")[0]
    return found, f"{table.name} was made by something else, rename it ({reason})"


def _find_stale(cursor: Cursor, script: str) -> list[str]:
    """The statements of `script` whose view or index is not there as they make it."""
    return [text for text in _STATEMENT.findall(script) if not _is_current(cursor, text)]


def _read_view_or_index(cursor: Cursor, statement: str) -> tuple[Any, ...] | None:
    params = {"name": _name_of(statement), "sources": _SOURCE.findall(statement)}
    cursor.execute(READ_VIEW_OR_INDEX, params)
    return cursor.fetchone()


def _is_current(cursor: Cursor, statement: str) -> bool:
    """Also of what it reads: a view goes with a table that is renamed."""
    row = _read_view_or_index(cursor, statement)
    if row is None or "VIEW" not in statement.partition("\n")[0]:
        return row is not None
    kind, comment, _, reads_these = row
    return bool(kind == "v" and comment == _mark(statement) and reads_these)


def _may_replace(cursor: Cursor, statement: str) -> bool:
    row = _read_view_or_index(cursor, statement)
    if row is None:
        return True
    kind, comment, columns, _ = row
    if kind != "v":
        return False
    return comment.startswith(_MARK) or bool(columns == _columns_of(cursor, statement))


def _columns_of(cursor: Cursor, statement: str) -> list[str]:
    """The columns that a CREATE VIEW gives; none if it cannot be run."""
    query = statement.partition(" AS\n")[2].rstrip(";")
    cursor.execute("SAVEPOINT extra")
    try:
        cursor.execute(f"SELECT * FROM ({query}) AS view LIMIT 0")
        return [column.name for column in cursor.description or ()]
    except psycopg2.ProgrammingError:
        return []
    finally:
        cursor.execute("ROLLBACK TO SAVEPOINT extra")


def _comment(statement: str) -> str:
    kind = "INDEX" if statement.startswith("CREATE INDEX") else "VIEW"
    return f"COMMENT ON {kind} {_name_of(statement)} IS '{_mark(statement)}'"


def _mark(statement: str) -> str:
    return _MARK + hashlib.sha256(statement.encode()).hexdigest()[:12]


def _name_of(statement: str) -> str:
    found = _NAME.match(statement)
    assert found is not None
    return found[1]


def _said(error: psycopg2.Error) -> str:
    if isinstance(error, errors.LockNotAvailable):
        return "it is in use, the next run tries again"
    return error.diag.message_primary or str(error)
