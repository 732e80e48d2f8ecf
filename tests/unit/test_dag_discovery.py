"""Discovery: which folders are DAGs, what is known of them; a broken one harms no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.config import config_loader
from shared.dag_discovery import DAG, NO_ID, discover_dags, in_order
from shared.exceptions import ConfigurationError, DAGExecutionError
from shared.run import run_feed
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
    code: str | None = "",
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


def test_project_has_dag_1_and_two_others_which_are_not_enabled() -> None:
    dag, candles, changes = discover_dags(PROJECT)
    assert (candles.dag_id, candles.name, candles.enabled, candles.schedule, candles.after) == (
        2,
        "import_candles_from_kite",
        False,
        "0 18 * * 1-5",
        (1,),
    )
    assert candles.fault is None
    assert (changes.dag_id, changes.name, changes.enabled, changes.schedule, changes.fault) == (
        3,
        "import_symbol_changes_from_nse",
        False,
        "0 8 * * 1-5",
        None,
    )
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
    [
        *("dag_5-foo", "dag-5-foo", "dag5_foo", "DAG_5_foo", "dag_5_a b"),
        *("dag_5", "dag_5_", "dag_x_foo"),
    ],
)
@pytest.mark.parametrize("code", [None, ""], ids=["config", "package"])
def test_folder_by_a_similar_name_is_listed_as_broken(
    code: str | None, folder: str, tmp_path: Path
) -> None:
    write_dag(tmp_path, folder, code)
    dag = only(tmp_path)
    assert (dag.shown_id, dag.name, dag.enabled) == ("?", folder, False)
    assert f"{folder}: the folder of a DAG must be named dag_<id>_<name>" in (dag.fault or "")
    with pytest.raises(ConfigurationError, match="must be named"):
        dag.load()


@pytest.mark.parametrize("folder", ["xdag_1_a", "dag", "dags", "dagger_1_a", "a_dag_1_b"])
def test_folder_by_another_name_is_no_dag(folder: str, tmp_path: Path) -> None:
    write_dag(tmp_path, folder)
    assert discover_dags(tmp_path) == []


def test_folder_by_a_similar_name_with_other_files_is_no_dag(tmp_path: Path) -> None:
    (tmp_path / "dag_notes").mkdir()
    (tmp_path / "dag_notes" / "readme.txt").write_text("")
    assert discover_dags(tmp_path) == []


def test_copy_that_was_put_aside_does_not_take_the_id_of_its_dag(tmp_path: Path) -> None:
    for folder in ("dag_1_a", "dag_1_a.bak", "dag_01-a"):
        write_dag(tmp_path, folder, "def a(): return 'ran'")
    *copies, dag = discover_dags(tmp_path)
    assert [copy.dag_id for copy in copies] == [NO_ID, NO_ID]
    assert (dag.dag_id, dag.fault) == (1, None)
    assert dag.load()() == "ran"


def test_file_by_the_name_of_a_dag_is_none(tmp_path: Path) -> None:
    (tmp_path / "dag_1_name").write_text("")
    assert discover_dags(tmp_path) == []


def test_description_comes_from_the_config_alone(tmp_path: Path) -> None:
    config = {"enabled": False, "schedule": "0 9 * * 1", "description": "about this"}
    folder = write_dag(tmp_path, "dag_1_a", "raise RuntimeError('the code is not loaded')", config)
    assert only(tmp_path) == DAG(1, "a", folder, False, "0 9 * * 1", "about this")


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("{", "is not valid JSON: line 1, column 2"),
        ("[]", "expected an object"),
        ('{"enabled": "maybe"}', 'enabled: expected true or false, got "maybe"'),
        ('{"schedule": "weekly"}', 'schedule: expected "daily" or a cron expression'),
        ('{"after": ["x"]}', "after: expected a list of DAG ids"),
    ],
    ids=["syntax", "list", "enabled", "schedule", "after"],
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
    folder = tmp_path / "dag_1_a"
    folder.mkdir()
    assert "config.json is missing" in (only(tmp_path).fault or "")
    assert not only(tmp_path).enabled  # a run of all goes on without what git has left of a DAG
    (folder / "__init__.py").write_text("")
    assert only(tmp_path).enabled


def test_folder_that_is_no_package_is_a_fault(tmp_path: Path) -> None:
    write_dag(tmp_path, "dag_1_a", None)
    assert only(tmp_path).fault == (
        "dag_1_a has no __init__.py: it must export FEED or a function a."
    )


def test_what_may_not_be_read_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dag(tmp_path, "dag_5_even")
    denied = write_dag(tmp_path, "dag_6_odd")
    (tmp_path / "elsewhere").mkdir()

    def refuse(ask: Any) -> Any:
        """As the system does for who has no rights on a folder; root has them on all."""

        def asked(path: Path, *args: Any, **options: Any) -> Any:
            if path.parent == denied or path.name == "elsewhere":
                raise PermissionError(13, "Permission denied", str(path))
            return ask(path, *args, **options)

        return asked

    for ask in (Path.is_dir, Path.is_file, Path.exists, Path.read_text):
        monkeypatch.setattr(Path, ask.__name__, refuse(ask))
    even, odd = discover_dags(tmp_path)
    assert (even.name, even.fault) == ("even", None)
    assert (odd.name, odd.enabled) == ("odd", False)
    assert "dag_6_odd/config.json cannot be read: " in str(odd.fault)


def test_local_file_counts_for_the_list(tmp_path: Path) -> None:
    folder = write_dag(tmp_path, "dag_1_a")
    (folder / "local.json").write_text('{"enabled": false, "schedule": "0 7 * * *"}')
    assert (only(tmp_path).enabled, only(tmp_path).schedule) == (False, "0 7 * * *")
    (folder / "local.json").write_text('{"enabled": 5}')
    assert "dag_1_a/local.json: enabled: expected true or false" in (only(tmp_path).fault or "")


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
        ("def other(): pass", "has no function broken and no FEED: its __init__.py must export"),
        ("broken = 5", "has no function broken and no FEED"),
        ("async def broken(): pass", "dag_1_broken: broken is async, and nobody awaits it"),
        ("def broken(): yield", "dag_1_broken: broken is a generator, and nobody runs it"),
        ("def broken(x): pass", "dag_1_broken: broken must be callable without arguments: .*'x'"),
        ("FEED = 5", r"dag_1_broken must be a Feed .*, got 5"),
    ],
    ids=[
        *("syntax", "import", "raises", "exits", "other-function", "no-function"),
        *("async", "generator", "argument", "no-feed"),
    ],
)
def test_broken_code_is_a_fault_at_its_run_alone(code: str, message: str, tmp_path: Path) -> None:
    write_dag(tmp_path, "dag_1_broken", code)
    write_dag(tmp_path, "dag_2_well", "def well(): return 'ran'")
    broken, well = discover_dags(tmp_path)
    assert broken.fault is None

    with pytest.raises(DAGExecutionError, match=message) as caught:
        broken.load()

    assert str(caught.value).startswith("DAG 1: ")
    assert "dag_1_broken" in str(caught.value)
    assert well.load()() == "ran"
    assert (broken.folder.name in sys.modules) is ("cannot be loaded" not in message)


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


# --- feeds -------------------------------------------------------------------------------------

FEED = """
from pathlib import Path
from shared.feed import Feed
from shared.models.instrument import INSTRUMENT_TABLE
FEED = Feed({folder}, "rows", INSTRUMENT_TABLE, lambda run: [], lambda body: None)
"""


def test_feed_is_loaded_from_its_package(tmp_path: Path) -> None:
    write_dag(tmp_path, "dag_1_a", FEED.format(folder="Path(__file__).parent"))
    dag = only(tmp_path)
    feed = dag.load_feed()
    assert feed is not None
    assert (feed.dag_id, feed.name, feed.title) == (1, "a", "rows")


def test_run_of_its_feed_is_what_runs_where_there_is_no_function(tmp_path: Path) -> None:
    write_dag(tmp_path, "dag_1_a", FEED.format(folder="Path(__file__).parent"))
    dag = only(tmp_path)
    function = dag.load()
    assert isinstance(function, partial)
    assert (function.func, function.args) == (run_feed, (dag.load_feed(),))


def test_function_of_a_feeds_package_is_what_runs(tmp_path: Path) -> None:
    code = FEED.format(folder="Path(__file__).parent") + "def a(): return 'ran'\n"
    write_dag(tmp_path, "dag_1_a", code)
    assert only(tmp_path).load()() == "ran"


def test_plain_function_has_no_feed(tmp_path: Path) -> None:
    write_dag(tmp_path, "dag_1_a", "def a(): pass")
    assert only(tmp_path).load_feed() is None


def test_feed_of_another_folder_is_refused(tmp_path: Path) -> None:
    write_dag(tmp_path, "dag_1_a", FEED.format(folder="Path('/elsewhere/dag_2_b')"))
    with pytest.raises(DAGExecutionError) as caught:
        only(tmp_path).load_feed()
    assert str(caught.value) == (
        "DAG 1: FEED in dag_1_a must be a Feed (shared/feed.py) with folder=Path(__file__).parent, "
        "got /elsewhere/dag_2_b."
    )


# --- dependencies ------------------------------------------------------------------------------


def write_after(root: Path, after: dict[int, list[int]]) -> None:
    for dag_id, ids in after.items():
        write_dag(root, f"dag_{dag_id}_x", config={"after": ids})


@pytest.mark.parametrize(
    ("after", "faults"),
    [
        pytest.param({1: [], 2: [1], 3: [1, 2]}, {}, id="sound"),
        pytest.param({1: [9], 2: [1]}, {1: "there is no DAG 9."}, id="unknown"),
        pytest.param({1: [1]}, {1: "DAG 1 would have to run after itself."}, id="itself"),
        pytest.param(
            {1: [3], 2: [1], 3: [2], 4: [3]},
            {
                dag_id: f"DAG {dag_id} would have to run after itself, by way of {others}."
                for dag_id, others in ((1, "2, 3"), (2, "1, 3"), (3, "1, 2"))
            },
            id="circle",
        ),
    ],
)
def test_what_a_dag_comes_after_is_checked(
    after: dict[int, list[int]], faults: dict[int, str], tmp_path: Path
) -> None:
    write_after(tmp_path, after)
    dags = discover_dags(tmp_path)
    assert {dag.dag_id: list(dag.after) for dag in dags} == after
    assert {dag.dag_id: dag.fault for dag in dags if dag.fault} == {
        dag_id: f"dag_{dag_id}_x: after: {fault}" for dag_id, fault in faults.items()
    }


@pytest.mark.parametrize(
    ("after", "order"),
    [
        pytest.param({1: [], 2: [], 3: []}, [1, 2, 3], id="by id"),
        pytest.param({1: [3], 2: [], 3: []}, [2, 3, 1], id="after a later one"),
        pytest.param({1: [3], 2: [1], 3: [], 4: []}, [3, 1, 2, 4], id="chain"),
        pytest.param({1: [9], 2: []}, [1, 2], id="unknown"),
        pytest.param({1: [2], 2: [1], 3: [], 4: [3]}, [3, 4, 1, 2], id="circle"),
        pytest.param({1: [1]}, [1], id="itself"),
    ],
)
def test_dags_in_order(after: dict[int, list[int]], order: list[int], tmp_path: Path) -> None:
    write_after(tmp_path, after)
    dags = discover_dags(tmp_path)
    assert [dag.dag_id for dag in in_order(reversed(dags))] == order
