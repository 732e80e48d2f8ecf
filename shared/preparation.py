"""What a run prepares: its table, what it writes beside that, and the views, of this version."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from shared.exceptions import ConfigurationError, DatabaseError
from shared.feed import Feed
from shared.utils import run_history
from shared.utils.changes import table_of
from shared.utils.extras import (
    attempt,
    ensure_extra_table,
    ensure_views,
    find_extra,
    find_stale,
    find_upgrades,
    render_table,
    render_version,
)
from shared.utils.relations import find_relation
from shared.utils.table_check import FoundTable, find_added, find_narrow, read_table
from shared.utils.table_setup import ensure_table
from shared.utils.versions import describe_newer, read_version


class History(NamedTuple):
    """What can be recorded of a run (in a dry run: read).

    The run itself, what it changed, and the versions of its rows.
    """

    runs: bool
    changes: bool
    versions: bool = False


class Lacking(NamedTuple):
    """What a run does without, in words, and the SQL with which an owner gives it ("": none)."""

    words: str
    script: str = ""


def prepare_extras(cursor: Any, feed: Feed, *, upgrade: bool = True) -> tuple[History, Lacking]:
    """Make what a run writes beside its table, where the role may, and the feed's views.

    Returns what can be recorded, and what is lacking. A role that may not is no error (ruling 23).
    Without `upgrade` tables that are there stay as they are.
    """
    seen: dict[str, FoundTable] = {}
    ensure = partial(ensure_extra_table, cursor, upgrade=upgrade, seen=seen)
    if reason := ensure(run_history.TABLE):
        return History(runs=False, changes=False), Lacking(
            f"The history of runs and changes is not kept: {reason}. The views that go by it then "
            "show, among today's rows, also what earlier lists had."
        )
    changes = table_of(feed)
    no_changes = ensure(changes)
    faults = [f"What changes is not kept: {no_changes}."] if no_changes else []
    no_versions = None
    if feed.versions is not None:
        has_column = run_history.has_versions(cursor)
        lacking_column = f"{run_history.TABLE.name} has no column valid_from"
        no_versions = ensure(feed.versions) if has_column else lacking_column
    if no_versions:
        faults.append(f"The versions of rows are not kept: {no_versions}.")
    tables = _read_tables(cursor, feed, seen)
    script = _views_script(cursor, feed, tables)
    stale = list(find_stale(cursor, script))
    older = [table for table in tables if table.script and not table.found.is_owner]
    if older:
        faults.append(
            f"Of an earlier version, and used as it is: {', '.join(map(str, older))}. "
            "`check` prints what the owner has to run."
        )
    newer = [f"{table} ({table.newer})" for table in tables if table.newer]
    newer += [f"{view.name} ({view.newer})" for view in stale if view.newer]
    if newer:
        faults.append(
            f"Made by a newer version of this program, and left as it is: {', '.join(newer)}. "
            "Upgrade this one."
        )
    lacking = ensure_views(cursor, script) if stale else []
    if views := [f"{view.name} ({view.reason})" for view in lacking if not view.is_index]:
        faults.append(
            f"Not made, or of an earlier version: {'; '.join(views)}. Rename what is in the way, "
            "or let the table's owner run this DAG once."
        )
    scripts = [table.script for table in older]
    if no_versions and feed.versions and not find_relation(cursor, feed.versions.name).exists:
        scripts.append(render_table(cursor, feed.versions))
    scripts += [view.script for view in lacking]
    has_versions = feed.versions is not None and no_versions is None
    return History(runs=True, changes=no_changes is None, versions=has_versions), Lacking(
        " ".join(faults), "\n".join(filter(None, scripts))
    )


class _Table(NamedTuple):
    """A table that is there; `script` brings it up ("": it lacks nothing)."""

    found: FoundTable
    script: str
    newer: str  # the versions in words, if this program does not know its one

    def __str__(self) -> str:
        return self.found.place.name


def _read_tables(
    cursor: Any, feed: Feed, seen: Mapping[str, FoundTable] = MappingProxyType({})
) -> list[_Table]:
    """The feed's table, and those beside it, as far as they are there; `seen` need no look."""
    tables = []
    if (found := read_table(cursor, feed.table.name)) is not None:
        narrow = find_narrow(feed.table, found).values()
        statements = [statement.as_string(cursor) for statement in narrow]
        statements += find_added(feed.table, found).values()
        tables.append(_describe(cursor, found, feed.table.version, statements))
    for table in (run_history.TABLE, table_of(feed), feed.versions):
        if table and (found := seen.get(table.name) or find_extra(cursor, table)) is not None:
            statements = find_upgrades(table, found)
            tables.append(_describe(cursor, found, table.version, statements))
    return tables


def _describe(cursor: Any, found: FoundTable, version: int, statements: Sequence[str]) -> _Table:
    lines = [*statements, render_version(cursor, found, version)] if statements else ()
    script = "\n".join(f"{line};" for line in lines)
    return _Table(found, script, describe_newer(read_version(found.comment), version))


def read_schema(feed: Feed) -> str:
    """The script that makes the feed's table. Raises ConfigurationError if it cannot be read."""
    try:
        return (feed.folder / "schema.sql").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(
            f"{feed.folder.name}/schema.sql, which makes {feed.table.name}, cannot be read: {exc}"
        ) from exc


def ensure_tables(cursor: Any, feed: Feed) -> None:
    """Make the feed's table, and those beside it that it needs, where they are not there yet.

    Raises ConfigurationError or DatabaseError if they cannot be made, or used.
    """
    ensure_table(cursor, feed.table, read_schema(feed))
    for table in feed.needs:
        if reason := ensure_extra_table(cursor, table):
            raise DatabaseError(f"{feed.title} cannot be stored without {table.name}: {reason}.")


def prove_schema(cursor: Any, feed: Feed) -> None:
    """Make the tables that are not there, and take them away again.

    Raises ConfigurationError or DatabaseError if a run could not make them.
    """
    if read_table(cursor, feed.table.name) is not None and not feed.needs:
        return
    cursor.execute("SAVEPOINT before_table")
    try:
        ensure_tables(cursor, feed)
    finally:
        cursor.execute("ROLLBACK TO SAVEPOINT before_table")


class Preview(NamedTuple):
    """What a run would do: what it would lack, and the `older` tables and views it brings up.

    `script` is the SQL for those tables.
    """

    lacking: Lacking
    older: Sequence[str]
    script: str


def preview_upgrade(cursor: Any, feed: Feed) -> Preview:
    """What a run would do to tables and views of an earlier version. Changes nothing."""
    tables = [each for each in _read_tables(cursor, feed) if each.script and each.found.is_owner]
    cursor.execute("SAVEPOINT before_history")
    try:
        if (found := read_table(cursor, feed.table.name)) is None:
            cursor.execute(read_schema(feed))
        else:  # views may read them; the catalogs alone are written
            for statement in find_added(feed.table, found).values():
                attempt(cursor, statement)
        for table in feed.needs:
            ensure_extra_table(cursor, table)
        if feed.versions and (runs := find_extra(cursor, run_history.TABLE)) is not None:
            for statement in find_upgrades(run_history.TABLE, runs):
                attempt(cursor, statement)
        script = _views_script(cursor, feed, _read_tables(cursor, feed))
        before = [view.name for view in find_stale(cursor, script) if view.is_there]
        _, lacking = prepare_extras(cursor, feed, upgrade=False)
        after = [view.name for view in find_stale(cursor, script)]
    finally:
        cursor.execute("ROLLBACK TO SAVEPOINT before_history")
    older = [*map(str, tables), *(name for name in before if name not in after)]
    return Preview(lacking, older, "\n".join(table.script for table in tables))


def _views_script(cursor: Any, feed: Feed, tables: Sequence[_Table]) -> str:
    """What makes the views; where something else has the name of the table of versions, without it.

    It has its full name in them: what a function reads is looked for only when it is called.

    The list_moment of a last_updated with a time zone is in UTC: they are not compared in the
    reader's zone.
    """
    there = {table.found.place.name: table.found for table in tables}
    views = feed.views
    if feed.versions is not None:
        place = find_relation(cursor, feed.versions.name)
        views = feed.plain_views
        if feed.versions.name in there or not place.exists:
            full_name = place.identifier.as_string(cursor)
            views = re.sub(rf"\b{feed.versions.name} AS\b", f"{full_name} AS", feed.views)
    found = there.get(feed.table.name)
    column = found and found.columns.get(feed.table.last_updated)
    if column and column.type_name == "timestamptz":
        moment = "SELECT list_moment"
        return views.replace(moment, f"{moment} AT TIME ZONE 'UTC'")
    return views
