"""`status`: the last runs, and the verdict for monitoring."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared import freshness, run_lock
from shared.calendar import IST
from shared.config.config_loader import override_config
from shared.dag_discovery import DAG, discover_dags
from shared.run_status import show_status
from tests.command_line import CommandLine, Result
from tests.conftest import PROJECT, Server
from tests.instruments import instrument, to_csv

GOOD = to_csv([instrument(1, "A", "NSE"), instrument(2, "B", "NSE")])
OTHER = to_csv([instrument(1, "A", "NSE")])
NAME = "DAG 1 import_instruments_from_kite"


def ist(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=IST)


@pytest.fixture(autouse=True)
def _day_as_any_other(request: pytest.FixtureRequest) -> None:
    """A holiday in the week of these tests is traded, as far as they know."""
    if "cli" in request.fixturenames:
        request.getfixturevalue("cli").sessions.append("2026-11-24")


def status_at(cli: CommandLine, now: str, *arguments: str, server_now: str = "") -> Result:
    """The verdict at a moment in India; the database server's clock may say another one."""
    moments = ist(now), ist(server_now or now)
    return cli.run("status", *arguments, clocks=lambda manager: moments)


def say_it_began(cli: CommandLine, moment: str, run_id: int | None = None) -> None:
    """Let a run, or the last one, have been at another moment, and its list with it."""
    if run_id is None:
        [(run_id,)] = cli.query("SELECT max(run_id) FROM ingestion_run")
    ended_at = ist(moment) + timedelta(seconds=90, milliseconds=60)
    cli.query(
        "UPDATE kite_instrument_master SET last_updated = %s::timestamptz"
        " WHERE last_updated = (SELECT list_moment FROM ingestion_run WHERE run_id = %s)",
        *(ended_at, run_id),
    )
    cli.query(
        "UPDATE ingestion_run SET started_at = %s, ended_at = %s,"
        " list_moment = CASE WHEN list_moment IS NOT NULL THEN %s::timestamptz END"
        " WHERE run_id = %s",
        *(ist(moment), ended_at, ended_at, run_id),
    )


def load_at(cli: CommandLine, moment: str, dump: bytes) -> None:
    assert cli.load(dump).status == 0
    say_it_began(cli, moment)


def verdict_of(result: Result) -> str:
    """The verdict on DAG 1, the last thing that is said, without the indent of further lines."""
    found = re.search(r"^(?:FRESH|STALE|UNKNOWN): .*", result.stdout, re.M | re.S)
    assert found
    assert max(map(len, found[0].splitlines())) < 80
    word = found[0].partition(":")[0]
    assert result.status == {"FRESH": 0, "STALE": 1, "UNKNOWN": 4}[word]
    return found[0].replace("\n  ", "\n")


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
    assert status_at(cli, "2026-11-25 09:30") == Result(
        1,
        f"{TABLE}\nSTALE: {NAME} was last loaded on\n  Tue 24 Nov 2026 08:31 IST. "
        "Expected: a load since Wed 25 Nov 2026 08:00 IST.\n",
        "",
    )


@pytest.mark.parametrize(
    ("loaded", "now", "is_fresh"),
    [
        pytest.param("2026-11-24 08:00", "2026-11-24 09:30", True, id="at eight"),
        pytest.param("2026-11-24 07:59", "2026-11-24 09:29", True, id="too early, for now"),
        pytest.param("2026-11-24 07:59", "2026-11-24 09:30", False, id="too early"),
        pytest.param("2026-11-23 08:31", "2026-11-24 09:29", True, id="within the grace"),
        pytest.param("2026-11-23 08:31", "2026-11-24 09:30", False, id="the grace is over"),
        pytest.param("2026-11-27 08:31", "2026-11-29 23:00", True, id="over the weekend"),
        pytest.param("2026-11-28 08:31", "2026-11-30 09:29", True, id="loaded on a weekend"),
        pytest.param("2026-11-27 08:31", "2026-11-30 09:30", False, id="after the weekend"),
        pytest.param("2026-10-01 08:31", "2026-10-05 20:00", True, id="over holidays"),
        pytest.param("2026-10-01 08:31", "2026-10-06 09:29", True, id="grace after holidays"),
        pytest.param("2026-10-01 08:31", "2026-10-06 09:30", False, id="after holidays"),
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


def test_holidays_of_the_exchanges_are_known(cli: CommandLine) -> None:
    cli.load(GOOD)
    say_it_began(cli, "2026-10-01 08:31")
    assert status_at(cli, "2026-10-02 20:00").status == 0
    cli.sessions.append("2026-10-02")
    assert status_at(cli, "2026-10-02 20:00").status == 1


# What counts as a load


def test_before_any_run(cli: CommandLine) -> None:
    result = cli.run("status")
    assert result.status == 1
    assert result.stdout == (
        f"\nSTALE: {NAME} was never loaded, as far as can be told\n  without a history of runs.\n"
    )


def test_history_that_was_emptied(cli: CommandLine) -> None:
    cli.load(GOOD)
    cli.query("TRUNCATE ingestion_run CASCADE")
    assert status_at(cli, "2026-11-24 09:30") == Result(
        1,
        f"\nSTALE: {NAME} was never loaded.\n  Expected: a load since Tue 24 Nov 2026 08:00 IST.\n",
        "",
    )


def test_only_failed_runs(cli: CommandLine) -> None:
    cli.kite.expire_token()
    assert cli.run("--dag", "1").status == 3
    result = status_at(cli, "2026-11-24 09:30")
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
    result = cli.run("status")
    assert result.status == 0
    assert "\nRun 2 failed: Kite refused the session" in result.stdout
    assert "\nFRESH: " in result.stdout
    cli.kite._access_token = "sandbox_token"
    cli.load(GOOD)
    assert "\nRun 2 failed: " in cli.run("status").stdout  # told while it is shown


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
    result = cli.run("status")
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
    assert "holds the list of a saved dump" in cli.run("status").stdout
    assert cli.run("status").status == 1
    cli.load(GOOD)
    assert cli.run("status").status == 0


def test_replay_of_yesterdays_list(cli: CommandLine, saved: Callable[[bytes], str]) -> None:
    load_at(cli, "2026-11-23 08:31", GOOD)
    load_at(cli, "2026-11-24 08:31", OTHER)
    cli.run("--dag", "1", "--from-file", saved(GOOD))
    say_it_began(cli, "2026-11-24 11:00")
    result = status_at(cli, "2026-11-24 12:00")
    assert result.status == 1
    assert f"STALE: {NAME} was last loaded on\n  Mon 23 Nov 2026 08:31 IST." in result.stdout


def test_replay_of_todays_own_list_leaves_it_fresh(
    cli: CommandLine, saved: Callable[[bytes], str]
) -> None:
    cli.load(GOOD)
    cli.run("--dag", "1", "--from-file", saved(GOOD))
    assert cli.run("status").status == 0


def test_failed_replay_is_not_said_to_have_imported(cli: CommandLine) -> None:
    cli.load(GOOD)
    cli.run("--dag", "1", "--from-file", "/nowhere.csv")
    output = cli.run("status").stdout
    assert "Run 2 failed: The saved file /nowhere.csv cannot be read" in output
    assert "imported" not in output


# The list of an earlier day


def test_same_list_on_the_next_day_counts_until_its_new_one_must_be_there(
    cli: CommandLine,
) -> None:
    load_at(cli, "2026-11-26 08:31", GOOD)
    load_at(cli, "2026-11-27 08:35", GOOD)
    repeat = (
        "It has the list of Thu 26 Nov 2026,\n"
        "the same list as that of run 1 (Thu 26 Nov 2026 08:31 IST).\n"
    )
    assert verdict_of(status_at(cli, "2026-11-27 09:29")) == (
        f"FRESH: {NAME} was loaded on\nFri 27 Nov 2026 08:35 IST. {repeat}"
    )
    assert verdict_of(status_at(cli, "2026-11-27 09:30")) == (
        f"STALE: {NAME} was last loaded on\n"
        f"Fri 27 Nov 2026 08:35 IST. {repeat}"
        "Expected: a new list since Fri 27 Nov 2026 08:00 IST.\n"
        "The source is late. A day without trading belongs in calendar.holidays.\n"
    )
    cli.holidays.append("2026-11-27")
    assert verdict_of(status_at(cli, "2026-11-27 09:30")).startswith("FRESH: ")
    cli.holidays.clear()
    load_at(cli, "2026-11-27 09:40", OTHER)
    assert verdict_of(status_at(cli, "2026-11-27 09:45")) == (
        f"FRESH: {NAME} was loaded on\nFri 27 Nov 2026 09:40 IST.\n"
    )


@pytest.mark.parametrize(
    ("day", "verdict"),
    [
        pytest.param("2025-11-27", "STALE", id="yesterday's"),
        pytest.param("2025-11-28", "FRESH", id="today's"),
    ],
)
def test_list_of_a_dated_file_is_of_that_day_when_the_source_serves_it(
    cli: CommandLine, saved: Callable[[bytes], str], day: str, verdict: str
) -> None:
    assert cli.run("--dag", "1", "--from-file", saved(GOOD), "--dated", day).status == 0
    say_it_began(cli, "2025-11-28 08:20")
    load_at(cli, "2025-11-28 08:35", GOOD)
    said = verdict_of(status_at(cli, "2025-11-28 09:30"))
    assert said.startswith(f"{verdict}: ")
    assert ("It has the list of Thu 27 Nov 2025,\n" in said) == (verdict == "STALE")


def test_list_of_an_earlier_day_that_came_back_is_stale_at_once(cli: CommandLine) -> None:
    load_at(cli, "2026-11-25 08:31", GOOD)
    load_at(cli, "2026-11-26 08:31", OTHER)
    load_at(cli, "2026-11-27 08:35", GOOD)
    verdict = verdict_of(status_at(cli, "2026-11-27 08:40"))
    assert verdict.startswith("STALE: ")
    assert (
        "It has the list of Wed 25 Nov 2026,\nthe same list as that of run 1 (Wed 25 Nov" in verdict
    )
    assert "Expected: a new list since Thu 26 Nov 2026 08:00 IST." in verdict


@pytest.mark.parametrize(
    ("moments", "now", "word"),
    [
        pytest.param(("11-27 08:31", "11-27 12:00"), "11-27 12:30", "FRESH", id="the same day"),
        pytest.param(("11-27 08:31", "11-28 10:00"), "11-28 12:00", "FRESH", id="on Saturday"),
        pytest.param(("11-28 10:00", "11-30 08:35"), "11-30 09:30", "STALE", id="Saturday's"),
        pytest.param(("10-01 08:31", "10-02 08:35"), "10-02 12:00", "FRESH", id="on a holiday"),
        pytest.param(("11-26 23:58", "11-27 00:02"), "11-27 09:29", "FRESH", id="over midnight"),
        pytest.param(("11-26 23:58", "11-27 08:31"), "11-27 09:30", "STALE", id="yesterday's"),
        pytest.param(("11-27 07:55", "11-27 08:35"), "11-27 09:30", "STALE", id="before it is due"),
    ],
)
def test_same_list_twice(cli: CommandLine, moments: list[str], now: str, word: str) -> None:
    cli.holidays += ["2026-10-02"]
    for moment in moments:
        load_at(cli, f"2026-{moment}", GOOD)
    assert verdict_of(status_at(cli, f"2026-{now}")).startswith(word)


def test_list_that_could_not_be_stored_the_day_before_is_that_days(cli: CommandLine) -> None:
    cli.query("ALTER TABLE kite_instrument_master ADD CONSTRAINT lot CHECK (lot_size < 0)")
    assert cli.load(GOOD).status == 1
    say_it_began(cli, "2026-11-26 08:31")
    cli.query("ALTER TABLE kite_instrument_master DROP CONSTRAINT lot")
    load_at(cli, "2026-11-27 08:35", GOOD)
    verdict = verdict_of(status_at(cli, "2026-11-27 09:30"))
    assert verdict.startswith("STALE: ")
    assert re.search(r"\nthe same list as that of run \d+ \(Thu 26 Nov 2026 08:31 IST\)", verdict)


def test_list_without_a_hash_is_judged_by_its_load_alone(
    cli: CommandLine, saved: Callable[[bytes], str]
) -> None:
    """As runs before the hash was recorded left them."""
    load_at(cli, "2026-11-26 08:31", GOOD)
    load_at(cli, "2026-11-27 08:35", OTHER)
    cli.query("UPDATE ingestion_run SET dump_sha256 = NULL")
    assert verdict_of(status_at(cli, "2026-11-27 12:00")).startswith("FRESH: ")
    cli.run("--dag", "1", "--from-file", saved(GOOD))
    say_it_began(cli, "2026-11-27 11:00")
    cli.query("UPDATE ingestion_run SET dump_sha256 = NULL")
    result = status_at(cli, "2026-11-27 12:00")
    assert result.status == 1
    assert f"STALE: {NAME} holds the list of a saved dump:" in result.stdout


# The table itself


def restore(cli: CommandLine) -> None:
    """A backup of the day before over the table."""
    cli.query("CREATE TABLE backup AS TABLE kite_instrument_master")
    cli.query("UPDATE backup SET last_updated = last_updated - interval '1 day'")
    cli.query("TRUNCATE kite_instrument_master")
    cli.query("INSERT INTO kite_instrument_master TABLE backup")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param("TRUNCATE kite_instrument_master", "has 0 rows now", id="emptied"),
        pytest.param(
            "DELETE FROM kite_instrument_master WHERE tradingsymbol = 'A'",
            "has 1 rows now",
            id="deleted",
        ),
        pytest.param(
            "UPDATE kite_instrument_master SET last_updated = now() WHERE tradingsymbol = 'A'",
            "has 1 rows now",
            id="touched",
        ),
        pytest.param(
            "INSERT INTO kite_instrument_master"
            " (instrument_token, exchange, tradingsymbol, last_updated)"
            " SELECT 3, 'NSE', 'C', max(last_updated) FROM kite_instrument_master",
            "has 3 rows now",
            id="added",
        ),
        pytest.param(restore, "has 0 rows now", id="restored"),
        pytest.param("DROP TABLE kite_instrument_master CASCADE", "is not there", id="dropped"),
    ],
)
def test_table_that_is_not_as_the_last_run_left_it_is_stale_until_the_next_run(
    cli: CommandLine, change: str | Callable[[CommandLine], None], found: str
) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    if isinstance(change, str):
        cli.query(change)
    else:
        change(cli)
    assert verdict_of(status_at(cli, "2026-11-24 12:00")) == (
        f"STALE: {NAME}: its table is not as it was stored.\n"
        "Run 1 (Tue 24 Nov 2026 08:31 IST) stored 2 rows.\n"
        f"Of its list, kite_instrument_master {found}.\n"
        "Something else has changed it since. Run the DAG again: it stores the list.\n"
    )
    load_at(cli, "2026-11-24 11:00", GOOD)
    assert verdict_of(status_at(cli, "2026-11-24 12:00")).startswith("FRESH: ")


def test_table_under_another_name_is_not_there(cli: CommandLine) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query("ALTER TABLE kite_instrument_master RENAME TO kite_instrument_master_old")
    verdict = verdict_of(status_at(cli, "2026-11-24 12:00"))
    assert "\nOf its list, kite_instrument_master is not there.\n" in verdict


def test_rows_without_a_moment_are_those_of_no_list(cli: CommandLine) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query("UPDATE kite_instrument_master SET last_updated = NULL")
    verdict = verdict_of(status_at(cli, "2026-11-24 12:00"))
    assert "\nOf its list, kite_instrument_master has 0 rows now.\n" in verdict


def test_run_that_recorded_no_rows_is_no_list(cli: CommandLine) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query("UPDATE ingestion_run SET rows_inserted = NULL, list_moment = NULL")
    assert "\nOf its list, kite_instrument_master has 0 rows now.\n" in verdict_of(
        status_at(cli, "2026-11-24 12:00")
    )


def test_rows_that_are_gone_from_the_list_are_not_counted(cli: CommandLine) -> None:
    load_at(cli, "2026-11-23 08:31", GOOD)
    load_at(cli, "2026-11-24 08:31", OTHER)
    assert cli.query("SELECT count(*) FROM kite_instrument_master") == [(2,)]
    assert verdict_of(status_at(cli, "2026-11-24 12:00")).startswith("FRESH: ")


def test_role_that_may_only_read(
    cli: CommandLine,
    server: Server,
    database: str,
    make_role: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    role = make_role()
    server.execute(
        f"GRANT SELECT ON ingestion_run, kite_instrument_master TO {role}", dbname=database
    )
    monkeypatch.setenv("DB_USER", role)
    monkeypatch.setenv("DB_PASSWORD", "Role-Secret-3f9")
    assert verdict_of(status_at(cli, "2026-11-24 12:00")).startswith("FRESH: ")


# Clocks


@pytest.mark.parametrize(
    ("zone", "machine"),
    [
        pytest.param("Asia/Kolkata", "America/New_York", id="server east of the machine"),
        pytest.param("America/New_York", "Pacific/Auckland", id="server west of the machine"),
    ],
)
@pytest.mark.parametrize("has_history", [True, False], ids=["history", "rows alone"])
def test_verdict_does_not_depend_on_time_zones(
    cli: CommandLine,
    server: Server,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    zone: str,
    machine: str,
    has_history: bool,
) -> None:
    server.execute(f"ALTER DATABASE {database} SET timezone = '{zone}'")
    cli.query(f"SET timezone = '{zone}'")
    monkeypatch.setenv("TZ", machine)
    time.tzset()
    try:
        load_at(cli, "2026-11-23 08:31", OTHER)
        load_at(cli, "2026-11-24 08:00", GOOD)
        if not has_history:
            cli.query("DROP TABLE ingestion_run CASCADE")
        not_stale = 0 if has_history else 4
        assert status_at(cli, "2026-11-24 08:01").status == not_stale
        assert status_at(cli, "2026-11-25 09:29").status == not_stale
        assert status_at(cli, "2026-11-25 09:30").status == 1
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("here", "server_now"),
    [
        pytest.param("2025-11-24 09:00", "2025-11-24 09:00", id="the run's clocks were ahead"),
        pytest.param("2026-11-24 09:00", "2025-11-24 09:00", id="the server's clock is behind"),
        pytest.param("2025-11-24 09:00", "2026-11-24 09:00", id="this machine's clock is behind"),
    ],
)
def test_run_that_is_ahead_of_a_clock_is_never_fresh(
    cli: CommandLine, here: str, server_now: str
) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    in_words = {
        "2025-11-24 09:00": "Mon 24 Nov 2025 09:00 IST",
        "2026-11-24 09:00": "Tue 24 Nov 2026 09:00 IST",
    }
    assert verdict_of(status_at(cli, here, server_now=server_now)) == (
        f"UNKNOWN: {NAME}: run 1 is ahead of the clock.\n"
        "It started Tue 24 Nov 2026 08:31 IST.\n"
        "It ended Tue 24 Nov 2026 08:32 IST.\n"
        "Its rows are of Tue 24 Nov 2026 08:32 IST.\n"
        "Its list came Tue 24 Nov 2026 08:31 IST.\n"
        f"Now it is {in_words[here]} by the clock of this machine,\n"
        f"and {in_words[server_now]} by that of the database server.\n"
        'Set the wrong clock right; then see "A clock that was ahead" in\n'
        "docs/production.md.\n"
    )


@pytest.mark.parametrize("column", ["started_at", "ended_at", "list_moment"])
def test_each_moment_of_a_run_may_be_an_hour_ahead_and_no_more(
    cli: CommandLine, column: str
) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query(f"UPDATE ingestion_run SET {column} = %s::timestamptz", ist("2026-11-24 10:00"))
    cli.query("UPDATE kite_instrument_master SET last_updated = list_moment FROM ingestion_run")
    assert verdict_of(status_at(cli, "2026-11-24 09:00")).startswith("FRESH: ")
    cli.query(f"UPDATE ingestion_run SET {column} = {column} + interval '1 second'")
    cli.query("UPDATE kite_instrument_master SET last_updated = list_moment FROM ingestion_run")
    assert verdict_of(status_at(cli, "2026-11-24 09:00")).startswith("UNKNOWN: ")


def test_clocks_that_are_apart_the_later_one_says_what_is_expected(cli: CommandLine) -> None:
    load_at(cli, "2026-11-23 08:31", GOOD)
    for here, server_now in (("23 12:00", "24 12:00"), ("24 12:00", "23 12:00")):
        result = status_at(cli, f"2026-11-{here}", server_now=f"2026-11-{server_now}")
        assert "Expected: a load since Tue 24 Nov 2026 08:00 IST." in verdict_of(result)


def test_good_run_after_one_that_was_ahead_counts(cli: CommandLine) -> None:
    load_at(cli, "2026-11-20 08:31", OTHER)
    cli.query("UPDATE ingestion_run SET started_at = %s", ist("2027-11-20 08:31"))
    assert verdict_of(status_at(cli, "2026-11-20 12:00")).startswith("UNKNOWN: ")
    load_at(cli, "2026-11-24 08:31", GOOD)
    assert verdict_of(status_at(cli, "2026-11-24 12:00")).startswith("FRESH: ")
    assert verdict_of(status_at(cli, "2026-11-25 12:00")).startswith("STALE: ")


def test_duration_between_clocks_that_are_apart_is_not_told(cli: CommandLine) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query("UPDATE ingestion_run SET ended_at = ended_at + interval '1 year'")
    result = status_at(cli, "2026-11-24 12:00")
    assert "succeeded       ?        2" in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 80


# Without a history


NO_HISTORY = (
    "  There is no history of runs (a run makes one where it may): the newest rows\n"
    "  had to tell. They cannot tell whether the list is a new one, and whole.\n"
)


@pytest.mark.parametrize(
    "column_type", ["timestamp", "timestamptz"], ids=["without zone", "with zone"]
)
def test_newest_rows_tell_where_there_is_no_history(cli: CommandLine, column_type: str) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query("DROP TABLE ingestion_run CASCADE")
    cli.query(f"ALTER TABLE kite_instrument_master ALTER last_updated TYPE {column_type}")
    assert status_at(cli, "2026-11-24 12:00") == Result(
        4, f"\nUNKNOWN: {NAME} was loaded on\n  Tue 24 Nov 2026 08:32 IST.\n{NO_HISTORY}", ""
    )
    assert status_at(cli, "2026-11-25 12:00") == Result(
        1,
        f"\nSTALE: {NAME} was last loaded on\n"
        "  Tue 24 Nov 2026 08:32 IST. Expected: a load since Wed 25 Nov 2026 08:00 IST.\n"
        f"{NO_HISTORY}",
        "",
    )


@pytest.mark.parametrize("moment", ["2027-11-24 08:31+05:30", "infinity"])
def test_rows_that_are_ahead_of_the_clock_are_not_fresh(cli: CommandLine, moment: str) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query("DROP TABLE ingestion_run CASCADE")
    cli.query(
        "UPDATE kite_instrument_master SET last_updated = %s::timestamptz"
        " WHERE tradingsymbol = 'A'",
        moment,
    )
    assert verdict_of(status_at(cli, "2026-11-24 12:00")) == (
        f"UNKNOWN: {NAME}: rows ahead of the clock: 1.\n"
        "Now it is Tue 24 Nov 2026 12:00 IST by the clock of this machine,\n"
        "and Tue 24 Nov 2026 12:00 IST by that of the database server.\n"
        'Set the wrong clock right; then see "A clock that was ahead" in\n'
        "docs/production.md.\n"
    )


# Which DAGs


def add_run(cli: CommandLine, dag_id: int, name: str, moment: str, status: str) -> None:
    cli.query(
        "INSERT INTO ingestion_run (dag_id, dag_name, source, status, started_at, ended_at)"
        " VALUES (%s, %s, 'api', %s, %s, %s) RETURNING 1",
        *(dag_id, name, status, ist(moment), ist(moment)),
    )


FUNCTION = "def other():\n    return ''\n"
INCREMENTAL = """
from pathlib import Path
from typing import Any
from shared.feed import Batch, Feed
from shared.models.table import Column, Table

FEED = Feed(
    Path(__file__).resolve().parent,
    "rows",
    Table("t", (Column("a", "text"),), ("a",), last_updated="", created_at="", is_snapshot=False),
    fetch=lambda run: (),
    parse=lambda body: Batch([]),
)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[[str], DAG]]:
    """DAG 2 of the test's own, by its code."""

    def make(code: str) -> DAG:
        folder = tmp_path / "root" / "dag_2_other"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "__init__.py").write_text(code)
        [dag] = discover_dags(tmp_path / "root")
        return dag

    yield make
    sys.modules.pop("dag_2_other", None)


def judge(
    capsys: pytest.CaptureFixture[str], now: str, *dags: DAG, **options: Any
) -> tuple[str, str]:
    """The verdict on these DAGs and DAG 1, and what is said."""
    judged = [discover_dags(PROJECT)[0], *dags]
    capsys.readouterr()
    moments = ist(now), ist(now)
    with override_config("the test", {"calendar": {"sessions": ["2026-11-24"]}}):
        verdict = show_status(judged, (), clocks=lambda manager: moments, **options)
    return verdict, capsys.readouterr().out


MakeDAG = Callable[[str], DAG]
Captured = pytest.CaptureFixture[str]


def test_each_dag_has_its_own_verdict(cli: CommandLine, other: MakeDAG, capsys: Captured) -> None:
    cli.load(GOOD)
    say_it_began(cli, "2026-11-24 08:31")
    add_run(cli, 2, "other", "2026-11-20 08:31", "succeeded")
    verdict, output = judge(capsys, "2026-11-24 12:00", other(FUNCTION))
    assert verdict == "stale"
    assert f"FRESH: {NAME}" in output
    assert "STALE: DAG 2 other was last loaded on\n  Fri 20 Nov 2026 08:31 IST." in output
    only = status_at(cli, "2026-11-24 12:00", "--dag", "1")
    assert only.status == 0
    assert "other" not in only.stdout
    assert len(re.findall(r"^ +\d+ +\d+ 2026", only.stdout, re.M)) == 1


def test_good_run_of_one_dag_says_nothing_of_another(
    cli: CommandLine, other: MakeDAG, capsys: Captured
) -> None:
    cli.load(GOOD)
    cli.query("TRUNCATE ingestion_run CASCADE")
    add_run(cli, 2, "other", "2026-11-24 08:31", "succeeded")
    verdict, output = judge(capsys, "2026-11-24 12:00", other(FUNCTION))
    assert verdict == "stale"
    assert f"\nSTALE: {NAME} was never loaded." in output
    assert output.endswith("\nFRESH: DAG 2 other was loaded on\n  Tue 24 Nov 2026 08:31 IST.\n")


def test_dag_that_never_ran_is_stale(cli: CommandLine, other: MakeDAG, capsys: Captured) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    verdict, output = judge(capsys, "2026-11-24 12:00", other(FUNCTION))
    assert verdict == "stale"
    assert "\nSTALE: DAG 2 other was never loaded.\n" in output


def test_dag_that_cannot_be_loaded_is_not_judged_and_a_stale_one_weighs_more(
    cli: CommandLine, other: MakeDAG, capsys: Captured
) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    broken = other("raise RuntimeError")
    verdict, output = judge(capsys, "2026-11-24 12:00", broken)
    assert verdict == "unknown"
    assert f"\nFRESH: {NAME}" in output
    assert "\nUNKNOWN: DAG 2 other cannot be judged:\n  DAG 2: dag_2_other cannot be" in output
    assert judge(capsys, "2026-11-25 12:00", broken)[0] == "stale"


def test_table_that_may_not_be_read_leaves_the_other_verdicts(
    cli: CommandLine,
    other: MakeDAG,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    database: str,
    make_role: Callable[..., str],
) -> None:
    cli.load(GOOD)
    add_run(cli, 2, "other", "2026-11-24 08:31", "succeeded")
    role = make_role()
    server.execute(f"GRANT SELECT ON ingestion_run TO {role}", dbname=database)
    monkeypatch.setenv("DB_USER", role)
    monkeypatch.setenv("DB_PASSWORD", "Role-Secret-3f9")
    verdict, output = judge(capsys, "2026-11-24 12:00", other(FUNCTION))
    assert verdict == "unknown"
    assert re.search(rf"^UNKNOWN: {NAME} cannot be judged:\n  .*permission denied", output, re.M)
    assert "\nFRESH: DAG 2 other was loaded on\n" in output


def test_function_without_a_history_is_not_judged(
    cli: CommandLine, other: MakeDAG, capsys: Captured
) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query("DROP TABLE ingestion_run CASCADE")
    assert judge(capsys, "2026-11-24 12:00", other(FUNCTION))[1].endswith(
        "\nUNKNOWN: DAG 2 other cannot be judged:\n"
        "  there is no history of runs. A run makes one where it may.\n"
    )


def test_runs_of_a_dag_that_is_gone_are_shown_and_decide_nothing(cli: CommandLine) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    add_run(cli, 7, "gone", "2026-11-20 08:31", "failed")
    result = status_at(cli, "2026-11-24 12:00")
    assert result.status == 0
    assert re.search(r"^ +2 +7 2026-11-20", result.stdout, re.M)
    assert len(re.findall("FRESH|STALE", result.stdout)) == 1


def test_feed_that_does_not_change_daily_may_repeat_itself(
    cli: CommandLine, other: MakeDAG, capsys: Captured
) -> None:
    load_at(cli, "2026-11-27 08:31", GOOD)
    for moment in ("2026-11-26 08:31", "2026-11-27 08:35"):
        add_run(cli, 2, "other", moment, "succeeded")
    cli.query("UPDATE ingestion_run SET dump_sha256 = 'same' WHERE dag_id = 2")
    verdict, output = judge(capsys, "2026-11-27 12:00", other(INCREMENTAL))
    assert verdict == "fresh"
    assert output.endswith("\nFRESH: DAG 2 other was loaded on\n  Fri 27 Nov 2026 08:35 IST.\n")


@pytest.mark.parametrize(("code", "word"), [(INCREMENTAL, "fresh"), (FUNCTION, "stale")])
def test_file_that_was_read_takes_nothing_away_from_an_incremental_feed(
    code: str, word: str, cli: CommandLine, other: MakeDAG, capsys: Captured
) -> None:
    load_at(cli, "2026-11-27 08:31", GOOD)
    add_run(cli, 2, "other", "2026-11-27 08:35", "succeeded")
    add_run(cli, 2, "other", "2026-11-27 09:00", "succeeded")
    cli.query("UPDATE ingestion_run SET source = 'old.csv' WHERE run_id = 3")
    assert judge(capsys, "2026-11-27 12:00", other(code))[0] == word


def test_all_errors_of_the_runs_that_are_shown(cli: CommandLine) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    for day, dag_id in ((20, 1), (21, 7)):
        add_run(cli, dag_id, "x", f"2026-11-{day} 08:31", "failed")
    cli.query("UPDATE ingestion_run SET error = 'no luck ' || run_id WHERE status = 'failed'")
    add_run(cli, 1, "x", "2026-11-22 08:31", "failed")
    output = status_at(cli, "2026-11-24 12:00").stdout
    assert "\nRun 3 failed: no luck 3\n\nRun 2 failed: no luck 2\n" in output
    assert "\nRun 4 failed: It is not on record why.\n" in output


def test_error_of_several_runs_is_told_once_with_all_its_lines(cli: CommandLine) -> None:
    cli.load(GOOD)
    for day, dag_id in ((20, 1), (21, 7), (22, 1)):
        add_run(cli, dag_id, "x", f"2026-11-{day} 08:31", "failed")
    cli.query(
        "UPDATE ingestion_run SET error = %s WHERE status = 'failed'", "no luck:\nFRESH: DAG 1"
    )
    output = cli.run("status").stdout
    assert output.count("no luck") == 1
    assert "\nRuns 4, 3 and 2 failed: no luck:\n  FRESH: DAG 1\n" in output


def test_what_is_odd_about_the_last_run_of_each_dag(cli: CommandLine) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    load_at(cli, "2026-11-24 08:45", GOOD)
    add_run(cli, 7, "x", "2026-11-24 08:50", "succeeded")
    add_run(cli, 8, "x", "2026-11-24 08:50", "failed")
    cli.query("UPDATE ingestion_run SET source = 'a.csv', error = 'what changed' WHERE run_id = 3")
    output = status_at(cli, "2026-11-24 09:00").stdout
    assert "\nRun 3: what changed\n" in output
    assert "\nRun 3 imported a saved dump:\n  a.csv\n" in output
    assert "\nRun 2 brought the same list, byte for byte, as run 1.\n" in output


def test_run_that_goes_on_and_one_that_was_killed(cli: CommandLine, tmp_path: Path) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    add_run(cli, 1, "x", "2026-11-24 10:00", "running")
    with run_lock.hold(tmp_path / "logs", 1) as lock:
        assert lock is not None
        cli.query("UPDATE ingestion_run SET host = %s WHERE run_id = 2", lock.host)
        result = status_at(cli, "2026-11-24 12:00")
        assert re.search(r"^ +2 +1 2026-11-24 10:00 running +-", result.stdout, re.M)
        assert "failed" not in result.stdout
    result = status_at(cli, "2026-11-24 12:00")
    assert result.status == 0
    assert re.search(r"^ +2 +1 2026-11-24 10:00 failed +-", result.stdout, re.M)
    assert "\nRun 2 failed: It ended without a word: it was killed" in result.stdout


def test_run_is_alone_as_long_as_no_other_one_lives(tmp_path: Path) -> None:
    with run_lock.hold(tmp_path, 1) as first:
        assert first is not None
        assert first.is_alone()
        with run_lock.hold(tmp_path, 1) as second:
            assert second is not None
            assert not first.is_alone()
            assert not second.is_alone()
            assert not run_lock.has_ended(first.host)
        assert first.is_alone()
        assert not run_lock.has_ended(first.host)
    assert run_lock.has_ended(first.host)


METRIC = re.compile(
    r'stock_ingestion_(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (-?[\d.]+)'
)


def read_metrics(text: str) -> dict[tuple[Any, ...], float]:
    """The samples by name and labels. A line that the format does not allow, or that comes twice,
    fails the test: each gauge is one group, after its HELP and its TYPE."""
    assert text.endswith("\n")
    samples: dict[tuple[Any, ...], float] = {}
    names: list[str] = []
    lines = text[:-1].split("\n")
    while lines:
        helped = re.fullmatch(r"# HELP stock_ingestion_(\w+) \S.*", lines.pop(0))
        assert helped
        assert helped[1] not in names
        names.append(helped[1])
        assert lines.pop(0) == f"# TYPE stock_ingestion_{helped[1]} gauge"
        assert lines[0][0] != "#"
        while lines and lines[0][0] != "#":
            sample = METRIC.fullmatch(lines.pop(0))
            assert sample
            assert sample[1] == helped[1]
            labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample[2] or "")
            key = (sample[1], *labels)
            assert key not in samples
            samples[key] = float(sample[3])
    return samples


def test_metrics(cli: CommandLine, other: MakeDAG, capsys: Captured) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query(
        "UPDATE ingestion_run SET rows_rejected = 1, durations = %s",
        '{"store": 1.25, "a\\"b\\n": 2}',
    )
    add_run(cli, 1, "x", "2026-11-24 08:45", "failed")
    add_run(cli, 1, "x", "2026-11-24 08:50", "running")
    add_run(cli, 7, "gone", "2026-11-24 08:50", "succeeded")
    verdict, output = judge(capsys, "2026-11-24 09:00", other(FUNCTION), as_metrics=True)
    assert verdict == "stale"
    dag_1 = ("dag_id", "1"), ("name", "import_instruments_from_kite")
    dag_2 = ("dag_id", "2"), ("name", "other")
    assert read_metrics(output) == {
        ("up",): 1,
        ("fresh", *dag_1): 1,
        ("fresh", *dag_2): 0,
        ("age_seconds", *dag_1): 29 * 60,
        ("last_success_timestamp_seconds", *dag_1): ist("2026-11-24 08:32").timestamp() + 30.06,
        ("last_success_fetched_rows", *dag_1): 2,
        ("last_success_rejected_rows", *dag_1): 1,
        ("last_success_stored_rows", *dag_1): 2,
        ("last_success_step_duration_seconds", *dag_1, ("step", "store")): 1.25,
        ("last_success_step_duration_seconds", *dag_1, ("step", r"a\"b\n")): 2,
        ("last_run_timestamp_seconds", *dag_1): ist("2026-11-24 08:45").timestamp(),
        ("last_run_succeeded", *dag_1): 0,
    }
    result = status_at(cli, "2026-11-24 09:00", "--prometheus")
    assert (result.status, result.stderr) == (0, "")
    assert read_metrics(result.stdout).items() < read_metrics(output).items()


STATE = """
def describe_state(cursor):
    cursor.execute("SELECT sum(value) FROM figure")
    [(found,)] = cursor.fetchall()
    return {"shares wanted": 30, "complete": found, "days that are missing": 1234, "more": 0}

"""
WITH_STATE = STATE + INCREMENTAL.replace("fetch=", "describe_state=describe_state,\n    fetch=")
FIGURES = {"shares wanted": 30, "complete": 28, "days that are missing": 1234, "more": 0}


def test_state_of_a_dag_stands_beside_its_verdict(
    cli: CommandLine, other: MakeDAG, capsys: Captured
) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    add_run(cli, 2, "other", "2026-11-24 08:31", "succeeded")
    cli.query("CREATE TABLE figure AS SELECT 28.0 AS value")
    dag = other(WITH_STATE)
    _, output = judge(capsys, "2026-11-24 12:00", dag)
    assert output.endswith(
        "\nFRESH: DAG 2 other was loaded on\n  Tue 24 Nov 2026 08:31 IST.\n"
        "  shares wanted: 30, complete: 28, days that are missing: 1,234, more: 0\n"
    )
    _, output = judge(capsys, "2026-11-24 12:00", dag, as_json=True)
    assert [each["state"] for each in json.loads(output)["dags"]] == [None, FIGURES]
    _, output = judge(capsys, "2026-11-24 12:00", dag, as_metrics=True)
    labels = ("dag_id", "2"), ("name", "other")
    found = {key[3:]: n for key, n in read_metrics(output).items() if key[0] == "state"}
    assert found == {(("figure", name),): number for name, number in FIGURES.items()}
    assert ("state", *labels, ("figure", "complete")) in read_metrics(output)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        pytest.param(None, 'relation "figure" does not exist', id="no table"),
        pytest.param("SELECT NULL::int AS value", "TypeError: int", id="a fault of its own"),
    ],
)
def test_state_that_cannot_be_told_takes_no_verdict_away(
    cli: CommandLine, other: MakeDAG, capsys: Captured, table: str | None, why: str
) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    add_run(cli, 2, "other", "2026-11-24 08:31", "succeeded")
    if table:
        cli.query(f"CREATE TABLE figure AS {table}")
    dag = other(WITH_STATE)
    verdict, output = judge(capsys, "2026-11-24 12:00", dag)
    assert verdict == "fresh"
    assert (
        "\nFRESH: DAG 2 other was loaded on\n  Tue 24 Nov 2026 08:31 IST.\n  Its state " in output
    )
    assert why in output.partition("\n  Its state cannot be told:\n")[2]
    _, output = judge(capsys, "2026-11-24 12:00", dag, as_json=True)
    assert [each["state"] for each in json.loads(output)["dags"]] == [None, None]


def test_state_that_takes_too_long_is_given_up(
    cli: CommandLine, other: MakeDAG, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.query("CREATE VIEW figure AS SELECT 1 AS value FROM pg_sleep(60)")
    monkeypatch.setattr(freshness, "_STATE_TIMEOUT", "10ms")
    verdict, output = judge(capsys, "2026-11-24 12:00", other(WITH_STATE))
    assert verdict == "stale"
    assert "\nSTALE: DAG 2 other was never loaded.\n" in output
    assert "  Its state cannot be told:\n" in output
    assert "statement timeout" in output


def test_metrics_of_a_run_that_goes_on_and_one_that_was_killed(
    cli: CommandLine, tmp_path: Path
) -> None:
    def last_run_succeeded() -> list[float]:
        metrics = read_metrics(status_at(cli, "2026-11-24 09:00", "--prometheus").stdout)
        return [value for (name, *_), value in metrics.items() if name == "last_run_succeeded"]

    load_at(cli, "2026-11-24 08:31", GOOD)
    with run_lock.hold(tmp_path / "logs", 1) as lock:
        assert lock is not None
        add_run(cli, 1, "x", "2026-11-24 08:50", "running")
        cli.query("UPDATE ingestion_run SET host = %s WHERE run_id = 2", lock.host)
        assert last_run_succeeded() == [1]
    assert last_run_succeeded() == [0]


def test_status_as_json_is_one_document(cli: CommandLine, other: MakeDAG, capsys: Captured) -> None:
    load_at(cli, "2026-11-24 08:31", GOOD)
    cli.kite.expire_token()
    cli.run("--dag", "1")
    _, output = judge(capsys, "2026-11-24 12:00", other(FUNCTION), as_json=True)
    document = json.loads(output)
    assert list(document) == ["verdict", "dags", "runs"]
    assert document["verdict"] == "stale"
    assert document["dags"] == [
        {
            "dag_id": 1,
            "name": "import_instruments_from_kite",
            "schedule": "daily",
            "verdict": "fresh",
            "reason": f"{NAME} was loaded on\nTue 24 Nov 2026 08:31 IST.",
            "loaded_at": "2026-11-24T08:31:00+05:30",
            "expected_since": "2026-11-24T08:00:00+05:30",
            "state": None,
            "is_due": False,
        },
        {
            "dag_id": 2,
            "name": "other",
            "schedule": "daily",
            "verdict": "stale",
            "reason": "DAG 2 other was never loaded.\n"
            "Expected: a load since Tue 24 Nov 2026 08:30 IST.",
            "loaded_at": None,
            "expected_since": "2026-11-24T08:30:00+05:30",
            "state": None,
            "is_due": True,
        },
    ]
    last, first = document["runs"]
    assert (first["run_id"], first["status"], first["fetched"]) == (1, "succeeded", 2)
    assert first["started_at"] == "2026-11-24T08:31:00+05:30"
    assert first["durations"]["store"] > 0
    assert last["error"].startswith("Kite refused the session")
    result = status_at(cli, "2026-11-24 12:00", "--json")
    found = json.loads(result.stdout)
    assert (result.status, found["verdict"], found["runs"]) == (0, "fresh", document["runs"])


def test_dag_that_was_renamed_is_one(cli: CommandLine) -> None:
    cli.load(GOOD)
    add_run(cli, 1, "old_name", "2026-11-02 08:31", "failed")
    say_it_began(cli, "2026-11-24 08:31", 1)
    result = status_at(cli, "2026-11-24 12:00")
    assert result.status == 0
    assert len(re.findall("FRESH|STALE", result.stdout)) == 1


def test_dag_that_there_is_not(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.load(GOOD)
    monkeypatch.setattr("sys.orig_argv", ["sh"])
    result = cli.run("status", "--dag", "7")
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == (
        "ERROR: There is no DAG 7. Known ids: 1, 2, 3 (see sh execute_dags.py list).\n"
    )


def test_last_ten_runs_are_shown_newest_first(cli: CommandLine) -> None:
    cli.load(GOOD)
    for day in range(1, 13):
        add_run(cli, 1, "import_instruments_from_kite", f"2026-11-{day:02d} 08:31", "failed")
    output = cli.run("status").stdout
    assert re.findall(r"^ +(\d+) +1 2026", output, re.M) == [str(n) for n in range(13, 3, -1)]


def test_lines_fit_into_80_columns(cli: CommandLine) -> None:
    cli.load(GOOD)
    cli.query(
        "UPDATE ingestion_run SET rows_fetched = 117000, rows_rejected = 117000,"
        " rows_inserted = 117000, rows_updated = 117000, run_id = DEFAULT RETURNING 1"
    )
    say_it_began(cli, "2020-11-24 08:31")
    lines = cli.run("status").stdout.splitlines()
    assert any(" 117,000 " in line for line in lines)
    assert max(map(len, lines)) < 80


# What is no verdict


def test_database_that_is_away(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PORT", "1")
    monkeypatch.setattr("shared.utils.interruptible.time.sleep", lambda seconds: None)
    result = cli.run("status")
    assert (result.status, result.stdout) == (4, "")
    assert re.findall(r"^(?!WARNING: ).*", result.stderr, re.M)[0].startswith(
        "ERROR: No connection to "
    )
    assert len(re.findall(r"^ERROR", result.stderr, re.M)) == 1

    result = cli.run("status", "--json")
    assert result.status == 4
    document = json.loads(result.stdout)
    [verdict] = document["dags"]
    assert (document["verdict"], verdict["verdict"], document["runs"]) == ("unknown", "unknown", [])
    assert verdict["reason"].startswith(f"{NAME} cannot be judged:\nNo connection to ")

    result = cli.run("status", "--prometheus")
    assert result.status == 4
    assert read_metrics(result.stdout) == {
        ("up",): 0,
        ("fresh", ("dag_id", "1"), ("name", "import_instruments_from_kite")): 0,
    }


def test_password_that_is_refused(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_USER", "nobody_of_this_name")
    monkeypatch.setenv("DB_PASSWORD", "Role-Secret-3f9")
    result = cli.run("status", "--json")
    assert (result.status, json.loads(result.stdout)["verdict"]) == (4, "unknown")
    assert "Role-Secret-3f9" not in result.stdout + result.stderr


def test_configuration_that_has_faults(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DB_USER")
    result = cli.run("status")
    assert (result.status, result.stdout) == (2, "")
    assert "DB_USER" in result.stderr


def test_holidays_that_are_no_dates(cli: CommandLine) -> None:
    cli.holidays.append("2 October")
    result = cli.run("status")
    assert result.status == 2
    assert 'calendar.holidays: expected a list of dates such as ["2026-01-26"]' in result.stderr


def test_status_needs_no_credentials_of_kite(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.load(GOOD)
    asked = len(cli.kite.requests)
    for name in ("KITE_API_KEY", "KITE_API_SECRET", "KITE_ACCESS_TOKEN"):
        monkeypatch.delenv(name)
    assert cli.run("status").status == 0
    assert len(cli.kite.requests) == asked
