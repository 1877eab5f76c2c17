# Everything runs in .venv, which is created on first use. `make` alone lists the targets.
#
#   make train                        on a fresh machine: set up, prepare data, train
#   make setup PYTHON=python3.12      with another Python

PYTHON ?= python3

# All paths are relative, because make would split an absolute one at spaces.
BIN := .venv/bin
INSTALLED := .venv/.installed
PHOTOS := data/photos/manifest.json
UNSUPPORTED := vaedist needs Python 3.11 to 3.13; choose one with PYTHON=...

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all test-cluster test-faults lint format docs docs-reference docs-serve clean

help: ## Print the targets (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## Create .venv and install the project into it; the targets below do this if needed

train: $(INSTALLED) $(PHOTOS) ## Prepare data/photos if it is missing, and train jobs/photos-resnet.toml as a new run
	@echo "training jobs/photos-resnet.toml: about 3 minutes on two idle cores, and 2.6 GB of memory"
	@$(BIN)/vaedist train jobs/photos-resnet.toml --name "photos-resnet-$$(date +%Y%m%d-%H%M%S)"

# Tests run in several processes, because those that start Ray are idle most of the time, in the order of tests/conftest.py,
# which starts with the longest.
test: $(INSTALLED) ## Run the essential tests, some with real Ray workers: a few minutes
	$(BIN)/python -m pytest -m "not slow and not cluster and not faults" --numprocesses 2 --no-loadscope-reorder

test-all: $(INSTALLED) ## Run all tests except those of faults: 45 minutes
	$(BIN)/python -m pytest -m "not faults" --numprocesses 2 --no-loadscope-reorder

test-cluster: $(INSTALLED) ## Run the tests on a Ray cluster of three nodes, a part of test-all
	$(BIN)/python -m pytest -m cluster

test-faults: $(INSTALLED) ## Run the tests that take away processes, machines and files
	$(BIN)/python -m pytest -m faults

lint: $(INSTALLED) ## Check style, formatting, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Fix style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Without its notice that Material for MkDocs is maintained until 2027.
docs docs-serve: export NO_MKDOCS_2_WARNING := 1

docs: $(INSTALLED) ## Build the documentation into build/site; a broken link is an error
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

docs-serve: $(INSTALLED) ## Serve the documentation at http://127.0.0.1:8000, and rebuild it when a page changes
	$(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8000

docs-reference: $(INSTALLED) ## Generate docs/configuration.md, docs/command-line.md and the drawings again
	$(BIN)/python docs/tools/generate.py
	$(BIN)/python docs/tools/drawings.py

clean: ## Remove .venv, caches and build output, but no runs or data
	rm -rf .venv build dist vaedist.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find vaedist tests -type d -name __pycache__ -prune -exec rm -rf {} +

# In the mode "compat", the package is also found from the folder above a clone that is named vaedist.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "no $(PYTHON) here: $(TOO_OLD)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "$(UNSUPPORTED)" or 0)'
	@echo "installing into .venv: a few minutes, once"
	@"$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e '.[dev,docs,mlflow,optuna,photos]'
	@touch $@

# Order-only: existing data is kept, even if .venv is newer.
$(PHOTOS): | $(INSTALLED)
	@echo "preparing data/photos, crops of photographs that scikit-image contains: some seconds, once"
	@$(BIN)/vaedist data prepare photos
