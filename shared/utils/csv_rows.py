"""A list as CSV: bytes to typed rows and rejects, by a table's columns; pure.

Columns are found by their names in the header, in any order. One line is one row, so that a stray
quote harms its own line alone. Numbers are exact, a blank field is None. Spaces right after a comma
are formatting; a quoted field keeps its own.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import make_dataclass
from functools import lru_cache, partial
from itertools import chain, count, islice
from typing import Any

from shared.exceptions import APIError, TransientAPIError, ValidationError
from shared.feed import Batch, RejectedRow
from shared.foreign_text import shorten
from shared.models.column import Column, ColumnCheck, to_text

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# What a body is taken for, how it begins, and the way out.
_OTHER_KINDS = (
    ("JSON", rb"[{\[]", "save what the source gives, as it comes"),
    ("UTF-32 text", rb"\xff\xfe\0\0|\0\0\xfe\xff", "save it as UTF-8"),
    (
        "UTF-16 text",
        rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]",
        "save it as UTF-8 (iconv -f UTF-16 -t UTF-8; -f UTF-16LE where it has no mark)",
    ),
    (
        "an Excel workbook",
        rb"(?s)PK\x03\x04.{0,2000}(\[Content_Types\]\.xml|xl/)|\xd0\xcf\x11\xe0",
        "save its sheet as CSV in UTF-8; Excel may have changed numbers and dates in it",
    ),
    ("a zip archive", rb"PK\x03\x04", "unpack it first (unzip)"),
    ("gzip within gzip", rb"\x1f\x8b", "unpack it once (gunzip)"),
    ("bzip2", rb"BZh[1-9]", "unpack it first (bunzip2)"),
    ("xz", rb"\xfd7zXZ\0", "unpack it first (unxz)"),
    ("Zstandard", rb"\x28\xb5\x2f\xfd", "unpack it first (unzstd)"),
)
_START_BYTES = 4096  # of a body, to tell its kind by
_LINES_AT_ONCE = 50  # few enough for what is read of them to stay in the processor's cache
_LONGEST_LINE = 64_000  # characters, its end among them
_SHOWN_OF_LONG_LINE = 200
_MOST_REMEMBERED = 100_000  # distinct texts of a column


def parse_csv(
    body: bytes,
    columns: Sequence[Column],
    *,
    is_whole: bool = True,
    title: str = "the list",
    key: Sequence[str] = (),
    is_checked: bool = True,
    header: str = "",
    mend: Callable[[str], str] | None = None,
) -> Batch:
    """Read a list whose header names `columns`. `is_whole` says that the body's end was seen.

    Returns rows as dicts with a value for each column and `line_number`. A bad row is rejected by
    itself (ruling 15): a wrong number of fields, a value that its column cannot hold, not UTF-8, a
    stray quote. With `is_checked=False` it is left to the caller whether values fit. `title` is
    what messages call the list; `key` names the columns whose texts are a rejected row's key.
    `header` is the header of a list that comes without one. `mend` makes each line one of UTF-8 and
    CSV; bytes that are not UTF-8 are lone surrogates in what it gets (PEP 383).
    Raises TransientAPIError if the body is empty, an HTML page, or ends within a row (a download
    that was cut short), APIError if it is another kind of file or lacks a column.
    """
    text = io.TextIOWrapper(
        io.BytesIO(body), encoding="utf-8-sig", errors="surrogateescape", newline=""
    )
    lines: Iterator[str] = _cut_lines(text) if _has_long_line(body) else text
    if mend is not None:
        lines = map(mend, lines)
    if header:
        lines = chain([header], lines)
    names, number = _read_header(body, lines, columns, title)
    number -= bool(header)
    reader = _RowReader(columns, names, key, is_checked)
    batch = Batch([])
    while part := list(islice(lines, _LINES_AT_ONCE)):
        try:
            batch.rows.extend(reader.read(part, number + 1))
        except (ValueError, ValidationError):  # at least one of them is bad
            reader.read_one_by_one(part, number + 1, batch)
        number += len(part)
    if not body.endswith((b"\n", b"\r")):
        _check_last_row(batch, reader.last_column, is_whole, title)
    return batch


def _make_converter(column: Column) -> Callable[[Sequence[str]], Iterable[Any]]:
    """What reads many fields of a column at once: that is faster than one by one."""
    if not column.is_distinct:  # a list repeats few values many times
        return partial(map, lru_cache(_MOST_REMEMBERED)(column.read))
    if column.reader is None and column.python_type is int:
        return partial(_read_integers, column)
    if column.reader is None and column.python_type is str:
        return _read_texts
    return partial(map, column.read)


def _read_integers(column: Column, fields: Sequence[str]) -> Iterable[int | None]:
    """`Column.read` for each field, without its call where all are plain digits."""
    digits = "".join(fields)
    if digits.isdecimal() and digits.isascii() and all(fields) and max(map(len, fields)) < 20:
        return map(int, fields)
    return map(column.read, fields)


def _read_texts(fields: Sequence[str]) -> Iterable[str | None]:
    """`to_text` for each field, without its call where none is blank."""
    return fields if all(map(str.strip, fields)) else map(to_text, fields)


@lru_cache
def _row_class(names: tuple[str, ...]) -> type:
    """A class of rows with these attributes. `vars()` of one is the row's dict.

    Dicts of one class share their keys (PEP 412): 24 MB less for 118,000 rows of eleven columns.
    """
    return make_dataclass("Row", names, eq=False, repr=False)


class _RowReader:
    """Reads lines as rows, a whole column at a time, which is faster than field by field."""

    def __init__(
        self, columns: Sequence[Column], header: Sequence[str], key: Sequence[str], is_checked: bool
    ) -> None:
        places = {column.name: header.index(_written_name(column)) for column in columns}
        names = {place: name for name, place in places.items()}
        self.last_column = names.get(len(header) - 1)  # where a line that is cut off is seen
        self._converters = [(places[column.name], _make_converter(column)) for column in columns]
        self._checks = [ColumnCheck(column) for column in columns] if is_checked else []
        self._columns = columns
        self._key = [places[name] for name in key]
        self._width = len(header)
        self._make_row = _row_class((*places, "line_number"))

    def read(self, lines: Sequence[str], first_number: int) -> list[dict[str, Any]]:
        """The rows of these lines. Raises ValueError or ValidationError if one of them is bad."""
        if max(map(len, lines)) > _LONGEST_LINE:
            raise ValueError(f"longer than {_LONGEST_LINE:,} characters")
        records = _split(lines)
        if bad_widths := set(map(len, records)) - {self._width}:
            raise ValueError(f"expected {self._width} columns, got {min(bad_widths)}")
        text = "".join(lines)
        if not text.isascii() and _LONE_SURROGATE.search(text):
            raise ValueError("not UTF-8")
        fields = list(zip(*records))
        values: Sequence[Any] = [convert(fields[place]) for place, convert in self._converters]
        if self._checks:
            values = [list(found) for found in values]
            for column, check, found in zip(self._columns, self._checks, values):
                if not check.passes(found):
                    for value in found:
                        column.check(value)
        return list(map(vars, map(self._make_row, *values, count(first_number))))

    def read_one_by_one(self, lines: Sequence[str], first_number: int, batch: Batch) -> None:
        """Add each of these lines to the batch, as a row or as a reject; skip the empty ones."""
        for number, line in enumerate(lines, first_number):
            if not line.strip("\r\n"):
                continue
            try:
                batch.rows.extend(self.read([line], number))
            except (ValueError, ValidationError) as exc:
                batch.rejected.append(self._reject(line, number, str(exc)))

    def _reject(self, line: str, number: int, reason: str) -> RejectedRow:
        """The line as a rejected row; of one that is too long only the beginning is kept."""
        if len(line) > _LONGEST_LINE:
            return RejectedRow(number, reason, _readable([f"{line[:_SHOWN_OF_LONG_LINE]}..."]))
        try:
            (fields,) = map(_readable, _split([line]))
        except ValueError:
            return RejectedRow(number, reason, _readable([line.rstrip("\r\n")]))
        has_key = len(fields) == self._width and self._key
        key = tuple(fields[place] for place in self._key) if has_key else None
        return RejectedRow(number, reason, fields, key)


def _has_long_line(body: bytes) -> bool:
    """Whether a line may be too long, found by jumps from line end to line end."""
    start = 0
    while start + _LONGEST_LINE < len(body):
        window = (start, start + _LONGEST_LINE)
        end = max(body.rfind(b"\n", *window), body.rfind(b"\r", *window))
        if end < start:
            return True
        start = end + 1
    return False


def _cut_lines(text: io.TextIOWrapper) -> Iterator[str]:
    """The lines; of one that is too long, as much as shows it."""
    while line := text.readline(_LONGEST_LINE + 1):
        rest = line
        while len(rest) > _LONGEST_LINE and not rest.endswith(("\n", "\r")):
            rest = text.readline(_LONGEST_LINE + 1)
        yield line


def _split(lines: Sequence[str]) -> list[list[str]]:
    """The fields of each line. Raises ValueError if a line cannot be told from the next."""
    try:
        records = list(csv.reader(lines, skipinitialspace=True, strict=True))
    except csv.Error as exc:
        is_open = str(exc) == "unexpected end of data"
        reason = "a quote is not closed on its line" if is_open else str(exc)
        raise ValueError(f"not readable as CSV: {reason}") from None
    if len(records) != len(lines):
        raise ValueError("not readable as CSV: a quote is not closed on its line")
    return records


def _readable(fields: Sequence[str]) -> list[str]:
    """The fields with a mark in place of each byte that is not UTF-8."""
    return [_LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", field) for field in fields]


def _written_name(column: Column) -> str:
    """The column's name in a header, in lower case."""
    return (column.header or column.name).lower()


def _read_header(
    body: bytes, lines: Iterator[str], columns: Sequence[Column], title: str
) -> tuple[list[str], int]:
    """The names in the header, in lower case, and its line's number. Raises as `parse_csv` does."""
    filled = ((line, number) for number, line in enumerate(lines, 1) if line.strip("\r\n"))
    first, number = next(filled, ("", 0))
    capital = title[:1].upper() + title[1:]
    if not first:
        raise TransientAPIError(f"{capital} is empty: no header, no rows.")
    start = body[:_START_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"<":
        raise TransientAPIError(f"Expected {title} as CSV, got an HTML page.")
    for kind, pattern, way_out in _OTHER_KINDS:
        if re.match(pattern, start):
            raise APIError(f"This is {kind}, not {title} as CSV: {way_out}.")
    try:
        (fields,) = _split([first])
    except ValueError:
        fields = _readable([first])
    header = [field.strip().lower() for field in fields]
    wanted = [_written_name(column) for column in columns]
    missing = ", ".join(name for name in wanted if name not in header)
    if missing and not body.rstrip(b" ").endswith((b"\n", b"\r")) and next(filled, None) is None:
        raise TransientAPIError(f"{capital} was cut short within its header.")
    twice = ", ".join(sorted({name for name in wanted if header.count(name) > 1}))
    if missing or twice:
        fault = f"lacks the column {missing}" if missing else f"has the column {twice} twice"
        raise APIError(
            f"This is not {title}: its header {fault}. Expected the columns {', '.join(wanted)}; "
            f"got {shorten(','.join(header), 200)}."
        )
    return header, number


def _check_last_row(batch: Batch, last_column: str | None, is_whole: bool, title: str) -> None:
    """Raise TransientAPIError if the last line, which has no end, is cut off (ruling 15).

    NSE may be what is left of NSEIX: unless the body is known to be whole, a line must have an end.
    """
    good = batch.rows[-1]["line_number"] if batch.rows else 0
    bad = (batch.rejected[-1].line_number or 0) if batch.rejected else 0
    if bad > good or (good and not (is_whole and _ends_as_others(batch.rows, last_column))):
        raise TransientAPIError(
            f"{title[:1].upper()}{title[1:]} was cut short: line {max(good, bad)} ends early (if "
            "the list is whole, give its last line an end)."
        )


def _ends_as_others(rows: Sequence[Mapping[str, Any]], column: str | None) -> bool:
    """Whether the last row's value can be a whole one: not the beginning of others alone."""
    if column is None:
        return True
    *others, last = ("" if row[column] is None else str(row[column]) for row in rows)
    return last in others or not (last == "" or any(other.startswith(last) for other in others))
