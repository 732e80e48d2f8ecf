"""An HTTP session that believes no answer that is not whole, or too large (ruling 34)."""

import http.client
import logging
import math
import re
import time
import zlib
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3

from shared.exceptions import APIError, TooManyRequestsError, TransientAPIError
from shared.foreign_text import shorten
from shared.utils.interruptible import DeadlineExceededError

logger = logging.getLogger(__name__)

# Called with the bytes that have come, and how many were announced (None: not known).
Progress = Callable[[int, int | None], None]


class Bounds(NamedTuple):
    """The most MB of an answer, raw and unpacked; OTHER_BOUNDS if its media type is another one."""

    raw: int
    unpacked: int
    media_type: str = ""


LIST_BOUNDS = Bounds(32, 128, "csv")  # a real one has 1.6 and 9.5 MB
SERIES_BOUNDS = Bounds(16, 16, "json")  # the longest real one, two months by the minute, has 1.5 MB
OTHER_BOUNDS = Bounds(1, 1)
MB = 1_000_000
_CHUNK_BYTES = 64 * 1024
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)


class Source(NamedTuple):
    """Who is asked; `media_types` is a pattern of its answers' types, by default any but HTML."""

    name: str  # in messages
    root: str
    setting: str = "its address"  # what holds the root
    media_types: str = ""

    @property
    def answer(self) -> str:
        """What messages call its answer."""
        return f"{self.name}'s answer"

    @property
    def way_out(self) -> str:
        """What to check where an answer cannot be the source's own."""
        return f"check {self.setting}, and what is between this machine and {self.name}"


class Answer(NamedTuple):
    """A whole answer: its media type is in lower case, `packed` is its gzip if it came as one."""

    status: int
    outcome: str  # the status in words
    media_type: str
    body: bytes
    packed: bytes | None


class StrictSession(requests.Session):
    """A session that tells an answer that was cut short from a whole one.

    requests and urllib3 accept a gzip stream without its end mark, a body of unknown length, and
    any size. Here an answer's end must be proven: by Content-Length, by its chunks, or as one whole
    gzip member. One that says "try later" is raised without its text, which can echo the token.
    Redirects are not followed, and ~/.netrc does not replace the token (ruling 36).
    """

    def __init__(self, source: Source, progress: Progress | None = None) -> None:
        super().__init__()
        self._source = source
        self._progress = progress
        self._is_abandoned = False
        self.headers["Accept-Encoding"] = "gzip"
        # No proxy leads to this machine itself.
        self.trust_env = urlsplit(source.root).hostname not in ("127.0.0.1", "localhost", "::1")
        self.auth = lambda request: request  # with none of its own, requests asks ~/.netrc for one

    def abandon(self) -> None:
        """End a download that a deadline has left behind in its thread, at its next piece."""
        self._is_abandoned = True
        self.close()

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would send the token to the other address, or read a body of any size."""

    def ask(self, method: str, url: str, *, bounds: Bounds = OTHER_BOUNDS, **kwargs: Any) -> Answer:
        """Send a request; `kwargs` are those of `requests.Session.request`.

        Returns a whole answer: good, or an error as JSON. Raises (Transient)APIError for others.
        """
        source, begin = self._source, time.perf_counter()
        with self._begin(method, url, **kwargs, stream=True) as response:
            outcome = f"HTTP {response.status_code} ({response.reason})"
            media_type = _refuse_head(response, source, outcome)
            if bounds.media_type not in media_type:
                bounds = OTHER_BOUNDS
            progress = self._progress if bounds.media_type else None
            is_packed = _is_packed(response, source)
            total = _announced_length(response, source, is_packed)
            _refuse_size(total or 0, bounds.raw, source)
            received = bytearray()
            while piece := response.raw.read1(_CHUNK_BYTES, decode_content=False):
                if self._is_abandoned:
                    raise DeadlineExceededError
                received += piece
                _refuse_size(len(received), bounds.raw, source)
                if progress is not None:
                    progress(len(received), total)
        if total is not None and len(received) != total:
            came = f"{len(received)} of {total} bytes came"
            raise TransientAPIError(f"{source.answer} was cut short: {came}.")
        # Not the whole address: a query may hold a secret.
        asked, seconds = f"{method} {urlsplit(url).path}", time.perf_counter() - begin
        logger.debug("%.3f s: %s: %s, %d bytes", seconds, asked, outcome, len(received))
        packed = bytes(received) if is_packed else None
        body = bytes(received) if packed is None else _unpack(packed, bounds, source)
        return Answer(response.status_code, outcome, media_type, body, packed)

    def _begin(self, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            return self.request(*args, **kwargs)
        except (TypeError, ValueError) as exc:
            if any(isinstance(cause, urllib3.exceptions.InvalidHeader) for cause in exc.args):
                raise _no_proven_end(self._source) from exc  # two lengths
            # Nothing was sent. The text of these can hold a part of a proxy's password.
            raise APIError(
                f"{self._source.name} cannot be asked: check {self._source.setting}, HTTP_PROXY "
                "and HTTPS_PROXY. Expected addresses such as http://host:8080."
            ) from None


def _refuse_head(response: requests.Response, source: Source, outcome: str) -> str:
    """The media type, in lower case, of an answer worth reading; raises APIError for others."""
    status = response.status_code
    said = f"{source.name} answered {outcome}"
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if status in _TRANSIENT_STATUS:
        seconds = _retry_after(response.headers.get("Retry-After", ""))
        time_ = "for ever" if seconds == math.inf else f"{seconds or 0:.0f} s"
        wish = "" if seconds is None else f" It asks to wait {time_}."
        error = TooManyRequestsError if status == 429 else TransientAPIError
        raise error(f"{said}.{wish}", retry_after_seconds=seconds)
    if 300 <= status < 400:
        location = re.split("[?#]", response.headers.get("Location", ""))[0]
        target = f"to {shorten(location, 100)}" if location else "without an address"
        raise APIError(
            f"{said}: a redirect {target}. Redirects are not followed, and nothing was sent there: "
            f"{source.way_out}."
        )
    is_part = "Content-Range" in response.headers
    if status < 300 and (status != 200 or is_part):  # of a cache in between: the next may be whole
        wanted = f"a whole answer from {source.name} (HTTP 200)"
        raise TransientAPIError(f"Expected {wanted}, got {outcome}.")
    if status != 200:
        if "json" not in media_type:
            raise APIError(f"{said}.")
    elif "html" in media_type:
        raise TransientAPIError(f"{source.name} answered with an HTML page: it may be down.")
    elif not re.search(source.media_types, media_type):
        wanted = source.media_types.upper().replace("|", " or ")
        found = shorten(media_type) if media_type else "an answer without Content-Type"
        raise TransientAPIError(f"Expected {wanted} from {source.name}, got {found}.")
    return media_type


def _is_packed(response: requests.Response, source: Source) -> bool:
    """Whether the body is gzip. Raises APIError if it is packed in another way."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        got = f"Content-Encoding {shorten(encoding)}"
        raise APIError(f"Expected an answer that is plain or gzip, got {got}: {source.way_out}.")
    return encoding.endswith("gzip")


def _announced_length(response: requests.Response, source: Source, is_packed: bool) -> int | None:
    """The bytes that must come; None if chunks or gzip tell the end. Raises TransientAPIError."""
    headers = response.headers
    is_sound = (
        _LENGTH.fullmatch(headers.get("Content-Length", "0"))
        and headers.get("Transfer-Encoding", "chunked").lower() == "chunked"
    )
    is_told = is_packed or "Content-Length" in headers or "Transfer-Encoding" in headers
    if not (is_sound and is_told):
        raise _no_proven_end(source)
    if "Transfer-Encoding" in headers:
        answer: Any = response.raw
        answer._fp.fp = _WholeLines(answer._fp.fp)
    return int(headers["Content-Length"]) if "Content-Length" in headers else None


def _no_proven_end(source: Source) -> TransientAPIError:
    return TransientAPIError(
        f"{source.answer} may be cut short: neither one length (Content-Length) nor chunks tell "
        f"where it ends. If this stays, {source.way_out}."
    )


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


def _unpack(packed: bytes, bounds: Bounds, source: Source) -> bytes:
    """The content of a whole gzip stream of one member; gzip.decompress would take several."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(packed, bounds.unpacked * MB + 1)
    except zlib.error as exc:
        raise TransientAPIError(f"{source.answer} is damaged: {exc}.") from exc
    _refuse_size(len(content), bounds.unpacked, source)
    if not unpacker.eof:
        raise TransientAPIError(f"{source.answer} was cut short: its gzip stream has no end.")
    if unpacker.unused_data:  # another member may have been cut off
        fault = "its gzip stream goes on after its end"
        raise TransientAPIError(f"{source.answer} is damaged: {fault}.")
    return content


def _refuse_size(size: int, megabytes: int, source: Source) -> None:
    if size > megabytes * MB:
        bound = f"{megabytes} MB, more than any that is expected"
        raise APIError(f"{source.answer} is larger than {bound}: {source.way_out}.")


def _retry_after(value: str) -> float | None:
    """The seconds that a Retry-After header asks for (a number or an HTTP date), if it does."""
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # not a date, or a year that is out of range
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - time.time())
