"""Commands in messages: as the user called this program, and valid where the user is."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared import program
from shared.program import command, find_lack, module_command
from tests.conftest import PROJECT


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder: a project whose name has a blank, and its interpreter."""
    folder = tmp_path.resolve() / "my project"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(program, "PROJECT_ROOT", folder)
    monkeypatch.chdir(folder)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, python: str | Path, script: str | Path) -> None:
    monkeypatch.setattr("sys.orig_argv", [str(python), str(script), "--dag", "1"])
    monkeypatch.setattr("sys.argv", [str(script), "--dag", "1"])


@pytest.mark.parametrize(
    ("folder", "python", "script", "expected"),
    [
        pytest.param(
            "{root}",
            ".venv/bin/python",
            "execute_dags.py",
            ".venv/bin/python execute_dags.py login",
            id="as in the README, or by cron",
        ),
        pytest.param(
            "/",
            "{root}/.venv/bin/python",
            "{root}/execute_dags.py",
            "'{root}/.venv/bin/python' '{root}/execute_dags.py' login",
            id="by whole paths",
        ),
        pytest.param(
            "{root}",
            "{root}/.venv/bin/python",
            "execute_dags.py",
            "'{root}/.venv/bin/python' '{root}/execute_dags.py' login",
            id="by systemd",
        ),
        pytest.param(
            "{root}/..",
            "my project/.venv/bin/python",
            "my project/execute_dags.py",
            "'my project/.venv/bin/python' 'my project/execute_dags.py' login",
            id="from another folder",
        ),
        pytest.param(
            "{root}", "sh", "./execute_dags.py", "sh ./execute_dags.py login", id="found by PATH"
        ),
        pytest.param(
            "/",
            "no_such_python",
            "-c",
            f"{shlex.quote(sys.executable)} '{{root}}/execute_dags.py' login",
            id="not by its name",
        ),
    ],
)
def test_command(
    folder: str,
    python: str,
    script: str,
    expected: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder.format(root=root))
    call(monkeypatch, python.format(root=root), script.format(root=root))
    assert command("login") == expected.format(root=root)


def test_module_command_is_the_shortest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for python in (root / ".venv/bin/python", ".venv/bin/python"):
        call(monkeypatch, python, "execute_dags.py")
        assert module_command("sandbox") == ".venv/bin/python -m sandbox"
    call(monkeypatch, sys.executable, "execute_dags.py")
    assert module_command("sandbox") == f"{shlex.quote(sys.executable)} -m sandbox"
    call(monkeypatch, "sh", "execute_dags.py")
    assert module_command("sandbox") == "sh -m sandbox"


def test_module_command_from_another_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / ".venv")
    call(monkeypatch, "bin/python", "../execute_dags.py")
    assert module_command("sandbox") == f"cd '{root}' && .venv/bin/python -m sandbox"


# --- an interpreter that cannot run it -----------------------------------------------------------

PACKAGES = ", ".join(
    re.findall(r"^([\w-]+)[~>]=", (PROJECT / "requirements-run.txt").read_text("utf-8"), re.M)
)


def run_bare(root: Path, shipped: Path) -> tuple[int, str]:
    """What a Python without any package makes of `execute_dags.py --dag 1`."""
    shutil.copytree(shipped, root, dirs_exist_ok=True)
    shutil.copy(PROJECT / "requirements-run.txt", root)
    result = subprocess.run(
        [sys.executable, "-S", "execute_dags.py", "--dag", "1"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout == ""
    return result.returncode, result.stderr


def test_interpreter_without_the_packages(root: Path, shipped: Path) -> None:
    status, errors = run_bare(root, shipped)
    python = shlex.quote(sys.executable)
    assert status == 2
    assert errors == (
        f"execute_dags.py: {sys.executable} lacks {PACKAGES}. Run this instead: "
        ".venv/bin/python execute_dags.py --dag 1\n"
    )
    shutil.rmtree(root / ".venv")
    status, errors = run_bare(root, shipped)
    assert status == 2
    assert errors == (
        f"execute_dags.py: {sys.executable} lacks {PACKAGES}. Install them: "
        f"{python} -m venv .venv && .venv/bin/python -m pip install -r requirements-run.txt\n"
    )


def test_interpreter_that_lacks_one_package(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "requirements-run.txt").write_text("# ours\nrich>=13  # a bar\nno-such~=1.0\n")
    monkeypatch.setattr("sys.prefix", str(root / ".venv"))
    python = shlex.quote(sys.executable)
    assert find_lack() == (
        f"execute_dags.py: {sys.executable} lacks no-such. Install them: {python} -m pip install "
        "-r requirements-run.txt"
    )


def test_interpreter_that_has_everything() -> None:
    assert find_lack() == ""


def test_interpreter_that_is_too_old(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", (3, 9, 2, "final", 0))
    monkeypatch.setattr("sys.argv", ["execute_dags.py", "status"])
    fault = f"execute_dags.py: {sys.executable} is Python 3.9.2, and 3.11 or later is needed."
    assert find_lack() == f"{fault} Run this instead: .venv/bin/python execute_dags.py status"
    shutil.rmtree(root / ".venv")
    assert find_lack() == f"{fault} Make .venv with a later one, as README.md says."


@pytest.mark.parametrize("name", ["execute_dags.py", "shared/__init__.py", "shared/program.py"])
def test_older_python_can_read(name: str) -> None:
    ast.parse((PROJECT / name).read_text(encoding="utf-8"), feature_version=(3, 8))
