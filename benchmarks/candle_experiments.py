"""What is measured of candles (DAG 2), on the servers, in the order in which it is done."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from functools import partial
from typing import Any, NamedTuple

from benchmarks.contenders.candle_steps import INTERVAL, Answer, write_answers
from benchmarks.contestants import PROJECT_NAME, Runner
from benchmarks.processes import Measurement, UnequalTablesError, measure
from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.partitions import ensure_partitions
from shared.calendar import IST

Say = Callable[[str], None]

_FOLDER = "dag_2_import_candles_from_kite"
_INDEX = "NSE:NIFTY 50"
_EVERYTHING = ("NSE", "BSE", "NFO", "BFO", "CDS", "MCX", "BCD", "NCO")
_OVERLAP = 5  # candles
_FLAT = 1000  # of a made-up candle the volume
_UNLIMITED = 1000  # requests a second
KITES_LIMIT = 3

DIGEST = """
SELECT count(*), md5(string_agg(concat_ws('|', instrument_id, ts AT TIME ZONE 'UTC', open, high,
                                          low, close, volume, coalesce(oi, -1)),
                                E'\\n' ORDER BY instrument_id, ts))
FROM kite_candle WHERE interval = 'minute'
"""
SHARES = """
SELECT instrument_id, instrument_token, exchange || ':' || tradingsymbol FROM kite_instrument_today
WHERE instrument_id IS NOT NULL AND segment IN ('NSE', 'BSE') ORDER BY segment DESC, instrument_id
"""
LAST_DURATIONS = """
SELECT durations FROM ingestion_run WHERE dag_id = 2 ORDER BY run_id DESC LIMIT 1
"""
# Day after day, as runs have stored them.
FLAT_CANDLES = """
INSERT INTO kite_candle
SELECT i, 'day', day, price, price, price, price, {volume}, NULL
FROM generate_series('{first} 00:00+05:30', '{last} 00:00+05:30', interval '1 day') AS day,
     unnest('{ids}'::bigint[]) AS i, LATERAL (SELECT 100 + i % 1000 AS price) AS of_it
"""
COVERAGE = """
INSERT INTO kite_candle_coverage
SELECT i, '{interval}', '{first} 00:00+05:30', '{end} 00:00+05:30', now(), true
FROM unnest('{ids}'::bigint[]) AS i
"""
ONE_CANDLE = """
INSERT INTO kite_candle
VALUES ({instrument_id}, '{interval}', '{at} 00:00+05:30', 100, 100, 100, 100, 0, NULL)
"""


@dataclass(frozen=True)
class CandlePlan:
    """How much is measured. `stored_days` are those of each size of the table that grows."""

    answers: int = 8
    days: int = 60  # of minutes, in an answer
    rounds: int = 3
    grown_instruments: int = 9_000
    stored_days: Sequence[int] = (11, 1_111)
    grown_parts: int = 3  # in turn with those of the other size
    instruments: int = 2_000  # a day of each
    limited: int = 100  # requests


QUICK = CandlePlan(
    answers=2,
    days=2,
    rounds=1,
    grown_instruments=40,
    stored_days=(6,),
    grown_parts=1,
    instruments=40,
    limited=2,
)


class Way(NamedTuple):
    """A way from answers at hand to the table: a module, or the whole program if there is none.

    Slow ones are run once.
    """

    name: str
    module: str | None = None
    arguments: Sequence[str] = ()
    packages: Sequence[str] = ()
    table: str = "kite_candle"
    is_slow: bool = False

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


WHOLE_PROGRAM = "this project, asking a local server"
FLOOR = "bare COPY, with the key"
WAYS = (
    Way(PROJECT_NAME, "candles_own_way"),
    Way(WHOLE_PROGRAM),
    Way(FLOOR, "candles_floor", ("kite_candle",)),
    Way("bare COPY, without a key", "candles_floor", ("bare_candle",), table="bare_candle"),
    Way("kiteconnect, execute_values", "candles_client_way", is_slow=True),
    Way("pandas.to_sql", "candles_pandas_way", packages=("pandas", "sqlalchemy"), is_slow=True),
)


class _Share(NamedTuple):
    instrument_id: int
    token: int
    name: str


class CandleExperiments:
    """The experiments, on running servers; `listed` is a database that has the list of DAG 1."""

    def __init__(self, runner: Runner, plan: CandlePlan, say: Say, listed: str) -> None:
        self._runner = runner
        self._servers = runner.servers
        self._plan = plan
        self._say = say
        self._listed = listed
        self._last = runner.servers.last_day
        self._answers_file = runner.project / "answers"
        self._shares: list[_Share] = []
        self._index = _Share(0, 0, _INDEX)

    def run(self) -> dict[str, Any]:
        """Do everything; returns the results, as they go into the JSON."""
        self._prepare()
        results = {
            "instruments": len(self._all_ids()),
            "candles": self._plan.answers * self._count_minutes(),
            "reading": self._time_reading(),
            "to_commit": self._compare(),
            "growth": self._grow(),
            "limited": self._run_limited(),
            "many": self._run_many(),
            "planned": self._plan_everything(),
        }
        self._servers.drop("candles")
        self._servers.drop("run")
        return results

    # --- the databases ----------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make the template `candles`: partitions for minutes, days of the index, and no more."""
        self._say("preparing candles")
        self._servers.create("candles", self._listed)
        begin = self._last - timedelta(days=self._plan.days - 1)
        self._configure([_INDEX], begin, intervals=["day", INTERVAL])
        self._run_program("candles")
        self._servers.execute("TRUNCATE kite_candle_minute", database="candles")
        self._servers.execute(
            "DELETE FROM kite_candle_coverage WHERE interval = 'minute'", database="candles"
        )
        self._servers.execute("CREATE TABLE bare_candle (LIKE kite_candle)", database="candles")
        self._servers.execute("VACUUM ANALYZE", database="candles")
        rows = self._servers.execute(SHARES, database="candles")
        shares = [_Share(*row) for row in rows]
        self._shares = [share for share in shares if share.name != _INDEX]
        rows = self._servers.execute(
            "SELECT instrument_id, instrument_token FROM kite_instrument_today"
            " WHERE exchange = 'NSE' AND tradingsymbol = 'NIFTY 50'",
            database="candles",
        )
        self._index = _Share._make((*rows[0], _INDEX))
        self._fetch_answers(begin)

    def _fetch_answers(self, begin: date) -> None:
        """Have the bytes of Kite's answers at hand."""
        span = f"from={begin}+00:00:00&to={self._last}+23:59:59"
        answers = [
            Answer(
                share.instrument_id,
                share.token,
                self._servers.ask(f"/instruments/historical/{share.token}/{INTERVAL}?{span}"),
            )
            for share in self._shares[: self._plan.answers]
        ]
        write_answers(self._answers_file, answers)

    def _clone(self, template: str = "candles") -> None:
        self._servers.create("run", template)
        self._servers.execute("CHECKPOINT")

    def _configure(
        self, instruments: Sequence[Any], begin: date, *, rate: int = _UNLIMITED, **parameters: Any
    ) -> None:
        """Write local.json of the DAG."""
        parameters |= {
            "instruments": list(instruments),
            "start": begin.isoformat(),
            "end": self._last.isoformat(),
            "overlap_candles": _OVERLAP,
            "requests_per_second": rate,
        }
        path = self._runner.project / _FOLDER / "local.json"
        path.write_text(json.dumps({"enabled": True, "parameters": parameters}), encoding="utf-8")

    def _run_program(self, database: str, *arguments: str) -> Measurement:
        """Run `execute_dags.py --dag 2`; a dry run tells no steps."""
        command = ["execute_dags.py", "--dag", "2", *arguments]
        measurement = measure(command, self._environment(database), self._runner.project)
        if not arguments:
            measurement.steps = self._servers.execute(LAST_DURATIONS, database=database)[0][0]
        return measurement

    def _run_module(self, module: str, *arguments: str, database: str = "run") -> Measurement:
        command = ["-m", f"benchmarks.contenders.{module}", *arguments]
        return measure(command, self._environment(database), self._runner.project)

    def _environment(self, database: str) -> dict[str, str]:
        return {
            **self._servers.environment(database),
            "LOG_DIR": str(self._runner.project / "logs"),
            "BENCH_ANSWERS_FILE": str(self._answers_file),
        }

    # --- the experiments --------------------------------------------------------------------------

    def _time_reading(self) -> list[dict[str, float]]:
        return [self._run_module("candle_reading").steps for _ in range(self._plan.rounds)]

    def _compare(self) -> dict[str, list[dict[str, Any]]]:
        """All ways in turn."""
        for way in WAYS:
            if way.missing:
                missing = ", ".join(way.missing)
                self._say(f"skipped: {way.name} ({missing} not installed: make bench)")
        ways = [way for way in WAYS if not way.missing]
        measured: dict[str, list[dict[str, Any]]] = {way.name: [] for way in ways}
        digests: dict[str, Any] = {}
        begin = self._last - timedelta(days=self._plan.days - 1)
        names = [share.name for share in self._shares[: self._plan.answers]]
        self._configure(names, begin, intervals=[INTERVAL])
        for number in range(self._plan.rounds):
            for way in ways if number == 0 else [way for way in ways if not way.is_slow]:
                measured[way.name].append(asdict(self._load(way)))
                self._say(f"candles {number + 1}: {way.name:<36}{measured[way.name][-1]['steps']}")
                if way.name not in digests and way.table == "kite_candle":
                    digests[way.name] = self._servers.execute(DIGEST, database="run")[0]
        self._check(digests)
        return measured

    def _load(self, way: Way) -> Measurement:
        self._clone()
        if way.module is not None:
            return self._run_module(way.module, *way.arguments)
        measurement = self._run_program("run")
        measurement.steps = {"read and store": measurement.steps["load candles"]}
        return measurement

    def _check(self, digests: dict[str, Any]) -> None:
        expected = digests[FLOOR]
        for name, digest in digests.items():
            if digest != expected:
                raise UnequalTablesError(
                    f"{name} left {digest[0]:,} candles with the digest {digest[1]}, the floor "
                    f"{expected[0]:,} with {expected[1]}: they cannot be compared."
                )
        self._say(f"equal candles: {expected[0]:,} of {', '.join(digests)}")

    def _grow(self) -> list[dict[str, Any]]:
        """A day of each instrument, into tables that have several numbers of days of each.

        It is done in parts, into one table and another in turn: what else the machine does then
        takes from all alike.
        """
        shares = [self._index, *self._shares[: self._plan.grown_instruments - 1]]
        tables = {days: f"grown_{days}" for days in self._plan.stored_days}
        runs: dict[int, list[dict[str, Any]]] = {days: [] for days in tables}
        for days, database in tables.items():
            self._make_grown(database, shares, days)
        length = -(-len(shares) // self._plan.grown_parts)
        for number in range(self._plan.grown_parts):
            part = shares[number * length : (number + 1) * length]
            for days in list(tables)[:: -1 if number % 2 else 1]:
                measurement = self._load_a_day(tables[days], part, days)
                runs[days].append(asdict(measurement))
                into = f"into {days * len(shares):,} candles"
                self._say(f"a day of {len(part):,} {into}: {measurement.steps}")
        for database in tables.values():
            self._servers.drop(database)
        return [
            {"stored": days * len(shares), "instruments": len(shares), "runs": each}
            for days, each in runs.items()
        ]

    def _make_grown(self, database: str, shares: Sequence[_Share], days: int) -> None:
        ids = _make_array(share.instrument_id for share in shares)
        first, before = self._last - timedelta(days=days), self._last - timedelta(days=1)
        self._servers.create(database, "candles")
        self._servers.execute("TRUNCATE kite_candle, kite_candle_coverage", database=database)
        begin, end = (datetime.combine(day, time(), IST) for day in (first, self._last))
        with self._servers.manage(database) as manager:
            make = partial(ensure_partitions, interval=INTERVALS["day"], begin=begin, end=end)
            manager.run_in_transaction(make)
        for statement in (FLAT_CANDLES, COVERAGE):
            parts = {"volume": _FLAT, "interval": "day", "end": self._last}
            text = statement.format(first=first, last=before, ids=ids, **parts)
            self._servers.execute(text, database=database)
        self._servers.execute("VACUUM ANALYZE", database=database)

    def _load_a_day(self, database: str, shares: Sequence[_Share], days: int) -> Measurement:
        answered = [self._last - timedelta(days=back) for back in range(_OVERLAP, -1, -1)]
        answers = [Answer(*share[:2], _make_flat(share, answered)) for share in shares]
        write_answers(self._answers_file, answers)
        self._configure([share.name for share in shares], self._last - timedelta(days=days))
        self._servers.execute("CHECKPOINT")
        return self._run_module("candles_own_way", database=database)

    def _run_limited(self) -> dict[str, Any]:
        """As many requests as Kite allows in a second, of a server that counts them."""
        self._clone()
        names = [share.name for share in self._shares[: self._plan.limited]]
        self._configure(names, self._last, rate=KITES_LIMIT)
        with self._servers.limit(KITES_LIMIT):
            measurement = self._run_program("run")
        self._say(f"{len(names)} requests, {KITES_LIMIT} a second: {measurement.seconds:.1f} s")
        return {"requests": len(names), **asdict(measurement)}

    def _run_many(self) -> dict[str, Any]:
        """A day of many instruments."""
        self._clone()
        names = [share.name for share in self._shares[: self._plan.instruments]]
        self._configure(names, self._last)
        measurement = self._run_program("run")
        self._say(f"a day of {len(names):,} instruments: {measurement.seconds:.1f} s")
        return {"instruments": len(names), **asdict(measurement)}

    def _plan_everything(self) -> dict[str, Any]:
        """All of the list wanted: planned only; then those asked for that lack minutes."""
        self._clone()
        begin = self._last - timedelta(days=self._plan.days - 1)
        everything = [{"exchange": exchange} for exchange in _EVERYTHING]
        self._configure(everything, begin, intervals=[INTERVAL], rate=KITES_LIMIT)
        dry = self._run_program("run", "--dry-run")
        lacking = {share.instrument_id for share in self._shares[: self._plan.answers]}
        for interval, left_out in (("day", {self._index.instrument_id}), (INTERVAL, lacking)):
            ids = _make_array(i for i in self._all_ids() if i not in left_out)
            span = {"first": begin, "end": self._last + timedelta(days=1)}
            self._servers.execute(
                COVERAGE.format(interval=interval, ids=ids, **span), database="run"
            )
            # Where there is no candle at all, what was answered counts for nothing.
            one = {"interval": interval, "at": self._last, "instrument_id": self._all_ids()[-1]}
            self._servers.execute(ONE_CANDLE.format(**one), database="run")
        wet = self._run_program("run")
        self._say(f"everything: planned {dry.peak_mb:.0f} MB, asked {wet.peak_mb:.0f} MB")
        return {"planned": asdict(dry), "asked": asdict(wet)}

    def _all_ids(self) -> list[int]:
        rows = self._servers.execute(
            "SELECT instrument_id FROM kite_instrument_today WHERE instrument_id IS NOT NULL",
            database="candles",
        )
        return [instrument_id for (instrument_id,) in rows]

    def _count_minutes(self) -> int:
        return self._plan.days * 375


def _make_array(numbers: Iterable[int]) -> str:
    """The numbers as PostgreSQL writes an array."""
    return f"{{{','.join(map(str, numbers))}}}"


def _make_flat(share: _Share, days: Sequence[date]) -> bytes:
    """Kite's answer with the candles that the table has of these days, and the next one."""
    price = 100 + share.instrument_id % 1000
    rows = (f'["{day}T00:00:00+0530",{price},{price},{price},{price},{_FLAT}]' for day in days)
    return f'{{"status":"success","data":{{"candles":[{",".join(rows)}]}}}}'.encode()
