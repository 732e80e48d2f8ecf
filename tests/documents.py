"""README.md and docs/ as data: fenced blocks, sections, tables, and the DAGs that they show."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PROJECT

README = PROJECT / "README.md"
DOCUMENTS = [README, *sorted((PROJECT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, the heading that it is under, its language, its text."""

    document: str
    heading: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its lines without the remarks behind them; one that ends in a backslash goes on."""
        text = self.text.replace("\\\n", "")
        return [line.partition("  #")[0].strip() for line in text.splitlines() if line.strip()]


def read_blocks(path: Path) -> Iterator[Block]:
    heading, language, lines = "", None, []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```") and language is None:
            language, lines = line[3:], []
        elif line == "```" and language is not None:
            yield Block(path.name, heading, language, "\n".join(lines))
            language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.strip("# ")


BLOCKS = [block for path in DOCUMENTS for block in read_blocks(path)]


def blocks_of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def section(path: Path, heading: str) -> str:
    """The text under a heading."""
    text = path.read_text(encoding="utf-8")
    match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", text, re.M | re.S)
    assert match is not None, heading
    return match[2]


def table_rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables in the text, without their headers."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    rules = [number for number, row in enumerate(rows) if set(row[0]) <= set("- |")]
    skipped = {number for rule in rules for number in (rule - 1, rule)}
    return [row for number, row in enumerate(rows) if number not in skipped]


def write_dag(document: Path, heading: str, project: Path) -> Path:
    """Make the DAG that is shown: each file that the text names is the block after its name.

    Returns its folder.
    """
    text = section(document, heading)
    files = re.findall(r"`(dag_\d+_\w+/[\w.]+)`", text)
    blocks = re.findall(r"^```(?:json|sql|python)\n(.*?)^```$", text, re.M | re.S)
    assert len(files) == len(blocks) > 1
    for file, block in zip(files, blocks):
        (project / file).parent.mkdir(exist_ok=True)
        (project / file).write_text(block, encoding="utf-8")
    return project / Path(files[0]).parent


def assert_lints_and_types(folder: Path) -> None:
    """`make lint` and `make types` find nothing in a DAG's folder within a copy of the project."""
    project = folder.parent
    shutil.copy(PROJECT / "pyproject.toml", project)
    for command in (
        ["ruff", "check", "--no-cache", folder.name],
        ["ruff", "format", "--no-cache", "--check", folder.name],
        ["mypy"],  # all that pyproject.toml names
    ):
        result = subprocess.run(
            [sys.executable, "-m", *command], cwd=project, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
