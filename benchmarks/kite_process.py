"""`python -m benchmarks.kite_process FILE`: Kite's server in a process of its own.

So it shares no interpreter lock with what is measured. It serves what FILE holds at the time,
prints its address, and ends with its standard input.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sandbox.kite_server import KiteServer


class _File:
    """The content of a file, read again when another file has taken its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = -1
        self._content = b""

    def __call__(self) -> bytes:
        inode = self._path.stat().st_ino
        if inode != self._inode:
            self._content, self._inode = self._path.read_bytes(), inode
        return self._content


def main() -> None:
    """Serve until standard input ends."""
    with KiteServer(_File(Path(sys.argv[1]))) as server:
        sys.stdout.write(f"{server.root}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
