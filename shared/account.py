"""`login`: the day's login to Kite, and its access token into `.env`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import datetime

from shared.calendar import IST
from shared.config import config_loader
from shared.config.config_loader import ConfigLoader
from shared.config.env_file import reserved
from shared.config.logging_config import register_secrets
from shared.console import say
from shared.exceptions import AuthenticationError
from shared.kite_login import read_request_token, token_death
from shared.utils.kite_client_wrapper import KiteClientWrapper

TOKEN_VARIABLE = "KITE_ACCESS_TOKEN"  # noqa: S105 - the name of the variable, not a token
_LONGEST_LINE = 8192  # bytes


def log_in() -> None:
    """Exchange a request token from standard input for an access token, and keep it in `.env`.

    Raises ConfigurationError, AuthenticationError, APIError; `.env` is as it was then.
    """
    client = KiteClientWrapper.from_config(asdict(ConfigLoader.load_api_config(with_token=False)))
    with reserved(config_loader.ENV_FILE) as set_variable:  # before the request token is used up
        access_token = _exchange(client)
        set_variable(TOKEN_VARIABLE, access_token)
    say(
        f"Logged in as {client.user_id}. The token is in .env, and dies at about "
        f"{describe_death()}."
    )
    if config_loader.environment_overrules(TOKEN_VARIABLE, access_token):
        say(f"Beware: {TOKEN_VARIABLE} is also set in the environment, and wins over .env.")


def _exchange(client: KiteClientWrapper) -> str:
    """Ask for a request token, and give the access token that Kite has for it, proven."""
    if sys.stdin is not None and sys.stdin.isatty():
        say("1. Open this address in a browser and log in to Kite:\n")
        say(f"   {client.login_url}\n")
        say("2. Paste the address that the browser shows then (or its request_token):")
    pasted = _read_line()
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


def _read_line() -> str:
    """A line of standard input, whatever bytes it has; "" if there is none."""
    if sys.stdin is None:  # closed before the start (`<&-`)
        return ""
    return sys.stdin.buffer.readline(_LONGEST_LINE).decode("utf-8", "replace")


def describe_death() -> str:
    """When a token of today dies, in words."""
    death = token_death()
    hours = (death - datetime.now(IST)).total_seconds() / 3600
    return f"{death:%H:%M IST on %d %B} (in {hours:.1f} hours)"
