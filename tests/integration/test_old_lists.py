"""Lists of earlier days: one by one with --dated, and a folder of them with --from-folder."""

from __future__ import annotations

import gzip
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from shared import run_lock
from shared.calendar import IST
from shared.utils import run_history
from tests.command_line import CommandLine
from tests.conftest import Project, Server
from tests.instruments import instrument, to_csv
from tests.table_model import wait_until

ROWS = [instrument(number << 8, f"S{number}", "NSE", expiry=None) for number in range(1, 121)]
LISTS = {
    f"nse_2025-08-{day}.csv{suffix}": to_csv(
        [*ROWS[day - 18 :], instrument(day, f"NEW{day}", "NSE", expiry=None)]
    )
    for day, suffix in ((18, ""), (19, ".gz"), (20, ".gz"), (21, ""))
}
NAMES = sorted(LISTS)
DAYS = [date(2025, 8, day) for day in range(18, 22)]
BROKEN = b"<html>Bad gateway</html>\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    for name, content in LISTS.items():
        save(folder / name, content)
    return folder


def save(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def recorded(cli: CommandLine) -> list[tuple[str, str, date]]:
    """Of each run the file's name, how it ended, and the day of its list."""
    runs = cli.runs("source", "status", "valid_from")
    return [(Path(s).name, status, at and at.astimezone(IST).date()) for s, status, at in runs]


GOOD = [(name, "succeeded", day) for name, day in zip(NAMES, DAYS)]


def test_folder_is_imported_in_the_order_of_its_days(cli: CommandLine, folder: Path) -> None:
    (folder / "notes.txt").touch()
    (folder / "2024").mkdir()
    result = cli.run("--dag", "1", "--from-folder", str(folder))
    assert (result.status, result.stderr) == (0, "")
    assert recorded(cli) == GOOD
    assert cli.kite.requests == []
    lines = re.sub(r"\d+\.\d\d s", "N s", result.stdout).splitlines()
    assert lines == [
        "DAG 1 import_instruments_from_kite",
        f"4 lists in {folder}, of 2025-08-18 to 2025-08-21",
        "left out, as not called *.csv or *.csv.gz: 2024, notes.txt",
        "       4  to be imported",
        "list 1 of 4: 2025-08-18 nse_2025-08-18.csv: 121 stored, all new, N s",
        "list 2 of 4: 2025-08-19 nse_2025-08-19.csv.gz: 120 stored, 1 new, 3 changes, N s",
        "list 3 of 4: 2025-08-20 nse_2025-08-20.csv.gz: 119 stored, 1 new, 3 changes, N s",
        "list 4 of 4: 2025-08-21 nse_2025-08-21.csv: 118 stored, 1 new, 3 changes, N s",
        "DAG 1 import_instruments_from_kite succeeded in N s: 4 lists imported",
    ]


def test_folder_becomes_a_history_that_has_each_list_on_its_day(
    cli: CommandLine, folder: Path
) -> None:
    assert cli.run("--dag", "1", "--from-folder", str(folder)).status == 0
    for name, day in zip(NAMES, DAYS):
        listed = cli.query(
            "SELECT tradingsymbol FROM kite_instrument_as_of(%s::timestamptz)", f"{day} 23:59+05:30"
        )
        assert {symbol for (symbol,) in listed} == {
            line.split(",")[2] for line in LISTS[name].decode().splitlines()[1:]
        }


def test_call_that_was_stopped_by_a_broken_list_goes_on_there(
    cli: CommandLine, folder: Path
) -> None:
    save(folder / NAMES[2], BROKEN)
    stopped = cli.run("--dag", "1", "--from-folder", str(folder))
    assert stopped.status == 1
    failed = (NAMES[2], "failed", None)
    assert recorded(cli) == [*GOOD[:2], failed]
    assert (
        "ERROR: list 3 of 4 (2025-08-20 nse_2025-08-20.csv.gz) failed. 2 of 4 lists are imported, "
        "2 of them by this call. The same call goes on from there.\n"
    ) in stopped.stderr
    save(folder / NAMES[2], LISTS[NAMES[2]])
    gone_on = cli.run("--dag", "1", "--from-folder", str(folder))
    assert (gone_on.status, gone_on.stderr) == (0, "")
    assert recorded(cli) == [*GOOD[:2], failed, *GOOD[2:]]
    assert "\n       2  imported already\n       2  to be imported\nlist 3 of 4: " in gone_on.stdout


def test_folder_that_is_imported_already_makes_no_run(cli: CommandLine, folder: Path) -> None:
    cli.run("--dag", "1", "--from-folder", str(folder))
    save(folder / "nse_2025-08-22.csv", LISTS[NAMES[3]])
    assert cli.run("--dag", "1", "--from-folder", str(folder)).status == 0
    again = cli.run("--dag", "1", "--from-folder", str(folder))
    assert again.status == 0
    assert "       5  imported already\n       0  to be imported\n" in again.stdout
    assert recorded(cli) == [*GOOD, ("nse_2025-08-22.csv", "succeeded", date(2025, 8, 22))]


def test_list_that_has_changed_is_imported_again(cli: CommandLine, folder: Path) -> None:
    cli.run("--dag", "1", "--from-folder", str(folder))
    save(folder / NAMES[3], to_csv(ROWS))
    assert cli.run("--dag", "1", "--from-folder", str(folder)).status == 0
    assert recorded(cli) == [*GOOD, GOOD[3]]


def test_list_that_repeats_the_one_before_it_of_the_same_day_is_left_out(
    cli: CommandLine, folder: Path
) -> None:
    save(folder / f"{NAMES[0]}.gz", LISTS[NAMES[0]])
    for done in (0, 4):
        result = cli.run("--dag", "1", "--from-folder", str(folder))
        assert "       1  the same as the list before, of the same day\n" in result.stdout
        assert f"       {4 - done}  to be imported\n" in result.stdout
    assert recorded(cli) == GOOD


def test_lists_of_one_day_that_go_back_and_forth_are_each_imported_once(
    cli: CommandLine, folder: Path
) -> None:
    for hour, name in enumerate((NAMES[0], NAMES[1], NAMES[0])):
        save(folder / f"2025-08-22_0{hour}.csv", LISTS[name])
    assert cli.run("--dag", "1", "--from-folder", str(folder)).status == 0
    assert len(recorded(cli)) == 7
    assert cli.run("--dag", "1", "--from-folder", str(folder)).status == 0
    assert len(recorded(cli)) == 7


def test_lists_of_days_before_the_last_list_are_refused_all_at_once(
    cli: CommandLine, folder: Path
) -> None:
    for name in NAMES[:2]:
        (folder / name).rename(folder.parent / name)
    assert cli.run("--dag", "1", "--from-folder", str(folder)).status == 0
    for name in NAMES[:2]:
        (folder.parent / name).rename(folder / name)
    result = cli.run("--dag", "1", "--from-folder", str(folder))
    assert result.status == 2
    assert result.stderr == (
        "ERROR: 2 lists not imported yet, and of days before that of the last list in the "
        "database, 2025-08-21:\n"
        "  2025-08-18 nse_2025-08-18.csv\n"
        "  2025-08-19 nse_2025-08-19.csv.gz\n"
        "  History is written forwards. Import the old lists into a new database first (DB_NAME), "
        "and then the later ones: all that are in one folder are one call. Nothing was imported.\n"
    )
    assert recorded(cli) == GOOD[2:]


def test_old_lists_are_refused_where_there_is_a_list_of_today(
    cli: CommandLine, folder: Path
) -> None:
    cli.load(to_csv(ROWS))
    result = cli.run("--dag", "1", "--from-folder", str(folder))
    assert (result.status, len(cli.runs("run_id"))) == (2, 1)
    assert "4 lists not imported yet, and of days before" in result.stderr


def test_todays_list_follows_old_ones_and_they_are_not_fresh(
    cli: CommandLine, folder: Path
) -> None:
    assert cli.run("--dag", "1", "--from-folder", str(folder)).status == 0
    status = cli.run("status", "--dag", "1")
    assert status.status == 1
    assert "holds the list of a saved dump" in status.stdout
    assert cli.load(to_csv(ROWS)).status == 0
    assert cli.runs("source", "status")[-1] == ("api", "succeeded")


def test_dry_run_says_what_would_be_imported_and_imports_nothing(
    cli: CommandLine, folder: Path
) -> None:
    for name in NAMES[2:]:
        (folder / name).rename(folder.parent / name)
    cli.run("--dag", "1", "--from-folder", str(folder))
    for name in NAMES[2:]:
        (folder.parent / name).rename(folder / name)
    result = cli.run("--dag", "1", "--from-folder", str(folder), "--dry-run")
    assert (result.status, result.stderr) == (0, "")
    words = ["imported already"] * 2 + ["would be imported"] * 2
    assert result.stdout.splitlines()[4:] == [
        f"list {number} of 4: {day} {name}: {word}"
        for number, day, name, word in zip(range(1, 5), DAYS, NAMES, words)
    ]
    assert recorded(cli) == GOOD[:2]


def test_dry_run_needs_no_database(
    cli: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_NAME", "nowhere")
    result = cli.run("--dag", "1", "--from-folder", str(folder), "--dry-run")
    assert result.status == 0
    assert "What is imported already could not be read" in result.stderr
    assert result.stdout.count("would be imported") == 4
    assert cli.run("--dag", "1", "--from-folder", str(folder)).status == 1


def test_gates_hold_for_each_list_and_force_opens_them(cli: CommandLine, folder: Path) -> None:
    save(folder / NAMES[1], to_csv(ROWS[:20]))
    result = cli.run("--dag", "1", "--from-folder", str(folder))
    assert result.status == 1
    assert "NSE fell from 121 rows to 20 since the last good run" in result.stderr
    assert [status for _, status, _ in recorded(cli)] == ["succeeded", "failed"]
    result = cli.run("--dag", "1", "--from-folder", str(folder), "--force")
    assert (result.status, len(recorded(cli))) == (0, 5)


def test_verbose_tells_all_that_a_run_tells(cli: CommandLine, folder: Path) -> None:
    result = cli.run("--dag", "1", "--from-folder", str(folder), "--verbose")
    assert result.status == 0
    assert (
        "\nlist 2 of 4: 2025-08-19 nse_2025-08-19.csv.gz\n  load configuration: " in result.stdout
    )
    assert result.stdout.count("\nStored ") == 4


def test_quiet_tells_which_list_has_failed(cli: CommandLine, folder: Path) -> None:
    save(folder / NAMES[1], BROKEN)
    result = cli.run("--dag", "1", "--from-folder", str(folder), "--quiet")
    assert (result.status, result.stdout) == (1, "")
    assert "list 2 of 4 (2025-08-19 nse_2025-08-19.csv.gz) failed. 1 of 4 lists" in result.stderr


def test_days_come_from_a_file_where_names_have_none(
    cli: CommandLine, folder: Path, tmp_path: Path
) -> None:
    (folder / NAMES[0]).rename(folder / "last.csv")
    (folder / NAMES[3]).rename(folder / "first.csv")
    days = folder / "days.csv"  # no list, though it is called like one
    days.write_text("name,day\nlast.csv,2025-08-22\nfirst.csv,2025-08\n")
    result = cli.run("--dag", "1", "--from-folder", str(folder), "--days", str(days))
    assert (result.status, result.stderr) == (0, "")
    assert "left out" not in result.stdout
    assert recorded(cli) == [
        ("first.csv", "succeeded", date(2025, 8, 1)),
        *GOOD[1:3],
        ("last.csv", "succeeded", date(2025, 8, 22)),
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(
            ("list.csv", "b_2025-02-30.csv"), ("2 of the 6", "no day in its name"), id="no"
        ),
        pytest.param((), ("has no lists",), id="empty"),
        pytest.param(None, ("cannot be read (No such file or directory",), id="missing"),
    ],
)
def test_folder_that_cannot_be_imported_is_refused_before_anything_runs(
    cli: CommandLine,
    folder: Path,
    tmp_path: Path,
    names: tuple[str, ...] | None,
    expected: tuple[str, ...],
) -> None:
    for name in names or ():
        (folder / name).touch()
    if not names:
        folder = tmp_path / "other"
    if names == ():
        folder.mkdir()
    result = cli.run("--dag", "1", "--from-folder", str(folder))
    assert result.status == 2
    assert all(text in result.stderr for text in expected), result.stderr
    assert cli.query("SELECT to_regclass('ingestion_run')") == [(None,)]


def test_one_list_counts_for_the_day_that_is_named(cli: CommandLine, folder: Path) -> None:
    for name, day in ((NAMES[0], "2025-08"), (NAMES[1], "2025-08-19")):
        path = str(folder / name)
        assert cli.run("--dag", "1", "--from-file", path, "--dated", day).status == 0
    assert [day for _, _, day in recorded(cli)] == [date(2025, 8, 1), date(2025, 8, 19)]


def test_other_call_that_imports_a_folder_is_under_way(cli: CommandLine, folder: Path) -> None:
    with run_lock.hold_alone(run_lock.series_path(cli.folder / "logs", 1)):
        result = cli.run("--dag", "1", "--from-folder", str(folder))
    assert result.status == 2
    assert (
        "Another call of --from-folder for DAG 1 is under way: let it end first." in result.stderr
    )


@contextmanager
def no_writing(cli: CommandLine) -> Iterator[None]:
    """Runs come to the table, and wait there."""
    with cli.connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE kite_instrument_master IN ROW EXCLUSIVE MODE")
        yield
        cursor.execute("ROLLBACK")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_rolls_the_list_back_and_the_next_call_goes_on(
    configured_project: Project,
    server: Server,
    database: str,
    cli: CommandLine,
    folder: Path,
    number: signal.Signals,
) -> None:
    others = [(folder / name).rename(folder.parent / name) for name in NAMES[1:]]
    command = ("--dag", "1", "--from-folder", str(folder))
    assert configured_project.run(*command).returncode == 0
    for path in others:
        path.rename(folder / path.name)
    with no_writing(cli), configured_project.start(*command) as process:
        wait_until(lambda: server.sessions(database, "wait_event_type = 'Lock'"))
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert (
        "1 of 4 lists are imported, 0 of them by this call. The same call goes on from there.\n"
    ) in said
    assert configured_project.run(*command).returncode == 0
    assert [run for run in recorded(cli) if run[1] == "succeeded"] == GOOD


def test_list_that_was_killed_is_recorded_as_failed_by_the_call_that_goes_on(
    configured_project: Project, server: Server, database: str, cli: CommandLine, folder: Path
) -> None:
    cli.run("--dag", "1", "--from-file", str(folder / NAMES[0]), "--dated", str(DAYS[0]))
    command = ("--dag", "1", "--from-folder", str(folder))
    with no_writing(cli), configured_project.start(*command) as process:
        wait_until(lambda: server.sessions(database, "wait_event_type = 'Lock'"))
    assert process.returncode == -signal.SIGKILL
    assert configured_project.run(*command).returncode == 0
    assert [run for run in recorded(cli) if run[1] == "succeeded"] == GOOD
    assert [error for (error,) in cli.runs("error") if error] == [run_history.ENDED_SILENTLY]
