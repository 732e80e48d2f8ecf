"""Who is measured, how each is run, and how its steps compare with those of the others."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import PROJECT, Measurement, measure
from benchmarks.servers import Servers

PROJECT_NAME = "this project"
FLOOR_NAME = "floor"


@dataclass(frozen=True)
class Contestant:
    """A way to load the list. `packages` are those that it needs beside the project's own.

    `stages` says for each step of its own which of the stages FETCH to STORE it belongs to.
    """

    name: str
    what: str
    module: str | None
    packages: Sequence[str]
    stages: Mapping[str, str]

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]

    def sum_stages(self, measurement: Measurement) -> dict[str, float]:
        """The seconds of each stage; they add up to the wall time."""
        sums = dict.fromkeys(STAGES, 0.0)
        for step, seconds in measurement.steps.items():
            if step not in self.stages:
                raise ValueError(f"contestants.py does not say which stage {step!r} belongs to")
            sums[self.stages[step]] += seconds
        sums[START] = measurement.seconds - sum(sums.values())
        return sums

    def sum_from_bytes_to_commit(self, measurement: Measurement) -> float:
        """The seconds from the list's bytes at hand to the commit."""
        sums = self.sum_stages(measurement)
        return sums[READ] + sums[STORE]


# The stages that every contender's steps fall into. START is what no step accounts for.
START, FETCH, READ, STORE = "start, imports, end", "fetch", "read and check", "store"
STAGES = (START, FETCH, READ, STORE)

_FETCH_WITH_PARSE = "fetch instruments"  # how the project counts it

CONTESTANTS = (
    Contestant(
        PROJECT_NAME,
        "execute_dags.py --dag 1",
        None,
        (),
        {
            "load configuration": FETCH,
            "authenticate": FETCH,
            "fetch": FETCH,
            "parse": READ,
            "validate": READ,
            "transform": READ,
            "check table": STORE,
            "prepare table": STORE,
            "store": STORE,
        },
    ),
    Contestant(
        FLOOR_NAME,
        "COPY of the dump's bytes into a temporary table, one INSERT ... ON CONFLICT",
        "floor",
        (),
        {"download": FETCH, "connect": STORE, "copy": STORE, "upsert": STORE, "commit": STORE},
    ),
    Contestant(
        "client's way",
        "KiteConnect.instruments(), execute_values in pages of 1000",
        "client_way",
        (),
        {
            "download and parse": READ,
            "transform": READ,
            "connect": STORE,
            "upsert": STORE,
            "commit": STORE,
        },
    ),
    Contestant(
        "dlt",
        "Arrow, COPY, merge with the upsert strategy",
        "dlt_way",
        ("dlt", "pyarrow"),
        {
            "download": FETCH,
            "parse": READ,
            "extract": READ,
            "normalize": READ,
            "load": STORE,
        },
    ),
    Contestant(
        "pandas + SQLAlchemy",
        "delete all rows, bulk insert",
        "pandas_way",
        ("pandas", "sqlalchemy"),
        {
            "download": FETCH,
            "parse": READ,
            "transform": READ,
            "connect": STORE,
            "delete": STORE,
            "insert": STORE,
            "commit": STORE,
        },
    ),
)


class Runner:
    """Runs contestants in a folder of its own, where a copy of the project is."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        self.servers = servers
        self._folder = folder
        self._parse_seconds = 0.0
        self.project = folder / "project"
        copy_project(self.project)

    def run(self, contestant: Contestant, database: str) -> Measurement:
        """Load the served list into `database`; the steps are the contestant's own."""
        environment = {
            **self.servers.environment(database),
            "LOG_DIR": str(self._folder / "logs"),
            "BENCH_DLT_FOLDER": str(self._dlt_folder(database)),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "RUNTIME__LOG_LEVEL": "ERROR",
        }
        if contestant.module is None:
            measurement = measure(["execute_dags.py", "--dag", "1"], environment, self.project)
            measurement.steps = self._split_fetch(self._read_durations(database))
            return measurement
        return measure(["-m", f"benchmarks.contenders.{contestant.module}"], environment, PROJECT)

    def serve(self, dump: bytes) -> None:
        """Let Kite serve this list from now on."""
        self.servers.serve(dump)
        self._parse_seconds = self._measure_parse(dump)

    def clone(self, template: str, database: str) -> None:
        """Make `database` as `template` is, with the files that dlt keeps beside it."""
        self.servers.create(database, template)
        shutil.rmtree(self._dlt_folder(database), ignore_errors=True)
        if self._dlt_folder(template).exists():
            shutil.copytree(self._dlt_folder(template), self._dlt_folder(database))

    def _measure_parse(self, dump: bytes) -> float:
        """The median seconds of parse_dump, in a process of its own.

        The project counts it within the fetch; the floor's bytes are at hand before that.
        """
        path = self._folder / "parsed.csv"
        path.write_bytes(dump)
        code = (
            "import json, os, statistics, sys, time, pathlib\n"
            "from shared.utils.kite_csv import parse_dump\n"
            "body, seconds = pathlib.Path(sys.argv[1]).read_bytes(), []\n"
            "for _ in range(5):\n"
            "    begin = time.perf_counter()\n"
            "    dump = parse_dump(body)\n"
            "    seconds.append(time.perf_counter() - begin)\n"
            "    del dump  # a run lets go of its rows later, and that is counted there\n"
            "report = {'parse': statistics.median(seconds)}\n"
            "pathlib.Path(os.environ['BENCH_STEPS_FILE']).write_text(json.dumps(report))\n"
        )
        return measure(["-c", code, str(path)], {}, self.project).steps["parse"]

    def _split_fetch(self, steps: dict[str, float]) -> dict[str, float]:
        """The steps with parsing counted by itself."""
        if _FETCH_WITH_PARSE not in steps:
            return steps
        rest = {name: seconds for name, seconds in steps.items() if name != _FETCH_WITH_PARSE}
        parse = min(self._parse_seconds, steps[_FETCH_WITH_PARSE])
        return {**rest, "fetch": steps[_FETCH_WITH_PARSE] - parse, "parse": parse}

    def _dlt_folder(self, database: str) -> Path:
        return self._folder / "dlt" / database

    def _read_durations(self, database: str) -> dict[str, float]:
        rows = self.servers.execute(
            "SELECT durations FROM ingestion_run ORDER BY run_id DESC LIMIT 1", database=database
        )
        durations: dict[str, float] = rows[0][0]
        return durations


def copy_project(folder: Path) -> None:
    """Copy what a run needs: no .env, archive or log of the user's own is touched."""
    folder.mkdir()
    shutil.copy(PROJECT / "execute_dags.py", folder)
    left_out = shutil.ignore_patterns("__pycache__", ".venv", "local.json")
    folders = (PROJECT / name for name in ("shared", "config", "benchmarks"))
    for source in (*folders, *PROJECT.glob("dag_*")):
        shutil.copytree(source, folder / source.name, ignore=left_out)
