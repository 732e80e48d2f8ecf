"""The command line as users and cron use it: a subprocess in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from execute_dags import ExitStatus
from sandbox.kite_faults import Hang, HttpError
from sandbox.kite_server import KiteServer
from shared import __version__
from tests.command_line import ESCAPE
from tests.conftest import AddDAG, Project, Server
from tests.instruments import instrument, to_csv

DUMP = to_csv(
    [
        instrument(256, "INFY", "NSE", instrument_type="EQ", segment="NSE", expiry=None),
        instrument(512, "USDINR26AUG90.875CE", "CDS"),
        instrument(768, "NIFTY 50", "NSE", instrument_type="EQ", segment="INDICES", expiry=None),
    ]
)
CONTROL_CHARACTER = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@pytest.fixture
def without_dag_1(project: Project) -> None:
    """DAG 1 is switched off, for tests that are about other DAGs."""
    change_config(project, enabled=False)


def change_config(project: Project, **values: Any) -> None:
    path = project.folder / "dag_1_import_instruments_from_kite" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rows_of_table(text: str) -> dict[str, str]:
    """The lines of a table on the console, by the first two columns."""
    lines = [line.strip() for line in text.splitlines()]
    return {" ".join(line.split()[:2]): line for line in lines if re.match(r"\d+ +[a-z]\w+ ", line)}


def count_rows(server: Server, database: str) -> int:
    query = "SELECT count(*) FROM kite_instrument_master"
    return int(server.execute(query, dbname=database)[0][0])


# --list


def test_list_without_env_network_and_database(project: Project) -> None:
    project.environment["KITE_API_ROOT"] = "http://127.0.0.1:9"
    result = project.run("--list")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0].split() == [
        "id",
        "name",
        "enabled",
        "schedule",
        "description",
    ]
    row = rows_of_table(result.stdout)["1 import_instruments_from_kite"]
    assert re.split(" {2,}", row)[2:] == [
        "yes",
        "daily",
        "Import complete instrument list from Kite Connect API",
    ]
    row = rows_of_table(result.stdout)["2 import_candles_from_kite"]
    assert re.split(" {2,}", row)[2:] == [
        "no",
        "0 18 * * 1-5",
        "Import candles from Kite Connect's historical API",
    ]
    row = rows_of_table(result.stdout)["3 import_symbol_changes_from_nse"]
    assert re.split(" {2,}", row)[2:] == [
        "no",
        "0 8 * * 1-5",
        "Import NSE's official list of symbol changes",
    ]
    assert not Path(project.environment["LOG_DIR"]).exists()


def test_list_from_another_folder_with_an_empty_environment(
    project: Project, tmp_path: Path
) -> None:
    result = subprocess.run(
        project.command("--list"), cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "import_instruments_from_kite" in result.stdout


def test_list_when_dag_folders_are_broken(project: Project, add_dag: AddDAG) -> None:
    add_dag(11, "syntax_error", "def syntax_error(:\n")
    add_dag(6, "bad_json", config='{"enabled": true,\n')
    add_dag(4, "wrong_type", enabled="maybe")
    add_dag(5, "exits", "raise SystemExit(7)\n")
    add_dag(7, "twin", description="first")
    add_dag(7, "other_twin", description="second")
    add_dag(10, "last", enabled=False, description="${NOT_SET} stays")
    (project.folder / "dag_9_no_config").mkdir()
    (project.folder / "dag_nonsense").mkdir()
    (project.folder / "dag_8_is_a_file").write_text("")
    result = project.run("--list")
    assert (result.returncode, result.stderr) == (0, "")
    rows = rows_of_table(result.stdout)
    assert list(rows) == [
        "1 import_instruments_from_kite",
        "2 import_candles_from_kite",
        "3 import_symbol_changes_from_nse",
        "4 wrong_type",
        "5 exits",
        "6 bad_json",
        "7 other_twin",
        "7 twin",
        "9 no_config",
        "10 last",
        "11 syntax_error",
    ]
    assert "BROKEN: dag_6_bad_json/config.json is not valid JSON: line 2" in rows["6 bad_json"]
    assert 'enabled: expected true or false, got "maybe"' in rows["4 wrong_type"]
    assert "dag_9_no_config/config.json is missing" in rows["9 no_config"]
    for twin in ("7 twin", "7 other_twin"):
        assert "used by several folders: dag_7_other_twin, dag_7_twin" in rows[twin]
    assert re.search(r" no +daily +\$\{NOT_SET\} stays$", rows["10 last"])
    assert "BROKEN" not in rows["11 syntax_error"] + rows["5 exits"]  # their code is not looked at


def test_list_where_output_is_ascii(project: Project) -> None:
    result = project.run("--list", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert "\\u" not in result.stdout
    assert result.stdout.isascii()
    assert "import_instruments_from_kite" in result.stdout


# Which DAGs run


def test_second_dag_that_was_dropped_in_is_listed_and_run(
    project: Project, add_dag: AddDAG
) -> None:
    add_dag(4, "say_hello", "def say_hello():\n    return 'Hello, 3 rows'\n")
    assert "About say_hello" in rows_of_table(project.run("--list").stdout)["4 say_hello"]
    result = project.run("--dag", "4")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Hello, 3 rows" in result.stdout.splitlines()
    assert "DAG 4 say_hello: succeeded in" in project.log


def test_second_dag_with_modules_of_its_own_and_shared_ones(
    project: Project, add_dag: AddDAG
) -> None:
    folder = add_dag(4, "whole", "from dag_4_whole.work import whole\n", parameters={"limit": 7})
    (folder / "work.py").write_text(
        "from pathlib import Path\n"
        "from shared.config.config_loader import ConfigLoader\n"
        "def whole():\n"
        "    config = ConfigLoader.load_dag_config(str(Path(__file__).parent))\n"
        "    return f\"limit {config['parameters']['limit']}\"\n"
    )
    result = project.run("--dag", "4")
    assert result.returncode == 0, result.stderr
    assert "limit 7" in result.stdout.splitlines()


def test_dag_option_given_several_times(project: Project, add_dag: AddDAG) -> None:
    for dag_id in (4, 5, 6):
        add_dag(dag_id, f"dag{'abcdefg'[dag_id]}")
    result = project.run("--dag", "5", "--dag", "4", "--dag", "5")
    assert result.returncode == 0
    said = [line for line in result.stdout.splitlines() if "was here" in line]
    assert said == ["dage was here", "dagf was here"]


def test_run_of_all_in_order_of_id_without_disabled_ones(
    project: Project, add_dag: AddDAG, without_dag_1: None
) -> None:
    add_dag(10, "ten")
    add_dag(9, "nine")
    add_dag(4, "four", enabled=False)
    result = project.run()
    assert (result.returncode, result.stderr) == (0, "")
    said = [line for line in result.stdout.splitlines() if "was here" in line]
    assert said == ["nine was here", "ten was here"]


@pytest.mark.parametrize("arguments", [("--dag", "5"), ("--dag", "4", "--dag", "5")])
def test_unknown_dag(project: Project, add_dag: AddDAG, arguments: tuple[str, ...]) -> None:
    add_dag(4, "four")
    result = project.run(*arguments)
    assert result.returncode == 2
    all_dags = shlex.join(project.command("list"))
    assert result.stderr == f"ERROR: There is no DAG 5. Known ids: 1, 2, 3, 4 (see {all_dags}).\n"
    assert "was here" not in result.stdout


def test_disabled_dag_by_its_id(project: Project, add_dag: AddDAG) -> None:
    add_dag(4, "four", enabled=False)
    result = project.run("--dag", "4")
    assert result.returncode == 2
    assert result.stderr.startswith("ERROR: DAG 4 is disabled")
    assert "dag_4_four/local.json" in result.stderr
    assert "was here" not in result.stdout


def test_run_of_all_when_every_dag_is_disabled(project: Project, without_dag_1: None) -> None:
    result = project.run()
    assert result.returncode == 2
    assert "no enabled DAG" in result.stderr


def test_run_of_all_goes_on_after_failures(
    project: Project, add_dag: AddDAG, without_dag_1: None
) -> None:
    add_dag(4, "fails", "def fails():\n    return 1 / 0\n")
    add_dag(8, "syntax_error", "def syntax_error(:\n")
    add_dag(5, "exits", "raise SystemExit(0)\n")
    add_dag(6, "nameless", "x = 1\n")
    add_dag(7, "bad_json", config="[]")
    add_dag(9, "works")
    result = project.run()
    assert result.returncode == 1
    assert "works was here" in result.stdout
    table = result.stdout[result.stdout.rindex("\n\n", 0, -1) :]
    rows = rows_of_table(table)
    assert [row.split()[2] for row in rows.values()] == ["failed"] * 5 + ["succeeded"]
    assert all(re.search(r" \d+\.\d\d$", row) for row in rows.values())
    errors = result.stderr.splitlines()
    assert len(errors) == 5
    for expected, line in zip(
        (
            "DAG 4 fails failed: ZeroDivisionError: division by zero",
            "dag_5_exits cannot be loaded: SystemExit",
            "dag_6_nameless has no function nameless",
            "dag_7_bad_json/config.json: expected an object",
            "dag_8_syntax_error cannot be loaded: SyntaxError",
        ),
        errors,
    ):
        assert expected in line
    assert "Traceback" not in result.stdout + result.stderr
    assert "ZeroDivisionError: division by zero" in project.log
    assert "Traceback (most recent call last)" in project.log


def test_single_dag_has_no_table_at_the_end(project: Project, add_dag: AddDAG) -> None:
    add_dag(4, "four")
    result = project.run("--dag", "4")
    assert re.fullmatch(
        r"DAG 4 four\n\nfour was here\n\nDAG 4 four succeeded in \d+\.\d\d s\n", result.stdout
    )


# Exit statuses

RAISES = "from shared.exceptions import *\ndef {name}():\n    raise {error}\n"


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        pytest.param(["AuthenticationError('a')"], 3, id="session dead"),
        pytest.param(["AuthenticationError('a')", None], 3, id="session dead, another succeeds"),
        pytest.param(["AuthenticationError('a')", "APIError('b')"], 1, id="also an API error"),
        pytest.param(["AuthenticationError('a')", "KeyError('b')"], 1, id="also a bug"),
        pytest.param(["ConfigurationError('a')", None], 2, id="configuration"),
        pytest.param(["ConfigurationError('a')", "DatabaseError('b')"], 1, id="also a database"),
        pytest.param(
            ["ConfigurationError('a')", "AuthenticationError('b')"], 1, id="both kinds of advice"
        ),
        pytest.param(["ValidationError('a')"], 1, id="data"),
        pytest.param(["SystemExit(0)"], 1, id="a DAG that exits"),
        pytest.param([None, None], 0, id="all well"),
    ],
)
def test_exit_status(
    project: Project,
    add_dag: AddDAG,
    without_dag_1: None,
    errors: list[str | None],
    status: int,
) -> None:
    for name, error in zip(("first", "second"), errors):
        add_dag(len(name), name, RAISES.format(name=name, error=error) if error else "")
    result = project.run()
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr


def test_exit_status_of_a_real_dead_session(configured_project: Project, kite: KiteServer) -> None:
    kite.expire_token()
    result = configured_project.run("--dag", "1")
    assert result.returncode == 3
    assert "6 AM IST" in result.stderr
    assert "KITE_ACCESS_TOKEN" in result.stderr
    assert [request.path for request in kite.requests] == ["/user/profile"]


def test_exit_status_without_configuration(project: Project) -> None:
    result = project.run("--dag", "1")
    assert result.returncode == 2
    names = "KITE_API_KEY, KITE_API_SECRET, KITE_ACCESS_TOKEN, DB_USER"
    assert names in result.stderr
    assert ".env" in result.stderr


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--dag",), id="no id"),
        pytest.param(("--dag", "1.5"), id="neither id nor name"),
        pytest.param(("--log-level", "loud"), id="no log level"),
        pytest.param(("--nonsense",), id="unknown option"),
        pytest.param(("1",), id="positional argument"),
        pytest.param(("--list", "--dag", "1"), id="list and run"),
        pytest.param(("--list", "--dry-run"), id="list and dry run"),
    ],
)
def test_bad_usage(project: Project, arguments: tuple[str, ...]) -> None:
    result = project.run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(r"execute_dags\.py( list)?: .+\n", result.stderr)


def test_version(project: Project) -> None:
    result = project.run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (
        0,
        f"execute_dags.py {__version__}\n",
        "",
    )


def test_help_names_every_option_and_exit_status(project: Project) -> None:
    result = project.run("--help", COLUMNS="80")
    assert (result.returncode, result.stderr) == (0, "")
    for option in ("--dag N", "--list", "--dry-run", "--log-level", "--version", "--help"):
        assert option in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    told = result.stdout.lower().partition("exit status")[2]
    for status in ExitStatus:
        assert re.search(rf"\b{int(status)}\b", told)


@pytest.mark.parametrize("level", ["debug", "DEBUG"])
def test_log_level_debug_reaches_console_and_file(
    project: Project, add_dag: AddDAG, level: str
) -> None:
    code = "import logging\ndef chatty():\n    logging.getLogger('x').debug('a detail')\n"
    add_dag(4, "chatty", code)
    result = project.run("--dag", "4", "--log-level", level)
    assert "DEBUG: a detail\n" in result.stderr
    assert "INFO: DAG 4 chatty: started\n" in result.stderr
    assert "x - DEBUG - a detail" in project.log
    quiet = project.run("--dag", "4")
    assert quiet.stderr == ""
    assert project.log.count("a detail") == 1


def test_log_level_error_hides_warnings(project: Project, add_dag: AddDAG) -> None:
    code = "import logging\ndef warns():\n    logging.getLogger('x').warning('careful')\n"
    add_dag(4, "warns", code)
    assert project.run("--dag", "4", "--log-level", "ERROR").stderr == ""
    assert "careful" not in project.log
    assert project.run("--dag", "4").stderr == "WARNING: careful\n"


# Dry run


def test_dry_run_needs_no_database(configured_project: Project, kite: KiteServer) -> None:
    kite.dump = DUMP
    result = configured_project.run("--dag", "1", "--dry-run", DB_PORT="1", DB_NAME="nowhere")
    assert result.returncode == 0
    assert re.fullmatch(r"WARNING: What would .* No connection to nowhere .*\n", result.stderr)
    assert "Dry run: 3 instruments would be stored in nowhere.kite_instrument_master" in (
        result.stdout
    )
    assert "inserted" not in result.stdout


def test_dry_run_writes_nothing(
    configured_project: Project, kite: KiteServer, server: Server, database: str
) -> None:
    kite.dump = DUMP
    assert configured_project.run("--dag", "1", "--dry-run").returncode == 0
    assert count_rows(server, database) == 0
    assert configured_project.run("--dag", "1").returncode == 0
    assert count_rows(server, database) == 3


def test_dry_run_of_a_dag_that_has_none(project: Project, add_dag: AddDAG) -> None:
    add_dag(4, "four")
    result = project.run("--dag", "4", "--dry-run")
    assert result.returncode == 2
    assert "DAG 4 has no --dry-run" in result.stderr
    assert "was here" not in result.stdout


# What is printed where


def test_output_when_redirected(configured_project: Project, kite: KiteServer) -> None:
    kite.dump = DUMP
    kite.fail_next("/instruments", HttpError(503))
    result = configured_project.run("--dag", "1")
    assert result.returncode == 0
    assert not CONTROL_CHARACTER.search(result.stdout + result.stderr)
    assert max(map(len, result.stdout.splitlines())) <= 80
    steps = re.findall(r"^  ([a-z ]+): done in \d+\.\d\d s$", result.stdout, re.M)
    assert steps == [
        "load configuration",
        "check table",
        "authenticate",
        "fetch instruments",
        "validate",
        "prepare table",
        "store",
    ]
    assert result.stderr == (
        "WARNING: fetch instruments: attempt 1 of 3 failed, next in 0.01 s: "
        "Kite answered HTTP 503 (Service Unavailable).\n"
    )
    for name, count in {"fetched": 3, "rejected": 0, "inserted": 3, "updated": 0}.items():
        assert re.search(rf"^{name} +{count}$", result.stdout, re.M)


def test_log_file_of_a_run(configured_project: Project, kite: KiteServer) -> None:
    kite.dump = DUMP
    configured_project.run("--dag", "1")
    moment = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\+0530"
    entry = re.compile(rf"^{moment} - ([\w.]+) - ([A-Z]+) - (.*)$")
    entries = [
        match.groups()
        for line in configured_project.log.splitlines()
        if (match := entry.match(line))
    ]
    moments = [datetime.strptime(moment, "%Y-%m-%d %H:%M:%S,%f") for moment, *_ in entries]
    assert moments == sorted(moments)
    assert {level for _, _, level, _ in entries} == {"INFO"}
    messages = [message for *_, message in entries]
    assert messages[0] == "DAG 1 import_instruments_from_kite: started"
    assert re.fullmatch(
        r"DAG 1 import_instruments_from_kite: succeeded in \d+\.\d+ s", messages[-1]
    )
    for step in ("authenticate", "fetch instruments", "validate", "store"):
        started = messages.index(f"{step}: started")
        assert any(
            re.fullmatch(rf"{step}: succeeded in \d+\.\d+ s", message)
            for message in messages[started:]
        )


def test_failure_is_one_line_on_the_console_and_a_stack_trace_in_the_log(
    configured_project: Project, kite: KiteServer
) -> None:
    kite.fail_next("/instruments", HttpError(400), None)
    result = configured_project.run("--dag", "1")
    assert result.returncode == 1
    assert re.fullmatch(r"ERROR: fetch instruments failed: .*HTTP 400.*\n", result.stderr)
    assert f"Details: {configured_project.environment['LOG_DIR']}" in result.stdout
    assert configured_project.log.count("Traceback (most recent call last)") == 2  # with its cause
    assert configured_project.log.count(" - ERROR - ") == 1


def test_terminal_escapes_in_texts_are_shown_and_not_sent(
    project: Project, add_dag: AddDAG
) -> None:
    add_dag(4, "four", "def four():\n    return 'a\\x1b[31mb\\x07c\\rd'\n", description="x\x1b[2Jy")
    result = project.run("--dag", "4")
    assert not CONTROL_CHARACTER.search(result.stdout)
    assert r"a\x1b[31mb\x07c\rd" in result.stdout
    listed = project.run("--list")
    assert not CONTROL_CHARACTER.search(listed.stdout)


# The terminal


def run_at_terminal(
    project: Project, *arguments: str, interrupt_when: Callable[[], bool] = lambda: False
) -> tuple[int, str]:
    """Run with all three streams at a terminal of 80 columns; return exit status and output."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        project.command(*arguments),
        cwd=project.folder,
        env={**project.environment, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    output, interrupted, deadline = b"", False, time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if not interrupted and interrupt_when():
                interrupted = True
                process.send_signal(signal.SIGINT)
            if not select.select([ours], [], [], 0.05)[0]:
                continue
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux says EIO when the other side is closed
                break
            if not piece:
                break
            output += piece
        return process.wait(60), output.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def visible_lines(output: str) -> list[str]:
    """What each line that was sent shows, escape sequences left out."""
    plain = ESCAPE.sub("", output)
    return [part for line in plain.split("\n") for part in line.strip("\r").split("\r")]


def test_live_bar_at_a_terminal(configured_project: Project, kite: KiteServer) -> None:
    kite.dump = DUMP
    kite.fail_next("/instruments", HttpError(503))
    status, output = run_at_terminal(configured_project, "--dag", "1")
    assert status == 0, output
    lines = visible_lines(output)
    assert max(map(len, lines)) <= 80
    assert re.search(r"\x1b\[\d*A", output)  # redrawn in place
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") > 0  # the cursor comes back
    assert any(re.search(r"fetch instruments +━+ (\S+) of \1 bytes", line) for line in lines)
    assert any(re.search(r"store +━+ 3 of 3 rows", line) for line in lines)
    assert any(line.startswith("WARNING: fetch instruments: attempt 1 of 3") for line in lines)
    assert "Stored 3 instruments" in output
    assert "\x1b" not in configured_project.log


def test_live_bar_of_a_step_that_fails(configured_project: Project, kite: KiteServer) -> None:
    kite.fail_next("/instruments", HttpError(400))
    status, output = run_at_terminal(configured_project, "--dag", "1")
    assert status == 1
    assert any(re.search(r"fetch instruments .*failed", line) for line in visible_lines(output))
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") > 0
    assert "HTTP 400" in output


def test_interrupt_at_a_terminal(configured_project: Project, kite: KiteServer) -> None:
    kite.fail_next("/instruments", Hang("body"))
    status, output = run_at_terminal(
        configured_project,
        "--dag",
        "1",
        interrupt_when=lambda: "/instruments" in [request.path for request in kite.requests],
    )
    assert status == 130
    error = "ERROR: Interrupted: what was not committed yet is rolled back."
    assert error in ESCAPE.sub("", output)
    assert "Traceback" not in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")  # the cursor comes back


def test_list_at_a_terminal_keeps_to_its_width(project: Project, add_dag: AddDAG) -> None:
    add_dag(4, "four", description="word " * 40)
    status, output = run_at_terminal(project, "--list")
    assert status == 0
    assert max(map(len, visible_lines(output))) <= 80
    assert output.count("word") == 40


# Standard output that goes away


def test_output_piped_into_head(
    configured_project: Project, kite: KiteServer, server: Server, database: str
) -> None:
    kite.dump = DUMP
    process = subprocess.Popen(
        configured_project.command("--dag", "1"),
        cwd=configured_project.folder,
        env=configured_project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "DAG 1 import_instruments_from_kite\n"
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")
    assert count_rows(server, database) == 3


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", ">&- 2>&- <&-", ">/dev/full 2>&1"])
def test_output_closed_or_full(
    configured_project: Project,
    kite: KiteServer,
    server: Server,
    database: str,
    redirection: str,
) -> None:
    kite.dump = DUMP
    kite.fail_next("/instruments", HttpError(503))
    result = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirection}', *configured_project.command("--dag", "1")],
        cwd=configured_project.folder,
        env=configured_project.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert count_rows(server, database) == 3
    assert "succeeded" in configured_project.log
