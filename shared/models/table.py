"""The description of a table that rows are merged into."""

from dataclasses import dataclass

from shared.models.column import Column

__all__ = ["Column", "Table"]


@dataclass(frozen=True)
class Table:
    """A table with a key, further unique keys, and the two moments that each of its rows carries.

    `last_updated` names the column for the moment of the run that wrote the row, `created_at` the
    one for the moment when its key was first stored.

    A run of a snapshot (`is_snapshot`) has all rows that there are now. Otherwise a run has some of
    them: the others are left alone, a row that is stored already is not written again, and either
    moment may be left out (""). `fillfactor` is that of schema.sql, in percent.

    Raises ValueError if a key has an unknown column, `key` a nullable one (such a row is not found
    again), a snapshot lacks a moment, a unique key does not begin with a text of 36 characters or
    more, for a placeholder to fit in, or a column of a later version is not nullable, as the rows
    before it have no value.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    last_updated: str = "last_updated"
    created_at: str = "created_at"
    is_snapshot: bool = True
    fillfactor: int | None = None

    def __post_init__(self) -> None:
        by_name = {column.name: column for column in self.columns}
        wrong = [name for key in (self.key, *self.unique) for name in key if name not in by_name]
        if wrong:
            known = ", ".join(by_name)
            raise ValueError(f"{self.name}: expected keys of its columns ({known}), got {wrong[0]}")
        if nullable := [name for name in self.key if by_name[name].nullable]:
            raise ValueError(f"{self.name}: expected a key without NULL, got {nullable[0]}")
        for first in (by_name[key[0]] for key in self.unique):
            if first.sql_type not in ("text", "varchar") or (first.length or 36) < 36:
                raise ValueError(
                    f"{self.name}: expected a unique key that begins with a text of 36 characters "
                    f"or more, got {first.name}"
                )
        if wrong := [c.name for c in self.columns if c.since > 1 and not c.nullable]:
            raise ValueError(f"{self.name}: expected a later column to be nullable, got {wrong[0]}")
        if self.is_snapshot and not (self.last_updated and self.created_at):
            raise ValueError(
                f"{self.name}: expected a snapshot to have last_updated and created_at"
            )

    @property
    def version(self) -> int:
        """That of its newest columns."""
        return max((column.since for column in self.columns), default=1)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the filled columns, in the order in which they are streamed."""
        return tuple(column.name for column in self.columns)

    @property
    def moments(self) -> tuple[str, ...]:
        """The columns that a new row gets the run's moment in."""
        return tuple(filter(None, (self.last_updated, self.created_at)))
