"""Blocking calls that end: at a deadline, and at once when a signal comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class DeadlineExceededError(Exception):
    """The call did not end in time; its thread is left behind."""


def call_interruptibly(
    func: Callable[[], T],
    *,
    cancel: Callable[[], Any] | None = None,
    deadline_seconds: float | None = None,
) -> T:
    """Run `func` in a thread of its own and return its result, or raise its error.

    A C library that waits for a server (libpq) keeps Python from acting on SIGTERM or Ctrl-C, and
    the time-out of an HTTP client is per read: neither can be ended from within. So the calling
    thread waits here instead, where both signals and the clock reach it. When it is interrupted,
    `cancel`, if given, is called to end the work, and is waited for up to 5 seconds, so that the
    connection is free for a rollback.

    Raises DeadlineExceededError if `deadline_seconds` pass; the thread is left behind then.
    """
    call = _Call(func)
    thread = threading.Thread(target=call.run, name=getattr(func, "__name__", "call"), daemon=True)
    thread.start()
    try:
        thread.join(deadline_seconds)
    except BaseException:
        if cancel is not None:
            with contextlib.suppress(Exception):
                cancel()
            thread.join(5.0)
        raise
    if thread.is_alive():
        raise DeadlineExceededError
    return call.result()


class _Call(Generic[T]):
    def __init__(self, func: Callable[[], T]) -> None:
        self._func = func
        self._value: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._func()
        except BaseException as exc:  # handed to the caller, whatever it is
            self._error = exc

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # breaks the cycle error -> traceback -> frame -> self
        return self._value
