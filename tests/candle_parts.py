"""DAG 2 in several processes beside one: two databases, which come to hold the same."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from sandbox.kite_server import KiteServer
from tests import candle_rig
from tests.candle_desk import CandleDesk
from tests.candle_rig import INTERVALS, CandleRig, enable_candles, rigged
from tests.candle_truth import INDEX_SYMBOL, Correction, Market
from tests.conftest import Project, Server

NAMES = tuple(f"SHARE{number}" for number in range(1, 7))
SPLIT, CORRECTED, GONE = NAMES[:3]
FACTOR = Decimal("0.2")

# All but the moments at which a run began.
TABLES = {
    "kite_candle": "SELECT * FROM kite_candle ORDER BY 1, 2, 3",
    "kite_candle_coverage": 'SELECT instrument_id, interval, "from", "to", is_final'
    " FROM kite_candle_coverage ORDER BY 1, 2, 3",
    "kite_candle_adjustment": "SELECT instrument_id, interval, factor, compared_from, compared_to,"
    " scaled_before FROM kite_candle_adjustment ORDER BY 1, 2",
}


make_market = partial(candle_rig.make_market, NAMES)  # shares enough for several parts


@dataclass
class Twins:
    """`one` is loaded by one process at a time, and `parts` by several."""

    one: CandleRig
    parts: CandleRig

    def run_one(self) -> None:
        """A run of the whole."""
        result = self.one.project.run("--dag", "2")
        assert result.returncode == 0, result.stdout + result.stderr

    def run_parts(self, *parts: str) -> list[str]:
        """Runs of these parts at once, all of which end well; what they say."""
        with self.started(*parts) as processes:
            return [finish(process) for process in processes]

    @contextmanager
    def started(self, *parts: str) -> Iterator[list[subprocess.Popen[str]]]:
        """Runs of these parts at once, under way."""
        with ExitStack() as processes:
            start = self.parts.start
            yield [processes.enter_context(start("--slice", part)) for part in parts]

    def assert_equal(self) -> None:
        """Row for row; and it is what Kite serves."""
        for name, query in TABLES.items():
            assert self.parts.query(query) == self.one.query(query), name
        market = self.one.market
        for interval in INTERVALS:
            for name in (*NAMES, *[INDEX_SYMBOL] * (interval == "day")):
                assert self.parts.stored(name, interval) == market.rows(name, interval), name

    def change(self) -> None:
        """Days pass: one share is split, another is corrected, a third has left the list."""
        market = self.one.market
        market.share(SPLIT).adjustments.append((market.now.date(), FACTOR))
        corrected = market.share(CORRECTED)
        for interval, bars in corrected.bars.items():
            right = bars[-2]._replace(close=bars[-2].low, volume=bars[-2].volume + 1)
            since = market.now - timedelta(seconds=1)
            corrected.corrections.append(Correction(since, interval, right))
        gone = market.share(GONE)
        gone.listings = [
            each._replace(last=market.now.date() - timedelta(days=1)) for each in gone.listings
        ]
        self.one.kite.dump = market.dump()
        for rig in (self.one, self.parts):
            rig.forget_days()
            result = rig.project.run("--dag", "1", "--force")
            assert result.returncode == 0, result.stderr
        self.want([name for name in NAMES if name != GONE])

    def want(self, names: Sequence[str], **parameters: Any) -> None:
        """Let the runs fetch these, to a day that is over whenever they begin."""
        last = self.one.market.rows(INDEX_SYMBOL)[-1][0]
        values = {"requests_per_second": 1000, "end": f"{last:%Y-%m-%d}", **parameters}
        wanted = [f"NSE:{name}" for name in names]
        enable_candles(self.one.project, self.one.market, instruments=wanted, **values)


def finish(process: subprocess.Popen[str]) -> str:
    """What a run says that ends well."""
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    return stdout


@contextmanager
def twins(
    project: Project, server: Server, kite: KiteServer, template: str, market: Market
) -> Iterator[Twins]:
    """Two clones of the template, on one Kite."""
    logs = f"{project.environment['LOG_DIR']}_parts"
    other = replace(project, environment={**project.environment, "LOG_DIR": logs})
    with (
        rigged(project, server, kite, template, market) as one,
        rigged(other, server, kite, template, market) as parts,
    ):
        one.route = parts.route
        parts.route.limit_per_second = None
        pair = Twins(one, parts)
        pair.want(NAMES)
        yield pair


def split_fetches(desk: CandleDesk, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the desk fetch in so many parts, one after the other; the last one comes first."""
    parts = [f"{number}/{count}" for number in range(count, 0, -1)]

    def fetch(status: int = 0) -> None:
        results = [desk.run("--dag", "2", "--slice", part) for part in parts]
        said = "".join(result.stdout + result.stderr for result in results)
        assert max(result.status for result in results) == status, said
        assert "Traceback" not in said, said

    monkeypatch.setattr(desk, "fetch", fetch)
