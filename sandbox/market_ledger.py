"""What the made-up market's shares and contracts have in common: days, rows, tokens, chance."""

import json
import random
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

# Names, prices (invented), and NSE's holidays of 2026. A list has lines of several words.
DATA: dict[str, Any] = json.loads(Path(__file__).with_name("market.json").read_text("utf-8"))
_HOLIDAYS = frozenset(map(date.fromisoformat, " ".join(DATA["holidays"]).split()))
_SEED = 2026
_START = date(2026, 8, 3)
_FIRST_TOKENS = {1: 3, 4: 500_002, 9: 1_001}  # by segment code; those of contracts: 35,001
_TOKEN_GAPS = {1: 4, 4: 9}


def is_trading_day(on: date) -> bool:
    """Whether it is a weekday and no holiday; of holidays those of 2026 alone are known."""
    return on.weekday() < 5 and on not in _HOLIDAYS


def trading_day(day: int) -> date:
    """The date of a trading day, from 0."""
    on = _START
    while day > 0 or not is_trading_day(on):
        day -= is_trading_day(on)
        on += timedelta(1)
    return on


def last_open_day(on: date) -> date:
    """The same day or, where it is free, the last trading day before it."""
    while not is_trading_day(on):
        on -= timedelta(1)
    return on


@dataclass(eq=False, slots=True)  # fast to find in a list
class Row:
    """A line of the list. `code` is the last byte of its token; `strike` is in thousandths."""

    token: int
    code: int
    symbol: str
    name: str
    segment: str
    exchange: str
    tick: str
    lot: int
    kind: str = "EQ"
    expiry: str = ""
    strike: int = 0
    stem: str = ""  # how the symbols of its expiry begin


@dataclass
class DayChanges:
    """What a trading day has changed: numbers of rows; exchange, old symbol and new symbol."""

    on: date
    listed: int = 0
    gone: int = 0
    reused_tokens: int = 0
    relisted: int = 0
    changed_lots: int = 0
    changed_ticks: int = 0
    renamed: list[tuple[str, str, str]] = field(default_factory=list)
    moved_series: list[tuple[str, str, str]] = field(default_factory=list)
    adjusted: list[str] = field(default_factory=list)  # underlyings, by corporate actions


class Ledger:
    """Hands out tokens, throws the dice, and keeps the record of the day."""

    def __init__(self) -> None:
        """Begin the first day."""
        self._next = defaultdict(lambda: 35_001, _FIRST_TOKENS)
        self.free: defaultdict[int, deque[int]] = defaultdict(deque)
        self.day = -1
        self.begin_day()

    def begin_day(self) -> None:
        """Begin the next day, with an empty record."""
        self.day += 1
        # Only random() of a whole seed gives the same on every Python.
        self._random = random.Random(_SEED * 1_000_003 + self.day).random
        self.changes = DayChanges(trading_day(self.day))

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""
        return int(self._random() * limit)

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options."""
        return options[self.below(len(options))]

    def take_token(self, code: int, *, fresh: bool = False) -> int:
        """An exchange token that nobody of the segment code has: one that is free again, or new."""
        if self.free[code] and not fresh:
            self.changes.reused_tokens += 1
            return self.free[code].popleft()
        token = self._next[code]
        self._next[code] += 1 + self.below(_TOKEN_GAPS.get(code, 2))
        return token

    def end(self, row: Row) -> None:
        """Take note of a row that is listed no longer: most tokens are used again, not all."""
        self.free[row.code] += [row.token] * (self.below(8) > 0)
        self.changes.gone += 1
