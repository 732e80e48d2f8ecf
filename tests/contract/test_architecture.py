"""The house stays as drawn: who may import what, and the names and signatures of the design."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.dag_discovery import discover_dags
from tests.conftest import PROJECT

DAG_FOLDERS = [dag.folder for dag in discover_dags(PROJECT)]
MODULES = sorted(
    [
        PROJECT / "execute_dags.py",
        *(PROJECT / "shared").rglob("*.py"),
        *(path for folder in DAG_FOLDERS for path in folder.rglob("*.py")),
    ]
)
STANDARD_LIBRARY = frozenset(sys.stdlib_module_names) | {"__future__"}
HELPERS = ("sandbox", "integrations", "benchmarks", "tests")


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(nodes: Iterator[ast.AST], package: str = "") -> set[str]:
    """The full names that are imported: `from a.b import c` gives a.b.c."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, [package, base]))
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def all_imports(path: Path) -> set[str]:
    return imports_of(ast.walk(parse(path)), ".".join(path.relative_to(PROJECT).parts[:-1]))


def executed_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from executed_at_import(child)


def is_under(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def allowed(path: str, *packages: str) -> Any:
    return pytest.param(path, packages, id=path)


# --- who may import what -----------------------------------------------------------------------


def test_walk_finds_the_modules() -> None:
    assert {"execute_dags.py", "shared/utils/kite_csv.py"} <= set(map(name_of, MODULES))
    assert any(name_of(path).startswith("dag_1_") for path in MODULES)


@pytest.mark.parametrize(
    ("path", "packages"),
    [
        allowed("shared/exceptions.py"),
        allowed("shared/models/table.py"),
        allowed("shared/utils/kite_csv.py", "shared.exceptions"),
        allowed(
            "shared/models/instrument.py",
            "shared.exceptions",
            "shared.models.table",
            "shared.utils.kite_csv",
        ),
        allowed(
            "shared/utils/retry.py",
            "tenacity",
            "shared.exceptions",
            "shared.utils.interruptible",
        ),
        allowed(
            "shared/utils/kite_client_wrapper.py",
            "shared.utils.kiteconnect_client",
            "requests",
            "urllib3",
            "shared.exceptions",
            "shared.utils.interruptible",
            "shared.utils.kite_csv",
            "shared.utils.retry",
            "shared.utils.strict_session",
        ),
        allowed(
            "shared/utils/staged_merge.py",
            "psycopg2.sql",
            "psycopg2.extensions",
            "shared.exceptions",
            "shared.models",
            "shared.utils.copy_stream",
            "shared.utils.merge_proof",
            "shared.utils.relations",
        ),
        allowed(
            "shared/utils/merge_proof.py",
            "psycopg2.sql",
            "psycopg2.extensions",
            "shared.exceptions",
            "shared.models",
            "shared.utils.relations",
        ),
        allowed(
            "shared/utils/relations.py",
            "psycopg2.sql",
            "psycopg2.extensions",
            "shared.exceptions",
        ),
        allowed(
            "shared/utils/copy_stream.py",
            "psycopg2.sql",
            "psycopg2.extensions",
            "shared.exceptions",
        ),
        allowed(
            "shared/utils/db_manager.py",
            "psycopg2",
            "shared.exceptions",
            "shared.models",
            "shared.utils.db_errors",
            "shared.utils.interruptible",
            "shared.utils.libpq_environment",
            "shared.utils.relations",
            "shared.utils.retry",
            "shared.utils.staged_merge",
            "shared.utils.table_setup",
        ),
        allowed("shared/dag_discovery.py", "shared.config", "shared.exceptions"),
    ],
)
def test_module_imports_what_it_may(path: str, packages: tuple[str, ...]) -> None:
    foreign = {
        name for name in all_imports(PROJECT / path) if name.split(".")[0] not in STANDARD_LIBRARY
    }
    assert {name for name in foreign if not is_under(name, packages)} == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_core_imports_no_helper_when_it_is_imported(path: Path) -> None:
    """The sandbox is reached through configuration, or from within the command that starts it."""
    at_import = imports_of(executed_at_import(parse(path)))
    assert {name for name in at_import if is_under(name, HELPERS)} == set()


@pytest.mark.parametrize(
    "path", [path for path in MODULES if name_of(path).startswith("shared/")], ids=name_of
)
def test_shared_code_knows_no_dag_and_no_helper_at_all(path: Path) -> None:
    names = all_imports(path)
    assert {name for name in names if name.startswith("dag_") or is_under(name, HELPERS)} == set()
    assert not is_under("execute_dags", tuple(names))


@pytest.mark.parametrize("folder", DAG_FOLDERS, ids=lambda folder: folder.name)
def test_dag_imports_itself_and_shared_code_alone(folder: Path) -> None:
    packages = (folder.name, "shared")
    for path in folder.rglob("*.py"):
        foreign = {name for name in all_imports(path) if name.split(".")[0] not in STANDARD_LIBRARY}
        assert {name for name in foreign if not is_under(name, packages)} == set(), path.name


@pytest.mark.parametrize(
    ("driver", "places", "never_with"),
    [
        pytest.param(
            "psycopg2",
            r"shared/utils/\w+\.py",
            ("kiteconnect", "requests", "shared.config", "shared.utils.kite_client_wrapper"),
            id="psycopg2",
        ),
        pytest.param(
            "kiteconnect",
            r"shared/utils/kiteconnect_client\.py",
            ("psycopg2", "shared.config", "shared.utils.db_manager"),
            id="kiteconnect",
        ),
        pytest.param(
            "dotenv",
            r"shared/config/\w+\.py",
            ("psycopg2", "kiteconnect", "shared.utils"),
            id="dotenv",
        ),
        pytest.param("rich", r"shared/console\.py", ("psycopg2", "kiteconnect"), id="rich"),
    ],
)
def test_driver_is_imported_in_its_own_place_alone(
    driver: str, places: str, never_with: tuple[str, ...]
) -> None:
    importing = [path for path in MODULES if is_under_any(all_imports(path), driver)]
    assert importing
    for path in importing:
        assert re.fullmatch(places, name_of(path))
        assert {name for name in all_imports(path) if is_under(name, never_with)} == set()


def is_under_any(names: set[str], package: str) -> bool:
    return any(is_under(name, (package,)) for name in names)


def test_command_line_imports_no_driver_before_it_is_needed() -> None:
    """`--list` needs neither database nor network, and is there at once."""
    heavy = ("psycopg2", "kiteconnect", "requests", "tenacity", "rich")
    seen: set[str] = set()
    waiting = ["execute_dags"]
    while waiting:
        module = waiting.pop()
        path = PROJECT / (module.replace(".", "/") + ".py")
        if module in seen or not path.exists():
            continue
        seen.add(module)
        for name in imports_of(executed_at_import(parse(path))):
            assert not is_under(name, heavy), f"{module} imports {name}"
            waiting += [name, name.rpartition(".")[0]]
    assert {"shared.config.config_loader", "shared.dag_discovery"} <= seen


# --- who may do what ---------------------------------------------------------------------------


def uses(path: Path, is_meant: Callable[[ast.AST], bool]) -> list[int]:
    return [node.lineno for node in ast.walk(parse(path)) if is_meant(node)]  # type: ignore[attr-defined]


def is_print(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    return called == "print" or called.endswith(("stdout.write", "stdout.buffer.write"))


def is_handler(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
        "addHandler",
        "basicConfig",
        "dictConfig",
        "fileConfig",
    )


def is_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return ast.unparse(node) in ("os.environ", "os.getenv", "os.environb", "os.putenv")
    return isinstance(node, ast.ImportFrom) and node.module == "os"


def is_exit(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "exit", "os._exit")


@pytest.mark.parametrize(
    ("is_meant", "places"),
    [
        pytest.param(is_print, {"shared/console.py"}, id="print"),
        pytest.param(is_handler, {"shared/config/logging_config.py"}, id="handlers"),
        pytest.param(
            is_environment,
            {"shared/config/config_loader.py", "shared/utils/libpq_environment.py"},
            id="environment",
        ),
        pytest.param(is_exit, {"execute_dags.py"}, id="exit-status"),
    ],
)
def test_it_is_done_in_its_own_place_alone(
    is_meant: Callable[[ast.AST], bool], places: set[str]
) -> None:
    found = {name_of(path): uses(path, is_meant) for path in MODULES}
    assert {name for name, lines in found.items() if lines} == places


def test_merge_never_commits() -> None:
    path = PROJECT / "shared/utils/staged_merge.py"
    called = {ast.unparse(n.func) for n in ast.walk(parse(path)) if isinstance(n, ast.Call)}
    assert {name for name in called if name.split(".")[-1] in ("commit", "rollback")} == set()
    assert not re.search(r"\b(COMMIT|ROLLBACK)\s*[;\"']", path.read_text())


def test_only_the_command_line_parses_arguments() -> None:
    assert {name_of(p) for p in MODULES if is_under_any(all_imports(p), "argparse")} == {
        "execute_dags.py"
    }


# --- what the design lays down -----------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "execute_dags.py",
        "requirements.txt",
        "README.md",
        ".env.example",
        "config/config.json",
        "shared/__init__.py",
        "shared/config/__init__.py",
        "shared/config/config_loader.py",
        "shared/config/logging_config.py",
        "shared/utils/__init__.py",
        "shared/utils/db_manager.py",
        "shared/utils/kite_client_wrapper.py",
        "dag_1_import_instruments_from_kite/__init__.py",
        "dag_1_import_instruments_from_kite/config.json",
        "dag_1_import_instruments_from_kite/import_instruments.py",
        "dag_1_import_instruments_from_kite/schema.sql",
    ],
)
def test_file_of_the_design_is_there(path: str) -> None:
    assert (PROJECT / path).is_file()


LOADER = "shared.config.config_loader"
MANAGER = "shared.utils.db_manager"
WRAPPER = "shared.utils.kite_client_wrapper"
DAG_1 = "dag_1_import_instruments_from_kite.import_instruments"
INSTRUMENT = "shared.models.instrument"

# Name, parameters in order (with "=" where there is a default), and the type that comes back.
# Whatever an implementation adds after these has a default.
SIGNATURES = [
    ("execute_dags:main", [], "bool"),
    ("execute_dags:parse_arguments", [], "argparse.Namespace"),
    ("execute_dags:execute_dag_wrapper", ["dag_id", "name", "func"], "tuple[int, bool, str]"),
    (f"{LOADER}:ConfigLoader.load_root_config", [], "dict[str, Any]"),
    (f"{LOADER}:ConfigLoader.load_dag_config", ["dag_folder"], "dict[str, Any]"),
    (f"{LOADER}:ConfigLoader.get_with_default", ["config", "key", "default"], "Any"),
    (f"{LOADER}:load_dag_config", ["config"], "dict[str, Any]"),
    (f"{MANAGER}:DatabaseManager.__init__", ["self", "config"], "None"),
    (f"{MANAGER}:DatabaseManager.get_connection", ["self"], "Connection"),
    (f"{MANAGER}:DatabaseManager.execute_query", ["self", "query", "params="], "None"),
    (f"{MANAGER}:DatabaseManager.execute_many", ["self", "query", "data"], "int"),
    (f"{MANAGER}:DatabaseManager.upsert_instruments", ["self", "instruments"], "tuple[int, int]"),
    (f"{MANAGER}:DatabaseManager.close", ["self"], "None"),
    (f"{MANAGER}:DatabaseManager.count_instruments", ["self", "*", "exchange"], "int"),
    (f"{MANAGER}:DatabaseManager.count_all_instruments", ["self"], "int"),
    (f"{MANAGER}:DatabaseManager.count_instruments_by_tokens", ["self", "tokens"], "int"),
    (
        f"{MANAGER}:DatabaseManager.get_instrument",
        ["self", "*", "exchange"],
        "dict[str, Any] | None",
    ),
    (f"{MANAGER}:execute_with_transaction", ["db_manager", "operations"], "None"),
    (
        f"{WRAPPER}:KiteClientWrapper.__init__",
        ["self", "api_key", "api_secret", "access_token"],
        "None",
    ),
    (f"{WRAPPER}:KiteClientWrapper.authenticate", ["self"], "bool"),
    (f"{WRAPPER}:KiteClientWrapper.fetch_instruments", ["self"], "list[dict[str, Any]]"),
    (
        f"{WRAPPER}:KiteClientWrapper.filter_instruments",
        ["self", "instruments", "exchanges="],
        "list[dict[str, Any]]",
    ),
    (f"{DAG_1}:import_instruments_from_kite", [], "str"),
    (f"{DAG_1}:create_kite_instrument_master_table", ["db_manager"], "None"),
    (f"{DAG_1}:validate_instruments", ["instruments"], "list[dict[str, Any]]"),
    (f"{DAG_1}:transform_instruments", ["instruments"], "list[dict[str, Any]]"),
    (f"{DAG_1}:parse_instruments", ["*"], "list[dict[str, Any]]"),
    (f"{DAG_1}:transform_instrument", ["instrument"], "dict[str, Any]"),
    (f"{DAG_1}:validate_instrument", ["instrument"], "bool"),
    ("shared.utils.retry:retry_with_backoff", ["func", "max_attempts=", "base_delay="], "T"),
    (f"{INSTRUMENT}:Instrument.to_dict", ["self"], "dict[str, Any]"),
    (f"{INSTRUMENT}:Instrument.from_kite_response", ["data"], "Instrument"),
    (f"{INSTRUMENT}:Instrument.validate", ["self"], "bool"),
]


def find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("name", "parameters", "returns"), SIGNATURES, ids=[name for name, _, _ in SIGNATURES]
)
def test_signature_is_the_designs(name: str, parameters: list[str], returns: str) -> None:
    signature = inspect.signature(find(name))
    found = list(signature.parameters.values())

    for wanted, parameter in zip(parameters, found):
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        has_default = parameter.default is not inspect.Parameter.empty
        # "*" stands for a name that the design's own snippets do not tell.
        assert wanted.rstrip("=") in ("*", parameter.name)
        assert wanted.endswith("=") is has_default
    assert len(found) >= len(parameters)
    for extra in found[len(parameters) :]:
        assert extra.default is not inspect.Parameter.empty, extra
    assert signature.return_annotation == returns


@pytest.mark.parametrize(
    "name", ["load_root_config", "load_dag_config", "get_with_default"], ids=str
)
def test_method_of_the_config_loader_needs_no_instance(name: str) -> None:
    found = inspect.getattr_static(find(f"{LOADER}:ConfigLoader"), name)
    assert isinstance(found, staticmethod)


DATACLASSES = {
    f"{LOADER}:APIConfig": ["kite_api_key", "kite_api_secret", "kite_access_token"],
    f"{LOADER}:DatabaseConfig": ["host", "port", "database", "user", "password"],
    f"{LOADER}:RootConfig": ["api", "database", "logging"],
    f"{LOADER}:DAGConfig": ["enabled", "schedule", "description", "parameters"],
    f"{INSTRUMENT}:Instrument": [
        "instrument_token",
        "exchange",
        "tradingsymbol",
        "exchange_token",
        "instrument_type",
        "name",
        "segment",
        "expiry",
        "strike",
        "tick_size",
        "lot_size",
        "last_updated=",
        "created_at=",
    ],
}


@pytest.mark.parametrize("name", DATACLASSES)
def test_dataclass_has_the_designs_fields_first_and_further_ones_with_defaults(name: str) -> None:
    found = [
        field.name + ("=" if has_default(field) else "") for field in dataclasses.fields(find(name))
    ]
    wanted = DATACLASSES[name]
    assert found[: len(wanted)] == wanted
    assert all(field.endswith("=") for field in found[len(wanted) :])


def has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("ConfigurationError", "StockIngestionError"),
        ("AuthenticationError", "StockIngestionError"),
        ("APIError", "StockIngestionError"),
        ("DatabaseError", "StockIngestionError"),
        ("ValidationError", "StockIngestionError"),
        ("DAGExecutionError", "StockIngestionError"),
        ("TransientError", "StockIngestionError"),
        ("TransientAPIError", "APIError"),
        ("TransientAPIError", "TransientError"),
        ("TransientDatabaseError", "DatabaseError"),
        ("TransientDatabaseError", "TransientError"),
    ],
)
def test_exception_is_in_its_place_in_the_tree(name: str, base: str) -> None:
    assert issubclass(find(f"shared.exceptions:{name}"), find(f"shared.exceptions:{base}"))


def test_every_exception_of_the_tree_is_drawn_at_its_top() -> None:
    path = PROJECT / "shared/exceptions.py"
    drawing = ast.get_docstring(parse(path)) or ""
    classes = [node.name for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)]
    assert len(classes) >= 10
    for name in classes:
        assert re.search(rf"\b{name}\b", drawing), name


def test_public_functions_and_classes_have_a_docstring() -> None:
    missing = [
        f"{name_of(path)}: {node.name}"
        for path in MODULES
        for node in ast.walk(parse(path))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and node.col_offset == 0
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert missing == []
