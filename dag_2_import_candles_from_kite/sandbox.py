"""What the sandbox has for DAG 2: Kite's candles of the made-up market.

Each day has one more. On the second a share is split and another pays a dividend, on the third a
candle is corrected, on the fourth a third share pays a dividend; Kite adjusts their candles.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

from dag_2_import_candles_from_kite.sandbox_route import PATH, CandleRoute, ListedCandles
from sandbox.kite_server import KiteServer
from sandbox.market_candles import FIRST_DAY, MarketCandles

__all__ = ["PATH", "CandleRoute", "ListedCandles", "make_route", "open_part"]

_LIMIT = 10  # requests a second; Kite's is 3
_PACE = 9  # whoever asks at the limit exceeds it now and then


def make_route(market: MarketCandles) -> CandleRoute:
    """The route of the market's candles, adjusted as Kite has them on this day."""
    route = CandleRoute(market)
    for adjustment in market.list_adjustments():
        route.adjust(*adjustment)
    for mistake in market.list_mistakes():
        route.correct(mistake.token, "day", mistake.ts, open=mistake.open)
    return route


@contextmanager
def open_part(kite: KiteServer, day: date) -> Iterator[dict[str, dict[str, Any]]]:
    """The route, and the settings that lead to it."""
    market = MarketCandles(kite.dump() if callable(kite.dump) else kite.dump, day)
    route = make_route(market)
    route.limit_per_second = _LIMIT
    kite.add_route(PATH, route)
    yield {
        "parameters": {
            "instruments": market.keys,
            "intervals": ["day"],
            "start": FIRST_DAY.isoformat(),
            "end": day.isoformat(),
            "requests_per_second": _PACE,
        }
    }
