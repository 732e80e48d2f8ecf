"""What the made-up market's contracts and shares have in common."""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")

INDEX_CODE = 9
_FIRST_TOKENS = {1: 3, 4: 500_002, INDEX_CODE: 1_001}  # by segment code
_FIRST_CONTRACT_TOKEN = 35_001
_TOKEN_GAPS = {1: 4, 4: 9}


class Segment(NamedTuple):
    """A part of an exchange; `code` is the last byte of its instrument tokens."""

    code: int
    name: str
    exchange: str


@dataclass
class Row:
    """A line of the list; `strike` is in thousandths of a rupee, 0 for none."""

    token: int
    symbol: str
    name: str
    segment: Segment
    tick: str = "0.05"
    lot: int = 1
    kind: str = "EQ"
    expiry: str = ""
    strike: int = 0


@dataclass(frozen=True)
class DayChanges:
    """What a trading day has changed since the one before.

    `renamed` and `moved_series` have (exchange, old symbol, new symbol); `adjusted` names the
    underlyings whose contracts a corporate action has moved among tokens; the others are numbers
    of rows.
    """

    on: date
    listed: int
    gone: int
    reused_tokens: int
    relisted: int
    changed_lots: int
    changed_ticks: int
    renamed: tuple[tuple[str, str, str], ...]
    moved_series: tuple[tuple[str, str, str], ...]
    adjusted: tuple[str, ...]


class Dice:
    """Reproducible choices. `random()` of a whole seed is what Python promises to keep stable."""

    def __init__(self, seed: int, day: int) -> None:
        """Begin the sequence of a day."""
        self._random = random.Random(seed * 1_000_003 + day).random

    def below(self, limit: int) -> int:
        """Return a number from 0 to limit - 1."""
        return int(self._random() * limit)

    def pick(self, options: Sequence[_T]) -> _T:
        """Return one of the options."""
        return options[self.below(len(options))]


class _TokenPool:
    """The exchange tokens of a segment code; those of the gone are handed out first."""

    def __init__(self, code: int) -> None:
        self.next = _FIRST_TOKENS.get(code, _FIRST_CONTRACT_TOKEN)
        self.free: deque[int] = deque()
        self._gap = _TOKEN_GAPS.get(code, 2)

    def take_fresh(self, dice: Dice) -> int:
        """Return a token that nobody ever had, some numbers after the last one."""
        token = self.next
        self.next += 1 + dice.below(self._gap)
        return token


class Ledger:
    """Hands out tokens and keeps the record of the day."""

    def __init__(self, dice: Dice) -> None:
        """Begin the first day."""
        self._pools: dict[int, _TokenPool] = {}
        self.begin_day(dice)

    def begin_day(self, dice: Dice) -> None:
        """Begin a day with an empty record."""
        self.dice = dice
        self.listed = self.gone = self.relisted = self.changed_lots = self.changed_ticks = 0
        self.renamed: list[tuple[str, str, str]] = []
        self.moved_series: list[tuple[str, str, str]] = []
        self.adjusted: list[str] = []
        self._reused = 0

    def take_token(self, segment: Segment) -> int:
        """Return a token that no listed instrument of the segment's code has."""
        pool = self._get_pool(segment)
        if pool.free:
            self._reused += 1
            return pool.free.popleft()
        return pool.take_fresh(self.dice)

    def relist(self, row: Row) -> None:
        """Move a row to a token that nobody ever had; nobody has its old one any more."""
        row.token = self._get_pool(row.segment).take_fresh(self.dice)
        self.relisted += 1

    def free_token(self, row: Row) -> None:
        """Let another instrument have a row's token."""
        self._get_pool(row.segment).free.append(row.token)

    def skip_tokens(self, segment: Segment, first: int) -> None:
        """Go on with this token."""
        self._get_pool(segment).next = first

    def make_changes(self, on: date) -> DayChanges:
        """Return the record of the day."""
        return DayChanges(
            on=on,
            listed=self.listed,
            gone=self.gone,
            reused_tokens=self._reused,
            relisted=self.relisted,
            changed_lots=self.changed_lots,
            changed_ticks=self.changed_ticks,
            renamed=tuple(self.renamed),
            moved_series=tuple(self.moved_series),
            adjusted=tuple(self.adjusted),
        )

    def _get_pool(self, segment: Segment) -> _TokenPool:
        if segment.code not in self._pools:
            self._pools[segment.code] = _TokenPool(segment.code)
        return self._pools[segment.code]


@cache
def format_price(thousandths: int) -> str:
    """Return a price as Kite writes it: 0.0, 90.875, 24500.0."""
    rupees, rest = divmod(thousandths, 1000)
    return f"{rupees}.{f'{rest:03d}'.rstrip('0') or '0'}"
