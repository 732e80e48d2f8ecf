"""Properties 1, 14, 15 and 18: whole runs in process, on a local server and a real database."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

import execute_dags
from dag_1_import_instruments_from_kite import import_instruments
from sandbox.kite_faults import CustomAnswer, Fault, HtmlError, HttpError, Reset
from sandbox.kite_server import KiteServer
from shared import console
from shared.config.config_loader import override_config
from shared.exceptions import AuthenticationError, StockIngestionError
from shared.utils import operation as operation_module
from shared.utils.kite_client_wrapper import KiteClientWrapper
from shared.utils.retry import RetryPolicy
from tests.clock import Clock
from tests.command_line import ESCAPE
from tests.conftest import HEADER, Server, environment_for
from tests.instruments import instrument, to_csv
from tests.integration.raw_dump import read_breakdown, read_figures
from tests.property.strategies import (
    EXCHANGES,
    TYPES,
    durations_in_seconds,
    list_of_instruments,
)
from tests.table_model import write_table

pytestmark = pytest.mark.usefixtures("trading_today")

# The fixtures set up what is the same for every example.
whole_runs = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def own_kite() -> Iterator[KiteServer]:
    with KiteServer(HEADER) as server:
        yield server


# Property 1

LOGIN_FAULTS: list[Fault] = [
    HttpError(400),
    HttpError(403),
    HttpError(500),
    HtmlError(200),
    HtmlError(502),
    Reset("answer"),
    Reset("body"),
    CustomAnswer(b"[]", "application/json"),
    CustomAnswer(b'{"data": 1}', "application/json"),
    CustomAnswer(b"user_id\n", "text/csv"),
]
steps = st.lists(
    st.one_of(
        st.just("fetch"),
        st.just("authenticate"),
        st.just("token dies"),
        st.just("log in again"),
        st.tuples(st.sampled_from(LOGIN_FAULTS), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=8,
)


# Feature: stock-ingestion, Property 1: For any instrument fetch operation, authentication with the
# Kite API must complete successfully before any data retrieval attempts are made.
@given(steps)
@example(["fetch"])
@example(["authenticate", "token dies", "authenticate", "fetch"])
@whole_runs
def test_nothing_is_fetched_before_authentication_has_succeeded(
    own_kite: KiteServer, script: list[Any]
) -> None:
    own_kite.clear_faults()
    if not own_kite.access_token:
        own_kite._access_token = "sandbox_token"
    began = len(own_kite.requests)
    wrapper = KiteClientWrapper(
        own_kite.api_key,
        own_kite.api_secret,
        own_kite.access_token,
        root=own_kite.root,
        retry=RetryPolicy(2, 0, sleep=lambda seconds: None),
    )
    proven = False  # what the last authenticate() came to
    for step in script:
        requests = len(own_kite.requests)
        if step == "fetch":
            with contextlib.suppress(StockIngestionError):
                wrapper.fetch_instruments()
                assert proven
            made = own_kite.requests[requests:]
            assert [request.path for request in made] == (["/instruments"] if proven else [])
        elif step == "authenticate":
            try:
                proven = wrapper.authenticate()
            except StockIngestionError:
                proven = False
            assert {request.path for request in own_kite.requests[requests:]} == {"/user/profile"}
            assert proven is (own_kite.requests[-1].status == 200 and proven)
        elif step == "token dies":
            own_kite.expire_token()
        elif step == "log in again":
            own_kite._access_token = "sandbox_token"
        else:
            own_kite.fail_next("/user/profile", step[0], step[1])
    last_profile = None
    for request in own_kite.requests[began:]:
        if request.path == "/user/profile":
            last_profile = request
        else:
            assert last_profile is not None
            assert last_profile.status == 200


# Properties 14, 15 and 18


@dataclass
class Run:
    """A run of DAG 1 through the command line's own main function, with all that it said."""

    status: int
    stdout: str
    log: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The logged summary; there is exactly one."""
        found = [
            text for text in self.log if re.match("DAG 1 (completed|did not complete): ", text)
        ]
        assert len(found) == 1
        return found[0]


class Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@dataclass
class Rig:
    """The local Kite and the database, and how to run DAG 1 on them."""

    kite: KiteServer
    connection: Any
    parameters: dict[str, Any]
    monkeypatch: pytest.MonkeyPatch

    def reset(self, dump: bytes, exchanges: list[str] | None = None) -> None:
        self.kite.clear_faults()
        self.kite.dump = dump
        self.parameters["exchanges"] = exchanges
        with self.connection.cursor() as cursor:
            cursor.execute("TRUNCATE kite_instrument_master")
            for table in ("kite_instrument_change", "ingestion_run"):
                cursor.execute("SELECT to_regclass(%s)", (table,))
                if cursor.fetchone()[0]:
                    cursor.execute(f"TRUNCATE {table} CASCADE")

    def run(self, *arguments: str, stdout: io.StringIO | None = None) -> Run:
        stdout = stdout or io.StringIO()
        handler = Messages()
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            with (
                contextlib.redirect_stdout(stdout),
                contextlib.redirect_stderr(io.StringIO()),
                override_config("the test", {"parameters": self.parameters}),
                self.monkeypatch.context() as patch,
            ):
                patch.setattr("sys.argv", ["execute_dags.py", "--dag", "1", *arguments])
                status = execute_dags.run(execute_dags.parse_arguments())
        finally:
            root.removeHandler(handler)
        return Run(int(status), stdout.getvalue(), handler.seen)

    def count(self) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM kite_instrument_master")
            return int(cursor.fetchone()[0])


@pytest.fixture
def rig(
    own_kite: KiteServer,
    server: Server,
    module_database: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Rig]:
    own_kite._access_token = "sandbox_token"
    for name, value in {
        **environment_for(server, module_database, own_kite),
        "RETRY_DELAY_SECONDS": "0",
        "TERM": "xterm-256color",
        "COLUMNS": "80",
    }.items():
        monkeypatch.setenv(name, value)
    parameters = {"archive_directory": str(tmp_path / "archive"), "max_reject_percent": 50}
    connection = server.connect(module_database)
    yield Rig(own_kite, connection, parameters, monkeypatch)
    connection.close()


plain = st.text("ABCXYZ&-é😀0189", min_size=1, max_size=10).filter(lambda text: text != "-")
lists = list_of_instruments(
    min_size=1,
    max_size=8,
    exchange=st.one_of(st.sampled_from(EXCHANGES), plain),
    instrument_type=st.one_of(st.none(), st.sampled_from(TYPES), plain),
)
BAD_ROW = b"x,1,BAD,,0,,,0.05,1,EQ,NSE,NSE\n"
FAULTS: dict[str, tuple[str, Fault]] = {
    "session dead": ("/user/profile", HttpError(403)),
    "bad request": ("/instruments", HttpError(400)),
    "down": ("/instruments", HtmlError(502)),
    "no list": ("/instruments", CustomAnswer(b"a,b\n1,2\n")),
}
# What else may go wrong, and the setting that makes it so.
SETTINGS = {
    "database away": {"DB_PORT": "1"},
    "configuration": {"DB_PORT": "none"},
}
FAILED_STEPS = {
    "session dead": "authenticate",
    "bad request": "fetch instruments",
    "down": "fetch instruments",
    "no list": "fetch instruments",
    "configuration": "load configuration",
    "defect": "validate",
    "database away": "check table",
}
ORDER = [
    "load configuration",
    "check table",
    "authenticate",
    "fetch instruments",
    "validate",
    "prepare table",
    "store",
]
DATABASE_STEPS = ("check table", "prepare table", "store")  # of no dry run
times = st.tuples(*[durations_in_seconds] * len(ORDER))  # of the steps, as they come
BETWEEN_STEPS = 0.25


class StepClock(Clock):
    """A clock that moves while a step is on, half of its time at its begin: it is read twice."""

    def __init__(self, seconds: Iterable[float]) -> None:
        super().__init__()
        self._halves = (half for step in seconds for half in (step / 2, step / 2))
        self._begins = True

    def perf_counter(self) -> float:
        if self._begins:
            self.now += BETWEEN_STEPS
            moment = self.now
            self.now += next(self._halves)
        else:
            self.now += next(self._halves)
            moment = self.now
        self._begins = not self._begins
        return moment


class SameClock(Clock):
    """Shows what another clock shows, and does not move it."""

    def __init__(self, other: Clock) -> None:
        self._other = other

    @property
    def now(self) -> float:  # type: ignore[override]
        return self._other.now


def let_steps_take(patch: pytest.MonkeyPatch, seconds: Iterable[float]) -> Clock:
    """Let steps take these seconds, and nothing else any, on the clock that is returned."""
    clock = StepClock(seconds)
    patch.setattr(operation_module, "time", clock)
    for module in (execute_dags, console):
        patch.setattr(module, "time", SameClock(clock))
    patch.setattr(console, "Console", partial(Console, get_time=SameClock(clock).monotonic))
    return clock


def expect_steps(
    fault: str | None, instruments: int, bad_rows: int, *, dry_run: bool = False
) -> tuple[list[str], str | None]:
    """The steps that a run goes through, and which of them, the last one, fails."""
    planned = [step for step in ORDER if not (dry_run and step in DATABASE_STEPS)]
    if fault == "database away" and not dry_run:
        return planned[: planned.index("check table") + 1], "check table"
    if fault == "no rows" or not instruments + bad_rows:
        return planned[: planned.index("validate")], None
    failed = FAILED_STEPS.get(fault or "")
    if bad_rows > instruments and failed in (None, "check table"):
        failed = "validate"
    if failed not in planned:
        return planned, None
    return planned[: planned.index(failed) + 1], failed


def make_dump(instruments: list[dict[str, Any]], bad_rows: int) -> bytes:
    return to_csv(instruments) + BAD_ROW * bad_rows


# Feature: stock-ingestion, Property 14: For any DAG execution that completes (successfully or with
# errors), the logs must include summary statistics with record counts and total execution duration.
@given(
    instruments=lists,
    stored=st.integers(0, 8),
    bad_rows=st.integers(0, 12),
    fault=st.one_of(st.none(), st.sampled_from([*FAULTS, *SETTINGS, "defect", "no rows"])),
    dry_run=st.booleans(),
    seconds=times,
)
@example(
    instruments=[],
    stored=0,
    bad_rows=0,
    fault=None,
    dry_run=False,
    seconds=(1.5,) * len(ORDER),
)
@whole_runs
def test_summary_and_duration_of_any_execution(
    rig: Rig,
    instruments: list[dict[str, Any]],
    stored: int,
    bad_rows: int,
    fault: str | None,
    dry_run: bool,
    seconds: tuple[float, ...],
) -> None:
    rig.reset(HEADER)
    if stored in (1, 2) and instruments:
        rig.kite.dump = to_csv(instruments[:stored])
        assert rig.run().status == 0
    else:  # nothing on record
        write_table(rig.connection, instruments[:stored])
    known = rig.count()
    rig.kite.dump = HEADER if fault == "no rows" else make_dump(instruments, bad_rows)
    with rig.monkeypatch.context() as patch:
        if fault in FAULTS:
            path, answer = FAULTS[fault]
            rig.kite.fail_next(path, answer, None)
        for name, value in SETTINGS.get(fault or "", {}).items():
            patch.setenv(name, value)
        if fault == "defect":
            patch.setattr(import_instruments, "transform_instruments", lambda rows: 1 / 0)
        clock = let_steps_take(patch, seconds)
        run = rig.run(*(["--dry-run"] if dry_run else []))

    figures = read_figures(run.summary)
    rows = len(instruments) + bad_rows
    enough = bad_rows * 2 <= rows and instruments
    unseen = {*FAULTS, "configuration", "no rows", *([] if dry_run else ["database away"])}
    seen = 0 if fault in unseen else rows
    assert figures["fetched"] == seen
    assert figures["rejected"] == (bad_rows if seen else 0)
    assert figures["left out"] == 0
    well = fault is None or (fault == "database away" and dry_run)
    completed = well and bool(enough)
    assert run.summary.startswith("DAG 1 completed" if completed else "DAG 1 did not complete")
    assert (run.status == 0) is completed
    if completed and fault is None:
        assert figures["updated"] == known
        assert figures["inserted"] == len(instruments) - known
    if completed and not dry_run:
        assert rig.count() == len(instruments)
    else:
        assert rig.count() == known
    steps, failed_step = expect_steps(fault, len(instruments), bad_rows, dry_run=dry_run)
    took = ", ".join(f"{step} {second:.2f}" for step, second in zip(steps, seconds))
    assert " ".join(run.summary.split()).endswith(f" seconds: {took}")
    ends = {step: "failed" if step == failed_step else "succeeded" for step in steps}
    assert [text for text in run.log if re.fullmatch(r".*: (succeeded|failed) in .* s", text)] == [
        *(f"{step}: {end} in {s:.3f} s" for (step, end), s in zip(ends.items(), seconds)),
        f"DAG 1 import_instruments_from_kite: {'succeeded' if completed else 'failed'} in "
        f"{clock.elapsed:.3f} s",
    ]


# Feature: stock-ingestion, Property 15: For any DAG execution, the system must display progress
# information and timing metrics in the console output.
@given(
    instruments=lists,
    bad_rows=st.integers(0, 12),
    fault=st.one_of(st.none(), st.sampled_from([*FAULTS, *SETTINGS, "defect"])),
    at_a_terminal=st.booleans(),
    seconds=times,
)
@example(
    instruments=[instrument(1, "INFY")],
    bad_rows=0,
    fault=None,
    at_a_terminal=False,
    seconds=(*[0.0] * (len(ORDER) - 1), 9.5),  # just long enough to be told of
)
@whole_runs
def test_progress_and_timing_of_any_execution(
    rig: Rig,
    instruments: list[dict[str, Any]],
    bad_rows: int,
    fault: str | None,
    at_a_terminal: bool,
    seconds: tuple[float, ...],
) -> None:
    dump = make_dump(instruments, bad_rows)
    rig.reset(dump)
    with rig.monkeypatch.context() as patch:
        if fault in FAULTS:
            path, answer = FAULTS[fault]
            rig.kite.fail_next(path, answer, None)
        for name, value in SETTINGS.get(fault or "", {}).items():
            patch.setenv(name, value)
        if fault == "defect":
            patch.setattr(import_instruments, "transform_instruments", lambda rows: 1 / 0)
        clock = let_steps_take(patch, seconds)
        run = rig.run(stdout=Terminal() if at_a_terminal else io.StringIO())

    steps, failed_step = expect_steps(fault, len(instruments), bad_rows)
    size = len(rig.kite._compress(dump))
    progress = {
        "fetch instruments": f"{size:,} of {size:,} bytes",
        "store": f"{len(instruments)} of {len(instruments)} rows",
    }
    if not at_a_terminal:  # there only a step that takes long tells how far it is
        before = [BETWEEN_STEPS + second / 2 for second in seconds]  # it begins to be shown sooner
        slow = [step for step, second in zip(steps, before) if second >= 5]
        progress = {step: text for step, text in progress.items() if step in slow}
    read = read_steps_at_terminal if at_a_terminal else read_steps
    ends = {step: "failed" if step == failed_step else progress.get(step, "") for step in steps}
    assert list(read(run.stdout).items()) == [
        (step, (end, f"{second:.2f}")) for (step, end), second in zip(ends.items(), seconds)
    ]
    status = "failed" if failed_step else "succeeded"
    assert (
        f"\nDAG 1 import_instruments_from_kite {status} in {clock.elapsed:.2f} s"
        f"{'' if failed_step else ': '}" in ESCAPE.sub("", run.stdout)
    )
    assert ("\x1b" in run.stdout) is at_a_terminal


def read_steps(output: str) -> dict[str, tuple[str, str]]:
    """What plain output shows of a step: "failed" or how far it came at last, and its seconds."""
    told = dict(re.findall(r"^  ([a-z ]+): ([\d,]+ of [\d,]+ [a-z]+)$", output, re.M))
    found = re.findall(r"^  ([a-z ]+): (done|failed) in (\d+\.\d\d) s$", output, re.M)
    assert len({name for name, *_ in found}) == len(found)
    return {
        name: (end if end == "failed" else told.get(name, ""), seconds)
        for name, end, seconds in found
    }


def read_steps_at_terminal(output: str) -> dict[str, tuple[str, str]]:
    """The same of the last frame of the live bars."""
    lines = ESCAPE.sub("", output).replace("\r", "\n")
    found = re.findall(r"^  ([a-z ]{18}) [━ ]{14} (.*?) *(\d+\.\d\d) s *$", lines, re.M)
    return {name.strip(): (rest, seconds) for name, rest, seconds in found}


# Feature: stock-ingestion, Property 18: For any completed ingestion, the logs must include summary
# statistics broken down by exchange and instrument_type showing counts for each category.
@given(instruments=lists, bad_rows=st.integers(0, 3), data=st.data())
@whole_runs
def test_breakdown_by_exchange_and_type(
    rig: Rig, instruments: list[dict[str, Any]], bad_rows: int, data: st.DataObject
) -> None:
    assume(bad_rows <= len(instruments))
    by_exchange = Counter(row["exchange"] for row in instruments)
    # Codes in a configuration are written in capitals.
    codes = sorted(code for code in by_exchange if code == code.upper())
    wanted = data.draw(
        st.one_of(st.none(), st.lists(st.sampled_from(codes), unique=True) if codes else st.none()),
        label="exchanges",
    )
    rig.reset(make_dump(instruments, bad_rows), wanted)
    run = rig.run()
    assert run.status == 0
    selected = [row for row in instruments if not wanted or row["exchange"] in wanted]
    exchanges, types = read_breakdown(run.summary)
    assert exchanges == Counter(row["exchange"] for row in selected)
    assert types == Counter(row["instrument_type"] or "-" for row in selected)
    assert read_breakdown(run.stdout) == (exchanges, types)
    figures = read_figures(run.summary)
    assert figures["left out"] == len(instruments) - len(selected)
    assert figures["inserted"] + figures["updated"] == len(selected) == rig.count()
    left_out = by_exchange - Counter(exchanges)
    named = dict(re.findall(r"(\S+) (\d+)(?:,|$)", find_left_out(run.summary)))
    assert {name: int(count) for name, count in named.items()} == left_out


def find_left_out(summary: str) -> str:
    match = re.search(r"^left out by parameters\.exchanges: (.*?)\n\n", summary, re.M | re.S)
    return " ".join(match[1].split()) if match else ""


def test_session_that_is_not_proven_is_an_authentication_error(own_kite: KiteServer) -> None:
    wrapper = KiteClientWrapper("key", "secret", "token", root=own_kite.root)
    with pytest.raises(AuthenticationError):
        wrapper.fetch_instruments()
