"""A tradable instrument, and which columns and keys `kite_instrument_master` has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from operator import itemgetter
from typing import Any

from shared.exceptions import ValidationError
from shared.foreign_text import shorten
from shared.models.table import Column, Table
from shared.utils.kite_csv import to_date, to_decimal, to_integer, to_text

INSTRUMENT_TABLE = Table(
    name="kite_instrument_master",
    columns=(
        Column("instrument_token", "bigint"),
        Column("exchange", "varchar", length=10),
        Column("tradingsymbol", "varchar", length=50),
        Column("exchange_token", "varchar", length=50, nullable=True),
        Column("instrument_type", "varchar", length=10, nullable=True),
        Column("name", "varchar", length=255, nullable=True),
        Column("segment", "varchar", length=20, nullable=True),
        Column("expiry", "date", nullable=True),
        Column("strike", "numeric", precision=15, scale=4, nullable=True),
        Column("tick_size", "numeric", precision=10, scale=4, nullable=True),
        Column("lot_size", "integer", nullable=True),
    ),
    key=("instrument_token", "exchange"),
    unique=(("tradingsymbol", "exchange"),),
    fillfactor=50,
)

MAX_TOKEN = 2**63 - 1
MAX_LOT_SIZE = 2**31 - 1
MAX_LENGTHS = {
    column.name: column.length for column in INSTRUMENT_TABLE.columns if column.length is not None
}
DECIMAL_DIGITS = {
    column.name: (column.precision, column.scale)
    for column in INSTRUMENT_TABLE.columns
    if column.precision is not None and column.scale is not None
}
_values_of = itemgetter(*INSTRUMENT_TABLE.column_names)


@dataclass
class Instrument:
    """Represents a tradable instrument.

    `strike` and `tick_size` are exact, in rupees (or the contract's quote unit); `expiry` is None
    for equities and indices; values stand as Kite gives them (ruling 14).
    """

    instrument_token: int
    exchange: str
    tradingsymbol: str
    exchange_token: str | None
    instrument_type: str | None
    name: str | None
    segment: str | None
    expiry: date | None
    strike: Decimal | None
    tick_size: Decimal | None
    lot_size: int | None
    last_updated: datetime = field(default_factory=datetime.now)
    created_at: datetime = field(default_factory=datetime.now)

    def to_dict(self) -> dict[str, Any]:
        """Convert to dictionary for database insertion: one entry for each column of the table."""
        return vars(self).copy()  # a copy of vars() is half as large as a dict made anew

    @classmethod
    def from_kite_response(
        cls, data: Mapping[str, Any], *, moment: datetime | None = None
    ) -> Instrument:
        """Create Instrument from Kite API response.

        `data` holds Kite's fields, as text or already converted; a field that is not there, or is
        blank, becomes None. `moment` is used for both timestamps (default: now).

        Raises ValidationError if a number or a date is none.
        """
        if moment is None:
            moment = datetime.now()
        get = data.get
        token, exchange, symbol = get("instrument_token"), get("exchange"), get("tradingsymbol")
        exchange_token, kind, name = get("exchange_token"), get("instrument_type"), get("name")
        segment, expiry, strike = get("segment"), get("expiry"), get("strike")
        tick_size, lot_size = get("tick_size"), get("lot_size")
        # Of a whole list hardly any value has to be converted: only those cost a call.
        return cls(
            token if type(token) is int else _number(token, "instrument_token"),
            exchange if type(exchange) is str and exchange.strip() else _text(exchange),
            symbol if type(symbol) is str and symbol.strip() else _text(symbol),
            exchange_token
            if type(exchange_token) is str and exchange_token.strip()
            else _text(exchange_token),
            kind if type(kind) is str and kind.strip() else _text(kind),
            name if type(name) is str and name.strip() else _text(name),
            segment if type(segment) is str and segment.strip() else _text(segment),
            expiry if expiry is None or type(expiry) is date else _expiry(expiry),
            strike if type(strike) is Decimal else _decimal(strike, "strike"),
            tick_size if type(tick_size) is Decimal else _decimal(tick_size, "tick_size"),
            lot_size if type(lot_size) is int else _number(lot_size, "lot_size"),
            moment,
            moment,
        )

    def validate(self) -> bool:
        """Validate instrument data.

        Returns True. Raises ValidationError with the reason if a required field is missing, a type
        is wrong, or a value does not fit its column exactly (rulings 13 and 15).
        """
        return check_instrument(vars(self))


# A value that is no text passes as it is: check_instrument is what judges types.


def _text(value: Any) -> Any:
    return to_text(value) if type(value) is str else value


def _number(value: Any, name: str) -> Any:
    return _from_text(value, name, to_integer) if type(value) is str else value


def _expiry(value: Any) -> Any:
    if type(value) is str:
        return _from_text(value, "expiry", to_date)
    return value.date() if isinstance(value, datetime) else value


def _decimal(value: Any, name: str) -> Any:
    if value is None:
        return None
    # The text of a float is the shortest one that means it: 90.875, as Kite wrote it.
    return _from_text(str(value), name, to_decimal)


def _from_text(text: str, name: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(text)
    except ValueError as exc:
        raise ValidationError(f"{name}: {exc}, got {shorten(text)}") from None


def check_instrument(data: Mapping[str, Any]) -> bool:
    """Check the typed fields of an instrument against what the table can hold.

    Returns True. Raises ValidationError with the name of the field, what was expected and what
    came.
    """
    get = data.get
    token = get("instrument_token")
    if type(token) is not int or not 0 < token <= MAX_TOKEN:
        _refuse("instrument_token", token, f"a whole number from 1 to {MAX_TOKEN}", required=True)
    _check_required_text("exchange", get("exchange"))
    _check_required_text("tradingsymbol", get("tradingsymbol"))
    _check_text("exchange_token", get("exchange_token"))
    _check_text("instrument_type", get("instrument_type"))
    _check_text("name", get("name"))
    _check_text("segment", get("segment"))
    expiry = get("expiry")
    if expiry is not None and type(expiry) is not date:
        _refuse("expiry", expiry, "a date")
    _check_decimal("strike", get("strike"))
    _check_decimal("tick_size", get("tick_size"))
    lot_size = get("lot_size")
    if lot_size is not None and (type(lot_size) is not int or not 0 <= lot_size <= MAX_LOT_SIZE):
        _refuse("lot_size", lot_size, f"a whole number from 0 to {MAX_LOT_SIZE}")
    return True


class QuickCheck:
    """Tells at a glance that an instrument is valid, with the same rules as `check_instrument`.

    A list has few distinct names, types, strikes and so on: each is checked once. False says only
    that it takes a closer look. Also counts the symbols of those that passed.
    """

    def __init__(self) -> None:
        self._symbols: defaultdict[str, set[str]] = defaultdict(set)
        self._exchanges = _Verdicts(partial(_check_required_text, "exchange"))
        self._types = _Verdicts(partial(_check_text, "instrument_type"))
        self._names = _Verdicts(partial(_check_text, "name"))
        self._segments = _Verdicts(partial(_check_text, "segment"))
        self._strikes = _Verdicts(partial(_check_decimal, "strike"))
        self._tick_sizes = _Verdicts(partial(_check_decimal, "tick_size"))

    def passes(self, data: Mapping[str, Any]) -> bool:
        """Whether `data` is surely valid."""
        try:
            (
                token,
                exchange,
                symbol,
                exchange_token,
                kind,
                name,
                segment,
                expiry,
                strike,
                tick_size,
                lot_size,
            ) = _values_of(data)
            is_valid = (
                type(token) is int
                and 0 < token <= MAX_TOKEN
                and self._exchanges[exchange]
                and type(symbol) is str
                and len(symbol) <= MAX_LENGTHS["tradingsymbol"]
                and symbol.isprintable()
                and not symbol.isspace()
                and symbol != ""
                and type(exchange_token) is str
                and len(exchange_token) <= MAX_LENGTHS["exchange_token"]
                and exchange_token.isprintable()
                and self._types[kind]
                and self._names[name]
                and self._segments[segment]
                and (expiry is None or type(expiry) is date)
                and type(strike) is Decimal
                and self._strikes[strike]
                and type(tick_size) is Decimal
                and self._tick_sizes[tick_size]
                and type(lot_size) is int
                and 0 <= lot_size <= MAX_LOT_SIZE
            )
        except (KeyError, TypeError):  # a field is missing, or a value cannot be remembered
            return False
        if is_valid:
            self._symbols[exchange].add(symbol)
        return is_valid

    def count_symbols(self) -> int:
        """How many distinct (tradingsymbol, exchange) those have that passed."""
        return sum(map(len, self._symbols.values()))


class _Verdicts(dict[Any, bool]):
    """Value to whether it passes the check; each distinct one is checked once."""

    def __init__(self, check: Callable[[Any], None]) -> None:
        super().__init__()
        self._check = check

    def __missing__(self, value: Any) -> bool:
        try:
            self._check(value)
        except ValidationError:
            verdict = False
        else:
            verdict = True
        self[value] = verdict
        return verdict


def _check_required_text(name: str, value: Any) -> None:
    if value is None or (type(value) is str and not value.strip()):
        _refuse(name, None, "a text", required=True)
    _check_text(name, value)


def _check_text(name: str, value: Any) -> None:
    if value is None:
        return
    if type(value) is not str:
        _refuse(name, value, "a text")
    if len(value) > MAX_LENGTHS[name]:
        raise ValidationError(
            f"{name}: expected at most {MAX_LENGTHS[name]} characters, got {len(value)}: "
            f"{shorten(value)}"
        )
    if not value.isascii() or "\0" in value:
        _check_characters(name, value)


def _check_characters(name: str, value: str) -> None:
    """Refuse what a UTF-8 database cannot hold: NUL and lone surrogates."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValidationError(
            f"{name}: holds a character that cannot be stored, got {shorten(value)}"
        )


def _check_decimal(name: str, value: Any) -> None:
    if value is None:
        return
    if type(value) is not Decimal:
        _refuse(name, value, "a decimal number")
    if not value.is_finite() or not _fits(value, *DECIMAL_DIGITS[name]):
        precision, scale = DECIMAL_DIGITS[name]
        _refuse(
            name,
            value,
            f"a number from 0 to below 1e{precision - scale} with at most {scale} decimals",
        )


def _fits(value: Decimal, precision: int, scale: int) -> bool:
    """Whether NUMERIC(precision, scale) holds `value` exactly, and it is not below zero.

    PostgreSQL does not read thousands of zeros behind the point.
    """
    exponent = value.as_tuple().exponent
    return (
        isinstance(exponent, int)
        and exponent >= -1000
        and 0 <= value < 10 ** (precision - scale)
        and value == round(value, scale)
    )


def _refuse(name: str, value: Any, expected: str, *, required: bool = False) -> None:
    if value is None and required:
        raise ValidationError(f"{name}: required, but missing")
    raise ValidationError(f"{name}: expected {expected}, got {shorten(value)}")
