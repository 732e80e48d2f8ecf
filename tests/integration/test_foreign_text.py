"""Text of others on the console, in the log and in the history: it steers nothing, forges nothing.

Ruling 35; data for programs are exact.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandbox.kite_faults import CustomAnswer
from sandbox.kite_server import KiteServer
from tests.command_line import ESCAPE, CommandLine
from tests.conftest import AddDAG, Project, Server
from tests.instruments import instrument, to_csv

# The clipboard (OSC 52), the title, a clear screen; then lines that this program itself writes.
FORGED = (
    "no\x1b]52;c;cm0gLXJm\x07\x1b]0;title\x07\x1b[2J\x9b2J\r\u2028\u202e\u200b\n"
    "FRESH: DAG 1 x was loaded on\n"
    "ok      Kite session: logged in\n"
    "DAG 1 x succeeded in 1.00 s\n"
    "\n2026-11-27 08:30:00,000 - execute_dags - INFO - DAG 1 x: succeeded in 1.000 s\n"
)
OWN_LINE = re.compile(r"FRESH: |ok  |DAG 1 \w+ succeeded|[\d:, -]+INFO - DAG 1 x: succeeded")


def assert_harmless(text: str, *, but: str = "") -> None:
    """No line is forged (`but` is one that is true), and nothing that is not seen is sent."""
    lines = text.split("\n")
    assert [line for line in lines if OWN_LINE.match(line) and not (but and but in line)] == []
    assert {character for line in lines for character in line if not character.isprintable()} == (
        set()
    )


def answer(status: int, error_type: str) -> CustomAnswer:
    body = {"status": "error", "message": FORGED, "error_type": error_type}
    return CustomAnswer(json.dumps(body).encode(), "application/json", status)


def at_terminal(project: Project, given: str, *arguments: str) -> str:
    """What the command sends to a terminal on which `given` is typed."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        project.command(*arguments),
        cwd=project.folder,
        env={**project.environment, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, given.encode())
    output = b""
    try:
        while True:
            output += os.read(ours, 65536)
    except OSError:  # Linux says EIO when the other side is closed
        pass
    finally:
        os.close(ours)
        process.wait(30)
    return output.decode()


def test_words_of_kite_at_a_refused_login(configured_project: Project, kite: KiteServer) -> None:
    kite.fail_next("/session/token", answer(403, "TokenException"), None)
    sent = at_terminal(configured_project, "a" * 32 + "\n\x04", "login")  # Ctrl-D ends it
    assert r"no\x1b]52;c;cm0gLXJm\x07" in sent
    sent = sent.replace("\r\n", "\n")
    for coloured, level in (
        ("\x1b[33mWARNING\x1b[0m: ", "WARNING: "),
        ("\x1b[31mERROR\x1b[0m: ", "ERROR: "),
    ):
        assert sent.count(coloured) == 1  # which is no words of theirs
        sent = sent.replace(coloured, level)
    assert_harmless(sent)
    assert_harmless(configured_project.log)


def test_words_of_kite_in_a_check(configured_project: Project, kite: KiteServer) -> None:
    kite.fail_next("/user/profile", answer(403, "TokenException"), None)
    result = configured_project.run("check")
    assert result.returncode == 3
    own, _, others = result.stdout.partition("\n")
    assert own == "ok      DAG 1 import_instruments_from_kite: its configuration is complete"
    assert_harmless(others, but=": PostgreSQL ")
    assert_harmless(result.stderr)


def test_name_of_the_user_at_kite(configured_project: Project, kite: KiteServer) -> None:
    body = json.dumps({"status": "success", "data": {"user_id": FORGED}}).encode()
    kite.fail_next("/user/profile", CustomAnswer(body, "application/json"), None)
    result = configured_project.run("check")
    assert result.returncode == 0
    own = [line for line in result.stdout.splitlines() if OWN_LINE.match(line)]
    assert len(own) == 4
    assert own[1].startswith("ok      Kite session: logged in as no\\x1b]52")
    assert_harmless(result.stdout.replace("\nok  ", "\n  ")[2:])


def test_words_of_kite_in_a_run_and_its_history(
    configured_project: Project, kite: KiteServer
) -> None:
    kite.fail_next("/instruments", answer(400, "InputException"), None)
    result = configured_project.run("--dag", "1")
    assert result.returncode == 1
    assert r"no\x1b]52" in result.stderr
    status = configured_project.run("status")
    assert status.returncode == 1
    assert "\nRun 1 failed: Kite refused the request" in status.stdout
    for text in (result.stdout, result.stderr, configured_project.log, status.stdout):
        assert_harmless(text)


def test_words_of_kite_that_no_database_stores(
    configured_project: Project, kite: KiteServer, server: Server, database: str
) -> None:
    """The run is recorded, and what ends it is its own error."""
    body = {"status": "error", "message": "no\0\ud800", "error_type": "InputException"}
    fault = CustomAnswer(json.dumps(body).encode(), "application/json", 400)
    kite.fail_next("/instruments", fault, None)
    result = configured_project.run("--dag", "1")
    assert result.returncode == 1
    assert result.stderr.endswith(r"InputException: no\x00\ud800)." + "\n")
    [(error,)] = server.execute("SELECT error FROM ingestion_run", dbname=database)
    assert error.endswith(r"InputException: no\x00\ud800).")


def test_words_of_the_database(cli: CommandLine) -> None:
    cli.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION USING MESSAGE = %s; END $$",
        FORGED.replace("\0", ""),
    )
    cli.query(
        "CREATE TRIGGER refuse BEFORE INSERT ON kite_instrument_master EXECUTE FUNCTION refuse()"
    )
    result = cli.load(to_csv([instrument(256, "INFY", "NSE")]))
    assert result.status == 1
    assert r"\x1b]52" in result.stderr
    for text in (result.stdout, result.stderr, cli.run("status").stdout):
        assert_harmless(text)


@pytest.mark.parametrize("exchange", ["FRESH: DAG", "ok      NSE", "\x1b[2J", "\u202eESN"])
def test_exchange_begins_no_line(cli: CommandLine, exchange: str) -> None:
    """With the longest names there can be."""
    exchange = exchange[:10]
    rows = [instrument(256, "INFY", exchange), instrument(512, "TCS", "NSE")]
    result = cli.load(to_csv(rows))
    assert result.status == 0
    assert_harmless(result.stdout, but="DAG 1 import_instruments_from_kite succeeded in ")
    stored = cli.query("SELECT exchange FROM kite_instrument_master ORDER BY instrument_token")
    assert stored == [(exchange,), ("NSE",)]
    cli.load(to_csv([*rows, instrument(768, "\x1b[2J\x07", exchange)]))
    for arguments in (("changes",), ("--dag", "1", "--dry-run")):
        told = cli.run(*arguments)
        assert told.status == 0
        assert_harmless(told.stdout, but="DAG 1 import_instruments_from_kite succeeded in ")


def run_with_file(project: Project, folder: Path, name: bytes, content: bytes) -> Any:
    path = os.fsencode(folder) + b"/" + name
    with open(path, "wb") as file:  # noqa: PTH123 - a name of bytes
        file.write(content)
    return project.run("--dag", "1", "--from-file", os.fsdecode(path))


def test_name_of_a_file(configured_project: Project, tmp_path: Path) -> None:
    name = FORGED.replace("/", "").encode()
    result = run_with_file(
        configured_project, tmp_path, name, to_csv([instrument(256, "INFY", "NSE")])
    )
    assert result.returncode == 0
    status = configured_project.run("status")
    assert r"no\x1b]52;c;" in status.stdout
    assert_harmless(result.stdout, but="DAG 1 import_instruments_from_kite succeeded in ")
    assert_harmless(status.stdout)
    assert_harmless(configured_project.log)
    broken = run_with_file(configured_project, tmp_path, name, b"no list\n")
    assert broken.returncode == 1
    assert_harmless(broken.stderr)


def test_name_of_a_file_that_is_no_utf_8(
    configured_project: Project, server: Server, database: str, tmp_path: Path
) -> None:
    dump = to_csv([instrument(256, "INFY", "NSE")])
    result = run_with_file(configured_project, tmp_path, b"caf\xe9.csv", dump)
    assert (result.returncode, result.stderr) == (0, "")
    assert r"/caf\udce9.csv" in result.stdout
    [(source,)] = server.execute("SELECT source FROM ingestion_run", dbname=database)
    assert source == rf"{tmp_path}/caf\udce9.csv"
    assert configured_project.run("status").returncode == 1
    result = run_with_file(configured_project, tmp_path, b"caf\xe9.csv", b"no list\n")
    assert result.returncode == 1
    assert r"/caf\udce9.csv cannot be used" in result.stderr


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("loop", id="a link to itself"),
        pytest.param("x" * 300, id="too long"),
    ],
)
def test_name_of_a_file_that_leads_nowhere(
    configured_project: Project, tmp_path: Path, name: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path = str(tmp_path / name)
    result = configured_project.run("--dag", "1", "--from-file", path)
    assert result.returncode == 2
    assert re.match(
        r"ERROR: read saved file failed: The saved file .* cannot be read \(", (result.stderr)
    )
    assert result.stderr.count("\n") == 1


def test_arguments_that_are_refused(project: Project) -> None:
    result = project.run(FORGED, "request_token=0123456789abcdef")
    assert result.returncode == 2
    assert result.stderr.startswith("execute_dags.py: no\\x1b]52")
    assert "0123456789abcdef" not in result.stderr
    assert_harmless(result.stderr)


def test_description_of_a_dag(project: Project, add_dag: AddDAG) -> None:
    add_dag(4, "four", description=FORGED)
    result = project.run("--list")
    assert result.returncode == 0
    assert r"\nFRESH: DAG 1" in result.stdout
    assert_harmless(result.stdout)


def test_name_of_a_step_at_a_terminal(project: Project, add_dag: AddDAG) -> None:
    """The live display has names of steps, too; rich's own marks are nothing special in them."""
    add_dag(
        4,
        "four",
        "from shared.utils.operation import operation\ndef four():\n"
        "    with operation('[red]a\\x1b]0;b\\x07\\n'):\n        pass\n",
    )
    sent = at_terminal(project, "", "--dag", "4")
    assert r"[red]a\x1b]0;b\x07\n" in ESCAPE.sub("", sent)
    assert "\x1b]" not in sent
    assert "\x07" not in sent


# Data for programs


def test_json_is_exact(cli: CommandLine) -> None:
    """Though a secret is a part of it."""
    cli.monkeypatch.setenv("KITE_API_SECRET", "5123")
    cli.monkeypatch.setenv("KITE_ACCESS_TOKEN", "12345678")
    cli.kite._access_token = "12345678"
    before = [instrument(512300, "A12345678B", "NSE", name="x\x1b[2J\u202e"), instrument(5, "B")]
    after = [{**row, "lot_size": 5123} for row in before]
    assert cli.load(to_csv(before)).status == 0
    assert cli.load(to_csv(after)).status == 0
    changes = json.loads(cli.run("changes", "--json").stdout)["dags"][0]["changes"]
    assert [
        [change[name] for name in ("instrument_token", "tradingsymbol", "new")]
        for change in sorted(changes, key=lambda change: -change["instrument_token"])
    ] == [[512300, "A12345678B", "5123"], [5, "B", "5123"]]
    shown = cli.run("changes").stdout
    assert "12345678" not in shown
