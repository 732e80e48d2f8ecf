"""Commands in messages: as the user called this program, and valid where the user is."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from shared import program
from shared.program import command, module_command


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
