"""The settings of the runner and of the DAGs: `.env` and JSON in, checked values out.

A DAG runs on the root config (config/config.json) with its own merged over it, key by key
(ruling 7). A local.json beside either file, which git ignores, is merged over that file (ruling
37). All faults are reported at once, with the file and the path in it. Nothing else reads the
environment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from shared.calendar import GRACE_MINUTES
from shared.config.checks import Checked, check, find_unknown
from shared.config.fields import (
    DAG_FIELDS,
    FEED_FIELDS,
    FREE_PARAMETERS,
    ROOT_FIELDS,
    Field,
    default_of,
)
from shared.config.sources import Source, read_environment, read_process_environment, read_source
from shared.exceptions import ConfigurationError

logger = logging.getLogger(__name__)

PROJECT_ROOT = Path(__file__).resolve().parents[2]
ENV_FILE = PROJECT_ROOT / ".env"
FAULTS = "The configuration has faults:"

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


# What stands in for credentials that a DAG has no use for.
_CREDENTIALS = ("kite_api_key", "kite_api_secret", "kite_access_token")
_NO_CREDENTIALS = Source("no API", {"api": dict.fromkeys(_CREDENTIALS, "not-needed-by-this-DAG")})

# With the folder of the only DAG that each is for, or None.
_overrides: list[tuple[Source, Path | None]] = []


class ConfigLoader:
    """Handles loading of root and DAG-specific configurations."""

    @staticmethod
    def load_root_config() -> dict[str, Any]:
        """
        Load root-level configuration (API keys, DB settings).

        Returns:
            Dictionary with configuration values: `api`, `database`, `logging`, `calendar`

        Raises:
            ConfigurationError: If config file is missing or invalid
        """
        return _load(_check_files({_root_folder(): ROOT_FIELDS}))

    @staticmethod
    def load_dag_config(dag_folder: str) -> dict[str, Any]:
        """
        Load DAG-specific configuration.

        Args:
            dag_folder: Path to DAG folder

        Returns:
            Dictionary with DAG configuration: `enabled`, `schedule`, `description`, `parameters`
            (those of every feed checked, others as they are), `after`, `grace_minutes`

        Raises:
            ConfigurationError: If config file is missing or invalid
        """
        fields = (*DAG_FIELDS, *FEED_FIELDS, FREE_PARAMETERS)
        return _load(_check_files({Path(dag_folder): fields}))

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

        `own_fields` are all the settings that the DAG has beside those of every DAG: a feed's are
        FEED_FIELDS, SNAPSHOT_FIELDS if it is a snapshot, and its own. Without any, its parameters
        are handed on as they are. Without `needs_api` Kite's credentials may be missing.

        Raises ConfigurationError that names every fault of both files.
        """
        merged = _load(_check_dag(dag_folder, own_fields, needs_api))
        root = RootConfig(
            api=_make(APIConfig, merged["api"]),
            database=_make(DatabaseConfig, merged["database"]),
            logging=_with_absolute_directory(merged["logging"]),
        )
        return root, _make(DAGConfig, merged)

    @staticmethod
    def find_faults(
        dag_folder: str | Path, own_fields: Sequence[Field] = (), *, needs_api: bool = True
    ) -> list[str]:
        """Every fault that keeps `load_merged_config` from loading; none is raised."""
        try:
            checked = _check_dag(dag_folder, own_fields, needs_api)
        except ConfigurationError as exc:  # .env cannot be read
            return [str(exc)]
        return [*checked.unreadable, *checked.faults]

    @staticmethod
    def load_api_config(*, with_token: bool = True) -> APIConfig:
        """The `api` section alone; without the access token where a login is to bring it."""
        if with_token:
            return _make(APIConfig, _load_section("api"))
        values = _load_section("api", unwanted="api.kite_access_token")
        return _make(APIConfig, {**values, "kite_access_token": ""})

    @staticmethod
    def load_database_config() -> DatabaseConfig:
        """The `database` section alone."""
        return _make(DatabaseConfig, _load_section("database"))

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
        """What the list of DAGs shows of one: its settings without its parameters.

        Reads the folder's files alone; a variable that is not set stays as it is written.
        """
        fields = (*DAG_FIELDS, FREE_PARAMETERS)
        values = _load(_check_files({Path(dag_folder): fields}, is_summary=True), warns=False)
        return {item.path: values[item.path] for item in DAG_FIELDS}


@contextmanager
def override_config(
    name: str, values: Mapping[str, Any], folder: Path | None = None
) -> Iterator[None]:
    """Within the body `values` are merged over whatever the files say; `name` says whose they are.

    With `folder` they are for the DAG of this folder alone. This is how the sandbox redirects a
    run: it changes configuration values and nothing else.
    """
    override = Source(name, dict(values)), folder and folder.resolve()
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
    parameters = dict(config.get("parameters", config))
    source = Source("the DAG's parameters", {"parameters": parameters})
    checked: dict[str, Any] = _load(check([source], FEED_FIELDS))["parameters"]
    return checked


def _root_folder() -> Path:
    return PROJECT_ROOT / "config"


def _check_dag(folder: str | Path, own_fields: Sequence[Field], needs_api: bool) -> Checked:
    fields = (*DAG_FIELDS, *(own_fields or [FREE_PARAMETERS]))
    extra = () if needs_api else (_NO_CREDENTIALS,)
    return _check_files({_root_folder(): ROOT_FIELDS, Path(folder): fields}, extra)


def _check_files(
    folders: Mapping[Path, Sequence[Field]],
    extra: Sequence[Source] = (),
    *,
    is_summary: bool = False,
) -> Checked:
    """Read config.json and local.json of each folder, and check what could be read by its fields.

    Sources that are extra, and overrides, are merged over the files. In a summary variables that
    are not set stay as they are written.
    """
    environment = _read_environment(needs_file=not is_summary)
    sources: list[Source] = []
    fields: list[Field] = []
    unreadable: list[str] = []
    for folder, its_fields in folders.items():
        known = [item.path for item in (*ROOT_FIELDS, *its_fields)]
        local = folder / "local.json"
        before = len(unreadable)
        for file in (folder / "config.json", *([local] if local.exists() else [])):
            try:
                sources.append(_read_known(file, environment, known))
            except ConfigurationError as exc:
                unreadable.append(str(exc))
        fields += its_fields if len(unreadable) == before else []
    if is_summary:
        sources = [replace(source, missing={}) for source in sources]
    wanted = (None, *(folder.resolve() for folder in folders))
    overrides = [source for source, folder in _overrides if folder in wanted]
    return replace(check([*sources, *extra, *overrides], fields), unreadable=unreadable)


def _read_environment(*, needs_file: bool) -> Mapping[str, str]:
    try:
        return read_environment(ENV_FILE)
    except ConfigurationError:
        if needs_file:
            raise
        return read_process_environment()


def _read_known(file: Path, environment: Mapping[str, str], known: Sequence[str]) -> Source:
    """What a file holds, without the sections that are not known. Unknown keys are warned of."""
    source = read_source(file, environment, PROJECT_ROOT)
    for remark in find_unknown(source.values, known):
        _warn_once(file.resolve(), f"{source.name}: {remark}")
    sections = {path.split(".")[0] for path in known}
    values = {key: value for key, value in source.values.items() if key in sections}
    return replace(source, values=values)


@lru_cache(maxsize=256)  # the files are read several times in a run, the warning is wanted once
def _warn_once(file: Path, message: str) -> None:
    logger.warning("%s", message)


def _load(checked: Checked, *, warns: bool = True) -> dict[str, Any]:
    """The checked values. Raises ConfigurationError that names every fault."""
    for default in checked.defaults if warns else ():
        logger.warning("%s", default)
    faults = [FAULTS, *checked.faults] if checked.faults else []
    if checked.unreadable or faults:
        raise ConfigurationError("\n".join([*checked.unreadable, *faults]))
    return checked.values


def _load_section(section: str, unwanted: str = "") -> dict[str, Any]:
    """One section of the root config, without a setting that is unwanted."""
    within = (item for item in ROOT_FIELDS if item.path.startswith(f"{section}."))
    fields = [item for item in within if item.path != unwanted]
    values: dict[str, Any] = _load(_check_files({_root_folder(): fields}), warns=False)[section]
    return values


def _with_absolute_directory(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "directory": PROJECT_ROOT / values["directory"]}


def _make(config: Callable[..., _Config], values: Mapping[str, Any]) -> _Config:
    """The dataclass made of those of the values that it has."""
    names = config.__dataclass_fields__  # type: ignore[attr-defined]
    return config(**{name: values[name] for name in values if name in names})
