# Everything runs in .venv in this checkout; it is made on the first call and reused while it is current.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo federation test lint types unit arm64 browser golden bench ablation proto clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.sim ## EdgeFD on strong non-IID MNIST beside other methods, about a minute after set-up
	$(BIN)/edgefd simulate simulations/quickstart.yaml

federation: $(VENV)/.federation ## a coordinator and 5 device processes over mTLS, beside the simulation, a few minutes
	$(BIN)/python simulations/federation.py

test: $(VENV)/.dev lint types unit ## lint, types and all tests

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python proto/check.py

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

# Without root or off Debian the set-up says so, and the tests that need it are skipped; not so in CI.
arm64: $(VENV)/.dev ## set up what the arm64 and Docker tests run in: qemu and small Debian roots, cached
	@$(BIN)/python -m tests.support.debian_roots || [ -z "$$CI" ]

browser: $(VENV)/.dev ## install the headless Chromium that the tests of pages need
	@$(BIN)/python -m tests.support.browser || [ -z "$$CI" ]

# A worker is given its next test when it has done one: some take two minutes.
unit: $(VENV)/.dev arm64 browser ## all tests, the slow ones too
	$(BIN)/python -m pytest -m "" -q -n 2 --dist load --maxschedchunk 1

golden: $(VENV)/.dev ## write the golden metrics anew; read the difference before you commit it
	$(BIN)/python -m tests.golden

bench: $(VENV)/.bench ## ratios against other engines and estimators, under 10 minutes on a quiet machine
	$(BIN)/python -m benchmarks

ablation: $(VENV)/.sim ## the table in docs/methods/edgefd.md, about 20 minutes
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
