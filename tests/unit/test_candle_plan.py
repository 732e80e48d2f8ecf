"""Which spans of candles are missing, and which were answered for good."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.plan import (
    Covered,
    Span,
    add_covered,
    complete_until,
    count_requests,
    day_of,
    estimate_candles,
    find_missing,
    first_request,
    is_final,
    midnight,
    readable_until,
)
from shared.calendar import IST

DAY, MINUTE = INTERVALS["day"], INTERVALS["minute"]
NOW = datetime(2026, 11, 18, 12, 0, tzinfo=IST)  # a Wednesday
TODAY = midnight(NOW.date())


def ist(text: str) -> datetime:
    """A moment of November 2026: "18" or "18 15:30"."""
    day, _, clock = text.partition(" ")
    return datetime.fromisoformat(f"2026-11-{day:0>2}T{clock or '00:00'}+05:30")


def span(begin: str, end: str) -> Span:
    return Span(ist(begin), ist(end))


def covered(begin: str, end: str, at: str, *, final: bool = True) -> Covered:
    return Covered(ist(begin), ist(end), ist(at), final)


# --- what is over --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "exchange", "now", "until"),
    [
        ("day", "NSE", "18 09:14", "18"),
        ("day", "NSE", "18 15:29:59", "18"),
        ("day", "NSE", "18 15:30", "19"),
        ("day", "BFO", "18 15:30", "19"),
        ("day", "CDS", "18 16:59", "18"),
        ("day", "CDS", "18 17:00", "19"),
        ("day", "MCX", "18 23:54:59", "18"),
        ("day", "MCX", "18 23:55", "19"),
        ("day", "unknown", "18 23:59:59", "18"),
        ("day", "NSE", "18 00:00", "18"),
        ("day", "NSE", "21 12:00", "21"),  # a Saturday
        ("day", "NSE", "21 15:30", "22"),
        ("minute", "NSE", "18 09:15:59", "18 09:15"),
        ("minute", "NSE", "18 09:16:00", "18 09:16"),
        ("minute", "NSE", "18 15:29:59", "18 15:29"),
        ("minute", "NSE", "18 15:30", "19"),
        ("minute", "MCX", "18 15:30", "18 15:30"),
        ("minute", "MCX", "18 23:54:59.9", "18 23:54"),
        ("minute", "MCX", "18 23:55", "19"),
        ("minute", "unknown", "18 23:59:59", "18 23:59"),
        ("minute", "NSE", "18 00:00:30", "18"),
        ("60minute", "NSE", "18 10:14:59", "18 09:15"),
        ("60minute", "NSE", "18 10:15", "18 09:16"),
        ("60minute", "NSE", "18 15:29", "18 14:30"),
        ("60minute", "NSE", "18 15:30", "19"),  # its last one has 15 minutes
        ("60minute", "NSE", "18 00:20", "18"),
        ("3minute", "NSE", "18 09:20:30", "18 09:18"),
    ],
)
def test_candle_is_over_that_begins_before(
    interval: str, exchange: str, now: str, until: str
) -> None:
    assert complete_until(INTERVALS[interval], exchange, ist(now)) == ist(until)


@pytest.mark.parametrize(
    ("interval", "exchange", "now", "until"),
    [
        ("minute", "NSE", "18 15:29:59", "18 15:29"),
        ("minute", "NSE", "18 15:30", "18 15:30"),
        ("minute", "NSE", "18 18:30:30", "18 18:30"),  # of an evening of Muhurat
        ("60minute", "NSE", "18 15:30", "18 15:30"),
        ("60minute", "NSE", "18 18:30", "18 17:31"),
        ("60minute", "NSE", "18 19:15", "18 18:16"),
        ("minute", "MCX", "18 23:56", "18 23:56"),
        ("minute", "unknown", "18 18:30:30", "18 18:30"),
        ("day", "NSE", "18 18:30", "19"),
        ("day", "NSE", "18 15:29", "18"),
    ],
)
def test_candle_of_an_evening_may_run(interval: str, exchange: str, now: str, until: str) -> None:
    moment = readable_until(INTERVALS[interval], exchange, ist(now))
    assert moment == ist(until)
    assert moment <= complete_until(INTERVALS[interval], exchange, ist(now))


@pytest.mark.parametrize("name", INTERVALS)
def test_moments_are_those_of_india(name: str) -> None:
    for hour in range(24):
        now = ist(f"18 {hour:02d}:07:03")
        in_utc = now.astimezone(UTC)
        until = complete_until(INTERVALS[name], "NSE", now)
        assert complete_until(INTERVALS[name], "NSE", in_utc) == until
        assert day_of(until) in (day_of(now), day_of(now + timedelta(days=1)))


# --- what is missing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        pytest.param([], [("2", "18")], id="nothing was answered"),
        pytest.param([("2", "18")], [], id="all"),
        pytest.param([("1", "30")], [], id="more than all"),
        pytest.param([("2", "10")], [("10", "18")], id="the end is missing"),
        pytest.param([("10", "18")], [("2", "10")], id="the begin is missing"),
        pytest.param([("4", "6"), ("8", "10")], [("2", "4"), ("6", "8"), ("10", "18")], id="holes"),
        pytest.param([("1", "3"), ("17", "30")], [("3", "17")], id="the middle"),
        pytest.param([("19", "30")], [("2", "18")], id="later"),
        pytest.param([("1", "2")], [("2", "18")], id="earlier"),
    ],
)
def test_missing_spans(rows: list[tuple[str, str]], missing: list[tuple[str, str]]) -> None:
    known = [covered(*row, "18 11:00") for row in reversed(rows)]
    assert find_missing(span("2", "18"), known, NOW) == [span(*each) for each in missing]


def test_what_a_clock_that_was_ahead_has_noted_counts_for_nothing() -> None:
    known = [covered("2", "10", "17"), covered("10", "25", "25 18:00")]
    assert find_missing(span("2", "18"), known, NOW) == [span("10", "18")]
    assert add_covered(known, span("10", "12"), NOW) == [covered("2", "12", "18 12:00")]


def test_nothing_is_missing_of_an_empty_span() -> None:
    assert find_missing(span("18", "18"), [], NOW) == []
    assert find_missing(span("20", "18"), [], NOW) == []


def test_what_was_not_over_counts_until_the_day_ends() -> None:
    wanted = span("17", "19")
    known = [
        covered("17", "18", "18 09:00"),
        covered("18", "18 11:00", "18 11:00", final=False),
    ]
    assert find_missing(wanted, known, NOW) == [span("18 11:00", "19")]
    assert find_missing(wanted, known, ist("18 23:59:59")) == [span("18 11:00", "19")]
    assert find_missing(wanted, known, ist("19 00:00")) == [span("18", "19")]


# --- what was answered ---------------------------------------------------------------------------


def test_answer_is_final_before_the_day_on_which_it_came() -> None:
    rows = add_covered([], span("2", "19"), NOW)
    assert rows == [
        Covered(ist("2"), TODAY, NOW, is_final=True),
        Covered(TODAY, ist("19"), NOW, is_final=False),
    ]
    assert is_final(rows, ist("17"))
    assert not is_final(rows, ist("18"))
    assert not is_final(rows, ist("1"))
    assert not is_final(rows, ist("19"))


@pytest.mark.parametrize(
    ("begin", "end", "finals"),
    [("2", "18", [True]), ("18", "18 12:00", [False]), ("17 23:59", "18 00:01", [True, False])],
)
def test_answer_over_midnight(begin: str, end: str, finals: list[bool]) -> None:
    rows = add_covered([], span(begin, end), NOW)
    assert [row.is_final for row in rows] == finals
    assert (rows[0].begin, rows[-1].end) == (ist(begin), ist(end))


def test_answers_that_meet_are_one_row() -> None:
    rows = add_covered([covered("2", "5", "6"), covered("9", "12", "13")], span("5", "9"), NOW)
    assert rows == [Covered(ist("2"), ist("12"), NOW, is_final=True)]


def test_answers_that_do_not_meet_are_two_rows() -> None:
    rows = add_covered([covered("2", "5", "6")], span("6", "9"), NOW)
    assert [(row.begin, row.end) for row in rows] == [span("2", "5"), span("6", "9")]


def test_next_day_makes_the_day_before_final() -> None:
    rows = add_covered([], span("2", "19"), NOW)
    rows = add_covered(rows, span("13", "20"), ist("19 18:00"))
    assert rows == [
        Covered(ist("2"), ist("19"), ist("19 18:00"), is_final=True),
        Covered(ist("19"), ist("20"), ist("19 18:00"), is_final=False),
    ]


def test_older_answer_keeps_what_it_has_beside_a_newer_one() -> None:
    evening = covered("16", "17", "16 18:00", final=False)
    rows = add_covered([evening], span("16 10:00", "16 11:00"), ist("17 18:00"))
    assert rows == [
        covered("16", "16 10:00", "16 18:00", final=False),
        covered("16 10:00", "16 11:00", "17 18:00"),
        covered("16 11:00", "17", "16 18:00", final=False),
    ]


def test_two_answers_of_one_day_are_one_row() -> None:
    rows = add_covered([], span("18", "18 11:00"), ist("18 11:00"))
    rows = add_covered(rows, span("18 11:00", "18 12:00"), NOW)
    assert rows == [Covered(TODAY, ist("18 12:00"), NOW, is_final=False)]


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INTERVALS)
def test_request_is_as_long_as_kite_takes_it(name: str) -> None:
    interval = INTERVALS[name]
    longest = timedelta(days=interval.longest_days)
    begin = midnight(NOW.date()) - 3 * longest
    whole = Span(begin, begin + longest)
    assert first_request(Span(begin, NOW), interval) == whole
    assert first_request(whole, interval) == whole
    before = begin - timedelta(days=7)
    assert first_request(Span(begin, NOW), interval, before) == Span(before, before + longest)
    assert first_request(Span(begin, NOW), interval, begin + longest) == whole
    counts = [longest, longest + timedelta(minutes=1), 2 * longest]
    found = [count_requests([Span(begin, begin + each)], interval) for each in counts]
    assert found == [1, 2, 2]
    assert count_requests([whole, whole], interval) == 2
    assert count_requests([], interval) == 0


def test_candles_are_estimated() -> None:
    year = [Span(TODAY - timedelta(days=365), TODAY)]
    assert estimate_candles(year, DAY) == 248
    assert estimate_candles(year, MINUTE) == 248 * 375
    assert estimate_candles(year, INTERVALS["60minute"]) == 248 * 7
    assert estimate_candles([], DAY) == 0
