"""The Kite session: prove it, download the instrument dump, translate what goes wrong.

Knows no database. Every call is retried where that may help (ruling 22).
"""

from __future__ import annotations

import http.client
import ipaddress
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from shared.exceptions import (
    APIError,
    AuthenticationError,
    StockIngestionError,
    TransientAPIError,
)
from shared.feed import Batch, Payload, RejectedRow
from shared.utils.interruptible import DeadlineExceededError, call_interruptibly
from shared.utils.kite_csv import parse_dump
from shared.utils.kiteconnect_client import KiteConnect, kite_exceptions
from shared.utils.retry import RetryPolicy
from shared.utils.strict_session import Progress, StrictSession

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_ROOT = "https://api.kite.trade"
DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_DEADLINE_SECONDS = 300.0
_LONGEST_MESSAGE = 500  # characters of Kite's
_LOG_IN_AGAIN = (
    "Kite's access tokens die at about 6 AM IST every day, and on a login or logout elsewhere. "
    "Log in again: run 'python execute_dags.py --login', or put a new token into "
    "KITE_ACCESS_TOKEN (in .env). Check also that KITE_API_KEY is the key it was made for."
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
        _warn_if_readable(root)
        self._api_secret = api_secret
        self.user_id = ""
        self._root = root
        self._deadline_seconds = deadline_seconds
        self._retry = retry or RetryPolicy()
        self._client = RawKiteConnect(
            api_key, access_token, root=root, timeout=timeout_seconds, progress=progress
        )
        self._authenticated = False
        self.rejected_rows: list[RejectedRow] = []
        self.payload: Payload | None = None

    @classmethod
    def from_config(
        cls,
        api: Mapping[str, Any],
        *,
        retry: RetryPolicy | None = None,
        progress: Progress | None = None,
    ) -> KiteClientWrapper:
        """The wrapper for the configuration's `api` section."""
        return cls(
            api["kite_api_key"],
            api["kite_api_secret"],
            api["kite_access_token"],
            root=api["root"],
            timeout_seconds=api["timeout_seconds"],
            deadline_seconds=api["deadline_seconds"],
            retry=retry,
            progress=progress,
        )

    def authenticate(self) -> bool:
        """Prove the session with the API's cheapest call, the profile.

        Returns True. Raises AuthenticationError if the session is dead or refused, and
        TransientAPIError or APIError if the API cannot be asked.
        """
        self._authenticated = False
        profile = self._call(self._fetch_profile, "authenticate with Kite")
        if not isinstance(profile, Mapping):
            raise APIError("Kite's profile is not what it should be: expected an object.")
        self.user_id = str(profile.get("user_id", ""))
        self._authenticated = True
        return True

    @property
    def login_url(self) -> str:
        """The address where a person logs in; Kite then leads to the app's redirect address."""
        return str(self._client.login_url())

    def log_in(self, request_token: str) -> str:
        """Exchange a request token for an access token, which this client then uses.

        Returns the access token. It is one attempt: a request token is good once, and an answer
        that was lost may have used it up.

        Raises AuthenticationError if Kite refuses the request token or the API secret, and
        TransientAPIError or APIError if Kite cannot be asked.
        """
        once = RetryPolicy(max_attempts=1)
        session = self._call(lambda: self._exchange(request_token), "log in to Kite", once)
        access_token = session.get("access_token") if isinstance(session, Mapping) else None
        if not isinstance(access_token, str) or not access_token:
            raise APIError("Kite's answer to the login holds no access token.")
        return access_token

    def _exchange(self, request_token: str) -> Any:
        try:
            return self._client.generate_session(request_token, self._api_secret)
        except (kite_exceptions.TokenException, kite_exceptions.InputException) as exc:
            raise AuthenticationError(
                f"Kite refused the login ({_said(exc)}). A request token is good once, for a few "
                "minutes: open the login address again. If that fails too, check KITE_API_KEY and "
                "KITE_API_SECRET."
            ) from exc

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
                f"Kite found the credentials missing or malformed ({_said(exc)}). {_LOG_IN_AGAIN}"
            ) from exc

    def _fetch_dump(self) -> Batch:
        body = self._client.instruments()
        batch = parse_dump(body)
        self.payload = Payload(body, self._client.reqsession.packed_body, batch)
        return batch

    def _call(self, func: Callable[[], T], operation: str, retry: RetryPolicy | None = None) -> T:
        def attempt() -> T:
            try:
                return call_interruptibly(func, deadline_seconds=self._deadline_seconds)
            except Exception as exc:
                self._client.reqsession.abort()
                translated = _translate(exc, self._root, self._deadline_seconds)
                if translated is exc:
                    raise  # not "from" itself: who follows the causes would never arrive
                if isinstance(exc, kite_exceptions.DataException):
                    raise translated from None  # its text is a whole page: not for the log
                raise translated from exc

        return (retry or self._retry).run(attempt, operation=operation)


@lru_cache(maxsize=8)  # a run makes several clients, the warning is wanted once
def _warn_if_readable(root: str) -> None:
    """Warn of an http:// address outside this machine."""
    parts = urlsplit(root)
    host = parts.hostname or ""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if parts.scheme == "http" and not is_loopback:
        logger.warning(
            "KITE_API_ROOT is %s: without https:// anybody on the way can read the access token, "
            "and change the list.",
            root,
        )


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
        self.reqsession = StrictSession(progress)
        if urlsplit(root).hostname in ("127.0.0.1", "localhost", "::1"):
            self.reqsession.trust_env = False  # no proxy leads to this machine itself

    def _parse_instruments(self, data: Any) -> bytes:
        if not isinstance(data, bytes):
            raise APIError("Expected the instrument list as CSV, got JSON.")
        return data


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
    if isinstance(error, OSError):  # requests.RequestException is one
        return TransientAPIError(f"No connection to Kite at {root}: {_reason(error)}")
    if isinstance(error, urllib3.exceptions.HTTPError):
        return TransientAPIError(f"Kite's answer was cut short or damaged: {_reason(error)}")
    return APIError(f"Kite's answer cannot be used: {_reason(error)}")


def _translate_kite(error: kite_exceptions.KiteException) -> StockIngestionError:
    said = _said(error)
    if isinstance(error, kite_exceptions.TokenException):
        return AuthenticationError(f"Kite refused the session ({said}). {_LOG_IN_AGAIN}")
    if isinstance(error, kite_exceptions.PermissionException):
        return APIError(
            f"Kite lets this app not do that ({said}). A new login does not help: see "
            "what the app of KITE_API_KEY may do, at https://developers.kite.trade."
        )
    if isinstance(error, kite_exceptions.DataException):
        # Its text is the whole answer: never shown.
        return TransientAPIError("Kite's answer is neither JSON nor CSV.")
    if isinstance(error, kite_exceptions.NetworkException):
        return TransientAPIError(f"Kite cannot reach its back end ({said}).")
    return APIError(f"Kite refused the request ({said}).")


def _said(error: kite_exceptions.KiteException) -> str:
    """What an error of Kite's says, cut to a length that is fit for a message."""
    text = str(error)
    shown = text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
    return f"HTTP {error.code}, {type(error).__name__}: {shown}"


def _reason(error: BaseException) -> str:
    """The innermost reason in a chain of wrapped network errors: 'Connection refused'."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None) or (seen.args[-1] if seen.args else None)
        if not isinstance(inner, BaseException) and isinstance(seen.__cause__, OSError):
            inner = seen.__cause__  # a NewConnectionError has only a text of it
        if isinstance(inner, BaseException) and inner is not seen:
            seen = inner
            continue
        if isinstance(seen, http.client.IncompleteRead):
            return "the connection was closed too early"
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        return f"{type(seen).__name__}: {str(seen)[:200]}"
