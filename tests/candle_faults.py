"""What Kite may do to an answer of candles that no status tells: values for `KiteServer.fail_next`.

Requests of one instrument and interval come one after the other: the faults of a path meet them in
the order in which they were planned, however many threads ask.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

from dag_2_import_candles_from_kite.sandbox_route import PATH
from sandbox.kite_faults import Answer, Fault, Wire
from sandbox.kite_server import KiteServer


@dataclass(frozen=True)
class Fine:
    """The right answer; before it something may happen."""

    first: Callable[[], Any] = lambda: None

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        self.first()
        wire.send_answer(make_answer())


@dataclass
class Held:
    """The right answer, which waits until it is let through."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        self.reached.set()
        while not self.opened.is_set() and wire.pause(0.01):
            pass
        wire.send_answer(make_answer())


@dataclass(frozen=True)
class Changed:
    """An answer of status 200 whose candles were changed on the way."""

    change: Callable[[list[list[Any]]], list[list[Any]]]

    def play(self, wire: Wire, make_answer: Callable[[], Answer]) -> None:
        answer = make_answer()
        assert answer.status == 200, answer
        content = json.loads(answer.body)
        content["data"]["candles"] = self.change(content["data"]["candles"])
        wire.send_answer(Answer(answer.status, json.dumps(content).encode(), answer.headers))


def _other_token(candles: list[list[Any]]) -> list[list[Any]]:
    """Of the same moments, with nothing of the prices; the same each time."""
    return [
        [ts, *(round(777 + crc32(ts.encode()) % 7 + at / 10, 2) for at in (0, 2, -2, 1)), 5, *more]
        for ts, _, _, _, _, _, *more in candles
    ]


def _other_span(candles: list[list[Any]]) -> list[list[Any]]:
    return [[_move(ts, days=-3000), *values] for ts, *values in candles]


def _move(ts: str, days: int) -> str:
    moved = datetime.strptime(ts, "%Y-%m-%dT%H:%M:%S%z") + timedelta(days=days)
    return moved.strftime("%Y-%m-%dT%H:%M:%S%z")


def _negative_middle(candles: list[list[Any]]) -> list[list[Any]]:
    at = len(candles) // 2
    ts, opened, *values = candles[at]
    return [*candles[:at], [ts, -opened, *values], *candles[at + 1 :]]


EMPTY = Changed(lambda candles: [])
OTHER_TOKEN = Changed(_other_token)
OTHER_SPAN = Changed(_other_span)
CUT_LIST = Changed(lambda candles: candles[: -(-len(candles) * 2 // 3)])
UNORDERED = Changed(lambda candles: candles[::-1])
NEGATIVE_MIDDLE = Changed(_negative_middle)


def plan_faults(kite: KiteServer, token: int, interval: str, faults: Iterable[Fault]) -> None:
    """Let these meet the requests for a token and an interval, one after the other."""
    for fault in faults:
        kite.fail_next(f"{PATH}{token}/{interval}", fault)
