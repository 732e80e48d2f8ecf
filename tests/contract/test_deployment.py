"""The crontab lines, the systemd units, the report and the container do what is said of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import uuid
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import execute_dags
from sandbox.embedded_postgres import find_binaries
from tests.conftest import PROJECT, Server
from tests.documents import blocks_of

DEPLOY = PROJECT / "deploy"
HOME = "/opt/stock_ingestion"

FAKE_DATE = """#!/bin/sh
exec {date} -d "@$FAKE_NOW" "$@"
"""
REAL_DATE = shutil.which("date") or ""


def crontab_command(document: str, schedule: str) -> str:
    (text,) = (block.text for block in blocks_of("crontab") if block.document == document)
    begin, _, command = text.partition(" * * * * ")
    assert begin == schedule
    return command


def make_project(folder: Path, python: str) -> Path:
    """What of an installed project a crontab line needs; its python is this script."""
    project = folder / "project"
    program = project / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{python}\n")
    program.chmod(0o755)
    shutil.copytree(DEPLOY, project / "deploy")
    return project


@pytest.mark.parametrize("status", [0, 3])
def test_crontab_line_runs_what_is_due(tmp_path: Path, status: int) -> None:
    """What is printed is mailed by cron, and nothing else is."""
    python = f'echo "$PWD $*"; [ {status} = 0 ] || echo why >&2; exit {status}'
    project = make_project(tmp_path, python)
    command = crontab_command("README.md", "*/10").replace("/opt/stock_ingestion", str(project))
    result = subprocess.run(["/bin/sh", "-c", command], cwd="/", capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (status, f"{project} execute_dags.py --due\n")
    assert result.stderr == ("why\n" if status else "")


@pytest.mark.parametrize(
    "unescape",
    [
        pytest.param(lambda line: line.replace(r"\%", "%"), id="as cron on Debian reads it"),
        pytest.param(lambda line: line, id="as a cron that knows no % reads it"),
    ],
)
@pytest.mark.parametrize(
    "zone", ["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]
)
def test_line_for_a_fixed_time_runs_at_0830_ist_from_monday_to_friday(
    tmp_path: Path, unescape: Any, zone: str
) -> None:
    """Each quarter of an hour in two weeks, the change to summer time in New York among them."""
    if subprocess.run([REAL_DATE, "-d", "@0"], capture_output=True, check=False).returncode:
        pytest.skip("this date command cannot show another moment")
    project = make_project(tmp_path, 'echo "$FAKE_NOW $*" >>../runs')
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "date").write_text(FAKE_DATE.format(date=REAL_DATE))
    (tmp_path / "bin" / "date").chmod(0o755)
    command = unescape(crontab_command("production.md", "*/15"))
    command = command.replace("/opt/stock_ingestion", str(project))
    first = datetime(2026, 3, 2, tzinfo=UTC)
    moments = [first + timedelta(minutes=15 * number) for number in range(14 * 96)]
    # Around the hour that matters each one, of the others every fourth: each is a process.
    ticks = [m for m in moments if m.hour in (2, 3) or (m.hour % 4 == 0 and m.minute == 30)]
    script = "".join(
        f"export FAKE_NOW={int(m.timestamp()) + late}\n({command})\n"
        for late, m in zip((0, 1, 59, 200) * len(ticks), ticks)
    )
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "TZ": zone}
    result = subprocess.run(
        ["/bin/sh", "-c", script], env=environment, cwd="/", capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("", "")
    runs = (tmp_path / "runs").read_text().splitlines()
    assert {line.partition(" ")[2] for line in runs} == {"execute_dags.py --dag 1"}
    ist = timezone(timedelta(hours=5, minutes=30))
    begun = [datetime.fromtimestamp(int(line.split()[0]), ist) for line in runs]
    assert [moment.strftime("%d") for moment in begun] == [
        *("02", "03", "04", "05", "06", "09", "10", "11", "12", "13")
    ]
    assert all(moment.strftime("%H:%M") in ("08:30", "08:31", "08:33") for moment in begun)


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_line_for_a_fixed_time_reports_a_failure(tmp_path: Path, status: int) -> None:
    project = make_project(tmp_path, f"echo what happened\necho why >&2\nexit {status}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "date").write_text("#!/bin/sh\necho 3-08:30\n")
    (tmp_path / "bin" / "date").chmod(0o755)
    command = crontab_command("production.md", "*/15").replace(r"\%", "%")
    result = subprocess.run(
        ["/bin/sh", "-c", command.replace("/opt/stock_ingestion", str(project))],
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == status
    assert (project / "logs" / "last_run.txt").read_text() == "what happened\nwhy\n"
    if status == 0:
        assert (result.stdout, result.stderr) == ("", "")  # cron sends no mail
    else:
        first, *rest = result.stderr.splitlines()
        assert first.startswith(f"stock_ingestion: exit status {status}: ")
        assert rest == ["what happened", "why"]
        assert ("login" in first) == (status == 3)


# --- the report ----------------------------------------------------------------------------------

# How a run may end, as a shell sees it, and what is said of it.
ENDS = {
    "exit 0": (0, None),
    "exit 1": (1, "A DAG failed"),
    "exit 2": (2, "The configuration is wrong"),
    "exit 3": (3, "Log in"),
    "exit 4": (4, "cannot be known"),
    "exit 99": (99, "No exit status of execute_dags.py"),
    "exec ./rightless": (126, "may not be executed"),
    "exec ./missing": (127, "was not found"),
    "kill -HUP $$": (129, "SIGHUP"),
    "kill -INT $$": (130, "SIGINT"),
    "kill -KILL $$": (137, "Was the memory full?"),
    "kill -SEGV $$": (139, "Signal 11 ended it"),
    "kill -TERM $$": (143, None),
    "exit 203": (203, "systemd could not start it"),
}


def test_report_of_every_end(tmp_path: Path) -> None:
    """The run is a real one, ended so; the report gets what the shell makes of it."""
    (tmp_path / "rightless").write_text("#!/bin/sh\n")
    lines = [
        f"(sh -c '{end}' 2>/dev/null; {DEPLOY}/report.sh $? 2>&1; echo \"= $?\")" for end in ENDS
    ]
    result = subprocess.run(
        ["/bin/sh", "-c", "\n".join(lines)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what the shell says of killed children
        text=True,
    )
    assert result.returncode == 0
    reports = re.findall(r"((?:.*\n)*?)= (\d+)\n", result.stdout)
    assert len(reports) == len(ENDS)
    for (end, (status, said)), (report, passed_on) in zip(ENDS.items(), reports):
        if said is None:
            assert (report, passed_on) == ("", "0"), end
        else:
            assert report.startswith(f"stock_ingestion: exit status {status}: "), end
            assert report.count("\n") == 1, end
            assert said in report
            assert passed_on == str(status), end


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        pytest.param("", 0, None, id="nothing"),
        pytest.param("TERM", 0, None, id="stopped"),
        pytest.param("KILL", 1, "Was the memory full?", id="killed"),
        pytest.param("HUP", 1, "SIGHUP", id="hung up"),
        pytest.param("SEGV", 1, "SIGSEGV ended it", id="another signal"),
    ],
)
def test_report_of_what_systemd_gives(given: str, status: int, said: str | None) -> None:
    result = subprocess.run(
        ["/bin/sh", str(DEPLOY / "report.sh"), given], capture_output=True, text=True
    )
    assert result.returncode == status
    assert said in result.stderr if said else result.stderr == ""


def test_report_knows_every_exit_status_that_is_no_success() -> None:
    text = (DEPLOY / "report.sh").read_text()
    for status in set(execute_dags.ExitStatus) - {0}:
        assert re.search(rf"(?m)^    (\S+ \| )*{int(status)}( \| \S+)*\) ", text), status


def test_scripts_can_be_run() -> None:
    for path in DEPLOY.glob("*.sh"):
        assert path.stat().st_mode & stat.S_IXUSR, path.name


# --- systemd -------------------------------------------------------------------------------------

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@needs_systemd
def test_systemd_units_are_well_formed(tmp_path: Path) -> None:
    """Where the program that the unit starts exists, systemd has nothing to say of it."""
    project = tmp_path / "opt"
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to("/bin/true")
    shutil.copytree(DEPLOY, project / "deploy")
    units = []
    for path in DEPLOY.glob("stock-ingestion.*"):
        unit = tmp_path / path.name
        unit.write_text(path.read_text().replace("/opt/stock_ingestion", str(project)))
        units.append(str(unit))
    assert len(units) == 2
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True
    )
    said = [line for line in result.stderr.splitlines() if "stock-ingestion" in line]
    assert (result.returncode, said) == (0, [])


@needs_systemd
@pytest.mark.parametrize(
    ("calendar", "shown"),
    [
        pytest.param("", [f"{hour:02}:{m}0" for hour in (9, 10) for m in range(6)], id="the timer"),
        pytest.param("Mon..Fri 08:30 Asia/Kolkata", ["03:00"] * 12, id="a fixed time"),
    ],
)
def test_systemd_timer_elapses_when_it_is_said_to(calendar: str, shown: list[str]) -> None:
    """Every ten minutes; for a fixed time as docs/production.md says, at 08:30 IST."""
    if calendar:
        assert f"`OnCalendar={calendar}`" in (PROJECT / "docs" / "production.md").read_text()
    else:
        calendar = settings_of("stock-ingestion.timer")["OnCalendar"]
    result = subprocess.run(
        [
            "systemd-analyze",
            "calendar",
            "--iterations=12",
            "--base-time=2026-03-06 08:55",
            calendar,
        ],
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    moments = re.findall(r"(Mon|Tue|Wed|Thu|Fri) \S+ (\d\d:\d\d):00 UTC", result.stdout)
    assert [time for _, time in moments][-12:] == shown


def settings_of(unit: str) -> dict[str, str]:
    lines = (DEPLOY / unit).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def test_systemd_service_is_what_the_documents_say() -> None:
    settings = settings_of("stock-ingestion.service")
    assert settings["SuccessExitStatus"] == str(int(execute_dags.ExitStatus.TERMINATED))
    assert "Restart" not in settings  # the timer's next start is the next attempt
    assert settings["ExecStart"] == f"{HOME}/.venv/bin/python execute_dags.py --due"
    assert settings["ExecStopPost"] == f"-/bin/sh {HOME}/deploy/report.sh ${{EXIT_STATUS}}"
    assert settings["WorkingDirectory"] == HOME
    assert settings["TimeoutStartSec"] == "30min"


# --- the container -------------------------------------------------------------------------------


def start_loop(*command: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(DEPLOY / "loop.sh"), "600", *command],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# It cannot miss the signal, as a shell's trap can.
RUN_UNDER_WAY = """
import signal, sys

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("begun", flush=True)
signal.sigwait([signal.SIGTERM])
print("rolled back", flush=True)
sys.exit(143)
"""


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_reaches_the_run_under_way_which_is_waited_for(
    tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    with start_loop(sys.executable, "-c", RUN_UNDER_WAY, folder=tmp_path) as loop:
        assert loop.stdout is not None
        assert loop.stdout.readline() == "begun\n"
        loop.send_signal(sent)
        output, errors = loop.communicate(timeout=20)
    assert (loop.returncode, output) == (status, "rolled back\n")
    assert "stock_ingestion" not in errors


def test_signal_that_a_run_has_missed_is_sent_again(tmp_path: Path) -> None:
    """One that has only just begun; here it takes the first signal and goes on."""
    path = make_sleep(tmp_path, "exit 0")  # five seconds are over at once
    wait = "signal.sigwait([signal.SIGTERM])"
    run = RUN_UNDER_WAY.replace(wait, f"{wait}; {wait}")
    with start_loop(sys.executable, "-c", run, folder=tmp_path, PATH=path) as loop:
        assert loop.stdout is not None
        assert loop.stdout.readline() == "begun\n"
        loop.terminate()
        output, _ = loop.communicate(timeout=20)
    assert (loop.returncode, output) == (143, "rolled back\n")


def test_signal_between_two_runs_ends_the_loop_at_once(tmp_path: Path) -> None:
    with start_loop("echo", "ran", folder=tmp_path) as loop:
        assert loop.stdout is not None
        assert loop.stdout.readline() == "ran\n"
        loop.terminate()
        output, _ = loop.communicate(timeout=20)
    assert (loop.returncode, output) == (143, "")


def make_sleep(folder: Path, script: str) -> str:
    """A PATH whose `sleep` is this script."""
    (folder / "sleep").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "sleep").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_loop_runs_again_and_says_once_what_a_status_asks_for(tmp_path: Path) -> None:
    path = make_sleep(tmp_path, 'echo "$*" >>sleeps')
    run = "echo run >>runs; [ $(wc -l <runs) -lt 4 ] || kill -TERM $PPID; [ $(wc -l <runs) != 3 ]"
    with start_loop("sh", "-c", f"{run} && exit 3", folder=tmp_path, PATH=path) as loop:
        _, errors = loop.communicate(timeout=20)
    assert loop.returncode == 143
    assert (tmp_path / "sleeps").read_text().splitlines()[:3] == ["600"] * 3
    assert (tmp_path / "runs").read_text() == "run\n" * 4
    said = re.findall(r"exit status (\d+)", errors)
    assert said == ["3", "1"]  # of the second run nothing that was not said of the first


@pytest.mark.parametrize("seconds", ["", "0", "often"])
def test_loop_refuses_what_is_no_interval(seconds: str) -> None:
    result = subprocess.run([DEPLOY / "loop.sh", seconds, "true"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "expected SECONDS" in result.stderr


def test_image_gets_all_that_runs_need_and_no_secret() -> None:
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    assert {".env", ".env.*", ".git*", ".venv", "logs", "archive", ".sandbox"} <= set(ignored)
    assert {".airflow", ".venv-airflow"} <= set(ignored)  # docs/airflow.md makes them here
    kept = {
        path.name
        for path in PROJECT.iterdir()
        if not any(fnmatch(path.name, line.removeprefix("**/")) for line in ignored if line)
    }
    dags = {path.name for path in PROJECT.glob("dag_*_*")}
    assert kept >= {
        *("config", "deploy", "execute_dags.py", "requirements-run.lock", "sandbox", "shared"),
        *dags,
    }
    assert kept.isdisjoint(["README.md", "benchmarks", "docs", "tests", ".ci", ".github"])


def test_image_starts_the_loop_as_an_ordinary_user() -> None:
    text = (PROJECT / "Dockerfile").read_text()
    commands = [line.split(maxsplit=1) for line in re.sub(r"\\\n *", "", text).splitlines() if line]
    (image,) = (rest for word, rest in commands if word == "FROM")
    assert re.fullmatch(r"python:3\.\d+-slim", image)
    assert image.split(":")[1].removesuffix("-slim") in read_pairs("python")
    assert any("--require-hashes -r requirements-run.lock" in rest for _, rest in commands)
    assert [rest for word, rest in commands if word == "USER"] == ["10001"]
    word, rest = commands[-1]
    start = ["deploy/loop.sh", "600", "python", "execute_dags.py", "--due"]
    assert (word, json.loads(rest)) == ("CMD", start)


def read_pairs(name: str) -> set[str]:
    """The versions that CI pairs."""
    text = (PROJECT / ".github" / "workflows" / "ci.yml").read_text()
    return set(re.findall(rf'{name}: "([\d.]+)"', text))


def test_ci_has_every_supported_version() -> None:
    assert read_pairs("python") >= {"3.11", "3.12", "3.13", "3.14"}
    assert read_pairs("postgres") == {"13", "14", "15", "16", "17", "18"}


def test_compose_file_is_what_the_page_says() -> None:
    text = (PROJECT / "compose.yaml").read_text()
    (image,) = re.findall(r"image: postgres:(\d+)$", text, re.M)
    assert image in read_pairs("postgres")
    for line in ("condition: service_healthy", "env_file: .env", 'KITE_ACCESS_TOKEN: ""'):
        assert line in text
    assert "ports:" not in text
    for volume in ("logs", "archive"):
        assert f"- {volume}:{HOME}/{volume}" in text


def test_role_of_the_container_is_no_superuser_and_the_superuser_loses_his_password(
    server: Server, empty_database: str
) -> None:
    unique = uuid.uuid4().hex[:8]
    admin, role, password = f"admin_{unique}", f'Role "{unique}', "it's $(a) \\password"
    server.execute(f"CREATE ROLE {admin} SUPERUSER LOGIN PASSWORD 'for the set-up'")
    try:
        result = subprocess.run(
            [DEPLOY / "create_role.sh"],
            env={
                "PATH": f"{find_binaries()}:/usr/bin:/bin",
                "PGHOST": str(server.conninfo["host"]),
                "PGPORT": str(server.conninfo["port"]),
                "PGPASSWORD": "for the set-up",
                "POSTGRES_USER": admin,
                "POSTGRES_DB": empty_database,
                "DB_USER": role,
                "DB_PASSWORD": password,
            },
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert server.execute(
            "SELECT rolsuper, rolpassword IS NULL FROM pg_authid WHERE rolname = ANY (%s)"
            " ORDER BY rolname = %s",
            ([admin, role], role),
        ) == [(True, True), (False, False)]
        login = {**server.conninfo, "dbname": empty_database, "user": role, "password": password}
        with closing(psycopg2.connect(**login)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE made (); SHOW timezone")
            assert cursor.fetchall() == [("Asia/Kolkata",)]
    finally:
        quoted = '"' + role.replace('"', '""') + '"'
        with suppress(psycopg2.errors.UndefinedObject):
            server.execute(f"DROP OWNED BY {quoted}", dbname=empty_database)
            server.execute(f"DROP ROLE {quoted}")
        server.execute(f"DROP ROLE {admin}")
