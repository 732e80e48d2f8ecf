"""The lists that are loaded: yesterday's, and today's with and without moved symbols."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache

from sandbox.dump_generator import generate_dump

# A day of the made-up market on which there is no corporate action, and one on which there is.
ORDINARY_DAY = 3
DAY_OF_MOVES = 6


@dataclass(frozen=True)
class Lists:
    """Two lists in sequence, as CSV; `left_out` rows of today's were taken away."""

    yesterday: bytes
    today: bytes
    rows: int
    left_out: int = 0


@lru_cache(maxsize=4)
def make_lists(rows: int, *, day: int = ORDINARY_DAY, with_moves: bool = False) -> Lists:
    """The list of `day`, and that of the day before.

    Unless `with_moves`, today's is without the few rows whose symbol was another token's
    yesterday: a plain upsert, which all others are, breaks on those.
    """
    yesterday, today = generate_dump(day - 1, rows=rows), generate_dump(day, rows=rows)
    left_out = 0
    if not with_moves:
        today, left_out = _without_moved_symbols(yesterday, today)
    return Lists(yesterday, today, today.count(b"\n") - 1, left_out)


def _without_moved_symbols(yesterday: bytes, today: bytes) -> tuple[bytes, int]:
    holders = {_symbol(line): _token(line) for line in yesterday.splitlines()}
    lines = today.splitlines(keepends=True)
    kept = [line for line in lines if holders.get(_symbol(line), _token(line)) == _token(line)]
    return b"".join(kept), len(lines) - len(kept)


def _fields(line: bytes) -> list[str]:
    return next(csv.reader([line.decode().rstrip("\r\n")]))


def _symbol(line: bytes) -> tuple[str, str]:
    fields = _fields(line)
    return fields[2], fields[-1]


def _token(line: bytes) -> str:
    return _fields(line)[0]
