"""The design's files, names and signatures are there as it lays them down."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT

DESIGN = Path(__file__).with_name("design.txt")
FILES = """
execute_dags.py requirements.txt README.md .env.example config/config.json shared/__init__.py
shared/config/__init__.py shared/config/config_loader.py shared/config/logging_config.py
shared/utils/__init__.py shared/utils/db_manager.py shared/utils/kite_client_wrapper.py
dag_1_import_instruments_from_kite/__init__.py dag_1_import_instruments_from_kite/config.json
dag_1_import_instruments_from_kite/import_instruments.py
dag_1_import_instruments_from_kite/schema.sql
"""


def walk(drawn: ast.Module | ast.ClassDef, owner: Any) -> Iterator[tuple[str, ast.AST, Any]]:
    """Each function and class within: its name, how it is drawn, and where it is."""
    for node in drawn.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node, owner
        if isinstance(node, ast.ClassDef):
            yield from walk(node, getattr(owner, node.name))


def drawn_names() -> Iterator[Any]:
    _, *sections = re.split(r"^## (.+)$", DESIGN.read_text(encoding="utf-8"), flags=re.M)
    for module, stubs in zip(sections[::2], sections[1::2]):
        for name, node, owner in walk(ast.parse(stubs), importlib.import_module(module)):
            yield pytest.param(node, owner, id=f"{owner.__name__}.{name}")


@pytest.mark.parametrize("path", FILES.split())
def test_file_of_the_design_is_there(path: str) -> None:
    assert (PROJECT / path).is_file()


@pytest.mark.parametrize(("drawn", "owner"), list(drawn_names()))
def test_name_is_the_designs(drawn: ast.FunctionDef | ast.ClassDef, owner: Any) -> None:
    if isinstance(drawn, ast.FunctionDef):
        assert_signature(drawn, owner)
    else:
        made = getattr(owner, drawn.name)
        for base in drawn.bases:
            name = ast.unparse(base)
            assert issubclass(made, getattr(owner, name, Exception)), name
        assert_fields(drawn, made)


def assert_signature(drawn: ast.FunctionDef, owner: Any) -> None:
    is_static = any(ast.unparse(one) == "staticmethod" for one in drawn.decorator_list)
    assert isinstance(inspect.getattr_static(owner, drawn.name), staticmethod) is is_static
    made = getattr(owner, drawn.name)
    signature = inspect.signature(made)
    names = [argument.arg for argument in drawn.args.args]
    if inspect.ismethod(made):
        names.remove("cls")
    first_default = len(names) - len(drawn.args.defaults)
    found = list(signature.parameters.values())
    assert len(found) >= len(names)
    for number, (name, parameter) in enumerate(zip(names, found)):
        assert name in ("_", parameter.name)
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert (parameter.default is not parameter.empty) is (number >= first_default), name
    for extra in found[len(names) :]:
        assert extra.default is not extra.empty or extra.kind is extra.VAR_KEYWORD, extra
    assert drawn.returns is not None
    assert signature.return_annotation == ast.unparse(drawn.returns)


def assert_fields(drawn: ast.ClassDef, made: Any) -> None:
    """A dataclass has the design's fields first, in order; the others have defaults."""
    fields = [node for node in drawn.body if isinstance(node, ast.AnnAssign)]
    if not fields:
        return
    found = [(field.name, has_default(field)) for field in dataclasses.fields(made)]
    wanted = [(ast.unparse(node.target), node.value is not None) for node in fields]
    assert found[: len(wanted)] == wanted
    assert all(default for _, default in found[len(wanted) :])


def has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def test_every_exception_of_the_tree_is_drawn_at_its_top() -> None:
    tree = ast.parse((PROJECT / "shared" / "exceptions.py").read_text(encoding="utf-8"))
    drawing = (ast.get_docstring(tree) or "").split()
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert len(classes) >= 10
    assert [name for name in classes if name not in drawing] == []
