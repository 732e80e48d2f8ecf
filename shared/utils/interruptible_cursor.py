"""A cursor whose waits end at once when a signal comes; the server is told to cancel then."""

import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from shared.utils.interruptible import call_interruptibly

# What a client sends to ask for TLS; any server that is alive answers with one byte.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_ANSWER_SECONDS = 2.0


class InterruptibleCursor(Cursor):
    """psycopg2's cursor, but a statement is cancelled as soon as a signal's handler raises."""

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's name
        """Run a statement."""
        self._wait_for(super().execute, query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        """Run a statement for each set of parameters."""
        self._wait_for(super().executemany, query, vars_list)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """Copy to or from a file."""
        self._wait_for(super().copy_expert, sql, file, size)

    def _wait_for(self, method: Callable[..., None], *args: Any) -> None:
        call_interruptibly(partial(method, *args), cancel=partial(cancel, self.connection))


def cancel(connection: Connection) -> None:
    """Have the server cancel what it does, if it answers: otherwise psycopg2 blocks Python."""
    host, port = connection.info.host, connection.info.port
    is_local = host.startswith("/")
    with (
        socket.socket(socket.AF_UNIX)
        if is_local
        else socket.create_connection((host, port), timeout=_ANSWER_SECONDS)
    ) as probe:
        if is_local:
            probe.settimeout(_ANSWER_SECONDS)
            probe.connect(f"{host}/.s.PGSQL.{port}")
        probe.sendall(_SSL_REQUEST)
        if probe.recv(1):
            connection.cancel()
