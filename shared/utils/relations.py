"""Which schema a table is in, and whose functions the statements on it call.

A name without its schema means whatever the session's search_path makes of it: a temporary table
of the same name comes first, and a function or operator of another role that takes exactly the
given types is preferred to PostgreSQL's own. Here names get their schema, and statements run where
only PostgreSQL's own functions are found (ruling 33). Those that read the catalogs have to find
tables as the session does: there functions have their schema, and operators their exact types.
"""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.utils.sql import load_sql, settings

logger = logging.getLogger(__name__)
SQL = load_sql(__file__)


@dataclass(frozen=True)
class Relation:
    """A table, or what else has its name, by its full name; `oid` is None if there is nothing."""

    schema: str
    name: str
    oid: int | None = None

    @property
    def exists(self) -> bool:
        """Whether it is there; else this is where it would be made."""
        return self.oid is not None

    @property
    def identifier(self) -> sql.Identifier:
        """Its name for a statement."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def find_relation(cursor: Cursor, name: str) -> Relation:
    """Where `name` is, or where it would be made: the first schema of the search_path.

    One that is in another schema of the path alone is used. Temporary relations are passed over.
    Raises DatabaseError if the path has no schema, two other schemas of it have the name, or a
    schema's name has a %.
    """
    cursor.execute(SQL["read_places"], (name,))
    places = [Relation(schema, name, oid) for schema, oid in cursor.fetchall()]
    if not places:
        raise DatabaseError(
            "The search_path of DB_USER names no schema that exists and that it may use. Set it: "
            "ALTER ROLE ... SET search_path = public."
        )
    if odd := [place.schema for place in places if "%" in place.schema]:
        raise DatabaseError(
            f'The schema "{odd[0]}" has a % in its name, which the database driver takes for the '
            "place of a value. Leave it out of the search_path of DB_USER, or rename it."
        )
    there = [place for place in places if place.exists]
    if places[0].exists or not there:
        return places[0]
    if len(there) > 1:
        raise DatabaseError(
            f"{name} is in two schemas of the search_path: "
            f"{' and '.join(place.schema for place in there)}. Name the one that is meant first in "
            "it: ALTER ROLE ... SET search_path = ..."
        )
    logger.info("%s is not in the first schema of the search_path", there[0])
    return there[0]


def only_own_functions(cursor: Cursor) -> AbstractContextManager[None]:
    """A body whose statements find PostgreSQL's own functions alone; tables need their schema."""
    return settings(cursor, search_path="pg_catalog, pg_temp")
