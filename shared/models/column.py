"""A column: how a text becomes its value, and which values it holds exactly."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Context, Decimal
from functools import cached_property, partial
from operator import itemgetter
from types import NoneType
from typing import Any, TypeVar

from shared.exceptions import ValidationError
from shared.foreign_text import shorten

T = TypeVar("T")

_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # in a UTF-8 database
_MOST_DIGITS = 1000  # of a number; PostgreSQL's own limit is higher
_EXACT = Context(prec=2 * _MOST_DIGITS)
_ROWS_AT_ONCE = 200
_MOST_REMEMBERED = 100_000  # distinct values of a column


def make_reader(
    pattern: str, make: Callable[[str], T], expected: str, form: str = ""
) -> Callable[[str], T | None]:
    """A function from a text to its value, or None if it is blank; it raises ValueError.

    `expected` and `form` are the error's words: "a date", " as YYYY-MM-DD".
    """
    accepted = re.compile(pattern, re.ASCII)

    def read(text: str) -> T | None:
        stripped = text.strip(" ")
        if not stripped:
            return None
        if not accepted.fullmatch(stripped):
            raise ValueError(f"expected {expected}{form}")
        try:
            return make(stripped)
        except ValueError as exc:
            raise ValueError(f"expected {expected} that exists") from exc

    return read


def to_text(text: str) -> str | None:
    """The text as it is, or None if it is blank."""
    return text if text.strip() else None


# int() refuses more digits, with a message about interpreter settings.
to_integer = make_reader("[+-]?[0-9]{1,4000}", int, "a whole number")
to_decimal = make_reader(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", Decimal, "a decimal number"
)
to_date = make_reader(_DATE, date.fromisoformat, "a date", " as YYYY-MM-DD")
to_moment = make_reader(
    _DATE + r"[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?",
    datetime.fromisoformat,
    "a date and time",
    " as YYYY-MM-DDTHH:MM:SS",
)

# PostgreSQL's types to Python's; values of others are texts that PostgreSQL reads.
_INTEGER_BITS = {"smallint": 15, "integer": 31, "bigint": 63}
_PYTHON_TYPES: Mapping[str, type] = {
    **dict.fromkeys(_INTEGER_BITS, int),
    "numeric": Decimal,
    "date": date,
    "timestamp": datetime,
    "timestamptz": datetime,
}
# The types whose values are compared in Python as PostgreSQL compares them.
EXACT_TYPES = ("text", "varchar", *_PYTHON_TYPES)
_READERS: Mapping[type, Callable[[str], Any]] = {
    str: to_text,
    int: to_integer,
    Decimal: to_decimal,
    date: to_date,
    datetime: to_moment,
}


@dataclass(frozen=True)
class Column:
    """A column that rows are merged into, with its PostgreSQL type.

    `name` is also its name in a row, a Python identifier; `header` is its name in a CSV's header
    where that differs. A varchar has a `length` in characters; a numeric a `precision` (digits in
    all) and a `scale` (decimals among them): a value with more decimals is refused, never rounded.
    A number is not below `minimum`. A `nullable` column may have no value. `is_distinct` says that
    nearly every row has its own value: none is remembered. `reader`, if given, turns a text into
    the value in place of the type's way; its ValueError says what it expected. `since` is the
    version of its table that first had it: an older one gets it.
    """

    name: str
    sql_type: str
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    nullable: bool = False
    minimum: int | None = None
    is_distinct: bool = False
    header: str = ""
    reader: Callable[[str], Any] | None = None
    since: int = 1

    @cached_property
    def python_type(self) -> type:
        """The type of its values."""
        return _PYTHON_TYPES.get(self.sql_type, str)

    @cached_property
    def types(self) -> frozenset[type]:
        """The types that a value may have."""
        return frozenset((self.python_type, NoneType) if self.nullable else (self.python_type,))

    @cached_property
    def integer_range(self) -> tuple[int, int]:
        """The lowest and the highest whole number that it holds."""
        limit: int = 2 ** _INTEGER_BITS[self.sql_type]
        return (-limit if self.minimum is None else self.minimum), limit - 1

    @cached_property
    def expected(self) -> str:
        """What a value has to be, in words."""
        if self.python_type is int:
            return "a whole number from {} to {}".format(*self.integer_range)
        if self.python_type is Decimal and self.precision is not None:
            scale = self.scale or 0
            limit = f"1e{self.precision - scale}"
            low = f"above -{limit}" if self.minimum is None else f"from {self.minimum}"
            return f"a number {low} to below {limit} with at most {scale} decimals"
        if self.python_type is datetime:
            return f"a date and time with{'out' if self.sql_type == 'timestamp' else ''} time zone"
        return {str: "a text", date: "a date"}.get(self.python_type, "a decimal number")

    def read(self, text: str) -> Any:
        """The value of `text`, or None if it is blank. Raises ValueError that names the column."""
        try:
            return (self.reader or _READERS[self.python_type])(text)
        except ValueError as exc:
            raise ValueError(f"{self.name}: {exc}, got {shorten(text)}") from None

    def convert(self, value: Any) -> Any:
        """`value` in the column's type where it means the same: a text, a float, a datetime.

        Any other comes back as it is. Raises ValidationError if a text cannot be read.
        """
        if self.python_type is date and isinstance(value, datetime):
            return value.date()
        if self.python_type is Decimal and value is not None:
            value = str(value)  # of a float it is the shortest text that means it: 90.875
        try:
            return self.read(value) if type(value) is str else value
        except ValueError as exc:
            raise ValidationError(str(exc)) from None

    def holds(self, values: Collection[Any]) -> bool:
        """Whether it can hold each of `values` exactly; to ask once for many is faster."""
        types = set(map(type, values))
        if not types <= self.types:
            return False
        if NoneType in types:
            values = [value for value in values if value is not None]
        return not values or _HOLDS[self.python_type](self, values)

    def check(self, value: Any) -> None:
        """Raise ValidationError, with what was expected, unless it can hold `value` exactly."""
        if not self.holds((value,)):
            raise ValidationError(f"{self.name}: {self._describe_fault(value)}")

    def _describe_fault(self, value: Any) -> str:
        is_text = type(value) is self.python_type is str
        if value is None or (is_text and not self.nullable and not value.strip()):
            return "required, but missing"
        if not is_text:
            return f"expected {self.expected}, got {shorten(value)}"
        if self.length is not None and len(value) > self.length:
            got = f"got {len(value)}: {shorten(value)}"
            return f"expected at most {self.length} characters, {got}"
        return f"holds a character that cannot be stored, got {shorten(value)}"


def _holds_texts(column: Column, texts: Collection[str]) -> bool:
    joined = "".join(texts)
    return (
        (column.length is None or max(map(len, texts)) <= column.length)
        and (joined.isprintable() or not _UNSTORABLE.search(joined))
        and (column.nullable or all(map(str.strip, texts)))
    )


def _holds_integers(column: Column, numbers: Collection[int]) -> bool:
    lowest, highest = column.integer_range
    return lowest <= min(numbers) and max(numbers) <= highest


def _fits(column: Column, number: Decimal) -> bool:
    """Whether NUMERIC(precision, scale) holds the number as it is."""
    exponent = number.as_tuple().exponent
    # NaN, Infinity; PostgreSQL does not read thousands of zeros behind the point.
    if not isinstance(exponent, int) or exponent < -_MOST_DIGITS:
        return False
    scale = (column.scale or 0) if column.precision is not None else _MOST_DIGITS
    whole_digits = (column.precision or 2 * _MOST_DIGITS) - scale
    return (
        (number == 0 or number.adjusted() < whole_digits)
        and (column.minimum is None or number >= column.minimum)
        and number == number.quantize(Decimal((0, (1,), -scale)), context=_EXACT)
    )


def _holds_moments(column: Column, moments: Collection[datetime]) -> bool:
    has_zone = column.sql_type == "timestamptz"
    return all((moment.tzinfo is not None) == has_zone for moment in moments)


_HOLDS: Mapping[type, Callable[[Column, Collection[Any]], bool]] = {
    str: _holds_texts,
    int: _holds_integers,
    Decimal: lambda column, numbers: all(map(partial(_fits, column), numbers)),
    date: lambda column, dates: True,
    datetime: _holds_moments,
}


class ColumnCheck:
    """The check of one column for many rows: each distinct value is looked at once."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._is_number = column.python_type in (int, Decimal)
        self._known: set[Any] = set()

    def passes(self, values: Collection[Any]) -> bool:
        """Whether the column can hold each of `values`."""
        if self._column.is_distinct:
            return self._column.holds(values)
        if self._is_number and not self._column.types.issuperset(map(type, values)):
            return False  # 1, True and 1.0 are equal
        try:
            if self._known.issuperset(values):
                return True
            new = set(values) - self._known
        except TypeError:  # a signalling NaN has no hash
            return False
        if len(self._known) > _MOST_REMEMBERED:
            self._known.clear()
        is_good = self._column.holds(new)
        self._known |= new if is_good else set()
        return is_good


def check_row(columns: Sequence[Column], row: Mapping[str, Any]) -> None:
    """Raise ValidationError for the first column that cannot hold its value (None if missing)."""
    for column in columns:
        column.check(row.get(column.name))


def find_invalid(
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
    check: Callable[[Mapping[str, Any]], Any] | None = None,
) -> Iterator[tuple[int, ValidationError]]:
    """The index and the fault of each row that `check` refuses (`check_row` by default).

    `check` raises ValidationError. It is called for few rows: many are looked at together first.
    """
    judge = check or partial(check_row, columns)
    names = [column.name for column in columns]
    values_of = itemgetter(*names, names[0])  # of two names or more, which makes it give a tuple
    checks = [ColumnCheck(column) for column in columns]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        try:
            suspects = {
                index
                for check, values in zip(checks, zip(*map(values_of, part)))
                if not check.passes(values)
                for index, value in enumerate(values)
                if not check.passes((value,))
            }
        except KeyError:  # a value is missing
            suspects = {*range(len(part))}
        for index in sorted(suspects):
            try:
                judge(part[index])
            except ValidationError as exc:
                yield start + index, exc
