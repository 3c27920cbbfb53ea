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
.PHONY: help demo federation test test-system test-all lint types unit arm64 browser hooks golden bench ablation
.PHONY: proto reference known-graphs clean

help: ## print this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/.sim ## run EdgeFD and other methods on strong non-IID MNIST; takes about 110 seconds after set-up
	$(BIN)/edgefd simulate simulations/quickstart.yaml

federation: $(VENV)/.federation ## run a coordinator and 5 device processes over mTLS, and the same as a simulation; takes a few minutes
	$(BIN)/python simulations/federation.py

test: lint types unit ## run lint, types and the fast tests; takes under 8 minutes on 2 cores and installs nothing outside .venv

# What the tests need beyond .venv is installed by make arm64 and make browser.
test-system: $(VENV)/.dev arm64 browser ## run the other tests: arm64, Docker, network faults, browser, Flower, packages and all slow ones
	$(PYTEST) -m "slow or system"

test-all: lint types arm64 browser ## run lint, types and all tests, in one run of pytest, as CI does
	$(PYTEST) -m ""

lint: $(VENV)/.dev ## run ruff, and check that generated code and pages are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python proto/check.py
	$(BIN)/python docs/generate.py

types: $(VENV)/.dev ## run mypy (strict)
	$(BIN)/mypy

unit: $(VENV)/.dev ## run the fast tests only
	$(PYTEST)

# Without root or off Debian, these two say so, and the tests that need them are skipped; in CI they fail.
arm64: $(VENV)/.dev ## set up what the arm64 and Docker tests run in: qemu and small Debian roots, cached
	@$(BIN)/python -m tests.support.debian_roots || [ -z "$$CI" ]

browser: $(VENV)/.dev ## install the headless Chromium that the tests of pages need
	@$(BIN)/python -m tests.support.browser || [ -z "$$CI" ]

hooks: $(VENV)/.dev ## install the pre-commit hooks: ruff and mypy before each commit
	$(BIN)/pre-commit install

known-graphs: $(VENV)/.dev ## write the catalogue of the graphs that devices know; takes ten minutes on a quiet core
	$(BIN)/python -m edgefd.export.known_graphs --write

golden: $(VENV)/.dev ## write the golden metrics again; read the difference before you commit it
	$(BIN)/python -m tests.golden

bench: $(VENV)/.bench ## measure ratios against other engines and estimators; takes under 10 minutes on a quiet machine
	$(BIN)/python -m benchmarks

ablation: $(VENV)/.sim ## compute the tables in docs/results/filter-ablation.md; takes about 20 minutes
	$(BIN)/python simulations/filter_ablation.py

proto: $(VENV)/.dev ## generate the Python code of proto/edgefd_proto/edgefd.proto
	$(BIN)/python proto/check.py --write

reference: $(VENV)/.dev ## write the pages of docs/reference that are generated from the code
	$(BIN)/python docs/generate.py --write

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
