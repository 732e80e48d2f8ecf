"""A Kite that answers 429 beyond its limit, by a real clock: no run waits too short, or long."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, cast

import pytest

from dag_2_import_candles_from_kite.sandbox_route import PATH, CandleRoute
from shared.calendar import IST
from tests.candle_desk import CandleDesk, VirtualClock
from tests.candle_truth import made_market
from tests.command_line import CommandLine

RATE, SHARES = 3, 60


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


def test_limit_of_three_a_second(cli: CommandLine) -> None:
    names = [f"SHARE{n}" for n in range(SHARES)]
    market = made_market(datetime(2026, 3, 18, 18, tzinfo=IST), names, 10)
    route = CandleRoute(cast(Any, market), limit_per_second=RATE)
    cli.kite.add_route(PATH, route)
    desk = CandleDesk(cli, market, route, VirtualClock(), names=names)
    desk.parameters |= {"start": "2026-03-01", "requests_per_second": RATE}
    desk.go_to(market.now)
    desk.import_list()
    begin = time.monotonic()
    desk.fetch()
    seconds = time.monotonic() - begin
    desk.assert_whole()
    refused = [each for each in route.requests if each.status == 429]
    assert len(route.requests) == SHARES + 1 + len(refused)
    assert len(refused) <= SHARES // 10  # where the machine has held a request up
    assert (SHARES + 1) / RATE <= seconds < (SHARES + 1) / RATE * 1.03 + 1 + 1.5 * len(refused)
