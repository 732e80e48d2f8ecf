"""Saved dumps: each good one is kept for a while, and can be imported again."""

from __future__ import annotations

import contextlib
import gzip
import logging
import zlib
from datetime import datetime, timedelta
from pathlib import Path

from shared.exceptions import APIError, ConfigurationError
from shared.utils.kite_client_wrapper import RawDump
from shared.utils.kite_csv import ParsedDump, parse_dump

logger = logging.getLogger(__name__)

_GZIP_MARK = b"\x1f\x8b"
_NAME = "kite_instruments_{moment:%Y-%m-%d_%H%M%S}_{digest}.csv.gz"
_PATTERNS = ("kite_instruments_*.csv.gz", "kite_instruments_*.csv.part")  # left by a killed run


def read_saved_dump(path: Path) -> bytes:
    """The CSV in a saved dump, plain or gzipped.

    Raises ConfigurationError if it cannot be read, APIError if its gzip is damaged or cut short.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(
            f"The saved dump {path} cannot be read ({exc.strerror or exc}). Expected a file of "
            "Kite's CSV, plain or gzipped."
        ) from exc
    if not content.startswith(_GZIP_MARK):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as exc:
        raise APIError(f"The saved dump {path} is damaged or cut short: {exc}.") from exc


def parse_saved_dump(path: Path) -> tuple[ParsedDump, RawDump]:
    """What a saved dump holds, and the dump itself.

    Raises ConfigurationError if it cannot be read, APIError if it is no instrument list.
    """
    body = read_saved_dump(path)
    try:
        dump = parse_dump(body)
    except APIError as exc:
        raise APIError(f"The saved dump {path} cannot be used. {exc}") from exc
    if not dump.rows and not dump.rejected:
        raise APIError(f"The saved dump {path} is empty (a header and no rows).")
    return dump, RawDump.of(body)


def keep_dump(dump: RawDump, directory: Path, days: int, *, now: datetime) -> Path | None:
    """Keep the dump in `directory`, and delete what is older than `days` there; 0 keeps none.

    Returns the file, or None if none was kept. A fault is a warning: the list itself is stored.
    """
    if days == 0:
        return None
    path = directory / _NAME.format(moment=now, digest=dump.sha256[:12])
    unfinished = path.with_suffix(".part")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _delete_older(directory, now - timedelta(days=days))
        unfinished.write_bytes(dump.packed)
        unfinished.replace(path)
    except OSError as exc:
        logger.warning("The dump could not be kept in %s: %s", directory, exc.strerror or exc)
        return None
    finally:  # also where a signal comes
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return path


def _delete_older(directory: Path, limit: datetime) -> None:
    for pattern in _PATTERNS:
        for path in directory.glob(pattern):
            if path.stat().st_mtime < limit.timestamp():
                path.unlink()
