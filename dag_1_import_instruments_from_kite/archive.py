"""Saved dumps: each good one is kept for a while, and can be imported again."""

from __future__ import annotations

import gzip
import io
import logging
import os
import re
import sys
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from shared.exceptions import APIError, ConfigurationError
from shared.feed import API_SOURCE, Batch
from shared.foreign_text import escape_line
from shared.private_files import make_private_folder, write_in_one_step
from shared.utils.kite_client_wrapper import RawDump
from shared.utils.kite_csv import parse_dump
from shared.utils.run_history import LastRun
from shared.utils.strict_session import LIST_BOUNDS, MB

logger = logging.getLogger(__name__)

STANDARD_INPUT = "standard input"

_GZIP_MARK = b"\x1f\x8b"
_MOMENT = "%Y-%m-%d_%H%M%S"
_NAME = f"kite_instruments_{{moment:{_MOMENT}}}_{{digest}}.csv.gz"
# Also what a killed run has left.
_OWN_NAME = re.compile(
    r"kite_instruments_([0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{6})_[0-9a-f]{12}\.csv\.(?:gz|part)"
)


def name_source(from_file: str) -> str:
    """What messages and the history call a saved dump: its whole path, or "standard input".

    `-`, and a pipe without a name of its own (`/dev/stdin`, `<(zcat list.csv.gz)`), are standard
    input.
    """
    if from_file == "-":
        return STANDARD_INPUT
    try:
        path = os.path.realpath(from_file)
        is_nameless = Path(from_file).is_fifo() and not Path(path).exists()
    except OSError:  # the reading tells
        return escape_line(from_file)
    return STANDARD_INPUT if is_nameless else escape_line(path)


def parse_saved_dump(from_file: str) -> tuple[Batch, RawDump]:
    """What a saved dump holds, plain or gzipped, and the dump itself; `-` is standard input.

    Raises ConfigurationError if it cannot be read, APIError if it is too large, damaged, cut short
    or no instrument list.
    """
    source = name_source(from_file)
    what = f"The {'list on' if source == STANDARD_INPUT else 'saved dump'} {source}"
    try:
        body = _unpack(_read(from_file))
        dump = parse_dump(body, is_whole=False)
    except OSError as exc:
        raise ConfigurationError(
            f"{what} cannot be read ({exc.strerror or exc}). Expected a file or a "
            "pipe with Kite's CSV, plain or gzipped."
        ) from exc
    except APIError as exc:
        raise APIError(f"{what} cannot be used. {exc}") from exc
    if not dump.rows and not dump.rejected:
        raise APIError(f"{what} is empty (a header and no rows).")
    return dump, RawDump.of(body)


def _read(from_file: str) -> bytes:
    if from_file != "-":
        with Path(from_file).open("rb") as file:
            return _read_bounded(file, LIST_BOUNDS.raw)
    if sys.stdin is None:  # closed before the start (`<&-`)
        raise OSError("it is closed")
    return _read_bounded(sys.stdin.buffer, LIST_BOUNDS.raw)


def _unpack(content: bytes) -> bytes:
    if not content.startswith(_GZIP_MARK):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as file:
            return _read_bounded(file, LIST_BOUNDS.unpacked)
    except (OSError, EOFError, zlib.error) as exc:
        raise APIError(f"It is damaged or cut short: {exc}.") from exc


def _read_bounded(file: BinaryIO | gzip.GzipFile, megabytes: int) -> bytes:
    """All that is in the file. Raises APIError if that is more than so many MB (ruling 34)."""
    content = file.read(megabytes * MB + 1)
    if len(content) > megabytes * MB:
        raise APIError(
            f"It has more than {megabytes} MB; an instrument list has about 10, and 2 gzipped."
        )
    return content


def keep_dump(dump: RawDump, directory: Path, days: int, *, now: datetime) -> Path | None:
    """Keep the dump in `directory`, then delete what is older than `days` there; 0 keeps none.

    Returns the file, or None if none was kept. A fault is a warning: the list itself is stored.
    """
    if days == 0:
        return None
    path = directory / _NAME.format(moment=now, digest=dump.sha256[:12])
    try:
        make_private_folder(directory)
        with write_in_one_step(path, path.with_suffix(".part")) as file:
            file.write(dump.packed)
    except OSError as exc:
        logger.warning("The dump could not be kept in %s: %s", directory, exc.strerror or exc)
        return None
    try:
        _delete_older(path, days)
    except OSError as exc:
        logger.warning("The old dumps in %s cannot be listed: %s", directory, exc.strerror or exc)
    return path


def warn_of_missing(directory: Path, days: int, last: LastRun | None, *, now: datetime) -> None:
    """Warn if the list of the last good run is not among the kept ones, and should be.

    A run that was killed between its commit and this says nothing itself.
    """
    if last is None or last.source != API_SOURCE or last.dump_sha256 is None:
        return
    try:
        is_kept = any(last.dump_sha256[:12] in path.name for path, _ in _own_files(directory))
    except OSError:  # there is no such folder, as where none is kept
        return
    if not is_kept and now - last.started_at < timedelta(days=days):
        logger.warning(
            "The list of run %d is not among those in %s: that run was ended before it could keep "
            "it, or the file was removed. It cannot be imported again",
            last.run_id,
            directory,
        )


def _delete_older(newest: Path, days: int) -> None:
    """Delete the lists beside `newest` that are more than `days` older than the last one before it.

    Or than `newest`, if that is older: one run with a wrong clock deletes nothing that the right
    one would not, and neither does the next run with the right clock.
    """
    moments = dict(_own_files(newest.parent))
    moment = moments.pop(newest, None)
    if moment is None:  # somebody else has deleted it
        return
    limit = min(moment, max(moments.values(), default=moment)) - timedelta(days=days)
    for path in (path for path, moment in moments.items() if moment < limit):
        try:
            path.unlink()
        except OSError as exc:
            logger.warning("The old dump %s could not be deleted: %s", path, exc.strerror or exc)


def _own_files(directory: Path) -> Iterator[tuple[Path, datetime]]:
    """The files that runs have made, with the moments in their names; nothing of the user's."""
    for path in directory.iterdir():
        match = _OWN_NAME.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink():
            try:
                yield path, datetime.strptime(match[1], _MOMENT)
            except ValueError:  # a date that does not exist
                continue
