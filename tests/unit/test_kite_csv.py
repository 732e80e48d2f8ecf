"""The CSV reader: bytes to rows and rejects, with a stray byte harming only its own line."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from shared.exceptions import APIError, TransientAPIError
from shared.feed import RejectedRow
from shared.foreign_text import shorten
from shared.models.column import to_date, to_decimal, to_integer, to_text
from shared.utils.kite_csv import parse_dump
from tests.conftest import HEADER
from tests.instruments import KITE_COLUMNS, instrument, to_csv

OPTION = b"1001,3,HAL26AUG4000CE,HAL,0,2026-08-27,4000.125,0.05,150,CE,NFO-OPT,NFO\n"
SHARE = b"1002,4,INFY,INFOSYS,0,,0,0.05,1,EQ,NSE,NSE\n"
BLANK = b"1003,,TCS,,,,,,,,,BSE\n"

OPTION_ROW = {
    "instrument_token": 1001,
    "exchange": "NFO",
    "tradingsymbol": "HAL26AUG4000CE",
    "exchange_token": "3",
    "instrument_type": "CE",
    "name": "HAL",
    "segment": "NFO-OPT",
    "expiry": date(2026, 8, 27),
    "strike": Decimal("4000.125"),
    "tick_size": Decimal("0.05"),
    "lot_size": 150,
}
NO_FIELDS = dict.fromkeys(OPTION_ROW)


def symbols(body: bytes) -> list[Any]:
    return [row["tradingsymbol"] for row in parse_dump(body).rows]


def test_rows_have_typed_exact_values_and_their_line_number() -> None:
    dump = parse_dump(HEADER + OPTION + SHARE + BLANK)

    assert dump.rejected == []
    option, share, blank = dump.rows
    assert option == {**OPTION_ROW, "line_number": 2}
    assert type(option["strike"]) is Decimal
    assert str(option["strike"]) == "4000.125"
    assert (share["expiry"], share["strike"], share["line_number"]) == (None, Decimal(0), 3)
    assert blank == {
        **NO_FIELDS,
        "instrument_token": 1003,
        "exchange": "BSE",
        "tradingsymbol": "TCS",
        "line_number": 4,
    }


def test_zerodhas_own_example_with_spaces_after_commas_is_read() -> None:
    body = (
        b"instrument_token, exchange_token, tradingsymbol, name, last_price, expiry, strike, "
        b"tick_size, lot_size, instrument_type, segment, exchange\n"
        b"408065, 1594, INFY, INFOSYS, 0, , , 0.05, 1, EQ, NSE, NSE\n"
    )

    (row,) = parse_dump(body).rows

    assert (row["instrument_token"], row["tradingsymbol"], row["exchange"]) == (
        408065,
        "INFY",
        "NSE",
    )
    assert (row["expiry"], row["strike"]) == (None, None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b"\xef\xbb\xbf" + HEADER + SHARE, ["INFY"], id="bom"),
        pytest.param((HEADER + SHARE).replace(b"\n", b"\r\n"), ["INFY"], id="crlf"),
        pytest.param((HEADER + SHARE).replace(b"\n", b"\r"), ["INFY"], id="cr-alone"),
        pytest.param(HEADER + b"\n\r\n" + SHARE + b"\n\n", ["INFY"], id="blank-lines"),
        pytest.param(b"\n\n" + HEADER + SHARE, ["INFY"], id="blank-lines-first"),
        pytest.param(HEADER.upper() + SHARE, ["INFY"], id="header-in-capitals"),
        pytest.param(HEADER + SHARE.rstrip(b"\n"), ["INFY"], id="no-last-line-end"),
        pytest.param(
            b" instrument_token , exchange_token ,tradingsymbol ,name,last_price,expiry,strike,"
            b"tick_size,lot_size,instrument_type,segment, exchange \n" + SHARE,
            ["INFY"],
            id="header-with-spaces",
        ),
        pytest.param(HEADER + b'"' + SHARE[:4] + b'"' + SHARE[4:], ["INFY"], id="quoted-number"),
    ],
)
def test_accepted_shape_of_a_dump(body: bytes, expected: list[str]) -> None:
    dump = parse_dump(body)

    assert [row["tradingsymbol"] for row in dump.rows] == expected
    assert dump.rejected == []
    assert dump.rows[0]["instrument_token"] == 1002


def test_columns_are_found_by_name_when_reordered_and_among_others() -> None:
    columns = ["isin", *reversed(KITE_COLUMNS), "remark"]
    values = dict(zip(KITE_COLUMNS, OPTION.decode().strip().split(",")))
    line = ",".join(values.get(column, '"x, y"') for column in columns)

    (row,) = parse_dump(f"{','.join(columns)}\n{line}\n".encode()).rows

    assert row == {**OPTION_ROW, "line_number": 2}


def test_header_without_a_column_that_is_not_stored_is_enough() -> None:
    columns = [column for column in KITE_COLUMNS if column != "last_price"]
    (row,) = parse_dump(f"{','.join(columns)}\n1,2,A,B,,0,1,1,EQ,NSE,NSE\n".encode()).rows
    assert row["tradingsymbol"] == "A"


def test_header_of_another_list_is_shown_beside_the_expected_one() -> None:
    with pytest.raises(APIError) as caught:
        parse_dump(b"symbol,price," + b"x" * 300 + b"\nINFY,1,2\n")
    message = str(caught.value)
    # Sorted: which order is told does not matter.
    expected, got = message.partition("Expected the columns ")[2].split("; got ")
    assert sorted(expected.split(", ")) == sorted(set(KITE_COLUMNS) - {"last_price"})
    assert got.startswith("'symbol,price,xxx")
    assert 190 <= len(got) <= 210


@pytest.mark.parametrize("missing", [c for c in KITE_COLUMNS if c != "last_price"])
def test_header_that_lacks_a_stored_column_fails_and_names_it(missing: str) -> None:
    header = ",".join(column for column in KITE_COLUMNS if column != missing)

    with pytest.raises(APIError, match=f"lacks the column {missing}") as caught:
        parse_dump(f"{header}\n1,2,3,4,5,6,7,8,9,10,11\n".encode())

    assert not isinstance(caught.value, TransientAPIError)


def test_header_with_a_stored_column_twice_fails_and_names_it() -> None:
    header = HEADER.strip() + b",strike, STRIKE\n"
    with pytest.raises(APIError, match="has the column strike twice") as caught:
        parse_dump(header + SHARE.strip() + b",1,2\n")
    assert not isinstance(caught.value, TransientAPIError)


def test_header_again_in_the_middle_is_a_rejected_row() -> None:
    dump = parse_dump(HEADER + OPTION + HEADER + SHARE)

    assert [row["line_number"] for row in dump.rows] == [2, 4]
    assert [row.line_number for row in dump.rejected] == [3]
    assert dump.rejected[0].reason == (
        "instrument_token: expected a whole number, got 'instrument_token'"
    )


def test_header_alone_is_an_empty_dump() -> None:
    dump = parse_dump(HEADER)
    assert (dump.rows, dump.rejected) == ([], [])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"", "empty", id="no-bytes"),
        pytest.param(b"\xef\xbb\xbf", "empty", id="bom-alone"),
        pytest.param(b"\r\n\n\n", "empty", id="line-ends-alone"),
        pytest.param(b"<!DOCTYPE html>\n<p>Bad Gateway\n", "HTML page", id="html"),
        pytest.param(b"\n  <html>\n<p>\n</html>", "HTML page", id="html-after-blanks"),
        pytest.param(b"\xef\xbb\xbf<html>\n</html>\n", "HTML page", id="html-after-bom"),
        pytest.param(HEADER[:50], "cut short within its header", id="header-cut"),
        pytest.param(HEADER.rstrip()[:-1], "cut short within its header", id="header-cut-by-one"),
    ],
)
def test_body_that_may_be_well_next_time_is_transient(body: bytes, message: str) -> None:
    with pytest.raises(TransientAPIError, match=message):
        parse_dump(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"status": "success", "data": []}\n', id="json"),
        pytest.param(b"\x1f\x8b\x08\x00\x00\x00\n\xff\xfe\n", id="gzip"),
        pytest.param(b"\0\0\0\0\n\0\n", id="nul"),
        pytest.param(SHARE + OPTION, id="rows-without-header"),
        pytest.param((HEADER + SHARE).decode().encode("utf-16"), id="utf-16"),
        pytest.param(HEADER.replace(b",", b";") + SHARE.replace(b",", b";"), id="semicolons"),
    ],
)
def test_body_that_is_no_instrument_list_fails_for_good(body: bytes) -> None:
    with pytest.raises(APIError, match="not Kite's instrument list") as caught:
        parse_dump(body)
    assert not isinstance(caught.value, TransientAPIError)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(b'1,2,"ABC,N,0,,,,1,EQ,NSE,NSE', "a quote is not closed", id="stray-quote"),
        pytest.param(b'1,2,A,N,0,,,,1,EQ,NSE,"', "a quote is not closed", id="stray-quote-at-end"),
        pytest.param(b'"', "a quote is not closed", id="quote-alone"),
        pytest.param(b'1,2,"A"B,N,0,,,,1,EQ,NSE,NSE', "not readable as CSV", id="text-after-quote"),
        pytest.param(b"1,2,A,N,0,,,,1,EQ,NSE", "expected 12 columns, got 11", id="too-few"),
        pytest.param(b"1,2,A,N,L,0,,,,1,EQ,NSE,NSE", "expected 12 columns, got 13", id="too-many"),
        pytest.param(b"1,2,A,\xff,0,,,,1,EQ,NSE,NSE", "not UTF-8", id="not-utf-8"),
        pytest.param(b"1,2,A,caf\xe9,0,,,,1,EQ,NSE,NSE", "not UTF-8", id="latin-1"),
        pytest.param(b"1,2,A,N,\xff,,,,1,EQ,NSE,NSE", "not UTF-8", id="not-utf-8-unstored"),
        pytest.param(b"1,2,A,\xed\xa0\x80,0,,,,1,EQ,NSE,NSE", "not UTF-8", id="surrogate"),
        pytest.param(
            b"1,2," + b"A" * 131_073 + b",N,0,,,,1,EQ,NSE,NSE",
            "longer than 64,000 characters",
            id="long-line",
        ),
        pytest.param(b"1_0,2,A,N,0,,,,1,EQ,NSE,NSE", "instrument_token", id="underscore"),
        pytest.param("१२,2,A,N,0,,,,1,EQ,NSE,NSE".encode(), "instrument_token", id="devanagari"),
        pytest.param(b"1,2,A,N,0,,,,1.0,EQ,NSE,NSE", "lot_size", id="lot-with-decimals"),
        pytest.param(b"1,2,A,N,0,,4_000,,1,EQ,NSE,NSE", "strike", id="strike-with-underscore"),
        pytest.param(b"1,2,A,N,0,,nan,,1,EQ,NSE,NSE", "strike", id="strike-nan"),
        pytest.param(b"1,2,A,N,0,,,Infinity,1,EQ,NSE,NSE", "tick_size", id="tick-infinity"),
        pytest.param(b"1,2,A,N,0,20260803,,,1,EQ,NSE,NSE", "expiry", id="date-without-dashes"),
        pytest.param(b"1,2,A,N,0,2026-02-30,,,1,EQ,NSE,NSE", "date that exists", id="30-february"),
    ],
)
def test_bad_row_is_rejected_alone_with_line_and_reason(bad: bytes, reason: str) -> None:
    dump = parse_dump(HEADER + OPTION + bad + b"\n" + SHARE + BLANK)

    assert [row["line_number"] for row in dump.rows] == [2, 4, 5]
    assert dump.rows[1]["tradingsymbol"] == "INFY"
    (rejected,) = dump.rejected
    assert rejected.line_number == 3
    assert reason in rejected.reason


def test_reason_tells_column_expectation_and_value() -> None:
    dump = parse_dump(HEADER + SHARE.replace(b",1,EQ", b",many,EQ"))
    assert dump.rejected == [
        RejectedRow(
            2,
            "lot_size: expected a whole number, got 'many'",
            ["1002", "4", "INFY", "INFOSYS", "0", "", "0", "0.05", "many", "EQ", "NSE", "NSE"],
        )
    ]


def test_rejected_row_that_is_not_utf_8_is_shown_as_printable_text() -> None:
    (rejected,) = parse_dump(HEADER + OPTION + SHARE.replace(b"INFY", b"\xff\xfe") + SHARE).rejected
    assert rejected.row[2] == "\N{REPLACEMENT CHARACTER}" * 2
    ",".join(rejected.row).encode("utf-8")


def test_rejected_row_that_is_no_csv_and_not_utf_8_can_be_written_as_utf_8() -> None:
    (rejected,) = parse_dump(HEADER + OPTION + b'1,2,"\xff,\n' + SHARE).rejected
    assert rejected.line_number == 3
    ",".join(rejected.row).encode("utf-8")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=repr)
@pytest.mark.parametrize("last", ["NSE ", "NSEX", "\t"], ids=repr)
def test_rejected_row_that_is_no_csv_is_kept_as_it_was_written(last: str, end: bytes) -> None:
    (rejected,) = parse_dump(HEADER + f'1,2,"A"B,N,{last}'.encode() + end + SHARE).rejected
    assert rejected.row == [f'1,2,"A"B,N,{last}']


@pytest.mark.parametrize(
    ("bad", "key"),
    [
        pytest.param(
            SHARE.replace(b"0.05", b"x"), ("1002", "NSE", "INFY"), id="number-that-is-none"
        ),
        pytest.param(
            SHARE.replace(b"INFY", b"\xff"),
            ("1002", "NSE", "\N{REPLACEMENT CHARACTER}"),
            id="not-utf-8",
        ),
        pytest.param(b"x" + SHARE, ("x1002", "NSE", "INFY"), id="token-that-is-none"),
        pytest.param(SHARE.replace(b"INFY", b"IN,FY"), None, id="too-many-columns"),
        pytest.param(b"1002,4,INFY\n", None, id="too-few-columns"),
        pytest.param(SHARE.replace(b"INFY", b'"INFY'), None, id="no-csv"),
    ],
)
def test_rejected_row_has_its_key_as_written_if_that_can_be_told(
    bad: bytes, key: tuple[str, str, str] | None
) -> None:
    """By its key a row that was rejected is told from one that is gone."""
    (rejected,) = parse_dump(HEADER + OPTION + bad + BLANK).rejected
    assert rejected.key == key


@pytest.mark.parametrize("line", [b"   ", b"\t", b"X"], ids=repr)
def test_line_that_is_not_empty_is_a_rejected_row(line: bytes) -> None:
    dump = parse_dump(HEADER + OPTION + line + b"\n" + SHARE)
    assert [row["line_number"] for row in dump.rows] == [2, 4]
    assert [(row.line_number, row.reason) for row in dump.rejected] == [
        (3, "expected 12 columns, got 1")
    ]


def test_stray_quotes_on_several_lines_harm_only_those() -> None:
    stray = b'9,2,"X,N,0,,,,1,EQ,NSE,NSE\n'
    lines = [OPTION, stray, SHARE, stray, stray, BLANK, b'9,2,X",N,0,,,,1,EQ,NSE,NSE\n', stray]

    dump = parse_dump(HEADER + b"".join(lines) + SHARE)

    assert [row["line_number"] for row in dump.rows] == [2, 4, 7, 8, 10]
    assert [row.line_number for row in dump.rejected] == [3, 5, 6, 9]
    # A quote within an unquoted field is a quote.
    assert dump.rows[3]["tradingsymbol"] == 'X"'


def test_quoted_field_over_two_lines_is_two_rejected_rows() -> None:
    dump = parse_dump(HEADER + SHARE.replace(b"INFOSYS", b'"INFO\nSYS"') + OPTION)
    assert [row["line_number"] for row in dump.rows] == [4]
    assert [row.line_number for row in dump.rejected] == [2, 3]


def test_stray_quote_before_more_than_a_field_of_text_harms_only_its_line() -> None:
    many = b"".join(SHARE.replace(b"1002", b"%d" % token) for token in range(5000, 12000))
    assert len(many) > 131_072

    dump = parse_dump(HEADER + b'1,2,"A,N\n' + many)

    assert [row.line_number for row in dump.rejected] == [2]
    assert [row["instrument_token"] for row in dump.rows] == list(range(5000, 12000))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_long_line_is_rejected_with_its_beginning_alone(end: bytes) -> None:
    long = b"1004,5,SBIN," + b"x" * 200_000
    body = (HEADER + SHARE + long + b"\n" + OPTION + long + b"\n" + BLANK).replace(b"\n", end)

    dump = parse_dump(body)

    assert [row["line_number"] for row in dump.rows] == [2, 4, 6]
    assert [row.line_number for row in dump.rejected] == [3, 5]
    for row in dump.rejected:
        assert row.reason == "longer than 64,000 characters"
        assert row.row == [long[:200].decode() + "..."]


@pytest.mark.parametrize(
    ("length", "end", "reasons"),
    [
        pytest.param(64_000, "\n", [], id="longest"),
        pytest.param(64_000, "\r\n", [], id="longest, CRLF"),
        pytest.param(64_001, "\n", ["longer than 64,000 characters"], id="too long"),
        pytest.param(64_002, "\r\n", ["longer than 64,000 characters"], id="too long, CRLF"),
    ],
)
@pytest.mark.parametrize("letter", ["A", "\N{DEVANAGARI LETTER KA}"], ids=["ASCII", "not ASCII"])
def test_bound_of_a_line_is_in_characters(
    length: int, end: str, reasons: list[str], letter: str
) -> None:
    start, rest = "1002,4,INFY,", f",0,,0,0.05,1,EQ,NSE,NSE{end}"
    line = start + letter * (length - len(start) - len(rest)) + rest
    assert len(line) == length

    dump = parse_dump(HEADER + SHARE + line.encode() + OPTION)

    assert [row.reason for row in dump.rejected] == reasons
    assert len(dump.rows) == 3 - len(reasons)


def test_long_line_takes_no_memory() -> None:
    body = HEADER + SHARE + b"x" * 10_000_000 + b"\n" + OPTION
    tracemalloc.start()
    try:
        dump = parse_dump(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(dump.rows), len(dump.rejected)) == (2, 1)
    assert peak < 2_000_000


def test_long_last_line_without_its_end_is_cut_short() -> None:
    with pytest.raises(TransientAPIError, match="line 3 ends early"):
        parse_dump(HEADER + SHARE + b"x" * 100_000)


def test_quotes_commas_and_doubled_quotes_in_fields_are_kept() -> None:
    text = '5,6,"M&M FIN. ""A"", LTD",\' "x,0,,,,1,EQ,NSE,NSE\n'
    (row,) = parse_dump(HEADER + text.encode()).rows
    assert (row["tradingsymbol"], row["name"]) == ('M&M FIN. "A", LTD', "' \"x")


def test_quoted_field_keeps_its_outer_spaces_and_unquoted_one_its_last() -> None:
    (row,) = parse_dump(HEADER + b'5,6, " A ", B ,0,,,,1,EQ,NSE,NSE\n').rows
    assert (row["tradingsymbol"], row["name"]) == (" A ", "B ")


@pytest.mark.parametrize(
    "separator",
    ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"],
    ids=ascii,
)
def test_separator_that_is_no_line_end_stays_within_its_field(separator: str) -> None:
    dump = parse_dump(HEADER + f"5,6,A{separator}B,N,0,,,,1,EQ,NSE,NSE\n".encode() + SHARE)
    assert [row["tradingsymbol"] for row in dump.rows] == [f"A{separator}B", "INFY"]
    assert [row["line_number"] for row in dump.rows] == [2, 3]


def test_nul_in_a_row_loses_no_other_row() -> None:
    dump = parse_dump(HEADER + OPTION + SHARE.replace(b"INFOSYS", b"INFO\0SYS") + BLANK)
    assert [row["line_number"] for row in dump.rows if row["line_number"] != 3] == [2, 4]
    assert len(dump.rows) + len(dump.rejected) == 3


def test_line_cut_anywhere_within_the_last_row_is_a_body_cut_short() -> None:
    start = HEADER + SHARE + OPTION
    last = SHARE.replace(b"INFOSYS", "ÉCLAIR 😀".encode())

    for end in range(1, len(last) - 1):
        with pytest.raises(TransientAPIError, match="cut short: line 4 ends early"):
            parse_dump(start + last[:end])
    assert symbols(start + last[:-1]) == ["INFY", "HAL26AUG4000CE", "INFY"]
    assert symbols(start) == ["INFY", "HAL26AUG4000CE"]


def test_only_row_that_is_cut_within_a_field_before_the_last_is_a_body_cut_short() -> None:
    for end in range(len(HEADER) + 1, len(HEADER + SHARE) - len(b"NSE")):
        with pytest.raises(TransientAPIError, match="line 2 ends early"):
            parse_dump((HEADER + SHARE)[:end])


def test_bad_last_row_with_a_line_end_is_rejected_alone() -> None:
    dump = parse_dump(HEADER + SHARE + b"1,2,A\n")
    assert len(dump.rows) == 1
    assert [row.line_number for row in dump.rejected] == [3]


def test_to_integer_reads_whole_numbers() -> None:
    assert [to_integer(text) for text in ("0", " 12 ", "+5", "-7", "007", "", "  ")] == [
        0,
        12,
        5,
        -7,
        7,
        None,
        None,
    ]
    assert to_integer("9" * 30) == 10**30 - 1


@pytest.mark.parametrize(
    "text",
    ["1_000", "१२", "٣", "²", "1.0", "1e3", "0x10", "--1", "1 2", "\t1", "1\xa0", "x", "9" * 5000],
    ids=lambda text: ascii(text)[:12],
)
def test_to_integer_refuses(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        to_integer(text)
    assert str(caught.value) == "expected a whole number"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0025", "0.0025"),
        ("90.875", "90.875"),
        (" 4000.00 ", "4000.00"),
        (".5", "0.5"),
        ("5.", "5"),
        ("1e2", "1E+2"),
        ("-0.05", "-0.05"),
        ("1e400", "1E+400"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
    ],
    ids=str,
)
def test_to_decimal_is_exact(text: str, expected: str) -> None:
    assert str(to_decimal(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["1_0.5", "१.५", "nan", "inf", "-Infinity", "sNaN", "1,000", "1e", "e5", ".", "1e99999", "x"],
    ids=ascii,
)
def test_to_decimal_refuses(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        to_decimal(text)
    assert str(caught.value) == "expected a decimal number"


@pytest.mark.parametrize("text", ["", " ", "   "], ids=repr)
def test_blank_number_and_date_are_none(text: str) -> None:
    assert (to_integer(text), to_decimal(text), to_date(text)) == (None, None, None)


def test_to_date_reads_iso_dates() -> None:
    assert to_date(" 2028-02-29 ") == date(2028, 2, 29)


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-30",
        "20260803",
        "2026-W32-1",
        "2026-8-3",
        "27-08-2026",
        "2026-08-27T00:00:00",
        "0000-01-01",
        "२०२६-०८-०३",
        "x",
    ],
    ids=ascii,
)
def test_to_date_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a date "):
        to_date(text)


def test_to_text_keeps_texts_and_makes_blanks_none() -> None:
    assert [to_text(text) for text in (" A ", "0", "", "  ", "\t")] == [
        " A ",
        "0",
        None,
        None,
        None,
    ]


def test_shorten_quotes_cuts_and_escapes() -> None:
    assert shorten("a" * 40) == f"'{'a' * 40}'"
    assert shorten("a" * 41) == f"'{'a' * 37}...'"
    assert shorten("\x1b[31m\n") == r"'\x1b[31m\n'"


@pytest.mark.parametrize(
    "name",
    [
        "dumps/nfo_2025-07.csv.gz",
        "dumps/nse_2025-08.csv.gz",
        "dumps/nse_2025-10.csv.gz",
        "mocks/instruments_all.csv",
        "mocks/instruments_nse.csv",
    ],
)
def test_real_dump_is_read_without_a_reject(name: str, real_dump: Callable[[str], bytes]) -> None:
    body = real_dump(name)

    dump = parse_dump(body)

    assert dump.rejected == []
    assert len(dump.rows) == sum(1 for line in body.splitlines()[1:] if line.strip())


def test_generated_csv_of_instruments_gives_them_back() -> None:
    instruments = [instrument(5, "A"), instrument(6, "B", name=None, strike=None, expiry=None)]
    rows = parse_dump(to_csv(instruments)).rows
    assert [{k: v for k, v in row.items() if k != "line_number"} for row in rows] == instruments
