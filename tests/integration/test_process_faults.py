"""Signals, disks that are full and folders that cannot be written, against a running process.

After each one the table is exactly as before or exactly as after, never between.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sandbox.kite_faults import Answer, Hang, HttpError, Trickle, Wire
from sandbox.kite_server import KiteServer
from tests.conftest import AddDAG, Project, Server, connect_project, make_project
from tests.instruments import to_csv
from tests.rig import ROWS, Rig, cloned, first_day_stored, make_day, was_asked
from tests.table_model import wait_until

SIGNALS = pytest.mark.parametrize(
    ("number", "status", "word"),
    [
        pytest.param(signal.SIGINT, 130, "Interrupted", id="SIGINT"),
        pytest.param(signal.SIGTERM, 143, "Terminated", id="SIGTERM"),
        pytest.param(signal.SIGHUP, 129, "Hung up, its terminal was closed", id="SIGHUP"),
    ],
)


@pytest.fixture(scope="module")
def first_day(
    shipped: Path, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A database and an archive with the first day's list."""
    project = make_project(shipped, tmp_path_factory.mktemp("first day"))
    with first_day_stored(project, server) as name:
        yield name, project.folder / "archive"


@pytest.fixture
def rig(
    configured_project: Project, kite: KiteServer, server: Server, database: str
) -> Iterator[Rig]:
    """Nothing is stored; Kite lists the first day."""
    kite.dump = to_csv(make_day(1))
    with closing(server.connect(database)) as connection:
        yield Rig(configured_project, kite, server, database, connection)


@pytest.fixture
def next_day(
    project: Project, first_day: tuple[str, Path], kite: KiteServer, server: Server
) -> Iterator[Rig]:
    """The first day is stored; Kite lists the second."""
    template, archive = first_day
    shutil.copytree(archive, project.folder / "archive")
    kite.dump = to_csv(make_day(2))
    with cloned(server, template) as name, closing(server.connect(name)) as connection:
        connect_project(project, server, name, kite)
        yield Rig(project, kite, server, name, connection)


def assert_ends(process: subprocess.Popen[str], number: int, status: int, word: str) -> None:
    """The process ends, whatever it waits for, with one line that says why."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert errors == f"ERROR: {word}: what was not committed yet is rolled back.\n"


# Signals at chosen moments


@SIGNALS
@pytest.mark.parametrize(
    ("path", "fault"),
    [
        pytest.param("/user/profile", Hang("answer"), id="in the login"),
        pytest.param("/instruments", Hang("answer"), id="before the download"),
        pytest.param("/instruments", Hang("body"), id="in the download"),
        pytest.param("/instruments", Trickle("body"), id="in a download that trickles"),
    ],
)
def test_signal_while_kite_hangs(
    next_day: Rig, number: int, status: int, word: str, path: str, fault: Any
) -> None:
    stored = next_day.fields()
    next_day.kite.fail_next(path, fault)
    asked = was_asked(next_day.kite, path)
    with next_day.start() as process:
        wait_until(asked)
        assert_ends(process, number, status, word)
    assert next_day.fields() == stored
    assert f"{word}: what was not committed" in next_day.project.log


@SIGNALS
def test_signal_while_waiting_for_the_next_attempt(
    next_day: Rig, number: int, status: int, word: str
) -> None:
    stored = next_day.fields()
    next_day.project.environment["RETRY_DELAY_SECONDS"] = "60"
    next_day.kite.fail_next("/instruments", HttpError(503))
    with next_day.start() as process:
        assert process.stderr is not None
        assert "next in 60 s" in process.stderr.readline()
        assert_ends(process, number, status, word)
    assert next_day.fields() == stored


@SIGNALS
@pytest.mark.parametrize(
    "lock",
    [
        pytest.param("LOCK TABLE kite_instrument_master IN ACCESS EXCLUSIVE MODE", id="the table"),
        pytest.param(
            "LOCK TABLE kite_instrument_master IN ROW EXCLUSIVE MODE; "
            "SELECT * FROM kite_instrument_master WHERE instrument_token % 7 = 0 FOR UPDATE",
            id="some rows",
        ),
    ],
)
def test_signal_while_another_session_holds_a_lock(
    next_day: Rig, number: int, status: int, word: str, lock: str
) -> None:
    stored = next_day.fields()
    with next_day.server.connect(next_day.database) as holder:
        holder.autocommit = False
        with holder.cursor() as cursor:
            cursor.execute(lock)
        with next_day.start() as process:
            wait_until(lambda: next_day.sessions("wait_event_type = 'Lock'"))
            assert_ends(process, number, status, word)
        wait_until(lambda: not next_day.sessions())
        holder.rollback()
    holder.close()
    assert next_day.fields() == stored


def test_second_signal_does_not_get_in_the_way_of_the_first(next_day: Rig) -> None:
    stored = next_day.fields()
    next_day.kite.fail_next("/instruments", Hang("body"))
    asked = was_asked(next_day.kite, "/instruments")
    with next_day.start() as process:
        wait_until(asked)
        process.send_signal(signal.SIGTERM)
        assert_ends(process, signal.SIGTERM, 143, "Terminated")
    assert next_day.fields() == stored


def test_terminal_that_is_closed_in_the_middle_of_a_run(next_day: Rig) -> None:
    """Nothing can be written to it any more; the run is recorded all the same."""
    stored = next_day.fields()
    ours, theirs = os.openpty()
    next_day.kite.fail_next("/instruments", Hang("body"))
    asked = was_asked(next_day.kite, "/instruments")
    process = subprocess.Popen(
        # setsid -c makes the terminal that of the session, whose leader hears of its end.
        ["setsid", "-c", *next_day.project.command("--dag", "1")],
        cwd=next_day.project.folder,
        env={**next_day.project.environment, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        wait_until(asked)
        os.close(ours)
        assert process.wait(60) == 129
    finally:
        process.kill()
        process.wait()
    assert next_day.fields() == stored
    assert next_day.last_error() == "ended from outside: HungUp"
    assert "ERROR - Hung up, its terminal was closed: " in next_day.project.log


def test_run_under_nohup_goes_on_when_its_terminal_is_closed(next_day: Rig) -> None:
    with next_day.server.connect(next_day.database) as holder:
        holder.autocommit = False
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE kite_instrument_master IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen(
            ["nohup", *next_day.project.command("--dag", "1")],
            cwd=next_day.project.folder,
            env=next_day.project.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            wait_until(lambda: next_day.sessions("wait_event_type = 'Lock'"))
            process.send_signal(signal.SIGHUP)
            holder.rollback()
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    holder.close()
    assert (process.returncode, errors) == (0, b"")
    assert next_day.days() == [(2, ROWS)]


def test_signal_ends_a_run_of_several_dags(next_day: Rig, add_dag: AddDAG) -> None:
    add_dag(4, "never")
    next_day.kite.fail_next("/instruments", Hang("answer"))
    asked = was_asked(next_day.kite, "/instruments")
    process = subprocess.Popen(
        next_day.project.command(),
        cwd=next_day.project.folder,
        env=next_day.project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(asked)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "was here" not in output


def test_run_after_a_killed_one(next_day: Rig) -> None:
    stored = next_day.fields()
    with next_day.server.connect(next_day.database) as holder:
        holder.autocommit = False
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE kite_instrument_master IN ACCESS EXCLUSIVE MODE")
        with next_day.start() as process:
            wait_until(lambda: next_day.sessions("wait_event_type = 'Lock'"))
            process.kill()
            process.wait(60)
        holder.rollback()
    holder.close()
    wait_until(lambda: not next_day.sessions())
    assert next_day.fields() == stored
    assert next_day.project.run("--dag", "1").returncode == 0
    assert next_day.days() == [(2, ROWS)]


@dataclass
class Gate:
    """An answer of Kite's that waits until it is let through."""

    opened: threading.Event = field(default_factory=threading.Event)

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        self.opened.wait(60)
        wire.send_answer(make_answer())


@pytest.mark.parametrize("table", ["ingestion_run", "kite_instrument_change"])
@pytest.mark.parametrize(
    ("number", "statuses"),
    [
        pytest.param(signal.SIGINT, [130], id="SIGINT"),
        pytest.param(signal.SIGTERM, [143], id="SIGTERM"),
        pytest.param(signal.SIGHUP, [129], id="SIGHUP"),
        pytest.param(signal.SIGKILL, [-signal.SIGKILL], id="SIGKILL"),
    ],
)
def test_signal_before_the_commit(
    next_day: Rig, number: int, statuses: list[int], table: str
) -> None:
    """The run waits within its transaction, to write the last that belongs to it."""
    stored = next_day.fields()
    gate = Gate()
    next_day.kite.fail_next("/instruments", gate)
    asked = was_asked(next_day.kite, "/instruments")
    with next_day.start() as process, next_day.server.connect(next_day.database) as holder:
        wait_until(asked)
        holder.autocommit = False
        with holder.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN SHARE MODE")
        gate.opened.set()
        wait_until(lambda: next_day.sessions("wait_event_type = 'Lock'"))
        process.send_signal(number)
        # A run that is told to end records that it failed, where it may: let it.
        wait_until(
            lambda: process.poll() is not None or not next_day.sessions("backend_xid IS NOT NULL")
        )
        holder.rollback()
        assert process.wait(60) in statuses
    holder.close()
    wait_until(lambda: not next_day.sessions())
    assert (next_day.fields(), next_day.good_runs()) == (stored, 1)
    assert next_day.project.run("--dag", "1").returncode == 0
    assert (next_day.days(), next_day.good_runs()) == ([(2, ROWS)], 2)


# Logs that cannot be written


def assert_imported_with_a_warning(
    rig: Rig, result: subprocess.CompletedProcess[str], warning: str
) -> None:
    assert result.returncode == 0, result.stderr
    assert rig.days() == [(1, ROWS)]
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("WARNING: ")
    assert warning in result.stderr
    assert "Stored 2,000 instruments" in result.stdout


def test_log_folder_that_cannot_be_made(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = rig.project.run("--dag", "1", LOG_DIR=str(tmp_path / "file" / "logs"))
    assert_imported_with_a_warning(rig, result, "Set LOG_DIR to a folder that can")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_log_folder_without_permission(rig: Rig, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    result = rig.project.run("--dag", "1", LOG_DIR=str(folder))
    assert_imported_with_a_warning(rig, result, "Permission denied")


@pytest.mark.parametrize(
    "blocks", [pytest.param(0, id="nothing"), pytest.param(1, id="the first lines")]
)
def test_log_on_a_full_disk(rig: Rig, blocks: int) -> None:
    """A limit on the size of files stands for a full disk."""
    config = rig.project.folder / "dag_1_import_instruments_from_kite" / "config.json"
    config.write_text(config.read_text().replace('"archive_days": 30', '"archive_days": 0'))
    result = subprocess.run(
        [
            *("sh", "-c", f'ulimit -f {blocks} && exec "$0" "$@"'),
            *rig.project.command("--dag", "1"),
        ],
        cwd=rig.project.folder,
        env={**rig.project.environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert_imported_with_a_warning(rig, result, "File too large")


@pytest.mark.parametrize("target", ["/dev/full", "not there"])
def test_link_in_the_place_of_the_log(rig: Rig, tmp_path: Path, target: str) -> None:
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "stock_ingestion.log").symlink_to(target)
    result = rig.project.run("--dag", "1", LOG_DIR=str(folder))
    assert_imported_with_a_warning(rig, result, "(a symbolic link is in its place)")
    assert [path.name for path in folder.glob("*.log*")] == ["stock_ingestion.log"]


def test_files_of_a_run_are_private_whatever_the_umask(rig: Rig) -> None:
    rig.kite.dump += b"x,1,BAD,,0,,,0.05,1,EQ,NSE,NSE\n"
    result = subprocess.run(
        ["sh", "-c", 'umask 000; exec "$0" "$@"', *rig.project.command("--dag", "1")],
        cwd=rig.project.folder,
        env={**rig.project.environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0
    logs, archive = Path(rig.project.environment["LOG_DIR"]), rig.project.folder / "archive"
    modes = {
        re.sub(r"[0-9].*\.", ".", path.name): oct(path.stat().st_mode & 0o777)
        for path in (logs, *logs.iterdir(), archive, *archive.iterdir())
    }
    assert modes == {
        "logs": "0o700",
        "dag_.lock": "0o600",
        "stock_ingestion.log": "0o600",
        "rejected_rows_.csv": "0o600",
        "archive": "0o700",
        "kite_instruments_.gz": "0o600",
    }


def test_list_of_rejected_rows_that_cannot_be_written(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rig.kite.dump += b"x,1,BAD,,0,,,0.05,1,EQ,NSE,NSE\n"
    result = rig.project.run("--dag", "1", LOG_DIR=str(tmp_path / "file" / "logs"))
    assert result.returncode == 0
    assert rig.days() == [(1, ROWS)]
    assert "list of rejected rows cannot be written" in result.stderr
    assert "line 2002: instrument_token: expected a whole number, got 'x'" in result.stdout
    assert "all of them" not in result.stdout


def test_log_that_is_rotated_in_the_middle_of_a_run(rig: Rig) -> None:
    config = rig.project.folder / "config" / "config.json"
    config.write_text(config.read_text().replace('"max_bytes": 10000000', '"max_bytes": 1024'))
    result = rig.project.run("--dag", "1")
    assert (result.returncode, result.stderr) == (0, "")
    folder = Path(rig.project.environment["LOG_DIR"])
    assert {"stock_ingestion.log", "stock_ingestion.log.1"} <= {p.name for p in folder.iterdir()}
