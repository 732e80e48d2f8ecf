"""Small parts of statements that several modules need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg2.extensions import cursor as Cursor

# Of dates and moments: what Python can read. PostgreSQL knows earlier and later ones, and infinity.
IN_PYTHON_YEARS = "BETWEEN '0001-01-02' AND '9999-12-30'"

_READ_SETTING = "SELECT pg_catalog.current_setting(%s)"
_CHANGE_SETTING = "SELECT pg_catalog.set_config(%s, %s, true)"


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
    before = {name: fetch_one(cursor, _READ_SETTING, (name,))[0] for name in values}
    for setting in values.items():
        cursor.execute(_CHANGE_SETTING, setting)
    yield
    for setting in before.items():
        cursor.execute(_CHANGE_SETTING, setting)
