"""Reads what a configuration is made of: the environment, `.env` and JSON files."""

import json
import logging
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dotenv import dotenv_values

from shared.config.addresses import find_secrets
from shared.config.logging_config import register_secrets
from shared.exceptions import ConfigurationError

logger = logging.getLogger(__name__)

SECRET_VARIABLES = (
    "KITE_API_SECRET",
    "KITE_ACCESS_TOKEN",
    "DB_PASSWORD",
    "NOTIFY_URLS",
    "PING_URL",
)
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def read_environment(env_file: Path) -> dict[str, str]:
    """The variables of `.env`, overruled by the process's. Raises ConfigurationError."""
    if env_file.exists() and not env_file.is_file():
        raise ConfigurationError(f"{env_file.name} is not a file: remove it (see .env.example).")
    try:
        # A "$" in a password is a "$": substitution is for the JSON files alone.
        from_file = dotenv_values(env_file, interpolate=False, encoding="utf-8-sig")
        if env_file.exists() and env_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mend = shlex.join(["chmod", "600", str(env_file)])
            warn_once(env_file, f"{env_file.name} can be read by others, mend that with: {mend}")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{env_file.name} cannot be read: {exc}.") from exc
    set_in_file = {name: value for name, value in from_file.items() if value}
    environment = {**set_in_file, **read_process_environment()}
    for name in SECRET_VARIABLES:
        register_secrets(find_secrets(environment.get(name, "")))
    register_secrets(_proxy_passwords(environment))
    return environment


def read_process_environment() -> dict[str, str]:
    """The variables of the process. An empty one counts as not set, so it overrules nothing."""
    return {name: value for name, value in os.environ.items() if value}


def read_json(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file, which messages call `name`. Raises ConfigurationError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as exc:
        raise ConfigurationError(f"{name} is missing: restore it from the repository.") from exc
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno}, column {exc.colno}"
        raise ConfigurationError(f"{name} is not valid JSON: {place}: {exc.msg}.") from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{name} cannot be read: {exc}.") from exc
    if not isinstance(values, dict):
        got = json.dumps(values)[:60]
        raise ConfigurationError(f"{name}: expected an object {{...}}, got {got}.")
    return values


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Put the values of `over` into `base`, key by key, at any depth."""
    for key, value in over.items():
        if isinstance(value, Mapping):
            base[key] = base[key] if isinstance(base.get(key), dict) else {}
            merge(base[key], value)
        else:
            base[key] = value


def substitute(
    value: Any, environment: Mapping[str, str], unset: dict[str, list[str]], path: str = ""
) -> Any:
    """A copy of `value` with `${VAR}` and `${VAR:-default}` substituted in any string of it.

    Those that are not set stay, and are added to `unset` by the value's path ("database.host").
    """
    if isinstance(value, dict):
        return {
            key: substitute(item, environment, unset, f"{path}.{key}" if path else key)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [substitute(item, environment, unset, path) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        known = environment.get(name) or default
        if known is None:
            unset.setdefault(path, []).append(name)
            return match[0]
        return str(known)

    return VARIABLE.sub(replace, value)


@lru_cache(maxsize=256)  # files are read several times in a run, a warning is wanted once
def warn_once(file: Path, message: str) -> None:
    """Log a warning about a file, unless the same was said before."""
    logger.warning("%s", message)


def _proxy_passwords(environment: Mapping[str, str]) -> Iterator[str]:
    """The passwords in HTTPS_PROXY=http://user:password@host and its like, as requests reads it."""
    for name, value in environment.items():
        if name.lower().endswith("_proxy"):
            _, _, password = value.rpartition("@")[0].split("://", 1)[-1].partition(":")
            yield from (password, unquote(password))
