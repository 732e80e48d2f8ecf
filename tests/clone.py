"""Copies of the project in which commands run as a user types them, a sandbox among them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import OWN_VARIABLES, copy_project


@dataclass
class Clone:
    """A copy of the project, where a server can run whoever runs the tests."""

    folder: Path
    environment: dict[str, str]
    python: tuple[str, ...] = (sys.executable,)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`python ARGUMENTS`, in a session of its own: a signal for its group is a Ctrl-C."""
        return subprocess.Popen(
            [*self.python, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def query(self, statement: str) -> str:
        """What `python -m sandbox` shows, bare."""
        result = self.run("-m", "sandbox", "-X", "-A", "-t", "-c", statement)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.strip()

    @property
    def sandbox(self) -> Path:
        return self.folder / ".sandbox"

    def assert_no_server_is_left(self) -> None:
        """Every process of a server holds the lock."""
        with (self.sandbox / "postgres" / "server.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def make_clone(base: Path, name: str, *, rows: int | None = None) -> Clone:
    """A copy in `base`, whose sandbox has a list of so many rows on its first day."""
    copy_project(base / name)
    if rows is not None:
        path = base / name / "sandbox" / "market.json"
        market = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**market, "rows": rows}), encoding="utf-8")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)
    }
    return Clone(base / name, environment)
