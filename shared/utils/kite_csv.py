"""Kite's instrument dump: bytes to typed rows and rejects; pure.

Columns are found by their names in the header. One line is one row, so that a stray quote harms
its own line alone. Money becomes Decimal and expiry a date, straight from the text. A blank field
becomes None. Spaces right after a comma are formatting (Zerodha's own example has them); a quoted
field keeps its own.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import count, islice
from typing import Any, NamedTuple, NoReturn

from shared.exceptions import APIError, TransientAPIError
from shared.feed import Batch, RejectedRow
from shared.foreign_text import shorten

REQUIRED_COLUMNS = (
    "instrument_token",
    "exchange",
    "tradingsymbol",
    "exchange_token",
    "instrument_type",
    "name",
    "segment",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
)

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# What a list is taken for, how it begins, and the way out.
_START_BYTES = 4096
_OTHER_KINDS = tuple(
    (kind, re.compile(pattern, re.DOTALL), way_out)
    for kind, pattern, way_out in (
        ("JSON", rb"[{\[]", "save what Kite's /instruments gives, as it comes"),
        ("UTF-32 text", rb"\xff\xfe\0\0|\0\0\xfe\xff", "save it as UTF-8"),
        (
            "UTF-16 text",
            rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]",
            "save it as UTF-8 (iconv -f UTF-16 -t UTF-8; -f UTF-16LE where it has no mark)",
        ),
        (
            "an Excel workbook",
            rb"PK\x03\x04.{0,2000}(\[Content_Types\]\.xml|xl/)|\xd0\xcf\x11\xe0",
            "save its sheet as CSV in UTF-8; Excel may have changed numbers and dates in it",
        ),
        ("a zip archive", rb"PK\x03\x04", "unpack it first (unzip)"),
        ("gzip within gzip", rb"\x1f\x8b", "unpack it once (gunzip)"),
        ("bzip2", rb"BZh[1-9]", "unpack it first (bunzip2)"),
        ("xz", rb"\xfd7zXZ\0", "unpack it first (unxz)"),
        ("Zstandard", rb"\x28\xb5\x2f\xfd", "unpack it first (unzstd)"),
    )
)
_LINES_AT_ONCE = 50  # few enough for what is read of them to stay in the processor's cache
_LONGEST_LINE = 64_000  # characters, its end among them; a real line has about 80
_SHOWN_OF_LONG_LINE = 200
_INTEGER_DIGITS = 4000  # int() refuses longer texts with a message about interpreter settings


class WrittenKey(NamedTuple):
    """What a row is known by, as it is written."""

    token: str
    exchange: str
    symbol: str


def to_text(text: str) -> str | None:
    """The text as it is, or None if it is blank."""
    return text if text.strip() else None


def to_integer(text: str) -> int | None:
    """The whole number in `text`, or None if it is blank. Raises ValueError for anything else."""
    stripped = text.strip(" ")
    if not stripped:
        return None
    if not _INTEGER.fullmatch(stripped) or len(stripped) > _INTEGER_DIGITS:
        raise ValueError("expected a whole number")
    return int(stripped)


def to_decimal(text: str) -> Decimal | None:
    """The exact number in `text`, or None if it is blank. Raises ValueError for anything else."""
    stripped = text.strip(" ")
    if not stripped:
        return None
    if not _DECIMAL.fullmatch(stripped):
        raise ValueError("expected a decimal number")
    try:
        return Decimal(stripped)
    except InvalidOperation as exc:  # pragma: no cover - the pattern admits no such text
        raise ValueError("expected a decimal number") from exc


def to_date(text: str) -> date | None:
    """The date in `text` (YYYY-MM-DD), or None if it is blank. Raises ValueError otherwise."""
    stripped = text.strip(" ")
    if not stripped:
        return None
    if not _ISO_DATE.fullmatch(stripped):
        raise ValueError("expected a date as YYYY-MM-DD")
    try:
        return date.fromisoformat(stripped)
    except ValueError as exc:
        raise ValueError("expected a date that exists") from exc


class _Conversions(dict[str, Any]):
    """Text to value, each distinct text converted once: a dump repeats few values many times."""

    def __init__(self, column: str, convert: Callable[[str], Any]) -> None:
        super().__init__()
        self._column = column
        self._convert = convert

    def __missing__(self, text: str) -> Any:
        try:
            value = self[text] = self._convert(text)
        except ValueError as exc:
            raise ValueError(f"{self._column}: {exc}, got {shorten(text)}") from None
        return value


class _Row:
    """The values of one row. `vars()` of it is the row's dict.

    The dicts of one class share their keys (PEP 412): 264 bytes each instead of 464, which is
    24 MB less for a dump of 118,000 rows.
    """

    def __init__(
        self,
        instrument_token: int | None,
        exchange: str | None,
        tradingsymbol: str | None,
        exchange_token: str | None,
        instrument_type: str | None,
        name: str | None,
        segment: str | None,
        expiry: date | None,
        strike: Decimal | None,
        tick_size: Decimal | None,
        lot_size: int | None,
        line_number: int,
    ) -> None:
        self.instrument_token = instrument_token
        self.exchange = exchange
        self.tradingsymbol = tradingsymbol
        self.exchange_token = exchange_token
        self.instrument_type = instrument_type
        self.name = name
        self.segment = segment
        self.expiry = expiry
        self.strike = strike
        self.tick_size = tick_size
        self.lot_size = lot_size
        self.line_number = line_number


class _RowReader:
    """Reads lines as rows, a whole column at a time: that is faster than field by field."""

    def __init__(self, header: Sequence[str], is_utf8: bool) -> None:
        texts = partial(map, _Conversions("text", to_text).__getitem__)
        converters: Mapping[str, Callable[[Sequence[str]], Iterable[Any]]] = {
            "instrument_token": _to_integers,
            "exchange": texts,
            "tradingsymbol": _to_texts,
            "exchange_token": _to_texts,
            "instrument_type": texts,
            "name": texts,
            "segment": texts,
            "expiry": partial(map, _Conversions("expiry", to_date).__getitem__),
            "strike": partial(map, _Conversions("strike", to_decimal).__getitem__),
            "tick_size": partial(map, _Conversions("tick_size", to_decimal).__getitem__),
            "lot_size": partial(map, _Conversions("lot_size", to_integer).__getitem__),
        }
        self._converters = [
            (header.index(column), converters[column]) for column in REQUIRED_COLUMNS
        ]
        self._key = [
            header.index(name) for name in ("instrument_token", "exchange", "tradingsymbol")
        ]
        self._width = len(header)
        self._is_utf8 = is_utf8

    def read(self, lines: Sequence[str], first_number: int) -> list[dict[str, Any]]:
        """The rows of these lines. Raises ValueError if one of them is no good row."""
        if max(map(len, lines)) > _LONGEST_LINE:
            raise ValueError(f"longer than {_LONGEST_LINE:,} characters")
        records = _split(lines)
        if bad_widths := set(map(len, records)) - {self._width}:
            raise ValueError(f"expected {self._width} columns, got {min(bad_widths)}")
        if not self._is_utf8 and _LONE_SURROGATE.search("".join(lines)):
            raise ValueError("not UTF-8")
        columns = list(zip(*records))
        values = [convert(columns[position]) for position, convert in self._converters]
        return list(map(vars, map(_Row, *values, count(first_number))))

    def reject(self, line: str, number: int, reason: str) -> RejectedRow:
        """The line as a rejected row; of one that is too long only the beginning is kept."""
        if len(line) > _LONGEST_LINE:
            return RejectedRow(number, reason, _readable([f"{line[:_SHOWN_OF_LONG_LINE]}..."]))
        try:
            (fields,) = map(_readable, _split([line]))
        except ValueError:
            return RejectedRow(number, reason, _readable([line.rstrip("\r\n")]))
        has_columns = len(fields) == self._width
        key = WrittenKey(*(fields[place] for place in self._key)) if has_columns else None
        return RejectedRow(number, reason, fields, key)


def _to_integers(column: Sequence[str]) -> Iterable[int | None]:
    """`to_integer` for each text, without its call where all are plain digits."""
    digits = "".join(column)
    if digits.isdecimal() and digits.isascii() and all(column) and max(map(len, column)) < 20:
        return map(int, column)
    return map(_Conversions("instrument_token", to_integer).__getitem__, column)


def _to_texts(column: Sequence[str]) -> Iterable[str | None]:
    """`to_text` for each text, without its call where none is blank."""
    return column if all(map(str.strip, column)) else map(to_text, column)


def parse_dump(body: bytes, *, is_whole: bool = True) -> Batch:
    """Read an instrument dump. `is_whole` says that its end was seen, by those who have it.

    Returns rows as dicts with the eleven columns that are stored and `line_number`. A bad row is
    rejected by itself (ruling 15): wrong number of columns, a number or date that is none, not
    UTF-8, a stray quote.

    Raises TransientAPIError if the body is empty, an HTML page, or ends within a row (a download
    that was cut short), APIError if it is no instrument list at all.
    """
    lines = _read_lines(body)
    header, number = _read_header(body, lines)
    reader = _RowReader(header, _is_utf8(body))
    dump = Batch([])
    while batch := list(islice(lines, _LINES_AT_ONCE)):
        try:
            dump.rows.extend(reader.read(batch, number + 1))
        except ValueError:
            _read_one_by_one(reader, batch, number + 1, dump)
        number += len(batch)
    _check_last_row(body, dump, header, is_whole)
    return dump


def _read_lines(body: bytes) -> Iterator[str]:
    """The lines with their ends: LF, CRLF or CR. Too long a line is cut, and is still too long."""
    text = io.TextIOWrapper(
        io.BytesIO(body), encoding="utf-8-sig", errors="surrogateescape", newline=""
    )
    return _cut_lines(text) if _has_long_line(body) else text


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
    while line := text.readline(_LONGEST_LINE + 1):
        rest = line
        while len(rest) > _LONGEST_LINE and not rest.endswith(("\n", "\r")):
            rest = text.readline(_LONGEST_LINE + 1)
        yield line


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


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


def _read_header(body: bytes, lines: Iterator[str]) -> tuple[list[str], int]:
    """The names of the columns, and the number of the line that has them.

    Raises as `parse_dump` says if this is no instrument list.
    """
    filled = ((line, number) for number, line in enumerate(lines, 1) if line.strip("\r\n"))
    first, number = next(filled, ("", 0))
    if not first:
        raise TransientAPIError("The instrument list is empty: no header, no rows.")
    start = body[:_START_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"<":
        raise TransientAPIError("Expected the instrument list as CSV, got an HTML page.")
    for kind, pattern, way_out in _OTHER_KINDS:
        if pattern.match(start):
            raise APIError(f"This is {kind}, not Kite's instrument list as CSV: {way_out}.")
    try:
        (fields,) = _split([first])
    except ValueError:
        fields = _readable([first])
    header = [field.strip().lower() for field in fields]
    missing = [column for column in REQUIRED_COLUMNS if column not in header]
    if missing and not body.rstrip(b" ").endswith((b"\n", b"\r")) and next(filled, None) is None:
        raise TransientAPIError("The instrument list was cut short within its header.")
    if missing:
        _refuse_header(f"lacks the column {', '.join(missing)}", header)
    twice = sorted({column for column in REQUIRED_COLUMNS if header.count(column) > 1})
    if twice:
        _refuse_header(f"has the column {', '.join(twice)} twice", header)
    return header, number


def _refuse_header(fault: str, header: Sequence[str]) -> NoReturn:
    raise APIError(
        f"This is not Kite's instrument list: its header {fault}. Expected the columns "
        f"{', '.join(REQUIRED_COLUMNS)}; got {shorten(','.join(header), 200)}."
    )


def _read_one_by_one(
    reader: _RowReader, lines: Sequence[str], first_number: int, dump: Batch
) -> None:
    """Read lines with something wrong among them, each by itself."""
    for number, line in enumerate(lines, first_number):
        if not line.strip("\r\n"):
            continue
        try:
            dump.rows.extend(reader.read([line], number))
        except ValueError as exc:
            dump.rejected.append(reader.reject(line, number, str(exc)))


def _readable(fields: Sequence[str]) -> list[str]:
    """The fields with a mark in place of each byte that is not UTF-8."""
    return [_LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", field) for field in fields]


def _check_last_row(body: bytes, dump: Batch, header: Sequence[str], is_whole: bool) -> None:
    """Raise TransientAPIError if the last line has no end and is cut off (ruling 15).

    Of NSEIX there may be left NSE, which other rows have in full: unless the body is known to be
    whole, its last line has to have an end.
    """
    if body.endswith((b"\n", b"\r")):
        return
    last_good = dump.rows[-1]["line_number"] if dump.rows else 0
    last_bad = dump.rejected[-1].line_number if dump.rejected else 0
    if last_bad and last_bad > last_good:
        raise _cut_short(last_bad)
    if dump.rows and not is_whole:
        raise _cut_short(last_good)
    if dump.rows and header[-1] in REQUIRED_COLUMNS:
        values = (row[header[-1]] for row in dump.rows)
        *others, last = ("" if value is None else str(value) for value in values)
        if last not in others and (not last or any(other.startswith(last) for other in others)):
            raise _cut_short(last_good)


def _cut_short(line_number: int) -> TransientAPIError:
    return TransientAPIError(
        f"The instrument list was cut short: line {line_number} ends early (if the list is whole, "
        "give its last line an end)."
    )
