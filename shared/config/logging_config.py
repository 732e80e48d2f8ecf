"""Where log lines go, how they look, and that no secret is among them (rulings 12 and 35).

Warnings and errors go to standard error, one line each; everything from the configured level on
goes to a rotating file, with stack traces.
"""

import contextlib
import fcntl
import json
import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from shared.calendar import IST
from shared.foreign_text import escape, escape_line, indent_further_lines
from shared.private_files import make_private_folder, private_opener

# A record with this as its `extra` says what standard output shows: it is for the file alone.
ON_SCREEN = {"is_on_screen": True}
LOG_FILE_NAME = "stock_ingestion.log"
_MASK = "***"
_AS_UTF_8: Any = {"encoding": "utf-8", "errors": "backslashreplace"}
_LONG, _SHORT = 16, 8  # characters of a secret
_YELLOW, _RED, _RESET = "\x1b[33m", "\x1b[31m", "\x1b[0m"
_COLOURS = {logging.WARNING: _YELLOW, logging.ERROR: _RED, logging.CRITICAL: _RED}
# Headers and parameters that carry secrets.
_CREDENTIALS = re.compile(
    r"(?i)(\btoken\s+[\w.~-]+:|\b(?:access_token|request_token|checksum|api_secret|password)=)"
    r"[^\s&'\"<>,;)]+"
)

_SCHEME_AND_HOST = re.compile(r"https?://[^/?#@]*(?:[/?#]|$)")  # of an address: no secret

_secrets: set[str] = set()
_pattern: re.Pattern[str] | None = None


def register_secrets(values: Iterable[str]) -> None:
    """Make `redact` mask these values, also where they appear URL-encoded or escaped."""
    global _pattern
    forms = {form for value in values if value.strip() for form in _written_forms(value)}
    if forms <= _secrets:
        return
    _secrets.update(forms)
    longest_first = sorted(_secrets, key=len, reverse=True)
    _pattern = re.compile("|".join(_as_pattern(form) for form in longest_first))


def redact(text: str) -> str:
    """`text` with every registered secret, and every credential of a known shape, masked."""
    if _pattern is not None:
        text = _pattern.sub(_MASK, text)
    return _CREDENTIALS.sub(rf"\g<1>{_MASK}", text)


def as_message(text: str) -> str:
    """`text` as it may be shown: no secret, nothing unseen, and only its first line begins one."""
    return indent_further_lines(escape(redact(text)))


def _written_forms(secret: str) -> set[str]:
    """The ways in which a secret shows up in text: as it is, in URLs, in reprs, in JSON."""
    raw = secret.encode("utf-8", "surrogateescape")  # the environment can hold any bytes
    encoded = {quote(raw), quote(raw, safe=""), quote_plus(raw)}
    lower = {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in encoded}
    # Between other quotes than its own a repr escapes the single ones.
    quoted = repr(f"\"'{secret}")[4:-1]
    as_json = {json.dumps(secret, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)}
    escaped = {repr(secret)[1:-1], ascii(secret)[1:-1], quoted, escape_line(secret)}
    return {secret, *encoded, *lower, *escaped, *as_json}


def _as_pattern(form: str) -> str:
    # A short one (1234) only as a word, not within the figures of a summary; a long one also cut.
    escaped = re.escape(form)
    public = _SCHEME_AND_HOST.match(form)
    shown = public.end() + _SHORT if public else _LONG
    if len(form) > shown:
        return rf"{escaped}|{re.escape(form[:shown])}\S*"
    return escaped if len(form) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"


def is_smart_terminal(stream: Any) -> bool:
    """Whether colours and lines that are drawn again can be shown there."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


class _RedactingFormatter(logging.Formatter):
    """Formats the record, stack trace included, as a message that is fit to be shown.

    Its time is India's, as on the screen and in the names of files, wherever the machine is.
    """

    def __init__(self, fmt: str, *, with_traceback: bool) -> None:
        super().__init__(fmt)
        self._with_traceback = with_traceback

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Such as 2026-11-27 08:30:00,123+0530."""
        moment = datetime.fromtimestamp(record.created, IST)
        return f"{moment:%Y-%m-%d %H:%M:%S},{int(record.msecs):03d}{moment:%z}"

    def format(self, record: logging.LogRecord) -> str:
        if self._with_traceback:
            return as_message(super().format(record))
        record.message = record.getMessage()
        return as_message(self.formatMessage(record))


class _SafeHandlerMixin:
    """Says once, in a line, that a log cannot be written (disk full), and lets the run go on."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self._has_failed:
            self._has_failed = True
            message = f"WARNING: the log cannot be written: {sys.exc_info()[1]}"
            with contextlib.suppress(OSError, ValueError):  # nobody listens any more
                sys.stderr.write(as_message(message) + "\n")


class _FileHandler(_SafeHandlerMixin, logging.handlers.RotatingFileHandler):
    """Several processes write to the file: one of them renames it, the others follow it then."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, opener=private_opener, **_AS_UTF_8)

    def doRollover(self) -> None:  # noqa: N802 - logging's name
        assert self.stream is not None  # shouldRollover has opened it
        descriptor = os.dup(self.stream.fileno())  # which holds the lock when the stream is closed
        try:
            with contextlib.suppress(OSError):  # this file system has no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self._is_current(descriptor):
                super().doRollover()
            else:
                renamed, self.stream = self.stream, self._open()
                renamed.close()
        finally:
            os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), Path(self.baseFilename).stat())
        return False


class _ConsoleHandler(_SafeHandlerMixin, logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever sys.stderr is at the moment: a live bar puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        text, colour = super().format(record), _COLOURS.get(record.levelno)
        if colour is None or os.environ.get("NO_COLOR") or not is_smart_terminal(self.stream):
            return text
        return text.replace(record.levelname, f"{colour}{record.levelname}{_RESET}", 1)


def setup_console_logging(level: str | None = None) -> None:
    """Send log records to standard error: from `level` on, by default warnings and errors."""
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _SafeHandlerMixin)]:
        root.removeHandler(old)
        old.close()
    handler = _ConsoleHandler()
    handler.setFormatter(_RedactingFormatter("%(levelname)s: %(message)s", with_traceback=False))
    handler.setLevel(level or logging.WARNING)
    handler.addFilter(lambda record: not hasattr(record, "is_on_screen"))
    root.addHandler(handler)
    root.setLevel(min(handler.level, logging.INFO))
    for noisy in ("urllib3", "kiteconnect", "requests"):
        logging.getLogger(noisy).setLevel(logging.WARNING)  # urllib3 logs addresses at DEBUG


def setup_file_logging(
    directory: Path, level: str, fmt: str, *, max_bytes: int, backup_count: int
) -> Path | None:
    """Log also to a file in `directory`, rotated at `max_bytes`: its path, or None if it fails."""
    path = directory / LOG_FILE_NAME
    try:
        make_private_folder(directory)
        handler = _FileHandler(path, maxBytes=max_bytes, backupCount=backup_count)
    except OSError as exc:
        message = "No log file: %s cannot be written (%s). Set LOG_DIR to a folder that can."
        logging.getLogger(__name__).warning(message, path, exc.strerror or exc)
        return None
    handler.setFormatter(_RedactingFormatter(fmt, with_traceback=True))
    handler.setLevel(level)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(min(root.level, handler.level))
    return path
