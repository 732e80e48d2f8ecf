"""Kite's instrument dump: bytes to typed rows and rejects; pure."""

from typing import NamedTuple

from shared.feed import Batch
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.csv_rows import parse_csv

# The columns that are stored, in the order in which Kite's dump has them.
KITE_ORDER = (
    *("instrument_token", "exchange_token", "tradingsymbol", "name", "expiry", "strike"),
    *("tick_size", "lot_size", "instrument_type", "segment", "exchange"),
)


class WrittenKey(NamedTuple):
    """What a row is known by, as it is written."""

    token: str
    exchange: str
    symbol: str


def parse_dump(body: bytes, *, is_whole: bool = True) -> Batch:
    """Read an instrument dump, as `parse_csv` reads a list.

    Returns rows as dicts with the eleven columns that are stored and `line_number`; whether they
    fit the table is for `check_instrument` to tell. The key of a rejected row is a WrittenKey's.
    """
    return parse_csv(
        body,
        INSTRUMENT_TABLE.columns,
        is_whole=is_whole,
        title="Kite's instrument list",
        key=("instrument_token", "exchange", "tradingsymbol"),
        is_checked=False,
    )
