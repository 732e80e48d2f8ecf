"""Runs of DAG 2 beside others, by odd clocks, and after others had their hands in the tables."""

from __future__ import annotations

import errno
import os
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn

import pytest

from dag_2_import_candles_from_kite import jobs
from dag_2_import_candles_from_kite.sandbox import PATH
from dag_2_import_candles_from_kite.store import Store
from sandbox.kite_faults import HttpError
from sandbox.market_candles import Candle
from shared.config.config_loader import override_config
from tests.command_line import Result
from tests.integration.test_candle_runs import (
    EVENING,
    INFY,
    START,
    Desk,
    desk,
    until,
    weekdays,
)

__all__ = ["desk"]

DAY = timedelta(days=1)
ADJUSTMENTS = "SELECT factor, found_at FROM kite_candle_adjustment"


def test_two_runs_that_find_one_adjustment_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Kite does not answer for any more is multiplied once."""
    desk.run()
    before = desk.stored()
    desk.route.adjust(INFY, "0.5", date(2026, 11, 19))
    desk.truth[INFY, "day"] = desk.truth[INFY, "day"][5:]
    replace = Store.replace
    others, is_late = list[Result](), list[bool]()

    def replace_late(*given: Any) -> Any:
        if not is_late:
            is_late.append(True)
            others.append(desk.run(at=EVENING + DAY + timedelta(minutes=1)))
        return replace(*given)

    monkeypatch.setattr(Store, "replace", replace_late)
    result = desk.run(at=EVENING + DAY)
    [other] = others
    assert (result.status, other.status) == (0, 0)
    assert "adjusted by Kite: 1" in other.stdout
    assert "by Kite" not in result.stdout
    assert [row[1] for row in desk.stored()[:13]] == [row[1] / 2 for row in before]
    assert desk.cli.query(ADJUSTMENTS) == [(Decimal("0.5"), EVENING + DAY + timedelta(minutes=1))]


def test_corrected_candle_of_one_price_is_no_adjustment(desk: Desk) -> None:
    """One factor explains the oldest that is compared; but those before it are as they were."""
    price = Decimal(100)
    days = weekdays(START, date(2026, 11, 30))
    desk.truth[INFY, "day"] = [Candle(day, price, price, price, price, 10, 7) for day in days]
    desk.run()
    prices = dict.fromkeys(("open", "high", "low", "close"), Decimal(101))
    desk.route.correct(INFY, "day", datetime(2026, 11, 11), **prices)
    result = desk.run(at=EVENING + DAY)
    assert "corrected by Kite: 1" in result.stdout
    assert "adjusted" not in result.stdout
    assert [row[1] for row in desk.stored()] == [101 if d.day == 11 else 100 for d in until(19)]
    assert desk.cli.query(ADJUSTMENTS) == []


@pytest.mark.parametrize("taken", ["TRUNCATE kite_candle", "DROP TABLE kite_candle CASCADE"])
def test_candles_that_were_all_taken_away_are_asked_for_anew(desk: Desk, taken: str) -> None:
    desk.run()
    desk.cli.query(taken)
    result = desk.run()
    assert result.status == 0
    assert "has no candle of day, though some were asked for" in result.stderr
    assert desk.days() == until(18)
    assert desk.run().stderr == ""


def test_series_that_could_not_be_asked_is_not_complete(desk: Desk) -> None:
    desk.run()
    desk.cli.kite.fail_next(f"{PATH}{INFY}/", HttpError(503), times=None)
    assert desk.run(at=EVENING + DAY).status == 1
    with override_config("candles", {"enabled": True}):
        status = " ".join(desk.cli.run("status").stdout.split())
    assert "series wanted: 3, complete: 2, with gaps: 0, days missing: 0" in status
    assert "never answered: 0, behind: 1" in status
    desk.cli.kite.clear_faults()
    desk.run(at=EVENING + DAY)
    with override_config("candles", {"enabled": True}):
        status = " ".join(desk.cli.run("status").stdout.split())
    assert "complete: 3" in status
    assert "behind" not in status


def test_clock_that_was_ahead(desk: Desk) -> None:
    desk.run(at=EVENING - 5 * DAY)
    desk.route.now = EVENING.replace(tzinfo=None)
    asked_ahead = desk.run(at=EVENING + 20 * DAY)
    assert asked_ahead.status == 0
    desk.cli.query("DELETE FROM kite_candle WHERE ts >= '2026-11-15'")  # they were not there yet
    result = desk.run()
    assert "in 3 of 3 series" in result.stdout
    assert desk.days() == until(18)
    assert desk.covered() == [("02 00:00", "18 00:00", True), ("18 00:00", "19 00:00", False)]


def test_gaps_before_the_first_run(desk: Desk) -> None:
    result = desk.cli.run("gaps")
    assert (result.status, result.stderr) == (4, "")
    assert result.stdout == "No candle is stored yet, so gaps cannot be told.\n"
    assert '"is_known": false' in desk.cli.run("gaps", "--json").stdout


def test_refetch_since_ever(desk: Desk) -> None:
    desk.run()
    result = desk.cli.run("refetch", "NSE:INFY", "--since", "0001-01-01")
    assert result.status == 0, result.stderr
    assert "NSE:INFY: 13 candles: 0 new, 0 changed" in result.stdout


def test_no_room_for_a_history(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    desk.run()
    desk.route.adjust(INFY, "0.5", date(2026, 11, 19))
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "TemporaryFile", fail)
        result = desk.run(at=EVENING + DAY)
    assert result.status == 1
    assert "No space left on device. Make room where temporary files are" in result.stderr
    assert "adjusted by Kite: 1" in desk.run(at=EVENING + DAY).stdout
