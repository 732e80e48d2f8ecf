"""Made-up candles of any instrument, for Kite's server of a benchmark: one for every day.

Prices walk in ticks of 5 paise, those of another token from another level. Weekends have candles
too, so that a measurement is the same on whatever day it is made.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache

from sandbox.market_candles import LENGTHS, OPENS, Candle

SESSION_MINUTES = 375
MINUTE_DAYS = 60  # the longest span that Kite answers of minutes
_DAYS = 30  # of day candles
_TICK = 5  # paise


class WalkingCandles:
    """What `CandleRoute` serves of any token, up to the day `last`; made when it is asked for."""

    def __init__(self, last: date) -> None:
        """Keep what was made, as the route goes by the list itself."""
        self._last = last
        self._made: dict[tuple[int, str], Sequence[Candle]] = {}

    def candles(self, token: int, interval: str) -> Sequence[Candle]:
        """Those of 60 days of minutes, or of 30 days; of other intervals none."""
        made = self._made.get((token, interval))
        if made is None:
            stamps = _list_stamps(self._last, interval)
            made = self._made[token, interval] = _walk(token, stamps)
        return made


@cache
def _list_stamps(last: date, interval: str) -> Sequence[datetime]:
    days = [last - timedelta(back) for back in range(MINUTE_DAYS)][::-1]
    if interval == "day":
        return [datetime.combine(day, time()) for day in days[-_DAYS:]]
    if interval != "minute":
        return []
    assert LENGTHS[interval] == 1
    return [
        datetime.combine(day, OPENS) + timedelta(minutes=minute)
        for day in days
        for minute in range(SESSION_MINUTES)
    ]


def _walk(token: int, stamps: Sequence[datetime]) -> Sequence[Candle]:
    throw = random.Random(token).random  # noqa: S311 - no secret
    close = 4_000 + token * 7 % 80_000  # ticks: 200 to 4,200 rupees
    candles = []
    for stamp in stamps:
        opened = close
        close = max(100, opened + int(throw() * 13) - 6)
        high, low = max(opened, close) + int(throw() * 5), min(opened, close) - int(throw() * 5)
        prices = [_to_price(ticks) for ticks in (opened, high, low, close)]
        candles.append(Candle._make((stamp, *prices, int(throw() * 50_000), 0)))
    return candles


@cache
def _to_price(ticks: int) -> Decimal:
    return Decimal(ticks * _TICK).scaleb(-2)
