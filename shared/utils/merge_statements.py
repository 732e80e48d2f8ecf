"""The statements of a merge (merge_statements.sql), for tables of any description.

The order in which they run is what resolves unique keys that move (ruling 17): whatever row of the
table holds a unique key that the stage gives to another row lets go of it first. Then neither the
UPDATE nor the INSERT can collide, whatever the pattern (swap, chain, rotation). A holder that is
staged itself is renamed, not deleted: it stays the same row for whoever refers to it.

Of a snapshot the stage is compared with the whole table; else the staged keys alone are looked up,
by the index of the key: 20 rows take no longer into millions than into hundreds.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.models.table import Column, Table
from shared.utils.relations import Relation
from shared.utils.sql import compose, joined, listed, load_sql, settings, temporary

STAGE_NAME = "stock_ingestion_stage"
DELTA_NAME = "stock_ingestion_delta"
SQL = load_sql(__file__)

# Each staged key is looked up in the index. The planner would rather read a whole table of millions
# once than look up a hundred thousand keys, which takes a third of the time.
LOOK_UP_KEYS = {"enable_hashjoin": "off", "enable_mergejoin": "off"}


def planned_for(cursor: Cursor, table: Table) -> AbstractContextManager[None]:
    """A body whose statements look keys up, where `table` is no snapshot."""
    return settings(cursor, **({} if table.is_snapshot else LOOK_UP_KEYS))


@dataclass(frozen=True)
class MergeStatements:
    """Fills the statements in for `table`, which is at `relation`."""

    table: Table
    relation: Relation

    def render(self, name: str) -> sql.Composed:
        """A statement; where the table is no snapshot, its form `..._of_staged` if it has one."""
        other = None if self.table.is_snapshot else SQL.get(f"{name}_of_staged")
        return sql.SQL(other or SQL[name]).format(**self._parts)

    def render_each(self, name: str) -> list[sql.Composed]:
        """The statement for each further unique key of the table: make_way or superseded."""
        return [
            sql.SQL(SQL[name]).format(
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
        now = sql.SQL("%(moment)s")
        values: dict[str, sql.Composable] = {name: listed([f"new_{name}"], "d") for name in names}
        updated = {name: values[name] for name in others}
        if self.table.last_updated:
            updated |= {self.table.last_updated: now}
        # {s_key}: the key's columns of the stage; {t_...}: the table's; the others: the delta's.
        rows = {"s": ("s", ""), "t": ("t", ""), "new": ("d", "new_"), "old": ("d", "old_")}
        columns = {"first": key[:1], "key": key, "others": others}
        return {
            f"{row}_{part}": listed([prefix + name for name in columns[part]], alias)
            for row, (alias, prefix) in rows.items()
            for part in columns
        } | {
            "table": self.relation.identifier,
            "stage": temporary(STAGE_NAME),
            "delta": temporary(DELTA_NAME),
            "last_updated": sql.Identifier(self.table.last_updated),
            "created_at": sql.Identifier(self.table.created_at),
            "definitions": joined(map(_define, self.table.columns)),
            "columns": listed(names),
            "stored_columns": listed([*names, *moments]),
            "stored_values": joined([*values.values(), *[now for _ in moments]]),
            "new_and_old": joined(
                compose("{value} AS {name}", value=listed([name], alias), name=[f"{prefix}_{name}"])
                for alias, prefix in (("s", "new"), ("t", "old"))
                for name in names
            ),
            "same_key": _equal(key, "t", "s"),
            "new_has_key": _equal(key, "t", "d", "new_"),
            "t_texts": joined(compose("{t}::text", t=listed([name], "t")) for name in names),
            "assignments": joined(
                compose("{name} = {value}", name=[each], value=updated[each]) for each in updated
            ),
        }


def _equal(names: Sequence[str], left: str, right: str, prefix: str = "") -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(
            sql.Identifier(left, name), sql.Identifier(right, prefix + name)
        )
        for name in names
    )


def _define(column: Column) -> sql.Composed:
    """A column of the stage, which holds what the table's column holds exactly, and no more.

    A NUMERIC without a scale takes a value as it is; its CHECK refuses what would be rounded later.
    NaN has no scale; NULL has none either, and may pass.
    """
    definition = f"{{name}} {column.sql_type}"
    if column.length is not None:
        definition += f"({column.length})"
    if column.scale is not None:
        fits = f"coalesce(min_scale({{name}}) <= {column.scale}, false)"
        definition += f" CHECK ({{name}} IS NULL OR {fits})"
    return compose(definition, name=[column.name])
