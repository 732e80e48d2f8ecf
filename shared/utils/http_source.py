"""Ask a source over HTTP: whole answers only, retried, paced, and ended by a deadline."""

import http.client
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from shared.exceptions import APIError, StockIngestionError, TooManyRequestsError, TransientAPIError
from shared.feed import Batch, Payload, Slice
from shared.utils.interruptible import (
    DeadlineExceededError,
    call_interruptibly,
    sleep_interruptibly,
)
from shared.utils.retry import MAX_RETRY_AFTER_SECONDS, RetryPolicy
from shared.utils.strict_session import (
    LIST_BOUNDS,
    OTHER_BOUNDS,
    Answer,
    Bounds,
    Progress,
    Source,
    StrictSession,
)

T = TypeVar("T")
_PAUSE_SECONDS = 1.0  # after a 429 that asks for no time
# The interval is so much longer: requests that are not held up alike on their way come closer
# together, and a source that counts those of the last second would see one too many.
_MARGIN = 1.01
# Who has waited for a turn, and wakes late, takes it up to so much of the time between two parts.
_LATE = 0.25
_LONGEST_SLEEP_SECONDS = 0.2  # for a turn: a long sleep ends late by more than a short one


class Pacer:
    """Lets at most so many requests a second begin, over all threads that share it.

    That is about 1% fewer, so that a source that counts them finds no second with one too many.
    Of several processes, each with its `part`, all together keep the rate: they take turns, by the
    wall clock, so that no two requests meet. Who is late for a turn waits for the next one, and
    takes that however late it is then: on some machines every sleep ends late.
    """

    def __init__(
        self,
        requests_per_second: float,
        *,
        part: Slice | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = sleep_interruptibly,
    ) -> None:
        seconds = _MARGIN / requests_per_second
        self._interval_seconds = seconds * (part.count if part else 1)
        self._turn_seconds = seconds * part.number if part else None
        self._late_seconds = seconds * _LATE if part else 0.0
        self._longest_sleep_seconds = _LONGEST_SLEEP_SECONDS if part else math.inf
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._next = -math.inf  # when the next request may begin, by the clock
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the caller's request may begin."""
        late_seconds = 0.0
        while True:
            with self._lock:
                now = self._clock()
                if now > self._next + late_seconds:
                    self._next = self._find_turn(now)
                    late_seconds = math.inf if late_seconds else 0.0
                if now >= self._next:
                    self._next = self._find_turn(now + self._interval_seconds - self._late_seconds)
                    return
                seconds = self._next - now
            self._sleep(min(seconds, self._longest_sleep_seconds))
            late_seconds = max(late_seconds, self._late_seconds)

    def slow_down(self, seconds: float | None) -> None:
        """Let no request begin within the wait that a source asked for, unless that is too long."""
        seconds = _PAUSE_SECONDS if seconds is None else seconds
        if seconds <= MAX_RETRY_AFTER_SECONDS:
            with self._lock:
                self._next = max(self._next, self._find_turn(self._clock() + seconds))

    def _find_turn(self, moment: float) -> float:
        """When the turn comes, from this moment on; without parts it always is."""
        if self._turn_seconds is None:
            return moment
        wall = self._wall_clock() + moment - self._clock()
        return moment + (self._turn_seconds - wall) % self._interval_seconds


class HttpSource:
    """A source of bytes at one address, `root`, which several threads may ask at once.

    `timeout_seconds` bounds each connect and each read, `deadline_seconds` a whole attempt (ruling
    25). `progress` is told of answers within bounds that name a media type.
    """

    def __init__(
        self,
        root: str,
        *,
        source: Source | None = None,
        timeout_seconds: float = 30.0,
        deadline_seconds: float = 300.0,
        retry: RetryPolicy | None = None,
        requests_per_second: float | None = None,
        pacer: Pacer | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Nothing is sent yet. `pacer` is one that other sources share, in place of a rate."""
        self.source = source or Source(urlsplit(root).hostname or root, root)
        self.timeout_seconds = timeout_seconds
        self._deadline_seconds = deadline_seconds
        self._retry = retry or RetryPolicy()
        self._pacer = pacer or (Pacer(requests_per_second) if requests_per_second else None)
        self._progress = progress
        self._idle: list[StrictSession] = []

    def get(
        self,
        route: str,
        params: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        bounds: Bounds = OTHER_BOUNDS,
    ) -> bytes:
        """The body of the answer to a GET of `route`: a path or an address below `root`, or `root`.

        Raises TransientAPIError after all attempts, APIError if the source refuses.
        """
        return self._read(lambda answer: answer.body, route, bounds, params=params, headers=headers)

    def load(
        self,
        parse: Callable[[bytes], Batch],
        route: str = "",
        params: Mapping[str, Any] | None = None,
        *,
        bounds: Bounds = LIST_BOUNDS,
    ) -> Payload:
        """The answer as a feed's payload, asked for again where `parse` tells it was cut short."""

        def read(answer: Answer) -> Payload:
            return Payload(answer.body, answer.packed, parse(answer.body))

        return self._read(read, route, bounds, params=params)

    def locate(self, route: str) -> str:
        """The address of a route, which is never outside `root`, whatever the route is."""
        url, root = route or self.source.root, self.source.root.rstrip("/")
        if url == self.source.root or url.startswith((f"{root}/", f"{root}?")):
            return url
        return f"{root}/{url.lstrip('/')}"

    def _read(self, read: Callable[[Answer], T], route: str, bounds: Bounds, **request: Any) -> T:
        url = self.locate(route)

        def work(session: StrictSession) -> T:
            answer = session.ask("GET", url, bounds=bounds, timeout=self.timeout_seconds, **request)
            if answer.status != 200:
                raise APIError(f"{self.source.name} answered {answer.outcome}.")
            return read(answer)

        return self.call(work, f"GET {urlsplit(url).path}")

    def call(
        self, work: Callable[[StrictSession], T], operation: str, retry: RetryPolicy | None = None
    ) -> T:
        """Do `work`, which sends one request, with a session that nobody else uses meanwhile.

        After a fault that may pass it is done again, on a new connection: the old one may be about
        to be closed. Raises StockIngestionError in place of the HTTP client's errors.
        """

        def attempt() -> T:
            if self._pacer is not None:
                self._pacer.wait()
            try:
                session = self._idle.pop()
            except IndexError:
                session = StrictSession(self.source, self._progress)
            seconds = self._deadline_seconds
            try:
                result = call_interruptibly(lambda: work(session), deadline_seconds=seconds)
            except BaseException as exc:
                session.abandon()
                if isinstance(exc, TooManyRequestsError) and self._pacer is not None:
                    self._pacer.slow_down(exc.retry_after_seconds)
                if isinstance(exc, StockIngestionError) or not isinstance(exc, Exception):
                    raise
                raise self._translate(exc) from exc
            self._idle.append(session)
            return result

        return (retry or self._retry).run(attempt, operation=operation)

    def _translate(self, error: Exception) -> StockIngestionError:
        """The project's error for what the HTTP client raised; never with a foreign page's text."""
        name, root, seconds = self.source.name, self.source.root, self._deadline_seconds
        if isinstance(error, DeadlineExceededError):
            return TransientAPIError(f"{name}'s answer did not end within {seconds:g} seconds.")
        if isinstance(error, requests.exceptions.SSLError):
            return APIError(f"No trusted connection to {root}: {_reason(error)}")
        if isinstance(error, (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)):
            return TransientAPIError(f"{name} at {root} did not answer in time.")
        if isinstance(error, OSError):  # requests.RequestException is one
            return TransientAPIError(f"No connection to {name} at {root}: {_reason(error)}")
        if isinstance(error, urllib3.exceptions.HTTPError):
            return TransientAPIError(f"{name}'s answer was cut short or damaged: {_reason(error)}")
        return APIError(f"{name}'s answer cannot be used: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """The innermost reason in a chain of wrapped network errors: 'Connection refused'."""
    inner: Any = error
    while isinstance(inner, BaseException):
        error = inner
        inner = getattr(error, "reason", None) or (error.args[-1] if error.args else None)
        if not isinstance(inner, BaseException) and isinstance(error.__cause__, OSError):
            inner = error.__cause__  # a NewConnectionError has only a text of it
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was closed too early"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {str(error)[:200]}"
