"""Saved dumps: each good one is kept for a while, and can be imported again."""

from __future__ import annotations

import gzip
import logging
import zlib
from datetime import datetime, timedelta
from pathlib import Path

from shared.exceptions import APIError, ConfigurationError
from shared.utils.kite_client_wrapper import RawDump

logger = logging.getLogger(__name__)

_GZIP_MARK = b"\x1f\x8b"
_NAME = "kite_instruments_{moment:%Y-%m-%d_%H%M%S}_{digest}.csv.gz"
_PATTERN = "kite_instruments_*.csv.gz"


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


def keep_dump(dump: RawDump, directory: Path, days: int, *, now: datetime) -> Path | None:
    """Keep the dump in `directory`, and delete what is older than `days` there; 0 keeps none.

    Returns the file, or None if none was kept. A fault is a warning: the list itself is stored.
    """
    if days == 0:
        return None
    path = directory / _NAME.format(moment=now, digest=dump.sha256[:12])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _delete_older(directory, now - timedelta(days=days))
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(dump.packed)
        unfinished.replace(path)
    except OSError as exc:
        logger.warning("The dump could not be kept in %s: %s", directory, exc.strerror or exc)
        return None
    return path


def _delete_older(directory: Path, limit: datetime) -> None:
    for path in directory.glob(_PATTERN):
        if path.stat().st_mtime < limit.timestamp():
            path.unlink()
