"""Real shares of NSE over five years, served as Kite would on each day: the table follows, exactly.

tests/chaos/test_candle_days.py has every day of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import groupby

import pytest

from sandbox.kite_server import KiteServer
from shared.calendar import IST
from tests.candle_desk import CandleDesk, make_desk
from tests.candle_truth import (
    INDEX_SYMBOL,
    REAL_ADJUSTMENTS,
    Listing,
    Market,
    Share,
    day_start,
    make_bar,
    make_index,
    nse_folder,
    read_rows,
    real_market,
    trading_days,
)
from tests.command_line import CommandLine

LONG = timedelta(days=20)  # without a list
AROUND = 10  # trading days, before and after an adjustment
BESIDE = {  # of each share, fetched with it
    "WIPRO": "MINDTREE",
    "HDFCBANK": "ITC",
    "EICHERMOT": "YESBANK",
    "IRCTC": "ZOMATO",
    "TATASTEEL": "RELIANCE",
    "BAJAJFINSV": "IDEA",
    "NESTLEIND": "SUZLON",
}
RENAMES = {
    "ZYDUSLIFE": ("CADILAHC", date(2022, 3, 7)),
    "LTIM": ("LTI", date(2022, 12, 5)),
    "PVRINOX": ("PVR", date(2023, 5, 12)),
    "ADANIENSOL": ("ADANITRANS", date(2023, 8, 24)),
    "ACLGATI": ("GATI", date(2023, 11, 30)),
}

pytestmark = pytest.mark.skipif(
    not nse_folder().exists(), reason="NSE's real daily files are not on this machine"
)


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


@pytest.fixture
def desk(cli: CommandLine, kite: KiteServer, monkeypatch: pytest.MonkeyPatch) -> CandleDesk:
    desk = make_desk(cli, real_market(datetime(2019, 1, 1, tzinfo=IST)), monkeypatch)
    begin_on(desk, date(2019, 1, 1))
    return desk


def begin_on(desk: CandleDesk, day: date) -> None:
    """Let there be no candle before a day."""
    desk.market.shares = real_market(desk.market.now, since=day).shares
    for share in desk.market.shares:
        share.serves_all = True
    desk.parameters["start"] = f"{day}"


def days_around(day: date, before: int, after: int) -> Sequence[date]:
    at = trading_days().index(day)
    return trading_days()[at - before : at + after + 1]


def fetch_on(desk: CandleDesk, days: Sequence[date]) -> Iterator[date]:
    """Run DAG 2 in the evening of each day, and DAG 1 before where the list has changed."""
    listed, last = None, date.min
    for day in days:
        desk.go_to(datetime.combine(day, time(18), IST))
        listings = [listing for _, listing in desk.market.listed()]
        desk.on(day, is_listed=listings != listed or day - last > LONG)
        listed, last = listings, day
        yield day


def assert_days_are_real(desk: CandleDesk, names: Sequence[str]) -> None:
    """None outside the real trading days, none missing from a share's first one on."""
    stored = desk.stored()
    for name in (INDEX_SYMBOL, *names):
        found = [row[0].astimezone(IST) for row in stored[name]]
        assert {moment.time() for moment in found} == {time()}
        days = [moment.date() for moment in found]
        assert days == [day for day in trading_days() if days[0] <= day <= days[-1]]


def test_shares_are_those_of_the_files() -> None:
    assert len(read_rows()) == 29
    assert len({row["symbol"] for rows in read_rows().values() for row in rows}) == 34
    for rows in read_rows().values():
        days = [date.fromisoformat(row["date"]) for row in rows]
        assert days == [day for day in trading_days() if days[0] <= day <= days[-1]]
    for name, (old, day) in RENAMES.items():
        pairs = [(row["symbol"], row["isin"]) for row in read_rows()[name] if row["symbol"] == old]
        first = next(row for row in read_rows()[name] if row["symbol"] == name)
        assert (pairs[-1][1], first["date"]) == (first["isin"], day.isoformat())


@pytest.mark.parametrize("name", REAL_ADJUSTMENTS)
def test_day_by_day_around_an_adjustment(desk: CandleDesk, name: str) -> None:
    changed_on, factor = REAL_ADJUSTMENTS[name]
    begin_on(desk, days_around(changed_on, min(60, trading_days().index(changed_on)), 0)[0])
    desk.names = [name, BESIDE[name]]
    for day in fetch_on(desk, days_around(changed_on, AROUND, AROUND)):
        desk.assert_whole()
        found = [(name, "day", factor, changed_on)] if day >= changed_on else []
        assert desk.adjustments() == found, day
    assert_days_are_real(desk, desk.names)
    assert desk.gaps() == set()


def test_adjustment_is_in_the_summary_of_its_day_alone(desk: CandleDesk) -> None:
    changed_on, _ = REAL_ADJUSTMENTS["NESTLEIND"]
    desk.names = ["NESTLEIND"]
    told = {}
    days = days_around(changed_on, 1, 1)
    for day, is_listed in zip(days, (True, False, False)):
        result = desk.on(day, is_listed=is_listed)
        told[day] = "NESTLEIND" in result.stdout
        assert told[day] == bool(re.search(r"factor 0\.1\b", result.stdout))
    assert [day for day, is_told in told.items() if is_told] == [changed_on]


def test_days_that_were_left_out_are_caught_up_across_an_adjustment(desk: CandleDesk) -> None:
    changed_on, factor = REAL_ADJUSTMENTS["TATASTEEL"]
    desk.names = ["TATASTEEL", "TCS"]
    found_on = changed_on + timedelta(days=21)
    for _ in fetch_on(desk, [changed_on - timedelta(days=21), found_on]):
        desk.assert_whole()
    assert desk.adjustments() == [("TATASTEEL", "day", factor, found_on)]
    assert_days_are_real(desk, desk.names)


def test_renamed_shares_keep_one_history(desk: CandleDesk) -> None:
    begin_on(desk, date(2022, 1, 3))
    desk.names = list(RENAMES)
    days = [date for _, day in RENAMES.values() for date in days_around(day, 1, 0)]
    for today in fetch_on(desk, days):
        symbols = {name if today >= day else old for name, (old, day) in RENAMES.items()}
        assert set(desk.market.keys(desk.names)) == {f"NSE:{symbol}" for symbol in symbols}
        desk.assert_whole()
    assert desk.adjustments() == []
    assert desk.gaps() == set()
    assert_days_are_real(desk, desk.names)
    assert desk.cli.query(
        "SELECT tradingsymbol, count(*) FROM kite_candle_by_symbol WHERE exchange = 'NSE'"
        " AND tradingsymbol <> 'NIFTY 50' GROUP BY 1 ORDER BY 1"
    ) == [(name, len(desk.market.rows(name))) for name in sorted(desk.names)]


@pytest.mark.parametrize(
    ("name", "serves_all"),
    [
        pytest.param("DMART", True, id="DMART, all days"),
        pytest.param("DMART", False, id="DMART, its own days"),
        pytest.param("ADANIENSOL", False, id="ADANIENSOL, its own days"),
    ],
)
def test_share_that_moves_to_another_series_keeps_one_history(
    desk: CandleDesk, name: str, serves_all: bool
) -> None:
    """Its new token serves what was traded under it, or everything; nobody knows which."""
    share = desk.market.share(name)
    share.serves_all = serves_all
    desk.names = [name]
    moves = [each.first for each in share.listings[1:]]
    days = {day for move in moves for day in days_around(move, 1, 0)}
    for _ in fetch_on(desk, sorted(days)):
        desk.assert_whole()
    assert desk.adjustments() == []
    assert desk.gaps() == set()
    assert_days_are_real(desk, [name])


def test_all_shares_at_once_on_the_last_day(desk: CandleDesk) -> None:
    """Where a token serves its own days alone, those of the series before are told as gaps."""
    last = trading_days()[-1]
    shares = [share for share, _ in market_without_index(desk.market, last)]
    for share in shares:
        share.serves_all = False
    desk.names = [share.name for share in shares]
    desk.universe = [{"exchange": "NSE", "segment": "NSE"}]
    desk.on(last, is_listed=True)
    lacking = {(share.name, *gap) for share in shares for gap in own_gaps(share, desk.market)}
    assert desk.gaps() == lacking
    stored = desk.stored()
    assert stored.keys() == {INDEX_SYMBOL, *desk.names}
    for share in shares:
        listing = share.listing(last)
        assert listing is not None
        bars = share.served(listing.token, "day", desk.market.now)
        assert [row[1:] for row in stored[share.name]] == [bar[1:] for bar in bars]
    assert desk.adjustments() == []


def market_without_index(market: Market, day: date) -> list[tuple[Share, Listing]]:
    market.now = datetime.combine(day, time(18), IST)
    return [(share, listing) for share, listing in market.listed() if share.segment == "NSE"]


def own_gaps(share: Share, market: Market) -> Iterator[tuple[str, str]]:
    """First and last day of each spell of trading days that today's token does not serve."""
    listing = share.listing(market.now.date())
    assert listing is not None
    served = {bar.ts.date() for bar in share.served(listing.token, "day", market.now)}
    days = [day for day in trading_days() if min(served) <= day <= market.now.date()]
    for is_served, spell in groupby(days, served.__contains__):
        if not is_served:
            spelled = list(spell)
            yield spelled[0].isoformat(), spelled[-1].isoformat()


def test_reused_token_begins_another_history(desk: CandleDesk) -> None:
    days = trading_days()[-60:]
    begins, ended = days[40], days[29]
    token = 77_777_025

    def made(name: str, first: date, last: date, paise: int) -> Share:
        spell = [day for day in days if first <= day <= last]
        bars = [make_bar(day_start(day), paise + 10 * n, n) for n, day in enumerate(spell)]
        listing = Listing(token, name, first, date.max if last == days[-1] else last)
        return Share(name, [listing], {"day": bars})

    desk.market.shares = [
        make_index(days),
        made("STAYS", days[0], days[-1], 5_000),
        made("ENDS", days[0], ended, 10_000),
        made("BEGINS", begins, days[-1], 10_300),  # at the prices of the other one
    ]
    desk.market.shares[1].listings = [Listing(512, "STAYS")]
    desk.parameters["start"] = days[0].isoformat()
    desk.universe = [{"exchange": "NSE", "segment": "NSE"}]
    wanted = {}
    for day in fetch_on(desk, [days[28], days[29], days[30], days[39], days[40], days[41]]):
        desk.names = ["STAYS", "ENDS"] if day < begins else ["STAYS", "ENDS", "BEGINS"]
        wanted = {name: desk.market.rows(name) for name in (INDEX_SYMBOL, *desk.names)}
        assert desk.stored() == wanted, day
        desk.assert_identities()
    assert len(wanted["ENDS"]) == 30
    assert len(wanted["BEGINS"]) == 2
    assert desk.adjustments() == []
    assert desk.gaps() == set()
    assert Decimal(103) == wanted["BEGINS"][0][1]
