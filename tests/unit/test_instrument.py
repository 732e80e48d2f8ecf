"""Instrument: from Kite's fields, checked against what the table's columns hold exactly."""

from __future__ import annotations

import dataclasses
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest

from shared.exceptions import ValidationError
from shared.models.column import find_invalid
from shared.models.instrument import INSTRUMENT_TABLE, Instrument, check_instrument
from tests.instruments import instrument

KITE_TEXT = {
    "instrument_token": "256265",
    "exchange_token": "1001",
    "tradingsymbol": "USDINR26AUG90.875CE",
    "name": " M&M, LTD ",
    "last_price": "0.0",
    "expiry": "2026-08-27",
    "strike": "90.875",
    "tick_size": "0.0025",
    "lot_size": "1",
    "instrument_type": "CE",
    "segment": "CDS-OPT",
    "exchange": "CDS",
}


def make(**fields: Any) -> Instrument:
    return Instrument.from_kite_response(instrument(256265, "HAL26AUG4000CE", **fields))


def test_from_kite_response_of_text_fields_gives_typed_exact_values() -> None:
    moment = datetime(2026, 8, 3, 8, 30)

    made = Instrument.from_kite_response(KITE_TEXT, moment=moment)

    assert made == Instrument(
        instrument_token=256265,
        exchange="CDS",
        tradingsymbol="USDINR26AUG90.875CE",
        exchange_token="1001",
        instrument_type="CE",
        name=" M&M, LTD ",
        segment="CDS-OPT",
        expiry=date(2026, 8, 27),
        strike=Decimal("90.875"),
        tick_size=Decimal("0.0025"),
        lot_size=1,
        last_updated=moment,
        created_at=moment,
    )
    assert type(made.strike) is Decimal
    assert made.validate() is True


def test_from_kite_response_of_what_the_kiteconnect_client_gives() -> None:
    """Its parser makes floats of strikes and ticks, and leaves "" where there is no expiry."""
    made = Instrument.from_kite_response(
        {
            "instrument_token": 408065,
            "exchange_token": "1594",
            "tradingsymbol": "INFY",
            "name": "INFOSYS",
            "last_price": 0.0,
            "expiry": "",
            "strike": 0.0,
            "tick_size": 0.05,
            "lot_size": 1,
            "instrument_type": "EQ",
            "segment": "NSE",
            "exchange": "NSE",
        }
    )
    assert made.validate() is True
    assert (made.expiry, made.strike, made.tick_size) == (None, Decimal(0), Decimal("0.05"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(90.875, "90.875"), (0.1, "0.1"), (1e10, "10000000000.0"), (1e-4, "0.0001"), (370, "370")],
    ids=str,
)
def test_float_or_int_strike_becomes_the_decimal_that_kite_wrote(
    value: float, expected: str
) -> None:
    made = make(strike=value)
    assert made.strike == Decimal(expected)
    assert type(made.strike) is Decimal
    assert made.validate() is True


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), True], ids=str)
def test_float_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match=r"^strike: expected a decimal number"):
        make(strike=value)


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e400, 1e22, 1 / 3], ids=str)
def test_float_that_the_column_cannot_hold_exactly_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match=r"^strike: expected "):
        make(strike=value).validate()


@pytest.mark.parametrize("blank", ["", "  ", None], ids=repr)
def test_blank_optional_field_is_none_and_valid(blank: str | None) -> None:
    optional = [f for f in KITE_TEXT if f not in ("instrument_token", "exchange", "tradingsymbol")]

    made = Instrument.from_kite_response({**KITE_TEXT, **dict.fromkeys(optional, blank)})

    assert made.validate() is True
    stored = made.to_dict()
    assert [stored[name] for name in optional if name != "last_price"] == [None] * 8


def test_field_that_is_not_there_is_none() -> None:
    made = Instrument.from_kite_response(
        {"instrument_token": 5, "exchange": "NSE", "tradingsymbol": "A"}
    )
    assert made.validate() is True
    assert (made.name, made.strike, made.lot_size, made.expiry) == (None, None, None, None)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("instrument_token", "1_000"),
        ("instrument_token", "१"),
        ("instrument_token", "12.0"),
        ("lot_size", "many"),
        ("strike", "1_0"),
        ("tick_size", "nan"),
        ("expiry", "2026-02-30"),
        ("expiry", "20260803"),
    ],
)
def test_text_that_is_no_value_is_refused_with_field_and_text(field: str, text: str) -> None:
    with pytest.raises(ValidationError, match=f"^{field}: expected .*, got '{text}'$"):
        Instrument.from_kite_response({**KITE_TEXT, field: text})


def test_expiry_with_a_time_becomes_its_date() -> None:
    assert make(expiry=datetime(2026, 8, 27, 15, 30)).expiry == date(2026, 8, 27)


def test_to_dict_has_every_column_and_both_moments_and_is_a_copy() -> None:
    made = make()

    stored = made.to_dict()

    fields = {field.name for field in dataclasses.fields(Instrument)}
    assert set(stored) == {*INSTRUMENT_TABLE.column_names, "last_updated", "created_at"} == fields
    stored["name"] = "changed"
    assert made.name == "HINDPETRO"


def test_moments_are_now_and_the_same_unless_given() -> None:
    before = datetime.now()
    made = make()
    assert before <= made.last_updated == made.created_at <= datetime.now()


@pytest.mark.parametrize("field", ["instrument_token", "exchange", "tradingsymbol"])
@pytest.mark.parametrize("missing", [None, "", "   "], ids=repr)
def test_validate_when_a_required_field_is_missing(field: str, missing: str | None) -> None:
    with pytest.raises(ValidationError, match=f"^{field}: required, but missing$"):
        Instrument.from_kite_response({**KITE_TEXT, field: missing}).validate()


@pytest.mark.parametrize("field", ["instrument_token", "exchange", "tradingsymbol"])
def test_check_instrument_when_a_required_field_is_not_there(field: str) -> None:
    data = instrument(5, "A")
    del data[field]
    with pytest.raises(ValidationError, match=f"^{field}: required, but missing$"):
        check_instrument(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instrument_token", 1),
        ("instrument_token", 2**63 - 1),
        ("exchange", "E" * 10),
        ("tradingsymbol", "😀" * 50),
        ("exchange_token", "é" * 50),
        ("instrument_type", "T" * 10),
        ("name", "N" * 255),
        ("segment", "S" * 20),
        ("strike", Decimal("99999999999.9999")),
        ("strike", Decimal("0")),
        ("strike", Decimal("90.87500000")),
        ("strike", Decimal("1E+10")),
        ("tick_size", Decimal("999999.9999")),
        ("lot_size", 0),
        ("lot_size", 2**31 - 1),
        ("expiry", date.max),
        ("name", "\x01\x1b\x7f"),
    ],
    ids=lambda value: value if type(value) is str and len(value) < 20 else "value",
)
def test_value_at_the_edge_of_its_column_is_valid(field: str, value: Any) -> None:
    assert make(**{field: value}).validate() is True


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("instrument_token", 0, "a whole number from 1 to 9223372036854775807"),
        ("instrument_token", -1, "a whole number from 1 to"),
        ("instrument_token", 2**63, "a whole number from 1 to"),
        ("instrument_token", True, "a whole number from 1 to"),
        ("instrument_token", 5.0, "a whole number from 1 to"),
        ("instrument_token", Decimal(5), "a whole number from 1 to"),
        ("exchange", "E" * 11, "at most 10 characters, got 11"),
        ("exchange", 5, "a text"),
        ("tradingsymbol", "é" * 51, "at most 50 characters, got 51"),
        ("exchange_token", "1" * 51, "at most 50 characters, got 51"),
        ("exchange_token", 1001, "a text"),
        ("instrument_type", "T" * 11, "at most 10 characters, got 11"),
        ("name", "N" * 256, "at most 255 characters, got 256"),
        ("name", b"N", "a text"),
        ("segment", "S" * 21, "at most 20 characters, got 21"),
        ("strike", Decimal("-0.0001"), "a number from 0 to below 1e11 with at most 4 decimals"),
        ("strike", Decimal("100000000000"), "a number from 0 to below 1e11"),
        ("strike", Decimal("0.00001"), "at most 4 decimals"),
        ("strike", Decimal("1E+400"), "a number from 0 to below 1e11"),
        ("strike", Decimal("1E-400"), "at most 4 decimals"),
        ("strike", Decimal("NaN"), "a number from 0"),
        ("strike", Decimal("sNaN"), "a number from 0"),
        ("strike", Decimal("Infinity"), "a number from 0"),
        ("tick_size", Decimal("1000000"), "a number from 0 to below 1e6 with at most 4 decimals"),
        ("tick_size", Decimal("0.00025"), "at most 4 decimals"),
        ("lot_size", -1, "a whole number from 0 to 2147483647"),
        ("lot_size", 2**31, "a whole number from 0 to 2147483647"),
        ("lot_size", 1.0, "a whole number from 0"),
        ("lot_size", True, "a whole number from 0"),
        ("expiry", 20260827, "a date"),
    ],
)
def test_validate_when_a_value_does_not_fit_its_column(
    field: str, value: Any, expected: str
) -> None:
    with pytest.raises(ValidationError, match=f"^{field}: expected ") as caught:
        make(**{field: value}).validate()
    assert expected in str(caught.value)


def test_validate_when_a_decimal_has_more_digits_than_the_context_keeps() -> None:
    """Decimal's own arithmetic would round it to 28 digits first, and find it exact."""
    value = Decimal("1.00000000000000000000000000000000000000000000001")
    with pytest.raises(ValidationError, match=r"^strike: .* at most 4 decimals"):
        make(strike=value).validate()


@pytest.mark.parametrize("field", ["exchange", "tradingsymbol", "name", "segment"])
@pytest.mark.parametrize("character", ["\0", "\ud800"], ids=ascii)
def test_validate_when_a_text_cannot_be_stored(field: str, character: str) -> None:
    with pytest.raises(ValidationError, match=f"^{field}: .*cannot be stored") as caught:
        make(**{field: f"A{character}B"}).validate()
    assert str(caught.value).isprintable()


def test_message_shows_a_long_value_cut_and_escaped() -> None:
    with pytest.raises(ValidationError) as caught:
        make(name="\x1b[2J" + "x" * 5000).validate()
    assert len(str(caught.value)) < 120
    assert r"\x1b[2J" in str(caught.value)


def test_table_is_the_designs() -> None:
    """With the ruled scale of 4 for strikes: 90.875 is stored as it is."""
    assert [
        (c.name, c.sql_type, c.length, c.precision, c.scale) for c in INSTRUMENT_TABLE.columns
    ] == [
        ("instrument_token", "bigint", None, None, None),
        ("exchange", "varchar", 10, None, None),
        ("tradingsymbol", "varchar", 50, None, None),
        ("exchange_token", "varchar", 50, None, None),
        ("instrument_type", "varchar", 10, None, None),
        ("name", "varchar", 255, None, None),
        ("segment", "varchar", 20, None, None),
        ("expiry", "date", None, None, None),
        ("strike", "numeric", None, 15, 4),
        ("tick_size", "numeric", None, 10, 4),
        ("lot_size", "integer", None, None, None),
    ]
    assert INSTRUMENT_TABLE.key == ("instrument_token", "exchange")
    assert INSTRUMENT_TABLE.unique == (("tradingsymbol", "exchange"),)


# Many at once

# Values of every type, some of which are equal to good ones of another type.
ODD_VALUES = [
    *(None, True, False, 0, 1, -1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 1.0, 90.5, b"1", [], "1"),
    *("", " ", "x" * 10, "x" * 11, "x" * 21, "x" * 50, "x" * 51, "x" * 255, "x" * 256),
    *("a\0", "\ud800", "\u0939\u093f", date(2026, 8, 27), datetime(2026, 8, 27)),
    *(Decimal(number) for number in ("1", "0", "-0.0", "-1", "90.5", "0.0001", "0.00001", "1E+6")),
    *(Decimal(number) for number in ("1E+11", "99999999999.9999", "NaN", "sNaN", "Infinity")),
]
PLAIN = instrument(1, "HAL26AUG4000CE", lot_size=1, strike=Decimal(1), tick_size=Decimal(1))


def is_valid(data: dict[str, Any]) -> bool:
    try:
        return check_instrument(data)
    except ValidationError:
        return False


@pytest.mark.parametrize("column", INSTRUMENT_TABLE.column_names)
def test_many_at_once_are_judged_as_each_by_itself(column: str) -> None:
    for first in ODD_VALUES:
        good = [PLAIN, PLAIN]
        rows = [*good, {**PLAIN, column: first}, *({**PLAIN, column: odd} for odd in ODD_VALUES)]
        invalid = dict(find_invalid(INSTRUMENT_TABLE.columns, rows))
        assert [index not in invalid for index in range(len(rows))] == [*map(is_valid, rows)]


@pytest.mark.parametrize("column", INSTRUMENT_TABLE.column_names)
def test_instrument_that_lacks_a_field_among_many(column: str) -> None:
    lacking = {name: PLAIN[name] for name in PLAIN if name != column}
    invalid = dict(find_invalid(INSTRUMENT_TABLE.columns, [PLAIN, lacking]))
    assert list(invalid) == ([] if is_valid(lacking) else [1])


def test_what_a_list_is_full_of_is_not_judged_one_by_one() -> None:
    """It would be right, but slow for a whole list."""
    rows = [
        {**PLAIN, **fields}
        for fields in (
            {},
            {"expiry": None, "name": None},
            {"strike": Decimal(0), "lot_size": 0},
            {"instrument_token": 2**63 - 1},
            {"tradingsymbol": "S" * 50, "exchange_token": "1" * 50},
            {"lot_size": 2**31 - 1},
        )
    ]
    asked: list[Any] = []
    assert list(find_invalid(INSTRUMENT_TABLE.columns, rows * 1000, asked.append)) == []
    assert asked == []


def test_fault_among_many_is_told_with_its_place() -> None:
    rows = [PLAIN] * 1000
    rows[321] = {**PLAIN, "lot_size": -1}
    ((index, fault),) = find_invalid(INSTRUMENT_TABLE.columns, rows)
    assert index == 321
    assert str(fault).startswith("lot_size: expected a whole number from 0 to 2147483647")
