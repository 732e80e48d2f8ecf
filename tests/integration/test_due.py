"""`--due`: what runs, what waits, and what of it is told. A year of it is in test_year.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import execute_dags
from sandbox.kite_faults import HttpError
from shared import run_lock
from tests.clock import set_clocks
from tests.command_line import CommandLine, Result
from tests.conftest import HEADER, Server
from tests.instruments import instrument, to_csv

LIST = to_csv([instrument(256, "S1")])
NEXT_LIST = to_csv([instrument(512, "S2")])
FEED = """\
from datetime import time
from pathlib import Path

from shared.feed import Batch, Feed, Payload
from shared.models.table import Column, Table

FOLDER = Path(__file__).parent
FEED = Feed(
    FOLDER, "things", Table("thing", (Column("id", "bigint"),), ("id",)),
    fetch=lambda run: [Payload((FOLDER / "list").read_bytes())],
    parse=lambda body: Batch([{"id": int(body)}]), changes_daily=True, due_from=time(8),
)
"""
SCHEMA = "CREATE TABLE thing (id bigint PRIMARY KEY, last_updated timestamp, created_at timestamp)"
NAME = "DAG 1 import_instruments_from_kite"


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


@pytest.fixture
def due(cli: CommandLine) -> Callable[..., Result]:
    """`--due` on 17 November 2026 (a Tuesday), or another day, at this hour."""
    cli.kite.dump = LIST
    cli.parameters |= {"retry_attempts": 1}

    def call(hour: str, *options: str, day: int = 17) -> Result:
        set_clocks(cli, datetime.fromisoformat(f"2026-11-{day}T{hour}+05:30"))
        return cli.run("--due", *options)

    return call


Due = Callable[..., Result]


def test_first_call_runs_and_the_second_is_silent(due: Due, cli: CommandLine) -> None:
    first = due("08:40")
    assert (first.status, first.stderr) == (0, "")
    assert f"{NAME} succeeded" in first.stdout
    assert due("08:50") == Result(0, "", "")
    assert due("08:20", day=18) == Result(0, "", "")
    assert cli.runs("status") == [("succeeded",)]


def test_late_list_is_asked_for_until_it_is_there(due: Due, cli: CommandLine) -> None:
    due("08:40")
    late = due("08:40", day=18)
    assert (late.status, f"{NAME} succeeded" in late.stdout) == (0, True)
    assert late.stderr == (
        f"WARNING: {NAME} was last loaded on\n"
        "  Wed 18 Nov 2026 08:40 IST. It has the list of Tue 17 Nov 2026,\n"
        "  the same list as that of run 1 (Tue 17 Nov 2026 08:40 IST).\n"
        "  Expected: a new list since Wed 18 Nov 2026 08:00 IST.\n"
        "  The source is late. A day without trading belongs in calendar.holidays.\n"
        "  The next call of --due asks again.\n"
    )
    assert due("09:20", day=18) == Result(0, "", "")
    overdue = due("09:30", day=18)  # the grace is over: nothing is fresh any more
    assert (overdue.status, overdue.stdout) == (1, "")
    assert overdue.stderr.startswith(f"ERROR: {NAME} was last loaded on\n")
    assert due("09:40", day=18) == Result(1, "", "")
    cli.kite.dump = NEXT_LIST
    assert f"{NAME} succeeded" in due("09:50", day=18).stdout
    assert due("10:00", day=18) == Result(0, "", "")


def test_failure_is_told_once_and_logged_each_time(due: Due, cli: CommandLine) -> None:
    cli.kite.fail_next("/instruments", HttpError(503), times=None)
    first, again = due("08:40"), due("08:50")
    assert (first.status, again) == (1, Result(1, "", ""))
    assert f"{NAME} failed" in first.stdout
    assert "HTTP 503" in first.stderr
    log = (cli.folder / "logs" / "stock_ingestion.log").read_text(encoding="utf-8")
    assert log.count(" - ERROR - fetch instruments failed: ") == 2
    cli.kite.clear_faults()
    cli.kite.expire_token()
    assert due("09:00").status == 3  # another failure
    assert due("08:40", day=18).status == 3
    assert due("08:50", day=18) == Result(3, "", "")


def test_kite_is_asked_again_when_the_token_has_changed(
    due: Due, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.kite.expire_token()
    first = due("08:40")
    assert first.status == 3
    asked = len(cli.kite.requests)
    assert due("08:50") == Result(3, "", "")
    told_again = due("08:40", day=18)
    assert (told_again.status, "HTTP 403" in told_again.stderr) == (3, True)
    assert len(cli.kite.requests) == asked
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "another-token")
    assert "HTTP 403" in due("08:50", day=18).stderr  # who has logged in hears of it
    assert len(cli.kite.requests) > asked
    asked = len(cli.kite.requests)
    assert due("09:00", day=18) == Result(3, "", "")
    assert len(cli.kite.requests) == asked
    state = (cli.folder / "logs" / "due.json").read_text(encoding="utf-8")
    assert "token" not in json.dumps(list(json.loads(state)["refused"]))


def test_database_that_is_away_is_told_once(
    due: Due, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    assert due("08:40").status == 0
    monkeypatch.setenv("DB_PORT", "1")
    first, again = due("10:00"), due("10:10")
    assert (first.status, again) == (1, Result(1, "", ""))
    assert "No connection" in first.stderr
    monkeypatch.setenv("DB_PORT", str(server.conninfo["port"]))
    assert due("10:20") == Result(0, "", "")
    monkeypatch.setenv("DB_PORT", "1")
    assert due("10:30").stderr == first.stderr


def test_without_a_history_it_cannot_know(
    due: Due, cli: CommandLine, as_role: Callable[..., str]
) -> None:
    as_role()
    result = due("08:40")
    assert result.status == 2
    assert "Without a history of runs --due cannot know what is due: " in result.stderr
    assert cli.kite.requests == []


def test_state_that_cannot_be_read_or_written(due: Due, cli: CommandLine) -> None:
    path = cli.folder / "logs" / "due.json"
    path.parent.mkdir()
    cli.kite.expire_token()
    for told in (5, {"1": []}, {"1": {"slot": "2026-11-17 08:30:00+05:30"}}):
        path.write_text(json.dumps({"told": told, "refused": {}}), encoding="utf-8")
        assert due("08:40").status == 3
    path.unlink()
    path.mkdir()
    again = due("08:50")
    assert (again.status, "What was told cannot be kept" in again.stderr) == (3, True)


def test_what_runs_already_is_not_run_twice(due: Due, cli: CommandLine) -> None:
    with run_lock.hold(cli.folder / "logs", 1):
        assert due("08:40") == Result(0, "", "")
    with run_lock.hold_alone(run_lock.series_path(cli.folder / "logs", 1)):  # of saved lists
        assert due("08:40") == Result(0, "", "")
    with run_lock.hold_alone(cli.folder / "logs" / "due.lock") as is_alone:
        assert is_alone
        assert due("08:40") == Result(0, "", "")
    assert cli.kite.requests == []
    assert f"{NAME} succeeded" in due("08:50").stdout


@pytest.mark.parametrize("option", ["--dry-run", "--force", "--from-file=list.csv"])
def test_options_for_a_single_run_are_refused(
    option: str, due: Due, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        due("08:40", option)
    assert ended.value.code == 2


# Days without trading: 21 November is a Saturday, the 24th a holiday.


@pytest.mark.parametrize(("day", "name"), [(21, "Saturday"), (24, "Guru Nanak Jayanti")])
def test_empty_list_on_a_day_off_is_no_failure(
    day: int, name: str, due: Due, cli: CommandLine
) -> None:
    due("08:40", day=day - 1)
    set_clocks(cli, cli.now + timedelta(days=1))
    cli.kite.dump = HEADER
    result = cli.run("--dag", "1")
    assert (result.status, result.stderr) == (0, "")
    assert (
        f"\n\nNo trading today ({name}): Kite's list is empty, the table stays as it is\n\n{NAME} "
    ) in result.stdout
    assert cli.runs("status") == [("succeeded",), ("skipped",)]
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(1,)]
    assert cli.run("status").status == 0


def test_unchanged_list_on_a_day_off_is_told_in_a_line(due: Due, cli: CommandLine) -> None:
    due("08:40", day=20)
    set_clocks(cli, cli.now + timedelta(days=1))
    result = cli.run("--dag", "1")
    assert (result.status, result.stderr) == (0, "")
    assert (
        "\n\nNo trading today (Saturday): Kite's list is the same, byte for byte, as that of run 1 "
        "(Fri 20 Nov 2026 08:40 IST)\n\n"
    ) in result.stdout
    assert cli.runs("status") == [("succeeded",)] * 2
    assert cli.run("status").status == 0


def test_empty_list_fails_on_a_trading_day_and_from_a_file(due: Due, cli: CommandLine) -> None:
    cli.kite.dump = HEADER
    assert due("08:40").status == 1
    path = cli.folder / "empty.csv"
    path.write_bytes(HEADER)
    set_clocks(cli, cli.now + timedelta(days=4))
    assert cli.run("--dag", "1", "--from-file", str(path)).status == 1


# Several DAGs


def test_dags_that_come_after_one(
    due: Due, cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A DAG of which the one before has failed is skipped; others run, and the fresh are left."""
    fails = (
        "from shared.exceptions import APIError\ndef first():\n    raise APIError('no answer')\n"
    )
    add_dag(tmp_path / "dag_1_first", fails)
    add_dag(tmp_path / "dag_5_later", "def later(): pass\n", after=[1])
    add_dag(tmp_path / "dag_6_apart", "def apart(): pass\n")
    monkeypatch.setattr(execute_dags, "PROJECT_ROOT", tmp_path)
    first = due("08:40")
    assert first.status == 1
    assert "DAG 5 later skipped: DAG 1 failed" in first.stdout
    assert "DAG 6 apart succeeded" in first.stdout
    assert due("08:50") == Result(1, "", "")
    add_dag(tmp_path / "dag_1_first", "def first(): pass\n")
    del sys.modules["dag_1_first"]
    third = due("09:00")
    assert third.stdout.index("DAG 1 first succeeded") < third.stdout.index("DAG 5 later succeeded")
    assert (third.status, "DAG 6" in third.stdout) == (0, False)
    assert due("09:10") == Result(0, "", "")


def test_dag_whose_settings_are_broken_harms_no_other(
    due: Due, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_dag(tmp_path / "dag_1_first", "def first(): pass\n", schedule="often")
    add_dag(tmp_path / "dag_5_apart", "def apart(): pass\n")
    monkeypatch.setattr(execute_dags, "PROJECT_ROOT", tmp_path)
    first = due("08:40")
    assert (first.status, "DAG 5 apart succeeded" in first.stdout) == (2, True)
    assert 'schedule: expected "daily" or a cron expression' in first.stderr
    assert due("08:50") == Result(2, "", "")


def test_dag_waits_for_one_whose_list_is_late(
    due: Due, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_dag(tmp_path / "dag_1_things", FEED)
    (tmp_path / "dag_1_things" / "schema.sql").write_text(SCHEMA, encoding="utf-8")
    (tmp_path / "dag_1_things" / "list").write_text("1", encoding="utf-8")
    add_dag(tmp_path / "dag_5_later", "def later(): pass\n", after=[1])
    monkeypatch.setattr(execute_dags, "PROJECT_ROOT", tmp_path)
    assert "DAG 5 later succeeded" in due("08:40").stdout
    late = due("08:40", day=18)
    assert (late.status, "DAG 1 things succeeded" in late.stdout) == (0, True)
    assert "DAG 5" not in late.stdout
    (tmp_path / "dag_1_things" / "list").write_text("2", encoding="utf-8")
    assert "DAG 5 later succeeded" in due("08:50", day=18).stdout


def add_dag(folder: Path, code: str, **settings: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(code, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
