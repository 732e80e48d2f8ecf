"""What runs need is written in three places: the requirements, their lock, the script header."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import PROJECT

LOCK = PROJECT / "requirements-run.lock"
SHA256 = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def read_requirements(name: str) -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in (PROJECT / name).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-r")]


@dataclass(frozen=True)
class Pin:
    """An entry of the lock: a package, its hashes, and the packages that it is there for."""

    requirement: Requirement
    hashes: list[str]
    via: list[str]

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version

    @property
    def is_for_this_python(self) -> bool:
        return self.requirement.marker is None or self.requirement.marker.evaluate()


def read_lock() -> dict[str, Pin]:
    pins = {}
    for entry in re.split(r"\n(?=\w)", LOCK.read_text()):
        if entry.startswith("#"):
            continue
        first, *rest = entry.rstrip("\n").split(" \\\n")
        remarks = re.sub(r"\n *#", "", entry.partition("# via")[2])
        pin = Pin(Requirement(first), SHA256.findall("".join(rest)), remarks.split())
        pins[canonicalize_name(pin.requirement.name)] = pin
    return pins


@pytest.fixture(scope="module")
def lock() -> dict[str, Pin]:
    return read_lock()


def test_every_requirement_is_locked_at_a_version_that_it_allows(lock: dict[str, Pin]) -> None:
    for requirement in read_requirements("requirements-run.txt"):
        pin = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.version), requirement
        assert "requirements-run.txt" in pin.via, requirement


def test_every_locked_package_has_the_hashes_of_all_its_files(lock: dict[str, Pin]) -> None:
    """Of one in pure Python a wheel at least; of a compiled one a wheel for each platform."""
    for name, pin in lock.items():
        is_compiled = name in ("cffi", "cryptography", "psycopg2-binary", "zope-interface")
        assert len(pin.hashes) >= (20 if is_compiled else 1), name


def test_nothing_is_locked_that_runs_do_not_need(lock: dict[str, Pin]) -> None:
    """Each is there for a requirement, or for another that is."""
    needed, waiting = set(), ["requirements-run.txt"]
    while waiting:
        cause = waiting.pop()
        found = {name for name, pin in lock.items() if cause in pin.via} - needed
        needed |= found
        waiting += found
    assert set(lock) == needed
    wanted = {canonicalize_name(each.name) for each in read_requirements("requirements-run.txt")}
    assert wanted == {name for name, pin in lock.items() if "requirements-run.txt" in pin.via}


def test_all_that_a_locked_package_needs_is_locked_too(lock: dict[str, Pin]) -> None:
    """Asked of the packages that are installed here in the version of the lock."""
    asked = 0
    for name, pin in lock.items():
        if not pin.is_for_this_python or installed_version(name) != pin.version:
            continue
        asked += 1
        for each in map(Requirement, metadata.requires(name) or ()):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                needed = lock[canonicalize_name(each.name)]
                assert needed.is_for_this_python, each
                assert each.specifier.contains(needed.version), each
                assert name in needed.via, each
    assert asked


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def test_lock_names_no_registry() -> None:
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", LOCK.read_text())


def test_script_header_has_the_requirements() -> None:
    """By PEP 723; `uv run execute_dags.py` reads it."""
    text = (PROJECT / "execute_dags.py").read_text()
    (block,) = re.findall(r"(?m)^# /// script$\n((?:#(?:| .*)$\n)+?)^# ///$", text)
    header = tomllib.loads(re.sub(r"(?m)^# ?", "", block))
    (ruff_version,) = re.findall(r'target-version = "py3(\d+)"', read_text("pyproject.toml"))
    assert header["requires-python"] == f">=3.{ruff_version}"
    assert [*map(Requirement, header["dependencies"])] == read_requirements("requirements-run.txt")


def read_text(name: str) -> str:
    return (PROJECT / name).read_text()
