"""Made-up candles, and a shelf for them in memory, which does what DAG 2's tables do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal

from dag_2_import_candles_from_kite.answers import Candle
from dag_2_import_candles_from_kite.compare import Comparison, compare
from dag_2_import_candles_from_kite.jobs import History
from dag_2_import_candles_from_kite.plan import Covered, Span, add_covered, is_final
from dag_2_import_candles_from_kite.store import Adjustment, Series
from shared.calendar import IST

_PAISA = Decimal("0.01")


def make_candle(ts: datetime, price: Decimal | str | float = 100, volume: int = 1000) -> Candle:
    """A candle whose prices are around one, in whole paise."""
    close = max(_PAISA, _round(Decimal(price)))
    opened = max(_PAISA, _round(close * Decimal("0.99")))
    high, low = _round(close * Decimal("1.02")), max(_PAISA, _round(close * Decimal("0.97")))
    return Candle(ts, opened, max(high, close), low, close, volume, None)


def scale(candle: Candle, factor: Decimal) -> Candle:
    """The candle after an adjustment, rounded as Kite's are."""
    prices = [_round(price * factor) for price in candle[1:5]]
    return Candle._make((candle.ts, *prices, candle.volume, candle.oi))


def _round(price: Decimal) -> Decimal:
    return price.quantize(_PAISA, ROUND_HALF_UP)


class MemoryShelf:
    """Candles and coverage of one series."""

    def __init__(
        self, now: datetime, candles: Iterable[Candle] = (), covered: Iterable[Covered] = ()
    ) -> None:
        self.now = now
        self.candles = {candle.ts: candle for candle in candles}
        self.covered = list(covered)
        self.adjustments: list[Adjustment] = []
        self.corrections: list[Comparison] = []
        self.replaced = 0

    def merge(
        self,
        series: Series,
        span: Span,
        candles: Sequence[Candle],
        is_accepted: Callable[[Comparison], bool],
    ) -> tuple[Comparison, bool]:
        """Store an answer in place of what is there, unless what is off is not accepted."""
        stored = [self.candles[ts] for ts in sorted(self.candles) if span.begin <= ts < span.end]
        final = [c for c in stored if is_final(self.covered, c.ts)]
        comparison = compare(final, candles, series.elsewhere)
        every = compare(stored, candles, series.elsewhere)
        if not comparison.compared and every.factor is not None:
            comparison = every
        if comparison.off:
            if not is_accepted(comparison):
                return comparison, False
            self.corrections.append(comparison)
        for old, _ in every.off:
            del self.candles[old.ts]
        self.candles |= {candle.ts: candle for candle in candles}
        self.covered = add_covered(self.covered, span, self.now)
        return comparison, True

    def replace(self, history: History, adjustment: Adjustment | None) -> None:
        """Put a whole history in place of what is there, and scale what it does not reach."""
        assert history.first is not None
        history.file.seek(0)
        lines = [line.decode().split("\t") for line in history.file.read().splitlines()]
        new = [_read(line) for line in lines]
        assert [candle.ts for candle in new] == sorted({candle.ts for candle in new})
        assert (len(new), new[0].ts) == (history.count, history.first)
        factor = adjustment.factor if adjustment else Decimal(1)
        for ts in [ts for ts in self.candles if ts < history.span.end]:
            old = self.candles.pop(ts)
            if ts < history.first:
                self.candles[ts] = scale(old, factor)
        self.candles |= {candle.ts: candle for candle in new}
        self.covered = add_covered(self.covered, history.span, self.now)
        self.adjustments += [adjustment] if adjustment else []
        self.replaced += 1

    def list(self) -> list[Candle]:
        """All candles, oldest first."""
        return [self.candles[ts] for ts in sorted(self.candles)]


def _read(line: Sequence[str]) -> Candle:
    ts = datetime.fromisoformat(line[2]).astimezone(IST)
    opened, high, low, close = map(Decimal, line[3:7])
    return Candle(ts, opened, high, low, close, int(line[7]), int(line[8]) if line[8] else None)
