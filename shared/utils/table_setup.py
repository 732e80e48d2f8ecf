"""Bring a table into being, or an older one up to date; change nothing that need not be.

Takes a cursor inside a transaction and never commits. On a table that is as it should be this
only reads catalogs, so that a role without any right to create or alter is enough (ruling 23).
"""

import logging

from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Table
from shared.utils.extras import note_version
from shared.utils.relations import find_relation
from shared.utils.sql import fetch_one, load_sql
from shared.utils.staged_merge import lock_name
from shared.utils.table_check import (
    FoundTable,
    check_columns,
    find_added,
    find_faults,
    find_narrow,
    read_table,
)

logger = logging.getLogger(__name__)
SQL = load_sql(__file__)
OLDEST_SERVER = 130000  # min_scale() and DROP DATABASE ... FORCE came with PostgreSQL 13


def ensure_table(cursor: Cursor, table: Table, schema_sql: str) -> None:
    """Run `schema_sql` if the table does not exist; else give it what an earlier version lacks.

    That is digits of a NUMERIC, and columns that came since; each row and value stays.
    Raises DatabaseError, with every reason, if the table cannot hold each row exactly.
    """
    lock_name(cursor, table.name)  # two runs at once on an empty database: one creates, one finds
    found = read_table(cursor, table.name)
    if found is None:
        cursor.execute(schema_sql)
        if (made := read_table(cursor, table.name)) is None:
            raise DatabaseError(f"The script that makes the table {table.name} does not make it.")
        refuse_unsuited(cursor, table, made)
        logger.info("created the table %s", table.name)
        note_version(cursor, made, table.version)
        return
    if find_faults(table, found):
        refuse_unsuited(cursor, table, found)
    for name, statement in find_narrow(table, found).items():
        shown = found.columns[name].shown
        _widen(cursor, f"{table.name}.{name}", shown, statement.as_string(cursor))
    added = find_added(table, found)
    if added and not found.is_owner:
        refuse_unsuited(cursor, table, found)
    for name, adding in added.items():
        cursor.execute(adding)
        logger.info("%s has the column %s from now on", table.name, name)
    note_version(cursor, found, table.version)


def refuse_unsuited(cursor: Cursor, table: Table, found: FoundTable | None = None) -> None:
    """Raise DatabaseError, with every reason, if the table cannot hold every row exactly.

    Also if it cannot be told which one is meant (rulings 32 and 33).
    """
    if faults := check_columns(cursor, table, found):
        raise DatabaseError(
            f"The table {table.name} cannot take the rows of a run: {'; '.join(faults)}."
        )


def find_access_faults(cursor: Cursor, table: Table) -> tuple[str, list[str]]:
    """What a run finds (server, role, table), and all that it would stumble over (ruling 23)."""
    access = fetch_one(cursor, SQL["read_access"])
    number, version, user, read_only, may_temporary, may_create = access
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
        place, found = find_relation(cursor, table.name), read_table(cursor, table.name)
    except DatabaseError as exc:  # its name alone does not tell which one is meant
        return f"no table {table.name}", [str(exc).rstrip(".")]
    if found is None:
        lacking = [f"{table.name} is not there, and {user} lacks CREATE on the schema"]
        return f"the first run makes {place}", [] if may_create else lacking
    faults = []
    if found.lacking:
        faults.append(f"{user} lacks {', '.join(found.lacking)} on {table.name}")
    if unsuited := check_columns(cursor, table, found):
        faults.append(f"the table {table.name} cannot take its rows: {'; '.join(unsuited)}")
    return f"table {place} is there", faults


def _widen(cursor: Cursor, name: str, shown: str, statement: str) -> None:
    logger.warning("%s has too few digits (%s): widening it; its rows are kept", name, shown)
    try:
        cursor.execute(statement)
    except (errors.InsufficientPrivilege, errors.FeatureNotSupported) as exc:
        said = ": ".join(filter(None, (exc.diag.message_primary, exc.diag.message_detail)))
        raise DatabaseError(
            f"{name} has too few digits, and widening it failed. Let the table's owner run this "
            f"once, with the views on it dropped: {statement}; PostgreSQL said: {said}"
        ) from exc
