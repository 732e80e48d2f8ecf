"""Bring a table into being, or an older one up to date; change nothing that need not be.

Takes a cursor inside a transaction and never commits. On a table that is as it should be this
only reads catalogs, so that a role without any right to create or alter is enough (ruling 23).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Column, Table
from shared.utils.relations import find_relation
from shared.utils.sql import fetch_one
from shared.utils.staged_merge import lock_table
from shared.utils.table_check import (
    FoundTable,
    check_columns,
    find_faults,
    find_narrow,
    read_table,
    widen_statement,
)

logger = logging.getLogger(__name__)


def ensure_table(cursor: Cursor, table: Table, schema_sql: str) -> None:
    """Run `schema_sql` if the table does not exist; widen a NUMERIC of too few digits.

    Raises DatabaseError, with every reason, if the table exists and cannot hold each row exactly.
    """
    lock_table(cursor, table)  # two runs at once on an empty database: one creates, one finds
    found = read_table(cursor, table.name)
    if found is None:
        cursor.execute(schema_sql)
        logger.info("created the table %s", table.name)
        return
    if find_faults(table, found):
        refuse_table(table, check_columns(cursor, table, found))
    for column in find_narrow(table, found):
        _widen(cursor, table, found, column)


def refuse_unsuited(cursor: Cursor, table: Table) -> None:
    """Raise DatabaseError if the table is there and cannot hold every row exactly (ruling 32), or
    it cannot be told which one is meant (ruling 33).
    """
    find_relation(cursor, table.name)
    refuse_table(table, check_columns(cursor, table))


def refuse_table(table: Table, faults: Sequence[str]) -> None:
    """Raise DatabaseError if check_columns has found anything."""
    if faults:
        raise DatabaseError(
            f"The table {table.name} cannot take the rows of a run: {'; '.join(faults)}."
        )


# What the role may do, and what the server is.
READ_ACCESS = """
SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
       current_user::text,
       pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
       pg_catalog.has_database_privilege(current_database()::text, 'TEMPORARY'),
       coalesce(pg_catalog.has_schema_privilege(current_schema()::text, 'CREATE'), false)
"""
OLDEST_SERVER = 130000  # min_scale() and DROP DATABASE ... FORCE came with PostgreSQL 13


def find_access_faults(cursor: Cursor, table: Table) -> tuple[str, list[str]]:
    """What a run finds (server, role, table), and all that it would stumble over (ruling 23).

    Changes nothing.
    """
    number, version, user, read_only, may_temporary, may_create = fetch_one(cursor, READ_ACCESS)
    faults = []
    if number < OLDEST_SERVER:
        faults.append(f"PostgreSQL {version} is too old: 13 or later is needed")
    if read_only:
        faults.append("the database is read-only (a standby?): point DB_HOST to the primary")
    if not may_temporary:
        faults.append(f"{user} lacks TEMPORARY on the database")
    state, lacking = _find_table_faults(cursor, table, user, may_create=may_create)
    return f"PostgreSQL {version}, role {user}, {state}", faults + lacking


def _find_table_faults(
    cursor: Cursor, table: Table, user: str, *, may_create: bool
) -> tuple[str, list[str]]:
    try:
        found = read_table(cursor, table.name)
    except DatabaseError as exc:  # its name alone does not tell which one is meant
        return f"no table {table.name}", [str(exc).rstrip(".")]
    if found is None:
        lacking = [f"{table.name} is not there, and {user} lacks CREATE on the schema"]
        place = find_relation(cursor, table.name)
        return f"the first run makes {place}", [] if may_create else lacking
    faults = []
    if found.lacking:
        faults.append(f"{user} lacks {', '.join(found.lacking)} on {table.name}")
    if unsuited := check_columns(cursor, table, found):
        faults.append(f"the table {table.name} cannot take its rows: {'; '.join(unsuited)}")
    return f"table {found.place} is there", faults


def check_access(cursor: Cursor, table: Table) -> str:
    """Say what a run finds. Raises DatabaseError with all that find_access_faults has found."""
    description, faults = find_access_faults(cursor, table)
    if faults:
        raise DatabaseError(f"A run would fail: {'; '.join(faults)}.")
    return description


def _widen(cursor: Cursor, table: Table, found: FoundTable, column: Column) -> None:
    statement = widen_statement(table, found, column).as_string(cursor)
    logger.warning(
        "%s.%s has too few digits (%s): widening it; its rows are kept",
        table.name,
        column.name,
        found.columns[column.name].shown,
    )
    try:
        cursor.execute(statement)
    except (errors.InsufficientPrivilege, errors.FeatureNotSupported) as exc:
        said = ": ".join(filter(None, (exc.diag.message_primary, exc.diag.message_detail)))
        raise DatabaseError(
            f"{table.name}.{column.name} has too few digits, and widening it failed. Let the "
            f"table's owner run this once, with the views on it dropped: "
            f"{statement}; PostgreSQL said: {said}"
        ) from exc
