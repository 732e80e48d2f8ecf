"""Operations: their log lines, durations, display, and errors that are logged once."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import pytest

from shared.exceptions import APIError
from shared.utils import operation as operation_module
from shared.utils.interruptible import call_interruptibly
from shared.utils.operation import advance, log_error_once, operation, show_on
from tests.clock import Clock


class Recorder:
    """A display that notes what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def started(self, name: str) -> None:
        self.events.append(("started", name))

    def advanced(self, done: int, total: int | None, unit: str, note: str) -> None:
        self.events.append(("advanced", done, total, unit, note))

    def finished(self, name: str, seconds: float, succeeded: bool) -> None:
        assert seconds >= 0
        self.events.append(("finished", name, succeeded))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(operation_module, "time", made)
    return made


def test_operation_that_succeeds(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    caplog.set_level(logging.INFO)
    durations = {"before": 1.0}

    with operation("store", durations):
        clock.now += 2.5

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "store: started"),
        ("INFO", "store: succeeded in 2.500 s"),
    ]
    assert durations == {"before": 1.0, "store": 2.5}


def test_operation_that_fails(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    caplog.set_level(logging.INFO)
    durations: dict[str, float] = {}
    error = ValueError("why")

    def fail_after_a_while() -> None:
        clock.now += 0.25
        raise error

    with pytest.raises(ValueError) as caught, operation("store", durations):
        fail_after_a_while()

    assert caught.value is error
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "store: started"),
        ("ERROR", "store failed: ValueError: why"),
        ("INFO", "store: failed in 0.250 s"),
    ]
    exc_info = caplog.records[1].exc_info
    assert exc_info is not None
    assert exc_info[1] is error
    assert durations == {"store": 0.25}


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_operation_that_a_signal_ends_has_failed_but_is_no_error(
    signal: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(signal), operation("store"):
        raise signal
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert caplog.messages[1].startswith("store: failed in ")


def test_error_that_passes_several_operations_is_logged_by_the_innermost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ValueError), operation("outer"), operation("inner"):
        raise ValueError("why")
    assert caplog.messages == ["inner failed: ValueError: why"]


def test_error_raised_from_one_that_was_logged_is_not_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def translate() -> None:
        try:
            with operation("inner"):
                raise ValueError("why")
        except ValueError as exc:
            raise RuntimeError("translated") from exc

    with pytest.raises(RuntimeError), operation("outer"):
        translate()
    assert caplog.messages == ["inner failed: ValueError: why"]


def test_new_error_after_one_that_was_dealt_with_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def go_on_and_fail() -> None:
        with contextlib.suppress(ValueError), operation("inner"):
            raise ValueError("first")
        raise RuntimeError("second")

    with pytest.raises(RuntimeError), operation("outer"):
        go_on_and_fail()
    assert caplog.messages == [
        "inner failed: ValueError: first",
        "outer failed: RuntimeError: second",
    ]


def test_error_that_takes_no_attributes_is_logged_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Slotted(Exception):  # noqa: N818
        def __setattr__(self, name: str, value: object) -> None:
            if not name.startswith("__"):
                raise AttributeError(name)
            super().__setattr__(name, value)

    with pytest.raises(Slotted), operation("store"):
        raise Slotted("why")
    assert "store failed: Slotted: why" in caplog.messages


def test_error_of_the_projects_own_is_told_in_its_own_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(APIError), operation("fetch"):
        raise APIError("Kite refused the request.")
    assert caplog.messages == ["fetch failed: Kite refused the request."]


def test_log_error_once(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("why")
    log_error_once("first", error)
    log_error_once("second", error)
    assert caplog.messages == ["first: ValueError: why"]


def test_display_is_told_of_every_step() -> None:
    display = Recorder()
    with show_on(display):
        with operation("fetch"):
            advance(5, 10, "bytes", "1 min left")
            call_interruptibly(lambda: advance(7))
        with pytest.raises(ValueError), operation("store"):
            raise ValueError
    assert display.events == [
        ("started", "fetch"),
        ("advanced", 5, 10, "bytes", "1 min left"),
        ("advanced", 7, None, "rows", ""),
        ("finished", "fetch", True),
        ("started", "store"),
        ("finished", "store", False),
    ]


def test_without_a_display_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    display = Recorder()
    with show_on(display):
        pass
    with operation("fetch"):
        advance(5)
    assert display.events == []
    assert capsys.readouterr().out == ""
