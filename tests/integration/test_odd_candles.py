"""Candles where something is out of the ordinary: the settings, the database, or the instrument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from sandbox.kite_server import KiteServer
from shared.calendar import IST
from tests.candle_desk import CandleDesk, make_desk
from tests.candle_faults import OTHER_TOKEN, Changed, Fine, plan_faults
from tests.candle_truth import (
    INDEX_SYMBOL,
    INDEX_TOKEN,
    Bar,
    Listing,
    Market,
    made_market,
    weekdays,
)
from tests.command_line import CommandLine
from tests.conftest import Server

TODAY = date(2026, 3, 18)  # a Wednesday
HALF = Decimal("0.5")

MakeDesk = Callable[..., CandleDesk]


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


@pytest.fixture
def make(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> MakeDesk:
    """A desk on a day (`since`) at shares with candles on so many days up to `TODAY`."""

    def make_it(
        names: Sequence[str] = ("ONE", "TWO"),
        days: int = 30,
        intervals: Sequence[str] = ("day",),
        since: date = TODAY,
        prepare: Callable[[Market], None] = lambda market: None,
    ) -> CandleDesk:
        evening = datetime.combine(TODAY, time(18), IST)
        market = made_market(evening, names, days, {"day", *intervals})
        prepare(market)
        desk = make_desk(cli, market, monkeypatch, names=names, intervals=intervals)
        desk.parameters["start"] = f"{weekdays(TODAY, days)[0]}"
        desk.go_to(datetime.combine(since, time(9), IST))
        desk.import_list()
        desk.go_to(datetime.combine(since, time(18), IST))
        return desk

    return make_it


def day_before(number: int) -> date:
    return weekdays(TODAY, number + 1)[0]


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati"])
def test_time_zone_of_the_database_does_not_matter(
    make: MakeDesk, server: Server, database: str, zone: str
) -> None:
    server.execute(f"ALTER DATABASE {database} SET timezone = '{zone}'")
    desk = make(intervals=["day", "minute"], since=day_before(2))
    share = desk.market.share("ONE")
    share.adjustments.append((TODAY, HALF))
    for day in (day_before(2), day_before(1), TODAY):
        desk.on(day)
        desk.assert_whole()
    assert sorted(desk.adjustments()) == [
        ("ONE", interval, HALF, TODAY) for interval in ("day", "minute")
    ]
    assert desk.gaps() == set()


@pytest.mark.parametrize("overlap", [1, 50])
def test_overlap_of_another_length(make: MakeDesk, overlap: int) -> None:
    desk = make(since=day_before(1))
    desk.parameters["overlap_candles"] = overlap
    desk.market.share("ONE").adjustments.append((TODAY, HALF))
    for day in (day_before(1), TODAY):
        desk.on(day)
        desk.assert_whole()
    assert desk.adjustments() == [("ONE", "day", HALF, TODAY)]


def test_earlier_start_on_the_day_of_an_adjustment(make: MakeDesk) -> None:
    """What was never asked for is on the new scale already."""
    desk = make(days=60, since=day_before(1))
    start, desk.parameters["start"] = desk.parameters["start"], f"{day_before(20)}"
    desk.market.share("ONE").adjustments.append((TODAY, HALF))
    desk.on(day_before(1))
    assert len(desk.stored()["ONE"]) == 20
    desk.parameters["start"] = start
    result = desk.on(TODAY)
    desk.assert_whole()
    assert "NSE:ONE day: " in result.stdout
    assert desk.gaps() == set()


@pytest.mark.parametrize(
    ("interval", "away"),
    [("day", 80), ("minute", 15), ("minute", 40)],
)
def test_share_that_was_suspended_is_adjusted_when_it_comes_back(
    make: MakeDesk, interval: str, away: int
) -> None:
    """`away`: for how many days of trading it had no candle; there were runs meanwhile."""
    desk = make(days=150, intervals=[interval], since=day_before(away + 1))
    share = desk.market.share("ONE")
    left, back = day_before(away), TODAY
    share.bars = {
        name: [bar for bar in bars if not left <= bar.ts.date() < back]
        for name, bars in share.bars.items()
    }
    share.forget()
    share.adjustments.append((TODAY, HALF))
    for number in (away + 1, away, away // 2, 1, 0):
        desk.on(day_before(number))
    desk.assert_whole()
    assert desk.adjustments() == [("ONE", interval, HALF, TODAY)]


def test_candle_that_kite_takes_back(make: MakeDesk) -> None:
    desk = make(since=day_before(2))
    desk.on(day_before(2))
    desk.on(day_before(1))
    share = desk.market.share("ONE")
    share.bars["day"] = [bar for bar in share.bars["day"] if bar.ts.date() != day_before(3)]
    share.forget()
    result = desk.on(TODAY)
    desk.assert_whole()
    assert "corrected by Kite: 1" in result.stdout
    assert desk.gaps() == {("ONE", f"{day_before(3)}", f"{day_before(3)}")}


def make_future(market: Market) -> None:
    """ONE is a contract with an open interest, up to the day before yesterday."""
    share, last = market.share("ONE"), day_before(2)
    share.exchange, share.segment, share.expiry = "NFO", "NFO-FUT", last
    share.listings = [Listing(512, "ONE26MARFUT", last=last)]
    share.bars["day"] = [
        Bar(*bar[:6], oi=n * 50) for n, bar in enumerate(share.bars["day"]) if bar.ts.date() <= last
    ]


@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "no longer answered"])
def test_contract_and_its_open_interest_to_its_end(make: MakeDesk, is_answered: bool) -> None:
    """In the evening of its last day its last candle is not final: it is asked for once more."""
    desk = make(since=day_before(3), prepare=make_future)
    desk.universe = [{"exchange": "NSE"}, {"underlying": "ONE", "instrument_type": "FUT"}]
    told = []
    for number in (3, 2, 1, 0):
        if number == 1 and not is_answered:
            desk.route.forget(512)
        before = len(desk.route.requests)
        result = desk.on(day_before(number), is_listed=number < 3)
        desk.assert_whole()
        asked = [each for each in desk.route.requests[before:] if each.token == 512]
        told.append(("ONE26MARFUT" in result.stdout, len(asked)))
    assert told == [(False, 1), (False, 1), (not is_answered, 1), (False, 0)]
    assert desk.stored()["ONE"][-1][-1] == 27 * 50
    assert desk.gaps() == set()


def test_adjustment_while_a_history_is_asked_for_anew(make: MakeDesk, kite: KiteServer) -> None:
    """Of the whole history the first part is on the scale before, the others are on the new one."""
    desk = make(days=130, intervals=["minute"], since=day_before(1))
    share = desk.market.share("ONE")
    share.adjustments.append((TODAY, HALF))
    desk.on(day_before(1))

    def adjust_again() -> None:
        share.adjustments.append((TODAY, Decimal("0.2")))

    before = desk.stored("minute")["ONE"]
    plan_faults(kite, 512, "minute", [Fine(), Fine(), Fine(adjust_again)])
    desk.go_to(datetime.combine(TODAY, time(18), IST))
    if desk.run("--dag", "2").status != 0:  # Kite has contradicted itself
        assert desk.stored("minute")["ONE"] == before
        assert desk.adjustments() == []
        desk.fetch()
    desk.assert_whole()
    assert desk.adjustments() == [("ONE", "minute", Decimal("0.1"), TODAY)]


def test_answers_that_contradict_each_other_change_nothing(
    make: MakeDesk, kite: KiteServer
) -> None:
    desk = make(since=day_before(1))
    desk.on(day_before(1))
    before = desk.stored()
    numbers = count()

    def shift(candles: list[list[Any]]) -> list[list[Any]]:
        by = 1 + next(numbers)
        return [[ts, *(price + by for price in values[:4]), *values[4:]] for ts, *values in candles]

    plan_faults(kite, 512, "day", [Changed(shift)] * 50)
    desk.go_to(datetime.combine(TODAY, time(18), IST))
    result = desk.fetch(status=1)
    assert "ONE" in result.stderr
    assert desk.stored()["ONE"] == before["ONE"]
    assert desk.stored()["TWO"] == desk.market.rows("TWO")
    assert desk.adjustments() == []
    kite.clear_faults()
    desk.fetch()
    desk.assert_whole()


@pytest.mark.parametrize("interval", ["day", "minute"])
def test_another_tokens_candles_twice_are_put_right_on_the_next_day(
    make: MakeDesk, kite: KiteServer, interval: str
) -> None:
    desk = make(days=100, intervals=[interval], since=day_before(2))
    desk.on(day_before(2))
    plan_faults(kite, 512, interval, [OTHER_TOKEN] * 20)
    desk.on(day_before(1))
    kite.clear_faults()
    desk.on(TODAY)
    desk.assert_whole()
    assert desk.adjustments() == []


def test_first_days_of_another_token_are_put_right_on_the_next_day(
    make: MakeDesk, kite: KiteServer
) -> None:
    desk = make(since=day_before(1))
    plan_faults(kite, 512, "day", [OTHER_TOKEN])
    desk.on(day_before(1))
    assert desk.stored()["ONE"] != desk.market.rows("ONE")  # nothing can tell
    result = desk.on(TODAY)
    desk.assert_whole()
    assert "ONE" in result.stdout
    assert desk.adjustments() == []


def test_list_without_the_index(make: MakeDesk) -> None:
    def take_index_away(market: Market) -> None:
        market.shares[0].listings = [Listing(INDEX_TOKEN, INDEX_SYMBOL, date.max)]

    desk = make(prepare=take_index_away)
    desk.on(TODAY)
    assert desk.stored() == {name: desk.market.rows(name) for name in desk.names}
    result = desk.run("gaps")
    assert result.status == 4
    assert INDEX_SYMBOL in result.stdout


def test_instrument_that_is_wanted_twice_is_asked_for_once(make: MakeDesk) -> None:
    desk = make()
    desk.universe = ["NSE:ONE", "NSE:ONE", {"exchange": "NSE"}, "nse:TWO", "NSE:NIFTY 50"]
    desk.on(TODAY)
    desk.assert_whole()
    assert sorted(each.token or 0 for each in desk.route.requests) == [512, 768, INDEX_TOKEN]
