"""The Kite session: prove it, download the instrument dump, translate what goes wrong.

Knows no database. Every call is retried where that may help (ruling 22).
"""

from __future__ import annotations

import gzip
import io
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import requests
import urllib3
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_exceptions

from shared.exceptions import (
    APIError,
    AuthenticationError,
    StockIngestionError,
    TransientAPIError,
)
from shared.utils.interruptible import DeadlineExceededError, call_interruptibly
from shared.utils.kite_csv import ParsedDump, RejectedRow, parse_dump
from shared.utils.retry import RetryPolicy

logger = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[int, "int | None"], None]

DEFAULT_ROOT = "https://api.kite.trade"
DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_DEADLINE_SECONDS = 300.0
_CHUNK_BYTES = 64 * 1024
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LOG_IN_AGAIN = (
    "Kite's access tokens die at about 6 AM IST every day, and on a login or logout elsewhere. "
    "Log in again and put the new token into KITE_ACCESS_TOKEN (in .env), and check that "
    "KITE_API_KEY is the key that it was made for."
)


class KiteClientWrapper:
    """Wrapper around KiteConnect for data ingestion operations.

    `root` is the address of the API; `timeout_seconds` bounds each connect and each read,
    `deadline_seconds` a whole call (ruling 25); `progress`, if given, is called with the bytes of
    the dump that have come and how many were announced (None if that is not known).
    """

    def __init__(
        self,
        api_key: str,
        api_secret: str,
        access_token: str,
        *,
        root: str = DEFAULT_ROOT,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        retry: RetryPolicy | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Initialize with Kite API credentials. Nothing is sent yet."""
        self._api_secret = api_secret
        self._root = root
        self._deadline_seconds = deadline_seconds
        self._retry = retry or RetryPolicy()
        self._client = RawKiteConnect(
            api_key, access_token, root=root, timeout=timeout_seconds, progress=progress
        )
        self._authenticated = False
        self.rejected_rows: list[RejectedRow] = []

    def authenticate(self) -> bool:
        """Prove the session with the API's cheapest call, the profile.

        Returns True. Raises AuthenticationError if the session is dead or refused, and
        TransientAPIError or APIError if the API cannot be asked.
        """
        self._authenticated = False
        profile = self._call(self._fetch_profile, "authenticate with Kite")
        if not isinstance(profile, Mapping):
            raise APIError("Kite's profile is not what it should be: expected an object.")
        self._authenticated = True
        return True

    def fetch_instruments(self) -> list[dict[str, Any]]:
        """Fetch the complete instrument list.

        Returns one dict for each row that can be read: the eleven stored columns under Kite's
        names, with exact Decimals, dates, and None for blanks, and the `line_number` in the dump.
        The other rows, with their reasons, are in `rejected_rows`.

        Raises AuthenticationError if `authenticate` has not succeeded before (Property 1), or the
        session died since; TransientAPIError or APIError if the list cannot be had.
        """
        if not self._authenticated:
            raise AuthenticationError(
                "The Kite session is not proven yet: call authenticate() before fetching."
            )
        dump = self._call(self._fetch_dump, "fetch instruments")
        self.rejected_rows = dump.rejected
        return dump.rows

    def filter_instruments(
        self, instruments: list[dict[str, Any]], exchanges: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """The instruments of the listed exchanges, in their order; None or [] means all."""
        return filter_by_exchange(instruments, exchanges)

    def _fetch_profile(self) -> Any:
        try:
            return self._client.profile()
        except kite_exceptions.InputException as exc:
            raise AuthenticationError(
                "Kite found the credentials missing or malformed "
                f"(HTTP {exc.code}, {type(exc).__name__}: {exc}). {_LOG_IN_AGAIN}"
            ) from exc

    def _fetch_dump(self) -> ParsedDump:
        return parse_dump(self._client.instruments())

    def _call(self, func: Callable[[], T], operation: str) -> T:
        def attempt() -> T:
            try:
                return call_interruptibly(func, deadline_seconds=self._deadline_seconds)
            except Exception as exc:
                self._client.reqsession.abort()
                raise _translate(exc, self._root, self._deadline_seconds) from exc

        return self._retry.run(attempt, operation=operation)


def filter_by_exchange(
    instruments: Iterable[dict[str, Any]], exchanges: Sequence[str] | None
) -> list[dict[str, Any]]:
    """The instruments of the listed exchanges, in their order; None or an empty list means all."""
    if not exchanges:
        return list(instruments)
    wanted = frozenset(exchanges)
    return [instrument for instrument in instruments if instrument.get("exchange") in wanted]


class RawKiteConnect(KiteConnect):  # type: ignore[misc]  # the package has no types
    """KiteConnect whose `instruments()` gives the bytes of the dump, over a strict session.

    This is the one seam to the client: its parser goes through float and loses the whole dump
    to one bad row, so `_parse_instruments` hands the body on untouched. A test pins it.
    """

    def __init__(
        self,
        api_key: str,
        access_token: str,
        *,
        root: str,
        timeout: float,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(api_key, access_token=access_token, root=root, timeout=timeout)
        self.reqsession = _StrictSession(progress)

    def _parse_instruments(self, data: Any) -> bytes:
        if not isinstance(data, bytes):
            raise APIError("Expected the instrument list as CSV, got JSON.")
        return data


class _StrictSession(requests.Session):
    """A session that tells a body that was cut short from a whole one.

    requests and urllib3 accept a gzip stream without its end mark, and kiteconnect looks at no
    HTTP status. Here the raw body is read to its announced length, unpacked to its end mark, and
    an answer that says "try later" is raised as such, without its text: an error page can echo
    the request's headers, the token with them.
    """

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self._progress = progress
        self._generation = 0
        self.headers["Accept-Encoding"] = "gzip"

    def abort(self) -> None:
        """Make a download that a deadline left behind in its thread end at its next piece."""
        self._generation += 1

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().request(*args, **{**kwargs, "stream": True})
        with response:
            if response.status_code in _TRANSIENT_STATUS:
                raise TransientAPIError(
                    f"Kite answered HTTP {response.status_code} ({response.reason}).",
                    retry_after_seconds=_retry_after(response.headers.get("Retry-After")),
                )
            content_type = response.headers.setdefault("Content-Type", "")
            if response.status_code == 200 and "html" in content_type:
                raise TransientAPIError("Kite answered with an HTML page: it may be down.")
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
            return _unpack(received)
        return bytes(received)


def _unpack(received: bytes | bytearray) -> bytes:
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


def _translate(error: Exception, root: str, deadline_seconds: float) -> StockIngestionError:
    """The project's error for what the client raised; never with the text of a foreign page."""
    if isinstance(error, StockIngestionError):
        return error
    if isinstance(error, DeadlineExceededError):
        return TransientAPIError(f"Kite's answer did not end within {deadline_seconds:g} seconds.")
    if isinstance(error, kite_exceptions.KiteException):
        return _translate_kite(error)
    if isinstance(error, requests.exceptions.SSLError):
        return APIError(f"No trusted connection to {root}: {_reason(error)}")
    if isinstance(error, (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)):
        return TransientAPIError(f"Kite at {root} did not answer in time.")
    if isinstance(error, (requests.exceptions.ConnectionError, OSError)) and not isinstance(
        error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
    ):
        return TransientAPIError(f"No connection to Kite at {root}: {_reason(error)}")
    if isinstance(error, urllib3.exceptions.HTTPError):
        return TransientAPIError(f"Kite's answer was cut short or damaged: {_reason(error)}")
    return APIError(f"Kite's answer cannot be used: {_reason(error)}")


def _translate_kite(error: kite_exceptions.KiteException) -> StockIngestionError:
    said = f"HTTP {error.code}, {type(error).__name__}"
    if isinstance(error, kite_exceptions.TokenException):
        return AuthenticationError(f"Kite refused the session ({said}: {error}). {_LOG_IN_AGAIN}")
    if isinstance(error, kite_exceptions.DataException):
        # Its text is the whole answer: never shown.
        return TransientAPIError(f"Kite's answer is neither JSON nor CSV ({said}).")
    if isinstance(error, kite_exceptions.NetworkException):
        return TransientAPIError(f"Kite cannot reach its back end ({said}: {error}).")
    return APIError(f"Kite refused the request ({said}: {error}).")


def _reason(error: BaseException) -> str:
    """The innermost reason in a chain of wrapped network errors: 'Connection refused'."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None) or (seen.args[-1] if seen.args else None)
        if isinstance(inner, BaseException) and inner is not seen:
            seen = inner
            continue
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        return f"{type(seen).__name__}: {str(seen)[:200]}"
