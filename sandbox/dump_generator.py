"""Makes the instrument list of a made-up market, the same bytes for the same arguments.

    generate_dump(0)    the list of the first trading day
    generate_dump(1)    that of the next one
    describe_day(1)     what that day has changed

The mix of exchanges, segments, names, strikes and ticks is that of Kite's real list, and each
trading day changes it in the ways that real lists change: contracts expire and new ones get their
tokens, companies change their names, series, ticks and lots, and on every fifth day, the first
included, corporate actions move strikes and symbols among tokens.
"""

from collections.abc import Iterator
from datetime import date

from sandbox.market_contracts import Contracts
from sandbox.market_parts import DayChanges, Dice, Ledger, Row, format_price
from sandbox.market_shares import Shares
from sandbox.trading_calendar import trading_day

__all__ = ["DayChanges", "describe_day", "generate_dump", "trading_day"]

DEFAULT_ROWS = 117_000
DEFAULT_SEED = 2026
DEFAULT_START = date(2026, 8, 3)
MIN_ROWS = 2_000

_HEADER = (
    "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,"
    "tick_size,lot_size,instrument_type,segment,exchange\n"
)
_CONTRACT_SHARE = 0.82  # of all rows
_ROWS_PER_INDEX = 1_000


def generate_dump(
    day: int = 0,
    *,
    rows: int = DEFAULT_ROWS,
    seed: int = DEFAULT_SEED,
    start: date = DEFAULT_START,
) -> bytes:
    """Return the instrument list of a trading day, as CSV in UTF-8.

    Args:
        day: Which trading day, from 0.
        rows: How many rows the list of day 0 has; later ones have about as many.
        seed: Another market for another number.
        start: Day 0, or a day before it if the exchanges are closed on it.

    Raises:
        ValueError: `day` is negative or `rows` below `MIN_ROWS`.
    """
    market, _ = _build_market(day, rows, seed, start)
    return "".join([_HEADER, *map(_render, market.list_rows())]).encode()


def describe_day(
    day: int,
    *,
    rows: int = DEFAULT_ROWS,
    seed: int = DEFAULT_SEED,
    start: date = DEFAULT_START,
) -> DayChanges:
    """Return what changed from the trading day before to `day`; on day 0 everything is new."""
    return _build_market(day, rows, seed, start)[1]


class _Market:
    """All that is listed on a day."""

    def __init__(self, today: date, row_count: int, dice: Dice) -> None:
        self._ledger = Ledger(dice)
        self._contracts = Contracts(today, int(row_count * _CONTRACT_SHARE), self._ledger)
        share_count = row_count - self._ledger.listed
        index_count = max(10, row_count // _ROWS_PER_INDEX)
        self._shares = Shares(today, share_count, index_count, self._ledger)
        self.changes = self._ledger.make_changes(today)

    def list_rows(self) -> Iterator[Row]:
        """Yield every row, in the list's order."""
        yield from self._shares.list_rows()
        yield from self._contracts.list_rows()

    def advance(self, day: int, today: date, dice: Dice) -> None:
        """Let the next trading day begin."""
        self._ledger.begin_day(dice)
        self._contracts.advance(day, today)
        self._shares.advance(day, today)
        self.changes = self._ledger.make_changes(today)


def _build_market(day: int, rows: int, seed: int, start: date) -> tuple[_Market, DayChanges]:
    """Make day 0 and let the days pass: each costs little, as only changes are worked out."""
    if day < 0:
        raise ValueError(f"day: expected 0 or more, got {day}")
    if rows < MIN_ROWS:
        raise ValueError(f"rows: expected {MIN_ROWS} or more, got {rows}")
    today = trading_day(0, start)
    market = _Market(today, rows, Dice(seed, 0))
    for number in range(1, day + 1):
        today = trading_day(1, today)
        market.advance(number, today, Dice(seed, number))
    return market, market.changes


def _render(row: Row) -> str:
    """Return a row as a line of CSV."""
    segment = row.segment
    name = row.name
    if "," in name or '"' in name:
        name = '"' + name.replace('"', '""') + '"'
    return (
        f"{row.token << 8 | segment.code},{row.token},{row.symbol},{name},0.0,{row.expiry},"
        f"{format_price(row.strike)},{row.tick},{row.lot},{row.kind},{segment.name},"
        f"{segment.exchange}\n"
    )
