"""Progress on standard output: a live bar at a terminal, plain lines elsewhere (ruling 11)."""

import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from shared.calendar import IST
from shared.config.logging_config import as_message, redact
from shared.exceptions import StockIngestionError
from shared.foreign_text import escape_line
from shared.utils.operation import Display

_QUIET_SECONDS = 5.0  # a step that takes longer than this tells how far it is
_UNWRAPPED_COLUMNS = 1000


def say(text: str = "") -> None:
    """Write a message to standard output, redacted, escaped, and indented after its first line."""
    _write(as_message(text))


def say_lines(text: str) -> None:
    """Write lines, each of which begins with words of this project's own."""
    _write("\n".join(map(as_message, text.split("\n"))))


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


def _as_text(value: object) -> str:
    if not isinstance(value, datetime):
        return str(value)
    return (value.astimezone(IST) if value.tzinfo else value).isoformat()


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
    can_draw = "utf" in (sys.stdout.encoding or "").lower()
    table = Table(*header, box=box.SIMPLE_HEAD if can_draw else box.ASCII2, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(escape_line(redact(cell))) for cell in row))
    text = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNWRAPPED_COLUMNS
    Console(file=text, width=width).print(table)
    say_lines("\n".join(line.rstrip() for line in text.getvalue().split("\n")).strip("\n"))


@contextmanager
def make_display() -> Iterator[Display]:
    """The display that suits standard output: live bars at a terminal, else lines."""
    if not sys.stdout.isatty():
        yield _PlainDisplay()
        return
    progress = Progress(
        TextColumn("  {task.description:<20}", markup=False),
        BarColumn(bar_width=14),  # with room for the ^C that a terminal echoes
        TextColumn("{task.fields[count]}"),
        _SecondsColumn(),
        console=Console(),
        redirect_stderr=sys.stderr.isatty(),
    )
    with progress:
        yield _LiveDisplay(progress)


class _PlainDisplay(Display):
    """A line for each finished step, and now and then one for a step that takes long."""

    def __init__(self) -> None:
        self._name = ""
        self._last_line = 0.0

    def started(self, name: str) -> None:
        self._name, self._last_line = name, time.monotonic()

    def advanced(self, done: int, total: int | None, unit: str) -> None:
        if time.monotonic() - self._last_line >= _QUIET_SECONDS:
            self._last_line = time.monotonic()
            say(f"  {self._name}: {_progress(done, total, unit)}")

    def finished(self, name: str, seconds: float, succeeded: bool) -> None:
        say(f"  {name}: {'done' if succeeded else 'failed'} in {seconds:.2f} s")


class _LiveDisplay(Display):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: list[TaskID] = []  # the innermost one last

    def started(self, name: str) -> None:
        self._steps.append(self._progress.add_task(escape_line(redact(name)), total=None, count=""))

    def advanced(self, done: int, total: int | None, unit: str) -> None:
        if self._steps:
            count = _progress(done, total, unit)
            self._progress.update(self._steps[-1], completed=done, total=total, count=count)

    def finished(self, name: str, seconds: float, succeeded: bool) -> None:
        step = self._steps.pop()
        if not succeeded:
            self._progress.update(step, count="failed")
        self._progress.update(step, total=1, completed=int(succeeded), seconds=seconds)


class _SecondsColumn(ProgressColumn):
    """What a step has taken; rich's own column stops when the last row is sent."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.fields.get('seconds', task.elapsed):6.2f} s")


def _progress(done: int, total: int | None, unit: str) -> str:
    return f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"
