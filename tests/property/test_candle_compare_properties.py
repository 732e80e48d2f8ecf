"""The factor of an adjustment is found from rounded prices, and none where there is none."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from dag_2_import_candles_from_kite.answers import Candle
from dag_2_import_candles_from_kite.compare import compare, find_factor
from shared.calendar import IST

FIRST = datetime(2026, 11, 2, tzinfo=IST)
HALF_PAISA = Fraction(1, 200)

raw_prices = st.one_of(
    st.integers(1, 10**5), st.integers(1, 10**9), st.integers(10**12, 10**13)
).map(lambda number: Decimal(number).scaleb(-3))
factors = st.one_of(
    st.sampled_from(
        [Fraction(*each) for each in ((3, 4), (1, 2), (1, 10), (1, 3), (5, 6), (2, 1))]
    ),
    st.integers(1, 20_000).map(lambda number: Fraction(number, 10_000)),
    st.fractions(Fraction(1, 100), 20, max_denominator=1000),
)


def paise(price: Fraction | Decimal) -> Decimal:
    """Rounded as Kite's prices are; the least is a paisa."""
    exact = Fraction(price) * 100
    whole = Decimal(exact.numerator) / Decimal(exact.denominator)
    return max(Decimal(1), whole.quantize(Decimal(1), ROUND_HALF_UP)).scaleb(-2)


def explains(factor: Decimal, old: Decimal, new: Decimal) -> bool:
    """Whether a raw price that was rounded to `old`, times the factor, is rounded to `new`."""
    low = (Fraction(old) - HALF_PAISA) * Fraction(factor)
    high = (Fraction(old) + HALF_PAISA) * Fraction(factor)
    room = Fraction(old) / 10**10  # the factor has ten decimals
    return low <= Fraction(new) + HALF_PAISA + room and Fraction(new) - HALF_PAISA - room <= high


@given(st.lists(raw_prices, min_size=1, max_size=20), factors)
def test_factor_explains_all_prices(raws: list[Decimal], factor: Fraction) -> None:
    """Whatever the raw prices were, the old ones were rounded, and so were the new ones."""
    pairs = [(paise(raw), paise(Fraction(raw) * factor)) for raw in raws]
    assume(all(Fraction(raw) * min(factor, Fraction(1)) >= HALF_PAISA for raw in raws))
    found = find_factor(pairs)
    if found is None:  # then 1 explains them as well, or the factor is 1
        assert all(explains(Decimal(1), *pair) for pair in pairs)
    else:
        assert found > 0
        assert all(explains(found, *pair) for pair in pairs)


@given(st.lists(raw_prices, min_size=1, max_size=20), factors)
def test_factor_is_as_simple_as_the_true_one(raws: list[Decimal], factor: Fraction) -> None:
    raws = [raw for raw in raws if raw > 1000]
    assume(raws and abs(factor - 1) > Fraction(1, 1000))
    found = find_factor([(paise(raw), paise(Fraction(raw) * factor)) for raw in raws])
    assert found is not None
    simplest = Fraction(found).limit_denominator(factor.denominator)
    assert simplest.denominator <= factor.denominator
    assert abs(Fraction(found) - simplest) <= Fraction(1, 10**10)
    least = min(Fraction(raw) for raw in raws)
    room = 2 * HALF_PAISA * (1 + factor) / (least - HALF_PAISA) + Fraction(1, 10**10)
    assert abs(Fraction(found) - factor) <= room


@given(
    st.lists(st.integers(1000, 10**7), min_size=2, max_size=20, unique=True),
    st.integers(0, 19),
    st.integers(-99, 300),
)
def test_change_of_one_price_is_no_factor(numbers: list[int], which: int, percent: int) -> None:
    """All others are as they were, so 1 is the only factor that may be."""
    prices = [Decimal(number).scaleb(-2) for number in numbers]
    changed = list(prices)
    changed[which % len(prices)] = paise(prices[which % len(prices)] * (100 + percent) / 100)
    assert find_factor(list(zip(prices, changed))) is None


@given(st.lists(st.tuples(raw_prices, raw_prices), min_size=2, max_size=8))
def test_factor_of_unrelated_prices_explains_them_all_the_same(
    raws: list[tuple[Decimal, Decimal]],
) -> None:
    pairs = [(paise(old), paise(new)) for old, new in raws]
    found = find_factor(pairs)
    assert found is None or (found > 0 and all(explains(found, *pair) for pair in pairs))


days = st.integers(0, 9)
changes = st.dictionaries(days, st.sampled_from(["missing", "open", "volume"]), max_size=5)


@given(st.sets(days), st.sets(days), changes)
def test_compare_finds_what_is_off(
    stored_days: set[int], extra: set[int], changed: dict[int, str]
) -> None:
    stored = [_candle(day) for day in sorted(stored_days)]
    answer = {day: _candle(day) for day in stored_days | extra}
    for day, what in changed.items():
        if what == "missing":
            answer.pop(day, None)
        elif day in answer:
            value: Any = 7 if what == "volume" else Decimal(7)
            answer[day] = answer[day]._replace(**{what: value})
    answered = [answer[day] for day in sorted(answer)]
    comparison = compare(stored, answered)
    reached = [day for day in sorted(stored_days) if answer and day >= min(answer)]
    assert [candle.ts for candle in comparison.compared] == [_at(day) for day in reached]
    off = [day for day in reached if answer.get(day) != _candle(day)]
    assert comparison.off == [(_candle(day), answer.get(day)) for day in off] or not answered
    assert comparison.is_oldest_off == (bool(off) and off[0] == reached[0])


def _at(day: int) -> datetime:
    return FIRST + timedelta(days=day)


def _candle(day: int) -> Candle:
    price = Decimal(100 + day)
    return Candle(_at(day), price, price + 2, price - 2, price + 1, 1000, None)
