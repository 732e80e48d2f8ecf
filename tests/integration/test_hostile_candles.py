"""Kite at its worst: what is stored is what it has, or what it lacks is told.

The shares are made up; tests/candle_truth.py says what Kite has of them. Nobody waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import cycle, islice

import pytest
from kiteconnect import KiteConnect

from dag_2_import_candles_from_kite.sandbox_route import PATH
from sandbox.kite_faults import CutShort, Fault, HtmlError, HttpError, Reset
from sandbox.kite_server import KiteServer
from shared.calendar import IST
from tests.candle_desk import CandleDesk, make_desk
from tests.candle_faults import (
    CUT_LIST,
    EMPTY,
    NEGATIVE_MIDDLE,
    OTHER_SPAN,
    OTHER_TOKEN,
    UNORDERED,
    Fine,
    plan_faults,
)
from tests.candle_truth import (
    INDEX_SYMBOL,
    INDEX_TOKEN,
    Correction,
    Listing,
    made_market,
    weekdays,
)
from tests.command_line import CommandLine

TODAY = date(2026, 3, 18)  # a Wednesday
EVENING = datetime.combine(TODAY, time(18), IST)
NAMES = ["ONE", "TWO", "THREE", "FOUR"]
LONGEST_DAYS = {"minute": 60, "60minute": 400, "day": 2000}

# What passes when it is asked again. (429 and 500 beside what only a reader can find out.)
FAULTS: tuple[Fault, ...] = (
    HttpError(429),
    EMPTY,
    HttpError(500),
    OTHER_SPAN,
    Reset("answer"),
    OTHER_TOKEN,
    CutShort("length"),
    UNORDERED,
    HtmlError(502),
    Reset("body"),
    HttpError(429, retry_after=0),
    CutShort("chunked"),
)

MakeDesk = Callable[..., CandleDesk]


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


@pytest.fixture
def make(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> MakeDesk:
    """A desk at these shares with candles on so many days up to today. `since`: now it is then."""

    def make_it(
        names: Sequence[str] = NAMES,
        days: int = 30,
        intervals: Sequence[str] = ("day",),
        since: date = TODAY,
    ) -> CandleDesk:
        market = made_market(EVENING, names, days, {"day", *intervals})
        desk = make_desk(cli, market, monkeypatch, names=names, intervals=intervals)
        desk.parameters |= {"start": f"{weekdays(TODAY, days)[0]}", "requests_per_second": 3}
        desk.go_to(datetime.combine(since, time(9), IST))
        desk.import_list()
        desk.go_to(datetime.combine(since, time(18), IST))
        return desk

    return make_it


def token_of(desk: CandleDesk, name: str) -> int:
    listing = desk.market.share(name).listing(desk.market.now.date())
    assert listing is not None
    return listing.token


def asked(kite: KiteServer) -> Counter[str]:
    """How many requests there were, by what follows the route: token and interval."""
    paths = (request.path for request in kite.requests)
    return Counter(path.removeprefix(PATH) for path in paths if path.startswith(PATH))


def count_plan(desk: CandleDesk, name: str, interval: str) -> int:
    """How many requests an instrument takes where all goes well: span after span, each from the
    last five candles of the one before.
    """
    stamps = [row[0] for row in desk.market.rows(name, interval)]
    begin = datetime.combine(date.fromisoformat(desk.parameters["start"]), time(), IST)
    limit = datetime.combine(desk.market.now.date(), time(), IST) + timedelta(days=1)
    for count in range(1, 1000):
        end = begin + timedelta(days=LONGEST_DAYS[interval])
        if end >= limit:
            return count
        begin = [stamp for stamp in stamps if stamp < end][-5]
    raise AssertionError("no end")


def planned(desk: CandleDesk) -> Counter[str]:
    """What a run has to ask where all goes well."""
    plan = Counter({f"{INDEX_TOKEN}/day": count_plan(desk, INDEX_SYMBOL, "day")})
    for name in desk.names:
        for interval in desk.intervals:
            plan[f"{token_of(desk, name)}/{interval}"] = count_plan(desk, name, interval)
    return plan


def assert_nothing_is_untold(desk: CandleDesk) -> set[tuple[str, date]]:
    """What is stored is Kite's, and each day that lacks is in a gap. Returns those days."""
    lacking = set()
    pairs = [(name, interval) for interval in desk.intervals for name in desk.names]
    for name, interval in {*pairs, (INDEX_SYMBOL, "day")}:
        have = desk.stored(interval).get(name, [])
        want = desk.market.rows(name, interval)
        assert set(have) <= set(want), sorted(set(have) - set(want))[:2]
        days = {row[0].astimezone(IST).date() for row in have}
        lacking |= {(name, row[0].date()) for row in want if row[0].date() not in days}
    traded = {row[0].date().isoformat() for row in desk.market.rows(INDEX_SYMBOL)}
    told = {
        (symbol, date.fromisoformat(day))
        for symbol, first, last in desk.gaps()
        for day in traded
        if first <= day <= last
    }
    assert told == lacking
    return lacking


# All goes well


@pytest.mark.parametrize("interval", ["day", "minute"])
def test_plan_is_what_is_asked_and_no_more(make: MakeDesk, kite: KiteServer, interval: str) -> None:
    desk = make(days=150, intervals=[interval])
    desk.fetch()
    desk.assert_whole()
    assert asked(kite) == planned(desk)
    desk.fetch()
    assert asked(kite) == planned(desk)  # all of today is there
    assert desk.gaps() == set()


def test_dry_run_says_what_would_be_asked_and_asks_nothing(
    make: MakeDesk, kite: KiteServer
) -> None:
    desk = make(days=150, intervals=["day", "minute"])
    result = desk.fetch("--dry-run")
    assert asked(kite).total() == 0
    assert f" {planned(desk).total()} requests" in " ".join(result.stdout.split())
    assert desk.cli.query("SELECT to_regclass('kite_candle')") == [(None,)]


def test_pace_is_kept_by_all_together(make: MakeDesk, kite: KiteServer) -> None:
    desk = make([f"SHARE{n}" for n in range(24)], days=3)
    desk.fetch()
    assert asked(kite).total() == 25
    assert len(desk.clock.granted) == 26  # the login's among them
    assert desk.clock.most_in_a_second() <= 3


# What passes


@pytest.mark.parametrize("interval", ["day", "minute"])
def test_faults_that_pass_leave_no_trace(make: MakeDesk, kite: KiteServer, interval: str) -> None:
    desk = make(days=1500 if interval == "day" else 150, intervals=[interval])
    plan, faults = planned(desk), 0
    for at, path in enumerate(sorted(plan)):
        token, _, asked_for = path.partition("/")
        # The first answer has nothing to be compared with: another token's is found out later.
        mine = list(islice(cycle(FAULTS), at, at + 12))
        mine = mine[1:] if mine[0] is OTHER_TOKEN else mine
        mine = mine[: plan[path]]
        faults += len(mine)
        plan_faults(kite, int(token), asked_for, [f for each in mine for f in (each, Fine())])
    desk.fetch()
    desk.assert_whole()
    assert desk.adjustments() == []
    assert desk.gaps() == set()
    assert asked(kite).total() <= plan.total() + faults
    assert desk.clock.most_in_a_second() <= 3


def test_fault_between_two_spans_is_asked_for_once_more(make: MakeDesk, kite: KiteServer) -> None:
    names = [f"SHARE{n}" for n in range(len(FAULTS))]
    desk = make(names, days=60, intervals=["minute"])
    for name, fault in zip(names, FAULTS):
        plan_faults(kite, token_of(desk, name), "minute", [Fine(), fault])
    plan = planned(desk)
    desk.fetch()
    desk.assert_whole()
    more = asked(kite) - plan
    assert more == {f"{token_of(desk, name)}/minute": 1 for name in names}


def test_first_answer_of_another_token_is_found_out_and_followed_back(
    make: MakeDesk, kite: KiteServer
) -> None:
    desk = make(["ONE"], days=100, intervals=["minute"])
    plan_faults(kite, token_of(desk, "ONE"), "minute", [OTHER_TOKEN])
    desk.fetch()
    desk.assert_whole()
    assert desk.adjustments() == []


# What does not pass is told


def test_what_answers_for_minutes_lack_is_told(make: MakeDesk, kite: KiteServer) -> None:
    """What is lost before the end is found out with the next span, and asked for again."""
    kinds: dict[str, list[Fault]] = {"cut": [CUT_LIST], "empty": [EMPTY, EMPTY]}
    names = [f"{kind} {number}" for kind in kinds for number in (1, 2, 3)]
    desk = make([*names, "WHOLE"], days=100, intervals=["minute"])
    assert count_plan(desk, "WHOLE", "minute") == 3
    for name in names:
        kind, number = name.split()
        faults: list[Fault] = [*[Fine()] * (int(number) - 1), *kinds[kind]]
        plan_faults(kite, token_of(desk, name), "minute", faults)
    desk.fetch()
    assert {name for name, _ in assert_nothing_is_untold(desk)} == {"cut 3", "empty 3"}


def test_what_answers_for_days_lack_is_told(make: MakeDesk, kite: KiteServer) -> None:
    desk = make(["CUT", "BAD", "WHOLE"], days=40)
    plan_faults(kite, token_of(desk, "CUT"), "day", [CUT_LIST])
    plan_faults(kite, token_of(desk, "BAD"), "day", [NEGATIVE_MIDDLE])
    desk.fetch()
    assert {name for name, _ in assert_nothing_is_untold(desk)} == {"CUT", "BAD"}
    for name in ("CUT", "BAD"):
        assert desk.run("refetch", f"NSE:{name}").status == 0
    desk.assert_whole()
    assert desk.gaps() == set()


def test_what_the_index_lacks_is_told_by_others(make: MakeDesk, kite: KiteServer) -> None:
    desk = make(["ONE"], days=40)
    plan_faults(kite, INDEX_TOKEN, "day", [CUT_LIST])
    desk.fetch()
    assert {name for name, _ in assert_nothing_is_untold(desk)} == {INDEX_SYMBOL}
    assert desk.run("refetch", f"NSE:{INDEX_SYMBOL}").status == 0
    desk.assert_whole()
    assert desk.gaps() == set()


def test_end_that_was_cut_off_comes_on_the_next_day(make: MakeDesk, kite: KiteServer) -> None:
    """It lies behind the last stored candle, from which on is asked."""
    desk = make(["ONE", "TWO"], days=40)
    plan_faults(kite, token_of(desk, "ONE"), "day", [CUT_LIST])
    desk.fetch()
    desk.on(TODAY + timedelta(days=1))
    desk.assert_whole()
    assert desk.gaps() == set()


# Adjustments and corrections


@pytest.mark.parametrize(("interval", "factor"), [("day", "0.1"), ("minute", "0.98")])
def test_adjustment_between_two_spans(
    make: MakeDesk, kite: KiteServer, interval: str, factor: str
) -> None:
    """Kite adjusts in the morning; a run that goes on over it has the first span as it was."""
    days = 1600 if interval == "day" else 100
    desk = make(["ONE", "TWO"], days=days, intervals=[interval])
    share = desk.market.share("ONE")

    def adjust() -> None:
        share.adjustments.append((TODAY, Decimal(factor)))

    plan_faults(kite, token_of(desk, "ONE"), interval, [Fine(), Fine(adjust)])
    desk.fetch()
    desk.assert_whole()
    assert desk.adjustments() == [("ONE", interval, Decimal(factor), TODAY)]


def test_two_adjustments_on_one_day_are_one_factor(make: MakeDesk) -> None:
    desk = make(["ONE"])
    desk.fetch()
    tomorrow = TODAY + timedelta(days=1)
    share = desk.market.share("ONE")
    share.adjustments += [(tomorrow, Decimal("0.5")), (tomorrow, Decimal("0.2"))]
    desk.on(tomorrow)
    desk.assert_whole()
    assert desk.adjustments() == [("ONE", "day", Decimal("0.1"), tomorrow)]


def test_adjustments_a_day_apart_are_found_each_on_its_day(make: MakeDesk) -> None:
    desk = make(["ONE"])
    share = desk.market.share("ONE")
    first, second = TODAY + timedelta(days=1), TODAY + timedelta(days=2)
    share.adjustments += [(first, Decimal("0.5")), (second, Decimal("0.95"))]
    for day in (TODAY, first, second, second + timedelta(days=1)):
        desk.on(day)
        desk.assert_whole()
    assert desk.adjustments() == [
        ("ONE", "day", Decimal("0.5"), first),
        ("ONE", "day", Decimal("0.95"), second),
    ]


@pytest.mark.parametrize("between", [0, 1], ids=["moved yesterday", "moved before"])
def test_moved_share_is_adjusted_beyond_what_its_token_reaches(
    make: MakeDesk, between: int
) -> None:
    """What the token before had is scaled by the factor, and said to be."""
    before, moved, *_, adjusted = days = weekdays(TODAY, 3 + between)
    desk = make(["ONE", "TWO"], since=before)
    share = desk.market.share("ONE")
    [listing] = share.listings
    share.listings = [
        listing._replace(last=moved - timedelta(days=1)),
        Listing(99_999, "ONE-BE", moved),
    ]
    share.adjustments.append((adjusted, Decimal("0.5")))
    for day in days:
        desk.on(day, is_listed=day == moved)
        desk.assert_whole()
    assert desk.adjustments() == [("ONE", "day", Decimal("0.5"), adjusted)]
    [(scaled_before,)] = desk.cli.query("SELECT scaled_before FROM kite_candle_adjustment")
    assert datetime.combine(before, time(), IST) < scaled_before
    assert scaled_before <= datetime.combine(moved, time(), IST)


def test_todays_candle_that_is_other_tomorrow_is_no_correction(make: MakeDesk) -> None:
    desk = make(["ONE"])
    share = desk.market.share("ONE")
    last = share.bars["day"][-1]
    settled = last._replace(close=last.close - Decimal("0.03"), volume=last.volume + 7)
    tomorrow = TODAY + timedelta(days=1)
    share.corrections.append(Correction(EVENING + timedelta(hours=8), "day", settled))
    first = desk.fetch()
    desk.assert_whole()
    second = desk.on(tomorrow)
    desk.assert_whole()
    assert "correct" not in first.stdout.lower()
    assert "correct" not in second.stdout.lower()


def test_corrected_candles_are_replaced_and_told(make: MakeDesk) -> None:
    """The name says how many trading days before the last one that is stored."""
    names = ["BACK0", "BACK1", "BACK4"]
    desk = make([*names, "SAME"])
    desk.fetch()
    desk.on(TODAY + timedelta(days=1))
    desk.assert_whole()
    for name in names:
        share = desk.market.share(name)
        wrong = share.bars["day"][-1 - int(name[-1])]
        right = wrong._replace(open=wrong.open + Decimal("0.05"), volume=wrong.volume - 1)
        share.corrections.append(Correction(EVENING + timedelta(hours=30), "day", right))
    result = desk.on(TODAY + timedelta(days=2))
    desk.assert_whole()
    told = result.stdout[result.stdout.index("corrected by Kite: 3") :]
    assert [name for name in desk.names if name in told] == names
    assert desk.adjustments() == []


def test_candle_that_was_corrected_long_after_is_right_after_a_refetch(make: MakeDesk) -> None:
    desk = make(["ONE", "TWO"])
    share = desk.market.share("ONE")
    desk.fetch()
    wrong = share.bars["day"][3]
    right = wrong._replace(open=wrong.open + Decimal("0.05"))
    share.corrections.append(Correction(EVENING + timedelta(hours=8), "day", right))
    desk.on(TODAY + timedelta(days=1))
    assert desk.stored()["TWO"] == desk.market.rows("TWO")
    assert desk.stored()["ONE"] != desk.market.rows("ONE")
    result = desk.run("refetch", "NSE:ONE")
    assert result.status == 0, result.stderr
    desk.assert_whole()


# What runs is not stored


@pytest.mark.parametrize("hour", [time(9, 15, 30), time(15, 29, 59)])
def test_candle_that_runs_is_never_stored(make: MakeDesk, hour: time) -> None:
    desk = make(["ONE"], days=20, intervals=["day", "minute"])
    desk.go_to(datetime.combine(TODAY, hour, IST))
    desk.fetch()
    for interval in ("day", "minute"):
        assert desk.stored(interval)["ONE"] == desk.market.rows("ONE", interval)
    desk.go_to(EVENING)
    desk.fetch()
    desk.go_to(EVENING + timedelta(days=1))
    desk.fetch()
    for interval in ("day", "minute"):
        assert desk.stored(interval)["ONE"] == desk.market.rows("ONE", interval)


# Who may not ask


def test_plan_without_historical_data(make: MakeDesk) -> None:
    desk = make(["ONE"])
    desk.route.forbid()
    result = desk.fetch(status=1)
    assert "historical" in result.stderr
    assert "login" not in result.stderr.replace("A new login does not help", "")
    assert desk.stored() == {}
    assert desk.covered() == {}
    desk.route.forbid(forbidden=False)
    desk.fetch()
    desk.assert_whole()


def test_token_that_is_refused_is_a_reject(make: MakeDesk) -> None:
    desk = make(["ONE", "TWO", "THREE"])
    desk.route.forget(token_of(desk, "TWO"))
    result = desk.fetch()
    assert "TWO" in result.stdout
    stored = desk.stored()
    assert "TWO" not in stored
    for name in (INDEX_SYMBOL, "ONE", "THREE"):
        assert stored[name] == desk.market.rows(name)


def test_session_that_dies_in_the_middle(make: MakeDesk, kite: KiteServer) -> None:
    """What is stored stays, and is not asked for again."""
    desk = make([f"SHARE{n}" for n in range(12)], days=30)
    last = desk.names[-1]
    plan_faults(kite, token_of(desk, last), "day", [Fine(kite.expire_token)])
    result = desk.fetch(status=3)
    assert "log in" in result.stderr.lower()
    stored, covered = desk.stored(), desk.covered()
    assert stored.keys() == covered.keys()
    assert INDEX_SYMBOL in stored
    for name, rows in stored.items():
        assert rows == desk.market.rows(name)
    log_in(desk, kite)
    before = asked(kite)
    desk.fetch()
    again = asked(kite) - before
    assert set(again) == {f"{token_of(desk, n)}/day" for n in desk.names if n not in stored}
    desk.assert_whole()


def log_in(desk: CandleDesk, kite: KiteServer) -> None:
    client = KiteConnect(kite.api_key, root=kite.root)
    session = client.generate_session(kite.issue_request_token(), kite.api_secret)
    desk.cli.monkeypatch.setenv("KITE_ACCESS_TOKEN", session["access_token"])


@pytest.mark.parametrize("fault", [HttpError(429), HttpError(503)], ids=["429", "503"])
def test_instrument_that_is_never_answered(make: MakeDesk, kite: KiteServer, fault: Fault) -> None:
    desk = make(NAMES)
    kite.fail_next(f"{PATH}{token_of(desk, 'TWO')}/day", fault, times=None)
    result = desk.fetch(status=1)
    assert "TWO" in result.stdout + result.stderr
    stored = desk.stored()
    for name in (INDEX_SYMBOL, "ONE", "THREE", "FOUR"):
        assert name not in result.stderr
        assert stored[name] == desk.market.rows(name)
    assert "TWO" not in stored
    kite.clear_faults()
    before = asked(kite)
    desk.fetch()
    assert set(asked(kite) - before) == {f"{token_of(desk, 'TWO')}/day"}
    desk.assert_whole()


def test_index_that_is_never_answered_hides_nothing(make: MakeDesk, kite: KiteServer) -> None:
    """The calendar lacks, so that others have to tell it."""
    desk = make(["ONE", "TWO"])
    kite.fail_next(f"{PATH}{INDEX_TOKEN}/day", HttpError(503), times=None)
    desk.fetch(status=1)
    assert desk.stored().keys() == {"ONE", "TWO"}
    result = desk.run("gaps")
    assert INDEX_SYMBOL in result.stdout + result.stderr
