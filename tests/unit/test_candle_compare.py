"""An answer beside stored candles: equal, off by one factor, or off otherwise."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from dag_2_import_candles_from_kite.answers import Candle
from dag_2_import_candles_from_kite.compare import Comparison, compare, find_factor
from shared.calendar import IST
from tests.candles import make_candle, scale

FIRST = datetime(2026, 11, 2, tzinfo=IST)
PRICES = ("1704.50", "1690.05", "1755.25", "1688.00", "1701.95")
STORED = [make_candle(FIRST + timedelta(days=n), price) for n, price in enumerate(PRICES)]


def pair(old: str, new: str) -> tuple[Decimal, Decimal]:
    return Decimal(old), Decimal(new)


def moments(comparison: Comparison) -> list[int]:
    """Which candles are off, by their numbers."""
    return [(old.ts - FIRST).days for old, _ in comparison.off]


# --- compare -------------------------------------------------------------------------------------


def test_equal_candles() -> None:
    later = make_candle(FIRST + timedelta(days=7))
    for answered in (STORED, [*STORED, later]):
        comparison = compare(STORED, answered)
        assert (comparison.compared, comparison.off) == (STORED, [])
        assert not comparison.is_oldest_off
        assert comparison.factor is None


def test_prices_that_are_written_otherwise_are_equal() -> None:
    finer = [
        Candle._make((c.ts, *(p.quantize(Decimal("0.0001")) for p in c[1:5]), *c[5:]))
        for c in STORED
    ]
    assert compare(finer, STORED).off == []


def test_no_answer_compares_nothing() -> None:
    assert compare(STORED, []) == ((), ())
    assert compare([], STORED).compared == []
    assert not compare([], STORED).is_oldest_off


@pytest.mark.parametrize("field", ["open", "high", "low", "close", "volume", "oi"])
def test_changed_value(field: str) -> None:
    value: Any = 7 if field in ("volume", "oi") else Decimal("1704.55")
    changed = STORED[2]._replace(**{field: value})
    comparison = compare(STORED, [*STORED[:2], changed, *STORED[3:]])
    assert comparison.off == [(STORED[2], changed)]
    assert not comparison.is_oldest_off
    assert comparison.factor is None


def test_missing_candle() -> None:
    comparison = compare(STORED, [*STORED[:2], *STORED[3:]])
    assert comparison.off == [(STORED[2], None)]
    assert not comparison.is_oldest_off


def test_last_candles_are_missing() -> None:
    assert moments(compare(STORED, STORED[:3])) == [3, 4]


def test_extra_candle_is_new() -> None:
    assert compare([*STORED[:2], *STORED[3:]], STORED).off == []


def test_what_the_answer_does_not_reach_is_not_compared() -> None:
    assert compare(STORED, STORED[2:]) == (STORED[2:], [])
    changed = STORED[2]._replace(volume=7)
    assert compare(STORED, [changed, *STORED[3:]]).is_oldest_off


def test_factor_of_all_candles() -> None:
    half = [scale(candle, Decimal("0.5")) for candle in STORED]
    comparison = compare(STORED, half)
    assert comparison.factor == Decimal("0.5")
    assert moments(comparison) == [0, 1, 2, 3, 4]


def test_factor_of_the_candles_before_a_day() -> None:
    half = [scale(candle, Decimal("0.5")) for candle in STORED[:3]]
    assert compare(STORED, [*half, *STORED[3:]]).factor == Decimal("0.5")


def test_no_factor_of_the_candles_from_a_day_on() -> None:
    half = [scale(candle, Decimal("0.5")) for candle in STORED[3:]]
    assert compare(STORED, [*STORED[:3], *half]).factor is None


def test_no_factor_where_a_candle_is_missing() -> None:
    half = [scale(candle, Decimal("0.5")) for candle in STORED]
    assert compare(STORED, [*half[:2], *half[3:]]).factor is None


def test_no_factor_where_two_are_needed() -> None:
    half = [scale(candle, Decimal("0.5")) for candle in STORED[:3]]
    assert compare(STORED, [*half, *(scale(c, Decimal("0.75")) for c in STORED[3:])]).factor is None


def test_change_of_volumes_alone_is_no_factor() -> None:
    assert compare(STORED, [candle._replace(volume=7) for candle in STORED]).factor is None


# --- find_factor ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "found"),
    [
        ("0.75", "0.75"),
        ("0.5", "0.5"),
        ("0.1", "0.1"),
        ("0.2", "0.2"),
        ("2", "2"),
        ("10", "10"),
        ("0.3333333333", "0.3333333333"),
        ("0.6666666667", "0.6666666667"),
        ("0.8333333333", "0.8333333333"),
    ],
)
def test_factors_of_splits_and_bonuses(factor: str, found: str) -> None:
    """WIPRO 0.75, HDFCBANK 0.5, EICHERMOT 0.1, IRCTC 0.2; a bonus of 1 for 2 has 2/3."""
    half = [scale(candle, Decimal(factor)) for candle in STORED]
    assert compare(STORED, half).factor == Decimal(found)


@pytest.mark.parametrize("factor", ["0.98", "0.9787", "0.951234", "1.0004", "0.9996"])
def test_factor_of_a_dividend_is_close(factor: str) -> None:
    comparison = compare(STORED, [scale(candle, Decimal(factor)) for candle in STORED])
    assert comparison.factor is not None
    assert abs(comparison.factor - Decimal(factor)) < Decimal("0.00001")


def test_one_candle_is_enough() -> None:
    assert compare(STORED[:1], [scale(STORED[0], Decimal("0.2"))]).factor == Decimal("0.2")


def test_index_of_five_digits() -> None:
    index = [make_candle(FIRST, "26113.95")]
    assert compare(index, [scale(index[0], Decimal("0.98"))]).factor == Decimal("0.98")


@pytest.mark.parametrize(
    "prices",
    [
        pytest.param([pair("100", "100")], id="the same"),
        pytest.param([pair("0.05", "0.05"), pair("0.10", "0.09")], id="a paisa of a penny share"),
        pytest.param([pair("100", "50"), pair("200", "101")], id="two factors"),
        pytest.param([pair("100", "110"), pair("100", "100")], id="one price alone"),
        pytest.param([], id="no prices"),
        pytest.param([pair("0.0001", "99999999999.9999")], id="too large"),
        pytest.param([pair("99999999999.9999", "0.01")], id="too small"),
        pytest.param([pair("10", "0.005")], id="nothing, if half a paisa was rounded up"),
    ],
)
def test_no_factor(prices: list[tuple[Decimal, Decimal]]) -> None:
    assert find_factor(prices) is None


@pytest.mark.parametrize(
    ("prices", "factor"),
    [
        pytest.param([pair("1.00", "0.20"), pair("1.05", "0.21")], "0.2", id="penny share"),
        pytest.param([pair("0.20", "0.10"), pair("0.25", "0.13")], "0.5", id="paise alone"),
        pytest.param([pair("99999999999.99", "50000000000.00")], "0.5", id="huge"),
        pytest.param([pair("3.00", "1.00")], "0.3333333333", id="a third"),
    ],
)
def test_simplest_factor(prices: list[tuple[Decimal, Decimal]], factor: str) -> None:
    assert find_factor(prices) == Decimal(factor)


def test_price_below_a_paisa_says_nothing_of_the_largest_factor() -> None:
    assert find_factor([pair("0.0025", "0.0125"), pair("10", "50")]) == Decimal(5)
