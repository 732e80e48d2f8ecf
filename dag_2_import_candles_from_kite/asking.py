"""Several requests under way at once: threads that ask Kite, and hand over what it answered."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_SLICE_SECONDS = 0.2  # after which a signal is acted on
_LONGEST_TURN_SECONDS = 60.0  # well below the deadline of a request


class Asker(Generic[T, R]):
    """Calls `ask` for what is put in, in as many threads; `take` gives what came of it.

    The threads end with the program: one that waits for an answer keeps no signal waiting.
    """

    def __init__(self, ask: Callable[[T], R], threads: int) -> None:
        self._ask = ask
        self._waiting: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._taken = threading.Condition()
        self._is_closed = False
        self.under_way = 0
        self._threads = threads
        for _ in range(threads):
            run = partial(copy_context().run, self._work)
            threading.Thread(target=run, name="ask", daemon=True).start()

    def put(self, question: T) -> None:
        """Have it asked as soon as a thread is free."""
        self.under_way += 1
        self._waiting.put((question,))

    def close(self) -> None:
        """Let the threads end, each after the question that it has; what waits is not asked."""
        with self._taken:
            self._is_closed = True
            self._taken.notify_all()
        with suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in range(self._threads):
            self._waiting.put(None)

    def take(self) -> tuple[T, R | BaseException]:
        """Wait for the next answer, or for the error in its place."""
        while True:
            try:
                done = self._done.get(timeout=_SLICE_SECONDS)
            except queue.Empty:
                continue
            self.under_way -= 1
            with self._taken:
                self._taken.notify()
            return done

    @contextmanager
    def turn(self) -> Iterator[None]:
        """For what takes much memory in `ask`: one thread at a time, when no answer is left.

        It waits for a minute at most: the request has a deadline.
        """
        with self._turn:
            with self._taken:
                self._taken.wait_for(self._has_room, _LONGEST_TURN_SECONDS)
            yield

    def _has_room(self) -> bool:
        return self._is_closed or self._done.empty()

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            (question,) = waiting
            try:
                answer: R | BaseException = self._ask(question)
            except BaseException as exc:
                answer = exc
            self._done.put((question, answer))
            del waiting, question, answer  # they are large, and the next one may be long in coming
