"""Properties 19, 20 and 21: a DAG gets its configuration, whole, with defaults where it lacks."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config.config_loader import ConfigLoader, load_dag_config
from shared.config.fields import FEED_FIELDS, FREE_PARAMETERS, Field, exchanges
from shared.dag_discovery import discover_dags
from shared.exceptions import ConfigurationError

DEFAULTS: dict[str, Any] = {
    "batch_size": 1000,
    "retry_attempts": 3,
    "retry_delay_seconds": 5.0,
}
# What a feed may leave out in silence.
EXTRAS: dict[str, Any] = {
    "max_reject_percent": 5.0,
    "archive_days": 30,
    "archive_directory": "archive",
}
FEED = (*FEED_FIELDS, Field("parameters.exchanges", exchanges, [], is_extra=True))

# Without "${": what is substituted is shown in the unit tests.
texts = st.text(st.characters(codec="utf-8"), max_size=30).filter(lambda text: "${" not in text)
filled_texts = texts.filter(str.strip)
codes = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=10)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
known_parameters: dict[str, Any] = {
    "batch_size": st.integers(1, 10**9),
    "retry_attempts": st.integers(1, 100),
    "retry_delay_seconds": st.one_of(st.integers(0, 3600), st.floats(0, 3600)),
    "max_reject_percent": st.integers(0, 100),
}
exchange_lists = st.one_of(st.none(), st.lists(codes, max_size=6, unique=True))
schedules = st.one_of(
    st.just("daily"),
    st.builds("{} {} * * {}".format, st.integers(0, 59), st.integers(0, 23), st.integers(0, 7)),
)
own_parameters = st.dictionaries(
    filled_texts.filter(lambda name: name not in {**known_parameters, **EXTRAS}),
    json_values,
    max_size=4,
)


@st.composite
def dag_config_with_missing_params(draw: Any) -> dict[str, Any]:
    """A valid DAG config, some or all of whose settings are not there."""
    config: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "enabled": st.booleans(),
                "schedule": schedules,
                "description": texts,
                "parameters": st.fixed_dictionaries({}, optional=known_parameters),
            },
        )
    )
    if "parameters" in config:
        config["parameters"] = {**config["parameters"], **draw(own_parameters)}
    return config


@contextmanager
def dag_folder(config: dict[str, Any], name: str = "dag_1_drawn") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield folder


@contextmanager
def captured_warnings() -> Iterator[list[str]]:
    """The warnings of the configuration; caplog would keep those of other examples."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                messages.append(record.getMessage())

    logger = logging.getLogger("shared.config")
    handler = Handler()
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


# Feature: stock-ingestion, Property 19: For any DAG execution, the system must successfully load
# the DAG-specific configuration from the config.json file in that DAG's folder.
@given(
    configs=st.dictionaries(
        st.integers(1, 99), dag_config_with_missing_params(), min_size=1, max_size=3
    )
)
def test_every_dag_gets_the_configuration_of_its_own_folder(
    configs: dict[int, dict[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as root:
        for dag_id, config in configs.items():
            folder = Path(root) / f"dag_{dag_id}_drawn"
            folder.mkdir()
            (folder / "__init__.py").touch()
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

        dags = discover_dags(Path(root))

        assert [dag.dag_id for dag in dags] == sorted(configs)
        for dag in dags:
            wanted = configs[dag.dag_id]
            assert dag.fault is None
            assert (dag.enabled, dag.schedule, dag.description) == (
                wanted.get("enabled", True),
                wanted.get("schedule", "daily"),
                wanted.get("description", ""),
            )
            loaded = ConfigLoader.load_dag_config(str(dag.folder))
            assert loaded["enabled"] == dag.enabled
            assert loaded["parameters"] == {
                **DEFAULTS,
                **EXTRAS,
                **wanted.get("parameters", {}),
            }


# Feature: stock-ingestion, Property 20: For any valid DAG configuration file, all specified
# parameters must be parsed and available to the DAG execution function.
@given(
    parameters=st.fixed_dictionaries(known_parameters),
    own=own_parameters,
    listed=exchange_lists,
)
def test_every_parameter_reaches_the_dag_as_it_is_written(
    parameters: dict[str, Any], own: dict[str, Any], listed: list[str] | None
) -> None:
    config = {"enabled": True, "schedule": "daily", "description": "d"}
    written = {**parameters, **own, "exchanges": listed}
    credentials = {
        "api": {"kite_api_key": "k", "kite_api_secret": "secret", "kite_access_token": "token"},
        "database": {"user": "u", "password": "password"},
    }

    with dag_folder({**config, **credentials, "parameters": written}) as folder:
        with captured_warnings() as warnings:
            alone = ConfigLoader.load_dag_config(str(folder))
            _, dag = ConfigLoader.load_merged_config(folder)
        _, of_feed = ConfigLoader.load_merged_config(folder, FEED)

    assert alone["parameters"] == {**EXTRAS, **written}
    assert dag.parameters == written
    assert of_feed.parameters == {**EXTRAS, **written, "exchanges": listed or []}
    assert {name: alone[name] for name in config} == config
    assert warnings == []


# Feature: stock-ingestion, Property 20: For any valid DAG configuration file, all specified
# parameters must be parsed and available to the DAG execution function.
@given(
    parameters=st.fixed_dictionaries(known_parameters),
    wrong=st.dictionaries(
        st.sampled_from(["batch_size", "retry_attempts", "retry_delay_seconds"]),
        st.one_of(st.just(-1), st.just(True), st.just([]), st.just("many"), st.none()),
        min_size=1,
    ),
)
def test_every_wrong_parameter_is_named_at_once(
    parameters: dict[str, Any], wrong: dict[str, Any]
) -> None:
    with (
        dag_folder({"parameters": {**parameters, **wrong}}) as folder,
        pytest.raises(ConfigurationError) as caught,
    ):
        ConfigLoader.load_dag_config(str(folder))

    _, *faults = str(caught.value).splitlines()
    assert len(faults) == len(wrong)
    for name, value in wrong.items():
        (fault,) = (
            fault for fault in faults if f"config.json: parameters.{name}: expected" in fault
        )
        assert fault.endswith(f", got {json.dumps(value)}")


# Feature: stock-ingestion, Property 21: For any missing configuration parameter, the system must
# use a sensible default value and log a warning about the missing parameter.
@given(config=dag_config_with_missing_params())
def test_every_missing_parameter_gets_its_default_and_one_warning(config: dict[str, Any]) -> None:
    with dag_folder(config) as folder, pytest.MonkeyPatch.context() as patch:
        for name in ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"):
            patch.setenv(name, "1")
        with captured_warnings() as warnings:
            loaded = ConfigLoader.load_dag_config(str(folder))
        with captured_warnings() as warnings_of_run:
            fields = (*FEED_FIELDS, FREE_PARAMETERS)
            _, of_run = ConfigLoader.load_merged_config(folder, fields, needs_api=False)

    assert asdict(of_run) == loaded
    assert warnings_of_run == warnings
    given_parameters = config.get("parameters", {})
    assert loaded["parameters"] == {**DEFAULTS, **EXTRAS, **given_parameters}
    missing = [
        (name, default)
        for name, default in (("enabled", True), ("schedule", "daily"), ("description", ""))
        if name not in config
    ]
    for name, default in missing:
        assert loaded[name] == default
    missing += [
        (f"parameters.{name}", default)
        for name, default in DEFAULTS.items()
        if name not in given_parameters
    ]
    assert sorted(warnings) == sorted(
        f"{folder}/config.json: {path} is missing, using the default {json.dumps(default)}"
        for path, default in missing
    )


# Feature: stock-ingestion, Property 21: For any missing configuration parameter, the system must
# use a sensible default value and log a warning about the missing parameter.
@given(config=dag_config_with_missing_params())
def test_default_value_fallback(config: dict[str, Any]) -> None:
    loaded_config = load_dag_config(config)

    assert loaded_config["batch_size"] > 0
    assert loaded_config["retry_attempts"] > 0
    assert loaded_config["retry_delay_seconds"] >= 0
    parameters = config.get("parameters", {})
    for name, value in parameters.items():
        assert loaded_config[name] == value


# Feature: stock-ingestion, Property 21: For any missing configuration parameter, the system must
# use a sensible default value and log a warning about the missing parameter.
@given(
    config=st.dictionaries(filled_texts, json_values, max_size=4),
    key=filled_texts,
    default=json_values,
)
def test_get_with_default_gives_what_is_there_or_the_default_with_a_warning(
    config: dict[str, Any], key: str, default: Any
) -> None:
    with captured_warnings() as warnings:
        found = ConfigLoader.get_with_default(config, key, default)

    if key in config:
        assert found == config[key]
        assert warnings == []
    else:
        assert found == default
        (warning,) = warnings
        assert key in warning
        assert repr(default) in warning
