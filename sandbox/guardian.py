"""Keeps a PostgreSQL server running for exactly as long as the process that asked for it.

`sandbox.embedded_postgres` runs this file as a process of its own, in its own session (so that
Ctrl-C at a terminal does not reach it), with a pipe as standard input whose other end only the
owner holds. However the owner ends, SIGKILL included, the pipe ends with it, and the guardian
shuts the server down. It lives no longer than the server.

Arguments: OWNER_PID LOCK_FD UID GID FOLDER COMMAND... (UID -1: run as the same user). The
descriptor LOCK_FD is handed on to the server, so that the lock is held until its last process is
gone. FOLDER, unless it is empty, is deleted where the owner has ended and can no longer do so.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

_POLL_SECONDS = 0.1
_LIFELINE_FD = 0
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>, Linux only
# A fast shutdown, then one without a checkpoint (the next start recovers), then none at all.
# A postmaster takes up to 5 s itself to get rid of stuck children after SIGQUIT.
_SHUTDOWN_STEPS = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 6.0), (signal.SIGKILL, 5.0))


def _make_death_signal() -> Callable[[], None] | None:
    """Return what makes Linux stop the server even if this guardian itself is killed."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes  # not every Python has it

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT))


def _start_server(
    command: Sequence[str], lock_fd: int, uid: int, gid: int
) -> "subprocess.Popen[bytes]":
    """Start the server as a child, as the user `uid` unless that is -1."""
    account: dict[str, Any] = {}
    if uid != -1:
        account = {"user": uid, "group": gid, "extra_groups": []}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=(lock_fd,),
        start_new_session=True,
        preexec_fn=_make_death_signal(),  # safe, as this process has no threads
        **account,
    )


def _wait_for_end(
    server: "subprocess.Popen[bytes]", owner_pid: int, told_to_stop: Sequence[int]
) -> None:
    """Return once the server has ended, the owner has, or a signal asked for the end.

    The pipe alone is not enough: a child which the owner forked holds it open after the owner.
    """
    while server.poll() is None and not told_to_stop and os.getppid() == owner_pid:
        if select.select([_LIFELINE_FD], [], [], _POLL_SECONDS)[0]:
            return


def _shut_down(server: "subprocess.Popen[bytes]") -> None:
    """End the server, more and more firmly."""
    for step, seconds in _SHUTDOWN_STEPS:
        server.send_signal(step)
        try:
            server.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return


def delete_with_target(folder: str) -> None:
    """Delete the folder, and what it links to."""
    shutil.rmtree(os.path.realpath(folder), ignore_errors=True)
    if os.path.islink(folder):  # noqa: PTH114
        os.unlink(folder)  # noqa: PTH108


def main(arguments: Sequence[str]) -> int:
    """Run the server and return its exit status."""
    owner_pid, lock_fd, uid, gid = map(int, arguments[:4])
    told_to_stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: told_to_stop.append(received))
    folder, *command = arguments[4:]
    server = _start_server(command, lock_fd, uid, gid)
    _wait_for_end(server, owner_pid, told_to_stop)
    _shut_down(server)
    if folder and os.getppid() != owner_pid:
        delete_with_target(folder)
    return 0 if server.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
