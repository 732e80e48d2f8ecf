"""The processes of an embedded PostgreSQL server, and the lock that only one of them can hold."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sandbox.postgres_errors import DataFolderError, DataFolderInUseError
from sandbox.postgres_host import read_lines

_POLL_SECONDS = 0.01
_LIVE_OWNER_SECONDS = 1.0  # it may be just ending
_DEAD_OWNER_SECONDS = 20.0  # its guardian is shutting the server down
_ORPHAN_SECONDS = 3.0


def lock_home(home: Path) -> int:
    """Lock the folder and return the lock's descriptor.

    A server whose owner is gone is about to end: it is waited for, and helped after a while.

    Raises:
        DataFolderInUseError: The lock's owner lives.
    """
    path = home / "lock"
    try:
        lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError as exc:
        raise DataFolderError(
            f"{path} belongs to another user: run as the user who made it, or delete {home}"
        ) from exc
    try:
        _wait_for_lock(lock_fd, home)
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(lock_fd)
        raise
    return lock_fd


def wait_for_processes(home: Path) -> None:
    """Return when the last process of this process's server is gone, which was killed."""
    path = home / "lock"
    if path.read_text() == str(os.getpid()):
        path.write_text("")  # nobody's any more: it is waited for, and ended if need be
        os.close(lock_home(home))


def _wait_for_lock(lock_fd: int, home: Path) -> None:
    began = time.monotonic()
    while True:
        try:
            return fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        owner = _parse_int(os.pread(lock_fd, 32, 0).decode("ascii", "replace"))
        waited = time.monotonic() - began
        is_alive = owner is not None and _is_alive(owner)
        if waited > (_LIVE_OWNER_SECONDS if is_alive else _DEAD_OWNER_SECONDS):
            raise DataFolderInUseError(
                f"the PostgreSQL server in {home} is in use by process {owner}: "
                "stop that process, or use another folder"
            )
        if not is_alive and waited > _ORPHAN_SECONDS:
            _stop_orphan(home / "pgdata")
        time.sleep(_POLL_SECONDS)


def _stop_orphan(pgdata: Path) -> None:
    """Ask a server to stop whose owner and, perhaps, guardian were killed."""
    pid = _read_server_pid(pgdata)
    if pid is not None and _is_postgres(pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGINT)


def remove_stale_pid_file(pgdata: Path, data_dir: Path) -> None:
    """Delete the postmaster.pid of a server that is gone.

    PostgreSQL itself takes it for a running server's whenever any process of the same user has
    got the same id, as happens after a restart of the machine.
    """
    pid = _read_server_pid(pgdata)
    if pid is not None and _is_alive(pid) and _is_postgres(pid):
        raise DataFolderInUseError(
            f"a PostgreSQL server which was started by other means (process {pid}) runs in "
            f"{data_dir}: stop it, or use another folder"
        )
    (pgdata / "postmaster.pid").unlink(missing_ok=True)


def kill_tree(server_pid: int) -> None:
    """SIGKILL the server and its children, which have process groups of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(server_pid, signal.SIGSTOP)  # no new children from here on
    children = [pid for pid, parent in _list_processes() if parent == server_pid]
    for pid in (server_pid, *children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _list_processes() -> Iterator[tuple[int, int]]:
    """Yield the id and the parent's id of every process."""
    if sys.platform == "linux":  # small images have no ps
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # "12 (name) S 1 ...", where the name may hold anything
                yield int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
        return
    command = ["ps", "-A", "-o", "pid=,ppid="]
    output = subprocess.run(command, capture_output=True, check=True)
    for line in output.stdout.splitlines():
        pid, parent = line.split()
        yield int(pid), int(parent)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_postgres(pid: int) -> bool:
    try:
        if sys.platform == "linux":  # small images have no ps
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        else:
            command = ["ps", "-o", "comm=", "-p", str(pid)]
            program = subprocess.run(command, capture_output=True, check=False).stdout
    except OSError:
        return False
    return program.strip().rpartition(b"/")[2].startswith(b"postgres")


def _read_server_pid(pgdata: Path) -> int | None:
    lines = read_lines(pgdata / "postmaster.pid")
    return _parse_int(lines[0]) if lines else None


def _parse_int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
