"""How long the project's statements take, from the server's own log."""

from __future__ import annotations

import re
from collections import Counter

COPY, COMPARE, MOVES, WRITE, TRACK, COMMIT, OTHER = (
    "copy into the stage",
    "compare with the table",
    "resolve moved symbols",
    "update and insert",
    "plausibility, changes, history",
    "commit",
    "other",
)
# The first that fits counts.
_GROUPS = (
    (COPY, r"^COPY "),
    (MOVES, r"\bholder\b|\bsuperseded\b"),
    (TRACK, r"stock_ingestion_change|kite_instrument_change|ingestion_run|GROUP BY 1"),
    (COMPARE, r"CREATE TEMPORARY TABLE \S*stock_ingestion_delta|ANALYZE|SELECT max\("),
    (WRITE, r"^(UPDATE|INSERT INTO) \S*kite_instrument_master"),
    (COMMIT, r"^COMMIT"),
)
GROUPS = (*(name for name, _ in _GROUPS), OTHER)
_ENTRY = re.compile(r"duration: ([0-9.]+) ms  statement: (.*(?:\n\t.*)*)")
_COMMENT = re.compile(r"--.*")


def group_statements(log: str) -> dict[str, float]:
    """The milliseconds of each group of statements in a log of PostgreSQL."""
    sums: Counter[str] = Counter(dict.fromkeys(GROUPS, 0.0))
    for milliseconds, text in _ENTRY.findall(log):
        statement = " ".join(_COMMENT.sub("", text).split())
        group = next((name for name, wanted in _GROUPS if re.search(wanted, statement)), OTHER)
        sums[group] += float(milliseconds)
    return dict(sums)
