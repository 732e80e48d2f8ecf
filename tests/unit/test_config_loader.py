"""Configuration: substitution, merging, checks, defaults, and errors that name every fault."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shared.calendar import Calendar
from shared.config import config_loader
from shared.config.checks import FAULTS
from shared.config.config_loader import (
    APIConfig,
    ConfigLoader,
    DatabaseConfig,
    load_dag_config,
    override_config,
)
from shared.config.fields import (
    FEED_FIELDS,
    SNAPSHOT_FIELDS,
    Field,
    any_text,
    default_of,
    exchanges,
)
from shared.config.logging_config import redact
from shared.config.sources import VARIABLE
from shared.exceptions import ConfigurationError
from tests.conftest import PROJECT

SECRETS = {
    "KITE_API_KEY": "the_key",
    "KITE_API_SECRET": "the_secret",
    "KITE_ACCESS_TOKEN": "the_token",
    "DB_USER": "ingest",
    "DB_PASSWORD": "the_password",
}

ROOT = {
    "api": {"kite_api_key": "k", "kite_api_secret": "s3cret", "kite_access_token": "t0ken"},
    "database": {"user": "u", "password": "passw0rd"},
    "logging": {},
}
DAG = {"enabled": True, "schedule": "daily", "description": "d", "parameters": {}}

PARAMETER_DEFAULTS = {
    "batch_size": 1000,
    "retry_attempts": 3,
    "retry_delay_seconds": 5.0,
    "max_reject_percent": 5.0,
    "archive_days": 30,
    "archive_directory": "archive",
}

# What a feed declares.
FEED = (*FEED_FIELDS, Field("parameters.exchanges", exchanges, [], is_extra=True))

SCHEDULE = 'expected "daily" or a cron expression in Indian time such as "0 18 * * 1-5"'


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@dataclasses.dataclass
class Files:
    """A project's configuration files in the test's own folder."""

    root: Path

    def write_root(self, values: Any) -> None:
        self.write(self.root / "config" / "config.json", values)

    def write_dag(self, values: Any) -> str:
        self.write(self.root / "dag_7_try" / "config.json", values)
        return str(self.root / "dag_7_try")

    @staticmethod
    def write(path: Path, values: Any) -> None:
        path.parent.mkdir(exist_ok=True)
        if isinstance(values, bytes):
            path.write_bytes(values)
        else:
            path.write_text(json.dumps(values), encoding="utf-8")

    def write_env(self, text: str | bytes, mode: int = 0o600) -> Path:
        path = config_loader.ENV_FILE
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        path.chmod(mode)
        return path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    made = Files(tmp_path / "root")
    made.root.mkdir()
    monkeypatch.setattr(config_loader, "PROJECT_ROOT", made.root)
    made.write_root(ROOT)
    return made


def among(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that are wanted, at any depth: there may be more."""
    return {
        name: among(found[name], value) if isinstance(value, dict) else found[name]
        for name, value in wanted.items()
    }


def faults_of(load: Callable[[], Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load()
    return str(caught.value)


def find_faults(folder: str, fields: Sequence[Field] = (), **options: Any) -> list[str]:
    """What is wrong with the configuration of a DAG, a line each."""
    try:
        ConfigLoader.load_merged_config(folder, fields, **options)
    except ConfigurationError as exc:
        return [line for line in str(exc).splitlines() if line != FAULTS]
    return []


# --- what is shipped ---------------------------------------------------------------------------


def test_shipped_root_config_with_credentials_alone(
    credentials: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = ConfigLoader.load_root_config()

    expected = {
        "api": {
            "kite_api_key": "the_key",
            "kite_api_secret": "the_secret",
            "kite_access_token": "the_token",
            "root": "https://api.kite.trade",
            "timeout_seconds": 30.0,
            "deadline_seconds": 300.0,
        },
        "database": {
            "host": "localhost",
            "port": 5432,
            "database": "moneytree",
            "user": "ingest",
            "password": "the_password",
            "sslmode": "prefer",
            "connect_timeout_seconds": 10,
            "lock_timeout_seconds": 60.0,
            "statement_timeout_seconds": 300.0,
        },
        "logging": {
            "level": "INFO",
            "format": "%(asctime)s - %(name)s - %(levelname)s - %(message)s",
            "directory": str(tmp_path / "logs"),
            "max_bytes": 10_000_000,
            "backup_count": 5,
        },
    }
    assert among(config, expected) == expected
    assert caplog.messages == []


def test_every_ruled_variable_reaches_its_setting(
    credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "KITE_API_ROOT": "http://127.0.0.1:8000",
        "DB_HOST": "db.example",
        "DB_PORT": "6432",
        "DB_NAME": "markets",
        "DB_SSLMODE": "verify-full",
        "LOG_DIR": "/var/log/here",
        "RETRY_DELAY_SECONDS": "0.5",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    folder = PROJECT / "dag_1_import_instruments_from_kite"
    root, dag = ConfigLoader.load_merged_config(folder, (*FEED, *SNAPSHOT_FIELDS))

    assert root.api.root == "http://127.0.0.1:8000"
    database = root.database
    assert (database.host, database.port, database.database, database.sslmode) == (
        "db.example",
        6432,
        "markets",
        "verify-full",
    )
    assert root.logging["directory"] == Path("/var/log/here")
    expected = {**PARAMETER_DEFAULTS, "exchanges": [], "retry_delay_seconds": 0.5}
    assert among(dag.parameters, expected) == expected
    assert (dag.enabled, dag.schedule) == (True, "daily")


def test_shipped_dag_config_is_the_designs(credentials: None) -> None:
    config = ConfigLoader.load_dag_config(str(PROJECT / "dag_1_import_instruments_from_kite"))
    expected = {
        "enabled": True,
        "schedule": "daily",
        "description": "Import complete instrument list from Kite Connect API",
        "parameters": {**PARAMETER_DEFAULTS, "exchanges": None},
    }
    assert among(config, expected) == expected


def test_all_missing_variables_are_named_at_once_with_their_file() -> None:
    text = faults_of(ConfigLoader.load_root_config)
    required = ", ".join(name for name in SECRETS if name != "DB_PASSWORD")
    assert f"config/config.json: not set, or empty: {required}" in text
    assert "Set them in the environment or in .env in the project's root" in text


def test_missing_variables_within_lists_are_named_like_the_others(files: Files) -> None:
    own = {"plain": "${OWN_A}", "list": ["x", "${OWN_B}", ["${OWN_C}", {"deep": "${OWN_D}"}]]}
    folder = files.write_dag({**DAG, "parameters": {"own": own}})
    text = faults_of(lambda: ConfigLoader.load_dag_config(folder))
    assert "dag_7_try/config.json: not set, or empty: OWN_A, OWN_B, OWN_C, OWN_D." in text


def test_every_variable_of_the_configuration_is_in_the_example_file() -> None:
    example = (PROJECT / ".env.example").read_text()
    folders = [PROJECT / "config", *PROJECT.glob("dag_*_*")]
    for folder in folders:
        for name in VARIABLE.findall((folder / "config.json").read_text()):
            assert f"{name[0]}=" in example


# --- substitution ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${ONE}", "1st"),
        ("a ${ONE} b${TWO}${ONE}", "a 1st b2nd1st"),
        ("${ONE:-default}", "1st"),
        ("${NONE:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b c}", "a:-b c"),
        ("$ONE", "$ONE"),
        ("${1ONE}", "${1ONE}"),
        ("${ONE-x}", "${ONE-x}"),
        ("$${ONE}", "$1st"),
        ("${BRACES}", "${ONE}"),
        ("${BACKSLASH}", r"\1\g<0>"),
    ],
)
def test_variable_is_substituted_in_any_string(
    text: str, expected: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "ONE": "1st",
        "TWO": "2nd",
        "EMPTY": "",
        "BRACES": "${ONE}",
        "BACKSLASH": r"\1\g<0>",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NONE", raising=False)
    folder = files.write_dag({**DAG, "parameters": {"own": [{"deep": [text, 5, None]}]}})

    parameters = ConfigLoader.load_dag_config(folder)["parameters"]

    assert parameters["own"] == [{"deep": [expected, 5, None]}]


def test_password_that_looks_like_a_variable_is_taken_as_it_is(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_root({**ROOT, "database": {"user": "u", "password": "${DB_PASSWORD}"}})
    monkeypatch.setenv("DB_PASSWORD", "${KITE_API_KEY} $HOME ${X:-y}")
    config = ConfigLoader.load_root_config()
    assert config["database"]["password"] == "${KITE_API_KEY} $HOME ${X:-y}"


def test_substituted_number_and_boolean_are_converted(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIZE", " 50 ")
    folder = files.write_dag(
        {**DAG, "enabled": "${NOT_SET_ANYWHERE:-False}", "parameters": {"batch_size": "${SIZE}"}}
    )
    config = ConfigLoader.load_dag_config(folder)
    assert config["enabled"] is False
    assert config["parameters"]["batch_size"] == 50


def test_environment_wins_over_the_env_file_unless_it_is_empty(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_env("DB_HOST=from_file\nDB_NAME=from_file\nDB_USER=from_file\n")
    monkeypatch.setenv("DB_HOST", "from_environment")
    monkeypatch.setenv("DB_NAME", "")
    names = ("DB_HOST", "DB_NAME", "DB_USER")
    folder = files.write_dag({**DAG, "parameters": {"own": [f"${{{name}}}" for name in names]}})
    assert ConfigLoader.load_dag_config(folder)["parameters"]["own"] == [
        "from_environment",
        "from_file",
        "from_file",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("DB_PASSWORD=pa$$w${HOME}rd", "pa$$w${HOME}rd"),
        ("DB_PASSWORD='with # and \"'", 'with # and "'),
        ("export DB_PASSWORD=exported", "exported"),
        ("\ufeffDB_PASSWORD=after_bom", "after_bom"),
        ("DB_PASSWORD=é", "é"),
        ("DB_PASSWORD=crlf\r", "crlf"),
    ],
)
def test_value_of_the_env_file_is_taken_as_it_is(line: str, expected: str, files: Files) -> None:
    files.write_env(line + "\n")
    folder = files.write_dag({**DAG, "parameters": {"own": "${DB_PASSWORD}"}})
    assert ConfigLoader.load_dag_config(folder)["parameters"]["own"] == expected


@pytest.mark.parametrize("line", ["OWN_VARIABLE=", "OWN_VARIABLE=''", "OWN_VARIABLE", "#"])
def test_empty_value_of_the_env_file_counts_as_missing(line: str, files: Files) -> None:
    files.write_env(line + "\n")
    folder = files.write_dag({**DAG, "parameters": {"own": "${OWN_VARIABLE}"}})
    text = faults_of(lambda: ConfigLoader.load_dag_config(folder))
    assert "dag_7_try/config.json: not set, or empty: OWN_VARIABLE." in text


def test_env_file_that_is_not_utf_8_is_named(files: Files) -> None:
    files.write_env(b"DB_PASSWORD=\xff\n")
    assert faults_of(ConfigLoader.load_root_config).startswith(".env cannot be read: ")


def test_folder_in_place_of_the_env_file_is_named(files: Files) -> None:
    config_loader.ENV_FILE.mkdir()
    text = faults_of(ConfigLoader.load_root_config)
    assert text == ".env is not a file: remove it (see .env.example)."


# --- permissions of .env -----------------------------------------------------------------------

posix_only = pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")


@posix_only
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620], ids=oct)
def test_env_file_that_others_can_use_is_worth_one_warning(
    mode: int, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    path = files.write_env("X=1\n", mode)
    folder = files.write_dag({**DAG, "parameters": PARAMETER_DEFAULTS})

    ConfigLoader.load_dag_config(folder)
    ConfigLoader.load_dag_config(folder)

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f".env can be read by others, mend that with: chmod 600 {path}")
    ]


@posix_only
@pytest.mark.parametrize("mode", [0o600, 0o400], ids=oct)
def test_env_file_of_the_owner_alone_is_no_warning(
    mode: int, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.write_env("X=1\n", mode)
    ConfigLoader.load_dag_config(files.write_dag({**DAG, "parameters": PARAMETER_DEFAULTS}))
    assert caplog.messages == []


# --- files that cannot be used -----------------------------------------------------------------


def test_root_config_that_is_missing_is_named(files: Files) -> None:
    (files.root / "config" / "config.json").unlink()
    assert faults_of(ConfigLoader.load_root_config).startswith("config/config.json is missing")


def test_dag_config_that_is_missing_is_named(files: Files) -> None:
    text = faults_of(lambda: ConfigLoader.load_dag_config(str(files.root / "dag_9_none")))
    assert text.startswith("dag_9_none/config.json is missing")


def test_dag_config_in_a_folder_elsewhere_is_named_with_its_whole_path(tmp_path: Path) -> None:
    text = faults_of(lambda: ConfigLoader.load_dag_config(str(tmp_path / "elsewhere")))
    assert text.startswith(f"{tmp_path}/elsewhere/config.json is missing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"enabled": true,\n "schedule": }', "is not valid JSON: line 2, column 14"),
        (b"", "is not valid JSON: line 1, column 1"),
        (b'{"enabled": true', "is not valid JSON: line 1, column 17"),
        (b"[1, 2]", "expected an object {...}, got [1, 2]"),
        (b"null", "expected an object {...}, got null"),
        (b'["' + b"x" * 99 + b'"]', 'expected an object {...}, got ["' + "x" * 58 + "."),
        (b'{"description": "\xff"}', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
    ],
    ids=["syntax", "empty", "cut", "list", "null", "long", "not-utf-8", "too-deep"],
)
def test_file_that_cannot_be_used_is_named_with_the_place(
    content: bytes, message: str, files: Files
) -> None:
    folder = files.write_dag(content)
    text = faults_of(lambda: ConfigLoader.load_dag_config(folder))
    assert text.startswith("dag_7_try/config.json")
    assert message in text


def test_json_with_a_bom_is_read(files: Files) -> None:
    folder = files.write_dag(
        b"\xef\xbb\xbf" + json.dumps({**DAG, "schedule": "0 9 * * *"}).encode()
    )
    assert ConfigLoader.load_dag_config(folder)["schedule"] == "0 9 * * *"


def test_folder_in_place_of_a_config_file_is_named(files: Files) -> None:
    (files.root / "dag_7_try" / "config.json").mkdir(parents=True)
    text = faults_of(lambda: ConfigLoader.load_dag_config(str(files.root / "dag_7_try")))
    assert text.startswith("dag_7_try/config.json cannot be read")


# --- faults of values --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("enabled", "maybe", 'expected true or false, got "maybe"'),
        ("enabled", 1, "expected true or false, got 1"),
        ("schedule", "", f'{SCHEDULE}, got ""'),
        ("schedule", None, f"{SCHEDULE}, got null"),
        ("schedule", "weekly", f'{SCHEDULE}, got "weekly"'),
        ("after", 1, "expected a list of DAG ids such as [1], got 1"),
        ("after", ["x"], 'expected a list of DAG ids such as [1], got ["x"]'),
        ("grace_minutes", -1, "expected an integer from 0 to 10080, got -1"),
        ("slices", 0, "expected an integer from 1 to 100, got 0"),
        ("slices", 101, "expected an integer from 1 to 100, got 101"),
        ("description", 5, "expected a text, got 5"),
        ("to_enable", 5, "expected a text, got 5"),
        ("parameters.batch_size", "many", 'expected a positive integer, got "many"'),
        ("parameters.batch_size", 0, "expected a positive integer, got 0"),
        ("parameters.batch_size", -1, "expected a positive integer, got -1"),
        ("parameters.batch_size", 2.5, "expected a positive integer, got 2.5"),
        ("parameters.batch_size", True, "expected a positive integer, got true"),
        ("parameters.batch_size", "१", "expected a positive integer"),
        ("parameters.batch_size", "1_000", 'expected a positive integer, got "1_000"'),
        ("parameters.batch_size", "9" * 5000, "expected a positive integer"),
        ("parameters.retry_attempts", 0, "expected an integer from 1 to 100, got 0"),
        ("parameters.retry_attempts", 101, "expected an integer from 1 to 100, got 101"),
        ("parameters.retry_delay_seconds", -0.1, "expected a number from 0 to 3600, got -0.1"),
        ("parameters.retry_delay_seconds", "nan", 'expected a number from 0 to 3600, got "nan"'),
        ("parameters.retry_delay_seconds", "x", 'expected a number from 0 to 3600, got "x"'),
        ("parameters.retry_delay_seconds", False, "expected a number from 0 to 3600, got false"),
        ("parameters.exchanges", "NSE", "expected a list of exchange codes"),
        ("parameters.exchanges", ["NSE", ""], "expected a list of exchange codes"),
        ("parameters.exchanges", [5], "expected a list of exchange codes"),
        ("parameters", [], "expected an object"),
        ("api.root", "api.kite.trade", "expected an address that begins with https://"),
        ("api.timeout_seconds", 0, "expected a number from 0.001 to 3600, got 0"),
        ("api.deadline_seconds", "inf", "expected a number from 0.001 to 86400"),
        ("api.kite_api_key", " ", "expected a text that is not blank"),
        ("database.port", 65536, "expected an integer from 1 to 65535, got 65536"),
        ("database.port", 0, "expected an integer from 1 to 65535, got 0"),
        ("database.port", "5432x", 'expected an integer from 1 to 65535, got "5432x"'),
        ("database.sslmode", "always", "expected one of disable, allow, prefer, require"),
        ("database.user", None, "expected a text that is not blank, got null"),
        ("logging.level", "LOUD", "expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("logging.format", "%(nothing", "expected a log format"),
        ("logging.max_bytes", 10, "expected an integer from 1024 to"),
    ],
)
def test_value_that_is_wrong_is_named_with_file_and_path(
    path: str, value: Any, expected: str, files: Files
) -> None:
    section, _, name = path.partition(".")
    values: Any = {**ROOT, **DAG}
    if name:
        values = {**values, section: {**values[section], name: value}}
    else:
        values = {**values, section: value}
    files.write_root({key: item for key, item in values.items() if key in ROOT})
    folder = files.write_dag({key: item for key, item in values.items() if key not in ROOT})
    file = "config/config.json" if section in ROOT else "dag_7_try/config.json"

    text = faults_of(lambda: ConfigLoader.load_merged_config(folder, FEED))

    assert find_faults(folder, FEED) == text.splitlines()[1:]
    assert len(text.splitlines()) == 2, text
    assert text.splitlines()[1].startswith(f"{file}: {path}: {expected}")


def test_all_faults_of_both_files_are_named_at_once(files: Files) -> None:
    files.write_root(
        {
            "api": {"kite_api_key": "${NO_SUCH_KEY}", "kite_api_secret": ""},
            "database": {"port": "x"},
        }
    )
    folder = files.write_dag(
        {**DAG, "schedule": "${NO_SUCH_SCHEDULE}", "parameters": {"batch_size": -1}}
    )

    text = faults_of(lambda: ConfigLoader.load_merged_config(folder, FEED))

    root, dag = "config/config.json", "dag_7_try/config.json"
    assert text.splitlines()[0] == "The configuration has faults:"
    assert [line.split(". Set ")[0] for line in text.splitlines()[1:]] == [
        f"{root}: not set, or empty: NO_SUCH_KEY",
        f"{dag}: not set, or empty: NO_SUCH_SCHEDULE",
        f"{root}: api.kite_api_secret: expected a text that is not blank",
        f"{root}: api.kite_access_token: required, but missing",
        f'{root}: database.port: expected an integer from 1 to 65535, got "x"',
        f"{root}: database.user: required, but missing",
        f"{dag}: parameters.batch_size: expected a positive integer, got -1",
    ]


def test_number_whose_variable_is_missing_is_one_fault(files: Files) -> None:
    files.write_root({**ROOT, "database": {**ROOT["database"], "port": "${NO_SUCH_PORT}"}})
    _, *faults = faults_of(ConfigLoader.load_root_config).splitlines()
    assert [line.split(". Set ")[0] for line in faults] == [
        "config/config.json: not set, or empty: NO_SUCH_PORT"
    ]


def test_section_that_is_missing_altogether_is_the_fault_of_the_root_file(files: Files) -> None:
    files.write_root({})
    text = faults_of(lambda: ConfigLoader.load_merged_config(files.write_dag(DAG)))
    assert "config/config.json: api.kite_api_key: required, but missing" in text
    assert "dag_7_try" not in text


@pytest.mark.parametrize("field", ["kite_api_secret", "kite_access_token"])
def test_secret_of_a_wrong_type_is_not_shown(field: str, files: Files) -> None:
    files.write_root({**ROOT, "api": {**ROOT["api"], field: 123454321}})
    text = faults_of(ConfigLoader.load_root_config)
    assert f"api.{field}: expected a text that is not blank" in text
    assert "123454321" not in text


def test_section_of_a_wrong_type_does_not_show_the_secrets_in_it(
    files: Files, credentials: None
) -> None:
    files.write_root({**ROOT, "database": "postgresql://ingest:${DB_PASSWORD}@localhost/moneytree"})
    text = faults_of(ConfigLoader.load_root_config)
    assert "config/config.json: database: expected an object" in text
    assert "the_password" not in text


# --- merging -----------------------------------------------------------------------------------


def test_dag_config_is_merged_over_the_root_key_by_key(files: Files) -> None:
    files.write_root(
        {
            **ROOT,
            "database": {**ROOT["database"], "host": "root_host", "port": 1111},
            "logging": {"level": "DEBUG", "own": {"a": {"x": 1, "y": 2}, "b": 3}},
        }
    )
    folder = files.write_dag(
        {
            **DAG,
            "database": {"host": "dag_host"},
            "logging": {"own": {"a": {"y": 20}}},
            "api": {"timeout_seconds": 5},
        }
    )

    root, dag = ConfigLoader.load_merged_config(folder)

    assert (root.database.host, root.database.port) == ("dag_host", 1111)
    assert (root.database.user, root.database.password) == ("u", "passw0rd")
    assert root.logging["level"] == "DEBUG"
    assert root.logging["own"] == {"a": {"x": 1, "y": 20}, "b": 3}
    assert (root.api.timeout_seconds, root.api.kite_access_token) == (5.0, "t0ken")
    assert dag.description == "d"


def test_value_of_the_dag_makes_up_for_a_variable_that_the_root_lacks(files: Files) -> None:
    database = {"user": "${NO_SUCH_USER}", "password": "p", "port": "${NO_SUCH_PORT}"}
    files.write_root({**ROOT, "database": database, "logging": {"own": ["${NO_SUCH_ITEM}"]}})
    folder = files.write_dag(
        {**DAG, "database": {"user": "dag_user", "port": "6432"}, "logging": {"own": ["item"]}}
    )
    root, _ = ConfigLoader.load_merged_config(folder)
    assert (root.database.user, root.database.port) == ("dag_user", 6432)
    assert root.logging["own"] == ["item"]


@pytest.mark.parametrize("values", [{}, {"api": {"kite_api_key": "${NO_SUCH_KEY}"}}], ids=str)
def test_credentials_of_the_api_may_be_missing_where_it_is_not_asked(
    values: dict[str, Any], files: Files
) -> None:
    files.write_root({"database": ROOT["database"], **values})
    folder = files.write_dag({**DAG, "api": {"timeout_seconds": 5}})

    root, dag = ConfigLoader.load_merged_config(folder, needs_api=False)

    assert (root.database.user, root.api.timeout_seconds) == ("u", 5.0)
    assert dag.parameters == {}
    assert "api.kite_api_secret" in faults_of(lambda: ConfigLoader.load_merged_config(folder))


def test_missing_parameter_is_the_dags_where_the_api_is_not_asked(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    own = [*FEED_FIELDS, Field("parameters.own", any_text)]
    folder = files.write_dag({**DAG, "parameters": {**PARAMETER_DEFAULTS, "batch_size": "x"}})

    faults = faults_of(lambda: ConfigLoader.load_merged_config(folder, own, needs_api=False))
    ConfigLoader.load_merged_config(files.write_dag({}), FEED_FIELDS, needs_api=False)

    assert "dag_7_try/config.json: parameters.own: required, but missing" in faults
    assert "dag_7_try/config.json: parameters.batch_size: expected" in faults
    assert (
        "dag_7_try/config.json: parameters.batch_size is missing, using the default 1000"
        in caplog.messages
    )


def test_override_wins_over_both_files_until_its_end(files: Files) -> None:
    files.write_root({**ROOT, "database": {**ROOT["database"], "host": "root_host", "port": 1}})
    folder = files.write_dag({**DAG, "database": {"host": "dag_host"}})

    def load() -> tuple[str, int]:
        database = ConfigLoader.load_merged_config(folder)[0].database
        return database.host, database.port

    def fail() -> None:
        with override_config("the sandbox", {"database": {"host": "its_host"}}):
            assert load() == ("its_host", 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert load() == ("dag_host", 1)


def test_override_is_named_for_what_is_wrong_in_it_and_not_for_what_is_missing(
    files: Files,
) -> None:
    own = [Field("parameters.own", any_text)]
    folder = files.write_dag(DAG)
    with override_config("the sandbox", {"database": {"port": 0}}):
        text = faults_of(lambda: ConfigLoader.load_merged_config(folder, own))
    assert text.splitlines()[1:] == [
        "the sandbox: database.port: expected an integer from 1 to 65535, got 0",
        "dag_7_try/config.json: parameters.own: required, but missing",
    ]


def test_merged_config_does_not_change_with_what_is_done_to_another(files: Files) -> None:
    folder = files.write_dag({**DAG, "parameters": {"own": {"list": [1]}}})
    _, first = ConfigLoader.load_merged_config(folder)
    first.parameters["own"]["list"].append(2)
    _, second = ConfigLoader.load_merged_config(folder)
    assert second.parameters["own"] == {"list": [1]}


def test_config_of_a_dag_is_frozen_and_hides_its_secrets(files: Files) -> None:
    root, dag = ConfigLoader.load_merged_config(files.write_dag(DAG))
    for config, name in ((root.api, "root"), (root.database, "host"), (dag, "enabled")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, "changed")
    for secret in ("s3cret", "t0ken", "passw0rd"):
        assert secret not in repr(root)


def test_loaded_secrets_are_masked_from_then_on(files: Files) -> None:
    ConfigLoader.load_root_config()
    assert redact("s3cret t0ken passw0rd") == "*** *** ***"


# --- defaults ----------------------------------------------------------------------------------


def test_missing_parameter_gets_its_default_and_one_warning_that_names_it(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    config = ConfigLoader.load_dag_config(files.write_dag({"parameters": {"batch_size": 7}}))

    assert config == {
        "enabled": True,
        "schedule": "daily",
        "description": "",
        "parameters": {**PARAMETER_DEFAULTS, "batch_size": 7},
        "to_enable": "",
        "after": (),
        "grace_minutes": 60,
        "slices": 1,
    }
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 5
    assert caplog.messages == [
        f"dag_7_try/config.json: {path} is missing, using the default {default}"
        for path, default in (
            ("enabled", "true"),
            ("schedule", '"daily"'),
            ("description", '""'),
            ("parameters.retry_attempts", "3"),
            ("parameters.retry_delay_seconds", "5.0"),
        )
    ]


def test_config_without_parameters_gets_all_defaults(files: Files) -> None:
    assert ConfigLoader.load_dag_config(files.write_dag({}))["parameters"] == PARAMETER_DEFAULTS


@pytest.mark.parametrize("config", [{}, {"parameters": {}}, {"enabled": False, "parameters": {}}])
def test_load_dag_config_of_a_dict_fills_in_the_designs_defaults(config: dict[str, Any]) -> None:
    loaded = load_dag_config(config)
    assert {name: loaded[name] for name in PARAMETER_DEFAULTS} == PARAMETER_DEFAULTS


def test_load_dag_config_of_a_dict_names_what_is_wrong() -> None:
    config = {"batch_size": Decimal("1.5"), "retry_attempts": 0}
    assert faults_of(lambda: load_dag_config(config)).splitlines()[1:] == [
        'the DAG\'s parameters: parameters.batch_size: expected a positive integer, got "1.5"',
        "the DAG's parameters: parameters.retry_attempts: expected an integer from 1 to 100, got 0",
    ]


def test_parameter_that_only_the_dag_knows_is_handed_on_without_a_warning(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    parameters = {**PARAMETER_DEFAULTS, "own": {"any": ["thing", 1.5, None]}}
    loaded = ConfigLoader.load_dag_config(files.write_dag({**DAG, "parameters": parameters}))
    assert loaded["parameters"]["own"] == {"any": ["thing", 1.5, None]}
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        pytest.param(
            {"databse": {}},
            '"databse" is not known, ignored. Did you mean "database"?',
            id="section",
        ),
        pytest.param(
            {"database": {"pasword": "x"}},
            '"database.pasword" is not known, ignored. Did you mean "database.password"?',
            id="setting",
        ),
        pytest.param(
            {"Logging": 1}, '"Logging" is not known, ignored. Did you mean "logging"?', id="capital"
        ),
        pytest.param(
            {"timeout_seconds": 5},
            '"timeout_seconds" is not known, ignored.',
            id="misplaced",
        ),
        pytest.param({"x": "${NO_SUCH_NAME}"}, '"x" is not known, ignored.', id="like no other"),
        pytest.param({"api.root": ""}, '"api.root" is not known, ignored.', id="path as a key"),
        pytest.param({"parameters": {}}, '"parameters" is not known, ignored.', id="a DAG's"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "local.json"])
def test_unknown_key_of_the_root_is_named_once_with_the_nearest(
    name: str,
    values: dict[str, Any],
    warning: str,
    files: Files,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = ConfigLoader.load_root_config()
    caplog.clear()
    known = ROOT if name == "config.json" else {}
    merged = {
        key: {**known.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in values.items()
    }
    files.write(files.root / "config" / name, {**known, **merged})

    ConfigLoader.load_logging_config()
    found = ConfigLoader.load_root_config()
    ConfigLoader.load_merged_config(files.write_dag(DAG))

    about_keys = [message for message in caplog.messages if "not known" in message]
    assert about_keys == [f"config/{name}: {warning}"]
    assert found["calendar"] == expected["calendar"]
    assert set(found) == set(expected)


@pytest.mark.parametrize(
    ("values", "warnings"),
    [
        pytest.param(
            {"enabeld": False},
            ['"enabeld" is not known, ignored. Did you mean "enabled"?'],
            id="own",
        ),
        pytest.param(
            {"parameters": {**PARAMETER_DEFAULTS, "exchange": ["NSE"]}},
            ['"parameters.exchange" is not known, ignored. Did you mean "parameters.exchanges"?'],
            id="parameter",
        ),
        pytest.param(
            {"parameters": PARAMETER_DEFAULTS, "batch_size": 5},
            ['"batch_size" is not known, ignored.'],
            id="misplaced",
        ),
        pytest.param(
            {"database": {"host": "h"}, "logging": {"level": "INFO"}}, [], id="the root's"
        ),
        pytest.param(
            {"database": {"hots": "h"}},
            ['"database.hots" is not known, ignored. Did you mean "database.host"?'],
            id="nearly the root's",
        ),
    ],
)
def test_unknown_key_of_a_feed_is_named_once_with_the_nearest(
    values: dict[str, Any], warnings: list[str], files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    folder = files.write_dag({**DAG, **values})
    ConfigLoader.load_dag_summary(folder)
    ConfigLoader.load_merged_config(folder, FEED)
    find_faults(folder, FEED)
    about_keys = [message for message in caplog.messages if "not known" in message]
    assert about_keys == [f"dag_7_try/config.json: {warning}" for warning in warnings]


def test_parameters_of_a_dag_that_declares_none_are_its_own_business(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.write_root({**ROOT, "database": {**ROOT["database"], "host": "h", "database": "d"}})
    folder = files.write_dag({**DAG, "parameters": {"anything": {"at": "all"}}})
    _, dag = ConfigLoader.load_merged_config(folder)
    assert dag.parameters == {"anything": {"at": "all"}}
    assert [message for message in caplog.messages if "dag_7_try" in message] == []


# --- settings of one's own ---------------------------------------------------------------------


def test_local_files_are_merged_over_the_tracked_ones(files: Files) -> None:
    files.write_root({**ROOT, "database": {**ROOT["database"], "host": "root", "port": 1}})
    files.write(files.root / "config" / "local.json", {"database": {"port": 2, "user": "me"}})
    folder = files.write_dag({**DAG, "parameters": {**PARAMETER_DEFAULTS, "batch_size": 5}})
    local = {"enabled": False, "parameters": {"batch_size": 6}, "database": {"user": "mine"}}
    files.write(files.root / "dag_7_try" / "local.json", local)

    root, dag = ConfigLoader.load_merged_config(folder, FEED)

    assert (root.database.host, root.database.port, root.database.user) == ("root", 2, "mine")
    assert (dag.enabled, dag.parameters["batch_size"]) == (False, 6)
    assert dag.parameters["retry_attempts"] == 3
    assert ConfigLoader.load_database_config().port == 2
    assert ConfigLoader.load_dag_config(folder)["parameters"]["batch_size"] == 6
    assert ConfigLoader.load_dag_summary(folder)["enabled"] is False


def test_local_files_are_checked_and_named_like_the_others(files: Files) -> None:
    files.write(files.root / "config" / "local.json", {"database": {"user": "${NO_SUCH_USER}"}})
    folder = files.write_dag({**DAG, "parameters": PARAMETER_DEFAULTS})
    local = {"parameters": {"batch_size": 0, "own": None}}
    files.write(files.root / "dag_7_try" / "local.json", local)

    faults = find_faults(
        folder, [*FEED, Field("parameters.own", any_text), Field("parameters.other", any_text)]
    )

    assert [fault.split(". Set ")[0] for fault in faults] == [
        "config/local.json: not set, or empty: NO_SUCH_USER",
        "dag_7_try/local.json: parameters.batch_size: expected a positive integer, got 0",
        "dag_7_try/local.json: parameters.own: expected a text, got null",
        "dag_7_try/config.json: parameters.other: required, but missing",
    ]


def test_value_of_a_local_file_makes_up_for_a_variable_that_the_tracked_one_lacks(
    files: Files,
) -> None:
    files.write_root({**ROOT, "database": {"user": "${NO_SUCH_USER}", "password": "p"}})
    files.write(files.root / "config" / "local.json", {"database": {"user": "me"}})
    assert ConfigLoader.load_database_config().user == "me"


def test_local_file_that_is_no_json_is_named(files: Files) -> None:
    files.write(files.root / "config" / "local.json", b"{")
    text = faults_of(ConfigLoader.load_database_config)
    assert text.startswith("config/local.json is not valid JSON: line 1, column 2")


# --- every fault at once -----------------------------------------------------------------------


def test_every_fault_of_both_files_is_found_even_where_one_cannot_be_read(files: Files) -> None:
    files.write_root(b"{")
    folder = files.write_dag({**DAG, "schedule": "hourly", "after": [True], "enabled": 1})

    faults = find_faults(folder, FEED)

    assert [fault.split(",")[0] for fault in faults] == [
        "config/config.json is not valid JSON: line 1",
        "dag_7_try/config.json: enabled: expected true or false",
        f"dag_7_try/config.json: schedule: {SCHEDULE}",
        "dag_7_try/config.json: after: expected a list of DAG ids such as [1]",
    ]
    assert faults_of(lambda: ConfigLoader.load_merged_config(folder, FEED)).splitlines() == [
        faults[0],
        "The configuration has faults:",
        *faults[1:],
    ]


def test_faults_of_the_root_are_found_with_those_of_a_dag(files: Files) -> None:
    files.write_root({"database": ROOT["database"], "calendar": {"holidays": ["26 January"]}})
    folder = files.write_dag({**DAG, "parameters": {**PARAMETER_DEFAULTS, "batch_size": 0}})

    faults = find_faults(folder, FEED, needs_api=False)

    assert [fault.split(": expected")[0] for fault in faults] == [
        "config/config.json: calendar.holidays",
        "dag_7_try/config.json: parameters.batch_size",
    ]
    with_api = find_faults(folder, FEED)
    assert "config/config.json: api.kite_api_key: required, but missing" in with_api


def test_sound_configuration_has_no_faults(files: Files) -> None:
    assert find_faults(files.write_dag({**DAG, "after": [1, 2, 1]}), FEED) == []


def test_env_file_that_cannot_be_read_is_the_fault(files: Files) -> None:
    files.write_env(b"DB_PASSWORD=\xff\n")
    (fault,) = find_faults(files.write_dag(DAG))
    assert fault.startswith(".env cannot be read: ")


# --- defaults and fallbacks ---------------------------------------------------------------------


def test_default_is_not_changed_with_what_a_dag_does_to_it(files: Files) -> None:
    folder = files.write_dag(DAG)
    _, first = ConfigLoader.load_merged_config(folder, FEED)
    first.parameters["exchanges"].append("NSE")
    assert ConfigLoader.load_merged_config(folder, FEED)[1].parameters["exchanges"] == []


def test_default_of_a_setting_of_the_root() -> None:
    assert (default_of("database.port"), default_of("api.timeout_seconds")) == (5432, 30.0)


def test_get_with_default_when_the_key_is_there(caplog: pytest.LogCaptureFixture) -> None:
    config = {"batch_size": 0, "exchanges": None}
    assert ConfigLoader.get_with_default(config, "batch_size", 5) == 0
    assert ConfigLoader.get_with_default(config, "exchanges", ["NSE"]) is None
    assert caplog.messages == []


def test_get_with_default_when_the_key_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    assert ConfigLoader.get_with_default({}, "batch_size", 1000) == 1000
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "Configuration: batch_size is missing, using the default 1000")
    ]


# --- one section alone -------------------------------------------------------------------------


def test_database_config_alone_needs_nothing_of_the_others(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    database = {"user": "u", "password": "p", "port": "6432"}
    files.write_root({"database": database, "api": {"kite_api_key": "${NO_SUCH_KEY}"}})
    assert ConfigLoader.load_database_config() == DatabaseConfig(
        "localhost", 6432, "moneytree", "u", "p"
    )
    assert caplog.messages == []


def test_database_config_alone_with_faults(files: Files) -> None:
    files.write_root({"database": {"user": "${NO_SUCH_USER}", "port": 0}})
    text = faults_of(ConfigLoader.load_database_config)
    assert [line.split(". Set ")[0] for line in text.splitlines()[1:]] == [
        "config/config.json: not set, or empty: NO_SUCH_USER",
        "config/config.json: database.port: expected an integer from 1 to 65535, got 0",
    ]


API_CREDENTIALS = {
    "kite_api_key": "${KITE_API_KEY}",
    "kite_api_secret": "${KITE_API_SECRET}",
    "kite_access_token": "${KITE_ACCESS_TOKEN}",
}


def test_api_config_alone_needs_nothing_of_the_others(
    files: Files, credentials: None, caplog: pytest.LogCaptureFixture
) -> None:
    api = {**API_CREDENTIALS, "root": "http://localhost:8000"}
    files.write_root({"api": api, "database": {"user": "${NO_SUCH_USER}"}})
    assert ConfigLoader.load_api_config() == APIConfig(
        "the_key", "the_secret", "the_token", "http://localhost:8000"
    )
    assert caplog.messages == []


@pytest.mark.parametrize("token", [None, "yesterdays"], ids=["missing", "there"])
def test_api_config_without_the_token_is_for_a_login(
    token: str | None, files: Files, credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITE_ACCESS_TOKEN", token or "")
    files.write_root({"api": API_CREDENTIALS})
    config = ConfigLoader.load_api_config(with_token=False)
    assert config == APIConfig("the_key", "the_secret", "")


def test_api_config_without_the_token_needs_the_others(files: Files) -> None:
    files.write_root({"api": API_CREDENTIALS})
    with_token = faults_of(ConfigLoader.load_api_config)
    without = faults_of(lambda: ConfigLoader.load_api_config(with_token=False))
    missing = "config/config.json: not set, or empty: KITE_API_KEY, KITE_API_SECRET"
    assert f"{missing}, KITE_ACCESS_TOKEN. " in with_token
    assert f"{missing}. " in without


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ({}, Calendar()),
        (
            {"calendar": {"holidays": ["2026-01-15"], "sessions": ["2026-02-01"]}, "api": "any"},
            Calendar(frozenset([date(2026, 1, 15)]), frozenset([date(2026, 2, 1)])),
        ),
    ],
    ids=["none", "one"],
)
def test_calendar_needs_nothing_of_the_others(
    root: dict[str, Any], expected: Calendar, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.write_root(root)
    assert ConfigLoader.load_calendar() == expected
    assert caplog.messages == []


def test_holidays_with_a_variable_that_is_missing(files: Files) -> None:
    files.write_root({"calendar": {"holidays": ["2026-01-26", "${NO_SUCH_DAY}"]}})
    _, *faults = faults_of(ConfigLoader.load_calendar).splitlines()
    assert [line.split(". Set ")[0] for line in faults] == [
        "config/config.json: not set, or empty: NO_SUCH_DAY"
    ]


# --- for the runner ----------------------------------------------------------------------------


def test_logging_config_needs_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    config = ConfigLoader.load_logging_config()
    assert config["level"] == "INFO"
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("log_dir", "expected"),
    [("logs/here", PROJECT / "logs/here"), ("/var/x", Path("/var/x")), ("~/x", Path.home() / "x")],
    ids=["relative", "absolute", "home"],
)
def test_log_directory_counts_from_the_projects_root(
    log_dir: str, expected: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOG_DIR", log_dir)
    monkeypatch.chdir(tmp_path)
    assert ConfigLoader.load_logging_config()["directory"] == expected


def test_logging_config_with_a_fault_is_named(files: Files) -> None:
    files.write_root({**ROOT, "logging": {"level": "LOUD", "directory": "${NO_SUCH_DIRECTORY}"}})
    text = faults_of(ConfigLoader.load_logging_config)
    assert "config/config.json: logging.level: expected one of" in text
    assert "NO_SUCH_DIRECTORY" in text


def test_dag_summary_needs_nothing_but_its_file(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    (files.root / "config" / "config.json").unlink()
    folder = files.write_dag(
        {
            "schedule": "daily",
            "description": "for ${NO_SUCH_NAME}",
            "parameters": {"batch_size": "x"},
        }
    )

    summary = ConfigLoader.load_dag_summary(folder)

    assert (summary["enabled"], summary["schedule"]) == (True, "daily")
    assert summary["description"] == "for ${NO_SUCH_NAME}"
    assert caplog.messages == []


def test_dag_summary_with_a_fault_names_the_file(files: Files) -> None:
    folder = files.write_dag({**DAG, "enabled": "maybe"})
    text = faults_of(lambda: ConfigLoader.load_dag_summary(folder))
    assert "dag_7_try/config.json: enabled: expected true or false" in text


def test_dag_summary_when_the_env_file_cannot_be_read(files: Files) -> None:
    files.write_env(b"DB_PASSWORD=\xff\n")
    assert ConfigLoader.load_dag_summary(files.write_dag(DAG))["description"] == "d"


@pytest.mark.parametrize(
    ("set_to", "overrules"), [(None, False), ("", False), ("new", False), ("old", True)], ids=repr
)
def test_environment_overrules_with_another_value_alone(
    set_to: str | None, overrules: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if set_to is not None:
        monkeypatch.setenv("KITE_ACCESS_TOKEN", set_to)
    assert config_loader.environment_overrules("KITE_ACCESS_TOKEN", "new") is overrules
