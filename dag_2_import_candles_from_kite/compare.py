"""What an answer says of candles that are stored: the same, another scale, or other values.

Kite adjusts the whole history of a share for a split or a dividend, without a word: then all that
is stored before is off by one factor. Pure functions.
"""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

from dag_2_import_candles_from_kite.answers import Candle
from dag_2_import_candles_from_kite.plan import Span

_HALF_PAISA = Fraction(1, 200)  # what rounding to 0.01 can change
_FACTOR_DIGITS = Decimal("0.0000000001")


class Comparison(NamedTuple):
    """Stored candles beside an answer: those that are `off`, with the answer's (None: it has none).

    `compared` are the stored ones that the answer reaches: not those before its first candle.
    """

    compared: Sequence[Candle]
    off: Sequence[tuple[Candle, Candle | None]]

    @property
    def is_oldest_off(self) -> bool:
        """Whether what is off may begin before what was compared."""
        return bool(self.off) and self.off[0][0] == self.compared[0]

    @property
    def factor(self) -> Decimal | None:
        """The one factor that explains all that is off, from the oldest compared candle on."""
        if not self.is_oldest_off or any(new is None for _, new in self.off):
            return None
        pairs = [zip(old[1:5], new[1:5]) for old, new in self.off if new is not None]
        return find_factor(list(chain.from_iterable(pairs)))


def compare(
    stored: Sequence[Candle], answered: Sequence[Candle], elsewhere: Sequence[Span] = ()
) -> Comparison:
    """Compare stored candles with an answer that was asked for all of them. Both are in order.

    Of the spans `elsewhere` the answer need not know: what it lacks of them is not off.
    """
    if not answered:
        return Comparison((), ())
    new = {candle.ts: candle for candle in answered}
    compared = [
        candle
        for candle in stored
        if candle.ts in new
        or (
            candle.ts >= answered[0].ts
            and not any(span.begin <= candle.ts < span.end for span in elsewhere)
        )
    ]
    off = [(old, new.get(old.ts)) for old in compared if new.get(old.ts) != old]
    return Comparison(compared, off)


def find_factor(prices: Sequence[tuple[Decimal, Decimal]]) -> Decimal | None:
    """The simplest factor that leads from each old price to the new one; None if there is none.

    Both were rounded to 0.01. None also where a factor of 1 explains them all.
    """
    low, high = Fraction(0), Fraction(10**12)
    for old, new in prices:
        before, after = Fraction(old), Fraction(new)
        low = max(low, (after - _HALF_PAISA) / (before + _HALF_PAISA))
        if before > _HALF_PAISA:
            high = min(high, (after + _HALF_PAISA) / (before - _HALF_PAISA))
    if not 0 < low <= high or low <= 1 <= high:
        return None
    simplest = _find_simplest(low, high)
    factor = Decimal(simplest.numerator) / Decimal(simplest.denominator)
    return factor.quantize(_FACTOR_DIGITS) if _FACTOR_DIGITS <= factor < 10**6 else None


def _find_simplest(low: Fraction, high: Fraction) -> Fraction:
    """The fraction with the smallest denominator in [low, high]."""
    whole = -(-low.numerator // low.denominator)  # the next whole number
    if whole <= high:
        return Fraction(whole)
    below = whole - 1
    return below + 1 / _find_simplest(1 / (high - below), 1 / (low - below))
