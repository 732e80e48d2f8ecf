"""The candles of an instrument and an interval as Kite has them now, and their rows in JSON."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from math import prod
from typing import Any

from sandbox.market_candles import LENGTHS, Candle

_PAISA = Decimal("0.01")


class Series:
    """The candles of a token and an interval, corrected and adjusted; rows are rendered once."""

    def __init__(
        self,
        candles: Sequence[Candle],
        interval: str,
        corrections: Mapping[datetime, Mapping[str, Any]],
        factors: Sequence[tuple[date, Decimal]],
        session: tuple[time, time],
    ) -> None:
        """Take the truth, and all that Kite has made of it; `factors` are for days before a day."""
        self._source, self._length = candles, len(candles)
        self._candles = _apply(candles, corrections) if corrections else candles
        self._interval = interval
        self._factors = factors
        self._session = session
        self._stamps = [candle[0] for candle in self._candles]
        self._rows: dict[tuple[int, bool], str] = {}

    def is_of(self, candles: Sequence[Candle]) -> bool:
        """Whether this is the truth, and as long as it was."""
        return candles is self._source and len(candles) == self._length

    def find(
        self, first: datetime, last: datetime, now: datetime | None
    ) -> tuple[int, int, Candle | None]:
        """The positions of finished candles, from and to (excluded), and the running one."""
        begin = bisect_left(self._stamps, first)
        end = bisect_right(self._stamps, last)
        if now is None:
            return begin, end, None
        end = min(end, bisect_right(self._stamps, now))
        if end <= begin:
            return begin, begin, None
        starts, ends = self._span(self._stamps[end - 1])
        if now >= ends:
            return begin, end, None
        if now < starts:  # the day's before the session
            return begin, end - 1, None
        share = (now - starts) / (ends - starts)
        return begin, end - 1, _cut(self.get(end - 1), share)

    def _span(self, ts: datetime) -> tuple[datetime, datetime]:
        """When a candle begins and ends to change; the session cuts it."""
        opens, closes = (datetime.combine(ts, each) for each in self._session)
        if self._interval == "day":
            return opens, closes
        end = ts + timedelta(minutes=LENGTHS[self._interval])
        return ts, closes if ts < closes < end else end

    def get(self, position: int) -> Candle:
        """A candle; prices that are adjusted have two decimals."""
        candle = Candle(*self._candles[position])
        factors = [factor for before, factor in self._factors if candle.ts.date() < before]
        if not factors:
            return candle
        product = prod(factors, start=Decimal(1))
        prices = [(price * product).quantize(_PAISA, ROUND_HALF_UP) for price in candle[1:5]]
        return Candle._make((candle.ts, *prices, candle.volume, candle.oi))

    def render(self, position: int, *, oi: bool) -> str:
        """The row of a candle, in JSON."""
        row = self._rows.get((position, oi))
        if row is None:
            row = self._rows[position, oi] = render(self.get(position), oi=oi)
        return row


def _apply(
    candles: Sequence[Candle], corrections: Mapping[datetime, Mapping[str, Any]]
) -> list[Candle]:
    known = {candle[0]: Candle(*candle) for candle in candles}
    for ts, values in corrections.items():
        known[ts] = known[ts]._replace(**values) if ts in known else Candle(ts, **values)
    return sorted(known.values(), key=lambda candle: candle.ts)


def _cut(candle: Candle, share: float) -> Candle:
    """A candle of which only a share is over: not as low or high yet, and with less volume."""
    way = (candle.close - candle.open) * Decimal(share)
    close = (candle.open + way).quantize(_PAISA, ROUND_HALF_UP)
    close = max(candle.low, min(candle.high, close))
    high, low = max(candle.open, close), min(candle.open, close)
    return Candle(candle.ts, candle.open, high, low, close, int(candle.volume * share), candle.oi)


def render(candle: Candle, *, oi: bool) -> str:
    """The row of a candle, in JSON: whole prices are integers, as Kite has them."""
    prices = ",".join(_spell(price) for price in candle[1:5])
    end = f",{candle.oi}]" if oi else "]"
    return f'["{candle.ts.isoformat()}+0530",{prices},{candle.volume}{end}'


def _spell(price: Decimal) -> str:
    """As Kite does: 1704.5, and 1705 for a whole one."""
    text = format(price, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
