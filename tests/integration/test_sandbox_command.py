"""`--sandbox` and `python -m sandbox`, as a newcomer runs them in a folder with spaces."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

from sandbox.embedded_postgres import EmbeddedPostgres
from sandbox.kite_server import KiteServer
from tests.clone import Clone, make_clone
from tests.instruments import instrument, to_csv

RUN = ("execute_dags.py", "--sandbox", "--dag", "1")
ROWS = 5_000
CHECK = ("execute_dags.py", "check", "--sandbox")
STATE = (
    "SELECT count(*), count(DISTINCT last_updated), count(DISTINCT created_at),"
    " sum(hashtext(t::text)::bigint) FROM kite_instrument_master AS t"
)


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sandbox command "))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@dataclass
class Used:
    """A clone in which `make sandbox` was run twice, and what each run gave."""

    clone: Clone
    first: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def used(base: Path) -> Used:
    clone = make_clone(base, "my project", rows=ROWS)
    # As the README calls it, so that no line is as long as the path of this checkout.
    (clone.folder / ".venv").symlink_to(sys.prefix)
    clone.python = (f".venv/bin/{Path(sys.executable).name}",)
    first = clone.run(*RUN)
    return Used(clone, first, clone.run(*RUN))


def figures(output: str) -> dict[str, int]:
    """The counts of a summary."""
    names = "fetched|left out|rejected|inserted|updated|superseded"
    found = re.findall(rf"^({names}) +([\d,]+)$", output, re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in found}


# Two days


def test_first_run_has_a_list_of_full_size(base: Path) -> None:
    clone = make_clone(base, "full size")
    first = clone.run(*RUN)
    assert (first.returncode, first.stderr) == (0, "")
    counts = figures(first.stdout)
    assert counts["fetched"] == counts["inserted"] == 117_000
    assert counts["rejected"] == counts["updated"] == counts["superseded"] == 0
    rows, moments, creations, _ = clone.query(STATE).split("|")
    assert (int(rows), moments, creations) == (counts["inserted"], "1", "1")
    assert "Day 1, Mon 03 Aug 2026" in first.stdout


def test_second_run_is_the_next_day(used: Used) -> None:
    assert (used.second.returncode, used.second.stderr) == (0, "")
    before, counts = figures(used.first.stdout), figures(used.second.stdout)
    assert counts["inserted"] > 0
    assert counts["inserted"] + counts["updated"] == counts["fetched"]
    assert counts["updated"] > 0.9 * before["inserted"]
    assert "Day 2, Tue 04 Aug 2026" in used.second.stdout


def test_output_of_a_run_when_redirected(used: Used) -> None:
    lines = used.first.stdout.splitlines()
    (last,) = [line for line in lines if " succeeded in " in line]  # one line, however long
    assert max(len(line) for line in lines if line != last) <= 80
    assert lines[0] == "Starting the sandbox in .sandbox/"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", used.first.stdout)


def test_run_tells_how_to_look_at_the_data(used: Used) -> None:
    question, command, last = used.second.stdout.splitlines()[-3:]
    assert question == "Look at the data with psql:"
    option = re.search(r"add (-c '.*')$", last)
    assert option is not None
    shown = subprocess.run(
        ["sh", "-c", f"{command} {option[1]}"],
        cwd=used.clone.folder,
        env=used.clone.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "(5 rows)" in shown.stdout


def test_runs_leave_no_server_behind(used: Used) -> None:
    used.clone.assert_no_server_is_left()


def test_what_a_sandbox_writes_is_in_its_folder(used: Used) -> None:
    made = {path.name for path in used.clone.folder.iterdir() if path.name != "__pycache__"}
    assert made == {
        ".sandbox",
        ".venv",
        "config",
        "dag_1_import_instruments_from_kite",
        "dag_2_import_candles_from_kite",
        "dag_3_import_symbol_changes_from_nse",
        "execute_dags.py",
        "sandbox",
        "shared",
    }


def test_check_in_a_sandbox_imports_nothing(used: Used) -> None:
    before = used.clone.query(STATE)
    result = used.clone.run(*CHECK)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(re.findall(r"^ok ", result.stdout, re.MULTILINE)) == 4
    assert used.clone.query(STATE) == before


def test_dry_run_in_a_sandbox_is_no_trading_day(used: Used) -> None:
    before = used.clone.query(STATE), (used.clone.sandbox / "last_day").read_text()
    result = used.clone.run(*RUN, "--dry-run")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Dry run: " in result.stdout
    assert (used.clone.query(STATE), (used.clone.sandbox / "last_day").read_text()) == before


# Faults


def test_fault_expired_token_stores_nothing(used: Used) -> None:
    before = used.clone.query(STATE), (used.clone.sandbox / "last_day").read_text()
    result = used.clone.run(*RUN, "--sandbox-fault", "expired-token")
    assert result.returncode == 3
    assert "Kite's access tokens die at about 6 AM IST every day" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert "sandbox_token" not in result.stdout + result.stderr
    assert (used.clone.query(STATE), (used.clone.sandbox / "last_day").read_text()) == before


def test_fault_truncated_leaves_the_table(used: Used) -> None:
    before = used.clone.query(STATE)
    result = used.clone.run(*RUN, "--sandbox-fault", "truncated")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.endswith("Kite's answer was cut short: its gzip stream has no end.")
    assert result.stderr.count("attempt") == 2
    assert used.clone.query(STATE) == before


def test_fault_bad_rows_rejects_them_alone(used: Used) -> None:
    before = int(used.clone.query("SELECT count(*) FROM kite_instrument_master"))
    result = used.clone.run(*RUN, "--sandbox-fault", "bad-rows")
    assert result.returncode == 0
    counts = figures(result.stdout)
    assert counts["rejected"] == 12
    assert counts["inserted"] + counts["updated"] == counts["fetched"] - 12
    after = int(used.clone.query("SELECT count(*) FROM kite_instrument_master"))
    assert after == before + counts["inserted"] - counts["superseded"]
    path = re.search(r"^all of them: (.*)$", result.stdout, re.MULTILINE)
    assert path is not None
    assert len(Path(path[1]).read_bytes().splitlines()) == 13


# Stopping


def start_until_retry(clone: Clone) -> subprocess.Popen[str]:
    """A run that waits before it asks Kite again, which does not answer."""
    process = clone.start(*RUN, "--sandbox-fault", "timeout")
    assert process.stderr is not None
    assert "fetch instruments: attempt 1 of 3 failed" in process.stderr.readline()
    return process


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
    ],
)
def test_stop(used: Used, number: signal.Signals, status: int) -> None:
    before = used.clone.query(STATE)
    process = start_until_retry(used.clone)
    send = os.killpg if number == signal.SIGINT else os.kill
    send(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    assert "Traceback" not in errors
    used.clone.assert_no_server_is_left()
    assert used.clone.query(STATE) == before


def test_server_of_a_killed_run_is_stopped_by_the_next(used: Used) -> None:
    before = used.clone.query(STATE)
    process = start_until_retry(used.clone)
    process.kill()
    process.communicate(timeout=20)
    with pytest.raises(BlockingIOError):
        used.clone.assert_no_server_is_left()
    assert used.clone.query(STATE) == before
    used.clone.assert_no_server_is_left()


def test_second_sandbox_in_the_same_folder(used: Used) -> None:
    """It is refused while the first one runs, which goes on."""
    with EmbeddedPostgres(used.clone.sandbox / "postgres") as first:
        second = used.clone.run(*RUN)
        shown = used.clone.run("-m", "sandbox", "-c", "SELECT 1")
        psycopg2.connect(**first.conninfo()).close()
    assert second.returncode == 2
    assert f"is in use by process {os.getpid()}: stop that process" in second.stderr
    assert shown.returncode == 1
    assert "is in use by process" in shown.stderr
    assert "Traceback" not in second.stderr + shown.stderr


# python -m sandbox


def test_psql_before_there_is_a_sandbox(base: Path) -> None:
    clone = make_clone(base, "empty")
    result = clone.run("-m", "sandbox", "-c", "SELECT 1")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "There is no sandbox yet: run 'make sandbox' first.\n"


def test_psql_gives_its_exit_status(used: Used) -> None:
    result = used.clone.run("-m", "sandbox", "-X", "-c", "SELECT no_such_column")
    assert result.returncode == 1
    assert 'column "no_such_column" does not exist' in result.stderr
    used.clone.assert_no_server_is_left()


def test_ctrl_c_in_psql_cancels_the_query(used: Used) -> None:
    """psql, and not the Python around it, is told; the server is stopped in good order."""
    # The notice comes while the statement runs: a signal between two statements cancels none.
    script = (
        "DO $$ BEGIN RAISE NOTICE 'begun'; PERFORM pg_sleep(60); END $$;\n"
        "SELECT 'after' || 'wards';\n"
    )
    (used.clone.folder / "script.sql").write_text(script)
    process = used.clone.start("-m", "sandbox", "-X", "-A", "-t", "-f", "script.sql")
    assert process.stderr is not None
    assert process.stderr.readline().endswith("NOTICE:  begun\n")
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    (used.clone.folder / "script.sql").unlink()
    assert "Traceback" not in errors
    assert "cancel" in errors.lower()
    used.clone.assert_no_server_is_left()
    assert process.returncode in (0, 2, 3), output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_to_python_stops_the_server(used: Used, number: signal.Signals) -> None:
    statement = "DO $$ BEGIN RAISE NOTICE 'begun'; PERFORM pg_sleep(60); END $$"
    process = used.clone.start("-m", "sandbox", "-X", "-c", statement)
    assert process.stderr is not None
    assert process.stderr.readline().endswith("NOTICE:  begun\n")
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    used.clone.assert_no_server_is_left()


# What it must not touch


@pytest.fixture
def trap() -> Iterator[socket.socket]:
    """What stands for a production database: it listens, and nobody may come."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        yield listening


def test_production_that_is_configured_is_never_reached(
    used: Used, trap: socket.socket, kite: KiteServer
) -> None:
    """Neither by literal values in both JSON files, nor by .env, nor by the environment."""
    kite.dump = to_csv([instrument(256, "PRODUCTION", "NSE")])
    host, port = trap.getsockname()
    database = {
        "host": host,
        "port": port,
        "database": "production",
        "user": "owner",
        "password": "Pr0duction-Secret",
        "sslmode": "require",
    }
    api = {
        "kite_api_key": "sandbox_key",
        "kite_api_secret": "sandbox_secret",
        "kite_access_token": "sandbox_token",
        "root": kite.root,
    }
    with ExitStack() as undo:
        for path in (
            used.clone.folder / "config" / "config.json",
            used.clone.folder / "dag_1_import_instruments_from_kite" / "config.json",
        ):
            text = path.read_text()
            undo.callback(path.write_text, text)
            config = json.loads(text)
            for section, values in (("database", database), ("api", api)):
                config[section] = {**config.get(section, {}), **values}
            path.write_text(json.dumps(config))
        env_file = used.clone.folder / ".env"
        undo.callback(env_file.unlink)
        env_file.write_text(f"DB_HOST={host}\nDB_PORT={port}\nKITE_API_ROOT={kite.root}\n")
        env_file.chmod(0o600)
        result = used.clone.run(
            *RUN,
            DB_HOST=host,
            DB_PORT=str(port),
            DB_NAME="production",
            KITE_API_ROOT=kite.root,
            PGHOSTADDR="192.0.2.1",
            PGPORT=str(port),
            PGSERVICE="production",
        )
    assert (result.returncode, result.stderr) == (0, "")
    assert figures(result.stdout)["fetched"] > 0.9 * ROWS
    assert kite.requests == []
    with pytest.raises(BlockingIOError):
        trap.accept()


def test_sandbox_where_the_environment_names_a_proxy(used: Used) -> None:
    """A newcomer in an office: a proxy knows no 127.0.0.1 of this machine."""
    proxy = "http://127.0.0.1:9"
    result = used.clone.run(*CHECK, http_proxy=proxy, HTTP_PROXY=proxy)
    assert (result.returncode, result.stderr) == (0, "")


def python_for_everyone(user: str) -> tuple[str, ...] | None:
    """How `user` can run a Python that has the packages; None if there is no way."""
    runuser = shutil.which("runuser")
    if runuser is None:
        return None
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    for program in (sys.executable, "/usr/bin/python3"):
        command = (runuser, "-u", user, "--", "env", f"PYTHONPATH={packages}", program)
        probe = subprocess.run(
            [*command, "-c", "import kiteconnect, psycopg2, rich"],
            cwd="/",
            capture_output=True,
            check=False,
        )
        if probe.returncode == 0:
            return command
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests ran as an ordinary user")
def test_sandbox_of_an_ordinary_user(base: Path) -> None:
    user = "nobody"
    python = python_for_everyone(user)
    if python is None:
        pytest.skip(f"no Python with the packages can be run as {user}")
    clone = make_clone(base, "of an ordinary user", rows=ROWS)
    clone.python = python
    entry = pwd.getpwnam(user)
    for path in (clone.folder, *clone.folder.rglob("*")):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    result = clone.run(*RUN, HOME=str(clone.folder))
    assert (result.returncode, result.stderr) == (0, "")
    counts = figures(result.stdout)
    assert int(clone.query("SELECT count(*) FROM kite_instrument_master")) == counts["inserted"]
    assert (clone.sandbox / "postgres" / "data").stat().st_uid == entry.pw_uid
    clone.assert_no_server_is_left()
