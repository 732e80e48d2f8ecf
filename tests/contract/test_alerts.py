"""What docs/production.md has for monitors and alerts, and for a clock that was ahead, is so."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from shared.dag_discovery import DAG
from shared.freshness import Verdict
from shared.metrics import GAUGES
from shared.utils.run_history import RecordedRun
from tests.command_line import CommandLine
from tests.conftest import PROJECT
from tests.documents import blocks_of, section, table_rows
from tests.instruments import instrument, to_csv

GOOD = to_csv([instrument(1, "A", "NSE"), instrument(2, "B", "NSE")])
OTHER = to_csv([instrument(1, "A", "NSE"), instrument(3, "C", "NSE")])


PAGE = "production.md"


def sql_under(heading: str) -> list[str]:
    blocks = blocks_of("sql")
    return [block.text for block in blocks if (block.document, block.heading) == (PAGE, heading)]


BY_HISTORY, BY_ROWS = sql_under("What to alert on")
[MOVE_BACK] = sql_under("A clock that was ahead")


def is_stale(cli: CommandLine, query: str) -> bool:
    [(answer,)] = cli.query(query)
    assert answer in (True, False)
    return bool(answer)


def move(cli: CommandLine, interval: str, run_id: int | None = None) -> None:
    """Let a run, or the last one, and its list have been earlier or later."""
    if run_id is None:
        [(run_id,)] = cli.query("SELECT max(run_id) FROM ingestion_run")
    cli.query(
        "UPDATE kite_instrument_master SET last_updated = last_updated + %s::interval"
        " WHERE last_updated = (SELECT list_moment FROM ingestion_run WHERE run_id = %s)",
        *(interval, run_id),
    )
    cli.query(
        "UPDATE ingestion_run SET started_at = started_at + shift, ended_at = ended_at + shift,"
        " list_moment = list_moment + shift"
        " FROM (SELECT %s::interval AS shift) AS by WHERE run_id = %s",
        *(interval, run_id),
    )


@pytest.fixture
def replay(cli: CommandLine, tmp_path: Path) -> Callable[[bytes], None]:
    def run(dump: bytes) -> None:
        path = tmp_path / "list.csv"
        path.write_bytes(dump)
        assert cli.run("--dag", "1", "--from-file", str(path)).status == 0

    return run


@pytest.mark.parametrize("query", [BY_HISTORY, BY_ROWS], ids=["by history", "by rows"])
@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        pytest.param("0", False, id="today's"),
        pytest.param("-4 days", False, id="Friday's on Tuesday"),
        pytest.param("-4 days -2 hours", True, id="older"),
        pytest.param("1 year", True, id="ahead by a year"),
        pytest.param("2 hours", True, id="ahead by two hours"),
        pytest.param("30 minutes", False, id="ahead by little"),
    ],
)
def test_alert_by_the_age_of_the_list(
    cli: CommandLine, query: str, interval: str, expected: bool
) -> None:
    cli.load(GOOD)
    move(cli, interval)
    assert is_stale(cli, query) is expected


@pytest.mark.parametrize("query", [BY_HISTORY, BY_ROWS], ids=["by history", "by rows"])
def test_alert_on_a_table_that_was_never_filled_or_is_empty(cli: CommandLine, query: str) -> None:
    cli.kite.expire_token()
    cli.run("--dag", "1")  # makes the history
    assert is_stale(cli, query)
    cli.kite._access_token = "sandbox_token"
    cli.load(GOOD)
    assert not is_stale(cli, query)
    cli.query("TRUNCATE kite_instrument_master")
    assert is_stale(cli, query)


@pytest.mark.parametrize("query", [BY_HISTORY, BY_ROWS], ids=["by history", "by rows"])
def test_run_that_was_ahead_does_not_blind_the_alert(cli: CommandLine, query: str) -> None:
    cli.load(OTHER)
    cli.load(GOOD)
    cli.query(
        "UPDATE ingestion_run SET started_at = started_at + shift, ended_at = ended_at + shift,"
        " list_moment = list_moment + shift"
        " FROM (SELECT interval '1 year' AS shift) AS by WHERE run_id = 1"
    )
    cli.query(
        "UPDATE kite_instrument_master SET last_updated = last_updated + interval '1 year'"
        " WHERE tradingsymbol = 'C'"
    )
    assert not is_stale(cli, query)
    move(cli, "-5 days")
    assert is_stale(cli, query)


def test_alert_where_only_a_clock_of_the_run_was_ahead(cli: CommandLine) -> None:
    cli.load(GOOD)
    for column in ("started_at", "ended_at"):
        cli.query(f"UPDATE ingestion_run SET {column} = {column} + interval '1 year'")
        assert is_stale(cli, BY_HISTORY)
        cli.query(f"UPDATE ingestion_run SET {column} = {column} - interval '1 year'")
        assert not is_stale(cli, BY_HISTORY)


def test_alert_on_rows_that_were_changed(cli: CommandLine) -> None:
    cli.load(GOOD)
    cli.query("DELETE FROM kite_instrument_master WHERE tradingsymbol = 'A'")
    assert is_stale(cli, BY_HISTORY)


def test_alert_on_a_list_that_comes_again_and_again(cli: CommandLine) -> None:
    cli.load(GOOD)
    move(cli, "-5 days")
    cli.load(GOOD)
    assert is_stale(cli, BY_HISTORY)
    cli.load(OTHER)
    assert not is_stale(cli, BY_HISTORY)


def test_alert_on_a_replay(cli: CommandLine, replay: Callable[[bytes], None]) -> None:
    cli.load(GOOD)
    replay(GOOD)
    assert not is_stale(cli, BY_HISTORY)
    replay(OTHER)
    assert is_stale(cli, BY_HISTORY)


# A clock that was ahead


def test_way_out_after_a_clock_that_was_ahead(cli: CommandLine) -> None:
    cli.load(to_csv([instrument(7, "GONE", "NSE")]))
    cli.load(GOOD)
    move(cli, "1 year")
    cli.load(OTHER)  # by a clock that is right again, its moment is ahead all the same
    result = cli.run("status")
    assert result.status == 4
    assert "\nUNKNOWN: DAG 1" in result.stdout
    assert '"A clock that was ahead"' in result.stdout
    listed = "SELECT tradingsymbol FROM kite_instrument_today ORDER BY 1"
    assert cli.query(listed) == [("A",), ("C",)]

    assert cli.query(MOVE_BACK) == [(3, 2, 2)]
    as_of_now = "SELECT tradingsymbol FROM kite_instrument_as_of(now()) ORDER BY 1"
    assert cli.query(listed) == cli.query(as_of_now) == [("A",), ("C",)]
    assert cli.query(MOVE_BACK) == [(0, 0, 0)]
    assert cli.load(GOOD).status == 0
    assert cli.run("status").status == 0
    assert cli.query(listed) == cli.query(as_of_now) == [("A",), ("B",)]
    assert not is_stale(cli, BY_HISTORY)
    assert not is_stale(cli, BY_ROWS)


def test_way_out_where_nothing_is_ahead_changes_nothing(cli: CommandLine) -> None:
    cli.load(GOOD)
    stored = cli.query("TABLE kite_instrument_master")
    assert cli.query(MOVE_BACK) == [(0, 0, 0)]
    assert cli.query("TABLE kite_instrument_master") == stored


# Status for programs


def test_fields_and_gauges_are_the_documented_ones() -> None:
    text = section(PROJECT / "docs" / PAGE, "Status for programs")
    told = [name for row in table_rows(text) for name in re.findall(r"`(\w+)`", row[0])]
    verdict = [field.name for field in fields(Verdict)]
    listed = DAG(1, "a", Path(), schedule="daily").as_dict()
    known = [*verdict, *RecordedRun._fields, *listed, *GAUGES]
    assert sorted(told) == sorted(known)


@pytest.mark.parametrize(
    ("printed", "status", "left"),
    [
        pytest.param("new", 0, "new", id="fresh"),
        pytest.param("new", 1, "new", id="stale"),
        pytest.param("new", 4, "new", id="unknown"),
        pytest.param("", 2, "old", id="settings that are wrong"),
    ],
)
def test_line_that_writes_the_metrics(tmp_path: Path, printed: str, status: int, left: str) -> None:
    [line] = [block.text for block in blocks_of("sh") if block.heading == "Status for programs"]
    folder = tmp_path / "collected"
    python = tmp_path / ".venv" / "bin" / "python"
    for path in (folder, python.parent):
        path.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nprintf '%s' '{printed}'\necho why >&2\nexit {status}\n")
    python.chmod(0o755)
    (folder / "stock_ingestion.prom").write_text("old")
    line = line.replace("/var/lib/prometheus/node-exporter", str(folder))
    result = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True)
    assert (result.stdout, result.stderr) == (b"", b"")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "stock_ingestion.prom": left
    }
