"""Whether a table can hold every row of a run exactly (ruling 32): read from the catalogs alone.

Takes a cursor inside a transaction, changes nothing, and needs no right on the table. What may come
is told by `Column`; a domain is judged by the type that it is over, its constraints are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.models.table import Column, Table
from shared.utils.relations import Relation, find_relation
from shared.utils.sql import fetch_one

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")

# What the relation is, which rights the role lacks on it, and the columns of each unique index that
# holds for all rows.
READ_TABLE = """
SELECT c.relkind::text, pg_catalog.pg_has_role(c.relowner, 'USAGE'),
       ARRAY(SELECT privilege FROM pg_catalog.unnest(%(privileges)s::text[]) AS privilege
             WHERE NOT pg_catalog.has_table_privilege(c.oid, privilege)),
       EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid),
       EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal
               AND tgenabled IN ('O', 'A')
               AND tgtype::integer & 7 = 7),  -- FOR EACH ROW, BEFORE, INSERT
       EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary),
       (SELECT coalesce(pg_catalog.json_agg(ARRAY(
                   SELECT attname::text FROM pg_attribute
                   WHERE attrelid = c.oid AND attnum = ANY ((indkey::int2[])[0:indnkeyatts - 1]))),
               '[]')
        FROM pg_index WHERE indrelid = c.oid AND indisunique AND indisvalid
          AND indpred IS NULL AND indexprs IS NULL)
FROM pg_class AS c WHERE c.oid = %(oid)s::oid
"""

# Each column with its type; that of a domain is the one that it is over.
READ_COLUMNS = """
WITH RECURSIVE resolved AS (
    SELECT attnum, atttypid AS type_id, atttypmod AS modifier, attnotnull AS is_required,
           atthasdef OR attidentity <> '' AS has_default
    FROM pg_attribute
    WHERE attrelid = %(oid)s::oid AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT r.attnum, t.typbasetype, greatest(r.modifier, t.typtypmod),
           r.is_required OR t.typnotnull, r.has_default OR t.typdefault IS NOT NULL
    FROM resolved AS r JOIN pg_type AS t ON t.oid = r.type_id AND t.typtype = 'd'
)
SELECT a.attname::text,
       CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace::oid THEN t.typname::text END,
       r.modifier, pg_catalog.format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.atttypid <> r.type_id THEN pg_catalog.format_type(r.type_id, r.modifier) END,
       coalesce(c.collisdeterministic, true), a.attnotnull, r.is_required, r.has_default,
       CASE WHEN a.attidentity = 'a' THEN 'identity' ELSE a.attgenerated::text END
FROM resolved AS r
JOIN pg_type AS t ON t.oid = r.type_id AND t.typtype <> 'd'
JOIN pg_attribute AS a ON a.attrelid = %(oid)s::oid AND a.attnum = r.attnum
LEFT JOIN pg_collation AS c ON c.oid = a.attcollation
"""

# The views on these columns, and the views on those: none of the columns may change its type.
READ_VIEWS = """
WITH RECURSIVE dependent AS (
    SELECT %(oid)s::oid AS id, ARRAY(
        SELECT attnum::integer FROM pg_attribute
        WHERE attrelid = %(oid)s::oid AND attname = ANY (%(columns)s)) AS numbers
    UNION
    SELECT w.ev_class, NULL FROM dependent
    JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass::oid AND d.refobjid = dependent.id
     AND (numbers IS NULL OR d.refobjsubid = ANY (numbers))
    JOIN pg_rewrite AS w ON d.classid = 'pg_rewrite'::regclass::oid AND w.oid = d.objid
    WHERE w.ev_class <> d.refobjid
)
SELECT id::regclass::text FROM dependent WHERE numbers IS NULL ORDER BY id DESC
"""

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a type",
}
_TYPE_NAMES = {  # as pg_type has them
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "boolean": "bool",
    "double precision": "float8",
}
_INTEGER_DIGITS = {"int2": 5, "int4": 10, "int8": 19}
_VIRTUAL = "v"  # from PostgreSQL 18 on; there is nothing that its expression could leave behind
_TIMES = ("timestamp", "timestamptz")
_MICROSECONDS = (-1, 6)  # the digits after the second; -1: none given, which is six


class FoundColumn(NamedTuple):
    """A row of READ_COLUMNS. `type_name` is None for a type that PostgreSQL does not bring.

    `is_required` is told by the column itself or by its domain, `over` is what a domain is over.
    """

    name: str
    type_name: str | None
    modifier: int
    shown: str
    over: str | None
    is_deterministic: bool
    is_not_null: bool
    is_required: bool
    has_default: bool
    generated: str

    @property
    def description(self) -> str:
        """The type as its owner wrote it, with what matters about it."""
        over = f", a domain over {self.over}" if self.over else ""
        collation = "" if self.is_deterministic else " with a nondeterministic collation"
        return f"{self.shown}{over}{collation}"

    @property
    def digits(self) -> tuple[int, int]:
        """The digits before and after the point of a NUMERIC that was given both."""
        packed = self.modifier - 4
        scale = ((packed & 2047) ^ 1024) - 1024  # eleven bits with a sign
        return (packed >> 16) - scale, scale


class FoundTable(NamedTuple):
    """Where it is, a row of READ_TABLE, and the columns by name. `lacking` are privileges."""

    place: Relation
    kind: str
    is_owner: bool
    lacking: Sequence[str]
    has_children: bool
    has_filling_trigger: bool
    has_primary_key: bool
    unique: Sequence[Sequence[str]]
    columns: dict[str, FoundColumn]


def read_table(cursor: Cursor, name: str) -> FoundTable | None:
    """What the catalogs say of the relation `name`; None if there is none.

    Raises DatabaseError if there are several (see find_relation).
    """
    place = find_relation(cursor, name)
    if not place.exists:
        return None
    params = {"oid": place.oid, "privileges": list(PRIVILEGES)}
    table = fetch_one(cursor, READ_TABLE, params)
    cursor.execute(READ_COLUMNS, params)
    columns = [FoundColumn(*row) for row in cursor.fetchall()]
    return FoundTable._make((place, *table, {column.name: column for column in columns}))


def read_views(cursor: Cursor, found: FoundTable, columns: list[str]) -> list[str]:
    """The views that hold on to these columns."""
    cursor.execute(READ_VIEWS, {"oid": found.place.oid, "columns": columns})
    return [view for (view,) in cursor.fetchall()]


def check_columns(cursor: Cursor, table: Table, found: FoundTable | None = None) -> list[str]:
    """Why a run could not store every row exactly: a clause each, with the statement that helps.

    Empty where all is well, or there is no table yet. Tells all that ensure_table would refuse, and
    what it would try to widen in vain. `found` is what read_table says, if that is known.
    """
    found = found or read_table(cursor, table.name)
    if found is None:
        return []
    faults = find_faults(table, found)
    narrow = find_narrow(table, found)
    held = [*find_wrong_columns(table, found), *(column.name for column in narrow)]
    views = read_views(cursor, found, held) if held else []
    if narrow and (views or not found.is_owner):
        faults += [
            f"{column.name} is {found.columns[column.name].shown}: let the table's owner run "
            f"{widen_statement(table, found, column).as_string(cursor)}"
            for column in narrow
        ]
    if views:
        faults.append(
            f"views hold on to these columns: drop {', '.join(views)} first (a run makes its own "
            "anew; keep the definitions of yours)"
        )
    return faults


def find_faults(table: Table, found: FoundTable) -> list[str]:
    """Why `found` cannot take the rows of `table`, but for what can be widened in place."""
    if found.kind not in ("r", "p"):
        return [f"it is {_KINDS.get(found.kind, 'no table')}: rename it out of the way"]
    faults = []
    if found.kind == "r" and found.has_children:
        faults.append("other tables inherit from it, whose rows its keys do not cover: end that")
    for column in wanted_columns(table):
        faults += _find_column_faults(table, column, found.columns.get(column.name))
    faults += _find_unfilled(table, found)
    return faults + find_missing_keys(table.name, (table.key, *table.unique), found)


def find_wrong_columns(table: Table, found: FoundTable) -> list[str]:
    """The columns that have to be changed by hand in a way that no view on them lets through."""
    return [
        column.name
        for column in wanted_columns(table)
        if (stored := found.columns.get(column.name))
        and (_has_wrong_type(column, stored) or stored.generated == _VIRTUAL)
    ]


def find_narrow(table: Table, found: FoundTable) -> list[Column]:
    """The NUMERIC columns with too few digits, which can be widened in place."""
    return [
        column
        for column in table.columns
        if (stored := found.columns.get(column.name))
        and found.kind in ("r", "p")
        and _is_narrow(column, stored)
    ]


def widen_statement(table: Table, found: FoundTable, column: Column) -> sql.Composed:
    """What gives a narrow column the digits that it lacks. PostgreSQL writes the table anew."""
    assert column.precision is not None
    assert column.scale is not None
    before, after = found.columns[column.name].digits
    scale = max(after, column.scale)
    precision = max(before + after, column.precision - column.scale + scale)
    # A partitioned table itself stores nothing.
    has_fill = table.fillfactor is not None and found.kind == "r"
    fill = f"SET (fillfactor = {table.fillfactor}), " if has_fill else ""
    return sql.SQL(
        f"ALTER TABLE {{}} {fill}ALTER COLUMN {{}} TYPE numeric({precision}, {scale})"
    ).format(sql.Identifier(table.name), sql.Identifier(column.name))


def wanted_columns(table: Table) -> tuple[Column, ...]:
    """All that a run writes: the table's columns, and the two moments."""
    return (*table.columns, *(Column(name, "timestamp") for name in table.moments))


def _type_of(column: Column) -> str:
    if column.length is not None:
        return f"{column.sql_type}({column.length})"
    if column.precision is not None:
        return f"{column.sql_type}({column.precision}, {column.scale})"
    return column.sql_type


def _find_column_faults(table: Table, column: Column, stored: FoundColumn | None) -> list[str]:
    name, wanted = column.name, _type_of(column)
    if stored is None:
        return [f"it lacks the column {name}: ALTER TABLE {table.name} ADD COLUMN {name} {wanted}"]
    alter = f"ALTER TABLE {table.name} ALTER COLUMN {name}"
    retype = f"{alter} TYPE {wanted} USING {name}::{wanted}"
    faults = []
    if stored.generated:
        drop = "IDENTITY" if stored.generated == "identity" else "EXPRESSION"
        way_out = f"{alter} DROP {drop}"
        if stored.generated == _VIRTUAL:
            way_out = f"ALTER TABLE {table.name} DROP COLUMN {name}, ADD COLUMN {name} {wanted}"
        faults.append(f"{name} is generated, nothing can be written to it: {way_out}")
    if _has_wrong_type(column, stored):
        faults.append(
            f"{name} is {stored.description}, which does not hold every {wanted} exactly: {retype}"
        )
    if column.nullable and stored.is_required:
        way_out = f"{alter} DROP NOT NULL" if stored.is_not_null else retype
        faults.append(f"{name} is NOT NULL, and rows come without it: {way_out}")
    return faults


def _find_unfilled(table: Table, found: FoundTable) -> list[str]:
    """The columns that refuse every new row; a trigger may fill them, which cannot be known."""
    filled = {column.name for column in wanted_columns(table)}
    return [
        f"its own column {column.name} is NOT NULL and has no default: "
        f"ALTER TABLE {table.name} ALTER COLUMN {column.name} DROP NOT NULL, or give it a DEFAULT"
        for column in found.columns.values()
        if column.name not in filled
        and column.is_required
        and not (column.has_default or found.has_filling_trigger)
    ]


def find_missing_keys(name: str, keys: Sequence[tuple[str, ...]], found: FoundTable) -> list[str]:
    """The keys that nothing guards, the first as primary key. An index on a part guards it all."""
    faults = []
    for key in filter(None, keys):
        if not any(set(columns) <= set(key) for columns in found.unique if columns):
            is_primary = key == keys[0] and not found.has_primary_key
            columns = f"({', '.join(key)})"
            faults.append(
                f"it has no unique key {columns}: ALTER TABLE {name} ADD "
                f"{'PRIMARY KEY' if is_primary else 'UNIQUE'} {columns}"
            )
    return faults


def _has_wrong_type(column: Column, stored: FoundColumn) -> bool:
    return not (_holds(column, stored) or _is_narrow(column, stored))


def _holds(column: Column, stored: FoundColumn) -> bool:
    """Whether the stored type holds every value exactly, and compares as the column's own does."""
    wanted = _TYPE_NAMES.get(column.sql_type, column.sql_type)
    if wanted in ("varchar", "text"):
        return stored.is_deterministic and _holds_text(column, stored)
    if wanted in _INTEGER_DIGITS:
        return _holds_number(_INTEGER_DIGITS[wanted], 0, stored)
    if wanted == "numeric":
        if column.precision is None or column.scale is None:
            return stored.type_name == wanted and stored.modifier < 0
        return stored.type_name == wanted and _holds_number(
            column.precision - column.scale, column.scale, stored
        )
    if wanted in _TIMES:
        return stored.type_name in _TIMES and stored.modifier in _MICROSECONDS
    return stored.type_name == wanted


def _holds_text(column: Column, stored: FoundColumn) -> bool:
    if stored.type_name not in ("varchar", "text"):
        return False
    is_bounded = stored.modifier >= 0  # the length and 4
    return not is_bounded or (column.length is not None and stored.modifier - 4 >= column.length)


def _holds_number(before: int, after: int, stored: FoundColumn) -> bool:
    """Whether so many digits before and after the point have room."""
    if stored.type_name in _INTEGER_DIGITS:
        return after == 0 and _INTEGER_DIGITS[stored.type_name] >= before
    if stored.type_name != "numeric":
        return False
    return stored.modifier < 0 or (stored.digits[0] >= before and stored.digits[1] >= after)


def _is_narrow(column: Column, stored: FoundColumn) -> bool:
    is_plain = stored.type_name == "numeric" and not stored.over and not stored.generated
    return column.scale is not None and is_plain and not _holds(column, stored)
