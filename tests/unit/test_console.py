"""The live bars, on a clock of their own."""

from __future__ import annotations

import contextlib
import io
import re
from functools import partial

import pytest
from rich.console import Console

from shared import console
from shared.console import make_display
from tests.clock import Clock
from tests.command_line import ESCAPE


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("succeeded", "count"), [(True, "1 of 1 rows"), (False, "failed")])
def test_time_of_a_step_goes_on_after_its_last_row(
    monkeypatch: pytest.MonkeyPatch, succeeded: bool, count: str
) -> None:
    clock, terminal = Clock(), Terminal()
    at_terminal = partial(
        Console, file=terminal, force_terminal=True, width=80, get_time=clock.monotonic
    )
    monkeypatch.setattr(console, "Console", at_terminal)
    monkeypatch.setenv("TERM", "xterm-256color")

    def shown() -> tuple[str, str]:
        return re.findall(
            r"store +[━╸╺]+ *([^\r]*?) +(\d+\.\d\d) s", ESCAPE.sub("", terminal.getvalue())
        )[-1]

    with contextlib.redirect_stdout(terminal), make_display() as display:
        display.started("store")
        clock.now += 1
        display.advanced(1, 1, "rows")
        clock.now += 7
        display._progress.refresh()  # type: ignore[attr-defined]
        assert shown() == ("1 of 1 rows", "8.00")
        display.finished("store", 9.5, succeeded)
    assert shown() == (count, "9.50")
