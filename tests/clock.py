"""A clock for tests of what takes time."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.command_line import CommandLine

# From now on the clock of the database's server is a row of a table. For a superuser.
OWN_SERVER_CLOCK = """
CREATE TABLE test_clock AS SELECT clock_timestamp() AS moment;
ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO real_clock_timestamp;
CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz
    LANGUAGE sql AS 'SELECT moment FROM public.test_clock';
"""


def set_clocks(cli: CommandLine, moment: datetime) -> None:
    """Let this moment be what this machine's clock says, and the server's (OWN_SERVER_CLOCK)."""
    cli.now = moment
    cli.query("UPDATE test_clock SET moment = %s", moment)


class Clock:
    """Stands for a module's `time`: a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self._begin = self.now = 100.0

    @property
    def elapsed(self) -> float:
        return self.now - self._begin

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now
