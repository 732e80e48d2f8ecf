"""The HTTP session under kiteconnect: it believes no answer that is not whole, or too large."""

from __future__ import annotations

import http.client
import io
import json
import math
import re
import time
import zlib
from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, NoReturn

import requests
import urllib3

from shared.exceptions import APIError, TransientAPIError
from shared.foreign_text import shorten
from shared.utils.interruptible import DeadlineExceededError

# Called with the bytes of the dump that have come, and how many were announced (None: not known).
Progress = Callable[[int, "int | None"], None]


class Bounds(NamedTuple):
    """How large an answer may be, in MB: as it comes, and unpacked."""

    raw: int
    unpacked: int


LIST_BOUNDS = Bounds(32, 128)  # a real one has 1.6 and 9.5 MB
OTHER_BOUNDS = Bounds(1, 1)
MB = 1_000_000
_CHUNK_BYTES = 64 * 1024
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)

_NO_PROVEN_END = (
    "Kite's answer may be cut short: no one length (Content-Length) and no chunks tell where it "
    "ends. Check what is between this machine and Kite if this stays."
)


class StrictSession(requests.Session):
    """A session that tells a body that was cut short from a whole one (ruling 34).

    requests and urllib3 accept a gzip stream without its end mark, a body whose end nothing tells,
    and any size; kiteconnect looks at no HTTP status. Here an answer counts only if its status is
    200 and its end is proven: by Content-Length, by its chunks, or as one whole gzip member. An
    answer that says "try later" is raised as such, without its text: an error page can echo the
    request's headers, the token with them.

    Redirects are not followed, and ~/.netrc does not replace the token (ruling 36).

    `packed_body` is the last answer's body as it came, if that was gzip.
    """

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self._progress = progress
        self._generation = 0
        self.packed_body: bytes | None = None
        self.headers["Accept-Encoding"] = "gzip"
        self.auth = lambda request: request  # with none of its own, requests asks ~/.netrc for one

    def abort(self) -> None:
        """Make the next request begin anew, on a connection of its own.

        A download that a deadline left behind in its thread ends at its next piece. A connection
        on which something went wrong may be about to be closed by the other side.
        """
        self._generation += 1
        self.close()

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would send what the request holds to the other address.

        It would also read a redirect's body, whatever its size, where it is told not to follow.
        """

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request; the answer is a whole one with status 200, or an error of Kite's in JSON.

        Raises TransientAPIError or APIError for any other.
        """
        with self._begin(*args, **{**kwargs, "stream": True}) as response:
            media_type = _refuse_head(response)
            is_list = "csv" in media_type
            body = self._read_body(
                response,
                LIST_BOUNDS if is_list else OTHER_BOUNDS,
                self._progress if is_list else None,
            )
        response.raw = io.BytesIO(body)
        response.headers["Content-Type"] = media_type  # kiteconnect knows it in lower case only
        if response.status_code != 200 and not _is_error_of_kite(body):
            raise APIError(f"Kite answered HTTP {_status(response)}.")
        return response

    def _begin(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request and read the answer's head."""
        try:
            return super().request(*args, **kwargs)
        except (TypeError, ValueError) as exc:
            if any(isinstance(cause, urllib3.exceptions.InvalidHeader) for cause in exc.args):
                raise TransientAPIError(_NO_PROVEN_END) from exc  # two lengths
            # Nothing was sent. The text of these can hold a part of a proxy's password.
            raise APIError(
                "Kite cannot be asked: check KITE_API_ROOT, and HTTP_PROXY and HTTPS_PROXY in the "
                "environment. Expected addresses such as http://host:8080."
            ) from None

    def _read_body(
        self, response: requests.Response, bounds: Bounds, progress: Progress | None
    ) -> bytes:
        """The whole body, unpacked. Raises TransientAPIError if it ends before its end."""
        generation = self._generation
        is_packed = _is_gzip(response)
        total = _announced_length(response, is_packed=is_packed)
        received = bytearray()
        if total is not None and total > bounds.raw * MB:
            _refuse_size(bounds.raw)
        while piece := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            if self._generation != generation:
                raise DeadlineExceededError
            received += piece
            if len(received) > bounds.raw * MB:
                _refuse_size(bounds.raw)
            if progress is not None:
                progress(len(received), total)
        if total is not None and len(received) != total:
            raise TransientAPIError(
                f"Kite's answer was cut short: {len(received)} of {total} bytes came."
            )
        self.packed_body = bytes(received) if is_packed else None
        return bytes(received) if self.packed_body is None else _unpack(self.packed_body, bounds)


def _refuse_head(response: requests.Response) -> str:
    """The media type of an answer that may be read, in lower case.

    Raises TransientAPIError or APIError for one that is of no use whatever its body is.
    """
    status = response.status_code
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if status in _TRANSIENT_STATUS:
        seconds = _retry_after(response.headers.get("Retry-After"))
        raise TransientAPIError(
            f"Kite answered HTTP {_status(response)}.{_wish(seconds)}", retry_after_seconds=seconds
        )
    if 300 <= status < 400:
        _refuse_redirect(response)
    is_part = "Content-Range" in response.headers
    if status < 300 and (status != 200 or is_part):  # of a cache in between: the next may be whole
        raise TransientAPIError(
            f"Expected a whole answer from Kite (HTTP 200), got HTTP {_status(response)}."
        )
    if status != 200:
        if "json" not in media_type:
            raise APIError(f"Kite answered HTTP {_status(response)}.")
    elif "html" in media_type:
        raise TransientAPIError("Kite answered with an HTML page: it may be down.")
    elif not re.search("json|csv", media_type):
        got = shorten(media_type) if media_type else "an answer without Content-Type"
        raise TransientAPIError(f"Expected JSON or CSV from Kite, got {got}.")
    return media_type


def _status(response: requests.Response) -> str:
    return f"{response.status_code} ({response.reason})"


def _refuse_redirect(response: requests.Response) -> NoReturn:
    location = re.split("[?#]", response.headers.get("Location", ""))[0]
    raise APIError(
        f"Kite answered HTTP {_status(response)}: a redirect "
        f"{f'to {shorten(location, 100)}' if location else 'without an address'}. Redirects are "
        "not followed, and nothing was sent there: check KITE_API_ROOT, and what is between this "
        "machine and Kite."
    )


def _is_error_of_kite(body: bytes) -> bool:
    """Whether kiteconnect will raise for this body: it looks at no status."""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    kind = answer.get("error_type") if isinstance(answer, dict) else None
    return isinstance(kind, str) and kind != ""


def _is_gzip(response: requests.Response) -> bool:
    """Whether the body is packed. Raises APIError if it is in a way that was not asked for."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise APIError(
            f"Expected an answer that is plain or gzip, got Content-Encoding {shorten(encoding)}: "
            "check what is between this machine and Kite."
        )
    return encoding.endswith("gzip")


def _announced_length(response: requests.Response, *, is_packed: bool) -> int | None:
    """The length in bytes that the body must have; None if its chunks or its gzip tell its end.

    Raises TransientAPIError if nothing does: it is whatever came until the connection closed.
    """
    length = response.headers.get("Content-Length")
    chunks = response.headers.get("Transfer-Encoding")
    is_odd = (length is not None and not _LENGTH.fullmatch(length)) or (
        chunks is not None and chunks.lower() != "chunked"
    )
    if is_odd or (length is None and chunks is None and not is_packed):
        raise TransientAPIError(_NO_PROVEN_END)
    if chunks is not None:
        answer: Any = response.raw
        answer._fp.fp = _WholeLines(answer._fp.fp)
    return None if length is None else int(length)


class _WholeLines:
    """A stream that gives whole lines: http.client takes a size of 0800, cut to 0, for the end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def readline(self, limit: int) -> bytes:
        line: bytes = self._stream.readline(limit)
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        return line


def _unpack(packed: bytes, bounds: Bounds) -> bytes:
    """The content of a gzip stream of one member, which gzip.decompress would not insist on.

    Raises TransientAPIError unless it has its end mark and nothing after it, APIError if it is
    larger than its bound.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(packed, bounds.unpacked * MB + 1)
    except zlib.error as exc:
        raise TransientAPIError(f"Kite's answer is damaged: {exc}.") from exc
    if len(content) > bounds.unpacked * MB:
        _refuse_size(bounds.unpacked)
    if not unpacker.eof:
        raise TransientAPIError("Kite's answer was cut short: its gzip stream has no end.")
    if unpacker.unused_data:  # another member may have been cut off behind it
        raise TransientAPIError("Kite's answer is damaged: its gzip stream goes on after its end.")
    return content


def _refuse_size(megabytes: int) -> NoReturn:
    raise APIError(
        f"Kite's answer is larger than {megabytes} MB, which none of its answers is: check "
        "KITE_API_ROOT, and what is between this machine and Kite."
    )


def _retry_after(value: str | None) -> float | None:
    """The seconds that a Retry-After header asks for (a number or an HTTP date), if it does."""
    if value is None:
        return None
    value = value.strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # no date, or after all years that there are
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, moment.timestamp() - time.time())


def _wish(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f" It asks to wait {'for ever' if seconds == math.inf else f'{seconds:.0f} s'}."
