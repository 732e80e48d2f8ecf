"""`python -m benchmarks.kite_process FILE LAST_DAY [LIMIT]`: Kite's server, a process of its own.

So it shares no interpreter lock with what is measured. It serves what FILE holds at the time, and
candles of any token up to LAST_DAY; more than LIMIT requests for those within a second are answered
with 429. It prints its address, and ends with its standard input.
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

from benchmarks.candle_market import WalkingCandles
from dag_2_import_candles_from_kite.sandbox_route import PATH, CandleRoute
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
    path, last_day, *limits = sys.argv[1:]
    limit = int(limits[0]) if limits else None
    market = WalkingCandles(date.fromisoformat(last_day))
    with KiteServer(_File(Path(path))) as server:
        server.add_route(PATH, CandleRoute(market, limit_per_second=limit))
        sys.stdout.write(f"{server.root}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
