"""DAG 3 as a user runs it: NSE's list from a local server, or a file, into a real PostgreSQL."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from dag_3_import_symbol_changes_from_nse import FEED
from dag_3_import_symbol_changes_from_nse.symbol_changes import HEADER
from sandbox.dump_generator import list_renames
from sandbox.kite_faults import (
    CSV_TYPE,
    Answer,
    CustomAnswer,
    CutShort,
    HtmlError,
    HttpError,
    Reset,
)
from sandbox.kite_server import KiteServer, RecordedRequest
from shared.exceptions import APIError, TransientAPIError
from shared.feed import API_SOURCE, Run, RunKey
from tests.clone import make_clone
from tests.conftest import SHARED_DATA, Project, Server
from tests.documents import section, table_rows

PATH = "/content/equities/symbolchange.csv"
NAME = "import_symbol_changes_from_nse"
REAL = SHARED_DATA.parent / "nse" / "symbol_changes_2018_2025-06.csv"
HEAD = ", ".join(HEADER) + "\r\n"
SANDBOX_ROWS = 5_000
DOCUMENT = Path(__file__).parents[2] / "docs" / "symbol_changes.md"

# What NSE's list is known to hold, each in its own way.
LINES = (
    b"Eternal Limited,ZOMATO,ETERNAL,09-APR-2025\r\n",
    b"Foo, Bar & Co., Ltd,FOO,BAR,01-JAN-2020\r\n",
    b'"Foo, Bar & Co., Ltd",BAR,M&M-X,01-FEB-2021\r\n',
    b"Caf\xe9 de l\x92Inde,CAFE,CAFEIND,15-Aug-2022\r\n",
    b"Interise Trust,INTERISE,INTERISE,12-NOV-2024\r\n",
    b"Twice Ltd,ONCE,TWICE,03-MAR-2021\r\n",
    b"Twice Ltd,ONCE,TWICE,03-MAR-2021\r\n",
    b" Twice Ltd , ONCE , TWICE , 04-MAR-2022 \r\n",
)
ROWS = [
    ("Café de l\u2019Inde", "CAFE", "CAFEIND", date(2022, 8, 15)),
    ("Eternal Limited", "ZOMATO", "ETERNAL", date(2025, 4, 9)),
    ("Foo, Bar & Co., Ltd", "BAR", "M&M-X", date(2021, 2, 1)),
    ("Foo, Bar & Co., Ltd", "FOO", "BAR", date(2020, 1, 1)),
    ("Interise Trust", "INTERISE", "INTERISE", date(2024, 11, 12)),
    ("Twice Ltd", "ONCE", "TWICE", date(2021, 3, 3)),
    ("Twice Ltd", "ONCE", "TWICE", date(2022, 3, 4)),
]
WHOLE = HEAD.encode() + b"".join(LINES)


class Nse(KiteServer):
    """A server with a list at NSE's path, and the faults of the sandbox's Kite."""

    def make_answer(self, request: RecordedRequest, body: bytes) -> Answer:
        assert "authorization" not in request.headers
        assert not callable(self.dump)
        is_list = request.path == PATH
        return (
            Answer(200, self.dump, (("Content-Type", CSV_TYPE),)) if is_list else Answer(404, b"")
        )


@dataclass
class Desk:
    """A project in which DAG 3 is enabled and asks the local server, without a word of Kite's."""

    project: Project
    nse: Nse
    server: Server
    database: str

    def run(self, *arguments: str, status: int = 0) -> Any:
        result = self.project.run(*arguments)
        assert result.returncode == status, result.stdout + result.stderr
        assert "Traceback" not in result.stdout + result.stderr
        return result

    def load(self, lists: bytes, *arguments: str, status: int = 0) -> Any:
        self.nse.dump = lists
        return self.run("--dag", "3", *arguments, status=status)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.execute(statement, dbname=self.database)

    def rows(self) -> list[tuple[Any, ...]]:
        return self.query(
            "SELECT company, old_symbol, new_symbol, changed_on FROM nse_symbol_change"
            ' ORDER BY company COLLATE "C", changed_on DESC, old_symbol'
        )

    def settings(self, **values: Any) -> None:
        path = self.project.folder / f"dag_3_{NAME}" / "local.json"
        parameters = {"address": self.nse.root + PATH, "retry_delay_seconds": 0}
        path.write_text(json.dumps({"enabled": True, "parameters": parameters, **values}))


@pytest.fixture
def desk(project: Project, server: Server, empty_database: str) -> Iterator[Desk]:
    config = server.config(empty_database)
    variables = ("HOST", "PORT", "NAME", "USER", "PASSWORD")
    project.environment.update({f"DB_{n}": str(v) for n, v in zip(variables, config.values())})
    with Nse(WHOLE) as nse:
        made = Desk(project, nse, server, empty_database)
        made.settings()
        yield made


def sorted_rows(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=lambda row: (row[0], row[1], row[3]))


def test_list_with_all_that_nse_sends_is_stored_as_it_is(desk: Desk) -> None:
    said = desk.run("--dag", "3").stdout
    assert f"Stored 7 symbol changes in {desk.database}.nse_symbol_change\n" in said
    assert "repeated             1\n" in said
    assert sorted_rows(desk.rows()) == ROWS
    assert "nothing changed since the last list" in desk.load(b"".join(LINES)).stdout
    later = WHOLE.replace(LINES[4], b"New Ltd,NEW,NEWER,27-NOV-2026\r\n")
    desk.load(later)
    said = desk.run("changes", "--dag", "3").stdout
    assert "NEW NEWER 2026-11-27" in said
    assert "INTERISE INTERISE 2024-11-12" in said
    assert len(desk.rows()) == 8  # what is no longer listed stays
    moments = "count(DISTINCT last_updated), count(DISTINCT created_at)"
    assert desk.query(f"SELECT {moments} FROM nse_symbol_change") == [(2, 2)]


def test_table_is_as_the_document_says(desk: Desk) -> None:
    desk.run("--dag", "3")
    columns = desk.query(
        "SELECT attname, upper(format_type(atttypid, atttypmod)), attnotnull FROM pg_attribute"
        " WHERE attrelid = 'nse_symbol_change'::regclass AND attnum > 0 ORDER BY attnum"
    )
    short = {" WITHOUT TIME ZONE": "", "CHARACTER VARYING": "VARCHAR"}
    for long, name in short.items():
        columns = [(column, kind.replace(long, name), needed) for column, kind, needed in columns]
    told = table_rows(section(DOCUMENT, "The table `nse_symbol_change`"))
    assert [(row[0].strip("`"), row[1]) for row in told] == [column[:2] for column in columns]
    assert [name for name, _, is_needed in columns if is_needed] == list(FEED.table.key)
    key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'"
    assert (f"PRIMARY KEY ({', '.join(FEED.table.key)})",) in desk.query(key)


def test_commands_work_with_it_and_a_run_of_all_leaves_it_out_as_shipped(desk: Desk) -> None:
    said = desk.run("check", "--dag", "3").stdout
    assert "FAILED" not in said
    desk.run("--dag", NAME, "--dry-run")
    assert desk.query("SELECT to_regclass('nse_symbol_change')") == [(None,)]
    desk.run("--dag", "3")
    document = json.loads(desk.run("status", "--dag", "3", "--json").stdout)
    [verdict] = document["dags"]
    assert (verdict["verdict"], verdict["schedule"]) == ("fresh", "0 8 * * 1-5")
    desk.settings(enabled=False)
    asked = len(desk.nse.requests)
    assert "DAG 3 is disabled" in desk.run("--dag", "3", status=2).stderr
    assert NAME not in desk.run(status=2).stdout  # DAG 1 has no credentials
    assert len(desk.nse.requests) == asked
    [_, _, dag] = json.loads(desk.run("list", "--json").stdout)["dags"]
    assert (dag["dag_id"], dag["enabled"], dag["cron"]) == (3, False, "0 8 * * 1-5")


def test_bad_lines_are_rejected_by_themselves(desk: Desk) -> None:
    bad = b"Foo,FOO,BAR,31-FEB-2025\r\n\r\nFoo,FOO\r\nCaf\xe9, Ltd,OLD,,09-APR-2025\r\n"
    said = desk.load(HEAD.encode() + LINES[0] + bad + b"".join(LINES[1:])).stdout
    assert "rejected             3" in said
    assert "line 3: changed_on: expected a date that exists, got '31-FEB-2025'" in said
    logs = Path(desk.project.environment["LOG_DIR"])
    [path] = logs.glob("rejected_rows_*.csv")
    _, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert [row[0] for row in rows] == ["3", "5", "6"]
    assert sorted_rows(desk.rows()) == ROWS


def test_site_that_refuses_programs(desk: Desk, tmp_path: Path) -> None:
    for fault in (HtmlError(403), HttpError(403)):
        desk.nse.fail_next(PATH, fault)
        said = desk.run("--dag", "3", status=1).stderr
        by_file = desk.project.command("--dag", "3", "--from-file", "symbolchange.csv")
        assert (
            "ERROR: fetch symbol changes failed: NSE answered HTTP 403 (Forbidden). NSE may refuse "
            f"programs, or leave them without an answer: then save {desk.nse.root}{PATH} with a "
            f"browser, and load the file: {shlex.join(by_file)}\n"
        ) in said
    assert len(desk.nse.requests) == 2  # it is not asked again
    path = tmp_path / "symbolchange.csv"
    path.write_bytes(WHOLE)
    said = desk.run(*by_file[2:-1], str(path)).stdout
    assert f"The symbol changes are those of the saved file {path}\n" in said
    assert sorted_rows(desk.rows()) == ROWS
    assert len(desk.nse.requests) == 2


def test_fault_stays_one_that_may_pass_or_one_that_does_not() -> None:
    key = RunKey(3, NAME, API_SOURCE, datetime(2026, 1, 1, tzinfo=UTC))
    with Nse(WHOLE) as nse:
        retries = {"retry_attempts": 1, "retry_delay_seconds": 0}
        run = Run(FEED, key, parameters={"address": nse.root + PATH, **retries})
        for status, kind in ((403, APIError), (503, TransientAPIError)):
            nse.fail_next(PATH, HttpError(status))
            with pytest.raises(kind, match=r"NSE may refuse programs") as caught:
                list(FEED.fetch(run))
            assert type(caught.value) is kind


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(HtmlError(503), id="503"),
        pytest.param(CutShort("plain"), id="cut short"),
        pytest.param(Reset("body"), id="reset"),
        pytest.param(CustomAnswer(body=b""), id="empty"),
        pytest.param(CustomAnswer(body=b"<html>Access Denied</html>"), id="HTML called CSV"),
        pytest.param(CustomAnswer(body=WHOLE[:-7]), id="cut within a line"),
        pytest.param(CustomAnswer(body=WHOLE, content_type="text/html"), id="called HTML"),
    ],
)
def test_fault_that_may_pass_is_tried_again(desk: Desk, fault: Any) -> None:
    desk.nse.fail_next(PATH, fault)
    said = desk.run("--dag", "3")
    assert f"WARNING: GET {PATH}: attempt 1 of 3 failed" in said.stderr
    assert sorted_rows(desk.rows()) == ROWS


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(
            b"a,b\n1,2\n", "This is not NSE's list of symbol changes: its header", id="CSV"
        ),
        pytest.param(b'{"a": 1}', "This is JSON, not NSE's list of symbol changes", id="JSON"),
        pytest.param(HEAD.encode(), "NSE's list is empty (a header and no rows)", id="header only"),
    ],
)
def test_answer_that_is_no_list_leaves_the_table_as_it_is(
    desk: Desk, body: bytes, said: str, tmp_path: Path
) -> None:
    desk.run("--dag", "3")
    desk.nse.fail_next(PATH, CustomAnswer(body=body), times=None)
    before = len(desk.nse.requests)
    assert said in desk.run("--dag", "3", status=1).stderr
    assert len(desk.nse.requests) == before + 1
    path = tmp_path / "list.csv"
    path.write_bytes(body)
    assert "ERROR: " in desk.run("--dag", "3", "--from-file", str(path), status=1).stderr
    assert sorted_rows(desk.rows()) == ROWS


def test_sandbox_lists_the_renames_of_its_market_up_to_its_day() -> None:
    """Not enabled, and without any setting."""
    base = Path(tempfile.mkdtemp(prefix="symbol changes "))
    base.chmod(0o755)
    clone = make_clone(base, "clone", rows=SANDBOX_ROWS)
    try:
        first = clone.run("execute_dags.py", "--sandbox", "--dag", "1", "--dag", "3")
        second = clone.run("execute_dags.py", "--sandbox", "--dag", "3")
        stored = clone.query("SELECT * FROM nse_symbol_change WHERE changed_on > '2026-08-03'")
        known = clone.query(
            "SELECT count(*) FROM kite_instrument_master JOIN nse_symbol_change"
            " ON tradingsymbol = old_symbol AND exchange = 'NSE'"
        )
    finally:
        shutil.rmtree(base)
    for result in (first, second):
        assert (result.returncode, result.stderr) == (0, "")
    assert "Stored 3 symbol changes in moneytree.nse_symbol_change\n" in first.stdout
    renames = list_renames(1, rows=SANDBOX_ROWS)
    assert f"Stored {3 + len(renames)} symbol changes in " in second.stdout
    assert sorted(line.rpartition("|")[0].rpartition("|")[0] for line in stored.splitlines()) == (
        sorted(f"{r.company}|{r.old}|{r.new}|{r.on}" for r in renames)
    )
    assert int(known) == len(renames)  # they were listed the day before


def test_all_real_changes_in_nse_s_form(desk: Desk) -> None:
    if not REAL.exists():
        pytest.skip(f"the real data {REAL.name} is not on this machine")
    changes = [
        (old, new, date.fromisoformat(on))
        for on, old, new in list(csv.reader(REAL.read_text(encoding="utf-8").splitlines()))[1:]
    ]
    lines = [
        f"Company {old}, Ltd,{old},{new},{on:%d}-{f'{on:%b}'.upper()}-{on.year}\r\n"
        for old, new, on in changes
    ]
    said = desk.load("".join(lines).encode()).stdout
    assert "rejected             0" in said
    stored = desk.query("SELECT old_symbol, new_symbol, changed_on FROM nse_symbol_change")
    assert sorted(stored) == sorted(set(changes))
    assert len(stored) > 400
