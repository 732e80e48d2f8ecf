"""SIGINT and SIGTERM as errors that end a run, whatever is in their way."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

_ALARM = [signal.SIGALRM] if hasattr(signal, "SIGALRM") else []  # Windows has none

# Longer than a run takes to end: what is in the way of the first must have lost it.
_REPEAT_SECONDS = 5.0


class Terminated(BaseException):
    """SIGTERM came; not an Exception, so that nothing on the way takes it for a failure."""


class Signals:
    """While it is entered, SIGINT and SIGTERM raise an error in the body of `as_sent`.

    An error that a handler raises can get lost: Python drops it while it cleans an object up (at
    the end of an HTTP session one signal in three was lost so), makes another error of it where a
    class is being made, and code on the way may swallow what it should not. So the first signal is
    remembered, and raised again by an alarm until it has left the body; further ones are passed
    over meanwhile.
    """

    def __init__(self) -> None:
        self._arrived: type[BaseException] | None = None
        self._depth = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Install the handlers. Ctrl-C stays ignored where it was, as in a shell's background."""
        self._arrived = None
        numbers = [signal.SIGTERM, *_ALARM]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            numbers.append(signal.SIGINT)
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        sys.unraisablehook = self._handle_unraisable
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the handlers away again."""
        sys.unraisablehook = sys.__unraisablehook__
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def as_sent(self) -> Iterator[None]:
        """A body that ends in KeyboardInterrupt or Terminated if a signal comes, in nothing else.

        May be nested. A signal that comes outside of it is raised at the next entry.
        """
        self._depth += 1
        try:
            if self._arrived is None:
                yield
        except Exception:
            if self._arrived is None:
                raise
        finally:
            _set_alarm(0)
            self._depth -= 1
        if self._arrived is not None:
            raise self._arrived

    def _handle(self, number: int, _frame: object) -> None:
        if self._arrived is None:
            self._arrived = KeyboardInterrupt if number == signal.SIGINT else Terminated
        elif number not in _ALARM:
            return
        if self._depth:
            _set_alarm(_REPEAT_SECONDS)
            raise self._arrived

    def _handle_unraisable(self, unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, (KeyboardInterrupt, Terminated)):
            _set_alarm(0.02)  # once more, when the clean-up is over
        else:
            sys.__unraisablehook__(unraisable)


def _set_alarm(seconds: float) -> None:
    """Send SIGALRM in so many seconds; 0 sends none."""
    if _ALARM:
        signal.setitimer(signal.ITIMER_REAL, seconds)
