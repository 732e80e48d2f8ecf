"""Backoff: what is tried again, after which delays, and what is not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from shared.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DatabaseError,
    TransientAPIError,
    TransientDatabaseError,
    TransientError,
    ValidationError,
)
from shared.utils.retry import (
    MAX_DELAY_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    RetryPolicy,
    retry_with_backoff,
)


class Attempts:
    """A function that raises the given errors, one at each call, and then returns "done"."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        if self.count <= len(self.errors):
            raise self.errors[self.count - 1]
        return "done"


def run(attempts: Callable[[], Any], *args: Any, **options: Any) -> tuple[Any, list[float]]:
    """The result, and the delays; the error, if one comes out, in place of the result."""
    delays: list[float] = []
    try:
        return retry_with_backoff(attempts, *args, sleep=delays.append, **options), delays
    except Exception as exc:
        return exc, delays


def test_success_at_once_neither_waits_nor_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    attempts = Attempts()
    assert run(attempts) == ("done", [])
    assert attempts.count == 1
    assert caplog.messages == []


@pytest.mark.parametrize("error_type", [TransientError, TransientAPIError, TransientDatabaseError])
def test_transient_error_is_tried_again(error_type: type[TransientError]) -> None:
    assert run(Attempts(error_type("down"))) == ("done", [1.0])


@pytest.mark.parametrize(
    ("args", "delays"),
    [
        pytest.param((), [1.0, 2.0], id="designs-default"),
        pytest.param((5, 0.5), [0.5, 1.0, 2.0, 4.0], id="five-attempts"),
        pytest.param((4, 0), [0.0, 0.0, 0.0], id="no-delay"),
        pytest.param((4, 1000.0), [1000.0, 2000.0, MAX_DELAY_SECONDS], id="longest-delay"),
        pytest.param((1, 1.0), [], id="one-attempt"),
    ],
)
def test_delays_double_until_attempts_are_used_up_and_the_last_error_comes_out(
    args: tuple[Any, ...], delays: list[float]
) -> None:
    errors = [TransientError(f"attempt {number}") for number in range(1, 10)]
    attempts = Attempts(*errors)

    raised, slept = run(attempts, *args)

    assert slept == delays
    assert attempts.count == len(delays) + 1
    assert raised is errors[len(delays)]


def test_first_success_ends_the_attempts() -> None:
    attempts = Attempts(TransientError("1"), TransientError("2"))
    assert run(attempts, 10) == ("done", [1.0, 2.0])
    assert attempts.count == 3


@pytest.mark.parametrize(
    "error",
    [
        APIError("refused"),
        AuthenticationError("dead"),
        DatabaseError("constraint"),
        ConfigurationError("missing"),
        ValidationError("bad"),
        ValueError("unknown"),
        ConnectionError("not translated"),
        TimeoutError("not translated"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_transient_comes_out_at_once(error: Exception) -> None:
    attempts = Attempts(error, error)
    assert run(attempts, 5) == (error, [])
    assert attempts.count == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_signal_comes_out_at_once(error: BaseException) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)):
        run(attempts)
    assert attempts.count == 1


def test_error_that_is_not_transient_after_one_that_is_comes_out() -> None:
    error = APIError("refused")
    assert run(Attempts(TransientError("down"), error), 5) == (error, [1.0])


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [(None, 1.0), (0.0, 1.0), (0.5, 1.0), (30.0, 30.0), (MAX_RETRY_AFTER_SECONDS, 300.0)],
    ids=str,
)
def test_longer_wait_that_the_server_asks_for_is_honoured(
    retry_after: float | None, delay: float
) -> None:
    error = TransientAPIError("busy", retry_after_seconds=retry_after)
    assert run(Attempts(error)) == ("done", [delay])


def test_wait_that_the_server_asks_for_counts_for_its_own_attempt_alone() -> None:
    attempts = Attempts(TransientError("1", retry_after_seconds=30.0), TransientError("2"))
    assert run(attempts) == ("done", [30.0, 2.0])


def test_server_that_asks_for_too_long_a_wait_is_not_waited_for() -> None:
    error = TransientError("closed", retry_after_seconds=MAX_RETRY_AFTER_SECONDS + 1)
    attempts = Attempts(error)
    assert run(attempts, 5) == (error, [])
    assert attempts.count == 1


def test_retry_is_one_line_with_operation_attempt_wait_and_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(Attempts(TransientError("HTTP 503"), TransientError("reset")), 3, 0.5, operation="fetch")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "fetch: attempt 1 of 3 failed, next in 0.5 s: HTTP 503"),
        ("WARNING", "fetch: attempt 2 of 3 failed, next in 1 s: reset"),
    ]


def test_operation_is_called_by_the_functions_name_if_it_has_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = [TransientError("down")]

    def get_profile() -> None:
        if errors:
            raise errors.pop()

    run(get_profile)
    assert caplog.messages == ["get_profile: attempt 1 of 3 failed, next in 1 s: down"]


def test_operation_of_a_function_without_a_name(caplog: pytest.LogCaptureFixture) -> None:
    run(Attempts(TransientError("down")))
    assert caplog.messages == ["operation: attempt 1 of 3 failed, next in 1 s: down"]


def test_last_attempt_announces_no_further_one(caplog: pytest.LogCaptureFixture) -> None:
    run(Attempts(TransientError("1"), TransientError("2")), 2)
    assert len(caplog.messages) == 1


def test_policy_tries_with_its_own_values(caplog: pytest.LogCaptureFixture) -> None:
    delays: list[float] = []
    policy = RetryPolicy(4, 0.25, sleep=delays.append)
    assert policy.run(Attempts(*[TransientError("x")] * 3), operation="fetch") == "done"
    assert delays == [0.25, 0.5, 1.0]
    assert caplog.messages[-1] == "fetch: attempt 3 of 4 failed, next in 1 s: x"


def test_real_sleep_waits_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    monkeypatch.setattr(time, "sleep", delays.append)
    assert retry_with_backoff(Attempts(TransientError("x")), 3, 7.0) == "done"
    assert RetryPolicy(2, 3.0).run(Attempts(TransientError("x")), operation="any") == "done"
    assert sum(delays) == pytest.approx(7.0 + 3.0)


def test_functions_of_the_design_take_its_positional_arguments() -> None:
    assert retry_with_backoff(Attempts(), 3, 1.0) == "done"
    assert retry_with_backoff(Attempts(), max_attempts=3, base_delay=1.0) == "done"
