"""Hypothesis strategies: instruments as real dumps hold them and as they break programs.

`valid_instrument` and `list_of_instruments` are the design's; what they draw can be stored exactly.
`renderings` writes a list of them as CSV in one of the many shapes that have to be read alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.instruments import KITE_COLUMNS

STORED_COLUMNS = tuple(column for column in KITE_COLUMNS if column != "last_price")

MAX_TOKEN = 2**63 - 1
MAX_LOT_SIZE = 2**31 - 1
EXCHANGES = ("NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX", "NCO", "NSEIX", "GLOBAL")
SEGMENTS = ("NSE", "BSE", "INDICES", "NFO-FUT", "NFO-OPT", "CDS-OPT", "MCX-FUT", "NSEIX-OPT")
TYPES = ("EQ", "FUT", "CE", "PE")
# Names as lists hold them, and texts that mean something to CSV, to COPY or to SQL.
SYMBOLS = (
    "INFY",
    "NIFTY 50",
    "M&M",
    "20MICRONS-BE",
    "USDINR26AUG90.875CE",
    "M&M FIN. SERVICES, LTD",
    'THE "BEST" CO',
    '"',
    '"",""',
    ",",
    "'; DROP TABLE kite_instrument_master; --",
    "\\N",
    "\\.",
    "\\",
    "A\tB",
    "TRAILING ",
    " LEADING",
    "NULL",
    "None",
    "नेस्ले",
    "É\u0301\U0001f4c8",
    "\ufeffBOM",
    "%s",
    "{}",
)

# Whatever a line of UTF-8 can hold but NUL: control characters, separators, marks, emoji.
any_character = st.characters(codec="utf-8", exclude_characters="\r\n\0")
# Whatever makes programs trip, often.
awkward_character = st.sampled_from("\"',;\\\t &-./%\x01\x0b\x1c\x1f\x7f\x85\xa0\u2028\ufeffé😀A1")


def texts(max_length: int, common: Sequence[str] = ()) -> SearchStrategy[str]:
    """Texts that are not blank, of 1 to `max_length` characters, `common` ones among them."""
    fitting = [text for text in common if len(text) <= max_length]
    drawn = st.one_of(
        st.text(any_character, min_size=1, max_size=min(max_length, 12)),
        st.text(awkward_character, min_size=1, max_size=min(max_length, 12)),
        st.sampled_from("AZé😀\x01\"',").map(lambda character: character * max_length),
    ).filter(lambda text: bool(text.strip()))
    return st.one_of(st.sampled_from(fitting), drawn) if fitting else drawn


def decimals(precision: int, scale: int) -> SearchStrategy[Decimal]:
    """Numbers from 0 that NUMERIC(precision, scale) holds exactly, in several ways of writing."""
    largest = 10**precision - 1
    exact = st.builds(
        lambda number, places: Decimal(number % 10 ** (precision - scale + places)).scaleb(-places),
        st.one_of(st.integers(0, largest), st.integers(0, 100_000), st.just(largest)),
        st.integers(0, scale),
    )
    special = ["0", "0.0", "0.0001", "0.0025", "90.875", "370.75", "1E+2", "22500.0000"]
    return st.one_of(exact, st.sampled_from([Decimal(text) for text in special]))


def _numbers(largest: int, smallest: int, *common: int) -> SearchStrategy[int]:
    edges = st.sampled_from([smallest, largest, *common])
    return st.one_of(
        st.integers(smallest, min(largest, 10**6)), st.integers(smallest, largest), edges
    )


def _optional(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


dates = st.one_of(
    st.dates(date(2025, 1, 1), date(2031, 12, 31)),
    st.dates(),
    st.sampled_from([date.min, date.max, date(2028, 2, 29)]),
)

# Up to 20 seconds; sums and differences of such fractions are exact.
durations_in_seconds = st.integers(0, 20 * 1024).map(lambda number: number / 1024)

FIELDS: Mapping[str, SearchStrategy[Any]] = {
    "instrument_token": _numbers(MAX_TOKEN, 1, 2**31 - 1, 2**31, 2**32, 408065),
    "exchange": st.one_of(st.sampled_from(EXCHANGES), texts(10)),
    "tradingsymbol": texts(50, SYMBOLS),
    "exchange_token": _optional(st.one_of(st.integers(0, 10**9).map(str), texts(50))),
    "instrument_type": _optional(st.one_of(st.sampled_from(TYPES), texts(10))),
    "name": _optional(texts(255, SYMBOLS)),
    "segment": _optional(st.one_of(st.sampled_from(SEGMENTS), texts(20))),
    "expiry": _optional(dates),
    "strike": _optional(decimals(15, 4)),
    "tick_size": _optional(decimals(10, 4)),
    "lot_size": _optional(_numbers(MAX_LOT_SIZE, 0, 1, 50)),
}


def valid_instrument(**fields: SearchStrategy[Any]) -> SearchStrategy[dict[str, Any]]:
    """Instruments with typed values that the table holds exactly; `fields` replace strategies."""
    return st.fixed_dictionaries({**FIELDS, **fields})


def key_of(instrument: Mapping[str, Any]) -> tuple[int, str]:
    """The primary key of the table."""
    return instrument["instrument_token"], instrument["exchange"]


def symbol_of(instrument: Mapping[str, Any]) -> tuple[str, str]:
    """The table's other unique key."""
    return instrument["tradingsymbol"], instrument["exchange"]


def list_of_instruments(
    min_size: int = 1, max_size: int = 10, **fields: SearchStrategy[Any]
) -> SearchStrategy[list[dict[str, Any]]]:
    """Lists in which every (token, exchange) and every (tradingsymbol, exchange) is there once."""
    return st.lists(
        valid_instrument(**fields),
        min_size=min_size,
        max_size=max_size,
        unique_by=(key_of, symbol_of),
    )


@dataclass(frozen=True)
class Rendering:
    """How a list is written: all of these mean the same rows."""

    columns: tuple[str, ...] = KITE_COLUMNS
    line_end: str = "\n"
    bom: bool = False
    space_after_comma: bool = False
    quote_all: bool = False
    blank_line_after_each: bool = False
    padded_header: bool = False

    def write(self, instruments: Sequence[Mapping[str, Any]]) -> bytes:
        """The bytes of the dump."""
        header = [f" {name.upper()} " if self.padded_header else name for name in self.columns]
        lines = [self.write_line(header)]
        for instrument in instruments:
            lines.append(self.write_line([render_value(instrument, name) for name in self.columns]))
        end = self.line_end * (2 if self.blank_line_after_each else 1)
        text = "".join(line + end for line in lines)
        return text.encode("utf-8-sig" if self.bom else "utf-8")

    def write_line(self, fields: Sequence[str]) -> str:
        """One line, without its end."""
        comma = ", " if self.space_after_comma else ","
        return comma.join(quote_field(field, always=self.quote_all) for field in fields)


def quote_field(text: str, *, always: bool = False) -> str:
    """The text as a field of CSV, in quotes where it would be read as something else."""
    if always or "," in text or text.startswith(('"', " ")):
        return '"' + text.replace('"', '""') + '"'
    return text


def render_value(instrument: Mapping[str, Any], column: str) -> str:
    """A value as Kite writes it; a column that is not an instrument's gets something."""
    value = instrument.get(column, "0.0" if column == "last_price" else "extra, column")
    return "" if value is None else str(value)


@st.composite
def renderings(draw: Callable[[SearchStrategy[Any]], Any]) -> Rendering:
    """Ways to write a dump: BOM, line ends, spaces, quotes, reordered and further columns."""
    columns = list(KITE_COLUMNS)
    if draw(st.booleans()):
        columns.remove("last_price")
    columns += draw(st.lists(st.sampled_from(["isin", "freeze_qty", "é"]), max_size=2, unique=True))
    if draw(st.booleans()):
        columns = draw(st.permutations(columns))
    return Rendering(
        columns=tuple(columns),
        line_end=draw(st.sampled_from(["\n", "\r\n"])),
        bom=draw(st.booleans()),
        space_after_comma=draw(st.booleans()),
        quote_all=draw(st.booleans()),
        blank_line_after_each=draw(st.booleans()),
        padded_header=draw(st.booleans()),
    )
