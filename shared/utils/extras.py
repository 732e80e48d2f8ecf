"""Tables, views and indexes beside a table of rows, which a run can do without.

Takes a cursor inside a transaction and never commits. What is in the way, or may not be made, costs
no run: the reason comes back in words. Nothing that is there is ever dropped.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.table import Column, Table
from shared.utils.sql import load_sql, settings
from shared.utils.staged_merge import lock_name
from shared.utils.table_check import FoundTable, find_faults, find_missing_keys, read_table
from shared.utils.versions import describe_newer, is_of, read_version, version_of, write_version

logger = logging.getLogger(__name__)

SQL = load_sql(__file__)
LOCK_TIMEOUT = "1s"  # readers of a view do not wait behind a run that waits to replace it
# Of a table: what the database itself fills in is GENERATED or has a DEFAULT.
_COLUMN = re.compile(
    r"^    (?!PRIMARY KEY)\"?(\w+)\"? (\w++)(?:\((\d+)(?:, (\d+))?\))?+"
    r"(?! GENERATED| DEFAULT)( NOT NULL)?",
    re.M,
)
_LATER_COLUMNS = 2  # that a view has got since there are versions in comments, at most
_STATEMENT = re.compile(r"^CREATE .*?;$", re.M | re.S)
_NAME = re.compile(r"CREATE (?:OR REPLACE )?(VIEW|INDEX|FUNCTION) (?:IF NOT EXISTS )?(\S+)")
_SOURCE = re.compile(r"""\b(?:FROM|JOIN) ("[^"]+"\."[^"]+"|\w[\w.]*)""")
_PART = re.compile(r"\b(\w+) AS MATERIALIZED \(")  # of a query, by a name that it gives itself


@dataclass(frozen=True)
class ExtraTable:
    """A table that a run writes to and can do without.

    `script` makes it, with a line for each column. `privileges` are what the role needs on it.
    `key` is a column beside those that a run gives values. `upgrades` give a table of an earlier
    version, which is used as it is till then, what it lacks: a column that may be NULL or an index,
    by its name, or a primary key (""), without which nothing can be deleted where a table is
    published. Each is a version: they are only ever added to, at their end.
    """

    name: str
    script: str
    privileges: tuple[str, ...]
    key: tuple[str, ...] = ()
    upgrades: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """That of the newest upgrade."""
        return 1 + len(self.upgrades)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Those that a run gives values: they tell it from a table that something else made."""
        found = _COLUMN.findall(self.script.partition("\n)")[0])
        return tuple(
            _read_column(name, kind.lower(), [int(size) for size in sizes if size], required)
            for name, kind, *sizes, required in found
        )


def _read_column(name: str, kind: str, sizes: Sequence[int], required: str) -> Column:
    names = ("precision", "scale") if len(sizes) == 2 else ("length",)
    size: dict[str, Any] = dict(zip(names, sizes))
    return Column(name, kind, nullable=not required, **size)


def find_extra(cursor: Cursor, table: ExtraTable) -> FoundTable | None:
    """The table; None if it is not there, or something else has its name."""
    found, fault = _look_up(cursor, table)
    return None if fault else found


def is_readable(cursor: Cursor, table: ExtraTable) -> bool:
    """Whether the table is there, and the role may read it."""
    found = find_extra(cursor, table)
    return found is not None and "SELECT" not in found.lacking


def ensure_extra_table(
    cursor: Cursor,
    table: ExtraTable,
    *,
    upgrade: bool = True,
    seen: dict[str, FoundTable] | None = None,
) -> str | None:
    """Make the table if it is not there. Returns why it cannot be used, or None.

    What was found, and needed nothing, is put into `seen` under its name.
    """
    found, fault = _look_up(cursor, table)
    if fault:
        return fault
    no_right = (
        f"DB_USER may neither make nor write {table.name}. Let the table's owner run this DAG "
        f"once, and grant {', '.join(table.privileges)} on it"
    )
    if found is None:
        lock_name(cursor, table.name)  # another run may be making it
        refused = attempt(cursor, _script_of(cursor, table))
        if isinstance(refused, errors.InsufficientPrivilege):
            return no_right
        return f"{table.name} cannot be made ({_said(refused)})" if refused else None
    if set(table.privileges) & set(found.lacking):
        return no_right
    lacks = find_upgrades(table, found) or (read_version(found.comment) or 0) < table.version
    if seen is not None and not lacks:
        seen[table.name] = found
    if upgrade and found.is_owner and lacks:
        _bring_up(cursor, table, found)
    return None


def render_table(cursor: Cursor, table: ExtraTable) -> str:
    """The statements with which an owner makes the table for the session's role."""
    cursor.execute("SELECT pg_catalog.quote_ident(current_user)")
    [(role,)] = cursor.fetchall()
    rights = f"GRANT {', '.join(table.privileges)} ON {table.name} TO {role}"
    return f"{_script_of(cursor, table)};\n{rights};"


def _script_of(cursor: Cursor, table: ExtraTable) -> str:
    """What makes the table, and says its version."""
    mark = write_version(cursor, "TABLE", table.name, "", table.version)
    return f"{table.script};\n{mark}"


def _bring_up(cursor: Cursor, table: ExtraTable, found: FoundTable) -> None:
    if find_upgrades(table, found):
        lock_name(cursor, table.name)  # another run may be at it
        found = read_table(cursor, table.name) or found
    for statement in find_upgrades(table, found):
        if refused := attempt(cursor, statement):
            logger.info("%s stays without an upgrade: %s", table.name, _said(refused))
            return
        logger.info("%s is brought up to version %d: %s", table.name, table.version, statement)
    note_version(cursor, found, table.version)


def note_version(cursor: Cursor, found: FoundTable, version: int) -> None:
    """Put the version into the comment of a table that has it now, where the role may."""
    if found.is_owner and (read_version(found.comment) or 0) < version:
        attempt(cursor, render_version(cursor, found, version))


def render_version(cursor: Cursor, found: FoundTable, version: int) -> str:
    """The statement that says in the table's comment that it has the version."""
    name = found.place.identifier.as_string(cursor)
    return write_version(cursor, "TABLE", name, found.comment, version)


def find_upgrades(table: ExtraTable, found: FoundTable) -> list[str]:
    """The statements that the table that was found still needs."""
    return [
        statement
        for lacks, statement in table.upgrades.items()
        if (lacks not in (*found.columns, *found.indexes) if lacks else not found.has_primary_key)
    ]


class LackingView(NamedTuple):
    """A view that could not be made, or an index; `script` is for who may ("": nobody)."""

    name: str
    reason: str
    script: str
    is_index: bool


def ensure_views(cursor: Cursor, script: str) -> list[LackingView]:
    """Make the views, functions and indexes of `script`, each by itself, where it lacks or is old.

    A view is the program's if its comment says so, or, as an earlier version made it, if it has the
    script's columns. One of a newer version stays. Returns what is lacking afterwards.
    """
    lock_name(cursor, "stock_ingestion views")  # another run may be making them
    lacking: dict[str, LackingView] = {}
    for stale in find_stale(cursor, script):
        reason, for_owner = "", ""
        if stale.newer:
            continue
        if blocking := [source for source in stale.sources if source in lacking]:
            reason = f"it reads {blocking[0]}"
            for_owner = lacking[blocking[0]].script and stale.script
        elif stale.is_taken:
            reason = "something else has its name, rename that"
        elif refused := attempt(cursor, stale.script):
            reason = _said(refused)
            # A table that it reads may be one that the role could not make.
            owners = (errors.InsufficientPrivilege, errors.UndefinedTable)
            for_owner = stale.script if isinstance(refused, owners) else ""
        if reason and stale.kind == "INDEX":  # without it the same is found, later
            logger.info("the index %s is not made: %s", stale.name, reason)
        if reason:
            is_index = stale.kind == "INDEX"
            lacking[stale.name] = LackingView(stale.name, reason, for_owner, is_index)
    return list(lacking.values())


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
    added = set(table.upgrades) - set(found.columns)
    columns = tuple(column for column in table.columns if column.name not in added)
    described = Table(table.name, columns, (), (), "", "", is_snapshot=False)
    faults = find_faults(described, found) + find_missing_keys(table.name, (table.key,), found)
    if not faults:
        return found, ""
    # Not with the statement that would make it ours.
    reason = faults[0].split(":")[0]
    return found, f"{table.name} was made by something else, rename it ({reason})"


class Stale(NamedTuple):
    """A view, a function or an index that is not there as `script` makes it.

    `is_taken`: not ours is. `newer` has the versions in words, if this program does not know it.
    """

    script: str
    kind: str
    name: str
    sources: list[str]
    is_there: bool
    is_taken: bool
    newer: str


def find_stale(cursor: Cursor, script: str) -> Iterator[Stale]:
    """What is stale; a view also of what it reads: it goes with a table that is renamed."""
    version = version_of(script)
    for statement in _STATEMENT.findall(script):
        ((kind, name),) = _NAME.findall(statement)
        fingerprint = hashlib.sha256(statement.encode()).hexdigest()[:12]
        parts = _PART.findall(statement)
        sources = [source for source in _SOURCE.findall(statement) if source not in parts]
        is_function = kind == "FUNCTION"
        read = SQL["read_function" if is_function else "read_view_or_index"]
        cursor.execute(read, {"name": name, "sources": sources})
        row = cursor.fetchone()
        comment, is_taken = "", False
        if row is not None:
            found, comment, columns, reads_these = row
            is_right = found == ("f" if is_function else "v")
            if kind == "INDEX" or (
                is_right and is_of(comment, version, fingerprint) and reads_these
            ):
                continue
            is_ours = read_version(comment) is not None or _are_of(
                columns, _columns_of(cursor, statement)
            )
            is_taken = not (is_right and is_ours)
        made = statement
        if kind != "INDEX":
            mark = write_version(cursor, kind, name, comment, version, fingerprint)
            made += f"\n{mark};"
        yield Stale(
            script=made,
            kind=kind,
            name=name,
            sources=sources,
            is_there=row is not None,
            is_taken=is_taken,
            newer="" if is_taken else describe_newer(read_version(comment), version),
        )


def _are_of(columns: Sequence[str] | None, wanted: Sequence[str]) -> bool:
    """Whether these are the wanted columns, but for those that came at their end."""
    if columns is None or len(wanted) - len(columns) > _LATER_COLUMNS:
        return False
    return bool(columns) and list(columns) == list(wanted[: len(columns)])


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


def _said(error: psycopg2.Error) -> str:
    if isinstance(error, errors.LockNotAvailable):
        return "it is in use, the next run tries again"
    return error.diag.message_primary or str(error)
