"""A new DAG has what DAG 1 has, without a line of its own: a snapshot, and an incremental feed.

The snapshot is the feed that docs/dags.md shows, the other one is the DAG beside this file. Both
are put into a copy of the project, and their commands run there as a user types them.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.kite_faults import CSV_TYPE, JSON_TYPE, Answer, CustomAnswer, CutShort, Hang, HttpError
from sandbox.kite_server import KiteServer, RecordedRequest
from tests.clone import make_clone
from tests.conftest import PROJECT, AddDAG, Project, Server
from tests.documents import assert_lints_and_types, write_dag
from tests.table_model import wait_until

PAGED = Path(__file__).with_name("dag_8_import_trades_from_pages")
LIST = "/companies.csv"
KILLED = "It ended without a word: it was killed, or the machine went down."

HEADER = "SYMBOL,NAME OF COMPANY, SERIES, DATE OF LISTING, ISIN NUMBER, FACE VALUE\n"


def company(number: int, *, series: str = "EQ", face_value: Any = 10) -> str:
    return f"S{number},No {number},{series},06-OCT-2008,INE{number:09},{face_value}\n"


def listing(*rows: str) -> bytes:
    return (HEADER + "".join(rows)).encode()


COMPANIES = [company(n) for n in range(120)] + [company(n, series="BE") for n in range(120, 150)]
BAD = [company(n, face_value="ten") for n in range(120, 150)]


def page(*trades: dict[str, Any]) -> bytes:
    return json.dumps({"trades": trades}).encode()


def trade(number: int, **fields: Any) -> dict[str, Any]:
    return {"trade_id": number, "symbol": "INFY", "price": 15.5, "quantity": 1, **fields}


class Source(KiteServer):
    """A server of the test's own, with the faults of Kite's; an unknown page is an empty one."""

    def __init__(self) -> None:
        super().__init__(b"")
        self.answers: dict[str, bytes] = {}

    def make_answer(self, request: RecordedRequest, body: bytes) -> Answer:
        name, kind = (LIST, CSV_TYPE) if request.path == LIST else (request.query, JSON_TYPE)
        return Answer(200, self.answers.get(name, page()), (("Content-Type", kind),))

    def fail_second_page(self, *faults: Any, times: int | None = 1) -> None:
        """The next page is as it should be; of the one after that the requests fail."""
        self.fail_next("/trades", CustomAnswer(content_type=JSON_TYPE))
        for fault in faults:
            self.fail_next("/trades", fault, times)

    @contextmanager
    def asked(self) -> Iterator[list[str]]:
        """The paths, with their queries, that are asked for within the body."""
        before, names = len(self.requests), []
        yield names
        names += [r.query or r.path for r in self.requests[before:]]


@dataclass
class House:
    """A copy of the project with further DAGs, their source, and the database."""

    project: Project
    source: Source
    server: Server
    database: str

    def run(
        self, *arguments: str, status: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        result = self.project.run(*arguments, **environment)
        assert result.returncode == status, result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        return result

    def read(self, *arguments: str, status: int = 0) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def kill(self, dag_id: int, requests: int, signal_number: int) -> int:
        """End a run while the source holds its answer to the last of so many requests."""
        before = len(self.source.requests)
        process = subprocess.Popen(
            self.project.command("--dag", str(dag_id)),
            cwd=self.project.folder,
            env=self.project.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: len(self.source.requests) == before + requests)
        process.send_signal(signal_number)
        return process.wait(60)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.execute(statement, dbname=self.database)

    def runs(self, columns: str) -> list[tuple[Any, ...]]:
        """Columns of the history, oldest run first."""
        return self.query(f"SELECT {columns} FROM ingestion_run ORDER BY run_id")

    def count(self, table: str) -> int:
        return int(self.query(f"SELECT count(*) FROM {table}")[0][0])

    def state(self, table: str) -> list[Any]:
        """All that a run can change."""
        files = sorted((self.project.folder / "archive").glob("*"))
        return [self.query(f"SELECT * FROM {table} ORDER BY 1"), self.runs("*"), files]

    def kept(self, name: str) -> dict[Path, bytes]:
        """The kept payloads of a DAG."""
        paths = (self.project.folder / "archive").glob(f"{name}_*")
        return {path: gzip.decompress(path.read_bytes()) for path in paths}

    def rejects_files(self) -> set[Path]:
        return set(Path(self.project.environment["LOG_DIR"]).glob("rejected_rows_*.csv"))

    def age_runs(self, dag_id: int) -> None:
        """The DAG's runs were eight days ago: stale by any clock."""
        moments = (f"{name} = {name} - interval '8 days'" for name in ("started_at", "ended_at"))
        self.query(f"UPDATE ingestion_run SET {', '.join(moments)} WHERE dag_id = {dag_id}")

    def add_snapshot(self) -> Path:
        folder = write_dag(PROJECT / "docs" / "dags.md", "A feed", self.project.folder)
        parameters = {"address": self.source.root + LIST, "retry_delay_seconds": 0.01}
        write_settings(folder, parameters=parameters)
        self.source.answers[LIST] = listing(*COMPANIES)
        return folder

    def add_paged(self) -> Path:
        folder = self.project.folder / PAGED.name
        shutil.copytree(PAGED, folder, ignore=shutil.ignore_patterns("__pycache__"))
        write_settings(folder, enabled=True, after=[1])
        self.project.environment["TRADES_ADDRESS"] = self.source.root
        self.source.answers["after=0"] = page(*map(trade, range(1, 5)))
        self.source.answers["after=4"] = page(*map(trade, range(5, 8)))
        return folder


def write_settings(folder: Path, **values: Any) -> None:
    """The DAG's local.json."""
    (folder / "local.json").write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture
def house(configured_project: Project, server: Server, database: str) -> Iterator[House]:
    with Source() as source:
        yield House(configured_project, source, server, database)


MakeRole = Callable[..., str]


def become(house: House, make_role: MakeRole, *rights: str) -> dict[str, str]:
    """The environment of a role that has these rights alone."""
    role = make_role()
    for statement in ("REVOKE CREATE ON SCHEMA public FROM PUBLIC", *rights):
        house.query(statement.format(role=role))
    return {"DB_USER": role, "DB_PASSWORD": "Role-Secret-3f9"}


# --- the snapshot --------------------------------------------------------------------------------


def test_snapshot_has_what_dag_1_has(house: House, make_role: MakeRole) -> None:
    folder = house.add_snapshot()
    said = house.run("check", "--dag", "4").stdout
    assert "its configuration is complete" in said
    assert "the first run makes" in said
    killed_snapshot_is_told(house)
    snapshot_is_loaded(house)
    snapshot_is_judged_by_its_own_schedule(house)
    dry_run_of_a_snapshot_writes_nothing(house)
    changes_of_a_snapshot_are_told(house)
    rejected_rows_are_refused(house)
    lost_rows_are_refused(house)
    kept_list_is_loaded_again(house)
    faults_of_a_snapshot_are_found(house, folder, make_role)


def killed_snapshot_is_told(house: House) -> None:
    house.source.fail_next(LIST, Hang("answer"))
    assert house.kill(4, 1, signal.SIGKILL) == -signal.SIGKILL
    said = house.run("status", "--dag", "4", status=1).stdout
    assert f"Run 1 failed: {KILLED}" in said
    assert "STALE: DAG 4 import_companies_from_nse was never loaded." in said
    assert house.runs("status") == [("running",)]  # the next run records it


def snapshot_is_loaded(house: House) -> None:
    house.source.answers[LIST] = listing(*COMPANIES, "S999,No 999,EQ,yesterday,INE999,10\n")
    house.source.fail_next(LIST, HttpError(503))
    house.source.fail_next(LIST, CutShort("row"))
    with house.source.asked() as asked:
        result = house.run("--dag", "4")
    assert asked == [LIST] * 3
    assert house.runs(
        "status, error, rows_fetched, rows_rejected, rows_inserted, rows_updated, dump_bytes"
    ) == [
        ("failed", KILLED, None, None, None, None, None),
        ("succeeded", None, 151, 1, 150, 0, len(house.source.answers[LIST])),
    ]
    for words in (
        "  fetch companies: done in ",
        "  store: done in ",
        f"Stored 150 companies in {house.database}.nse_company",
        "rejected             1",
        "series               rows",
        "  EQ                  120",
        "line 152: listed_on: ",
    ):
        assert words in result.stdout
    attempt = r"WARNING: GET /companies\.csv: attempt \d of 3 failed, .*\n"
    assert re.fullmatch(f"({attempt}){{2}}", result.stderr)
    [rejects] = house.rejects_files()
    [_, row] = csv.reader(rejects.read_text().splitlines())
    assert (row[0], row[2]) == ("152", "S999,No 999,EQ,yesterday,INE999,10")
    assert [*house.kept("import_companies_from_nse").values()] == [house.source.answers[LIST]]
    house.source.answers[LIST] = listing(*COMPANIES)


def snapshot_is_judged_by_its_own_schedule(house: House) -> None:
    [verdict] = house.read("status", "--dag", "4")["dags"]
    assert (verdict["dag_id"], verdict["verdict"], verdict["schedule"]) == (4, "fresh", "daily")
    house.age_runs(4)
    document = house.read("status", "--dag", "4", status=1)
    [verdict] = document["dags"]
    assert verdict["verdict"] == "stale"
    assert verdict["expected_since"].endswith("T08:30:00+05:30")
    assert [run["status"] for run in document["runs"]] == ["succeeded", "failed"]


def dry_run_of_a_snapshot_writes_nothing(house: House) -> None:
    day_2 = [company(1, face_value=5), *COMPANIES[2:], company(150)]
    house.source.answers[LIST] = listing(*day_2)
    before = house.state("nse_company")
    said = house.run("--dag", "4", "--dry-run").stdout
    assert "Dry run: 150 companies would be stored in " in said
    for kind in ("added", "removed", "changed"):
        assert f"\n       1  {kind}\n" in said
    assert house.state("nse_company") == before


def changes_of_a_snapshot_are_told(house: House) -> None:
    house.run("--dag", "4")
    said = house.run("changes", "--dag", "4").stdout
    assert " IST: 3 changes\n" in said
    [dag] = house.read("changes", "--dag", "4")["dags"]
    assert [
        tuple(change[name] for name in ("kind", "key", "field", "old", "new"))
        for change in dag["changes"]
    ] == [
        ("added", "S150", None, None, None),
        ("changed", "S1", "face_value", "10", "5"),
        ("removed", "S0", None, None, None),
    ]
    assert dag["run"]["run_id"] == 3


def rejected_rows_are_refused(house: House) -> None:
    house.source.answers[LIST] = listing(*COMPANIES[:120], *BAD)
    before = house.state("nse_company")[0]
    said = house.run("--dag", "4", status=1).stderr
    assert "30 of 150 rows were rejected: too many to rely on" in said
    assert "30  face_value: expected a decimal number" in said
    assert house.state("nse_company")[0] == before
    [(status, error)] = house.runs("status, error")[-1:]
    assert (status, error.splitlines()[0] in said) == ("failed", True)
    assert "Stored 120 companies" in house.run("--dag", "4", "--force").stdout


def lost_rows_are_refused(house: House) -> None:
    house.source.answers[LIST] = listing(*COMPANIES[:40])
    before = house.state("nse_company")[0]
    said = house.run("--dag", "4", status=1).stderr
    assert "NSE's list is not plausible: EQ fell from 120 rows to 40 since the last good" in said
    assert house.state("nse_company")[0] == before
    assert "Stored 40 companies" in house.run("--dag", "4", "--force").stdout


def kept_list_is_loaded_again(house: House) -> None:
    kept = house.kept("import_companies_from_nse")
    [path] = (path for path, body in kept.items() if b"S999" in body)
    with house.source.asked() as asked:
        said = house.run("--dag", "4", "--from-file", str(path)).stdout
    assert asked == []
    assert "Stored 150 companies" in said
    assert f"The companies are those of the saved file {path}\n" in said
    assert house.runs("source")[-1:] == [(str(path),)]


def faults_of_a_snapshot_are_found(house: House, folder: Path, make_role: MakeRole) -> None:
    address = house.source.root + LIST
    parameters = {"address": address, "batch_size": 0, "retry_atempts": 9, "max_drop_percent": "x"}
    write_settings(folder, parameters=parameters)
    result = house.run("check", "--dag", "4", status=2)
    for words in ("batch_size: expected a positive integer, got 0", "max_drop_percent: expected"):
        assert f"dag_4_import_companies_from_nse/local.json: parameters.{words}" in result.stdout
    assert 'Did you mean "parameters.retry_attempts"?' in result.stderr
    house.query("ALTER TABLE nse_company ALTER face_value TYPE date USING NULL")
    reader = become(house, make_role, "GRANT SELECT ON nse_company TO {role}")
    (folder / "config.json").write_text("{")
    said = house.run("check", "--dag", "4", status=1, **reader).stdout
    for words in ("config.json is not valid JSON", "lacks INSERT", "face_value"):
        assert words in said


# --- the incremental feed ------------------------------------------------------------------------


def test_incremental_feed_has_what_dag_1_has(house: House, make_role: MakeRole) -> None:
    folder = house.add_paged()
    said = house.run("--dag", "8", "--dry-run").stdout
    assert "Dry run: 7 trades would be stored" in said
    assert "inserted             7" in said
    relations = "to_regclass('trade'), to_regclass('ingestion_run')"
    assert house.query(f"SELECT {relations}") == [(None, None)]
    killed_feed_goes_on_where_it_was(house)
    feed_that_brings_nothing_is_fresh(house)
    page_that_fails_leaves_those_before_it(house)
    changes_of_several_pages_are_one_run(house)
    terminated_feed_is_recorded(house)
    rejects_of_a_page_are_refused(house)
    kept_page_is_loaded_again(house)
    feed_is_skipped_where_what_it_comes_after_failed(house)
    feed_runs_without_a_history(house, make_role)
    faults_of_a_feed_are_found(house, folder, make_role)


def killed_feed_goes_on_where_it_was(house: House) -> None:
    house.source.fail_second_page(Hang("answer"))
    assert house.kill(8, 2, signal.SIGKILL) == -signal.SIGKILL
    assert house.count("trade") == 4  # the first page
    assert f"Run 1 failed: {KILLED}" in house.run("status", "--dag", "8", status=1).stdout
    house.source.fail_next("/trades", HttpError(429, retry_after=1))
    with house.source.asked() as asked:
        result = house.run("--dag", "8")
    assert asked == ["after=4", "after=4", "after=7"]
    refused, again = [request.time for request in house.source.requests[-3:-1]]
    assert again - refused >= 1
    assert re.fullmatch(r"WARNING: GET /trades: attempt 1 of 3 failed, .*\n", result.stderr)
    for words in ("  load: done in ", "Stored 3 trades in ", "  INFY                  3\n"):
        assert words in result.stdout
    assert house.runs("status, error, rows_fetched, rows_inserted") == [
        ("failed", KILLED, 4, 4),
        ("succeeded", None, 3, 3),
    ]
    assert house.run("last-trade").stdout == "The last trade that is stored is 7\n"


def feed_that_brings_nothing_is_fresh(house: House) -> None:
    house.age_runs(8)
    [verdict] = house.read("status", "--dag", "8", status=1)["dags"]
    assert (verdict["verdict"], verdict["schedule"]) == ("stale", "0 18 * * 1-5")
    assert verdict["expected_since"].endswith("T18:00:00+05:30")
    assert "Nothing was stored" in house.run("--dag", "8").stdout
    assert house.runs("status, rows_fetched")[-1:] == [("succeeded", 0)]
    assert house.read("status", "--dag", "8")["dags"][0]["verdict"] == "fresh"
    assert house.read("changes", "--dag", "8")["dags"][0]["run"]["run_id"] == 2


def page_that_fails_leaves_those_before_it(house: House) -> None:
    house.source.answers["after=7"] = page(trade(8), trade(9), trade(10, quantity=0))
    house.source.fail_second_page(HttpError(503), times=None)
    result = house.run("--dag", "8", status=1)
    assert "WARNING: What it stored before stays: 2 trades.\n" in result.stderr
    house.source.clear_faults()
    assert house.count("trade") == 9
    [(status, error, *counts)] = house.runs("status, error, rows_rejected, rows_inserted")[-1:]
    assert (status, counts) == ("failed", [1, 2])
    assert "HTTP 503" in error


def changes_of_several_pages_are_one_run(house: House) -> None:
    house.source.answers["after=9"] = page(trade(2, quantity=7), trade(10), trade(11, symbol=None))
    house.source.answers["after=10"] = page(trade(3, price=16), trade(11), {"trade_id": "x"})
    house.source.answers["after=11"] = page(trade(12))
    rejects = house.rejects_files()
    result = house.run("--dag", "8")
    assert result.stderr == ""
    assert "Stored 5 trades in " in result.stdout
    assert "\n       2  changed\n" in result.stdout
    [path] = house.rejects_files() - rejects
    assert f"all of them: {path}" in result.stdout
    _, *rows = csv.reader(path.read_text().splitlines())
    assert [row[0] for row in rows] == ["3", "3"]
    assert house.runs("status, rows_fetched, rows_rejected, rows_inserted, rows_updated")[-1:] == [
        ("succeeded", 7, 2, 3, 2)
    ]
    [dag] = house.read("changes", "--dag", "8")["dags"]
    assert [
        tuple(change[name] for name in ("kind", "key", "field", "old", "new"))
        for change in dag["changes"]
    ] == [
        ("changed", "2", "quantity", "1", "7"),
        ("changed", "3", "price", "15.5", "16"),
    ]


def terminated_feed_is_recorded(house: House) -> None:
    house.source.answers["after=12"] = page(trade(13))
    house.source.fail_second_page(Hang("answer"))
    assert house.kill(8, 2, signal.SIGTERM) == 143
    assert house.runs("status, error, rows_inserted")[-1:] == [
        ("failed", "ended from outside: Terminated", 1)
    ]


def rejects_of_a_page_are_refused(house: House) -> None:
    bad = [trade(number, quantity=0) for number in range(104, 114)]
    house.source.answers["after=13"] = page(*map(trade, range(14, 104)), *bad)
    said = house.run("--dag", "8", status=1).stderr
    assert "10 of 100 rows were rejected: too many to rely on" in said
    assert house.count("trade") == 13
    assert "Stored 90 trades" in house.run("--dag", "8", "--force").stdout


def kept_page_is_loaded_again(house: House) -> None:
    kept = house.kept("import_trades_from_pages")
    assert len(kept) == len(set(kept.values())) == 8  # each page that was stored, once
    [path] = (path for path, body in kept.items() if body == house.source.answers["after=0"])
    with house.source.asked() as asked:
        said = house.run("--dag", "8", "--from-file", str(path)).stdout
    assert asked == []
    assert "Stored 4 trades" in said
    assert "\n       2  changed\n" in said  # what was corrected since


def feed_is_skipped_where_what_it_comes_after_failed(house: House) -> None:
    with house.source.asked() as asked:
        said = house.run("--dag", "8", "--dag", "1", status=3, KITE_ACCESS_TOKEN="dead").stdout
    assert "DAG 8 import_trades_from_pages skipped: DAG 1 failed" in said
    assert asked == []


def feed_runs_without_a_history(house: House, make_role: MakeRole) -> None:
    rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON trade TO {role}"
    writer = become(house, make_role, rights)
    house.source.answers["after=103"] = page(trade(104))
    house.source.answers["after=104"] = page(trade(105))
    before = house.runs("*")
    result = house.run("--dag", "8", **writer)
    assert "Stored 2 trades" in result.stdout
    assert result.stderr.count("WARNING: The history of runs and changes is not kept: ") == 1
    assert house.runs("*") == before


def faults_of_a_feed_are_found(house: House, folder: Path, make_role: MakeRole) -> None:
    write_settings(folder, enabled=True, parameters={"requests_per_second": 0, "adress": "x"})
    house.query("ALTER TABLE trade ALTER quantity TYPE text")
    reader = become(house, make_role, "GRANT SELECT ON trade TO {role}")
    result = house.run("check", "--dag", "8", status=1, **reader)
    for words in ("parameters.requests_per_second: expected", "lacks INSERT", "quantity"):
        assert words in result.stdout
    assert 'Did you mean "parameters.address"?' in result.stderr


# --- side by side --------------------------------------------------------------------------------


def test_dags_live_side_by_side(house: House, add_dag: AddDAG) -> None:
    house.add_snapshot()
    paged = house.add_paged()
    wanted = ("--dag", "4", "--dag", "8")
    house.run(*wanted)
    house.source.answers[LIST] = listing(*COMPANIES[1:])
    house.source.answers["after=7"] = page(trade(1, price=9))
    assert house.run(*wanted).stderr == ""
    changes = house.read("changes")["dags"]
    assert [(dag["dag_id"], len(dag["changes"])) for dag in changes] == [(1, 0), (4, 1), (8, 1)]
    verdicts = house.read("status", status=1)["dags"]
    assert [(v["dag_id"], v["verdict"], v["expected_since"][11:16]) for v in verdicts] == [
        (1, "stale", "08:00"),
        (4, "fresh", "08:30"),
        (8, "fresh", "18:00"),
    ]
    options_that_cannot_be_followed_are_refused(house, add_dag)
    shutil.copytree(paged, paged.with_name("dag_9_more_trades"))
    assert house.run("last-trade", status=2).stderr == (
        f"execute_dags.py: dag_9_more_trades and {PAGED.name} both have a command last-trade: "
        "give one of them another name.\n"
    )


def options_that_cannot_be_followed_are_refused(house: House, add_dag: AddDAG) -> None:
    folder = add_dag(5, "function")
    for option in (["--dry-run"], ["--force"], ["--from-file", "list.csv"]):
        with house.source.asked() as asked:
            assert "--" in house.run(*option, status=2).stderr
        assert asked == []
    assert not any(run[0] == 5 for run in house.runs("dag_id"))
    shutil.rmtree(folder)


def test_lint_types_and_coverage_see_new_dags(house: House) -> None:
    snapshot, paged = house.add_snapshot(), house.add_paged()
    for folder, most in ((snapshot, 60), (paged, 120)):
        assert sum(len(path.read_text().splitlines()) for path in folder.glob("*.py")) <= most
    assert_lints_and_types(snapshot)
    assert_lints_and_types(paged)
    for command in (["run", "execute_dags.py", "--list"], ["combine", "-q"], ["report"]):
        result = subprocess.run(
            [sys.executable, "-m", "coverage", *command],
            cwd=house.project.folder,
            env=house.project.environment,
            capture_output=True,
            text=True,
        )
    for folder in (snapshot, paged):
        assert f"{folder.name}/__init__.py" in result.stdout


def test_part_of_the_sandbox() -> None:
    """Of a DAG that is not enabled, without any setting."""
    base = Path(tempfile.mkdtemp(prefix="new dag "))
    base.chmod(0o755)
    clone = make_clone(base, "clone", rows=5_000)
    shutil.copytree(PAGED, clone.folder / PAGED.name)
    try:
        result = clone.run("execute_dags.py", "--sandbox", "--dag", "8")
    finally:
        shutil.rmtree(base)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Stored 7 trades in moneytree.trade\n" in result.stdout
