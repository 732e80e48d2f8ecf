"""A tradable instrument, and which columns and keys `kite_instrument_master` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from shared.models.column import check_row
from shared.models.table import Column, Table

INSTRUMENT_TABLE = Table(
    name="kite_instrument_master",
    columns=(
        Column("instrument_token", "bigint", minimum=1, is_distinct=True),
        Column("exchange", "varchar", length=10),
        Column("tradingsymbol", "varchar", length=50, is_distinct=True),
        Column("exchange_token", "varchar", length=50, nullable=True, is_distinct=True),
        Column("instrument_type", "varchar", length=10, nullable=True),
        Column("name", "varchar", length=255, nullable=True),
        Column("segment", "varchar", length=20, nullable=True),
        Column("expiry", "date", nullable=True),
        Column("strike", "numeric", precision=15, scale=4, nullable=True, minimum=0),
        Column("tick_size", "numeric", precision=10, scale=4, nullable=True, minimum=0),
        Column("lot_size", "integer", nullable=True, minimum=0),
    ),
    key=("instrument_token", "exchange"),
    unique=(("tradingsymbol", "exchange"),),
    fillfactor=50,
)
_COLUMNS = {column.name: column for column in INSTRUMENT_TABLE.columns}


@dataclass
class Instrument:
    """Represents a tradable instrument.

    `strike` and `tick_size` are exact, in rupees (or the contract's quote unit), as Kite gives them
    (ruling 14); `expiry` is None for equities and indices.
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

        `data` holds Kite's fields, as text or converted; one that is missing or blank becomes None.
        Both timestamps are `moment` or now. Raises ValidationError if a text cannot be read.
        """
        moment = moment or datetime.now()
        get = data.get
        token, exchange, symbol = get("instrument_token"), get("exchange"), get("tradingsymbol")
        number, kind, name = get("exchange_token"), get("instrument_type"), get("name")
        segment, expiry, strike = get("segment"), get("expiry"), get("strike")
        tick_size, lot_size = get("tick_size"), get("lot_size")
        # Of a whole list hardly any value has to be converted: only those cost a call.
        return cls(
            token if type(token) is int else _convert("instrument_token", token),
            exchange
            if type(exchange) is str and exchange.strip()
            else _convert("exchange", exchange),
            symbol if type(symbol) is str and symbol.strip() else _convert("tradingsymbol", symbol),
            number
            if type(number) is str and number.strip()
            else _convert("exchange_token", number),
            kind if type(kind) is str and kind.strip() else _convert("instrument_type", kind),
            name if type(name) is str and name.strip() else _convert("name", name),
            segment if type(segment) is str and segment.strip() else _convert("segment", segment),
            expiry if expiry is None or type(expiry) is date else _convert("expiry", expiry),
            strike if type(strike) is Decimal else _convert("strike", strike),
            tick_size if type(tick_size) is Decimal else _convert("tick_size", tick_size),
            lot_size if type(lot_size) is int else _convert("lot_size", lot_size),
            moment,
            moment,
        )

    def validate(self) -> bool:
        """Validate instrument data, as `check_instrument` does (rulings 13 and 15)."""
        return check_instrument(vars(self))


def _convert(name: str, value: Any) -> Any:
    return None if value is None else _COLUMNS[name].convert(value)


def check_instrument(data: Mapping[str, Any]) -> bool:
    """Check that the table can hold the fields. Returns True. Raises ValidationError."""
    check_row(INSTRUMENT_TABLE.columns, data)
    return True
