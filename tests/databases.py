"""Databases for tests: one that a test has left is emptied and used again, where that can be seen.

To make a database takes ten times as long as to empty one.
"""

from __future__ import annotations

import uuid
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Server

# Nobody is connected, nobody may more or less than at first, nothing is set.
UNTOUCHED = """
SELECT datacl IS NULL AND datconnlimit = -1
       AND NOT EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = pg_database.oid)
       AND NOT EXISTS (SELECT FROM pg_stat_activity
                       WHERE datid = pg_database.oid AND pid <> pg_backend_pid())
FROM pg_database WHERE datname = current_database()
"""
PUBLIC = "SELECT nspowner::regrole::text, nspacl::text FROM pg_namespace WHERE nspname = 'public'"
EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {owner}; {grants}"
# What is left besides the schema, of whatever kind: 16384 is the first oid that is not built in.
LEFT = " UNION ALL ".join(
    f"SELECT '{catalog}' FROM {catalog} WHERE oid >= 16384 {condition}"
    for catalog, condition in {
        "pg_namespace": "AND nspname NOT LIKE 'pg\\_%temp\\_%' AND nspname <> 'public'",
        "pg_class": "AND relnamespace::regnamespace::text NOT LIKE 'pg\\_%'",
        "pg_proc": "",
        "pg_extension": "",
        "pg_event_trigger": "",
        "pg_publication": "",
        "pg_default_acl": "",
        "pg_cast": "",
        "pg_language": "",
        "pg_foreign_server": "",
        "pg_largeobject_metadata": "",
    }.items()
)


class Databases:
    """Databases of one server: empty ones, and ones with the empty table that `script` makes."""

    def __init__(self, server: Server, script: str) -> None:
        self._server = server
        self._script = script
        self._free: dict[bool, list[str]] = {False: [], True: []}
        name = self._make()
        self._public = server.execute(PUBLIC, dbname=name)
        ((owner, acl),) = self._public
        # Before PostgreSQL 15 everybody may make tables in it.
        rights = "USAGE, CREATE" if ",=UC/" in acl else "USAGE"
        grants = f"GRANT {rights} ON SCHEMA public TO PUBLIC"
        self._empty_it = EMPTY.format(owner=owner, grants=grants)
        self._free[False].append(name)

    def take(self, *, with_table: bool) -> str:
        """The name of a database that nobody else uses."""
        if self._free[with_table]:
            return self._free[with_table].pop()
        name = self._make()
        if with_table:
            self._server.execute(self._script, dbname=name)
        return name

    def give_back(self, name: str, *, with_table: bool) -> None:
        """Make the database for the next test what it was for this one, or drop it."""
        connection = self._server.connect(name)
        try:
            with connection.cursor() as cursor:
                cursor.execute(UNTOUCHED)
                is_empty = cursor.fetchone() == (True,)
                if is_empty:
                    cursor.execute(self._empty_it)
                    cursor.execute(PUBLIC)
                    is_empty = cursor.fetchall() == self._public
                    cursor.execute(LEFT)
                    is_empty = is_empty and not cursor.fetchall()
                if is_empty and with_table:
                    cursor.execute(self._script)
        finally:
            connection.close()
        if is_empty:
            self._free[with_table].append(name)
        else:
            self._drop(name)

    def close(self) -> None:
        for name in chain.from_iterable(self._free.values()):
            self._drop(name)

    def _make(self) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._server.execute(f"CREATE DATABASE {name}")
        return name

    def _drop(self, name: str) -> None:
        self._server.execute(f"DROP DATABASE {name} WITH (FORCE)")
