"""Discovery: which folders are DAGs, what is known of them; a broken one harms no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.config import config_loader
from shared.dag_discovery import DAG, discover_dags
from shared.exceptions import ConfigurationError, DAGExecutionError
from tests.conftest import PROJECT


@pytest.fixture(autouse=True)
def forget_packages() -> Iterator[None]:
    """Packages that a test has loaded are not there for the next one."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("dag_"):
            del sys.modules[name]


def write_dag(
    root: Path,
    folder: str,
    code: str | None = None,
    config: Any = None,
) -> Path:
    path = root / folder
    path.mkdir()
    if config is None:
        config = {"schedule": "daily", "description": f"about {folder}"}
    text = config if isinstance(config, str) else json.dumps(config)
    (path / "config.json").write_text(text)
    if code is not None:
        (path / "__init__.py").write_text(code)
    return path


def only(root: Path) -> DAG:
    (dag,) = discover_dags(root)
    return dag


def test_project_has_dag_1() -> None:
    dag = only(PROJECT)
    assert (dag.dag_id, dag.name, dag.enabled, dag.schedule, dag.fault) == (
        1,
        "import_instruments_from_kite",
        True,
        "daily",
        None,
    )
    assert dag.load().__name__ == "import_instruments_from_kite"


def test_dags_are_found_by_folder_and_ordered_by_id(tmp_path: Path) -> None:
    for folder in ("dag_10_late", "dag_2_early", "dag_03_odd"):
        write_dag(tmp_path, folder)
    assert [(dag.dag_id, dag.name) for dag in discover_dags(tmp_path)] == [
        (2, "early"),
        (3, "odd"),
        (10, "late"),
    ]


@pytest.mark.parametrize(
    "folder",
    ["dag_x_name", "dag_1", "dag_1_", "dag_1_a-b", "xdag_1_a", "DAG_1_a", "dag_1_a b", "dag"],
)
def test_folder_by_another_name_is_no_dag(folder: str, tmp_path: Path) -> None:
    write_dag(tmp_path, folder)
    assert discover_dags(tmp_path) == []


def test_file_by_the_name_of_a_dag_is_none(tmp_path: Path) -> None:
    (tmp_path / "dag_1_name").write_text("")
    assert discover_dags(tmp_path) == []


def test_description_comes_from_the_config_alone(tmp_path: Path) -> None:
    config = {"enabled": False, "schedule": "weekly", "description": "about this"}
    folder = write_dag(tmp_path, "dag_1_a", "raise RuntimeError('the code is not loaded')", config)
    assert only(tmp_path) == DAG(1, "a", folder, False, "weekly", "about this", None)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("{", "is not valid JSON: line 1, column 2"),
        ("[]", "expected an object"),
        ('{"enabled": "maybe"}', 'enabled: expected true or false, got "maybe"'),
        ('{"schedule": 5}', "schedule: expected a text"),
    ],
    ids=["syntax", "list", "enabled", "schedule"],
)
def test_broken_config_is_a_fault_of_its_dag_alone(config: str, fault: str, tmp_path: Path) -> None:
    write_dag(tmp_path, "dag_1_broken", "def broken(): pass", config)
    write_dag(tmp_path, "dag_2_well", "def well(): return 'ran'")

    broken, well = discover_dags(tmp_path)

    assert fault in (broken.fault or "")
    assert "dag_1_broken" in (broken.fault or "")
    assert "\n" not in (broken.fault or "")
    with pytest.raises(ConfigurationError) as caught:
        broken.load()
    assert str(caught.value) == broken.fault
    assert well.load()() == "ran"


def test_missing_config_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "dag_1_a").mkdir()
    assert "config.json is missing" in (only(tmp_path).fault or "")


def test_same_id_twice_is_a_fault_of_both_that_names_both_folders(tmp_path: Path) -> None:
    for folder in ("dag_1_a", "dag_01_b", "dag_2_c"):
        write_dag(tmp_path, folder, f"def {folder[-1]}(): return 'ran'")

    first, second, other = discover_dags(tmp_path)

    for dag in (first, second):
        assert "dag_1_a" in (dag.fault or "")
        assert "dag_01_b" in (dag.fault or "")
        with pytest.raises(ConfigurationError, match="DAG id 1 is used by several folders"):
            dag.load()
    assert other.fault is None


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def broken(:", "cannot be loaded: SyntaxError"),
        ("import no_such_module_anywhere", "cannot be loaded: ModuleNotFoundError"),
        ("raise RuntimeError('at import')", "cannot be loaded: RuntimeError: at import"),
        ("import sys; sys.exit(0)", "cannot be loaded: SystemExit"),
        ("def other(): pass", "has no function broken"),
        ("broken = 5", "has no function broken"),
        (None, "cannot be loaded: ImportError: no __init__.py"),
    ],
    ids=["syntax", "import", "raises", "exits", "other-function", "no-function", "no-package"],
)
def test_broken_code_is_a_fault_at_its_run_alone(
    code: str | None, message: str, tmp_path: Path
) -> None:
    write_dag(tmp_path, "dag_1_broken", code)
    write_dag(tmp_path, "dag_2_well", "def well(): return 'ran'")
    broken, well = discover_dags(tmp_path)
    assert broken.fault is None

    with pytest.raises(DAGExecutionError, match=message) as caught:
        broken.load()

    assert str(caught.value).startswith("DAG 1: dag_1_broken ")
    assert well.load()() == "ran"
    assert broken.folder.name not in sys.modules or code in ("def other(): pass", "broken = 5")


def test_dag_in_a_folder_elsewhere_can_import_its_own_modules(tmp_path: Path) -> None:
    folder = write_dag(tmp_path, "dag_7_split", "from .part import split\n")
    (folder / "part.py").write_text("from dag_7_split import more\ndef split(): return more.WORD\n")
    (folder / "more.py").write_text("WORD = 'ran'\n")
    assert only(tmp_path).load()() == "ran"


def test_function_is_loaded_once(tmp_path: Path) -> None:
    write_dag(tmp_path, "dag_8_once", "def once(): pass")
    dag = only(tmp_path)
    assert dag.load() is dag.load()


def test_dags_of_the_same_folder_name_in_two_roots_are_not_mixed_up(tmp_path: Path) -> None:
    results = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_dag(tmp_path / name, "dag_9_same", f"def same(): return '{name}'")
        results.append(only(tmp_path / name).load()())
    assert results == ["first", "second"]


def test_discovery_needs_no_env_file_and_no_variables(tmp_path: Path) -> None:
    write_dag(tmp_path, "dag_1_a", config={"description": "${NO_SUCH_NAME}"})
    config_loader.ENV_FILE.write_bytes(b"\xff")
    assert (only(tmp_path).fault, only(tmp_path).description) == (None, "${NO_SUCH_NAME}")
