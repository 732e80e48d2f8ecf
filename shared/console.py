"""Progress on standard output: a live bar at a terminal, plain lines elsewhere (ruling 11)."""

import csv
import io
import json
import locale
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shared.calendar import IST
from shared.config.logging_config import as_message, is_smart_terminal, redact
from shared.exceptions import StockIngestionError
from shared.foreign_text import escape_line
from shared.utils.operation import Display

_QUIET_SECONDS = 5.0  # a step that takes longer than this tells how far it is
_REPEAT_SECONDS = 60.0  # and then once more, each time that so many have gone by
_UNWRAPPED_COLUMNS = 1000
_QUOTED = re.compile(r"(?<!\w)'[^']*'(?!\w)")
# Of a step's line: its bar, which goes where there is no room for it, and the whole, with the ^C
# that a terminal echoes.
_BAR_COLUMNS = 14
_STEP_COLUMNS = 75
_NAME_COLUMNS = 18
_SECONDS_COLUMNS = 8


def say(text: str = "") -> None:
    """Write a message to standard output, redacted, escaped, and indented after its first line."""
    _write(_fold(as_message(text)))


def say_lines(text: str) -> None:
    """Write lines, each of which begins with words of this project's own."""
    _write(_fold("\n".join(map(as_message, text.split("\n")))))


def write_data(text: str) -> None:
    """Write data for programs to standard output, exactly as they are (ruling 35).

    Raises StockIngestionError if they cannot be written whole, other than to a closed pipe.
    """
    error = _write(text)
    if error and not isinstance(error, BrokenPipeError):
        reason = error.strerror or error
        raise StockIngestionError(f"Standard output cannot take all of it: {reason}.") from error


def write_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document, as write_data does. Moments are ISO 8601, in Indian time.

    One without a time zone stays as it is. What else JSON has no type for is text.
    """
    write_data(json.dumps(document, indent=1, default=_as_text))


def write_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows as CSV under their header, as write_data does. None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_data(text.getvalue().removesuffix("\n"))


def _as_text(value: object) -> str:
    if not isinstance(value, datetime):
        return str(value)
    return (value.astimezone(IST) if value.tzinfo else value).isoformat()


def _fold(text: str) -> str:
    """At a terminal no line is longer than it is wide, where words allow it."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(_fold_line(line, width) for line in text.split("\n"))


def _fold_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    # What stands in quotes may be a command, which is copied whole.
    text = _QUOTED.sub(lambda match: match[0].replace(" ", "\0"), line)
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    folded = textwrap.fill(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return folded.replace("\0", " ")


def _write(text: str) -> OSError | None:
    """Write lines. After an error (a full disk, `| head -1`) the run goes on in silence."""
    try:
        _write_whole(text + "\n")
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exc
    return None


def _write_whole(text: str) -> None:
    """Unbuffered (PYTHONUNBUFFERED), Python itself takes a short write for the whole."""
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        left = memoryview(text.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))
        while left:
            left = left[buffer.write(left) :]
    sys.stdout.flush()


def say_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table to standard output: within the terminal's width, or unwrapped elsewhere."""
    table = Table(box=box.SIMPLE_HEAD if _can_draw() else box.ASCII2, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(escape_line(redact(cell))) for cell in row))
    text = io.StringIO()
    Console(file=text, width=console_width()).print(table)
    say_lines("\n".join(line.rstrip() for line in text.getvalue().split("\n")).strip("\n"))


def console_width() -> int:
    """How many columns a line of a table may have."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNWRAPPED_COLUMNS


def _can_draw() -> bool:
    """Whether standard output takes lines to draw with: Python says UTF-8 of the C locale, too."""
    encodings = (sys.stdout.encoding or "", locale.getencoding())
    return all("utf" in encoding.lower() for encoding in encodings)


class _AsciiConsole(Console):
    encoding = "ascii"  # rich then draws with hyphens


@contextmanager
def hold_back(*, is_held: bool) -> Iterator[Callable[[], None]]:
    """What the body writes to the console is written when the yielded function is called."""
    output, errors = io.StringIO(), io.StringIO()

    def show() -> None:
        with suppress(OSError):  # nobody listens any more
            sys.stderr.write(errors.getvalue())
        if text := output.getvalue():
            _write(text.removesuffix("\n"))

    if not is_held:
        yield lambda: None
        return
    with redirect_stdout(output), redirect_stderr(errors):
        yield show


@contextmanager
def make_display(*, is_brief: bool = False) -> Iterator[Display]:
    """The display that suits standard output: live bars at a terminal that can, else lines.

    With `is_brief` the bars go at the end, and lines are for steps that take long alone.
    """
    if not is_smart_terminal(sys.stdout):
        yield _PlainDisplay(is_brief)
        return
    console = Console() if _can_draw() else _AsciiConsole()
    bar = [_BarColumn()] if console.width >= _STEP_COLUMNS else []
    others = [2 + _NAME_COLUMNS, _SECONDS_COLUMNS, *(_BAR_COLUMNS for _ in bar)]
    progress = Progress(
        TextColumn(f"  {{task.description:<{_NAME_COLUMNS}}}", markup=False),
        *bar,
        _CountColumn(room=console.width - sum(others) - len(others)),
        _SecondsColumn(),
        console=console,
        redirect_stderr=sys.stderr.isatty(),
        transient=is_brief,
    )
    with progress:
        yield _LiveDisplay(progress)


class _PlainDisplay(Display):
    """A line for each finished step, and now and then one for a step that takes long."""

    def __init__(self, is_brief: bool) -> None:
        self._is_brief = is_brief
        self._name = ""
        self._next_line = 0.0

    def started(self, name: str) -> None:
        self._name, self._next_line = name, time.monotonic() + _QUIET_SECONDS

    def advanced(self, done: int, total: int | None, unit: str, note: str) -> None:
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + _REPEAT_SECONDS
            say(f"  {self._name}: {_progress(done, total, unit)}{note and f', {note}'}")

    def finished(self, name: str, seconds: float, succeeded: bool) -> None:
        if not self._is_brief:
            say(f"  {name}: {'done' if succeeded else 'failed'} in {seconds:.2f} s")


class _LiveDisplay(Display):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: list[TaskID] = []  # the innermost one last

    def started(self, name: str) -> None:
        task = self._progress.add_task(
            escape_line(redact(name)), total=None, count="", note="", seconds=None, has_failed=False
        )
        self._steps.append(task)

    def advanced(self, done: int, total: int | None, unit: str, note: str) -> None:
        if self._steps:
            count, note = _progress(done, total, unit), escape_line(redact(note))
            step = self._steps[-1]
            self._progress.update(step, completed=done, total=total, count=count, note=note)

    def finished(self, name: str, seconds: float, succeeded: bool) -> None:
        step = self._steps.pop()
        if not succeeded:
            self._progress.update(step, count="failed", has_failed=True)
        self._progress.update(step, total=1, completed=1, seconds=seconds, note="")


class _BarColumn(ProgressColumn):
    """A full bar is a step that is done: where all rows are only sent, it pulses.

    A step that has failed has none. Red, which rich's own bars have, is for failures alone.
    """

    def render(self, task: Task) -> RenderableType:
        if task.fields["has_failed"]:
            return Text(" " * _BAR_COLUMNS)
        is_sent = task.total is not None and task.completed >= task.total
        is_done = task.fields["seconds"] is not None
        return ProgressBar(
            total=None if is_sent and not is_done else task.total,
            completed=task.completed,
            width=_BAR_COLUMNS,
            animation_time=task.get_time(),
            complete_style="cyan",
            finished_style="green",
            pulse_style="cyan",
        )


class _CountColumn(ProgressColumn):
    """How far a step is, or that it has failed; and as much of its note as there is room for."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def render(self, task: Task) -> Text:
        count, has_failed = task.fields["count"], task.fields["has_failed"]
        parts = task.fields["note"].split(", ") if task.fields["note"] else []
        while len(text := ", ".join((count, *parts))) > self._room and parts:
            del parts[0]
        return Text(text, "red" if has_failed else "")


class _SecondsColumn(ProgressColumn):
    """What a step has taken; rich's own column stops when the last row is sent."""

    def render(self, task: Task) -> Text:
        seconds = task.fields["seconds"]
        return Text(f"{task.elapsed if seconds is None else seconds:{_SECONDS_COLUMNS - 2}.2f} s")


def _progress(done: int, total: int | None, unit: str) -> str:
    return f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"
