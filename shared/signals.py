"""SIGINT, SIGTERM and SIGHUP as errors that end a run, whatever is in their way."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# A run of DAG 1 has ended by then, if the first error was not lost; and one that was still ends
# within 10 seconds (ruling 26).
_REPEAT_SECONDS = 7.0


class Terminated(BaseException):
    """SIGTERM came; not an Exception, so that nothing on the way takes it for a failure."""


class HungUp(Terminated):
    """SIGHUP came: the terminal was closed, or the connection to it was lost."""


_ERRORS: dict[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGHUP: HungUp,
}


class Signals:
    """Makes errors of SIGINT, SIGTERM and SIGHUP in the body of `as_sent`.

    An error that a handler raises can get lost: Python drops it while it cleans an object up (at
    the end of an HTTP session one signal in three was lost so), makes another error of it where a
    class is being made, and code on the way may swallow what it should not. So the first signal is
    remembered, and raised again by an alarm until it has left the body; further ones are passed
    over meanwhile.
    """

    def __init__(self) -> None:
        self._arrived: type[BaseException] | None = None
        self._depth = 0
        self._numbers: Sequence[int] = ()

    @contextmanager
    def as_sent(self) -> Iterator[None]:
        """A body that ends in KeyboardInterrupt or Terminated if a signal comes, in nothing else.

        May be nested. Ctrl-C stays ignored where it was, as in a shell's background, and so does
        SIGHUP, as under nohup. Handlers that the body leaves behind are taken away.
        """
        if not self._depth:
            self._arrived = None
            by_default = (signal.default_int_handler, signal.SIG_DFL)
            may_be_ignored = (signal.SIGINT, signal.SIGHUP)
            heeded = [n for n in may_be_ignored if signal.getsignal(n) in by_default]
            self._numbers = [signal.SIGTERM, signal.SIGALRM, *heeded]
        hook, sys.unraisablehook = sys.unraisablehook, self._handle_unraisable
        previous = {number: signal.signal(number, self._handle) for number in self._numbers}
        self._depth += 1
        try:
            if self._arrived is None:
                yield
        except BaseException:
            if self._arrived is None:
                raise
        finally:
            self._depth -= 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.unraisablehook = hook
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self._arrived is not None:
            raise self._arrived

    def _handle(self, number: int, _frame: object) -> None:
        is_alarm = number == signal.SIGALRM
        if is_alarm == (self._arrived is None):
            return  # an alarm of another's, or a further signal
        self._arrived = self._arrived or _ERRORS[number]
        if self._depth:  # else the body has not begun, or has ended: as_sent raises it
            signal.setitimer(signal.ITIMER_REAL, _REPEAT_SECONDS)
            raise self._arrived

    def _handle_unraisable(self, unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, (KeyboardInterrupt, Terminated)):
            self._arrived = self._arrived or unraisable.exc_type
            signal.setitimer(signal.ITIMER_REAL, 0.02)  # once more, when the clean-up is over
        else:
            sys.__unraisablehook__(unraisable)
