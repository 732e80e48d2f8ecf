"""The HTTP session under kiteconnect: it believes no answer that is not whole."""

from __future__ import annotations

import gzip
import io
import re
import time
import zlib
from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from shared.exceptions import APIError, TransientAPIError
from shared.utils.interruptible import DeadlineExceededError
from shared.utils.kite_csv import shorten

# Called with the bytes of the dump that have come, and how many were announced (None: not known).
Progress = Callable[[int, "int | None"], None]

_CHUNK_BYTES = 64 * 1024
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class StrictSession(requests.Session):
    """A session that tells a body that was cut short from a whole one.

    requests and urllib3 accept a gzip stream without its end mark, and kiteconnect looks at no
    HTTP status. Here the raw body is read to its announced length, unpacked to its end mark, and
    an answer that says "try later" is raised as such, without its text: an error page can echo
    the request's headers, the token with them.

    `packed_body` is the last answer's body as it came, if that was gzip.
    """

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self._progress = progress
        self._generation = 0
        self.packed_body: bytes | None = None
        self.headers["Accept-Encoding"] = "gzip"

    def abort(self) -> None:
        """Make the next request begin anew, on a connection of its own.

        A download that a deadline left behind in its thread ends at its next piece. A connection
        on which something went wrong may be about to be closed by the other side.
        """
        self._generation += 1
        self.close()

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request; the answer's body is whole, or TransientAPIError is raised."""
        response = super().request(*args, **{**kwargs, "stream": True})
        with response:
            if response.status_code in _TRANSIENT_STATUS:
                seconds = _retry_after(response.headers.get("Retry-After"))
                wish = "" if seconds is None else f" It asks to wait {seconds:.0f} s."
                raise TransientAPIError(
                    f"Kite answered HTTP {response.status_code} ({response.reason}).{wish}",
                    retry_after_seconds=seconds,
                )
            content_type = response.headers.setdefault("Content-Type", "")
            if response.status_code == 200 and "html" in content_type:
                raise TransientAPIError("Kite answered with an HTML page: it may be down.")
            if response.status_code == 200 and not re.search("json|csv", content_type):
                got = shorten(content_type) if content_type else "an answer without Content-Type"
                raise TransientAPIError(f"Expected JSON or CSV from Kite, got {got}.")
            is_dump = "csv" in content_type
            body = self._read_body(response, self._progress if is_dump else None)
        response.raw = io.BytesIO(body)
        if response.status_code >= 400 and "json" not in content_type:
            raise APIError(f"Kite answered HTTP {response.status_code} ({response.reason}).")
        return response

    def _read_body(self, response: requests.Response, progress: Progress | None) -> bytes:
        """The whole body, unpacked. Raises TransientAPIError if it ends before its end."""
        generation = self._generation
        announced = response.headers.get("Content-Length", "")
        total = int(announced) if announced.isdecimal() else None
        received = bytearray()
        while piece := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            if self._generation != generation:
                raise DeadlineExceededError
            received += piece
            if progress is not None:
                progress(len(received), total)
        if total is not None and len(received) != total:
            raise TransientAPIError(
                f"Kite's answer was cut short: {len(received)} of {total} bytes came."
            )
        if response.headers.get("Content-Encoding", "").strip().lower() in ("gzip", "x-gzip"):
            self.packed_body = bytes(received)
            return _unpack(self.packed_body)
        self.packed_body = None
        return bytes(received)


def _unpack(received: bytes) -> bytes:
    """The content of a gzip stream. Raises TransientAPIError unless it has its end mark."""
    try:
        return gzip.decompress(received)
    except EOFError as exc:
        raise TransientAPIError("Kite's answer was cut short: its gzip stream has no end.") from exc
    except (OSError, zlib.error) as exc:
        raise TransientAPIError(f"Kite's answer is damaged: {exc}.") from exc


def _retry_after(value: str | None) -> float | None:
    """The seconds that a Retry-After header asks for (a number or an HTTP date), if it does."""
    if value is None:
        return None
    value = value.strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, moment.timestamp() - time.time())
