"""tests/README.md names every property and every fault, and only tests that exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import is_hypothesis_test, settings

from tests.conftest import PROJECT

TESTS = PROJECT / "tests"
README = TESTS / "README.md"
PROPERTIES = range(1, 22)
MINIMUM_EXAMPLES = 100
TAG = re.compile(r"# Feature: stock-ingestion, Property (\d+): (\S.*)")

# The words of the faults that must be shown; each is in the first cell of a row.
FAULTS = """
400, 403, 429, 500, 502 with HTML, 503, 504, reset while connecting, in the headers, in the body,
time-out before, within the body, cut short, plain, gzip, wrong content type, empty body,
header only, once, for ever, growing delays, not there, there after the second attempt,
wrong password, unknown database, no privilege, read-only, killed before COPY, during COPY,
after COPY, during the merge, at COMMIT, server killed and restarted, disk full,
lock held by another session, deadlock, a second and a fourth run, statement time-out,
SIGINT, SIGTERM, SIGHUP, SIGKILL, at random moments, full disk for logs, LOG_DIR not writable,
head -1, 10,000 mutated dumps
"""


def rows() -> Iterator[tuple[str, str, str]]:
    """The rows of the tables that name tests: what is shown, where, how it would fail."""
    for line in README.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 3 and "::" in cells[1]:
            yield cells[0], cells[1], cells[2]


def named_tests() -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(r"`([\w/]+\.py::\w+)`", text)


def functions_of(path: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def tagged_tests() -> list[tuple[int, str, Path, str]]:
    """Number, text, file and function of each test below a comment that names a property."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        first_lines = {
            min([node.lineno, *(one.lineno for one in node.decorator_list)]): name
            for name, node in functions_of(path).items()
        }
        for index, line in enumerate(lines):
            if match := TAG.fullmatch(line.strip()):
                end = index + 1
                while lines[end].lstrip().startswith("#"):
                    end += 1
                text = " ".join(one.strip(" #") for one in lines[index:end])
                found.append((int(match[1]), text, path, first_lines.get(end + 1, "")))
    return found


TAGGED = tagged_tests()


def test_table_names_every_property_once_or_more_in_order() -> None:
    numbers = [int(what) for what, _, _ in rows() if what.isdecimal()]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(PROPERTIES)


def test_table_of_properties_names_tests_that_have_their_tag() -> None:
    tags = defaultdict(set)
    for number, _, path, function in TAGGED:
        tags[path.relative_to(TESTS).as_posix(), function].add(number)
    for what, test, _ in rows():
        if what.isdecimal():
            path, function = test.strip("`").split("::")
            assert int(what) in tags[path, function], test


@pytest.mark.parametrize("fault", re.split(r",\s+", FAULTS.strip()))
def test_table_names_every_fault(fault: str) -> None:
    alone = re.compile(rf"(?<![\w-]){re.escape(fault)}(?![\w-])")
    assert any(alone.search(what) for what, _, _ in rows() if not what.isdecimal())


def test_every_row_says_how_its_test_would_fail() -> None:
    assert all(how for _, _, how in rows())


def test_only_tests_that_exist_are_named() -> None:
    names = named_tests()
    assert len(names) > len(PROPERTIES)
    for name in names:
        path, function = name.split("::")
        assert function in functions_of(TESTS / path), name


def test_no_property_lacks_a_test() -> None:
    assert {number for number, _, _, _ in TAGGED} == set(PROPERTIES)


@pytest.mark.parametrize(
    ("path", "function"),
    [
        pytest.param(path, function, id=f"{number} {function or path.name}")
        for number, _, path, function in TAGGED
    ],
)
def test_tag_stands_above_a_hypothesis_test_of_enough_examples(path: Path, function: str) -> None:
    module = importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    test: Any = getattr(module, function)
    assert is_hypothesis_test(test)
    # Hypothesis keeps a test's own settings here, and takes the profile's where it has none.
    own = getattr(test, "_hypothesis_internal_use_settings", None) or settings()
    assert own.max_examples >= MINIMUM_EXAMPLES


def test_tag_has_the_same_words_wherever_a_property_is_tested() -> None:
    texts = defaultdict(set)
    for number, text, _, _ in TAGGED:
        texts[number].add(text.removesuffix("  noqa: E501").rstrip())
    assert {number: found for number, found in texts.items() if len(found) > 1} == {}
