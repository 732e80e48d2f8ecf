"""The Kite session: prove it, ask for bytes, read the instrument dump, translate what goes wrong.

Knows no database. Every call is retried where that may help (ruling 22). kiteconnect's own client
does the login; what is asked for after it comes as bytes, since that client reads numbers through
float and loses a whole list to one bad row.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from shared.exceptions import (
    APIError,
    AuthenticationError,
    StockIngestionError,
    TransientAPIError,
)
from shared.feed import Batch, Payload
from shared.utils.http_source import HttpSource
from shared.utils.kite_csv import parse_dump
from shared.utils.retry import RetryPolicy
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

_PROFILE = "/user/profile"
DEFAULT_ROOT = "https://api.kite.trade"
_LONGEST_MESSAGE = 500  # characters of Kite's
_LONGEST_ERROR = 10_000  # bytes; with status 200, a longer answer is not an error
_LOG_IN_AGAIN = (
    "Kite's access tokens die at about 6 AM IST every day, and on a login or logout elsewhere. "
    "Log in again: run 'python execute_dags.py login', or put a new token into "
    "KITE_ACCESS_TOKEN (in .env). Check also that KITE_API_KEY is the key it was made for."
)


class KiteClientWrapper:
    """Wrapper around Kite Connect for data ingestion; several threads may use one.

    `root` is the address of the API; `options` are those of HttpSource: time-out, deadline, retry,
    pace and progress (which is told of the dump alone).

    `payload` is the last dump that was fetched, with what was read in it.
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
        return cls(
            api["kite_api_key"],
            api["kite_api_secret"],
            api["kite_access_token"],
            root=api["root"],
            timeout_seconds=api["timeout_seconds"],
            deadline_seconds=api["deadline_seconds"],
            **options,
        )

    def authenticate(self) -> bool:
        """Prove the session with the API's cheapest call, the profile.

        Returns True. Raises AuthenticationError if the session is dead or refused, and
        TransientAPIError or APIError if the API cannot be asked.
        """
        self._is_proven = False
        self.user_id = self._get(_PROFILE, _read_user, "authenticate with Kite")
        self._is_proven = True
        return True

    @property
    def login_url(self) -> str:
        """The address where a person logs in; Kite then leads to the app's redirect address."""
        return str(self._make_login_client().login_url())

    def log_in(self, request_token: str) -> str:
        """Exchange a request token for an access token, which this client then uses.

        Returns the access token. It is one attempt: a request token is good once, and an answer
        that was lost may have used it up.

        Raises AuthenticationError if Kite refuses the request token or the API secret, and
        TransientAPIError or APIError if Kite cannot be asked.
        """
        access_token = self._http.call(
            lambda session: self._exchange(session, request_token),
            "log in to Kite",
            retry=RetryPolicy(max_attempts=1),
        )
        if not isinstance(access_token, str) or not access_token:
            raise APIError("Kite's answer to the login holds no access token.")
        self._access_token = access_token
        return access_token

    def ask(
        self,
        route: str,
        params: Mapping[str, Any] | None = None,
        *,
        bounds: Bounds = OTHER_BOUNDS,
    ) -> bytes:
        """The bytes that Kite answers to a GET of any route: JSON or CSV, whole.

            ask("/instruments/historical/256265/day", {"from": "2026-01-01", "to": "2026-11-27"})

        Raises AuthenticationError if `authenticate` has not succeeded before (Property 1), or the
        session died since; TransientAPIError if the answer cannot be had after all attempts;
        APIError if Kite refuses the request, or the answer is larger than `bounds`.
        """
        self._require_session()
        return self._get(route, lambda answer: answer.body, None, params, bounds)

    def fetch_instruments(self) -> list[dict[str, Any]]:
        """Fetch the complete instrument list.

        Returns one dict for each row that can be read: the eleven stored columns under Kite's
        names, with exact Decimals, dates, and None for blanks, and the `line_number` in the dump.
        The other rows, with their reasons, are in `payload.batch.rejected`.

        Raises AuthenticationError if `authenticate` has not succeeded before (Property 1), or the
        session died since; TransientAPIError or APIError if the list cannot be had.
        """
        self._require_session()

        def read(answer: Answer) -> Batch:  # only the reading tells that it is whole
            batch = parse_dump(answer.body)
            self.payload = Payload(answer.body, answer.packed, batch)
            return batch

        return self._get("/instruments", read, "fetch instruments", bounds=LIST_BOUNDS).rows

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

    def _get(
        self,
        route: str,
        read: Callable[[Answer], T],
        operation: str | None = None,
        params: Mapping[str, Any] | None = None,
        bounds: Bounds = OTHER_BOUNDS,
    ) -> T:
        """What `read` makes of the answer, unless that is an error of Kite's."""

        def read_good(answer: Answer) -> T:
            _refuse_error(answer, is_about_session=route == _PROFILE)
            return read(answer)

        headers = {
            "X-Kite-Version": "3",
            "Authorization": f"token {self._api_key}:{self._access_token}",
        }
        return self._http.read(
            read_good, route, params, headers=headers, bounds=bounds, operation=operation
        )

    def _make_login_client(self) -> Any:
        from kiteconnect import KiteConnect  # brings in twisted: 0.2 s that only a login needs

        root, timeout = self._http.source.root, self._http.timeout_seconds
        return KiteConnect(self._api_key, root=root, timeout=timeout)

    def _exchange(self, session: StrictSession, request_token: str) -> Any:
        from kiteconnect.exceptions import InputException, KiteException, TokenException

        client = self._make_login_client()
        client.reqsession = session
        try:
            answer = client.generate_session(request_token, self._api_secret)
        except (TokenException, InputException) as exc:
            raise AuthenticationError(
                f"Kite refused the login ({_said(exc.code, type(exc).__name__, str(exc))}). "
                "A request token is good once, for a few minutes: open the login address again. "
                "If that fails too, check KITE_API_KEY and KITE_API_SECRET."
            ) from exc
        except KiteException as exc:  # its text may be a whole page: not for the log
            raise _error_of_kite(exc.code, type(exc).__name__, str(exc)) from None
        return answer.get("access_token") if isinstance(answer, Mapping) else None


@lru_cache(maxsize=8)  # a run makes several clients, the warning is wanted once
def _warn_if_readable(root: str) -> None:
    """Warn of an http:// address outside this machine."""
    parts = urlsplit(root)
    is_this_machine = parts.hostname == "localhost"
    with suppress(ValueError):  # a name
        is_this_machine = is_this_machine or ip_address(parts.hostname or "").is_loopback
    if parts.scheme == "http" and not is_this_machine:
        logger.warning(
            "KITE_API_ROOT is %s: without https:// anybody on the way can read the access token, "
            "and change the list.",
            root,
        )


def _read_user(answer: Answer) -> str:
    """The user's id in a profile. Raises APIError if this is not one."""
    profile = _load_json(answer)
    user = profile.get("data") if isinstance(profile, Mapping) else None
    if not isinstance(user, Mapping):
        raise APIError("Kite's profile is not what it should be: expected an object.")
    return str(user.get("user_id", ""))


def _load_json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:  # its text is the whole answer: never shown
        raise TransientAPIError("Kite's answer is neither JSON nor CSV.") from None


def _refuse_error(answer: Answer, *, is_about_session: bool) -> None:
    """Raise the project's error for an answer that is an error of Kite's.

    Most have a status of their own; one with 200 is known by its content. A request that is about
    the session alone has no other input than the credentials.
    """
    is_good = answer.status == 200
    if is_good and ("json" not in answer.media_type or len(answer.body) > _LONGEST_ERROR):
        return
    try:
        content = _load_json(answer)
    except TransientAPIError:
        if is_good:
            raise
        content = None
    content = content if isinstance(content, Mapping) else {}
    kind, message = content.get("error_type"), str(content.get("message"))
    if kind == "InputException" and is_about_session:
        raise AuthenticationError(
            "Kite found the credentials missing or malformed "
            f"({_said(answer.status, kind, message)}). {_LOG_IN_AGAIN}"
        )
    if kind or content.get("status") == "error":
        raise _error_of_kite(answer.status, str(kind or "an error without a type"), message)
    if not is_good:
        raise APIError(f"Kite answered HTTP {answer.status} ({answer.reason}).")


def _error_of_kite(status: int, kind: str, message: str) -> StockIngestionError:
    """The project's error for one of Kite's. `kind` is its error_type."""
    said = _said(status, kind, message)
    if kind == "TokenException":
        return AuthenticationError(f"Kite refused the session ({said}). {_LOG_IN_AGAIN}")
    if kind == "PermissionException":
        return APIError(
            f"Kite does not let this app do that ({said}). A new login does not help: see what the "
            "app of KITE_API_KEY may do, at https://developers.kite.trade."
        )
    if kind == "DataException":  # kiteconnect's own has the whole answer as its text: never shown
        return TransientAPIError("Kite's answer is neither JSON nor CSV.")
    if kind == "NetworkException":
        return TransientAPIError(f"Kite cannot reach its back end ({said}).")
    return APIError(f"Kite refused the request ({said}).")


def _said(status: int, kind: str, message: str) -> str:
    """What an error of Kite's says, cut to a length that is fit for a message."""
    shown = message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}..."
    return f"HTTP {status}, {kind}: {shown}"
