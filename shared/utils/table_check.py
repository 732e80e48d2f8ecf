"""Whether a table can hold every row of a run exactly (ruling 32): read from the catalogs alone.

Takes a cursor inside a transaction, changes nothing, and needs no right on the table. What may come
is told by `Column`; a domain is judged by the type that it is over, its constraints are not.
"""

from collections.abc import Sequence
from typing import NamedTuple

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.models.table import Column, Table
from shared.utils.relations import Relation, find_relation
from shared.utils.sql import compose, fetch_one, load_sql

SQL = load_sql(__file__)

_INTEGER_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_VIRTUAL = "v"  # a generated column from PostgreSQL 18 on, which stores nothing
_UNBOUNDED = 1_000_000  # digits: more than PostgreSQL's limits
_TEXTS = ("varchar", "text")
_TIMES = ("timestamp", "timestamptz")
_MICROSECONDS = (-1, 6)  # the digits after the second; -1: none given, which is six
_TABLES = ("r", "p")


class FoundColumn(NamedTuple):
    """A row of read_columns.

    `type_name` is None for a type that PostgreSQL does not bring; `shown` is the type as its owner
    wrote it, with what matters about it. `is_required` is told by the column itself or its domain.
    """

    name: str
    type_name: str | None
    modifier: int
    shown: str
    is_domain: bool
    is_deterministic: bool
    is_not_null: bool
    is_required: bool
    has_default: bool
    generated: str

    @property
    def digits(self) -> tuple[int, int]:
        """The digits before and after the point that a number has room for."""
        if self.type_name != "numeric":
            return _INTEGER_DIGITS.get(self.type_name or "", -1), 0
        if self.modifier < 0:
            return _UNBOUNDED, _UNBOUNDED
        packed = self.modifier - 4
        scale = ((packed & 2047) ^ 1024) - 1024  # eleven bits with a sign
        return (packed >> 16) - scale, scale


class FoundTable(NamedTuple):
    """Where it is, a row of read_table, and the columns by name. `lacking` are privileges."""

    place: Relation
    kind: str
    is_owner: bool
    lacking: Sequence[str]
    has_children: bool
    has_filling_trigger: bool
    has_primary_key: bool
    unique: Sequence[Sequence[str]]
    indexes: Sequence[str]
    comment: str
    columns: dict[str, FoundColumn]


def read_table(cursor: Cursor, name: str) -> FoundTable | None:
    """What the catalogs say of the relation `name`, if there is one. Raises as find_relation."""
    place = find_relation(cursor, name)
    if not place.exists:
        return None
    params = {"oid": place.oid}
    table = fetch_one(cursor, SQL["read_table"], params)
    cursor.execute(SQL["read_columns"], params)
    columns = {row[0]: FoundColumn(*row) for row in cursor.fetchall()}
    return FoundTable._make((place, *table, columns))


def check_columns(cursor: Cursor, table: Table, found: FoundTable | None = None) -> list[str]:
    """Why a run could not store every row exactly: a clause each, with the statement that helps.

    Empty where all is well, or there is no table yet. `found` is what read_table says, if known.
    """
    found = found or read_table(cursor, table.name)
    if found is None:
        return []
    faults = find_faults(table, found)
    narrow = find_narrow(table, found)
    held = [
        column.name
        for column in _wanted_columns(table)
        if (stored := found.columns.get(column.name))
        and (not _holds(column, stored) or stored.generated == _VIRTUAL)
    ]
    cursor.execute(SQL["read_views"], {"oid": found.place.oid, "columns": held})
    views = [view for (view,) in cursor.fetchall()]
    if narrow and (views or not found.is_owner):
        faults += [
            f"{name} is {found.columns[name].shown}: let the table's owner run "
            f"{statement.as_string(cursor)}"
            for name, statement in narrow.items()
        ]
    if not found.is_owner:
        faults += [
            f"it lacks the column {name}: let the table's owner run {statement}"
            for name, statement in find_added(table, found).items()
        ]
    if views:
        faults.append(
            f"views hold on to these columns: drop {', '.join(views)} first (a run makes its own "
            "anew; keep the definitions of yours)"
        )
    return faults


def find_faults(table: Table, found: FoundTable) -> list[str]:
    """Why `found` cannot take the rows of `table`, but for what can be widened or added."""
    if found.kind not in _TABLES:
        return [f"it is {found.kind}: rename it out of the way"]
    faults = []
    if found.kind == "r" and found.has_children:
        faults.append("other tables inherit from it, whose rows its keys do not cover: end that")
    for column in _wanted_columns(table):
        faults += _find_column_faults(table, column, found.columns.get(column.name))
    keys = (table.key, *table.unique)
    return faults + _find_unfilled(table, found) + find_missing_keys(table.name, keys, found)


def find_narrow(table: Table, found: FoundTable) -> dict[str, sql.Composed]:
    """The NUMERIC columns with too few digits, each with the statement that gives it those."""
    return {
        column.name: _widen(table, found, column, stored)
        for column in table.columns
        if (stored := found.columns.get(column.name))
        and found.kind in _TABLES
        and _is_narrow(column, stored)
    }


def find_added(table: Table, found: FoundTable) -> dict[str, str]:
    """The columns that came with a later version, each with the statement that adds it."""
    return {
        column.name: _add(table, column)
        for column in table.columns
        if column.since > 1 and column.name not in found.columns and found.kind in _TABLES
    }


def _add(table: Table, column: Column) -> str:
    return f"ALTER TABLE {table.name} ADD COLUMN {column.name} {_describe_type(column)}"


def _describe_type(column: Column) -> str:
    size = [each for each in (column.length, column.precision, column.scale) if each is not None]
    return column.sql_type + (f"({', '.join(map(str, size))})" if size else "")


def _widen(table: Table, found: FoundTable, column: Column, stored: FoundColumn) -> sql.Composed:
    """PostgreSQL writes the table anew."""
    assert column.precision is not None
    assert column.scale is not None
    before, after = stored.digits
    scale = max(after, column.scale)
    precision = max(before + after, column.precision - column.scale + scale)
    # A partitioned table itself stores nothing.
    has_fill = table.fillfactor is not None and found.kind == "r"
    fill = f"SET (fillfactor = {table.fillfactor}), " if has_fill else ""
    retype = f"{fill}ALTER COLUMN {{name}} TYPE numeric({precision}, {scale})"
    return compose(f"ALTER TABLE {{table}} {retype}", table=[table.name], name=[column.name])


def _wanted_columns(table: Table) -> tuple[Column, ...]:
    """All that a run writes: the table's columns, and the two moments."""
    return (*table.columns, *(Column(name, "timestamp") for name in table.moments))


def _find_column_faults(table: Table, column: Column, stored: FoundColumn | None) -> list[str]:
    name, wanted = column.name, _describe_type(column)
    if stored is None:
        return [] if column.since > 1 else [f"it lacks the column {name}: {_add(table, column)}"]
    alter = f"ALTER TABLE {table.name} ALTER COLUMN {name}"
    retype = f"{alter} TYPE {wanted} USING {name}::{wanted}"
    faults = []
    if stored.generated:
        way_out = f"{alter} DROP {'IDENTITY' if stored.generated == 'identity' else 'EXPRESSION'}"
        if stored.generated == _VIRTUAL:
            way_out = f"ALTER TABLE {table.name} DROP COLUMN {name}, ADD COLUMN {name} {wanted}"
        faults.append(f"{name} is generated, nothing can be written to it: {way_out}")
    if not (_holds(column, stored) or _is_narrow(column, stored)):
        faults.append(
            f"{name} is {stored.shown}, which does not hold every {wanted} exactly: {retype}"
        )
    if column.nullable and stored.is_required:
        way_out = f"{alter} DROP NOT NULL" if stored.is_not_null else retype
        faults.append(f"{name} is NOT NULL, and rows come without it: {way_out}")
    return faults


def _find_unfilled(table: Table, found: FoundTable) -> list[str]:
    """The columns that refuse every new row; a trigger may fill them, which cannot be known."""
    filled = {column.name for column in _wanted_columns(table)}
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
    first = "UNIQUE" if found.has_primary_key else "PRIMARY KEY"
    return [
        f"it has no unique key ({columns}): ALTER TABLE {name} ADD {kind} ({columns})"
        for key, kind in zip(keys, [first, *["UNIQUE"] * len(keys)])
        if key and not any(set(unique) <= set(key) for unique in found.unique if unique)
        for columns in [", ".join(key)]
    ]


def _holds(column: Column, stored: FoundColumn) -> bool:
    """Whether the stored type holds every value exactly, and compares as the column's own does."""
    wanted, found = column.sql_type, stored.type_name
    if wanted in _TEXTS:
        limit = stored.modifier - 4 if stored.modifier >= 0 else _UNBOUNDED
        return (
            found in _TEXTS and stored.is_deterministic and limit >= (column.length or _UNBOUNDED)
        )
    if wanted in _TIMES:
        return found in _TIMES and stored.modifier in _MICROSECONDS
    if wanted in _INTEGER_DIGITS:
        before, after = _INTEGER_DIGITS[wanted], 0
    elif found != wanted or wanted != "numeric":
        return found == wanted
    elif column.precision is None or column.scale is None:
        before = after = _UNBOUNDED
    else:
        before, after = column.precision - column.scale, column.scale
    return stored.digits[0] >= before and stored.digits[1] >= after


def _is_narrow(column: Column, stored: FoundColumn) -> bool:
    is_plain = stored.type_name == "numeric" and not stored.is_domain and not stored.generated
    return column.scale is not None and is_plain and not _holds(column, stored)
