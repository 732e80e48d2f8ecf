"""Properties 1, 14, 15 and 18: whole runs in process, on a local server and a real database."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import execute_dags
from dag_1_import_instruments_from_kite import import_instruments
from sandbox.kite_faults import CustomAnswer, Fault, HtmlError, HttpError, Reset
from sandbox.kite_server import KiteServer
from shared.exceptions import AuthenticationError, StockIngestionError
from shared.utils.kite_client_wrapper import KiteClientWrapper
from shared.utils.retry import RetryPolicy
from tests.conftest import HEADER, Server
from tests.instruments import to_csv
from tests.integration.raw_dump import read_breakdown, read_figures
from tests.property.strategies import EXCHANGES, TYPES, list_of_instruments

# The fixtures set up what is the same for every example.
whole_runs = settings(
    max_examples=100,
    deadline=None,
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
    seconds: float
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
    def isatty(self) -> bool:
        return True


@dataclass
class Rig:
    """The local Kite and the database, and how to run DAG 1 on them."""

    kite: KiteServer
    connection: Any
    config_file: Path
    config: dict[str, Any]
    monkeypatch: pytest.MonkeyPatch

    def reset(self, dump: bytes, exchanges: list[str] | None = None) -> None:
        self.kite.clear_faults()
        self.kite.dump = dump
        self.config["parameters"]["exchanges"] = exchanges
        self.config_file.write_text(json.dumps(self.config))
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
        begin = time.perf_counter()
        try:
            with (
                contextlib.redirect_stdout(stdout),
                contextlib.redirect_stderr(io.StringIO()),
                self.monkeypatch.context() as patch,
            ):
                patch.setattr("sys.argv", ["execute_dags.py", "--dag", "1", *arguments])
                status = execute_dags.run(execute_dags.parse_arguments())
        finally:
            root.removeHandler(handler)
        return Run(int(status), time.perf_counter() - begin, stdout.getvalue(), handler.seen)

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
    info = server.config(module_database)
    own_kite._access_token = "sandbox_token"
    for name, value in {
        "KITE_API_KEY": own_kite.api_key,
        "KITE_API_SECRET": own_kite.api_secret,
        "KITE_ACCESS_TOKEN": "sandbox_token",
        "KITE_API_ROOT": own_kite.root,
        "DB_HOST": info["host"],
        "DB_PORT": info["port"],
        "DB_NAME": module_database,
        "DB_USER": info["user"],
        "DB_PASSWORD": info["password"],
        "RETRY_DELAY_SECONDS": "0",
        "TERM": "xterm-256color",
        "COLUMNS": "80",
    }.items():
        monkeypatch.setenv(name, str(value))
    config = json.loads((import_instruments.DAG_FOLDER / "config.json").read_text())
    config["parameters"].update(archive_directory=str(tmp_path / "archive"), max_reject_percent=50)
    monkeypatch.setattr(import_instruments, "DAG_FOLDER", tmp_path)
    connection = server.connect(module_database)
    yield Rig(own_kite, connection, tmp_path / "config.json", config, monkeypatch)
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
)
@example(instruments=[], stored=0, bad_rows=0, fault=None, dry_run=False)
@whole_runs
def test_summary_and_duration_of_any_execution(
    rig: Rig,
    instruments: list[dict[str, Any]],
    stored: int,
    bad_rows: int,
    fault: str | None,
    dry_run: bool,
) -> None:
    rig.reset(to_csv(instruments[:stored]))
    if instruments[:stored]:
        assert rig.run().status == 0
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
        run = rig.run(*(["--dry-run"] if dry_run else []))

    figures = read_figures(run.summary)
    rows = len(instruments) + bad_rows
    enough = bad_rows * 2 <= rows and instruments
    seen = 0 if fault in {*FAULTS, "configuration", "no rows"} else rows
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
    [seconds] = [
        float(match[1])
        for text in run.log
        if (
            match := re.fullmatch(
                r"DAG 1 import_instruments_from_kite: (?:succeeded|failed) in (\d+\.\d+) s", text
            )
        )
    ]
    assert 0 < seconds <= run.seconds
    assert sum(read_durations(run.summary).values()) <= seconds + 0.1


def read_durations(summary: str) -> dict[str, float]:
    """The seconds of each step, in their order."""
    _, _, text = " ".join(summary.split()).partition("seconds: ")
    return {name: float(seconds) for name, seconds in re.findall(r"([a-z ]+?) (\d+\.\d\d)", text)}


ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ORDER = [
    "load configuration",
    "authenticate",
    "fetch instruments",
    "validate",
    "transform",
    "prepare table",
    "store",
]


# Feature: stock-ingestion, Property 15: For any DAG execution, the system must display progress
# information and timing metrics in the console output.
@given(
    instruments=lists,
    bad_rows=st.integers(0, 12),
    fault=st.one_of(st.none(), st.sampled_from([*FAULTS, *SETTINGS, "defect"])),
    at_a_terminal=st.booleans(),
)
@whole_runs
def test_progress_and_timing_of_any_execution(
    rig: Rig,
    instruments: list[dict[str, Any]],
    bad_rows: int,
    fault: str | None,
    at_a_terminal: bool,
) -> None:
    rig.reset(make_dump(instruments, bad_rows))
    with rig.monkeypatch.context() as patch:
        if fault in FAULTS:
            path, answer = FAULTS[fault]
            rig.kite.fail_next(path, answer, None)
        for name, value in SETTINGS.get(fault or "", {}).items():
            patch.setenv(name, value)
        if fault == "defect":
            patch.setattr(import_instruments, "transform_instruments", lambda rows: 1 / 0)
        run = rig.run(stdout=Terminal() if at_a_terminal else io.StringIO())

    failed_step = {
        "session dead": "authenticate",
        "bad request": "fetch instruments",
        "down": "fetch instruments",
        "no list": "fetch instruments",
        "configuration": "load configuration",
        "defect": "transform",
        "database away": "prepare table",
    }.get(fault or "")
    too_many = bad_rows * 2 > len(instruments) + bad_rows
    if too_many and failed_step in (None, "transform", "prepare table"):
        failed_step = "validate"
    expected = ORDER[: ORDER.index(failed_step) + 1] if failed_step else ORDER
    shown = read_steps_at_terminal(run.stdout) if at_a_terminal else read_steps(run.stdout)
    assert list(shown) == expected
    failures = [step for step, (failed, _) in shown.items() if failed]
    assert failures == ([failed_step] if failed_step else [])
    match = re.search(
        r"^DAG 1 import_instruments_from_kite (succeeded|failed) in (\d+\.\d\d) s$",
        ESCAPE.sub("", run.stdout),
        re.M,
    )
    assert match
    assert match[1] == ("failed" if failed_step else "succeeded")
    assert float(match[2]) <= run.seconds + 0.01
    assert sum(seconds for _, seconds in shown.values()) <= float(match[2]) + 0.05
    assert ("\x1b" in run.stdout) is at_a_terminal


def read_steps(output: str) -> dict[str, tuple[bool, float]]:
    """The steps that plain output shows: whether each failed, and its seconds."""
    found = re.findall(r"^  ([a-z ]+): (done|failed) in (\d+\.\d\d) s$", output, re.M)
    assert len({name for name, *_ in found}) == len(found)
    return {name: (end == "failed", float(seconds)) for name, end, seconds in found}


def read_steps_at_terminal(output: str) -> dict[str, tuple[bool, float]]:
    """The same of the last frame of the live bars."""
    steps: dict[str, tuple[bool, float]] = {}
    for name, rest, seconds in re.findall(
        r"^\r?  ([a-z ]+?) +━+ (.*?) *(\d+\.\d\d) s *$", ESCAPE.sub("", output), re.M
    ):
        steps[name] = ("failed" in rest, float(seconds))
    return steps


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
