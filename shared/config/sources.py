"""Reads what a configuration is made of: the environment, `.env` and JSON files.

`${VAR}` and `${VAR:-default}` are substituted in any string of a file. Whether the values are
right is not asked here (see checks.py).
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dotenv import dotenv_values

from shared.config.logging_config import register_secrets
from shared.exceptions import ConfigurationError

logger = logging.getLogger(__name__)

SECRET_VARIABLES = ("KITE_API_SECRET", "KITE_ACCESS_TOKEN", "DB_PASSWORD")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Source:
    """A JSON file, its variables substituted as far as they are known.

    `missing` has the variables that are not set, by the path of the value that wants them.
    Values that code merges over the files are a source without a file.
    """

    name: str
    values: dict[str, Any]
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    file: Path | None = None

    def has(self, path: str) -> bool:
        """Whether there is a value at `path` ("database.host")."""
        values: Any = self.values
        for part in path.split("."):
            values = values.get(part) if isinstance(values, dict) else None
        return values is not None


def read_environment(env_file: Path) -> dict[str, str]:
    """The variables of `.env`, overruled by those of the process.

    Raises ConfigurationError if the file is there and cannot be read.
    """
    if env_file.exists() and not env_file.is_file():
        raise ConfigurationError(f"{env_file.name} is not a file: remove it (see .env.example).")
    try:
        # A "$" in a password is a "$": substitution is for the JSON files alone.
        from_file = dotenv_values(env_file, interpolate=False, encoding="utf-8-sig")
        if env_file.exists() and os.name == "posix":
            _warn_if_open(env_file, stat.S_IMODE(env_file.stat().st_mode))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{env_file.name} cannot be read: {exc}.") from exc
    set_in_file = {name: value for name, value in from_file.items() if value is not None}
    environment = {**set_in_file, **read_process_environment()}
    # As soon as they are known, whatever the JSON files do with them.
    register_secrets(environment[name] for name in SECRET_VARIABLES if name in environment)
    register_secrets(_proxy_passwords(environment))
    return environment


def read_process_environment() -> dict[str, str]:
    """The variables of the process. An empty one counts as not set, so it overrules nothing."""
    return {name: value for name, value in os.environ.items() if value}


def read_source(path: Path, environment: Mapping[str, str], project_root: Path) -> Source:
    """The JSON file at `path`, named in messages by its path from the project's root.

    Raises ConfigurationError if it is missing, cannot be read, or holds no JSON object.
    """
    resolved = path.resolve()
    is_inside = resolved.is_relative_to(project_root)
    name = str(resolved.relative_to(project_root) if is_inside else path)
    missing: dict[str, list[str]] = {}
    values = _substitute(_read_json(path, name), environment, missing)
    return Source(name, values, missing, resolved)


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Put the values of `over` into `base`, key by key, at any depth."""
    for key, value in over.items():
        if isinstance(value, Mapping):
            if not isinstance(base.get(key), dict):
                base[key] = {}
            merge(base[key], value)
        else:
            base[key] = value


def _proxy_passwords(environment: Mapping[str, str]) -> Iterator[str]:
    """The passwords in HTTPS_PROXY=http://user:password@host and its like, as requests reads it."""
    for name, value in environment.items():
        if name.lower().endswith("_proxy"):
            _, _, password = value.rpartition("@")[0].split("://", 1)[-1].partition(":")
            yield from (password, unquote(password))


@lru_cache(maxsize=8)  # the file is read several times in a run, the warning is wanted once
def _warn_if_open(path: Path, mode: int) -> None:
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("%s can be read by others: run 'chmod 600 %s'", path.name, path)


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as exc:
        raise ConfigurationError(f"{name} is missing: restore it from the repository.") from exc
    except json.JSONDecodeError as exc:
        raise ConfigurationError(
            f"{name} is not valid JSON: line {exc.lineno}, column {exc.colno}: {exc.msg}."
        ) from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{name} cannot be read: {exc}.") from exc
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{name}: expected an object {{...}}, got {json.dumps(values)[:60]}."
        )
    return values


def _substitute(
    value: Any, environment: Mapping[str, str], missing: dict[str, list[str]], path: str = ""
) -> Any:
    """`value` with its variables substituted, at any depth; unknown ones are added to `missing`."""
    if isinstance(value, dict):
        return {
            key: _substitute(item, environment, missing, f"{path}.{key}" if path else key)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_substitute(item, environment, missing, path) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        known = environment.get(name) or default
        if known is None:
            missing.setdefault(path, []).append(name)
            return match[0]
        return str(known)

    return VARIABLE.sub(replace, value)
