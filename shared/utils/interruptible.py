"""Blocking calls and sleeps that end: at a deadline, and at once when a signal comes."""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

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

    While libpq waits for a server, Python acts on no signal, and the time-out of an HTTP client is
    per read. So the calling thread waits here, where signals and the clock reach it. When it is
    interrupted, `cancel` is called to end the work, which is waited for up to 5 seconds, so that
    the connection is free for a rollback. Work that has not begun by then never begins.

    Raises DeadlineExceededError after `deadline_seconds`; the thread is left behind then.
    """
    future: Future[T] = Future()
    run = partial(copy_context().run, _run, future, func)
    thread = threading.Thread(target=run, name=getattr(func, "__name__", "call"), daemon=True)
    try:
        thread.start()  # waits for the thread to begin: a signal can come here, too
        has_ended = _wait(future, deadline_seconds)
    except BaseException:
        if not future.cancel() and cancel is not None:
            # In a thread, too: a server that hangs does not answer this, either.
            threading.Thread(target=_quietly, args=(cancel,), daemon=True).start()
            _wait(future, 5.0)
        raise
    if not has_ended:
        raise DeadlineExceededError
    thread.join()  # it has nothing left to do but to let go of the error
    try:
        return future.result()
    finally:
        del future, run, thread  # as in `_run`


def _run(future: Future[T], func: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(func())
        except BaseException as exc:  # handed to the caller, whatever it is
            future.set_exception(exc)
            del future  # or the error's traceback leads to it: a cycle that keeps all its frames


def _wait(future: Future[Any], seconds: float | None) -> bool:
    """Wait for the end of `future`, at most `seconds`; return whether it has ended."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    # In slices: a signal that another thread gets does not end this wait.
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            future.exception(min(left, _SLICE_SECONDS))
            return True
    return future.done()


def sleep_interruptibly(seconds: float) -> None:
    """Sleep in slices: a signal that comes just before a slice is acted on after it."""
    while seconds > 0:
        time.sleep(min(seconds, _SLICE_SECONDS))
        seconds -= _SLICE_SECONDS


def _quietly(func: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):
        func()
