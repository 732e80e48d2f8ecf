"""Candles where something is out of the ordinary: the settings, the database, or the instrument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal

import pytest

from shared.calendar import IST
from tests.candle_desk import CandleDesk, make_desk
from tests.candle_truth import Bar, Listing, Market, made_market, weekdays
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


def day_before(count: int) -> date:
    return weekdays(TODAY, count + 1)[0]


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", "Pacific/Kiritimati"])
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


@pytest.mark.parametrize("overlap", [1, 2, 50])
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
    desk.on(TODAY)
    desk.assert_whole()
    assert desk.adjustments() == [("ONE", "day", HALF, TODAY)]
    assert desk.gaps() == set()


@pytest.mark.parametrize(("interval", "away"), [("day", 80), ("minute", 15), ("minute", 40)])
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
    days = [day_before(count) for count in (away + 1, *range(away, 0, -10), 0)]
    for day in days:
        desk.on(day)
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
    for count in (3, 2, 1, 0):
        if count == 1 and not is_answered:
            desk.route.forget(512)
        before = len(desk.route.requests)
        result = desk.on(day_before(count), is_listed=count < 3)
        desk.assert_whole()
        asked = [each for each in desk.route.requests[before:] if each.token == 512]
        told.append(("ONE26MARFUT" in result.stdout, len(asked)))
    assert told == [(False, 1), (False, 1), (not is_answered, 1), (False, 0)]
    assert desk.stored()["ONE"][-1][-1] == 27 * 50
    assert desk.gaps() == set()
