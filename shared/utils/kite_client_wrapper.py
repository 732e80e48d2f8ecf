"""The Kite session: prove it, ask for bytes, read the whole list, translate what goes wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from shared.exceptions import (
    APIError,
    AuthenticationError,
    PermissionDeniedError,
    RefusedRequestError,
    StockIngestionError,
    TransientAPIError,
)
from shared.feed import Payload
from shared.program import command
from shared.utils.http_source import HttpSource
from shared.utils.kite_csv import parse_dump
from shared.utils.kiteconnect_client import KiteConnect, kite_exceptions
from shared.utils.retry import ONCE, RetryPolicy
from shared.utils.strict_session import (
    LIST_BOUNDS,
    OTHER_BOUNDS,
    Answer,
    Bounds,
    Source,
    StrictSession,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_ROOT = "https://api.kite.trade"
_LONGEST_MESSAGE = 500  # characters of Kite's
_LONGEST_ERROR = 10_000  # bytes; with status 200, a longer answer is not an error


def _as_it_is(body: bytes) -> Any:
    return body


class KiteClientWrapper:
    """Wrapper around Kite Connect for data ingestion; several threads may use one.

    `root` is the address of the API; `options` are those of HttpSource: time-out, deadline, retry,
    pace and progress (of the dump alone). `payload` is the last dump that was fetched.
    """

    def __init__(
        self,
        api_key: str,
        api_secret: str,
        access_token: str,
        *,
        root: str = DEFAULT_ROOT,
        **options: Any,
    ) -> None:
        """Initialize with Kite API credentials. Nothing is sent yet."""
        _warn_if_readable(root)
        self._api_key = api_key
        self._api_secret = api_secret
        self._access_token = access_token
        source = Source("Kite", root, "KITE_API_ROOT", "json|csv")
        self._http = HttpSource(root, source=source, **options)
        self._is_proven = False
        self.user_id = ""
        self.payload: Payload | None = None

    @classmethod
    def from_config(cls, api: Mapping[str, Any], **options: Any) -> KiteClientWrapper:
        """The wrapper for the configuration's `api` section; `options` are those of __init__."""
        settings = {name.removeprefix("kite_"): value for name, value in api.items()}
        return cls(**settings, **options)

    def authenticate(self) -> bool:
        """Prove the session with the API's cheapest call, the profile. Returns True.

        Raises AuthenticationError if it is dead or refused, APIError if the API cannot be asked.
        """
        self._is_proven = False
        self.user_id = self._call(_read_user, "authenticate with Kite")
        self._is_proven = True
        return True

    @property
    def login_url(self) -> str:
        """The address where a person logs in; Kite then leads to the app's redirect address."""
        return str(KiteConnect(self._api_key).login_url())

    def log_in(self, request_token: str) -> str:
        """Exchange a request token for an access token, which this client then uses.

        It is tried once: a request token is good once, and a lost answer may have used it up.
        Raises AuthenticationError if Kite refuses it or the secret, APIError if it cannot be asked.
        """
        self._access_token = self._call(
            lambda client: _exchange(client, request_token, self._api_secret),
            "log in to Kite",
            retry=ONCE,
        )
        return self._access_token

    def ask(
        self,
        route: str,
        params: Mapping[str, Any] | None = None,
        *,
        bounds: Bounds = OTHER_BOUNDS,
        read: Callable[[bytes], T] = _as_it_is,
    ) -> T:
        """What `read` makes of the bytes that Kite answers to a GET of any route: JSON or CSV.

            ask("/quote/ltp", {"i": ["NSE:INFY", "NSE:TCS"]})

        The answer is whole. It is asked for again where `read` raises TransientAPIError.
        Raises AuthenticationError if the session is not proven (Property 1) or has died,
        TransientAPIError after all attempts, APIError if Kite refuses or the answer is too large.
        """
        self._require_session()
        path = urlsplit(self._http.locate(route)).path

        def use(client: RawKiteConnect) -> T:
            return read(client.ask(route, params))

        return self._call(use, f"GET {path}", bounds=bounds)

    def fetch_instruments(self) -> list[dict[str, Any]]:
        """The good rows of the complete list, as `parse_dump` reads it. Raises as `ask` does."""
        self._require_session()

        def fetch(client: RawKiteConnect) -> list[dict[str, Any]]:
            body = client.instruments()
            batch = parse_dump(body)  # only the reading tells that it is whole
            self.payload = Payload(body, client.reqsession.answer.packed, batch)
            return batch.rows

        return self._call(fetch, "fetch instruments", bounds=LIST_BOUNDS)

    def filter_instruments(
        self, instruments: list[dict[str, Any]], exchanges: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """The instruments of the listed exchanges, in their order; None or [] means all."""
        return [row for row in instruments if not exchanges or row.get("exchange") in exchanges]

    def _require_session(self) -> None:
        if not self._is_proven:
            raise AuthenticationError(
                "The Kite session is not proven yet: call authenticate() before fetching."
            )

    def _call(
        self,
        use: Callable[[RawKiteConnect], T],
        operation: str,
        *,
        bounds: Bounds = OTHER_BOUNDS,
        retry: RetryPolicy | None = None,
    ) -> T:
        """What `use` makes of a client, whose errors become the project's."""

        def work(session: StrictSession) -> T:
            transport = _Transport(session, bounds)
            client = RawKiteConnect(self._http, transport, self._api_key, self._access_token)
            try:
                return use(client)
            except kite_exceptions.KiteException as exc:
                # The text of a DataException may be a whole page: not for the log.
                is_page = isinstance(exc, kite_exceptions.DataException)
                raise _translate(exc) from (None if is_page else exc)

        return self._http.call(work, operation, retry=retry)


class RawKiteConnect(KiteConnect):  # type: ignore[misc]  # the package has no types
    """kiteconnect's client for bytes: its parser uses floats, and fails for one bad row."""

    _routes: dict[str, str]

    def __init__(
        self, http: HttpSource, transport: _Transport, api_key: str, access_token: str
    ) -> None:
        super().__init__(api_key, access_token, http.source.root, timeout=http.timeout_seconds)
        self.reqsession = transport
        self._locate = http.locate
        # Whole addresses: joined to the root, a route could lead elsewhere, and the token with it.
        self._routes = {name: http.locate(route) for name, route in self._routes.items()}

    def ask(self, route: str, params: Mapping[str, Any] | None = None) -> bytes:
        """The bytes of the answer to a GET of any route."""
        self._routes[route] = self._locate(route)
        self._get(route, params=params)
        return self.reqsession.answer.body

    def _parse_instruments(self, data: Any) -> bytes:
        if not isinstance(data, bytes):
            raise APIError("Expected the instrument list as CSV, got JSON.")
        return data


class _Transport:
    """What kiteconnect sends a request with: a strict session. `answer` is the last answer."""

    answer: Answer

    def __init__(self, session: StrictSession, bounds: Bounds) -> None:
        self._session = session
        self._bounds = bounds

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        """A whole answer that is good, or an error that kiteconnect knows, by its `error_type`."""
        answer = self._session.ask(method, url, bounds=self._bounds, **kwargs)
        _refuse_unknown_error(answer)
        self.answer = answer
        response = requests.Response()
        response.status_code = answer.status
        response.headers["Content-Type"] = answer.media_type
        response._content = answer.body  # through `raw` it would be copied twice
        return response


def _refuse_unknown_error(answer: Answer) -> None:
    """Raise an error where kiteconnect would take one for a good answer, or choke on it."""
    if answer.status == 200 and len(answer.body) > _LONGEST_ERROR:
        return
    content = None
    with suppress(ValueError):
        content = json.loads(answer.body)
    content = content if isinstance(content, Mapping) else {}
    kind, message = content.get("error_type"), content.get("message")
    if kind or content.get("status") == "error":
        if not (isinstance(kind, str) and isinstance(message, str)):
            raise kite_exceptions.GeneralException(str(message), code=answer.status)
    elif answer.status != 200:
        raise APIError(f"Kite answered {answer.outcome}.")


def _read_user(client: RawKiteConnect) -> str:
    try:
        profile = client.profile()
    except kite_exceptions.InputException as exc:  # the credentials are its only input
        raise AuthenticationError(
            f"Kite found the credentials missing or malformed ({_describe(exc)}). {_log_in_again()}"
        ) from exc
    if not isinstance(profile, Mapping):
        raise APIError("Kite's profile is not what it should be: expected an object.")
    return str(profile.get("user_id", ""))


def _exchange(client: RawKiteConnect, request_token: str, api_secret: str) -> str:
    client.access_token = None  # an old one is not sent
    try:
        session = client.generate_session(request_token, api_secret)
    except (kite_exceptions.TokenException, kite_exceptions.InputException) as exc:
        raise AuthenticationError(
            f"Kite refused the login ({_describe(exc)}). "
            "A request token is good once, for a few minutes: open the login address again. "
            "If that fails too, check KITE_API_KEY and KITE_API_SECRET."
        ) from exc
    access_token = session.get("access_token") if isinstance(session, Mapping) else None
    if not isinstance(access_token, str) or not access_token:
        raise APIError("Kite's answer to the login holds no access token.")
    return access_token


@lru_cache(maxsize=8)  # a run makes several clients, the warning is wanted once
def _warn_if_readable(root: str) -> None:
    """Warn of an http:// address outside this machine."""
    parts = urlsplit(root)
    is_local = parts.hostname == "localhost"
    with suppress(ValueError):  # a name
        is_local = is_local or ip_address(parts.hostname or "").is_loopback
    if parts.scheme == "http" and not is_local:
        logger.warning(
            "KITE_API_ROOT is %s: without https:// anybody on the way can read the access token, "
            "and change the list.",
            root,
        )


def _translate(error: Any) -> StockIngestionError:
    """The project's error for one of kiteconnect's."""
    said = _describe(error)
    if isinstance(error, kite_exceptions.TokenException):
        return AuthenticationError(f"Kite refused the session ({said}). {_log_in_again()}")
    if isinstance(error, kite_exceptions.PermissionException):
        return PermissionDeniedError(
            f"Kite does not let this app do that ({said}). A new login does not help: see what the "
            "app of KITE_API_KEY may do, at https://developers.kite.trade."
        )
    if isinstance(error, kite_exceptions.DataException):  # its text is the whole answer
        return TransientAPIError("Kite's answer is neither JSON nor CSV.")
    if isinstance(error, kite_exceptions.NetworkException):
        return TransientAPIError(f"Kite cannot reach its back end ({said}).")
    is_input = isinstance(error, kite_exceptions.InputException)
    refused = RefusedRequestError if is_input else APIError
    return refused(f"Kite refused the request ({said}).")


def _log_in_again() -> str:
    return (
        "Kite's access tokens die at about 6 AM IST every day, and on a login or logout elsewhere. "
        f"Log in again ({command('login')}), or put a new token into KITE_ACCESS_TOKEN (in .env). "
        "Check also that KITE_API_KEY is the key it was made for."
    )


def _describe(error: Any) -> str:
    """What an error of Kite's says, cut to a length that is fit for a message."""
    text = str(error)
    end = "..." if len(text) > _LONGEST_MESSAGE else ""
    return f"HTTP {error.code}, {type(error).__name__}: {text[:_LONGEST_MESSAGE]}{end}"
