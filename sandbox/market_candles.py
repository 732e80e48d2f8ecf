"""The candles of the made-up market, the same for the same day: what Kite would have, unadjusted.

A year before the market's first day they begin, and lead to the market's prices of that day. Later
days add theirs. A day's candle is what its minutes make together.
"""

import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from itertools import accumulate, groupby
from typing import NamedTuple

from sandbox.market_ledger import DATA, is_trading_day, trading_day

# Of a candle, in minutes.
LENGTHS: Mapping[str, int] = {
    "minute": 1,
    "3minute": 3,
    "5minute": 5,
    "10minute": 10,
    "15minute": 15,
    "30minute": 30,
    "60minute": 60,
    "day": 1440,
}
OPENS, CLOSES = time(9, 15), time(15, 30)  # NSE and its derivatives, in India
FIRST_DAY = trading_day(0).replace(year=trading_day(0).year - 1)

# When sessions begin, and their minutes: an evening of Muhurat, and a Saturday with two parts.
_USUAL = ((OPENS, 375),)
_UNUSUAL = {
    date(2025, 10, 21): ((time(18, 15), 60),),
    date(2026, 3, 7): ((time(9, 15), 45), (time(11, 30), 60)),
}
_PRICES = {
    name: int(price)
    for name, _, price in (stock.partition(":") for stock in " ".join(DATA["stocks"]).split())
}
_STOCKS = list(_PRICES)
_INDICES = {"NIFTY 50": "NIFTY", "NIFTY BANK": "BANKNIFTY"}  # and what their futures begin with
_LEVELS = {line.split()[1]: int(line.split()[2]) for line in DATA["underlyings"][:2]}
# Shares without contracts: their strikes would have to follow.
_OTHERS = {"ITDCEM": 812, "J&KBANK": 104, "GVT&D": 3185}
_KNOWN = [*_STOCKS[:23], *_OTHERS]
_SPLIT, _DIVIDEND, _MISTAKEN = "GVT&D", "J&KBANK", "TCS"
_FUTURE_DAYS = 92  # from a future's first day to its last
_TICK = 5  # paise
_SEED = 2026


class Candle(NamedTuple):
    """A candle that begins at `ts`, naive and in India; a day's begins at midnight."""

    ts: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    oi: int = 0


class Adjustment(NamedTuple):
    """From `before` on Kite has other prices for all days before it: the old ones by a factor."""

    token: int
    factor: Decimal
    before: date


class Mistake(NamedTuple):
    """A candle whose open is wrong today, and right from tomorrow on."""

    token: int
    ts: datetime
    open: Decimal


class _Bar(NamedTuple):
    """A candle in paise."""

    ts: datetime
    open: int
    high: int
    low: int
    close: int
    volume: int
    oi: int


@dataclass(frozen=True)
class _Instrument:
    """One of today's list. `name` stays when its symbol does not; `level` is of its first day."""

    token: int
    key: str
    name: str
    level: int
    expiry: date | None = None


class MarketCandles:
    """What the market has of about 30 instruments until the evening of a trading day."""

    def __init__(self, dump: bytes, day: date) -> None:
        """Look the instruments up in the day's list; those that it lacks are left out."""
        self.day = day
        self._instruments = {each.token: each for each in _find_instruments(dump, day)}
        self._cache: dict[tuple[int, str], list[Candle]] = {}

    @property
    def keys(self) -> list[str]:
        """The instruments, such as NSE:INFY."""
        return [each.key for each in self._instruments.values()]

    @property
    def tokens(self) -> dict[str, int]:
        """The tokens of the instruments, by their keys."""
        return {each.key: each.token for each in self._instruments.values()}

    def candles(self, token: int, interval: str) -> list[Candle]:
        """All that there are, unadjusted, oldest first. Raises KeyError for an unknown token.

        Minutes of a year take a second for each instrument.
        """
        instrument = self._instruments[token]
        if (token, interval) not in self._cache:
            bars = _make_days(instrument, self.day)
            if interval != "day":
                minutes = (bar for day in bars for bar in _make_minutes(instrument.name, day))
                bars = _join(minutes, LENGTHS[interval])
            self._cache[token, interval] = [_to_candle(bar) for bar in bars]
        return self._cache[token, interval]

    def list_adjustments(self) -> list[Adjustment]:
        """All until today, oldest first."""
        found = []
        for instrument in self._instruments.values():
            for before, factor in _list_factors(instrument.name, self.day):
                found.append(Adjustment(instrument.token, factor, before))
        return sorted(found, key=lambda each: each.before)

    def list_mistakes(self) -> list[Mistake]:
        """Those of today: the market's second day has one."""
        if self.day != trading_day(1):
            return []
        found = []
        for token, instrument in self._instruments.items():
            if instrument.name == _MISTAKEN:
                last = self.candles(token, "day")[-1]
                wrong = last.low if last.open != last.low else last.high
                found.append(Mistake(token, last.ts, wrong))
        return found


@cache
def list_days(last: date) -> Sequence[date]:
    """The days with a session from `FIRST_DAY` to `last`."""
    days = (FIRST_DAY + timedelta(number) for number in range((last - FIRST_DAY).days + 1))
    return [day for day in days if day in _UNUSUAL or is_trading_day(day)]


def list_minutes(day: date) -> list[datetime]:
    """The minutes of a day with a session."""
    return [
        datetime.combine(day, begin) + timedelta(minutes=number)
        for begin, minutes in _UNUSUAL.get(day, _USUAL)
        for number in range(minutes)
    ]


def _find_instruments(dump: bytes, day: date) -> Iterator[_Instrument]:
    """Look for the indices, the shares, and the indices' next futures."""
    for symbol, stem in _INDICES.items():
        yield from _find(dump, "NSE", symbol, symbol, _LEVELS[stem])
    old, new, _ = DATA["first_rename"]
    for name in _KNOWN:
        symbol = new if name == old and day >= trading_day(1) else name
        yield from _find(dump, "NSE", symbol, name, _PRICES.get(name) or _OTHERS[name])
    for symbol, stem in _INDICES.items():
        months = re.findall(rb",(%s\w+FUT),[^\n]*,NFO-FUT,NFO" % stem.encode(), dump)
        found = [f for each in months for f in _find(dump, "NFO", each.decode(), symbol, 0)]
        yield from sorted(found, key=lambda each: each.expiry or day)[:1]


def _find(dump: bytes, exchange: str, symbol: str, name: str, level: int) -> Iterator[_Instrument]:
    """Find a line of the list; one that is broken is not found."""
    line = re.search(
        rb"^(\d+),\d+,%s,[^\n]*?,0\.0,([\d-]*),[^\n]*,%s\r?$"
        % (re.escape(symbol.encode()), exchange.encode()),
        dump,
        re.MULTILINE,
    )
    if line is not None:
        expiry = date.fromisoformat(line[2].decode()) if line[2] else None
        key = f"{exchange}:{symbol}"
        yield _Instrument(int(line[1]), key, name, level, expiry)


def _make_days(instrument: _Instrument, last: date) -> list[_Bar]:
    if instrument.expiry is None:
        return _walk(instrument.name, instrument.level, last)
    level = _LEVELS[_INDICES[instrument.name]]
    first = instrument.expiry - timedelta(_FUTURE_DAYS)
    bars = _walk(instrument.name, level, min(last, instrument.expiry))
    return [_carry(bar, instrument.expiry) for bar in bars if bar.ts.date() >= first]


def _walk(name: str, level: int, last: date) -> list[_Bar]:
    """The days of an instrument, whose close on the market's first day is `level` rupees."""
    days = list_days(last)
    middle = days.index(trading_day(0))
    factors = dict(_list_factors(name, last))
    moves = [9_800 + _dice(name, "move", day)(401) for day in days]  # a day changes 2% at most
    back = accumulate(
        reversed(moves[1 : middle + 1]),
        lambda close, move: _round(close * 10_000, move),
        initial=level * 100,
    )
    closes = list(back)[::-1]
    befores = [_round(closes[0] * 10_000, moves[0])]
    befores += closes[:-1]
    for day, move in zip(days[middle + 1 :], moves[middle + 1 :], strict=True):
        factor = factors.get(day, Decimal(1))
        befores.append(_round(int(closes[-1] * factor * 10_000), 10_000))
        closes.append(_round(befores[-1] * move, 10_000))
    return [_make_day(name, *each) for each in zip(days, befores, closes, strict=True)]


def _make_day(name: str, day: date, before: int, close: int) -> _Bar:
    below = _dice(name, "day", day)
    opened = _round(before * (9_950 + below(101)), 10_000)
    high = _round(max(opened, close) * (10_000 + below(90)), 10_000)
    low = _round(min(opened, close) * (10_000 - below(90)), 10_000)
    minutes = sum(each for _, each in _UNUSUAL.get(day, _USUAL))
    volume = 0 if name in _INDICES else (20_000 + below(40_000)) * 100_000 // before * minutes
    return _Bar(datetime.combine(day, time()), opened, high, low, close, volume, 0)


def _carry(bar: _Bar, expiry: date) -> _Bar:
    """The day of a future: the index's with the interest until the expiry."""
    left = (expiry - bar.ts.date()).days
    prices = [_round(price * (10_000 + 2 * left), 10_000) for price in bar[1:5]]
    below = _dice("future", expiry.isoformat(), bar.ts.date())
    traded = 20_000 * (_FUTURE_DAYS - left) + below(200_000)
    return _Bar._make((bar.ts, *prices, traded, traded * 3 + below(100_000)))


def _make_minutes(name: str, day: _Bar) -> Iterator[_Bar]:
    """Minutes that make this day: its open, high, low, close and volume are theirs."""
    below = _dice(name, "minute", day.ts.date())
    starts = list_minutes(day.ts.date())
    number = len(starts)
    first, second = 1 + below(number // 2 - 1), number // 2 + below(number // 2 - 1)
    extremes = (day.high, day.low) if below(2) else (day.low, day.high)
    path = [day.open]
    for begin, end, goal in (
        (0, first, extremes[0]),
        (first, second, extremes[1]),
        (second, number - 1, day.close),
    ):
        start = path[-1]
        for step in range(1, end - begin + 1):
            way = start * (end - begin - step) + goal * step
            path.append(_round(way, end - begin))
    weights = [50 + below(101) for _ in starts]
    volumes = [day.volume * weight // sum(weights) for weight in weights]
    volumes[-1] += day.volume - sum(volumes)
    opened = day.open
    for ts, close, volume in zip(starts, path, volumes, strict=True):
        high = min(day.high, max(opened, close) + _TICK * below(4))
        low = max(day.low, min(opened, close) - _TICK * below(4))
        yield _Bar(ts, opened, high, low, close, volume, day.oi)
        opened = close


def _join(minutes: Iterator[_Bar], length: int) -> list[_Bar]:
    """Candles of `length` minutes, whose steps are counted from 09:15."""

    def start(bar: _Bar) -> datetime:
        begin = datetime.combine(bar.ts.date(), OPENS)
        return begin + (bar.ts - begin) // timedelta(minutes=length) * timedelta(minutes=length)

    return [_sum_up(ts, list(bars)) for ts, bars in groupby(minutes, start)]


def _sum_up(ts: datetime, bars: Sequence[_Bar]) -> _Bar:
    high, low = max(bar.high for bar in bars), min(bar.low for bar in bars)
    volume = sum(bar.volume for bar in bars)
    return _Bar(ts, bars[0].open, high, low, bars[-1].close, volume, bars[-1].oi)


def _list_factors(name: str, last: date) -> Iterator[tuple[date, Decimal]]:
    """The adjustments of a share until a day. Those of a dividend of 5% are the contracts' too."""
    if name == _SPLIT:
        yield from _until(last, 1, Decimal("0.1"))
    elif name == _DIVIDEND:
        yield from _until(last, 3, Decimal("0.98"))
    elif name in _STOCKS and _STOCKS.index(name) % 2 == 0:
        # As in Contracts.advance, whose list of stocks comes to its end much later.
        yield from _until(last, _STOCKS.index(name) // 2 * 5 + 1, Decimal("0.95"))


def _until(last: date, day: int, factor: Decimal) -> Iterator[tuple[date, Decimal]]:
    if trading_day(day) <= last:
        yield trading_day(day), factor


def _dice(name: str, purpose: str, day: date) -> Callable[[int], int]:
    """What gives numbers from 0 to its argument - 1, the same ones on every Python."""
    seed = zlib.crc32(f"{_SEED} {name} {purpose} {day}".encode())
    throw = random.Random(seed).random
    return lambda limit: int(throw() * limit)


def _round(dividend: int, divisor: int) -> int:
    """The quotient in whole ticks, in paise; never below one tick."""
    return max(_TICK, (2 * dividend + divisor * _TICK) // (2 * divisor * _TICK) * _TICK)


def _to_candle(bar: _Bar) -> Candle:
    prices = [Decimal(price).scaleb(-2) for price in bar[1:5]]
    return Candle._make((bar.ts, *prices, bar.volume, bar.oi))
