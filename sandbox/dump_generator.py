"""Makes the instrument list of a made-up market, the same bytes for the same arguments.

The mix of exchanges, segments, names, strikes and ticks is that of Kite's real list, and each
trading day changes it in the ways that real lists change: contracts expire and new ones get their
tokens, companies change their names, series, ticks and lots, and on every fifth day, the first
included, corporate actions move strikes and symbols among tokens.
"""

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

from sandbox.kite_faults import CSV_HEADER
from sandbox.market_contracts import Contracts, format_price
from sandbox.market_ledger import DATA, DayChanges, Ledger, Row
from sandbox.market_shares import Shares

DEFAULT_ROWS: int = DATA["rows"]
MIN_ROWS = 2_000
_CONTRACT_SHARE = 0.82  # of all rows


class Rename(NamedTuple):
    """A company that has another symbol from a day on; `company` is its name since."""

    on: date
    company: str
    old: str
    new: str


def generate_dump(day: int = 0, *, rows: int = DEFAULT_ROWS) -> bytes:
    """The instrument list of a trading day, from 0, as CSV in UTF-8.

    That of day 0 has `rows` rows, later ones have about as many. Raises ValueError if `day` is
    negative or `rows` below `MIN_ROWS`.
    """
    shares, contracts, _ = _build_market(day, rows)
    lines = map(_render, (*shares.list_rows(), *contracts.list_rows()))
    return CSV_HEADER + "".join(lines).encode()


def describe_day(day: int, *, rows: int = DEFAULT_ROWS) -> DayChanges:
    """What changed from the trading day before to `day`; on day 0 everything is new."""
    return _build_market(day, rows)[2].changes


def list_renames(day: int, *, rows: int = DEFAULT_ROWS) -> list[Rename]:
    """The renames of NSE's companies up to `day`, that day's too, oldest first."""
    renames = []
    for shares, _, ledger in _live(day, rows):
        names = {row.symbol: row.name for row in shares.list_rows() if row.exchange == "NSE"}
        for exchange, old, new in ledger.changes.renamed:
            if exchange == "NSE":
                renames.append(Rename(ledger.changes.on, names[new], old, new))
    return renames


def _build_market(day: int, rows: int) -> tuple[Shares, Contracts, Ledger]:
    """The market on a day."""
    *_, market = _live(day, rows)
    return market


def _live(day: int, rows: int) -> Iterator[tuple[Shares, Contracts, Ledger]]:
    """The market, the same one each time, on each day from 0 to `day`.

    Each costs little, as only changes are worked out.
    """
    if day < 0:
        raise ValueError(f"day: expected 0 or more, got {day}")
    if rows < MIN_ROWS:
        raise ValueError(f"rows: expected {MIN_ROWS} or more, got {rows}")
    ledger = Ledger()
    contracts = Contracts(int(rows * _CONTRACT_SHARE), ledger)
    shares = Shares(rows - ledger.changes.listed, max(10, rows // 1000), ledger)
    yield shares, contracts, ledger
    for _ in range(day):
        ledger.begin_day()
        contracts.advance()
        shares.advance()
        yield shares, contracts, ledger


def _render(row: Row) -> str:
    """A row as a line of CSV; BSE's names are cut, often after a blank."""
    name = row.name[:30] if row.exchange == "BSE" else row.name
    if "," in name or '"' in name:
        name = '"' + name.replace('"', '""') + '"'
    return (
        f"{row.token << 8 | row.code},{row.token},{row.symbol},{name},0.0,{row.expiry},"
        f"{format_price(row.strike)},{row.tick},{row.lot},{row.kind},{row.segment},{row.exchange}\n"
    )
