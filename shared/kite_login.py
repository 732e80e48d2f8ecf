"""`login`: the day's login to Kite, and its proven access token into `.env`."""

import logging
import re
import select
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, time, timedelta
from urllib.parse import parse_qs

from shared import clock
from shared.calendar import IST
from shared.config import config_loader
from shared.config.config_loader import ConfigLoader
from shared.config.env_file import reserved
from shared.config.logging_config import register_secrets
from shared.console import say, say_lines
from shared.exceptions import APIError, AuthenticationError
from shared.login_redirect import Redirect, RedirectListener, can_listen_at
from shared.utils.kite_client_wrapper import KiteClientWrapper

TOKEN_VARIABLE = "KITE_ACCESS_TOKEN"  # noqa: S105 - the name of the variable, not a token
TOKEN_DIES_AT = time(6, 0)

_STILL_WAITING = "Still waiting for a login; Ctrl-C ends this."
_SLICE_SECONDS = 0.1  # how long a browser that comes, or a signal, waits for this program
_LONGEST_LINE = 8192  # bytes
logger = logging.getLogger(__name__)

_REQUEST_TOKEN = re.compile(r"[A-Za-z0-9]{4,128}")


def log_in() -> None:
    """Exchange a request token for an access token, and keep it in `.env`.

    At a terminal the request token comes with the browser that Kite leads back to this machine, or
    is pasted; elsewhere it is a line on standard input. Automating the broker's own login page is
    against its rules, so a person opens it.

    Raises ConfigurationError, AuthenticationError, APIError; `.env` is as it was then.
    """
    client = KiteClientWrapper.from_config(asdict(ConfigLoader.load_api_config(with_token=False)))
    address = ConfigLoader.load_redirect_address()
    with reserved(config_loader.ENV_FILE) as set_variable:  # before the request token is used up

        def finish(given: str) -> str:
            access_token = _exchange(client, given)
            set_variable(TOKEN_VARIABLE, access_token)
            return access_token

        if sys.stdin is not None and sys.stdin.isatty():
            access_token = _log_in_at_terminal(client.login_url, address, finish)
        else:
            access_token = finish(_read_line(client.login_url))
    death = describe_death()
    say(f"Logged in as {client.user_id}. The token is in .env, and dies at about {death}.")
    if config_loader.environment_overrules(TOKEN_VARIABLE, access_token):
        say(f"Beware: {TOKEN_VARIABLE} is also set in the environment, and wins over .env.")


def _log_in_at_terminal(login_url: str, address: str, finish: Callable[[str], str]) -> str:
    """Tell what to do, and finish with what the browser brings, or with what is pasted.

    Anybody's page can lead a browser here: what fails then is told, and waited on. Returns the
    access token.
    """
    listener = _listen(address)
    try:
        say("1. Open this address in a browser and log in to Kite:\n")
        say(f"   {login_url}\n")
        say_lines(_describe_second_step(address, listener))
        while True:
            given = _wait_for_login(login_url, listener)
            if not isinstance(given, str):
                access_token = _finish_in_browser(given, finish)
            elif listener is None:
                access_token = finish(given)
            else:
                access_token = _finish_with_line(given, finish)
            if access_token:
                return access_token
    finally:
        if listener:
            listener.close()


def _listen(address: str) -> RedirectListener | None:
    if not can_listen_at(address):
        return None
    try:
        return RedirectListener(address)
    except OSError as exc:
        reason = exc.strerror or exc
        logger.warning("login cannot listen at %s (%s): paste the address below.", address, reason)
        return None


def _describe_second_step(address: str, listener: RedirectListener | None) -> str:
    paste = "aste the address that the browser shows then (or its request_token):"
    if listener is None:
        return f"2. P{paste}"
    port = listener.server_address[1]
    return (
        "2. This goes on by itself if the redirect address of your app, which is set\n"
        f"   at https://developers.kite.trade, is {address}\n"
        "   and the browser runs on this machine, or you have come here with\n"
        f"   ssh -L {port}:127.0.0.1:{port} HOST\n"
        f"   Or p{paste}"
    )


def _wait_for_login(login_url: str, listener: RedirectListener | None) -> Redirect | str:
    """What comes first: a browser, or a line."""
    if listener is None:
        return _read_line(login_url)
    while True:
        if redirect := listener.take():
            return redirect
        if select.select([sys.stdin], [], [], _SLICE_SECONDS)[0]:
            return _read_line(login_url, may_be_blank=True)


def _finish_in_browser(redirect: Redirect, finish: Callable[[str], str]) -> str | None:
    """The access token; None if there is none for this browser, which is told why."""
    said, succeeded = "Not logged in: the terminal says why.", False
    try:
        access_token = finish(redirect.query)
        said, succeeded = "Logged in. You may close this window.", True
        return access_token
    except (AuthenticationError, APIError) as exc:
        said = f"Not logged in. {exc}"
        logger.warning("%s %s", exc, _STILL_WAITING)
        return None
    finally:
        redirect.answer(said, succeeded=succeeded)


def _finish_with_line(given: str, finish: Callable[[str], str]) -> str | None:
    try:
        return finish(given) if given.strip() else None
    except (AuthenticationError, APIError) as exc:
        logger.warning("%s %s", exc, _STILL_WAITING)
        return None


def _read_line(login_url: str, *, may_be_blank: bool = False) -> str:
    """A line of standard input. Raises AuthenticationError if there is none."""
    # Whatever bytes the line has; sys.stdin is None if it was closed before the start (`<&-`).
    line = sys.stdin.buffer.readline(_LONGEST_LINE) if sys.stdin is not None else b""
    text = line.decode("utf-8", "replace")
    if not (text if may_be_blank else text.strip()):
        raise AuthenticationError(
            f"Nothing came on standard input. Open {login_url} and log in; then give the "
            "address that the browser shows then."
        )
    return text


def _exchange(client: KiteClientWrapper, given: str) -> str:
    """The access token that Kite has for the request token in what was given, proven."""
    request_token = read_request_token(given)
    register_secrets([request_token])
    access_token = client.log_in(request_token)
    register_secrets([access_token])
    client.authenticate()
    return access_token


def read_request_token(pasted: str) -> str:
    """The request token in what was pasted: the token itself, or the address that Kite led to.

    Raises AuthenticationError if there is none, or the address says that the login failed.
    """
    text = pasted.strip().strip("'\"")
    if not _REQUEST_TOKEN.fullmatch(text):
        query = parse_qs((text.partition("?")[2] or text).partition("#")[0])
        status = query.get("status", ["success"])[-1]
        if status != "success":
            raise AuthenticationError(
                f"Kite's address says that the login did not succeed (status={status[:40]!r}): "
                "log in once more at the login address."
            )
        text = query.get("request_token", [""])[-1]
    if not _REQUEST_TOKEN.fullmatch(text):
        raise AuthenticationError(
            "No request token in what came. Expected the address that the browser shows after "
            "the login (https://...?request_token=...&action=login&status=success), or the "
            "request token itself."
        )
    return text


def token_death(now: datetime) -> datetime:
    """When a token that is alive `now` dies: the next 06:00 IST."""
    local = now.astimezone(IST)
    death = datetime.combine(local.date(), TOKEN_DIES_AT, IST)
    return death if local < death else death + timedelta(days=1)


def describe_death() -> str:
    """When a token of today dies, in words."""
    now = clock.now()
    death = token_death(now)
    return f"{death:%H:%M IST on %d %B} (in {(death - now).total_seconds() / 3600:.1f} hours)"
