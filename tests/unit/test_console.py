"""What is shown at a terminal, on a clock of its own; and where there is less of one."""

from __future__ import annotations

import contextlib
import io
import locale
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from shared import console
from shared.console import make_display, say, say_table, write_csv
from tests.clock import Clock
from tests.command_line import ESCAPE
from tests.conftest import PROJECT

GREEN, RED = "\x1b[32m", "\x1b[31m"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Callable[[int], Terminal]]:
    """Makes standard output a terminal of so many columns."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(locale, "getencoding", lambda: "UTF-8")

    def make(columns: int) -> Terminal:
        terminal = Terminal()
        options = {"file": terminal, "force_terminal": True, "get_time": clock.monotonic}
        for name in ("Console", "_AsciiConsole"):
            at_terminal = partial(getattr(console, name), width=columns, **options)
            monkeypatch.setattr(console, name, at_terminal)
        monkeypatch.setenv("COLUMNS", str(columns))
        stack.enter_context(contextlib.redirect_stdout(terminal))
        return terminal

    with contextlib.ExitStack() as stack:
        yield make


@pytest.mark.parametrize(
    ("succeeded", "bar", "count"),
    [
        pytest.param(True, "━" * 14, "1 of 1 rows", id="done"),
        pytest.param(False, " " * 14, "failed", id="failed"),
    ],
)
def test_step_is_done_only_when_it_has_ended(
    terminal: Callable[[int], Terminal], clock: Clock, succeeded: bool, bar: str, count: str
) -> None:
    """Not when its last row is sent. Green is what is done, red what has failed."""
    out = terminal(80)

    def shown() -> tuple[str, ...]:
        step = r"store {14}(.{14}) ([^\r]*?) +(\d+\.\d\d) s"
        found: list[tuple[str, ...]] = re.findall(step, ESCAPE.sub("", out.getvalue()))
        return found[-1]

    with make_display() as display:
        display.started("store")
        clock.now += 1
        display.advanced(1, 1, "rows", "")
        clock.now += 7
        display._progress.refresh()  # type: ignore[attr-defined]
        assert shown()[1:] == ("1 of 1 rows", "8.00")
        assert not any(colour in out.getvalue() for colour in (GREEN, RED))
        display.finished("store", 9.5, succeeded)
    assert shown() == (bar, count, "9.50")
    assert (GREEN in out.getvalue(), RED in out.getvalue()) == (succeeded, not succeeded)


def test_steps_at_a_narrow_terminal_leave_out_the_bar(
    terminal: Callable[[int], Terminal],
) -> None:
    out = terminal(60)
    with make_display() as display:
        display.started("fetch instruments")
        display.advanced(1_660_608, 1_660_608, "bytes", "")
        display.finished("fetch instruments", 1, True)
    line = ESCAPE.sub("", out.getvalue()).replace("\r", "\n").split("\n")[-2]
    assert line.rstrip() == "  fetch instruments  1,660,608 of 1,660,608 bytes   1.00 s"
    assert len(line) <= 60


@pytest.mark.parametrize(
    ("columns", "count"),
    [
        pytest.param(100, "540 of 2,700 requests, 3.0 requests/s, 12 min left", id="room for all"),
        pytest.param(80, "540 of 2,700 requests, 12 min left", id="room for a part"),
        pytest.param(76, "540 of 2,700 requests", id="no room"),
        pytest.param(60, "540 of 2,700 requests", id="no room, no bar"),
    ],
)
def test_note_of_a_step_is_shown_where_there_is_room(
    terminal: Callable[[int], Terminal], clock: Clock, columns: int, count: str
) -> None:
    out = terminal(columns)
    with make_display() as display:
        display.started("load candles")
        display.advanced(540, 2700, "requests", "3.0 requests/s, 12 min left")
        clock.now += 3700
        display._progress.refresh()  # type: ignore[attr-defined]
        line = ESCAPE.sub("", out.getvalue()).replace("\r", "\n").split("\n")[-1]
        assert line.endswith(f" {count} 3700.00 s")
        assert len(line) <= columns
        display.finished("load candles", 3700, True)
    assert ESCAPE.sub("", out.getvalue()).rstrip().endswith(" 540 of 2,700 requests 3700.00 s")


def test_lines_of_a_step_that_takes_long(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first after five seconds, then one a minute."""
    monkeypatch.setattr(console, "time", clock)
    with make_display() as display:
        display.started("load candles")
        for second in range(130):
            clock.now += 1
            display.advanced(3 * second, 2700, "requests", "14 min left" if second > 60 else "")
        display.started("store")
        clock.now += 4
        display.advanced(1, None, "rows", "")
    assert capsys.readouterr().out == (
        "  load candles: 12 of 2,700 requests\n"
        "  load candles: 192 of 2,700 requests, 14 min left\n"
        "  load candles: 372 of 2,700 requests, 14 min left\n"
    )


def test_terminal_of_the_c_locale_gets_ascii(
    terminal: Callable[[int], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = terminal(60)
    monkeypatch.setattr(locale, "getencoding", lambda: "ANSI_X3.4-1968")
    with make_display() as display:
        display.started("store")
        display.advanced(1, 2, "rows", "")
        display.finished("store", 1, True)
    say_table(("id", "name"), [("1", "a_name_that_is_much_longer_than_the_terminal_is_wide" * 2)])
    assert out.getvalue().isascii()


@pytest.mark.parametrize("term", ["dumb", ""])
def test_terminal_that_can_do_nothing_gets_lines(
    terminal: Callable[[int], Terminal], monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    out = terminal(80)
    monkeypatch.setenv("TERM", term)
    with make_display() as display:
        display.started("store")
        display.finished("store", 1, True)
    assert out.getvalue() == "  store: done in 1.00 s\n"


def test_lines_at_a_terminal_end_between_words(terminal: Callable[[int], Terminal]) -> None:
    """What stands in quotes may be a command, and stays whole."""
    text = "  it's stale: run 'python execute_dags.py login' now"
    out = terminal(40)
    say(text)
    assert out.getvalue() == ("  it's stale: run\n    'python execute_dags.py login' now\n")
    with contextlib.redirect_stdout(io.StringIO()) as file:
        say(text)
    assert file.getvalue() == f"{text}\n"


def test_what_was_held_back_and_finds_a_full_disk_is_dropped() -> None:
    code = (
        "from shared.console import hold_back, say\n"
        "with hold_back(is_held=True) as show:\n"
        "    say('x' * 9000)\n"
        "show()\n"
        "import sys; sys.stderr.write('went on')\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=PROJECT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (0, "went on")


def test_csv_is_exact_and_quoted_where_it_must_be(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(("a", "b"), [(1, None), ('x,"y"', "line\nbreak\x1b")])
    assert capsys.readouterr().out == 'a,b\n1,\n"x,""y""","line\nbreak\x1b"\n'
