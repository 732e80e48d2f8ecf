"""What each kind of setting takes, gives, and says when it takes not."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from shared.config import fields

UNDER_ONE = fields.number(0.001, 3600)
COUNT = fields.integer(1, fields.UNBOUNDED)
PORT = fields.integer(1, 65535)
LEVEL = fields.one_of(("DEBUG", "INFO"), upper=True)
EXACT = fields.one_of(("disable", "prefer"))

DATES = 'expected a list of dates such as ["2026-01-26"]'
PORTS = "expected an integer from 1 to 65535"
NUMBERS = "expected a number from 0.001 to 3600"


@pytest.mark.parametrize(
    ("convert", "value", "expected"),
    [
        pytest.param(PORT, 1, 1, id="integer, least"),
        pytest.param(PORT, 65535, 65535, id="integer, most"),
        pytest.param(PORT, " 5432 ", 5432, id="integer as text"),
        pytest.param(PORT, "0" * 15 + "65535", 65535, id="integer of 20 digits"),
        pytest.param(COUNT, 10**9, 10**9, id="integer without limit"),
        pytest.param(UNDER_ONE, 0.001, 0.001, id="number, least"),
        pytest.param(UNDER_ONE, 3600, 3600.0, id="number, most, whole"),
        pytest.param(UNDER_ONE, " 12.5 ", 12.5, id="number as text"),
        pytest.param(fields.boolean, True, True, id="boolean"),
        pytest.param(fields.boolean, " TRUE ", True, id="true as text"),
        pytest.param(fields.boolean, "False", False, id="false as text"),
        pytest.param(LEVEL, " debug ", "DEBUG", id="choice in any case"),
        pytest.param(EXACT, "prefer", "prefer", id="choice"),
        pytest.param(fields.exchanges, None, [], id="no exchanges"),
        pytest.param(fields.exchanges, [" nse", "NFO", "NSE"], ["NSE", "NFO"], id="exchanges"),
        pytest.param(fields.dates, [], [], id="no dates"),
        pytest.param(
            fields.dates,
            ["2026-01-26", "2026-08-15"],
            [date(2026, 1, 26), date(2026, 8, 15)],
            id="dates",
        ),
    ],
)
def test_value_that_is_right(convert: Any, value: Any, expected: Any) -> None:
    found = convert(value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("convert", "value", "message"),
    [
        pytest.param(PORT, 0, PORTS, id="integer, too small"),
        pytest.param(PORT, 65536, PORTS, id="integer, too large"),
        pytest.param(PORT, True, PORTS, id="integer, a boolean"),
        pytest.param(PORT, 80.0, PORTS, id="integer, a float"),
        pytest.param(PORT, "80.5", PORTS, id="integer, text of a float"),
        pytest.param(PORT, "\N{SUPERSCRIPT TWO}", PORTS, id="integer, a digit that is none"),
        pytest.param(PORT, "\N{ARABIC-INDIC DIGIT ONE}", PORTS, id="integer, not ASCII"),
        pytest.param(PORT, "9" * 5000, PORTS, id="integer, too long for Python"),
        pytest.param(COUNT, 0, "expected a positive integer", id="integer, not positive"),
        pytest.param(
            fields.integer(2, fields.UNBOUNDED),
            1,
            "expected an integer from 2 to 1000000000",
            id="integer, another least",
        ),
        pytest.param(UNDER_ONE, 0, NUMBERS, id="number, too small"),
        pytest.param(UNDER_ONE, 3600.1, NUMBERS, id="number, too large"),
        pytest.param(UNDER_ONE, True, NUMBERS, id="number, a boolean"),
        pytest.param(UNDER_ONE, "nan", NUMBERS, id="number, none"),
        pytest.param(UNDER_ONE, "1e3", NUMBERS, id="number, with an exponent"),
        pytest.param(UNDER_ONE, None, NUMBERS, id="number, null"),
        pytest.param(fields.boolean, 1, "expected true or false", id="boolean, a number"),
        pytest.param(fields.boolean, "yes", "expected true or false", id="boolean, another word"),
        pytest.param(LEVEL, "TRACE", "expected one of DEBUG, INFO", id="choice, unknown"),
        pytest.param(LEVEL, 10, "expected one of DEBUG, INFO", id="choice, a number"),
        pytest.param(EXACT, "PREFER", "expected one of disable, prefer", id="choice, another case"),
        pytest.param(fields.dates, "2026-01-26", DATES, id="dates, a text"),
        pytest.param(fields.dates, ["2026-02-30"], DATES, id="dates, none of the calendar"),
        pytest.param(fields.dates, [20260126], DATES, id="dates, a number"),
    ],
)
def test_value_that_is_wrong(convert: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        convert(value)
    assert str(caught.value) == message
