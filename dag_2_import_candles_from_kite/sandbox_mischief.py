"""What can be wrong with rows of candles; a row is text in JSON, such as ["...+0530",1,2,1,2,9]."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Each makes a row of one that was right.
GARBAGE: Mapping[str, Callable[[list[Any]], str]] = {
    "null": lambda row: json.dumps([*row[:2], None, *row[3:]]),
    "text": lambda row: json.dumps([row[0], "1,704.50", *row[2:]]),
    "negative price": lambda row: json.dumps([row[0], -row[1], *row[2:]]),
    "zero price": lambda row: json.dumps([*row[:4], 0, *row[5:]]),
    "negative volume": lambda row: json.dumps([*row[:5], -1, *row[6:]]),
    "part of a share": lambda row: json.dumps([*row[:5], row[5] + 0.5, *row[6:]]),
    "not a number": lambda row: json.dumps([row[0], float("nan"), *row[2:]]),
    "too large": lambda row: json.dumps([*row[:5], 10**30, *row[6:]]),
    "beyond floats": lambda row: json.dumps([*row[:2], "1e400", *row[3:]]).replace(
        '"1e400"', "1e400"
    ),
    "high below low": lambda row: json.dumps([*row[:2], row[3], row[2] * 2, *row[4:]]),
    "short row": lambda row: json.dumps(row[:4]),
    "long row": lambda row: json.dumps([*row, 1, 2]),
    "no stamp": lambda row: json.dumps(["soon", *row[1:]]),
    "another zone": lambda row: json.dumps([row[0].replace("+0530", "+0000"), *row[1:]]),
    "off the grid": lambda row: json.dumps([row[0].replace(":00+", ":07+"), *row[1:]]),
    "no row": lambda row: json.dumps({"date": row[0], "open": row[1]}),
    "boolean": lambda row: json.dumps([*row[:5], True, *row[6:]]),
}

_WAYS: Mapping[str, Callable[[Sequence[str]], list[str]]] = {
    "empty": lambda rows: [],
    "cut list": lambda rows: list(rows[: len(rows) - (len(rows) + 2) // 3]),
    "unordered": lambda rows: list(rows[::-1]),
    "twice": lambda rows: [row for row in rows for _ in range(2)],
}
ANY_GARBAGE = "garbage values"
KINDS = (*_WAYS, ANY_GARBAGE, *GARBAGE)


def spoil(rows: Sequence[str], kind: str, turn: int) -> list[str]:
    """Rows that are wrong in a way, one of `KINDS`; of garbage the middle row alone is.

    Of "garbage values" it is the one whose turn it is.
    """
    if kind in _WAYS:
        return _WAYS[kind](rows)
    if kind == ANY_GARBAGE:
        kind = list(GARBAGE)[turn % len(GARBAGE)]
    spoilt = list(rows)
    if spoilt:
        middle = len(spoilt) // 2
        spoilt[middle] = GARBAGE[kind](json.loads(spoilt[middle]))
    return spoilt
