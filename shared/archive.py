"""Saved payloads: each good one is kept for a while, and can be loaded again."""

import gzip
import hashlib
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

from shared.config.config_loader import PROJECT_ROOT
from shared.exceptions import APIError, ConfigurationError
from shared.feed import API_SOURCE, Feed, Payload, Run
from shared.foreign_text import escape_line
from shared.private_files import make_private_folder, write_in_one_step
from shared.utils.strict_session import LIST_BOUNDS, MB

logger = logging.getLogger(__name__)

STANDARD_INPUT = "standard input"

_GZIP_MARK = b"\x1f\x8b"
_MOMENT = "%Y-%m-%d_%H%M%S"


def name_source(from_file: str) -> str:
    """What messages and the history call a saved file: its whole path, or "standard input".

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


def read_saved(feed: Feed, from_file: str) -> Payload:
    """The payload in a saved file, plain or gzipped, read and parsed; `-` is standard input.

    Raises ConfigurationError if it cannot be read, APIError if it is too large, damaged, cut short
    or not what the feed reads.
    """
    source = name_source(from_file)
    is_piped = source == STANDARD_INPUT
    what = "What came on standard input" if is_piped else f"The saved file {source}"
    try:
        body = _unpack(_read(from_file))
        batch = feed.parse(body)
    except OSError as exc:
        raise ConfigurationError(
            f"{what} cannot be read ({exc.strerror or exc}). Expected a file or a pipe with "
            f"{feed.title} as their source gives them, plain or gzipped."
        ) from exc
    except APIError as exc:
        raise APIError(f"{what} cannot be used. {exc}") from exc
    if feed.table.is_snapshot and not batch.rows and not batch.rejected:
        raise APIError(f"{what} is empty (a header and no rows).")
    return Payload(body, batch=batch)


def hash_saved(from_file: str) -> str | None:
    """The SHA-256 of what is in a saved file, unpacked; None if it cannot be read."""
    try:
        return hashlib.sha256(_unpack(_read(from_file))).hexdigest()
    except (OSError, APIError):  # its run tells
        return None


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
        raise APIError(f"It has more than {megabytes} MB, which no real one has.")
    return content


def keep(run: Run, payload: Payload) -> None:
    """Keep a payload of the run, unless `parameters.archive_days` is 0.

    A fault is a warning: the rows themselves are stored.
    """
    directory, now = _folder(run), run.key.started_at
    if run.parameters["archive_days"] == 0:
        return
    stem, dot, suffix = _name_parts(run.feed)
    path = directory / f"{stem}_{now:{_MOMENT}}_{payload.sha256[:12]}{dot}{suffix}.gz"
    try:
        make_private_folder(directory)
        with write_in_one_step(path, path.with_suffix(".part")) as file:
            file.write(payload.pack())
    except OSError as exc:
        reason = exc.strerror or exc
        logger.warning("The %s could not be kept in %s: %s", run.feed.title, directory, reason)


def warn_of_missing(run: Run) -> None:
    """Warn if the payload of the last good run should be among the kept ones, and is not.

    A run that was killed between its commit and its archive says nothing itself.
    """
    last, directory = run.last, _folder(run)
    if last is None or last.source != API_SOURCE or last.dump_sha256 is None:
        return
    digest, days = last.dump_sha256[:12], run.parameters["archive_days"]
    try:
        names = [path.name for path, _ in _own_files(run.feed, directory)]
    except OSError:  # there is no such folder, as where none is kept
        return
    is_kept = any(digest in name and name.endswith(".gz") for name in names)
    if not is_kept and run.key.started_at - last.started_at < timedelta(days=days):
        logger.warning(
            "What run %d loaded is not among the files in %s: that run was ended before it could "
            "keep it, or the file was removed. It cannot be loaded again",
            last.run_id,
            directory,
        )


def delete_old(run: Run) -> None:
    """Delete the files that are more than `parameters.archive_days` older than the last run before.

    Or than this run, if that is older: one run with a wrong clock deletes nothing that the right
    one would not, and neither does the next run with the right clock. Nothing goes either where
    this run has kept nothing. A fault is a warning.
    """
    directory = _folder(run)
    try:
        moments = dict(_own_files(run.feed, directory)) if directory.is_dir() else {}
    except OSError as exc:
        logger.warning("The old files in %s cannot be listed: %s", directory, exc.strerror or exc)
        return
    now = run.key.started_at.replace(tzinfo=None, microsecond=0)
    if now not in moments.values():
        return
    before = (moment for moment in moments.values() if moment != now)
    limit = min(now, max(before, default=now)) - timedelta(days=run.parameters["archive_days"])
    for path in (path for path, moment in moments.items() if moment < limit):
        try:
            path.unlink()
        except OSError as exc:
            logger.warning("The old file %s could not be deleted: %s", path, exc.strerror or exc)


def _folder(run: Run) -> Path:
    return PROJECT_ROOT / Path(run.parameters["archive_directory"])


def _name_parts(feed: Feed) -> tuple[str, str, str]:
    return (feed.archive_name or feed.name).partition(".")


def _own_files(feed: Feed, directory: Path) -> Iterator[tuple[Path, datetime]]:
    """The files that runs have made, with the moments in their names; nothing of the user's.

    Among them is what a killed run has left (.part).
    """
    stem, dot, suffix = map(re.escape, _name_parts(feed))
    own_name = re.compile(
        rf"{stem}_([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}_[0-9]{{6}})_[0-9a-f]{{12}}{dot}{suffix}\.(gz|part)"
    )
    for path in directory.iterdir():
        match = own_name.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink():
            try:
                yield path, datetime.strptime(match[1], _MOMENT)
            except ValueError:  # a date that does not exist
                continue
