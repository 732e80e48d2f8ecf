"""DAG 2 through the command line, day after day, against the candles of a truth of the test's own.

The clocks of this machine, of the database's server and of Kite are one; what the program waits
for, as its pacing does, passes at once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from itertools import pairwise
from typing import Any, cast

import pytest

from dag_2_import_candles_from_kite.sandbox_route import PATH, CandleRoute
from shared.calendar import IST
from shared.config.config_loader import override_config
from shared.utils import http_source
from tests.candle_truth import INDEX_SYMBOL, Market, Row
from tests.clock import set_clocks
from tests.command_line import CommandLine, Result
from tests.conftest import PROJECT

DAG_1 = PROJECT / "dag_1_import_instruments_from_kite"
DAG_2 = PROJECT / "dag_2_import_candles_from_kite"
EVENING = time(18)
RARELY = "30 8 29 2 *"  # a list is fresh for years

# Who is who by the list's name of the share, which stays.
STORED = """
SELECT h.name, c.ts, c.open, c.high, c.low, c.close, c.volume, c.oi
FROM kite_candle AS c
JOIN (SELECT DISTINCT instrument_id, name FROM kite_instrument_history) AS h USING (instrument_id)
WHERE c.interval = %s ORDER BY h.name, c.ts
"""
COVERED = """
SELECT h.name, "from", "to", is_final
FROM kite_candle_coverage AS c
JOIN (SELECT DISTINCT instrument_id, name FROM kite_instrument_history) AS h USING (instrument_id)
WHERE c.interval = %s ORDER BY h.name, "from"
"""
ADJUSTMENTS = """
SELECT h.name, a.interval, a.factor, a.found_at
FROM kite_candle_adjustment AS a
JOIN (SELECT DISTINCT instrument_id, name FROM kite_instrument_history) AS h USING (instrument_id)
ORDER BY a.found_at, h.name
"""


class VirtualClock:
    """Seconds that pass by being slept. `granted` are the moments at which requests might begin."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._lock = threading.Lock()
        self.granted: list[float] = []

    def __call__(self) -> float:
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds

    def grant(self, pacer: http_source.Pacer) -> None:
        """In the place of its `wait`: let a request begin, and note when."""
        self._wait(pacer)
        self.granted.append(self())

    def pace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let pacers go by this clock."""
        defaults = http_source.Pacer.__init__.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "clock", self)
        monkeypatch.setitem(defaults, "wall_clock", self)
        monkeypatch.setitem(defaults, "sleep", self.sleep)
        self._wait = http_source.Pacer.wait
        monkeypatch.setattr(http_source.Pacer, "wait", lambda pacer: self.grant(pacer))

    def most_in_a_second(self) -> int:
        """How many requests might begin within any second, at most."""
        return max(
            sum(moment <= other < moment + 1 for other in self.granted) for moment in self.granted
        )


@dataclass
class CandleDesk:
    """Someone who runs DAG 1 and DAG 2. `names` are the shares that are wanted, the index apart."""

    cli: CommandLine
    market: Market
    route: CandleRoute
    clock: VirtualClock
    names: Sequence[str] = ()
    intervals: Sequence[str] = ("day",)
    parameters: dict[str, Any] = field(default_factory=dict)
    universe: list[Any] | None = None  # in the place of the names

    def go_to(self, moment: datetime) -> None:
        """Let it be this moment, everywhere."""
        set_clocks(self.cli, moment)
        self.market.now = moment
        self.route.now = moment.astimezone(IST).replace(tzinfo=None)

    def import_list(self) -> None:
        """DAG 1, on today's list."""
        self.cli.kite.dump = self.market.dump()
        result = self.run("--dag", "1", "--force")
        assert result.status == 0, result.stderr

    def fetch(self, *arguments: str, status: int = 0) -> Result:
        """DAG 2."""
        result = self.run("--dag", "2", *arguments)
        said = result.stdout + result.stderr
        assert result.status == status, said
        assert "Traceback" not in said, said
        return result

    def run(self, *arguments: str) -> Result:
        """Any command, with the settings of both."""
        parameters = {
            "instruments": self.universe or self.market.keys(self.names),
            "intervals": list(self.intervals),
            **self.parameters,
        }
        own = {"enabled": True, "parameters": parameters}
        with ExitStack() as settings:
            for folder, values in ((DAG_1, {"schedule": RARELY}), (DAG_2, own)):
                settings.enter_context(override_config("the desk", values, folder))
            return self.cli.run(*arguments)

    def on(self, day: date, hour: time = EVENING, *, is_listed: bool = False) -> Result:
        """DAG 2 on a day, after DAG 1 if the list is a new one."""
        if is_listed:
            self.go_to(datetime.combine(day, time(8, 35), IST))
            self.import_list()
        self.go_to(datetime.combine(day, hour, IST))
        return self.fetch()

    # What is stored

    def stored(self, interval: str = "day") -> dict[str, list[Row]]:
        """The candles of each instrument, by its name."""
        found: dict[str, list[Row]] = {}
        for name, *row in self.cli.query(STORED, interval):
            found.setdefault(name, []).append(tuple(row))
        return found

    def covered(self, interval: str = "day") -> dict[str, list[tuple[datetime, datetime, bool]]]:
        """From when to when each instrument is covered, and whether that is final."""
        found: dict[str, list[tuple[datetime, datetime, bool]]] = {}
        for name, begin, end, is_final in self.cli.query(COVERED, interval):
            found.setdefault(name, []).append((begin, end, is_final))
        return found

    def adjustments(self) -> list[tuple[str, str, Decimal, date]]:
        """Name, interval, factor, and the day on which it was found; oldest first."""
        return [
            (name, interval, factor, found_at.astimezone(IST).date())
            for name, interval, factor, found_at in self.cli.query(ADJUSTMENTS)
        ]

    def gaps(self) -> set[tuple[str, str, str]]:
        """What `gaps --json` lists: symbol, first and last day of each."""
        result = self.run("gaps", "--json")
        assert result.stderr == ""
        told = json.loads(result.stdout)
        assert result.status == (1 if told["gaps"] else 0)
        return {(gap["tradingsymbol"], gap["from_day"], gap["to_day"]) for gap in told["gaps"]}

    # What must be true of it

    def assert_whole(self, names: Iterable[str] | None = None) -> None:
        """Exactly what Kite would serve now is stored, and covered; each has one identity."""
        wanted = [INDEX_SYMBOL, *(self.names if names is None else names)]
        for interval in self.intervals:
            stored, covered = self.stored(interval), self.covered(interval)
            for name in wanted:
                if name == INDEX_SYMBOL and interval != "day":
                    continue
                expected = self.market.rows(name, interval)
                difference = describe_difference(stored.get(name, []), expected)
                assert not difference, f"{name} {interval} {self.market.now}: {difference}"
                self.assert_covered(name, covered.get(name, []))
        self.assert_identities()

    def assert_covered(self, name: str, spans: Sequence[tuple[datetime, datetime, bool]]) -> None:
        """Today is covered, and not as final; what was before is, in one piece."""
        today = datetime.combine(self.market.now.date(), time(), IST)
        assert spans, name
        for (_, end, _), (begin, _, _) in pairwise(spans):
            assert end == begin, (name, spans)
        for begin, end, is_final in spans:
            assert is_final == (end <= today), (name, spans)
            assert is_final or begin >= today, (name, spans)
        if self.market.share(name).listing(today.date()):
            assert spans[-1][0] <= today < spans[-1][1], (name, spans)

    def assert_identities(self) -> None:
        """One share is one instrument, whatever its symbols and tokens, and no other's."""
        assert (
            self.cli.query(
                "SELECT name FROM kite_instrument_history"
                " GROUP BY name HAVING count(DISTINCT instrument_id) > 1"
                " UNION ALL SELECT min(name) FROM kite_instrument_history"
                " GROUP BY instrument_id HAVING count(DISTINCT name) > 1"
            )
            == []
        )


def make_desk(
    cli: CommandLine, market: Market, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> CandleDesk:
    """A desk at the command line's Kite, which lists and serves what the market has."""
    clock = VirtualClock()
    clock.pace(monkeypatch)
    route = CandleRoute(cast(Any, market))  # whose bars are its candles
    cli.kite.add_route(PATH, route)
    cli.parameters |= {"archive_days": 0}
    desk = CandleDesk(cli, market, route, clock, **settings)
    desk.go_to(market.now)
    return desk


def describe_difference(stored: Sequence[Row], expected: Sequence[Row]) -> str:
    """Where two series differ, in few words; "" if they are equal."""
    if list(stored) == list(expected):
        return ""
    have, want = {row[0]: row for row in stored}, {row[0]: row for row in expected}
    lacking, beyond = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    other = sorted(ts for ts in want.keys() & have.keys() if want[ts] != have[ts])
    shown = [(have[ts][1:], want[ts][1:]) for ts in other[:1]]
    return (
        f"{len(stored)} stored, {len(expected)} expected; lacking {len(lacking)}: "
        f"{[str(ts) for ts in lacking[:3]]}; beyond {len(beyond)}: {[str(t) for t in beyond[:3]]}; "
        f"other values {len(other)}: {[str(ts) for ts in other[:3]]} {shown}"
    )
