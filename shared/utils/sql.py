"""Small parts of statements that several modules need."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

_READ_SETTING = "pg_catalog.current_setting(%s)"
_CHANGE_SETTING = "pg_catalog.set_config(%s, %s, true)"

# Comments below it explain the statement, and are not sent.
_NAME = re.compile(r"^-- name: (\w+)\n(?:--.*\n)*", re.M)


def load_sql(module: str | Path) -> dict[str, str]:
    """The statements of a module's file of SQL by name: each begins with a line `-- name: ...`."""
    _, *parts = _NAME.split(Path(module).with_suffix(".sql").read_text(encoding="utf-8"))
    return {name: text.strip().rstrip(";") for name, text in zip(parts[::2], parts[1::2])}


def temporary(name: str) -> sql.Identifier:
    """The name of a temporary table."""
    return sql.Identifier("pg_temp", name)


def joined(parts: Iterable[sql.Composable]) -> sql.Composed:
    """The parts with commas between."""
    return sql.SQL(", ").join(parts)


def listed(names: Iterable[str], alias: str = "") -> sql.Composed:
    """The names as columns, of `alias` if that is given, with commas between."""
    return joined(sql.Identifier(*filter(None, (alias, name))) for name in names)


def compose(statement: str, **parts: Sequence[str] | sql.Composable) -> sql.Composed:
    """A statement with {names} filled in; a part that is a sequence is a list of columns."""
    return sql.SQL(statement).format(
        **{
            name: part if isinstance(part, sql.Composable) else listed(part)
            for name, part in parts.items()
        }
    )


def succeeds(cursor: Cursor, work: Callable[[], bool]) -> bool:
    """What `work` returns; if that is False, or it breaks a constraint, all it did is undone."""
    cursor.execute("SAVEPOINT work")
    try:
        succeeded = work()
    except psycopg2.IntegrityError:
        succeeded = False
    cursor.execute(f"{'' if succeeded else 'ROLLBACK TO SAVEPOINT work; '}RELEASE work")
    return succeeded


def fetch_one(cursor: Cursor, query: Any, params: Any = None) -> tuple[Any, ...]:
    """The row of a query that always gives one, such as an aggregate."""
    cursor.execute(query, params)
    row = cursor.fetchone()
    assert row is not None
    return row


@contextmanager
def settings(cursor: Cursor, **values: str) -> Iterator[None]:
    """The server's settings for the statements of the body, which fetches what it wants itself.

    After an error they stay: the transaction, or its savepoint, has to be rolled back anyway.
    """
    if not values:
        yield
        return
    read, change = (", ".join([part] * len(values)) for part in (_READ_SETTING, _CHANGE_SETTING))
    before = dict(zip(values, fetch_one(cursor, f"SELECT {read}", tuple(values))))
    cursor.execute(f"SELECT {change}", tuple(chain.from_iterable(values.items())))
    yield
    cursor.execute(f"SELECT {change}", tuple(chain.from_iterable(before.items())))
