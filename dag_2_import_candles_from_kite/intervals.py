"""What Kite knows of intervals, and a request for the candles of one instrument.

Spans are half-open: a request is for the candles that begin at `begin` or later, and before `end`.
"""

from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import NamedTuple


class Interval(NamedTuple):
    """An interval of candles: its name in Kite's routes, its length, the longest span of a request.

    A day's candle begins at midnight in India; others begin at whole steps of the session.
    """

    name: str
    minutes: int
    longest_days: int

    @property
    def is_day(self) -> bool:
        """Whether a candle is a day's."""
        return self.name == "day"

    @property
    def length(self) -> timedelta:
        """From the start of a candle to its end."""
        return timedelta(minutes=self.minutes)


INTERVALS: Mapping[str, Interval] = {
    each.name: each
    for each in (
        Interval("minute", 1, 60),
        Interval("3minute", 3, 100),
        Interval("5minute", 5, 100),
        Interval("10minute", 10, 100),
        Interval("15minute", 15, 200),
        Interval("30minute", 30, 200),
        Interval("60minute", 60, 400),
        Interval("day", 1440, 2000),
    )
}

# When an exchange's session ends, in India; after it the day's candle runs no longer. MCX closes at
# 23:55 in winter. Of others a day's candle counts when the day is over.
CLOSES: Mapping[str, time] = {
    **dict.fromkeys(("NSE", "BSE", "NFO", "BFO"), time(15, 30)),
    **dict.fromkeys(("CDS", "BCD"), time(17, 0)),
    **dict.fromkeys(("MCX", "NCO"), time(23, 55)),
}


class Request(NamedTuple):
    """A request for the candles of [begin, end) of a token; `has_oi` asks for open interest."""

    token: int
    interval: Interval
    begin: datetime
    end: datetime
    has_oi: bool = False
