"""Any list as CSV: rows by a table's columns, checked, and rejects."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

import pytest

from shared.exceptions import APIError, TransientAPIError
from shared.feed import RejectedRow
from shared.models.column import Column
from shared.utils.csv_rows import parse_csv

# As NSE's daily report has them.
COLUMNS = (
    Column("symbol", "varchar", length=10),
    Column(
        "day",
        "date",
        header="DATE1",
        reader=lambda text: datetime.strptime(text, "%d-%b-%Y").date(),
    ),
    Column("close", "numeric", precision=10, scale=2, minimum=0, header="CLOSE_PRICE"),
    Column("volume", "bigint", nullable=True, minimum=0, is_distinct=True, header="TTL_TRD_QNTY"),
)
HEADER = b"SYMBOL, SERIES, DATE1, CLOSE_PRICE, TTL_TRD_QNTY\n"
GOOD = b"INFY, EQ, 05-Jul-2024, 1647.45, 5000\n"


def test_rows_by_columns_whatever_their_order_and_names() -> None:
    batch = parse_csv(b"TTL_TRD_QNTY,CLOSE_PRICE,symbol,x,date1\n,1.5,A,?,05-Jul-2024\n", COLUMNS)
    assert batch.rejected == []
    assert batch.rows == [
        {
            "symbol": "A",
            "day": date(2024, 7, 5),
            "close": Decimal("1.5"),
            "volume": None,
            "line_number": 2,
        }
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"INFY, EQ, 05-Jul-2024, 1.5\n", "expected 5 columns, got 4"),
        (b"INF\xff, EQ, 05-Jul-2024, 1.5, 5\n", "not UTF-8"),
        (b"INFY, EQ, 05-Jul-2024, many, 5\n", "close: expected a decimal number, got 'many'"),
        (
            b"INFY, EQ, 05-Jul-2024, 1.555, 5\n",
            "close: expected a number from 0 to below 1e8 with at most 2 decimals, got '1.555'",
        ),
        (b"INFY, EQ, 05-Jul-2024, , 5\n", "close: required, but missing"),
        (b" , EQ, 05-Jul-2024, 1.5, 5\n", "symbol: required, but missing"),
        (
            b"INFYINFYINFY, EQ, 05-Jul-2024, 1.5, 5\n",
            "symbol: expected at most 10 characters, got 12: 'INFYINFYINFY'",
        ),
        (
            b"INFY, EQ, 05-Jul-2024, 1.5, -5\n",
            "volume: expected a whole number from 0 to 9223372036854775807, got '-5'",
        ),
        (b'INFY, EQ, 05-Jul-2024, 1.5, "5\n', "not readable as CSV: a quote is not closed on its"),
    ],
)
def test_bad_row_is_rejected_alone(line: bytes, reason: str) -> None:
    batch = parse_csv(HEADER + GOOD + line + GOOD, COLUMNS)
    assert [row["line_number"] for row in batch.rows] == [2, 4]
    (rejected,) = batch.rejected
    assert rejected.line_number == 3
    assert rejected.reason.startswith(reason)


def test_without_a_check_values_are_read_alone() -> None:
    body = HEADER + b"INFYINFYINFY, EQ, 05-Jul-2024, 1.555, -5\n"
    (row,) = parse_csv(body, COLUMNS, is_checked=False).rows
    assert (row["close"], row["volume"]) == (Decimal("1.555"), -5)


def test_key_of_a_rejected_row_is_as_written() -> None:
    (rejected,) = parse_csv(
        HEADER + GOOD + GOOD.replace(b"1647.45", b"x"), COLUMNS, key=("symbol", "day")
    ).rejected
    assert rejected == RejectedRow(
        3,
        "close: expected a decimal number, got 'x'",
        ["INFY", "EQ", "05-Jul-2024", "x", "5000"],
    )
    assert rejected.key == ("INFY", "05-Jul-2024")


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", TransientAPIError, "The list is empty: no header, no rows."),
        (b"<html></html>\n", TransientAPIError, "Expected the list as CSV, got an HTML page."),
        (HEADER[:20], TransientAPIError, "The list was cut short within its header."),
        (HEADER + GOOD[:20], TransientAPIError, "The list was cut short: line 2 ends early"),
        (b"[1]\n", APIError, "This is JSON, not the list as CSV: save what the source gives"),
        (
            b"a,b\n1,2\n",
            APIError,
            "This is not the list: its header lacks the column symbol, date1, close_price, "
            "ttl_trd_qnty. Expected the columns symbol, date1, close_price, ttl_trd_qnty; "
            "got 'a,b'.",
        ),
    ],
)
def test_body_that_is_not_the_list(body: bytes, error: type[APIError], message: str) -> None:
    with pytest.raises(error) as caught:
        parse_csv(body, COLUMNS)
    assert type(caught.value) is error
    assert str(caught.value).startswith(message)


def test_last_line_without_an_end_counts_where_the_body_is_known_to_be_whole() -> None:
    body = HEADER + GOOD.rstrip()
    with pytest.raises(TransientAPIError, match="line 2 ends early"):
        parse_csv(body, COLUMNS, is_whole=False)
    assert len(parse_csv(HEADER + GOOD * 2 + GOOD.rstrip(), COLUMNS).rows) == 3


def test_list_without_a_header_is_read_by_the_one_that_is_given() -> None:
    batch = parse_csv(b"\n" + GOOD + b"INFY\n" + GOOD, COLUMNS, header=HEADER.decode())
    assert [row["line_number"] for row in batch.rows] == [2, 4]
    assert [(row.line_number, row.reason) for row in batch.rejected] == [
        (3, "expected 5 columns, got 1")
    ]


def test_lines_are_read_as_they_are_mended() -> None:
    body = HEADER.replace(b",", b";") + GOOD.replace(b",", b"\xff;") + GOOD
    batch = parse_csv(body, COLUMNS, mend=lambda line: line.replace("\udcff", "").replace(";", ","))
    assert ([row["line_number"] for row in batch.rows], batch.rejected) == ([2, 3], [])


def test_column_with_very_many_values_is_read_in_bounded_memory() -> None:
    columns = (Column("a", "text"),)
    body = b"a\n" + b"".join(b"%d\n" % number for number in range(250_000))
    rows = parse_csv(body, columns).rows
    assert [rows[0]["a"], rows[-1]["a"], len(rows)] == ["0", "249999", 250_000]
