# Every target sets up what it needs; a fresh clone and Python 3.10 or later are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help sandbox test check lint types clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Made anew when requirements.txt changes; the stamp is written last, so that a broken
# installation is not taken for a whole one.
$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

sandbox: $(VENV)/installed  ## the import on a made-up market, nothing else needed; again for the next day
	$(BIN)/python execute_dags.py --sandbox --dag 1

test: $(VENV)/installed  ## run all tests (they start their own PostgreSQL)
	$(BIN)/python -m pytest

check: lint types test  ## what a contributor runs before a commit: lint, types, tests

lint: $(VENV)/installed  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed  ## check types
	$(BIN)/mypy

clean:  ## remove the virtual environment and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
