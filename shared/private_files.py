"""Files and folders that only their owner can read, whatever the umask, and that follow no link."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


def private_opener(path: str, flags: int) -> int:
    """An `opener` for `open`: a new file has mode 600, and a link in its place is an OSError."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise OSError(exc.errno, "a symbolic link is in its place", path) from exc
        raise


def make_private_folder(path: Path) -> None:
    """Make the folder, and those above it, with mode 700; one that is there stays as it is."""
    for folder in (*reversed(path.parents), path):
        folder.mkdir(mode=0o700, exist_ok=True)


def write_state(path: Path, document: Any) -> None:
    """Write what one call leaves to the next as JSON, in one step. Raises OSError.

    What JSON has no type for is text.
    """
    make_private_folder(path.parent)
    with write_in_one_step(path, path.with_name(f"{path.name}.{os.getpid()}")) as file:
        file.write(json.dumps(document, indent=1, default=str).encode())


@contextlib.contextmanager
def write_in_one_step(path: Path, unfinished: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the body has ended well.

    It is written as `unfinished`, in the same folder, and is on the disk before it is renamed:
    there is the old file or the whole new one, whatever happens. If the body fails, nothing is
    left of it.

    Raises OSError, also if `unfinished` is there already.
    """
    with open(unfinished, "xb", opener=private_opener) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
    with contextlib.suppress(OSError):  # the rename, too, is to last through a power failure
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
