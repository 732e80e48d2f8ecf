"""What the ways to load candles share: Kite's answers at hand, and where the candles go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

INTERVAL = "minute"
COLUMNS = ("instrument_id", "interval", "ts", "open", "high", "low", "close", "volume", "oi")
_SEPARATOR = b"\t"


class Answer(NamedTuple):
    """What Kite has answered for an instrument."""

    instrument_id: int
    token: int
    body: bytes


def write_answers(path: Path, answers: list[Answer]) -> None:
    """Leave answers for contenders; none has a line break."""
    with path.open("wb") as file:
        for instrument_id, token, body in answers:
            file.write(b"%d\t%d\t%s\n" % (instrument_id, token, body))


def read_answers() -> Iterator[Answer]:
    """The answers of BENCH_ANSWERS_FILE."""
    with Path(os.environ["BENCH_ANSWERS_FILE"]).open("rb") as file:
        for line in file:
            instrument_id, token, body = line.rstrip(b"\n").split(_SEPARATOR, 2)
            yield Answer(int(instrument_id), int(token), body)
