"""Kite's candles: the bytes of an answer to checked values, and these to COPY's text; pure.

Many candles are read together, column by column. Where that finds a fault they are read one by one,
which tells what it is. Several threads may read at once.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Context, Decimal, InvalidOperation
from functools import partial
from itertools import repeat
from math import gcd
from operator import le, lt
from typing import Any, NamedTuple, NoReturn, TypeVar

from dag_2_import_candles_from_kite.intervals import INTERVALS, Interval, Request
from shared.calendar import IST
from shared.exceptions import TransientAPIError
from shared.feed import RejectedRow
from shared.foreign_text import shorten

K = TypeVar("K")
T = TypeVar("T")

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"T(\d\d:\d\d:\d\d)\+05:?30", re.ASCII)
_PLAIN = re.compile(r"[0-9]{1,11}\.[0-9]{1,4}")  # a price, but for 0: that is found faster
_DAY_LENGTH = len("2017-12-15")
_NAMES = ("open", "high", "low", "close", "volume", "oi")
_DECIMALS = 4  # NUMERIC(15, 4)
_WHOLE_DIGITS = 11
_FINEST = Decimal((0, (1,), -_DECIMALS))
_EXACT = Context(prec=_WHOLE_DIGITS + _DECIMALS + 1)  # 99999999999.99999 is rounded up
_LARGEST_COUNT = 2**63 - 1  # BIGINT
_COUNT = f"expected a whole number from 0 to {_LARGEST_COUNT}"
_LONGEST_NUMBER = 1000  # characters
_ROWS_AT_ONCE = 500
_MOST_REMEMBERED = 50_000  # by a cache: so many prices take 10 MB
_LONGEST_REMEMBERED = 32  # characters
# Of a JSON text: a candle a minute for 60 days has no more. It bounds the memory for what is none.
_MOST_PARTS = 8 * 60 * 24 * 60
_SHOWN_OF_VALUE = 200  # characters, in a rejected row


class Candle(NamedTuple):
    """A candle; `ts` is its start, in IST. `oi` is None where it was not asked for."""

    ts: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    oi: int | None


@dataclass
class Answer:
    """The candles that are complete, in the order of time, and those that were left out, with why.

    The line number of a rejected one is its place in the answer, from 1.
    """

    candles: list[Candle] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)


def read_answer(body: bytes, request: Request, *, complete_until: datetime) -> Answer:
    """Read Kite's answer to `request`: JSON of lists of a stamp, four prices, volume and oi.

    A candle that begins at `complete_until` or later is running: it is left out, whatever it has,
    and wherever it lies. A bad value rejects its own candle.
    Raises TransientAPIError if the answer as a whole is of no use: no JSON of that shape, a stamp
    that cannot be read, is off the interval's grid or of another span, or not after the one before.
    """
    candles = _find_candles(body, 7 if request.has_oi else 6)
    numbers, moments = _read_stamps(candles, request, complete_until)
    answer = Answer()
    for start in range(0, len(numbers), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        rows = [candles[number] for number in numbers[part]]
        try:
            answer.candles += _read_together(rows, moments[part])
        except ValueError:  # at least one of them is bad
            _read_one_by_one(rows, moments[part], numbers[part], answer)
    return answer


def render(candles: Sequence[Candle], instrument_id: int, interval: str) -> bytes:
    """The candles as COPY ... (FORMAT text, NULL '') reads them, a line for each.

    The columns are instrument_id, interval, ts, open, high, low, close, volume, oi.
    """
    if not candles:
        return b""
    moments, *numbers, oi = zip(*candles)
    lines = zip(
        repeat(f"{instrument_id}\t{interval}"),
        map(datetime.isoformat, moments),
        *(map(str, column) for column in numbers),
        ["" if value is None else str(value) for value in oi],
    )
    return ("\n".join(map("\t".join, lines)) + "\n").encode("ascii")


# --- values --------------------------------------------------------------------------------------


class _Number(str):
    """A number as it is written, which no price can be: 0.0, 1.00001, NaN."""

    __slots__ = ()


class _Cache(dict[K, T]):
    """What `read` makes of texts or numbers; its ValueError is passed on.

    Threads share it. Two may read the same text, or empty it in turn: that costs time alone.
    """

    def __init__(self, read: Callable[[K], T]) -> None:
        super().__init__()
        self._read: Callable[[K], T] = read

    def __missing__(self, key: K) -> T:
        value = self._read(key)
        if len(str(key)) <= _LONGEST_REMEMBERED:
            if len(self) >= _MOST_REMEMBERED:
                self.clear()
            self[key] = value
        return value


def _read_day(text: str) -> date:
    if not _DAY.fullmatch(text):
        raise ValueError
    return date.fromisoformat(text)


def _read_time(text: str) -> time:
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError
    return time.fromisoformat(found[1]).replace(tzinfo=IST)


def _is_on_grid(interval: Interval, at: time) -> bool:
    """Whether a candle of the interval may begin at this hour.

    Sessions begin at 09:00, at 09:15 or, special ones, at other quarters of an hour; all the steps
    from any of them are multiples of what the step and a quarter have in common.
    """
    if interval.is_day:
        return at.replace(tzinfo=None) == time.min
    return at.second == 0 and at.minute % gcd(interval.minutes, 15) == 0


def _read_time_on_grid(interval: Interval, text: str) -> time:
    at = _read_time(text)
    if not _is_on_grid(interval, at):
        raise ValueError
    return at


def _to_decimal(number: str | int) -> Decimal:
    if isinstance(number, str) and len(number) > _LONGEST_NUMBER:
        raise ValueError(f"expected a number of at most {_LONGEST_NUMBER} characters")
    try:
        value = Decimal(number)
    except InvalidOperation:  # an exponent beyond all bounds
        value = Decimal("NaN")
    if not value.is_finite():
        raise ValueError("expected a number")
    return value


def _to_price(number: str | int) -> Decimal:
    """The number as NUMERIC(15, 4) holds it. Raises ValueError that says what was expected."""
    value = _to_decimal(number)
    if value <= 0:
        raise ValueError("expected a positive number")
    if value.adjusted() >= _WHOLE_DIGITS:
        raise ValueError(f"expected at most {_WHOLE_DIGITS} digits before the point")
    fixed = value.quantize(_FINEST, context=_EXACT)
    if fixed != value:
        raise ValueError(f"expected at most {_DECIMALS} decimals")
    exponent = value.as_tuple().exponent
    return value if isinstance(exponent, int) and -_DECIMALS <= exponent <= 0 else fixed


def _read_float(text: str) -> Decimal | _Number:
    if _PLAIN.fullmatch(text) and (price := Decimal(text)):
        return price
    try:
        return _to_price(text)
    except ValueError:
        return _Number(text)


def _read_long_integer(text: str) -> int | _Number:
    return int(text) if len(text) <= _LONGEST_NUMBER else _Number(text)


_DAYS: _Cache[str, date] = _Cache(_read_day)
_TIMES: Mapping[str, _Cache[str, time]] = {
    name: _Cache(partial(_read_time_on_grid, interval)) for name, interval in INTERVALS.items()
}
_make_candle: Callable[[tuple[Any, ...]], Candle] = partial(tuple.__new__, Candle)
_FLOATS: _Cache[str, Decimal | _Number] = _Cache(_read_float)
_INTEGERS: _Cache[int, Decimal] = _Cache(_to_price)


# --- the answer ----------------------------------------------------------------------------------


def _find_candles(body: bytes, width: int) -> list[list[Any]]:
    """The candles as JSON has them: prices that fit are Decimal or int, other numbers _Number."""
    answer = _read_json(body)
    try:
        candles = answer["data"]["candles"]
        is_good = answer["status"] == "success" and type(candles) is list
    except (KeyError, TypeError):
        is_good = False
    if not is_good:
        _refuse_shape(body)
    if not ({*map(type, candles)} <= {list} and {*map(len, candles)} <= {width}):
        _refuse_width(candles, width)
    return candles  # type: ignore[no-any-return]


def _refuse_width(candles: Sequence[Any], width: int) -> None:
    for number, candle in enumerate(candles, 1):
        is_list = isinstance(candle, list)
        if is_list and len(candle) == width:
            continue
        came = f"{len(candle)}" if is_list else shorten(_show(candle))
        raise TransientAPIError(
            f"Expected a list of {width} values as candle {number} of Kite's answer, got {came}."
        )


def _read_json(body: bytes) -> Any:
    if (parts := sum(map(body.count, (b",", b"[", b"{")))) > _MOST_PARTS:
        _refuse_shape(body, f" of {parts:,} parts")
    fault: Exception | None = None
    # int() refuses thousands of digits: of such a number one candle is to blame.
    attempts: tuple[dict[str, Any], ...] = ({}, {"parse_int": _read_long_integer})
    for options in attempts:
        try:
            return json.loads(
                body, parse_float=_FLOATS.__getitem__, parse_constant=_Number, **options
            )
        except (ValueError, RecursionError) as exc:
            fault = exc
    return _refuse_shape(body, f" ({fault})")


def _refuse_shape(body: bytes, why: str = "") -> NoReturn:
    expected = 'candles from Kite as {"status": "success", "data": {"candles": [...]}}'
    start = shorten(body[:100].decode("utf-8", "replace"))
    raise TransientAPIError(f"Expected {expected}, got {start}{why}.")


def _read_stamps(
    candles: Sequence[Sequence[Any]], request: Request, until: datetime
) -> tuple[Sequence[int], Sequence[datetime]]:
    """Which candles begin before `until`, by their index, and when they do."""
    begin, end = request.begin.astimezone(IST), request.end.astimezone(IST)
    texts = [candle[0] for candle in candles]
    days, times, combine = _DAYS, _TIMES[request.interval.name], datetime.combine
    try:
        moments = [combine(days[text[:_DAY_LENGTH]], times[text[_DAY_LENGTH:]]) for text in texts]
    except (ValueError, TypeError):
        return _find_complete(texts, request.interval, begin, end, until)
    count = bisect_left(moments, until)
    if all(map(lt, moments, moments[1:])) and (
        not count or (begin <= moments[0] and moments[count - 1] < end)
    ):
        return range(count), moments[:count]
    return _find_complete(texts, request.interval, begin, end, until)


def _find_complete(
    texts: Sequence[Any],
    interval: Interval,
    begin: datetime,
    end: datetime,
    until: datetime,
) -> tuple[Sequence[int], Sequence[datetime]]:
    """The same, one by one. Raises TransientAPIError for the first stamp that cannot be."""
    numbers: list[int] = []
    moments: list[datetime] = []
    for number, text in enumerate(texts):
        moment = _read_stamp(text, number)
        if moment >= until:
            continue
        came = f"got {text} (candle {number + 1})."
        if not begin <= moment < end:
            span = f"from {begin:%Y-%m-%d %H:%M} to before {end:%Y-%m-%d %H:%M}"
            raise TransientAPIError(
                f"Kite answered with candles of another span: expected some {span}, {came}"
            )
        if not _is_on_grid(interval, moment.timetz()):
            raise TransientAPIError(
                f"Expected candles of the interval {interval.name} from Kite, {came}"
            )
        if moments and moment <= moments[-1]:
            raise TransientAPIError(
                "Expected each candle of Kite's answer to be later than the one before, "
                f"{moments[-1]:%Y-%m-%d %H:%M}, {came}"
            )
        numbers.append(number)
        moments.append(moment)
    return numbers, moments


def _read_stamp(text: Any, number: int) -> datetime:
    try:
        if not isinstance(text, str):
            raise ValueError
        return datetime.combine(_read_day(text[:_DAY_LENGTH]), _read_time(text[_DAY_LENGTH:]))
    except ValueError:
        raise TransientAPIError(
            f"Expected a stamp as 2017-12-15T09:15:00+0530 in candle {number + 1} of Kite's "
            f"answer, got {shorten(_show(text))}."
        ) from None


# --- rows ----------------------------------------------------------------------------------------


def _read_together(rows: Sequence[Sequence[Any]], moments: Sequence[datetime]) -> Iterator[Candle]:
    """The candles of these rows. Raises ValueError if any may be bad."""
    _, *columns = zip(*rows)
    opened, high, low, closed = map(_to_prices, columns[:4])
    if not (
        all(map(le, low, opened))
        and all(map(le, low, closed))
        and all(map(le, opened, high))
        and all(map(le, closed, high))
    ):
        raise ValueError
    counts = columns[4:]
    for column in counts:
        _check_counts(column)
    volume, oi = counts if len(counts) == 2 else (*counts, repeat(None))
    values = zip(moments, opened, high, low, closed, volume, oi)
    return map(_make_candle, values)


def _to_prices(values: Sequence[Any]) -> list[Decimal]:
    types = {*map(type, values)}
    if not types <= {Decimal, int}:  # True is equal to 1
        raise ValueError
    return [value if type(value) is Decimal else _INTEGERS[value] for value in values]


def _check_counts(values: Sequence[Any]) -> None:
    if {*map(type, values)} != {int} or min(values) < 0 or max(values) > _LARGEST_COUNT:
        raise ValueError


def _read_one_by_one(
    rows: Sequence[Sequence[Any]],
    moments: Sequence[datetime],
    numbers: Sequence[int],
    answer: Answer,
) -> None:
    for row, moment, number in zip(rows, moments, numbers):
        try:
            answer.candles.append(_read_row(row, moment))
        except ValueError as exc:
            texts = [_show(value, is_quoted=False)[:_SHOWN_OF_VALUE] for value in row]
            answer.rejected.append(RejectedRow(number + 1, str(exc), texts))


def _read_row(row: Sequence[Any], moment: datetime) -> Candle:
    """Raises ValueError that names the value and says what was expected."""
    readers = (*repeat(_read_price, 4), _read_count, _read_count)
    values = [_read_value(name, read, value) for name, read, value in zip(_NAMES, readers, row[1:])]
    opened, high, low, closed, volume, *oi = values
    least, most = min(opened, closed), max(opened, closed)
    if low > least:
        raise ValueError(f"low: expected at most {least}, the lower of open and close, got '{low}'")
    if high < most:
        raise ValueError(
            f"high: expected at least {most}, the higher of open and close, got '{high}'"
        )
    return Candle(moment, opened, high, low, closed, volume, oi[0] if oi else None)


def _read_value(name: str, read: Callable[[Any], Any], value: Any) -> Any:
    try:
        return read(value)
    except ValueError as exc:
        raise ValueError(f"{name}: {exc}, got {shorten(_show(value))}") from None


def _read_price(value: Any) -> Decimal:
    if type(value) is Decimal:
        return value
    if type(value) not in (int, _Number):
        raise ValueError("expected a number")
    return _to_price(value)


def _read_count(value: Any) -> int:
    """2499.0 is a whole number, too."""
    if type(value) not in (int, Decimal, _Number):
        raise ValueError(_COUNT)
    number = value if type(value) is Decimal else _to_decimal(value)
    if number == 0:
        return 0
    if 0 < number <= _LARGEST_COUNT:
        whole = int(number)
        if whole == number:
            return whole
    raise ValueError(_COUNT)


def _show(value: Any, *, is_quoted: bool = True) -> str:
    """A value of JSON as a text: a text is in double quotes unless `is_quoted` is false."""
    if isinstance(value, str) and not isinstance(value, _Number):
        text = value.encode("utf-8", "replace").decode()  # half a pair of surrogates may be in it
        return f'"{text}"' if is_quoted else text
    if isinstance(value, (list, dict)):
        return "[...]" if isinstance(value, list) else "{...}"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
