"""The documents' commands, SQL and DAGs as they are written, in their order, on a clone."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sandbox.dump_generator import generate_dump
from sandbox.embedded_postgres import find_binaries
from sandbox.kite_server import KiteServer
from shared.config.env_file import reserved
from tests.clone import Clone, make_clone
from tests.conftest import PROJECT, Server, trading_days_around_now
from tests.documents import (
    BLOCKS,
    README,
    assert_lints_and_types,
    blocks_of,
    write_dag,
)

DAGS = PROJECT / "docs" / "dags.md"
PYTHON = ".venv/bin/python execute_dags.py"
# What changes the machine, or installs the packages. The units have tests of their own.
NOT_RUN = r"(sudo|systemctl|ssh|git|make|python3 -m venv|\.venv/bin/pip) .*|f=/var/lib/.*"


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    """A clone whose `.venv/bin/python` is this Python, so that commands run as they are written."""
    base = Path(tempfile.mkdtemp(prefix="readme "))
    base.chmod(0o755)
    made = make_clone(base, "stock ingestion")
    for name in (".env.example", "Makefile", "requirements.txt", "requirements-run.txt"):
        shutil.copy(PROJECT / name, made.folder)
    python = made.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    yield made
    shutil.rmtree(base)


def shell(clone: Clone, line: str, given: str = "", status: int = 0) -> str:
    """Run a line as it is written; all that it said. It has to end with this status."""
    result = subprocess.run(
        ["sh", "-c", line],
        cwd=clone.folder,
        env=clone.environment,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert result.returncode == status, (line, result.stdout)
    return result.stdout


def test_every_command_line_parses() -> None:
    for block in blocks_of("sh"):
        subprocess.run(["sh", "-n"], input=block.text, text=True, check=True)


def test_make_targets_exist(clone: Clone) -> None:
    lines = [line for block in blocks_of("sh") for line in block.lines]
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert {"sandbox", "test"} <= targets
    for target in targets:
        shell(clone, f"make -n {target}")


def run_sql(server: Server, script: str) -> None:
    """Run a script with psql as an administrator."""
    info = server.conninfo
    result = subprocess.run(
        [str(find_binaries() / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-q"],
        input=script,
        env={
            "PGHOST": str(info["host"]),
            "PGPORT": str(info["port"]),
            "PGUSER": info["user"],
            "PGPASSWORD": info["password"],
            "PGDATABASE": info["dbname"],
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, ""), script


class Production:
    """The way from nothing to the uninstall: what a person adds to the documents' lines."""

    def __init__(self, clone: Clone, server: Server, kite: KiteServer) -> None:
        self.clone, self.server, self.kite = clone, server, kite
        unique = uuid.uuid4().hex[:8]
        self.names = {
            "moneytree": f"test_readme_{unique}",
            "stock_ingestion": f"role_{unique}",
            "instrument_reader": f"reader_{unique}",
            "choose-one": "Ch0sen",
            "postgres": server.conninfo["user"],
        }
        self.said: dict[str, str] = {}

    @property
    def env_file(self) -> Path:
        return self.clone.folder / ".env"

    def run_line(self, line: str) -> None:
        given = ""
        if "login" in line:
            self.kite.expire_token()
            token = self.kite.issue_request_token()
            given = f"https://127.0.0.1/?request_token={token}&status=success\n"
            (self.clone.folder / "redirect_address.txt").write_text(given)
        self.said[line] = shell(self.clone, line, given)
        if ".env.example" in line:
            self.fill_in()

    def fill_in(self) -> None:
        info = self.server.conninfo
        for name, value in {
            "KITE_API_KEY": self.kite.api_key,
            "KITE_API_SECRET": self.kite.api_secret,
            "DB_USER": self.names["stock_ingestion"],
            "DB_PASSWORD": "Ch0sen",
            # These have defaults that are right in production.
            "KITE_API_ROOT": self.kite.root,
            "DB_HOST": info["host"],
            "DB_PORT": str(info["port"]),
            "DB_NAME": self.names["moneytree"],
        }.items():
            with reserved(self.env_file) as set_variable:
                set_variable(name, value)

    def run_sql(self, script: str) -> None:
        if self.is_for_administrators(script):
            for old, new in self.names.items():
                script = re.sub(rf"\b{old}\b", new, script)
            run_sql(self.server, script)

    @staticmethod
    def is_for_administrators(script: str) -> bool:
        return bool(re.search(r"\\connect|\b(CREATE ROLE|DROP|GRANT)\b", script))

    def query(self, statement: str) -> list[tuple[object, ...]]:
        return self.server.execute(statement, dbname=self.names["moneytree"])

    def owned(self) -> list[tuple[object, ...]]:
        """What the role of the runs owns in its database: tables, views, and whatever else."""
        return self.query(
            "SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend"
            " WHERE deptype = 'o' AND refobjid ="
            f" '{self.names['stock_ingestion']}'::regrole"
        )

    def left_behind(self) -> list[tuple[object, ...]]:
        """The names of the database and the roles that are still there."""
        ours = [self.names[name] for name in ("moneytree", "stock_ingestion", "instrument_reader")]
        return self.server.execute(
            "SELECT name FROM (SELECT datname FROM pg_database UNION SELECT rolname FROM pg_roles)"
            " AS found (name) WHERE name = ANY (%s)",
            (ours,),
        )

    def clean_up(self) -> None:
        self.env_file.unlink(missing_ok=True)
        self.server.execute(f"DROP DATABASE IF EXISTS {self.names['moneytree']} WITH (FORCE)")
        for role in ("stock_ingestion", "instrument_reader"):
            self.server.execute(f"DROP ROLE IF EXISTS {self.names[role]}")


def test_production_from_nothing_to_the_uninstall(server: Server, clone: Clone) -> None:
    """The README's "Production", then docs/production.md: every line and script, in their order."""
    pages = [
        block
        for block in BLOCKS
        if (block.document, block.heading) == ("README.md", "Production")
        or block.document == "production.md"
    ]
    logs = clone.folder / "logs"
    settings = json.dumps(trading_days_around_now())
    (clone.folder / "config" / "local.json").write_text(settings, encoding="utf-8")
    with KiteServer(generate_dump(0, rows=6_000), access_token="of yesterday") as kite:
        way = Production(clone, server, kite)
        try:
            for block in pages:
                if block.heading == "Logs":
                    old, young = make_rejects_files(logs)
                if block.heading == "Uninstall" and block.language == "sql":
                    assert_stored(way)
                if block.language == "sql":
                    way.run_sql(block.text)
                if "REASSIGN OWNED" in block.text:
                    assert way.owned() == []
                    way.run_line(PYTHON)
                for line in block.lines if block.language == "sh" else ():
                    if not re.fullmatch(NOT_RUN, line):
                        way.run_line(line)
            assert (old.exists(), young.exists()) == (False, True)
            assert way.left_behind() == []
        finally:
            way.clean_up()
    assert any("Logged in as SB0001" in said for said in way.said.values())
    assert "lacking" not in way.said[f"{PYTHON} check"]  # of the role that owns nothing
    assert any("Dry run: " in said for said in way.said.values())
    assert "Stored 6,0" in way.said[PYTHON]


def make_rejects_files(logs: Path) -> tuple[Path, Path]:
    old, young = logs / "rejected_rows_old.csv", logs / "rejected_rows_young.csv"
    for path, days in ((old, 40), (young, 20)):
        path.write_text("")
        moment = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(path, (moment, moment))
    return old, young


def assert_stored(way: Production) -> None:
    """The list twice, at moments that are India's: the second by the role that owns nothing."""
    assert way.query(
        "SELECT count(*), bool_and(list_moment >= (started_at AT TIME ZONE 'Asia/Kolkata')"
        " AND list_moment <= (ended_at AT TIME ZONE 'Asia/Kolkata'))"
        " FROM ingestion_run WHERE status = 'succeeded'"
    ) == [(2, True)]
    assert way.query("SELECT count(*) >= 6000 FROM kite_instrument_today") == [(True,)]


# --- DAGs ----------------------------------------------------------------------------------------


@pytest.fixture
def dag_clone(clone: Clone) -> Iterator[Clone]:
    """The clone, with today's list in its sandbox; the DAGs that are added are gone afterwards."""
    if not (clone.folder / ".sandbox" / "last_day").exists():
        shell(clone, f"{PYTHON} --sandbox --dag 1")
    before = set(clone.folder.glob("dag_*"))
    yield clone
    for path in set(clone.folder.glob("dag_*")) - before:
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("document", "heading", "most_lines"),
    [
        pytest.param(README, "Add a DAG", 15, id="README"),
        pytest.param(DAGS, "A function", 15, id="a function"),
        pytest.param(DAGS, "A feed", 60, id="a feed"),
    ],
)
def test_dag_that_is_shown_is_short_and_lints_and_types(
    dag_clone: Clone, document: Path, heading: str, most_lines: int
) -> None:
    folder = write_dag(document, heading, dag_clone.folder)
    code = [line for path in folder.glob("*.py") for line in path.read_text().splitlines()]
    assert len(code) <= most_lines
    assert_lints_and_types(folder)
    assert folder.name.split("_", 2)[2] in shell(dag_clone, f"{PYTHON} --list")


@pytest.mark.parametrize(
    ("document", "heading"),
    [
        pytest.param(README, "Add a DAG", id="README"),
        pytest.param(DAGS, "A function", id="a function"),
    ],
)
def test_function_that_is_shown_runs(dag_clone: Clone, document: Path, heading: str) -> None:
    _, number, name = write_dag(document, heading, dag_clone.folder).name.split("_", 2)
    said = shell(dag_clone, f"{PYTHON} --sandbox --dag {number}")
    assert f"DAG {number} {name} succeeded in " in said
    assert "WARNING" not in said


def test_types_of_a_new_dag_are_checked(dag_clone: Clone) -> None:
    folder = dag_clone.folder / "dag_9_wrong"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Wrong."""\n\nNUMBER: int = "one"\n')
    with pytest.raises(AssertionError, match=r"dag_9_wrong/__init__\.py:3: error"):
        assert_lints_and_types(folder)


# --- the output that is shown --------------------------------------------------------------------


def test_output_that_is_shown_is_that_of_a_run(dag_clone: Clone) -> None:
    """The steps and labels that are shown are those of a run, and the error is that of one."""
    output, failure = (b.text for b in blocks_of("text") if b.document == "README.md")
    real = shell(dag_clone, f"{PYTHON} --sandbox --dag 1 --dag 2")  # as `make sandbox` does
    parts = [re.split("^(?=DAG 2 import)", text, maxsplit=1, flags=re.M) for text in (output, real)]
    (shown, shown_candles), (said, said_candles) = parts
    assert labels(shown) == labels(said)
    assert shown_steps(shown) == steps(said)
    assert shown_steps(shown_candles) == ["plan", "load candles"]
    assert set(shown_steps(shown_candles)) <= set(steps(said_candles))
    for title in re.findall(r"^Stored [\d,]+ (.*)$", output, re.M):
        assert re.search(rf"^Stored [\d,]+ {re.escape(title)}$", real, re.M), title
    (line,) = re.findall(r"^\$ (.*); echo \$\?$", failure, re.M)
    said = shell(dag_clone, line, status=int(failure.splitlines()[-1]))
    (error,) = re.findall(r"^ERROR: .*$", said, re.M)
    # This clone's .venv/bin/python calls the Python of the tests, which a message names.
    called = shlex.join([sys.executable, str(dag_clone.folder / "execute_dags.py")])
    assert error.replace(called, PYTHON) in failure


def steps(output: str) -> list[str]:
    """The steps of a run without a terminal."""
    return re.findall(r"^  ([\w ]+): done", output, re.M)


def shown_steps(output: str) -> list[str]:
    """The steps of a run at a terminal."""
    return re.findall(r"^  (\w[\w ]+?) +━", output, re.M)


def labels(output: str) -> set[str]:
    """The words before the figures of a summary."""
    figures = re.findall(r"^(\w[\w ]*?) {2,}[\d,]+$", output, re.M)
    return {*figures} & {"fetched", "left out", "rejected", "inserted", "updated", "superseded"}
