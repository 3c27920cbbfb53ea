# Everything runs in .venv in this checkout; it is made on the first call and reused while it is current.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# A worker gets its next test when it has finished one: some tests take two minutes. Most tests start processes of their
# own, so raise JOBS only on a machine with more than 4 cores.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist load --maxschedchunk 1 $(if $(CI),--durations=25)

.DEFAULT_GOAL := help
.PHONY: help demo federation test test-system test-all lint types unit arm64 browser hooks golden bench ablation proto clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/.sim ## EdgeFD on strong non-IID MNIST beside other methods, about a minute after set-up
	$(BIN)/edgefd simulate simulations/quickstart.yaml

federation: $(VENV)/.federation ## a coordinator and 5 device processes over mTLS, beside the simulation, a few minutes
	$(BIN)/python simulations/federation.py

test: lint types unit ## lint, types and the fast tests, under 6 minutes on 2 cores; installs nothing outside .venv

# What the tests need beyond .venv is installed by make arm64 and make browser.
test-system: $(VENV)/.dev arm64 browser ## arm64, Docker, network faults, browser, Flower, packages and all slow tests
	$(PYTEST) -m "slow or system"

test-all: lint types arm64 browser ## all of these, in one run of pytest, as CI does
	$(PYTEST) -m ""

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python proto/check.py

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

unit: $(VENV)/.dev ## the fast tests
	$(PYTEST)

# Without root or off Debian, these two say so, and the tests that need them are skipped; in CI they fail.
arm64: $(VENV)/.dev ## set up what the arm64 and Docker tests run in: qemu and small Debian roots, cached
	@$(BIN)/python -m tests.support.debian_roots || [ -z "$$CI" ]

browser: $(VENV)/.dev ## install the headless Chromium that the tests of pages need
	@$(BIN)/python -m tests.support.browser || [ -z "$$CI" ]

hooks: $(VENV)/.dev ## run ruff and mypy before each commit of this checkout (pre-commit)
	$(BIN)/pre-commit install

golden: $(VENV)/.dev ## write the golden metrics anew; read the difference before you commit it
	$(BIN)/python -m tests.golden

bench: $(VENV)/.bench ## ratios against other engines and estimators, under 10 minutes on a quiet machine
	$(BIN)/python -m benchmarks

ablation: $(VENV)/.sim ## the tables in docs/results/filter-ablation.md, about 20 minutes
	$(BIN)/python simulations/filter_ablation.py

proto: $(VENV)/.dev ## generate the Python code of proto/edgefd_proto/edgefd.proto
	$(BIN)/python proto/check.py --write

clean: ## remove the environment and caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

# torch first and by itself: asked for by another package, pip would take a build of several GB with GPU libraries.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "edgefd needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "setting up $(VENV) (once, a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(TORCH)
	@touch $@

$(VENV)/.sim: $(VENV)/.torch pyproject.toml
	@$(PIP) --editable '.[sim]'
	@touch $@

$(VENV)/.federation: $(VENV)/.sim
	@$(PIP) --editable '.[export,server]'
	@touch $@

$(VENV)/.bench: $(VENV)/.sim
	@$(PIP) --editable '.[bench]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@$(PIP) --editable '.[dev]'
	@touch $(VENV)/.sim $@
