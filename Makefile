# Every target sets up what it needs; a fresh clone and Python 3.11 or later are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := benchmarks/.venv
RESEARCH_VENV := .venv-research
AIRFLOW_VENV := .venv-airflow

.DEFAULT_GOAL := help
.PHONY: help sandbox test coverage chaos mutation check lint types lock bench research airflow clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Made anew when the requirements change; the stamp is written last, so that a broken
# installation is not taken for a whole one.
$(VENV)/installed: requirements-run.txt requirements.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

sandbox: $(VENV)/installed  ## the import on a made-up market, nothing else needed; again for the next day
	$(BIN)/python execute_dags.py --sandbox --dag 1 --dag 2

# Deterministic: no random moment, no random example. `make chaos` has those.
# MEASURE=yes also measures the coverage, and fails below the least that pyproject.toml allows.
test: $(VENV)/installed  ## run all tests (they start their own PostgreSQL)
	$(if $(MEASURE),rm -f .coverage .coverage.*)
	$(BIN)/$(if $(MEASURE),coverage run,python) -m pytest -n auto --dist worksteal
	$(if $(MEASURE),$(BIN)/coverage combine --quiet)
	$(if $(MEASURE),$(BIN)/coverage report)

coverage:  ## run all tests, and fail where they reach less than 90% of lines and branches
	$(MAKE) --no-print-directory test MEASURE=yes

# Round n of a seed is round 1 of seed + n - 1: ROUNDS=1 SEED=... repeats one that failed.
ROUNDS ?= 50
SEED := $(or $(SEED),$(shell date +%s))
chaos: $(VENV)/installed  ## kills, signals and faults at random moments, random examples; ROUNDS=50 SEED=now
	$(BIN)/python -m pytest -n auto --dist worksteal tests/chaos --rounds $(ROUNDS) --seed $(SEED)
	$(BIN)/python -m pytest -n auto --dist worksteal tests/property tests/unit tests/integration/test_incremental_merge.py --hypothesis-profile chaos --hypothesis-seed $(SEED)

mutation: $(VENV)/installed  ## change the code in small ways, and see which the tests miss (over an hour)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'mutmut~=3.8'
	$(BIN)/python -m tests.mutation

check: lint types test  ## what a contributor runs before a commit: lint, types, tests

lint: $(VENV)/installed  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/hadolint Dockerfile

types: $(VENV)/installed  ## check types
	$(BIN)/mypy

# One lock for all Python versions and platforms. It names no registry: any that has the files will do.
lock: $(VENV)/installed  ## pin the newest packages that requirements-run.txt allows, with hashes; those of Airflow
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv~=0.13'
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--output-file requirements-run.lock requirements-run.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--output-file deploy/airflow/constraints.txt deploy/airflow/requirements-celery.txt

# The contenders are in an environment of their own.
$(BENCH_VENV)/installed: requirements-run.txt requirements.txt benchmarks/requirements.txt
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

bench: $(BENCH_VENV)/installed  ## measure speed and memory against others, 10 to 15 minutes; rewrites docs/benchmark.*
	$(BENCH_VENV)/bin/python -m benchmarks

# What docs/research.md says to install, and nothing else: its blocks run there, the test in .venv.
$(RESEARCH_VENV)/installed: tests/research/requirements.txt
	$(PYTHON) -m venv --clear $(RESEARCH_VENV)
	$(RESEARCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/research/requirements.txt
	touch $@

research: $(VENV)/installed $(RESEARCH_VENV)/installed  ## run every block of docs/research.md (pandas, polars, DuckDB) and compare
	$(BIN)/python -m pytest tests/research

# As docs/airflow.md says to install it. It ends by itself, and leaves nothing running.
$(AIRFLOW_VENV)/installed: deploy/airflow/requirements.txt deploy/airflow/constraints.txt
	$(PYTHON) -m venv --clear $(AIRFLOW_VENV)
	$(AIRFLOW_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r deploy/airflow/requirements.txt -c deploy/airflow/constraints.txt
	touch $@

airflow: $(VENV)/installed $(AIRFLOW_VENV)/installed  ## run the DAG folders on a real Airflow 3 of its own, some minutes
	$(BIN)/python -m pytest tests/airflow

clean:  ## remove the virtual environments and all caches
	rm -rf $(VENV) $(BENCH_VENV) $(RESEARCH_VENV) $(AIRFLOW_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* mutants
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
