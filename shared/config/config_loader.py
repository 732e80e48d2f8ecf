"""The settings of the runner and of the DAGs: `.env` and JSON in, checked values out.

A DAG runs on the root config (config/config.json) with its own merged over it, key by key
(ruling 7). A local.json beside either file is merged over that file (ruling 37). All faults are
reported at once, with file and path. Nothing else reads the environment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shared.calendar import GRACE_MINUTES, Calendar
from shared.config.checks import Source, check, find_unknown
from shared.config.fields import (
    DAG_FIELDS,
    FEED_FIELDS,
    FREE_PARAMETERS,
    ROOT_FIELDS,
    Field,
    default_of,
)
from shared.config.sources import read_environment, read_json, read_process_environment, warn_once
from shared.exceptions import ConfigurationError

logger = logging.getLogger(__name__)

PROJECT_ROOT = Path(__file__).resolve().parents[2]
ENV_FILE = PROJECT_ROOT / ".env"

_Config = TypeVar("_Config")


@dataclass(frozen=True)
class APIConfig:
    """API configuration. Durations are in seconds."""

    kite_api_key: str
    kite_api_secret: str = field(repr=False)
    kite_access_token: str = field(repr=False)
    root: str = default_of("api.root")
    timeout_seconds: float = default_of("api.timeout_seconds")
    deadline_seconds: float = default_of("api.deadline_seconds")


@dataclass(frozen=True)
class DatabaseConfig:
    """Database configuration. Durations are in seconds."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    sslmode: str = default_of("database.sslmode")
    connect_timeout_seconds: int = default_of("database.connect_timeout_seconds")
    lock_timeout_seconds: float = default_of("database.lock_timeout_seconds")
    statement_timeout_seconds: float = default_of("database.statement_timeout_seconds")


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
    after: tuple[int, ...] = ()
    grace_minutes: int = GRACE_MINUTES
    to_enable: str = ""
    slices: int = 1


@dataclass(frozen=True)
class NotifyConfig:
    """Who is told: receivers as apprise takes them, and a dead man's switch ("": none)."""

    urls: list[str] = field(repr=False)
    ping_url: str = field(repr=False)


_CREDENTIALS = ("kite_api_key", "kite_api_secret", "kite_access_token")
# With the folder of the only DAG that each is for, or None.
_overrides: list[tuple[Source, Path | None]] = []


class ConfigLoader:
    """Handles loading of root and DAG-specific configurations."""

    @staticmethod
    def load_root_config() -> dict[str, Any]:
        """Load root-level configuration. Raises ConfigurationError if it is missing or invalid."""
        return _load({PROJECT_ROOT / "config": ROOT_FIELDS})

    @staticmethod
    def load_dag_config(dag_folder: str) -> dict[str, Any]:
        """Load DAG-specific configuration. Raises ConfigurationError if missing or invalid."""
        return _load({Path(dag_folder): (*DAG_FIELDS, *FEED_FIELDS, FREE_PARAMETERS)})

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

        `own_fields` are the DAG's settings besides those of every DAG; without any, its parameters
        stay as they are. Without `needs_api` Kite's credentials are left empty. Raises
        ConfigurationError that names every fault of both files.
        """
        unwanted = () if needs_api else _CREDENTIALS
        folders = {
            PROJECT_ROOT / "config": _root_fields("", unwanted),
            Path(dag_folder): (*DAG_FIELDS, *(own_fields or [FREE_PARAMETERS])),
        }
        merged = _load(folders)
        root = RootConfig(
            api=_make(APIConfig, {**merged["api"], **dict.fromkeys(unwanted, "")}),
            database=_make(DatabaseConfig, merged["database"]),
            logging=_with_absolute_directory(merged["logging"]),
        )
        return root, _make(DAGConfig, merged)

    @staticmethod
    def load_api_config(*, with_token: bool = True) -> APIConfig:
        """The `api` section alone; its access token is empty where a login is to bring it."""
        unwanted = () if with_token else ("kite_access_token",)
        values = _load_section("api", unwanted)
        return _make(APIConfig, {**values, **dict.fromkeys(unwanted, "")})

    @staticmethod
    def load_redirect_address() -> str:
        """Where Kite leads a browser after a login, as it is set for the app."""
        return str(_load_section("api", _CREDENTIALS)["redirect_address"])

    @staticmethod
    def load_database_config() -> DatabaseConfig:
        """The `database` section alone."""
        return _make(DatabaseConfig, _load_section("database"))

    @staticmethod
    def load_calendar() -> Calendar:
        """The days on which the exchanges trade."""
        days = _load_section("calendar")
        return Calendar(frozenset(days["holidays"]), frozenset(days["sessions"]))

    @staticmethod
    def load_notify_config() -> NotifyConfig:
        """The `notify` section alone."""
        return _make(NotifyConfig, _load_section("notify"))

    @staticmethod
    def load_logging_config() -> dict[str, Any]:
        """The `logging` section alone; `directory` is an absolute Path."""
        return _with_absolute_directory(_load_section("logging"))

    @staticmethod
    def load_dag_summary(dag_folder: str | Path) -> dict[str, Any]:
        """A DAG's settings without its parameters, for a list; variables may be unset."""
        fields = (*DAG_FIELDS, FREE_PARAMETERS)
        values = _load({Path(dag_folder): fields}, warns=False, keeps_unset=True)
        return {item.path: values[item.path] for item in DAG_FIELDS}


@contextmanager
def override_config(
    name: str, values: Mapping[str, Any], folder: Path | None = None
) -> Iterator[None]:
    """In the body, merge `values` of `name` over the files': for all DAGs, or for `folder`'s."""
    override = (name, values), folder and folder.resolve()
    _overrides.append(override)
    try:
        yield
    finally:
        _overrides.remove(override)


def environment_overrules(name: str, value: str) -> bool:
    """Whether the process's environment has another value for a variable, which wins over .env."""
    return read_process_environment().get(name, value) != value


def load_dag_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in `config` (a DAG's config, or its parameters alone), defaults filled in."""
    name, values = "the DAG's parameters", {"parameters": config.get("parameters", config)}
    return dict(check([(name, values)], {name: FEED_FIELDS}, {}, keeps_unset=True)["parameters"])


def _load(
    folders: Mapping[Path, Sequence[Field]], *, warns: bool = True, keeps_unset: bool = False
) -> dict[str, Any]:
    """What the folders' files say, overrides merged over them, checked by each folder's fields."""
    environment = read_process_environment()
    with suppress(ConfigurationError) if keeps_unset else nullcontext():
        environment = read_environment(ENV_FILE)
    sources: list[Source] = []
    unreadable: list[str] = []
    fields = {}
    for folder, its_fields in folders.items():
        found, faults = _read_folder(folder, its_fields)
        sources += found
        unreadable += faults
        if not faults:
            fields[found[0][0]] = its_fields
    wanted = (None, *(folder.resolve() for folder in folders))
    sources += [source for source, folder in _overrides if folder in wanted]
    return check(sources, fields, environment, unreadable, warns=warns, keeps_unset=keeps_unset)


def _read_folder(folder: Path, fields: Sequence[Field]) -> tuple[list[Source], list[str]]:
    """The known sections of config.json and local.json, and why a file cannot be read."""
    known = [item.path for item in (*ROOT_FIELDS, *fields)]
    sections = {path.split(".")[0] for path in known}
    sources: list[Source] = []
    faults = []
    for file in (folder / "config.json", *folder.glob("local.json")):
        resolved = file.resolve()
        is_inside = resolved.is_relative_to(PROJECT_ROOT)
        name = str(resolved.relative_to(PROJECT_ROOT) if is_inside else file)
        try:
            values = read_json(file, name)
        except ConfigurationError as exc:
            faults.append(str(exc))
            continue
        for remark in find_unknown(values, known):
            warn_once(resolved, f"{name}: {remark}")
        sources.append((name, {key: values[key] for key in values if key in sections}))
    return sources, faults


def _load_section(section: str, unwanted: Collection[str] = ()) -> dict[str, Any]:
    fields = _root_fields(f"{section}.", unwanted)
    return dict(_load({PROJECT_ROOT / "config": fields}, warns=False)[section])


def _root_fields(prefix: str, unwanted: Collection[str]) -> list[Field]:
    within = [item for item in ROOT_FIELDS if item.path.startswith(prefix)]
    return [item for item in within if item.path.split(".")[1] not in unwanted]


def _with_absolute_directory(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "directory": PROJECT_ROOT / values["directory"]}


def _make(config: Callable[..., _Config], values: Mapping[str, Any]) -> _Config:
    names = config.__dataclass_fields__  # type: ignore[attr-defined]
    return config(**{name: values[name] for name in values if name in names})
