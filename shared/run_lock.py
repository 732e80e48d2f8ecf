"""Whether a run that is called running still lives: each holds a lock on a file of its DAG."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.private_files import make_private_folder, private_opener


@dataclass(frozen=True)
class RunLock:
    """`host` names the machine and the file."""

    host: str
    descriptor: int

    def is_alone(self) -> bool:
        """Whether no other run of the DAG holds the lock now."""
        try:
            return _try_alone(self.descriptor)
        finally:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH)


@contextlib.contextmanager
def hold(directory: Path, dag_id: int) -> Iterator[RunLock | None]:
    """Hold the lock of a DAG's runs, which any number of them may; None if it cannot be had."""
    path = _path(directory, dag_id)
    try:
        make_private_folder(directory)
        descriptor = private_opener(str(path), os.O_RDWR | os.O_CREAT)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield RunLock(f"{socket.gethostname()} {path}", descriptor)
    finally:
        os.close(descriptor)


def is_held(directory: Path, dag_id: int) -> bool:
    """Whether a run of the DAG is under way here. False also where that cannot be known."""
    try:
        descriptor = os.open(_path(directory, dag_id), os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try_alone(descriptor)
    finally:
        os.close(descriptor)


def has_ended(host: str | None) -> bool:
    """Whether the run that wrote this `host` lives no more, though it is called running.

    False where that cannot be known: it is another machine's, or another user's.
    """
    machine, _, path = (host or "").partition(" ")
    if machine != socket.gethostname():
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return _try_alone(descriptor)
    finally:
        os.close(descriptor)


def _path(directory: Path, dag_id: int) -> Path:
    return directory / f"dag_{dag_id}.lock"


def _try_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
