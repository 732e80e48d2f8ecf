"""A feed that needs the rows of the DAG that it comes after, and a call that does not run that."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import execute_dags
from shared import freshness
from shared.dag_discovery import discover_dags
from shared.exceptions import DAGExecutionError
from shared.feed import RunOptions
from shared.run_plan import plan_runs
from tests.clock import set_clocks
from tests.command_line import AddFolder, CommandLine, Result, empty_project

FEED = """
from pathlib import Path
from shared.feed import Batch, Feed, Payload
from shared.models.table import Column, Table

FOLDER = Path(__file__).parent

def fetch(run):
    (FOLDER / "asked").touch()
    return [Payload(b"7")]

FEED = Feed(
    FOLDER, "things",
    Table(FOLDER.name, (Column("id", "bigint"),), ("id",), last_updated="", created_at="",
          is_snapshot=False),
    fetch=fetch, parse=lambda body: Batch([{"id": int(body)}]), needs_fresh="later" in FOLDER.name,
)
"""
FUNCTION = "def first(): pass\n"
COMES_AFTER = "DAG 5 comes after DAG 1, whose rows are "


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


@pytest.fixture
def project(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[AddFolder]:
    """Adds a DAG to a project that has none."""
    now = datetime.fromisoformat("2026-11-17T08:40+05:30")  # a Tuesday
    with empty_project(cli, monkeypatch, tmp_path / "root", now) as add_folder:

        def add(name: str, code: str = FEED, **settings: Any) -> Path:
            schema = f"CREATE TABLE {name} (id bigint PRIMARY KEY)"
            parameters = {"batch_size": 1000}
            return add_folder(name, code, schema, **settings, parameters=parameters)

        yield add


def run_next_day(cli: CommandLine, *options: str) -> Result:
    set_clocks(cli, datetime.fromisoformat("2026-11-18T10:00+05:30"))
    return cli.run(*options)


def test_rows_of_the_dag_before_have_to_be_fresh(project: AddFolder, cli: CommandLine) -> None:
    project("dag_1_first")
    later = project("dag_5_later", after=[1])
    result = cli.run("--dag", "5")
    assert result.status == 1
    assert f"ERROR: check table failed: {COMES_AFTER}stale: DAG 1 first was never" in result.stderr
    assert not (later / "asked").exists()
    assert cli.query("SELECT to_regclass('dag_5_later')") == [(None,)]
    assert cli.runs("dag_id, status") == [(5, "failed")]
    [(error,)] = cli.runs("error")
    assert error.startswith(COMES_AFTER)
    assert cli.run("--dag", "1").status == 0
    assert cli.run("--dag", "5").status == 0
    stale = run_next_day(cli, "--dag", "5")
    assert stale.status == 1
    assert (
        f"{COMES_AFTER}stale: DAG 1 first was last loaded on Tue 17 Nov 2026 08:40 IST. Expected: "
        "a load since Wed 18 Nov 2026 08:30 IST. Run DAG 1 first: '"
    ) in stale.stderr
    assert stale.stderr.splitlines()[0].endswith("execute_dags.py --dag 1'")
    assert cli.run("--dag", "1", "--dag", "5").status == 0


def test_dag_before_that_runs_in_the_same_call_is_not_looked_at(
    project: AddFolder, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows may be stale all the same, where its source is late."""
    monkeypatch.setattr(freshness, "require_fresh", None)
    project("dag_1_first")
    project("dag_5_later", after=[1])
    assert cli.run("--dag", "1", "--dag", "5").status == 0
    assert cli.runs("dag_id, status") == [(1, "succeeded"), (5, "succeeded")]


def test_dry_run_warns_of_rows_that_are_not_fresh(project: AddFolder, cli: CommandLine) -> None:
    project("dag_1_first")
    later = project("dag_5_later", after=[1])
    result = cli.run("--dag", "5", "--dry-run")
    assert result.status == 0
    assert result.stderr.startswith(f"WARNING: {COMES_AFTER}not known to be fresh: DAG 1 first")
    assert (later / "asked").exists()


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        pytest.param(FUNCTION, 0, "", id="a function"),
        pytest.param("raise RuntimeError", 1, f"{COMES_AFTER}not known to be fresh", id="broken"),
    ],
)
def test_dag_before_that_has_no_rows_to_judge(
    project: AddFolder, cli: CommandLine, code: str, status: int, said: str
) -> None:
    project("dag_1_first", code)
    project("dag_5_later", after=[1])
    result = cli.run("--dag", "5")
    assert result.status == status
    assert said in result.stderr


def test_feed_that_does_not_need_them_goes_on(project: AddFolder, cli: CommandLine) -> None:
    project("dag_1_first")
    project("dag_6_other", after=[1])
    assert cli.run("--dag", "6").status == 0


def test_database_that_is_away_is_the_fault(
    project: AddFolder, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    project("dag_1_first")
    project("dag_5_later", after=[1])
    monkeypatch.setenv("DB_PORT", "1")
    result = cli.run("--dag", "5")
    assert result.status == 1
    assert COMES_AFTER not in result.stderr


def test_due_dag_whose_dag_before_is_not_enabled(project: AddFolder, cli: CommandLine) -> None:
    project("dag_1_first", enabled=False)
    project("dag_5_later", after=[1])
    assert COMES_AFTER in cli.run("--due").stderr
    assert cli.run("--due") == Result(1, "", "")  # it was told


def test_message_in_the_sandbox_names_the_sandbox(project: AddFolder) -> None:
    project("dag_1_first")
    project("dag_5_later", after=[1])
    known = discover_dags(execute_dags.PROJECT_ROOT)
    [(_, call)] = plan_runs(known[1:], RunOptions(), known, in_sandbox=True)
    with pytest.raises(DAGExecutionError, match=r"execute_dags\.py --sandbox --dag 1'$"):
        call()
