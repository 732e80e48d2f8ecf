"""Every trading day of 29 real shares: each evening the table is exactly what Kite would serve."""

from __future__ import annotations

from datetime import datetime, time

import pytest

from sandbox.kite_server import KiteServer
from shared.calendar import IST
from tests.candle_desk import make_desk
from tests.candle_truth import REAL_ADJUSTMENTS, nse_folder, real_market, trading_days
from tests.command_line import CommandLine

pytestmark = pytest.mark.skipif(
    not nse_folder().exists(), reason="NSE's real daily files are not on this machine"
)


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


@pytest.mark.parametrize("serves_all", [False, True], ids=["own days", "all days"])
@pytest.mark.parametrize("year", range(2019, 2025))
def test_every_day_of_a_year(
    cli: CommandLine,
    kite: KiteServer,
    monkeypatch: pytest.MonkeyPatch,
    year: int,
    serves_all: bool,
) -> None:
    """`serves_all`: what the token of another series serves; nobody knows which."""
    days = [day for day in trading_days() if day.year == year]
    market = real_market(datetime.combine(days[0], time(8), IST), since=days[0])
    for share in market.shares:
        share.serves_all = serves_all
    desk = make_desk(cli, market, monkeypatch, parameters={"start": f"{days[0]}"})
    desk.universe = [{"exchange": "NSE", "segment": "NSE"}]
    for day in days:
        desk.on(day, is_listed=True)
        shares = [share for share in market.shares if share.bars["day"][0].ts.date() <= day]
        desk.assert_whole([share.name for share in shares])
        assert desk.adjustments() == [
            (name, "day", factor, changed_on)
            for name, (changed_on, factor) in REAL_ADJUSTMENTS.items()
            if changed_on.year == year and changed_on <= day
        ]
    assert desk.gaps() == set()
