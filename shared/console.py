"""Progress on standard output: a live bar at a terminal, plain lines elsewhere (ruling 11)."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from shared.config.logging_config import as_message, redact
from shared.exceptions import StockIngestionError
from shared.foreign_text import escape_line

_QUIET_SECONDS = 5.0  # a step that takes longer than this tells how far it is

_UNWRAPPED_COLUMNS = 1000


def say(text: str = "") -> None:
    """Write a message to standard output; its lines after the first are indented.

    Secrets are masked, and what is not seen is shown escaped. Text of others may stand anywhere in
    it but at its beginning (ruling 35).
    """
    _write(as_message(text))


def say_lines(text: str) -> None:
    """Write a text of several lines, each of which begins with words of this project's own."""
    _write("\n".join(map(as_message, text.split("\n"))))


def write_data(text: str) -> None:
    """Write data for programs to standard output, exactly as they are (ruling 35).

    Raises StockIngestionError if they cannot be written whole, other than to a pipe that nobody
    reads any more.
    """
    try:
        _write_whole(text + "\n")
    except BrokenPipeError:
        _drop_output()
    except OSError as exc:
        _drop_output()
        raise StockIngestionError(
            f"Standard output cannot take all of it: {exc.strerror or exc}."
        ) from exc


def _write(text: str) -> None:
    """If standard output cannot be written any more (`| head -1`), the run goes on in silence."""
    try:
        _write_whole(text + "\n")
    except OSError:  # also a full disk
        _drop_output()


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


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def make_display() -> PlainDisplay | LiveDisplay:
    """The display that suits standard output."""
    return LiveDisplay() if sys.stdout.isatty() else PlainDisplay()


class PlainDisplay:
    """A line for each finished step, and now and then one for a step that takes long."""

    def __init__(self) -> None:
        self._name = ""
        self._last_line = 0.0

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def started(self, name: str) -> None:
        """A step began."""
        self._name, self._last_line = name, time.monotonic()

    def advanced(self, done: int, total: int | None, unit: str) -> None:
        """The step has come to `done` of `total`."""
        if time.monotonic() - self._last_line >= _QUIET_SECONDS:
            self._last_line = time.monotonic()
            say(f"  {self._name}: {_progress(done, total, unit)}")

    def finished(self, name: str, seconds: float, succeeded: bool) -> None:
        """The step ended."""
        say(f"  {name}: {'done' if succeeded else 'failed'} in {seconds:.2f} s")


class _SecondsColumn(ProgressColumn):
    """The seconds that a step has taken."""

    def render(self, task: Task) -> Text:
        """Called by rich at each redraw; its own time of a task stops when all rows are sent."""
        seconds = task.fields["seconds"]
        if seconds is None:
            seconds = task.elapsed or 0.0
        return Text(f"{seconds:6.2f} s")


class LiveDisplay:
    """A bar for each step, redrawn in place."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("  {task.description:<20}", markup=False),
            BarColumn(bar_width=14),  # with room for the ^C that a terminal echoes
            TextColumn("{task.fields[count]}"),
            _SecondsColumn(),
            console=Console(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def started(self, name: str) -> None:
        """A step began."""
        shown = escape_line(redact(name))
        self._task = self._progress.add_task(shown, total=None, count="", seconds=None)

    def advanced(self, done: int, total: int | None, unit: str) -> None:
        """The step has come to `done` of `total`."""
        if self._task is not None:
            count = _progress(done, total, unit)
            self._progress.update(self._task, completed=done, total=total, count=count)

    def finished(self, name: str, seconds: float, succeeded: bool) -> None:
        """The step ended."""
        if self._task is None:
            return
        if succeeded:
            self._progress.update(self._task, total=1, completed=1, seconds=seconds)
        else:
            self._progress.update(self._task, total=1, completed=0, count="failed", seconds=seconds)
        self._progress.stop_task(self._task)
        self._task = None


def _progress(done: int, total: int | None, unit: str) -> str:
    return f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"
