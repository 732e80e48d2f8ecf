"""NSE's list of symbol changes: the forms that it comes in, and what is not it."""

from __future__ import annotations

from datetime import date

import pytest

from dag_3_import_symbol_changes_from_nse.symbol_changes import parse
from shared.exceptions import APIError, TransientAPIError

HEADER = b"SYMB_COMPANY_NAME, SM_KEY_SYMBOL, SM_NEW_SYMBOL, SM_APPLICABLE_FROM\n"
ETERNAL = b"Eternal Limited,ZOMATO,ETERNAL,09-APR-2025\n"
NAMES = ("company", "old_symbol", "new_symbol", "changed_on")
BOM = b"\xef\xbb\xbf"


def read(body: bytes) -> list[tuple[object, ...]]:
    """The rows, where none is rejected."""
    batch = parse(body)
    assert batch.rejected == []
    return [tuple(row[name] for name in NAMES) for row in batch.rows]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        pytest.param(ETERNAL, ("Eternal Limited", "ZOMATO", "ETERNAL"), id="plain"),
        pytest.param(
            b"Foo, Bar & Co., Ltd.,FOO,BAR,09-APR-2025\n",
            ("Foo, Bar & Co., Ltd.", "FOO", "BAR"),
            id="commas",
        ),
        pytest.param(
            b'"Foo, Bar & Co., Ltd." , "FOO","BAR" ,"09-APR-2025" \n',
            ("Foo, Bar & Co., Ltd.", "FOO", "BAR"),
            id="commas in quotes",
        ),
        pytest.param(
            b'"The ""Best"", Ltd",FOO,BAR,09-APR-2025\n',
            ('The "Best", Ltd', "FOO", "BAR"),
            id="quotes in quotes",
        ),
        pytest.param(
            b'The "Best", Ltd,FOO,BAR,09-APR-2025\n',
            ('The "Best", Ltd', "FOO", "BAR"),
            id="quotes and commas",
        ),
        pytest.param(
            b"  Foo Ltd \t, FOO ,\tBAR , 09-APR-2025  \r\n", ("Foo Ltd", "FOO", "BAR"), id="blanks"
        ),
        pytest.param(
            b'" Foo Ltd "," FOO","BAR ",09-APR-2025\n', ("Foo Ltd", "FOO", "BAR"), id="in quotes"
        ),
        pytest.param(b",FOO,BAR,9-Apr-2025\n", (None, "FOO", "BAR"), id="no company"),
        pytest.param(b"A,FOO,BAR,09-apr-2025\n", ("A", "FOO", "BAR"), id="lower case month"),
        pytest.param(b"A,M&M-BE,L&T,09-APR-2025\n", ("A", "M&M-BE", "L&T"), id="& and -"),
        pytest.param(b"A,FOO,FOO,09-APR-2025\n", ("A", "FOO", "FOO"), id="equal symbols"),
        pytest.param(
            "Café, Ltd,FOO,BAR,09-APR-2025\n".encode(), ("Café, Ltd", "FOO", "BAR"), id="UTF-8"
        ),
        pytest.param(
            "Café “A” \u2013 Ltd,FOO,BAR,09-APR-2025\n".encode("cp1252"),
            ("Café “A” \u2013 Ltd", "FOO", "BAR"),
            id="Windows-1252",
        ),
        pytest.param(b"Foo\xa0,FOO\xa0,BAR,09-APR-2025\n", ("Foo", "FOO", "BAR"), id="NBSP"),
    ],
)
@pytest.mark.parametrize("start", [HEADER, b"", BOM, BOM + HEADER, b"\r\n \n" + HEADER, b"\n\n"])
def test_line_is_read_in_each_form(start: bytes, line: bytes, row: tuple[object, ...]) -> None:
    expected = (*row, date(2025, 4, 9))
    eternal = ("Eternal Limited", "ZOMATO", "ETERNAL", date(2025, 4, 9))
    assert read(start + line + b"\n  \r\n" + ETERNAL) == [expected, eternal]
    assert read(start + ETERNAL + line.rstrip(b"\r\n")) == [eternal, expected]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_all_that_nse_lists_is_given_in_its_order(end: bytes) -> None:
    lines = [
        HEADER,
        b"A Ltd,A,B,01-JAN-2020\n",
        b"A Ltd,B,C,01-FEB-2021\n",
        b"A Ltd,A,B,01-JAN-2020\n",
        b"A Ltd,A,B,01-JAN-2022\n",
    ]
    for start in (0, 1):
        batch = parse(b"".join(lines[start:]).replace(b"\n", end))
        assert [(r["old_symbol"], r["new_symbol"], str(r["changed_on"])) for r in batch.rows] == [
            ("A", "B", "2020-01-01"),
            ("B", "C", "2021-02-01"),
            ("A", "B", "2020-01-01"),
            ("A", "B", "2022-01-01"),
        ]
        assert [row["line_number"] for row in batch.rows] == list(range(2 - start, 6 - start))


def test_header_may_be_in_another_order_and_case() -> None:
    body = (
        b'sm_new_symbol,"sm_key_symbol",remark,sm_applicable_from,symb_company_name\n'
        b'ETERNAL,ZOMATO,x,09-APR-2025,"Eternal, Ltd"\n'
        b"ETERNAL,ZOMATO,x,09-APR-2025,Caf\xe9\n"
        b"ETERNAL,ZOMATO,x,09-APR-2025,Eternal, Ltd\n"
    )
    batch = parse(body)
    assert [[row[name] for name in NAMES[:3]] for row in batch.rows] == [
        ["Eternal, Ltd", "ZOMATO", "ETERNAL"],
        ["Café", "ZOMATO", "ETERNAL"],
    ]
    assert [reject.reason for reject in batch.rejected] == ["expected 5 columns, got 6"]


BAD = [
    (b"Foo,FOO,09-APR-2025\n", "expected 4 columns, got 3"),
    (b"Foo\n", "expected 4 columns, got 1"),
    (b"Foo,,BAR,09-APR-2025\n", "old_symbol: required, but missing"),
    (b'Foo,FOO," ",09-APR-2025\n', "new_symbol: required, but missing"),
    (b"Foo,FOO,BAR,\n", "changed_on: required, but missing"),
    (b"Foo,FOO,BAR,2025-04-09\n", "changed_on: expected a date as 09-APR-2025, got '2025-04-09'"),
    (b"Foo,FOO,BAR,31-FEB-2025\n", "changed_on: expected a date that exists, got '31-FEB-2025'"),
    (b"Foo,FOO,BAR,09-APL-2025\n", "changed_on: expected a date that exists, got '09-APL-2025'"),
    (b"Foo,FOO,BAR,09-APR-25\n", "changed_on: expected a date as 09-APR-2025, got '09-APR-25'"),
    (b"F,%s,BAR,09-APR-2025\n" % (b"F" * 51), "old_symbol: expected at most 50 characters, got 51"),
    (b"%s,FOO,BAR,09-APR-2025\n" % (b"F" * 256), "company: expected at most 255 characters"),
    (b'"Foo,FOO,BAR,09-APR-2025\n', "not readable as CSV: a quote is not closed on its line"),
    (b"F\x81o,FOO,BAR,09-APR-2025\n", "not UTF-8"),  # nothing in Windows-1252 either
    (b"Foo,F\0O,BAR,09-APR-2025\n", "old_symbol: holds a character that cannot be stored"),
    (b"F" * 70_000 + b"\n", "longer than 64,000 characters"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason[:40] for _, reason in BAD])
@pytest.mark.parametrize("start", [HEADER, b""], ids=["header", "no header"])
@pytest.mark.parametrize("before", [b"", ETERNAL + b"\n"], ids=["first", "later"])
def test_bad_line_is_rejected_by_itself(
    start: bytes, before: bytes, line: bytes, reason: str
) -> None:
    batch = parse(start + before + line + ETERNAL)
    [rejected] = batch.rejected
    assert rejected.reason.startswith(reason)
    number = 1 + (start + before).count(b"\n")
    assert rejected.line_number == number
    numbers = [row["line_number"] for row in batch.rows]
    assert numbers == ([number - 2] if before else []) + [number + 1]


OTHER_LIST = b"NCH_SYMBOL,NCH_PREV_NAME,NCH_NEW_NAME,NCH_DT\nFOO,Foo Ltd,Bar Ltd,09-APR-2025\n"
EQUITIES = (
    b"SYMBOL,NAME OF COMPANY, SERIES, DATE OF LISTING, FACE VALUE\nFOO,Foo,EQ,06-OCT-2008,1\n"
)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        pytest.param(b"", TransientAPIError, "NSE's list of symbol changes is empty", id="empty"),
        pytest.param(b"\r\n \n", TransientAPIError, "NSE's list of symbol changes is", id="blank"),
        pytest.param(
            b"<!DOCTYPE html>\n<p>Access Denied, A, B, C\n",
            TransientAPIError,
            "Expected NSE's list of symbol changes as CSV, got an HTML page.",
            id="HTML",
        ),
        pytest.param(
            b'{"data": []}', APIError, "This is JSON, not NSE's list of symbol changes", id="JSON"
        ),
        pytest.param(
            ("\ufeff" + ETERNAL.decode()).encode("utf-16-le"),
            APIError,
            "This is UTF-16 text, not NSE's list of symbol changes as CSV: save it as UTF-8",
            id="UTF-16",
        ),
        pytest.param(
            OTHER_LIST,
            APIError,
            "This is not NSE's list of symbol changes: its header lacks the column "
            "symb_company_name, sm_key_symbol, sm_new_symbol, sm_applicable_from. Expected the "
            "columns symb_company_name, sm_key_symbol, sm_new_symbol, sm_applicable_from; got "
            "'nch_symbol,nch_prev_name,nch_new_name,nch_dt'.",
            id="list of names",
        ),
        pytest.param(
            b"Foo Ltd,FOO,BAR,soon\n" + ETERNAL,
            APIError,
            "This is not NSE's list of symbol changes: its header lacks",
            id="first line that may be another header",
        ),
        pytest.param(EQUITIES, APIError, "This is not NSE's list", id="list of equities"),
        pytest.param(b"a,b\n1,2\n", APIError, "This is not NSE's list", id="another CSV"),
        pytest.param(
            HEADER[:30],
            TransientAPIError,
            "NSE's list of symbol changes was cut short within its header.",
            id="cut in its header",
        ),
    ],
)
def test_body_that_is_not_the_list(body: bytes, error: type[APIError], message: str) -> None:
    with pytest.raises(error) as caught:
        parse(body)
    assert type(caught.value) is error
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("start", [HEADER, b""], ids=["header", "no header"])
@pytest.mark.parametrize("line", [ETERNAL, b'"Foo, Ltd",FOO,BAR,"09-APR-2025"\n'])
def test_body_that_is_cut_within_a_line(start: bytes, line: bytes) -> None:
    before = start + ETERNAL
    for size in range(1, len(line) - 1):
        with pytest.raises(TransientAPIError, match=r"was cut short: line \d ends early"):
            parse(before + line[:size])
    assert len(parse(before + line[:-1]).rows) == 2
