"""The statements of a merge, for tables of any description.

The order in which they run is what resolves unique keys that move (ruling 17): whatever row of the
table holds a unique key that the stage gives to another row lets go of it first. Then neither the
UPDATE nor the INSERT can collide, whatever the pattern (swap, chain, rotation). A holder that is
staged itself is renamed, not deleted: it stays the same row for whoever refers to it.

Of a snapshot the stage is compared with the whole table; else the staged keys alone are looked up,
by the index of the key: 20 rows take no longer into millions than into hundreds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.models.table import Column, Table
from shared.utils.relations import Relation
from shared.utils.sql import IN_PYTHON_YEARS, settings

STAGE_NAME = "stock_ingestion_stage"
STAGE = sql.Identifier("pg_temp", STAGE_NAME)
DELTA_NAME = "stock_ingestion_delta"
DELTA = sql.Identifier("pg_temp", DELTA_NAME)

# No other session writes the table from here to the end of the transaction; who reads it does not
# wait (ruling 24). It takes no more than the right to update or delete. Not of what is no snapshot:
# VACUUM could never end on a table of millions that is written every minute.
LOCK_TABLE = sql.SQL("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")

# The moment of the newest rows: where it is not known from elsewhere, that of the last list.
NEWEST = sql.SQL(
    f"""\
SELECT max({{last_updated}}) FROM {{table}}
WHERE {{last_updated}} {IN_PYTHON_YEARS}"""
)

# What another transaction of a pooled session left behind, or a merge earlier in this one.
DROP = sql.SQL("DROP TABLE IF EXISTS {stage}, {delta}")

# A NUMERIC without a scale takes a value as it is; its CHECK refuses what would be rounded later.
CREATE_STAGE = sql.SQL("CREATE TEMPORARY TABLE {stage} ({definitions}) ON COMMIT DROP")

COPY_TO_STAGE = sql.SQL("COPY {stage} ({columns}) FROM STDIN WITH (FORMAT text, NULL '')")

# Where the staged rows differ from the table: a row each, new_* as staged, old_* as stored. A key
# that only the table has is among them if it was current: one of the last list's moment; or if
# somebody else has given it another moment since.
CREATE_DELTA = sql.SQL(
    """\
CREATE TEMPORARY TABLE {delta} ON COMMIT DROP AS
SELECT {new_and_old},
       (t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s) IS TRUE AS was_current,
       {was_touched} AS was_touched
FROM {stage} AS s FULL JOIN {table} AS t ON {same_key}
WHERE {t_first} IS NULL
   OR ({s_first} IS NULL
       AND (t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s OR {was_touched}))
   OR ({s_first} IS NOT NULL
       AND ((t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s) IS NOT TRUE
            OR ({s_others}) IS DISTINCT FROM ({t_others})))"""
)
WAS_TOUCHED = sql.SQL(
    "(t.{last_updated} > %(previous)s AND t.{created_at} <= %(previous)s) IS TRUE"
)

# The same of some rows: what is new, and what is stored with other values.
CREATE_DELTA_OF_STAGED = sql.SQL(
    """\
CREATE TEMPORARY TABLE {delta} ON COMMIT DROP AS
SELECT {new_and_old}, {t_first} IS NOT NULL AS was_current, false AS was_touched
FROM {stage} AS s LEFT JOIN {table} AS t ON {same_key}
WHERE {is_off}"""
)
IS_OFF = sql.SQL("{t_first} IS NULL OR ({s_others}) IS DISTINCT FROM ({t_others})")

# Each staged key is looked up in the index. The planner would rather read a whole table of millions
# once than look up a hundred thousand keys, which takes a third of the time.
LOOK_UP_KEYS = {"enable_hashjoin": "off", "enable_mergejoin": "off"}

ANALYZE_DELTA = sql.SQL("ANALYZE {delta}")

# How many keys are new, and of how many the values differ.
COUNT_DELTA = sql.SQL(
    """\
SELECT count(*) FILTER (WHERE {old_first} IS NULL),
       count(*) FILTER (WHERE {old_first} IS NOT NULL AND {new_first} IS NOT NULL
                        AND ({new_others}) IS DISTINCT FROM ({old_others}))
FROM {delta} AS d"""
)

# The stored rows that hold a unique key which the stage gives to another row. One that is staged
# itself is in the delta, since its own unique key must be another one now.
_HOLDERS = """\
WITH holder AS (
    SELECT {t_key}, EXISTS (SELECT FROM {delta} AS d WHERE {new_has_key}) AS is_staged
    FROM {table} AS t JOIN {delta} AS d ON {new_has_unique}
    WHERE NOT ({new_has_key})
)"""

# A row may be superseded for several of its unique keys: UNION counts it once.
SUPERSEDED = sql.SQL(
    """\
SELECT {t_key} FROM {table} AS t JOIN {delta} AS d ON {new_has_unique}
WHERE NOT EXISTS (SELECT FROM {delta} AS d WHERE {new_has_key})"""
)
COUNT_SUPERSEDED = sql.SQL("SELECT count(*) FROM ({superseded}) AS superseded")

# The holders let go. Those that are not staged are removed (superseded); the others take a name
# that no row has, until the UPDATE.
MAKE_WAY = sql.SQL(
    _HOLDERS
    + """, removed AS (
    DELETE FROM {table} AS t USING holder AS s
    WHERE {same_key} AND NOT s.is_staged
    RETURNING 1
), renamed AS (
    UPDATE {table} AS t SET {name} = pg_catalog.concat(
        pg_catalog.chr(1), pg_catalog.left(pg_catalog.md5(pg_catalog.random()::text), 16), t.ctid)
    FROM holder AS s
    WHERE {same_key} AND s.is_staged
    RETURNING 1
)
SELECT (SELECT count(*) FROM removed), (SELECT count(*) FROM renamed)"""
)

# The current rows that the delta has not are staged as they are: only their moment is new. (One
# UPDATE from the stage would join all rows once more: 0.32 s for 118,000, against 0.19 s.)
# NOT ... ANY, since its subquery is hashed whatever the planner expects. It expects hardly any row
# of the previous moment where the table was not analysed since, and would go through the delta once
# for each of them (30 s, with NOT EXISTS).
TOUCH = sql.SQL(
    """\
UPDATE {table} AS t SET {last_updated} = %(moment)s
WHERE t.{last_updated} OPERATOR(pg_catalog.=) %(previous)s
  AND NOT ({t_key}) OPERATOR(pg_catalog.=) ANY (
      SELECT {old_key} FROM {delta} AS d WHERE {old_first} IS NOT NULL)"""
)

UPDATE = sql.SQL(
    """\
UPDATE {table} AS t SET {assignments}
FROM {delta} AS d WHERE {old_first} IS NOT NULL AND {new_has_key}"""
)

INSERT = sql.SQL(
    """\
INSERT INTO {table} ({stored_columns})
SELECT {stored_values} FROM {delta} AS d
WHERE {old_first} IS NULL"""
)

# The proof (ruling 29): how many rows have the run's moment, how many a later one, and how many
# that the run has changed or inserted are not as they are staged.
COUNT_STORED = sql.SQL(
    """\
SELECT at_moment, later,
       (SELECT count(*) FROM {delta} AS d
        WHERE {new_first} IS NOT NULL AND NOT EXISTS (
            SELECT FROM {table} AS t WHERE {new_has_key} AND t.{last_updated} = %(moment)s
            AND ({t_others}) IS NOT DISTINCT FROM ({new_others})))
FROM (SELECT count(*) FILTER (WHERE t.{last_updated} = %(moment)s) AS at_moment,
             count(*) FILTER (WHERE t.{last_updated} > %(moment)s) AS later
      FROM {table} AS t WHERE t.{last_updated} >= %(moment)s) AS counted"""
)
# And all rows that have it, as PostgreSQL writes them: they are compared with what was sent. (The
# stage may be spoilt, too.)
READ_BACK = sql.SQL("SELECT {t_texts} FROM {table} AS t WHERE t.{last_updated} = %(moment)s")

# The same where the staged keys are all that is looked at.
COUNT_STAGED = sql.SQL(
    """\
SELECT count({t_first}), 0, count(*) FILTER (WHERE {is_off})
FROM {stage} AS s LEFT JOIN {table} AS t ON {same_key}"""
)
READ_BACK_STAGED = sql.SQL("SELECT {t_texts} FROM {stage} AS s JOIN {table} AS t ON {same_key}")

# After an answer to COMMIT that was lost.
IS_STORED = sql.SQL(
    """\
SELECT EXISTS (SELECT FROM {table} AS t WHERE t.{last_updated} OPERATOR(pg_catalog.=) %(moment)s)"""
)


def planned_for(cursor: Cursor, table: Table) -> AbstractContextManager[None]:
    """A body whose statements look keys up, where `table` is no snapshot."""
    return settings(cursor, **({} if table.is_snapshot else LOOK_UP_KEYS))


@dataclass(frozen=True)
class MergeStatements:
    """Fills the statements in for `table`, which is at `relation`."""

    table: Table
    relation: Relation

    def render(self, statement: sql.SQL, other: sql.SQL | None = None) -> sql.Composed:
        """One of the statements above; `other`, if given, where the table is no snapshot."""
        if other is not None and not self.table.is_snapshot:
            statement = other
        return statement.format(**self._parts)

    def render_each(self, statement: sql.SQL) -> list[sql.Composed]:
        """The statement for each further unique key of the table: MAKE_WAY or SUPERSEDED."""
        return [
            statement.format(
                **self._parts,
                new_has_unique=_equal(unique, "t", "d", "new_"),
                name=sql.Identifier(unique[0]),
            )
            for unique in self.table.unique
        ]

    @cached_property
    def _parts(self) -> dict[str, sql.Composable]:
        key, names, moments = self.table.key, self.table.column_names, self.table.moments
        # Rows that are all key have nothing else to compare.
        others = [name for name in names if name not in key] or list(names)
        news = [f"new_{name}" for name in names]
        last_updated, now = sql.Identifier(self.table.last_updated), sql.SQL("%(moment)s")
        parts: dict[str, sql.Composable] = {
            "table": self.relation.identifier,
            "stage": STAGE,
            "delta": DELTA,
            "columns": _listed(names),
            "stored_columns": _listed([*names, *moments]),
            "stored_values": _joined([_listed(news, "d"), *[now for _ in moments]]),
            "new_and_old": _joined(
                sql.SQL("{} AS {}").format(
                    sql.Identifier(alias, name), sql.Identifier(f"{prefix}_{name}")
                )
                for alias, prefix in (("s", "new"), ("t", "old"))
                for name in names
            ),
            "s_first": sql.Identifier("s", key[0]),
            "t_first": sql.Identifier("t", key[0]),
            "old_first": sql.Identifier("d", f"old_{key[0]}"),
            "new_first": sql.Identifier("d", f"new_{key[0]}"),
            "s_others": _listed(others, "s"),
            "t_others": _listed(others, "t"),
            "new_others": _listed([f"new_{name}" for name in others], "d"),
            "old_others": _listed([f"old_{name}" for name in others], "d"),
            "t_key": _listed(key, "t"),
            "old_key": _listed([f"old_{name}" for name in key], "d"),
            "same_key": _equal(key, "t", "s"),
            "new_has_key": _equal(key, "t", "d", "new_"),
            "t_texts": _joined(
                sql.SQL("{}::text").format(sql.Identifier("t", name)) for name in names
            ),
            "last_updated": last_updated,
            "created_at": sql.Identifier(self.table.created_at),
            "definitions": _joined(map(_definition, self.table.columns)),
            "assignments": _joined(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier("d", f"new_{name}"))
                for name in others
            ),
        }
        if self.table.last_updated:
            parts["assignments"] += sql.SQL(", {} = {}").format(last_updated, now)
        parts["was_touched"] = WAS_TOUCHED.format(**parts)
        parts["is_off"] = IS_OFF.format(**parts)
        return parts


def _joined(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _listed(names: Sequence[str], alias: str | None = None) -> sql.Composed:
    qualifier = (alias,) if alias else ()
    return _joined(sql.Identifier(*qualifier, name) for name in names)


def _equal(names: Sequence[str], left: str, right: str, prefix: str = "") -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(
            sql.Identifier(left, name), sql.Identifier(right, prefix + name)
        )
        for name in names
    )


def _definition(column: Column) -> sql.Composed:
    name = sql.Identifier(column.name)
    sql_type = sql.Composed([sql.SQL(column.sql_type)])
    if column.length is not None:
        sql_type += sql.SQL("({})").format(sql.Literal(column.length))
    if column.scale is not None:
        # NaN has no scale; NULL has none either, and may pass.
        sql_type += sql.SQL(
            " CHECK ({0} IS NULL OR coalesce(min_scale({0}) <= {1}, false))"
        ).format(name, sql.Literal(column.scale))
    return sql.SQL("{} {}").format(name, sql_type)
