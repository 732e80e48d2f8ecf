"""Change the code in small ways, and see which changes no test notices: `make mutation`.

What is changed, and by which tests it is judged, is in pyproject.toml under [tool.mutmut]. One
server is started for all changes: each is judged in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from psycopg2.extensions import make_dsn

from sandbox.embedded_postgres import temporary_postgres

MUTMUT = str(Path(sys.executable).with_name("mutmut"))


def main() -> int:
    with temporary_postgres() as server, tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "TEST_DATABASE_URL": make_dsn(**server.conninfo()),
            # Tests that share their folder with others may fail for that, and not for the change.
            "PYTEST_DEBUG_TEMPROOT": folder,
        }
        command = [MUTMUT, "run", "--max-children", "1"]
        status = subprocess.run(command, env=environment).returncode
    # Those that survived, and those that no test reaches; `mutmut show NAME` shows one.
    subprocess.run([MUTMUT, "results"])
    return status


if __name__ == "__main__":
    sys.exit(main())
