"""Runs of DAG 2 are killed at random moments; after the next whole one nothing lacks, or is twice.

`make chaos ROUNDS=100 SEED=7`. A round is made from its seed alone; how far the run has come when
it is hit depends on the machine.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from sandbox.kite_faults import CutShort, Fault, HttpError, Reset
from sandbox.kite_server import KiteServer
from tests.candle_faults import EMPTY, OTHER_SPAN, Fine, plan_faults
from tests.candle_rig import NAMES, CandleRig, list_stored, make_market, rigged
from tests.candle_truth import Correction, Row
from tests.conftest import Project, Server, make_project

LIFETIME_SECONDS = 2.5  # of a run, about
FAULTS: tuple[Fault, ...] = (
    HttpError(429),
    HttpError(500),
    Reset("answer"),
    CutShort("length"),
    EMPTY,
    OTHER_SPAN,
)


@pytest.fixture(scope="session")
def candle_project(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(shipped, tmp_path_factory.mktemp("candles"))


@pytest.fixture(scope="session")
def listed(candle_project: Project, server: Server) -> Iterator[str]:
    with list_stored(candle_project, server, make_market()) as name:
        yield name


@pytest.fixture
def candles(
    candle_project: Project, server: Server, kite: KiteServer, listed: str
) -> Iterator[CandleRig]:
    with rigged(candle_project, server, kite, listed, make_market()) as rig:
        yield rig
    shutil.rmtree(candle_project.environment["LOG_DIR"], ignore_errors=True)


def test_killed_run_goes_on(candles: CandleRig, seed: int) -> None:
    rng = random.Random(seed)
    before: list[tuple[str, str, list[Row]]] = []
    if rng.random() < 0.5:  # something is stored, and Kite has changed it
        candles.finish()
        before = [(*pair, candles.stored(*pair)) for pair in candles.pairs()]
        change(rng, candles)
    for _ in range(rng.choice([1, 1, 2, 3])):
        plan_trouble(rng, candles)
        kill_at_a_moment(rng, candles)
        candles.kite.clear_faults()
        candles.wait_for_the_end()
        candles.assert_honest(before)
    candles.finish()
    twice = "SELECT FROM kite_candle GROUP BY instrument_id, interval, ts HAVING count(*) > 1"
    assert candles.query(twice) == []
    found = [(name, interval) for name, interval, _ in candles.adjustments()]
    assert len(found) == len(set(found))


def change(rng: random.Random, rig: CandleRig) -> None:
    """One share is adjusted today, of another a late candle is corrected."""
    adjusted, corrected = (rig.market.share(name) for name in rng.sample(NAMES, 2))
    factor = Decimal(rng.choice(["0.1", "0.5", "0.97", "3"]))
    adjusted.adjustments.append((rig.market.now.date(), factor))
    for interval, bars in corrected.bars.items():
        wrong = bars[-rng.choice([1, 2, 3])]
        right = wrong._replace(close=wrong.low, volume=wrong.volume + 1)
        corrected.corrections.append(
            Correction(rig.market.now - timedelta(seconds=1), interval, right)
        )
    rig.forget_days()


def plan_trouble(rng: random.Random, rig: CandleRig) -> None:
    for _, listing in rig.market.listed():
        for interval in ("day", "minute"):
            if rng.random() < 0.4:
                faults = [rng.choice(FAULTS), Fine()] * rng.choice([1, 2])
                plan_faults(rig.kite, listing.token, interval, faults)


def kill_at_a_moment(rng: random.Random, rig: CandleRig) -> None:
    with rig.start() as process, suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0, LIFETIME_SECONDS))
