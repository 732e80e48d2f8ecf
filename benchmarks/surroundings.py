"""On what it was measured: machine, versions, commit; nothing that names the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.processes import PROJECT
from benchmarks.servers import Servers

_PACKAGES = (
    "kiteconnect",
    "psycopg2-binary",
    "requests",
    "dlt",
    "pyarrow",
    "pandas",
    "SQLAlchemy",
    "matplotlib",
)


def describe_surroundings(servers: Servers) -> dict[str, Any]:
    """What the results depend on."""
    settings = servers.execute(
        "SELECT name, current_setting(name) FROM unnest(ARRAY['server_version', 'fsync',"
        " 'synchronous_commit', 'shared_buffers', 'work_mem', 'max_wal_size', 'autovacuum'])"
        " AS name"
    )
    return {
        "date": date.today().isoformat(),
        "commit": _read_commit(),
        "machine": {
            "cpu": _read_cpu_model(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "system": f"{platform.system()} {platform.machine()}",
            "load_at_begin": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **_read_versions()},
        "postgresql": dict(settings),
    }


def _read_commit() -> str:
    """The commit, with a mark if files differ from it; "" where there is no repository."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _read_cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def _read_versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
