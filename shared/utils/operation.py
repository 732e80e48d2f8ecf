"""Operations: what is being done, for the log, for the person who watches, and for the summary.

An operation logs its start, its end with status and duration (Property 11), and an error once,
where it happened, with its name and the stack trace (Property 13).
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from shared.exceptions import StockIngestionError

logger = logging.getLogger(__name__)


class Display(Protocol):
    """Shows operations while they run; execute_dags.py brings the one for the console."""

    def started(self, name: str) -> None:
        """An operation began."""

    def advanced(self, done: int, total: int | None, unit: str, note: str) -> None:
        """The innermost operation has done `done` of `total` (None: not known) `unit`s.

        `note` is what else there is to say, parts with commas between them; the last one matters
        most.
        """

    def finished(self, name: str, seconds: float, succeeded: bool) -> None:
        """An operation ended."""


_display: ContextVar[Display | None] = ContextVar("display", default=None)
_last_logged: ContextVar[BaseException | None] = ContextVar("last_logged", default=None)


@contextmanager
def show_on(display: Display) -> Iterator[None]:
    """Show the operations of the body on `display`, also those of the threads that it starts."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


def advance(done: int, total: int | None = None, unit: str = "rows", note: str = "") -> None:
    """Report how far the innermost operation has come, as Display.advanced takes it.

    advance(540, 2700, "requests", "3.0 requests/s, 12 min left")
    """
    if display := _display.get():
        display.advanced(done, total, unit, note)


@contextmanager
def operation(name: str, durations: dict[str, float] | None = None) -> Iterator[None]:
    """Run the body as the operation `name`; `durations` receives its seconds under that name."""
    logger.info("%s: started", name)
    if display := _display.get():
        display.started(name)
    begin, succeeded = time.perf_counter(), False
    try:
        yield
        succeeded = True
    except Exception as exc:
        log_error_once(f"{name} failed", exc)
        raise
    finally:
        seconds = time.perf_counter() - begin
        if durations is not None:
            durations[name] = seconds
        logger.info("%s: %s in %.3f s", name, "succeeded" if succeeded else "failed", seconds)
        if display:
            display.finished(name, seconds, succeeded)


def log_error_once(context: str, error: BaseException) -> None:
    """Log `error` with its context and stack trace, unless it, or its cause, has been logged."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:  # "raise error from error" makes a circle
        if cause is _last_logged.get():
            return
        chain.append(cause)
        cause = cause.__cause__
    _last_logged.set(error)
    kind = "" if isinstance(error, StockIngestionError) else f"{type(error).__name__}: "
    logger.error("%s: %s%s", context, kind, error, exc_info=error)
