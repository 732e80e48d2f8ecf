"""The benchmark runs, skips who is not installed, and compares programs that do the same."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.candle_experiments import FLOOR as CANDLE_FLOOR
from benchmarks.candle_experiments import KITES_LIMIT, QUICK, WAYS
from benchmarks.candle_market import WalkingCandles
from benchmarks.candle_summary import make_candle_tables
from benchmarks.contestants import CONTESTANTS, FLOOR_NAME, PROJECT_NAME, STAGES, Contestant
from benchmarks.lists import make_lists
from benchmarks.processes import Measurement
from benchmarks.statements import GROUPS, group_statements
from sandbox.kite_server import KiteServer
from tests.conftest import PROJECT, Project, Server

ROWS = 2_000
NEEDED_BY_ALL = ("client's way", FLOOR_NAME, PROJECT_NAME)
TODAYS_ROWS = """
SELECT instrument_token, exchange, tradingsymbol, exchange_token, instrument_type, name, segment,
       expiry, strike, tick_size, lot_size
FROM kite_instrument_master
WHERE last_updated = (SELECT max(last_updated) FROM kite_instrument_master)
ORDER BY instrument_token, exchange
"""
GONE_ROWS = """
SELECT count(*) FROM kite_instrument_master
WHERE last_updated < (SELECT max(last_updated) FROM kite_instrument_master)
"""


def run_module(
    *arguments: str, environment: dict[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def run_contender(module: str, project: Project) -> None:
    result = run_module(f"benchmarks.contenders.{module}", environment=project.environment)
    assert (result.returncode, result.stderr) == (0, "")


def test_contenders_leave_the_projects_table_row_for_row(
    configured_project: Project, server: Server, database: str, kite: KiteServer
) -> None:
    """Each refreshes a copy of the same table of yesterday with today's list."""
    lists = make_lists(ROWS)
    kite.dump = lists.yesterday
    assert configured_project.run("--dag", "1").returncode == 0
    kite.dump = lists.today
    tables: dict[str, list[tuple[Any, ...]]] = {}
    gone: dict[str, int] = {}
    for name in ("floor", "client_way", "project"):
        copy = f"{database}_{name}"
        server.execute(f"CREATE DATABASE {copy} TEMPLATE {database}")
        try:
            configured_project.environment["DB_NAME"] = copy
            if name == "project":
                assert configured_project.run("--dag", "1").returncode == 0
            else:
                run_contender(name, configured_project)
            tables[name] = server.execute(TODAYS_ROWS, dbname=copy)
            gone[name] = server.execute(GONE_ROWS, dbname=copy)[0][0]
        finally:
            server.execute(f"DROP DATABASE {copy} WITH (FORCE)")
    assert len(tables["floor"]) == lists.rows
    assert tables["project"] == tables["floor"]
    assert tables["client_way"] == tables["floor"]
    assert gone["floor"] > 0
    assert set(gone.values()) == {gone["floor"]}


def test_quick_benchmark_measures_who_is_there_and_names_who_is_not(tmp_path: Path) -> None:
    result = run_module(
        "benchmarks", "--quick", "--rows", str(ROWS), "--output", str(tmp_path), environment={}
    )
    assert (result.returncode, result.stderr) == (0, "")
    for contestant in CONTESTANTS:
        line = f"skipped: {contestant.name} ("
        assert (line in result.stdout) == bool(contestant.missing)
    results = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    assert set(results["refresh"]) == {each.name for each in CONTESTANTS if not each.missing}
    assert f"equal tables: {results['rows']['today']:,} rows" in result.stdout
    for (run,) in results["refresh"].values():
        assert 0 < sum(run["steps"].values()) < run["seconds"]
        assert 10 < run["peak_mb"] < 2000
        assert 0 < run["cpu_seconds"] < run["seconds"] * (os.cpu_count() or 1)
    assert [len(point["contenders"]) for point in results["growth"]] == [2]
    for groups in (*results["statements"]["ordinary_day"], *results["statements"]["day_of_moves"]):
        assert min(groups[name] for name in GROUPS if name != "other") > 0
    for row in results["refreshes_in_a_row"]:
        assert 0.9 * ROWS < row["updates"] < 2 * ROWS
    check_candles(results["candles"], result.stdout)
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "img" / "benchmark_steps.png").exists() == has_matplotlib


def check_candles(results: dict[str, Any], shown: str) -> None:
    """All ways have brought the same ones, and each experiment has its figures."""
    assert results["candles"] == QUICK.answers * QUICK.days * 375
    for way in WAYS:
        assert (f"skipped: {way.name} (" in shown) == bool(way.missing)
    there = [way for way in WAYS if not way.missing]
    assert set(results["to_commit"]) == {way.name for way in there}
    names = ", ".join(way.name for way in there if way.table == "kite_candle")
    assert f"equal candles: {results['candles']:,} of {names}\n" in shown
    many, limited, (growth,) = results["many"], results["limited"], results["growth"]
    runs = [run for (run,) in results["to_commit"].values()]
    for run in (many, limited, *growth["runs"], *results["planned"].values(), *runs):
        assert 10 < run["peak_mb"] < 500
        assert 0 <= sum(run["steps"].values()) < run["seconds"]
    assert growth["stored"] == QUICK.stored_days[0] * QUICK.grown_instruments
    assert limited["steps"]["load candles"] > (QUICK.limited - 1) / KITES_LIMIT
    assert "bytes to commit, a second" in shown


def test_figures_of_candles_are_medians_beside_their_targets() -> None:
    def make(seconds: float, **values: Any) -> dict[str, Any]:
        run = {"seconds": 2 * seconds, "peak_mb": 100.0, "steps": {"read and store": seconds}}
        return {**run, **values}

    results = {
        "instruments": 118_000,
        "candles": 200_000,
        "reading": [{PROJECT_NAME: 0.6, "kiteconnect": each} for each in (6.0, 90.0, 8.0)],
        "to_commit": {
            PROJECT_NAME: [make(each) for each in (2.5, 1.0, 2.0)],
            CANDLE_FLOOR: [make(0.5)],
        },
        "growth": [
            {"stored": 100_000, "instruments": 9_000, "runs": [make(4.0), make(6.0)]},
            {"stored": 10_000_000, "instruments": 9_000, "runs": [make(9.0), make(5.0)]},
        ],
        "many": make(5.0, instruments=2_000),
        "limited": make(17.0, requests=100),
        "planned": {"planned": make(1.0), "asked": make(1.0, peak_mb=151.0)},
    }
    comparison, reading, targets = make_candle_tables(results)
    assert comparison[1:] == [
        [PROJECT_NAME, "2.00 s", "100,000", "0.25", "100 MB"],
        [CANDLE_FLOOR, "0.50 s", "400,000", "1.00", "100 MB"],
    ]
    assert reading[1:] == [[PROJECT_NAME, "3.0 us"], ["kiteconnect", "40.0 us"]]
    assert [row[2:] for row in targets[1:]] == [
        ["100,000", "yes"],
        ["3.0 us", "yes"],
        ["1.40", "NO"],
        ["10.0 s", "yes"],
        ["100 MB", "yes"],
        ["100 MB", "yes"],
        ["151 MB", "NO"],
        ["1.020", "yes"],
    ]


def test_market_of_the_benchmark_has_a_candle_for_each_minute_of_every_day() -> None:
    market = WalkingCandles(date(2026, 11, 15))  # a Sunday
    candles = market.candles(408065, "minute")
    assert len(candles) == 60 * 375
    assert all(c.low <= min(c.open, c.close) and max(c.open, c.close) <= c.high for c in candles)
    assert all(one.ts < other.ts for one, other in pairwise(candles))
    assert {c.ts.date() for c in market.candles(408065, "day")[-2:]} == {
        date(2026, 11, 14),
        date(2026, 11, 15),
    }


@pytest.mark.parametrize("name", NEEDED_BY_ALL)
def test_contender_that_must_always_run_needs_no_further_package(name: str) -> None:
    assert [each.packages for each in CONTESTANTS if each.name == name] == [()]


def test_missing_package_is_named() -> None:
    contestant = Contestant("other", "", "other_way", ("json", "no_such_package"), {})
    assert contestant.missing == ["no_such_package"]


def test_stages_add_up_to_the_wall_time() -> None:
    floor = next(each for each in CONTESTANTS if each.name == FLOOR_NAME)
    measurement = Measurement(
        1.0,
        0.5,
        40.0,
        {"download": 0.1, "connect": 0.05, "copy": 0.2, "upsert": 0.3, "commit": 0.05},
    )
    stages = floor.sum_stages(measurement)
    assert list(stages) == list(STAGES)
    assert stages == pytest.approx(dict(zip(STAGES, (0.3, 0.1, 0.0, 0.6))))
    assert floor.sum_from_bytes_to_commit(measurement) == pytest.approx(0.6)


def test_step_without_a_stage_is_refused() -> None:
    with pytest.raises(ValueError) as refusal:
        CONTESTANTS[0].sum_stages(Measurement(1.0, 0.5, 40.0, {"tea break": 0.5}))
    assert str(refusal.value) == "contestants.py does not say which stage 'tea break' belongs to"


def test_statements_are_grouped_whatever_comments_they_begin_with() -> None:
    log = (
        "2026-08-03 03:00:00.000 UTC [7] LOG:  duration: 100.5 ms  statement: COPY stage FROM\n"
        "2026-08-03 03:00:01.000 UTC [7] LOG:  duration: 20.25 ms  statement: -- Which.\n"
        "\tWITH holder AS (SELECT 1)\n\tSELECT * FROM holder\n"
        "2026-08-03 03:00:01.500 UTC [7] LOG:  duration: 1 ms  statement: SELECT 1\n"
        "2026-08-03 03:00:02.000 UTC [7] LOG:  duration: 9.75 ms  statement: COMMIT\n"
    )
    assert {name: ms for name, ms in group_statements(log).items() if ms} == {
        "copy into the stage": 100.5,
        "resolve moved symbols": 20.25,
        "commit": 9.75,
        "other": 1.0,
    }


def test_todays_list_is_without_the_symbols_that_moved() -> None:
    """The others break on those: that is what the list is for."""
    whole, reduced = make_lists(ROWS, with_moves=True), make_lists(ROWS)
    holders = read_tokens(whole.yesterday)

    def count_moved(dump: bytes) -> int:
        return sum(holders.get(key, token) != token for key, token in read_tokens(dump).items())

    assert count_moved(whole.today) == reduced.left_out > 0
    assert count_moved(reduced.today) == 0
    assert reduced.rows == whole.rows - reduced.left_out


def read_tokens(dump: bytes) -> dict[tuple[str, str], str]:
    rows = csv.DictReader(io.StringIO(dump.decode()))
    return {(row["tradingsymbol"], row["exchange"]): row["instrument_token"] for row in rows}
