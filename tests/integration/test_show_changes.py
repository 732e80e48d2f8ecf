"""`changes`: which runs, which changes, of which DAGs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.dag_discovery import DAG, discover_dags
from shared.exceptions import DAGExecutionError
from shared.show_changes import show_changes
from tests.command_line import CommandLine
from tests.conftest import PROJECT
from tests.instruments import instrument, to_csv

FIRST = to_csv([instrument(1, "A", "NSE"), instrument(2, "B", "BSE")])
SECOND = to_csv([instrument(1, "A", "NSE"), instrument(3, "C", "NSE"), instrument(4, "D", "BSE")])
THIRD = to_csv([instrument(1, "A", "NSE"), instrument(3, "C", "NSE"), instrument(5, "E", "BSE")])
ANY = {"run_id": None, "since": None, "kind": None, "group": None}


@pytest.fixture
def three_lists(cli: CommandLine) -> CommandLine:
    for dump in (FIRST, SECOND, THIRD, THIRD):
        assert cli.load(dump, "--force").status == 0
    return cli


def found(cli: CommandLine, *arguments: str) -> list[tuple[int, str, str, str]]:
    result = cli.run("changes", "--json", *arguments)
    assert result.status == 0
    [report] = json.loads(result.stdout)["dags"]
    return [(c["run_id"], c["kind"], c["exchange"], c["tradingsymbol"]) for c in report["changes"]]


def test_run_that_brought_the_same_list_hides_no_changes(three_lists: CommandLine) -> None:
    output = three_lists.run("changes").stdout
    assert re.match(r"Run 3, .* IST: 2 changes\n", output)
    assert three_lists.run("changes", "--run", "4").stdout.endswith(": 0 changes\n")


def test_changes_of_one_run(three_lists: CommandLine) -> None:
    assert found(three_lists, "--run", "2") == [
        (2, "expired", "BSE", "B"),
        (2, "listed", "BSE", "D"),
        (2, "listed", "NSE", "C"),
    ]


def test_changes_since_a_day(three_lists: CommandLine) -> None:
    three_lists.query(
        "UPDATE ingestion_run SET started_at = started_at - interval '9 days' WHERE run_id = 1"
    )
    [(day,)] = three_lists.query(
        "SELECT (min(started_at) AT TIME ZONE 'Asia/Kolkata')::date::text FROM ingestion_run"
        " WHERE run_id > 1"
    )
    assert [change[0] for change in found(three_lists, "--since", day)] == [3, 3, 2, 2, 2]
    output = three_lists.run("changes", "--since", day).stdout
    assert re.findall(r"^Run (\d)", output, re.M) == ["4", "3", "2"]
    assert three_lists.run("changes", "--since", "2999-01-01").stdout == (
        "No run has been recorded since then.\n"
    )


def test_changes_of_a_kind_and_an_exchange(three_lists: CommandLine) -> None:
    assert found(three_lists, "--run", "2", "--kind", "listed") == [
        (2, "listed", "BSE", "D"),
        (2, "listed", "NSE", "C"),
    ]
    assert found(three_lists, "--run", "2", "--exchange", "nse") == [(2, "listed", "NSE", "C")]
    output = three_lists.run(
        "changes", "--run", "2", "--kind", "renamed", "--exchange", "NSE"
    ).stdout
    assert output.endswith(" IST: 0 changes of kind renamed with exchange NSE\n")


def test_run_that_is_not_on_record(three_lists: CommandLine) -> None:
    result = three_lists.run("changes", "--run", "99")
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == "ERROR: DAG 1 has no good run 99 on record.\n"


# Several DAGs

FEED = """
from pathlib import Path
from shared.feed import Batch, Feed
from shared.models.table import Column, Table

FEED = Feed(
    Path(__file__).resolve().parent,
    "rows",
    Table("t", (Column("a", "text"),), ("a",)),
    fetch=lambda run: (),
    parse=lambda body: Batch([]),
)
"""


@pytest.fixture
def dags(tmp_path: Path) -> Iterator[list[DAG]]:
    """DAG 1, a feed that never ran, and one that cannot be loaded."""
    root = tmp_path / "root"
    for folder, code in {"dag_2_rows": FEED, "dag_3_broken": "raise RuntimeError"}.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "config.json").write_text("{}")
        (root / folder / "__init__.py").write_text(code)
    yield [discover_dags(PROJECT)[0], *discover_dags(root)]
    sys.modules.pop("dag_2_rows", None)


def test_changes_of_several_dags_are_one_document(
    three_lists: CommandLine, dags: list[DAG], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    show_changes(dags, ANY, as_json=True)
    first, second = json.loads(capsys.readouterr().out)["dags"]
    assert (first["dag_id"], first["run"]["run_id"], len(first["changes"])) == (1, 3, 2)
    assert first["run"]["started_at"].endswith("+05:30")
    assert second == {"dag_id": 2, "name": "rows", "run": None, "changes": []}


def test_changes_of_several_dags_have_titles(
    three_lists: CommandLine,
    dags: list[DAG],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    capsys.readouterr()
    show_changes(dags, ANY)
    output = capsys.readouterr().out
    assert output.startswith("DAG 1 import_instruments_from_kite\nRun 3, ")
    assert output.endswith("DAG 2 rows\nNo run has been recorded yet.\n")
    assert "DAG 3: dag_3_broken cannot be loaded" in caplog.messages[-1]
    show_changes(dags, {**ANY, "run_id": 2})
    assert capsys.readouterr().out.startswith("Run 2, ")


def test_changes_of_a_dag_that_cannot_be_loaded(cli: CommandLine, dags: list[DAG]) -> None:
    with pytest.raises(DAGExecutionError):
        show_changes(dags[2:], ANY)
