"""What docs/research.md names is there. `make research` runs its blocks; this needs no package."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from tests.command_line import CommandLine
from tests.conftest import PROJECT
from tests.documents import README, section, table_rows
from tests.instruments import instrument, to_csv
from tests.research.page import (
    PAGE,
    REQUIREMENTS,
    modules_of,
    python_blocks,
    read_requirements,
    told_requirements,
)

QUIET = "--quiet --disable-pip-version-check"
TEXT = PAGE.read_text(encoding="utf-8")


def test_page_installs_what_its_test_does() -> None:
    told = {str(each) for part in told_requirements().values() for each in part}
    assert told == {str(each) for each in read_requirements()}


def test_make_and_ci_run_the_page_with_these_requirements() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    name = REQUIREMENTS.relative_to(PROJECT).as_posix()
    assert f"$(RESEARCH_VENV)/installed: {name}\n" in makefile
    assert f"$(RESEARCH_VENV)/bin/python -m pip install {QUIET} -r {name}\n" in makefile
    workflow = (PROJECT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "- run: make research\n" in workflow


@pytest.mark.parametrize("part", ["pandas", "polars", "DuckDB"])
def test_blocks_of_a_part_import_what_its_line_installs(part: str) -> None:
    before = () if part == "DuckDB" else ("Who may read",)
    trees = [ast.parse(block) for block in python_blocks(*before, part)]
    imported = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            imported.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported - set(sys.stdlib_module_names) <= modules_of(told_requirements()[part])


def test_tables_and_variables_that_are_named_exist(cli: CommandLine) -> None:
    assert cli.load(to_csv([instrument(1, "ONE")])).status == 0
    relations = set(re.findall(r"(?:FROM|JOIN|ON) ((?:kite|ingestion)_\w+)", TEXT))
    relations |= set(
        re.findall(r"\b(kite_\w+|ingestion_\w+)(?=,|\n| TO)", section(PAGE, "Who may read"))
    )
    assert len(relations) == 7
    lacking = cli.query(
        "SELECT name FROM unnest(%s) AS name"
        " WHERE coalesce(to_regclass(name)::oid, to_regproc(name)::oid) IS NULL",
        sorted(relations),
    )
    assert lacking == []
    variables = set(re.findall(r"\bDB_\w+", TEXT))
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    assert variables == set(re.findall(r"(?m)^#?(DB_\w+)=", example))


def test_types_of_the_table_are_those_of_the_readme() -> None:
    columns = {
        row[0]: row[1] for row in table_rows(section(README, "The table `kite_instrument_master`"))
    }
    told = {row[0]: row[1] for row in table_rows(section(PAGE, "What becomes of the types"))}
    assert told
    assert told.items() <= columns.items()
