"""`--status`: the last runs, and the verdict for monitoring."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import shared.run_status
from shared.kite_login import IST
from tests.command_line import CommandLine, Result
from tests.instruments import instrument, to_csv

GOOD = to_csv([instrument(1, "A", "NSE"), instrument(2, "B", "NSE")])
NAME = "DAG 1 import_instruments_from_kite"


def ist(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=IST)


def status_at(cli: CommandLine, now: str, *arguments: str) -> Result:
    """The verdict at a moment in India."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return ist(now).astimezone(tz)

    cli.monkeypatch.setattr(shared.run_status, "datetime", Clock)
    return cli.run("--status", *arguments)


def say_it_began(cli: CommandLine, moment: str, run_id: int | None = None) -> None:
    """Let a run, or the last one, have been at another moment."""
    cli.query(
        "UPDATE ingestion_run SET started_at = %s, ended_at = %s"
        " WHERE run_id = coalesce(%s, (SELECT max(run_id) FROM ingestion_run)) RETURNING 1",
        ist(moment),
        ist(moment) + timedelta(seconds=90, milliseconds=60),
        run_id,
    )


TABLE = (
    " run DAG started (IST)    status    seconds  fetched rejected inserted  updated\n"
    "   1   1 2026-11-24 08:31 succeeded    90.1        2        0        2        0\n"
)


def test_fresh_list(cli: CommandLine) -> None:
    cli.load(GOOD)
    say_it_began(cli, "2026-11-24 08:31")
    assert status_at(cli, "2026-11-24 09:00") == Result(
        0, f"{TABLE}\nFRESH: {NAME} was loaded on\n  Tue 24 Nov 2026 08:31 IST.\n", ""
    )


def test_stale_list(cli: CommandLine) -> None:
    cli.load(GOOD)
    say_it_began(cli, "2026-11-24 08:31")
    assert status_at(cli, "2026-11-25 09:00") == Result(
        1,
        f"{TABLE}\nSTALE: {NAME} was last loaded on\n  Tue 24 Nov 2026 08:31 IST. "
        "Expected: a load since Wed 25 Nov 2026 08:00 IST.\n",
        "",
    )


@pytest.mark.parametrize(
    ("loaded", "now", "is_fresh"),
    [
        pytest.param("2026-11-24 08:00", "2026-11-24 08:01", True, id="at eight"),
        pytest.param("2026-11-24 07:59", "2026-11-24 08:01", False, id="just before eight"),
        pytest.param("2026-11-23 08:31", "2026-11-24 07:59", True, id="before today's eight"),
        pytest.param("2026-11-23 08:31", "2026-11-24 08:00", False, id="today's eight has come"),
        pytest.param("2026-11-27 08:31", "2026-11-29 23:00", True, id="over the weekend"),
        pytest.param("2026-11-28 08:31", "2026-11-30 07:59", True, id="loaded on a weekend"),
        pytest.param("2026-11-27 08:31", "2026-11-30 08:05", False, id="after the weekend"),
        pytest.param("2026-10-01 08:31", "2026-10-05 20:00", True, id="over holidays"),
        pytest.param("2026-10-01 08:31", "2026-10-06 08:05", False, id="after holidays"),
    ],
)
def test_verdict_by_the_clock_of_india(
    cli: CommandLine, loaded: str, now: str, is_fresh: bool
) -> None:
    cli.holidays += ["2026-10-02", "2026-10-05"]
    cli.load(GOOD)
    say_it_began(cli, loaded)
    result = status_at(cli, now)
    assert result.status == (0 if is_fresh else 1)
    assert ("FRESH: " in result.stdout, "STALE: " in result.stdout) == (is_fresh, not is_fresh)


def test_holiday_that_is_not_configured_is_a_trading_day(cli: CommandLine) -> None:
    cli.load(GOOD)
    say_it_began(cli, "2026-10-01 08:31")
    assert status_at(cli, "2026-10-02 20:00").status == 1


# What counts as a load


def test_before_any_run(cli: CommandLine) -> None:
    result = cli.run("--status")
    assert result == Result(
        1, "STALE: nothing was ever loaded (there is no history of runs).\n", ""
    )


def test_history_that_was_emptied(cli: CommandLine) -> None:
    cli.load(GOOD)
    cli.query("TRUNCATE ingestion_run CASCADE")
    assert cli.run("--status") == Result(1, "STALE: nothing was ever loaded.\n", "")


def test_only_failed_runs(cli: CommandLine) -> None:
    cli.kite.expire_token()
    assert cli.run("--dag", "1").status == 3
    result = status_at(cli, "2026-11-24 09:00")
    assert result.status == 1
    assert re.search(r"^ +1 +1 \S+ \S+ failed +\d+\.\d +0 +0 +- +-$", result.stdout, re.M)
    assert "\nRun 1 failed: Kite refused the session" in result.stdout
    assert f"\nSTALE: {NAME} was never loaded.\n  Expected: a load since Tue 24 Nov 2026 08:00" in (
        result.stdout
    )


def test_failed_run_after_a_good_one_leaves_the_list_fresh(cli: CommandLine) -> None:
    cli.load(GOOD)
    cli.kite.expire_token()
    cli.run("--dag", "1")
    result = cli.run("--status")
    assert result.status == 0
    assert "\nRun 2 failed: Kite refused the session" in result.stdout
    assert "\nFRESH: " in result.stdout
    cli.kite._access_token = "sandbox_token"
    cli.load(GOOD)
    assert "failed:" not in cli.run("--status").stdout  # told while it is the last one


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[bytes], str]:
    def save(dump: bytes) -> str:
        path = tmp_path / "saved list.csv"
        path.write_bytes(dump)
        return str(path)

    return save


def test_only_a_replay(cli: CommandLine, saved: Callable[[bytes], str]) -> None:
    path = saved(GOOD)
    assert cli.run("--dag", "1", "--from-file", path).status == 0
    result = cli.run("--status")
    assert result.status == 1
    assert f"\nRun 1 imported a saved dump:\n  {path}\n" in result.stdout
    assert (
        f"\nSTALE: {NAME} holds the list of a saved dump:\n  {path}\n  Expected: a load since "
        in (result.stdout)
    )


def test_replay_of_an_old_list_over_a_fresh_one(
    cli: CommandLine, saved: Callable[[bytes], str]
) -> None:
    """What is stored now is not today's list any more."""
    cli.load(GOOD)
    cli.run("--dag", "1", "--from-file", saved(to_csv([instrument(1, "A", "NSE")])))
    assert "holds the list of a saved dump" in cli.run("--status").stdout
    assert cli.run("--status").status == 1
    cli.load(GOOD)
    assert cli.run("--status").status == 0


def test_replay_of_yesterdays_list(cli: CommandLine, saved: Callable[[bytes], str]) -> None:
    cli.load(GOOD)
    say_it_began(cli, "2026-11-23 08:31")
    cli.load(to_csv([instrument(1, "A", "NSE")]))
    say_it_began(cli, "2026-11-24 08:31")
    cli.run("--dag", "1", "--from-file", saved(GOOD))
    result = status_at(cli, "2026-11-24 12:00")
    assert result.status == 1
    assert f"STALE: {NAME} was last loaded on\n  Mon 23 Nov 2026 08:31 IST." in result.stdout


def test_replay_of_todays_own_list_leaves_it_fresh(
    cli: CommandLine, saved: Callable[[bytes], str]
) -> None:
    cli.load(GOOD)
    cli.run("--dag", "1", "--from-file", saved(GOOD))
    assert cli.run("--status").status == 0


def test_failed_replay_is_not_said_to_have_imported(cli: CommandLine) -> None:
    cli.load(GOOD)
    cli.run("--dag", "1", "--from-file", "/nowhere.csv")
    output = cli.run("--status").stdout
    assert "Run 2 failed: The saved dump /nowhere.csv cannot be read" in output
    assert "imported" not in output


# Which DAGs


def add_run(cli: CommandLine, dag_id: int, name: str, moment: str, status: str) -> None:
    cli.query(
        "INSERT INTO ingestion_run (dag_id, dag_name, source, status, started_at, ended_at)"
        " VALUES (%s, %s, 'api', %s, %s, %s) RETURNING 1",
        *(dag_id, name, status, ist(moment), ist(moment)),
    )


def test_each_dag_has_its_own_verdict(cli: CommandLine) -> None:
    cli.load(GOOD)
    say_it_began(cli, "2026-11-24 08:31")
    add_run(cli, 2, "other", "2026-11-20 08:31", "succeeded")
    result = status_at(cli, "2026-11-24 12:00")
    assert result.status == 1
    assert f"FRESH: {NAME}" in result.stdout
    assert "STALE: DAG 2 other was last loaded on\n  Fri 20 Nov 2026 08:31 IST." in result.stdout
    only = status_at(cli, "2026-11-24 12:00", "--dag", "1")
    assert only.status == 0
    assert "other" not in only.stdout
    assert len(re.findall(r"^ +\d+ +\d+ 2026", only.stdout, re.M)) == 1


def test_dag_that_was_renamed_is_one(cli: CommandLine) -> None:
    cli.load(GOOD)
    add_run(cli, 1, "old_name", "2026-11-02 08:31", "failed")
    say_it_began(cli, "2026-11-24 08:31", 1)
    result = status_at(cli, "2026-11-24 12:00")
    assert result.status == 0
    assert len(re.findall("FRESH|STALE", result.stdout)) == 1


def test_dag_that_there_is_not(cli: CommandLine) -> None:
    cli.load(GOOD)
    result = cli.run("--status", "--dag", "7")
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == "ERROR: There is no DAG 7. Known ids: 1 (see --list).\n"


def test_last_ten_runs_are_shown_newest_first(cli: CommandLine) -> None:
    cli.load(GOOD)
    for day in range(1, 13):
        add_run(cli, 1, "import_instruments_from_kite", f"2026-11-{day:02d} 08:31", "failed")
    output = cli.run("--status").stdout
    assert re.findall(r"^ +(\d+) +1 2026", output, re.M) == [str(n) for n in range(13, 3, -1)]


def test_lines_fit_into_80_columns(cli: CommandLine) -> None:
    cli.load(GOOD)
    cli.query(
        "UPDATE ingestion_run SET rows_fetched = 117000, rows_rejected = 117000,"
        " rows_inserted = 117000, rows_updated = 117000, run_id = DEFAULT RETURNING 1"
    )
    say_it_began(cli, "2020-11-24 08:31")
    lines = cli.run("--status").stdout.splitlines()
    assert any(" 117,000 " in line for line in lines)
    assert max(map(len, lines)) < 80


# What is no verdict


def test_database_that_is_away(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PORT", "1")
    monkeypatch.setattr("shared.utils.interruptible.time.sleep", lambda seconds: None)
    result = cli.run("--status")
    assert (result.status, result.stdout) == (1, "")
    assert "No connection to" in result.stderr


def test_configuration_that_has_faults(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DB_USER")
    result = cli.run("--status")
    assert (result.status, result.stdout) == (2, "")
    assert "DB_USER" in result.stderr


def test_holidays_that_are_no_dates(cli: CommandLine) -> None:
    cli.holidays.append("2 October")
    result = cli.run("--status")
    assert result.status == 2
    assert 'calendar.holidays: expected a list of dates such as ["2026-01-26"]' in result.stderr


def test_status_needs_no_credentials_of_kite(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.load(GOOD)
    asked = len(cli.kite.requests)
    for name in ("KITE_API_KEY", "KITE_API_SECRET", "KITE_ACCESS_TOKEN"):
        monkeypatch.delenv(name)
    assert cli.run("--status").status == 0
    assert len(cli.kite.requests) == asked
