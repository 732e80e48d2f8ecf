"""NSE's list of symbol changes: its table, and the forms that it comes in.

Company, old symbol, new symbol, date as 09-APR-2025; with a header or without. A company's name
may have commas, in quotes or not, and lines may be of Windows-1252 in place of UTF-8.
"""

import re
from datetime import datetime
from functools import partial

from shared.feed import Batch
from shared.models.column import make_reader
from shared.models.table import Column, Table
from shared.utils.csv_rows import parse_csv

_DAY = "[0-9]{1,2}-[A-Za-z]{3}-[0-9]{4}"
_ENDS_IN_DAY = re.compile(rb',[ \t"]*' + _DAY.encode() + rb'[ \t"]*(?=[\r\n]|\Z)')
_FIRST_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*([^\r\n]*)")
_NAME_IN_HEADER = re.compile(r"[A-Za-z][\w ./()-]*")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _read_text(text: str) -> str | None:
    return text.strip() or None


_read_day = make_reader(
    _DAY, lambda text: datetime.strptime(text, "%d-%b-%Y").date(), "a date", " as 09-APR-2025"
)

SYMBOL_CHANGES = Table(
    name="nse_symbol_change",
    columns=(
        Column(
            *("company", "varchar"),
            length=255,
            nullable=True,
            header="SYMB_COMPANY_NAME",
            reader=_read_text,
        ),
        Column("old_symbol", "varchar", length=50, header="SM_KEY_SYMBOL", reader=_read_text),
        Column("new_symbol", "varchar", length=50, header="SM_NEW_SYMBOL", reader=_read_text),
        Column("changed_on", "date", header="SM_APPLICABLE_FROM", reader=_read_day),
    ),
    key=("old_symbol", "new_symbol", "changed_on"),
)
HEADER = [column.header for column in SYMBOL_CHANGES.columns]


def parse(body: bytes) -> Batch:
    """The changes in NSE's list, as they are given. Raises APIError as `parse_csv` does."""
    read = partial(parse_csv, columns=SYMBOL_CHANGES.columns, title="NSE's list of symbol changes")
    first = _FIRST_LINE.match(body)
    assert first is not None  # it may be empty
    names = [name.strip(' \t"') for name in first[1].decode("latin-1").split(",")]
    if [name.upper() for name in names] == HEADER:
        return read(body, mend=mend_line)
    is_header = len(names) >= len(HEADER) and all(map(_NAME_IN_HEADER.fullmatch, names))
    if _ENDS_IN_DAY.search(body) and not is_header:
        return read(body, mend=mend_line, header=",".join(HEADER))
    return read(body, mend=decode_line)  # its columns in another order, or another file


def decode_line(line: str) -> str:
    """The line read as Windows-1252 if it is not UTF-8; as it is if it is neither."""
    if not line.strip():
        return "\n"  # one of blanks alone is an empty one
    if not _LONE_SURROGATE.search(line):
        return line
    try:
        return line.encode("utf-8", "surrogateescape").decode("cp1252")
    except UnicodeDecodeError:
        return line


def mend_line(line: str) -> str:
    """The line with quotes about a company's name with commas, and no blanks about its fields."""
    company, *others = (field.strip() for field in decode_line(line).rsplit(",", len(HEADER) - 1))
    if "," in company and not company.startswith('"'):
        company = '"' + company.replace('"', '""') + '"'
    return ",".join([company, *others]) + "\n"
