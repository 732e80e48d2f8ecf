"""How far a run is: the rate of the last minute, and how long the rest takes."""

from __future__ import annotations

import pytest

from dag_2_import_candles_from_kite import progress as module
from dag_2_import_candles_from_kite.progress import Progress
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str]]:
    """What is shown: series that are done, of how many, and the note."""
    notes: list[tuple[int, int, str]] = []

    def show(done: int, total: int, unit: str, *, note: str) -> None:
        assert unit == "series"
        notes.append((done, total, note))

    monkeypatch.setattr(module, "advance", show)
    return notes


def ask(progress: Progress, clock: Clock, times: int, *, seconds: float) -> None:
    for _ in range(times):
        clock.now += seconds
        progress.asked()
        progress.finished(is_over=True)


def test_rate_and_rest(clock: Clock, shown: list[tuple[int, int, str]]) -> None:
    progress = Progress(2000, 2000, clock=clock.monotonic)
    ask(progress, clock, 30, seconds=0.5)
    assert shown[-1] == (30, 2000, "2.0 requests/s, 16 min left")
    assert progress.describe() == "asked: 30 requests, 2.0 a second"


@pytest.mark.parametrize(
    ("requests", "rest"),
    [(31, "0 s"), (91, "60 s"), (120, "89 s"), (122, "2 min"), (1000, "16 min"), (9000, "2.5 h")],
)
def test_rest_in_words(
    clock: Clock, shown: list[tuple[int, int, str]], requests: int, rest: str
) -> None:
    progress = Progress(requests, requests, clock=clock.monotonic)
    ask(progress, clock, 31, seconds=1)
    assert shown[-1][2] == f"1.0 requests/s, {rest} left"


def test_rate_is_that_of_the_last_minute(clock: Clock, shown: list[tuple[int, int, str]]) -> None:
    progress = Progress(1000, 1000, clock=clock.monotonic)
    ask(progress, clock, 300, seconds=0.2)
    clock.now += 3600  # Kite was away
    ask(progress, clock, 60, seconds=1)
    assert shown[-1][2].startswith("1.0 requests/s")
    assert progress.describe() == "asked: 360 requests, 0.1 a second"


def test_request_more_than_was_planned(clock: Clock, shown: list[tuple[int, int, str]]) -> None:
    progress = Progress(1, 1, clock=clock.monotonic)
    for _ in range(3):  # empty, asked once more, and off
        clock.now += 1
        progress.asked()
        progress.finished(is_over=False)
    assert shown == [(0, 1, "1.0 requests/s, 1 s left")] * 3
    ask(progress, clock, 1, seconds=1)
    assert shown[-1] == (1, 1, "1.0 requests/s, 0 s left")


def test_no_time_has_passed(clock: Clock, shown: list[tuple[int, int, str]]) -> None:
    progress = Progress(1, 1, clock=clock.monotonic)
    assert progress.describe() == "asked: 0 requests, 0.0 a second"
    progress.finished(is_over=False)
    assert shown == [(0, 1, "")]
