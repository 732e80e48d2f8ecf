"""The daily login: an address to open, a request token back, a proven access token into `.env`.

Automating the broker's own login page is against its rules, so a person opens it.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from urllib.parse import parse_qs, urlsplit

from shared.calendar import IST
from shared.exceptions import AuthenticationError

TOKEN_DIES_AT = time(6, 0)

_REQUEST_TOKEN = re.compile(r"[A-Za-z0-9]{4,128}")


def read_request_token(pasted: str) -> str:
    """The request token in what was pasted: the token itself, or the address that Kite led to.

    Raises AuthenticationError if there is none, or the address says that the login failed.
    """
    text = pasted.strip().strip("'\"")
    if not _REQUEST_TOKEN.fullmatch(text):
        query = parse_qs(_query_of(text))
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


def _query_of(text: str) -> str:
    try:
        return urlsplit(text if "?" in text else f"?{text}").query
    except ValueError:  # it looks like an address, and is none
        return ""


def token_death(now: datetime | None = None) -> datetime:
    """When a token that is alive `now` (default: the present) dies: the next 06:00 IST."""
    local = (now or datetime.now(IST)).astimezone(IST)
    death = datetime.combine(local.date(), TOKEN_DIES_AT, IST)
    return death if local < death else death + timedelta(days=1)
