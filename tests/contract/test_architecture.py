"""The house stays as drawn: who may import what, who may do what, and what a new DAG finds."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import PROJECT

DAG_FOLDERS = sorted(path for path in PROJECT.glob("dag_*_*") if path.is_dir())
MODULES = sorted(
    [
        PROJECT / "execute_dags.py",
        *(PROJECT / "shared").rglob("*.py"),
        *(path for folder in DAG_FOLDERS for path in folder.rglob("*.py")),
    ]
)
HELPERS = ("sandbox", "deploy", "benchmarks", "tests")
MAX_LINES = 500  # of a module: what is longer is two things

# In patterns of modules: those that speak to Kite, and those that speak to PostgreSQL.
KITE = r"shared/utils/(kite\w*|\w*session|http\w*)\.py"
DATABASE = r"(?!shared/utils/kite)shared/utils/\w+\.py"
# Composes a statement, or names a type.
FOR_ANYBODY = ("psycopg2.sql", "psycopg2.extensions")
FEED = ("shared.feed", "shared.models", "shared.exceptions", "shared.foreign_text")


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def walk(node: ast.AST, *, functions: bool = True) -> Iterator[ast.AST]:
    """All nodes but those for type checkers; without the bodies of functions: what import runs."""
    skipped = () if functions else (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not is_for_types and not isinstance(child, skipped):
            yield child
            yield from walk(child, functions=functions)


def imports_of(path: Path, *, functions: bool = True) -> set[str]:
    """The full names that are imported: `from a.b import c` gives a.b.c."""
    package = path.relative_to(PROJECT).parts[:-1]
    found = set()
    for node in walk(parse(path), functions=functions):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def under(names: set[str], *packages: str) -> set[str]:
    return {n for n in names if any(n == one or n.startswith(f"{one}.") for one in packages)}


def foreign(names: set[str]) -> set[str]:
    standard = {*sys.stdlib_module_names, "__future__"}
    return {name for name in names if name.split(".")[0] not in standard}


def modules(pattern: str) -> list[Path]:
    return [path for path in MODULES if re.fullmatch(pattern, name_of(path))]


# --- who may import what -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "places"),
    [
        pytest.param("kiteconnect", KITE, id="kiteconnect"),
        pytest.param("requests", KITE, id="requests"),
        pytest.param("urllib3", KITE, id="urllib3"),
        pytest.param("psycopg2", DATABASE, id="psycopg2"),
        pytest.param("tenacity", r"shared/utils/retry\.py", id="tenacity"),
        pytest.param("dotenv", r"shared/config/\w+\.py", id="dotenv"),
        pytest.param("cronsim", r"shared/\w+\.py", id="cronsim"),
        pytest.param("rich", r"shared/console\.py", id="rich"),
        pytest.param("subprocess", r"shared/notify\.py", id="subprocess"),
        pytest.param("argparse", r"execute_dags\.py|shared/arguments\.py", id="argparse"),
    ],
)
def test_driver_is_imported_in_its_own_place_alone(driver: str, places: str) -> None:
    for path in MODULES:
        names = imports_of(path)
        found = under(names, driver) - under(names, *FOR_ANYBODY)
        assert not found or re.fullmatch(places, name_of(path)), path


@pytest.mark.parametrize(
    ("places", "never"),
    [
        pytest.param(KITE, ("psycopg2", "shared.config", "shared.run"), id="Kite"),
        pytest.param(
            DATABASE,
            ("shared.config.config_loader", "shared.utils.kite_client_wrapper", "shared.run"),
            id="database",
        ),
        pytest.param(r"shared/models/\w+\.py", ("psycopg2", "shared.config"), id="models"),
        pytest.param(
            r"shared/config/\w+\.py", ("psycopg2", "shared.utils.db_manager"), id="config"
        ),
        pytest.param(r"shared/.*\.py", ("execute_dags", *HELPERS), id="shared"),
    ],
)
def test_layer_never_imports(places: str, never: tuple[str, ...]) -> None:
    assert modules(places)
    found = {name_of(path): under(imports_of(path), *never) for path in modules(places)}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("path", "packages"),
    [
        pytest.param("shared/exceptions.py", (), id="exceptions"),
        pytest.param("shared/feed.py", (*FEED, "shared.config.fields"), id="feed"),
        pytest.param("shared/models/table.py", FEED, id="table"),
        pytest.param(
            "shared/utils/kite_csv.py", (*FEED, "shared.utils.csv_rows"), id="Kite's list"
        ),
        pytest.param("shared/utils/csv_rows.py", FEED, id="CSV"),
    ],
)
def test_module_imports_nothing_else(path: str, packages: tuple[str, ...]) -> None:
    names = foreign(imports_of(PROJECT / path))
    assert names == under(names, *packages)


def test_what_runs_need_is_in_requirements_run_and_nothing_else_is() -> None:
    text = (PROJECT / "requirements-run.txt").read_text(encoding="utf-8")
    own = {"shared", "execute_dags", *HELPERS, *(folder.name for folder in DAG_FOLDERS)}
    imported = {name.split(".")[0] for path in MODULES for name in foreign(imports_of(path))}
    imported |= {"kiteconnect"}  # by its name alone, in kiteconnect_client.py
    provided_by = packages_distributions()
    needed = {provided_by[name][0].lower() for name in imported - own}
    assert needed == set(re.findall(r"^([\w-]+)[~>]=", text, re.M))


def test_shared_code_knows_no_dag() -> None:
    for path in modules(r"shared/.*"):
        text = path.read_text(encoding="utf-8")
        assert [folder.name for folder in DAG_FOLDERS if folder.name in text] == [], path


@pytest.mark.parametrize("folder", DAG_FOLDERS, ids=lambda folder: folder.name)
def test_dag_imports_itself_and_shared_code_alone(folder: Path) -> None:
    """Its part of the sandbox knows the sandbox, and is imported by nothing else of the DAG."""
    for path in folder.rglob("*.py"):
        sandbox = ("sandbox",) if path.stem.startswith("sandbox") else ()
        names = foreign(imports_of(path))
        allowed = (folder.name, "shared", *FOR_ANYBODY, *sandbox)
        assert names == under(names, *allowed), path.name
        if not sandbox:
            assert not [name for name in names if name.startswith(f"{folder.name}.sandbox")]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_core_imports_no_helper_when_it_is_imported(path: Path) -> None:
    """The sandbox is reached through configuration, or from within the command that starts it."""
    if not path.stem.startswith("sandbox"):
        assert under(imports_of(path, functions=False), *HELPERS) == set()


def test_command_line_imports_no_driver_before_it_is_needed() -> None:
    """The list of DAGs needs neither database nor network, and is there at once."""
    seen: set[Path] = set()
    waiting = ["execute_dags"]
    while waiting:
        module = waiting.pop()
        path = PROJECT / (module.replace(".", "/") + ".py")
        if path.exists() and path not in seen:
            seen.add(path)
            names = imports_of(path, functions=False)
            heavy = under(names, "psycopg2", "kiteconnect", "requests", "tenacity", "rich")
            assert heavy == set(), module
            waiting += [*names, *(name.rpartition(".")[0] for name in names)]
    assert PROJECT / "shared" / "dag_discovery.py" in seen


# --- who may do what -----------------------------------------------------------------------------


def calls(*names: str) -> Callable[[ast.AST], bool]:
    """Whether a node calls one of these, by its last names: `print`, `sys.exit`, `.commit`."""
    return lambda node: (
        isinstance(node, ast.Call)
        and any(f".{ast.unparse(node.func)}".endswith(f".{name.lstrip('.')}") for name in names)
    )


def is_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")


@pytest.mark.parametrize(
    ("is_meant", "places"),
    [
        pytest.param(calls("print", "stdout.write"), r"shared/console\.py", id="print"),
        pytest.param(
            calls("addHandler", "basicConfig", "dictConfig"),
            r"shared/config/logging_config\.py",
            id="handlers",
        ),
        pytest.param(
            is_environment,
            r"shared/config/\w+\.py|shared/utils/libpq_environment\.py",
            id="environment",
        ),
        pytest.param(calls("sys.exit", "os._exit"), r"execute_dags\.py", id="exit status"),
        pytest.param(calls(".commit", ".rollback"), r"shared/utils/(db_|conn)\w+\.py", id="commit"),
    ],
)
def test_it_is_done_in_its_own_place_alone(
    is_meant: Callable[[ast.AST], bool], places: str
) -> None:
    doing = {name_of(path) for path in MODULES if any(map(is_meant, walk(parse(path))))}
    assert doing
    assert {name for name in doing if not re.fullmatch(places, name)} == set()


def test_shared_code_knows_no_instrument_but_where_the_design_wants_it() -> None:
    """In the model, in Kite's CSV, and in methods and imports that say so in their names."""
    designed = r"shared/utils/(db_manager|kite_client_wrapper)\.py"
    found = []
    for path in (PROJECT / "shared").rglob("*"):
        name = name_of(path)
        is_text = path.suffix in (".py", ".sql", ".json")
        if not is_text or name in ("shared/models/instrument.py", "shared/utils/kite_csv.py"):
            continue
        allowed: set[int] = set()
        if re.fullmatch(designed, name):
            for node in ast.walk(parse(path)):
                is_import = isinstance(node, ast.ImportFrom) and "instrument" in ast.unparse(node)
                is_method = isinstance(node, ast.FunctionDef) and (
                    "instrument" in node.name or node.name == "_count"  # what the counts share
                )
                if is_import or is_method:
                    allowed.update(range(node.lineno, (node.end_lineno or 0) + 1))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if "instrument" in line.lower() and number not in allowed:
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


# --- how it is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_is_one_thing_and_says_what(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
