"""Blocking calls and sleeps that end: at a deadline, and at once when a signal comes."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_SLICE_SECONDS = 0.2


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
    thread waits here, where signals and the clock reach it. When it is interrupted, `cancel`, if
    given, is called to end the work, and is waited for up to 5 seconds, so that the connection is
    free for a rollback. Work that has not begun by then never begins.

    Raises DeadlineExceededError after `deadline_seconds`; the thread is left behind then.
    """
    call = _Call(func)
    run = partial(copy_context().run, call.run)
    thread = threading.Thread(target=run, name=getattr(func, "__name__", "call"), daemon=True)
    try:
        thread.start()  # waits for the thread to begin: a signal can come here, too
        ended = call.wait(deadline_seconds)
    except BaseException:
        if not call.withdraw() and cancel is not None:
            # In a thread, too: where the server hangs, asking it to cancel hangs as well.
            threading.Thread(target=_quietly, args=(cancel,), daemon=True).start()
            call.wait(5.0)
        raise
    if not ended:
        raise DeadlineExceededError
    return call.result()


def sleep_interruptibly(seconds: float) -> None:
    """Sleep in slices: a signal that comes just before a slice is acted on after it."""
    while seconds > 0:
        time.sleep(min(seconds, _SLICE_SECONDS))
        seconds -= _SLICE_SECONDS


def _quietly(func: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):
        func()


class _Call(Generic[T]):
    def __init__(self, func: Callable[[], T]) -> None:
        self._func = func
        self._value: T
        self._error: BaseException | None = None
        self._claim = threading.Lock()  # whoever takes it first decides whether `func` is called
        self._ended = threading.Event()

    def withdraw(self) -> bool:
        """Keep `func` from being called; return False if it has been called already."""
        return self._claim.acquire(blocking=False)

    def run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._value = self._func()
        except BaseException as exc:  # handed to the caller, whatever it is
            self._error = exc
        finally:
            self._ended.set()

    def wait(self, seconds: float | None) -> bool:
        """Wait for the end of `run`, at most `seconds`; return whether it has ended."""
        end = math.inf if seconds is None else time.monotonic() + seconds
        # In slices: a signal that the system hands to another thread does not end this wait, and
        # its handler runs only when this thread wakes up.
        while (left := end - time.monotonic()) > 0:
            if self._ended.wait(min(left, _SLICE_SECONDS)):
                return True
        return self._ended.is_set()

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # breaks the cycle error -> traceback -> frame -> self
        return self._value
