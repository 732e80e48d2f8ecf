"""A cursor whose waits end at once when a signal comes; the server is told to cancel then."""

import logging
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from shared.utils.interruptible import call_interruptibly

logger = logging.getLogger(__name__)

_SHOWN_CHARACTERS = 63  # of a statement: with what stands before it, a line of 79

# What a client sends to ask for TLS; any server that is alive answers with one byte.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_ANSWER_SECONDS = 2.0


class InterruptibleCursor(Cursor):
    """psycopg2's cursor, but a statement is cancelled as soon as a signal's handler raises."""

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's name
        """Run a statement."""
        with self._timed(query):
            self._wait_for(super().execute, query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        """Run a statement for each set of parameters."""
        with self._timed(query):
            self._wait_for(super().executemany, query, vars_list)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """Copy to or from a file."""
        with self._timed(sql):
            self._wait_for(super().copy_expert, sql, file, size)

    @contextmanager
    def _timed(self, query: Any) -> Iterator[None]:
        """Log the statement with its seconds, not its values, for who asks for details."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            if logger.isEnabledFor(logging.DEBUG):
                text = query.as_string(self) if isinstance(query, sql.Composable) else str(query)
                logger.debug("%.3f s: %s", time.perf_counter() - begin, _in_a_line(text))

    def _wait_for(self, method: Callable[..., None], *args: Any) -> None:
        call_interruptibly(partial(method, *args), cancel=partial(cancel, self.connection))


def _in_a_line(statement: str) -> str:
    """The statement without its comments, cut where it is long."""
    lines = (line.partition("-- ")[0] for line in statement.splitlines())
    text = " ".join(" ".join(lines).split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


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
