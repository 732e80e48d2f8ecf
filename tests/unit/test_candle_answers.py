"""Kite's answers with candles: what is read, what one candle or the whole answer is blamed for."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from dag_2_import_candles_from_kite import answers
from dag_2_import_candles_from_kite.answers import Answer, Candle, read_answer, render
from dag_2_import_candles_from_kite.intervals import INTERVALS, Request
from shared.calendar import IST
from shared.exceptions import TransientAPIError

DAY = datetime(2017, 12, 15, tzinfo=IST)
UNTIL = DAY + timedelta(days=1)
GOOD = ("1704.5", "1705", "1699.25", "1702.8", "2499")
NINE_FIFTEEN = DAY + timedelta(hours=9, minutes=15)
GOOD_CANDLE = Candle._make([NINE_FIFTEEN, *map(Decimal, GOOD[:4]), 2499, None])


def request_for(interval: str = "minute", *, has_oi: bool = False, days: int = 1) -> Request:
    return Request(408065, INTERVALS[interval], DAY, DAY + timedelta(days=days), has_oi)


def row(at: str = "09:15", *values: str, day: str = "2017-12-15") -> str:
    """A candle as JSON, its values as they are written."""
    return f'["{day}T{at}:00+0530", {", ".join(values or GOOD)}]'


def body_of(*rows: str) -> bytes:
    return f'{{"status": "success", "data": {{"candles": [{", ".join(rows)}]}}}}'.encode()


def read(*rows: str, interval: str = "minute", has_oi: bool = False, days: int = 1) -> Answer:
    request = request_for(interval, has_oi=has_oi, days=days)
    return read_answer(body_of(*rows), request, complete_until=UNTIL)


def starts(answer: Answer) -> list[str]:
    assert answer.rejected == []
    return [f"{candle.ts:%H:%M}" for candle in answer.candles]


# --- what is read --------------------------------------------------------------------------------


def test_candle_is_read_exactly() -> None:
    answer = read(row())
    assert answer == Answer([GOOD_CANDLE], [])
    (candle,) = answer.candles
    assert candle.ts.tzinfo is IST
    assert [type(value) for value in candle[1:]] == [*[Decimal] * 4, int, type(None)]


def test_open_interest_is_the_seventh_value() -> None:
    (candle,) = read(row("09:15", *GOOD, "13667775"), has_oi=True).candles
    assert candle == GOOD_CANDLE._replace(oi=13667775)


def test_answer_without_candles() -> None:
    assert read() == Answer([], [])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        pytest.param("1700", "1700", id="int"),
        pytest.param("1700.0", "1700", id="float"),
        pytest.param("1700.1234", "1700.1234", id="four decimals"),
        pytest.param("1700.12340000000", "1700.1234", id="trailing zeros"),
        pytest.param("1.7E3", "1700", id="exponent"),
        pytest.param("17e+2", "1700", id="exponent without point"),
        pytest.param("17001234000e-7", "1700.1234", id="negative exponent"),
        pytest.param("1700." + "0" * 900, "1700", id="900 zeros"),
    ],
)
def test_price_in_each_form(written: str, value: str) -> None:
    (candle,) = read(row("09:15", written, *GOOD[1:])).candles
    assert candle.open == Decimal(value)
    exponent = candle.open.as_tuple().exponent
    assert isinstance(exponent, int)
    assert -4 <= exponent <= 0


@pytest.mark.parametrize("price", ["0.0001", "99999999999.9999", "99999999999"])
def test_least_and_greatest_prices(price: str) -> None:
    (candle,) = read(row("09:15", *[price] * 4, "0")).candles
    assert candle[1:6] == (*[Decimal(price)] * 4, 0)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        pytest.param("0", 0, id="0"),
        pytest.param("-0", 0, id="-0"),
        pytest.param("0.0", 0, id="0.0"),
        pytest.param("0e999999", 0, id="0 with an exponent"),
        pytest.param("2499.0", 2499, id="float"),
        pytest.param("24990e-1", 2499, id="exponent"),
        pytest.param("1e18", 10**18, id="large exponent"),
        pytest.param("9223372036854775807", 2**63 - 1, id="greatest"),
        pytest.param("9223372036854775807.0", 2**63 - 1, id="greatest float"),
    ],
)
def test_volume_and_oi_are_whole_numbers_in_any_form(written: str, value: int) -> None:
    (candle,) = read(row("09:15", *GOOD[:4], written, written), has_oi=True).candles
    assert (candle.volume, candle.oi) == (value, value)
    assert type(candle.volume) is type(candle.oi) is int


@pytest.mark.parametrize("at", ["09:15:00+05:30", "09:15:00+0530"])
def test_stamp_with_and_without_a_colon_in_its_zone(at: str) -> None:
    (candle,) = read(f'["2017-12-15T{at}", {", ".join(GOOD)}]').candles
    assert candle == GOOD_CANDLE


def test_other_fields_of_the_answer_do_not_matter() -> None:
    body = json.dumps({"x": [1.5], "data": {"y": None, "candles": []}, "status": "success"})
    assert read_answer(body.encode(), request_for(), complete_until=UNTIL) == Answer()


# --- the grid ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "times"),
    [
        pytest.param("minute", "09:00 09:07 09:15 09:16 15:29 23:54", id="minute"),
        pytest.param("3minute", "09:00 09:03 09:15 09:18 15:27 18:15", id="3minute"),
        pytest.param("5minute", "09:00 09:15 09:20 15:25 18:00 18:15", id="5minute"),
        pytest.param("10minute", "09:00 09:10 09:15 09:25 11:30 15:25 18:15", id="10minute"),
        pytest.param("15minute", "09:00 09:15 11:30 13:45 15:15 18:15", id="15minute"),
        pytest.param("30minute", "09:00 09:15 09:45 11:30 15:15 18:15 23:30", id="30minute"),
        pytest.param("60minute", "09:00 09:15 10:15 11:30 13:45 15:15 18:15 23:00", id="60minute"),
        pytest.param("day", "00:00", id="day"),
    ],
)
def test_candles_of_any_session_are_on_the_grid(interval: str, times: str) -> None:
    """From 09:00 (MCX), 09:15 (NSE), 11:30 (a special one), 18:00 or 18:15 (Muhurat)."""
    assert starts(read(*map(row, times.split()), interval=interval)) == times.split()


@pytest.mark.parametrize(
    ("interval", "at"),
    [
        pytest.param("minute", "09:15:01", id="second"),
        pytest.param("day", "09:15:00", id="a minute's for a day's"),
        pytest.param("3minute", "09:16:00", id="a minute's for 3 minutes'"),
        pytest.param("5minute", "09:18:00", id="3 minutes' for 5 minutes'"),
        pytest.param("10minute", "09:18:00", id="3 minutes' for 10 minutes'"),
        pytest.param("15minute", "09:20:00", id="5 minutes' for 15 minutes'"),
        pytest.param("30minute", "09:25:00", id="10 minutes' for 30 minutes'"),
        pytest.param("60minute", "09:16:00", id="a minute's for an hour's"),
    ],
)
def test_candle_off_the_grid_is_the_answers_fault(interval: str, at: str) -> None:
    stamp = f"2017-12-15T{at}+0530"
    with pytest.raises(TransientAPIError) as caught:
        read(f'["{stamp}", {", ".join(GOOD)}]', interval=interval)
    assert str(caught.value) == (
        f"Expected candles of the interval {interval} from Kite, got {stamp} (candle 1)."
    )


# --- the answer's faults -------------------------------------------------------------------------

NO_CANDLES = [
    pytest.param(b"", id="empty"),
    pytest.param(b"<html>", id="HTML"),
    pytest.param(b"\xff\xfe\xfd", id="bytes"),
    pytest.param(b"null", id="null"),
    pytest.param(b"[]", id="list"),
    pytest.param(b'"data"', id="text"),
    pytest.param(b'{"status": "success"}', id="no data"),
    pytest.param(b'{"status": "success", "data": null}', id="data null"),
    pytest.param(b'{"status": "success", "data": []}', id="data a list"),
    pytest.param(b'{"status": "success", "data": {"candles": null}}', id="candles null"),
    pytest.param(b'{"status": "success", "data": {"candles": {}}}', id="candles an object"),
    pytest.param(b'{"data": {"candles": []}}', id="no status"),
    pytest.param(b'{"status": "error", "data": {"candles": []}}', id="status error"),
    pytest.param(body_of(row())[:-1], id="cut short"),
    pytest.param(body_of(row()) + b"}", id="more behind it"),
    pytest.param(b"[" * 100_000, id="deep"),
    pytest.param(body_of("[]," * 700_000 + "[]"), id="more candles than there can be"),
]


@pytest.mark.parametrize("body", NO_CANDLES)
def test_answer_that_is_no_list_of_candles(body: bytes) -> None:
    with pytest.raises(TransientAPIError) as caught:
        read_answer(body, request_for(), complete_until=UNTIL)
    expected = '{"status": "success", "data": {"candles": [...]}}'
    assert str(caught.value).startswith(f"Expected candles from Kite as {expected}, got ")
    assert len(str(caught.value)) < 240


def test_answer_that_was_cut_short_says_where() -> None:
    with pytest.raises(TransientAPIError, match=r"got '.*\.\.\.' \(Expecting .* \(char 109\)\)\.$"):
        read_answer(body_of(row())[:-2], request_for(), complete_until=UNTIL)


@pytest.mark.parametrize(
    ("candle", "came"),
    [
        pytest.param("[]", "0", id="empty"),
        pytest.param(row("09:16", *GOOD[:4]), "5", id="5 values"),
        pytest.param(row("09:16", *GOOD, "1"), "7", id="7 values"),
        pytest.param("null", "'null'", id="null"),
        pytest.param("1.5", "'1.5'", id="number"),
        pytest.param('"123456"', "'\"123456\"'", id="text"),
        pytest.param("{}", "'{...}'", id="object"),
    ],
)
def test_candle_that_is_no_list_of_six_values(candle: str, came: str) -> None:
    with pytest.raises(TransientAPIError) as caught:
        read(row(), candle)
    assert str(caught.value) == (
        f"Expected a list of 6 values as candle 2 of Kite's answer, got {came}."
    )


def test_open_interest_that_is_not_there() -> None:
    with pytest.raises(TransientAPIError, match=r"a list of 7 values as candle 1 .*, got 6\."):
        read(row(), has_oi=True)


STAMPS = [
    pytest.param("null", "null", id="null"),
    pytest.param("1513309500", "1513309500", id="number"),
    pytest.param("[]", "[...]", id="list"),
    pytest.param("{}", "{...}", id="object"),
    pytest.param("true", "true", id="boolean"),
    pytest.param('""', '""', id="blank"),
    pytest.param('"2017-12-15"', '"2017-12-15"', id="day"),
    *(
        pytest.param(f'"{text}"', f'"{text}"', id=what)
        for what, text in {
            "no zone": "2017-12-15T09:15:00",
            "another zone": "2017-12-15T09:15:00+0000",
            "Z": "2017-12-15T09:15:00Z",
            "blank for T": "2017-12-15 09:15:00+0530",
            "no such day": "2017-02-30T09:15:00+0530",
            "no such hour": "2017-12-15T24:00:00+0530",
            "week": "2017-W50-5T09:15:00+0530",
            "fraction": "2017-12-15T09:15:00.5+0530",
            "more behind it": "2017-12-15T09:15:00+05300",
            "Devanagari": "२०१७-12-15T09:15:00+0530",
        }.items()
    ),
]


@pytest.mark.parametrize(("written", "came"), STAMPS)
def test_stamp_that_cannot_be_read(written: str, came: str) -> None:
    with pytest.raises(TransientAPIError) as caught:
        read(row(), f"[{written}, {', '.join(GOOD)}]")
    message = str(caught.value)
    assert message.startswith("Expected a stamp as 2017-12-15T09:15:00+0530 in candle 2 of Kite's")
    assert f"got '{came}'." in message


@pytest.mark.parametrize("second", ["09:15", "09:14"], ids=["the same", "earlier"])
def test_candles_that_do_not_ascend(second: str) -> None:
    with pytest.raises(TransientAPIError) as caught:
        read(row("09:15"), row(second))
    assert str(caught.value) == (
        "Expected each candle of Kite's answer to be later than the one before, "
        f"2017-12-15 09:15, got 2017-12-15T{second}:00+0530 (candle 2)."
    )


@pytest.mark.parametrize("day", ["2017-12-14", "2017-12-16", "2016-12-15"])
def test_candle_of_another_span(day: str) -> None:
    body = body_of(row("00:00", day=day))
    request = request_for("day")._replace(begin=DAY.astimezone(UTC), end=UNTIL.astimezone(UTC))
    with pytest.raises(TransientAPIError) as caught:
        read_answer(body, request, complete_until=UNTIL + timedelta(days=1))
    assert str(caught.value) == (
        "Kite answered with candles of another span: expected some from 2017-12-15 00:00 "
        f"to before 2017-12-16 00:00, got {day}T00:00:00+0530 (candle 1)."
    )


# --- the running candle --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(row("09:17"), id="the next"),
        pytest.param(row("09:15", day="2017-12-18"), id="beyond the span"),
        pytest.param(row("09:17", *["0"] * 4, "-1"), id="bad values"),
        pytest.param(row("09:17").replace(":00+", ":23+"), id="off the grid"),
        pytest.param(", ".join([row("09:18"), row("09:17"), row("09:17")]), id="in no order"),
    ],
)
@pytest.mark.parametrize("zone", [IST, UTC])
def test_running_candle_is_left_out_without_a_word(last: str, zone: Any) -> None:
    until = (DAY + timedelta(hours=9, minutes=17)).astimezone(zone)
    body = body_of(row("09:15"), row("09:16"), last)
    answer = read_answer(body, request_for(), complete_until=until)
    assert starts(answer) == ["09:15", "09:16"]


def test_running_candle_counts_among_the_lines_of_others() -> None:
    body = body_of(row("09:15"), row("09:18"), row("09:16", "0", *GOOD[1:]))
    until = DAY + timedelta(hours=9, minutes=17)
    answer = read_answer(body, request_for(), complete_until=until)
    assert answer.candles == [GOOD_CANDLE]
    assert [rejected.line_number for rejected in answer.rejected] == [3]


def test_running_candle_alone() -> None:
    body = body_of(row("00:00", day="2017-12-18"))
    answer = read_answer(body, request_for("day"), complete_until=DAY)
    assert answer == Answer([], [])


# --- a candle's faults ---------------------------------------------------------------------------

WHOLE = "expected a whole number from 0 to 9223372036854775807"
PRICE_FAULTS = [
    *(
        pytest.param(written, f"expected a number, got '{came}'", id=what)
        for what, written, came in [
            ("null", "null", "null"),
            ("true", "true", "true"),
            ("text", '"1704.5"', '"1704.5"'),
            ("list", "[1704.5]", "[...]"),
            ("object", '{"a": 1}', "{...}"),
            ("NaN", "NaN", "NaN"),
            ("Infinity", "Infinity", "Infinity"),
            ("-Infinity", "-Infinity", "-Infinity"),
            ("endless exponent", "1e9999999999999999999", "1e9999999999999999999"),
        ]
    ),
    *(
        pytest.param(written, f"expected a positive number, got '{written}'", id=written)
        for written in ["0", "0.0", "-0.0", "-1", "-1704.5", "0e5"]
    ),
    *(
        pytest.param(written, f"expected at most 4 decimals, got '{written}'", id=written)
        for written in ["1704.50001", "0.00001", "1e-5", "1e-999999", "99999999999.99999"]
    ),
    *(
        pytest.param(
            written, f"expected at most 11 digits before the point, got '{written}'", id=written
        )
        for written in ["100000000000", "100000000000.5", "1e11", "1e999999"]
    ),
    pytest.param(
        "9" * 4000,
        f"expected at most 11 digits before the point, got '{'9' * 37}...'",
        id="4,000 digits",
    ),
    pytest.param(
        "9" * 5000,
        f"expected a number of at most 1000 characters, got '{'9' * 37}...'",
        id="5,000 digits",
    ),
    pytest.param(
        "1." + "0" * 5000,
        f"expected a number of at most 1000 characters, got '1.{'0' * 35}...'",
        id="5,000 zeros",
    ),
]
COUNT_FAULTS = [
    pytest.param(written, f"{WHOLE}, got '{came}'", id=what)
    for what, written, came in [
        ("null", "null", "null"),
        ("false", "false", "false"),
        ("text", '"2499"', '"2499"'),
        ("list", "[]", "[...]"),
        ("fraction", "2499.5", "2499.5"),
        ("tiny", "1e-999999", "1e-999999"),
        ("negative", "-1", "-1"),
        ("negative float", "-1.0", "-1.0"),
        ("above bigint", "9223372036854775808", "9223372036854775808"),
        ("float above bigint", "9223372036854775808.0", "9223372036854775808.0"),
        ("huge", "1e999999", "1e999999"),
    ]
]


def check_reject(name: str, values: list[str], reason: str, *, has_oi: bool = False) -> None:
    """The second of three candles is rejected for its value of that name, the others are read."""
    good = [*GOOD, "7"][: len(values)]
    bad = row("09:16", *values)
    answer = read(row("09:15", *good), bad, row("09:17", *good), has_oi=has_oi)
    assert [f"{candle.ts:%H:%M}" for candle in answer.candles] == ["09:15", "09:17"]
    assert {candle[1:6] for candle in answer.candles} == {GOOD_CANDLE[1:6]}
    (rejected,) = answer.rejected
    assert rejected.line_number == 2
    assert rejected.reason == f"{name}: {reason}"
    assert rejected.row[0] == "2017-12-15T09:16:00+0530"
    assert len(rejected.row) == 1 + len(values)
    assert all(type(text) is str and len(text) <= 200 for text in map(str, rejected.row))


@pytest.mark.parametrize("name", ["open", "high", "low", "close"])
@pytest.mark.parametrize(("written", "reason"), PRICE_FAULTS)
def test_price_that_is_none_rejects_its_candle(name: str, written: str, reason: str) -> None:
    values = list(GOOD)
    values[["open", "high", "low", "close"].index(name)] = written
    check_reject(name, values, reason)


@pytest.mark.parametrize("name", ["volume", "oi"])
@pytest.mark.parametrize(("written", "reason"), COUNT_FAULTS)
def test_count_that_is_none_rejects_its_candle(name: str, written: str, reason: str) -> None:
    values = [*GOOD, "7"]
    values[4 if name == "volume" else 5] = written
    check_reject(name, values, reason, has_oi=True)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        pytest.param(
            ["100", "105", "100.05", "101"],
            "low: expected at most 100, the lower of open and close, got '100.05'",
            id="low above open",
        ),
        pytest.param(
            ["101", "105", "100.05", "100"],
            "low: expected at most 100, the lower of open and close, got '100.05'",
            id="low above close",
        ),
        pytest.param(
            ["105.05", "105", "100", "101"],
            "high: expected at least 105.05, the higher of open and close, got '105'",
            id="high below open",
        ),
        pytest.param(
            ["101", "105", "100", "105.05"],
            "high: expected at least 105.05, the higher of open and close, got '105'",
            id="high below close",
        ),
    ],
)
def test_prices_that_contradict_each_other(values: list[str], fault: str) -> None:
    name, _, reason = fault.partition(": ")
    check_reject(name, [*values, "1"], reason)


def test_rejected_row_is_in_texts_that_can_be_written() -> None:
    (rejected,) = read(row("09:15", "1", "null", r'"\ud800"', "[[]]", '"12"')).rejected
    assert rejected.row == ["2017-12-15T09:15:00+0530", "1", "null", "?", "[...]", "12"]
    (long,) = read(row("09:15", '"' + "x" * 999 + '"', *GOOD[1:])).rejected
    assert long.row[1] == "x" * 200


def test_many_bad_candles_among_good_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_ROWS_AT_ONCE", 4)
    rows = [row(f"09:{m:02}", "0" if m % 10 == 3 else "1704.5", *GOOD[1:]) for m in range(60)]
    answer = read(*rows)
    assert [r.line_number for r in answer.rejected] == [4, 14, 24, 34, 44, 54]
    assert [c.ts.minute for c in answer.candles] == [m for m in range(60) if m % 10 != 3]


# --- threads, memory -----------------------------------------------------------------------------


def test_threads_read_alike_while_they_empty_each_others_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "_MOST_REMEMBERED", 3)

    def body(shift: int) -> bytes:
        prices = [f"{shift * 100 + m}.{m % 7}5" for m in range(60)]
        return body_of(*(row(f"09:{m:02}", *[prices[m]] * 4, "1") for m in range(60)))

    def run(shift: int) -> list[Decimal]:
        answer = read_answer(body(shift), request_for(), complete_until=UNTIL)
        return [candle.open for candle in answer.candles]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, range(1, 41)))
    assert found == [[Decimal(f"{s * 100 + m}.{m % 7}5") for m in range(60)] for s in range(1, 41)]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_MOST_REMEMBERED", 100)
    for hundred in range(5):
        read(*(row(f"09:{m:02}", *[f"{hundred + 1}{m:02}.5"] * 4, "1") for m in range(1, 60)))
    read(row("09:15", "1." + "0" * 99, *GOOD[1:]))
    assert 0 < len(answers._FLOATS) <= 100
    assert max(map(len, answers._FLOATS)) <= 32


# --- COPY's text ---------------------------------------------------------------------------------


def test_render_gives_a_line_for_each_candle() -> None:
    later = GOOD_CANDLE._replace(ts=GOOD_CANDLE.ts + timedelta(minutes=1), oi=0)
    assert render([GOOD_CANDLE, later], 17, "minute").decode().splitlines() == [
        "17\tminute\t2017-12-15T09:15:00+05:30\t1704.5\t1705\t1699.25\t1702.8\t2499\t",
        "17\tminute\t2017-12-15T09:16:00+05:30\t1704.5\t1705\t1699.25\t1702.8\t2499\t0",
    ]


def test_render_of_no_candle_is_empty() -> None:
    assert render([], 17, "day") == b""
