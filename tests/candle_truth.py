"""What Kite has of candles at a moment: the truth that tests own, of real shares or made-up ones.

Bars are as they were traded. What Kite serves of them at a moment is worked out here, by itself:
adjusted by every adjustment whose day has come, with the corrections that it has made by then.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from shared.calendar import IST
from tests.instruments import instrument, to_csv

INDEX_TOKEN = 256265
INDEX_SYMBOL = "NIFTY 50"
PAISA = Decimal("0.01")
CLOSE = time(15, 30)
MINUTES = {"minute": 1, "3minute": 3, "5minute": 5, "15minute": 15, "60minute": 60, "day": 0}

# As the real shares were adjusted: each price before the day, times the factor (kite/FACTS.md).
REAL_ADJUSTMENTS: Mapping[str, tuple[date, Decimal]] = {
    "WIPRO": (date(2019, 3, 6), Decimal("0.75")),
    "HDFCBANK": (date(2019, 9, 19), Decimal("0.5")),
    "EICHERMOT": (date(2020, 8, 24), Decimal("0.1")),
    "IRCTC": (date(2021, 10, 28), Decimal("0.2")),
    "TATASTEEL": (date(2022, 7, 28), Decimal("0.1")),
    "BAJAJFINSV": (date(2022, 9, 13), Decimal("0.1")),
    "NESTLEIND": (date(2024, 1, 5), Decimal("0.1")),
}


class Bar(NamedTuple):
    """A candle: its start in India (without a zone), prices, volume."""

    ts: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    oi: int | None = None


class Listing(NamedTuple):
    """A token and a symbol, from the first day to the last; both count."""

    token: int
    symbol: str
    first: date = date.min
    last: date = date.max


class Correction(NamedTuple):
    """Since a moment Kite serves `bar`, as traded, in the place of the one of that start."""

    since: datetime
    interval: str
    bar: Bar


# As a row of kite_candle: ts, open, high, low, close, volume, oi.
Row = tuple[datetime, Decimal, Decimal, Decimal, Decimal, int, int | None]


@dataclass
class Share:
    """An instrument through time, whatever its symbols and tokens."""

    name: str
    listings: Sequence[Listing]
    bars: dict[str, Sequence[Bar]]
    adjustments: list[tuple[date, Decimal]] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    segment: str = "NSE"
    exchange: str = "NSE"
    expiry: date | None = None
    # Whether a token that a series has moved to serves what was traded under the one before.
    serves_all: bool = False

    _made: dict[Any, Sequence[Bar]] = field(default_factory=dict, repr=False)

    def listing(self, day: date) -> Listing | None:
        """The token and the symbol that the day's list has, if it has this share."""
        found = [each for each in self.listings if each.first <= day <= each.last]
        return found[-1] if found else None

    def served(self, token: int, interval: str, now: datetime) -> Sequence[Bar]:
        """All of a token that Kite ever has, later bars too, adjusted and corrected as of `now`.

        The same list as long as nothing changes.
        """
        day = now.astimezone(IST).date()
        factors = tuple(each for each in self.adjustments if each[0] <= day)
        corrections = tuple(
            each for each in self.corrections if each.interval == interval and each.since <= now
        )
        key = token, interval, factors, corrections
        if key not in self._made:
            corrected = {each.bar.ts: each.bar for each in corrections}
            traded = [corrected.get(bar.ts, bar) for bar in self.bars.get(interval, [])]
            self._made[key] = [
                adjust(bar, factors) for bar in traded if self._was_under(token, bar.ts.date())
            ]
        return self._made[key]

    def rows(self, interval: str, now: datetime, tokens: Collection[int]) -> list[Row]:
        """What has to be stored at a moment: what is over of all that these tokens serve of it."""
        mine = {each.token for each in self.listings}.intersection(tokens)
        bars = {bar for token in mine for bar in self.served(token, interval, now)}
        return [
            (bar.ts.replace(tzinfo=IST), *bar[1:])
            for bar in sorted(bars)
            if end_of(bar.ts, interval) <= now
        ]

    def forget(self) -> None:
        """The bars themselves were changed."""
        self._made.clear()

    def _was_under(self, token: int, day: date) -> bool:
        mine = [each for each in self.listings if each.token == token]
        if self.serves_all:
            return bool(mine) and day <= max(each.last for each in mine)
        return any(each.first <= day <= each.last for each in mine)


def end_of(start: datetime, interval: str) -> datetime:
    """When a candle runs no longer."""
    if interval == "day":
        return datetime.combine(start.date(), CLOSE, IST)
    return (start + timedelta(minutes=MINUTES[interval])).replace(tzinfo=IST)


def adjust(bar: Bar, factors: Iterable[tuple[date, Decimal]]) -> Bar:
    """The bar with its prices times the factors of all later days, rounded once."""
    product = Decimal(1)
    for day, factor in factors:
        if bar.ts.date() < day:
            product *= factor
    if product == 1:
        return bar
    first, high, low, close = (
        (price * product).quantize(PAISA, ROUND_HALF_UP) for price in bar[1:5]
    )
    return bar._replace(open=first, high=high, low=low, close=close)


@dataclass
class Market:
    """All shares at a moment: the list, and the candles of each token, as Kite serves them.

    `told` are the tokens of the lists so far: nobody can ask for others.
    """

    shares: list[Share]
    now: datetime
    told: set[int] = field(default_factory=set)

    def listed(self) -> Iterator[tuple[Share, Listing]]:
        """Today's list."""
        for share in self.shares:
            if (listing := share.listing(self.now.date())) is not None:
                yield share, listing

    def dump(self) -> bytes:
        """Today's list, as Kite's CSV; a price in it is another one each day."""
        self.told |= {listing.token for _, listing in self.listed()}
        return to_csv(
            instrument(
                listing.token,
                listing.symbol,
                share.exchange,
                name=share.name,
                instrument_type="EQ" if share.expiry is None else "FUT",
                segment=share.segment,
                expiry=share.expiry,
                strike=Decimal(0),
                lot_size=1,
                last_price=self.now.toordinal(),
            )
            for share, listing in self.listed()
        )

    def share(self, name: str) -> Share:
        """A share by its name."""
        [found] = [share for share in self.shares if share.name == name]
        return found

    def keys(self, names: Iterable[str] | None = None) -> list[str]:
        """How parameters.instruments names them today: those of these names, or all."""
        wanted = None if names is None else set(names)
        return [
            f"{share.exchange}:{listing.symbol}"
            for share, listing in self.listed()
            if wanted is None or share.name in wanted
        ]

    def candles(self, token: int, interval: str) -> Sequence[Bar]:
        """All that Kite ever has of a token, as of now. Raises KeyError if it is unknown."""
        listed = [
            (each.first, share)
            for share in self.shares
            for each in share.listings
            if each.token == token and each.first <= self.now.date()
        ]
        if not listed:
            raise KeyError(token)
        return max(listed, key=lambda each: each[0])[1].served(token, interval, self.now)

    def rows(self, name: str, interval: str = "day") -> list[Row]:
        """What has to be stored now of a share."""
        return self.share(name).rows(interval, self.now, self.told)


# Made-up shares

# When the candles of a made-up day begin, by interval: few, so that a span of months has few.
STARTS: Mapping[str, Sequence[time]] = {
    "day": (time(),),
    "minute": (time(9, 15), time(12, 0), time(15, 29)),
    "60minute": (time(9, 15), time(14, 15)),
}


def weekdays(last: date, count: int) -> list[date]:
    """So many weekdays up to `last`, oldest first."""
    days: list[date] = []
    while len(days) < count:
        if last.weekday() < 5:
            days.insert(0, last)
        last -= timedelta(days=1)
    return days


def made_share(
    name: str, number: int, days: Sequence[date], intervals: Iterable[str] = ("day",)
) -> Share:
    """A share with candles on these days, unlike those of every other number."""
    bars: dict[str, Sequence[Bar]] = {
        interval: [
            make_bar(datetime.combine(day, start), 5000 * number + 13 * n + at, 31 * number + n)
            for n, day in enumerate(days)
            for at, start in enumerate(STARTS[interval])
        ]
        for interval in intervals
    }
    return Share(name, [Listing(256 * number, name)], bars)


def made_market(
    now: datetime,
    names: Sequence[str],
    days: int,
    intervals: Iterable[str] = ("day",),
) -> Market:
    """The index and these shares, with candles on so many weekdays up to today."""
    traded = weekdays(now.date(), days)
    shares = [made_share(name, n, traded, intervals) for n, name in enumerate(names, start=2)]
    return Market([make_index(traded), *shares], now)


# Real shares


def nse_folder() -> Path:
    """Where NSE's real files are, beside the project."""
    return Path(__file__).resolve().parents[2] / "shared" / "nse"


@cache
def trading_days() -> tuple[date, ...]:
    """The real ones, 2014-01-01 to 2024-07-05."""
    lines = (nse_folder() / "trading_days_2014_2024.txt").read_text().split()
    return tuple(date.fromisoformat(line) for line in lines)


def real_market(now: datetime, *, since: date = date(2019, 1, 1)) -> Market:
    """The 29 shares of NSE's daily files, and the index, from a day on."""
    index = make_index([day for day in trading_days() if day >= since])
    shares = [_real_share(name, since) for name in read_rows() if _is_after(name, since)]
    return Market([index, *shares], now)


def make_index(days: Sequence[date]) -> Share:
    """The index, with a candle on each of these days."""
    bars = [make_bar(day_start(day), 600_000 + 700 * n, n) for n, day in enumerate(days)]
    bars = [bar._replace(volume=0) for bar in bars]
    listing = Listing(INDEX_TOKEN, INDEX_SYMBOL)
    return Share(INDEX_SYMBOL, [listing], {"day": bars}, segment="INDICES")


def day_start(day: date) -> datetime:
    """Where a day's candle begins."""
    return datetime.combine(day, time())


def make_bar(ts: datetime, paise: int, seed: int) -> Bar:
    """A plausible bar that opens at so many paise; each seed gives another."""
    spread = max(paise // 100, 4)
    high, low, close = (seed * 7 % spread, seed * 11 % spread, seed * 13 % (2 * spread) - spread)
    return Bar(
        ts,
        Decimal(paise) / 100,
        Decimal(paise + spread + high) / 100,
        Decimal(max(paise - spread - low, 1)) / 100,
        Decimal(max(paise + close, 1)) / 100,
        volume=1000 + seed * 37 % 9973,
    )


@cache
def read_rows() -> Mapping[str, list[Mapping[str, str]]]:
    """The rows of each share by its last symbol, oldest first."""
    with (nse_folder() / "symbol_changes_2018_2025-06.csv").open(encoding="utf-8") as file:
        changes = [(line["date"], line["old"], line["new"]) for line in csv.DictReader(file)]
    with gzip.open(nse_folder() / "eod_2019_2024.csv.gz", "rt", encoding="utf-8") as packed:
        rows = list(csv.DictReader(packed))
    last_day = rows[-1]["date"]
    later = {old: new for day, old, new in changes if day <= last_day}
    shares: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        symbol = row["symbol"]
        while symbol in later:
            symbol = later[symbol]
        shares.setdefault(symbol, []).append(row)
    return shares


def _is_after(name: str, since: date) -> bool:
    return read_rows()[name][-1]["date"] >= since.isoformat()


def _real_share(name: str, since: date) -> Share:
    rows = [row for row in read_rows()[name] if row["date"] >= since.isoformat()]
    bars = [
        Bar(
            datetime.fromisoformat(row["date"]),
            Decimal(row["open"]),
            Decimal(row["high"]),
            Decimal(row["low"]),
            Decimal(row["close"]),
            int(row["volume"]),
        )
        for row in rows
    ]
    adjustment = REAL_ADJUSTMENTS.get(name)
    return Share(
        name, _real_listings(name, rows), {"day": bars}, [adjustment] if adjustment else []
    )


def _real_listings(name: str, rows: Sequence[Mapping[str, str]]) -> list[Listing]:
    """A rename keeps the token; another series has another token, the same each time."""
    number = sorted(read_rows()).index(name) + 1
    tokens = {"EQ": number << 8 | 1, "BE": (number + 5000) << 8 | 1}
    spells = [
        (key, date.fromisoformat(next(iter(spell))["date"]))
        for key, spell in groupby(rows, lambda row: (row["symbol"], row["series"]))
    ]
    ends = [first - timedelta(days=1) for _, first in spells[1:]]
    is_listed = date.fromisoformat(rows[-1]["date"]) == trading_days()[-1]
    ends.append(date.max if is_listed else date.fromisoformat(rows[-1]["date"]))
    return [
        Listing(tokens[series], symbol if series == "EQ" else f"{symbol}-{series}", first, end)
        for ((symbol, series), first), end in zip(spells, ends)
    ]
