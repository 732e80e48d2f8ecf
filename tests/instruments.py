"""Made-up instruments, as dicts and as Kite's CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

KITE_COLUMNS = (
    "instrument_token",
    "exchange_token",
    "tradingsymbol",
    "name",
    "last_price",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
    "instrument_type",
    "segment",
    "exchange",
)


def instrument(token: int, symbol: str, exchange: str = "NFO", **fields: Any) -> dict[str, Any]:
    """A typed instrument, an option unless `fields` say otherwise."""
    return {
        "instrument_token": token,
        "exchange": exchange,
        "tradingsymbol": symbol,
        "exchange_token": str(token >> 8),
        "instrument_type": "CE",
        "name": "HINDPETRO",
        "segment": f"{exchange}-OPT",
        "expiry": date(2026, 8, 27),
        "strike": Decimal("370.75"),
        "tick_size": Decimal("0.05"),
        "lot_size": 2025,
        **fields,
    }


def to_csv(instruments: Iterable[Mapping[str, Any]], *, line_end: str = "\n") -> bytes:
    """The instruments as Kite's dump."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerow(KITE_COLUMNS)
    for row in instruments:
        values = {"last_price": "0.0", **row}
        writer.writerow(["" if values[c] is None else str(values[c]) for c in KITE_COLUMNS])
    return text.getvalue().encode("utf-8")
