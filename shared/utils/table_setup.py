"""Bring a table into being, or an older one up to date; change nothing that need not be.

Takes a cursor inside a transaction and never commits. On a table that is as it should be this
only reads catalogs, so that a role without any right to create or alter is enough (ruling 23).
"""

from __future__ import annotations

import logging

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Column, Table
from shared.utils.staged_merge import lock_table

logger = logging.getLogger(__name__)

# Each column of the table, and its scale if it is a NUMERIC that has one.
READ_SCALES = """
SELECT attname, CASE WHEN atttypid = 'numeric'::regtype AND atttypmod >= 0
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
    scales: dict[str, int | None] = dict(cursor.fetchall())
    if not scales:
        cursor.execute(schema_sql)
        logger.info("created the table %s", table.name)
        return
    wanted = (*table.column_names, table.last_updated, table.created_at)
    missing = [name for name in wanted if name not in scales]
    if missing:
        raise DatabaseError(
            f"The table {table.name} exists but lacks the column {', '.join(missing)}: it was made "
            "by something else. Rename it out of the way, or add what is missing (schema.sql)."
        )
    for column in table.columns:
        scale = scales[column.name]
        if column.scale is not None and scale is not None and scale < column.scale:
            _widen(cursor, table, column)


def _widen(cursor: Cursor, table: Table, column: Column) -> None:
    logger.warning(
        "%s.%s would round to too few decimals: widening it to numeric(%s, %s); its rows are kept",
        table.name,
        column.name,
        column.precision,
        column.scale,
    )
    cursor.execute(
        WIDEN.format(
            table=sql.Identifier(table.name),
            column=sql.Identifier(column.name),
            precision=sql.Literal(column.precision),
            scale=sql.Literal(column.scale),
        )
    )
