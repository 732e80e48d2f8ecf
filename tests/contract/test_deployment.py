"""The crontab line, the systemd units and the report do what the README says of them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import execute_dags
from tests.conftest import PROJECT
from tests.documents import blocks_of

DEPLOY = PROJECT / "deploy"

FAKE_DATE = """#!/bin/sh
exec {date} -d "@$FAKE_NOW" "$@"
"""
REAL_DATE = shutil.which("date") or ""


def crontab_command() -> str:
    (block,) = blocks_of("crontab")
    schedule, _, command = block.text.partition(" * * * * ")
    assert schedule == "*/15"
    return command


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
def test_crontab_line_runs_at_0830_ist_from_monday_to_friday(
    tmp_path: Path, unescape: Any, zone: str
) -> None:
    """Each quarter of an hour in two weeks, the change to summer time in New York among them."""
    if subprocess.run([REAL_DATE, "-d", "@0"], capture_output=True, check=False).returncode:
        pytest.skip("this date command cannot show another moment")
    project = tmp_path / "project"
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$FAKE_NOW $*" >>../runs\n')
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "date").write_text(FAKE_DATE.format(date=REAL_DATE))
    for path in (python, tmp_path / "bin" / "date"):
        path.chmod(0o755)
    command = unescape(crontab_command()).replace("/opt/stock_ingestion", str(project))
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
    assert {line.partition(" ")[2] for line in runs} == {"execute_dags.py"}
    ist = timezone(timedelta(hours=5, minutes=30))
    begun = [datetime.fromtimestamp(int(line.split()[0]), ist) for line in runs]
    assert [moment.strftime("%d") for moment in begun] == [
        *("02", "03", "04", "05", "06", "09", "10", "11", "12", "13")
    ]
    assert all(moment.strftime("%H:%M") in ("08:30", "08:31", "08:33") for moment in begun)


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_crontab_line_reports_a_failure(tmp_path: Path, status: int) -> None:
    project = tmp_path / "project"
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho what happened\necho why >&2\nexit {status}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "date").write_text("#!/bin/sh\necho 3-08:30\n")
    for path in (python, tmp_path / "bin" / "date"):
        path.chmod(0o755)
    shutil.copytree(DEPLOY, project / "deploy")
    command = crontab_command().replace(r"\%", "%").replace("/opt/stock_ingestion", str(project))
    result = subprocess.run(
        ["/bin/sh", "-c", command],
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


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [("", 0, ""), ("0", 0, ""), ("TERM", 0, ""), ("143", 0, ""), ("KILL", 1, "from outside")],
)
def test_report_of_other_ends(given: str, status: int, said: str) -> None:
    result = subprocess.run(
        ["/bin/sh", str(DEPLOY / "report.sh"), *filter(None, [given])],
        capture_output=True,
        text=True,
    )
    assert result.returncode == status
    assert said in result.stderr
    assert bool(result.stderr) == bool(said)


def test_report_can_be_run() -> None:
    assert (DEPLOY / "report.sh").stat().st_mode & stat.S_IXUSR


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
def test_systemd_timer_elapses_at_0830_ist_from_monday_to_friday() -> None:
    match = re.search(r"^OnCalendar=(.*)$", (DEPLOY / "stock-ingestion.timer").read_text(), re.M)
    assert match is not None
    result = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=5", match[1]],
        env={**os.environ, "TZ": "America/New_York", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    moments = re.findall(r"\(in UTC\): (\w+) \S+ (\S+) UTC", result.stdout)
    assert sorted({day for day, _ in moments}) == ["Fri", "Mon", "Thu", "Tue", "Wed"]
    assert {time for _, time in moments} == {"03:00:00"}


def test_systemd_service_treats_exit_statuses_as_the_readme_says() -> None:
    lines = (DEPLOY / "stock-ingestion.service").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    status = execute_dags.ExitStatus
    assert settings["RestartPreventExitStatus"].split() == [
        str(int(status.USAGE_OR_CONFIGURATION)),
        str(int(status.LOG_IN_AGAIN)),
    ]
    assert settings["SuccessExitStatus"] == str(int(status.TERMINATED))
    assert settings["Restart"] == "on-failure"
    program, script = settings["ExecStart"].split()
    assert (program, script) == ("/opt/stock_ingestion/.venv/bin/python", "execute_dags.py")
    assert settings["WorkingDirectory"] == "/opt/stock_ingestion"
