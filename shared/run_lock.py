"""Whether a run that is called running still lives.

Each holds a lock on a file of its DAG; that of a part of a DAG has a file of that part's.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.feed import Slice
from shared.private_files import make_private_folder, private_opener


@dataclass(frozen=True)
class RunLock:
    """`host` names the machine and the file."""

    host: str
    descriptor: int

    def is_alone(self) -> bool:
        """Whether no other run of the DAG, or of the same part of it, holds the lock now."""
        try:
            return _try_alone(self.descriptor) is True
        finally:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH)


@contextlib.contextmanager
def hold(directory: Path, dag_id: int, part: Slice | None = None) -> Iterator[RunLock | None]:
    """Hold the lock of a DAG's runs, or of those of a part of it, which any number of them may.

    None if it cannot be had.
    """
    path = directory / f"{_stem(dag_id, part)}.lock"
    with _open(path) as descriptor:
        if descriptor is None:
            yield None
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError:  # this file system has no locks
            yield None
            return
        yield RunLock(f"{socket.gethostname()} {path}", descriptor)


@contextlib.contextmanager
def hold_alone(path: Path) -> Iterator[bool]:
    """Hold the lock on a file, which only one may. Whether it is held; True also without a file."""
    with _open(path) as descriptor:
        yield descriptor is None or _try_alone(descriptor) is not False


def series_path(directory: Path, dag_id: int) -> Path:
    """The file that a call holds alone while it runs a DAG many times."""
    return directory / f"{_stem(dag_id)}_series.lock"


def is_held(directory: Path, dag_id: int) -> bool:
    """Whether a run of the DAG, of a part of it, or a series of them, is under way here.

    False also where that cannot be known.
    """
    parts = directory.glob(f"{_stem(dag_id)}_part_*.lock")
    paths = (directory / f"{_stem(dag_id)}.lock", series_path(directory, dag_id), *parts)
    return any(_is_free(path) is False for path in paths)


def has_ended(host: str | None) -> bool:
    """Whether the run that wrote this `host` lives no more, though it is called running.

    False where that cannot be known: it is another machine's, or another user's.
    """
    machine, _, path = (host or "").partition(" ")
    return machine == socket.gethostname() and _is_free(Path(path)) is True


def _stem(dag_id: int, part: Slice | None = None) -> str:
    return f"dag_{dag_id}" if part is None else f"dag_{dag_id}_{part.file_name}"


@contextlib.contextmanager
def _open(path: Path) -> Iterator[int | None]:
    """The file of a lock, which is made where it is not there; None if that cannot be."""
    descriptor = None
    with contextlib.suppress(OSError):
        make_private_folder(path.parent)
        descriptor = private_opener(str(path), os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_free(path: Path) -> bool | None:
    """Whether nobody holds the lock on this file; None where that cannot be known."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _try_alone(descriptor)
    finally:
        os.close(descriptor)


def _try_alone(descriptor: int) -> bool | None:
    """Whether nobody else holds the lock; None where that cannot be known."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has no locks
        return None
    return True
