"""Blocking calls: their result or error comes out, deadlines and signals end the wait."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator

import pytest

from shared.utils.interruptible import (
    DeadlineExceededError,
    call_interruptibly,
    sleep_interruptibly,
)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a blocked call waits for; set at the end, so that its thread ends."""
    event = threading.Event()
    before = set(threading.enumerate())
    yield event
    event.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


class Stop(BaseException):
    """What a signal's handler raises."""


def test_result_comes_out_of_a_thread_of_its_own() -> None:
    ident = call_interruptibly(threading.get_ident)
    assert ident != threading.get_ident()


def test_none_is_a_result() -> None:
    assert call_interruptibly(lambda: None, deadline_seconds=5) is None


@pytest.mark.parametrize("error", [ValueError("why"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_error_comes_out_as_it_is(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        call_interruptibly(fail)

    assert caught.value is error
    assert caught.traceback[-1].name == "fail"


def test_thread_is_named_after_the_function() -> None:
    def download() -> str:
        return threading.current_thread().name

    assert call_interruptibly(download) == "download"


def test_deadline_ends_the_wait(release: threading.Event) -> None:
    with pytest.raises(DeadlineExceededError):
        call_interruptibly(release.wait, deadline_seconds=0.01)


def test_thread_that_is_left_behind_does_not_keep_the_program_alive(
    release: threading.Event,
) -> None:
    daemons = []

    def block() -> None:
        daemons.append(threading.current_thread().daemon)
        release.wait()

    with pytest.raises(DeadlineExceededError):
        call_interruptibly(block, deadline_seconds=0.05)
    assert daemons == [True]


def raise_by_signal_when(started: threading.Event) -> threading.Thread:
    """Send this process SIGUSR1 once the call has begun."""

    def send() -> None:
        started.wait(60)
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.fixture
def signal_raises() -> Iterator[None]:
    def handle(number: int, frame: object) -> None:
        raise Stop

    previous = signal.signal(signal.SIGUSR1, handle)
    yield
    signal.signal(signal.SIGUSR1, previous)


posix_only = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")


@posix_only
def test_signal_cancels_the_call_and_waits_for_its_end(
    signal_raises: None, release: threading.Event
) -> None:
    started = threading.Event()
    ended = []

    def block() -> None:
        started.set()
        release.wait(60)
        ended.append(True)

    sender = raise_by_signal_when(started)
    with pytest.raises(Stop):
        call_interruptibly(block, cancel=release.set)

    assert ended == [True]
    sender.join()


@posix_only
def test_signal_comes_out_when_cancel_fails(signal_raises: None, release: threading.Event) -> None:
    started = threading.Event()

    def block() -> None:
        started.set()
        release.wait(60)

    def cancel() -> None:
        release.set()
        raise OSError("connection lost")

    sender = raise_by_signal_when(started)
    with pytest.raises(Stop):
        call_interruptibly(block, cancel=cancel)
    sender.join()


@posix_only
def test_signal_without_cancel_does_not_wait_for_the_call(
    signal_raises: None, release: threading.Event
) -> None:
    started = threading.Event()
    ended = []

    def block() -> None:
        started.set()
        release.wait(60)
        ended.append(True)

    sender = raise_by_signal_when(started)
    with pytest.raises(Stop):
        call_interruptibly(block)
    assert ended == []
    sender.join()


@pytest.mark.parametrize("begins_late", [False, True])
def test_signal_before_the_call_has_begun_ends_it_at_once(
    monkeypatch: pytest.MonkeyPatch, begins_late: bool
) -> None:
    """Nothing is there to cancel or to wait for; a thread that begins all the same does nothing."""
    threads = []
    start = threading.Thread.start

    def interrupt(thread: threading.Thread) -> None:
        threads.append(thread)
        raise Stop

    called: list[str] = []
    monkeypatch.setattr(threading.Thread, "start", interrupt)
    with pytest.raises(Stop):
        call_interruptibly(lambda: called.append("call"), cancel=lambda: called.append("cancel"))
    assert len(threads) == 1  # none for `cancel`
    if begins_late:
        start(threads[0])
        threads[0].join()
    assert called == []


def test_error_and_what_its_frames_hold_is_freed_at_once() -> None:
    """A failed attempt at a download must not keep its 10 MB until the garbage collector comes."""

    class Body:
        pass

    held: list[weakref.ref[Body]] = []

    def fail() -> None:
        body = Body()
        held.append(weakref.ref(body))
        raise ValueError("cut short")

    gc.disable()
    try:
        # pytest.raises would keep the traceback.
        with contextlib.suppress(ValueError):
            call_interruptibly(fail)
        assert held[0]() is None
    finally:
        gc.enable()


def test_sleep_is_made_of_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes just before a sleep is acted on after it."""
    slept: list[float] = []
    monkeypatch.setattr("shared.utils.interruptible.time.sleep", slept.append)
    sleep_interruptibly(61.5)
    assert sum(slept) == pytest.approx(61.5)
    assert 0 < min(slept) <= max(slept) <= 0.5
    slept.clear()
    sleep_interruptibly(0)
    assert slept == []
