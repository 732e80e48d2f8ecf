"""A column: texts to values, and which values it holds exactly."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from shared.exceptions import ValidationError
from shared.models.column import Column, ColumnCheck, check_row, find_invalid, to_moment

IST = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    ("sql_type", "text", "expected"),
    [
        ("smallint", " 7 ", 7),
        ("bigint", "-12", -12),
        ("numeric", "90.875", Decimal("90.875")),
        ("date", "2026-08-27", date(2026, 8, 27)),
        ("timestamp", "2026-08-27 09:15:00", datetime(2026, 8, 27, 9, 15)),
        ("timestamp", "2026-08-27T09:15", datetime(2026, 8, 27, 9, 15)),
        ("timestamptz", "2017-12-15T09:15:00+0530", datetime(2017, 12, 15, 9, 15, tzinfo=IST)),
        ("timestamptz", "2017-12-15T03:45:00.25Z", None),
        ("varchar", " A ", " A "),
        ("jsonb", '{"a": 1}', '{"a": 1}'),
        ("bigint", "", None),
        ("timestamp", "  ", None),
        ("text", "  ", None),
    ],
)
def test_read_gives_the_value_of_the_columns_type(sql_type: str, text: str, expected: Any) -> None:
    value = Column("c", sql_type).read(text)
    if expected is None and text.strip():
        expected = datetime(2017, 12, 15, 3, 45, 0, 250_000, tzinfo=UTC)
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("sql_type", "text", "reason"),
    [
        ("integer", "many", "n: expected a whole number, got 'many'"),
        ("numeric", "1,000", "n: expected a decimal number, got '1,000'"),
        ("date", "27-08-2026", "n: expected a date as YYYY-MM-DD, got '27-08-2026'"),
        ("date", "2026-02-30", "n: expected a date that exists, got '2026-02-30'"),
        (
            "timestamp",
            "20260827T0915",
            "n: expected a date and time as YYYY-MM-DDTHH:MM:SS, got '20260827T0915'",
        ),
        (
            "timestamp",
            "2026-08-27T25:00:00",
            "n: expected a date and time that exists, got '2026-08-27T25:00:00'",
        ),
    ],
)
def test_read_tells_column_expectation_and_text(sql_type: str, text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Column("n", sql_type).read(text)
    assert str(caught.value) == reason


def test_reader_of_a_column_takes_the_place_of_its_types() -> None:
    column = Column("day", "date", reader=lambda text: datetime.strptime(text, "%d-%b-%Y").date())
    assert column.read("05-Jul-2024") == date(2024, 7, 5)
    with pytest.raises(ValueError, match=r"^day: .*, got '2024-07-05'$"):
        column.read("2024-07-05")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (Column("c", "smallint"), -(2**15)),
        (Column("c", "integer"), 2**31 - 1),
        (Column("c", "numeric"), Decimal("-1E+900")),
        (Column("c", "numeric", precision=5, scale=2), Decimal("-999.99")),
        (Column("c", "numeric", precision=60, scale=20), Decimal("9" * 40 + "." + "9" * 20)),
        (Column("c", "text"), "x" * 100_000),
        (Column("c", "date"), date.min),
        (Column("c", "timestamp"), datetime.max),
        (Column("c", "timestamptz"), datetime(2026, 8, 27, tzinfo=IST)),
        (Column("c", "date", nullable=True), None),
        (Column("c", "text", nullable=True), " "),
    ],
)
def test_value_that_a_column_holds(column: Column, value: Any) -> None:
    column.check(value)
    assert column.holds([value, value])


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (Column("c", "smallint"), 2**15, "expected a whole number from -32768 to 32767, got"),
        (Column("c", "integer", minimum=5), 4, "expected a whole number from 5 to 2147483647, got"),
        (Column("c", "integer"), True, "expected a whole number from"),
        (Column("c", "integer"), None, "required, but missing"),
        (Column("c", "text"), " ", "required, but missing"),
        (Column("c", "text"), 5, "expected a text, got '5'"),
        (Column("c", "text"), "a\0", "holds a character that cannot be stored, got"),
        (
            Column("c", "numeric", precision=5, scale=2),
            Decimal("-1000"),
            "expected a number above -1e3 to below 1e3 with at most 2 decimals, got '-1000'",
        ),
        (Column("c", "numeric"), Decimal("NaN"), "expected a decimal number, got 'NaN'"),
        (Column("c", "numeric"), 1.5, "expected a decimal number, got '1.5'"),
        (Column("c", "date"), datetime(2026, 8, 27), "expected a date, got"),
        (
            Column("c", "timestamp"),
            datetime(2026, 8, 27, tzinfo=IST),
            "expected a date and time without time zone, got",
        ),
        (
            Column("c", "timestamptz"),
            datetime(2026, 8, 27),
            "expected a date and time with time zone, got",
        ),
    ],
)
def test_value_that_a_column_does_not_hold(column: Column, value: Any, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        column.check(value)
    assert str(caught.value).startswith(f"c: {reason}")


def test_check_row_names_the_first_column_that_fails() -> None:
    columns = (Column("a", "integer"), Column("b", "text"), Column("c", "date", nullable=True))
    check_row(columns, {"a": 1, "b": "x"})
    with pytest.raises(ValidationError, match=r"^b: required, but missing$"):
        check_row(columns, {"a": 1})


def test_find_invalid_of_a_table_with_one_column() -> None:
    rows = [{"a": 1}, {"a": "1"}, {}, {"a": 2}]
    found = find_invalid([Column("a", "integer")], rows)
    assert [(index, str(fault)) for index, fault in found] == [
        (1, "a: expected a whole number from -2147483648 to 2147483647, got '1'"),
        (2, "a: required, but missing"),
    ]


def test_values_are_remembered_up_to_a_bound() -> None:
    check = ColumnCheck(Column("a", "integer", minimum=0))
    for start in range(0, 300_000, 50_000):
        assert check.passes(range(start, start + 50_000))
    assert not check.passes([5, -1])


def test_moment_keeps_the_zone_that_it_has() -> None:
    moment = to_moment("2017-12-15T09:15:00+05:30")
    assert moment is not None
    assert moment.utcoffset() == timedelta(hours=5, minutes=30)
