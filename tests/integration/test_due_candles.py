"""`--due` with DAG 2 enabled: candles after the list, and again in the evening.

As it is shipped, disabled, nobody hears of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal

import pytest

from dag_2_import_candles_from_kite.sandbox_route import PATH, CandleRoute, ListedCandles
from sandbox.kite_faults import HttpError
from sandbox.market_candles import Candle
from shared.config.config_loader import override_config
from tests.clock import set_clocks
from tests.command_line import CommandLine, Result
from tests.conftest import PROJECT
from tests.instruments import instrument, to_csv

INDEX = instrument(256, "NIFTY 50", "NSE", instrument_type="EQ", segment="INDICES", expiry=None)
SHARE = instrument(512, "INFY", "NSE", instrument_type="EQ", segment="NSE", expiry=None)
LIST = to_csv([INDEX, SHARE])
NEXT_LIST = to_csv([INDEX, SHARE, instrument(768, "S3")])
DAYS = range(16, 21)  # of November 2026: from a Monday to a Friday
LISTS = "DAG 1 import_instruments_from_kite"
CANDLES = "DAG 2 import_candles_from_kite"
DAG_1 = PROJECT / "dag_1_import_instruments_from_kite"
DAG_2 = PROJECT / "dag_2_import_candles_from_kite"
SETTINGS = {
    "enabled": True,
    "parameters": {
        "instruments": ["NSE:INFY"],
        "start": f"2026-11-{DAYS[0]}",
        "requests_per_second": 1000,
    },
}
STORED = """
SELECT extract(day FROM ts AT TIME ZONE 'Asia/Kolkata')::int, count(*)::int
FROM kite_candle GROUP BY 1 ORDER BY 1
"""
Due = Callable[..., Result]


def candle(day: int) -> Candle:
    ts = datetime.combine(date(2026, 11, day), time.min)
    price = Decimal(100 + day)
    return Candle(ts, price, price, price, price, volume=day)


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


@pytest.fixture
def due(cli: CommandLine) -> Due:
    """`--due` on this day of November 2026, at this hour."""
    series = [candle(day) for day in DAYS]
    route = CandleRoute(ListedCandles({(256, "day"): series, (512, "day"): series}))
    cli.kite.add_route(PATH, route)
    cli.kite.dump = LIST
    cli.parameters |= {"retry_attempts": 1}

    def call(day: int, hour: str, *, has_lists: bool = True) -> Result:
        moment = datetime.fromisoformat(f"2026-11-{day}T{hour}+05:30")
        set_clocks(cli, moment)
        route.now = moment.replace(tzinfo=None)
        with (
            override_config("DAG 1 of the test", {"enabled": has_lists}, DAG_1),
            override_config("DAG 2 of the test", SETTINGS, DAG_2),
        ):
            return cli.run("--due")

    return call


def assert_ran(result: Result, *names: str) -> None:
    """These DAGs have run, in this order and well, and no others."""
    assert (result.status, result.stderr) == (0, "")
    ended = [line.split(" succeeded")[0] for line in result.stdout.splitlines() if " s: " in line]
    assert ended == [*names]


def test_candles_come_after_the_list_and_then_in_the_evening(due: Due, cli: CommandLine) -> None:
    assert_ran(due(17, "08:40"), LISTS, CANDLES)
    assert cli.query(STORED) == [(16, 2)]
    assert due(17, "17:50") == Result(0, "", "")
    assert_ran(due(17, "18:00"), CANDLES)
    assert cli.query(STORED) == [(16, 2), (17, 2)]
    assert due(17, "18:10") == Result(0, "", "")
    cli.kite.dump = NEXT_LIST
    assert_ran(due(18, "08:40"), LISTS)
    assert due(18, "17:50") == Result(0, "", "")
    assert_ran(due(18, "18:00"), CANDLES)
    assert cli.query(STORED) == [(16, 2), (17, 2), (18, 2)]
    assert due(18, "18:10") == Result(0, "", "")


def fail(cli: CommandLine) -> None:
    cli.kite.fail_next("/instruments", HttpError(503), times=None)


def do_nothing(cli: CommandLine) -> None:
    """The list stays that of the day before."""


@pytest.mark.parametrize(
    ("go_wrong", "has_lists", "said"),
    [
        pytest.param(fail, True, f"{CANDLES} skipped: DAG 1 failed\n", id="fails"),
        pytest.param(do_nothing, True, f"{LISTS} was last loaded on\n", id="late"),
        pytest.param(
            do_nothing,
            False,
            "check table failed: DAG 2 comes after DAG 1, whose rows are stale: ",
            id="disabled",
        ),
    ],
)
def test_list_that_is_stale_in_the_evening_is_told_once(
    go_wrong: Callable[[CommandLine], None], has_lists: bool, said: str, due: Due, cli: CommandLine
) -> None:
    assert_ran(due(17, "18:00"), LISTS, CANDLES)
    asked = len(candle_requests(cli))
    go_wrong(cli)
    due(18, "08:40", has_lists=has_lists)
    evening = due(18, "18:00", has_lists=has_lists)
    assert evening.status == 1
    assert evening.stderr.startswith(f"ERROR: {said}")
    assert due(18, "18:10", has_lists=has_lists) == Result(1, "", "")
    assert len(candle_requests(cli)) == asked
    cli.kite.clear_faults()
    cli.kite.dump = NEXT_LIST
    assert_ran(due(18, "18:20"), LISTS, CANDLES)
    assert cli.query(STORED) == [(16, 2), (17, 2), (18, 2)]
    assert due(18, "18:30") == Result(0, "", "")


def test_day_without_trading_has_no_evening(due: Due, cli: CommandLine) -> None:
    cli.holidays = ["2026-11-18"]
    assert_ran(due(17, "18:00"), LISTS, CANDLES)
    assert due(18, "08:40") == due(18, "18:10") == Result(0, "", "")


@pytest.mark.parametrize("words", ["", "--due", "check", "status", "changes"])
def test_dag_that_is_shipped_disabled_is_not_mentioned(
    words: str, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assert_silent() -> Result:
        result = cli.run(*words.split())
        assert not re.search("DAG [23]|candle|dag_[23]", result.stdout + result.stderr)
        return result

    cli.kite.dump = LIST
    assert assert_silent().status in (0, 1)  # nothing is loaded yet
    for name in ("KITE_API_KEY", "KITE_API_SECRET", "KITE_ACCESS_TOKEN", "DB_USER"):
        monkeypatch.delenv(name)
    assert assert_silent().status == 2


def candle_requests(cli: CommandLine) -> list[str]:
    return [request.path for request in cli.kite.requests if request.path.startswith(PATH)]


def test_refetch_wants_a_fresh_list(cli: CommandLine, due: Due) -> None:
    assert due(17, "18:10").status == 0
    set_clocks(cli, datetime.fromisoformat("2026-11-18T18:10+05:30"))
    before = len(cli.kite.requests)
    with override_config("DAG 2 of the test", SETTINGS, DAG_2):
        result = cli.run("refetch", "NSE:INFY")
    assert result.status == 1
    assert "DAG 2 comes after DAG 1, whose rows are stale" in result.stderr
    assert len(cli.kite.requests) == before
