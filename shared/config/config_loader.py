"""Configuration: `.env` and JSON in, checked values out. Nothing else reads the environment.

A DAG runs on the root config with its own merged over it, key by key (ruling 7). `${VAR}` and
`${VAR:-default}` are substituted in any string of both, from the environment first, then from
`.env` in the project's root. All faults are reported at once, with the file and the path in it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dotenv import dotenv_values

from shared.config.fields import DAG_FIELDS, REQUIRED, ROOT_FIELDS, Field, HiddenValueError
from shared.config.logging_config import register_secrets
from shared.exceptions import ConfigurationError

logger = logging.getLogger(__name__)

PROJECT_ROOT = Path(__file__).resolve().parents[2]
ENV_FILE = PROJECT_ROOT / ".env"
_ROOT_SECTIONS = ("api", "database", "calendar", "logging")
SECRET_VARIABLES = ("KITE_API_SECRET", "KITE_ACCESS_TOKEN", "DB_PASSWORD")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class APIConfig:
    """API configuration. Durations are in seconds."""

    kite_api_key: str
    kite_api_secret: str = field(repr=False)
    kite_access_token: str = field(repr=False)
    root: str = "https://api.kite.trade"
    timeout_seconds: float = 30.0
    deadline_seconds: float = 300.0


@dataclass(frozen=True)
class DatabaseConfig:
    """Database configuration. Durations are in seconds."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    sslmode: str = "prefer"
    connect_timeout_seconds: int = 10
    lock_timeout_seconds: float = 60.0
    statement_timeout_seconds: float = 300.0


@dataclass(frozen=True)
class RootConfig:
    """Root-level configuration."""

    api: APIConfig
    database: DatabaseConfig
    logging: dict[str, Any]


@dataclass(frozen=True)
class DAGConfig:
    """DAG-specific configuration."""

    enabled: bool
    schedule: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """A JSON file, its variables substituted as far as they are known.

    `missing` has the variables that are not set, under the path of the value that wants them.
    What is no file is merged over the files, and is never the place to put what is missing.
    """

    name: str
    values: dict[str, Any]
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_file: bool = True
    folder: Path | None = None  # of the only DAG that it is for


# What stands in for credentials that a run has no use for.
_NO_CREDENTIALS = _Source(
    "no API",
    {
        "api": dict.fromkeys(
            ("kite_api_key", "kite_api_secret", "kite_access_token"), "no-credentials-are-needed"
        )
    },
    is_file=False,
)

_overrides: list[_Source] = []


class ConfigLoader:
    """Handles loading of root and DAG-specific configurations."""

    @staticmethod
    def load_root_config() -> dict[str, Any]:
        """
        Load root-level configuration (API keys, DB settings).

        Returns:
            Dictionary with configuration values: `api`, `database`, `logging`

        Raises:
            ConfigurationError: If config file is missing or invalid
        """
        return _check(_load_sources(_root_file()), ROOT_FIELDS)

    @staticmethod
    def load_dag_config(dag_folder: str) -> dict[str, Any]:
        """
        Load DAG-specific configuration.

        Args:
            dag_folder: Path to DAG folder

        Returns:
            Dictionary with DAG configuration: `enabled`, `schedule`, `description`, `parameters`

        Raises:
            ConfigurationError: If config file is missing or invalid
        """
        return _check(_load_sources(Path(dag_folder) / "config.json"), DAG_FIELDS)

    @staticmethod
    def get_with_default(config: Mapping[str, Any], key: str, default: Any) -> Any:
        """Get configuration value with fallback to default; a fallback is logged as a warning."""
        if key in config:
            return config[key]
        logger.warning("Configuration: %s is missing, using the default %r", key, default)
        return default

    @staticmethod
    def load_merged_config(
        dag_folder: str | Path, own_fields: Sequence[Field] = (), *, needs_api: bool = True
    ) -> tuple[RootConfig, DAGConfig]:
        """Load what a DAG runs on: the root config with the DAG's own merged over it.

        `own_fields` are settings that only this DAG has. Where no API is asked, its credentials
        may be missing.

        Raises ConfigurationError that names every fault of both files.
        """
        sources = _load_sources(_root_file(), Path(dag_folder) / "config.json")
        if not needs_api:
            sources.append(_NO_CREDENTIALS)
        merged = _check(sources, (*ROOT_FIELDS, *DAG_FIELDS, *own_fields))
        root = RootConfig(
            api=APIConfig(**_known(merged["api"], APIConfig)),
            database=DatabaseConfig(**_known(merged["database"], DatabaseConfig)),
            logging=_with_absolute_directory(merged["logging"]),
        )
        dag = DAGConfig(
            merged["enabled"], merged["schedule"], merged["description"], merged["parameters"]
        )
        return root, dag

    @staticmethod
    def load_api_config(*, with_token: bool = True) -> APIConfig:
        """The `api` section alone; without the access token where a login is to bring it."""
        wanted = [
            item
            for item in _section_fields("api")
            if with_token or item.path != "api.kite_access_token"
        ]
        values = _check(_load_sources(_root_file()), wanted, complete=False)["api"]
        if not with_token:
            values["kite_access_token"] = ""
        return APIConfig(**_known(values, APIConfig))

    @staticmethod
    def load_database_config() -> DatabaseConfig:
        """The `database` section alone."""
        return DatabaseConfig(**_known(_load_section("database"), DatabaseConfig))

    @staticmethod
    def load_holidays() -> list[date]:
        """The days without trading besides weekends."""
        holidays: list[date] = _load_section("calendar")["holidays"]
        return holidays

    @staticmethod
    def load_logging_config() -> dict[str, Any]:
        """The `logging` section alone, for the runner, which needs no credentials.

        `directory` is a Path; a relative one counts from the project's root.
        """
        return _with_absolute_directory(_load_section("logging"))

    @staticmethod
    def load_dag_summary(dag_folder: str | Path) -> dict[str, Any]:
        """What `--list` shows of a DAG: `enabled`, `schedule`, `description`.

        Reads the folder's config.json alone; a variable that is not set stays as it is written.
        """
        try:
            environment = _read_environment()
        except ConfigurationError:  # a run will tell; the list needs no .env
            environment = _read_process_environment()
        source = _load_source(Path(dag_folder) / "config.json", environment)
        shown = [item for item in DAG_FIELDS if "." not in item.path]
        return _check([_Source(source.name, source.values)], shown, complete=False)


@contextmanager
def override_config(
    name: str, values: Mapping[str, Any], folder: Path | None = None
) -> Iterator[None]:
    """Within the body `values` are merged over whatever the files say; `name` says whose they are.

    With `folder` they are for the DAG of this folder alone. This is how the sandbox redirects a
    run: it changes configuration values and nothing else.
    """
    override = _Source(name, dict(values), is_file=False, folder=folder and folder.resolve())
    _overrides.append(override)
    try:
        yield
    finally:
        _overrides.remove(override)


def environment_overrules(name: str, value: str) -> bool:
    """Whether the process's environment has another value for a variable, which wins over .env."""
    return _read_process_environment().get(name, value) != value


def load_dag_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in `config` (a DAG's config, or its parameters alone), defaults filled in."""
    parameters = config.get("parameters", config)
    source = _Source("the DAG's parameters", {"parameters": dict(parameters)})
    fields = [item for item in DAG_FIELDS if item.path.startswith("parameters.")]
    checked: dict[str, Any] = _check([source], fields)["parameters"]
    return checked


def _with_absolute_directory(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "directory": PROJECT_ROOT / values["directory"]}


def _load_section(section: str) -> dict[str, Any]:
    """One section of the root config, for what needs no other."""
    checked = _check(_load_sources(_root_file()), _section_fields(section), complete=False)
    values: dict[str, Any] = checked[section]
    return values


def _section_fields(section: str) -> list[Field]:
    return [item for item in ROOT_FIELDS if item.path.startswith(f"{section}.")]


def _root_file() -> Path:
    return PROJECT_ROOT / "config" / "config.json"


def _load_sources(*paths: Path) -> list[_Source]:
    folders = (None, *(path.parent.resolve() for path in paths))
    overrides = [each for each in _overrides if each.folder in folders]
    return [*map(_load_source, paths), *overrides]


def _load_source(path: Path, environment: Mapping[str, str] | None = None) -> _Source:
    values = _read_json(path)
    if environment is None:
        environment = _read_environment()
    missing: dict[str, list[str]] = {}
    return _Source(_shown(path), _substitute(values, environment, missing), missing)


def _shown(path: Path) -> str:
    resolved = path.resolve()
    if resolved.is_relative_to(PROJECT_ROOT):
        return str(resolved.relative_to(PROJECT_ROOT))
    return str(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as exc:
        raise ConfigurationError(
            f"{_shown(path)} is missing: restore it from the repository."
        ) from exc
    except json.JSONDecodeError as exc:
        raise ConfigurationError(
            f"{_shown(path)} is not valid JSON: line {exc.lineno}, column {exc.colno}: {exc.msg}."
        ) from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{_shown(path)} cannot be read: {exc}.") from exc
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{_shown(path)}: expected an object {{...}}, got {json.dumps(values)[:60]}."
        )
    return values


def _read_environment() -> dict[str, str]:
    """The variables of `.env`, overruled by those of the process."""
    path = ENV_FILE
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{path.name} is no file: move it away (see .env.example).")
    try:
        # A "$" in a password is a "$": interpolation is the business of the JSON files.
        from_file = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
        if path.exists() and os.name == "posix":
            _warn_if_open(path, stat.S_IMODE(path.stat().st_mode))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path.name} cannot be read: {exc}.") from exc
    set_in_file = {name: value for name, value in from_file.items() if value is not None}
    environment = {**set_in_file, **_read_process_environment()}
    # As soon as they are known, whatever the JSON files do with them.
    register_secrets(environment[name] for name in SECRET_VARIABLES if name in environment)
    register_secrets(_proxy_passwords(environment))
    return environment


def _proxy_passwords(environment: Mapping[str, str]) -> Iterator[str]:
    """The passwords in HTTPS_PROXY=http://user:password@host and its like, as requests reads it."""
    for name, value in environment.items():
        if name.lower().endswith("_proxy"):
            _, _, password = value.rpartition("@")[0].split("://", 1)[-1].partition(":")
            yield from (password, unquote(password))


def _read_process_environment() -> dict[str, str]:
    # An empty value counts as missing, so it overrules nothing.
    return {name: value for name, value in os.environ.items() if value}


@lru_cache(maxsize=8)  # the file is read several times in a run, the warning is wanted once
def _warn_if_open(path: Path, mode: int) -> None:
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("%s can be read by others: run 'chmod 600 %s'", path.name, path)


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
        name, default = match[1], match[2]
        known = environment.get(name)
        if known:
            return known
        if default is None:
            missing.setdefault(path, []).append(name)
            return match[0]
        return str(default)

    return _VARIABLE.sub(replace, value)


def _check(
    sources: Sequence[_Source], fields: Sequence[Field], *, complete: bool = True
) -> dict[str, Any]:
    """The sources merged, later ones over earlier ones, with every field checked and present.

    Unless `complete`, only the given fields matter: other variables may be missing, and nothing
    is warned of.
    """
    merged: dict[str, Any] = {}
    faults: list[str] = []
    wanted = {item.path for item in fields}
    for position, source in enumerate(sources):
        names = [
            name
            for path, names_there in source.missing.items()
            for name in names_there
            if (complete or path in wanted) and not _has(sources[position + 1 :], path)
        ]
        if names:
            faults.append(_describe_missing(source, names))
        _merge(merged, source.values)
    for section in sorted({item.path.split(".")[0] for item in fields if "." in item.path}):
        if not isinstance(merged.setdefault(section, {}), dict):
            # Its value is not shown: a whole DSN in place of the section holds the password.
            faults.append(f"{_owner(sources, section)}: {section}: expected an object {{...}}")
            merged[section] = {}
    for item in fields:
        faults.extend(_check_field(item, merged, sources, complete))
    if complete:
        _warn_of_unknown(merged, fields, sources)
    if faults:
        raise ConfigurationError("\n".join(["The configuration has faults:", *faults]))
    return merged


def _describe_missing(source: _Source, names: Sequence[str]) -> str:
    return (
        f"{source.name}: not set, or empty: {', '.join(dict.fromkeys(names))}. Set them in the "
        "environment or in .env in the project's root (.env.example explains each)."
    )


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        elif isinstance(value, Mapping):
            base[key] = {}
            _merge(base[key], value)
        else:
            base[key] = value


def _check_field(
    item: Field, merged: dict[str, Any], sources: Sequence[_Source], complete: bool
) -> Iterable[str]:
    """Convert the field's value in `merged`, or give it its default; yield what is wrong."""
    section, name = _parent(merged, item.path)
    if name not in section:
        if item.default is REQUIRED:
            yield f"{_owner(sources, item.path)}: {item.path}: required, but missing"
            return
        section[name] = item.default
        if complete and not item.is_extra:
            logger.warning(
                "%s: %s is missing, using the default %s",
                _owner(sources, item.path),
                item.path,
                json.dumps(item.default),
            )
        return
    if any(
        item.path in source.missing and not _has(sources[position + 1 :], item.path)
        for position, source in enumerate(sources)
    ):
        return  # reported as a missing variable
    value = section[name]
    try:
        section[name] = item.convert(value)
    except ValueError as exc:
        is_hidden = item.is_secret or isinstance(exc, HiddenValueError)
        got = "" if is_hidden else f", got {json.dumps(value, default=str)}"
        yield f"{_owner(sources, item.path)}: {item.path}: {exc}{got}"
    else:
        if item.is_secret:
            register_secrets([section[name]])


def _parent(values: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *sections, name = path.split(".")
    for section in sections:
        values = values[section]
    return values, name


def _has(sources: Sequence[_Source], path: str) -> bool:
    """Whether one of the sources has a value at `path`."""
    for source in sources:
        values: Any = source.values
        for part in path.split("."):
            values = values.get(part) if isinstance(values, dict) else None
        if values is not None:
            return True
    return False


def _owner(sources: Sequence[_Source], path: str) -> str:
    """The file that the value at `path` comes from; where none has it, the one that should."""
    for source in reversed(sources):
        if _has([source], path):
            return source.name
    files = [source for source in sources if source.is_file]
    is_of_root = path.split(".")[0] in _ROOT_SECTIONS
    return files[0 if is_of_root else -1].name


def _warn_of_unknown(
    merged: Mapping[str, Any], fields: Sequence[Field], sources: Sequence[_Source]
) -> None:
    """Warn of keys that nothing reads. A DAG's own parameters are its own business."""
    known = {item.path for item in fields}
    for section in _ROOT_SECTIONS:
        for key in merged.get(section, {}):
            path = f"{section}.{key}"
            if path not in known and any(item.startswith(f"{section}.") for item in known):
                logger.warning("%s: %s is not known, ignored", _owner(sources, path), path)


def _known(values: Mapping[str, Any], config: type) -> dict[str, Any]:
    return {name: values[name] for name in values if name in config.__dataclass_fields__}  # type: ignore[attr-defined]
