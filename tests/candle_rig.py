"""DAG 2 as a process of its own, on the candles of a truth of the test's own.

Its clock is this machine's: the last candle is of some days ago, so that none comes or runs
meanwhile, whatever day it is.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from dag_2_import_candles_from_kite.sandbox_route import PATH, CandleRoute
from sandbox.kite_server import KiteServer
from shared import clock
from tests.candle_desk import ADJUSTMENTS, COVERED, STORED, describe_difference
from tests.candle_truth import INDEX_SYMBOL, Market, Row, made_market
from tests.conftest import Project, Server, connect_project
from tests.rig import cloned
from tests.table_model import wait_until

NAMES = ("ONE", "TWO")
DAYS = 60  # two spans of minutes
INTERVALS = ("day", "minute")
AGO = timedelta(days=4)

Spans = Sequence[tuple[datetime, datetime, bool]]


def make_market(names: Sequence[str] = NAMES) -> Market:
    """Some shares, whose last candle is of some days ago."""
    now = clock.now()
    market = made_market(now - AGO, names, DAYS, INTERVALS)
    market.now = now
    return market


@dataclass
class CandleRig:
    """A project in which DAG 2 runs, its Kite, and what it stores."""

    project: Project
    kite: KiteServer
    route: CandleRoute
    market: Market
    server: Server
    database: str
    connection: Any

    def start(self, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
        """`execute_dags.py --dag 2`."""
        return self.project.start("--dag", "2", *arguments)

    def finish(self) -> None:
        """A whole run, after which all is there."""
        result = self.project.run("--dag", "2")
        assert result.returncode == 0, result.stdout + result.stderr
        self.assert_whole()

    def query(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, params or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def sessions(self, condition: str = "true") -> int:
        """How many sessions runs have on the database."""
        return self.server.sessions(
            self.database, f"application_name = 'stock_ingestion' AND {condition}"
        )

    def wait_for_the_end(self) -> None:
        """Until no session of a killed run is left."""
        wait_until(lambda: not self.sessions())

    def pairs(self) -> list[tuple[str, str]]:
        """Whose candles are wanted, and of which interval."""
        return [(INDEX_SYMBOL, "day"), *((n, i) for i in INTERVALS for n in NAMES)]

    def stored(self, name: str, interval: str) -> list[Row]:
        rows = self.query(STORED, interval) if self.has_tables() else []
        return [(ts, *values) for found, ts, *values in rows if found == name]

    def covered(self, name: str, interval: str) -> Spans:
        rows = self.query(COVERED, interval) if self.has_tables() else []
        return [(begin, end, is_final) for found, begin, end, is_final in rows if found == name]

    def adjustments(self) -> list[tuple[Any, ...]]:
        """Name, interval and factor of each."""
        return [row[:3] for row in self.query(ADJUSTMENTS)]

    def forget_days(self) -> None:
        """As if the last run had been two days ago."""
        self.query(
            "WITH today AS (DELETE FROM kite_candle_coverage WHERE NOT is_final)"
            ' UPDATE kite_candle_coverage SET "to" = "to" - interval \'2 days\''
            " WHERE is_final RETURNING 1"
        )

    def has_tables(self) -> bool:
        return self.query("SELECT to_regclass('kite_candle_coverage') IS NOT NULL") == [(True,)]

    def is_complete(self, name: str, interval: str) -> bool:
        """Whether all is covered that there is."""
        rows = self.market.rows(name, interval)
        return all(is_within(row, self.covered(name, interval)) for row in (rows[0], rows[-1]))

    def assert_honest(self, before: Sequence[tuple[str, str, list[Row]]] = ()) -> None:
        """What is covered is there, exactly, and nothing else; or what was there before."""
        unchanged = {(name, interval): rows for name, interval, rows in before}
        for name, interval in self.pairs():
            stored, spans = self.stored(name, interval), self.covered(name, interval)
            expected = [r for r in self.market.rows(name, interval) if is_within(r, spans)]
            if stored != unchanged.get((name, interval)):
                difference = describe_difference(stored, expected)
                assert not difference, f"{name} {interval} in {spans}: {difference}"

    def assert_whole(self) -> None:
        """All that Kite serves is there, and covered."""
        for name, interval in self.pairs():
            difference = describe_difference(
                self.stored(name, interval), self.market.rows(name, interval)
            )
            assert not difference, f"{name} {interval}: {difference}"
            assert self.is_complete(name, interval)


def is_within(row: Row, spans: Spans) -> bool:
    return any(begin <= row[0] < end for begin, end, _ in spans)


def enable_candles(project: Project, market: Market, **parameters: Any) -> None:
    """Let the project's DAG 2 fetch all of the market, as quickly as it may."""
    values = {
        "instruments": [f"NSE:{name}" for name in NAMES],
        "intervals": list(INTERVALS),
        "start": f"{market.rows(INDEX_SYMBOL)[0][0]:%Y-%m-%d}",
        "requests_per_second": 10,
        **parameters,
    }
    path = project.folder / "dag_2_import_candles_from_kite" / "local.json"
    path.write_text(json.dumps({"enabled": True, "parameters": values}), encoding="utf-8")


@contextmanager
def list_stored(project: Project, server: Server, market: Market) -> Iterator[str]:
    """A database with today's list and no candle, to be cloned by each test."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name}")
    with KiteServer(market.dump()) as kite:
        connect_project(project, server, name, kite)
        result = project.run("--dag", "1")
        assert result.returncode == 0, result.stderr
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def rigged(
    project: Project, server: Server, kite: KiteServer, template: str, market: Market
) -> Iterator[CandleRig]:
    """A clone of the template, and a Kite that serves the market."""
    route = CandleRoute(cast(Any, market), limit_per_second=10)
    kite.dump = market.dump()
    kite.add_route(PATH, route)
    enable_candles(project, market)
    with cloned(server, template) as name, closing(server.connect(name)) as connection:
        connect_project(project, server, name, kite)
        yield CandleRig(project, kite, route, market, server, name, connection)
