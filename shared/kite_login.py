"""`login`: the day's login to Kite, and its proven access token into `.env`."""

import re
import sys
from dataclasses import asdict
from datetime import datetime, time, timedelta
from urllib.parse import parse_qs

from shared.calendar import IST
from shared.config import config_loader
from shared.config.config_loader import ConfigLoader
from shared.config.env_file import reserved
from shared.config.logging_config import register_secrets
from shared.console import say
from shared.exceptions import AuthenticationError
from shared.utils.kite_client_wrapper import KiteClientWrapper

TOKEN_VARIABLE = "KITE_ACCESS_TOKEN"  # noqa: S105 - the name of the variable, not a token
TOKEN_DIES_AT = time(6, 0)

_LONGEST_LINE = 8192  # bytes
_REQUEST_TOKEN = re.compile(r"[A-Za-z0-9]{4,128}")


def log_in() -> None:
    """Exchange a request token from standard input for an access token, and keep it in `.env`.

    Automating the broker's own login page is against its rules, so a person opens it.

    Raises ConfigurationError, AuthenticationError, APIError; `.env` is as it was then.
    """
    client = KiteClientWrapper.from_config(asdict(ConfigLoader.load_api_config(with_token=False)))
    with reserved(config_loader.ENV_FILE) as set_variable:  # before the request token is used up
        access_token = _exchange(client)
        set_variable(TOKEN_VARIABLE, access_token)
    death = describe_death()
    say(f"Logged in as {client.user_id}. The token is in .env, and dies at about {death}.")
    if config_loader.environment_overrules(TOKEN_VARIABLE, access_token):
        say(f"Beware: {TOKEN_VARIABLE} is also set in the environment, and wins over .env.")


def _exchange(client: KiteClientWrapper) -> str:
    """Ask for a request token, and give the access token that Kite has for it, proven."""
    if sys.stdin is not None and sys.stdin.isatty():
        say("1. Open this address in a browser and log in to Kite:\n")
        say(f"   {client.login_url}\n")
        say("2. Paste the address that the browser shows then (or its request_token):")
    # Whatever bytes the line has; sys.stdin is None if it was closed before the start (`<&-`).
    line = sys.stdin.buffer.readline(_LONGEST_LINE) if sys.stdin is not None else b""
    pasted = line.decode("utf-8", "replace")
    if not pasted.strip():
        raise AuthenticationError(
            f"Nothing came on standard input. Open {client.login_url}, log in, and give the "
            "address that the browser shows then."
        )
    request_token = read_request_token(pasted)
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
                "open the login address again."
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
    now = datetime.now(IST)
    death = token_death(now)
    return f"{death:%H:%M IST on %d %B} (in {(death - now).total_seconds() / 3600:.1f} hours)"
