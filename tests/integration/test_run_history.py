"""`ingestion_run`: a row for each run, good or not, and none where nothing was to be written."""

from __future__ import annotations

import hashlib
import os
import signal
import socketserver
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dag_1_import_instruments_from_kite import import_instruments
from sandbox.kite_faults import CutShort, Hang, HttpError
from sandbox.kite_server import KiteServer
from tests.command_line import CommandLine
from tests.conftest import Project, Server
from tests.instruments import instrument, to_csv
from tests.table_model import read_table, wait_until

pytestmark = pytest.mark.usefixtures("trading_today")

ROWS = [
    instrument(number << 8, f"S{number}", "NSE", instrument_type="EQ", expiry=None)
    for number in range(1, 151)
]
GOOD = to_csv(ROWS)
OTHER_EXCHANGE = [instrument(99, "GOLD", "MCX"), instrument(100, "ZINC", "MCX")]
BAD_ROW = b"x,1,BAD,,0,,,0.05,1,EQ,NSE,NSE\n"


def now() -> datetime:
    return datetime.now(UTC)


def test_good_run_is_recorded_with_all_its_figures(cli: CommandLine) -> None:
    cli.parameters["exchanges"] = ["NSE"]
    dump = to_csv([*ROWS, *OTHER_EXCHANGE]) + BAD_ROW
    began = now()
    result = cli.load(dump)
    ended = now()
    assert result.status == 0
    [(run, started_at, ended_at, list_moment, valid_from)] = cli.query(
        "SELECT to_jsonb(r) - '{started_at,ended_at,list_moment,valid_from}'::text[],"
        " started_at, ended_at, list_moment, valid_from FROM ingestion_run AS r"
    )
    assert began <= started_at < ended_at <= ended
    durations = run.pop("durations")
    assert set(durations) == {
        *("load configuration", "authenticate", "fetch instruments", "validate"),
        *("check table", "prepare table", "store"),
    }
    assert all(0 <= seconds < 60 for seconds in durations.values())
    assert sum(durations.values()) <= (ended - began).total_seconds()
    assert all(f"\n  {step}: done in " in result.stdout for step in durations)
    [(moment,)] = cli.query("SELECT DISTINCT last_updated FROM kite_instrument_master")
    assert list_moment == moment
    assert cli.query("SELECT DISTINCT valid_from FROM kite_instrument_history") == [(valid_from,)]
    assert cli.query("SELECT %s::timestamptz = %s", list_moment, valid_from) == [(True,)]
    assert run.pop("host").endswith("/logs/dag_1.lock")
    assert run == {
        "run_id": 1,
        "dag_id": 1,
        "dag_name": "import_instruments_from_kite",
        "source": "api",
        "status": "succeeded",
        "rows_fetched": 153,
        "rows_left_out": 2,
        "rows_rejected": 1,
        "rows_inserted": 150,
        "rows_updated": 0,
        "rows_superseded": 0,
        "dump_sha256": hashlib.sha256(dump).hexdigest(),
        "dump_bytes": len(dump),
        "error": None,
    }


def test_counts_of_a_run_that_updates_inserts_and_supersedes(cli: CommandLine) -> None:
    cli.load(GOOD)
    moved = {**ROWS[0], "instrument_token": 77}  # the symbol of a token that is gone
    cli.load(to_csv([moved, *ROWS[1:]]))
    assert cli.runs("rows_inserted", "rows_updated", "rows_superseded") == [
        (150, 0, 0),
        (1, 149, 1),
    ]


@pytest.mark.parametrize("is_gzipped", [True, False], ids=["gzipped", "plain"])
def test_hash_and_size_are_those_of_the_list_however_it_was_sent(
    cli: CommandLine, is_gzipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_gzipped:
        monkeypatch.setattr("shared.utils.strict_session.StrictSession.headers", {}, raising=False)
    cli.load(GOOD)
    assert cli.runs("dump_sha256", "dump_bytes") == [(hashlib.sha256(GOOD).hexdigest(), len(GOOD))]


def test_same_list_again_is_said_so(cli: CommandLine) -> None:
    first = cli.load(GOOD)
    assert "byte for byte" not in first.stdout
    second = cli.load(GOOD)
    assert "The list is the same, byte for byte, as that of run 1 (" in second.stdout
    third = cli.load(to_csv(ROWS[1:]))
    assert "byte for byte" not in third.stdout
    # The list before the last one does not count.
    assert "byte for byte" not in cli.load(GOOD).stdout
    tried = cli.run("--dag", "1", "--dry-run")
    assert "The list is the same, byte for byte, as that of run 4 (" in tried.stdout
    assert "same list, byte for byte" not in cli.run("status").stdout
    cli.load(GOOD)
    status = cli.run("status").stdout
    assert "Run 5 brought the same list, byte for byte, as run 4." in status


def test_same_list_as_before_a_failed_run_is_said_so(cli: CommandLine) -> None:
    cli.load(GOOD)
    other = to_csv([*ROWS[1:], {**ROWS[0], "lot_size": 4711}])
    cli.query("ALTER TABLE kite_instrument_master ADD CONSTRAINT lot CHECK (lot_size <> 4711)")
    assert cli.load(other).status == 1
    cli.query("ALTER TABLE kite_instrument_master DROP CONSTRAINT lot")
    assert "byte for byte" not in cli.load(other).stdout  # it was not stored
    cli.kite.expire_token()
    cli.run("--dag", "1")
    cli.kite._access_token = "sandbox_token"
    [(good,)] = cli.query("SELECT max(run_id) FROM ingestion_run WHERE status = 'succeeded'")
    assert f"byte for byte, as that of run {good} (" in cli.load(other).stdout


def refuse_session(cli: CommandLine) -> None:
    cli.kite.expire_token()


def refuse_download(cli: CommandLine) -> None:
    cli.kite.fail_next("/instruments", HttpError(400))


def cut_download_short(cli: CommandLine) -> None:
    cli.kite.fail_next("/instruments", CutShort("gzip"), times=None)


def list_nothing(cli: CommandLine) -> None:
    cli.kite.dump = to_csv([])


def list_too_little(cli: CommandLine) -> None:
    cli.kite.dump = to_csv(ROWS[:20])


def list_rubbish(cli: CommandLine) -> None:
    cli.kite.dump = GOOD + BAD_ROW * 40


def refuse_rows(cli: CommandLine) -> None:
    cli.query("ALTER TABLE kite_instrument_master ADD CHECK (lot_size <> 4711)")
    cli.kite.dump = to_csv([{**ROWS[0], "lot_size": 4711}, *ROWS[1:]])


def make_a_defect(cli: CommandLine) -> None:
    cli.monkeypatch.setattr(import_instruments, "transform_instruments", lambda rows: 1 / 0)


@pytest.mark.parametrize(
    ("make_fault", "status", "error", "figures"),
    [
        pytest.param(refuse_session, 3, "Kite refused the session", (0, 0, None), id="session"),
        pytest.param(refuse_download, 1, "Kite refused the request", (0, 0, None), id="request"),
        pytest.param(cut_download_short, 1, "was cut short", (0, 0, None), id="cut short"),
        pytest.param(list_nothing, 1, "Kite's list is empty", (0, 0, None), id="empty"),
        pytest.param(list_too_little, 1, "is not plausible", (20, 0, "own"), id="implausible"),
        pytest.param(list_rubbish, 1, "40 of 190 rows were rejected", (190, 40, "own"), id="bad"),
        pytest.param(refuse_rows, 1, "check constraint", (150, 0, "own"), id="refused by database"),
        pytest.param(make_a_defect, 1, "division by zero", (150, 0, "own"), id="defect"),
    ],
)
def test_failed_run_is_recorded_apart_and_its_data_are_not(
    cli: CommandLine,
    make_fault: Callable[[CommandLine], None],
    status: int,
    error: str,
    figures: tuple[int, int, str | None],
) -> None:
    assert cli.load(GOOD).status == 0
    stored = read_table(cli.connection)
    make_fault(cli)
    assert cli.run("--dag", "1").status == status
    assert read_table(cli.connection) == stored
    names = ("status", "rows_fetched", "rows_rejected", "rows_inserted", "list_moment")
    good, failed = cli.runs(*names, "dump_sha256", "error")
    assert good[0] == "succeeded"
    assert failed[:5] == ("failed", figures[0], figures[1], None, None)
    own_hash = hashlib.sha256(_bytes_of(cli.kite)).hexdigest()
    assert failed[5] == (own_hash if figures[2] else None)
    assert error in failed[6]
    assert cli.query("SELECT count(*) FROM kite_instrument_change") == [(0,)]


def _bytes_of(kite: KiteServer) -> bytes:
    return kite.dump if isinstance(kite.dump, bytes) else kite.dump()


def test_run_that_fails_before_there_is_a_table_is_recorded(
    cli: CommandLine, server: Server, database: str
) -> None:
    server.execute("DROP TABLE kite_instrument_master", dbname=database)
    cli.kite.expire_token()
    assert cli.run("--dag", "1").status == 3
    assert cli.runs("run_id", "status", "rows_inserted") == [(1, "failed", None)]
    assert cli.query("SELECT to_regclass('kite_instrument_master')") == [(None,)]


def test_error_of_a_failed_run_holds_no_secret(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "Secret-Token-1f3")
    cli.kite.fail_next("/instruments", HttpError(400, message="no, Secret-Token-1f3 is not it"))
    cli.kite._access_token = "Secret-Token-1f3"
    assert cli.run("--dag", "1").status == 1
    [(error,)] = cli.runs("error")
    assert "Secret-Token" not in error
    assert "no, *** is not it" in error


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--dag", "1", "--dry-run"], id="dry run"),
        pytest.param(["status"], id="status"),
        pytest.param(["changes"], id="changes"),
        pytest.param(["check"], id="check"),
        pytest.param(["--list"], id="list"),
    ],
)
def test_what_writes_nothing_is_not_recorded(cli: CommandLine, arguments: list[str]) -> None:
    cli.load(GOOD)
    cli.run(*arguments)
    cli.kite.expire_token()
    cli.run(*arguments)
    assert cli.runs("run_id") == [(1,)]


def test_run_whose_database_is_away_ends_soon_and_tells_of_the_database(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PORT", "1")
    result = cli.load(GOOD)
    assert result.status == 1
    assert result.stderr.count("ERROR") == 1
    assert "No connection to" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "attempts", "status"),
    [
        pytest.param([], 2, 1, id="run"),
        pytest.param(["--dry-run"], 1, 0, id="dry run"),
    ],
)
def test_database_that_is_away_is_asked_as_often_as_configured_and_no_more(
    cli: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    attempts: int,
    status: int,
) -> None:
    """A dry run can do without it; and whoever is away is not asked to record that he was."""
    asked: list[Any] = []

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.client_address)

    cli.parameters["retry_attempts"] = 2
    monkeypatch.setenv("DB_SSLMODE", "disable")  # to ask for it may take a connection of its own
    monkeypatch.setenv("PGGSSENCMODE", "disable")
    with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as listener:
        monkeypatch.setenv("DB_HOST", "127.0.0.1")
        monkeypatch.setenv("DB_PORT", str(listener.server_address[1]))
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        result = cli.load(GOOD, *arguments)
        listener.shutdown()
        thread.join()
    assert len(asked) == attempts
    assert result.stderr.count("attempt 1 of 2 failed, next in 0 s") == attempts - 1
    assert result.status == status
    assert "server closed the connection" in result.stderr
    assert ("What would change in the table could not be" in result.stderr) is (status == 0)


def test_kite_that_is_away_is_asked_as_often_as_configured_and_no_more(cli: CommandLine) -> None:
    cli.parameters["retry_attempts"] = 2
    cli.kite.fail_next("/instruments", HttpError(503), times=None)
    result = cli.load(GOOD)
    assert result.status == 1
    assert [request.path for request in cli.kite.requests].count("/instruments") == 2
    assert result.stderr.count("attempt 1 of 2 failed, next in 0 s") == 1


def test_history_does_not_hold_up_a_run_that_failed(cli: CommandLine) -> None:
    """Somebody has locked the history: the run's own error is what is told."""
    cli.load(GOOD)
    cli.kite.expire_token()
    cli.query("BEGIN")
    cli.query("LOCK TABLE ingestion_run")
    began = now()
    result = cli.run("--dag", "1")
    assert now() - began < timedelta(seconds=45)  # the time-out of locks is 60
    cli.query("ROLLBACK")
    assert result.status == 3
    assert result.stderr.count("\n") == 1
    assert cli.runs("status") == [("succeeded",)]


@pytest.mark.parametrize(
    ("number", "status", "error"),
    [
        pytest.param(signal.SIGINT, 130, "ended from outside: KeyboardInterrupt", id="SIGINT"),
        pytest.param(signal.SIGTERM, 143, "ended from outside: Terminated", id="SIGTERM"),
        pytest.param(signal.SIGHUP, 129, "ended from outside: HungUp", id="SIGHUP"),
    ],
)
def test_interrupted_run_is_recorded(
    cli: CommandLine, number: int, status: int, error: str
) -> None:
    cli.load(GOOD)
    stored = read_table(cli.connection)
    cli.kite.fail_next("/instruments", Hang("body"))
    asked = len(cli.kite.requests)

    def interrupt() -> None:
        wait_until(lambda: len(cli.kite.requests) == asked + 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = cli.run("--dag", "1")
    thread.join()
    assert result.status == status
    assert read_table(cli.connection) == stored
    assert cli.runs("status", "error") == [("succeeded", None), ("failed", error)]


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, 130, id="SIGINT"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
    ],
)
def test_run_that_is_interrupted_after_its_commit_is_recorded_as_good_alone(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def interrupt(_descriptor: int) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(os, "fsync", interrupt)  # while the list is kept
    assert cli.load(GOOD).status == status
    assert len(read_table(cli.connection)) == len(ROWS)
    assert cli.runs("status", "error") == [("succeeded", None)]


def test_runs_at_the_same_time_are_numbered_in_the_order_of_their_lists(
    configured_project: Project, kite: KiteServer, server: Server, database: str
) -> None:
    kite.dump = GOOD
    processes = [
        subprocess.Popen(
            configured_project.command("--dag", "1"),
            cwd=configured_project.folder,
            env=configured_project.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    moments = server.execute(
        "SELECT list_moment, rows_inserted FROM ingestion_run ORDER BY run_id", dbname=database
    )
    assert [inserted for _, inserted in moments] == [150, 0, 0]
    assert moments == sorted(moments, key=lambda row: row[0])
    assert server.execute("SELECT count(*) FROM kite_instrument_today", dbname=database) == [(150,)]


# A role that may do little


WARNING = "WARNING: The history of runs and changes is not kept: DB_USER may neither make nor write"


def test_role_that_may_not_keep_a_history_imports_with_one_warning(
    cli: CommandLine, as_role: Callable[..., str]
) -> None:
    as_role()
    for dump, rows in ((GOOD, 150), (to_csv(ROWS[1:]), 150)):
        result = cli.load(dump)
        assert result.status == 0
        assert result.stderr.startswith(f"{WARNING} ingestion_run.")
        assert result.stderr.count("\n") == 1
        assert len(read_table(cli.connection)) == rows
    assert "changes since the last list:\n       1  gone" in result.stdout
    assert cli.query("SELECT to_regclass('ingestion_run')") == [(None,)]
    status = cli.run("status")
    assert status.status == 4
    assert "\nUNKNOWN: DAG 1 import_instruments_from_kite was loaded on\n" in status.stdout
    assert "There is no history of runs (a run makes one where it may)" in status.stdout
    cli.query("UPDATE kite_instrument_master SET last_updated = last_updated - interval '8 days'")
    assert cli.run("status").status == 1


GRANTED = (
    "GRANT SELECT, INSERT, UPDATE ON ingestion_run, kite_instrument_history TO {role}",
    "GRANT SELECT, INSERT ON kite_instrument_change TO {role}",
)


@pytest.mark.parametrize(
    ("rights", "lacking"),
    [
        pytest.param((), "ingestion_run", id="none on the runs"),
        pytest.param(GRANTED[1:], "ingestion_run", id="none on the runs, some on the changes"),
        pytest.param(GRANTED[:1], "kite_instrument_change", id="none on the changes"),
    ],
)
def test_role_that_lacks_rights_on_a_history_that_is_there_is_told_what_to_grant(
    cli: CommandLine, as_role: Callable[..., str], rights: tuple[str, ...], lacking: str
) -> None:
    cli.load(GOOD)
    as_role(*rights)
    result = cli.load(to_csv(ROWS[1:]))
    assert result.status == 0
    may_record = lacking != "ingestion_run"
    wanted = "SELECT, INSERT" if may_record else "SELECT, INSERT, UPDATE"
    what = "What changes" if may_record else "The history of runs and changes"
    views = (
        ""
        if may_record
        else (
            " The views that go by it then show, among today's rows, also what earlier lists had."
        )
    )
    assert result.stderr == (
        f"WARNING: {what} is not kept: DB_USER may neither make nor write {lacking}. Let the "
        f"table's owner run this DAG once, and grant {wanted} on it.{views}\n"
    )
    assert "       1  gone\n" in result.stdout
    assert cli.runs("run_id") == [(1,), (2,)][: 1 + may_record]
    # Not recorded, that list is to be seen all the same, with what was in the one before.
    cli.load(to_csv(ROWS[2:]))
    today = 148 if may_record else 150
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(today,)]


def test_role_that_may_not_keep_a_history_is_told_once_when_its_run_fails(
    cli: CommandLine, as_role: Callable[..., str]
) -> None:
    cli.load(GOOD)
    as_role()
    result = cli.load(to_csv(ROWS[:20]))
    assert result.status == 1
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["WARNING", "ERROR"]


def test_role_that_was_granted_the_history_keeps_it(
    cli: CommandLine, as_role: Callable[..., str]
) -> None:
    cli.load(GOOD)
    as_role(*GRANTED)
    result = cli.load(to_csv(ROWS[1:]))
    assert (result.status, result.stderr) == (0, "")
    cli.kite.expire_token()
    assert cli.run("--dag", "1").status == 3
    assert cli.runs("status", "rows_updated") == [
        ("succeeded", 0),
        ("succeeded", 149),
        ("failed", None),
    ]
    assert cli.query("SELECT kind, tradingsymbol FROM kite_instrument_change") == [("gone", "S1")]


def test_dry_run_of_a_role_that_may_not_read_the_history(
    cli: CommandLine, as_role: Callable[..., str]
) -> None:
    cli.load(GOOD)
    as_role()
    cli.kite.dump = to_csv(ROWS[1:])
    result = cli.run("--dag", "1", "--dry-run")
    assert result.status == 0
    assert "changes since the last list:\n       1  gone" in result.stdout


def test_tables_that_are_there_are_left_as_they_are(cli: CommandLine) -> None:
    """With a column of the user's own, which a run does not mind."""
    cli.load(GOOD)
    cli.query("ALTER TABLE ingestion_run ADD remark text")
    catalog = (
        "SELECT oid, xmin::text, relname FROM pg_class"
        " WHERE relname ~ '^(kite_|ingestion_|idx_)' ORDER BY oid"
    )
    before = cli.query(catalog)
    assert {"ingestion_run", "kite_instrument_change", "kite_underlying"} <= {r[2] for r in before}
    assert cli.load(GOOD).status == 0
    assert cli.query(catalog) == before
