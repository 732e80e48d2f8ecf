"""How far a run is, which may take hours: what is done, how fast, and how long the rest takes."""

import time
from collections import deque
from collections.abc import Callable

from shared.utils.operation import advance

_WINDOW_SECONDS = 60.0  # over which the rate is measured


class Progress:
    """Counts the series that are done, of `total`, and the requests, of which `planned` are due."""

    def __init__(
        self, total: int, planned: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._planned = planned
        self._clock = clock
        self._begin = clock()
        self._done = 0
        self._requests = 0
        self._recent: deque[float] = deque()

    def asked(self) -> None:
        """Count a request that was answered, or has failed."""
        now = self._clock()
        self._requests += 1
        self._recent.append(now)
        while self._recent[0] < now - _WINDOW_SECONDS:
            self._recent.popleft()

    def finished(self, is_over: bool) -> None:
        """Show how far it is, with one series more if it `is_over`."""
        self._done += is_over
        if not is_over:
            self._planned = max(self._planned, self._requests + 1)
        advance(self._done, self._total, "series", note=self._describe_rest())

    def describe(self) -> str:
        """What was asked, in a line of the summary."""
        seconds = self._clock() - self._begin
        rate = self._requests / seconds if seconds > 0 else 0.0
        return f"asked: {counted(self._requests, 'request')}, {rate:.1f} a second"

    def _describe_rest(self) -> str:
        seconds = self._clock() - max(self._begin, self._clock() - _WINDOW_SECONDS)
        rate = len(self._recent) / seconds if seconds > 0 else 0.0
        left = max(0, self._planned - self._requests)
        if not rate:
            return ""
        return f"{rate:.1f} requests/s, {in_words(left / rate)} left"


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 request, 1,200 requests."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def in_words(seconds: float) -> str:
    """A time as a person says it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
