"""The command line within this process: real parts, and as quick as a function.

What it reads and writes besides the database is in the test's own folder; its settings are those
that the project ships, with the test's own merged over them.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import execute_dags
from sandbox.kite_server import KiteServer
from shared.clock import use_clock
from shared.config.config_loader import override_config
from tests.clock import set_clocks

AddFolder = Callable[..., Path]

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what a terminal does not show


@dataclass(frozen=True)
class Result:
    """What a command has come to."""

    status: int
    stdout: str
    stderr: str


@dataclass
class CommandLine:
    """`run("--dag", "1")` is `python execute_dags.py --dag 1`."""

    kite: KiteServer
    folder: Path
    connection: Any
    monkeypatch: pytest.MonkeyPatch
    parameters: dict[str, Any] = field(default_factory=dict)
    holidays: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    api: dict[str, Any] = field(default_factory=dict)
    now: datetime | None = None  # by this machine's clock; None: what it says

    @property
    def archive(self) -> Path:
        """Where good lists are kept."""
        return self.folder / "archive"

    def run(self, *arguments: str, **given: Any) -> Result:
        """The result of the command; `given` are further arguments of its function."""
        stdout, stderr = io.StringIO(), io.StringIO()
        now = self.now
        settings: dict[str, Any] = {
            "parameters": {
                "archive_directory": str(self.archive),
                "retry_delay_seconds": 0,
                **self.parameters,
            },
            "calendar": {"holidays": self.holidays},
            "api": self.api,
        }
        if self.sessions:
            settings["calendar"]["sessions"] = self.sessions
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            override_config("the test", settings),
            use_clock(lambda: now) if now else contextlib.nullcontext(),
            self.monkeypatch.context() as patch,
        ):
            patch.setattr("sys.argv", ["execute_dags.py", *arguments])
            parsed = execute_dags.parse_arguments()
            parsed.function = partial(parsed.function, **given) if given else parsed.function
            status = int(execute_dags.run(parsed))
        return Result(status, stdout.getvalue(), stderr.getvalue())

    def load(self, dump: bytes, *arguments: str) -> Result:
        """Run DAG 1 on what Kite lists from now on."""
        self.kite.dump = dump
        return self.run("--dag", "1", *arguments)

    def query(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, params or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
        return rows

    def runs(self, *columns: str) -> list[tuple[Any, ...]]:
        """These columns of the history of runs, oldest first."""
        return self.query(f"SELECT {', '.join(columns)} FROM ingestion_run ORDER BY run_id")


@contextlib.contextmanager
def empty_project(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, root: Path, now: datetime
) -> Iterator[AddFolder]:
    """Adds DAG folders to a project in `root` that has none, where it is `now`."""
    root.mkdir()
    monkeypatch.setattr(execute_dags, "PROJECT_ROOT", root)
    cli.parameters |= {"retry_attempts": 1}
    set_clocks(cli, now)
    names: list[str] = []

    def add(name: str, code: str, schema: str, **settings: Any) -> Path:
        folder = root / name
        folder.mkdir()
        (folder / "__init__.py").write_text(code, encoding="utf-8")
        config = {"enabled": True, "schedule": "daily", "description": "", **settings}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "schema.sql").write_text(schema, encoding="utf-8")
        names.append(name)
        return folder

    yield add
    for name in names:
        sys.modules.pop(name, None)
