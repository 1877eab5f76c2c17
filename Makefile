# Everything runs in .venv, which is made on first use. `make` alone lists the targets.
#
#   make train                        on a fresh machine: set up, prepare data, train
#   make setup PYTHON=python3.12      with another Python

PYTHON ?= python3

# Relative throughout: make splits at spaces, and the path of the project's folder may have some.
BIN := .venv/bin
INSTALLED := .venv/.installed
PHOTOS := data/photos/manifest.json
TOO_OLD := vaedist needs Python 3.11 or newer; choose one with PYTHON=...

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all test-cluster test-faults lint format clean

help: ## Print the targets (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## Make .venv and install the project into it; the targets below do so by themselves

train: $(INSTALLED) $(PHOTOS) ## Prepare data/photos unless it is there, and train jobs/photos-iaf.toml as a new run
	@$(BIN)/vaedist train jobs/photos-iaf.toml --name "photos-iaf-$$(date +%Y%m%d-%H%M%S)"

# Several at a time: tests that start Ray wait for it most of the time. In the order of tests/conftest.py: the longest first.
test: $(INSTALLED) ## Run the essential tests of everything, on real Ray workers: a few minutes
	$(BIN)/python -m pytest -m "not slow and not cluster and not faults" --numprocesses 2 --no-loadscope-reorder

test-all: $(INSTALLED) ## Run all tests but for those of faults: half an hour
	$(BIN)/python -m pytest -m "not faults" --numprocesses 3 --no-loadscope-reorder

test-cluster: $(INSTALLED) ## Run the tests on a Ray of three nodes, which are a part of test-all
	$(BIN)/python -m pytest -m cluster

test-faults: $(INSTALLED) ## Run the tests that kill, stop, drain, fill up and damage
	$(BIN)/python -m pytest -m faults

lint: $(INSTALLED) ## Check style, formatting, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Mend style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove .venv, caches and build output; runs and data stay
	rm -rf .venv build dist vaedist.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find vaedist tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "no $(PYTHON) here: $(TOO_OLD)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(TOO_OLD)" or 0)'
	@echo "installing into .venv: a few minutes, once"
	@"$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,optuna,photos]'
	@touch $@

# Order-only: data that is there stays, however new .venv is.
$(PHOTOS): | $(INSTALLED)
	@$(BIN)/vaedist data prepare photos
