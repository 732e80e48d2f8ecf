"""Bring a table into being, or an older one up to date; change nothing that need not be.

Takes a cursor inside a transaction and never commits. On a table that is as it should be this
only reads catalogs, so that a role without any right to create or alter is enough (ruling 23).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Column, Table
from shared.utils.staged_merge import lock_name, lock_table

logger = logging.getLogger(__name__)

# Each column of the table, whether it is exact, and its scale if it is a NUMERIC that has one.
READ_SCALES = """
SELECT attname, atttypid NOT IN ('real'::regtype, 'double precision'::regtype),
       CASE WHEN atttypid = 'numeric'::regtype AND atttypmod >= 0
                     THEN (atttypmod - 4) & 2047 END
FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""

# The new type makes PostgreSQL write the table anew; the fill factor of schema.sql comes with it.
WIDEN = sql.SQL(
    "ALTER TABLE {table} SET (fillfactor = 50),"
    " ALTER COLUMN {column} TYPE numeric({precision}, {scale})"
)


def ensure_table(cursor: Cursor, table: Table, schema_sql: str) -> None:
    """Run `schema_sql` if the table does not exist; widen a NUMERIC of too small a scale.

    Raises DatabaseError if the table exists and lacks a column that rows are merged into.
    """
    lock_table(cursor, table)  # two runs at once on an empty database: one creates, one finds
    cursor.execute(READ_SCALES, (table.name,))
    stored = {name: (is_exact, scale) for name, is_exact, scale in cursor.fetchall()}
    if not stored:
        cursor.execute(schema_sql)
        logger.info("created the table %s", table.name)
        return
    wanted = (*table.column_names, table.last_updated, table.created_at)
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise DatabaseError(
            f"The table {table.name} exists but lacks the column {', '.join(missing)}: it was made "
            "by something else. Rename it out of the way, or add what is missing (schema.sql)."
        )
    for column in table.columns:
        is_exact, scale = stored[column.name]
        if column.scale is not None and not is_exact:
            raise DatabaseError(
                f"{table.name}.{column.name} is a floating-point column, which cannot hold prices "
                f"exactly. Make it numeric({column.precision}, {column.scale}) with ALTER TABLE."
            )
        if column.scale is not None and scale is not None and scale < column.scale:
            _widen(cursor, table, column)


EXTRA_STATE = """
SELECT to_regclass(%(name)s) IS NOT NULL,
       ARRAY(SELECT privilege FROM unnest(%(privileges)s::text[]) AS privilege
             WHERE NOT has_table_privilege(to_regclass(%(name)s), privilege))
"""


def ensure_extra(cursor: Cursor, name: str, script: str, privileges: Sequence[str]) -> bool:
    """Run `script`, which makes the table or view `name` at its end, if that is not there.

    Returns whether it is there and the role has the privileges on it. A role that may not make
    it is no error: a run can do without.
    """
    cursor.execute(EXTRA_STATE, {"name": name, "privileges": list(privileges)})
    row = cursor.fetchone()
    assert row is not None
    exists, lacking = row
    if exists:
        return not lacking
    lock_name(cursor, name)  # another run may be making it
    cursor.execute("SAVEPOINT extra")
    try:
        cursor.execute(script)
    except psycopg2.ProgrammingError as exc:
        # No privilege, or something else of that name is in the way: not worth losing the run.
        cursor.execute("ROLLBACK TO SAVEPOINT extra")
        logger.info("%s cannot be made: %s", name, exc.diag.message_primary)
        return False
    return True


# What the role may do, and what the server is.
READ_ACCESS = """
SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
       current_user::text,
       pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
       has_database_privilege(current_database(), 'TEMPORARY'),
       to_regclass(%(table)s) IS NOT NULL,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
       ARRAY(SELECT privilege FROM unnest(%(privileges)s) AS privilege
             WHERE NOT has_table_privilege(to_regclass(%(table)s), privilege))
"""
TABLE_PRIVILEGES = ["SELECT", "INSERT", "UPDATE", "DELETE"]
OLDEST_SERVER = 130000  # min_scale() and DROP DATABASE ... FORCE came with PostgreSQL 13


def check_access(cursor: Cursor, table: Table) -> str:
    """Say what a run finds: server, role, and whether the table is there. Changes nothing.

    Raises DatabaseError that names everything that a run would stumble over (ruling 23).
    """
    cursor.execute(READ_ACCESS, {"table": table.name, "privileges": TABLE_PRIVILEGES})
    row = cursor.fetchone()
    assert row is not None
    number, version, user, read_only, may_temporary, exists, may_create, lacking = row
    faults = []
    if number < OLDEST_SERVER:
        faults.append(f"PostgreSQL {version} is too old: 13 or later is needed")
    if read_only:
        faults.append("the database is read-only (a standby?): point DB_HOST to the primary")
    if not may_temporary:
        faults.append(f"{user} lacks TEMPORARY on the database")
    if lacking:
        faults.append(f"{user} lacks {', '.join(lacking)} on {table.name}")
    if not exists and not may_create:
        faults.append(f"{table.name} is not there, and {user} lacks CREATE on the schema")
    if faults:
        raise DatabaseError(f"A run would fail: {'; '.join(faults)}.")
    state = f"table {table.name} is there" if exists else f"the first run makes {table.name}"
    return f"PostgreSQL {version}, role {user}, {state}"


def _widen(cursor: Cursor, table: Table, column: Column) -> None:
    logger.warning(
        "%s.%s would round to too few decimals: widening it to numeric(%s, %s); its rows are kept",
        table.name,
        column.name,
        column.precision,
        column.scale,
    )
    statement = WIDEN.format(
        table=sql.Identifier(table.name),
        column=sql.Identifier(column.name),
        precision=sql.Literal(column.precision),
        scale=sql.Literal(column.scale),
    )
    try:
        cursor.execute(statement)
    except (errors.InsufficientPrivilege, errors.FeatureNotSupported) as exc:
        said = ": ".join(filter(None, (exc.diag.message_primary, exc.diag.message_detail)))
        raise DatabaseError(
            f"{table.name}.{column.name} has too few decimals, and widening it failed. Let the "
            f"table's owner run this once, with the views on it dropped: "
            f"{statement.as_string(cursor)}; PostgreSQL said: {said}"
        ) from exc
