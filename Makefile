# Everything a newcomer does: `make run`, `make test`. Needs Python 3.11 or newer, and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run venv test lint types ci format chaos bench compose-test clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Each stamp lies in the environment it speaks of, so they go together.
$(VENV)/made:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "There is no $(PYTHON); on Debian: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Qfleet needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python cannot make environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/runs: $(VENV)/made requirements.txt requirements-gateway.txt requirements-worker.txt
	@echo "Installing what Qfleet runs on; the first time this takes a minute or two."
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/tests: $(VENV)/runs requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

run: $(VENV)/runs ## start everything on this machine
	$(BIN)/python -m app up

venv: $(VENV)/tests ## the environment in .venv, for working on Qfleet

test: $(VENV)/tests ## the whole test suite; PYTEST_ARGS="-k word" runs a part of it
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/tests ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/tests ## mypy, strict, on app/
	$(BIN)/mypy

ci: lint types test ## what CI runs

format: $(VENV)/tests ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: $(VENV)/tests ## a fleet under faults: kills and freezes of everything
	$(BIN)/python -m pytest --verbose tests/integration $(PYTEST_ARGS)

bench: $(VENV)/tests ## tasks end to end beside a bare Aer loop
	$(BIN)/python -m benchmarks.tasks

compose-test: ## build the containers, break them, tear them down; needs a Docker engine
	$(PYTHON) deploy/compose_test.py

clean: ## remove what was made here, but for the data in var/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
