"""docs/airflow.md against the files that it is about. `make airflow` runs its blocks."""

from __future__ import annotations

import re

from tests.conftest import PROJECT
from tests.documents import read_blocks

PAGE = PROJECT / "docs" / "airflow.md"
FILES = PROJECT / "deploy" / "airflow"
INSTALL = re.compile(r"pip install (?:--quiet --disable-pip-version-check )?(-r .*)$", re.M)


def test_make_and_ci_install_what_the_page_does() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    installed = [INSTALL.findall(block.text) for block in read_blocks(PAGE)]
    [told, with_celery] = [words for found in installed for words in found]
    assert told in INSTALL.findall(makefile)
    assert with_celery == told.replace("requirements.txt", "requirements-celery.txt")
    for name in re.findall(r"-[rc] (\S+)", told):
        assert f" {name}" in makefile.partition("$(AIRFLOW_VENV)/installed:")[2].splitlines()[0]
    workflow = (PROJECT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "- run: make airflow\n" in workflow


def test_each_requirement_is_pinned() -> None:
    pinned = {
        line.partition("==")[0]: line
        for line in (FILES / "constraints.txt").read_text(encoding="utf-8").splitlines()
    }
    for name in ("requirements.txt", "requirements-celery.txt"):
        for line in (FILES / name).read_text(encoding="utf-8").splitlines():
            if package := re.match(r"[a-z][\w-]+", line):
                assert "==" in pinned[package[0]]
    assert re.match(r"celery==5\.[0-6]\.", pinned["celery"])


def test_defaults_that_the_page_names_are_those_of_the_file() -> None:
    code = (FILES / "stock_ingestion_dags.py").read_text(encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    assert 'or "stock_ingestion"\n' in code
    assert "airflow pools set stock_ingestion 8 'Stock Ingestion'\n" in page
    assert 'TOKEN_VARIABLE = "kite_access_token"' in code
    assert "airflow variables set kite_access_token " in page
    assert "RETRIES = 3 " in code
    assert "is tried again, three times, " in page
