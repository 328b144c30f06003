# Everything a newcomer does: `make run`, `make test`. Needs Python 3.11 or newer, and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
FLEETLESS := tests/unit tests/contract tests/api tests/gpu tests/deep tests/test_architecture.py tests/test_docs.py
EXAMPLES ?= 120
# Of the large test runs.
JOBS ?= 20000
SEED ?= 20261121
MINUTES ?= 30
# Clients of Qiskit Runtime, each in an environment of its own: those that `make test` uses, and all
# that docs/reference/compatibility.md speaks of.
CLIENTS := 0.49.0 0.51.0
ALL_CLIENTS := 0.41.1 0.43.1 0.45.1 0.48.0 0.49.0 0.50.0 0.51.0
QISKIT := $(shell grep -o '^qiskit==[0-9.]*' requirements-worker.txt)

.DEFAULT_GOAL := help
.PHONY: help install run venv test test-deep test-clients lint types ci format chaos soak fuzz bench bench-availability bench-client bench-drivers bench-executors bench-gpu compose-test clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

$(VENV)/runs: $(VENV)/made requirements.txt requirements-gateway.txt requirements-devices.txt requirements-worker.txt requirements-drivers.txt
	@echo "Installing what Qfleet runs on; the first time this takes a minute or two."
	$(PIP) -r requirements.txt
	@touch $@

# Half a GB, and only where there is a GPU: see requirements-gpu.txt.
$(VENV)/gpu: $(VENV)/runs requirements-gpu.txt requirements-gpu-bindings.txt
	@echo "Installing what the GPU needs; the first time this takes a minute or two."
	@$(PIP) --no-deps -r requirements-gpu.txt && touch $@ || \
	  echo "They cannot be installed, so the GPU stays idle; the next start tries again."

# The tests run NVIDIA's bindings against an emulation of the library behind them.
$(VENV)/tests: $(VENV)/runs requirements-dev.txt requirements-gpu-bindings.txt
	$(PIP) -r requirements-dev.txt
	$(PIP) --no-deps -r requirements-gpu-bindings.txt
	@touch $@

# What a user has: the client and Qiskit, nothing of ours.
$(VENV)/clients/%/made: $(VENV)/made
	@echo "Installing the Qiskit Runtime client $*."
	@$(BIN)/python -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
	  qiskit-ibm-runtime==$* $(QISKIT)
	@touch $@

install: $(VENV)/runs $(if $(wildcard /dev/nvidiactl),$(VENV)/gpu) ## what Qfleet runs on, in .venv

run: install ## start everything on this machine, with its GPUs if it has any
	$(BIN)/python -m app up

venv: $(VENV)/tests ## the environment in .venv, for working on Qfleet

# Tests without a fleet share the cores; of those with one, a file at a time on each core; those
# that kill and time have the machine to themselves.
test: $(VENV)/tests $(CLIENTS:%=$(VENV)/clients/%/made) ## the whole test suite; PYTEST_ARGS="-k word" runs a part of it
ifdef PYTEST_ARGS
	$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	$(BIN)/python -m pytest --numprocesses 2 $(FLEETLESS)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(FLEETLESS:%=--ignore=%) --ignore=tests/chaos
	$(BIN)/python -m pytest tests/chaos
endif

test-deep: $(VENV)/tests ## 2,000 random programs beside references, 2,000 damaged circuits, 40 walks through the store; eight minutes
	QFLEET_TEST_DEEP=1 $(BIN)/python -m pytest tests/deep tests/contract/test_model.py $(PYTEST_ARGS)

test-clients: $(VENV)/tests $(ALL_CLIENTS:%=$(VENV)/clients/%/made) ## every client; writes docs/reference/compatibility.md
	$(BIN)/python -m tests.clients.compatibility $(ALL_CLIENTS)

lint: $(VENV)/tests ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/tests ## mypy, strict, on app/
	$(BIN)/mypy

ci: lint types test ## what CI runs

format: $(VENV)/tests ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: $(VENV)/tests ## 20,000 jobs while everything is killed, frozen and cut off; JOBS and SEED change that
	$(BIN)/python -m tests.chaos --jobs $(JOBS) --seed $(SEED)

soak: $(VENV)/tests ## mixed load for 30 minutes: memory of every process, keys left; MINUTES changes that
	$(BIN)/python -m tests.chaos.soak --minutes $(MINUTES)

fuzz: $(VENV)/tests ## every route and the codec under requests that are almost right; EXAMPLES changes how many
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -s --timeout 7200 tests/fuzz $(PYTEST_ARGS)

bench: $(VENV)/tests ## tasks end to end beside a bare Aer loop
	$(BIN)/python -m benchmarks.tasks

bench-drivers: $(VENV)/tests ## device lookup and dispatch through the driver manager
	$(BIN)/python -m benchmarks.drivers

bench-availability: $(VENV)/tests ## the driver manager while its drivers are killed, flap and are loaded again; ten minutes
	$(BIN)/python -m benchmarks.drivers_availability

bench-client: $(VENV)/tests $(VENV)/clients/0.51.0/made ## a circuit's round trip with the Qiskit client
	$(BIN)/python -m benchmarks.client

bench-executors: $(VENV)/tests ## sweeps and large circuits beside direct Aer
	$(BIN)/python -m benchmarks.executors

bench-gpu: $(VENV)/tests ## engines: right, and how fast on a GPU
	$(BIN)/python -m benchmarks.gpu

compose-test: ## build the containers, break them, tear them down; needs a Docker engine
	$(PYTHON) deploy/compose_test.py

clean: ## remove what was made here, but for the data in var/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
