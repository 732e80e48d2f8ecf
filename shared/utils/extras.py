"""Tables, views and indexes beside a table of rows, which a run can do without.

Takes a cursor inside a transaction and never commits. What is in the way, or may not be made, costs
no run: the reason comes back in words. Nothing that is there is ever dropped.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from shared.models.table import Column, Table
from shared.utils.staged_merge import lock_name
from shared.utils.table_check import check_columns

logger = logging.getLogger(__name__)

# Readers of a view do not wait behind a run that waits to replace it.
SHORT_TIMEOUT = "SELECT set_config('lock_timeout', '1s', true)"
READ_TIMEOUT = "SELECT current_setting('lock_timeout')"
RESTORE_TIMEOUT = "SELECT set_config('lock_timeout', %s, true)"

READ_STATE = """
SELECT to_regclass(%(name)s) IS NOT NULL,
       ARRAY(SELECT privilege FROM pg_catalog.unnest(%(privileges)s::text[]) AS privilege
             WHERE NOT pg_catalog.has_table_privilege(to_regclass(%(name)s)::oid, privilege)),
       EXISTS (SELECT FROM pg_index WHERE indrelid = to_regclass(%(name)s)::oid AND indisprimary)
"""

# What it is, its comment, its columns, and whether it reads these relations and no others.
READ_RELATION = """
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


@dataclass(frozen=True)
class ExtraTable:
    """A table that a run writes to and can do without.

    `script` makes it. `columns` are those that a run gives values, `key` is another one: they tell
    it from a table that something else made. `privileges` are what the role needs on it. `add_key`
    gives a primary key to one that an earlier version made without: nothing can be deleted from
    such a table while it is published.
    """

    name: str
    script: str
    columns: tuple[Column, ...]
    privileges: tuple[str, ...]
    key: tuple[str, ...] = ()
    add_key: str | None = None


def is_ours(cursor: Cursor, table: ExtraTable) -> bool:
    """Whether the table is there, and not something else of its name."""
    return _read_state(cursor, table)[0] and not _find_faults(cursor, table)


def is_readable(cursor: Cursor, table: ExtraTable) -> bool:
    """Whether it is there, and the role may read it."""
    return is_ours(cursor, table) and "SELECT" not in _read_state(cursor, table)[1]


def ensure_extra_table(cursor: Cursor, table: ExtraTable) -> str | None:
    """Make the table if it is not there. Returns why it cannot be used, or None."""
    exists, lacking, _ = _read_state(cursor, table)
    no_right = (
        f"DB_USER may neither make nor write {table.name}. Let the table's owner run this DAG "
        f"once, and grant {', '.join(table.privileges)} on it"
    )
    if not exists:
        lock_name(cursor, table.name)  # another run may be making it
        refused = attempt(cursor, table.script)
        if isinstance(refused, errors.InsufficientPrivilege):
            return no_right
        return f"{table.name} cannot be made ({_said(refused)})" if refused else None
    if faults := _find_faults(cursor, table):
        # Not with the statements that would make it ours.
        return f"{table.name} was made by something else, rename it ({faults[0].split(':')[0]})"
    if lacking:
        return no_right
    if (statement := find_missing_key(cursor, table)) and (refused := attempt(cursor, statement)):
        logger.info("%s gets no primary key: %s", table.name, _said(refused))
    return None


def find_missing_key(cursor: Cursor, table: ExtraTable) -> str | None:
    """The statement that gives the table a primary key, where it has none."""
    exists, _, has_key = _read_state(cursor, table)
    return table.add_key if exists and not has_key else None


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
    cursor.execute(READ_TIMEOUT)
    timeout = cursor.fetchone()
    cursor.execute("SAVEPOINT extra")
    try:
        cursor.execute(SHORT_TIMEOUT)
        cursor.execute(script)
    except psycopg2.Error as exc:
        cursor.execute("ROLLBACK TO SAVEPOINT extra")  # fails where the connection is lost
        return exc
    cursor.execute(RESTORE_TIMEOUT, timeout)
    return None


def _find_faults(cursor: Cursor, table: ExtraTable) -> list[str]:
    return check_columns(cursor, Table(table.name, table.columns, table.key, (), "", ""))


def _read_state(cursor: Cursor, table: ExtraTable) -> tuple[bool, list[str], bool]:
    """Whether it exists, which privileges are lacking, and whether it has a primary key."""
    cursor.execute(READ_STATE, {"name": table.name, "privileges": list(table.privileges)})
    row = cursor.fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def _find_stale(cursor: Cursor, script: str) -> list[str]:
    """The statements of `script` whose view or index is not there as they make it."""
    return [text for text in _STATEMENT.findall(script) if not _is_current(cursor, text)]


def _read_relation(cursor: Cursor, statement: str) -> tuple[str, str, list[str], bool] | None:
    sources = _SOURCE.findall(statement)
    cursor.execute(READ_RELATION, {"name": _name_of(statement), "sources": sources})
    row = cursor.fetchone()
    return None if row is None else (row[0], row[1], row[2], row[3])


def _is_current(cursor: Cursor, statement: str) -> bool:
    """Also of what it reads: a view goes with a table that is renamed."""
    row = _read_relation(cursor, statement)
    if row is None or "VIEW" not in statement.partition("\n")[0]:
        return row is not None
    kind, comment, _, reads_these = row
    return kind == "v" and comment == _mark(statement) and reads_these


def _may_replace(cursor: Cursor, statement: str) -> bool:
    row = _read_relation(cursor, statement)
    if row is None:
        return True
    kind, comment, columns, _ = row
    return kind == "v" and (comment.startswith(_MARK) or columns == _columns_of(cursor, statement))


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
