"""Has a measured Python process note its peak memory as it ends, in the file BENCH_MEMORY_FILE.

Python imports a module of this name at every start, if it is on its path: so the process runs the
very command that a user runs. The kernel's own record for the parent (`ru_maxrss`) is of no use,
since a child begins with the size of its parent there.
"""

import atexit
import os


def _read_peak_kilobytes() -> int:
    """The most memory that this process ever had in RAM (VmHWM)."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - imports less
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except FileNotFoundError:  # macOS counts for each process by itself, in bytes
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _write_peak(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(str(_read_peak_kilobytes()))


if "BENCH_MEMORY_FILE" in os.environ:
    # Taken out: a process that this one starts is none of the measurement.
    atexit.register(_write_peak, os.environ.pop("BENCH_MEMORY_FILE"))
