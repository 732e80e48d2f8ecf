"""Runs a command and measures it: seconds by the clock of the one who waits, and peak memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
_HOOK_FOLDER = Path(__file__).with_name("measured")
_TIMEOUT_SECONDS = 600
_OWN_VARIABLES = ("KITE_", "DB_", "PG", "LOG_DIR", "ARCHIVE_DIR", "RETRY_DELAY_SECONDS", "PYTHON")


class ContenderFailedError(Exception):
    """A measured command ended badly; the message has what it said."""


class UnequalTablesError(Exception):
    """A contender left other rows than the floor: it cannot be compared."""


@dataclass
class Measurement:
    """What a process took: wall and CPU time in seconds, peak memory in MB (10^6 bytes).

    `steps` are the seconds of its parts, as far as it tells them.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    steps: dict[str, float] = field(default_factory=dict)


def measure(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> Measurement:
    """Run Python with `arguments` in `folder`. Raises ContenderFailedError if it fails."""
    with tempfile.TemporaryDirectory(prefix="kite-bench-") as reports:
        memory_file, steps_file = Path(reports, "memory"), Path(reports, "steps")
        variables = {
            **clean_environment(),
            **environment,
            "PYTHONPATH": os.pathsep.join([str(_HOOK_FOLDER), str(folder)]),
            "BENCH_MEMORY_FILE": str(memory_file),
            "BENCH_STEPS_FILE": str(steps_file),
        }
        cpu_begin, begin = _read_cpu_seconds(), time.perf_counter()
        result = subprocess.run(  # noqa: S603 - the project's own programs
            [sys.executable, *arguments],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
        seconds = time.perf_counter() - begin
        cpu_seconds = _read_cpu_seconds() - cpu_begin
        if result.returncode != 0:
            said = (result.stderr.strip() or result.stdout.strip())[-2000:]
            raise ContenderFailedError(
                f"{' '.join(arguments)} ended with status {result.returncode}:\n{said}"
            )
        peak_mb = int(memory_file.read_text(encoding="ascii")) * 1024 / 1e6
        steps = json.loads(steps_file.read_text(encoding="ascii")) if steps_file.exists() else {}
        return Measurement(seconds, cpu_seconds, peak_mb, steps)


def _read_cpu_seconds() -> float:
    """The CPU time of all processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def clean_environment() -> dict[str, str]:
    """The environment of this process without what would lead a contender elsewhere."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)
    }
