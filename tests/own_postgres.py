"""PostgreSQL servers of a test's own: one that asks for passwords, one that is killed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2

from sandbox.embedded_postgres import EmbeddedPostgres, temporary_postgres

PASSWORD = "Asked-For-5d1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def password_postgres() -> Iterator[dict[str, Any]]:
    """How to reach a server that asks for passwords, on a TCP port, as its superuser.

    Its socket asks for none, and lets each system user in as the role of that name alone.
    """
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(free_port()),
        "scram_iterations": "1",  # tests connect ten thousand times, with passwords of no worth
    }
    with temporary_postgres(settings=settings) as server:
        run_sql(server, f"ALTER ROLE {server.user} PASSWORD '{PASSWORD}'")
        server.stop()
        rules = "local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (server.data / "pg_hba.conf").write_text(rules)
        server.start()
        yield {**server.conninfo(), "host": "127.0.0.1", "password": PASSWORD}


def run_sql(server: EmbeddedPostgres, *statements: str) -> list[tuple[Any, ...]]:
    """Run each statement by itself; return the rows of the last."""
    with closing(psycopg2.connect(**server.conninfo())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def server_pid(folder: Path) -> int:
    """The id of the server that runs in the folder of an embedded one."""
    return int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])


def kill(server: EmbeddedPostgres) -> None:
    """End every process of the server at once with SIGKILL, as a power cut would."""
    pid = server_pid(server.folder)
    os.kill(pid, signal.SIGSTOP)  # no new children from here on
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # "12 (name) S 1 ...", where the name may hold anything
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                children.append(int(path.parent.name))
    for each in (pid, *children):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def restart(server: EmbeddedPostgres) -> None:
    """Start the server again, whatever is left of it."""
    server.stop()
    server.start()
