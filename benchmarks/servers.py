"""The servers of a benchmark: PostgreSQL as it is by default, fsync included, and Kite's.

Both are processes of their own. A database is cloned from a template for each run, so that every
run of every contender finds the very same table.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks.processes import PROJECT, clean_environment
from sandbox.embedded_postgres import EmbeddedPostgres, temporary_postgres
from shared.calendar import IST
from shared.utils.db_manager import DatabaseManager

_SESSION_SECONDS = 5.0
_POLL_SECONDS = 0.01
_HOST = "127.0.0.1"  # not the socket: TCP is how most programs reach their server
_CREDENTIALS = {
    "KITE_API_KEY": "sandbox_key",
    "KITE_API_SECRET": "sandbox_secret",
    "KITE_ACCESS_TOKEN": "sandbox_token",
}


class Servers:
    """PostgreSQL and Kite, and what is asked of them between two runs."""

    def __init__(
        self, postgres: EmbeddedPostgres, kite_root: str, dump_file: Path, last_day: date
    ) -> None:
        self.postgres = postgres
        self.last_day = last_day  # that has candles
        self._kite_root = kite_root
        self._dump_file = dump_file

    def environment(self, database: str) -> dict[str, str]:
        """What leads a contender to the servers."""
        return {
            **_CREDENTIALS,
            "KITE_API_ROOT": self._kite_root,
            "DB_HOST": _HOST,
            "DB_PORT": str(self.postgres.port),
            "DB_NAME": database,
            "DB_USER": self.postgres.user,
            "DB_PASSWORD": self.postgres.password,
        }

    def serve(self, dump: bytes) -> None:
        """Let Kite serve this list from now on, already compressed."""
        beside = self._dump_file.with_suffix(".new")
        beside.write_bytes(dump)
        beside.replace(self._dump_file)
        self.ask("/instruments")

    def ask(self, route: str) -> bytes:
        """What Kite answers to a GET, compressed where it does so."""
        request = urllib.request.Request(  # noqa: S310 - the local server
            f"{self._kite_root}{route}",
            headers={
                "X-Kite-Version": "3",
                "Authorization": "token {KITE_API_KEY}:{KITE_ACCESS_TOKEN}".format(**_CREDENTIALS),
                "Accept-Encoding": "gzip",
            },
        )
        with urllib.request.urlopen(request) as response:  # noqa: S310
            body: bytes = response.read()
            return body

    @contextmanager
    def limit(self, requests_per_second: int) -> Iterator[None]:
        """Let programs find another Kite meanwhile, which answers no more requests than that."""
        usual = self._kite_root
        with _start_kite(self._dump_file, self.last_day, requests_per_second) as self._kite_root:
            yield
        self._kite_root = usual

    def manage(self, database: str) -> DatabaseManager:
        """The project's own connection."""
        names = ("host", "port", "user", "password")
        config = {name: getattr(self.postgres, name) for name in names}
        return DatabaseManager({**config, "database": database})

    def create(self, database: str, template: str = "template1") -> None:
        """Make a database, in place of one of this name."""
        self.drop(database)
        # Its files are copied, which needs a checkpoint before and after.
        self.execute(f"CREATE DATABASE {database} TEMPLATE {template} STRATEGY file_copy")

    def drop(self, database: str) -> None:
        """Drop a database, if it is there."""
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def wait_for_sessions(self, database: str) -> None:
        """Return when no session of a contender is left: only then its figures are counted."""
        deadline = time.monotonic() + _SESSION_SECONDS
        count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
        while self.execute(count)[0][0] and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement by itself and return its rows, if it gives any."""
        connection = psycopg2.connect(**self.postgres.conninfo(database))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


@contextmanager
def start_servers(folder: Path, *, fsync: bool = True) -> Iterator[Servers]:
    """Start both servers, and stop them at the end. `folder` is for the served list."""
    dump_file = folder / "served.csv"
    dump_file.write_bytes(b"")
    last_day = datetime.now(IST).date() - timedelta(days=1)  # what is over for sure
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        settings = {"listen_addresses": _HOST, "port": str(probe.getsockname()[1])}
    with (
        temporary_postgres(settings=settings, fsync=fsync) as postgres,
        _start_kite(dump_file, last_day) as kite_root,
    ):
        yield Servers(postgres, kite_root, dump_file, last_day)


@contextmanager
def _start_kite(dump_file: Path, last_day: date, *limits: int) -> Iterator[str]:
    arguments = map(str, (dump_file, last_day, *limits))
    command: Sequence[str] = [sys.executable, "-m", "benchmarks.kite_process", *arguments]
    with subprocess.Popen(  # noqa: S603 - a module of this package
        command,
        cwd=PROJECT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait()
