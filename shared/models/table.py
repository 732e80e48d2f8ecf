"""The description of a table that rows are merged into.

A DAG describes its own table with it; how rows are merged is shared (utils/staged_merge.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.models.column import Column

__all__ = ["Column", "Table"]


@dataclass(frozen=True)
class Table:
    """A table with a key, further unique keys, and the two moments that each of its rows carries.

    The first column of each unique key is a text of 36 characters or more: a row that has to let go
    of its key gets a passing value in it.

    `last_updated` names the column that every row of a run gets the run's moment in;
    `created_at` the one that keeps the moment when the key was first stored. A snapshot is always
    given whole; of another table any rows may be given.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    last_updated: str = "last_updated"
    created_at: str = "created_at"
    is_snapshot: bool = True

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the filled columns, in the order in which they are streamed."""
        return tuple(column.name for column in self.columns)
