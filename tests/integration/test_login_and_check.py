"""`login` and `check` from the command line, against a local Kite and a real PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from dotenv import dotenv_values

from sandbox.kite_faults import CustomAnswer, Fault, Hang, HtmlError, HttpError, Reset
from sandbox.kite_server import KiteServer
from shared.calendar import IST
from tests.conftest import AddDAG, Project, Server
from tests.instruments import instrument, to_csv
from tests.own_postgres import free_port

SECRET = "sandbox_secret"
OLD_TOKEN = "0ldT0ken0fYesterday"
ENV = (
    b"# Kite\r\nKITE_API_KEY=sandbox_key\r\n"
    + f"KITE_API_SECRET={SECRET}\r\n".encode()
    + f"export KITE_ACCESS_TOKEN='{OLD_TOKEN}' # each morning\r\n".encode()
    + b"DB_PASSWORD='p$a#s s'\r\nNOTE=no final newline"
)
LOGIN_PATH = "/session/token"
NO_TOKEN = CustomAnswer(b'{"status": "success", "data": {"login_time": ""}}', "application/json")
CLOSED_PORT = "http://127.0.0.1:9"


class Login:
    """A project whose `.env` has yesterday's token."""

    def __init__(self, project: Project, kite: KiteServer) -> None:
        self.project = project
        self.kite = kite
        self.env_file = project.folder / ".env"
        self.write_env(ENV)
        project.environment["KITE_API_ROOT"] = kite.root
        project.environment["KITE_REDIRECT_ADDRESS"] = f"http://127.0.0.1:{free_port()}/"
        kite.expire_token()

    def write_env(self, content: bytes) -> None:
        self.env_file.write_bytes(content)
        self.env_file.chmod(0o600)

    def run(self, given: bytes, **environment: str) -> tuple[int, str, str]:
        """`execute_dags.py login` with `given` on standard input; no secret gets out."""
        result = subprocess.run(
            self.project.command("login"),
            cwd=self.project.folder,
            env={**self.project.environment, **environment},
            input=given,
            capture_output=True,
            timeout=60,
        )
        output, errors = result.stdout.decode(), result.stderr.decode()
        self.check_secrets(output + errors, given)
        return result.returncode, output, errors

    def check_secrets(self, said: str, given: bytes = b"") -> None:
        everything = said + self.project.log
        request_tokens = re.findall(r"[0-9a-f]{32}", given.decode(errors="replace"))
        for secret in (SECRET, OLD_TOKEN, "p$a#s s", *request_tokens, self.kite.access_token):
            assert not secret or secret not in everything
        assert "Traceback" not in said

    @property
    def is_untouched(self) -> bool:
        beside = {path.name for path in self.project.folder.glob(".env*")}
        return self.env_file.read_bytes() == ENV and beside == {".env"}

    @property
    def exchanges(self) -> int:
        return sum(request.path == LOGIN_PATH for request in self.kite.requests)


@pytest.fixture
def login(project: Project, kite: KiteServer) -> Login:
    return Login(project, kite)


# login that succeeds


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("{}\n", id="request token"),
        pytest.param("{}", id="no newline"),
        pytest.param(
            "https://127.0.0.1/?action=login&status=success&request_token={}\r\n", id="address"
        ),
        pytest.param("'https://127.0.0.1/?request_token={}&status=success'\nmore\n", id="quoted"),
    ],
)
def test_login(login: Login, form: str) -> None:
    status, output, errors = login.run(form.format(login.kite.issue_request_token()).encode())
    assert (status, errors) == (0, "")
    assert re.fullmatch(
        r"Logged in as SB0001\. The token is in \.env, and dies at about "
        r"06:00 IST on \d\d \w+ \(in \d+\.\d hours\)\.\n",
        output,
    )
    new = login.env_file.read_bytes()
    assert new == ENV.replace(OLD_TOKEN.encode(), login.kite.access_token.encode())
    assert login.env_file.stat().st_mode & 0o777 == 0o600


def test_token_of_a_login_is_used_by_the_next_run(login: Login) -> None:
    login.kite.dump = to_csv([instrument(256, "INFY", "NSE")])
    login.write_env(ENV + b"\nDB_USER=nobody\n")
    assert login.project.run("--dag", "1", "--dry-run").returncode == 3
    assert login.run(login.kite.issue_request_token().encode())[0] == 0
    assert login.project.run("--dag", "1", "--dry-run").returncode == 0


def test_login_where_env_has_no_token_yet(login: Login) -> None:
    content = b"KITE_API_KEY=sandbox_key\nKITE_API_SECRET=" + SECRET.encode()
    login.write_env(content)
    assert login.run(login.kite.issue_request_token().encode())[0] == 0
    line = f"\nKITE_ACCESS_TOKEN={login.kite.access_token}\n".encode()
    assert login.env_file.read_bytes() == content + line


def test_login_without_env_file(login: Login) -> None:
    login.env_file.unlink()
    status, _, errors = login.run(
        login.kite.issue_request_token().encode(),
        KITE_API_KEY="sandbox_key",
        KITE_API_SECRET=SECRET,
    )
    assert (status, errors) == (0, "")
    assert dotenv_values(login.env_file) == {"KITE_ACCESS_TOKEN": login.kite.access_token}
    assert login.env_file.stat().st_mode & 0o777 == 0o600


def test_login_where_the_environment_has_another_token(login: Login) -> None:
    status, output, _ = login.run(
        login.kite.issue_request_token().encode(), KITE_ACCESS_TOKEN=OLD_TOKEN
    )
    assert status == 0
    assert "Beware: KITE_ACCESS_TOKEN is also set in the environment, and wins" in output


def test_death_that_is_told_is_the_next_six_o_clock(login: Login) -> None:
    begin = datetime.now(IST)
    _, output, _ = login.run(login.kite.issue_request_token().encode())
    match = re.search(r"06:00 IST on (\d\d \w+) \(in ([\d.]+) hours\)", output)
    assert match is not None
    days = [(begin + timedelta(days=days)).strftime("%d %B") for days in (0, 1)]
    assert match[1] in days
    assert 0 <= float(match[2]) <= 24


def test_login_at_a_terminal_shows_the_address(login: Login) -> None:
    output, status = at_terminal(login, login.kite.issue_request_token())
    assert status == 0
    assert "https://kite.zerodha.com/connect/login?api_key=sandbox_key&v=3" in output
    assert "Or paste the address that the browser shows then" in output
    assert "Logged in as SB0001" in output
    assert not login.is_untouched


def at_terminal(login: Login, answer: str | None) -> tuple[str, int]:
    """Run login at a terminal and answer its question, or press Ctrl-C there (None)."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        login.project.command("login"),
        cwd=login.project.folder,
        env=login.project.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    output = b""
    try:
        while select.select([ours], [], [], 60)[0]:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            output += piece
            if b"request_token):\r\n" in piece:
                if answer is None:
                    process.send_signal(signal.SIGINT)
                else:
                    os.write(ours, f"{answer}\n".encode())
        return output.decode(), process.wait(60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_interrupt_at_the_question(login: Login) -> None:
    output, status = at_terminal(login, None)
    assert status == 130
    assert "Traceback" not in output
    assert login.is_untouched
    assert login.exchanges == 0


# login that fails: `.env` is as it was


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\n", id="blank line"),
        pytest.param(b"hello, world\n", id="words"),
        pytest.param(b"\xff\xfe\x00\x01\n", id="bytes that are no text"),
        pytest.param(b"//[?\n", id="a broken address"),
        pytest.param(b"x" * 100_000, id="no end of the line"),
        pytest.param(b"https://x.in/?status=cancelled&request_token=" + b"a" * 32, id="failed"),
    ],
)
def test_login_with_nothing_that_is_a_request_token(login: Login, given: bytes) -> None:
    status, output, errors = login.run(given)
    assert (status, output) == (3, "")
    assert re.match(r"ERROR: (Nothing came on|No request token in|Kite's address says)", errors)
    assert login.is_untouched
    assert login.exchanges == 0


def test_login_when_standard_input_is_closed(login: Login) -> None:
    result = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" <&-', *login.project.command("login")],
        cwd=login.project.folder,
        env=login.project.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 3
    assert result.stderr.startswith("ERROR: Nothing came on standard input. Open https://kite.")
    assert login.is_untouched


def test_login_with_a_used_request_token(login: Login) -> None:
    token = login.kite.issue_request_token().encode()
    assert login.run(token)[0] == 0
    login.write_env(ENV)
    status, output, errors = login.run(token)
    assert (status, output) == (3, "")
    assert "Kite refused the login (HTTP 403, TokenException" in errors
    assert "A request token is good once" in errors
    assert login.is_untouched


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("KITE_API_SECRET", "an0therSecret", id="secret"),
        pytest.param("KITE_API_KEY", "another_key", id="key"),
    ],
)
def test_login_with_a_wrong_key_or_secret(login: Login, name: str, value: str) -> None:
    status, output, errors = login.run(login.kite.issue_request_token().encode(), **{name: value})
    assert (status, output) == (3, "")
    assert "check KITE_API_KEY and KITE_API_SECRET" in errors
    assert "an0therSecret" not in errors + login.project.log
    assert login.is_untouched


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(HttpError(503), "Kite answered HTTP 503", id="503"),
        pytest.param(HtmlError(), "Kite answered HTTP 502", id="502 as HTML"),
        pytest.param(HttpError(429), "Kite answered HTTP 429", id="429"),
        pytest.param(Reset("answer"), "No connection to Kite at", id="reset"),
        pytest.param(Hang(), "did not answer in time", id="time-out"),
        pytest.param(
            NO_TOKEN,
            "holds no access token",
            id="no token in the answer",
        ),
    ],
)
def test_login_when_kite_fails_is_one_attempt(login: Login, fault: Fault, message: str) -> None:
    login.kite.fail_next(LOGIN_PATH, fault, None)
    status, output, errors = login.run(
        login.kite.issue_request_token().encode(), KITE_TIMEOUT_SECONDS="0.3"
    )
    assert (status, output) == (1, "")
    assert message in errors
    assert login.is_untouched
    assert login.exchanges == 1  # a request token is good once


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_login_that_is_redirected_sends_nothing_there(login: Login, status: int) -> None:
    with KiteServer(b"") as other:
        token = CustomAnswer(
            b'{"status": "success", "data": {"access_token": "0fAnother"}}', "application/json"
        )
        other.fail_next(LOGIN_PATH, token, None)
        location = ("Location", other.root + LOGIN_PATH)
        redirect = CustomAnswer(b"", status=status, headers=(location,))
        login.kite.fail_next(LOGIN_PATH, redirect, None)
        exit_status, output, errors = login.run(login.kite.issue_request_token().encode())
        assert other.requests == []
        assert f"a redirect to '{other.root}{LOGIN_PATH}'. Redirects are not followed" in errors
    assert (exit_status, output) == (1, "")
    assert login.is_untouched
    assert login.exchanges == 1


def test_login_when_the_app_may_not(login: Login) -> None:
    login.kite.fail_next(LOGIN_PATH, HttpError(403, error_type="PermissionException"), None)
    status, output, errors = login.run(login.kite.issue_request_token().encode())
    assert (status, output) == (1, "")
    assert "HTTP 403, PermissionException" in errors
    assert "A new login does not help" in errors
    assert login.is_untouched


def test_login_when_the_network_is_down(login: Login) -> None:
    token = login.kite.issue_request_token().encode()
    status, output, errors = login.run(token, KITE_API_ROOT=CLOSED_PORT)
    assert (status, output) == (1, "")
    assert errors == f"ERROR: No connection to Kite at {CLOSED_PORT}: Connection refused\n"
    assert login.is_untouched


def test_login_whose_new_session_is_refused(login: Login) -> None:
    login.kite.fail_next("/user/profile", HttpError(403), None)
    status, output, errors = login.run(login.kite.issue_request_token().encode())
    assert (status, output) == (3, "")
    assert "Kite refused the session" in errors
    assert login.is_untouched


def test_login_where_env_cannot_be_written_uses_no_request_token_up(
    login: Login, tmp_path: Path
) -> None:
    login.env_file.unlink()
    login.env_file.symlink_to(tmp_path / "not there" / "secrets")
    token = login.kite.issue_request_token().encode()
    credentials = {"KITE_API_KEY": "sandbox_key", "KITE_API_SECRET": SECRET}
    status, output, errors = login.run(token, **credentials)
    assert (status, output) == (2, "")
    assert errors.startswith("ERROR: .env cannot be written: No such file or directory.")
    assert login.exchanges == 0
    login.env_file.unlink()
    assert login.run(token, **credentials)[0] == 0


def test_login_when_the_disk_is_full(login: Login) -> None:
    content = ENV + b"\nPADDING=" + b"x" * 20_000 + b"\n"
    login.write_env(content)
    token = login.kite.issue_request_token()
    result = subprocess.run(
        ["sh", "-c", 'ulimit -f 16; exec "$0" "$@"', *login.project.command("login")],
        cwd=login.project.folder,
        env=login.project.environment,
        input=token,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "ERROR: .env cannot be written: File too large. It is as it was." in result.stderr
    assert login.exchanges == 0  # the request token is still good
    login.check_secrets(result.stdout + result.stderr, token.encode())
    assert login.env_file.read_bytes() == content
    assert [path.name for path in login.project.folder.glob(".env*")] == [".env"]


def test_login_without_key_and_secret(login: Login) -> None:
    login.write_env(b"A=1\n")
    status, _, errors = login.run(login.kite.issue_request_token().encode())
    assert status == 2
    assert "not set, or empty: KITE_API_KEY, KITE_API_SECRET. Set them" in errors
    assert "KITE_ACCESS_TOKEN" not in errors  # a login is to bring it
    assert login.env_file.read_bytes() == b"A=1\n"


# check


@pytest.fixture
def checked(configured_project: Project, kite: KiteServer) -> Project:
    """A project in which all is well."""
    return configured_project


DAG = "DAG 1 import_instruments_from_kite"


def check(project: Project, kite: KiteServer, **environment: str) -> tuple[int, list[str]]:
    """Run check; its status and lines. It imports nothing, and no secret gets out."""
    result = project.run("check", **environment)
    assert "Traceback" not in result.stderr
    assert not [request for request in kite.requests if request.path == "/instruments"]
    everything = result.stdout + result.stderr + project.log
    for secret in (SECRET, "sandbox_token", project.environment["DB_PASSWORD"], "Wr0ng-Secret"):
        assert not secret or secret not in everything
    return result.returncode, result.stdout.splitlines()


def test_check_when_all_is_well(checked: Project, kite: KiteServer, database: str) -> None:
    status, lines = check(checked, kite)
    assert status == 0
    assert len(lines) == 4
    assert lines[0] == f"ok      {DAG}: its configuration is complete"
    assert re.match(
        r"ok +Kite session: logged in as SB0001; the token dies at about 06:00 IST on \d\d \w+",
        lines[1],
    )
    assert re.match(rf"ok +database: {database} at \S+: PostgreSQL \d+\S*.*, role \w+$", lines[2])
    assert lines[3].startswith(f"ok      {DAG}: ")
    assert lines[3].endswith("table public.kite_instrument_master is there")


def test_check_before_the_first_run(
    checked: Project, kite: KiteServer, server: Server, empty_database: str
) -> None:
    status, lines = check(checked, kite, DB_NAME=empty_database)
    assert status == 0
    assert lines[3].endswith("the first run makes public.kite_instrument_master")
    found = server.execute(
        "SELECT to_regclass('kite_instrument_master')::text", dbname=empty_database
    )
    assert found == [(None,)]


def test_check_of_a_dead_token(checked: Project, kite: KiteServer) -> None:
    kite.expire_token()
    status, lines = check(checked, kite)
    assert status == 3
    assert lines[1].startswith("FAILED  Kite session: Kite refused the session (HTTP 403")
    assert f"Log in again ({shlex.join(checked.command('login'))}), or put" in lines[1]
    assert lines[2].startswith("ok ")


def test_check_when_kite_is_down_is_one_attempt(checked: Project, kite: KiteServer) -> None:
    kite.fail_next("/user/profile", HttpError(503), None)
    status, lines = check(checked, kite)
    assert status == 1
    assert lines[1].startswith("FAILED  Kite session: Kite answered HTTP 503")
    assert lines[2].startswith("ok ")
    assert len(kite.requests) == 1


def test_check_when_the_network_is_down(checked: Project, kite: KiteServer) -> None:
    status, lines = check(checked, kite, KITE_API_ROOT=CLOSED_PORT)
    assert status == 1
    assert lines[1].endswith(f"No connection to Kite at {CLOSED_PORT}: Connection refused")


def test_check_of_a_wrong_password(
    checked: Project, kite: KiteServer, make_role: Callable[..., str]
) -> None:
    status, lines = check(checked, kite, DB_USER=make_role(), DB_PASSWORD="Wr0ng-Secret")
    if lines[2].startswith("ok "):
        pytest.skip("this server lets everybody in without a password")
    assert status == 1
    assert lines[1].startswith("ok ")
    assert lines[2].startswith("FAILED  database: No connection to")
    assert "check DB_USER, DB_PASSWORD" in lines[2]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        pytest.param({"DB_NAME": "n0_such_db"}, "create it (createdb), or check", id="database"),
        pytest.param({"DB_PORT": "9"}, "is the server up, and are DB_HOST and DB_PORT", id="port"),
    ],
)
def test_check_of_a_database_that_is_not_there(
    checked: Project, kite: KiteServer, variables: dict[str, str], message: str
) -> None:
    status, lines = check(checked, kite, **variables)
    assert status == 1
    assert lines[1].startswith("ok ")
    assert lines[2].startswith("FAILED  database: ")
    assert message in lines[2]


def test_check_of_a_role_without_rights(
    checked: Project,
    kite: KiteServer,
    server: Server,
    database: str,
    make_role: Callable[..., str],
) -> None:
    role = make_role("R0le-Secret")
    server.execute(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC", dbname=database)
    server.execute(f"GRANT SELECT, INSERT ON kite_instrument_master TO {role}", dbname=database)
    status, lines = check(checked, kite, DB_USER=role, DB_PASSWORD="R0le-Secret")
    assert status == 1
    assert lines[3].startswith(f"FAILED  {DAG}: a run would fail: ")
    assert f"{role} lacks TEMPORARY on the database" in lines[3]
    assert f"{role} lacks UPDATE, DELETE on kite_instrument_master" in lines[3]


def test_check_of_a_read_only_database(
    checked: Project, kite: KiteServer, server: Server, database: str
) -> None:
    server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    status, lines = check(checked, kite)
    assert status == 1
    assert "the database is read-only" in lines[3]


def test_check_of_a_dead_token_and_a_wrong_database(checked: Project, kite: KiteServer) -> None:
    kite.expire_token()
    status, lines = check(checked, kite, DB_NAME="n0_such_db")
    assert status == 1  # a login alone would not do
    assert [line.split()[0] for line in lines] == ["ok", "FAILED", "FAILED"]


def test_check_without_configuration(project: Project, kite: KiteServer) -> None:
    result = project.run("check")
    assert result.returncode == 2
    assert "not set, or empty: KITE_API_KEY, KITE_API_SECRET, KITE_ACCESS_TOKEN" in result.stdout
    assert "not set, or empty: DB_USER" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("section", "key", "value", "message", "proven"),
    [
        pytest.param(
            "api", "timeout_seconds", "soon", "api.timeout_seconds: expected", "database", id="api"
        ),
        pytest.param(
            "database",
            "port",
            0,
            "database.port: expected an integer",
            "Kite session",
            id="database",
        ),
    ],
)
def test_check_of_a_wrong_setting_still_checks_the_other(
    checked: Project,
    kite: KiteServer,
    section: str,
    key: str,
    value: object,
    message: str,
    proven: str,
) -> None:
    path = checked.folder / "config" / "config.json"
    config = json.loads(path.read_text())
    config[section][key] = value
    path.write_text(json.dumps(config))
    status, lines = check(checked, kite)
    assert status == 2
    assert message in "\n".join(lines)
    assert any(line.startswith(f"ok      {proven}: ") for line in lines)


def test_check_of_every_fault_of_every_enabled_dag(
    checked: Project, kite: KiteServer, add_dag: AddDAG
) -> None:
    kite.expire_token()
    path = checked.folder / "config" / "config.json"
    config = json.loads(path.read_text())
    config["calendar"]["holidays"] = ["2 October"]
    config["logging"]["level"] = "LOUD"
    path.write_text(json.dumps(config))
    path = checked.folder / "dag_1_import_instruments_from_kite" / "config.json"
    config = json.loads(path.read_text())
    config["parameters"].update(batch_size="many", retry_attempts=0)
    path.write_text(json.dumps(config))
    add_dag(4, "plain", schedule="sometimes")
    add_dag(5, "broken", "raise RuntimeError('no luck')", schedule="daily")
    add_dag(6, "off", "raise RuntimeError", enabled=False)
    add_dag(7, "unreadable", config="{")
    result = checked.run("check")
    assert result.returncode == 1
    found = [line for line in result.stdout.splitlines() if line.startswith(("ok", "FAILED"))]
    assert [line.split(": ")[0] for line in found] == [
        f"FAILED  {DAG}",
        "FAILED  DAG 4 plain",
        "FAILED  DAG 5 broken",
        "FAILED  DAG 5 broken",
        "FAILED  DAG 7 unreadable",
        "FAILED  Kite session",
        *("ok      database", f"ok      {DAG}"),
    ]
    assert "dag_5_broken cannot be loaded: RuntimeError: no luck" in found[2]
    for fault in (
        "calendar.holidays",
        "logging.level",
        "parameters.batch_size",
        "parameters.retry_attempts",
        "schedule",
    ):
        assert f"{fault}: expected " in result.stdout


def test_check_of_one_dag_that_needs_neither_kite_nor_a_database(
    project: Project, kite: KiteServer, add_dag: AddDAG
) -> None:
    add_dag(4, "plain", enabled=False, schedule="daily")
    project.environment.update(DB_USER="nobody", DB_PASSWORD="none", KITE_API_ROOT=kite.root)
    result = project.run("check", "--dag", "4")
    assert (result.returncode, kite.requests) == (0, [])
    assert result.stdout == "ok      DAG 4 plain: its configuration is complete\n"


def test_check_shows_no_secret_that_a_server_echoes(checked: Project, kite: KiteServer) -> None:
    echo = CustomAnswer(
        json.dumps(
            {
                "status": "error",
                "message": f"token sandbox_key:sandbox_token {quote(SECRET)} is wrong",
                "error_type": "TokenException",
            }
        ).encode(),
        "application/json",
        403,
    )
    kite.fail_next("/user/profile", echo, None)
    status, lines = check(checked, kite)
    assert status == 3
    assert "is wrong" in lines[1]
