"""Any list of symbol changes is read back, in whatever form it is written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dag_3_import_symbol_changes_from_nse.symbol_changes import HEADER, parse
from tests.property.strategies import any_character

NAMES = ("company", "old_symbol", "new_symbol", "changed_on")

symbols = st.text(st.sampled_from("ABCXYZ019&-abc"), min_size=1, max_size=50)
characters = st.one_of(
    st.sampled_from("AB ,.&'\"-;éÉ“”\u2013€\xa0"),
    any_character.filter(lambda char: char != "\ufeff"),
)
# No company's name begins as a page or JSON does: a list without a header would be taken for one.
names = (
    st.text(characters, max_size=30)
    .map(str.strip)
    .filter(lambda name: name[:1] not in tuple("<[{"))
)
companies = names.map(lambda name: name or None)
changes = st.tuples(companies, symbols, symbols, st.dates(date(1000, 1, 1)))


@dataclass(frozen=True)
class Form:
    """How a line is written."""

    is_quoted: bool
    blank: str
    is_windows: bool
    case: Any
    end: str
    before: str

    def write(self, change: tuple[Any, ...]) -> bytes:
        company, old, new, on = change
        name = company or ""
        if self.is_quoted or name.startswith('"'):
            name = '"' + name.replace('"', '""') + '"'
        day = self.case(f"{on.day:02}-{on:%b}-{on.year}")
        fields = [f"{self.blank}{field}{self.blank}" for field in (name, old, new, day)]
        line = self.before + ",".join(fields) + self.end
        if self.is_windows and is_told_from_utf8(line):
            return line.encode("cp1252")
        return line.encode()


def is_told_from_utf8(line: str) -> bool:
    """Whether its bytes in Windows-1252 are none of UTF-8."""
    try:
        line.encode("cp1252").decode()
    except UnicodeDecodeError:
        return True
    except UnicodeEncodeError:
        return False
    return line.isascii()


forms = st.builds(
    Form,
    is_quoted=st.booleans(),
    blank=st.sampled_from(["", " ", "  ", "\t"]),
    is_windows=st.booleans(),
    case=st.sampled_from([str.upper, str.lower, str.title]),
    end=st.sampled_from(["\n", "\r\n"]),
    before=st.sampled_from(["", "", "\n", " \r\n"]),
)


@given(
    written=st.lists(st.tuples(changes, forms), min_size=1, max_size=12),
    header=st.sampled_from(["", ",".join(HEADER) + "\n", ", ".join(HEADER).lower() + "\r\n"]),
    has_mark=st.booleans(),
    has_end=st.booleans(),
)
def test_any_list_in_any_form_is_read_back(
    written: list[tuple[tuple[Any, ...], Form]], header: str, has_mark: bool, has_end: bool
) -> None:
    lines = [form.write(change) for change, form in written]
    if not has_end:
        lines[-1] = lines[-1].rstrip(b"\r\n")
    start = b"\xef\xbb\xbf" * has_mark + header.encode()

    batch = parse(start + b"".join(lines))

    assert batch.rejected == []
    assert [tuple(row[name] for name in NAMES) for row in batch.rows] == [
        change for change, _ in written
    ]
    number, expected = start.count(b"\n"), []
    for _, form in written:
        number += 1 + form.before.count("\n")
        expected.append(number)
    assert [row["line_number"] for row in batch.rows] == expected
