"""docs/research.md as data: its parts, their blocks and packages."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement

from tests.conftest import PROJECT
from tests.documents import read_blocks

PAGE = PROJECT / "docs" / "research.md"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
BLOCKS = list(read_blocks(PAGE))
# What has another name as a package than as a module.
MODULES = {"SQLAlchemy": "sqlalchemy", "psycopg2-binary": "psycopg2", "python-dotenv": "dotenv"}


def python_blocks(*headings: str) -> list[str]:
    """The Python of these parts, in the page's order."""
    found = [b.text for b in BLOCKS if b.language == "python" and b.heading in headings]
    assert found, headings
    return found


def read_requirements() -> list[Requirement]:
    """What the test's own environment has, by name."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    wanted = [line.partition("#")[0].strip() for line in lines]
    return [Requirement(line) for line in wanted if line]


def told_requirements() -> dict[str, list[Requirement]]:
    """What the page says to install, by the part that its line is for."""
    (text,) = (block.text for block in BLOCKS if block.language == "sh")
    return {
        part: [Requirement(each) for each in re.findall(r"'([^']+)'", line)]
        for line, part in re.findall(r"pip install (.*)  # (\w+)", text)
    }


def modules_of(requirements: list[Requirement]) -> set[str]:
    return {MODULES.get(each.name, each.name) for each in requirements}
