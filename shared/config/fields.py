"""Every setting: its path in the JSON file, what it may be, and its default."""

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.calendar import DAILY, GRACE_MINUTES, Schedule
from shared.config.addresses import split_addresses

REQUIRED: Any = object()
UNBOUNDED = 10**9
_INTEGER = re.compile(r"[0-9]{1,20}")  # Python itself refuses thousands of digits
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_ANY_RECORD = logging.LogRecord("any", logging.INFO, "any.py", 1, "any", (), None)

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


class HiddenValueError(ValueError):
    """What was expected in place of a value that must not be shown: it holds a password."""


@dataclass(frozen=True)
class Field:
    """One setting; its path is a name, or a section and a name ("database.host").

    `convert` turns the JSON value into the typed one; its ValueError says what was expected. A
    secret's value is never shown. An extra setting may be left out without a warning.
    """

    path: str
    convert: Callable[[Any], Any]
    default: Any = REQUIRED
    is_secret: bool = False
    is_extra: bool = False


def text(value: Any) -> str:
    """A text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a text that is not blank")
    return value


def any_text(value: Any) -> str:
    """A text, which may be empty."""
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def integer(minimum: int, maximum: int) -> Callable[[Any], int]:
    """A whole number in a range, also as text (a substituted variable is text)."""
    is_any = (minimum, maximum) == (1, UNBOUNDED)
    expected = "a positive integer" if is_any else f"an integer from {minimum} to {maximum}"

    def convert(value: Any) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
            value = int(value)
        if type(value) is not int or not minimum <= value <= maximum:
            raise ValueError(f"expected {expected}")
        return value

    return convert


def number(minimum: float, maximum: float) -> Callable[[Any], float]:
    """A number in a range, also as text."""

    def convert(value: Any) -> float:
        if isinstance(value, str):
            value = float(value) if _NUMBER.fullmatch(value.strip()) else None
        if type(value) not in (int, float) or not minimum <= value <= maximum:
            raise ValueError(f"expected a number from {minimum:g} to {maximum:g}")
        return float(value)

    return convert


def boolean(value: Any) -> bool:
    """True or false, also as text."""
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower())
    if type(value) is not bool:
        raise ValueError("expected true or false")
    return value


def one_of(choices: tuple[str, ...], *, upper: bool = False) -> Callable[[Any], str]:
    """One of a few texts."""

    def convert(value: Any) -> str:
        wanted = value.strip().upper() if upper and isinstance(value, str) else value
        if wanted not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return str(wanted)

    return convert


def list_of(convert: Callable[[Any], Any], expected: str) -> Callable[[Any], list[Any]]:
    """A list of different items, each converted; `expected` says what they must be."""

    def convert_all(value: Any) -> list[Any]:
        with suppress(TypeError, ValueError):
            if isinstance(value, list):
                return list(dict.fromkeys(map(convert, value)))
        raise ValueError(f"expected a list of {expected}")

    return convert_all


def exchanges(value: Any) -> list[str]:
    """A list of exchange codes; null and [] mean all."""
    expected = 'exchange codes such as ["NSE", "NFO"], or null'
    codes = list_of(lambda item: text(item).strip().upper(), expected)
    return codes([] if value is None else value)


def or_null(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What `convert` gives; null is None."""

    def convert_or_not(value: Any) -> Any:
        try:
            return None if value is None else convert(value)
        except ValueError as exc:
            raise ValueError(f"{exc}, or null") from exc

    return convert_or_not


dates = list_of(date.fromisoformat, 'dates such as ["2026-01-26"]')


def dag_ids(value: Any) -> tuple[int, ...]:
    """A list of ids of DAGs."""
    return tuple(list_of(integer(0, UNBOUNDED), "DAG ids such as [1]")(value))


def schedule(value: Any) -> str:
    """When a DAG runs: "daily" or a cron expression (see `Schedule`)."""
    return Schedule(value if isinstance(value, str) else "").text


def json_object(value: Any) -> dict[str, Any]:
    """Any object; its value is not shown, as it may hold secrets."""
    if not isinstance(value, dict):
        raise HiddenValueError("expected an object {...}")
    return value


def address(value: Any) -> str:
    """An http or https address, without a user and password in it (ruling 36)."""
    if isinstance(value, str) and "@" in value:
        raise HiddenValueError("expected an address without user and password (user:password@)")
    with suppress(TypeError, ValueError):
        is_web = text(value).lower().startswith(("http://", "https://"))
        parts = urlsplit(value)
        if is_web and value.isprintable() and parts.hostname and parts.port != 0:
            return str(value)
    raise ValueError("expected an address that begins with https:// (or http://)")


def ping_address(value: Any) -> str:
    """An http or https address, or an empty text."""
    return "" if value == "" else address(value)


def receivers(value: Any) -> list[str]:
    """Addresses that apprise knows, such as mailto://...: a list, or one text with all of them."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        found = [part for text in texts for part in split_addresses(text)]
        if all("://" in part and part.isprintable() for part in found):
            return list(dict.fromkeys(found))
    raise ValueError('expected addresses such as "mailto://user:password@example.com"')


def folder(value: Any) -> str:
    """The path of a folder; ~ is a home folder."""
    if not text(value).isprintable():
        raise ValueError("expected a folder without control characters in its name")
    try:
        return str(Path(value).expanduser())
    except RuntimeError as exc:
        raise ValueError("expected a folder whose ~ is a home folder that exists") from exc


def credential(value: Any) -> str:
    """A key, secret or token of Kite: it travels in an HTTP header."""
    written = text(value)
    if not written.isascii() or not written.isprintable() or " " in written:
        raise ValueError("expected ASCII letters, digits and signs without blanks")
    return written


def log_format(value: Any) -> str:
    """A format in the % style of the logging module, tried on a record."""
    with suppress(TypeError, ValueError):
        logging.Formatter(text(value)).format(_ANY_RECORD)
        return str(value)
    raise ValueError("expected a log format such as %(levelname)s - %(message)s")


ROOT_FIELDS = (
    Field("api.kite_api_key", credential),
    Field("api.kite_api_secret", credential, is_secret=True),
    Field("api.kite_access_token", credential, is_secret=True),
    Field("api.root", address, "https://api.kite.trade", is_extra=True),
    Field("api.redirect_address", address, "http://127.0.0.1:5010/", is_extra=True),
    Field("api.timeout_seconds", number(0.001, 3600), 30.0, is_extra=True),
    Field("api.deadline_seconds", number(0.001, 86400), 300.0, is_extra=True),
    Field("database.host", text, "localhost"),
    Field("database.port", integer(1, 65535), 5432),
    Field("database.database", text, "moneytree"),
    Field("database.user", text),
    # Without one libpq looks into .pgpass, and the server may want none (a socket, peer).
    Field("database.password", any_text, "", is_secret=True, is_extra=True),
    Field("database.sslmode", one_of(SSL_MODES), "prefer", is_extra=True),
    Field("database.connect_timeout_seconds", integer(2, 3600), 10, is_extra=True),
    Field("database.lock_timeout_seconds", number(0.001, 86400), 60.0, is_extra=True),
    Field("database.statement_timeout_seconds", number(0.001, 86400), 300.0, is_extra=True),
    # Closings that were declared at short notice, and trading on weekends (shared/calendar.py).
    Field("calendar.holidays", dates, [], is_extra=True),
    Field("calendar.sessions", dates, [], is_extra=True),
    # Who is told of a failure, and the dead man's switch that is told of each run.
    Field("notify.urls", receivers, [], is_secret=True, is_extra=True),
    Field("notify.ping_url", ping_address, "", is_secret=True, is_extra=True),
    Field("logging.level", one_of(LOG_LEVELS, upper=True), "INFO"),
    Field("logging.format", log_format, "%(asctime)s - %(name)s - %(levelname)s - %(message)s"),
    Field("logging.directory", folder, "logs", is_extra=True),
    Field("logging.max_bytes", integer(1024, UNBOUNDED), 10_000_000, is_extra=True),
    Field("logging.backup_count", integer(1, 1000), 5, is_extra=True),
)

DAG_FIELDS = (
    Field("enabled", boolean, True),
    Field("schedule", schedule, DAILY),
    Field("description", any_text, ""),
    # What else a DAG needs that is shipped disabled, told where it is named.
    Field("to_enable", any_text, "", is_extra=True),
    # The DAGs that have to succeed before this one runs, in a call that runs them.
    Field("after", dag_ids, (), is_extra=True),
    # How long after its schedule a DAG's rows may be those of the time before (status).
    Field("grace_minutes", integer(0, 10_080), GRACE_MINUTES, is_extra=True),
    # Into how many parts a scheduler with several workers may split it (--slice).
    Field("slices", integer(1, 100), 1, is_extra=True),
)

RETRY_FIELDS = (
    Field("parameters.retry_attempts", integer(1, 100), 3),
    Field("parameters.retry_delay_seconds", number(0, 3600), 5.0),
)

# A feed's that does not load by itself.
FEED_FIELDS = (
    Field("parameters.batch_size", integer(1, UNBOUNDED), 1000),
    *RETRY_FIELDS,
    # A payload of which more rows than this are rejected fails the run.
    Field("parameters.max_reject_percent", number(0, 100), 5.0, is_extra=True),
    # How long good payloads are kept; 0 keeps none.
    Field("parameters.archive_days", integer(0, 36500), 30, is_extra=True),
    Field("parameters.archive_directory", folder, "archive", is_extra=True),
)

# A snapshot's besides: one that lost more rows than this since the last good run fails the run.
SNAPSHOT_FIELDS = (Field("parameters.max_drop_percent", number(0, 100), 50.0, is_extra=True),)

# The parameters of a DAG that declares none of them: nobody but the DAG knows what they mean.
FREE_PARAMETERS = Field("parameters", json_object, {}, is_extra=True)


def default_of(path: str) -> Any:
    """The default of a setting of the root config, by its path ("database.port")."""
    return next(item.default for item in ROOT_FIELDS if item.path == path)
