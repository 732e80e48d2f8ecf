"""A clock for tests of what takes time."""

from __future__ import annotations


class Clock:
    """Stands for a module's `time`: a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self._begin = self.now = 100.0

    @property
    def elapsed(self) -> float:
        return self.now - self._begin

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now
