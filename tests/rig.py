"""DAG 1 as a process of its own, on a local Kite and a table that says of which day it is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sandbox.kite_server import KiteServer
from tests.conftest import Project, Server
from tests.instruments import instrument
from tests.table_model import fields_of, read_table

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

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self.project.command("--dag", "1", *arguments),
            cwd=self.project.folder,
            env=self.project.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

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
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
                f" AND application_name = 'stock_ingestion' AND {condition}",
                (self.database,),
            )
            return int(cursor.fetchone()[0])


def was_asked(kite: KiteServer, path: str, before: int) -> Callable[[], bool]:
    return lambda: [request.path for request in kite.requests].count(path) > before
