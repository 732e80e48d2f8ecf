"""Backoff policy: what may pass by itself is tried again, after growing delays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from shared.exceptions import TransientError
from shared.utils.interruptible import sleep_interruptibly

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A source that asks for a longer wait is not waited for: the next scheduled run is the retry.
MAX_RETRY_AFTER_SECONDS = 300.0

# Doubling stops here: a job that waits longer cannot be told from one that hangs.
MAX_DELAY_SECONDS = 3600.0


@dataclass(frozen=True)
class RetryPolicy:
    """How often to try (the first attempt counts), and the first delay; each next is doubled.

    `sleep` takes seconds; a test gives one that returns at once.
    """

    max_attempts: int = 3
    base_delay_seconds: float = 1.0
    sleep: Callable[[float], None] = sleep_interruptibly

    def run(self, func: Callable[[], T], *, operation: str | None = None) -> T:
        """`retry_with_backoff` with this policy's values."""
        name = operation or getattr(func, "__name__", "operation")

        def wait(state: tenacity.RetryCallState) -> float:
            backoff = float(self.base_delay_seconds * 2 ** (state.attempt_number - 1))
            return min(max(backoff, _requested_wait(state)), MAX_DELAY_SECONDS)

        def stop(state: tenacity.RetryCallState) -> bool:
            is_too_long = _requested_wait(state) > MAX_RETRY_AFTER_SECONDS
            return is_too_long or state.attempt_number >= self.max_attempts

        def log_retry(state: tenacity.RetryCallState) -> None:
            logger.warning(
                "%s: attempt %d of %d failed, next in %g s: %s",
                name,
                state.attempt_number,
                self.max_attempts,
                state.upcoming_sleep,
                _error(state),
            )

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=wait,
            stop=stop,
            sleep=self.sleep,
            before_sleep=log_retry,
            reraise=True,
        )
        return retrying(func)


ONCE = RetryPolicy(max_attempts=1)


def retry_with_backoff(
    func: Callable[[], T],
    max_attempts: int = 3,
    base_delay: float = 1.0,
    *,
    operation: str | None = None,
    sleep: Callable[[float], None] = sleep_interruptibly,
) -> T:
    """Call `func` until it succeeds, at most `max_attempts` times, and return its result.

    Only TransientError is retried (ruling 22). The n-th delay is `base_delay` * 2**(n-1) seconds,
    or what the source asked for if that is longer, and at most MAX_DELAY_SECONDS; more than
    MAX_RETRY_AFTER_SECONDS ends the attempts. The last error is raised as it came.
    """
    return RetryPolicy(max_attempts, base_delay, sleep).run(func, operation=operation)


def _error(state: tenacity.RetryCallState) -> TransientError:
    error = state.outcome and state.outcome.exception()
    assert isinstance(error, TransientError)  # tenacity asks after no other
    return error


def _requested_wait(state: tenacity.RetryCallState) -> float:
    return _error(state).retry_after_seconds or 0.0
