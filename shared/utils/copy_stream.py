"""Rows to the server by COPY, a batch at a time, in its text format."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from shared.exceptions import DatabaseError
from shared.models.column import Column

_RENDERED_AT_ONCE = 200  # rows: few enough for their texts to stay in the processor's cache

# What would end a field or a line of COPY's text format, or begin an escape there.
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def copy_rows(
    cursor: Cursor,
    statement: sql.Composed,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Send the `columns` of the rows with `statement`: COPY ... FROM STDIN (FORMAT text, NULL '').

    After each `batch_size` rows `progress` is called with the rows sent and the rows in all.
    Raises DatabaseError if a row lacks a column, or a text is not Unicode, or too long by blanks.
    """

    def render_batches() -> Iterator[bytes]:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            yield _render_batch(batch, columns)
            if progress is not None:
                progress(start + len(batch), len(rows))

    stream = _Stream(render_batches())
    try:
        cursor.copy_expert(statement, stream)  # type: ignore[arg-type]  # only read() is called
    except Exception as exc:
        if stream.error is not None:  # psycopg2 reports it as a cancelled query
            raise stream.error from exc
        raise


class _Stream:
    """Batches as a file that psycopg2 reads."""

    def __init__(self, batches: Iterator[bytes]) -> None:
        self._batches = batches
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """The next batch, whatever its size; psycopg2 sends what it gets. Empty at the end."""
        try:
            return next(self._batches, b"")
        except Exception as exc:
            self.error = exc
            raise


def _render_batch(batch: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> bytes:
    names = [column.name for column in columns]
    values_of = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
    try:
        return b"".join(
            _render(list(map(values_of, batch[piece : piece + _RENDERED_AT_ONCE])), columns)
            for piece in range(0, len(batch), _RENDERED_AT_ONCE)
        )
    except KeyError as exc:
        raise DatabaseError(f"A row lacks the column {exc}; nothing was stored.") from exc
    except UnicodeEncodeError as exc:
        message = f"A text is not Unicode ({exc.reason}); nothing was stored."
        raise DatabaseError(message) from exc


def _render(batch: Sequence[tuple[Any, ...]], columns: Sequence[Column]) -> bytes:
    """The rows of values in COPY's text format; None is an empty field."""
    text = _join(batch, str)
    if " \t" in text or " \n" in text:
        _refuse_blanks(batch, columns)
    # Hardly any text has to be escaped: counting tells that none has.
    is_plain = (
        text.count("\n") == len(batch)
        and text.count("\t") == len(batch) * (len(batch[0]) - 1)
        and "\\" not in text
        and "\r" not in text
    )
    if not is_plain:
        text = _join(batch, lambda value: str(value).translate(_ESCAPES))
    return text.encode("utf-8")


def _refuse_blanks(batch: Sequence[tuple[Any, ...]], columns: Sequence[Column]) -> None:
    """Raise DatabaseError for blanks that have no room: PostgreSQL cuts them off, in silence."""
    for column, values in zip(columns, zip(*batch)):
        if column.length is not None and any(
            len(text) > column.length and text.endswith(" ") for text in map(str, values)
        ):
            raise DatabaseError(
                f"A text is too long for its column {column.name}; nothing was stored."
            )


def _join(batch: Sequence[tuple[Any, ...]], to_text: Callable[[Any], str]) -> str:
    columns = [
        ["" if value is None else to_text(value) for value in column] for column in zip(*batch)
    ]
    return "\n".join(map("\t".join, zip(*columns))) + "\n"
