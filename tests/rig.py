"""DAG 1 as a process of its own, on a local Kite and a table that says of which day it is."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from sandbox.kite_server import KiteServer
from tests.conftest import Project, Server, connect_project
from tests.instruments import instrument, to_csv
from tests.table_model import fields_of, read_table, wait_until

ROWS = 2_000


def make_day(day: int) -> list[dict[str, Any]]:
    """A list in which every row differs from every other day's, and symbols rotate."""
    return [
        instrument(token, f"S{(token + day) % ROWS}", "NSE", lot_size=day)
        for token in range(1, ROWS + 1)
    ]


@dataclass
class Rig:
    """A project with its Kite and its table."""

    project: Project
    kite: KiteServer
    server: Server
    database: str
    connection: Any

    def start(self, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
        """`execute_dags.py --dag 1`."""
        return self.project.start("--dag", "1", *arguments)

    def fields(self) -> dict[Any, Any]:
        return fields_of(read_table(self.connection))

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def days(self) -> list[tuple[int, int]]:
        """Which days the table's rows are of, and how many of each."""
        return self.query(
            "SELECT lot_size, count(*) FROM kite_instrument_master GROUP BY 1 ORDER BY 1"
        )

    def good_runs(self) -> int:
        found = self.query("SELECT count(*) FROM ingestion_run WHERE status = 'succeeded'")
        return int(found[0][0])

    def last_error(self) -> str | None:
        found = self.query("SELECT error FROM ingestion_run ORDER BY run_id DESC LIMIT 1")
        error: str | None = found[0][0]
        return error

    def sessions(self, condition: str = "true") -> int:
        return self.server.sessions(
            self.database, f"application_name = 'stock_ingestion' AND {condition}"
        )


def was_asked(kite: KiteServer, path: str) -> Callable[[], bool]:
    return lambda: path in [request.path for request in kite.requests]


@contextmanager
def first_day_stored(project: Project, server: Server) -> Iterator[str]:
    """A database after one good run, to be cloned by each test."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name}")
    with KiteServer(to_csv(make_day(1))) as kite:
        connect_project(project, server, name, kite)
        assert project.run("--dag", "1").returncode == 0
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def cloned(server: Server, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    wait_until(lambda: not server.sessions(template))
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")
